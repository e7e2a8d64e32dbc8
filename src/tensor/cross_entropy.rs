//! Cross entropy of f32 logits on the CPU as one operation, computed in f64.
//!
//! The gradient of a row sums to zero up to the rounding of f32. That matters where a parameter's true gradient is zero,
//! such as the bias of a span head: AdamW divides by the size of a gradient, so noise would make it wander.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

/// What each row is compared with, and how much it counts.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The class of each row; rows that take no part have any class.
    pub classes: Vec<u32>,
    /// Whether each row takes part.
    pub kept: Vec<bool>,
    /// A weight for each class.
    pub weights: Option<Vec<f32>>,
    /// The share of the target that is spread over all classes.
    pub smoothing: f64,
    /// One over the sum of the weights of the rows that take part; 0 where there is none.
    pub scale: f64,
}

/// The loss of `logits` `(items, classes)`, f32 on the CPU: a scalar.
pub(super) fn apply(logits: &Tensor, targets: Targets) -> candle_core::Result<Tensor> {
    logits.contiguous()?.apply_op1(CrossEntropy(targets))
}

struct CrossEntropy(Targets);

impl CrossEntropy {
    /// The maximum of a row and the logarithm of the sum of exp(x - maximum).
    fn log_sum(row: &[f32]) -> (f64, f64) {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        (max, row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln())
    }

    fn weight(&self, class: usize) -> f64 {
        self.0.weights.as_ref().map_or(1.0, |weights| f64::from(weights[class]))
    }

    /// The sum of all class weights.
    fn total_weight(&self, n_classes: usize) -> f64 {
        (0..n_classes).map(|class| self.weight(class)).sum()
    }

    fn row_loss(&self, item: usize, row: &[f32]) -> f64 {
        if !self.0.kept[item] {
            return 0.0;
        }
        let (max, log_sum) = Self::log_sum(row);
        let class = self.0.classes[item] as usize;
        let surprise = |class: usize| log_sum + max - f64::from(row[class]);
        let hard = self.weight(class) * surprise(class);
        if self.0.smoothing == 0.0 {
            return hard;
        }
        let spread: f64 = (0..row.len()).map(|class| self.weight(class) * surprise(class)).sum();
        (1.0 - self.0.smoothing) * hard + self.0.smoothing / row.len() as f64 * spread
    }

    fn row_gradient(&self, item: usize, row: &[f32], factor: f64, out: &mut [f32]) {
        if !self.0.kept[item] {
            return;
        }
        let (max, log_sum) = Self::log_sum(row);
        let class = self.0.classes[item] as usize;
        let hard = (1.0 - self.0.smoothing) * self.weight(class);
        let soft = self.0.smoothing / row.len() as f64;
        let total = if soft == 0.0 { 0.0 } else { self.total_weight(row.len()) };
        for (other, (x, out)) in row.iter().zip(&mut *out).enumerate() {
            let p = (f64::from(*x) - max - log_sum).exp();
            let hit = f64::from(u8::from(other == class));
            *out = (factor * (hard * (p - hit) + soft * (total * p - self.weight(other)))) as f32;
        }
        balance(out);
    }
}

/// Makes a row of gradients, whose true sum is zero, sum to zero as nearly as f32 allows: what rounding the largest element
/// left over goes to the second largest, whose units are finer.
fn balance(row: &mut [f32]) {
    let left_over: f64 = row.iter().map(|&value| f64::from(value)).sum();
    let (mut first, mut second) = (None::<(usize, f32)>, None::<(usize, f32)>);
    for (index, value) in row.iter().enumerate() {
        let size = value.abs();
        if first.is_none_or(|(_, most)| size > most) {
            second = first.replace((index, size));
        } else if second.is_none_or(|(_, most)| size > most) {
            second = Some((index, size));
        }
    }
    if let Some((index, _)) = second.filter(|_| left_over.is_finite()) {
        row[index] = (f64::from(row[index]) - left_over) as f32;
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(values), Some((start, end))) = (logits, layout.contiguous_offsets()) else {
            candle_core::bail!("cross_entropy takes contiguous f32 logits")
        };
        let n_classes = layout.dims()[1];
        let rows = values[start..end].par_chunks(n_classes).enumerate();
        let losses: Vec<f64> = rows.map(|(item, row)| self.row_loss(item, row)).collect();
        let loss = losses.iter().sum::<f64>() * self.0.scale;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let factor = gradient.to_dtype(DType::F64)?.to_scalar::<f64>()? * self.0.scale;
        let n_classes = logits.dims()[1];
        let values = logits.flatten_all()?.to_vec1::<f32>()?;
        let mut out = vec![0.0; values.len()];
        out.par_chunks_mut(n_classes)
            .zip(values.par_chunks(n_classes))
            .enumerate()
            .for_each(|(item, (out, row))| self.row_gradient(item, row, factor, out));
        Tensor::from_vec(out, logits.shape(), logits.device()).map(Some)
    }
}
