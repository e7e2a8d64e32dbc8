//! How good predictions are, as scikit-learn, scipy and seqeval define it.
//!
//! Predictions and references flow in as plain slices, numbers flow out. Whatever can be counted is counted as it comes
//! ([`classification::Tally`], [`multi_label::MultiLabelTally`], [`seqeval::EntityTally`]), so that memory does not grow
//! with the rows. Which metric a recipe wants, and what a label is called, is left to the scripts (`api::metrics`).

pub mod classification;
pub mod classification_report;
pub mod multi_label;
pub mod perplexity;
pub mod ranking;
pub mod regression;
pub mod seqeval;
pub mod tag_schemes;
pub mod squad;

use crate::error::{Result, What};

/// Refuses pairs of unequal length and nothing at all.
fn check_pairs(predictions: usize, references: usize) -> Result<()> {
    if predictions != references {
        let problem = format!("there are {predictions} predictions, but {references} references");
        return Err(What::BadData(problem).into());
    }
    if predictions == 0 {
        return Err(What::BadData("there are no predictions to score".into()).into());
    }
    Ok(())
}
