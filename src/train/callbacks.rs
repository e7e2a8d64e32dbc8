//! What happens between the steps: events, the flags that callbacks set, and Hugging Face's two own callbacks.
//!
//! The trainer announces an [`Event`] with the arguments, the state and the [`TrainerControl`]; callbacks set flags, and
//! the trainer acts on them. Callbacks written in a script implement [`Callback`] elsewhere.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, What};
use crate::train::arguments::TrainingArguments;
use crate::train::state::TrainerState;
use crate::train::{Interval, SaveInterval};

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A moment of a run, by Hugging Face's name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Event { $($(#[$doc])* $variant,)* }

        impl Event {
            /// Every event.
            pub const ALL: &[Event] = &[$(Event::$variant),*];

            /// Hugging Face's name: `on_step_end`, ...
            pub fn name(self) -> &'static str {
                match self { $(Event::$variant => $name,)* }
            }
        }
    };
}

events! {
    /// The trainer has been made.
    InitEnd = "on_init_end",
    /// Training begins.
    TrainBegin = "on_train_begin",
    /// Training has ended.
    TrainEnd = "on_train_end",
    /// An epoch begins.
    EpochBegin = "on_epoch_begin",
    /// An epoch has ended.
    EpochEnd = "on_epoch_end",
    /// The first batch of an update begins.
    StepBegin = "on_step_begin",
    /// Gradients are clipped, the optimizer comes next.
    PreOptimizerStep = "on_pre_optimizer_step",
    /// The optimizer has changed the weights; gradients are still there.
    OptimizerStep = "on_optimizer_step",
    /// A batch of an accumulation has ended, and it was not the last.
    SubstepEnd = "on_substep_end",
    /// An update has ended.
    StepEnd = "on_step_end",
    /// An evaluation has ended; its metrics are at hand.
    Evaluate = "on_evaluate",
    /// A prediction has ended; its metrics are at hand.
    Predict = "on_predict",
    /// A checkpoint has been saved.
    Save = "on_save",
    /// Logs are at hand.
    Log = "on_log",
    /// A batch of an evaluation or a prediction has ended.
    PredictionStep = "on_prediction_step",
}

impl Event {
    /// The event of that name.
    pub fn named(name: &str) -> Option<Event> {
        Event::ALL.iter().copied().find(|event| event.name() == name)
    }
}

/// Flags by which callbacks steer the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerControl {
    /// Training stops after this step. It is never taken back during a run.
    pub should_training_stop: bool,
    /// The epoch stops after this step; taken back when the next one begins.
    pub should_epoch_stop: bool,
    /// A checkpoint is saved after this step; taken back when it is saved, or when the next step begins.
    pub should_save: bool,
    /// An evaluation follows this step; taken back when it has ended, or when the next step begins.
    pub should_evaluate: bool,
    /// Logs are written after this step; taken back when they are written, or when the next step begins.
    pub should_log: bool,
}

impl TrainerControl {
    /// A run begins: before `on_train_begin`.
    pub fn new_training(&mut self) {
        self.should_training_stop = false;
    }

    /// An epoch begins: before `on_epoch_begin`.
    pub fn new_epoch(&mut self) {
        self.should_epoch_stop = false;
    }

    /// A step begins: before `on_step_begin`.
    pub fn new_step(&mut self) {
        self.should_save = false;
        self.should_evaluate = false;
        self.should_log = false;
    }

    /// What a flag asked for has been done: before the callbacks are told, so that they may ask for it again.
    pub fn done(&mut self, event: Event) {
        match event {
            Event::Log => self.should_log = false,
            Event::Evaluate => self.should_evaluate = false,
            Event::Save => self.should_save = false,
            _ => {}
        }
    }

    /// The entry `TrainerControl` of `stateful_callbacks`.
    pub fn state(&self) -> Value {
        json!({ "args": self, "attributes": {} })
    }
}

/// How far an evaluation or a prediction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Batches done.
    pub done: usize,
    /// Batches in all.
    pub total: usize,
}

/// What an event brings besides arguments, state and control.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extra<'a> {
    /// The logs, at `on_log`.
    pub logs: Option<&'a Map<String, Value>>,
    /// The metrics, at `on_evaluate` and `on_predict`.
    pub metrics: Option<&'a Map<String, Value>>,
    /// How far an evaluation or a prediction has come, at `on_prediction_step`.
    pub progress: Option<Progress>,
    /// The checkpoint, at `on_save`.
    pub checkpoint: Option<&'a Path>,
}

/// Something that is told of every event.
pub trait Callback {
    /// An event has come. An error ends the run.
    ///
    /// # Errors
    /// Whatever makes going on pointless.
    fn on_event(
        &mut self,
        event: Event,
        args: &TrainingArguments,
        state: &mut TrainerState,
        control: &mut TrainerControl,
        extra: &Extra,
    ) -> Result<()>;

    /// What has to be saved: the callback's name and its state, in Hugging Face's form `{args, attributes}`.
    fn state(&self) -> Option<(String, Value)> {
        None
    }

    /// Takes up a saved state; called only with one that carries the callback's own name.
    ///
    /// # Errors
    /// A state that cannot be read.
    fn load_state(&mut self, _state: &Value) -> Result<()> {
        Ok(())
    }

    /// Warnings since the last call; the trainer shows them.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// When to log, evaluate, save and stop, as the arguments say.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultFlowCallback;

impl Callback for DefaultFlowCallback {
    fn on_event(
        &mut self,
        event: Event,
        args: &TrainingArguments,
        state: &mut TrainerState,
        control: &mut TrainerControl,
        _extra: &Extra,
    ) -> Result<()> {
        match event {
            Event::StepEnd => after_step(args, state, control),
            Event::EpochEnd => after_epoch(args, state, control),
            _ => {}
        }
        Ok(())
    }
}

fn after_step(args: &TrainingArguments, state: &TrainerState, control: &mut TrainerControl) {
    let step = state.global_step;
    let due = |interval: usize| interval > 0 && step.is_multiple_of(interval);
    if step == 1 && args.logging_first_step {
        control.should_log = true;
    }
    if args.logging_strategy == Interval::Steps && due(state.logging_steps) {
        control.should_log = true;
    }
    let is_last = step >= state.max_steps;
    // The last step is always evaluated and saved where steps are what counts.
    let evaluates = args.eval_strategy == Interval::Steps && args.eval_delay <= step as f64;
    if evaluates && (due(state.eval_steps) || is_last) {
        control.should_evaluate = true;
    }
    if args.save_strategy == SaveInterval::Steps && (due(state.save_steps) || is_last) {
        control.should_save = true;
    }
    if is_last {
        control.should_training_stop = true;
    }
}

fn after_epoch(args: &TrainingArguments, state: &TrainerState, control: &mut TrainerControl) {
    if args.logging_strategy == Interval::Epoch {
        control.should_log = true;
    }
    if args.eval_strategy == Interval::Epoch && args.eval_delay <= state.epoch {
        control.should_evaluate = true;
    }
    if args.save_strategy == SaveInterval::Epoch {
        control.should_save = true;
    }
}

/// Stops training when the metric has not improved for a number of evaluations.
///
/// The trainer has to announce `on_evaluate` before it calls [`TrainerState::note_evaluation`], as Hugging Face does:
/// the metric is compared with the best of the evaluations before.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyStoppingCallback {
    patience: u64,
    threshold: f64,
    counter: u64,
    /// Whether the run that goes on had been stopped.
    has_stopped: bool,
    warnings: Vec<String>,
}

impl EarlyStoppingCallback {
    /// Stops after `patience` evaluations without an improvement of more than `threshold`.
    pub fn new(patience: u64, threshold: f64) -> Self {
        EarlyStoppingCallback { patience, threshold, counter: 0, has_stopped: false, warnings: Vec::new() }
    }

    fn begin(&mut self, args: &TrainingArguments) -> Result<()> {
        let needs = |what: &str, write: &str| {
            Err(Error::new(What::Conflict(format!("`EarlyStoppingCallback` needs {what}")))
                .hint(format!("write `{write}`")))
        };
        if args.metric_for_best_model.is_none() {
            return needs("`metric_for_best_model`", "metric_for_best_model: \"loss\"");
        }
        if args.eval_strategy == Interval::No {
            return needs("an `eval_strategy`", "eval_strategy: \"epoch\"");
        }
        if !args.load_best_model_at_end {
            let text = "`EarlyStoppingCallback` without `load_best_model_at_end`: training ends with the last weights";
            self.warnings.push(text.into());
        }
        Ok(())
    }

    fn evaluated(&mut self, args: &TrainingArguments, state: &TrainerState, metrics: &Map<String, Value>) -> bool {
        let Some(key) = args.best_metric_key() else { return false };
        let Some(value) = metrics.get(&key) else {
            self.warnings.push(format!("early stopping is off: the evaluation has no `{key}`"));
            return false;
        };
        let metric = value.as_f64().unwrap_or(f64::NAN);
        let improved = state.best_metric.is_none_or(|best| {
            let better = if args.greater_is_better == Some(true) { metric > best } else { metric < best };
            better && (metric - best).abs() > self.threshold
        });
        self.counter = if improved { 0 } else { self.counter + 1 };
        self.counter >= self.patience
    }
}

impl Callback for EarlyStoppingCallback {
    fn on_event(
        &mut self,
        event: Event,
        args: &TrainingArguments,
        state: &mut TrainerState,
        control: &mut TrainerControl,
        extra: &Extra,
    ) -> Result<()> {
        match (event, extra.metrics) {
            (Event::TrainBegin, _) => {
                self.begin(args)?;
                control.should_training_stop |= self.has_stopped;
            }
            (Event::Evaluate, Some(metrics)) if self.evaluated(args, state, metrics) => {
                control.should_training_stop = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn state(&self) -> Option<(String, Value)> {
        let args = json!({ "early_stopping_patience": self.patience, "early_stopping_threshold": self.threshold });
        let attributes = json!({ "early_stopping_patience_counter": self.counter });
        Some(("EarlyStoppingCallback".into(), json!({ "args": args, "attributes": attributes })))
    }

    /// The counter comes back; patience and threshold stay as they are written now.
    fn load_state(&mut self, state: &Value) -> Result<()> {
        let counter = &state["attributes"]["early_stopping_patience_counter"];
        self.counter = counter.as_u64().ok_or_else(|| {
            Error::new(What::Malformed {
                format: "trainer_state.json".into(),
                problem: "`EarlyStoppingCallback` has no `early_stopping_patience_counter`".into(),
            })
        })?;
        self.has_stopped = self.counter > 0 && self.counter >= self.patience;
        if self.has_stopped {
            let n = self.counter;
            self.warnings.push(format!("early stopping has ended this run: {n} evaluations without an improvement"));
        }
        Ok(())
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}
