//! The fused encoder as one operation of candle's autograd.
//!
//! Its input is an anchor, a variable of one number that makes the result part of the graph; its backward leaves the gradients of
//! the parameters with the encoder, where the training step fetches them.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, Var};

use crate::batch::Batch;
use crate::error::Result;
use crate::kernels::dropout::TokenNumber;
use crate::kernels::profile;
use crate::kernels::tiles::Kernels;
use crate::kernels::with_values;
use crate::model::fused::block::Block;
use crate::model::fused::kept::Kept;
use crate::model::fused::pass::{Dropout, Inputs, Keep, LayerPass, Pass};
use crate::model::fused::{Checkpointing, Fused, lock};
use crate::model::parameters;

/// Tokens of a batch whose products the threads share: a sentence or two, which are one block.
pub(super) const FEW_ROWS: usize = 48;

/// What one call of the encoder is made of.
pub(in crate::model) struct Call<'a> {
    pub(in crate::model) batch: &'a Batch,
    pub(in crate::model) kernels: &'static Kernels,
    /// The entries of the position table.
    pub(in crate::model) positions: Vec<u32>,
    /// What each layer's scores are multiplied by.
    pub(in crate::model) scales: Vec<f32>,
}

/// A forward that waits for its backward.
struct Waiting {
    fused: Arc<Fused>,
    pass: Pass,
    /// None after the backward, which leaves nothing for another one.
    blocks: Mutex<Vec<Block>>,
    kept: Mutex<Kept>,
    hidden: Mutex<Option<Vec<f32>>>,
    shape: (usize, usize),
}

impl Fused {
    /// The last hidden states of a batch, `(tokens, hidden)`: part of the graph where anything in the encoder is trainable.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub(in crate::model) fn call(self: &Arc<Self>, call: Call<'_>) -> Result<Tensor> {
        let Call { batch, kernels, positions, scales } = call;
        let numbers: Arc<[TokenNumber]> = batch.token_numbers().into();
        let layers = scales
            .iter()
            .enumerate()
            .map(|(number, &scale)| LayerPass::new(number, scale, &self.config, batch, &numbers));
        let types_are_tokens = self.config.token_types_are_tokens && batch.has_token_types;
        let keep = match self.is_trainable() && parameters::tracked() {
            false => Keep::Nothing,
            true if self.checkpointing() == Checkpointing::On => Keep::Inputs,
            true => Keep::Everything,
        };
        let mut blocks = self.take_blocks(&batch.starts);
        let pass = Pass {
            kernels,
            packed: self.packed(kernels, keep)?,
            keep,
            // Without a backward a single block is shared too, whatever its size.
            has_few_rows: batch.n_tokens() <= FEW_ROWS || (keep == Keep::Nothing && blocks.len() == 1),
            inputs: Inputs::of(batch, positions, types_are_tokens)?,
            starts: batch.starts.clone(),
            key_lengths: batch.key_lengths.clone(),
            embedding_dropout: Dropout::new(batch.draw, self.config.embedding_dropout, "embeddings", &numbers),
            layers: layers.collect(),
        };
        let mut kept = self.room_to_keep(&pass, &blocks);
        let hidden = match pass.has_few_rows {
            // Within a worker thread the next task begins where the last one ended, without waking anybody.
            true => rayon::scope(|_| self.forward(&pass, &mut blocks, &mut kept))?,
            false => self.forward(&pass, &mut blocks, &mut kept)?,
        };
        let shape = (batch.n_tokens(), self.config.hidden_size);
        let device = batch.input_ids.device();
        if keep == Keep::Nothing {
            self.keep_blocks(blocks);
            return Ok(Tensor::from_vec(hidden, shape, device)?);
        }
        let (blocks, kept) = (Mutex::new(blocks), Mutex::new(kept));
        let waiting = Waiting { fused: self.clone(), pass, blocks, kept, hidden: Mutex::new(Some(hidden)), shape };
        let anchor = Var::zeros(1, candle_core::DType::F32, device)?;
        Ok(anchor.as_tensor().apply_op1(waiting)?)
    }
}

impl CustomOp1 for Waiting {
    fn name(&self) -> &'static str {
        "encoder"
    }

    fn cpu_fwd(&self, _anchor: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        match lock(&self.hidden).take() {
            Some(hidden) => Ok((CpuStorage::F32(hidden), Shape::from(self.shape))),
            None => candle_core::bail!("the encoder's forward was asked for twice"),
        }
    }

    fn bwd(&self, _anchor: &Tensor, _hidden: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let _part = profile::pause();
        if self.fused.version() != self.pass.packed.version {
            candle_core::bail!(
                "the encoder's parameters have changed since the forward whose loss this is: call `backward` before `step`"
            );
        }
        let mut blocks = std::mem::take(&mut *lock(&self.blocks));
        if blocks.is_empty() {
            candle_core::bail!(
                "a second backward through the same forward: add the losses up before `backward`, or call `forward` again"
            );
        }
        let kept = std::mem::take(&mut *lock(&self.kept));
        let back = |[gradient]: [&[f32]; 1]| self.fused.backward(&self.pass, &mut blocks, kept, gradient);
        let gradients = with_values([gradient], back)?.map_err(candle_core::Error::wrap)?;
        self.fused.keep_blocks(blocks);
        lock(&self.fused.deposit).extend(gradients);
        Ok(None)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut *lock(&self.blocks));
        if !blocks.is_empty() {
            self.fused.keep_blocks(blocks);
        }
    }
}
