//! The trainer: steps, and what happens between them, in Hugging Face's order.
//!
//! A model, arguments and data sets flow in; trained weights, a [`TrainerState`] and checkpoints flow out. What is shown,
//! callbacks, metrics and a loss of the user's own come in as [`Hooks`] with each call, so that the trainer knows nothing
//! of scripts or terminals. How a run is cut into epochs is left to `epochs`, what may change meanwhile to `live`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value as Json};

use crate::batch::Draw;
use crate::data::durable::Lock;
use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What};
use crate::head::prepare::Prepared;
use crate::head::{Model, Predictions, labels, options};
use crate::tokenizer::Tokenizer;
use crate::train::callbacks::{Callback, DefaultFlowCallback, Event, Extra, TrainerControl};
use crate::train::checkpoint::progress::{Position, Progress};
use crate::train::checkpoint::{Saved, Scripts, folders, manifest};
use crate::train::compute_loss::ComputeLoss;
use crate::train::epochs::Plan;
use crate::train::evaluation::EvaluationData;
use crate::train::live::Boundary;
use crate::train::memory::Budget;
use crate::train::non_finite::NotFinite;
use crate::train::optimizer::{AdamW, clip_factor, grad_norm};
use crate::train::param_groups::{GroupRates, split};
use crate::train::schedule::{Schedule, ScheduleKind};
use crate::train::state::{TrainerState, TrialState, required_metric};
use crate::train::step::{accumulate, refuse_missing_gradients, window_of};
use crate::train::{SaveInterval, TrainingArguments, checkpoint};

/// Metrics of the user's own: from predictions and labels to a map of numbers.
pub type ComputeMetrics<'a> = Box<dyn FnMut(&Predictions) -> Result<Value> + 'a>;

/// What is told of the moment before each update.
pub type BetweenUpdates<'a> = Box<dyn FnMut(&mut Boundary<'_, '_>) -> Result<()> + 'a>;

/// What may mend a failure.
pub type Mend<'a> = Box<dyn FnMut(&Error) -> bool + 'a>;

/// Says whether a signal has asked for the end, and which.
pub type Interrupted<'a> = Box<dyn Fn() -> Option<i32> + 'a>;

/// Gives the texts of the run's scripts.
pub type GivesScripts<'a> = Box<dyn Fn() -> Scripts + 'a>;

/// Takes notes for people.
pub type Notes<'a> = Box<dyn Fn(&str) + 'a>;

/// What a call of the trainer is accompanied by.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Told of every event, after the trainer's own flow.
    pub callbacks: Vec<Box<dyn Callback + 'a>>,
    /// Metrics of the user's own.
    pub compute_metrics: Option<ComputeMetrics<'a>>,
    /// A loss of the user's own.
    pub compute_loss: Option<ComputeLoss<'a>>,
    /// Where notes for people go.
    pub notes: Option<Notes<'a>>,
    /// Told of the moment before each update: what changes a run while it goes on.
    pub between: Option<BetweenUpdates<'a>>,
    /// Asked when an update or an evaluation has failed: whether something was changed back, so that it is tried again.
    pub mend: Option<Mend<'a>>,
    /// Asked between steps: a signal ends the run with a checkpoint.
    pub interrupted: Option<Interrupted<'a>>,
    /// What checkpoints keep of the scripts that the run is made of.
    pub scripts: Option<GivesScripts<'a>>,
}

impl Hooks<'_> {
    /// Whether what failed is to be tried again.
    pub fn mends(&mut self, error: &Error) -> bool {
        self.mend.as_mut().is_some_and(|mend| mend(error))
    }

    pub(super) fn note(&self, text: &str) {
        if let Some(notes) = &self.notes {
            notes(text);
        }
    }
}

/// What a trainer is made of.
pub struct TrainerSettings {
    /// The model that is trained.
    pub model: Model,
    /// How it is trained.
    pub args: TrainingArguments,
    /// The training set.
    pub train_dataset: Option<Dataset>,
    /// What is evaluated on.
    pub eval_dataset: Option<EvaluationData>,
    /// What text is encoded with, and what is saved beside the model.
    pub tokenizer: Option<Tokenizer>,
    /// The task's options where they differ from their defaults.
    pub task_options: Row,
}

/// Trains and evaluates a model.
pub struct Trainer {
    pub(super) settings: TrainerSettings,
    pub(super) state: TrainerState,
    pub(super) control: TrainerControl,
    /// Encoded data sets, by the address of their rows.
    pub(super) encoded: Vec<(usize, Dataset, Arc<Prepared>)>,
    /// The trial of a search that is running.
    pub(super) trial: Option<TrialState>,
    /// The first rows of the evaluation data, on which new metrics are tried.
    pub(super) held: Option<Dataset>,
    /// The output directory, while a run writes into it.
    pub(super) lock: Option<Lock>,
}

/// What training gave.
#[derive(Clone, Debug)]
pub struct TrainOutput {
    /// How many updates were made in all.
    pub global_step: usize,
    /// The mean loss over all updates.
    pub training_loss: f64,
    /// `train_runtime`, `train_samples_per_second`, ...
    pub metrics: Map<String, Json>,
}

/// Why a checkpoint is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The arguments, a callback or somebody asked for it.
    Due,
    /// The run ends before its time. Which checkpoint is the best stays as it is, so that the run that goes on is the same.
    Ending,
}

/// What goes on between the steps of one run.
pub(super) struct Run {
    pub(super) optimizer: AdamW,
    pub(super) schedule: Schedule,
    pub(super) groups: GroupRates,
    pub(super) plan: Plan,
    pub(super) prepared: Arc<Prepared>,
    pub(super) budget: Budget,
    /// Arguments that wait for the next epoch.
    pub(super) next_epoch: Vec<(String, Value)>,
    /// What checkpoints remember of it.
    pub(super) progress: Progress,
    /// Where it was when the last checkpoint was made.
    pub(super) saved: Option<(usize, Position)>,
    pub(super) started: Instant,
    /// Whether every trainable parameter has been seen to have a gradient.
    pub(super) gradients_are_complete: bool,
    /// Which parameters of the model the optimizer knows.
    pub(super) exchanges: u64,
}

impl Trainer {
    /// A trainer; label names and problem type of a classification model are settled from the training set.
    ///
    /// # Errors
    /// Arguments that need evaluation data without any, labels of several types or too many.
    pub fn new(settings: TrainerSettings) -> Result<Self> {
        settings.args.check_evaluates(settings.eval_dataset.is_some())?;
        if settings.args.use_cpu && !settings.model.device().is_cpu() {
            let problem = "`use_cpu` is set, but the model is on another device".into();
            return Err(Error::new(What::Conflict(problem)).hint("run with `--device cpu`"));
        }
        options::check(&*settings.model.task(), &settings.task_options, "`task_options`")?;
        split(settings.model.parameters(), settings.args.param_groups.iter().map(|group| group.params.as_slice()))?;
        if let Some(dataset) = &settings.train_dataset {
            labels::settle(&settings.model, dataset, &settings.task_options)?;
        }
        Ok(Trainer {
            settings,
            state: TrainerState::default(),
            control: TrainerControl::default(),
            encoded: Vec::new(),
            trial: None,
            held: None,
            lock: None,
        })
    }

    /// Tells the callbacks that the trainer has been made: `on_init_end`.
    ///
    /// # Errors
    /// What callbacks raise.
    pub fn made(&mut self, hooks: &mut Hooks<'_>) -> Result<()> {
        self.announce(Event::InitEnd, hooks, &Extra::default())
    }

    /// What the run remembers of itself.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// The arguments.
    pub fn args(&self) -> &TrainingArguments {
        &self.settings.args
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.settings.model
    }

    /// Writes the model, the tokenizer and the arguments into `folder`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn save_model(&self, folder: &Path) -> Result<()> {
        checkpoint::save_model(&self.settings, folder)
    }

    /// One update, and again where something that failed in it was changed back: until the optimizer's step nothing is
    /// different from before.
    pub(super) fn step(&mut self, window: &[&[usize]], run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        loop {
            match self.try_step(window, run, hooks) {
                Err(error) if hooks.mends(&error) => {}
                done => return done,
            }
        }
    }

    /// One update: forward and backward over the window, clipping, the optimizer.
    fn try_step(&mut self, window: &[&[usize]], run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        self.settle_parameters(run)?;
        let args = &self.settings.args;
        let model = self.settings.model.clone();
        let draw = Draw { seed: args.seed, step: self.state.global_step as u64 };
        let batches = window_of(&model, &run.prepared, window, args.label_smoothing_factor, draw)?;
        let clip = args.clip_norm();

        let mut compute_loss = hooks.compute_loss.take();
        let result = accumulate(&model, batches, &mut compute_loss, || {
            self.announce(Event::SubstepEnd, hooks, &Extra::default())
        });
        hooks.compute_loss = compute_loss;
        let given = result?;

        let norm = if given.loss.is_finite() { grad_norm(&given.gradients)? } else { f64::NAN };
        if !norm.is_finite() {
            let what = if given.loss.is_finite() { NotFinite::Gradient } else { NotFinite::Loss };
            return self.not_finite(what, window, run, hooks);
        }
        if !run.gradients_are_complete {
            refuse_missing_gradients(&model, &given.gradients)?;
            run.gradients_are_complete = true;
        }
        self.announce(Event::PreOptimizerStep, hooks, &Extra::default())?;
        let factor = clip.map_or(1.0, |max_norm| clip_factor(norm, max_norm));
        let learning_rate = run.schedule.lr(self.state.global_step);
        self.update(run, &given.gradients, learning_rate, factor)?;
        self.announce(Event::OptimizerStep, hooks, &Extra::default())?;
        let totals = &mut run.progress.totals;
        totals.loss_since_log += given.loss;
        totals.loss += given.loss;
        (totals.grad_norm, totals.learning_rate) = (norm, learning_rate);
        Ok(())
    }

    pub(super) fn log_evaluate_save(&mut self, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        let totals = &mut run.progress.totals;
        if self.control.should_log && self.state.global_step > totals.last_logged_step {
            let steps = self.state.global_step - totals.last_logged_step - totals.skipped_since_log;
            let logs = [
                ("loss", totals.loss_since_log / steps as f64),
                ("grad_norm", totals.grad_norm),
                ("learning_rate", totals.learning_rate),
            ];
            totals.loss_since_log = 0.0;
            totals.skipped_since_log = 0;
            totals.last_logged_step = self.state.global_step;
            self.log(logs.into_iter().map(|(key, value)| (key.to_string(), Json::from(value))).collect(), hooks)?;
        }
        if self.control.should_evaluate {
            let metrics = self.evaluate_or_leave(run, hooks)?;
            if run.schedule.kind() == ScheduleKind::ReduceLrOnPlateau {
                let key = self.settings.args.best_metric_key().unwrap_or_else(|| "eval_loss".into());
                let metric = required_metric(&metrics, &key)?;
                run.schedule.observe(metric);
                run.groups.observe(metric);
            }
            let better = self.state.note_evaluation(&self.settings.args, &metrics)?;
            if self.settings.args.save_strategy == SaveInterval::Best {
                self.control.should_save = better;
            }
        }
        if self.control.should_save {
            self.save(Why::Due, run, hooks)?;
        }
        Ok(())
    }

    /// Evaluates. What a signal ends is as if it had not begun, so that the run that goes on does it again.
    fn evaluate_or_leave(&mut self, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<Map<String, Json>> {
        let n_logs = self.state.log_history.len();
        loop {
            match self.evaluate(None, hooks) {
                Err(error) if matches!(error.what(), What::Stopped { .. }) => {
                    self.state.log_history.truncate(n_logs);
                    run.progress.position.evaluation_is_due = true;
                    run.progress.position.save_is_due = self.control.should_save;
                    return Err(error);
                }
                Err(error) if hooks.mends(&error) => {}
                done => return done,
            }
        }
    }

    /// Saves a checkpoint.
    pub(super) fn save(&mut self, why: Why, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        self.settle_parameters(run)?;
        for callback in &hooks.callbacks {
            if let Some((name, state)) = callback.state() {
                self.state.stateful_callbacks.insert(name, state);
            }
        }
        self.state.stateful_callbacks.insert("TrainerControl".into(), self.control.state());
        let output = PathBuf::from(&self.settings.args.output_dir);
        let folder = output.join(format!("checkpoint-{}", self.state.global_step));
        if why == Why::Due && self.state.best_global_step == Some(self.state.global_step) {
            self.state.best_model_checkpoint = Some(folder.display().to_string());
        }
        let scripts = hooks.scripts.as_ref().map_or_else(Scripts::default, |scripts| scripts());
        run.progress.made_of = self.made_of(&scripts)?;
        run.progress.step = self.state.global_step;
        run.progress.seed = self.settings.args.seed;
        run.progress.origin = run.plan.origin;
        run.progress.layout = Some(self.layout());
        run.progress.schedule = run.schedule.state();
        run.progress.group_schedules = run.groups.state();
        let (state, progress, optimizer) = (&self.state, &run.progress, &run.optimizer);
        checkpoint::save(&self.settings, &folder, &Saved { state, progress, optimizer, scripts: &scripts })?;
        run.saved = Some((self.state.global_step, run.progress.position.clone()));
        if let Some(limit) = self.settings.args.save_total_limit {
            folders::rotate(&output, limit, self.state.best_model_checkpoint.as_deref(), &folder)?;
        }
        self.announce(Event::Save, hooks, &Extra { checkpoint: Some(&folder), ..Extra::default() })
    }

    pub(super) fn finish(&mut self, run: &mut Run, start_step: usize, hooks: &mut Hooks<'_>) -> Result<TrainOutput> {
        if self.settings.args.load_best_model_at_end && self.settings.args.fast_dev_run.batches().is_none() {
            match self.state.best_model_checkpoint.clone() {
                Some(folder) => {
                    let best = manifest::verify(Path::new(&folder))?;
                    match checkpoint::load_weights(&self.settings.model, best.folder()) {
                        // A head that was exchanged during the run; nothing was taken up then.
                        Err(error) if run.exchanges > 0 && matches!(error.what(), What::Weights(_)) => {
                            hooks.note(&format!("the best model ({folder}) had another head: the last weights stay"));
                        }
                        loaded => {
                            loaded?;
                            hooks.note(&format!("loaded the best model from {folder}"));
                        }
                    }
                }
                None => hooks.note("`load_best_model_at_end`: no checkpoint was the best, the last weights stay"),
            }
        }
        if let (Some(1), Some(best)) = (self.settings.args.save_total_limit, &self.state.best_model_checkpoint) {
            // While training the newest is kept beside the best; at the end one is one.
            let best = PathBuf::from(best);
            folders::rotate(Path::new(&self.settings.args.output_dir), 1, None, &best)?;
        }
        let seconds = run.started.elapsed().as_secs_f64();
        let steps = self.state.global_step;
        let totals = &run.progress.totals;
        let training_loss = totals.loss / steps.saturating_sub(totals.skipped).max(1) as f64;
        // Hugging Face counts the rows of all epochs that were asked for, or of the steps where `max_steps` was.
        let args = &self.settings.args;
        let rows = if args.max_tokens_per_batch.is_some() {
            run.prepared.features.len() as f64 * self.state.epoch
        } else if args.max_steps > 0 {
            (args.max_steps as usize * args.per_device_train_batch_size * args.gradient_accumulation_steps) as f64
        } else {
            run.prepared.features.len() as f64 * args.num_train_epochs
        };
        let metrics = [
            ("train_runtime", seconds),
            ("train_samples_per_second", rows / seconds),
            ("train_steps_per_second", (self.state.max_steps - start_step.min(self.state.max_steps)) as f64 / seconds),
            ("total_flos", self.state.total_flos),
            ("train_loss", training_loss),
        ];
        let metrics: Map<String, Json> =
            metrics.into_iter().map(|(key, value)| (key.to_string(), Json::from(value))).collect();
        let metrics = self.log(metrics, hooks)?;
        self.announce(Event::TrainEnd, hooks, &Extra::default())?;
        Ok(TrainOutput { global_step: steps, training_loss, metrics })
    }

    /// Appends to the log history and announces the log. Returns it with its epoch.
    ///
    /// # Errors
    /// Those of the callbacks.
    pub fn log(&mut self, logs: Map<String, Json>, hooks: &mut Hooks<'_>) -> Result<Map<String, Json>> {
        let logs = self.state.log(logs);
        self.announce(Event::Log, hooks, &Extra { logs: Some(&logs), ..Extra::default() })?;
        Ok(logs)
    }

    /// Tells the trainer's own flow, then every callback.
    pub(super) fn announce(&mut self, event: Event, hooks: &mut Hooks<'_>, extra: &Extra) -> Result<()> {
        let Trainer { settings, state, control, .. } = self;
        control.done(event);
        DefaultFlowCallback.on_event(event, &settings.args, state, control, extra)?;
        for callback in &mut hooks.callbacks {
            callback.on_event(event, &settings.args, state, control, extra)?;
        }
        let warnings: Vec<String> = hooks.callbacks.iter_mut().flat_map(|callback| callback.warnings()).collect();
        for warning in warnings {
            hooks.note(&warning);
        }
        Ok(())
    }

    pub(super) fn load_callback_states(&mut self, hooks: &mut Hooks<'_>) -> Result<()> {
        for callback in &mut hooks.callbacks {
            let Some((name, _)) = callback.state() else { continue };
            if let Some(state) = self.state.stateful_callbacks.get(&name) {
                callback.load_state(state)?;
            }
        }
        Ok(())
    }
}
