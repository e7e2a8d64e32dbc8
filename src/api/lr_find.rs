//! `trainer.lr_find(#{ ... })`: a learning rate to begin with, by Lightning's method and names.

use rhai::plugin::*;
use rhai::{Array, Map};

use crate::api::options::Options;
use crate::api::session::Session;
use crate::api::trainer::ScriptTrainer;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, raise};
use crate::train::lr_find::{LrFindSettings, Mode};

/// Makes the functions known to an engine.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(lr_find_functions).into());
}

fn read(options: &mut Options) -> Result<LrFindSettings> {
    let given_threshold = options.has("early_stop_threshold");
    let defaults = LrFindSettings::default();
    let settings = LrFindSettings {
        min_lr: options.float("min_lr")?.unwrap_or(defaults.min_lr),
        max_lr: options.float("max_lr")?.unwrap_or(defaults.max_lr),
        num_training: options.count("num_training", 2)?.unwrap_or(defaults.num_training),
        mode: match options.choice("mode", &["exponential", "linear"])?.as_deref() {
            Some("linear") => Mode::Linear,
            _ => Mode::Exponential,
        },
        // `()` switches it off, as None does in Lightning.
        early_stop_threshold: match options.float("early_stop_threshold")? {
            None if !given_threshold => defaults.early_stop_threshold,
            threshold => threshold,
        },
        skip_begin: options.count("skip_begin", 0)?.unwrap_or(defaults.skip_begin),
        skip_end: options.count("skip_end", 0)?.unwrap_or(defaults.skip_end),
    };
    let above_zero = settings.min_lr > 0.0 || (settings.min_lr == 0.0 && settings.mode == Mode::Linear);
    if !(above_zero && settings.min_lr < settings.max_lr && settings.max_lr.is_finite()) {
        let problem = format!("`lr_find` goes from `min_lr` {} to `max_lr` {}", settings.min_lr, settings.max_lr);
        return Err(Error::new(What::Conflict(problem)).hint("`min_lr` is above 0 and below `max_lr`"));
    }
    Ok(settings)
}

fn find(context: &NativeCallContext, trainer: &ScriptTrainer, options: Map) -> Result<Map> {
    let mut options = Options::new("`lr_find`", options);
    let settings = read(&mut options)?;
    let update = options.bool("update_attr")?.unwrap_or(false);
    options.finish()?;
    let session = Session::of(context);
    let bar = session.reporter().evaluation(settings.num_training, "lr_find");
    let found = trainer.lock()?.lr_find(&settings, &mut trainer.hooks(context), &mut || bar.advance());
    drop(bar);
    let found = found?;
    session.reporter().lr_found(&found);
    if let (true, Some(rate)) = (update, found.suggestion) {
        trainer.arguments().apply(&session, vec![("learning_rate".into(), Value::Float(rate))])?;
    }
    let list =
        |values: &[f64]| Dynamic::from_array(values.iter().map(|value| Dynamic::from(*value)).collect::<Array>());
    let mut map = Map::new();
    map.insert("suggestion".into(), found.suggestion.map_or(Dynamic::UNIT, Dynamic::from));
    map.insert("lrs".into(), list(&found.lrs));
    map.insert("losses".into(), list(&found.losses));
    Ok(map)
}

/// A learning rate to begin with.
#[export_module]
mod lr_find_functions {
    /// Tries learning rates from 1e-8 to 1 in 100 updates, shows the loss at each, and suggests the one at which it falls fastest.
    ///
    /// The model, the optimizer and the state are afterwards what they were before. Gives `suggestion` (`()` where there are
    /// too few losses), `lrs` and `losses`.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: BertForSequenceClassification::from_config(#{
    ///         hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, vocab_size: 50,
    ///     }),
    ///     train_dataset: Dataset::from_rows([#{ input_ids: [2, 4, 3], labels: 0 }, #{ input_ids: [2, 5, 3], labels: 1 }]),
    /// });
    /// expect(trainer.lr_find().losses.len > 10, "a loss for each rate");
    /// ```
    #[rhai_fn(name = "lr_find", pure, return_raw)]
    pub fn lr_find(context: NativeCallContext, trainer: &mut ScriptTrainer) -> ScriptResult<Map> {
        find(&context, trainer, Map::new()).map_err(raise)
    }

    /// As `lr_find()`, with Lightning's options: `min_lr`, `max_lr`, `num_training`, `mode` ("exponential" or "linear"), `early_stop_threshold`.
    ///
    /// `skip_begin` (10) and `skip_end` (1) losses do not count for the suggestion; `update_attr: true` makes it the
    /// trainer's `learning_rate`. Without a threshold (`()`) the finder never stops early.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "out", per_device_train_batch_size: 2 }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:8]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// let found = trainer.lr_find(#{ min_lr: 1e-6, max_lr: 1e-2, num_training: 5, skip_begin: 0, update_attr: true });
    /// expect(trainer.args.learning_rate == found.suggestion, "the suggestion is used from now on");
    /// ```
    #[rhai_fn(name = "lr_find", pure, return_raw)]
    pub fn lr_find_with(context: NativeCallContext, trainer: &mut ScriptTrainer, options: Map) -> ScriptResult<Map> {
        find(&context, trainer, options).map_err(raise)
    }
}
