//! The blocks of a batch: whole rows of it that are computed together, with what their forward keeps for the backward.
//!
//! Blocks depend on the batch alone, never on the number of threads, so the bits do not either.

use std::ops::Range;

use crate::kernels::tiles::Operand;
use crate::kernels::{pages, rows};
use crate::model::fused::weights::padded;

/// The fewest and the most tokens that a block aims at.
const TARGET: (usize, usize) = (64, 256);

/// Which part of a batch a block is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// Rows of the batch.
    pub(super) rows: Range<usize>,
    /// Tokens of the batch.
    pub(super) tokens: Range<usize>,
}

/// Cuts a batch into blocks of whole rows, about a sixth of its tokens each.
/// `starts` says where each row starts, and where the last one ends.
pub(super) fn spans(starts: &[usize]) -> Vec<Span> {
    let target = (starts.last().copied().unwrap_or(0) / 6).clamp(TARGET.0, TARGET.1);
    let mut spans = Vec::new();
    let mut first = 0;
    for row in 0..starts.len().saturating_sub(1) {
        let tokens = starts[first]..starts[row + 1];
        let next = starts.get(row + 2).map_or(usize::MAX, |end| end - tokens.start);
        // The row that would take the block over its target by more than leaving it out falls short of it begins the next.
        if next == usize::MAX || next.saturating_sub(target) > target.saturating_sub(tokens.len()) {
            spans.push(Span { rows: first..row + 1, tokens });
            first = row + 1;
        }
    }
    spans
}

/// Token rows that are kept for the backward: as f32, or rounded to bf16 where products round what they read anyway.
#[derive(Debug, Default)]
pub(super) struct Kept {
    wide: Vec<f32>,
    narrow: Vec<u16>,
}

/// What a layer's forward keeps for its backward.
#[derive(Debug, Default)]
pub(super) struct LayerMemory {
    /// Queries, keys and values, `(tokens, 3 * padded(hidden))`.
    pub(super) qkv: Kept,
    /// The attention probabilities of short rows, head by head.
    pub(super) probabilities: Vec<f32>,
    /// The input of attention's output, packed for its weight's gradient.
    pub(super) context: Operand,
    /// What the activation is made of, without the bias: `(tokens, padded(intermediate))`.
    pub(super) inner: Kept,
    /// The inputs of both halves' norms, `(tokens, padded(hidden))`.
    pub(super) norm_inputs: [Vec<f32>; 2],
}

/// A block's numbers, kept from step to step so that a step does not allocate them again.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) span: Span,
    /// The hidden states between the halves of layers; in the backward, their gradient. `(tokens, padded(hidden))`.
    pub(super) hidden: Vec<f32>,
    /// The sum of the embeddings, before their norm: `(tokens, padded(embedding))`.
    pub(super) embedded: Vec<f32>,
    /// The input of the projection of the embeddings, packed for its weight's gradient.
    pub(super) projected: Operand,
    /// The input of the last norm.
    pub(super) last: Vec<f32>,
    /// The inputs of layers that the backward cannot make of what else is kept.
    pub(super) starts: Vec<Vec<f32>>,
    pub(super) layers: Vec<LayerMemory>,
    /// Room for the hidden states of a layer that is computed again.
    pub(super) again: Vec<f32>,
    /// What it leaves for the gradients of each half's weights.
    pub(super) left_behind: [LeftBehind; 2],
}

/// What a block leaves of a half for the gradients of its weights, while it goes on to the next one.
#[derive(Debug, Default)]
pub(super) struct LeftBehind {
    /// The inputs of the two products, packed.
    pub(super) inputs: [Operand; 2],
    /// The gradients of their outputs, packed.
    pub(super) outputs: [Operand; 2],
    /// The gradients of the two biases.
    pub(super) biases: [Vec<f64>; 2],
    /// The gradients of the norm: weight, then bias.
    pub(super) norm: Vec<f32>,
}

/// Room for what does not outlive a half: one for each block that is at work.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The left operand of the product at hand.
    pub(super) left: Operand,
    /// `(tokens, padded(hidden))`.
    pub(super) narrow: [Vec<f32>; 4],
    /// `(tokens, padded(intermediate))`.
    pub(super) wide: Vec<f32>,
    /// What was kept rounded, in f32.
    pub(super) widened: Vec<f32>,
    /// `(tokens, 3 * padded(hidden))`.
    pub(super) d_qkv: Vec<f32>,
    /// A row of dropout's factors, or of an activation's slopes.
    pub(super) factors: Vec<f32>,
    pub(super) attention: AttentionScratch,
}

/// Room for the attention of one row and head.
#[derive(Debug, Default)]
pub(super) struct AttentionScratch {
    /// Queries, keys and values as operands, in the layouts that forward and backward need.
    pub(super) operands: [Operand; 6],
    /// `(queries of a stretch, keys)`.
    pub(super) scores: Vec<f32>,
    /// The gradient of the scores.
    pub(super) d_scores: Vec<f32>,
    /// Dropout's factors.
    pub(super) factors: Vec<f32>,
    /// Products of a head: `(tokens, padded(head))`.
    pub(super) out: [Vec<f32>; 3],
}

impl Kept {
    /// Where the rows are computed: their own room, or `scratch` where they are kept rounded or not at all.
    pub(super) fn room<'a>(
        &'a mut self,
        scratch: &'a mut Vec<f32>,
        n: usize,
        width: usize,
        elsewhere: bool,
    ) -> &'a mut [f32] {
        room(if elsewhere { scratch } else { &mut self.wide }, n, width)
    }

    /// Its own room.
    pub(super) fn own_room(&mut self, n: usize, width: usize) -> &mut [f32] {
        room(&mut self.wide, n, width)
    }

    /// Keeps what was computed in `scratch`, rounded; nothing where it was computed in its own room.
    pub(super) fn keep(&mut self, scratch: &[f32], n: usize, width: usize, rounds: bool) {
        if rounds {
            let stride = padded(width);
            for (row, kept) in scratch.chunks_exact(stride).zip(self.rounded_rows(n, width)) {
                rows::round(row, kept);
            }
        }
    }

    /// Room for `n` rounded rows, filled up.
    pub(super) fn rounded_rows(&mut self, n: usize, width: usize) -> impl Iterator<Item = &mut [u16]> {
        let all = n * padded(width);
        if self.narrow.len() < all {
            self.narrow.resize(all, 0);
        }
        self.narrow[..all].chunks_exact_mut(padded(width))
    }

    /// The rows as they were kept, to be changed: whoever takes them has them for the last time.
    pub(super) fn take<'a>(
        &'a mut self,
        scratch: &'a mut Vec<f32>,
        n: usize,
        width: usize,
        rounds: bool,
    ) -> &'a mut [f32] {
        if !rounds {
            return &mut self.wide;
        }
        let (wide, all) = (room(scratch, n, width), n * padded(width));
        rows::widen(&self.narrow[..all], &mut wide[..all]);
        wide
    }
}

impl Block {
    /// The number of tokens.
    pub(super) fn n_tokens(&self) -> usize {
        self.span.tokens.len()
    }
}

/// Makes a vector `n` long; what stands in it does not matter, so what was there stays.
pub(super) fn sized(values: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if values.len() < n {
        if values.is_empty() {
            *values = Vec::with_capacity(n);
            pages::prefer_large(values.spare_capacity_mut());
        }
        values.resize(n, 0.0);
    }
    &mut values[..n]
}

/// Room for `rows` rows of `width` numbers, filled up to whole tiles in both directions.
pub(super) fn room(values: &mut Vec<f32>, rows: usize, width: usize) -> &mut [f32] {
    sized(values, room_for(rows, width))
}

/// The numbers that [`room`] makes room for.
pub(super) fn room_for(rows: usize, width: usize) -> usize {
    padded(rows) * padded(width)
}
