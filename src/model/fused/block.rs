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

/// What one layer's forward keeps for its backward.
#[derive(Debug, Default)]
pub(super) struct LayerMemory {
    /// The inputs of the four products, packed for the weights' gradients: (query, key, value), attention's output, and
    /// the two of the feed-forward part.
    pub(super) inputs: [Operand; 4],
    /// Queries, keys and values, `(tokens, 3 * padded(hidden))`.
    pub(super) qkv: Vec<f32>,
    /// The slopes of the activation, `(tokens, padded(intermediate))`.
    pub(super) slopes: Vec<f32>,
    /// The inputs of both layer norms, `(tokens, padded(hidden))`.
    pub(super) norm_inputs: [Vec<f32>; 2],
    /// The attention probabilities of short rows, head by head.
    pub(super) probabilities: Vec<f32>,
}

/// A block's numbers, kept from step to step so that a step does not allocate them again.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) span: Span,
    /// The hidden states between the layers; in the backward, their gradient. `(tokens, padded(hidden))`.
    pub(super) hidden: Vec<f32>,
    /// The sum of the embeddings, before their norm: `(tokens, padded(embedding))`.
    pub(super) embedded: Vec<f32>,
    /// The input of the projection of the embeddings, packed for its weight's gradient.
    pub(super) projected: Operand,
    /// The input of the last norm.
    pub(super) last: Vec<f32>,
    /// The inputs of the layers, where the layers are computed again in the backward.
    pub(super) starts: Vec<Vec<f32>>,
    pub(super) layers: Vec<LayerMemory>,
    pub(super) scratch: Scratch,
    pub(super) gradients: BlockGradients,
    pub(super) finished: Finished,
}

/// Room for what does not outlive a layer.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The left operand of the product at hand.
    pub(super) left: Operand,
    /// `(tokens, padded(hidden))`.
    pub(super) narrow: [Vec<f32>; 4],
    /// `(tokens, padded(intermediate))`.
    pub(super) wide: Vec<f32>,
    /// `(tokens, 3 * padded(hidden))`.
    pub(super) d_qkv: Vec<f32>,
    /// A row of dropout's factors.
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

/// What a block adds to the gradients of a layer.
#[derive(Debug, Default)]
pub(super) struct BlockGradients {
    /// The gradients of the four products' outputs, packed.
    pub(super) outputs: [Operand; 4],
    /// Of the four biases.
    pub(super) biases: [Vec<f64>; 4],
    /// Of both norms: weight, then bias.
    pub(super) norms: [Vec<f32>; 2],
}

/// What a block leaves of a layer for the gradients of its weights, while it goes on to the next one.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// The inputs of the four products.
    pub(super) inputs: [Operand; 4],
    pub(super) gradients: BlockGradients,
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
