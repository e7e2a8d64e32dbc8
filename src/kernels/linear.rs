//! `x W^T + b` with its backward: three matrix products and a sum over rows.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::gemm::{Threads, View, Write, product};
use crate::kernels::{Path, covers, path, rows, values, with_values};
use crate::tensor::ops;

/// `x` of `(..., in)`, `weight` of `(out, in)`, `bias` of `(out)`, to `(..., out)`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(bias) = bias else {
        return match few_rows(x, weight) {
            true => Ok(x.contiguous()?.apply_op2(&weight.contiguous()?, FewRows)?),
            false => ops::linear(x, weight, None),
        };
    };
    let fits = weight.rank() == 2
        && x.rank() >= 1
        && x.dims().last() == weight.dims().last()
        && bias.dims() == [weight.dims()[0]]
        && x.elem_count() > 0;
    if path() == Path::Reference || !covers(&[x, weight, bias]) || !fits {
        return ops::linear(x, weight, Some(bias));
    }
    Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear)?)
}

/// The most rows of `x` that are multiplied with the rows of the weight as they stand: reading the weight is most of the work.
const FEW: usize = 4;

/// Whether `x W^T` is that of a few rows, as when a language model's scores of the next token are asked for.
fn few_rows(x: &Tensor, weight: &Tensor) -> bool {
    path() != Path::Reference
        && covers(&[x, weight])
        && weight.rank() == 2
        && x.rank() >= 1
        && x.dims().last() == weight.dims().last()
        && (1..=FEW * weight.dims()[1]).contains(&x.elem_count())
        && weight.dims()[0] > 0
}

/// `x W^T` of a few rows.
struct FewRows;

impl CustomOp2 for FewRows {
    fn name(&self) -> &'static str {
        "linear of a few rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n_rows, n_in, n_out) = sizes(x_layout.shape(), weight_layout.shape());
        let (x, weight) = (values(x, x_layout)?, values(weight, weight_layout)?);
        let mut y = vec![0.0; n_rows * n_out];
        for (x, y) in x.chunks_exact(n_in).zip(y.chunks_exact_mut(n_out)) {
            let parts = y.par_chunks_mut(OUTPUTS).zip(weight.par_chunks(OUTPUTS * n_in));
            parts.for_each(|(y, weight)| rows::dots(x, weight, n_in, y));
        }
        Ok((CpuStorage::F32(y), with_last(x_layout, n_out)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (n_rows, n_in, n_out) = sizes(x.shape(), weight.shape());
        let gradient = gradient.reshape((n_rows, n_out))?;
        let dx = gradient.matmul(weight)?.reshape(x.shape())?;
        Ok((Some(dx), Some(gradient.t()?.matmul(&x.reshape((n_rows, n_in))?)?)))
    }
}

/// Outputs that one task computes.
const OUTPUTS: usize = 256;

struct Linear;

/// (rows, in, out).
fn sizes(x: &Shape, weight: &Shape) -> (usize, usize, usize) {
    let (n_out, n_in) = (weight.dims()[0], weight.dims()[1]);
    (x.elem_count() / n_in, n_in, n_out)
}

/// The shape of `x` with `n_out` in the place of its last size.
fn with_last(x: &Layout, n_out: usize) -> Shape {
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(n_out);
    Shape::from(dims)
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (rows, n_in, n_out) = sizes(x_layout.shape(), weight_layout.shape());
        let (x, weight, bias) = (values(x, x_layout)?, values(weight, weight_layout)?, values(bias, bias_layout)?);
        let mut y = vec![0.0; rows * n_out];
        y.par_chunks_mut(n_out).with_min_len(16).for_each(|row| row.copy_from_slice(bias));
        product(
            (&mut y, View::rows(rows, n_out)),
            (x, View::rows(rows, n_in)),
            (weight, View::rows(n_out, n_in).t()),
            1.0,
            Write::Add,
            Threads::All,
        );
        Ok((CpuStorage::F32(y), with_last(x_layout, n_out)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, n_in, n_out) = sizes(x.shape(), weight.shape());
        let (dx, dw, db) = with_values([x, weight, gradient], |[x, w, g]| {
            let (g_view, mut dx, mut dw) = (View::rows(rows, n_out), vec![0.0; rows * n_in], vec![0.0; n_out * n_in]);
            product(
                (&mut dx, View::rows(rows, n_in)),
                (g, g_view),
                (w, View::rows(n_out, n_in)),
                1.0,
                Write::Replace,
                Threads::All,
            );
            product(
                (&mut dw, View::rows(n_out, n_in)),
                (g, g_view.t()),
                (x, View::rows(rows, n_in)),
                1.0,
                Write::Replace,
                Threads::All,
            );
            (dx, dw, column_sums(g, n_out))
        })?;
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), device)?),
            Some(Tensor::from_vec(dw, weight.shape(), device)?),
            Some(Tensor::from_vec(db, bias.shape(), device)?),
        ))
    }
}

/// The sum of each column of a row-major matrix, in f64: blocks of 64 rows first, then the blocks in order. Where the true
/// sum is zero, AdamW would make a wandering parameter of f32's rounding.
fn column_sums(matrix: &[f32], n_columns: usize) -> Vec<f32> {
    let blocks: Vec<Vec<f64>> = matrix
        .par_chunks(64 * n_columns)
        .map(|block| {
            let mut sums = vec![0.0; n_columns];
            for row in block.chunks_exact(n_columns) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            sums
        })
        .collect();
    let mut total = vec![0.0; n_columns];
    for block in &blocks {
        total.iter_mut().zip(block).for_each(|(sum, value)| *sum += value);
    }
    total.into_iter().map(|sum| sum as f32).collect()
}
