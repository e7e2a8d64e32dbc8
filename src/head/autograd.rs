//! What a model keeps of a backward until its gradients are collected, and what a training loop of a script's own keeps of a model:
//! whether it trains, and the gradients added up so far.
//!
//! The trainer needs nothing of the latter: it says so with each batch, and adds up the gradients of a window by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use indexmap::IndexMap;

use crate::error::Result;
use crate::head::Model;
use crate::kernels::linear::GradientSink;
use crate::model::gradient::{Gradient, Pool};
use crate::model::parameters::{Parameter, Parameters};

/// Gradients by parameter name.
pub type Gradients = IndexMap<String, Gradient>;

/// Whether a model trains: torch's `train()` and `eval()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody has said: dropout is what the batch says, and a `DataLoader`'s batches do not drop.
    Unset,
    /// Dropout drops.
    Train,
    /// Nothing drops.
    Eval,
}

/// The state of a loop.
#[derive(Debug, Default)]
pub(super) struct LoopState {
    mode: AtomicU8,
    gradients: Mutex<Gradients>,
}

impl LoopState {
    pub(super) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            0 => Mode::Unset,
            1 => Mode::Train,
            _ => Mode::Eval,
        }
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    pub(super) fn gradients(&self) -> MutexGuard<'_, Gradients> {
        lock(&self.gradients)
    }
}

/// Gradients of the head's largest weights, in rooms that come back when they are dropped.
#[derive(Debug, Default)]
pub(super) struct Deposit {
    gradients: Mutex<Vec<(String, Gradient)>>,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
}

impl Deposit {
    /// The sink of a model with these parameters.
    pub(super) fn sink(self: &Arc<Self>, parameters: &Parameters) -> GradientSink {
        let (deposit, parameters) = (self.clone(), parameters.clone());
        Arc::new(move |tensor, write| {
            let all = parameters.all();
            let is_it = |parameter: &&Arc<Parameter>| parameter.value().id() == tensor.id();
            let Some(parameter) = all.iter().find(is_it) else { return false };
            let (name, value) = (parameter.name().to_string(), parameter.value());
            let pool = lock(&deposit.pools).entry(name.clone()).or_default().clone();
            let mut room = pool.lend(value.elem_count());
            write(room.numbers());
            lock(&deposit.gradients).push((name, Gradient::dense(value.dims(), room.into(), None)));
            true
        })
    }

    /// The gradients since the last call, by name.
    pub(super) fn take(&self) -> Vec<(String, Gradient)> {
        std::mem::take(&mut *lock(&self.gradients))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Model {
    /// Whether the model trains.
    pub fn mode(&self) -> Mode {
        self.loop_state().mode()
    }

    /// Says whether the model trains: what its `DataLoader`s make their batches for.
    pub fn set_mode(&self, mode: Mode) {
        self.loop_state().set_mode(mode);
    }

    /// The gradients that a loop of a script's own has added up.
    pub fn gradients(&self) -> MutexGuard<'_, Gradients> {
        self.loop_state().gradients()
    }

    /// The backward of a loss of this model. Of one that fails nothing is left.
    ///
    /// # Errors
    /// A tensor operation that fails, and a forward whose backward has been.
    pub fn backward(&self, loss: &Tensor) -> Result<GradStore> {
        loss.backward().inspect_err(|_| self.discard_gradients()).map_err(Into::into)
    }

    /// Drops what a backward has left beside candle's store.
    pub fn discard_gradients(&self) {
        self.head_gradients().take();
        self.encoder().take_gradients();
    }

    /// Moves the gradients of the trainable parameters out of what `backward` gave, and adds them to `sums`. Gives
    /// their number.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn collect_gradients(&self, store: &mut GradStore, sums: &mut Gradients) -> Result<usize> {
        // The whole of a table comes first: the rows that tokens looked up are added to it where it stands.
        let beside = self.head_gradients().take().into_iter().chain(self.encoder().take_gradients());
        collect(self.parameters(), beside.collect(), store, sums)
    }
}

/// Moves the gradients of the trainable parameters out of what `backward` gave, and adds them, and those that were left beside it, to
/// `sums`. Gives their number.
///
/// # Errors
/// A tensor operation that fails.
fn collect(
    parameters: &Parameters,
    beside: Vec<(String, Gradient)>,
    store: &mut GradStore,
    sums: &mut Gradients,
) -> Result<usize> {
    let mut by_name: IndexMap<String, Vec<Gradient>> = IndexMap::new();
    for (name, gradient) in beside {
        by_name.entry(name).or_default().push(gradient);
    }
    let mut count = 0;
    for parameter in parameters.all().iter().filter(|parameter| parameter.is_trainable()) {
        // A tied table has one gradient of the encoder, and one of the head.
        let mut found = by_name.swap_remove(parameter.name()).unwrap_or_default();
        found.extend(store.remove(parameter.value()).map(Gradient::from));
        count += usize::from(!found.is_empty());
        for gradient in found {
            match sums.get_mut(parameter.name()) {
                Some(sum) => sum.add(&gradient)?,
                None => drop(sums.insert(parameter.name().to_string(), gradient)),
            }
        }
    }
    Ok(count)
}
