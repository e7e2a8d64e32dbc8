//! `changes` of `TrainingArguments`: what a recipe itself changes between the updates of a run.
//!
//! A list of maps flows in, checked as arguments are; for each update, arguments and actions flow out. `retune bake` writes such
//! lists of what somebody did by hand.

use rhai::{Array, Dynamic};

use crate::api::options::Options;
use crate::data::Value;
use crate::error::{Error, Place, Result, What};
use crate::head::script::convert::type_name;
use crate::train::TrainingArguments;
use crate::train::live_arguments::{RatePolicy, Takes, difference, policy, takes};

/// What changes before the update after `step`.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The updates that were made before.
    pub step: usize,
    /// Arguments and their values.
    pub arguments: Vec<(String, Value)>,
    /// What becomes of the learning rate.
    pub policy: RatePolicy,
    /// `evaluate`, `save`, `stop`, in this order.
    pub actions: Vec<&'static str>,
}

const OF: &str = "an entry of `changes`";

/// Reads the list.
///
/// # Errors
/// Entries without `step`, arguments that cannot change while a run goes on, and values that are refused.
pub(super) fn read(value: Dynamic, args: &TrainingArguments) -> Result<Vec<Change>> {
    let got = type_name(&value);
    let list: Array = value.try_cast().ok_or_else(|| {
        let name = "`changes` of `TrainingArguments`".into();
        Error::new(What::WrongType { name, wanted: "an array of maps".into(), got })
            .hint("write `changes: [#{ step: 100, learning_rate: 1e-5 }]`")
    })?;
    let one = |(number, entry): (usize, Dynamic)| {
        entry_of(entry, args).map_err(|error| error.at(Place::Within(format!("entry {number} of `changes`"))))
    };
    let mut changes = list.into_iter().enumerate().map(one).collect::<Result<Vec<_>>>()?;
    changes.sort_by_key(|change| change.step);
    Ok(changes)
}

fn entry_of(entry: Dynamic, args: &TrainingArguments) -> Result<Change> {
    let (got, name) = (type_name(&entry), OF.to_string());
    let map = entry.try_cast().ok_or_else(|| Error::new(What::WrongType { name, wanted: "a map".into(), got }))?;
    let mut options = Options::new(OF, map);
    let step = options.count("step", 0)?.ok_or_else(|| options.missing("step", "write `step: 100`"))?;
    let chosen = options.string("lr_policy")?.map_or(Ok(RatePolicy::KeepShape), |name| policy(&name))?;
    let mut actions = Vec::new();
    for action in ["evaluate", "save", "stop"] {
        if options.bool(action)?.unwrap_or(false) {
            actions.push(action);
        }
    }
    let arguments = options.rest()?;
    if let Some((key, _)) = arguments.iter().find(|(key, _)| takes(key) == Takes::Restart) {
        if !TrainingArguments::keys().any(|known| known == key) {
            return Err(TrainingArguments::unknown(key));
        }
        return Err(What::Conflict(format!("`{key}` cannot change while a run goes on")).into());
    }
    difference(args, &arguments)?;
    Ok(Change { step, arguments, policy: chosen, actions })
}
