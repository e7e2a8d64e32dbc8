//! What a training loop of a script's own keeps of a model: whether it trains, and the gradients added up so far.
//!
//! The trainer needs neither: it says so with each batch, and adds up the gradients of a window by itself.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use indexmap::IndexMap;

use crate::error::Result;
use crate::model::gradient::Gradient;
use crate::model::parameters::Parameters;

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
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves the gradients of the trainable parameters out of what `backward` gave, and adds them, and those that the fused encoder has
/// left, to `sums`. Gives their number.
///
/// # Errors
/// A tensor operation that fails.
pub(super) fn collect(
    parameters: &Parameters,
    of_encoder: Vec<(String, Gradient)>,
    store: &mut GradStore,
    sums: &mut Gradients,
) -> Result<usize> {
    let mut by_name: IndexMap<String, Vec<Gradient>> = IndexMap::new();
    for (name, gradient) in of_encoder {
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
