//! `Trainer(#{ ... })`: what a recipe trains, evaluates and predicts with.
//!
//! A script's functions (callbacks, metrics, a loss of its own) are called on the script's own engine, with the context of
//! the call that trains; the trainer itself knows nothing of scripts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rhai::plugin::*;
use rhai::{FnPtr, Map};
use serde_json::Value as Json;

use crate::api::callbacks::{self, CallbackSetting, json_to_dynamic};
use crate::api::compute_loss::LossFunction;
use crate::api::model_init::{Loads, fresh_model};
use crate::api::options::Options;
use crate::api::run_state::StateView;
use crate::api::session::Session;
use crate::api::trainer_data::{dataset, evaluation_data, predictions_map};
use crate::api::training_arguments::TrainingArguments as Arguments;
use crate::data::Dataset;
use crate::data::permissions::Permissions;
use crate::error::{Error, Result, What};
use crate::head::Model;
use crate::head::script::convert::{ScriptResult, raise, type_name};
use crate::tokenizer::Tokenizer;
use crate::train::checkpoint::folders;
use crate::train::{EvaluationData, Resume, Trainer, TrainerSettings, TrainingArguments};

/// Options of Hugging Face's Trainer that are not there, and what to do instead.
const REFUSED: [(&str, &str); 2] = [
    ("optimizers", "set `param_groups` of the arguments, or write the loop with `AdamW` and `get_scheduler`"),
    ("preprocess_logits_for_metrics", "it comes with a later version"),
];

/// A trainer as a script holds it. Cheap to clone; all clones are the same trainer.
#[derive(Clone)]
pub struct ScriptTrainer(Arc<Shared>);

struct Shared {
    trainer: Mutex<Trainer>,
    /// The model that is trained now: another one after each call of `model_init`.
    model: Mutex<Model>,
    model_init: Option<FnPtr>,
    arguments: Arguments,
    callbacks: Mutex<Vec<CallbackSetting>>,
    compute_metrics: Option<FnPtr>,
    compute_loss: Option<LossFunction>,
    view: StateView,
}

/// Makes the namespace and the type known to an engine.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<ScriptTrainer>("Trainer");
    engine.register_global_module(exported_module!(trainer_functions).into());
}

impl ScriptTrainer {
    fn new(context: &NativeCallContext, options: Map) -> Result<Self> {
        let session = &Session::of(context);
        let mut options = Options::new("`Trainer`", options);
        let model = options.object::<Model>("model", "a model");
        let model = model.map_err(|error| error.hint("load it first: `AutoModelFor...::from_pretrained(\"NAME\")`"))?;
        let function = |error: Error| error.hint("write `Fn(\"NAME\")` for a function of the recipe, or a closure");
        let model_init = options.object::<FnPtr>("model_init", "a function").map_err(function)?;
        if model.is_some() && model_init.is_some() {
            let problem = "`Trainer` takes either a `model` or a `model_init`, but not both";
            return Err(Error::new(What::Conflict(problem.into())).hint("keep `model_init` for a search"));
        }
        let arguments = match options.object::<Arguments>("args", "`TrainingArguments(#{ ... })`")? {
            Some(arguments) => arguments,
            None => {
                let mut args = TrainingArguments::default();
                if session.seed_is_forced() {
                    args.seed = session.seed();
                }
                Arguments::new(args)
            }
        };
        let train_dataset = dataset(&mut options, "train_dataset")?;
        let eval_dataset = match options.take("eval_dataset") {
            None => None,
            Some(value) => Some(evaluation_data(value)?),
        };
        let load = |error: Error| error.hint("load it first: `AutoTokenizer::from_pretrained(\"NAME\")`");
        let processing = options.object::<Tokenizer>("processing_class", "a tokenizer").map_err(load)?;
        let named = options.object::<Tokenizer>("tokenizer", "a tokenizer").map_err(load)?;
        if named.is_some() {
            session.reporter().note("`tokenizer` of `Trainer` is called `processing_class` now; both are read");
        }
        if options.take("data_collator").is_some() {
            return Err(Error::new(What::Unsupported("`data_collator` of `Trainer`".into()))
                .hint("leave it out: batches are packed without padding, so there is nothing to collate"));
        }
        let callbacks = callbacks::read_all(&mut options)?;
        let compute_metrics = options.object::<FnPtr>("compute_metrics", "a function").map_err(function)?;
        let compute_loss = LossFunction::read(&mut options)?;
        for (key, hint) in REFUSED {
            if options.take(key).is_some() {
                return Err(Error::new(What::Unsupported(format!("`{key}` of `Trainer`"))).hint(hint));
            }
        }
        let task_options = options.row("task_options")?;
        let model = match (model, &model_init) {
            (Some(model), _) => model,
            (None, Some(init)) => fresh_model(context, init, None, arguments.get().seed, Loads::Noted)?,
            (None, None) => {
                return Err(options.missing("model", "give `model: AutoModelFor...::from_pretrained(...)`"));
            }
        };
        options.finish()?;
        let tokenizer = processing.or(named);
        if let Some(tokenizer) = &tokenizer {
            model.remember_tokenizer(tokenizer);
        }
        let settings = TrainerSettings {
            model: model.clone(),
            args: (*arguments.get()).clone(),
            train_dataset,
            eval_dataset,
            tokenizer,
            task_options,
        };
        Ok(ScriptTrainer(Arc::new(Shared {
            trainer: Mutex::new(Trainer::new(settings)?),
            model: Mutex::new(model),
            model_init,
            arguments,
            callbacks: Mutex::new(callbacks),
            compute_metrics,
            compute_loss,
            view: StateView::default(),
        })))
    }

    /// The trainer, unless it is at work: a callback that calls it would wait for itself.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Trainer>> {
        let mut trainer = match self.0.trainer.try_lock() {
            Ok(trainer) => trainer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(What::Conflict("the trainer is at work".into())).hint(
                    "a callback cannot call the trainer that runs it; set a flag: `control.should_evaluate = true`",
                ));
            }
        };
        let arguments = self.0.arguments.get();
        if *trainer.args() != *arguments {
            trainer.set_args((*arguments).clone())?;
        }
        Ok(trainer)
    }

    /// The arguments that the script holds too.
    pub(super) fn arguments(&self) -> &Arguments {
        &self.0.arguments
    }

    /// The callbacks that were given.
    pub(super) fn callbacks(&self) -> MutexGuard<'_, Vec<CallbackSetting>> {
        self.0.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model that is trained now.
    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        self.0.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes a fresh model.
    pub(super) fn model_init(&self) -> Option<&FnPtr> {
        self.0.model_init.as_ref()
    }

    /// What `trainer.state` shows.
    pub(super) fn view(&self) -> &StateView {
        &self.0.view
    }

    /// The recipe's own metrics.
    pub(super) fn compute_metrics(&self) -> Option<&FnPtr> {
        self.0.compute_metrics.as_ref()
    }

    /// The recipe's own loss.
    pub(super) fn compute_loss(&self) -> Option<&LossFunction> {
        self.0.compute_loss.as_ref()
    }

    fn train(&self, context: &NativeCallContext, resume: Option<Resume>) -> Result<Map> {
        let mut trainer = self.lock()?;
        if let Some(init) = self.model_init() {
            let model = fresh_model(context, init, None, trainer.args().seed, Loads::Silent)?;
            trainer.replace_model(model.clone())?;
            *self.model() = model;
        }
        let session = Session::of(context);
        session.permissions().write_below(Path::new(&trainer.args().output_dir))?;
        let resume = resume.or_else(|| trainer.args().resume_from_checkpoint.clone());
        let folder = match resume {
            None | Some(Resume::Never) => None,
            Some(Resume::Latest) => {
                let (complete, passed_over) = folders::newest(Path::new(&trainer.args().output_dir))?;
                for error in passed_over {
                    session.reporter().warning(&format!("passed over: {error}"));
                }
                Some(complete.folder().to_path_buf())
            }
            Some(Resume::From(path)) => Some(PathBuf::from(path)),
        };
        folder.iter().try_for_each(|folder| may_resume(session.permissions(), folder))?;
        // Before anything is written into the folder.
        trainer.claim()?;
        let _training = session.live().training(&trainer.args().output_dir, session.reporter());
        let output = trainer.train(folder, &mut self.hooks(context));
        self.0.view.follow(trainer.state());
        let output = output?;
        let reporter = session.reporter().clone();
        reporter.set_result("train", Json::Object(output.metrics.clone()));
        reporter.set_result("output_dir", Json::from(trainer.args().output_dir.clone()));
        let mut map = Map::new();
        map.insert("global_step".into(), Dynamic::from(output.global_step as i64));
        map.insert("training_loss".into(), Dynamic::from(output.training_loss));
        map.insert("metrics".into(), json_to_dynamic(&output.metrics));
        Ok(map)
    }

    fn evaluate(&self, context: &NativeCallContext, data: Option<EvaluationData>) -> Result<Dynamic> {
        let mut trainer = self.lock()?;
        let hooks = &mut self.hooks(context);
        let metrics = loop {
            match trainer.evaluate(data.as_ref(), hooks) {
                Err(error) if hooks.mends(&error) => {}
                done => break done,
            }
        };
        self.0.view.follow(trainer.state());
        Ok(json_to_dynamic(&metrics?))
    }

    fn predict(&self, context: &NativeCallContext, dataset: &Dataset) -> Result<Map> {
        let mut trainer = self.lock()?;
        let evaluation = trainer.predict(dataset, &mut self.hooks(context))?;
        let mut map = predictions_map(&evaluation.predictions);
        map.insert("metrics".into(), json_to_dynamic(&evaluation.metrics));
        Ok(map)
    }
}

/// Whether a recipe may go on from a checkpoint, and from the best one that it names.
fn may_resume(permissions: &Permissions, folder: &Path) -> Result<()> {
    permissions.read_below(folder)?;
    // What is wrong with the state is said by whoever reads it all.
    let text = std::fs::read_to_string(folder.join("trainer_state.json")).unwrap_or_default();
    let state: Json = serde_json::from_str(&text).unwrap_or_default();
    let best = state.get("best_model_checkpoint").and_then(Json::as_str);
    // One that is not there is looked for in the run's folder.
    best.map(Path::new).filter(|best| best.exists()).map_or(Ok(()), |best| permissions.read_below(best))
}

/// Training, evaluation and prediction.
#[export_module]
mod trainer_functions {
    /// Makes a trainer from `model` (or `model_init`), `args`, `train_dataset`, `eval_dataset`, `processing_class`, `compute_metrics`, `compute_loss`, `callbacks` and `task_options`.
    ///
    /// A data set that has `input_ids` trains as it is; otherwise the model's task encodes the rows. String labels become
    /// `label2id` of the model where it has no label names. `compute_metrics` gets `#{ predictions, label_ids }`.
    /// `compute_loss(output, batch)` gets the head's output and gives the mean over the batch, which the trainer normalises over the
    /// accumulation window. `compute_loss_func(outputs, labels, num_items_in_batch)` is Hugging Face's: it divides a sum by
    /// the window's number of labels itself, and gets `()` for that number in evaluation. With either, `label_smoothing_factor`
    /// is the function's own affair. Callbacks are maps from event names to functions. `task_options` are what
    /// the model's task declares, for example `max_length`. `model_init` is a function that returns a fresh model, for each
    /// call of `train` and each trial of `hyperparameter_search`, whose trial it may take as its argument.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let trainer = Trainer(#{
    ///     model: model,
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 1, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// trainer.train();
    /// expect(trainer.state.global_step == 1, "one update");
    /// ```
    #[rhai_fn(name = "Trainer", return_raw)]
    pub fn trainer(context: NativeCallContext, options: Map) -> ScriptResult<ScriptTrainer> {
        let made = || -> Result<ScriptTrainer> {
            let trainer = ScriptTrainer::new(&context, options)?;
            trainer.lock()?.made(&mut trainer.hooks(&context))?;
            Ok(trainer)
        };
        made().map_err(raise)
    }

    /// Trains. Gives `global_step`, `training_loss` and `metrics` (`train_runtime`, `train_samples_per_second`, ...).
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", max_steps: 2, save_strategy: "no" }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// expect(trainer.train().global_step == 2, "two updates");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn train(context: NativeCallContext, trainer: &mut ScriptTrainer) -> ScriptResult<Map> {
        trainer.train(&context, None).map_err(raise)
    }

    /// Trains on from a checkpoint: `#{ resume_from_checkpoint: true }` takes the newest of `output_dir`, a path takes that one.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "resumed", max_steps: 2, save_steps: 1 }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// trainer.train();
    /// expect(trainer.train(#{ resume_from_checkpoint: "resumed/checkpoint-1" }).global_step == 2, "one more update");
    /// ```
    #[rhai_fn(name = "train", pure, return_raw)]
    pub fn train_with(context: NativeCallContext, trainer: &mut ScriptTrainer, options: Map) -> ScriptResult<Map> {
        let read = || -> Result<Option<Resume>> {
            let mut options = Options::new("`train`", options);
            let resume = match options.take("resume_from_checkpoint") {
                None => None,
                Some(value) => match (value.as_bool(), value.clone().into_string()) {
                    (Ok(true), _) => Some(Resume::Latest),
                    (Ok(false), _) => None,
                    (_, Ok(path)) => Some(Resume::From(path)),
                    _ => {
                        let name = "`resume_from_checkpoint` of `train`".into();
                        let got = type_name(&value);
                        return Err(What::WrongType { name, wanted: "a bool or a path".into(), got }.into());
                    }
                },
            };
            options.finish()?;
            Ok(resume)
        };
        read().and_then(|resume| trainer.train(&context, resume)).map_err(raise)
    }

    /// Evaluates on the trainer's `eval_dataset`. Gives `eval_loss`, the metrics with `eval_` before their names, and the speed.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     eval_dataset: load_dataset("std/reviews", #{ split: "validation[:8]" }).map(|row| #{ label: if row.label == "positive" { 1 } else { 0 } }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// expect(trainer.evaluate().eval_loss > 0.0, "a new head knows nothing");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn evaluate(context: NativeCallContext, trainer: &mut ScriptTrainer) -> ScriptResult<Dynamic> {
        trainer.evaluate(&context, None).map_err(raise)
    }

    /// Evaluates on a data set, or on a map of data sets.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// let rows = Dataset::from_rows([#{ text: "a fine film", label: 1 }, #{ text: "a dull film", label: 0 }]);
    /// expect("eval_loss" in trainer.evaluate(rows), "the rows have labels");
    /// ```
    #[rhai_fn(name = "evaluate", pure, return_raw)]
    pub fn evaluate_on(
        context: NativeCallContext,
        trainer: &mut ScriptTrainer,
        data: Dynamic,
    ) -> ScriptResult<Dynamic> {
        evaluation_data(data).and_then(|data| trainer.evaluate(&context, Some(data))).map_err(raise)
    }

    /// Predicts a data set. Gives `predictions` (one entry a row, in the order of the rows), `label_ids` and `metrics`.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// let output = trainer.predict(Dataset::from_rows([#{ text: "a fine film" }]));
    /// expect(output.predictions[0].len == 2, "a score for each label");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn predict(context: NativeCallContext, trainer: &mut ScriptTrainer, dataset: Dataset) -> ScriptResult<Map> {
        trainer.predict(&context, &dataset).map_err(raise)
    }

    /// Writes the model, the tokenizer's files and the arguments into a folder.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// trainer.save_model("kept");
    /// expect(AutoTokenizer::from_pretrained("kept").vocab_size == 8000, "the tokenizer is there too");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn save_model(context: NativeCallContext, trainer: &mut ScriptTrainer, folder: &str) -> ScriptResult<()> {
        let dry = trainer.arguments().get().fast_dev_run.batches().is_some();
        if dry && Path::new(folder).join("config.json").exists() {
            Session::of(&context).reporter().note(&format!("`fast_dev_run`: the model in {folder} stays as it is"));
            return Ok(());
        }
        let (session, folder) = (Session::of(&context), Path::new(folder));
        session.permissions().write_below(folder).map_err(raise)?;
        trainer.lock().and_then(|trainer| trainer.save_model(folder)).map_err(raise)?;
        session.reporter().saved(folder);
        Ok(())
    }

    /// What the run remembers of itself: `global_step`, `epoch`, `log_history`, `best_metric`, ...
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.state.log_history.is_empty(), "nothing has been trained");
    /// ```
    #[rhai_fn(get = "state", pure)]
    pub fn state(trainer: &mut ScriptTrainer) -> StateView {
        trainer.0.view.clone()
    }

    /// The model that is trained.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.model.config.num_labels == 2, "as it was loaded");
    /// ```
    #[rhai_fn(get = "model", pure)]
    pub fn model(trainer: &mut ScriptTrainer) -> Model {
        trainer.model().clone()
    }

    /// The training arguments.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// expect(trainer.args.learning_rate == 5e-5, "Hugging Face's default");
    /// ```
    #[rhai_fn(get = "args", pure)]
    pub fn arguments(trainer: &mut ScriptTrainer) -> Arguments {
        trainer.0.arguments.clone()
    }

    /// Takes over all of these training arguments, from the next call on.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// trainer.args = TrainingArguments(#{ learning_rate: 3e-5 });
    /// trainer.args.seed = 7;
    /// expect(trainer.args.learning_rate == 3e-5 && trainer.args.seed == 7, "the new values");
    /// ```
    #[rhai_fn(set = "args", pure)]
    pub fn set_arguments(trainer: &mut ScriptTrainer, args: Arguments) {
        trainer.0.arguments.set((*args.get()).clone());
    }
}
