//! `x W^T + b` with its backward: three matrix products and a sum over rows.
//!
//! With very many outputs the products are those of `vocabulary`, in the precision of the model that the layer is part of.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::gemm::{Threads, View, Write, product};
use crate::kernels::tiles::{Kernels, Precision, kernels};
use crate::kernels::vocabulary::{self, Sizes};
use crate::kernels::{Path, covers, pages, path, rows, values, with_values};
use crate::tensor::ops;

/// `x` of `(..., in)`, `weight` of `(out, in)`, `bias` of `(out)`, to `(..., out)`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if let Some(kernels) = kernels_for_many(x, weight, bias) {
        return many_outputs(x, weight, bias, kernels);
    }
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

/// Takes the gradient of a parameter: it calls the function with the room that the gradient is to be written to. `false` for a tensor
/// that is none of its parameters. candle's store would add the gradient to zeros of the same size.
pub type GradientSink = Arc<dyn Fn(&Tensor, &mut dyn FnMut(&mut [f32])) -> bool + Send + Sync>;

/// What layers with very many outputs need to know of the model that they are part of.
#[derive(Clone, Default)]
pub struct OfModel {
    /// How exact products are.
    pub precision: Precision,
    /// Where the gradients of weights go; without it, to candle's store.
    pub sink: Option<GradientSink>,
}

thread_local! {
    static MODEL: RefCell<OfModel> = RefCell::default();
    static LAST: RefCell<Option<Scored>> = const { RefCell::new(None) };
}

/// Layers on this thread are part of a model for as long as this lives.
#[must_use]
pub struct WithinModel(OfModel);

impl WithinModel {
    /// From now on.
    pub fn set(model: OfModel) -> Self {
        WithinModel(MODEL.replace(model))
    }
}

impl Drop for WithinModel {
    fn drop(&mut self) {
        MODEL.set(std::mem::take(&mut self.0));
    }
}

/// The scores that a layer with very many outputs gave, and the layer: a loss can go on from the layer, so that the scores' gradient
/// need not be written down.
#[derive(Clone)]
pub(crate) struct Scored {
    pub(crate) scores: Tensor,
    /// `(rows, in)`.
    pub(crate) x: Tensor,
    /// `(out, in)`.
    pub(crate) weight: Tensor,
    /// `(out)`.
    pub(crate) bias: Tensor,
    pub(crate) layer: ManyOutputs,
}

/// The layer that gave these scores, if it was the last one of its kind on this thread. It is told once.
pub(crate) fn layer_of(scores: &Tensor) -> Option<Scored> {
    LAST.take().filter(|last| last.scores.id() == scores.id())
}

/// The tile kernels for a layer with very many outputs; none where it is not one, or where this machine has none.
fn kernels_for_many(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Option<&'static Kernels> {
    let fits = weight.rank() == 2
        && x.rank() == 2
        && x.dims()[1] == weight.dims()[1]
        && bias.is_none_or(|bias| bias.dims() == [weight.dims()[0]]);
    let is_many =
        fits && weight.dims()[0] >= vocabulary::MANY && x.dims()[0] >= vocabulary::MANY_ROWS && weight.dims()[1] > 0;
    if !is_many || !covers(&[x, weight]) || bias.is_some_and(|bias| !covers(&[bias])) {
        return None;
    }
    kernels(MODEL.with_borrow(|model| model.precision))
}

fn many_outputs(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, kernels: &'static Kernels) -> Result<Tensor> {
    // What was kept of the layer before is as large as what comes.
    LAST.take();
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let zeros = || Tensor::zeros(weight.dims()[0], weight.dtype(), weight.device());
    let bias = bias.map_or_else(zeros, Tensor::contiguous)?;
    let layer = ManyOutputs { kernels, sink: MODEL.with_borrow(|model| model.sink.clone()) };
    let scores = x.apply_op3(&weight, &bias, layer.clone())?;
    if scores.track_op() {
        LAST.set(Some(Scored { scores: scores.clone(), x, weight, bias, layer }));
    }
    Ok(scores)
}

/// A layer with very many outputs.
#[derive(Clone)]
pub(crate) struct ManyOutputs {
    kernels: &'static Kernels,
    sink: Option<GradientSink>,
}

/// The gradients of a layer's input, weight and bias, as candle takes them.
type ThreeGradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl ManyOutputs {
    /// The gradients of the layer, where those of the outputs are `gradient`'s: from `values`, `(rows, out)`, it writes the ones
    /// of a row in a range of outputs. Rows that are not among `used` have none.
    pub(crate) fn backward(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        values: &Tensor,
        used: &[usize],
        gradient: impl Fn(&[f32], usize, Range<usize>, &mut [f32]) + Sync,
    ) -> candle_core::Result<ThreeGradients> {
        let (n, n_in, n_out) = sizes(x.shape(), weight.shape());
        let (written, others) = with_values([x, weight, values], |[x, weight_values, values]| {
            let mut others = [Vec::new(), Vec::new()];
            let of_row = |row: usize, outputs: Range<usize>, out: &mut [f32]| {
                gradient(&values[row * n_out..][..n_out], row, outputs, out);
            };
            let sizes = Sizes { n, n_in, n_out };
            let mut write = |room: Option<&mut [f32]>| {
                others = vocabulary::backward(self.kernels, x, weight_values, sizes, used, room, of_row);
            };
            let mut own = None;
            if !weight.track_op() {
                write(None);
            } else if !self.sink.as_ref().is_some_and(|sink| sink(weight, &mut |room| write(Some(room)))) {
                let mut room = pages::zeros(n_out * n_in);
                write(Some(&mut room));
                own = Some(room);
            }
            (own, others)
        })?;
        let tensor = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        let [d_x, d_bias] = others;
        let d_weight = written.map(|values| tensor(values, weight)).transpose()?;
        Ok((Some(tensor(d_x, x)?), d_weight, Some(tensor(d_bias, bias)?)))
    }
}

impl CustomOp3 for ManyOutputs {
    fn name(&self) -> &'static str {
        "linear with many outputs"
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
        let (n, n_in, n_out) = sizes(x_layout.shape(), weight_layout.shape());
        let (x, weight, bias) = (values(x, x_layout)?, values(weight, weight_layout)?, values(bias, bias_layout)?);
        let scores = vocabulary::scores(self.kernels, x, weight, bias, Sizes { n, n_in, n_out });
        Ok((CpuStorage::F32(scores), Shape::from((n, n_out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _scores: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<ThreeGradients> {
        let used: Vec<usize> = (0..x.dims()[0]).collect();
        self.backward([x, weight, bias], gradient, &used, |gradient, _, outputs, out| {
            out.copy_from_slice(&gradient[outputs]);
        })
    }
}

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
