//! What run scripts of Hugging Face do around a `Trainer`: callbacks that come later, and metrics and state in files.
//!
//! A trainer and metrics flow in; lines for people, `train_results.json`, `all_results.json` and `trainer_state.json` flow out.

use std::path::{Path, PathBuf};

use rhai::Map;
use rhai::plugin::*;
use serde_json::{Map as JsonMap, Value as Json};

use crate::api::callbacks::CallbackSetting;
use crate::api::session::Session;
use crate::api::trainer::ScriptTrainer;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise};

/// Makes the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(trainer_log).into());
}

#[export_module]
mod trainer_log {
    /// Adds a callback, as those of `Trainer`'s `callbacks`; it takes part from the next call on.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// trainer.add_callback(#{ on_log: |args, state, control, extra| print(extra.logs) });
    /// trainer.log(#{ loss: 0.5 });
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn add_callback(trainer: &mut ScriptTrainer, callback: Dynamic) -> ScriptResult<()> {
        let setting = CallbackSetting::read(&callback).map_err(raise)?;
        trainer.callbacks().push(setting);
        Ok(())
    }

    /// Takes a callback out again: the map of functions, or the `EarlyStoppingCallback`, that was given.
    ///
    /// ```rhai
    /// let stop = EarlyStoppingCallback();
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     callbacks: [stop],
    /// });
    /// trainer.remove_callback(stop);
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn remove_callback(trainer: &mut ScriptTrainer, callback: Dynamic) -> ScriptResult<()> {
        let setting = CallbackSetting::read(&callback).map_err(raise)?;
        let mut callbacks = trainer.callbacks();
        match callbacks.iter().position(|known| known.is_same(&setting)) {
            Some(place) => {
                callbacks.remove(place);
                Ok(())
            }
            None => Err(raise(Error::new(What::Conflict("the trainer has no such callback".into())))),
        }
    }

    /// Adds values to the log history, and tells the callbacks.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// trainer.log(#{ words: 120 });
    /// expect(trainer.state.log_history[0].words == 120, "with the step and the epoch");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn log(context: NativeCallContext, trainer: &mut ScriptTrainer, values: Map) -> ScriptResult<()> {
        let logged = || -> Result<()> {
            let mut inner = trainer.lock()?;
            inner.log(super::json(&values)?, &mut trainer.hooks(&context))?;
            trainer.view().follow(inner.state());
            Ok(())
        };
        logged().map_err(raise)
    }

    /// Prints metrics as a table, in the order of their names.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{ model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny") });
    /// trainer.log_metrics("eval", #{ eval_loss: 0.25, eval_accuracy: 0.9 });
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn log_metrics(
        context: NativeCallContext,
        _trainer: &mut ScriptTrainer,
        split: &str,
        metrics: Map,
    ) -> ScriptResult<()> {
        let metrics = super::json(&metrics).map_err(raise)?;
        let reporter = Session::of(&context).reporter().clone();
        super::table(split, &metrics).iter().for_each(|line| reporter.line(line));
        Ok(())
    }

    /// Writes metrics to `SPLIT_results.json` of the output folder, and adds them to `all_results.json`.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments("noted"),
    /// });
    /// trainer.save_metrics("eval", #{ eval_accuracy: 0.9 });
    /// expect(read_json("noted/all_results.json").eval_accuracy == 0.9, "beside those of other splits");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn save_metrics(
        context: NativeCallContext,
        trainer: &mut ScriptTrainer,
        split: &str,
        metrics: Map,
    ) -> ScriptResult<()> {
        let saved = super::output_dir(&context, trainer).and_then(|folder| super::save(&folder, split, &metrics));
        saved.map_err(raise)
    }

    /// Writes `trainer_state.json` to the output folder.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments("state"),
    /// });
    /// trainer.save_state();
    /// expect(read_json("state/trainer_state.json").global_step == 0, "nothing has been trained");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn save_state(context: NativeCallContext, trainer: &mut ScriptTrainer) -> ScriptResult<()> {
        let state = trainer.lock().map(|inner| inner.state().to_json()).map_err(raise)?;
        let folder = super::output_dir(&context, trainer).map_err(raise)?;
        super::write(&folder.join("trainer_state.json"), &state).map_err(raise)
    }
}

/// The trainer's folder, into which the recipe may write.
fn output_dir(context: &NativeCallContext, trainer: &ScriptTrainer) -> Result<PathBuf> {
    let folder = PathBuf::from(&trainer.arguments().get().output_dir);
    Session::of(context).permissions().write_below(&folder)?;
    Ok(folder)
}

fn json(values: &Map) -> Result<JsonMap<String, Json>> {
    values.iter().map(|(key, value)| Ok((key.to_string(), from_dynamic(value)?.to_json()))).collect()
}

/// Hugging Face's table: names to the left, numbers to the right, with four decimals.
fn table(split: &str, metrics: &JsonMap<String, Json>) -> Vec<String> {
    let shown = |value: &Json| match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) => format!("{:?}", (number * 1e4).round() / 1e4),
        None => value.as_str().map_or_else(|| value.to_string(), str::to_string),
    };
    let mut rows: Vec<_> = metrics.iter().map(|(name, value)| (name, shown(value))).collect();
    rows.sort();
    let wide = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let right = rows.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
    let lines = rows.iter().map(|(name, value)| format!("  {name:<wide$} = {value:>right$}"));
    std::iter::once(format!("***** {split} metrics *****")).chain(lines).collect()
}

fn save(folder: &Path, split: &str, metrics: &Map) -> Result<()> {
    let metrics = json(metrics)?;
    write(&folder.join(format!("{split}_results.json")), &Json::Object(metrics.clone()))?;
    let path = folder.join("all_results.json");
    let mut all = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str::<JsonMap<String, Json>>(&text).map_err(|error| {
            let what = What::Malformed { format: "all_results.json".into(), problem: error.to_string() };
            Error::new(what).at(crate::error::Place::file(&path))
        })?,
        Err(_) => JsonMap::new(),
    };
    all.extend(metrics);
    write(&path, &Json::Object(all))
}

fn write(path: &Path, value: &Json) -> Result<()> {
    crate::api::basics::write_file(path, value)
}
