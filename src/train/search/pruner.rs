//! Which trials are stopped before their end: Optuna's `MedianPruner` and `PercentilePruner`.

use crate::train::search::study::{Direction, State, Trial};

/// Decides after each evaluation of a trial whether it goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pruner {
    /// Every trial runs to its end.
    None,
    /// A trial is stopped where its best value so far is worse than the percentile of the others' values at the same step.
    Percentile(PercentilePruner),
}

/// The settings of the percentile pruner; with the percentile 50 it is the median pruner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PercentilePruner {
    /// The share of trials that go on, from 0 to 100.
    pub percentile: f64,
    /// Trials that have to be complete before any is stopped.
    pub n_startup_trials: usize,
    /// Steps before which no trial is stopped.
    pub n_warmup_steps: usize,
    /// Steps between two decisions.
    pub interval_steps: usize,
    /// Values at the same step that a decision needs.
    pub n_min_trials: usize,
}

impl Default for PercentilePruner {
    fn default() -> Self {
        let (percentile, n_startup_trials, n_warmup_steps) = (50.0, 5, 0);
        PercentilePruner { percentile, n_startup_trials, n_warmup_steps, interval_steps: 1, n_min_trials: 1 }
    }
}

impl Pruner {
    /// Whether `trial`, which has just reported a value, is stopped. `trials` are all of the study.
    pub fn should_prune(&self, trial: &Trial, trials: &[Trial], direction: Direction) -> bool {
        match self {
            Pruner::None => false,
            Pruner::Percentile(settings) => settings.should_prune(trial, trials, direction),
        }
    }
}

impl PercentilePruner {
    fn should_prune(&self, trial: &Trial, trials: &[Trial], direction: Direction) -> bool {
        let complete: Vec<&Trial> = trials.iter().filter(|trial| trial.state == State::Complete).collect();
        let Some((&step, _)) = trial.intermediate_values.last_key_value() else { return false };
        if complete.is_empty() || complete.len() < self.n_startup_trials || step < self.n_warmup_steps {
            return false;
        }
        let since = (step - self.n_warmup_steps) / self.interval_steps * self.interval_steps + self.n_warmup_steps;
        if trial.intermediate_values.range(since..step).next().is_some() {
            return false;
        }
        let own = trial.intermediate_values.values().copied().filter(|value| !value.is_nan());
        let Some(best) = own.reduce(|a, b| if direction.is_better(b, a) { b } else { a }) else { return true };
        let others = complete.iter().filter_map(|trial| trial.intermediate_values.get(&step).copied());
        let others: Vec<f64> = others.collect();
        if others.len() < self.n_min_trials {
            return false;
        }
        let percentile = match direction {
            Direction::Minimize => self.percentile,
            Direction::Maximize => 100.0 - self.percentile,
        };
        percentile_of(others, percentile).is_some_and(|limit| direction.is_better(limit, best))
    }
}

/// numpy's `nanpercentile`, linear between neighbours; none where all are NaN.
fn percentile_of(values: Vec<f64>, percentile: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let place = percentile / 100.0 * sorted.len().checked_sub(1)? as f64;
    let (below, share) = (sorted[place.floor() as usize], place.fract());
    let above = sorted[place.ceil() as usize];
    // An infinite neighbour must not turn a share of 0 into NaN.
    let value = if share == 0.0 { below } else { below + (above - below) * share };
    (!value.is_nan()).then_some(value)
}
