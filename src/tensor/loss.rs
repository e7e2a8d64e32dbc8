//! Loss functions as PyTorch defines them, differentiable, on logits.
//!
//! Labels are checked before they are used as indices: a label out of range is an error that names its item.

use candle_core::{D, DType, Tensor};

use crate::error::{Error, Place, Result, What};
use crate::tensor::arithmetic::as_float;
use crate::tensor::cross_entropy;
pub use crate::tensor::cross_entropy::Targets;
use crate::tensor::ops::log_softmax;
use crate::tensor::shape::{conflict, shown};

/// The label that takes no part in a loss, as in PyTorch.
pub const IGNORE_INDEX: i64 = -100;

/// Settings of [`cross_entropy`].
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Labels with this value take no part.
    pub ignore_index: i64,
    /// The share of the target that is spread evenly over all classes, in [0, 1).
    pub label_smoothing: f64,
    /// A weight for each class, `(classes)`.
    pub weight: Option<Tensor>,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        CrossEntropy { ignore_index: IGNORE_INDEX, label_smoothing: 0.0, weight: None }
    }
}

impl Targets {
    /// What `labels` `(items)` ask of `logits` `(items, classes)`.
    ///
    /// # Errors
    /// Shapes that do not fit, and a label out of range (its place is the item).
    pub fn of(logits: &Tensor, labels: &Tensor, settings: &CrossEntropy) -> Result<Self> {
        let (n_items, n_classes) = logits.dims2().map_err(|_| {
            conflict(format!("cross_entropy takes logits of (items, classes), but got {}", shown(logits.dims())))
        })?;
        if labels.dims() != [n_items] {
            let got = shown(labels.dims());
            return Err(conflict(format!("cross_entropy got {n_items} rows of logits and labels of shape {got}")));
        }
        if n_classes == 0 {
            let got = shown(logits.dims());
            return Err(conflict(format!("cross_entropy got logits of {got}, which have no classes")));
        }
        let labels: Vec<i64> = labels.to_dtype(DType::I64)?.to_vec1()?;
        check_labels(&labels, n_classes, settings.ignore_index)?;
        let weights: Option<Vec<f32>> = match &settings.weight {
            Some(weight) if weight.dims() == [n_classes] => Some(weight.to_dtype(DType::F32)?.to_vec1()?),
            Some(weight) => {
                let got = shown(weight.dims());
                return Err(conflict(format!(
                    "`weight` must have one number for each of {n_classes} classes, but has shape {got}"
                )));
            }
            None => None,
        };
        let kept: Vec<bool> = labels.iter().map(|&label| label != settings.ignore_index).collect();
        let classes = labels.iter().zip(&kept).map(|(&label, &kept)| if kept { label as u32 } else { 0 }).collect();
        let mut targets = Targets { classes, kept, weights, smoothing: settings.label_smoothing, scale: 0.0 };
        let total: f64 = (0..n_items).map(|item| targets.share(item)).sum();
        targets.scale = if total == 0.0 { 0.0 } else { 1.0 / total };
        Ok(targets)
    }

    /// How much an item counts, before the scale.
    fn share(&self, item: usize) -> f64 {
        let weight = || self.weights.as_ref().map_or(1.0, |weights| f64::from(weights[self.classes[item] as usize]));
        if self.kept[item] { weight() } else { 0.0 }
    }
}

/// Cross entropy of `logits` `(items, classes)` against `labels` `(items)`: the mean over the labels that are not
/// ignored, weighted by class as `torch.nn.CrossEntropyLoss` does. No label left gives 0.
///
/// # Errors
/// Those of [`Targets::of`].
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, settings: &CrossEntropy) -> Result<Tensor> {
    let targets = Targets::of(logits, labels, settings)?;
    let logits = &as_float(logits)?;
    let ((n_items, n_classes), device) = (logits.dims2()?, logits.device());
    if device.is_cpu() && logits.dtype() == DType::F32 && n_items > 0 {
        return Ok(cross_entropy::apply(logits, targets)?);
    }
    // The scale goes into the shares: candle's multiplication by a plain 0 would cut the gradient instead of making it 0.
    let scaled = |values: Vec<f64>| Tensor::from_vec(values, n_items, device)?.to_dtype(logits.dtype());
    let shares = (0..n_items).map(|item| targets.share(item) * targets.scale).collect();
    let negative = log_softmax(logits, 1)?.neg()?; // (items, classes)
    let index = Tensor::from_vec(targets.classes.clone(), (n_items, 1), device)?;
    let picked = negative.gather(&index, 1)?.squeeze(1)?; // (items)
    let nll = (picked * scaled(shares)?)?.sum_all()?;
    if settings.label_smoothing == 0.0 {
        return Ok(nll);
    }
    // Smoothing spreads over classes; with class weights, each class counts with its weight (as torch does).
    let spread = match &settings.weight {
        Some(weight) => negative.broadcast_mul(&weight.to_dtype(logits.dtype())?)?,
        None => negative,
    };
    let each = targets.scale / n_classes as f64;
    let keep = targets.kept.iter().map(|&kept| if kept { each } else { 0.0 }).collect();
    let smooth = (spread.sum(D::Minus1)? * scaled(keep)?)?.sum_all()?;
    let eps = settings.label_smoothing;
    Ok(((nll * (1.0 - eps))? + (smooth * eps)?)?)
}

fn check_labels(labels: &[i64], n_classes: usize, ignore_index: i64) -> Result<()> {
    for (item, &label) in labels.iter().enumerate() {
        if label != ignore_index && !(0..n_classes as i64).contains(&label) {
            let allowed = format!("0 to {} ({n_classes} classes) or {ignore_index} (ignored)", n_classes as i64 - 1);
            return Err(Error::new(What::OutOfRange { name: "a label".into(), value: label.to_string(), allowed })
                .at(Place::Item(item))
                .hint("give `num_labels` when the model is loaded, or map the labels to 0, 1, ..."));
        }
    }
    Ok(())
}

/// Mean squared error of two tensors of one shape.
///
/// # Errors
/// Shapes that differ.
pub fn mse(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    same_shape("mse_loss", predictions, targets)?;
    let predictions = &as_float(predictions)?;
    let targets = targets.to_dtype(predictions.dtype())?;
    Ok((predictions - targets)?.sqr()?.mean_all()?)
}

/// Binary cross entropy of logits against targets in [0, 1], the mean over all elements
/// (`max(x, 0) - x t + log(1 + exp(-|x|))`, which does not overflow).
///
/// # Errors
/// Shapes that differ.
pub fn bce_with_logits(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    same_shape("bce_with_logits", logits, targets)?;
    let logits = &as_float(logits)?;
    let targets = targets.to_dtype(logits.dtype())?;
    // At a logit of 0 the gradients that candle gives `relu` and `abs` there, 1 and 1, add up to the right 1/2 - t.
    let softplus = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    Ok(((logits.relu()? - (logits * targets)?)? + softplus)?.mean_all()?)
}

fn same_shape(name: &str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dims() == b.dims() {
        return Ok(());
    }
    Err(conflict(format!("{name} takes two tensors of one shape, but got {} and {}", shown(a.dims()), shown(b.dims()))))
}
