//! GELU with the error function, and its backward.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::math::{normal_cdf, simd};
use crate::kernels::{Path, covers, path, values, with_values};
use crate::tensor::ops::Activation;

/// Elements a task: small enough to share out, large enough to pay for the sharing.
const CHUNK: usize = 16 * 1024;

/// Applies an activation; the kernel covers GELU with the error function.
///
/// # Errors
/// Those of the tensor operations.
pub fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if activation != Activation::Gelu || path() == Path::Reference || !covers(&[x]) {
        return activation.apply(x);
    }
    Ok(x.contiguous()?.apply_op1(Gelu)?)
}

struct Gelu;

simd! {
    fn forward(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = x * normal_cdf(*x).0;
        }
    }
}

simd! {
    fn backward(x: &[f32], gradient: &[f32], dx: &mut [f32]) {
        // d/dx x Φ(x) = Φ(x) + x φ(x), with φ(x) = e^(-x²/2) / √(2π).
        const INVERSE_ROOT: f32 = 0.398_942_3;
        for ((x, gradient), dx) in x.iter().zip(gradient).zip(dx) {
            let (cdf, density) = normal_cdf(*x);
            *dx = gradient * (cdf + x * density * INVERSE_ROOT);
        }
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = values(x, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| forward(x, y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = with_values([x, gradient], |[x, gradient]| {
            let mut dx = vec![0.0; x.len()];
            dx.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .zip(gradient.par_chunks(CHUNK))
                .for_each(|((dx, x), gradient)| backward(x, gradient, dx));
            dx
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
