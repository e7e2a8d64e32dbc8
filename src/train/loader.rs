//! Batches of a data set, epoch by epoch: which rows stand in which batch, and the batches themselves.
//!
//! Encoded rows and a layout flow in; windows of batches flow out, in an order that is a pure function of the seed and the
//! epoch. The trainer lays its epochs out with [`Layout`]; [`Loader`] is what a training loop of a script's own iterates.

use std::sync::Arc;

use crate::batch::{Batch, Draw, sampler};
use crate::error::{Error, Result, What};
use crate::head::prepare::Prepared;
use crate::head::{Mode, Model};
use crate::train::Sampling;
use crate::train::step::{batch_of, window_of};

/// How the rows of an epoch are cut into batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// Rows of a batch.
    pub batch_size: usize,
    /// Batches of a window: one update.
    pub accumulation: usize,
    /// Whether the last, smaller batch is left out.
    pub drop_last: bool,
    /// The order of the rows.
    pub sampling: Sampling,
    /// The seed of that order.
    pub seed: u64,
}

impl Layout {
    /// How many batches an epoch of `n` rows has. `drop_last` is the option's name, for messages.
    ///
    /// # Errors
    /// None at all.
    pub fn n_batches(&self, n: usize, drop_last: &str) -> Result<usize> {
        let size = self.batch_size;
        match if self.drop_last { n / size } else { n.div_ceil(size) } {
            0 => {
                let problem = format!("`{drop_last}` leaves no batch: the training set has {n} rows, a batch {size}");
                Err(Error::new(What::Conflict(problem))
                    .hint(format!("make the batch smaller, or leave `{drop_last}` out")))
            }
            count => Ok(count),
        }
    }

    /// The order of the features in an epoch.
    pub fn order(&self, epoch: usize, prepared: &Prepared) -> Vec<usize> {
        let n = prepared.features.len();
        match self.sampling {
            Sampling::Random => sampler::random(self.seed, epoch as u64, n),
            Sampling::Sequential => sampler::sequential(n),
            Sampling::GroupByLength => {
                let lengths: Vec<usize> = prepared.features.iter().map(|features| features.n_tokens()).collect();
                sampler::group_by_length(self.seed, epoch as u64, &lengths, self.batch_size * self.accumulation)
            }
        }
    }
}

/// What a training loop of a script's own iterates: the batches that the trainer would make. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    model: Model,
    prepared: Arc<Prepared>,
    layout: Layout,
    n_batches: usize,
    /// The seed of dropout.
    seed: u64,
    label_smoothing: f64,
}

impl Loader {
    /// A loader of encoded rows. `seed` is that of dropout.
    ///
    /// # Errors
    /// A layout without batches.
    pub fn new(model: Model, prepared: Prepared, layout: Layout, seed: u64, label_smoothing: f64) -> Result<Self> {
        let n_batches = layout.n_batches(prepared.features.len(), "drop_last")?;
        Ok(Loader { model, prepared: Arc::new(prepared), layout, n_batches, seed, label_smoothing })
    }

    /// The number of batches of an epoch.
    pub fn n_batches(&self) -> usize {
        self.n_batches
    }

    /// The number of updates of an epoch.
    pub fn n_updates(&self) -> usize {
        self.n_batches.div_ceil(self.layout.accumulation)
    }

    /// The number of encoded rows.
    pub fn n_rows(&self) -> usize {
        self.prepared.features.len()
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The order of the rows in an epoch.
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        self.layout.order(epoch, &self.prepared)
    }

    /// The batches of a window of an epoch whose order is `order`; none behind the last. While the model is in training
    /// mode they carry the draw of their update: dropout is a function of the seed and the number of the update.
    ///
    /// # Errors
    /// What packing and the task's `collate` raise.
    pub fn window(&self, epoch: usize, number: usize, order: &[usize]) -> Result<Option<Vec<Batch>>> {
        let Layout { batch_size, accumulation, .. } = self.layout;
        let batches: Vec<&[usize]> = order.chunks(batch_size).take(self.n_batches).collect();
        let Some(window) = batches.chunks(accumulation).nth(number) else { return Ok(None) };
        if self.model.mode() == Mode::Train {
            let step = (epoch * self.n_updates() + number) as u64;
            let draw = Draw { seed: self.seed, step };
            return window_of(&self.model, &self.prepared, window, self.label_smoothing, draw).map(Some);
        }
        let batch = |indices: &&[usize]| batch_of(&self.model, &self.prepared, indices, self.label_smoothing);
        let mut batches = window.iter().map(batch).collect::<Result<Vec<Batch>>>()?;
        Batch::share_out(&mut batches);
        Ok(Some(batches))
    }
}
