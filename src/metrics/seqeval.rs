//! Precision, recall and F1 of entities, as Python's `seqeval` 1.2.2 computes them.
//!
//! Tags of one sentence after another flow in and are counted as they come, so memory does not grow with the sentences. By
//! default entities are read as conlleval reads them, forgiving tags that fit no scheme; strictly, they follow a [`Scheme`].
//! Sums and quotients are taken in numpy's order, so that scores agree with seqeval's to the last bit.

use std::collections::BTreeMap;

use super::classification::{Average, ClassCounts, Scores};
use super::tag_schemes::{Affix, Scheme, split};
use crate::error::{Error, Result, What};

/// How tags become entities: seqeval's `mode` and `scheme`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// As conlleval: any tag that differs from the one before in the right way begins or ends an entity.
    #[default]
    Conlleval,
    /// Only what is well-formed is an entity.
    Strict(Scheme),
}

/// Counts of entities, added sentence by sentence.
#[derive(Clone, Debug, Default)]
pub struct EntityTally {
    reading: Reading,
    affix: Affix,
    types: BTreeMap<String, ClassCounts>,
    tokens: u64,
    correct: u64,
    sentences: u64,
    /// The token that is read, counted over all sentences with one place between two of them.
    at: u64,
    predicted: Running,
    wanted: Running,
}

/// The entity that is being read on one side. It goes on from sentence to sentence, as in seqeval, which joins them all.
#[derive(Clone, Debug)]
struct Running {
    letter: char,
    kind: String,
    begin: u64,
}

impl Default for Running {
    fn default() -> Self {
        Running { letter: 'O', kind: String::new(), begin: 0 }
    }
}

impl EntityTally {
    /// A tally of nothing.
    pub fn new(reading: Reading, affix: Affix) -> Self {
        EntityTally { reading, affix, ..EntityTally::default() }
    }

    /// Counts one sentence.
    ///
    /// # Errors
    /// Slices of unequal length, an empty tag, and, read strictly, a tag that the scheme does not have.
    pub fn add(&mut self, predictions: &[&str], references: &[&str]) -> Result<()> {
        if predictions.len() != references.len() {
            let (predicted, wanted) = (predictions.len(), references.len());
            let problem = format!("a sentence has {predicted} predicted tags, but {wanted} reference tags");
            return Err(Error::new(What::BadData(problem)).hint("both sides have one tag a token"));
        }
        self.sentences += 1;
        self.tokens += references.len() as u64;
        self.correct += predictions.iter().zip(references).filter(|(one, other)| one == other).count() as u64;
        match self.reading {
            Reading::Conlleval => self.add_running(predictions, references),
            Reading::Strict(scheme) => {
                let predicted = scheme.entities(predictions, self.affix)?;
                let wanted = scheme.entities(references, self.affix)?;
                for entity in &wanted {
                    self.count(entity.kind).support += 1;
                }
                for entity in &predicted {
                    let same = wanted.binary_search_by_key(&entity.start, |wanted| wanted.start);
                    let hit = u64::from(same.is_ok_and(|at| wanted[at] == *entity));
                    let counts = self.count(entity.kind);
                    counts.predicted += 1;
                    counts.hits += hit;
                }
                Ok(())
            }
        }
    }

    fn add_running(&mut self, predictions: &[&str], references: &[&str]) -> Result<()> {
        // seqeval puts an `O` behind each sentence.
        let tags = predictions.iter().zip(references).map(|(one, other)| (*one, *other)).chain([("O", "O")]);
        for (prediction, reference) in tags {
            let (letter, kind) = conlleval_tag(prediction, self.affix)?;
            let predicted = self.predicted.step(letter, kind, self.at);
            let (letter, kind) = conlleval_tag(reference, self.affix)?;
            let wanted = self.wanted.step(letter, kind, self.at);
            if let Some((kind, _)) = &predicted {
                self.count(kind).predicted += 1;
            }
            if let Some((kind, _)) = &wanted {
                self.count(kind).support += 1;
            }
            if let (Some(predicted), Some(wanted)) = (&predicted, &wanted)
                && predicted == wanted
            {
                self.count(&predicted.0).hits += 1;
            }
            self.at += 1;
        }
        Ok(())
    }

    fn count(&mut self, kind: &str) -> &mut ClassCounts {
        if !self.types.contains_key(kind) {
            self.types.insert(kind.to_string(), ClassCounts::default());
        }
        self.types.get_mut(kind).expect("it was put there if it was missing")
    }

    /// The number of sentences.
    pub fn n_sentences(&self) -> u64 {
        self.sentences
    }

    /// The share of tags that are right; NaN where nothing was counted.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.tokens as f64
    }

    /// The scores of each type, sorted by its name. `zero_division`, 0 or 1, stands where a ratio is 0 / 0.
    pub fn per_type(&self, zero_division: f64) -> Vec<(String, Scores)> {
        let scores = |(kind, counts): (&String, &ClassCounts)| (kind.clone(), scores(counts, zero_division));
        self.types.iter().map(scores).collect()
    }

    /// The scores over all types. `zero_division`, 0 or 1, stands where a ratio is 0 / 0.
    pub fn average(&self, average: Average, zero_division: f64) -> Scores {
        let sum = |of: fn(&ClassCounts) -> u64| self.types.values().map(of).sum::<u64>();
        let support = sum(|counts| counts.support);
        let predicted = sum(|counts| counts.predicted);
        if average == Average::Micro {
            return scores(&ClassCounts { hits: sum(|counts| counts.hits), predicted, support }, zero_division);
        }
        if average == Average::Weighted && support == 0 {
            let none = if predicted == 0 { zero_division } else { 0.0 };
            return Scores { precision: none, recall: zero_division, f1: none, support };
        }
        let each: Vec<Scores> = self.types.values().map(|counts| scores(counts, zero_division)).collect();
        let mean = |of: fn(&Scores) -> f64| {
            if average == Average::Macro {
                return pairwise_sum(&each.iter().map(of).collect::<Vec<_>>()) / each.len() as f64;
            }
            let weighed: Vec<f64> = each.iter().map(|scores| of(scores) * scores.support as f64).collect();
            pairwise_sum(&weighed) / support as f64
        };
        Scores { precision: mean(|s| s.precision), recall: mean(|s| s.recall), f1: mean(|s| s.f1), support }
    }

    /// The table that seqeval's `classification_report` prints, with `digits` behind the point.
    pub fn report(&self, digits: usize, zero_division: f64) -> String {
        let types = self.per_type(zero_division);
        let longest = types.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let width = longest.max("weighted avg".len()).max(digits);
        let row = |name: &str, scores: &Scores| {
            let cells = [scores.precision, scores.recall, scores.f1].map(|score| match score.is_nan() {
                true => format!(" {:>9}", "nan"),
                false => format!(" {score:>9.digits$}"),
            });
            format!("{name:>width$} {} {:>9}\n", cells.concat(), scores.support)
        };
        let mut table = format!("{:>width$} ", "");
        for heading in ["precision", "recall", "f1-score", "support"] {
            table += &format!(" {heading:>9}");
        }
        table += "\n\n";
        for (name, scores) in &types {
            table += &row(name, scores);
        }
        table.push('\n');
        for (name, average) in [("micro", Average::Micro), ("macro", Average::Macro), ("weighted", Average::Weighted)] {
            table += &row(&format!("{name} avg"), &self.average(average, zero_division));
        }
        table
    }
}

impl Running {
    /// Reads one tag: the type and first token of the entity that ended before it.
    fn step(&mut self, letter: char, kind: &str, at: u64) -> Option<(String, u64)> {
        let (before, other) = (self.letter, self.kind != kind);
        let outside = |letter: char| matches!(letter, 'O' | '.');
        let ends = matches!(before, 'E' | 'S')
            || (matches!(before, 'B' | 'I') && matches!(letter, 'B' | 'S' | 'O'))
            || (!outside(before) && other);
        let begins = matches!(letter, 'B' | 'S')
            || (matches!(before, 'E' | 'S' | 'O') && matches!(letter, 'E' | 'I'))
            || (!outside(letter) && other);
        let ended = ends.then(|| (self.kind.clone(), self.begin));
        if begins {
            self.begin = at;
        }
        self.letter = letter;
        if other {
            self.kind.clear();
            self.kind.push_str(kind);
        }
        ended
    }
}

/// The letter and the type of a tag, as seqeval's `get_entities` takes it apart.
fn conlleval_tag(tag: &str, affix: Affix) -> Result<(char, &str)> {
    let (letter, rest) = split(tag, affix)?;
    let kind = match affix {
        Affix::Prefix => rest.split_once('-').map_or(rest, |(_, kind)| kind),
        Affix::Suffix => rest.rsplit_once('-').map_or(rest, |(kind, _)| kind),
    };
    Ok((letter, if kind.is_empty() { "_" } else { kind }))
}

/// The scores of some counts, F1 being the harmonic mean of the other two.
fn scores(counts: &ClassCounts, zero_division: f64) -> Scores {
    let ratio = |over: u64, under: u64| if under == 0 { zero_division } else { over as f64 / under as f64 };
    let (precision, recall) = (ratio(counts.hits, counts.predicted), ratio(counts.hits, counts.support));
    let sum = precision + recall;
    let f1 = 2.0 * precision * recall / if sum == 0.0 { 1.0 } else { sum };
    Scores { precision, recall, f1, support: counts.support }
}

/// The sum in the order in which numpy adds (`pairwise_sum` of its loops): eight lanes, and halves above 128 numbers.
fn pairwise_sum(values: &[f64]) -> f64 {
    let n = values.len();
    if n < 8 {
        return values.iter().fold(0.0, |sum, value| sum + value);
    }
    if n <= 128 {
        let mut lanes = [0.0; 8];
        let whole = n - n % 8;
        for eight in values[..whole].chunks_exact(8) {
            for (lane, value) in lanes.iter_mut().zip(eight) {
                *lane += value;
            }
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
        return values[whole..].iter().fold(sum, |sum, value| sum + value);
    }
    let half = n / 2 - (n / 2) % 8;
    pairwise_sum(&values[..half]) + pairwise_sum(&values[half..])
}
