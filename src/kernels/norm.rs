//! Layer normalisation over the last dimension, and its backward.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::math::{LANES, filled, lanes_of, simd, sum, sum_of};
use crate::kernels::{Path, covers, path, values, with_values};
use crate::tensor::ops;

/// Rows a task; partial sums of the weights' gradients are made for each, so it never changes.
const ROWS: usize = 64;

/// `(x - mean) / sqrt(var + eps) * weight + bias` over the last dimension.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let size = x.dims().last().copied().unwrap_or(0);
    let fits = size > 0 && weight.dims() == [size] && bias.dims() == [size] && x.elem_count() > 0;
    if path() == Path::Reference || !covers(&[x, weight, bias]) || !fits {
        return ops::layer_norm(x, weight, bias, eps);
    }
    let op = LayerNorm { eps: eps as f32 };
    Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?)
}

struct LayerNorm {
    eps: f32,
}

/// Mean and one over the standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum_of([x], |[x]| x) / n;
    let mut squares = [0.0f32; LANES];
    // What fills up the last lanes does not differ from the mean.
    lanes_of([x], mean, |[x]| {
        for (square, x) in squares.iter_mut().zip(x) {
            *square = (x - mean).mul_add(x - mean, *square);
        }
    });
    (mean, 1.0 / (sum(squares) / n + eps).sqrt())
}

/// With d and z as in [`backward`]: the means of d and of d z over a row.
#[inline(always)]
fn means(x: &[f32], weight: &[f32], gradient: &[f32], mean: f32, inverse: f32) -> (f32, f32) {
    let n = x.len();
    let (mut d, mut dz) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (weight, weight_rest) = weight[..n].as_chunks::<LANES>();
    let (gradient, gradient_rest) = gradient[..n].as_chunks::<LANES>();
    for ((x, weight), gradient) in x.iter().zip(weight).zip(gradient) {
        add_to_means(x, weight, gradient, mean, inverse, [&mut d, &mut dz]);
    }
    if !x_rest.is_empty() {
        let [x, weight, gradient] = [x_rest, weight_rest, gradient_rest].map(|rest| filled(rest, 0.0));
        add_to_means(&x, &weight, &gradient, mean, inverse, [&mut d, &mut dz]);
    }
    (sum(d) / n as f32, sum(dz) / n as f32)
}

#[inline(always)]
fn add_to_means(
    x: &[f32; LANES],
    weight: &[f32; LANES],
    gradient: &[f32; LANES],
    mean: f32,
    inverse: f32,
    [d, dz]: [&mut [f32; LANES]; 2],
) {
    for i in 0..LANES {
        let product = gradient[i] * weight[i];
        d[i] += product;
        dz[i] = product.mul_add((x[i] - mean) * inverse, dz[i]);
    }
}

simd! {
    pub(super) fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let n = weight.len();
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            let (mean, inverse) = moments(x, eps);
            for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = ((x - mean) * inverse).mul_add(*weight, *bias);
            }
        }
    }
}

simd! {
    /// With z = (x - mean) * inverse and d = gradient * weight: dx = inverse * (d - mean(d) - z * mean(d z)).
    pub(super) fn backward(x: &[f32], weight: &[f32], gradient: &[f32], eps: f32, dx: &mut [f32], sums: &mut [f32]) {
        let n = weight.len();
        let (dw, db) = sums.split_at_mut(n);
        for ((x, g), dx) in x.chunks_exact(n).zip(gradient.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            let (mean, inverse) = moments(x, eps);
            let (mean_d, mean_dz) = means(x, weight, g, mean, inverse);
            let (dw, db) = (&mut dw[..n], &mut db[..n]);
            for i in 0..n {
                let z = (x[i] - mean) * inverse;
                dx[i] = inverse * (g[i] * weight[i] - mean_d - z * mean_dz);
                dw[i] += g[i] * z;
                db[i] += g[i];
            }
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (values(x, x_layout)?, values(weight, weight_layout)?, values(bias, bias_layout)?);
        let mut y = vec![0.0; x.len()];
        let chunk = ROWS * weight.len();
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| forward(x, weight, bias, self.eps, y));
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let n = weight.elem_count();
        let (dx, sums) = with_values([x, weight, gradient], |[x, weight, gradient]| {
            let chunk = ROWS * n;
            let mut dx = vec![0.0; x.len()];
            let partial: Vec<Vec<f32>> = dx
                .par_chunks_mut(chunk)
                .zip(x.par_chunks(chunk))
                .zip(gradient.par_chunks(chunk))
                .map(|((dx, x), gradient)| {
                    let mut sums = vec![0.0; 2 * n];
                    backward(x, weight, gradient, self.eps, dx, &mut sums);
                    sums
                })
                .collect();
            let mut sums = vec![0.0; 2 * n];
            for block in &partial {
                sums.iter_mut().zip(block).for_each(|(sum, value)| *sum += value);
            }
            (dx, sums)
        })?;
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), device)?),
            Some(Tensor::from_slice(&sums[..n], n, device)?),
            Some(Tensor::from_slice(&sums[n..], n, device)?),
        ))
    }
}
