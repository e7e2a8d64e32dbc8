//! Linear layers with very many outputs, such as a language model's scores of its vocabulary, on tiles.
//!
//! Outputs are computed some thousands at a time, so that of the weight and of the outputs' gradient no more than that is packed or
//! made at once. The gradient comes from whoever knows it, chunk by chunk: a loss need not write down what is as large as the
//! scores themselves.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::pages;
use crate::kernels::rows;
use crate::kernels::tiles::{DEPTH, Kernels, Operand, Pack, SIDE, Source, Write};

/// The fewest outputs and the fewest rows of a layer that is computed here: for fewer rows packing the weight would be most of the work.
pub(crate) const MANY: usize = 1024;
pub(crate) const MANY_ROWS: usize = 32;
/// Outputs that are packed at a time, and those of one operand.
const CHUNK: usize = 4096;
const PIECE: usize = 512;
/// Rows that one task multiplies, and outputs whose weights' gradient one task computes.
const ROWS: usize = 128;
const STRIP: usize = 128;

/// The most bytes that a row takes beside the layer: its scores, and the part of their gradient that is made at a time.
pub(crate) fn bytes_of_a_row(n_out: usize) -> usize {
    size_of::<f32>() * (n_out + n_out.min(CHUNK))
}

/// The sizes of a layer and a batch: rows, inputs, outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) n: usize,
    pub(crate) n_in: usize,
    pub(crate) n_out: usize,
}

impl Sizes {
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n_out = self.n_out;
        (0..n_out).step_by(CHUNK).map(move |first| first..(first + CHUNK).min(n_out))
    }
}

/// Room for a strip of `rows` rows of `width` numbers, in whole tiles.
fn room(rows: usize, width: usize) -> Vec<f32> {
    vec![0.0; rows.next_multiple_of(DEPTH) * width.next_multiple_of(DEPTH)]
}

/// Rows of matrices one behind the other, packed some at a time on all threads.
fn pack_parts(kernels: &Kernels, how: Pack, values: &[f32], width: usize, each: usize) -> Vec<Operand> {
    let part = |values: &[f32]| {
        let mut operand = Operand::default();
        kernels.pack(how, Source::rows(values, values.len() / width, width), &mut operand);
        operand
    };
    values.par_chunks(each * width).with_max_len(1).map(part).collect()
}

/// `x W^T + b`: `x` of `(n, in)`, `weight` of `(out, in)`, to `(n, out)`.
pub(crate) fn scores(kernels: &Kernels, x: &[f32], weight: &[f32], bias: &[f32], sizes: Sizes) -> Vec<f32> {
    let Sizes { n_in, n_out, .. } = sizes;
    let mut y = pages::zeros(sizes.n * n_out);
    let left = pack_parts(kernels, Pack::A, x, n_in, ROWS);
    for chunk in sizes.chunks() {
        let weight = &weight[chunk.start * n_in..chunk.end * n_in];
        let pieces = pack_parts(kernels, Pack::TransposedB, weight, n_in, PIECE);
        let strips = y.par_chunks_mut(ROWS * n_out).with_max_len(1).zip(&left);
        strips.for_each(|(y, left)| {
            let n = y.len() / n_out;
            let mut out = room(n, PIECE);
            for (piece, first) in pieces.iter().zip(chunk.clone().step_by(PIECE)) {
                let count = PIECE.min(chunk.end - first);
                kernels.product(left.tiles(), piece.tiles(), n, &mut out, PIECE, Write::Replace);
                for (y, out) in y.chunks_exact_mut(n_out).zip(out.chunks_exact(PIECE)) {
                    let y = &mut y[first..first + count];
                    y.copy_from_slice(&out[..count]);
                    rows::add(y, &bias[first..first + count]);
                }
            }
        });
    }
    y
}

/// The gradients of [`scores`]: that of the weight is written to `d_weight` where it is wanted, those of `x` and the bias are returned. Those of the
/// outputs are `gradient`'s: it writes the ones of a row in a range of outputs. Rows that are not among `used`, which are in their
/// order, have none.
pub(crate) fn backward(
    kernels: &Kernels,
    x: &[f32],
    weight: &[f32],
    sizes: Sizes,
    used: &[usize],
    mut d_weight: Option<&mut [f32]>,
    gradient: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
) -> [Vec<f32>; 2] {
    let Sizes { n, n_in, n_out } = sizes;
    let stride = n_in.next_multiple_of(DEPTH);
    let rows_of_x: Vec<f32> = used.iter().flat_map(|row| &x[row * n_in..][..n_in]).copied().collect();
    let mut inputs = Operand::default();
    kernels.pack(Pack::B, Source::rows(&rows_of_x, used.len(), n_in), &mut inputs);
    let mut d_bias = vec![0.0f32; n_out];
    let mut d_x: Vec<Vec<f32>> = used.chunks(ROWS).map(|used| room(used.len(), n_in)).collect();
    let mut d = pages::zeros(used.len() * CHUNK.min(n_out));
    for chunk in sizes.chunks() {
        let width = chunk.len();
        let d = &mut d[..used.len() * width];
        let pieces = pack_parts(kernels, Pack::B, &weight[chunk.start * n_in..chunk.end * n_in], n_in, PIECE);
        let blocks = d.par_chunks_mut(ROWS * width).with_max_len(1).zip(used.par_chunks(ROWS)).zip(&mut d_x);
        let sums: Vec<Vec<f64>> = blocks
            .map(|((d, used), d_x)| {
                let (mut sums, mut left) = (vec![0.0; width], Operand::default());
                for (row, d) in used.iter().zip(d.chunks_exact_mut(width)) {
                    gradient(*row, chunk.clone(), d);
                    rows::add_to_sums(d, &mut sums);
                }
                for (piece, first) in pieces.iter().zip((0..width).step_by(PIECE)) {
                    let columns = PIECE.min(width - first);
                    let source = Source { values: &d[first..], row_length: width, rows: used.len(), columns };
                    kernels.pack(Pack::A, source, &mut left);
                    kernels.product(left.tiles(), piece.tiles(), used.len(), d_x, stride, Write::Add);
                }
                sums
            })
            .collect();
        for (column, d_bias) in d_bias[chunk.clone()].iter_mut().enumerate() {
            *d_bias = sums.iter().map(|sums| sums[column]).sum::<f64>() as f32;
        }
        let Some(d_weight) = &mut d_weight else { continue };
        let strips = d_weight[chunk.start * n_in..chunk.end * n_in].par_chunks_mut(STRIP * n_in).with_max_len(1);
        strips.enumerate().for_each(|(strip, out)| {
            if used.is_empty() {
                return out.fill(0.0);
            }
            let (first, count) = (strip * STRIP, out.len() / n_in);
            let source = Source { values: &d[first..], row_length: width, rows: used.len(), columns: count };
            let (mut left, mut values) = (Operand::default(), room(count, n_in));
            kernels.pack(Pack::TransposedA, source, &mut left);
            kernels.product(left.tiles(), inputs.tiles(), count, &mut values, stride, Write::Replace);
            for (out, values) in out.chunks_exact_mut(n_in).zip(values.chunks_exact(stride)) {
                out.copy_from_slice(&values[..n_in]);
            }
        });
    }
    let mut d_all = vec![0.0; n * n_in];
    for (used, d_x) in used.chunks(ROWS).zip(&d_x) {
        for (row, d_x) in used.iter().zip(d_x.chunks_exact(stride)) {
            d_all[row * n_in..][..n_in].copy_from_slice(&d_x[..n_in]);
        }
    }
    [d_all, d_bias]
}

/// The largest score of a row, and the logarithm of the sum of e^(score - largest).
pub(crate) fn log_sum(row: &[f32]) -> (f32, f64) {
    let mut top = [f32::NEG_INFINITY];
    rows::top(row, &mut top);
    let mut sums = [0.0];
    // So few at a time that adding them up in f32 keeps all digits that matter.
    row.chunks(64 * SIDE).for_each(|part| rows::add_exps(part, top[0], &mut sums));
    (top[0], sums[0].ln())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::*;
    use crate::kernels::Path;
    use crate::kernels::tiles::{Element, Precision, available, kernels_of};
    use crate::tensor::ops;
    use crate::tensor::rng::Rng;

    fn numbers(n: usize, stream: &str) -> Vec<f32> {
        let rng = Rng::new(5, stream, 0);
        (0..n as u64).map(|index| rng.normal(index) as f32).collect()
    }

    fn error(found: &[f32], expected: &Tensor) -> f64 {
        let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(found.len(), expected.len());
        let square = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
            found.iter().zip(&expected).map(|(a, b)| of(f64::from(*a), f64::from(*b)).powi(2)).sum()
        };
        (square(&|a, b| a - b) / square(&|_, b| b).max(1e-300)).sqrt()
    }

    /// Scores and gradients of every path beside candle's composition, on ragged sizes, with rows that have no gradient.
    #[test]
    fn layers_with_many_outputs_are_linear_layers() {
        let mut tables: Vec<&Kernels> = available().into_iter().flat_map(|(kernels, twin)| [kernels, twin]).collect();
        for precision in [Precision::Highest, Precision::High, Precision::Bf16] {
            tables.extend(kernels_of(Path::Emulated, precision));
        }
        for kernels in tables {
            // What gradients keep by element: the longest sums are of 4100 numbers in f32, on candle's side too.
            let tolerance = match kernels.element {
                Element::F32 | Element::Bf16(3) => 3e-6,
                Element::Bf16(2) => 2e-5,
                _ => 1e-2,
            };
            for (n, n_in, n_out) in [(5, 33, 1030), (130, 16, 513), (17, 70, 4100)] {
                let (x, weight, bias) = (numbers(n * n_in, "x"), numbers(n_out * n_in, "w"), numbers(n_out, "b"));
                let variable = |values: &[f32], dims: &[usize]| Var::from_slice(values, dims, &Device::Cpu).unwrap();
                let plain = [variable(&x, &[n, n_in]), variable(&weight, &[n_out, n_in]), variable(&bias, &[n_out])];
                let expected = ops::linear(&plain[0], &plain[1], Some(&plain[2])).unwrap();
                let sizes = Sizes { n, n_in, n_out };
                let found = scores(kernels, &x, &weight, &bias, sizes);
                let case = format!("{} {n} x {n_in} to {n_out}", kernels.name);
                assert!(error(&found, &expected) < tolerance, "{case}: scores");

                let used: Vec<usize> = (0..n).filter(|row| row % 3 != 1).collect();
                let mut d = numbers(n * n_out, "d");
                (0..n).filter(|row| row % 3 == 1).for_each(|row| d[row * n_out..][..n_out].fill(0.0));
                let mut d_weight = vec![0.5; weight.len()];
                let [d_x, d_bias] =
                    backward(kernels, &x, &weight, sizes, &used, Some(&mut d_weight), |row, outputs, out| {
                        out.copy_from_slice(&d[row * n_out..][outputs]);
                    });
                let d = Tensor::from_slice(&d, (n, n_out), &Device::Cpu).unwrap();
                let store = (expected * d).unwrap().sum_all().unwrap().backward().unwrap();
                let all = [("x", &d_x), ("weight", &d_weight), ("bias", &d_bias)];
                for ((name, found), plain) in all.into_iter().zip(&plain) {
                    let error = error(found, store.get(plain).unwrap());
                    assert!(error < tolerance, "{case}: the gradient of {name} is off by {error:e}");
                }
            }
        }
    }

    /// Against the sum in f64, in a row that is longer than what is added up in f32, and at scores that would overflow.
    #[test]
    fn the_logarithm_of_a_sum_is_exact() {
        for (n, shift) in [(1, 0.0), (15, 0.0), (5000, 0.0), (5000, 300.0), (1030, -300.0)] {
            let row: Vec<f32> = numbers(n, "scores").into_iter().map(|x| 4.0 * x + shift).collect();
            let (top, found) = log_sum(&row);
            assert_eq!(top, row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let exact = row.iter().map(|x| (f64::from(*x) - f64::from(top)).exp()).sum::<f64>().ln();
            assert!((found - exact).abs() < 1e-6, "{n} numbers around {shift}: {found} not {exact}");
        }
    }
}
