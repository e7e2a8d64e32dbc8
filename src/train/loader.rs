//! Batches of a data set, epoch by epoch: which rows stand in which batch, and the batches themselves.
//!
//! Encoded rows and a layout flow in; windows of batches flow out, in an order that is a pure function of the seed, the epoch
//! and the rows' lengths. The trainer lays its epochs out with [`Layout`]; [`Loader`] is what a training loop of a script's own iterates.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::cut::{Cut, Limits};
use crate::batch::{Batch, Draw, sampler};
use crate::error::{Error, Result, What};
use crate::head::prepare::Prepared;
use crate::head::{Mode, Model};
use crate::train::Sampling;
use crate::train::step::{batch_of, window_of};

/// How the rows of an epoch are cut into batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// What a batch holds.
    pub limits: Limits,
    /// Batches of a window: one update.
    pub accumulation: usize,
    /// The order of the rows.
    pub sampling: Sampling,
    /// The seed of that order.
    pub seed: u64,
}

impl Layout {
    /// How many batches an epoch has. `drop_last` is the option's name, for messages.
    ///
    /// # Errors
    /// None at all.
    pub fn n_batches(&self, epoch: usize, prepared: &Prepared, drop_last: &str) -> Result<usize> {
        let n = prepared.features.len();
        let count =
            if self.limits.are_even() { self.limits.n_even_batches(n) } else { self.cut(epoch, prepared).n_batches() };
        if count > 0 {
            return Ok(count);
        }
        let size = match (self.limits.rows, self.limits.tokens) {
            (Some(rows), _) => format!("{rows}"),
            (None, tokens) => format!("{} tokens", tokens.unwrap_or(0)),
        };
        let problem = format!("`{drop_last}` leaves no batch: the training set has {n} rows, a batch {size}");
        Err(Error::new(What::Conflict(problem)).hint(format!("make the batch smaller, or leave `{drop_last}` out")))
    }

    /// Whether all epochs have the same number of batches.
    pub fn is_same_each_epoch(&self) -> bool {
        self.limits.are_even() || self.sampling == Sampling::Sequential
    }

    /// The batches of an epoch: a function of the seed, the epoch and the rows' lengths.
    pub fn cut(&self, epoch: usize, prepared: &Prepared) -> Cut {
        let n = prepared.features.len();
        let order = match self.sampling {
            Sampling::Random => sampler::random(self.seed, epoch as u64, n),
            Sampling::Sequential => sampler::sequential(n),
            Sampling::GroupByLength => {
                let lengths: Vec<usize> = prepared.features.iter().map(|features| features.n_tokens()).collect();
                let rows = self.limits.typical_rows(&lengths);
                sampler::group_by_length(self.seed, epoch as u64, &lengths, rows.saturating_mul(self.accumulation))
            }
        };
        Cut::new(order, self.limits, |row| prepared.features[row].n_tokens())
    }
}

/// What a training loop of a script's own iterates: the batches that the trainer would make. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    model: Model,
    prepared: Arc<Prepared>,
    layout: Layout,
    /// The seed of dropout.
    seed: u64,
    label_smoothing: f64,
}

/// An epoch of a [`Loader`].
#[derive(Clone, Debug, Default)]
pub struct LoaderEpoch {
    cut: Cut,
    /// The updates of the epochs before.
    first_step: usize,
}

impl Loader {
    /// A loader of encoded rows. `seed` is that of dropout.
    ///
    /// # Errors
    /// A layout without batches.
    pub fn new(model: Model, prepared: Prepared, layout: Layout, seed: u64, label_smoothing: f64) -> Result<Self> {
        layout.n_batches(0, &prepared, "drop_last")?;
        Ok(Loader { model, prepared: Arc::new(prepared), layout, seed, label_smoothing })
    }

    /// The number of batches of an epoch.
    pub fn n_batches(&self, epoch: usize) -> usize {
        self.layout.n_batches(epoch, &self.prepared, "drop_last").unwrap_or(0)
    }

    /// The number of updates of an epoch.
    pub fn n_updates(&self, epoch: usize) -> usize {
        self.n_batches(epoch).div_ceil(self.layout.accumulation)
    }

    /// The number of encoded rows.
    pub fn n_rows(&self) -> usize {
        self.prepared.features.len()
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The batches of an epoch.
    pub fn epoch(&self, epoch: usize) -> LoaderEpoch {
        let first_step = if self.layout.is_same_each_epoch() {
            epoch * self.n_updates(0)
        } else {
            (0..epoch).map(|epoch| self.n_updates(epoch)).sum()
        };
        LoaderEpoch { cut: self.layout.cut(epoch, &self.prepared), first_step }
    }

    /// The batches of a window of an epoch; none behind the last. While the model is in training mode they carry the draw of
    /// their update: dropout is a function of the seed and the number of the update.
    ///
    /// # Errors
    /// What packing and the task's `collate` raise.
    pub fn window(&self, epoch: &LoaderEpoch, number: usize) -> Result<Option<Vec<Batch>>> {
        let Some(window) = epoch.cut.window(number, self.layout.accumulation) else { return Ok(None) };
        if self.model.mode() == Mode::Train {
            let draw = Draw { seed: self.seed, step: (epoch.first_step + number) as u64 };
            return window_of(&self.model, &self.prepared, &window, self.label_smoothing, draw).map(Some);
        }
        let batch = |indices: &&[usize]| batch_of(&self.model, &self.prepared, indices, self.label_smoothing);
        let mut batches = window.iter().map(batch).collect::<Result<Vec<Batch>>>()?;
        Batch::share_out(&mut batches);
        Ok(Some(batches))
    }
}
