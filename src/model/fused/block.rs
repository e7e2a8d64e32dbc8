//! The blocks of a batch: whole rows of it that are computed together, with what their forward keeps for the backward.
//!
//! Blocks depend on the batch alone, never on the number of threads, so the bits do not either.

use std::ops::Range;

use crate::kernels::pages;
use crate::kernels::tiles::Operand;
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

/// What a layer's forward keeps for its backward, beside what lies in the gradients' rooms ([`crate::model::fused::kept`]).
#[derive(Debug, Default)]
pub(super) struct LayerMemory {
    /// The attention probabilities of short rows, head by head.
    pub(super) probabilities: Vec<f32>,
    /// The input of attention's output, packed for its weight's gradient.
    pub(super) context: Operand,
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

/// A block in the course of a half.
pub(super) struct AtWork<'a> {
    pub(super) block: &'a mut Block,
    /// Where it keeps what lies in the gradients' rooms; nothing without a backward.
    pub(super) share: &'a mut [f32],
    pub(super) scratch: &'a mut Scratch,
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

impl Block {
    /// The number of tokens.
    pub(super) fn n_tokens(&self) -> usize {
        self.span.tokens.len()
    }
}

/// Makes a vector `n` long; what stands in it does not matter, so what was there stays.
pub(super) fn sized(values: &mut Vec<f32>, n: usize) -> &mut [f32] {
    pages::grow(values, n);
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
