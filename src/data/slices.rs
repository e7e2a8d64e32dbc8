//! The `split` option: `train`, `train[:100]`, `train[10%:20%]`, `train+validation`, with Hugging Face's arithmetic.
//!
//! Bounds count from the end where they are negative, and stop at the ends. Percentages are of the split's rows and
//! round to the nearest row, halves to even (`datasets.ReadInstruction`, rounding "closest").

use crate::data::Dataset;
use crate::error::{Error, Result, What};

/// A part of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The split's name; `all` stands for every split.
    pub split: String,
    /// Where the part begins; the first row where it is not given.
    pub from: Option<Bound>,
    /// Where the part ends, exclusive; behind the last row where it is not given.
    pub to: Option<Bound>,
}

/// A bound of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A row number.
    Row(i64),
    /// A percentage of the rows.
    Percent(i64),
}

impl Bound {
    /// The row that the bound means among `rows`.
    fn row(self, rows: usize) -> usize {
        let row = match self {
            Bound::Row(row) => row,
            Bound::Percent(percent) => (percent as f64 * rows as f64 / 100.0).round_ties_even() as i64,
        };
        let row = if row < 0 { row.saturating_add(rows as i64).max(0) } else { row };
        usize::try_from(row).unwrap_or(rows).min(rows)
    }
}

impl Slice {
    /// The rows of the part.
    #[must_use]
    pub fn of(&self, data: &Dataset) -> Dataset {
        let from = self.from.map_or(0, |bound| bound.row(data.len()));
        let to = self.to.map_or(data.len(), |bound| bound.row(data.len()));
        match (self.from, self.to) {
            (None, None) => data.clone(),
            _ => data.pick(from..to.max(from)),
        }
    }
}

/// Reads the option `split`: parts joined by `+`.
///
/// # Errors
/// Text that does not follow the syntax.
pub fn parse(text: &str) -> Result<Vec<Slice>> {
    let refuse = || {
        let allowed = "a split or slices of splits, such as \"train\", \"train[:100]\", \"train[10%:20%]\" or \
                       \"train+validation\"";
        Error::new(What::OutOfRange { name: "`split`".into(), value: format!("{text:?}"), allowed: allowed.into() })
    };
    text.split('+').map(|part| slice(part.trim()).ok_or_else(refuse)).collect()
}

fn slice(part: &str) -> Option<Slice> {
    let (split, bounds) = match part.split_once('[') {
        None => (part, None),
        Some((split, rest)) => (split, Some(rest.strip_suffix(']')?)),
    };
    let is_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    if split.is_empty() || !split.chars().all(is_name) {
        return None;
    }
    let (from, to) = match bounds {
        None => (None, None),
        Some(bounds) => {
            let (from, to) = bounds.split_once(':')?;
            (bound(from.trim())?, bound(to.trim())?)
        }
    };
    Some(Slice { split: split.to_string(), from, to })
}

/// A bound, or nothing where there is no text; the outer `None` is a bound that cannot be read.
fn bound(text: &str) -> Option<Option<Bound>> {
    if text.is_empty() {
        return Some(None);
    }
    let number = |digits: &str| digits.replace('_', "").parse::<i64>().ok();
    match text.strip_suffix('%') {
        Some(percent) => number(percent.trim_end())
            .filter(|percent| percent.abs() <= 100)
            .map(|percent| Some(Bound::Percent(percent))),
        None => number(text).map(|row| Some(Bound::Row(row))),
    }
}
