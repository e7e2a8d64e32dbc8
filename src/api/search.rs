//! `trainer.hyperparameter_search(#{ ... })`, with Hugging Face's names and those of Optuna that it hands through.

use std::path::Path;
use std::time::Duration;

use rhai::plugin::*;
use rhai::{FnPtr, Map};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::api::callbacks::json_to_dynamic;
use crate::api::model_init::{Loads, fresh_model};
use crate::api::options::Options;
use crate::api::search_space::ranges;
use crate::api::session::Session;
use crate::api::trainer::ScriptTrainer;
use crate::cancel::meter;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, lower, raise, to_dynamic, type_name};
use crate::train::search::pruner::{PercentilePruner, Pruner};
use crate::train::search::sampler::{Sampler, Tpe};
use crate::train::search::space::Distribution;
use crate::train::search::{self, BestRun, Direction, Search, Study, TrialHandle};

/// Makes the functions known to an engine.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(search_functions).into());
}

/// The callee's name in messages.
const OF: &str = "`hyperparameter_search`";

/// Where a trial's values come from.
enum Space {
    Default,
    Function(FnPtr),
    Ranges(Vec<(String, Distribution)>),
}

/// The options of a search.
struct Settings {
    study: Study,
    n_trials: usize,
    timeout: Option<Duration>,
    patience: Option<usize>,
    resume: bool,
    space: Space,
    objective: Option<FnPtr>,
    name: Option<FnPtr>,
}

impl Settings {
    fn read(options: Map, seed: u64) -> Result<Self> {
        let mut options = Options::new(OF, options);
        refuse(&mut options)?;
        let function = |error: Error| error.hint("write `Fn(\"NAME\")` for a function of the recipe, or a closure");
        let space = match options.take("hp_space") {
            None => Space::Default,
            Some(value) => match (value.clone().try_cast::<FnPtr>(), value.clone().try_cast::<Map>()) {
                (Some(function), _) => Space::Function(function),
                (_, Some(map)) => Space::Ranges(ranges(map)?),
                _ => {
                    let (name, got) = (format!("`hp_space` of {OF}"), type_name(&value));
                    let wanted = "a function of a trial, or a map of ranges".into();
                    return Err(What::WrongType { name, wanted, got }.into());
                }
            },
        };
        let direction = match options.choice("direction", &["minimize", "maximize"])?.as_deref() {
            Some("maximize") => Direction::Maximize,
            _ => Direction::Minimize,
        };
        let seed = options.count("seed", 0)?.map_or(seed, |seed| seed as u64);
        let mut study = Study::new(direction, seed);
        study.sampler = sampler(&mut options)?;
        study.pruner = pruner(&mut options)?;
        let timeout = match options.float("timeout")? {
            None => None,
            Some(seconds) => Some(Duration::try_from_secs_f64(seconds).map_err(|_| {
                let (name, value) = (format!("`timeout` of {OF}"), seconds.to_string());
                Error::from(What::OutOfRange { name, value, allowed: "a number of seconds".into() })
            })?),
        };
        let settings = Settings {
            study,
            n_trials: options.count("n_trials", 1)?.unwrap_or(20),
            timeout,
            patience: options.count("patience", 1)?,
            resume: options.bool("resume")?.unwrap_or(false),
            space,
            objective: options.object("compute_objective", "a function").map_err(function)?,
            name: options.object("hp_name", "a function").map_err(function)?,
        };
        options.finish()?;
        Ok(settings)
    }
}

/// Options of Hugging Face and Optuna that this search does not have.
fn refuse(options: &mut Options) -> Result<()> {
    let unsupported = |what: String, hint: &str| Err(Error::new(What::Unsupported(what)).hint(hint.to_string()));
    if let Some(backend) = options.string("backend")?.filter(|backend| backend != "optuna") {
        return unsupported(
            format!("`backend: {backend:?}` of {OF}"),
            "leave it out: the search works as Optuna's does",
        );
    }
    if options.peek("direction").is_some_and(|direction| direction.is_array()) {
        let hint = "give one direction, and weigh several metrics in `compute_objective`";
        return unsupported(format!("several directions in {OF}"), hint);
    }
    if options.int("n_jobs")?.is_some_and(|n_jobs| n_jobs != 1) {
        return unsupported(format!("`n_jobs` of {OF}"), "trials run one after the other, each with all cores");
    }
    // What these two ask for is so anyway: memory is freed after each trial, and a study needs no name.
    options.bool("gc_after_trial")?;
    options.string("study_name")?;
    for key in ["storage", "load_if_exists"] {
        if options.take(key).is_some_and(|value| !matches!(value.as_bool(), Ok(false))) {
            let hint = "trials are kept in `trials.json` of `output_dir`; `resume: true` goes on from there";
            return unsupported(format!("`{key}` of {OF}"), hint);
        }
    }
    Ok(())
}

/// A name, or a map with `name` and settings, under `key`.
fn named(options: &mut Options, key: &'static str, default: &str) -> Result<(String, Options)> {
    let of = format!("`{key}` of {OF}");
    let (name, settings) = match options.take(key) {
        None => (default.to_string(), Map::new()),
        Some(value) => match (value.clone().into_string(), value.clone().try_cast::<Map>()) {
            (Ok(name), _) => (name, Map::new()),
            (_, Some(mut map)) => match map.remove("name") {
                None => (default.to_string(), map),
                Some(name) => (name.into_string().unwrap_or_default(), map),
            },
            _ => {
                return Err(
                    What::WrongType { name: of, wanted: "a name or a map".into(), got: type_name(&value) }.into()
                );
            }
        },
    };
    Ok((name, Options::new(of, settings)))
}

fn choice<T>(key: &str, name: &str, known: &[&str], found: Option<T>) -> Result<T> {
    found.ok_or_else(|| {
        let allowed = known.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let (of, value) = (format!("`{key}` of {OF}"), format!("{name:?}"));
        What::OutOfRange { name: of, value, allowed: format!("one of {allowed}") }.into()
    })
}

fn sampler(options: &mut Options) -> Result<Sampler> {
    let (name, mut own) = named(options, "sampler", "tpe")?;
    let defaults = Tpe::default();
    let startup = options.count("n_startup_trials", 0)?;
    let sampler = match name.as_str() {
        "random" => Some(Sampler::Random),
        "tpe" => Some(Sampler::Tpe(Tpe {
            n_startup_trials: own.count("n_startup_trials", 0)?.or(startup).unwrap_or(defaults.n_startup_trials),
            n_ei_candidates: own.count("n_ei_candidates", 1)?.unwrap_or(defaults.n_ei_candidates),
            multivariate: own.bool("multivariate")?.unwrap_or(defaults.multivariate),
        })),
        _ => None,
    };
    own.finish()?;
    choice("sampler", &name, &["tpe", "random"], sampler)
}

fn pruner(options: &mut Options) -> Result<Pruner> {
    let (name, mut own) = named(options, "pruner", "median")?;
    let defaults = PercentilePruner::default();
    let percentile = match name.as_str() {
        "percentile" => own.float("percentile")?.unwrap_or(25.0),
        _ => defaults.percentile,
    };
    if !(0.0..=100.0).contains(&percentile) {
        let (name, value) = (format!("`percentile` of `pruner` of {OF}"), percentile.to_string());
        return Err(What::OutOfRange { name, value, allowed: "between 0 and 100".into() }.into());
    }
    let pruner = match name.as_str() {
        "none" | "nop" => Some(Pruner::None),
        "median" | "percentile" => Some(Pruner::Percentile(PercentilePruner {
            percentile,
            n_startup_trials: own.count("n_startup_trials", 0)?.unwrap_or(defaults.n_startup_trials),
            n_warmup_steps: own.count("n_warmup_steps", 0)?.unwrap_or(defaults.n_warmup_steps),
            interval_steps: own.count("interval_steps", 1)?.unwrap_or(defaults.interval_steps),
            n_min_trials: own.count("n_min_trials", 1)?.unwrap_or(defaults.n_min_trials),
        })),
        _ => None,
    };
    own.finish()?;
    choice("pruner", &name, &["median", "percentile", "none"], pruner)
}

/// Calls a script's function with a trial.
fn call<T: Clone + 'static>(
    context: &NativeCallContext,
    function: &FnPtr,
    trial: &TrialHandle,
    (what, wanted, hint): (&str, &str, &str),
) -> Result<T> {
    let _call = meter::call();
    let value = function.call_within_context::<Dynamic>(context, (trial.clone(),)).map_err(lower)?;
    value.clone().try_cast::<T>().ok_or_else(|| {
        let (name, got) = (format!("what `{what}` returns"), type_name(&value));
        Error::new(What::WrongType { name, wanted: wanted.into(), got }).hint(hint.to_string())
    })
}

fn hp_space(context: &NativeCallContext, space: &Space, trial: &TrialHandle) -> Result<Vec<(String, Value)>> {
    match space {
        Space::Default => search::default_space(trial),
        Space::Ranges(ranges) => {
            let suggest = |(name, of): &(String, Distribution)| Ok((name.clone(), trial.suggest(name, of.clone())?));
            ranges.iter().map(suggest).collect()
        }
        Space::Function(function) => {
            let hint = "end it with `#{ learning_rate: trial.suggest_float(...) }`, without a `;`";
            let map: Map = call(context, function, trial, ("hp_space", "a map from arguments to values", hint))?;
            map.into_iter().map(|(name, value)| Ok((name.to_string(), from_dynamic(&value)?))).collect()
        }
    }
}

fn objective(context: &NativeCallContext, function: Option<&FnPtr>, metrics: &JsonMap<String, Json>) -> Result<f64> {
    let Some(function) = function else { return search::default_objective(metrics) };
    let _call = meter::call();
    let value = function.call_within_context::<Dynamic>(context, (json_to_dynamic(metrics),)).map_err(lower)?;
    value.as_float().or_else(|_| value.as_int().map(|number| number as f64)).map_err(|_| {
        let (name, got) = ("what `compute_objective` returns".into(), type_name(&value));
        let error = Error::new(What::WrongType { name, wanted: "a number".into(), got });
        error.hint("end it with a metric, for example `metrics.eval_accuracy`, without a `;`")
    })
}

fn run(context: &NativeCallContext, trainer: &ScriptTrainer, options: Map) -> Result<Map> {
    let arguments = trainer.arguments();
    let base = arguments.get();
    let Settings { study, n_trials, timeout, patience, resume, space, objective: own, name } =
        Settings::read(options, base.seed)?;
    let session = Session::of(context);
    let reporter = session.reporter().clone();
    let output_dir = Path::new(&base.output_dir);
    session.permissions().write_below(output_dir)?;
    let name_hint = "end it with a string, for example `run-${trial.number}` in backticks";
    let search = Search {
        study,
        n_trials,
        timeout,
        patience,
        resume,
        hp_space: Box::new(|trial| hp_space(context, &space, trial)),
        objective: Box::new(|metrics| objective(context, own.as_ref(), metrics)),
        name: name.as_ref().map(|function| -> search::NameOf<'_> {
            let session = &session;
            Box::new(move |trial| {
                let name: rhai::ImmutableString = call(context, function, trial, ("hp_name", "a string", name_hint))?;
                session.permissions().write_below(&output_dir.join(name.as_str()))?;
                Ok(name.to_string())
            })
        }),
        model_init: trainer.model_init().map(|init| -> search::ModelOf<'_> {
            Box::new(move |trial, args| fresh_model(context, init, Some(trial), args.seed, Loads::Silent))
        }),
        hooks: Box::new(|model, args| {
            arguments.set(args.clone());
            *trainer.model() = model.clone();
            trainer.hooks(context)
        }),
        watch: Box::new(|trial, study| reporter.trial(trial, study)),
        done: Box::new(|study| reporter.trials(study)),
    };
    let best = {
        let mut at_work = trainer.lock()?;
        let best = at_work.search(search);
        trainer.view().follow(at_work.state());
        best
    };
    arguments.set((*base).clone());
    let best = best?;
    let values = best.hyperparameters.iter().map(|(name, value)| (name.clone(), value.to_json()));
    reporter.set_result(
        "best_run",
        json!({
            "run_id": best.run_id, "objective": best.objective, "hyperparameters": JsonMap::from_iter(values),
        }),
    );
    Ok(best_run(&best))
}

/// Hugging Face's `BestRun` as a map.
fn best_run(best: &BestRun) -> Map {
    let values = best.hyperparameters.iter().map(|(name, value)| (name.as_str().into(), to_dynamic(value)));
    let mut map = Map::new();
    map.insert("run_id".into(), best.run_id.clone().into());
    map.insert("objective".into(), best.objective.into());
    map.insert("hyperparameters".into(), Dynamic::from_map(values.collect()));
    map.insert("run_summary".into(), Dynamic::UNIT);
    map
}

/// The search for good arguments.
#[export_module]
mod search_functions {
    /// Trains with 20 choices of arguments from Hugging Face's default space, and gives the best: `run_id`, `objective`, `hyperparameters`.
    ///
    /// The space has `learning_rate` (1e-6 to 1e-4), `num_train_epochs` (1 to 5), `seed` (1 to 40) and
    /// `per_device_train_batch_size` (4, 8, 16, 32, 64).
    ///
    /// ```rhai
    /// let row = |index| #{ input_ids: [2, 4 + index, 3], labels: index % 2 };
    /// let rows = Dataset::from_rows([row.call(0), row.call(1), row.call(2), row.call(3)]);
    /// let trainer = Trainer(#{
    ///     model_init: || BertForSequenceClassification::from_config(#{
    ///         hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, vocab_size: 50,
    ///     }),
    ///     args: TrainingArguments(#{ output_dir: "searched", save_strategy: "no" }),
    ///     train_dataset: rows, eval_dataset: rows,
    /// });
    /// expect(trainer.hyperparameter_search().hyperparameters.num_train_epochs <= 5, "one of the space");
    /// ```
    #[rhai_fn(name = "hyperparameter_search", pure, return_raw)]
    pub fn hyperparameter_search(context: NativeCallContext, trainer: &mut ScriptTrainer) -> ScriptResult<Map> {
        run(&context, trainer, Map::new()).map_err(raise)
    }

    /// Trains with `n_trials` (20) choices of arguments from `hp_space`, and gives the best: `run_id`, `objective`, `hyperparameters`, `run_summary`.
    ///
    /// `hp_space` is a function of a trial that returns arguments (`trial.suggest_float` and its sisters choose), or a map of
    /// ranges. `direction` ("minimize") says what is better; `compute_objective` makes a number of an evaluation's metrics:
    /// without it the loss counts, or the sum of the other metrics where there are any. Each trial has a fresh model: of `model_init`,
    /// or with the weights that `model` has now. `sampler` is "tpe", "random" or `#{ name: "tpe", n_startup_trials: 10,
    /// n_ei_candidates: 24, multivariate: false }`; `pruner` is "median", "none" or `#{ name: "median", n_startup_trials: 5,
    /// n_warmup_steps: 0, interval_steps: 1, n_min_trials: 1 }` and stops trials at evaluations. Others: `seed`, `hp_name`,
    /// `timeout` (seconds), `patience` (trials without a better one). Trials go to `run-N` in `output_dir`, their list to `trials.json`;
    /// `resume: true` goes on from it. Arguments are afterwards what they were: `trainer.apply(best.hyperparameters)`.
    ///
    /// ```rhai
    /// let row = |index| #{ input_ids: [2, 4 + index, 3], labels: index % 2 };
    /// let rows = Dataset::from_rows([row.call(0), row.call(1), row.call(2), row.call(3)]);
    /// let trainer = Trainer(#{
    ///     model: BertForSequenceClassification::from_config(#{
    ///         hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, vocab_size: 50,
    ///     }),
    ///     args: TrainingArguments(#{ output_dir: "searched", num_train_epochs: 1, save_strategy: "no" }),
    ///     train_dataset: rows, eval_dataset: rows,
    /// });
    /// let best = trainer.hyperparameter_search(#{
    ///     hp_space: |trial| #{ learning_rate: trial.suggest_float("learning_rate", 1e-5, 1e-3, #{ log: true }) },
    ///     compute_objective: |metrics| metrics.eval_loss,
    ///     n_trials: 3,
    /// });
    /// trainer.apply(best.hyperparameters);
    /// expect(trainer.args.learning_rate == best.hyperparameters.learning_rate, "ready to train with it");
    /// ```
    #[rhai_fn(name = "hyperparameter_search", pure, return_raw)]
    pub fn search_with(context: NativeCallContext, trainer: &mut ScriptTrainer, options: Map) -> ScriptResult<Map> {
        run(&context, trainer, options).map_err(raise)
    }

    /// Changes training arguments by name, from the next call on: what a search found, for example.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// trainer.apply(#{ learning_rate: 3e-5, num_train_epochs: 2 });
    /// expect(trainer.args.num_train_epochs == 2.0, "as if it had been given");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn apply(context: NativeCallContext, trainer: &mut ScriptTrainer, arguments: Map) -> ScriptResult<()> {
        let pairs = Options::new("`apply`", arguments).rest();
        pairs.and_then(|pairs| trainer.arguments().apply(&Session::of(&context), pairs)).map_err(raise)
    }
}
