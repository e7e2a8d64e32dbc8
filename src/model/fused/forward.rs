//! The fused encoder's forward: each block passes through all layers by itself.

use std::sync::Arc;

use rayon::prelude::*;

use crate::batch::{Batch, Draw};
use crate::error::Result;
use crate::kernels::dropout::{Site, TokenNumber};
use crate::kernels::tiles::{Kernels, Operand, Pack, SIDE, Source, Write};
use crate::kernels::{profile, rows};
use crate::model::family::Norms;
use crate::model::fused::attention::Head;
use crate::model::fused::block::{AttentionScratch, Block, LayerMemory, Scratch, Span, room, room_for, sized};
use crate::model::fused::weights::{Matrix, PackedMatrix, PackedNorm, padded};
use crate::model::fused::{Fused, Packed};
use crate::tensor::rng::stream_hash;

/// The ids of a batch's tokens.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) ids: Vec<u32>,
    pub(super) types: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) types_are_tokens: bool,
}

/// One site's dropout of token rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Dropout {
    site: Option<(Site, Arc<[TokenNumber]>)>,
}

/// What one forward, and its backward, need beside the blocks.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) kernels: &'static Kernels,
    pub(super) packed: Arc<Packed>,
    pub(super) inputs: Inputs,
    /// Where rows start in the batch, and how many of their tokens are keys.
    pub(super) starts: Vec<usize>,
    pub(super) key_lengths: Vec<usize>,
    /// What the backward will find.
    pub(super) keep: Keep,
    /// Whether the batch is one block of so few tokens that the threads share its products, instead of blocks.
    pub(super) has_few_rows: bool,
    pub(super) embedding_dropout: Dropout,
    pub(super) layers: Vec<LayerPass>,
}

/// What a forward keeps for the backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing: there is none.
    Nothing,
    /// The inputs of the layers, which are computed again.
    Inputs,
    /// What each layer needs.
    Everything,
}

/// What is particular to one layer of a pass.
#[derive(Debug)]
pub(super) struct LayerPass {
    pub(super) scale: f32,
    /// The heads' sites, with the tokens' numbers.
    pub(super) attention_dropout: Option<(Vec<Site>, Arc<[TokenNumber]>)>,
    /// Behind attention's output, and behind the feed-forward part.
    pub(super) dropout: [Dropout; 2],
}

impl Dropout {
    pub(super) fn new(draw: Option<Draw>, p: f64, name: &str, numbers: &Arc<[TokenNumber]>) -> Self {
        let site = draw.filter(|_| p > 0.0).map(|draw| Site::new(draw.seed, draw.step, stream_hash(name), p));
        Dropout { site: site.map(|site| (site, numbers.clone())) }
    }

    /// The factors of a token's row; `None` where nothing is dropped.
    pub(super) fn factors<'a>(&self, token: usize, width: usize, factors: &'a mut Vec<f32>) -> Option<&'a [f32]> {
        let (site, numbers) = self.site.as_ref()?;
        let factors = sized(factors, width);
        site.factors(numbers[token], factors);
        Some(factors)
    }
}

impl LayerPass {
    pub(super) fn new(
        number: usize,
        scale: f32,
        config: &crate::model::family::EncoderConfig,
        batch: &Batch,
        numbers: &Arc<[TokenNumber]>,
    ) -> Self {
        let site = |name: &str, p| Dropout::new(batch.draw, p, &format!("layer.{number}.{name}"), numbers);
        let attention = batch.draw.filter(|_| config.attention_dropout > 0.0).map(|draw| {
            let head = |head: usize| {
                let name = stream_hash(&format!("layer.{number}.attention.{head}"));
                Site::new(draw.seed, draw.step, name, config.attention_dropout)
            };
            ((0..config.n_heads).map(head).collect(), numbers.clone())
        });
        LayerPass {
            scale,
            attention_dropout: attention,
            dropout: [site("attention.output", config.hidden_dropout), site("output", config.hidden_dropout)],
        }
    }
}

impl Fused {
    /// The last hidden states of a batch, `(tokens, hidden)`.
    pub(super) fn forward(&self, pass: &Pass, blocks: &mut [Block]) -> Result<Vec<f32>> {
        self.embed(pass, blocks)?;
        let (hidden, stride) = (self.config.hidden_size, padded(self.config.hidden_size));
        let mut out = vec![0.0; pass.inputs.ids.len() * hidden];
        let mut rest = &mut out[..];
        let mut pieces = Vec::with_capacity(blocks.len());
        for block in blocks.iter() {
            let (piece, others) = rest.split_at_mut(block.n_tokens() * hidden);
            pieces.push(piece);
            rest = others;
        }
        blocks.par_iter_mut().zip(pieces).with_max_len(1).for_each(|(block, out)| {
            for number in 0..self.layers.len() {
                if pass.keep == Keep::Inputs {
                    let n = block.n_tokens() * stride;
                    block.starts.resize_with(self.layers.len(), Vec::new);
                    sized(&mut block.starts[number], room_for(block.span.tokens.len(), hidden))[..n]
                        .copy_from_slice(&block.hidden[..n]);
                }
                self.layer_forward(pass, number, block);
            }
            let n = block.n_tokens();
            if let Some(norm) = &pass.packed.final_norm {
                if pass.keep != Keep::Nothing {
                    let kept = room(&mut block.last, n, hidden);
                    kept[..n * stride].copy_from_slice(&block.hidden[..n * stride]);
                }
                for (x, out) in block.hidden.chunks_exact(stride).zip(out.chunks_exact_mut(hidden)) {
                    rows::layer_norm(&x[..hidden], &norm.weight, &norm.bias, norm.eps, out);
                }
            } else {
                for (x, out) in block.hidden.chunks_exact(stride).zip(out.chunks_exact_mut(hidden)) {
                    out.copy_from_slice(&x[..hidden]);
                }
            }
        });
        Ok(out)
    }

    /// Which of a block's memories a layer uses: one of its own where all is kept.
    pub(super) fn memory_of(&self, pass: &Pass, number: usize) -> usize {
        if pass.keep == Keep::Everything { number } else { 0 }
    }

    /// A layer's forward once more, for its backward: the block's hidden states, the gradient by now, stay as they are.
    pub(super) fn layer_again(&self, pass: &Pass, number: usize, block: &mut Block) {
        let gradient = std::mem::replace(&mut block.hidden, std::mem::take(&mut block.starts[number]));
        self.layer_forward(pass, number, block);
        block.starts[number] = std::mem::replace(&mut block.hidden, gradient);
    }

    fn layer_forward(&self, pass: &Pass, number: usize, block: &mut Block) {
        let layer = &pass.layers[number];
        let (span, stride) = (block.span.clone(), padded(self.config.hidden_size));
        self.layer(pass, number, block, |Attention { qkv, context, probabilities, scratch }| {
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

    /// One layer, whose attention `attend` computes.
    pub(super) fn layer(&self, pass: &Pass, number: usize, block: &mut Block, attend: impl FnOnce(Attention<'_>)) {
        let _part = profile::begin(profile::Part::Rows);
        let (layer, packed, layer_pass) = (&self.layers[number], &pass.packed.layers[number], &pass.layers[number]);
        let (hidden, stride) = (self.config.hidden_size, padded(self.config.hidden_size));
        let n = block.n_tokens();
        let Block { span, hidden: x, layers, scratch, .. } = block;
        let memory = &mut layers[self.memory_of(pass, number)];
        let x = room(x, n, hidden);
        let LayerMemory { inputs, qkv, slopes, norm_inputs, probabilities } = memory;
        let [qkv_input, output_input, wide_input, narrow_input] = inputs;
        let Scratch { left, narrow: [normed, context, mixed, middle], wide, factors, attention, .. } = scratch;
        let keep = |matrix: &Matrix, source: Source<'_>, operand: &mut Operand| {
            if pass.keep != Keep::Nothing {
                pass.kernels.pack(matrix.input_pack(), source, operand);
            }
        };
        let norms_before = self.config.norms == Norms::Before;
        let [first_input, second_input] = norm_inputs;

        // Attention.
        let normed = room(normed, n, hidden);
        if norms_before {
            room(first_input, n, hidden)[..n * stride].copy_from_slice(&x[..n * stride]);
            norm_rows(&packed.norms[0], x, normed, hidden, n);
        }
        let source = strip(if norms_before { normed } else { x }, hidden, n);
        keep(&layer.matrices[0], source, qkv_input);
        let width = layer.matrices[0].width();
        let qkv = room(qkv, n, width);
        let bias = &packed.matrices[0].bias;
        multiply(pass, source, &packed.matrices[0], left, qkv, |first, row| rows::add(row, &bias[first..]));
        let context = room(context, n, hidden);
        attend(Attention { qkv, context, probabilities, scratch: attention });
        let source = strip(context, hidden, n);
        keep(&layer.matrices[1], source, output_input);
        let mixed = room(mixed, n, hidden);
        multiply(pass, source, &packed.matrices[1], left, mixed, |_, _| {});

        // The residual, and the norm behind or before it.
        let middle = room(middle, n, hidden);
        let sum = room(if norms_before { second_input } else { first_input }, n, hidden);
        let ends = Ends { dropout: &layer_pass.dropout[0], bias: &packed.matrices[1].bias, first: span.tokens.start };
        ends.add(mixed, x, sum, hidden, n, factors);
        norm_rows(&packed.norms[usize::from(norms_before)], sum, middle, hidden, n);

        // Feed-forward.
        let source = strip(middle, hidden, n);
        keep(&layer.matrices[2], source, wide_input);
        let inner = self.config.intermediate_size;
        let wide = room(wide, n, inner);
        let (activation, bias) = (self.config.activation, &packed.matrices[2].bias);
        if pass.keep == Keep::Nothing {
            let finish = |first: usize, row: &mut [f32]| rows::activate_alone(activation, row, &bias[first..]);
            multiply(pass, source, &packed.matrices[2], left, wide, finish);
        } else {
            multiply(pass, source, &packed.matrices[2], left, wide, |_, _| {});
            let (slopes, stride) = (room(slopes, n, inner), padded(inner));
            for (row, slopes) in wide.chunks_exact_mut(stride).zip(slopes.chunks_exact_mut(stride)).take(n) {
                rows::activate(activation, &mut row[..inner], bias, &mut slopes[..inner]);
            }
        }
        let source = strip(wide, inner, n);
        keep(&layer.matrices[3], source, narrow_input);
        multiply(pass, source, &packed.matrices[3], left, mixed, |_, _| {});
        let ends = Ends { dropout: &layer_pass.dropout[1], bias: &packed.matrices[3].bias, first: span.tokens.start };
        if norms_before {
            let residual = room(second_input, n, hidden);
            ends.add(mixed, residual, x, hidden, n, factors);
        } else {
            let sum = room(second_input, n, hidden);
            ends.add(mixed, middle, sum, hidden, n, factors);
            norm_rows(&packed.norms[1], sum, x, hidden, n);
        }
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

fn norm_rows(norm: &PackedNorm, x: &[f32], out: &mut [f32], width: usize, n: usize) {
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

/// What ends a part of a layer: the bias of its last product, dropout, the residual.
struct Ends<'a> {
    dropout: &'a Dropout,
    bias: &'a [f32],
    /// The block's first token in the batch.
    first: usize,
}

impl Ends<'_> {
    /// `out = dropout(x + bias) + residual`.
    fn add(&self, x: &[f32], residual: &[f32], out: &mut [f32], width: usize, n: usize, factors: &mut Vec<f32>) {
        let stride = padded(width);
        let strips = x.chunks_exact(stride).zip(residual.chunks_exact(stride)).zip(out.chunks_exact_mut(stride));
        for (place, ((x, residual), out)) in strips.take(n).enumerate() {
            let (x, residual, out) = (&x[..width], &residual[..width], &mut out[..width]);
            match self.dropout.factors(self.first + place, width, factors) {
                Some(factors) => rows::residual(x, self.bias, factors, residual, out),
                None => rows::residual_alone(x, self.bias, residual, out),
            }
        }
    }
}
