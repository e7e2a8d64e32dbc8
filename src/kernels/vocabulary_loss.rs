//! Cross entropy of the scores of a vocabulary, from the layer that gives them: the gradient of the scores is never written down.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::linear::{self, ManyOutputs, Scored};
use crate::kernels::{rows, vocabulary, with_values};
use crate::tensor::loss::{self, CrossEntropy, Targets};

/// As [`loss::cross_entropy`]. Where a layer with very many outputs has just given the logits, the loss goes on from that layer.
///
/// # Errors
/// As [`loss::cross_entropy`].
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, settings: &CrossEntropy) -> Result<Tensor> {
    let scored = if settings.weight.is_none() { linear::layer_of(logits) } else { None };
    let Some(Scored { scores, x, weight, bias, layer }) = scored else {
        return loss::cross_entropy(logits, labels, settings);
    };
    let targets = Targets::of(logits, labels, settings)?;
    Ok(x.apply_op3(&weight, &bias, OfLayer { targets, scores, layer, log_sums: OnceLock::new() })?)
}

/// Cross entropy of what a layer with very many outputs gives, in f32: its gradient goes to the layer's input and parameters, and
/// that of the scores is made as it is needed, some outputs at a time.
struct OfLayer {
    targets: Targets,
    /// `(items, classes)`.
    scores: Tensor,
    layer: ManyOutputs,
    /// Of each item that takes part: the largest score, and the logarithm of the sum of e^(score - largest).
    log_sums: OnceLock<Vec<(f32, f64)>>,
}

impl OfLayer {
    fn loss(&self, item: usize, row: &[f32], (top, log_sum): (f32, f64)) -> f64 {
        if !self.targets.kept[item] {
            return 0.0;
        }
        let log_sum = log_sum + f64::from(top);
        let hard = log_sum - f64::from(row[self.targets.classes[item] as usize]);
        if self.targets.smoothing == 0.0 {
            return hard;
        }
        let mean = row.iter().map(|&score| f64::from(score)).sum::<f64>() / row.len() as f64;
        (1.0 - self.targets.smoothing) * hard + self.targets.smoothing * (log_sum - mean)
    }
}

impl CustomOp3 for OfLayer {
    fn name(&self) -> &'static str {
        "cross_entropy of a layer"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _weight: &CpuStorage,
        _weight_layout: &Layout,
        _bias: &CpuStorage,
        _bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let n_classes = self.scores.dims()[1];
        let (log_sums, losses): (Vec<(f32, f64)>, Vec<f64>) = with_values([&self.scores], |[scores]| {
            let one = |(item, row): (usize, &[f32])| {
                let log_sum = if self.targets.kept[item] { vocabulary::log_sum(row) } else { (0.0, 0.0) };
                (log_sum, self.loss(item, row, log_sum))
            };
            scores.par_chunks(n_classes).enumerate().map(one).unzip()
        })?;
        let loss = losses.iter().sum::<f64>() * self.targets.scale;
        // A second forward of the same operation would find the same.
        let _ = self.log_sums.set(log_sums);
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _loss: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else { candle_core::bail!("a backward comes after a forward") };
        let Targets { classes, kept, smoothing, scale, .. } = &self.targets;
        let factor = gradient.to_dtype(DType::F64)?.to_scalar::<f64>()? * scale;
        let (n, n_classes) = self.scores.dims2()?;
        let used: Vec<usize> = (0..n).filter(|&item| kept[item]).collect();
        let (off, hit) = ((factor * smoothing / n_classes as f64) as f32, (factor * (1.0 - smoothing)) as f32);
        self.layer.backward([x, weight, bias], &self.scores, &used, |scores, item, range, out| {
            let ((top, log_sum), class) = (log_sums[item], classes[item] as usize);
            rows::softmax_less(&scores[range.clone()], top, (factor * (-log_sum).exp()) as f32, off, out);
            if range.contains(&class) {
                out[class - range.start] -= hit;
            }
        })
    }
}
