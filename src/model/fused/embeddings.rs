//! The fused encoder's first station: from ids to the sum of the embeddings, its norm, dropout and projection; and back.

use std::sync::Arc;

use rayon::prelude::*;

use crate::batch::Batch;
use crate::error::Result;
use crate::kernels::tiles::{Pack, Write};
use crate::kernels::with_values;
use crate::kernels::{profile, rows};
use crate::model::fused::Fused;
use crate::model::fused::backward::add_biases;
use crate::model::fused::block::{Block, Scratch, room};
use crate::model::fused::course::in_order;
use crate::model::fused::forward::strip;
use crate::model::fused::gradients::{WeightGradients, norm_gradients};
use crate::model::fused::pass::{Dropout, Inputs, Keep, Pass};
use crate::model::fused::weights::padded;
use crate::model::gradient::{Buffer, Gradient};
use crate::model::parameters::Parameter;

impl Fused {
    /// Fills the hidden states of every block.
    pub(super) fn embed(&self, pass: &Pass, blocks: &mut [Block]) -> Result<()> {
        let no_types = self.word.weight.value();
        let types = self.token_type.as_ref().map_or(no_types, |table| table.weight.value());
        let tables = [self.word.weight.value(), self.position.weight.value(), types];
        with_values(tables, |[words, positions, types]| {
            self.each_block(blocks, |block, scratch| self.embed_block(pass, block, scratch, [words, positions, types]));
        })?;
        Ok(())
    }

    fn embed_block(
        &self,
        pass: &Pass,
        block: &mut Block,
        scratch: &mut Scratch,
        [words, positions, types]: [&[f32]; 3],
    ) {
        let _part = profile::begin(profile::Part::Embeddings);
        let width = self.config.embedding_size;
        let (n, first, stride) = (block.n_tokens(), block.span.tokens.start, padded(width));
        let inputs = &pass.inputs;
        let entry = |id: u32| id as usize * width..(id as usize + 1) * width;
        let Block { hidden, embedded, projected, .. } = block;
        let Scratch { left, narrow: [normed, ..], factors, .. } = scratch;
        let sums = room(embedded, n, width);
        for (place, sum) in sums.chunks_exact_mut(stride).take(n).enumerate() {
            let (token, sum) = (first + place, &mut sum[..width]);
            sum.copy_from_slice(&words[entry(inputs.ids[token])]);
            if self.token_type.is_some() {
                rows::add(sum, &types[entry(inputs.types[token])]);
            }
            if inputs.types_are_tokens {
                rows::add(sum, &words[entry(inputs.types[token])]);
            }
            rows::add(sum, &positions[entry(inputs.positions[token])]);
        }
        let target = room(if self.projection.is_some() { normed } else { &mut *hidden }, n, width);
        for (place, (sum, out)) in sums.chunks_exact(stride).zip(target.chunks_exact_mut(stride)).take(n).enumerate() {
            let (sum, out) = (&sum[..width], &mut out[..width]);
            match &pass.packed.norm {
                Some(norm) => rows::layer_norm(sum, &norm.weight, &norm.bias, norm.eps, out),
                None => out.copy_from_slice(sum),
            }
            pass.embedding_dropout.apply(first + place, out, factors);
        }
        if let (Some(matrix), Some(packed)) = (&self.projection, &pass.packed.projection) {
            let source = strip(target, width, n);
            pass.kernels.pack(Pack::A, source, left);
            if pass.keep != Keep::Nothing {
                pass.kernels.pack(matrix.input_pack(), source, projected);
            }
            let stride = padded(self.config.hidden_size);
            let hidden = room(hidden, n, stride);
            pass.kernels.product(left.tiles(), packed.forward.tiles(), n, hidden, stride, Write::Replace);
            for row in hidden.chunks_exact_mut(stride).take(n) {
                rows::add(&mut row[..self.config.hidden_size], &packed.bias);
            }
        }
    }

    /// The gradients of everything below the layers, from those of the hidden states that the blocks hold.
    pub(super) fn embed_backward(&self, pass: &Pass, blocks: &mut [Block]) -> Vec<(String, Gradient)> {
        let mut all = Vec::new();
        let (width, hidden) = (self.config.embedding_size, self.config.hidden_size);
        if let (Some(matrix), Some(packed)) = (&self.projection, &pass.packed.projection) {
            self.each_block(blocks, |block, scratch| {
                let n = block.n_tokens();
                let Block { hidden: d, left_behind: [_, behind], .. } = block;
                let Scratch { left, narrow: [out, ..], .. } = scratch;
                let source = strip(d, hidden, n);
                add_biases(source, &mut behind.biases[0]);
                pass.kernels.pack(Pack::A, source, left);
                pass.kernels.pack(matrix.gradient_pack(), source, &mut behind.outputs[0]);
                let (out, length) = (room(out, n, width), padded(width));
                pass.kernels.product(left.tiles(), packed.backward.tiles(), n, out, length, Write::Replace);
                room(d, n, width)[..n * length].copy_from_slice(&out[..n * length]);
            });
            let operands = blocks.iter().map(|block| [&block.projected, &block.left_behind[1].outputs[0]]).collect();
            let biases = blocks.iter().map(|block| &block.left_behind[1].biases[0][..]).collect();
            let mut gradients = WeightGradients::new(Vec::new(), vec![(matrix, operands, biases)]);
            in_order(gradients.tasks(self, pass.kernels));
            all.extend(gradients.finish());
        }
        let stride = padded(width);
        self.each_block(blocks, |block, scratch| {
            let _part = profile::begin(profile::Part::Embeddings);
            let (n, first) = (block.n_tokens(), block.span.tokens.start);
            let Block { hidden, embedded, left_behind: [_, behind], .. } = block;
            let sums = &mut behind.norm;
            sums.clear();
            sums.resize(2 * width, 0.0);
            let gradient = room(&mut scratch.narrow[0], n, width);
            let rows_of = hidden.chunks_exact_mut(stride).zip(embedded.chunks_exact(stride)).take(n).enumerate();
            for (place, (d, x)) in rows_of {
                let (d, x) = (&mut d[..width], &x[..width]);
                pass.embedding_dropout.apply(first + place, d, &mut scratch.factors);
                if let Some(norm) = &pass.packed.norm {
                    gradient[..width].copy_from_slice(d);
                    rows::layer_norm_backward(x, &norm.weight, &gradient[..width], norm.eps, d, sums);
                }
            }
        });
        if let Some(norm) = &self.norm {
            all.extend(norm_gradients(norm, blocks.iter().map(|block| &block.left_behind[1].norm[..])));
        }
        all.extend(self.table_gradients(&pass.inputs, blocks));
        all
    }

    /// The gradients of the tables: each token adds its row. As in PyTorch, looking up padding adds nothing.
    fn table_gradients(&self, inputs: &Inputs, blocks: &[Block]) -> Vec<(String, Gradient)> {
        let padding = self.config.padding_idx;
        let words: &[&[u32]] = if inputs.types_are_tokens { &[&inputs.ids, &inputs.types] } else { &[&inputs.ids] };
        let position_padding = padding.filter(|_| self.config.position_offset > 0);
        let positions: &[&[u32]] = &[&inputs.positions];
        let types: &[&[u32]] = &[&inputs.types];
        let mut tables =
            vec![(&self.word.weight, words, padding), (&self.position.weight, positions, position_padding)];
        tables.extend(self.token_type.as_ref().map(|table| (&table.weight, types, None)));
        let trainable = tables.into_par_iter().filter(|(parameter, ..)| parameter.is_trainable());
        trainable.map(|(parameter, ids, padding)| self.table_gradient(parameter, ids, padding, blocks)).collect()
    }

    /// The gradient of one table, whose entries the tokens looked up by each of the lists `ids`; `padding` is not trained by
    /// the first of them.
    fn table_gradient(
        &self,
        parameter: &Parameter,
        ids: &[&[u32]],
        padding: Option<u32>,
        blocks: &[Block],
    ) -> (String, Gradient) {
        let _part = profile::begin(profile::Part::Embeddings);
        let width = self.config.embedding_size;
        let trains = |list: usize, id: u32| list > 0 || Some(id) != padding;
        let lists = || ids.iter().enumerate();
        let looked_up = lists().flat_map(|(list, ids)| ids.iter().copied().filter(move |&id| trains(list, id)));
        let mut rows_of: Vec<u32> = looked_up.collect();
        rows_of.sort_unstable();
        rows_of.dedup();
        let mut sums = vec![0.0f32; rows_of.len() * width];
        for block in blocks {
            let rows = block.hidden.chunks_exact(padded(width));
            for (token, row) in block.span.tokens.clone().zip(rows) {
                for (_, ids) in lists().filter(|(list, ids)| trains(*list, ids[token])) {
                    if let Ok(place) = rows_of.binary_search(&ids[token]) {
                        rows::add(&mut sums[place * width..][..width], &row[..width]);
                    }
                }
            }
        }
        let rows: Arc<[u32]> = rows_of.into();
        let gradient = Gradient::of_rows(parameter.value().dims(), rows, Buffer::owned(sums));
        (parameter.name().to_string(), gradient)
    }
}

impl Dropout {
    /// Drops elements of one token's row.
    pub(super) fn apply(&self, token: usize, row: &mut [f32], factors: &mut Vec<f32>) {
        if let Some(factors) = self.factors(token, row.len(), factors) {
            rows::multiply(row, factors);
        }
    }
}

impl Inputs {
    /// Reads a batch's ids.
    pub(super) fn of(batch: &Batch, positions: Vec<u32>, types_are_tokens: bool) -> Result<Inputs> {
        Ok(Inputs {
            ids: batch.input_ids.to_vec1()?,
            types: batch.token_type_ids.to_vec1()?,
            positions,
            types_are_tokens,
        })
    }
}
