//! `TrainingArguments(#{ ... })` and `EarlyStoppingCallback(#{ ... })` for scripts.
//!
//! An options map flows in, a handle flows out that the `Trainer` takes and whose values a script can read. What the
//! arguments mean is left to `train::arguments`.

use std::sync::{Arc, PoisonError, RwLock};

use rhai::plugin::*;
use rhai::{Dynamic, Engine, ImmutableString, Map, NativeCallContext};

use crate::api::changes::{self, Change};
use crate::api::options::Options;
use crate::api::session::Session;
use crate::data::Value;
use crate::error::{Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, to_dynamic};
use crate::train;

/// Training arguments as a script holds them. All clones are the same arguments: what is set in one shows in all.
#[derive(Clone, Debug)]
pub struct TrainingArguments(Arc<RwLock<Arc<train::TrainingArguments>>>, Arc<[Change]>);

/// Early stopping as a script holds it: settings, from which a trainer makes a callback of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Evaluations without an improvement before training stops.
    pub patience: u64,
    /// What counts as an improvement.
    pub threshold: f64,
}

impl EarlyStopping {
    /// The callback, with nothing counted yet.
    pub fn callback(&self) -> train::callbacks::EarlyStoppingCallback {
        train::callbacks::EarlyStoppingCallback::new(self.patience, self.threshold)
    }
}

impl TrainingArguments {
    /// A handle to arguments.
    pub fn new(args: train::TrainingArguments) -> Self {
        TrainingArguments(Arc::new(RwLock::new(Arc::new(args))), Arc::default())
    }

    /// What the recipe changes while a run goes on.
    pub fn changes(&self) -> &Arc<[Change]> {
        &self.1
    }

    /// The arguments as they are now.
    pub fn get(&self) -> Arc<train::TrainingArguments> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the arguments behind the handle.
    pub fn set(&self, args: train::TrainingArguments) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(args);
    }

    /// Changes some of the arguments, as `TrainingArguments(#{ ... })` reads them.
    ///
    /// # Errors
    /// As [`train::TrainingArguments::from_pairs`].
    pub fn apply(&self, session: &Session, pairs: Vec<(String, Value)>) -> Result<()> {
        let (mut args, notes) = (*self.get()).clone().with(pairs)?;
        for note in notes {
            session.reporter().note(&note);
        }
        if session.seed_is_forced() {
            args.seed = session.seed();
            args.data_seed = None;
        }
        self.set(args);
        Ok(())
    }

    fn read(session: &Session, mut options: Map) -> Result<Self> {
        let changes = options.remove("changes").filter(|changes| !changes.is_unit());
        // An unknown name says more than the type of its value, which may be no data at all.
        let is_unknown = |key: &str| !train::TrainingArguments::keys().any(|known| known == key);
        if let Some((key, _)) = options.iter().find(|(key, value)| is_unknown(key) && from_dynamic(value).is_err()) {
            return Err(train::TrainingArguments::unknown(key));
        }
        let pairs = Options::new("`TrainingArguments`", options).rest()?;
        let (mut args, notes) = train::TrainingArguments::from_pairs(pairs)?;
        for note in notes {
            session.reporter().note(&note);
        }
        if session.seed_is_forced() {
            args.seed = session.seed();
            args.data_seed = None;
        }
        session.redirected(&mut args.output_dir);
        session.permissions().write(std::path::Path::new(&args.output_dir))?;
        let changes = changes.map(|changes| changes::read(changes, &args)).transpose()?.unwrap_or_default();
        Ok(TrainingArguments(TrainingArguments::new(args).0, changes.into()))
    }

    fn property(&self, name: &str) -> Result<Dynamic> {
        self.get().get(name).map(|value| to_dynamic(&value)).ok_or_else(|| train::TrainingArguments::unknown(name))
    }
}

impl EarlyStopping {
    fn read(options: Map) -> Result<Self> {
        let mut options = Options::new("`EarlyStoppingCallback`", options);
        let patience = options.count("early_stopping_patience", 1)?.unwrap_or(1);
        let threshold = options.float("early_stopping_threshold")?.unwrap_or(0.0);
        options.finish()?;
        if threshold >= 0.0 && threshold.is_finite() {
            return Ok(EarlyStopping { patience: patience as u64, threshold });
        }
        Err(What::OutOfRange {
            name: "`early_stopping_threshold` of `EarlyStoppingCallback`".into(),
            value: threshold.to_string(),
            allowed: "at least 0".into(),
        }
        .into())
    }
}

#[export_module]
mod training_arguments {
    /// How to train, with Hugging Face's names and defaults.
    ///
    /// Every argument either works, is accepted with a note because it changes nothing here, or is refused with the
    /// reason. Values are read as properties. `--seed` on the command line wins over `seed`. `changes` is a list of what is to
    /// change while the run goes on, each before the update after `step`: `#{ step: 100, learning_rate: 1e-5 }`, with
    /// `lr_policy` where the schedule is not to keep its shape, and `evaluate`, `save` or `stop`.
    ///
    /// ```rhai
    /// let args = TrainingArguments(#{
    ///     output_dir: "out",
    ///     learning_rate: 2e-5,
    ///     num_train_epochs: 2,
    ///     eval_strategy: "epoch",
    /// });
    /// expect(args.learning_rate == 2e-5, "the rate that was given");
    /// expect(args.per_device_train_batch_size == 8, "the default");
    /// ```
    #[rhai_fn(name = "TrainingArguments", return_raw)]
    pub fn with_options(context: NativeCallContext, options: Map) -> ScriptResult<TrainingArguments> {
        TrainingArguments::read(&Session::of(&context), options).map_err(raise)
    }

    /// How to train, with the output folder as the first argument, as in Hugging Face's guides.
    ///
    /// ```rhai
    /// expect(TrainingArguments("out").output_dir == "out", "and the defaults");
    /// ```
    #[rhai_fn(name = "TrainingArguments", return_raw)]
    pub fn of_folder(context: NativeCallContext, output_dir: ImmutableString) -> ScriptResult<TrainingArguments> {
        of_folder_with(context, output_dir, Map::new())
    }

    /// How to train, with the output folder as the first argument and all others as options.
    ///
    /// ```rhai
    /// let args = TrainingArguments("out", #{ learning_rate: 2e-5 });
    /// expect(args.output_dir == "out" && args.learning_rate == 2e-5, "both");
    /// ```
    #[rhai_fn(name = "TrainingArguments", return_raw)]
    pub fn of_folder_with(
        context: NativeCallContext,
        output_dir: ImmutableString,
        options: Map,
    ) -> ScriptResult<TrainingArguments> {
        let mut options = options;
        if options.insert("output_dir".into(), output_dir.into()).is_some() {
            let problem = "`output_dir` is given twice: as the first argument, and among the options";
            return Err(raise(What::Conflict(problem.into()).into()));
        }
        TrainingArguments::read(&Session::of(&context), options).map_err(raise)
    }

    /// How to train, with all defaults; checkpoints go to `trainer_output`.
    ///
    /// ```rhai
    /// expect(TrainingArguments().num_train_epochs == 3.0, "three epochs");
    /// ```
    #[rhai_fn(name = "TrainingArguments", return_raw)]
    pub fn with_defaults(context: NativeCallContext) -> ScriptResult<TrainingArguments> {
        TrainingArguments::read(&Session::of(&context), Map::new()).map_err(raise)
    }

    /// The value of an argument by name: `args.learning_rate` or `args["learning_rate"]`.
    ///
    /// An argument that nobody gave and that has no default is `()`.
    ///
    /// ```rhai
    /// let args = TrainingArguments(#{ weight_decay: 0.01 });
    /// expect(args["weight_decay"] == 0.01, "by name");
    /// expect(args.save_total_limit == (), "all checkpoints are kept");
    /// ```
    #[rhai_fn(index_get, pure, return_raw)]
    pub fn value_of(args: &mut TrainingArguments, name: ImmutableString) -> ScriptResult<Dynamic> {
        args.property(&name).map_err(raise)
    }

    /// Changes an argument by name: `args.learning_rate = 3e-5` or `args["learning_rate"] = 3e-5`.
    ///
    /// A trainer that was made with these arguments uses the new value from its next call on.
    ///
    /// ```rhai
    /// let args = TrainingArguments(#{ learning_rate: 2e-5 });
    /// args.learning_rate = 1e-4;
    /// args["seed"] = 7;
    /// expect(args.learning_rate == 1e-4 && args.seed == 7, "the new values");
    /// ```
    #[rhai_fn(index_set, pure, return_raw)]
    pub fn set_value_of(
        context: NativeCallContext,
        args: &mut TrainingArguments,
        name: ImmutableString,
        value: Dynamic,
    ) -> ScriptResult<()> {
        if train::TrainingArguments::keys().all(|known| known != name.as_str()) {
            return Err(raise(train::TrainingArguments::unknown(&name)));
        }
        let value = from_dynamic(&value).map_err(raise)?;
        args.apply(&Session::of(&context), vec![(name.to_string(), value)]).map_err(raise)
    }

    /// The arguments as text, one `name=value` a line, in the order of their names.
    ///
    /// ```rhai
    /// expect(TrainingArguments().to_string().contains("seed=42"), "names and values");
    /// ```
    #[rhai_fn(global, name = "to_string", name = "to_debug", pure)]
    pub fn arguments_to_string(args: &mut TrainingArguments) -> String {
        let mut lines: Vec<String> =
            args.get().to_json().iter().map(|(name, value)| format!("  {name}={value},\n")).collect();
        lines.sort();
        format!("TrainingArguments(\n{})", lines.concat())
    }

    /// A callback that stops training when `metric_for_best_model` has not improved for a number of evaluations.
    ///
    /// `early_stopping_patience` (1) is that number, `early_stopping_threshold` (0.0) is what an improvement has to
    /// exceed. It needs an `eval_strategy` and a `metric_for_best_model`, which `load_best_model_at_end` sets to "loss".
    ///
    /// ```rhai
    /// let stop = EarlyStoppingCallback(#{ early_stopping_patience: 3 });
    /// expect(stop.to_string().contains("early_stopping_patience=3"), "three evaluations");
    /// ```
    #[rhai_fn(name = "EarlyStoppingCallback", return_raw)]
    pub fn early_stopping_with_options(options: Map) -> ScriptResult<EarlyStopping> {
        EarlyStopping::read(options).map_err(raise)
    }

    /// A callback that stops training at the first evaluation that does not improve.
    ///
    /// ```rhai
    /// let stop = EarlyStoppingCallback();
    /// expect(stop.to_string().contains("early_stopping_patience=1"), "one evaluation");
    /// ```
    #[rhai_fn(name = "EarlyStoppingCallback", return_raw)]
    pub fn early_stopping() -> ScriptResult<EarlyStopping> {
        EarlyStopping::read(Map::new()).map_err(raise)
    }

    /// The callback as text, with its settings.
    ///
    /// ```rhai
    /// expect(EarlyStoppingCallback().to_string().contains("early_stopping_threshold=0"), "any improvement counts");
    /// ```
    #[rhai_fn(global, name = "to_string", name = "to_debug", pure)]
    pub fn early_stopping_to_string(stop: &mut EarlyStopping) -> String {
        let EarlyStopping { patience, threshold } = stop;
        format!("EarlyStoppingCallback(early_stopping_patience={patience}, early_stopping_threshold={threshold})")
    }
}

/// Registers the functions of this file.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<TrainingArguments>("TrainingArguments");
    engine.register_type_with_name::<EarlyStopping>("EarlyStoppingCallback");
    engine.register_global_module(exported_module!(training_arguments).into());
}
