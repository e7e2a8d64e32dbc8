//! A look at data before a model is trained on it: what is doubled, what leaks from one split into another, what is empty,
//! cut, mislabelled or unknown to the tokenizer; each finding names its first rows.
//!
//! Splits and a tokenizer flow in; [`Findings`] flow out, as text for people and as a map for scripts. Texts are tokenised
//! in parallel, some thousand rows at a time, and of each row only a hash is kept.

mod findings;
mod row;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rayon::prelude::*;

use crate::cancel;
use crate::data::{Dataset, Row};
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use findings::{Found, SplitFindings};
use row::{Looked, look};

pub use findings::Findings;
pub use row::Work;

/// How many rows are tokenised before they are counted.
const CHUNK: usize = 4096;

/// What [`examine`] is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The task's name, as the report shows it.
    pub task: String,
    /// What the rows are for.
    pub work: Work,
    /// The longest row in tokens.
    pub max_length: usize,
    /// How many rows each finding names.
    pub max_rows: usize,
    /// With fewer rows than this a label is rare.
    pub min_count: usize,
}

/// Looks at every row of every split.
///
/// # Errors
/// The end that was asked for on the way.
pub fn examine(splits: &[(String, Dataset)], tokenizer: &Tokenizer, settings: &Settings) -> Result<Findings> {
    let mut findings = Findings::new(settings);
    let mut seen: Vec<(&str, Seen)> = Vec::new();
    for (name, data) in splits {
        let mut split = SplitFindings::new(data.len());
        let mut own = Seen { data, work: settings.work, first: HashMap::with_capacity(data.len()) };
        let mut overlaps: Vec<Found<(usize, usize)>> = seen.iter().map(|_| Found::default()).collect();
        for (chunk, rows) in data.rows().chunks(CHUNK).enumerate() {
            cancel::check()?;
            let looked: Vec<Looked> = rows.par_iter().map(|row| look(data, row, settings.work, tokenizer)).collect();
            for (index, looked) in looked.into_iter().enumerate() {
                let row = chunk * CHUNK + index;
                if looked.unreadable.is_none() && !looked.is_empty() {
                    let key = key(&looked.inputs);
                    match own.same(key, &looked.inputs, tokenizer) {
                        Some((first, labels)) => split.doubled(first, row, labels == labels_of(&looked), settings),
                        None => drop(own.first.entry(key).or_insert(row)),
                    }
                    for ((_, other), overlap) in seen.iter().zip(&mut overlaps) {
                        if let Some((first, _)) = other.same(key, &looked.inputs, tokenizer) {
                            overlap.add((first, row), settings.max_rows);
                        }
                    }
                }
                split.add(row, looked, settings);
            }
        }
        split.finish(data, settings);
        for ((other, _), overlap) in seen.iter().zip(overlaps) {
            findings.overlap(other, name, overlap);
        }
        findings.split(name, split);
        seen.push((name, own));
    }
    findings.finish();
    Ok(findings)
}

/// The rows of a split that were seen, by the hash of their texts.
struct Seen<'a> {
    data: &'a Dataset,
    work: Work,
    first: HashMap<u64, usize>,
}

impl Seen<'_> {
    /// The first row with these very texts, and its labels.
    fn same(&self, key: u64, inputs: &[Arc<str>], tokenizer: &Tokenizer) -> Option<(usize, String)> {
        let first = *self.first.get(&key)?;
        let row: &Row = self.data.row(first)?;
        let looked = look(self.data, row, self.work, tokenizer);
        (looked.inputs == inputs).then(|| (first, labels_of(&looked)))
    }
}

fn key(inputs: &[Arc<str>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    hasher.finish()
}

fn labels_of(looked: &Looked) -> String {
    match looked.number {
        Some(number) => number.to_string(),
        None => looked.labels.join("\n"),
    }
}
