//! Scores turned into named labels, as Hugging Face's text-classification pipeline returns them.

use candle_core::{DType, Tensor};

use crate::error::{Result, What};
use crate::tensor::shape::{conflict, shown};

/// A label with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredLabel {
    /// The label's name.
    pub label: String,
    /// Its score.
    pub score: f64,
}

/// For each row of `scores` `(rows, labels)`, the `top_k` labels with the highest scores, in descending order; of equal
/// scores the first label comes first. There are as many as there are labels where `top_k` is larger.
///
/// # Errors
/// Scores of another shape, a number of names other than that of the labels, `top_k` of 0.
pub fn best_labels(scores: &Tensor, names: &[String], top_k: usize) -> Result<Vec<Vec<ScoredLabel>>> {
    if scores.rank() != 2 || scores.dims()[1] != names.len() {
        let (shape, n) = (shown(scores.dims()), names.len());
        return Err(conflict(format!("best_labels takes scores of (rows, {n}) for {n} names, but got {shape}")));
    }
    if top_k == 0 {
        return Err(What::OutOfRange { name: "`top_k`".into(), value: "0".into(), allowed: "at least 1".into() }.into());
    }
    let rows: Vec<Vec<f64>> = scores.to_dtype(DType::F64)?.to_vec2()?;
    let best = |row: Vec<f64>| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        order.truncate(top_k);
        order.into_iter().map(|index| ScoredLabel { label: names[index].clone(), score: row[index] }).collect()
    };
    Ok(rows.into_iter().map(best).collect())
}
