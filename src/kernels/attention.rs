//! Scaled dot-product attention over packed rows, without padding, and its backward.
//!
//! Rows run in parallel, heads one after the other; the probabilities of one head of one row are the only matrix that is
//! held, and they are made again in the backward, so memory does not grow with the square of the length.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::dropout::{Site, TokenNumber};
use crate::kernels::gemm::{Threads, View, Write, product};
use crate::kernels::math::{LANES, exp, simd, sum};
use crate::kernels::{rows, values, with_values};

/// What attention needs to know of a batch, and of the layer.
#[derive(Clone)]
pub struct Attention {
    /// Where each row starts, with one more entry: the number of tokens.
    pub starts: Arc<[usize]>,
    /// How many tokens of each row may be looked at.
    pub key_lengths: Arc<[usize]>,
    /// The number of heads.
    pub n_heads: usize,
    /// What the scores are multiplied by.
    pub scale: f32,
    /// Whether a token looks only at itself and those before it in its row.
    pub is_causal: bool,
    /// Dropout, where a training step draws it.
    pub dropout: Option<AttentionDropout>,
}

/// The sites of the heads, and the numbers of the tokens that ask.
pub type AttentionDropout = (Arc<[Site]>, Arc<[TokenNumber]>);

impl Attention {
    /// `softmax(scale q k^T) v` for every row and head; all of `(tokens, heads * size)`, f32 on the CPU.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn apply(self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        Ok(query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, self)?)
    }

    fn rows(&self) -> usize {
        self.key_lengths.len()
    }

    /// One mutable piece a row.
    fn split<'a>(&self, mut all: &'a mut [f32], hidden: usize) -> Vec<&'a mut [f32]> {
        let mut pieces = Vec::with_capacity(self.rows());
        for row in 0..self.rows() {
            let (piece, rest) = all.split_at_mut((self.starts[row + 1] - self.starts[row]) * hidden);
            pieces.push(piece);
            all = rest;
        }
        pieces
    }

    /// The part of a `(tokens, hidden)` matrix that belongs to a row and a head; `start` is where the row begins in it.
    fn part(&self, tokens: usize, start: usize, hidden: usize, head: usize) -> View {
        let size = hidden / self.n_heads;
        View { rows: tokens, columns: size, start: start * hidden + head * size, row: hidden, column: 1 }
    }

    /// The probabilities of a row and a head, `(length, keys)`, into `scores`.
    fn probabilities(&self, q: &[f32], k: &[f32], hidden: usize, row: usize, head: usize, scores: &mut Vec<f32>) {
        let (start, length, keys) = self.sizes(row);
        scores.clear();
        scores.resize(length * keys, 0.0);
        product(
            (scores, View::rows(length, keys)),
            (q, self.part(length, start, hidden, head)),
            (k, self.part(keys, start, hidden, head).t()),
            self.scale,
            Write::Replace,
            Threads::One,
        );
        if self.is_causal {
            for (place, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let (seen, later) = scores.split_at_mut(keys.min(place + 1));
                let n_seen = seen.len();
                softmax_rows(seen, n_seen);
                later.fill(0.0);
            }
        } else {
            softmax_rows(scores, keys);
        }
    }

    /// Start, number of tokens and number of keys of a row.
    fn sizes(&self, row: usize) -> (usize, usize, usize) {
        (self.starts[row], self.starts[row + 1] - self.starts[row], self.key_lengths[row])
    }

    /// Dropout's factors of a row and a head, `(length, keys)`; false where nothing is dropped.
    fn factors(&self, row: usize, head: usize, factors: &mut Vec<f32>) -> bool {
        let Some((sites, numbers)) = &self.dropout else { return false };
        let (start, length, keys) = self.sizes(row);
        factors.resize(length * keys, 0.0);
        for (place, chunk) in factors.chunks_exact_mut(keys).enumerate() {
            sites[head].factors(numbers[start + place], chunk);
        }
        true
    }
}

simd! {
    fn softmax_rows(scores: &mut [f32], keys: usize) {
        for row in scores.chunks_exact_mut(keys) {
            let max = row.iter().fold(f32::NEG_INFINITY, |max, score| if *score > max { *score } else { max });
            let mut lanes = [0.0f32; LANES];
            let whole = keys / LANES * LANES;
            for chunk in row[..whole].chunks_exact_mut(LANES) {
                for (score, lane) in chunk.iter_mut().zip(&mut lanes) {
                    *score = exp(*score - max);
                    *lane += *score;
                }
            }
            for (score, lane) in row[whole..].iter_mut().zip(&mut lanes) {
                *score = exp(*score - max);
                *lane += *score;
            }
            let inverse = 1.0 / sum(lanes);
            for score in row {
                *score *= inverse;
            }
        }
    }
}

simd! {
    fn multiply(values: &mut [f32], factors: &[f32]) {
        for (value, factor) in values.iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, k, v) = (values(q, q_layout)?, values(k, k_layout)?, values(v, v_layout)?);
        let hidden = q_layout.dims()[1];
        let mut out = vec![0.0; q.len()];
        self.split(&mut out, hidden).into_par_iter().enumerate().for_each(|(row, out)| {
            let (start, length, keys) = self.sizes(row);
            let (mut scores, mut factors) = (Vec::new(), Vec::new());
            for head in 0..self.n_heads {
                self.probabilities(q, k, hidden, row, head, &mut scores);
                if self.factors(row, head, &mut factors) {
                    multiply(&mut scores, &factors);
                }
                product(
                    (out, self.part(length, 0, hidden, head)),
                    (&scores, View::rows(length, keys)),
                    (v, self.part(keys, start, hidden, head)),
                    1.0,
                    Write::Replace,
                    Threads::One,
                );
            }
        });
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let hidden = query.dims()[1];
        let (dq, dk, dv) = with_values([query, key, value, gradient], |[q, k, v, g]| {
            let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; q.len()], vec![0.0; q.len()]);
            let pieces = self.split(&mut dq, hidden).into_iter().zip(self.split(&mut dk, hidden));
            let pieces: Vec<_> = pieces.zip(self.split(&mut dv, hidden)).collect();
            pieces.into_par_iter().enumerate().for_each(|(row, ((dq, dk), dv))| {
                self.row_backward(row, hidden, [q, k, v, g], [dq, dk, dv]);
            });
            (dq, dk, dv)
        })?;
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, query.shape(), query.device()).map(Some);
        Ok((tensor(dq)?, tensor(dk)?, tensor(dv)?))
    }
}

impl Attention {
    fn row_backward(&self, row: usize, hidden: usize, [q, k, v, g]: [&[f32]; 4], [dq, dk, dv]: [&mut [f32]; 3]) {
        let (start, length, keys) = self.sizes(row);
        let scale = self.scale;
        let square = View::rows(length, keys);
        let (mut p, mut dp, mut factors, mut dropped) = (Vec::new(), vec![0.0; length * keys], Vec::new(), Vec::new());
        for head in 0..self.n_heads {
            self.probabilities(q, k, hidden, row, head, &mut p);
            let drops = self.factors(row, head, &mut factors);
            let one = |out: (&mut [f32], View), a, b, scale| {
                product(out, a, b, scale, Write::Replace, Threads::One);
            };
            let (queries, key_rows) = (self.part(length, start, hidden, head), self.part(keys, start, hidden, head));
            let (out_queries, out_keys) = (self.part(length, 0, hidden, head), self.part(keys, 0, hidden, head));
            // dP = g V^T; through dropout it has the same factors as the probabilities had.
            one((&mut dp, square), (g, queries), (v, key_rows.t()), 1.0);
            dropped.clear();
            dropped.extend_from_slice(&p);
            if drops {
                multiply(&mut dropped, &factors);
                multiply(&mut dp, &factors);
            }
            one((dv, out_keys), (&dropped, square.t()), (g, queries), 1.0);
            for (p, dp) in p.chunks_exact(keys).zip(dp.chunks_exact_mut(keys)) {
                rows::softmax_backward(p, dp);
            }
            one((dq, out_queries), (&dp, square), (k, key_rows), scale);
            one((dk, out_keys), (&dp, square.t()), (q, queries), scale);
        }
    }
}
