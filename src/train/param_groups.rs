//! `param_groups`: parameters by name patterns, with a learning rate and a decay of their own.
//!
//! Groups as the user wrote them flow in; which parameter belongs to which group flows out. A parameter belongs to the first
//! group that names it; what no group names has the optimizer's own settings.

use std::collections::HashSet;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value as Json;

use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::model::parameters::{Parameter, Parameters};
use crate::train::argument_values::{Argument, Refusal, unknown_key};
use crate::train::optimizer::GroupSettings;
use crate::train::schedule::Schedule;

/// One entry of `param_groups` of the training arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamGroup {
    /// Patterns of names: `*` matches any characters.
    pub params: Vec<String>,
    /// The group's base rate, in place of `learning_rate`.
    pub learning_rate: Option<f64>,
    /// A factor on `learning_rate`.
    pub lr_scale: Option<f64>,
    /// The decay of every parameter of the group, biases and norms too.
    pub weight_decay: Option<f64>,
}

const OF: &str = "an entry of `param_groups`";

impl ParamGroup {
    /// The group's base rate where the arguments have `learning_rate`.
    pub fn base_lr(&self, learning_rate: f64) -> f64 {
        self.learning_rate.unwrap_or(learning_rate * self.lr_scale.unwrap_or(1.0))
    }

    fn read(entry: &Value) -> Result<Self, Refusal> {
        let Value::Map(map) = entry else { return Err(Refusal::Type("a list of maps")) };
        let mut group = ParamGroup::default();
        for (key, value) in map.iter() {
            let wrong = |refusal: Refusal| Refusal::Error(refusal.error(key, OF, value));
            match key.as_str() {
                "params" => group.params = Argument::read(value).map_err(wrong)?,
                "learning_rate" | "lr" => group.learning_rate = Argument::read(value).map_err(wrong)?,
                "lr_scale" => group.lr_scale = Argument::read(value).map_err(wrong)?,
                "weight_decay" => group.weight_decay = Argument::read(value).map_err(wrong)?,
                _ => {
                    let known = ["params", "learning_rate", "lr_scale", "weight_decay"];
                    return Err(Refusal::Error(unknown_key(key, OF, &known)));
                }
            }
        }
        if group.params.is_empty() {
            let what = What::MissingOption { key: "params".into(), of: OF.into() };
            return Err(Refusal::Error(Error::new(what).hint("write `params: \"classifier.*\"`")));
        }
        if group.learning_rate.is_some() && group.lr_scale.is_some() {
            let what = What::Conflict(format!("{OF} has `learning_rate` and `lr_scale`"));
            return Err(Refusal::Error(Error::new(what).hint("keep one of the two")));
        }
        let numbers = [group.learning_rate, group.lr_scale, group.weight_decay];
        if numbers.iter().flatten().any(|number| *number < 0.0) {
            return Err(Refusal::Range("a list of groups whose rates and decays are at least 0"));
        }
        Ok(group)
    }
}

impl Argument for Vec<ParamGroup> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Null => Ok(Vec::new()),
            Value::List(entries) => entries.iter().map(ParamGroup::read).collect(),
            _ => Err(Refusal::Type("a list of maps")),
        }
    }

    fn value(&self) -> Value {
        let entry = |group: &ParamGroup| {
            let numbers = [
                ("learning_rate", group.learning_rate),
                ("lr_scale", group.lr_scale),
                ("weight_decay", group.weight_decay),
            ];
            let params = [("params".to_string(), group.params.value())];
            let given = numbers.into_iter().filter_map(|(key, value)| Some((key.to_string(), Value::Float(value?))));
            Value::Map(Arc::new(params.into_iter().chain(given).collect::<IndexMap<_, _>>()))
        };
        Value::List(self.iter().map(entry).collect())
    }
}

/// The parameters of each group, in order, and in a last list those that no group names.
///
/// # Errors
/// A pattern that matches nothing, with the nearest name; a group whose parameters all belong to earlier groups.
pub fn split<'a>(
    parameters: &Parameters,
    groups: impl Iterator<Item = &'a [String]>,
) -> Result<Vec<Vec<Arc<Parameter>>>> {
    let mut taken = HashSet::new();
    let mut all = Vec::new();
    for (number, patterns) in groups.enumerate() {
        let mut own = Vec::new();
        for pattern in patterns {
            let matching = parameters.matching(pattern)?;
            own.extend(matching.into_iter().filter(|parameter| taken.insert(parameter.name().to_string())));
        }
        if own.is_empty() {
            let listed = patterns.iter().map(|pattern| format!("`{pattern}`")).collect::<Vec<_>>().join(", ");
            let problem =
                format!("entry {number} of `param_groups` ({listed}) has no parameter that no earlier entry has");
            return Err(Error::new(What::Conflict(problem)).hint("put the entry that names fewer parameters first"));
        }
        all.push(own);
    }
    all.push(parameters.all().into_iter().filter(|parameter| !taken.contains(parameter.name())).collect());
    Ok(all)
}

/// The groups of one run, with a schedule each.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupRates {
    groups: Vec<ParamGroup>,
    /// The group of each parameter that has one.
    number_of: IndexMap<String, usize>,
    schedules: Vec<Schedule>,
}

impl GroupRates {
    /// The groups of the parameters of a model, whose base rate is `learning_rate` and whose schedule is `schedule`.
    pub(super) fn new(
        parameters: &Parameters,
        groups: &[ParamGroup],
        learning_rate: f64,
        schedule: &Schedule,
    ) -> Result<Self> {
        let schedules = groups.iter().map(|group| schedule.of_group(group.base_lr(learning_rate))).collect();
        GroupRates { groups: groups.to_vec(), number_of: IndexMap::new(), schedules }.regrouped(parameters)
    }

    /// The same groups over the parameters that there are now.
    pub(super) fn regrouped(&self, parameters: &Parameters) -> Result<Self> {
        let lists = split(parameters, self.groups.iter().map(|group| group.params.as_slice()))?;
        let named = lists.iter().take(self.groups.len()).enumerate();
        let pairs = named.flat_map(|(number, list)| list.iter().map(move |one| (one.name().to_string(), number)));
        Ok(GroupRates { number_of: pairs.collect(), ..self.clone() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The settings of a parameter at `step`, as factors on a rate of 1; outside of all groups it has `other`.
    pub(super) fn settings(&self, name: &str, step: usize, other: GroupSettings) -> GroupSettings {
        let Some(&number) = self.number_of.get(name) else { return other };
        let weight_decay = self.groups[number].weight_decay.unwrap_or(other.weight_decay);
        GroupSettings { weight_decay, lr_scale: self.schedules[number].lr(step) }
    }

    /// Tells `reduce_lr_on_plateau` the metric of an evaluation.
    pub(super) fn observe(&mut self, metric: f64) {
        self.schedules.iter_mut().for_each(|schedule| schedule.observe(metric));
    }

    /// What has to be saved: the states of `reduce_lr_on_plateau`.
    pub(super) fn state(&self) -> Option<Json> {
        let states: Vec<Json> = self.schedules.iter().filter_map(Schedule::state).collect();
        (!states.is_empty()).then(|| Json::from(states))
    }

    /// Takes up what [`GroupRates::state`] gave.
    pub(super) fn load_state(&mut self, state: &Json) -> Result<()> {
        let states = state.as_array().map(Vec::as_slice).unwrap_or_default();
        self.schedules.iter_mut().zip(states).try_for_each(|(schedule, state)| schedule.load_state(state))
    }
}
