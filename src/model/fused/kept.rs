//! Where the largest of what a forward keeps lies: queries, keys and values, and what activations are made of.
//!
//! It lies in the rooms that its half's weight gradients take: they are formed when the backward is through with the half, and by
//! then nobody needs what was kept. So a half takes the memory of one of both.

use crate::kernels::rows;
use crate::model::fused::block::{Block, room, room_for};
use crate::model::fused::packed::Half;
use crate::model::fused::pass::{Keep, Pass};
use crate::model::fused::weights::padded;
use crate::model::fused::{Fused, FusedHalf};
use crate::model::gradient::Room;

/// What one half keeps of all blocks.
#[derive(Debug, Default)]
pub(super) struct KeptHalf {
    /// Those of the half's trainable weights, in their order; at least one.
    rooms: Vec<Room>,
    /// Which room each block has a share of, and how many numbers that is. Shares follow each other in the order of the blocks.
    shares: Vec<(usize, usize)>,
}

/// What the layers keep, by layer and half.
pub(super) type Kept = Vec<[KeptHalf; 2]>;

impl Fused {
    /// Room for what a pass keeps: for every layer, for one where layers are computed again, or none.
    pub(super) fn room_to_keep(&self, pass: &Pass, blocks: &[Block]) -> Kept {
        let n_layers = match pass.keep {
            Keep::Nothing => 0,
            Keep::Inputs => self.layers.len().min(1),
            Keep::Everything => self.layers.len(),
        };
        let layers = self.layers.iter().take(n_layers);
        layers
            .map(|layer| Half::BOTH.map(|half| self.room_of_half(pass, &layer.halves[half as usize], half, blocks)))
            .collect()
    }

    fn room_of_half(&self, pass: &Pass, weights: &FusedHalf, half: Half, blocks: &[Block]) -> KeptHalf {
        let width = match half {
            Half::Attention => weights.matrices[0].width(),
            Half::FeedForward => self.config.intermediate_size,
        };
        let share = |block: &Block| {
            let numbers = room_for(block.n_tokens(), width);
            if pass.rounds() { numbers / 2 } else { numbers }
        };
        let mut pools: Vec<_> = weights.trainable_weights().map(|(pool, n)| (pool, n, 0)).collect();
        if pass.keep == Keep::Inputs || pools.is_empty() {
            // The layers take turns, so that their gradients cannot lie here.
            pools = vec![(&self.again[half as usize], 0, 0)];
        }
        let mut shares = Vec::with_capacity(blocks.len());
        for n in blocks.iter().map(share) {
            // Where it adds the least to what the gradient takes anyway.
            let added = |(_, own, used): &(_, usize, usize)| (used + n).saturating_sub(*own.max(used));
            let best = (0..pools.len()).min_by_key(|&place| added(&pools[place])).unwrap_or(0);
            pools[best].2 += n;
            shares.push((best, n));
        }
        KeptHalf { rooms: pools.into_iter().map(|(pool, own, used)| pool.lend(own.max(used))).collect(), shares }
    }
}

impl KeptHalf {
    /// The shares of the blocks; nothing where nothing is kept.
    pub(super) fn split(&mut self) -> Vec<&mut [f32]> {
        let mut rests: Vec<&mut [f32]> = self.rooms.iter_mut().map(Room::numbers).collect();
        let mut share = |(place, n): &(usize, usize)| {
            let (own, rest) = std::mem::take(&mut rests[*place]).split_at_mut(*n);
            rests[*place] = rest;
            own
        };
        self.shares.iter().map(&mut share).collect()
    }

    /// The rooms, for gradients: what was kept is not needed any more.
    pub(super) fn into_rooms(self) -> Vec<Room> {
        self.rooms
    }
}

/// A share as bf16 numbers.
pub(super) fn rounded(share: &mut [f32]) -> &mut [u16] {
    bytemuck::cast_slice_mut(share)
}

/// Keeps `n` rows of `width` numbers rounded.
pub(super) fn keep_rounded(values: &[f32], n: usize, width: usize, share: &mut [f32]) {
    let all = n * padded(width);
    rows::round(&values[..all], &mut rounded(share)[..all]);
}

/// Rows as they were kept, to be changed: whoever takes them has them for the last time. Rounded ones are widened into `scratch`.
pub(super) fn take<'a>(
    share: &'a mut [f32],
    scratch: &'a mut Vec<f32>,
    n: usize,
    width: usize,
    rounds: bool,
) -> &'a mut [f32] {
    if !rounds {
        return share;
    }
    let (wide, all) = (room(scratch, n, width), n * padded(width));
    rows::widen(&rounded(share)[..all], &mut wide[..all]);
    wide
}
