//! The update of AdamW on one stretch of a parameter: one pass that reads the gradient and writes both moments and the weight.

use crate::kernels::math::simd;

/// The numbers of one update, rounded to f32 as torch does: scalars are formed in f64, arithmetic is f32.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// What is left of a weight: `1 - lr * weight_decay`.
    pub keep: f32,
    /// What every gradient is multiplied with first.
    pub grad_scale: f32,
    /// `1 - beta1`.
    pub first: f32,
    /// `beta2`.
    pub beta2: f32,
    /// `1 - beta2`.
    pub second: f32,
    /// `sqrt(1 - beta2^step)`.
    pub root: f32,
    /// `lr / (1 - beta1^step)`.
    pub step_size: f32,
    /// What is added to the root of the second moment.
    pub eps: f32,
}

simd! {
    /// Updates weights and moments from a gradient of the same length.
    pub fn step(update: &Update, weights: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32]) {
        let n = weights.len();
        let (m, v, gradient) = (&mut m[..n], &mut v[..n], &gradient[..n]);
        for i in 0..n {
            let gradient = gradient[i] * update.grad_scale;
            m[i] += update.first * (gradient - m[i]);
            v[i] = v[i] * update.beta2 + update.second * gradient * gradient;
            let denominator = v[i].sqrt() / update.root + update.eps;
            weights[i] = weights[i] * update.keep - update.step_size * m[i] / denominator;
        }
    }
}
