//! A study: trials, their values and states, and who decides about them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;

use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::train::search::pruner::{PercentilePruner, Pruner};
use crate::train::search::sampler::{History, Sampler, Tpe};
use crate::train::search::space::Distribution;

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smaller ones.
    Minimize,
    /// Larger ones.
    Maximize,
}

impl Direction {
    /// Hugging Face's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Minimize => "minimize",
            Direction::Maximize => "maximize",
        }
    }

    /// Whether `value` is better than `other`.
    pub fn is_better(self, value: f64, other: f64) -> bool {
        match self {
            Direction::Minimize => value < other,
            Direction::Maximize => value > other,
        }
    }
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is running.
    Running,
    /// It ran to its end and has a value.
    Complete,
    /// It was stopped because it fell behind.
    Pruned,
    /// It failed, or its value is not a number.
    Fail,
}

impl State {
    /// Every state.
    pub const ALL: [State; 4] = [State::Running, State::Complete, State::Pruned, State::Fail];

    /// Optuna's name.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Running => "RUNNING",
            State::Complete => "COMPLETE",
            State::Pruned => "PRUNED",
            State::Fail => "FAIL",
        }
    }
}

/// One trial.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Its number, from 0.
    pub number: usize,
    /// What became of it.
    pub state: State,
    /// The objective; a pruned trial has the one that it reported last.
    pub value: Option<f64>,
    /// The values that were suggested, in the order in which they were asked for.
    pub params: IndexMap<String, Value>,
    /// What they were chosen from.
    pub distributions: IndexMap<String, Distribution>,
    /// The objective at each evaluation, by the step.
    pub intermediate_values: BTreeMap<usize, f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Trials and who decides about them.
#[derive(Clone, Debug)]
pub struct Study {
    /// Which values are better.
    pub direction: Direction,
    /// Who suggests values.
    pub sampler: Sampler,
    /// Who stops trials.
    pub pruner: Pruner,
    /// The seed of the suggestions.
    pub seed: u64,
    /// All trials, in the order of their numbers.
    pub trials: Vec<Trial>,
    /// What was chosen together for the trial that is running.
    together: IndexMap<String, f64>,
}

impl Study {
    /// A study without trials, with Optuna's defaults: TPE, and the median pruner.
    pub fn new(direction: Direction, seed: u64) -> Self {
        let (sampler, pruner) = (Sampler::Tpe(Tpe::default()), Pruner::Percentile(PercentilePruner::default()));
        Study { direction, sampler, pruner, seed, trials: Vec::new(), together: IndexMap::new() }
    }

    fn history(&self, number: usize) -> History<'_> {
        History { trials: &self.trials, direction: self.direction, seed: self.seed, number }
    }

    /// Begins a trial and gives its number.
    pub fn begin(&mut self) -> usize {
        let number = self.trials.len();
        self.together = self.sampler.suggest_together(&self.history(number));
        self.trials.push(Trial {
            number,
            state: State::Running,
            value: None,
            params: IndexMap::new(),
            distributions: IndexMap::new(),
            intermediate_values: BTreeMap::new(),
            error: None,
            seconds: 0.0,
        });
        number
    }

    /// The trial's value of a parameter; asked for again, it is the same.
    ///
    /// # Errors
    /// A parameter that the trial has already, from other values.
    pub fn suggest(&mut self, number: usize, name: &str, distribution: Distribution) -> Result<Value> {
        if let (Some(known), Some(value)) =
            (self.trials[number].distributions.get(name), self.trials[number].params.get(name))
        {
            if *known == distribution {
                return Ok(value.clone());
            }
            let problem = format!("the trial has a parameter `{name}` already, chosen from other values");
            return Err(Error::new(What::Conflict(problem)).hint("give each parameter a name of its own"));
        }
        let together = self.together.get(name).copied();
        let internal = match together {
            _ if distribution.is_single() => random_single(&distribution),
            Some(internal) if self.is_common(name, &distribution) => internal,
            _ => self.sampler.suggest(&self.history(number), name, &distribution),
        };
        let value = distribution.value(internal);
        let trial = &mut self.trials[number];
        trial.params.insert(name.to_string(), value.clone());
        trial.distributions.insert(name.to_string(), distribution);
        Ok(value)
    }

    /// Whether the other trials chose from the same values.
    fn is_common(&self, name: &str, distribution: &Distribution) -> bool {
        self.trials.first().and_then(|trial| trial.distributions.get(name)) == Some(distribution)
    }

    /// Notes the objective at a step, and says whether the trial is to be stopped.
    pub fn report(&mut self, number: usize, step: usize, value: f64) -> bool {
        // As Optuna: the first value of a step stays.
        self.trials[number].intermediate_values.entry(step).or_insert(value);
        self.pruner.should_prune(&self.trials[number], &self.trials, self.direction)
    }

    /// Ends a trial. A value that is not a number makes it a failure; a pruned trial has the value it reported last.
    pub fn finish(&mut self, number: usize, state: State, value: Option<f64>) {
        let trial = &mut self.trials[number];
        let last = trial.intermediate_values.last_key_value().map(|(_, value)| *value);
        (trial.state, trial.value) = match (state, value) {
            (State::Complete, Some(value)) if !value.is_nan() => (State::Complete, Some(value)),
            (State::Complete, _) => {
                trial.error = Some("the objective is not a number".into());
                (State::Fail, None)
            }
            (State::Pruned, _) => (State::Pruned, last.filter(|value| !value.is_nan())),
            (other, _) => (other, None),
        };
    }

    /// The trials that TPE counts as good, in the order of their numbers.
    pub fn good_trials(&self) -> Vec<&Trial> {
        self.history(self.trials.len()).split().0
    }

    /// The best of the complete trials; the first of equal ones.
    pub fn best(&self) -> Option<&Trial> {
        let complete = self.trials.iter().filter(|trial| trial.state == State::Complete);
        complete.reduce(|best, next| match (next.value, best.value) {
            (Some(value), Some(other)) if self.direction.is_better(value, other) => next,
            _ => best,
        })
    }

    /// The trials as people want to see them: complete ones first, better before worse, then those that were stopped, then failures.
    pub fn ranked(&self) -> Vec<&Trial> {
        let place = |trial: &Trial| State::ALL[1..].iter().position(|state| *state == trial.state);
        let rank = |trial: &Trial| match (trial.value, self.direction) {
            (None, _) => f64::INFINITY,
            (Some(value), Direction::Minimize) => value,
            (Some(value), Direction::Maximize) => -value,
        };
        let mut trials: Vec<&Trial> = self.trials.iter().collect();
        trials.sort_by(|a, b| place(a).cmp(&place(b)).then(rank(a).total_cmp(&rank(b))));
        trials
    }
}

fn random_single(distribution: &Distribution) -> f64 {
    distribution.range().map_or(0.0, |range| range.low)
}

/// A trial that is running, as `hp_space` and its sisters get it. Cheap to clone; all clones are the same trial.
#[derive(Clone, Debug)]
pub struct TrialHandle {
    study: Arc<Mutex<Study>>,
    number: usize,
}

impl TrialHandle {
    /// The trial `number` of a study.
    pub fn new(study: Arc<Mutex<Study>>, number: usize) -> Self {
        TrialHandle { study, number }
    }

    /// The trial's number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// What was suggested so far.
    pub fn params(&self) -> IndexMap<String, Value> {
        self.study().trials[self.number].params.clone()
    }

    /// As [`Study::suggest`].
    ///
    /// # Errors
    /// As [`Study::suggest`].
    pub fn suggest(&self, name: &str, distribution: Distribution) -> Result<Value> {
        self.study().suggest(self.number, name, distribution)
    }

    /// The study that the trial is of.
    pub fn study(&self) -> MutexGuard<'_, Study> {
        self.study.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
