//! `trial.suggest_float(...)` and its sisters, and search spaces that are written as a map of ranges.

use std::ops::{Range, RangeInclusive};

use rhai::plugin::*;
use rhai::{Array, Map};

use crate::api::options::Options;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, to_dynamic, type_name};
use crate::train::search::TrialHandle;
use crate::train::search::space::Distribution;

/// Makes the type known to an engine.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<TrialHandle>("Trial");
    engine.register_global_module(exported_module!(trial_functions).into());
}

/// A space that is a map: from names to arrays of choices, ranges of whole numbers, or maps with `low` and `high`.
pub(super) fn ranges(map: Map) -> Result<Vec<(String, Distribution)>> {
    map.into_iter().map(|(name, value)| Ok((name.to_string(), distribution(&name, value)?))).collect()
}

fn distribution(name: &str, value: Dynamic) -> Result<Distribution> {
    if let Some(range) = value.clone().try_cast::<Range<i64>>() {
        return Distribution::int(name, range.start, range.end - 1, false, 1);
    }
    if let Some(range) = value.clone().try_cast::<RangeInclusive<i64>>() {
        return Distribution::int(name, *range.start(), *range.end(), false, 1);
    }
    if value.is_array() {
        return choices(name, &value);
    }
    let Some(map) = value.clone().try_cast::<Map>() else {
        return Distribution::categorical(name, vec![from_dynamic(&value)?]);
    };
    let mut options = Options::new(format!("the range of `{name}`"), map);
    if let Some(list) = options.take("choices") {
        options.finish()?;
        return choices(name, &list);
    }
    let ends = ["low", "high"].map(|key| options.take(key));
    let [Some(low), Some(high)] = ends else {
        let problem = format!("the range of `{name}` needs `low` and `high`, or `choices`");
        let hint =
            format!("write `{name}: #{{ low: 1e-6, high: 1e-4, log: true }}`, `{name}: 1..=5` or `{name}: [8, 16]`");
        return Err(Error::new(What::Conflict(problem)).hint(hint));
    };
    let kind = options.choice("type", &["float", "int"])?;
    let log = options.bool("log")?.unwrap_or(false);
    let step = options.float("step")?;
    options.finish()?;
    let number = |which: &str, value: &Dynamic| {
        let wrong = || {
            let name = format!("`{which}` of the range of `{name}`");
            Error::from(What::WrongType { name, wanted: "a number".into(), got: type_name(value) })
        };
        value.as_float().or_else(|_| value.as_int().map(|number| number as f64)).map_err(|_| wrong())
    };
    let (from, to) = (number("low", &low)?, number("high", &high)?);
    // Whole ends make a range of whole numbers, unless its type says otherwise.
    let whole = low.is_int() && high.is_int() && step.is_none_or(|step| step.fract() == 0.0);
    match kind.as_deref() {
        Some("float") => Distribution::float(name, from, to, log, step),
        None if !whole => Distribution::float(name, from, to, log, step),
        _ => Distribution::int(name, from as i64, to as i64, log, step.unwrap_or(1.0) as i64),
    }
}

fn choices(name: &str, value: &Dynamic) -> Result<Distribution> {
    match from_dynamic(value)? {
        Value::List(list) => Distribution::categorical(name, list.to_vec()),
        _ => {
            let name = format!("`choices` of `{name}`");
            Err(What::WrongType { name, wanted: "an array".into(), got: type_name(value) }.into())
        }
    }
}

/// A number or an integer for a `suggest_...`.
fn end(name: &str, which: &str, value: &Dynamic) -> Result<f64> {
    value.as_float().or_else(|_| value.as_int().map(|number| number as f64)).map_err(|_| {
        let name = format!("`{which}` of the range of `{name}`");
        What::WrongType { name, wanted: "a number".into(), got: type_name(value) }.into()
    })
}

fn suggest_float(trial: &TrialHandle, name: &str, low: &Dynamic, high: &Dynamic, options: Map) -> Result<f64> {
    let mut options = Options::new("`suggest_float`", options);
    let (log, step) = (options.bool("log")?.unwrap_or(false), options.float("step")?);
    options.finish()?;
    let distribution = Distribution::float(name, end(name, "low", low)?, end(name, "high", high)?, log, step)?;
    Ok(trial.suggest(name, distribution)?.as_float().unwrap_or(f64::NAN))
}

fn suggest_int(trial: &TrialHandle, name: &str, low: i64, high: i64, options: Map) -> Result<i64> {
    let mut options = Options::new("`suggest_int`", options);
    let (log, step) = (options.bool("log")?.unwrap_or(false), options.int("step")?.unwrap_or(1));
    options.finish()?;
    Ok(trial.suggest(name, Distribution::int(name, low, high, log, step)?)?.as_int().unwrap_or(low))
}

/// A trial of a search, as `hp_space`, `hp_name` and `model_init` get it.
#[export_module]
mod trial_functions {
    /// A number between `low` and `high`, both among them.
    ///
    /// ```rhai
    /// let space = |trial| #{ weight_decay: trial.suggest_float("weight_decay", 0.0, 0.3) };
    /// expect(type_of(space) == "Fn", "`hyperparameter_search(#{ hp_space: space })` calls it for each trial");
    /// ```
    #[rhai_fn(name = "suggest_float", pure, return_raw)]
    pub fn float(trial: &mut TrialHandle, name: &str, low: Dynamic, high: Dynamic) -> ScriptResult<f64> {
        suggest_float(trial, name, &low, &high, Map::new()).map_err(raise)
    }

    /// A number between `low` and `high`: `log: true` makes orders of magnitude equally likely, `step` allows only every so many.
    ///
    /// ```rhai
    /// let space = |trial| #{ learning_rate: trial.suggest_float("learning_rate", 1e-6, 1e-4, #{ log: true }) };
    /// expect(type_of(space) == "Fn", "`hyperparameter_search(#{ hp_space: space })` calls it for each trial");
    /// ```
    #[rhai_fn(name = "suggest_float", pure, return_raw)]
    pub fn float_with(
        trial: &mut TrialHandle,
        name: &str,
        low: Dynamic,
        high: Dynamic,
        options: Map,
    ) -> ScriptResult<f64> {
        suggest_float(trial, name, &low, &high, options).map_err(raise)
    }

    /// A whole number between `low` and `high`, both among them.
    ///
    /// ```rhai
    /// let space = |trial| #{ num_train_epochs: trial.suggest_int("num_train_epochs", 1, 5) };
    /// expect(type_of(space) == "Fn", "`hyperparameter_search(#{ hp_space: space })` calls it for each trial");
    /// ```
    #[rhai_fn(name = "suggest_int", pure, return_raw)]
    pub fn int(trial: &mut TrialHandle, name: &str, low: i64, high: i64) -> ScriptResult<i64> {
        suggest_int(trial, name, low, high, Map::new()).map_err(raise)
    }

    /// A whole number between `low` and `high`, with `log` or `step` as `suggest_float` has them.
    ///
    /// ```rhai
    /// let space = |trial| #{ warmup_steps: trial.suggest_int("warmup_steps", 0, 100, #{ step: 10 }) };
    /// expect(type_of(space) == "Fn", "`hyperparameter_search(#{ hp_space: space })` calls it for each trial");
    /// ```
    #[rhai_fn(name = "suggest_int", pure, return_raw)]
    pub fn int_with(trial: &mut TrialHandle, name: &str, low: i64, high: i64, options: Map) -> ScriptResult<i64> {
        suggest_int(trial, name, low, high, options).map_err(raise)
    }

    /// One of several values.
    ///
    /// ```rhai
    /// let space = |trial| #{ lr_scheduler_type: trial.suggest_categorical("lr_scheduler_type", ["linear", "cosine"]) };
    /// expect(type_of(space) == "Fn", "`hyperparameter_search(#{ hp_space: space })` calls it for each trial");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn suggest_categorical(trial: &mut TrialHandle, name: &str, choices: Array) -> ScriptResult<Dynamic> {
        let read = || super::choices(name, &Dynamic::from_array(choices));
        read().and_then(|distribution| trial.suggest(name, distribution)).map(|value| to_dynamic(&value)).map_err(raise)
    }

    /// The trial's number, from 0.
    ///
    /// ```rhai
    /// let name = |trial| `batch-${trial.params.per_device_train_batch_size}-${trial.number}`;
    /// expect(type_of(name) == "Fn", "`hyperparameter_search(#{ hp_name: name })` calls it for each trial");
    /// ```
    #[rhai_fn(get = "number", pure)]
    pub fn number(trial: &mut TrialHandle) -> i64 {
        trial.number() as i64
    }

    /// What was suggested for the trial so far, by name.
    ///
    /// ```rhai
    /// let name = |trial| `batch-${trial.params.per_device_train_batch_size}-${trial.number}`;
    /// expect(type_of(name) == "Fn", "`hyperparameter_search(#{ hp_name: name })` calls it for each trial");
    /// ```
    #[rhai_fn(get = "params", pure)]
    pub fn params(trial: &mut TrialHandle) -> Map {
        trial.params().iter().map(|(name, value)| (name.as_str().into(), to_dynamic(value))).collect()
    }

    /// The trial's number and values.
    ///
    /// ```rhai
    /// let name = |trial| trial.to_string();
    /// expect(type_of(name) == "Fn", "`hyperparameter_search(#{ hp_name: name })` calls it for each trial");
    /// ```
    #[rhai_fn(global, name = "to_string", name = "to_debug", pure)]
    pub fn trial_to_string(trial: &mut TrialHandle) -> String {
        let params: Vec<String> =
            trial.params().iter().map(|(name, value)| format!("{name}={}", value.to_json())).collect();
        format!("Trial({}: {})", trial.number(), params.join(", "))
    }
}
