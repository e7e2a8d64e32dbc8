//! The moment between two updates: what may be tried and changed while a run goes on.
//!
//! The trainer opens a [`Boundary`] before each update and hands it to whoever listens; new functions are tried on a held
//! batch there (a shadow run: forward, loss and backward in which no weight changes), arguments change, and an evaluation,
//! a checkpoint or the end is asked for.

use candle_core::DType;
use indexmap::IndexMap;

use crate::batch::Draw;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::Gradients;
use crate::train::TrainingArguments;
use crate::train::evaluation::EvaluationData;
use crate::train::ledger::Entry;
use crate::train::live_arguments::{ArgumentChange, RatePolicy};
use crate::train::state::TrainerState;
use crate::train::step::window_of;
use crate::train::trainer::{Hooks, Run, Trainer};

/// Rows of the held batch: enough to see shapes and gradients, few enough not to be felt.
const HELD_ROWS: usize = 8;

/// The moment between two updates.
pub struct Boundary<'b, 'h> {
    trainer: &'b mut Trainer,
    run: &'b mut Run,
    hooks: &'b mut Hooks<'h>,
}

/// What a shadow run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// The loss of the held batch.
    pub loss: f64,
    /// The shape of each output.
    pub shapes: IndexMap<String, Vec<usize>>,
    /// The parameters that gradients reached.
    pub reached: Vec<String>,
    /// The parameters that are trained.
    pub trained: Vec<String>,
}

impl Boundary<'_, '_> {
    /// The updates that were made.
    pub fn step(&self) -> usize {
        self.trainer.state.global_step
    }

    /// What the run remembers of itself.
    pub fn state(&self) -> &TrainerState {
        &self.trainer.state
    }

    /// The arguments as they are now.
    pub fn args(&self) -> &TrainingArguments {
        &self.trainer.settings.args
    }

    /// The learning rate of the last update.
    pub fn learning_rate(&self) -> f64 {
        self.run.progress.totals.learning_rate
    }

    /// Changes arguments; what becomes of each is returned.
    ///
    /// # Errors
    /// Values that `TrainingArguments` refuses; nothing has changed then.
    pub fn set(&mut self, pairs: &[(String, Value)], policy: RatePolicy) -> Result<Vec<ArgumentChange>> {
        self.trainer.change_arguments(pairs, policy, self.run)
    }

    /// Takes note of the parameters that the model has now.
    ///
    /// # Errors
    /// A pattern of `param_groups` that matches nothing any more.
    pub fn settle_parameters(&mut self) -> Result<()> {
        self.trainer.settle_parameters(self.run)
    }

    /// Runs forward, loss and backward on the held batch. Weights, moments and the run's state stay as they are, and so does what
    /// the head remembers.
    ///
    /// # Errors
    /// What the model or the loss raises.
    pub fn shadow(&mut self) -> Result<Shadow> {
        self.leaving_no_trace(Self::run_held)
    }

    /// Lets the head remember what it did before `attempt`.
    fn leaving_no_trace<T>(&mut self, attempt: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let model = self.trainer.settings.model.clone();
        model.leaving_no_trace(|| attempt(self))
    }

    fn run_held(&mut self) -> Result<Shadow> {
        let Trainer { settings, state, .. } = &*self.trainer;
        let size = settings.args.per_device_train_batch_size.min(HELD_ROWS).min(self.run.prepared.features.len());
        let held: Vec<usize> = (0..size).collect();
        let draw = Draw { seed: settings.args.seed, step: state.global_step as u64 };
        let window = [held.as_slice()];
        let smoothing = settings.args.label_smoothing_factor;
        let all = settings.model.parameters().all();
        let trained =
            all.iter().filter(|parameter| parameter.is_trainable()).map(|known| known.name().into()).collect();
        let mut shadow = Shadow { loss: 0.0, shapes: IndexMap::new(), reached: Vec::new(), trained };
        let mut sums = Gradients::new();
        for batch in window_of(&settings.model, &self.run.prepared, &window, smoothing, draw)? {
            let output = settings.model.forward(&batch)?;
            let shapes = output.tensors().into_iter().map(|(name, tensor)| (name.to_string(), tensor.dims().to_vec()));
            shadow.shapes.extend(shapes);
            let loss = match &mut self.hooks.compute_loss {
                Some(compute) => compute.in_training(&output, &batch)?,
                None => (settings.model.loss(&output, &batch)? * batch.part.share)?,
            };
            shadow.loss += loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            settings.model.collect_gradients(&mut settings.model.backward(&loss)?, &mut sums)?;
        }
        shadow.reached = sums.keys().cloned().collect();
        Ok(shadow)
    }

    /// Evaluates the first rows of the evaluation data, where there are any, without telling anybody.
    ///
    /// # Errors
    /// What the model, the loss or the metrics raise.
    pub fn shadow_evaluation(&mut self) -> Result<()> {
        let Some(held) = self.trainer.held_rows()? else { return Ok(()) };
        self.leaving_no_trace(|boundary| {
            let callbacks = std::mem::take(&mut boundary.hooks.callbacks);
            let result = boundary.trainer.try_evaluation(&held, boundary.hooks);
            boundary.hooks.callbacks = callbacks;
            result
        })
    }

    /// Evaluates now.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn evaluate(&mut self) -> Result<()> {
        if self.trainer.settings.eval_dataset.is_none() {
            return Err(Error::new(What::Conflict("the trainer has no `eval_dataset`".into())));
        }
        self.trainer.control.should_evaluate = true;
        self.trainer.log_evaluate_save(self.run, self.hooks)
    }

    /// Saves a checkpoint now.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn save(&mut self) -> Result<()> {
        self.trainer.control.should_save = true;
        self.trainer.log_evaluate_save(self.run, self.hooks)
    }

    /// Ends training before the next update.
    pub fn stop(&mut self) {
        self.trainer.control.should_training_stop = true;
    }
}

impl Trainer {
    /// Opens the moment before an update for whoever listens.
    pub(super) fn between_updates(&mut self, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        let Some(mut between) = hooks.between.take() else { return Ok(()) };
        let result = between(&mut Boundary { trainer: self, run, hooks });
        hooks.between = Some(between);
        result?;
        if self.state.global_step >= self.state.max_steps {
            self.control.should_training_stop = true;
        }
        Ok(())
    }

    /// The first rows of the evaluation data: always the same.
    fn held_rows(&mut self) -> Result<Option<crate::data::Dataset>> {
        if self.held.is_none() {
            let first = match &self.settings.eval_dataset {
                Some(EvaluationData::One(dataset)) => Some(dataset),
                Some(EvaluationData::Named(sets)) => sets.values().next(),
                None => None,
            };
            self.held = first.filter(|dataset| !dataset.is_empty()).map(|dataset| dataset.take(HELD_ROWS));
        }
        Ok(self.held.clone())
    }
}

/// The name under which callbacks' states hold the ledger.
pub const LEDGER: &str = "HotReload";

/// The entries of a ledger in the form of a callback's state.
pub fn ledger_state(entries: &[Entry]) -> serde_json::Value {
    serde_json::json!({ "args": {}, "attributes": { "ledger": entries } })
}
