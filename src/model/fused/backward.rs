//! The fused encoder's backward: layer by layer from the last; while the blocks go through one, the gradients of the weights of the
//! one before are formed over all blocks.

use rayon::prelude::*;

use crate::kernels::tiles::{Kernels, Operand, Pack, Source, Write};
use crate::kernels::{profile, rows};
use crate::model::family::Norms;
use crate::model::fused::Fused;
use crate::model::fused::block::{Block, BlockGradients, Finished, LayerMemory, Scratch, room};
use crate::model::fused::forward::{Dropout, Keep, Pass, strip};
use crate::model::fused::gradients::{norm_gradients, weight_gradients};
use crate::model::fused::weights::{Matrix, PackedMatrix, PackedNorm, padded};
use crate::model::gradient::Gradient;

impl Fused {
    /// The gradients of all trainable parameters, by name, from that of the last hidden states `(tokens, hidden)`.
    pub(super) fn backward(&self, pass: &Pass, blocks: &mut [Block], gradient: &[f32]) -> Vec<(String, Gradient)> {
        let (hidden, stride) = (self.config.hidden_size, padded(self.config.hidden_size));
        let mut all = Vec::new();
        blocks.par_iter_mut().with_max_len(1).for_each(|block| {
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
            all.extend(norm_gradients(norm, blocks.iter().map(|block| &block.gradients.norms[0][..])));
        }
        let mut finished: Vec<Finished> = blocks.iter_mut().map(|block| std::mem::take(&mut block.finished)).collect();
        let mut layer_above = None;
        let first = self.first_trainable_layer();
        for number in (first.unwrap_or(0)..self.layers.len()).rev() {
            let (gradients, ()) = rayon::join(
                || layer_above.map(|above| self.layer_gradients(pass, above, &finished)),
                || blocks.par_iter_mut().with_max_len(1).for_each(|block| self.layer_backward(pass, number, block)),
            );
            all.extend(gradients.into_iter().flatten());
            for (block, finished) in blocks.iter_mut().zip(&mut finished) {
                std::mem::swap(&mut block.layers[self.memory_of(pass, number)].inputs, &mut finished.inputs);
                std::mem::swap(&mut block.gradients, &mut finished.gradients);
            }
            layer_above = Some(number);
        }
        let (gradients, below) = rayon::join(
            || layer_above.map(|above| self.layer_gradients(pass, above, &finished)),
            || if first.is_none() { self.embed_backward(pass, blocks) } else { Vec::new() },
        );
        all.extend(gradients.into_iter().flatten());
        all.extend(below);
        for (block, finished) in blocks.iter_mut().zip(finished) {
            block.finished = finished;
        }
        all
    }

    /// From the gradient of a layer's output to that of its input, both in the block's hidden states.
    fn layer_backward(&self, pass: &Pass, number: usize, block: &mut Block) {
        if pass.keep == Keep::Inputs {
            self.layer_again(pass, number, block);
        }
        let _part = profile::begin(profile::Part::Rows);
        let (layer, packed, layer_pass) = (&self.layers[number], &pass.packed.layers[number], &pass.layers[number]);
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let stride = padded(hidden);
        let n = block.n_tokens();
        let Block { span, hidden: d, layers, scratch, gradients, .. } = block;
        let memory = &mut layers[self.memory_of(pass, number)];
        let LayerMemory { qkv, slopes, norm_inputs: [first_input, second_input], probabilities, .. } = memory;
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
        let mut kept = &probabilities[..];
        self.heads(pass, layer_pass, span, qkv, |head| {
            let (own, others) = kept.split_at(head.n_kept());
            head.backward(d_context, stride, own, d_qkv, attention);
            kept = others;
        });
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
    fn layer_gradients(&self, pass: &Pass, number: usize, finished: &[Finished]) -> Vec<(String, Gradient)> {
        let layer = &self.layers[number];
        let matrices: Vec<_> = layer
            .matrices
            .iter()
            .enumerate()
            .map(|(which, matrix)| {
                let operands = finished.iter().map(|one| [&one.inputs[which], &one.gradients.outputs[which]]).collect();
                let biases = finished.iter().map(|one| &one.gradients.biases[which][..]).collect();
                (matrix, operands, biases)
            })
            .collect();
        let mut all = weight_gradients(pass.kernels, &self.pool, &matrices);
        for (which, norm) in layer.norms.iter().enumerate() {
            all.extend(norm_gradients(norm, finished.iter().map(|one| &one.gradients.norms[which][..])));
        }
        all
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
