//! Reductions: sums, means, extremes and where they stand, over one dimension or over all.
//!
//! A gradient through a maximum goes to one element, the first of equal ones, as in `torch.max(x, dim)`
//! (candle's own would give all of them the whole of it).

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::tensor::arithmetic::as_float;
use crate::tensor::shape::{axis, conflict, shown};

/// Which end of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extreme {
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

impl Extreme {
    fn name(self) -> &'static str {
        match self {
            Extreme::Max => "max",
            Extreme::Min => "min",
        }
    }
}

/// The sum over dimension `dim`, or of all elements.
///
/// # Errors
/// A dimension that does not exist.
pub fn sum(x: &Tensor, dim: Option<i64>) -> Result<Tensor> {
    Ok(match dim {
        Some(dim) => x.sum(axis("sum", x, dim)?)?,
        None => x.sum_all()?,
    })
}

/// The mean over dimension `dim`, or of all elements.
///
/// # Errors
/// A dimension that does not exist, or without elements.
pub fn mean(x: &Tensor, dim: Option<i64>) -> Result<Tensor> {
    let x = as_float(&flat_or(x, dim)?)?;
    let axis = some_axis("mean", &x, dim.unwrap_or(0))?;
    Ok(x.mean(axis)?)
}

/// The variance over dimension `dim`, with `n - 1` in the denominator as `torch.var` has it.
///
/// # Errors
/// A dimension that does not exist, or with fewer than two entries.
pub fn variance(x: &Tensor, dim: Option<i64>) -> Result<Tensor> {
    let x = as_float(&flat_or(x, dim)?)?;
    let axis = some_axis("variance", &x, dim.unwrap_or(0))?;
    let n = x.dims()[axis];
    if n < 2 {
        return Err(conflict(format!("variance of {}: dimension {axis} needs at least two entries", shown(x.dims()))));
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(axis)?)?;
    Ok((centred.sqr()?.sum(axis)? * (1.0 / (n - 1) as f64))?)
}

/// The largest or smallest element over dimension `dim`, or of all.
///
/// # Errors
/// A dimension that does not exist, or without elements.
pub fn extreme(x: &Tensor, which: Extreme, dim: Option<i64>) -> Result<Tensor> {
    let x = flat_or(x, dim)?.contiguous()?;
    let axis = some_axis(which.name(), &x, dim.unwrap_or(0))?;
    let place = match which {
        Extreme::Max => x.argmax_keepdim(axis)?,
        Extreme::Min => x.argmin_keepdim(axis)?,
    };
    Ok(x.gather(&place.contiguous()?, axis)?.squeeze(axis)?)
}

/// Where the largest (or smallest) element over dimension `dim` stands, the first of equal ones; whole numbers.
///
/// # Errors
/// A dimension that does not exist, or without elements.
pub fn place_of_extreme(x: &Tensor, which: Extreme, dim: i64) -> Result<Tensor> {
    let axis = some_axis(&format!("arg{}", which.name()), x, dim)?;
    let place = match which {
        Extreme::Max => x.argmax(axis)?,
        Extreme::Min => x.argmin(axis)?,
    };
    Ok(place.to_dtype(DType::I64)?)
}

fn flat_or(x: &Tensor, dim: Option<i64>) -> Result<Tensor> {
    Ok(if dim.is_some() { x.clone() } else { x.flatten_all()? })
}

fn some_axis(name: &str, x: &Tensor, dim: i64) -> Result<usize> {
    let axis = axis(name, x, dim)?;
    if x.dims()[axis] == 0 {
        return Err(conflict(format!("{name} of {}: dimension {axis} has no entries", shown(x.dims()))));
    }
    Ok(axis)
}
