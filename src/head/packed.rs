//! What a head does with packed hidden states: one vector a row, the padded view, dropout.
//!
//! `x` has one entry for each token of the batch in its first dimension, `(tokens, ...)`; the dimensions behind it are kept.
//! Everything is composed of picks and sums over an index, so that gradients reach each token that took part.

use candle_core::{D, DType, Tensor};

use crate::batch::Batch;
use crate::error::{Result, What};
use crate::model::encoder;
use crate::tensor::arithmetic::as_float;
use crate::tensor::loss::IGNORE_INDEX;
use crate::tensor::reduce::{self, Extreme};
use crate::tensor::rng::stream_hash;
use crate::tensor::shape::{conflict, shown};

/// Each row's first token: `(tokens, ...)` to `(rows, ...)`.
///
/// # Errors
/// A first dimension that does not count the batch's tokens.
pub fn first(x: &Tensor, batch: &Batch) -> Result<Tensor> {
    pick(x, batch, "first", batch.starts[..batch.n_rows()].iter().map(|&start| start as u32).collect())
}

/// Each row's last token: `(tokens, ...)` to `(rows, ...)`.
///
/// # Errors
/// A first dimension that does not count the batch's tokens.
pub fn last(x: &Tensor, batch: &Batch) -> Result<Tensor> {
    pick(x, batch, "last", batch.starts[1..].iter().map(|&end| (end - 1) as u32).collect())
}

/// Each row's last token whose id is not `pad_id`, or its first where all are: `(tokens, ...)` to `(rows, ...)`.
///
/// # Errors
/// A first dimension that does not count the batch's tokens.
pub fn last_unpadded(x: &Tensor, batch: &Batch, pad_id: u32) -> Result<Tensor> {
    let ids = batch.input_ids.to_vec1::<u32>()?;
    let place = |row: &[usize]| {
        let back = ids[row[0]..row[1]].iter().rposition(|&id| id != pad_id);
        (row[0] + back.unwrap_or(0)) as u32
    };
    pick(x, batch, "last", batch.starts.windows(2).map(place).collect())
}

/// The mean over each row's tokens: `(tokens, ...)` to `(rows, ...)`.
///
/// # Errors
/// A first dimension that does not count the batch's tokens.
pub fn mean(x: &Tensor, batch: &Batch) -> Result<Tensor> {
    check(x, batch, "mean")?;
    let x = as_float(x)?.contiguous()?;
    let owners = batch.lengths.iter().enumerate().flat_map(|(row, &n)| std::iter::repeat_n(row as u32, n));
    let owners = Tensor::from_vec(owners.collect::<Vec<_>>(), batch.n_tokens(), x.device())?;
    let mut shape = x.dims().to_vec();
    shape[0] = batch.n_rows();
    let sums = Tensor::zeros(shape, x.dtype(), x.device())?.index_add(&owners, &x, 0)?; // (rows, ...)
    let counts: Vec<f64> = batch.lengths.iter().map(|&length| length as f64).collect();
    let counts = per_place(counts, &[batch.n_rows()], &sums)?;
    Ok(sums.broadcast_div(&counts)?)
}

/// The largest value over each row's tokens: `(tokens, ...)` to `(rows, ...)`.
///
/// # Errors
/// A first dimension that does not count the batch's tokens.
pub fn max(x: &Tensor, batch: &Batch) -> Result<Tensor> {
    // Padding repeats a row's first token, so it changes no maximum.
    reduce::extreme(&repeated(x, batch, "max")?, Extreme::Max, Some(1)) // (rows, ...)
}

/// The padded view: `(tokens, ...)` to `(rows, longest, ...)`, with zeros where a row has ended.
///
/// # Errors
/// A first dimension that does not count the batch's tokens.
pub fn padded(x: &Tensor, batch: &Batch) -> Result<Tensor> {
    let repeated = repeated(x, batch, "padded")?; // (rows, longest, ...)
    let inside = per_place(inside(batch), &[batch.n_rows(), batch.longest()], &repeated)?;
    let inside = inside.ne(0.0)?.broadcast_as(repeated.shape())?;
    Ok(inside.where_cond(&repeated, &repeated.zeros_like()?)?)
}

/// What stands behind each token in its row: `(tokens)` of whole numbers to `(tokens)`, with the ignored label where a row ends.
///
/// # Errors
/// A first dimension that does not count the batch's tokens, or numbers that are not whole.
pub fn next(labels: &Tensor, batch: &Batch) -> Result<Tensor> {
    check(labels, batch, "next")?;
    if labels.rank() != 1 || !labels.dtype().is_int() {
        let got = shown(labels.dims());
        return Err(conflict(format!("`next(batch)` takes one whole number a token, but got {got}")));
    }
    let mut values: Vec<i64> = labels.to_dtype(DType::I64)?.to_vec1()?;
    values.rotate_left(1);
    for &end in &batch.starts[1..] {
        values[end - 1] = IGNORE_INDEX;
    }
    Ok(Tensor::from_vec(values, batch.n_tokens(), labels.device())?)
}

/// Dropout in the batch's draw: each element is 0 with probability `p`, else scaled by `1 / (1 - p)`; unchanged in evaluation.
///
/// Each call within one forward is a site of its own. `x` is `(tokens, ...)` or `(rows, ...)`.
///
/// # Errors
/// A probability outside [0, 1).
pub fn dropout(x: &Tensor, p: f64, batch: &Batch) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        let allowed = "at least 0 and less than 1".into();
        return Err(
            What::OutOfRange { name: "the probability of `dropout`".into(), value: p.to_string(), allowed }.into()
        );
    }
    let site = batch.next_dropout_site();
    encoder::dropout(&as_float(x)?, p, batch, stream_hash(&format!("head.dropout.{site}")))
}

/// Very low numbers where a row has ended and 0 where it has tokens, `(rows, longest)`: added to scores before a softmax,
/// they take padding out of it. Low enough that exp gives an exact zero, high enough that sums do not overflow.
///
/// # Errors
/// Those of the tensor operations.
pub fn padding_mask(batch: &Batch, like: &Tensor) -> Result<Tensor> {
    let shape = (batch.n_rows(), batch.longest());
    let values: Vec<f64> = inside(batch).into_iter().map(|inside| if inside == 0.0 { -1e30 } else { 0.0 }).collect();
    Ok(Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())?)
}

/// The padded view with each row's first token in the padding, `(rows, longest, ...)`.
pub(super) fn repeated(x: &Tensor, batch: &Batch, name: &str) -> Result<Tensor> {
    let flat = pick(x, batch, name, batch.padded_index())?; // (rows * longest, ...)
    let shape: Vec<usize> =
        [batch.n_rows(), batch.longest()].into_iter().chain(x.dims()[1..].iter().copied()).collect();
    Ok(flat.reshape(shape)?) // (rows, longest, ...)
}

/// 1 for each place of the padded view that holds a token, row by row.
fn inside(batch: &Batch) -> Vec<f64> {
    let longest = batch.longest();
    let row = |&length: &usize| (0..longest).map(move |place| f64::from(u8::from(place < length)));
    batch.lengths.iter().flat_map(row).collect()
}

/// Numbers of the leading dimensions `lead`, shaped so that they are broadcast over `like`.
fn per_place(values: Vec<f64>, lead: &[usize], like: &Tensor) -> Result<Tensor> {
    let dtype = as_float(&like.flatten_all()?.narrow(0, 0, 0)?)?.dtype();
    let mut tensor = Tensor::from_vec(values, lead, like.device())?.to_dtype(dtype)?;
    while tensor.rank() < like.rank() {
        tensor = tensor.unsqueeze(D::Minus1)?;
    }
    Ok(tensor)
}

fn pick(x: &Tensor, batch: &Batch, name: &str, index: Vec<u32>) -> Result<Tensor> {
    check(x, batch, name)?;
    let index = Tensor::new(index, x.device())?;
    Ok(x.contiguous()?.index_select(&index, 0)?)
}

fn check(x: &Tensor, batch: &Batch, name: &str) -> Result<()> {
    if x.dims().first() == Some(&batch.n_tokens()) {
        return Ok(());
    }
    let (shape, n) = (shown(x.dims()), batch.n_tokens());
    Err(conflict(format!("`{name}(batch)` of {shape}: the first dimension must count the {n} tokens of the batch")))
}
