//! The encoder's weights packed for products: all of them where a forward keeps nothing, else half a layer at a time.
//!
//! Inference packs every layer once and reads it for batch after batch. Training changes the weights with each step, so each half
//! of a layer is packed when its turn comes, beside the work on the half before it, into room that the halves share: what was
//! packed is still in the caches when it is multiplied, and it takes the memory of one layer.

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::tiles::Kernels;
use crate::model::fused::pass::Keep;
use crate::model::fused::weights::{Directions, Matrix, PackedMatrix, PackedNorm};
use crate::model::fused::{Fused, FusedHalf, lock};
use crate::model::gradient::Pool;

/// Which half of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Queries, keys and values, attention and its output.
    Attention,
    /// The feed-forward part.
    FeedForward,
}

impl Half {
    /// Both, in the order of the forward.
    pub(super) const BOTH: [Half; 2] = [Half::Attention, Half::FeedForward];
}

/// A half of one of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) layer: usize,
    pub(super) half: Half,
}

/// The first and the second matrix of a half.
#[derive(Debug, Default)]
pub(super) struct PackedHalf {
    pub(super) matrices: [PackedMatrix; 2],
}

/// A layer's halves.
pub(super) type PackedLayer = [PackedHalf; 2];

/// The weights as they were at one moment.
#[derive(Debug)]
pub(super) struct Packed {
    /// Of the weights.
    pub(super) version: u64,
    pub(super) kernels: &'static Kernels,
    pub(super) norm: Option<PackedNorm>,
    pub(super) projection: Option<PackedMatrix>,
    /// The norms of all layers.
    pub(super) norms: Vec<[PackedNorm; 2]>,
    pub(super) final_norm: Option<PackedNorm>,
    /// All layers for the forward; `None` where each is packed in its turn.
    pub(super) layers: Option<Vec<PackedLayer>>,
}

impl Fused {
    /// The weights as they are now, packed once for each version of them.
    pub(super) fn packed(&self, kernels: &'static Kernels, keep: Keep) -> Result<Arc<Packed>> {
        let (version, is_whole) = (self.version(), keep == Keep::Nothing);
        let mut slot = lock(&self.packed);
        if let Some(packed) = &*slot
            && packed.version == version
            && packed.layers.is_some() == is_whole
            && std::ptr::eq(packed.kernels, kernels)
        {
            return Ok(packed.clone());
        }
        // The old buffers are taken over where no forward holds them.
        let old = slot.take().and_then(|packed| Arc::try_unwrap(packed).ok());
        let mut packed = old.filter(|old| std::ptr::eq(old.kernels, kernels)).unwrap_or_else(|| Packed {
            version,
            kernels,
            norm: self.norm.as_ref().map(|_| PackedNorm::default()),
            projection: self.projection.as_ref().map(|_| PackedMatrix::default()),
            norms: self.layers.iter().map(|_| Default::default()).collect(),
            final_norm: self.final_norm.as_ref().map(|_| PackedNorm::default()),
            layers: None,
        });
        packed.version = version;
        if !is_whole {
            packed.layers = None;
        } else if packed.layers.is_none() {
            packed.layers = Some(self.layers.iter().map(|_| PackedLayer::default()).collect());
        }
        packed.fill(self)?;
        let packed = Arc::new(packed);
        *slot = Some(packed.clone());
        Ok(packed)
    }

    /// Another number whenever a parameter may have changed.
    pub(super) fn version(&self) -> u64 {
        let tables = [Some(&self.word), Some(&self.position), self.token_type.as_ref()];
        let tables = tables.into_iter().flatten().map(|table| &table.weight);
        let halves = self.layers.iter().flat_map(|layer| &layer.halves);
        let norms = self.norm.iter().chain(&self.final_norm).chain(halves.clone().map(|half| &half.norm));
        let matrices = self.projection.iter().chain(halves.flat_map(|half| &half.matrices));
        let of_norms = norms.flat_map(|norm| [&norm.weight, &norm.bias]);
        let of_matrices = matrices.flat_map(|matrix| matrix.weights.iter().chain(&matrix.biases));
        // Each count only grows, so the sum stays the same where all of them do.
        tables.chain(of_norms).chain(of_matrices).map(|parameter| parameter.variable().changes()).sum()
    }

    /// How many numbers of each layer's halves' weights training changes.
    pub(in crate::model) fn trained_in_halves(&self) -> Vec<[usize; 2]> {
        let trained = |half: &FusedHalf| half.trainable_weights().map(|(_, n)| n).sum();
        self.layers.iter().map(|layer| layer.halves.each_ref().map(trained)).collect()
    }

    /// Packs the matrices of a half.
    pub(super) fn pack_half(
        &self,
        kernels: &Kernels,
        directions: Directions,
        place: Place,
        room: &mut PackedHalf,
    ) -> Result<()> {
        self.half(place).pack(kernels, directions, room)
    }

    /// A half's parameters.
    pub(super) fn half(&self, place: Place) -> &FusedHalf {
        &self.layers[place.layer].halves[place.half as usize]
    }
}

impl FusedHalf {
    fn pack(&self, kernels: &Kernels, directions: Directions, room: &mut PackedHalf) -> Result<()> {
        let mut gathered = Vec::new();
        let each = self.matrices.iter().zip(&mut room.matrices);
        each.into_iter().try_for_each(|(matrix, packed)| matrix.pack(kernels, directions, packed, &mut gathered))
    }

    /// The pools of the weights that training changes, with the numbers of their gradients.
    pub(super) fn trainable_weights(&self) -> impl Iterator<Item = (&Arc<Pool>, usize)> {
        let weights = self.matrices.iter().flat_map(Matrix::trainable_weights);
        weights.map(|(weight, pool)| (pool, weight.value().elem_count()))
    }

    /// Whether training changes any of it.
    pub(super) fn is_trainable(&self) -> bool {
        let norm = [&self.norm.weight, &self.norm.bias];
        self.matrices.iter().any(Matrix::is_trainable) || norm.into_iter().any(|parameter| parameter.is_trainable())
    }
}

impl Packed {
    fn fill(&mut self, fused: &Fused) -> Result<()> {
        let kernels = self.kernels;
        for (norm, packed) in
            fused.norm.iter().chain(&fused.final_norm).zip(self.norm.iter_mut().chain(&mut self.final_norm))
        {
            packed.pack(norm)?;
        }
        for (layer, packed) in fused.layers.iter().zip(&mut self.norms) {
            for (half, packed) in layer.halves.iter().zip(packed) {
                packed.pack(&half.norm)?;
            }
        }
        if let (Some(matrix), Some(packed)) = (&fused.projection, &mut self.projection) {
            let directions = if self.layers.is_some() { Directions::Forward } else { Directions::Both };
            matrix.pack(kernels, directions, packed, &mut Vec::new())?;
        }
        let Some(layers) = &mut self.layers else { return Ok(()) };
        let halves = layers
            .par_iter_mut()
            .zip(&fused.layers)
            .flat_map(|(packed, layer)| packed.par_iter_mut().zip(&layer.halves));
        halves.try_for_each(|(packed, half)| half.pack(kernels, Directions::Forward, packed))
    }
}
