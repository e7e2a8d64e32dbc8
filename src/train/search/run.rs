//! The trials of a trainer: each with its values, a fresh model, and a folder of its own.
//!
//! What belongs to scripts (the space, the objective, new models, hooks) comes in as functions of [`Search`]; data sets are
//! encoded once for all trials.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::cancel;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::{Model, labels, options};
use crate::train::TrainingArguments;
use crate::train::callbacks::{Callback, Event, Extra, TrainerControl};
use crate::train::search::space::Distribution;
use crate::train::search::study::{State, Study, Trial, TrialHandle};
use crate::train::search::{Direction, journal, journal::FILE};
use crate::train::snapshot::Snapshot;
use crate::train::state::{TrainerState, TrialState};
use crate::train::trainer::{Hooks, Trainer};

/// What names a trial.
pub type NameOf<'a> = Box<dyn Fn(&TrialHandle) -> Result<String> + 'a>;
/// What makes the model of a trial with these arguments.
pub type ModelOf<'a> = Box<dyn Fn(&TrialHandle, &TrainingArguments) -> Result<Model> + 'a>;

/// What chooses the arguments of a trial, by name.
pub type SpaceOf<'a> = Box<dyn Fn(&TrialHandle) -> Result<Vec<(String, Value)>> + 'a>;
/// What makes the objective of the metrics of an evaluation.
pub type Objective<'a> = Box<dyn Fn(&Map<String, Json>) -> Result<f64> + 'a>;
/// What accompanies a trial of this model with these arguments.
pub type HooksOf<'a> = Box<dyn Fn(&Model, &TrainingArguments) -> Hooks<'a> + 'a>;
/// What is told of a trial.
pub type Watch<'a> = Box<dyn Fn(&Trial, &Study) + 'a>;

/// What a search is made of. The functions get the trial that is running.
pub struct Search<'a> {
    /// The trials so far, the sampler and the pruner.
    pub study: Study,
    /// How many trials there will be in all.
    pub n_trials: usize,
    /// After which time no trial begins any more.
    pub timeout: Option<Duration>,
    /// After how many trials that are no better than the best one the search ends.
    pub patience: Option<usize>,
    /// Whether to go on from the `trials.json` of the output directory.
    pub resume: bool,
    /// The arguments of a trial, by name.
    pub hp_space: SpaceOf<'a>,
    /// The objective, from the metrics of an evaluation.
    pub objective: Objective<'a>,
    /// The name of a trial's folder, where it is not `run-N`.
    pub name: Option<NameOf<'a>>,
    /// A fresh model; none where each trial starts from the weights that the trainer's model has.
    pub model_init: Option<ModelOf<'a>>,
    /// What a trial is accompanied by.
    pub hooks: HooksOf<'a>,
    /// Told of each trial when it begins and when it has ended.
    pub watch: Watch<'a>,
    /// Told of all trials when the search has ended.
    pub done: Box<dyn Fn(&Study) + 'a>,
}

/// The best trial of a search: Hugging Face's `BestRun`.
#[derive(Clone, Debug, PartialEq)]
pub struct BestRun {
    /// Its number, as text.
    pub run_id: String,
    /// Its objective.
    pub objective: f64,
    /// The values that were suggested for it.
    pub hyperparameters: IndexMap<String, Value>,
}

/// Hugging Face's objective: the loss where there is nothing else, otherwise the sum of all other metrics.
///
/// # Errors
/// A metric that is not a number, or no metric at all.
pub fn default_objective(metrics: &Map<String, Json>) -> Result<f64> {
    let speed = |key: &str| key.ends_with("_runtime") || key.ends_with("_per_second");
    let counted = metrics.iter().filter(|(key, _)| *key != "eval_loss" && *key != "epoch" && !speed(key));
    let mut counted = counted.peekable();
    if counted.peek().is_none() {
        let loss = metrics.get("eval_loss").ok_or_else(|| {
            let error = Error::new(What::NotFound { kind: "metric", name: "eval_loss".into() });
            error.hint("the evaluation data has no labels; give `compute_objective`")
        })?;
        return Ok(loss.as_f64().unwrap_or(f64::NAN));
    }
    counted.try_fold(0.0, |sum, (key, value)| match value {
        // A metric that is not finite is null in JSON.
        Json::Null => Ok(f64::NAN),
        value => value.as_f64().map(|value| sum + value).ok_or_else(|| {
            let (name, got) = (format!("the metric `{key}`"), value.to_string());
            let error = Error::new(What::WrongType { name, wanted: "a number".into(), got });
            error.hint("give `compute_objective: |metrics| metrics.eval_accuracy`")
        }),
    })
}

/// Hugging Face's space for Optuna: learning rate, epochs, seed and batch size.
///
/// # Errors
/// None: the space is valid.
pub fn default_space(trial: &TrialHandle) -> Result<Vec<(String, Value)>> {
    let sizes = [4, 8, 16, 32, 64].map(Value::Int).to_vec();
    let space = [
        ("learning_rate", Distribution::float("learning_rate", 1e-6, 1e-4, true, None)?),
        ("num_train_epochs", Distribution::int("num_train_epochs", 1, 5, false, 1)?),
        ("seed", Distribution::int("seed", 1, 40, false, 1)?),
        ("per_device_train_batch_size", Distribution::Categorical(sizes)),
    ];
    space.into_iter().map(|(name, of)| Ok((name.to_string(), trial.suggest(name, of)?))).collect()
}

/// Reports each evaluation of a trial, and ends the trial where it is to be stopped.
struct Report<'a> {
    trial: TrialHandle,
    objective: &'a (dyn Fn(&Map<String, Json>) -> Result<f64> + 'a),
    last: &'a Cell<Option<f64>>,
    pruned: &'a Cell<bool>,
}

impl Callback for Report<'_> {
    fn on_event(
        &mut self,
        event: Event,
        _args: &TrainingArguments,
        state: &mut TrainerState,
        _control: &mut TrainerControl,
        extra: &Extra,
    ) -> Result<()> {
        let (Event::Evaluate, Some(metrics)) = (event, extra.metrics) else { return Ok(()) };
        let value = (self.objective)(metrics)?;
        self.last.set(Some(value));
        if self.trial.study().report(self.trial.number(), state.global_step, value) {
            self.pruned.set(true);
            // It never reaches anybody: the flag tells what it means.
            return Err(What::Internal("the trial was pruned".into()).into());
        }
        Ok(())
    }
}

impl Trainer {
    /// Makes trials until there are enough of them, and gives the best one. The arguments, and the weights of a model that
    /// is not made anew, are afterwards what they were; the state is that of the last trial.
    ///
    /// # Errors
    /// No evaluation data, arguments that do not fit together, an output directory that cannot be written to, what scripts
    /// raise, or no trial that came to an end. A trial whose loss or objective is not finite is a failed trial, not an error.
    pub fn search(&mut self, mut search: Search<'_>) -> Result<BestRun> {
        if self.settings.eval_dataset.is_none() {
            let error = Error::new(What::Conflict("a search needs an `eval_dataset` to compare its trials".into()));
            return Err(error.hint("give the Trainer `eval_dataset`"));
        }
        let base = self.settings.args.clone();
        let file = Path::new(&base.output_dir).join(FILE);
        if search.resume {
            journal::read(&mut search.study, &file)?;
        }
        let initial = match search.model_init {
            None => Some(Snapshot::of(&self.settings.model)?),
            Some(_) => None,
        };
        let study = std::mem::replace(&mut search.study, Study::new(Direction::Minimize, 0));
        let study = Arc::new(Mutex::new(study));
        let result = self.trials(&search, &study, &base, initial.as_ref(), &file);
        self.trial = None;
        self.settings.args = base;
        if let Some(initial) = initial {
            initial.restore()?;
        }
        result?;
        let study = study.lock().unwrap_or_else(PoisonError::into_inner);
        (search.done)(&study);
        let Some((best, objective)) = study.best().and_then(|best| Some((best, best.value?))) else {
            let first = study.trials.iter().find_map(|trial| trial.error.as_deref());
            let why = first.map(|error| format!("; the first failed with: {error}")).unwrap_or_default();
            return Err(Error::new(What::Conflict(format!("no trial came to an end{why}")))
                .hint("make the space smaller, for example with lower learning rates"));
        };
        Ok(BestRun { run_id: best.number.to_string(), objective, hyperparameters: best.params.clone() })
    }

    fn trials(
        &mut self,
        search: &Search<'_>,
        study: &Arc<Mutex<Study>>,
        base: &TrainingArguments,
        initial: Option<&Snapshot>,
        file: &Path,
    ) -> Result<()> {
        let begun = Instant::now();
        let mut is_first = true;
        let lock = || study.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            cancel::check()?;
            let n_trials = lock().trials.len();
            let is_late = search.timeout.is_some_and(|timeout| begun.elapsed() >= timeout);
            let is_stale = search
                .patience
                .is_some_and(|patience| lock().best().is_some_and(|best| n_trials > best.number + patience));
            if n_trials >= search.n_trials || is_late || is_stale {
                return Ok(());
            }
            if let Some(initial) = initial {
                initial.restore()?;
            }
            let started = Instant::now();
            let trial = TrialHandle::new(study.clone(), lock().begin());
            let outcome = self.one_trial(search, &trial, base, is_first);
            is_first = false;
            let mut study = lock();
            if let Err(error) = &outcome
                && matches!(error.what(), What::Stopped { .. })
            {
                // As if it had not begun: the search that goes on makes it again.
                study.trials.pop();
                journal::write(&study, file)?;
                return Err(error.clone());
            }
            study.trials[trial.number()].seconds = started.elapsed().as_secs_f64();
            let fatal = match outcome {
                Ok((state, value)) => {
                    study.finish(trial.number(), state, value);
                    None
                }
                Err(error) => {
                    study.finish(trial.number(), State::Fail, None);
                    study.trials[trial.number()].error = Some(error.what().to_string());
                    (!matches!(error.what(), What::NonFinite(_))).then_some(error)
                }
            };
            journal::write(&study, file)?;
            (search.watch)(&study.trials[trial.number()], &study);
            if let Some(error) = fatal {
                return Err(error);
            }
        }
    }

    fn one_trial(
        &mut self,
        search: &Search<'_>,
        trial: &TrialHandle,
        base: &TrainingArguments,
        is_first: bool,
    ) -> Result<(State, Option<f64>)> {
        let chosen = (search.hp_space)(trial)?;
        let name = search.name.as_ref().map(|name| name(trial)).transpose()?;
        let (known, others): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|(key, _)| TrainingArguments::keys().any(|known| known == key));
        if let (Some((key, _)), None) = (others.first(), &search.model_init) {
            return Err(TrainingArguments::unknown(key));
        }
        let (mut args, notes) = base.clone().with(known)?;
        let folder = name.clone().unwrap_or_else(|| format!("run-{}", trial.number()));
        args.output_dir = PathBuf::from(&base.output_dir).join(folder).display().to_string();
        self.settings.args = args;
        self.trial = Some(TrialState {
            name,
            params: trial.params().iter().map(|(name, value)| (name.clone(), value.to_json())).collect(),
        });
        {
            let study = trial.study();
            (search.watch)(&study.trials[trial.number()], &study);
        }
        if let Some(model_init) = &search.model_init {
            self.replace_model(model_init(trial, &self.settings.args)?)?;
        }
        let (last, pruned) = (Cell::new(None), Cell::new(false));
        let mut hooks: Hooks<'_> = (search.hooks)(&self.settings.model, &self.settings.args);
        if is_first {
            notes.iter().for_each(|note| hooks.note(note));
            for (key, _) in &others {
                hooks.note(&format!(
                    "`{key}` of the search is no argument of `TrainingArguments`: only the model can use it"
                ));
            }
        }
        let report = Report { trial: trial.clone(), objective: &*search.objective, last: &last, pruned: &pruned };
        hooks.callbacks.push(Box::new(report));
        let trained = self.train(None, &mut hooks);
        if pruned.get() {
            self.announce(Event::TrainEnd, &mut hooks, &Extra::default())?;
            return Ok((State::Pruned, None));
        }
        trained?;
        if last.get().is_none() {
            hooks.callbacks.pop();
            let metrics = self.evaluate(None, &mut hooks)?;
            last.set(Some((search.objective)(&metrics)?));
        }
        Ok((State::Complete, last.get()))
    }

    /// Puts a fresh model in the place of the trainer's; encoded data sets stay where they are the same for it.
    ///
    /// # Errors
    /// Labels that do not fit the model.
    pub fn replace_model(&mut self, model: Model) -> Result<()> {
        if let Some(dataset) = &self.settings.train_dataset {
            labels::settle(&model, dataset, &self.settings.task_options)?;
        }
        let encoding = |model: &Model| {
            let options = options::merged(model, self.settings.tokenizer.as_ref(), &[&self.settings.task_options])?;
            Ok::<_, Error>((model.task().name().to_string(), model.list_labels(), options))
        };
        if encoding(&model)? != encoding(&self.settings.model)? {
            self.encoded.clear();
        }
        if let Some(tokenizer) = &self.settings.tokenizer {
            model.remember_tokenizer(tokenizer);
        }
        self.settings.model = model;
        Ok(())
    }
}
