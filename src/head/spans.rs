//! The loss of a span's end: which of a row's own tokens it is.

use candle_core::{DType, Tensor};

use crate::batch::Batch;
use crate::error::{Result, What};
use crate::head::packed::{padding_mask, repeated};
use crate::tensor::loss::{CrossEntropy, IGNORE_INDEX, cross_entropy};
use crate::tensor::shape::{conflict, shown};

/// The cross entropy of each row's scores over its own tokens against its position, the mean over the rows.
///
/// `logits` is `(tokens)`, `positions` `(rows)`, whole numbers counted from the row's first token. A position outside
/// the row takes no part (as Hugging Face's clamping to an ignored index does); no row left gives 0.
///
/// # Errors
/// Shapes that do not fit the batch, positions that are not whole numbers.
pub fn span_loss(logits: &Tensor, positions: &Tensor, batch: &Batch) -> Result<Tensor> {
    if logits.dims() != [batch.n_tokens()] {
        let (got, n) = (shown(logits.dims()), batch.n_tokens());
        return Err(conflict(format!("span_loss takes one score for each of {n} tokens, but got {got}")));
    }
    if positions.dims() != [batch.n_rows()] {
        let (got, n) = (shown(positions.dims()), batch.n_rows());
        return Err(conflict(format!("span_loss takes one position for each of {n} rows, but got {got}")));
    }
    if !positions.dtype().is_int() {
        let (wanted, got) = ("whole numbers".into(), "floats".into());
        return Err(What::WrongType { name: "the positions of `span_loss`".into(), wanted, got }.into());
    }
    let scores = repeated(logits, batch, "span_loss")?; // (rows, longest)
    let scores = (&scores + padding_mask(batch, &scores)?)?;
    let positions: Vec<i64> = positions.to_dtype(DType::I64)?.to_vec1()?;
    let in_row = |(&position, &length): (&i64, &usize)| {
        if (0..length as i64).contains(&position) { position } else { IGNORE_INDEX }
    };
    let targets: Vec<i64> = positions.iter().zip(&batch.lengths).map(in_row).collect();
    cross_entropy(&scores, &Tensor::new(targets, logits.device())?, &CrossEntropy::default())
}
