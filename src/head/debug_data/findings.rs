//! The findings about a data set: counted, with their first rows, then as a map and as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use indexmap::IndexMap;

use super::Settings;
use super::row::{Looked, Work};
use crate::data::{Dataset, Value};

/// A count and the first of what was counted.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    count: usize,
    first: Vec<T>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Found { count: 0, first: Vec::new() }
    }
}

impl<T> Found<T> {
    pub(super) fn add(&mut self, one: T, max_rows: usize) {
        self.count += 1;
        if self.first.len() < max_rows {
            self.first.push(one);
        }
    }
}

/// What was found in one split.
#[derive(Debug, Default)]
pub(super) struct SplitFindings {
    rows: usize,
    duplicates: Found<(usize, usize)>,
    contradictions: Found<(usize, usize)>,
    empty: Found<usize>,
    unreadable: Found<(usize, String)>,
    unlabelled: Found<usize>,
    truncated: Found<usize>,
    misaligned: Found<(usize, String)>,
    unknown: Found<usize>,
    n_unknown: usize,
    n_tokens: usize,
    labels: BTreeMap<String, usize>,
    absent_labels: Vec<String>,
    rare_labels: Vec<String>,
    numbers: Numbers,
    /// The longest rows with their tokens, the longest first.
    longest: Vec<(usize, usize)>,
}

/// Labels that are numbers.
#[derive(Debug, Default)]
struct Numbers {
    count: usize,
    sum: f64,
    range: Option<(f64, f64)>,
}

impl SplitFindings {
    pub(super) fn new(rows: usize) -> Self {
        SplitFindings { rows, ..SplitFindings::default() }
    }

    /// A row has the texts of an earlier one.
    pub(super) fn doubled(&mut self, first: usize, row: usize, has_same_label: bool, settings: &Settings) {
        self.duplicates.add((first, row), settings.max_rows);
        if !has_same_label {
            self.contradictions.add((first, row), settings.max_rows);
        }
    }

    pub(super) fn add(&mut self, row: usize, looked: Looked, settings: &Settings) {
        let shown = settings.max_rows;
        if looked.is_empty() {
            self.empty.add(row, shown);
        }
        if looked.is_unlabelled && settings.work != Work::Language {
            self.unlabelled.add(row, shown);
        }
        if looked.n_tokens > settings.max_length {
            self.truncated.add(row, shown);
        }
        if looked.n_unknown > 0 {
            self.unknown.add(row, shown);
        }
        self.n_unknown += looked.n_unknown;
        self.n_tokens += looked.n_tokens;
        for label in looked.labels {
            *self.labels.entry(label).or_default() += 1;
        }
        if let Some(number) = looked.number {
            let (low, high) = self.numbers.range.unwrap_or((number, number));
            self.numbers.range = Some((low.min(number), high.max(number)));
            self.numbers.count += 1;
            self.numbers.sum += number;
        }
        // Of equally long rows the first stays in front.
        let place = self.longest.partition_point(|(_, tokens)| *tokens >= looked.n_tokens);
        self.longest.insert(place, (row, looked.n_tokens));
        self.longest.truncate(shown);
        if let Some(problem) = looked.unreadable {
            self.unreadable.add((row, problem), shown);
        }
        if let Some(problem) = looked.misaligned {
            self.misaligned.add((row, problem), shown);
        }
    }

    /// Compares the labels that were found with those that the data set names.
    pub(super) fn finish(&mut self, data: &Dataset, settings: &Settings) {
        let named = data.column_names().iter().find_map(|column| data.class_names(column));
        let absent = named.unwrap_or_default().iter().filter(|name| !self.labels.contains_key(*name));
        self.absent_labels = absent.cloned().collect();
        let rare = self.labels.iter().filter(|(_, count)| **count < settings.min_count);
        self.rare_labels = rare.map(|(name, _)| name.clone()).collect();
    }

    fn n_problems(&self) -> usize {
        let counts = [
            self.duplicates.count,
            self.empty.count,
            self.unreadable.count,
            self.unlabelled.count,
            self.misaligned.count,
            self.contradictions.count,
        ];
        counts.iter().sum::<usize>() + self.absent_labels.len()
    }
}

/// Everything that was found.
#[derive(Debug)]
pub struct Findings {
    settings: Settings,
    splits: IndexMap<String, SplitFindings>,
    overlaps: IndexMap<String, Found<(usize, usize)>>,
    /// For each split behind the first, the labels that the first has not.
    unseen: IndexMap<String, Vec<String>>,
}

impl Findings {
    pub(super) fn new(settings: &Settings) -> Self {
        let (splits, overlaps, unseen) = (IndexMap::new(), IndexMap::new(), IndexMap::new());
        Findings { settings: settings.clone(), splits, overlaps, unseen }
    }

    pub(super) fn overlap(&mut self, one: &str, other: &str, found: Found<(usize, usize)>) {
        self.overlaps.insert(format!("{one}/{other}"), found);
    }

    pub(super) fn split(&mut self, name: &str, found: SplitFindings) {
        self.splits.insert(name.to_string(), found);
    }

    pub(super) fn finish(&mut self) {
        let Some((_, first)) = self.splits.first() else { return };
        for (name, split) in self.splits.iter().skip(1) {
            let unseen = split.labels.keys().filter(|label| !first.labels.contains_key(*label));
            self.unseen.insert(name.clone(), unseen.cloned().collect());
        }
    }

    /// How many things were found that are hardly meant: doubled rows, leaks, empty, unreadable and misaligned rows, labels
    /// that are missing. Long rows and unknown tokens are no problems by themselves.
    pub fn n_problems(&self) -> usize {
        let splits: usize = self.splits.values().map(SplitFindings::n_problems).sum();
        let overlaps: usize = self.overlaps.values().map(|found| found.count).sum();
        splits + overlaps + self.unseen.values().map(Vec::len).sum::<usize>()
    }

    /// All numbers and rows.
    pub fn to_value(&self) -> Value {
        let splits = self.splits.iter().map(|(name, split)| (name.clone(), split.to_value()));
        let overlaps = self.overlaps.iter().map(|(names, found)| (names.clone(), pairs(found)));
        let unseen = self.unseen.iter().map(|(name, labels)| (name.clone(), texts(labels)));
        map([
            ("task", self.settings.task.as_str().into()),
            ("max_length", int(self.settings.max_length)),
            ("problems", int(self.n_problems())),
            ("splits", Value::Map(Arc::new(splits.collect()))),
            ("overlap", Value::Map(Arc::new(overlaps.collect()))),
            ("unseen_labels", Value::Map(Arc::new(unseen.collect()))),
        ])
    }

    /// The report, a finding a line.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, split) in &self.splits {
            split.write(name, &self.settings, &mut text);
        }
        for (names, found) in self.overlaps.iter().filter(|(_, found)| found.count > 0) {
            let rows = found.first.iter().map(|(one, other)| format!("{one} = {other}")).collect();
            line(&mut text, &format!("{names}: rows in both"), found.count, rows);
        }
        for (name, labels) in self.unseen.iter().filter(|(_, labels)| !labels.is_empty()) {
            let _ = writeln!(text, "{name}: labels that the first split has not: {}", labels.join(", "));
        }
        let _ = write!(text, "{} findings that are hardly meant", self.n_problems());
        text
    }
}

impl SplitFindings {
    fn to_value(&self) -> Value {
        let labels = self.labels.iter().map(|(name, count)| (name.clone(), int(*count)));
        let longest = self.longest.iter().map(|(row, tokens)| map([("row", int(*row)), ("tokens", int(*tokens))]));
        let share = if self.n_tokens == 0 { 0.0 } else { self.n_unknown as f64 / self.n_tokens as f64 };
        let mean = if self.rows == 0 { 0.0 } else { self.n_tokens as f64 / self.rows as f64 };
        let numbers = self.numbers.range.map_or(Value::Null, |(low, high)| {
            let mean = self.numbers.sum / self.numbers.count as f64;
            map([("min", Value::Float(low)), ("mean", Value::Float(mean)), ("max", Value::Float(high))])
        });
        map([
            ("rows", int(self.rows)),
            ("duplicates", pairs(&self.duplicates)),
            ("contradictions", pairs(&self.contradictions)),
            ("empty", rows(&self.empty)),
            ("unreadable", notes(&self.unreadable)),
            ("unlabelled", rows(&self.unlabelled)),
            ("truncated", rows(&self.truncated)),
            ("misaligned", notes(&self.misaligned)),
            ("labels", Value::Map(Arc::new(labels.collect()))),
            ("rare_labels", texts(&self.rare_labels)),
            ("missing_labels", texts(&self.absent_labels)),
            ("label_range", numbers),
            (
                "unknown_tokens",
                map([
                    ("count", int(self.n_unknown)),
                    ("share", Value::Float(share)),
                    ("rows", list(self.unknown.first.iter().map(|row| int(*row)))),
                ]),
            ),
            ("tokens", map([("total", int(self.n_tokens)), ("mean", Value::Float(mean))])),
            ("longest", list(longest)),
        ])
    }

    fn write(&self, name: &str, settings: &Settings, text: &mut String) {
        let mean = self.n_tokens as f64 / self.rows.max(1) as f64;
        let longest = self.longest.first().map_or(0, |(_, tokens)| *tokens);
        let _ = writeln!(text, "{name}: {} rows, {mean:.1} tokens each, the longest {longest}", self.rows);
        if !self.labels.is_empty() {
            let mut labels: Vec<(&String, &usize)> = self.labels.iter().collect();
            labels.sort_by(|one, two| two.1.cmp(one.1));
            let shown = labels.iter().take(20).map(|(label, count)| format!("{label} {count}")).collect::<Vec<_>>();
            let more = if labels.len() > shown.len() { ", ..." } else { "" };
            let _ = writeln!(text, "  labels: {}{more}", shown.join(", "));
        }
        if let Some((low, high)) = self.numbers.range {
            let mean = self.numbers.sum / self.numbers.count as f64;
            let _ = writeln!(text, "  labels: numbers from {low} to {high}, {mean:.3} in the mean");
        }
        for (what, labels) in [("rare labels", &self.rare_labels), ("labels without a row", &self.absent_labels)] {
            if !labels.is_empty() {
                let _ = writeln!(text, "  {what}: {}", labels.join(", "));
            }
        }
        let plain = |found: &Found<usize>| found.first.iter().map(usize::to_string).collect::<Vec<_>>();
        let double = |found: &Found<(usize, usize)>| {
            found.first.iter().map(|(one, other)| format!("{other} = {one}")).collect::<Vec<_>>()
        };
        let noted = |found: &Found<(usize, String)>| {
            found.first.iter().map(|(row, problem)| format!("{row} ({problem})")).collect::<Vec<_>>()
        };
        let long = match settings.work {
            Work::Sequence | Work::Tokens => format!("rows cut at {} tokens", settings.max_length),
            Work::Question => format!("rows over {} tokens, read in windows", settings.max_length),
            Work::Language => format!("rows over {} tokens, read in blocks", settings.max_length),
        };
        for (what, count, rows) in [
            ("duplicate rows", self.duplicates.count, double(&self.duplicates)),
            ("duplicate rows with another label", self.contradictions.count, double(&self.contradictions)),
            ("empty texts", self.empty.count, plain(&self.empty)),
            ("rows that cannot be read", self.unreadable.count, noted(&self.unreadable)),
            ("rows without a label", self.unlabelled.count, plain(&self.unlabelled)),
            (long.as_str(), self.truncated.count, plain(&self.truncated)),
            ("misaligned labels", self.misaligned.count, noted(&self.misaligned)),
        ] {
            if count > 0 {
                line(text, &format!("  {what}"), count, rows);
            }
        }
        if self.n_unknown > 0 {
            let share = 100.0 * self.n_unknown as f64 / self.n_tokens.max(1) as f64;
            let what = format!("  unknown tokens: {} ({share:.2} %), in rows", self.n_unknown);
            line(text, &what, self.unknown.count, plain(&self.unknown));
        }
    }
}

fn line(text: &mut String, what: &str, count: usize, rows: Vec<String>) {
    let more = if rows.len() < count { ", ..." } else { "" };
    let _ = writeln!(text, "{what}: {count}: row {}{more}", rows.join(", "));
}

fn int(number: usize) -> Value {
    Value::Int(number as i64)
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    Value::List(values.collect())
}

fn texts(texts: &[String]) -> Value {
    list(texts.iter().map(|text| text.as_str().into()))
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(Arc::new(entries.into_iter().map(|(key, value)| (key.to_string(), value)).collect()))
}

fn rows(found: &Found<usize>) -> Value {
    map([("count", int(found.count)), ("rows", list(found.first.iter().map(|row| int(*row))))])
}

fn pairs(found: &Found<(usize, usize)>) -> Value {
    let rows = found.first.iter().map(|(one, other)| list([int(*one), int(*other)].into_iter()));
    map([("count", int(found.count)), ("rows", list(rows))])
}

fn notes(found: &Found<(usize, String)>) -> Value {
    let rows = list(found.first.iter().map(|(row, _)| int(*row)));
    let problems = list(found.first.iter().map(|(_, problem)| problem.as_str().into()));
    map([("count", int(found.count)), ("rows", rows), ("problems", problems)])
}
