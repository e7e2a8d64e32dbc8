//! A loss of the user's own in place of the task's, in either of Hugging Face's two forms.
//!
//! The model's output and a batch flow in, a scalar flows out that is normalised over the accumulation window in training,
//! and over the batch in evaluation.

use candle_core::Tensor;

use crate::batch::Batch;
use crate::error::Result;
use crate::head::{Output, scalar};

/// From the model's output and a batch to a scalar.
pub type LossOfBatch<'a> = Box<dyn FnMut(&Output, &Batch) -> Result<Tensor> + 'a>;
/// From the model's output, a batch and, in training, the number of labels of its window to a scalar.
pub type LossOfWindow<'a> = Box<dyn FnMut(&Output, &Batch, Option<usize>) -> Result<Tensor> + 'a>;

/// A loss of the user's own.
pub enum ComputeLoss<'a> {
    /// `compute_loss(output, batch)`: the mean over a batch, which counts with the batch's share of its window.
    OfBatch(LossOfBatch<'a>),
    /// `compute_loss_func(outputs, labels, num_items_in_batch)`: a sum that the function itself has divided by the number of
    /// labels of the window. Without that number, in evaluation, it is the mean over the batch.
    OfWindow(LossOfWindow<'a>),
}

impl ComputeLoss<'_> {
    /// What the batch adds to the loss of its window.
    ///
    /// # Errors
    /// What the function raises, and a loss that is not a scalar.
    pub(super) fn in_training(&mut self, output: &Output, batch: &Batch) -> Result<Tensor> {
        match self {
            ComputeLoss::OfBatch(compute) => Ok((scalar(compute(output, batch)?)? * batch.part.share)?),
            ComputeLoss::OfWindow(compute) => {
                // As in Hugging Face, labels are counted in a column of that name alone.
                let n_items = batch.columns.contains_key("labels").then_some(batch.part.num_items_in_batch);
                scalar(compute(output, batch, n_items)?)
            }
        }
    }

    /// The mean loss of a batch.
    ///
    /// # Errors
    /// As [`ComputeLoss::in_training`].
    pub(super) fn in_evaluation(&mut self, output: &Output, batch: &Batch) -> Result<Tensor> {
        match self {
            ComputeLoss::OfBatch(compute) => scalar(compute(output, batch)?),
            ComputeLoss::OfWindow(compute) => scalar(compute(output, batch, None)?),
        }
    }
}
