//! Metrics of several labels a row: averaged F1, subset accuracy, Hamming loss.
//!
//! Each row is one bool a label. [`MultiLabelTally`] counts rows as they come and keeps three numbers a label.
//! Definitions are those of scikit-learn 1.9.

use super::classification::{Average, ClassCounts, Scores, average_scores};
use crate::error::{Result, What};

/// Counts of predicted and true sets of labels, added row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MultiLabelTally {
    classes: Vec<ClassCounts>,
    rows: u64,
    exact: u64,
    wrong: u64,
}

impl MultiLabelTally {
    /// A tally of rows of `n_labels` labels.
    pub fn new(n_labels: usize) -> Self {
        MultiLabelTally { classes: vec![ClassCounts::default(); n_labels], ..MultiLabelTally::default() }
    }

    /// Counts one row.
    ///
    /// # Errors
    /// A row with another number of labels.
    pub fn add(&mut self, prediction: &[bool], reference: &[bool]) -> Result<()> {
        for (name, length) in [("predictions", prediction.len()), ("references", reference.len())] {
            if length != self.classes.len() {
                let problem =
                    format!("row {} has {length} {name}, but there are {} labels", self.rows, self.classes.len());
                return Err(What::BadData(problem).into());
            }
        }
        let mut wrong = 0;
        for ((class, &predicted), &present) in self.classes.iter_mut().zip(prediction).zip(reference) {
            class.predicted += u64::from(predicted);
            class.support += u64::from(present);
            class.hits += u64::from(predicted && present);
            wrong += u64::from(predicted != present);
        }
        self.rows += 1;
        self.exact += u64::from(wrong == 0);
        self.wrong += wrong;
        Ok(())
    }

    /// Precision, recall and F1 of each label. `zero_division` stands where a ratio is 0 / 0.
    pub fn per_label(&self, zero_division: f64) -> Vec<Scores> {
        self.classes.iter().map(|class| class.scores(zero_division)).collect()
    }

    /// Precision, recall and F1 averaged over the labels. `zero_division` stands where a ratio is 0 / 0.
    pub fn average(&self, average: Average, zero_division: f64) -> Scores {
        average_scores(&self.classes, average, zero_division)
    }

    /// The share of rows whose labels are all right; NaN where nothing was counted.
    pub fn subset_accuracy(&self) -> f64 {
        self.exact as f64 / self.rows as f64
    }

    /// The share of single labels that are wrong; NaN where nothing was counted.
    pub fn hamming_loss(&self) -> f64 {
        self.wrong as f64 / (self.rows as f64 * self.classes.len() as f64)
    }
}
