//! The fused encoder's backward: half a layer after the other from the last; while the blocks go through one half, the gradients of
//! the weights of the one before are formed over all blocks.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::tiles::{Kernels, Operand, Pack, Source, Write};
use crate::kernels::{profile, rows};
use crate::model::family::Norms;
use crate::model::fused::Fused;
use crate::model::fused::block::{AtWork, Block, LayerMemory, LeftBehind, Scratch, room, sized};
use crate::model::fused::course::{Task, in_order};
use crate::model::fused::forward::{norm_rows, strip};
use crate::model::fused::gradients::{WeightGradients, norm_gradients};
use crate::model::fused::kept::{self, Kept};
use crate::model::fused::packed::{Half, PackedHalf, PackedLayer, Place};
use crate::model::fused::pass::{Dropout, Keep, Pass};
use crate::model::fused::weights::{Directions, Matrix, PackedMatrix, PackedNorm, padded};
use crate::model::gradient::{Gradient, Room};

impl Fused {
    /// The gradients of all trainable parameters, by name, from that of the last hidden states `(tokens, hidden)`.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub(super) fn backward(
        &self,
        pass: &Pass,
        blocks: &mut [Block],
        mut kept: Kept,
        gradient: &[f32],
    ) -> Result<Vec<(String, Gradient)>> {
        let mut all = self.last_norm_backward(pass, blocks, gradient);
        let mut left_behind = Half::BOTH.map(|half| {
            let own = blocks.iter_mut().map(|block| std::mem::take(&mut block.left_behind[half as usize]));
            own.collect::<Vec<LeftBehind>>()
        });
        let first = self.first_trainable_layer();
        let mut places = self.places(first.unwrap_or(0));
        places.reverse();
        let mut again = PackedLayer::default();
        let mut above = None;
        self.backward_in_turn(pass.kernels, &places, |place, weights, pack| {
            if pass.keep == Keep::Inputs && place.half == Half::FeedForward {
                for half in Half::BOTH {
                    let place = Place { half, ..place };
                    self.pack_half(pass.kernels, Directions::Forward, place, &mut again[half as usize])?;
                }
                let [first, second] = &mut kept[0];
                let shares = first.split().into_iter().zip(second.split());
                let all: Vec<_> = blocks.iter_mut().zip(shares).collect();
                all.into_par_iter().with_max_len(1).for_each(|(block, (first, second))| {
                    self.with_scratch(|scratch| {
                        self.layer_again(pass, place.layer, &again, block, [first, second], scratch);
                    });
                });
            }
            let [attention, feed_forward] = &mut left_behind;
            let (own, other) = match place.half {
                Half::Attention => (attention, &*feed_forward),
                Half::FeedForward => (feed_forward, &*attention),
            };
            let mut gradients = above.map(|above| {
                let rooms = rooms_of(pass, &mut kept, above);
                self.gradients_of_weights(above, rooms, other)
            });
            let shares = kept[pass.keep.memory_of(place.layer)][place.half as usize].split();
            let back = blocks.iter_mut().zip(own.iter_mut()).zip(shares).map(|((block, behind), share)| -> Task<'_> {
                Box::new(move || {
                    self.with_scratch(|scratch| {
                        let at_work = AtWork { block, share, scratch };
                        self.half_backward(pass, place, weights, at_work, behind);
                    });
                })
            });
            let mut tasks: Vec<Task<'_>> = back.chain([pack]).collect();
            tasks.extend(gradients.iter_mut().flat_map(|gradients| gradients.tasks(self, pass.kernels)));
            in_order(tasks);
            all.extend(gradients.into_iter().flat_map(WeightGradients::finish));
            all.extend(above.into_iter().flat_map(|above| self.gradients_of_norm(above, other)));
            above = Some(place);
            Ok(())
        })?;
        // The last half was one of attention.
        let [attention, feed_forward] = left_behind;
        for (block, behind) in blocks.iter_mut().zip(feed_forward) {
            block.left_behind[Half::FeedForward as usize] = behind;
        }
        let mut gradients =
            above.map(|above| self.gradients_of_weights(above, rooms_of(pass, &mut kept, above), &attention));
        let strips = gradients.iter_mut().flat_map(|gradients| gradients.tasks(self, pass.kernels)).collect();
        let embed = || if first.is_none() { self.embed_backward(pass, blocks) } else { Vec::new() };
        let ((), below) = rayon::join(|| in_order(strips), embed);
        all.extend(gradients.into_iter().flat_map(WeightGradients::finish));
        all.extend(above.into_iter().flat_map(|above| self.gradients_of_norm(above, &attention)));
        for (block, behind) in blocks.iter_mut().zip(attention) {
            block.left_behind[Half::Attention as usize] = behind;
        }
        all.extend(below);
        Ok(all)
    }

    /// Through the norm behind all layers, if any, into the blocks' hidden states; its own gradients.
    fn last_norm_backward(&self, pass: &Pass, blocks: &mut [Block], gradient: &[f32]) -> Vec<(String, Gradient)> {
        let (hidden, stride) = (self.config.hidden_size, padded(self.config.hidden_size));
        blocks.par_iter_mut().with_max_len(1).for_each(|block| {
            let (n, first) = (block.n_tokens(), block.span.tokens.start);
            let Block { hidden: x, last, left_behind: [behind, _], .. } = block;
            let x = room(x, n, hidden);
            let sums = &mut behind.norm;
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
        let sums = blocks.iter().map(|block| &block.left_behind[0].norm[..]);
        self.final_norm.as_ref().map_or_else(Vec::new, |norm| norm_gradients(norm, sums))
    }

    /// From the gradient of a half's output to that of its input, both in the block's hidden states.
    fn half_backward(
        &self,
        pass: &Pass,
        place: Place,
        weights: &PackedHalf,
        AtWork { block, share, scratch }: AtWork<'_>,
        behind: &mut LeftBehind,
    ) {
        let _part = profile::begin(profile::Part::Rows);
        let (half, n, hidden) = (self.half(place), block.n_tokens(), self.config.hidden_size);
        let (stride, first) = (padded(hidden), block.span.tokens.start);
        let before = self.config.norms == Norms::Before;
        let norm = &pass.packed.norms[place.layer][place.half as usize];
        let LeftBehind { inputs, outputs, biases, norm: sums } = behind;
        let Scratch { left, narrow: [d_sum, d_out, path, d_context], wide, widened, d_qkv, factors, attention } =
            scratch;
        let (d_sum, path) = (room(d_sum, n, hidden), room(path, n, hidden));
        let d = room(&mut block.hidden, n, hidden);
        let memory = &mut block.layers[pass.keep.memory_of(place.layer)];

        // Up to the sum with the residual, and through the dropout behind the second product.
        if before {
            d_sum[..n * stride].copy_from_slice(&d[..n * stride]);
        } else {
            let input = &memory.norm_inputs[place.half as usize];
            norm_backward(norm, input, d, d_sum, hidden, n, sums);
        }
        let mut part = Part { pass, n, left, factors, first, d_out: room(d_out, n, hidden) };
        let dropout = &pass.layers[place.layer].dropout[place.half as usize];
        part.end(&half.matrices[1], d_sum, hidden, dropout, &mut outputs[1], &mut biases[1]);

        // Through what the half computes, to the output of its first product.
        match place.half {
            Half::FeedForward => {
                let inner = self.config.intermediate_size;
                let wide = room(wide, n, inner);
                part.product(&weights.matrices[1], wide, inner, Write::Replace);
                // The activation is made once more, for its slopes and as the input of the second product.
                let activated = kept::take(share, widened, n, inner, pass.rounds());
                let slopes = sized(part.factors, inner);
                let (activation, bias) = (self.config.activation, &weights.matrices[0].bias);
                let strips = wide.chunks_exact_mut(padded(inner)).zip(activated.chunks_exact_mut(padded(inner)));
                for (d, activated) in strips.take(n) {
                    rows::activate(activation, &mut activated[..inner], bias, slopes);
                    rows::multiply(&mut d[..inner], slopes);
                }
                pass.kernels.pack(half.matrices[1].input_pack(), strip(activated, inner, n), &mut inputs[1]);
                part.gradient(&half.matrices[0], wide, inner, &mut outputs[0], &mut biases[0]);
            }
            Half::Attention => {
                let width = half.matrices[0].width();
                let (d_context, d_qkv) = (room(d_context, n, hidden), room(d_qkv, n, width));
                part.product(&weights.matrices[1], d_context, hidden, Write::Replace);
                let qkv = kept::take(share, widened, n, width, pass.rounds());
                let mut kept = &memory.probabilities[..];
                self.heads(pass, &pass.layers[place.layer], &block.span, qkv, |head| {
                    let (own, others) = kept.split_at(head.n_kept());
                    head.backward(d_context, stride, own, d_qkv, attention);
                    kept = others;
                });
                std::mem::swap(&mut memory.context, &mut inputs[1]);
                part.gradient(&half.matrices[0], d_qkv, width, &mut outputs[0], &mut biases[0]);
            }
        }

        // To the half's input, beside the residual.
        let normed_input = &memory.norm_inputs[place.half as usize];
        if before {
            part.product(&weights.matrices[0], path, hidden, Write::Replace);
            norm_backward(norm, normed_input, path, d, hidden, n, sums);
            add_rows(d, d_sum, hidden, n);
        } else {
            part.product(&weights.matrices[0], d_sum, hidden, Write::Add);
            d[..n * stride].copy_from_slice(&d_sum[..n * stride]);
        }
        let input = self.input_again(pass, place, &block.layers, &block.starts, path, n);
        pass.kernels.pack(half.matrices[0].input_pack(), strip(input, hidden, n), &mut inputs[0]);
    }

    /// What a half's first product read: the output of a norm, made once more, or the layer's input where that was kept.
    fn input_again<'a>(
        &self,
        pass: &Pass,
        place: Place,
        layers: &[LayerMemory],
        starts: &'a [Vec<f32>],
        normed: &'a mut [f32],
        n: usize,
    ) -> &'a [f32] {
        let from = match (self.config.norms, place.half) {
            (Norms::Before, _) => place,
            (Norms::After, Half::FeedForward) => Place { half: Half::Attention, ..place },
            (Norms::After, Half::Attention) if pass.keep == Keep::Inputs || place.layer == 0 => {
                return &starts[place.layer];
            }
            (Norms::After, Half::Attention) => Place { layer: place.layer - 1, half: Half::FeedForward },
        };
        let input = &layers[pass.keep.memory_of(from.layer)].norm_inputs[from.half as usize];
        norm_rows(&pass.packed.norms[from.layer][from.half as usize], input, normed, self.config.hidden_size, n);
        normed
    }

    /// The gradients of a half's weights, to be formed from what the blocks have left.
    fn gradients_of_weights<'a>(
        &'a self,
        place: Place,
        rooms: Vec<Room>,
        left_behind: &'a [LeftBehind],
    ) -> WeightGradients<'a> {
        let matrices = self.half(place).matrices.iter().enumerate().map(|(which, matrix)| {
            let operands = left_behind.iter().map(|one| [&one.inputs[which], &one.outputs[which]]).collect();
            let biases = left_behind.iter().map(|one| &one.biases[which][..]).collect();
            (matrix, operands, biases)
        });
        WeightGradients::new(rooms, matrices.collect())
    }

    /// The gradients of a half's norm.
    fn gradients_of_norm(&self, place: Place, left_behind: &[LeftBehind]) -> Vec<(String, Gradient)> {
        norm_gradients(&self.half(place).norm, left_behind.iter().map(|one| &one.norm[..]))
    }
}

/// The rooms of a half's weight gradients, which the backward is through with; none where other layers need them too.
fn rooms_of(pass: &Pass, kept: &mut Kept, place: Place) -> Vec<Room> {
    match pass.keep {
        Keep::Everything => std::mem::take(&mut kept[place.layer][place.half as usize]).into_rooms(),
        _ => Vec::new(),
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
