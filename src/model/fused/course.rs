//! How threads share out the work of a forward or a backward.
//!
//! Blocks differ in size, and there are few of them, so threads that wait for each other after every half of a layer would stand
//! still for a good part of the time. In a forward each block goes on alone as far as weights are packed; in a backward the strips
//! of the weights' gradients, short and many, come last and even out the end.

use std::sync::{Mutex, RwLock};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::tiles::Kernels;
use crate::model::fused::block::{AtWork, Block};
use crate::model::fused::kept::Kept;
use crate::model::fused::packed::{Half, PackedHalf, Place};
use crate::model::fused::pass::{Keep, Pass};
use crate::model::fused::weights::Directions;
use crate::model::fused::{Fused, lock};

/// Work that one thread does alone: it calls nothing that is shared out in turn.
pub(super) type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Does all tasks. Each begins as a thread is free, in their order.
pub(super) fn in_order(tasks: Vec<Task<'_>>) {
    let n = tasks.len().min(rayon::current_num_threads());
    let tasks = Mutex::new(tasks.into_iter());
    let next = || lock(&tasks).next();
    (0..n).into_par_iter().with_max_len(1).for_each(|_| std::iter::from_fn(next).for_each(|task| task()));
}

/// What can be done next in a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The weights of this half are packed, into the room of the half before the last.
    Pack(usize),
    /// This block goes through this half.
    Block(usize, usize),
}

/// How far a forward has come. Halves are counted from 0.
#[derive(Debug)]
struct Progress {
    n_halves: usize,
    /// Halves that are packed, and whether the next one is being packed.
    packed: usize,
    is_packing: bool,
    /// Halves that each block has been through, and whether it is in the next one.
    blocks: Vec<(usize, bool)>,
    /// Calls of [`Course::step`] that have not begun.
    called: usize,
    failure: Option<Error>,
}

impl Progress {
    /// All that could begin now, the most urgent first.
    fn ready(&self) -> Vec<Step> {
        if self.failure.is_some() {
            return Vec::new();
        }
        let through = self.blocks.iter().map(|(done, _)| *done).min().unwrap_or(self.n_halves);
        // Two halves have room: this one takes that of the half that all blocks have left.
        let packs = !self.is_packing && self.packed < self.n_halves && self.packed <= through + 1;
        let mut blocks: Vec<(usize, usize)> = (0..self.blocks.len())
            .map(|block| (self.blocks[block], block))
            .filter(|((done, at_work), _)| !at_work && *done < self.packed)
            .map(|((done, _), block)| (done, block))
            .collect();
        blocks.sort_unstable();
        let pack = packs.then_some(Step::Pack(self.packed));
        pack.into_iter().chain(blocks.into_iter().map(|(half, block)| Step::Block(block, half))).collect()
    }

    fn begin(&mut self) -> Option<Step> {
        self.called -= 1;
        let step = self.ready().into_iter().next()?;
        match step {
            Step::Pack(_) => self.is_packing = true,
            Step::Block(block, _) => self.blocks[block].1 = true,
        }
        Some(step)
    }

    fn end(&mut self, step: Step) {
        match step {
            Step::Pack(_) => (self.packed, self.is_packing) = (self.packed + 1, false),
            Step::Block(block, half) => self.blocks[block] = (half + 1, false),
        }
    }
}

/// A block with its shares of what the halves keep.
type Traveller<'a> = Mutex<(&'a mut Block, Vec<&'a mut [f32]>)>;

/// A forward through halves that are packed in their turn.
struct Course<'a, W> {
    fused: &'a Fused,
    pass: &'a Pass,
    places: &'a [Place],
    rooms: [RwLock<&'a mut PackedHalf>; 2],
    blocks: Vec<Traveller<'a>>,
    progress: Mutex<Progress>,
    work: W,
}

impl<'a, W: Fn(Place, &PackedHalf, AtWork<'_>) + Sync> Course<'a, W> {
    /// Calls as many threads as there is work for.
    fn call<'s>(&'s self, scope: &rayon::Scope<'s>) {
        let mut progress = lock(&self.progress);
        let missing = progress.ready().len().saturating_sub(progress.called);
        progress.called += missing;
        drop(progress);
        for _ in 0..missing {
            scope.spawn(|scope| self.step(scope));
        }
    }

    fn step<'s>(&'s self, scope: &rayon::Scope<'s>) {
        let Some(step) = lock(&self.progress).begin() else { return };
        match step {
            Step::Pack(half) => {
                let mut room = self.rooms[half % 2].write().unwrap_or_else(|poisoned| poisoned.into_inner());
                let packed = self.fused.pack_half(self.pass.kernels, Directions::Forward, self.places[half], &mut room);
                if let Err(error) = packed {
                    lock(&self.progress).failure = Some(error);
                }
            }
            Step::Block(number, half) => {
                let room = self.rooms[half % 2].read().unwrap_or_else(|poisoned| poisoned.into_inner());
                let mut traveller = lock(&self.blocks[number]);
                let (block, shares) = &mut *traveller;
                let place = self.places[half];
                let share = &mut *shares[2 * self.pass.keep.memory_of(place.layer) + place.half as usize];
                self.fused.with_scratch(|scratch| (self.work)(place, &room, AtWork { block, share, scratch }));
            }
        }
        lock(&self.progress).end(step);
        self.call(scope);
    }
}

impl Fused {
    /// Takes every block through all layers by `work`; the weights of each half are packed in their turn.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub(super) fn forward_in_turn(
        &self,
        pass: &Pass,
        blocks: &mut [Block],
        kept: &mut Kept,
        work: impl Fn(Place, &PackedHalf, AtWork<'_>) + Sync,
    ) -> Result<()> {
        debug_assert!(pass.keep != Keep::Nothing);
        let places = self.places(0);
        let mut shares: Vec<Vec<&mut [f32]>> = blocks.iter().map(|_| Vec::new()).collect();
        for half in kept.iter_mut().flatten() {
            shares.iter_mut().zip(half.split()).for_each(|(shares, share)| shares.push(share));
        }
        let mut turns = lock(&self.turns).pop().unwrap_or_default();
        let [first, second] = &mut turns;
        let progress = Progress {
            n_halves: places.len(),
            packed: 0,
            is_packing: false,
            blocks: vec![(0, false); blocks.len()],
            called: 0,
            failure: None,
        };
        let course = Course {
            fused: self,
            pass,
            places: &places,
            rooms: [RwLock::new(first), RwLock::new(second)],
            blocks: blocks.iter_mut().zip(shares).map(Mutex::new).collect(),
            progress: Mutex::new(progress),
            work,
        };
        rayon::scope(|scope| course.call(scope));
        let failure = lock(&course.progress).failure.take();
        drop(course);
        lock(&self.turns).push(turns);
        failure.map_or(Ok(()), Err)
    }

    /// Calls `work` with each of `places`, its weights and a task that packs those of the next place. The places come half by half,
    /// alternately.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub(super) fn backward_in_turn(
        &self,
        kernels: &Kernels,
        places: &[Place],
        mut work: impl FnMut(Place, &PackedHalf, Task<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut turns = lock(&self.turns).pop().unwrap_or_default();
        let [attention, feed_forward] = &mut turns;
        if let Some(first) = places.first() {
            let room = if first.half == Half::Attention { &mut *attention } else { &mut *feed_forward };
            self.pack_half(kernels, Directions::Backward, *first, room)?;
        }
        for (number, &place) in places.iter().enumerate() {
            let (now, other) = match place.half {
                Half::Attention => (&*attention, &mut *feed_forward),
                Half::FeedForward => (&*feed_forward, &mut *attention),
            };
            let mut packed = Ok(());
            let next = places.get(number + 1);
            let pack =
                || packed = next.map_or(Ok(()), |next| self.pack_half(kernels, Directions::Backward, *next, other));
            work(place, now, Box::new(pack))?;
            packed?;
        }
        lock(&self.turns).push(turns);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::rng::Rng;

    /// Whatever the order in which steps end: blocks find their halves packed and not yet replaced, and all of them arrive.
    #[test]
    fn blocks_find_their_weights_in_any_order() {
        for (case, (n_halves, n_blocks, n_threads)) in
            [(0, 3, 2), (2, 1, 1), (4, 1, 3), (6, 7, 2), (24, 8, 2), (12, 5, 16)].into_iter().enumerate()
        {
            let rng = Rng::new(3, "course", case as u64);
            let mut progress = Progress {
                n_halves,
                packed: 0,
                is_packing: false,
                blocks: vec![(0, false); n_blocks],
                called: 0,
                failure: None,
            };
            // Which half each of the two rooms holds.
            let mut rooms = [None, None];
            let mut running: Vec<Step> = Vec::new();
            for draw in 0.. {
                while running.len() < n_threads && !progress.ready().is_empty() {
                    progress.called += 1;
                    let step = progress.begin().unwrap();
                    let reads = |half: usize| {
                        running.iter().any(|other| matches!(other, Step::Block(_, other) if *other == half))
                    };
                    match step {
                        Step::Pack(half) => {
                            assert!(half < 2 || !reads(half - 2), "half {half} is packed over one that is read");
                            rooms[half % 2] = None;
                        }
                        Step::Block(block, half) => {
                            assert_eq!(progress.blocks[block].0, half);
                            assert_eq!(rooms[half % 2], Some(half));
                        }
                    }
                    running.push(step);
                }
                if running.is_empty() {
                    break;
                }
                let step = running.swap_remove((rng.uniform(draw) * running.len() as f64) as usize);
                if let Step::Pack(half) = step {
                    rooms[half % 2] = Some(half);
                }
                progress.end(step);
            }
            assert!(progress.blocks.iter().all(|block| *block == (n_halves, false)), "{:?}", progress.blocks);
        }
    }

    #[test]
    fn tasks_begin_in_their_order_and_all_are_done() {
        let begun = Mutex::new(Vec::new());
        for n in [0, 1, 2, 100] {
            let task = |number: usize| -> Task<'_> {
                let begun = &begun;
                Box::new(move || lock(begun).push(number))
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            pool.install(|| in_order((0..n).map(task).collect()));
            assert_eq!(*lock(&begun), (0..n).collect::<Vec<_>>());
            lock(&begun).clear();
            in_order((0..n).map(task).collect());
            let mut all = std::mem::take(&mut *lock(&begun));
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }
}
