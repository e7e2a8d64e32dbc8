//! Metrics of one number a row: errors, explained variance, correlations.
//!
//! Definitions and degenerate cases are those of scikit-learn 1.9 and scipy 1.17; a value that is NaN makes the result NaN.

use super::check_pairs;
use super::ranking::average_ranks;
use crate::error::Result;

/// The mean squared error.
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn mse(predictions: &[f64], references: &[f64]) -> Result<f64> {
    check_pairs(predictions.len(), references.len())?;
    Ok(squared_differences(predictions, references) / predictions.len() as f64)
}

/// The square root of the mean squared error.
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn rmse(predictions: &[f64], references: &[f64]) -> Result<f64> {
    Ok(mse(predictions, references)?.sqrt())
}

/// The mean absolute error.
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn mae(predictions: &[f64], references: &[f64]) -> Result<f64> {
    check_pairs(predictions.len(), references.len())?;
    let sum: f64 =
        predictions.iter().zip(references).map(|(prediction, reference)| (prediction - reference).abs()).sum();
    Ok(sum / predictions.len() as f64)
}

/// The share of the references' variance that is explained. Where they do not vary it is 1 for a perfect
/// prediction and 0 for any other; NaN for a single row.
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn r2(predictions: &[f64], references: &[f64]) -> Result<f64> {
    check_pairs(predictions.len(), references.len())?;
    if references.len() < 2 {
        return Ok(f64::NAN);
    }
    let unexplained = squared_differences(predictions, references);
    let mean = mean(references);
    let total: f64 = references.iter().map(|reference| (reference - mean).powi(2)).sum();
    Ok(match (unexplained == 0.0, total == 0.0) {
        (true, _) => 1.0,
        (false, true) => 0.0,
        (false, false) => 1.0 - unexplained / total,
    })
}

/// Pearson's correlation; NaN where one side does not vary or has a single value.
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn pearson(predictions: &[f64], references: &[f64]) -> Result<f64> {
    check_pairs(predictions.len(), references.len())?;
    let (Some(left), Some(right)) = (direction(predictions), direction(references)) else { return Ok(f64::NAN) };
    let product: f64 = left.iter().zip(&right).map(|(left, right)| left * right).sum();
    Ok(product.clamp(-1.0, 1.0))
}

/// Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank. NaN as in [`pearson`].
///
/// # Errors
/// Slices of unequal length, or empty ones.
pub fn spearman(predictions: &[f64], references: &[f64]) -> Result<f64> {
    check_pairs(predictions.len(), references.len())?;
    if predictions.iter().chain(references).any(|value| value.is_nan()) {
        return Ok(f64::NAN);
    }
    pearson(&average_ranks(predictions), &average_ranks(references))
}

/// The deviations from the mean as a vector of length one; `None` where all values are the same.
fn direction(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().all(|value| *value == values[0]) {
        return None;
    }
    let mean = mean(values);
    let deviations: Vec<f64> = values.iter().map(|value| value - mean).collect();
    // The largest deviation is divided out first, so that squares of huge or tiny values stay in range.
    let largest = deviations.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let norm = largest * deviations.iter().map(|value| (value / largest).powi(2)).sum::<f64>().sqrt();
    Some(deviations.into_iter().map(|value| value / norm).collect())
}

fn squared_differences(predictions: &[f64], references: &[f64]) -> f64 {
    predictions.iter().zip(references).map(|(prediction, reference)| (prediction - reference).powi(2)).sum()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
