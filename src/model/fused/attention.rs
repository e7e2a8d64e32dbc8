//! Scaled dot-product attention of one row and head, forward and backward, by products over tiles.
//!
//! Probabilities are held for a stretch of queries at a time. Those of short rows are kept for the backward; of long ones they are
//! made again, so that memory grows with the length of a row and not with its square.

use crate::kernels::dropout::{Site, TokenNumber};
use crate::kernels::math::LANES;
use crate::kernels::rows;
use crate::kernels::tiles::{Kernels, Operand, Pack, SIDE, Source, Write};
use crate::model::fused::block::{AttentionScratch, room};
use crate::model::fused::weights::padded;

// Rows of scores end at whole tiles, and softmax takes whole groups of lanes.
const _: () = assert!(SIDE.is_multiple_of(LANES));

/// Queries whose probabilities are held at a time.
const STRETCH: usize = 128;
/// The longest row whose probabilities are kept for the backward.
const KEPT: usize = 192;

/// One row and one head.
pub(super) struct Head<'a> {
    pub(super) kernels: &'a Kernels,
    /// Queries, keys and values of the block, rows of `row_length`.
    pub(super) qkv: &'a [f32],
    pub(super) row_length: usize,
    /// From one of queries, keys and values to the next.
    pub(super) part: usize,
    /// The row's first token in the block, its tokens, and how many of them are keys.
    pub(super) start: usize,
    pub(super) n_tokens: usize,
    pub(super) n_keys: usize,
    /// The head's first column, and its width.
    pub(super) column: usize,
    pub(super) size: usize,
    pub(super) scale: f32,
    pub(super) is_causal: bool,
    /// Dropout of the probabilities, with the numbers of the row's tokens.
    pub(super) dropout: Option<(Site, &'a [TokenNumber])>,
}

impl<'a> Head<'a> {
    /// The queries (0), keys (1) or values (2) of `n` tokens from `first` on.
    fn source(&self, which: usize, first: usize, n: usize) -> Source<'a> {
        let start = (self.start + first) * self.row_length + which * self.part + self.column;
        Source { values: &self.qkv[start..], row_length: self.row_length, rows: n, columns: self.size }
    }

    fn stretches(&self) -> impl Iterator<Item = (usize, usize)> {
        let n = self.n_tokens;
        (0..n).step_by(STRETCH).map(move |first| (first, STRETCH.min(n - first)))
    }

    fn keys_length(&self) -> usize {
        self.n_keys.next_multiple_of(SIDE)
    }

    /// The probabilities of a stretch of queries, `(n, keys)` in rows of [`Head::keys_length`], zero where nothing is seen.
    fn probabilities(&self, q: &Operand, k: &Operand, (first, n): (usize, usize), scores: &mut [f32]) {
        let length = self.keys_length();
        let queries = q.tiles().part(first / SIDE, n.div_ceil(SIDE));
        self.kernels.product(queries, k.tiles(), n, scores, length, Write::Replace);
        for (place, row) in scores.chunks_exact_mut(length).take(n).enumerate() {
            let seen = if self.is_causal { self.n_keys.min(first + place + 1) } else { self.n_keys };
            rows::softmax(row, seen, self.scale);
        }
    }

    /// Dropout's factors of a stretch in rows of [`Head::keys_length`]; false where nothing is dropped.
    fn factors(&self, (first, n): (usize, usize), factors: &mut Vec<f32>) -> bool {
        let Some((site, numbers)) = &self.dropout else { return false };
        let length = self.keys_length();
        let factors = room(factors, n, length);
        for (place, row) in factors.chunks_exact_mut(length).take(n).enumerate() {
            site.factors(numbers[first + place], &mut row[..self.n_keys]);
        }
        true
    }

    /// How many probabilities are kept for the backward.
    pub(super) fn n_kept(&self) -> usize {
        if self.n_tokens <= KEPT { self.n_tokens * self.keys_length() } else { 0 }
    }

    /// Gives the head's part of the context of each token, by its place in the block, and writes the probabilities to be
    /// `kept`, if any.
    pub(super) fn forward(
        &self,
        mut context: impl FnMut(usize, &[f32]),
        kept: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let AttentionScratch { operands: [q, k, v, left, ..], scores, factors, out: [out, ..], .. } = scratch;
        self.kernels.pack(Pack::A, self.source(0, 0, self.n_tokens), q);
        self.kernels.pack(Pack::TransposedB, self.source(1, 0, self.n_keys), k);
        self.kernels.pack(Pack::B, self.source(2, 0, self.n_keys), v);
        let (length, width) = (self.keys_length(), padded(self.size));
        for stretch in self.stretches() {
            let (first, n) = stretch;
            let scores = room(scores, n, length);
            self.probabilities(q, k, stretch, scores);
            let drops = self.factors(stretch, factors);
            if let Some(kept) = kept.get_mut(first * length..(first + n) * length) {
                if drops {
                    rows::marked(&scores[..n * length], &factors[..n * length], kept);
                } else {
                    kept.copy_from_slice(&scores[..n * length]);
                }
            }
            if drops {
                self.drop(scores, factors, n);
            }
            self.kernels.pack(
                Pack::A,
                Source { values: scores, row_length: length, rows: n, columns: self.n_keys },
                left,
            );
            let out = room(out, n, width);
            self.kernels.product(left.tiles(), v.tiles(), n, out, width, Write::Replace);
            for (place, out) in out.chunks_exact(width).take(n).enumerate() {
                context(self.start + first + place, &out[..self.size]);
            }
        }
    }

    fn drop(&self, values: &mut [f32], factors: &[f32], n: usize) {
        let length = self.keys_length();
        for (values, factors) in values.chunks_exact_mut(length).zip(factors.chunks_exact(length)).take(n) {
            rows::multiply(&mut values[..self.n_keys], &factors[..self.n_keys]);
        }
    }

    /// Writes the head's columns of the gradients of queries, keys and values from that of the context, and from the probabilities
    /// that were kept, if any.
    pub(super) fn backward(
        &self,
        d_context: &[f32],
        context_length: usize,
        kept: &[f32],
        d_qkv: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let AttentionScratch { operands, scores, d_scores, factors, out } = scratch;
        let [q, k, v, left, right, keys] = operands;
        let [out, d_keys, d_values] = out;
        let kernels = self.kernels;
        if kept.is_empty() {
            kernels.pack(Pack::A, self.source(0, 0, self.n_tokens), q);
            kernels.pack(Pack::TransposedB, self.source(1, 0, self.n_keys), k);
        }
        kernels.pack(Pack::B, self.source(1, 0, self.n_keys), keys);
        kernels.pack(Pack::TransposedB, self.source(2, 0, self.n_keys), v);
        let (length, width) = (self.keys_length(), padded(self.size));
        let (out, d_keys, d_values) =
            (room(out, self.n_tokens.min(STRETCH), width), room(d_keys, length, width), room(d_values, length, width));
        for stretch in self.stretches() {
            let (first, n) = stretch;
            let write = if first == 0 { Write::Replace } else { Write::Add };
            let at = (self.start + first) * context_length + self.column;
            let d_out = Source { values: &d_context[at..], row_length: context_length, rows: n, columns: self.size };
            let (scores, d_scores) = (room(scores, n, length), room(d_scores, n, length));
            let square = |values| Source { values, row_length: length, rows: n, columns: self.n_keys };
            let drops = if let Some(kept) = kept.get(first * length..(first + n) * length) {
                let scale = self.dropout.as_ref().map_or(1.0, |(site, _)| site.scale());
                rows::unmarked(kept, scale, scores, room(factors, n, length));
                self.dropout.is_some()
            } else {
                self.probabilities(q, k, stretch, scores);
                self.factors(stretch, factors)
            };
            // The gradient of the probabilities, which dropout scales like the probabilities themselves.
            kernels.pack(Pack::A, d_out, left);
            kernels.product(left.tiles(), v.tiles(), n, d_scores, length, Write::Replace);
            kernels.pack(Pack::B, d_out, right);
            if drops {
                self.drop(d_scores, factors, n);
                let dropped = room(factors, n, length);
                for (factors, scores) in dropped.chunks_exact_mut(length).zip(scores.chunks_exact(length)).take(n) {
                    rows::multiply(&mut factors[..self.n_keys], &scores[..self.n_keys]);
                }
                kernels.pack(Pack::TransposedA, square(dropped), left);
            } else {
                kernels.pack(Pack::TransposedA, square(scores), left);
            }
            kernels.product(left.tiles(), right.tiles(), self.n_keys, d_values, width, write);
            for (p, d) in scores.chunks_exact(length).zip(d_scores.chunks_exact_mut(length)).take(n) {
                rows::softmax_backward(&p[..self.n_keys], &mut d[..self.n_keys]);
            }
            kernels.pack(Pack::A, square(d_scores), left);
            kernels.product(left.tiles(), keys.tiles(), n, out, width, Write::Replace);
            for (place, out) in out.chunks_exact(width).take(n).enumerate() {
                let at = (self.start + first + place) * self.row_length + self.column;
                rows::scaled(&out[..self.size], self.scale, &mut d_qkv[at..at + self.size]);
            }
            kernels.pack(Pack::TransposedA, square(d_scores), left);
            kernels.pack(Pack::B, self.source(0, first, n), right);
            kernels.product(left.tiles(), right.tiles(), self.n_keys, d_keys, width, write);
        }
        for place in 0..self.n_tokens {
            let at = (self.start + place) * self.row_length + self.column;
            let (key, value) = (at + self.part, at + 2 * self.part);
            if place < self.n_keys {
                rows::scaled(&d_keys[place * width..][..self.size], self.scale, &mut d_qkv[key..key + self.size]);
                d_qkv[value..value + self.size].copy_from_slice(&d_values[place * width..][..self.size]);
            } else {
                d_qkv[key..key + self.size].fill(0.0);
                d_qkv[value..value + self.size].fill(0.0);
            }
        }
    }
}
