//! Callbacks written in a script: a map from Hugging Face's event names to functions of `(args, state, control, extra)`.
//!
//! The state is a view that the trainer keeps up to date; setting a flag of the control steers the run, as in Hugging Face.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhai::plugin::*;
use rhai::{Array, FnPtr, Map};
use serde_json::{Map as JsonMap, Value as Json};

use crate::api::options::Options;
use crate::api::training_arguments::{EarlyStopping, TrainingArguments as Arguments};
use crate::data::Value;
use crate::error::{Error, Result, What, nearest};
use crate::head::Model;
use crate::head::script::convert::{lower, to_dynamic, type_name};
use crate::train::TrainingArguments;
use crate::train::callbacks::{Callback, Event, Extra, TrainerControl};
use crate::train::state::TrainerState;

/// Makes the types known to an engine.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<StateView>("TrainerState");
    engine.register_type_with_name::<Control>("TrainerControl");
    engine.register_global_module(exported_module!(state_functions).into());
    engine.register_global_module(exported_module!(control_functions).into());
}

/// The state of a run as scripts see it; the trainer keeps it up to date.
#[derive(Clone, Default)]
pub struct StateView(Arc<Mutex<TrainerState>>);

impl StateView {
    fn lock(&self) -> MutexGuard<'_, TrainerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what has changed. The log history only grows during a run, so only its new entries are copied.
    pub fn follow(&self, state: &TrainerState) {
        let mut view = self.lock();
        let mut history = std::mem::take(&mut view.log_history);
        if history.len() > state.log_history.len() || state.global_step < view.global_step {
            history.clear();
        }
        history.extend_from_slice(&state.log_history[history.len()..]);
        *view = TrainerState {
            log_history: history,
            best_model_checkpoint: state.best_model_checkpoint.clone(),
            trial_name: state.trial_name.clone(),
            trial_params: state.trial_params.clone(),
            stateful_callbacks: state.stateful_callbacks.clone(),
            ..*state
        };
    }
}

/// The flags by which callbacks steer the run.
#[derive(Clone)]
pub struct Control(Arc<Mutex<TrainerControl>>);

impl Control {
    fn flags(&self) -> MutexGuard<'_, TrainerControl> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One entry of the Trainer's `callbacks`.
#[derive(Clone)]
pub enum CallbackSetting {
    /// Functions by event name.
    Script(Vec<(Event, FnPtr)>),
    /// Early stopping.
    EarlyStopping(EarlyStopping),
}

impl CallbackSetting {
    /// Reads an entry of `callbacks`.
    ///
    /// # Errors
    /// An unknown event, with the nearest one; a value that is no function.
    pub fn read(value: &Dynamic) -> Result<Self> {
        if let Some(early) = value.clone().try_cast::<EarlyStopping>() {
            return Ok(CallbackSetting::EarlyStopping(early));
        }
        let Some(map) = value.clone().try_cast::<Map>() else {
            return Err(What::WrongType {
                name: "a callback".into(),
                wanted: "a map from event names to functions, or an `EarlyStoppingCallback`".into(),
                got: type_name(value),
            }
            .into());
        };
        let mut functions = Vec::new();
        for (name, function) in map {
            let Some(event) = Event::named(&name) else {
                let error = Error::new(What::UnknownOption { key: name.to_string(), of: "a callback".into() });
                let names: Vec<_> = Event::ALL.iter().map(|event| event.name()).collect();
                return Err(match nearest(&name, names.iter().copied()) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint(format!("the events are {}", names.join(", "))),
                });
            };
            let Some(function) = function.clone().try_cast::<FnPtr>() else {
                let (name, got) = (format!("`{name}` of a callback"), type_name(&function));
                let error = Error::new(What::WrongType { name, wanted: "a function".into(), got });
                return Err(error.hint("write `|args, state, control, extra| { ... }`, or `Fn(\"name\")`"));
            };
            functions.push((event, function));
        }
        Ok(CallbackSetting::Script(functions))
    }
}

/// A script's callback during one call of the trainer.
pub(super) struct ScriptCallback<'a> {
    pub(super) context: &'a NativeCallContext<'a>,
    pub(super) functions: Vec<(Event, FnPtr)>,
    pub(super) arguments: Arguments,
    pub(super) view: StateView,
    pub(super) model: Model,
}

impl Callback for ScriptCallback<'_> {
    fn on_event(
        &mut self,
        event: Event,
        _args: &TrainingArguments,
        state: &mut TrainerState,
        control: &mut TrainerControl,
        extra: &Extra,
    ) -> Result<()> {
        for (wanted, function) in &self.functions {
            if *wanted != event {
                continue;
            }
            self.view.follow(state);
            let shared = Control(Arc::new(Mutex::new(*control)));
            let mut map = Map::new();
            map.insert("model".into(), Dynamic::from(self.model.clone()));
            for (name, values) in [("logs", extra.logs), ("metrics", extra.metrics)] {
                if let Some(values) = values {
                    map.insert(name.into(), json_to_dynamic(values));
                }
            }
            let args = (self.arguments.clone(), self.view.clone(), shared.clone(), map);
            let _: Dynamic = function.call_within_context(self.context, args).map_err(lower)?;
            *control = *shared.flags();
        }
        Ok(())
    }
}

/// Keeps the view of the state up to date, whatever other callbacks there are.
pub(super) struct Follow(pub(super) StateView);

impl Callback for Follow {
    fn on_event(
        &mut self,
        event: Event,
        _args: &TrainingArguments,
        state: &mut TrainerState,
        _control: &mut TrainerControl,
        _extra: &Extra,
    ) -> Result<()> {
        if event != Event::PredictionStep {
            self.0.follow(state);
        }
        Ok(())
    }
}

/// A JSON object as a script sees it.
pub(super) fn json_to_dynamic(map: &JsonMap<String, Json>) -> Dynamic {
    to_dynamic(&Value::from(Json::Object(map.clone())))
}

/// Reads the `callbacks` of a Trainer.
pub(super) fn read_all(options: &mut Options) -> Result<Vec<CallbackSetting>> {
    let list: Array = options.array("callbacks")?.unwrap_or_default();
    list.iter().map(CallbackSetting::read).collect()
}

/// What a run remembers of itself.
#[export_module]
mod state_functions {
    /// How many updates have been made.
    #[rhai_fn(get = "global_step", pure)]
    pub fn global_step(state: &mut StateView) -> i64 {
        state.lock().global_step as i64
    }

    /// How many updates there will be.
    #[rhai_fn(get = "max_steps", pure)]
    pub fn max_steps(state: &mut StateView) -> i64 {
        state.lock().max_steps as i64
    }

    /// How many epochs have passed, with the share of the current one.
    #[rhai_fn(get = "epoch", pure)]
    pub fn epoch(state: &mut StateView) -> f64 {
        state.lock().epoch
    }

    /// How many epochs there will be, the last one perhaps in part.
    #[rhai_fn(get = "num_train_epochs", pure)]
    pub fn num_train_epochs(state: &mut StateView) -> i64 {
        state.lock().num_train_epochs as i64
    }

    /// Every log and evaluation so far: an array of maps, each with `epoch` and `step`.
    #[rhai_fn(get = "log_history", pure)]
    pub fn log_history(state: &mut StateView) -> Array {
        state.lock().log_history.iter().map(json_to_dynamic).collect()
    }

    /// The best value of `metric_for_best_model` so far, or `()`.
    #[rhai_fn(get = "best_metric", pure)]
    pub fn best_metric(state: &mut StateView) -> Dynamic {
        state.lock().best_metric.map_or(Dynamic::UNIT, Dynamic::from)
    }

    /// The update after which the best value was reached, or `()`.
    #[rhai_fn(get = "best_global_step", pure)]
    pub fn best_global_step(state: &mut StateView) -> Dynamic {
        state.lock().best_global_step.map_or(Dynamic::UNIT, |step| Dynamic::from(step as i64))
    }

    /// The checkpoint that was saved then, or `()`.
    #[rhai_fn(get = "best_model_checkpoint", pure)]
    pub fn best_model_checkpoint(state: &mut StateView) -> Dynamic {
        state.lock().best_model_checkpoint.clone().map_or(Dynamic::UNIT, Dynamic::from)
    }

    /// Whether this process is the one that writes: always true.
    #[rhai_fn(get = "is_world_process_zero", pure)]
    pub fn is_world_process_zero(state: &mut StateView) -> bool {
        state.lock().is_world_process_zero
    }

    /// The step and epoch.
    #[rhai_fn(global, name = "to_string", name = "to_debug", pure)]
    pub fn state_to_string(state: &mut StateView) -> String {
        let state = state.lock();
        format!("TrainerState(step {} of {}, epoch {:.2})", state.global_step, state.max_steps, state.epoch)
    }
}

/// The flags by which callbacks steer a run.
#[export_module]
mod control_functions {
    /// Whether training stops after this step.
    #[rhai_fn(get = "should_training_stop", pure)]
    pub fn training_stop(control: &mut Control) -> bool {
        control.flags().should_training_stop
    }

    /// Stops training after this step.
    #[rhai_fn(set = "should_training_stop", pure)]
    pub fn set_training_stop(control: &mut Control, flag: bool) {
        control.flags().should_training_stop = flag;
    }

    /// Whether the epoch stops after this step.
    #[rhai_fn(get = "should_epoch_stop", pure)]
    pub fn epoch_stop(control: &mut Control) -> bool {
        control.flags().should_epoch_stop
    }

    /// Stops the epoch after this step.
    #[rhai_fn(set = "should_epoch_stop", pure)]
    pub fn set_epoch_stop(control: &mut Control, flag: bool) {
        control.flags().should_epoch_stop = flag;
    }

    /// Whether a checkpoint is saved after this step.
    #[rhai_fn(get = "should_save", pure)]
    pub fn save(control: &mut Control) -> bool {
        control.flags().should_save
    }

    /// Saves a checkpoint after this step.
    #[rhai_fn(set = "should_save", pure)]
    pub fn set_save(control: &mut Control, flag: bool) {
        control.flags().should_save = flag;
    }

    /// Whether an evaluation follows this step.
    #[rhai_fn(get = "should_evaluate", pure)]
    pub fn evaluate_flag(control: &mut Control) -> bool {
        control.flags().should_evaluate
    }

    /// Evaluates after this step.
    #[rhai_fn(set = "should_evaluate", pure)]
    pub fn set_evaluate(control: &mut Control, flag: bool) {
        control.flags().should_evaluate = flag;
    }

    /// Whether logs are written after this step.
    #[rhai_fn(get = "should_log", pure)]
    pub fn log_flag(control: &mut Control) -> bool {
        control.flags().should_log
    }

    /// Writes logs after this step.
    #[rhai_fn(set = "should_log", pure)]
    pub fn set_log(control: &mut Control, flag: bool) {
        control.flags().should_log = flag;
    }
}
