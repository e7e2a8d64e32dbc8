//! The fused encoder's backward: layer by layer from the last, the blocks of a layer first, then the gradients of its weights over
//! all blocks.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::rows;
use crate::kernels::tiles::{Kernels, Operand, Pack, SIDE, Source, Write};
use crate::model::family::Norms;
use crate::model::fused::block::{Block, BlockGradients, LayerMemory, Scratch, room};
use crate::model::fused::forward::{Dropout, Pass, strip};
use crate::model::fused::weights::{Matrix, PackedMatrix, PackedNorm, padded};
use crate::model::fused::{Fused, named};
use crate::model::layers::{LayerNorm, Stored};

/// Rows of a weight's gradient that one task computes: whole tiles, two of them.
const STRIP: usize = 2 * SIDE;

impl Fused {
    /// The gradients of all trainable parameters, by name, from that of the last hidden states `(tokens, hidden)`.
    pub(super) fn backward(
        &self,
        pass: &Pass,
        blocks: &mut [Block],
        gradient: &[f32],
    ) -> Result<Vec<(String, Tensor)>> {
        let (hidden, stride) = (self.config.hidden_size, padded(self.config.hidden_size));
        let mut all = Vec::new();
        blocks.par_iter_mut().for_each(|block| {
            let (n, first) = (block.n_tokens(), block.span.tokens.start);
            let Block { hidden: x, last, gradients, .. } = block;
            let x = room(x, n, hidden);
            let sums = &mut gradients.norms[0];
            sums.clear();
            sums.resize(2 * hidden, 0.0);
            let rows_of = x.chunks_exact_mut(stride).zip(gradient[first * hidden..].chunks_exact(hidden)).take(n);
            for (place, (x, gradient)) in rows_of.enumerate() {
                match &pass.packed.final_norm {
                    Some(norm) => {
                        let input = &last[place * stride..][..hidden];
                        rows::layer_norm_backward(input, &norm.weight, gradient, norm.eps, &mut x[..hidden], sums);
                    }
                    None => x[..hidden].copy_from_slice(gradient),
                }
            }
        });
        if let Some(norm) = &self.final_norm {
            all.extend(norm_gradients(norm, blocks.iter().map(|block| &block.gradients.norms[0][..]))?);
        }
        let first = self.first_trainable_layer();
        for number in (first.unwrap_or(0)..self.layers.len()).rev() {
            blocks.par_iter_mut().for_each(|block| self.layer_backward(pass, number, block));
            self.layer_gradients(pass, number, blocks, &mut all)?;
        }
        if first.is_none() {
            self.embed_backward(pass, blocks, &mut all)?;
        }
        Ok(all)
    }

    /// From the gradient of a layer's output to that of its input, both in the block's hidden states.
    fn layer_backward(&self, pass: &Pass, number: usize, block: &mut Block) {
        let (layer, packed, layer_pass) = (&self.layers[number], &pass.packed.layers[number], &pass.layers[number]);
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let stride = padded(hidden);
        let n = block.n_tokens();
        let Block { span, hidden: d, layers, scratch, gradients, .. } = block;
        let LayerMemory { qkv, slopes, norm_inputs: [first_input, second_input], .. } = &mut layers[number];
        let Scratch { left, narrow: [d_sum, d_out, path, d_context], wide, d_qkv, factors, attention } = scratch;
        let BlockGradients { outputs, biases, norms } = gradients;
        let d = room(d, n, hidden);
        let (d_sum, path) = (room(d_sum, n, hidden), room(path, n, hidden));
        let mut part = Part { pass, n, left, factors, first: span.tokens.start, d_out: room(d_out, n, hidden) };
        let before = self.config.norms == Norms::Before;

        // The norm behind the feed-forward part.
        if before {
            d_sum[..n * stride].copy_from_slice(&d[..n * stride]);
        } else {
            norm_backward(&packed.norms[1], second_input, d, d_sum, hidden, n, &mut norms[1]);
        }
        // Feed-forward: through dropout and both products.
        part.end(&layer.matrices[3], d_sum, hidden, &layer_pass.dropout[1], &mut outputs[3], &mut biases[3]);
        let wide = room(wide, n, inner);
        part.product(&packed.matrices[3], wide, inner, Write::Replace);
        for (d, slopes) in wide.chunks_exact_mut(padded(inner)).zip(slopes.chunks_exact(padded(inner))).take(n) {
            rows::multiply(&mut d[..inner], &slopes[..inner]);
        }
        part.gradient(&layer.matrices[2], wide, inner, &mut outputs[2], &mut biases[2]);
        if before {
            part.product(&packed.matrices[2], path, hidden, Write::Replace);
            norm_backward(&packed.norms[1], second_input, path, d, hidden, n, &mut norms[1]);
            add_rows(d, d_sum, hidden, n);
            d_sum[..n * stride].copy_from_slice(&d[..n * stride]);
        } else {
            part.product(&packed.matrices[2], d_sum, hidden, Write::Add);
            norm_backward(&packed.norms[0], first_input, d_sum, d, hidden, n, &mut norms[0]);
            d_sum[..n * stride].copy_from_slice(&d[..n * stride]);
        }
        // Attention: `d_sum` is the gradient of what follows it, and of the residual beside it.
        part.end(&layer.matrices[1], d_sum, hidden, &layer_pass.dropout[0], &mut outputs[1], &mut biases[1]);
        let d_context = room(d_context, n, hidden);
        part.product(&packed.matrices[1], d_context, hidden, Write::Replace);
        let width = layer.matrices[0].width();
        let d_qkv = room(d_qkv, n, width);
        self.heads(pass, layer_pass, span, qkv, |head| head.backward(d_context, stride, d_qkv, attention));
        part.gradient(&layer.matrices[0], d_qkv, width, &mut outputs[0], &mut biases[0]);
        if before {
            part.product(&packed.matrices[0], path, hidden, Write::Replace);
            norm_backward(&packed.norms[0], first_input, path, d, hidden, n, &mut norms[0]);
            add_rows(d, d_sum, hidden, n);
        } else {
            part.product(&packed.matrices[0], d_sum, hidden, Write::Add);
            d[..n * stride].copy_from_slice(&d_sum[..n * stride]);
        }
    }

    /// The gradients of a layer's weights, from what its blocks have left.
    fn layer_gradients(
        &self,
        pass: &Pass,
        number: usize,
        blocks: &[Block],
        all: &mut Vec<(String, Tensor)>,
    ) -> Result<()> {
        let layer = &self.layers[number];
        for (which, matrix) in layer.matrices.iter().enumerate() {
            let operands: Vec<[&Operand; 2]> = blocks
                .iter()
                .map(|block| [&block.layers[number].inputs[which], &block.gradients.outputs[which]])
                .collect();
            let biases: Vec<&[f64]> = blocks.iter().map(|block| &block.gradients.biases[which][..]).collect();
            all.extend(matrix.gradients(pass.kernels, &operands, &biases)?);
        }
        for (which, norm) in layer.norms.iter().enumerate() {
            all.extend(norm_gradients(norm, blocks.iter().map(|block| &block.gradients.norms[which][..]))?);
        }
        Ok(())
    }
}

/// One block on its way back through one part of a layer.
struct Part<'a> {
    pass: &'a Pass,
    n: usize,
    left: &'a mut Operand,
    factors: &'a mut Vec<f32>,
    /// The block's first token in the batch.
    first: usize,
    d_out: &'a mut [f32],
}

impl Part<'_> {
    /// Through the dropout behind a product: the gradient of the product's output, noted as [`Part::gradient`] does.
    fn end(
        &mut self,
        matrix: &Matrix,
        d: &[f32],
        width: usize,
        dropout: &Dropout,
        output: &mut Operand,
        bias: &mut Vec<f64>,
    ) {
        let stride = padded(width);
        for (place, (out, d)) in
            self.d_out.chunks_exact_mut(stride).zip(d.chunks_exact(stride)).take(self.n).enumerate()
        {
            out[..width].copy_from_slice(&d[..width]);
            dropout.apply(self.first + place, &mut out[..width], self.factors);
        }
        let source = strip(self.d_out, width, self.n);
        note(self.pass.kernels, matrix, source, self.left, output, bias);
    }

    /// Notes the gradient of a product's output: for the weights, for the bias, and as the left operand of the way back.
    fn gradient(&mut self, matrix: &Matrix, d: &[f32], width: usize, output: &mut Operand, bias: &mut Vec<f64>) {
        let source = strip(d, width, self.n);
        note(self.pass.kernels, matrix, source, self.left, output, bias);
    }

    /// From the noted gradient to that of the product's input.
    fn product(&mut self, packed: &PackedMatrix, out: &mut [f32], width: usize, write: Write) {
        self.pass.kernels.product(self.left.tiles(), packed.backward.tiles(), self.n, out, padded(width), write);
    }
}

fn note(
    kernels: &Kernels,
    matrix: &Matrix,
    source: Source<'_>,
    left: &mut Operand,
    output: &mut Operand,
    bias: &mut Vec<f64>,
) {
    add_biases(source, bias);
    kernels.pack(Pack::A, source, left);
    kernels.pack(matrix.gradient_pack(), source, output);
}

/// The sums of the columns, in f64: where the true sum is zero, AdamW would make a wandering parameter of f32's rounding.
pub(super) fn add_biases(source: Source<'_>, sums: &mut Vec<f64>) {
    sums.clear();
    sums.resize(source.columns, 0.0);
    for row in source.values.chunks(source.row_length).take(source.rows) {
        rows::add_to_sums(&row[..source.columns], sums);
    }
}

fn add_rows(x: &mut [f32], y: &[f32], width: usize, n: usize) {
    let stride = padded(width);
    for (x, y) in x.chunks_exact_mut(stride).zip(y.chunks_exact(stride)).take(n) {
        rows::add(&mut x[..width], &y[..width]);
    }
}

/// A norm's backward over a strip; the gradients of weight and bias go to `sums`.
fn norm_backward(norm: &PackedNorm, x: &[f32], d: &[f32], dx: &mut [f32], width: usize, n: usize, sums: &mut Vec<f32>) {
    let stride = padded(width);
    sums.clear();
    sums.resize(2 * width, 0.0);
    let strips = x.chunks_exact(stride).zip(d.chunks_exact(stride)).zip(dx.chunks_exact_mut(stride)).take(n);
    for ((x, d), dx) in strips {
        rows::layer_norm_backward(&x[..width], &norm.weight, &d[..width], norm.eps, &mut dx[..width], sums);
    }
}

/// A norm's gradients from the sums of all blocks, in their order.
pub(super) fn norm_gradients<'a>(
    norm: &LayerNorm,
    sums: impl Iterator<Item = &'a [f32]>,
) -> Result<Vec<(String, Tensor)>> {
    let width = norm.weight.value().elem_count();
    let mut total = vec![0.0f32; 2 * width];
    for sums in sums {
        rows::add(&mut total, sums);
    }
    let bias = total.split_off(width);
    let both = [(&norm.weight, total), (&norm.bias, bias)];
    both.into_iter()
        .filter(|(parameter, _)| parameter.is_trainable())
        .map(|(parameter, sums)| named(parameter, sums))
        .collect()
}

impl Matrix {
    /// The gradients of weights and biases from the blocks' packed inputs and outputs' gradients, summed in the order of
    /// the blocks.
    pub(super) fn gradients(
        &self,
        kernels: &Kernels,
        operands: &[[&Operand; 2]],
        biases: &[&[f64]],
    ) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        let mut weights: Vec<Vec<f32>> = Vec::new();
        for weight in &self.weights {
            let count = if weight.is_trainable() { weight.value().elem_count() } else { 0 };
            weights.push(vec![0.0; count]);
        }
        let tasks = self.tasks(&mut weights);
        tasks.into_par_iter().for_each_init(Vec::new, |strip, task| task.run(self, kernels, operands, strip));
        for (weight, gradient) in self.weights.iter().zip(weights) {
            if weight.is_trainable() {
                all.push(named(weight, gradient)?);
            }
        }
        let each = if self.n_parts == 1 { self.n_out } else { padded(self.n_out) };
        let mut total = vec![0.0f64; self.width()];
        for sums in biases {
            total.iter_mut().zip(*sums).for_each(|(total, sum)| *total += sum);
        }
        let per_bias = self.n_parts / self.biases.len();
        for (number, bias) in self.biases.iter().enumerate().filter(|(_, bias)| bias.is_trainable()) {
            let parts =
                (number * per_bias..(number + 1) * per_bias).flat_map(|part| &total[part * each..][..self.n_out]);
            all.push(named(bias, parts.map(|sum| *sum as f32).collect())?);
        }
        Ok(all)
    }

    /// The strips of the weights' gradients.
    fn tasks<'a>(&self, weights: &'a mut [Vec<f32>]) -> Vec<StripTask<'a>> {
        let mut tasks = Vec::new();
        match self.stored {
            Stored::OutIn => {
                // Parts begin at whole strips, because they are filled up to 32.
                let parts = weights.iter_mut().flat_map(|weight| weight.chunks_exact_mut(self.n_out * self.n_in));
                let per_weight = self.n_parts / self.weights.len();
                let numbers = (0..self.n_parts).filter(|part| self.weights[part / per_weight].is_trainable());
                for (part, values) in numbers.zip(parts) {
                    for (number, out) in values.chunks_mut(STRIP * self.n_in).enumerate() {
                        tasks.push(StripTask { first: part * padded(self.n_out) / SIDE + number * STRIP / SIDE, out });
                    }
                }
            }
            Stored::InOut => {
                for weight in weights.iter_mut() {
                    for (number, out) in weight.chunks_mut(STRIP * self.n_parts * self.n_out).enumerate() {
                        tasks.push(StripTask { first: number * STRIP / SIDE, out });
                    }
                }
            }
        }
        tasks
    }
}

/// A strip of a weight's gradient: from the row tile `first` on.
struct StripTask<'a> {
    first: usize,
    out: &'a mut [f32],
}

impl StripTask<'_> {
    fn run(self, matrix: &Matrix, kernels: &Kernels, operands: &[[&Operand; 2]], strip: &mut Vec<f32>) {
        let (columns, row) = match matrix.stored {
            Stored::OutIn => (matrix.n_in, matrix.n_in),
            Stored::InOut => (matrix.width(), matrix.n_parts * matrix.n_out),
        };
        let n = self.out.len() / row;
        let strip = room(strip, n, columns);
        let length = padded(columns);
        for (number, [input, output]) in operands.iter().enumerate() {
            let (left, right) = match matrix.stored {
                Stored::OutIn => (output, input),
                Stored::InOut => (input, output),
            };
            let write = if number == 0 { Write::Replace } else { Write::Add };
            let left = left.tiles().part(self.first, n.div_ceil(SIDE));
            kernels.product(left, right.tiles(), n, strip, length, write);
        }
        for (out, values) in self.out.chunks_exact_mut(row).zip(strip.chunks_exact(length)) {
            match matrix.stored {
                Stored::OutIn => out.copy_from_slice(&values[..row]),
                Stored::InOut => {
                    let each = if matrix.n_parts == 1 { matrix.n_out } else { padded(matrix.n_out) };
                    for (out, values) in out.chunks_exact_mut(matrix.n_out).zip(values.chunks(each)) {
                        out.copy_from_slice(&values[..matrix.n_out]);
                    }
                }
            }
        }
    }
}
