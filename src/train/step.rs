//! One optimizer step: forward and backward over the micro-batches of an accumulation window.
//!
//! The loss is normalised over the whole window: each micro-batch counts with its share of the window's labels, so that
//! one batch of 32 equals 4 of 8. Dropout draws by the row's number within the window, for the same reason.

use candle_core::DType;

use crate::batch::{Batch, Draw, Features};
use crate::error::{Error, Place, Result, What};
use crate::head::Model;
use crate::head::prepare::Prepared;
use crate::kernels::profile::{self, Part};
use crate::train::compute_loss::ComputeLoss;
use crate::train::optimizer::Gradients;

/// What a window gave.
pub(super) struct Window {
    /// The loss, the mean over the window's labels.
    pub(super) loss: f64,
    /// The gradients of the trainable parameters, by name.
    pub(super) gradients: Gradients,
}

/// Builds the batch of the features at `indices` for evaluation.
pub(super) fn batch_of(model: &Model, prepared: &Prepared, indices: &[usize], label_smoothing: f64) -> Result<Batch> {
    model.collate(packed(model, prepared, indices, label_smoothing)?, &prepared.options)
}

/// Builds the micro-batches of a window for training in `draw`.
pub(super) fn window_of(
    model: &Model,
    prepared: &Prepared,
    window: &[&[usize]],
    label_smoothing: f64,
    draw: Draw,
) -> Result<Vec<Batch>> {
    let _part = profile::begin(Part::Batches);
    let mut first_row = 0;
    let batch = |indices: &&[usize]| {
        let batch = packed(model, prepared, indices, label_smoothing)?.training(draw, first_row);
        first_row += batch.n_rows();
        model.collate(batch, &prepared.options)
    };
    let mut batches = window.iter().map(batch).collect::<Result<Vec<Batch>>>()?;
    Batch::share_out(&mut batches);
    Ok(batches)
}

fn packed(model: &Model, prepared: &Prepared, indices: &[usize], label_smoothing: f64) -> Result<Batch> {
    let examples: Vec<(usize, &Features)> =
        indices.iter().map(|&index| (prepared.rows[index], &prepared.features[index])).collect();
    let mut batch = model.pack(&examples)?;
    batch.label_smoothing = label_smoothing;
    Ok(batch)
}

/// Forward and backward over a window.
///
/// # Errors
/// What the model or the loss raises. A loss that is not finite is returned, not raised: its gradients are not computed.
pub(super) fn accumulate(
    model: &Model,
    batches: Vec<Batch>,
    compute_loss: &mut Option<ComputeLoss<'_>>,
    mut after_substep: impl FnMut() -> Result<()>,
) -> Result<Window> {
    let mut window = Window { loss: 0.0, gradients: Gradients::new() };
    for batch in batches {
        let output = model.forward(&batch)?;
        let loss = match compute_loss {
            Some(compute) => compute.in_training(&output, &batch)?,
            None => (model.loss(&output, &batch)? * batch.part.share)?,
        };
        let value: f64 = loss.to_dtype(DType::F64)?.to_scalar()?;
        window.loss += value;
        if !window.loss.is_finite() {
            return Ok(window);
        }
        let mut store = {
            let _part = profile::begin(Part::HeadBackward);
            model.backward(&loss)?
        };
        model.collect_gradients(&mut store, &mut window.gradients)?;
        if !batch.part.is_last {
            after_substep()?;
        }
    }
    Ok(window)
}

/// Refuses a model in which something is trained in vain.
///
/// # Errors
/// The first trainable parameter without a gradient.
pub(super) fn refuse_missing_gradients(model: &Model, gradients: &Gradients) -> Result<()> {
    let all = model.parameters().all();
    let missing: Vec<_> =
        all.iter().filter(|p| p.is_trainable() && !gradients.contains_key(p.name())).map(|p| p.name()).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let others = match missing.len() {
        1 => String::new(),
        2 => " (and one other)".into(),
        count => format!(" (and {} others)", count - 1),
    };
    let problem = format!("the trainable parameter `{first}`{others} has no gradient after the first step");
    Err(Error::new(What::Conflict(problem))
        .at(Place::Tensor((*first).to_string()))
        .hint(format!("let the loss depend on it, or freeze it: `model.freeze(\"{first}\")`")))
}
