//! The fused encoder's forward: half a layer after the other, each block by itself.
//!
//! Both halves of a layer are `norm(x + dropout(f(x)))`, or `x + dropout(f(norm(x)))` where norms come before, with attention or the
//! feed-forward part as f.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::tiles::{Operand, Pack, SIDE, Source, Write};
use crate::kernels::{profile, rows};
use crate::model::family::Norms;
use crate::model::fused::Fused;
use crate::model::fused::attention::Head;
use crate::model::fused::block::{AtWork, AttentionScratch, Block, LayerMemory, Scratch, Span, room, sized};
use crate::model::fused::kept::{self, Kept};
use crate::model::fused::packed::{Half, PackedHalf, Place};
use crate::model::fused::pass::{Dropout, Keep, LayerPass, Pass};
use crate::model::fused::weights::{PackedMatrix, PackedNorm, padded};

impl Fused {
    /// The last hidden states of a batch, `(tokens, hidden)`.
    pub(super) fn forward(&self, pass: &Pass, blocks: &mut [Block], kept: &mut Kept) -> Result<Vec<f32>> {
        self.embed(pass, blocks)?;
        if let Some(layers) = &pass.packed.layers {
            self.each_block(blocks, |block, scratch| {
                for (layer, halves) in layers.iter().enumerate() {
                    for half in Half::BOTH {
                        let at_work = AtWork { block: &mut *block, share: &mut [], scratch: &mut *scratch };
                        self.half_forward(pass, Place { layer, half }, &halves[half as usize], at_work);
                    }
                }
            });
        } else {
            self.forward_in_turn(pass, blocks, kept, |place, weights, at_work| {
                self.keep_start(pass, place, at_work.block);
                self.half_forward(pass, place, weights, at_work);
            })?;
        }
        let (hidden, stride) = (self.config.hidden_size, padded(self.config.hidden_size));
        let mut out = vec![0.0; pass.inputs.ids.len() * hidden];
        let mut rest = &mut out[..];
        let mut pieces = Vec::with_capacity(blocks.len());
        for block in blocks.iter_mut() {
            let (piece, others) = rest.split_at_mut(block.n_tokens() * hidden);
            pieces.push((block, piece));
            rest = others;
        }
        pieces.into_par_iter().with_max_len(1).for_each(|(block, out)| {
            let n = block.n_tokens();
            let Some(norm) = &pass.packed.final_norm else {
                for (x, out) in block.hidden.chunks_exact(stride).zip(out.chunks_exact_mut(hidden)) {
                    out.copy_from_slice(&x[..hidden]);
                }
                return;
            };
            if pass.keep != Keep::Nothing {
                room(&mut block.last, n, hidden)[..n * stride].copy_from_slice(&block.hidden[..n * stride]);
            }
            for (x, out) in block.hidden.chunks_exact(stride).zip(out.chunks_exact_mut(hidden)) {
                rows::layer_norm(&x[..hidden], &norm.weight, &norm.bias, norm.eps, out);
            }
        });
        Ok(out)
    }

    /// The halves of the layers from `first` on, in the order of the forward.
    pub(super) fn places(&self, first: usize) -> Vec<Place> {
        (first..self.layers.len()).flat_map(|layer| Half::BOTH.map(|half| Place { layer, half })).collect()
    }

    /// Calls `work` with every block, several at a time, each with room of its own for what does not last.
    pub(super) fn each_block(&self, blocks: &mut [Block], work: impl Fn(&mut Block, &mut Scratch) + Sync) {
        blocks.par_iter_mut().with_max_len(1).for_each(|block| self.with_scratch(|scratch| work(block, scratch)));
    }

    /// Keeps the input of a layer where the backward cannot make it again: of every layer where layers are computed again, and of the
    /// first where it is what the embeddings give and no norm's output.
    fn keep_start(&self, pass: &Pass, place: Place, block: &mut Block) {
        let is_made_again = self.config.norms == Norms::Before || place.layer > 0;
        if place.half == Half::FeedForward || (pass.keep == Keep::Everything && is_made_again) {
            return;
        }
        let (n, hidden) = (block.n_tokens(), self.config.hidden_size);
        block.starts.resize_with(self.layers.len(), Vec::new);
        let start = room(&mut block.starts[place.layer], n, hidden);
        start[..n * padded(hidden)].copy_from_slice(&block.hidden[..n * padded(hidden)]);
    }

    /// A layer's forward once more, for its backward: the block's hidden states, the gradient by now, stay as they are.
    pub(super) fn layer_again(
        &self,
        pass: &Pass,
        layer: usize,
        weights: &[PackedHalf; 2],
        block: &mut Block,
        shares: [&mut [f32]; 2],
        scratch: &mut Scratch,
    ) {
        let (n, hidden) = (block.n_tokens(), self.config.hidden_size);
        let gradient = std::mem::replace(&mut block.hidden, std::mem::take(&mut block.again));
        let (all, x) = (n * padded(hidden), room(&mut block.hidden, n, hidden));
        x[..all].copy_from_slice(&block.starts[layer][..all]);
        for (half, share) in Half::BOTH.into_iter().zip(shares) {
            let at_work = AtWork { block: &mut *block, share, scratch: &mut *scratch };
            self.half_forward(pass, Place { layer, half }, &weights[half as usize], at_work);
        }
        block.again = std::mem::replace(&mut block.hidden, gradient);
    }

    fn half_forward(&self, pass: &Pass, place: Place, weights: &PackedHalf, at_work: AtWork<'_>) {
        let (layer, span, stride) =
            (&pass.layers[place.layer], at_work.block.span.clone(), padded(self.config.hidden_size));
        if place.half == Half::FeedForward {
            return self.feed_forward(pass, place.layer, weights, at_work);
        }
        self.attention(pass, place.layer, weights, at_work, |Attention { qkv, context, probabilities, scratch }| {
            if pass.has_few_rows && pass.keep == Keep::Nothing {
                return self.heads_side_by_side(pass, layer, &span, qkv, context);
            }
            let mut kept = match pass.keep {
                Keep::Nothing => &mut [][..],
                _ => sized(probabilities, self.n_kept(pass, layer, &span, qkv)),
            };
            self.heads(pass, layer, &span, qkv, |head| {
                let n_kept = head.n_kept().min(kept.len());
                let (own, others) = std::mem::take(&mut kept).split_at_mut(n_kept);
                let (column, size) = (head.column, head.size);
                head.forward(
                    |place, out| context[place * stride + column..][..size].copy_from_slice(out),
                    own,
                    scratch,
                );
                kept = others;
            });
        });
    }

    /// The first half of a layer, whose attention `attend` computes.
    pub(super) fn attention(
        &self,
        pass: &Pass,
        layer: usize,
        weights: &PackedHalf,
        AtWork { block, share, scratch }: AtWork<'_>,
        attend: impl FnOnce(Attention<'_>),
    ) {
        let _part = profile::begin(profile::Part::Rows);
        let place = Place { layer, half: Half::Attention };
        let (half, n, hidden) = (self.half(place), block.n_tokens(), self.config.hidden_size);
        let LayerMemory { probabilities, context: kept_context, norm_inputs: [norm_input, _] } =
            &mut block.layers[pass.keep.memory_of(layer)];
        let Scratch { left, narrow: [normed, context, mixed, _], d_qkv, factors, attention, .. } = scratch;
        let mut ends = Ends { pass, place, first: block.span.tokens.start, n, hidden, factors };
        let x = room(&mut block.hidden, n, hidden);

        let source = ends.begin(self.config.norms, x, norm_input, normed);
        let (width, bias) = (half.matrices[0].width(), &weights.matrices[0].bias);
        let elsewhere = pass.rounds() || pass.keep == Keep::Nothing;
        let qkv = if elsewhere { room(d_qkv, n, width) } else { &mut *share };
        multiply(pass, source, &weights.matrices[0], left, qkv, |first, row| rows::add(row, &bias[first..]));
        let context = room(context, n, hidden);
        attend(Attention { qkv, context, probabilities, scratch: attention });
        if pass.keep != Keep::Nothing {
            if elsewhere {
                kept::keep_rounded(d_qkv, n, width, share);
            }
            pass.kernels.pack(half.matrices[1].input_pack(), strip(context, hidden, n), kept_context);
        }
        let mixed = room(mixed, n, hidden);
        multiply(pass, strip(context, hidden, n), &weights.matrices[1], left, mixed, |_, _| {});
        ends.end(self.config.norms, mixed, &weights.matrices[1].bias, x, norm_input);
    }

    /// The second half of a layer.
    pub(super) fn feed_forward(
        &self,
        pass: &Pass,
        layer: usize,
        weights: &PackedHalf,
        AtWork { block, share, scratch }: AtWork<'_>,
    ) {
        let _part = profile::begin(profile::Part::Rows);
        let place = Place { layer, half: Half::FeedForward };
        let (n, hidden) = (block.n_tokens(), self.config.hidden_size);
        let [_, norm_input] = &mut block.layers[pass.keep.memory_of(layer)].norm_inputs;
        let Scratch { left, narrow: [normed, mixed, ..], wide, factors, .. } = scratch;
        let mut ends = Ends { pass, place, first: block.span.tokens.start, n, hidden, factors };
        let x = room(&mut block.hidden, n, hidden);

        let source = ends.begin(self.config.norms, x, norm_input, normed);
        let (activation, bias) = (self.config.activation, &weights.matrices[0].bias);
        let inner = self.config.intermediate_size;
        let stride = padded(inner);
        if pass.keep == Keep::Nothing {
            let finish = |first: usize, row: &mut [f32]| rows::activate_alone(activation, row, &bias[first..]);
            multiply(pass, source, &weights.matrices[0], left, room(wide, n, inner), finish);
        } else if pass.rounds() {
            let wide = room(wide, n, inner);
            multiply(pass, source, &weights.matrices[0], left, wide, |_, _| {});
            for (row, kept) in wide.chunks_exact_mut(stride).zip(kept::rounded(share).chunks_exact_mut(stride)).take(n)
            {
                rows::round(row, kept);
                rows::activate_alone(activation, &mut row[..inner], bias);
            }
        } else {
            multiply(pass, source, &weights.matrices[0], left, share, |_, _| {});
            let wide = room(wide, n, inner);
            for (row, sums) in wide.chunks_exact_mut(stride).zip(share.chunks_exact(stride)).take(n) {
                row[..inner].copy_from_slice(&sums[..inner]);
                rows::activate_alone(activation, &mut row[..inner], bias);
            }
        }
        let mixed = room(mixed, n, hidden);
        multiply(pass, strip(wide, inner, n), &weights.matrices[1], left, mixed, |_, _| {});
        ends.end(self.config.norms, mixed, &weights.matrices[1].bias, x, norm_input);
    }

    /// The heads of a few rows, shared out over the threads.
    pub(super) fn heads_side_by_side(
        &self,
        pass: &Pass,
        layer: &LayerPass,
        span: &Span,
        qkv: &[f32],
        context: &mut [f32],
    ) {
        let mut all = Vec::new();
        self.heads(pass, layer, span, qkv, |head| all.push(head));
        let own = |scratch: &mut AttentionScratch, head: &Head<'_>| {
            let mut out = Vec::with_capacity(head.n_tokens * head.size);
            head.forward(|_, part| out.extend_from_slice(part), &mut [], scratch);
            out
        };
        let parts: Vec<Vec<f32>> = all.par_iter().with_min_len(2).map_init(AttentionScratch::default, own).collect();
        for (head, out) in all.iter().zip(parts) {
            for (place, part) in out.chunks_exact(head.size).enumerate() {
                let at = (head.start + place) * padded(self.config.hidden_size) + head.column;
                context[at..at + head.size].copy_from_slice(part);
            }
        }
    }

    /// How many probabilities a block keeps.
    fn n_kept(&self, pass: &Pass, layer: &LayerPass, span: &Span, qkv: &[f32]) -> usize {
        let mut n = 0;
        self.heads(pass, layer, span, qkv, |head| n += head.n_kept());
        n
    }

    /// Calls `each` with every row and head of a block.
    pub(super) fn heads<'a>(
        &self,
        pass: &Pass,
        layer: &'a LayerPass,
        span: &Span,
        qkv: &'a [f32],
        mut each: impl FnMut(Head<'a>),
    ) {
        let _part = profile::begin(profile::Part::Attention);
        let (n_heads, hidden) = (self.config.n_heads, self.config.hidden_size);
        let size = hidden / n_heads;
        for row in span.rows.clone() {
            let (start, end) = (pass.starts[row], pass.starts[row + 1]);
            for head in 0..n_heads {
                each(Head {
                    kernels: pass.kernels,
                    qkv,
                    row_length: 3 * padded(hidden),
                    part: padded(hidden),
                    start: start - span.tokens.start,
                    n_tokens: end - start,
                    n_keys: pass.key_lengths[row],
                    column: head * size,
                    size,
                    scale: layer.scale,
                    is_causal: self.config.is_causal,
                    dropout: layer
                        .attention_dropout
                        .as_ref()
                        .map(|(sites, numbers)| (sites[head], &numbers[start..end])),
                });
            }
        }
    }
}

/// A strip of `n` token rows.
pub(super) fn strip(values: &[f32], width: usize, n: usize) -> Source<'_> {
    Source { values, row_length: padded(width), rows: n, columns: width }
}

/// A product behind a strip, into whole rows of the matrix's width. `finish` gets stretches of them with their first columns.
fn multiply(
    pass: &Pass,
    source: Source<'_>,
    matrix: &PackedMatrix,
    left: &mut Operand,
    out: &mut [f32],
    finish: impl Fn(usize, &mut [f32]) + Sync,
) {
    pass.kernels.pack(Pack::A, source, left);
    let (left, right) = (left.tiles(), matrix.forward.tiles());
    let length = padded(matrix.forward.sides() * SIDE);
    if pass.has_few_rows {
        pass.kernels.product_of_few_rows(left, right, source.rows, out, length, finish);
    } else {
        pass.kernels.product(left, right, source.rows, out, length, Write::Replace);
        out.chunks_exact_mut(length).take(source.rows).for_each(|row| finish(0, row));
    }
}

pub(super) fn norm_rows(norm: &PackedNorm, x: &[f32], out: &mut [f32], width: usize, n: usize) {
    let stride = padded(width);
    for (x, out) in x.chunks_exact(stride).zip(out.chunks_exact_mut(stride)).take(n) {
        rows::layer_norm(&x[..width], &norm.weight, &norm.bias, norm.eps, &mut out[..width]);
    }
}

/// What attention is computed from, and where it goes.
pub(super) struct Attention<'a> {
    /// Queries, keys and values of the block's tokens, each filled up to whole tiles.
    pub(super) qkv: &'a [f32],
    /// `(tokens, padded(hidden))`.
    pub(super) context: &'a mut [f32],
    /// Those that are kept for the backward.
    pub(super) probabilities: &'a mut Vec<f32>,
    pub(super) scratch: &'a mut AttentionScratch,
}

/// What stands around a half: its norm, dropout and the residual.
struct Ends<'a> {
    pass: &'a Pass,
    place: Place,
    /// The block's first token in the batch.
    first: usize,
    n: usize,
    hidden: usize,
    factors: &'a mut Vec<f32>,
}

impl Ends<'_> {
    fn norm(&self) -> &PackedNorm {
        &self.pass.packed.norms[self.place.layer][self.place.half as usize]
    }

    /// What the half reads: `x`, or its norm, whose input is kept then.
    fn begin<'s>(&self, norms: Norms, x: &'s [f32], norm_input: &mut Vec<f32>, normed: &'s mut Vec<f32>) -> Source<'s> {
        let Ends { n, hidden, .. } = *self;
        if norms == Norms::After {
            return strip(x, hidden, n);
        }
        let normed = room(normed, n, hidden);
        room(norm_input, n, hidden)[..n * padded(hidden)].copy_from_slice(&x[..n * padded(hidden)]);
        norm_rows(self.norm(), x, normed, hidden, n);
        strip(normed, hidden, n)
    }

    /// From what the half computed to what the next one reads, in `x`.
    fn end(&mut self, norms: Norms, mixed: &[f32], bias: &[f32], x: &mut [f32], norm_input: &mut Vec<f32>) {
        let Ends { n, hidden, .. } = *self;
        if norms == Norms::Before {
            self.add(mixed, bias, norm_input, x);
        } else {
            let sum = room(norm_input, n, hidden);
            self.add(mixed, bias, x, sum);
            norm_rows(self.norm(), sum, x, hidden, n);
        }
    }

    /// `out = dropout(mixed + bias) + residual`.
    fn add(&mut self, mixed: &[f32], bias: &[f32], residual: &[f32], out: &mut [f32]) {
        let Ends { n, hidden, first, .. } = *self;
        let dropout: &Dropout = &self.pass.layers[self.place.layer].dropout[self.place.half as usize];
        let stride = padded(hidden);
        let strips = mixed.chunks_exact(stride).zip(residual.chunks_exact(stride)).zip(out.chunks_exact_mut(stride));
        for (place, ((mixed, residual), out)) in strips.take(n).enumerate() {
            let (mixed, residual, out) = (&mixed[..hidden], &residual[..hidden], &mut out[..hidden]);
            match dropout.factors(first + place, hidden, self.factors) {
                Some(factors) => rows::residual(mixed, bias, factors, residual, out),
                None => rows::residual_alone(mixed, bias, residual, out),
            }
        }
    }
}
