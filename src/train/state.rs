//! What a run remembers of itself: Hugging Face's `TrainerState`, the file `trainer_state.json`.
//!
//! The trainer counts steps and appends logs; callbacks and scripts read it; checkpoints keep it under Hugging Face's
//! key names. What makes an evaluation the best so far is decided here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Place, Result, What};
use crate::train::arguments::TrainingArguments;

/// The state of a run. Keys that a file has and this program does not know are passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerState {
    /// How many epochs have passed, with the share of the current one.
    pub epoch: f64,
    /// How many updates have been made.
    pub global_step: usize,
    /// How many updates there will be.
    pub max_steps: usize,
    /// Updates between logs.
    pub logging_steps: usize,
    /// Updates between evaluations.
    pub eval_steps: usize,
    /// Updates between checkpoints.
    pub save_steps: usize,
    /// Rows of a training batch.
    pub train_batch_size: Option<usize>,
    /// How many epochs are begun.
    pub num_train_epochs: usize,
    /// Not counted; kept because the file has it.
    pub num_input_tokens_seen: usize,
    /// Not counted; kept because the file has it.
    pub total_flos: f64,
    /// Every log and evaluation, each with `epoch` and `step`.
    pub log_history: Vec<Map<String, Value>>,
    /// The best value of `metric_for_best_model` so far.
    pub best_metric: Option<f64>,
    /// The update after which it was reached.
    pub best_global_step: Option<usize>,
    /// The checkpoint that was saved then.
    pub best_model_checkpoint: Option<String>,
    /// Always true: one process trains.
    pub is_local_process_zero: bool,
    /// Always true: one process trains.
    pub is_world_process_zero: bool,
    /// Whether this run is a trial of a search.
    pub is_hyper_param_search: bool,
    /// The trial's name.
    pub trial_name: Option<String>,
    /// The trial's parameters.
    pub trial_params: Option<Map<String, Value>>,
    /// What callbacks remember, by their names.
    pub stateful_callbacks: Map<String, Value>,
}

impl Default for TrainerState {
    fn default() -> Self {
        TrainerState {
            epoch: 0.0,
            global_step: 0,
            max_steps: 0,
            logging_steps: 500,
            eval_steps: 500,
            save_steps: 500,
            train_batch_size: None,
            num_train_epochs: 0,
            num_input_tokens_seen: 0,
            total_flos: 0.0,
            log_history: Vec::new(),
            best_metric: None,
            best_global_step: None,
            best_model_checkpoint: None,
            is_local_process_zero: true,
            is_world_process_zero: true,
            is_hyper_param_search: false,
            trial_name: None,
            trial_params: None,
            stateful_callbacks: Map::new(),
        }
    }
}

/// The trial of a search that a run is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrialState {
    /// Its name, where the search names its trials.
    pub name: Option<String>,
    /// The values that were suggested for it.
    pub params: Map<String, Value>,
}

impl TrainerState {
    /// The state of a run before its first step.
    pub fn new(trial: Option<&TrialState>) -> Self {
        TrainerState {
            is_hyper_param_search: trial.is_some(),
            trial_name: trial.and_then(|trial| trial.name.clone()),
            trial_params: trial.map(|trial| trial.params.clone()),
            ..TrainerState::default()
        }
    }

    /// Sets the total and turns intervals that are shares of it into numbers of updates.
    pub fn plan(&mut self, args: &TrainingArguments, max_steps: usize, num_train_epochs: usize) {
        self.max_steps = max_steps;
        self.num_train_epochs = num_train_epochs;
        self.train_batch_size = Some(args.per_device_train_batch_size);
        self.logging_steps = TrainingArguments::interval(args.logging_steps, max_steps);
        self.save_steps = TrainingArguments::interval(args.save_steps, max_steps);
        if let Some(steps) = args.eval_steps {
            self.eval_steps = TrainingArguments::interval(steps, max_steps);
        }
    }

    /// Appends a log to the history: its own keys, `epoch`, `step`. Returns the log with its epoch, as it is shown.
    pub fn log(&mut self, mut logs: Map<String, Value>) -> Map<String, Value> {
        logs.insert("epoch".into(), self.epoch.into());
        let mut entry = logs.clone();
        entry.insert("step".into(), self.global_step.into());
        self.log_history.push(entry);
        logs
    }

    /// Compares an evaluation with the best so far and remembers it where it is better. Returns whether it was.
    ///
    /// # Errors
    /// Metrics without the one that `metric_for_best_model` names.
    pub fn note_evaluation(&mut self, args: &TrainingArguments, metrics: &Map<String, Value>) -> Result<bool> {
        let Some(key) = args.best_metric_key() else { return Ok(false) };
        let metric = required_metric(metrics, &key)?;
        let better = match self.best_metric {
            // Hugging Face starts from an infinity, which no metric that is not a number beats.
            None => !metric.is_nan(),
            Some(best) if args.greater_is_better == Some(true) => metric > best,
            Some(best) => metric < best,
        };
        if better {
            self.best_metric = Some(metric);
            if args.save_strategy != crate::train::SaveInterval::No {
                self.best_global_step = Some(self.global_step);
            }
        }
        Ok(better)
    }

    /// The state as `trainer_state.json` holds it: keys in alphabetical order.
    pub fn to_json(&self) -> Value {
        sorted(serde_json::to_value(self).expect("a state is made of strings, numbers and maps of them"))
    }

    /// Reads `trainer_state.json`; `path` is for messages.
    ///
    /// # Errors
    /// Text that is not JSON, or keys with values of another type.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| {
            let what = What::Malformed { format: "trainer_state.json".into(), problem: error.to_string() };
            Error::new(what).at(Place::line(path, error.line(), Some(error.column())))
        })
    }
}

/// The metric of that name.
///
/// # Errors
/// Metrics without it; the error names those that are there.
pub fn required_metric(metrics: &Map<String, Value>, key: &str) -> Result<f64> {
    // A metric that is not finite is null in JSON, and not missing.
    let metric = metrics.get(key).map(|value| if value.is_null() { Some(f64::NAN) } else { value.as_f64() });
    match metric {
        Some(Some(metric)) => Ok(metric),
        Some(None) => {
            let (name, got) = (format!("the metric `{key}`"), metrics[key].to_string());
            Err(What::WrongType { name, wanted: "a number".into(), got }.into())
        }
        None => {
            let there = metrics
                .keys()
                .filter(|key| key.starts_with("eval_"))
                .map(|key| format!("`{key}`"))
                .collect::<Vec<_>>()
                .join(", ");
            let error = Error::new(What::NotFound { kind: "metric", name: key.into() });
            Err(error.hint(format!("set `metric_for_best_model` to one of the evaluation's: {there}")))
        }
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.into_iter().collect();
            pairs.sort_by(|left, right| left.0.cmp(&right.0));
            Value::Object(pairs.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        other => other,
    }
}
