//! The state of a run and its control flags as scripts see them, in callbacks and as `trainer.state`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhai::Array;
use rhai::plugin::*;

use crate::api::callbacks::json_to_dynamic;
use crate::api::session::Session;
use crate::train::callbacks::TrainerControl;
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
pub struct Control(pub(super) Arc<Mutex<TrainerControl>>);

impl Control {
    pub(super) fn flags(&self) -> MutexGuard<'_, TrainerControl> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a run remembers of itself.
#[export_module]
mod state_functions {
    /// The number of the update that a trainer is making, from 1; 0 before the first one.
    ///
    /// It counts from the moment before the update to the moment before the next one, so that evaluations and callbacks
    /// after an update belong to it. A function that is to change with an update can ask for it.
    ///
    /// ```rhai
    /// expect(current_update() == 0, "nothing is being trained");
    /// fn weight() { if current_update() <= 100 { 1.0 } else { 0.5 } }
    /// expect(weight() == 1.0, "from update 101 on it is a half");
    /// ```
    pub fn current_update(context: NativeCallContext) -> i64 {
        Session::of(&context).live().update() as i64
    }

    /// How many updates have been made.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.global_step == 0, "nothing has been trained");
    /// ```
    #[rhai_fn(get = "global_step", pure)]
    pub fn global_step(state: &mut StateView) -> i64 {
        state.lock().global_step as i64
    }

    /// How many updates there will be.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.max_steps == 0, "nothing has been planned");
    /// ```
    #[rhai_fn(get = "max_steps", pure)]
    pub fn max_steps(state: &mut StateView) -> i64 {
        state.lock().max_steps as i64
    }

    /// How many epochs have passed, with the share of the current one.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.epoch == 0.0, "nothing has been trained");
    /// ```
    #[rhai_fn(get = "epoch", pure)]
    pub fn epoch(state: &mut StateView) -> f64 {
        state.lock().epoch
    }

    /// How many epochs there will be, the last one perhaps in part.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.num_train_epochs == 0, "nothing has been planned");
    /// ```
    #[rhai_fn(get = "num_train_epochs", pure)]
    pub fn num_train_epochs(state: &mut StateView) -> i64 {
        state.lock().num_train_epochs as i64
    }

    /// Every log and evaluation so far: an array of maps, each with `epoch` and `step`.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.log_history.is_empty(), "nothing has been logged");
    /// ```
    #[rhai_fn(get = "log_history", pure)]
    pub fn log_history(state: &mut StateView) -> Array {
        state.lock().log_history.iter().map(json_to_dynamic).collect()
    }

    /// The best value of `metric_for_best_model` so far, or `()`.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.best_metric == (), "nothing has been evaluated");
    /// ```
    #[rhai_fn(get = "best_metric", pure)]
    pub fn best_metric(state: &mut StateView) -> Dynamic {
        state.lock().best_metric.map_or(Dynamic::UNIT, Dynamic::from)
    }

    /// The update after which the best value was reached, or `()`.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.best_global_step == (), "nothing has been evaluated");
    /// ```
    #[rhai_fn(get = "best_global_step", pure)]
    pub fn best_global_step(state: &mut StateView) -> Dynamic {
        state.lock().best_global_step.map_or(Dynamic::UNIT, |step| Dynamic::from(step as i64))
    }

    /// The checkpoint that was saved then, or `()`.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.best_model_checkpoint == (), "nothing has been saved");
    /// ```
    #[rhai_fn(get = "best_model_checkpoint", pure)]
    pub fn best_model_checkpoint(state: &mut StateView) -> Dynamic {
        state.lock().best_model_checkpoint.clone().map_or(Dynamic::UNIT, Dynamic::from)
    }

    /// Whether this process is the one that writes: always true.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.is_world_process_zero, "one process trains");
    /// ```
    #[rhai_fn(get = "is_world_process_zero", pure)]
    pub fn is_world_process_zero(state: &mut StateView) -> bool {
        state.lock().is_world_process_zero
    }

    /// The step and epoch.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.to_string().contains("step 0"), "nothing has been trained");
    /// ```
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
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_training_stop { control.should_training_stop = true; } } }],
    /// });
    /// trainer.train();
    /// expect(trainer.state.global_step == 1, "stopped after the first update");
    /// ```
    #[rhai_fn(get = "should_training_stop", pure)]
    pub fn training_stop(control: &mut Control) -> bool {
        control.flags().should_training_stop
    }

    /// Stops training after this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_training_stop { control.should_training_stop = true; } } }],
    /// });
    /// trainer.train();
    /// expect(trainer.state.global_step == 1, "stopped after the first update");
    /// ```
    #[rhai_fn(set = "should_training_stop", pure)]
    pub fn set_training_stop(control: &mut Control, flag: bool) {
        control.flags().should_training_stop = flag;
    }

    /// Whether the epoch stops after this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_epoch_stop { control.should_epoch_stop = true; } } }],
    /// });
    /// trainer.train();
    /// expect(trainer.state.global_step == 3, "the epochs after it go on");
    /// ```
    #[rhai_fn(get = "should_epoch_stop", pure)]
    pub fn epoch_stop(control: &mut Control) -> bool {
        control.flags().should_epoch_stop
    }

    /// Stops the epoch after this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_epoch_stop { control.should_epoch_stop = true; } } }],
    /// });
    /// trainer.train();
    /// expect(trainer.state.global_step == 3, "the epochs after it go on");
    /// ```
    #[rhai_fn(set = "should_epoch_stop", pure)]
    pub fn set_epoch_stop(control: &mut Control, flag: bool) {
        control.flags().should_epoch_stop = flag;
    }

    /// Whether a checkpoint is saved after this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_save { control.should_save = true; } } }],
    /// });
    /// trainer.train();
    /// expect("global_step" in read_json("out/checkpoint-1/trainer_state.json"), "saved after the first update");
    /// ```
    #[rhai_fn(get = "should_save", pure)]
    pub fn save(control: &mut Control) -> bool {
        control.flags().should_save
    }

    /// Saves a checkpoint after this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_save { control.should_save = true; } } }],
    /// });
    /// trainer.train();
    /// expect("global_step" in read_json("out/checkpoint-1/trainer_state.json"), "saved after the first update");
    /// ```
    #[rhai_fn(set = "should_save", pure)]
    pub fn set_save(control: &mut Control, flag: bool) {
        control.flags().should_save = flag;
    }

    /// Whether an evaluation follows this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_evaluate { control.should_evaluate = true; } } }],
    /// });
    /// trainer.train();
    /// expect(trainer.state.log_history[0].step == 1 && "eval_loss" in trainer.state.log_history[0], "evaluated after the first update");
    /// ```
    #[rhai_fn(get = "should_evaluate", pure)]
    pub fn evaluate_flag(control: &mut Control) -> bool {
        control.flags().should_evaluate
    }

    /// Evaluates after this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_evaluate { control.should_evaluate = true; } } }],
    /// });
    /// trainer.train();
    /// expect(trainer.state.log_history[0].step == 1 && "eval_loss" in trainer.state.log_history[0], "evaluated after the first update");
    /// ```
    #[rhai_fn(set = "should_evaluate", pure)]
    pub fn set_evaluate(control: &mut Control, flag: bool) {
        control.flags().should_evaluate = flag;
    }

    /// Whether logs are written after this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_log { control.should_log = true; } } }],
    /// });
    /// trainer.train();
    /// expect("loss" in trainer.state.log_history[0], "logged after the first update");
    /// ```
    #[rhai_fn(get = "should_log", pure)]
    pub fn log_flag(control: &mut Control) -> bool {
        control.flags().should_log
    }

    /// Writes logs after this step.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:4]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [#{ on_step_end: |args, state, control, extra| { if state.global_step == 1 && !control.should_log { control.should_log = true; } } }],
    /// });
    /// trainer.train();
    /// expect("loss" in trainer.state.log_history[0], "logged after the first update");
    /// ```
    #[rhai_fn(set = "should_log", pure)]
    pub fn set_log(control: &mut Control, flag: bool) {
        control.flags().should_log = flag;
    }
}
