//! Metrics of one label a row: accuracy, precision, recall, F1, Matthews, the confusion matrix.
//!
//! Labels are class indices. A [`Tally`] counts pairs as they come and keeps three numbers a class; only
//! [`confusion_matrix`] needs a number for each pair of classes. Definitions and degenerate cases are those of
//! scikit-learn 1.9.

use std::collections::BTreeMap;

use super::check_pairs;
use crate::error::{Error, Result, What};

/// What was counted for one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Rows that have the class and were predicted to have it.
    pub hits: u64,
    /// Rows that were predicted to have the class.
    pub predicted: u64,
    /// Rows that have the class.
    pub support: u64,
}

/// Precision, recall and F1, of a class or averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// The share of the predicted that is right.
    pub precision: f64,
    /// The share of the class that was found.
    pub recall: f64,
    /// The harmonic mean of the two.
    pub f1: f64,
    /// How many rows have the class (or one of the classes).
    pub support: u64,
}

/// How the scores of several classes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// Hits and misses of all classes are summed first.
    Micro,
    /// The plain mean over classes.
    Macro,
    /// The mean weighted by how many rows have the class.
    Weighted,
}

/// Counts of predicted and true labels, added pair by pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    classes: BTreeMap<usize, ClassCounts>,
    rows: u64,
    correct: u64,
}

impl Tally {
    /// A tally of nothing.
    pub fn new() -> Self {
        Tally::default()
    }

    /// Counts all pairs.
    ///
    /// # Errors
    /// Slices of unequal length, or empty ones.
    pub fn of(predictions: &[usize], references: &[usize]) -> Result<Self> {
        check_pairs(predictions.len(), references.len())?;
        let mut tally = Tally::new();
        for (&prediction, &reference) in predictions.iter().zip(references) {
            tally.add(prediction, reference);
        }
        Ok(tally)
    }

    /// Counts one pair.
    pub fn add(&mut self, prediction: usize, reference: usize) {
        self.rows += 1;
        self.classes.entry(prediction).or_default().predicted += 1;
        let class = self.classes.entry(reference).or_default();
        class.support += 1;
        if prediction == reference {
            class.hits += 1;
            self.correct += 1;
        }
    }

    /// The labels that occur, as prediction or as reference, sorted.
    pub fn labels(&self) -> Vec<usize> {
        self.classes.keys().copied().collect()
    }

    /// The counts of one class; zeros where it does not occur.
    pub fn class(&self, label: usize) -> ClassCounts {
        self.classes.get(&label).copied().unwrap_or_default()
    }

    /// The share of rows that are right; NaN where nothing was counted.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.rows as f64
    }

    /// The mean recall over the classes that occur among the references; NaN where nothing was counted.
    pub fn balanced_accuracy(&self) -> f64 {
        let recalls = self.classes.values().filter(|class| class.support > 0);
        mean(recalls.map(|class| class.hits as f64 / class.support as f64))
    }

    /// Matthews correlation for any number of classes (Gorodkin 2004); 0 where one side has a single label.
    pub fn matthews_correlation(&self) -> f64 {
        let sum = |of: fn(&ClassCounts) -> f64| self.classes.values().map(of).sum::<f64>();
        let both = sum(|class| class.predicted as f64 * class.support as f64);
        let predicted = sum(|class| class.predicted as f64 * class.predicted as f64);
        let support = sum(|class| class.support as f64 * class.support as f64);
        let (rows, correct) = (self.rows as f64, self.correct as f64);
        let variances = (rows * rows - predicted) * (rows * rows - support);
        if variances == 0.0 { 0.0 } else { (correct * rows - both) / variances.sqrt() }
    }

    /// Precision, recall and F1 of each of `labels`. `zero_division` stands where a ratio is 0 / 0.
    pub fn per_class(&self, labels: &[usize], zero_division: f64) -> Vec<Scores> {
        labels.iter().map(|&label| self.class(label).scores(zero_division)).collect()
    }

    /// Precision, recall and F1 averaged over `labels`. `zero_division` stands where a ratio is 0 / 0.
    pub fn average(&self, labels: &[usize], average: Average, zero_division: f64) -> Scores {
        let counts: Vec<ClassCounts> = labels.iter().map(|&label| self.class(label)).collect();
        average_scores(&counts, average, zero_division)
    }

    /// Precision, recall and F1 of `positive` where there are at most two labels.
    ///
    /// # Errors
    /// More than two labels, or two that do not include `positive`.
    pub fn binary(&self, positive: usize, zero_division: f64) -> Result<Scores> {
        if self.classes.len() > 2 {
            let problem = format!("there are {} labels, but `average: \"binary\"` is for two", self.classes.len());
            return Err(Error::new(What::BadData(problem))
                .hint("use `average: \"macro\"`, \"micro\", \"weighted\" or \"none\""));
        }
        if self.classes.len() == 2 && !self.classes.contains_key(&positive) {
            let problem = format!("label {positive} does not occur, so that it cannot be the positive one");
            return Err(Error::new(What::BadData(problem)));
        }
        Ok(self.class(positive).scores(zero_division))
    }
}

impl ClassCounts {
    /// Precision, recall and F1 from the counts. `zero_division` stands where a ratio is 0 / 0.
    pub fn scores(&self, zero_division: f64) -> Scores {
        let ratio = |over: u64, under: u64| if under == 0 { zero_division } else { over as f64 / under as f64 };
        Scores {
            precision: ratio(self.hits, self.predicted),
            recall: ratio(self.hits, self.support),
            f1: ratio(2 * self.hits, self.predicted + self.support),
            support: self.support,
        }
    }
}

/// Averages over classes. Scores that are NaN (by `zero_division`) are left out of the mean, as scikit-learn does.
pub fn average_scores(classes: &[ClassCounts], average: Average, zero_division: f64) -> Scores {
    let support = classes.iter().map(|class| class.support).sum();
    if average == Average::Micro {
        let sum = |of: fn(&ClassCounts) -> u64| classes.iter().map(of).sum();
        let all = ClassCounts { hits: sum(|class| class.hits), predicted: sum(|class| class.predicted), support };
        return all.scores(zero_division);
    }
    let scores: Vec<Scores> = classes.iter().map(|class| class.scores(zero_division)).collect();
    let over = |of: fn(&Scores) -> f64| {
        let known = || scores.iter().filter(|class| !of(class).is_nan());
        let weights: f64 = known().map(|class| class.support as f64).sum();
        if average == Average::Weighted && weights > 0.0 {
            known().map(|class| of(class) * class.support as f64).sum::<f64>() / weights
        } else {
            mean(known().map(of))
        }
    };
    Scores { precision: over(|s| s.precision), recall: over(|s| s.recall), f1: over(|s| s.f1), support }
}

/// How often each true label (row) was predicted as each label (column), in the order of `labels`;
/// pairs with a label that is not listed are left out.
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn confusion_matrix(predictions: &[usize], references: &[usize], labels: &[usize]) -> Result<Vec<Vec<u64>>> {
    check_pairs(predictions.len(), references.len())?;
    let index: BTreeMap<usize, usize> = labels.iter().enumerate().map(|(at, &label)| (label, at)).collect();
    let mut matrix = vec![vec![0; labels.len()]; labels.len()];
    for (prediction, reference) in predictions.iter().zip(references) {
        if let (Some(&column), Some(&row)) = (index.get(prediction), index.get(reference)) {
            matrix[row][column] += 1;
        }
    }
    Ok(matrix)
}

/// The share of rows that are right.
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn accuracy(predictions: &[usize], references: &[usize]) -> Result<f64> {
    Ok(Tally::of(predictions, references)?.accuracy())
}

/// The mean; NaN of nothing.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}
