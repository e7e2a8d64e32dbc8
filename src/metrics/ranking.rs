//! Ranks, and the area under the ROC curve that follows from them.

use super::check_pairs;
use crate::error::Result;

/// The rank of each value from 1; equal values share the mean of their ranks, as in `scipy.stats.rankdata`.
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&left, &right| values[left].total_cmp(&values[right]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let tied = order[first..].iter().take_while(|&&at| values[at] == values[order[first]]).count().max(1);
        for &at in &order[first..first + tied] {
            ranks[at] = first as f64 + (tied as f64 + 1.0) / 2.0;
        }
        first += tied;
    }
    ranks
}

/// The probability that a row that has the label gets a higher score than one that does not, ties counting half.
/// NaN where all rows agree, or where a score is NaN.
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn roc_auc(scores: &[f64], references: &[bool]) -> Result<f64> {
    check_pairs(scores.len(), references.len())?;
    let n_positive = references.iter().filter(|&&positive| positive).count() as f64;
    let n_negative = references.len() as f64 - n_positive;
    if n_positive == 0.0 || n_negative == 0.0 || scores.iter().any(|score| score.is_nan()) {
        return Ok(f64::NAN);
    }
    let ranks = average_ranks(scores);
    let positive: f64 = ranks.iter().zip(references).filter(|&(_, &positive)| positive).map(|(rank, _)| rank).sum();
    Ok((positive - n_positive * (n_positive + 1.0) / 2.0) / (n_positive * n_negative))
}
