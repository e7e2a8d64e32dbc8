//! The schedule that waits for a metric: torch's `ReduceLROnPlateau`.
//!
//! Metrics of evaluations flow in, a learning rate flows out. Unlike the other schedules it has a state, which is
//! saved with a checkpoint.

use serde::{Deserialize, Serialize};

use crate::error::{Result, What};

/// torch's parameters of the same names.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlateauSettings {
    pub(crate) maximize: bool,
    pub(crate) factor: f64,
    pub(crate) patience: u64,
    pub(crate) threshold: f64,
    pub(crate) threshold_is_relative: bool,
    pub(crate) cooldown: u64,
    pub(crate) min_lr: f64,
    pub(crate) eps: f64,
}

impl Default for PlateauSettings {
    fn default() -> Self {
        PlateauSettings {
            maximize: false,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_is_relative: true,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
        }
    }
}

/// What the schedule remembers. `best` is none before the first metric, where torch has an infinity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlateauState {
    pub(crate) lr: f64,
    pub(crate) best: Option<f64>,
    pub(crate) num_bad_epochs: u64,
    pub(crate) cooldown_counter: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plateau {
    pub(crate) settings: PlateauSettings,
    pub(crate) state: PlateauState,
}

impl Plateau {
    pub(crate) fn new(settings: PlateauSettings, lr: f64) -> Self {
        Plateau { settings, state: PlateauState { lr, best: None, num_bad_epochs: 0, cooldown_counter: 0 } }
    }

    /// One evaluation has ended with this metric.
    pub(crate) fn observe(&mut self, metric: f64) {
        let better = self.is_better(metric);
        let (settings, state) = (&self.settings, &mut self.state);
        if better {
            state.best = Some(metric);
            state.num_bad_epochs = 0;
        } else {
            state.num_bad_epochs += 1;
        }
        if state.cooldown_counter > 0 {
            state.cooldown_counter -= 1;
            state.num_bad_epochs = 0;
        }
        if state.num_bad_epochs > settings.patience {
            let reduced = (state.lr * settings.factor).max(settings.min_lr);
            if state.lr - reduced > settings.eps {
                state.lr = reduced;
            }
            state.cooldown_counter = settings.cooldown;
            state.num_bad_epochs = 0;
        }
    }

    /// A metric that is not a number is never better.
    fn is_better(&self, metric: f64) -> bool {
        let PlateauSettings { maximize, threshold, threshold_is_relative, .. } = self.settings;
        let best = self.state.best.unwrap_or(if maximize { f64::NEG_INFINITY } else { f64::INFINITY });
        match (maximize, threshold_is_relative) {
            (false, true) => metric < best * (1.0 - threshold),
            (false, false) => metric < best - threshold,
            (true, true) => metric > best * (threshold + 1.0),
            (true, false) => metric > best + threshold,
        }
    }
}

impl PlateauState {
    /// Reads what a checkpoint holds.
    pub(crate) fn deserialize_from(state: &serde_json::Value) -> Result<Self> {
        Self::deserialize(state)
            .map_err(|error| What::Malformed { format: "schedule state".into(), problem: error.to_string() }.into())
    }
}
