//! What a hyperparameter may be: a range of numbers, linear or logarithmic, in steps or not, or one of several values.
//!
//! The names, rules and the JSON form are those of Optuna's distributions. A value's *internal* form is a number: the number
//! itself, or the place among the choices.

use serde_json::{Value as Json, json};

use crate::data::Value;
use crate::error::{Error, Result, What};

/// The values that a parameter may have.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// Numbers from `low` to `high`, both among them.
    Float {
        /// The smallest.
        low: f64,
        /// The largest.
        high: f64,
        /// Whether orders of magnitude are equally likely.
        log: bool,
        /// The distance of neighbours, counted from `low`.
        step: Option<f64>,
    },
    /// Whole numbers from `low` to `high`, both among them.
    Int {
        /// The smallest.
        low: i64,
        /// The largest.
        high: i64,
        /// Whether orders of magnitude are equally likely.
        log: bool,
        /// The distance of neighbours, counted from `low`.
        step: i64,
    },
    /// One of these values.
    Categorical(Vec<Value>),
}

/// A range of numbers as densities see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The smallest value.
    pub low: f64,
    /// The largest value.
    pub high: f64,
    /// Whether densities are over the logarithm.
    pub log: bool,
    /// The distance of neighbours; none where every number counts.
    pub step: Option<f64>,
}

impl Range {
    /// The ends on the axis of the density: half a step further out, and logarithms where the range is logarithmic.
    pub fn ends(&self) -> (f64, f64) {
        let half = self.step.unwrap_or(0.0) / 2.0;
        (self.axis(self.low - half), self.axis(self.high + half))
    }

    /// A number on the axis of the density.
    pub fn axis(&self, number: f64) -> f64 {
        if self.log { number.ln() } else { number }
    }

    /// The number at a place of the axis: rounded to a step, and never outside of the range.
    pub fn number(&self, place: f64) -> f64 {
        let number = if self.log { place.exp() } else { place };
        let number = match self.step {
            Some(step) => self.low + ((number - self.low) / step).round() * step,
            None => number,
        };
        number.clamp(self.low, self.high)
    }
}

impl Distribution {
    /// Numbers between `low` and `high`. `name` is for messages. A `high` that no step reaches becomes the last one that does.
    ///
    /// # Errors
    /// Ends that are not finite or the wrong way round, a step that is not above 0, a logarithmic range with a step or
    /// from 0 or below.
    pub fn float(name: &str, low: f64, high: f64, log: bool, step: Option<f64>) -> Result<Self> {
        check(name, low, high, log, 0.0)?;
        let Some(step) = step else { return Ok(Distribution::Float { low, high, log, step: None }) };
        if log {
            let problem = format!("`{name}`: a logarithmic range has no `step`");
            return Err(Error::new(What::Conflict(problem)).hint("leave out `step`, or `log`"));
        }
        if !(step > 0.0 && step.is_finite()) {
            return Err(out_of_range(name, "step", step, "above 0"));
        }
        // A range that is a whole number of steps but for rounding keeps its end.
        let n_steps = (high - low) / step;
        let whole = (n_steps - n_steps.round()).abs() < 1e-9 * n_steps.max(1.0);
        let high = if whole { high } else { low + n_steps.floor() * step };
        Ok(Distribution::Float { low, high, log, step: Some(step) })
    }

    /// Whole numbers between `low` and `high`; as [`Distribution::float`].
    ///
    /// # Errors
    /// As [`Distribution::float`]; a logarithmic range begins at 1 or above.
    pub fn int(name: &str, low: i64, high: i64, log: bool, step: i64) -> Result<Self> {
        check(name, low as f64, high as f64, log, 1.0)?;
        if step < 1 {
            return Err(out_of_range(name, "step", step as f64, "at least 1"));
        }
        if log && step != 1 {
            let problem = format!("`{name}`: a logarithmic range has no `step`");
            return Err(Error::new(What::Conflict(problem)).hint("leave out `step`, or `log`"));
        }
        Ok(Distribution::Int { low, high: low + (high - low) / step * step, log, step })
    }

    /// One of these values.
    ///
    /// # Errors
    /// No values, or one twice.
    pub fn categorical(name: &str, choices: Vec<Value>) -> Result<Self> {
        if choices.is_empty() {
            return Err(Error::new(What::Conflict(format!("`{name}`: there is nothing to choose from"))));
        }
        for (index, choice) in choices.iter().enumerate() {
            if choices[..index].contains(choice) {
                let problem = format!("`{name}`: the choice {} is there twice", choice.to_json());
                return Err(What::Conflict(problem).into());
            }
        }
        Ok(Distribution::Categorical(choices))
    }

    /// The range of numbers, unless the values are choices.
    pub fn range(&self) -> Option<Range> {
        match *self {
            Distribution::Float { low, high, log, step } => Some(Range { low, high, log, step }),
            Distribution::Int { low, high, log, step } => {
                Some(Range { low: low as f64, high: high as f64, log, step: Some(step as f64) })
            }
            Distribution::Categorical(_) => None,
        }
    }

    /// Whether there is one value only, so that nothing has to be sampled.
    pub fn is_single(&self) -> bool {
        match self {
            Distribution::Categorical(choices) => choices.len() == 1,
            Distribution::Float { low, high, .. } => low == high,
            Distribution::Int { low, high, .. } => low == high,
        }
    }

    /// The value of an internal number.
    pub fn value(&self, internal: f64) -> Value {
        match self {
            Distribution::Float { .. } => Value::Float(internal),
            Distribution::Int { .. } => Value::Int(internal.round() as i64),
            Distribution::Categorical(choices) => choices[(internal.max(0.0) as usize).min(choices.len() - 1)].clone(),
        }
    }

    /// The internal number of a value; none where the value is not one of these.
    pub fn internal(&self, value: &Value) -> Option<f64> {
        match self {
            Distribution::Categorical(choices) => {
                choices.iter().position(|choice| choice == value).map(|place| place as f64)
            }
            _ => {
                let (number, range) = (value.as_float()?, self.range()?);
                (range.low..=range.high).contains(&number).then_some(number)
            }
        }
    }

    /// As Optuna's storage writes a distribution.
    pub fn to_json(&self) -> Json {
        match self {
            Distribution::Float { low, high, log, step } => json!({
                "name": "FloatDistribution", "attributes": { "low": low, "high": high, "log": log, "step": step }
            }),
            Distribution::Int { low, high, log, step } => json!({
                "name": "IntDistribution", "attributes": { "low": low, "high": high, "log": log, "step": step }
            }),
            Distribution::Categorical(choices) => {
                let choices: Vec<Json> = choices.iter().map(Value::to_json).collect();
                json!({ "name": "CategoricalDistribution", "attributes": { "choices": choices } })
            }
        }
    }

    /// Reads what [`Distribution::to_json`] gave; none for anything else.
    pub fn from_json(json: &Json) -> Option<Self> {
        let of = json.get("attributes")?;
        let log = of.get("log").and_then(Json::as_bool).unwrap_or(false);
        match json.get("name")?.as_str()? {
            "FloatDistribution" => {
                let (low, high) = (of.get("low")?.as_f64()?, of.get("high")?.as_f64()?);
                Distribution::float("", low, high, log, of.get("step").and_then(Json::as_f64)).ok()
            }
            "IntDistribution" => {
                let (low, high) = (of.get("low")?.as_i64()?, of.get("high")?.as_i64()?);
                Distribution::int("", low, high, log, of.get("step").and_then(Json::as_i64).unwrap_or(1)).ok()
            }
            "CategoricalDistribution" => {
                let choices = of.get("choices")?.as_array()?.iter().cloned().map(Value::from).collect();
                Distribution::categorical("", choices).ok()
            }
            _ => None,
        }
    }
}

fn check(name: &str, low: f64, high: f64, log: bool, least: f64) -> Result<()> {
    for (which, end) in [("low", low), ("high", high)] {
        if !end.is_finite() {
            return Err(out_of_range(name, which, end, "finite"));
        }
    }
    if low > high {
        return Err(out_of_range(name, "high", high, &format!("at least `low` ({low})")));
    }
    if log && (low <= 0.0 || low < least) {
        let allowed = if least > 0.0 { "at least 1 in a logarithmic range" } else { "above 0 in a logarithmic range" };
        return Err(out_of_range(name, "low", low, allowed));
    }
    Ok(())
}

fn out_of_range(name: &str, which: &str, value: f64, allowed: &str) -> Error {
    let name = format!("`{which}` of the range of `{name}`");
    What::OutOfRange { name, value: value.to_string(), allowed: allowed.into() }.into()
}
