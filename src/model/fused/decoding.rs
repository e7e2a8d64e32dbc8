//! The fused encoder token by token: keys and values of what was seen are kept, so that a new token costs one token.
//!
//! New tokens of several rows flow in with what was seen of each row; the last hidden state of each row flows out. Everything but
//! attention is the forward's own; attention looks at the cache. Nothing is kept for a backward.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::math::LANES;
use crate::kernels::rows;
use crate::kernels::tiles::Kernels;
use crate::model::fused::Fused;
use crate::model::fused::block::{AtWork, Block, Scratch, sized};
use crate::model::fused::forward::Attention;
use crate::model::fused::operation::FEW_ROWS;
use crate::model::fused::packed::{Packed, PackedLayer};
use crate::model::fused::pass::{Dropout, Inputs, Keep, LayerPass, Pass};
use crate::model::fused::weights::padded;

/// An encoder's weights as they were at one moment, for generating text.
#[derive(Debug)]
pub(in crate::model) struct Decoding {
    fused: Arc<Fused>,
    kernels: &'static Kernels,
    packed: Arc<Packed>,
    /// What each layer's scores are multiplied by.
    scales: Vec<f32>,
}

/// Keys and values of a row's tokens so far.
#[derive(Debug, Default)]
pub(in crate::model) struct Seen {
    /// Of each layer: keys and values, `(tokens, hidden)`.
    layers: Vec<[Vec<f32>; 2]>,
    length: usize,
}

/// The new tokens of a row.
#[derive(Debug)]
pub(in crate::model) struct NewTokens<'a> {
    pub(in crate::model) tokens: &'a [u32],
    /// What was seen before; the new tokens are added.
    pub(in crate::model) seen: &'a mut Seen,
}

impl Seen {
    /// How many tokens it holds.
    pub(in crate::model) fn len(&self) -> usize {
        self.length
    }
}

impl Decoding {
    /// Takes the weights as they are now.
    pub(in crate::model) fn new(fused: Arc<Fused>, kernels: &'static Kernels, scales: Vec<f32>) -> Result<Self> {
        let packed = fused.packed(kernels, Keep::Nothing)?;
        Ok(Decoding { fused, kernels, packed, scales })
    }

    /// The hidden state of each row's last token, `(rows, hidden)`. Every row has at least one new token, whose id and position have
    /// their entries in the tables.
    pub(in crate::model) fn forward(&self, all: &mut [NewTokens<'_>]) -> Result<Tensor> {
        let hidden = self.fused.config.hidden_size;
        let mut starts = vec![0];
        for row in all.iter() {
            starts.push(starts[starts.len() - 1] + row.tokens.len());
        }
        let n_tokens = starts[all.len()];
        let places = all.iter().flat_map(|row| row.seen.length..row.seen.length + row.tokens.len());
        let inputs = Inputs {
            ids: all.iter().flat_map(|row| row.tokens.iter().copied()).collect(),
            types: vec![0; n_tokens],
            positions: places.map(|place| place as u32).collect(),
            types_are_tokens: false,
        };
        let layer = |scale: &f32| LayerPass {
            scale: *scale,
            attention_dropout: None,
            dropout: [Dropout::default(), Dropout::default()],
        };
        let mut blocks = self.fused.take_blocks(&starts);
        let pass = Pass {
            kernels: self.kernels,
            packed: self.packed.clone(),
            inputs,
            key_lengths: starts.windows(2).map(|ends| ends[1] - ends[0]).collect(),
            starts,
            keep: Keep::Nothing,
            has_few_rows: n_tokens <= FEW_ROWS || blocks.len() == 1,
            embedding_dropout: Dropout::default(),
            layers: self.scales.iter().map(layer).collect(),
        };
        let mut last = vec![0.0; all.len() * hidden];
        let mut run = || -> Result<()> {
            self.fused.embed(&pass, &mut blocks)?;
            let mut pieces = Vec::with_capacity(blocks.len());
            let (mut rows_left, mut last_left) = (&mut *all, &mut last[..]);
            for block in &mut blocks {
                let n_rows = block.span.rows.len();
                let (own, others) = std::mem::take(&mut rows_left).split_at_mut(n_rows);
                let (own_last, others_last) = std::mem::take(&mut last_left).split_at_mut(n_rows * hidden);
                (rows_left, last_left) = (others, others_last);
                pieces.push((block, own, own_last));
            }
            let layers = pass.packed.layers.as_deref().unwrap_or_default();
            pieces.into_par_iter().with_max_len(1).for_each(|(block, own, last)| {
                self.fused.with_scratch(|scratch| self.block(&pass, layers, block, scratch, own, last));
            });
            Ok(())
        };
        if pass.has_few_rows {
            rayon::scope(|_| run())?;
        } else {
            run()?;
        }
        self.fused.keep_blocks(blocks);
        let n_rows = all.len();
        for row in all.iter_mut() {
            row.seen.length += row.tokens.len();
        }
        Ok(Tensor::from_vec(last, (n_rows, hidden), &Device::Cpu)?)
    }

    /// All layers of a block, and the last norm of its rows' last tokens.
    fn block(
        &self,
        pass: &Pass,
        layers: &[PackedLayer],
        block: &mut Block,
        scratch: &mut Scratch,
        all: &mut [NewTokens<'_>],
        last: &mut [f32],
    ) {
        let (hidden, stride) = (self.fused.config.hidden_size, padded(self.fused.config.hidden_size));
        for (number, [attention, feed_forward]) in layers.iter().enumerate() {
            let span = block.span.clone();
            let at_work = AtWork { block: &mut *block, share: &mut [], scratch: &mut *scratch };
            self.fused.attention(pass, number, attention, at_work, |Attention { qkv, context, .. }| {
                self.remember(number, qkv, all);
                if all.iter().all(|row| row.seen.length == 0) {
                    self.fused.heads_side_by_side(pass, &pass.layers[number], &span, qkv, context);
                } else {
                    self.look_back(number, qkv, context, all);
                }
            });
            let at_work = AtWork { block: &mut *block, share: &mut [], scratch: &mut *scratch };
            self.fused.feed_forward(pass, number, feed_forward, at_work);
        }
        let mut end = 0;
        for (row, out) in all.iter().zip(last.chunks_exact_mut(hidden)) {
            end += row.tokens.len();
            let x = &block.hidden[(end - 1) * stride..][..hidden];
            match &pass.packed.final_norm {
                Some(norm) => rows::layer_norm(x, &norm.weight, &norm.bias, norm.eps, out),
                None => out.copy_from_slice(x),
            }
        }
    }

    /// Adds the new tokens' keys and values to what was seen.
    fn remember(&self, number: usize, qkv: &[f32], all: &mut [NewTokens<'_>]) {
        let (hidden, stride) = (self.fused.config.hidden_size, padded(self.fused.config.hidden_size));
        let mut tokens = qkv.chunks_exact(3 * stride);
        for row in all.iter_mut() {
            row.seen.layers.resize_with(self.scales.len(), Default::default);
            for token in tokens.by_ref().take(row.tokens.len()) {
                for (part, kept) in row.seen.layers[number].iter_mut().enumerate() {
                    kept.extend_from_slice(&token[(part + 1) * stride..][..hidden]);
                }
            }
        }
    }

    /// Each new token attends to what was seen, to the new tokens before it and to itself.
    fn look_back(&self, number: usize, qkv: &[f32], context: &mut [f32], all: &[NewTokens<'_>]) {
        let hidden = self.fused.config.hidden_size;
        let (stride, size) = (padded(hidden), hidden / self.fused.config.n_heads);
        let scale = self.scales[number];
        let tokens = all.iter().flat_map(|row| (1..=row.tokens.len()).map(move |new| (row, row.seen.length + new)));
        let tokens = tokens.zip(qkv.chunks_exact(3 * stride)).zip(context.chunks_exact_mut(stride));
        let heads = tokens.flat_map(|(((row, n_seen), token), context)| {
            let parts = context[..hidden].chunks_exact_mut(size).enumerate();
            parts.map(move |(head, out)| (&row.seen.layers[number], n_seen, &token[head * size..][..size], head, out))
        });
        let heads: Vec<_> = heads.collect();
        heads.into_par_iter().with_min_len(2).for_each_init(
            Vec::new,
            |scores, ([keys, values], n, query, head, out)| {
                let scores = sized(scores, n.next_multiple_of(LANES));
                let column = head * size;
                rows::dots(query, &keys[column..], hidden, &mut scores[..n]);
                rows::softmax(scores, n, scale);
                rows::weighted_sum(&scores[..n], &values[column..], hidden, out);
            },
        );
    }
}
