//! How one argument is read from a data value and given back: numbers, text, lists and fixed sets of names.
//!
//! A [`Value`] flows in, a typed value or a [`Refusal`] flows out; the refusal becomes an error once the argument's
//! name is known. Which arguments there are is left to `arguments`.

use indexmap::IndexMap;

use crate::data::Value;
use crate::error::{Error, What, nearest};

/// A type an argument can have.
pub(crate) trait Argument: Sized {
    /// Reads the argument.
    fn read(value: &Value) -> Result<Self, Refusal>;
    /// The argument as a script or a JSON file sees it.
    fn value(&self) -> Value;
}

/// Why a value was refused.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// Another type is wanted.
    Type(&'static str),
    /// The type is right, the value is not.
    Range(&'static str),
    /// It is not one of these names.
    Choice(&'static [&'static str]),
    /// Something inside the value, which has its own words.
    Error(Error),
}

impl Refusal {
    /// The error that names the argument `key` of `of`.
    pub(crate) fn error(self, key: &str, of: &str, value: &Value) -> Error {
        let name = format!("`{key}` of {of}");
        match self {
            Refusal::Error(error) => error,
            Refusal::Type(wanted) => {
                let error = Error::new(What::WrongType { name, wanted: wanted.into(), got: value.type_name().into() });
                match value.as_str() {
                    Some(text) if text.parse::<f64>().is_ok() => error.hint("write the number without quotes"),
                    Some("true" | "false") => error.hint("write the bool without quotes"),
                    _ => error,
                }
            }
            Refusal::Range(allowed) => What::OutOfRange { name, value: shown(value), allowed: allowed.into() }.into(),
            Refusal::Choice(choices) => {
                let listed = choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(", ");
                let what = What::OutOfRange { name, value: shown(value), allowed: format!("one of {listed}") };
                match value.as_str().and_then(|text| nearest(text, choices.iter().copied())) {
                    Some(near) => Error::new(what).hint(format!("did you mean {near:?}?")),
                    None => what.into(),
                }
            }
        }
    }
}

/// The error for a key that nobody knows.
pub(crate) fn unknown_key(key: &str, of: &str, known: &[&str]) -> Error {
    let error = Error::new(What::UnknownOption { key: key.into(), of: of.into() });
    match nearest(key, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => error.hint("it takes none"),
        None if known.len() <= 12 => error
            .hint(format!("it knows {}", known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "))),
        None => error,
    }
}

/// A value as it was written, for messages.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Float(number) if !number.is_finite() => number.to_string(),
        Value::Null => "()".into(),
        _ => value.to_json().to_string(),
    }
}

/// A fixed set of names as an enum.
macro_rules! choice {
    ($(#[$doc:meta])* $visibility:vis enum $name:ident { $($(#[$of:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $visibility enum $name { $($(#[$of])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Every name, as Hugging Face writes it.
            pub const NAMES: &[&str] = &[$($text),*];
            /// Every value, in the order of the names.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The name, as Hugging Face writes it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl $crate::train::argument_values::Argument for $name {
            fn read(value: &$crate::data::Value) -> Result<Self, $crate::train::argument_values::Refusal> {
                use $crate::train::argument_values::Refusal;
                match value.as_str() {
                    $(Some($text) => Ok(Self::$variant),)*
                    Some(_) => Err(Refusal::Choice(Self::NAMES)),
                    None => Err(Refusal::Type("a string")),
                }
            }

            fn value(&self) -> $crate::data::Value {
                self.as_str().into()
            }
        }
    };
}
pub(crate) use choice;

choice! {
    /// When to evaluate or to log.
    pub enum Interval {
        /// Never.
        No = "no",
        /// Every so many updates.
        Steps = "steps",
        /// At the end of each epoch.
        Epoch = "epoch",
    }
}

choice! {
    /// When to save a checkpoint.
    pub enum SaveInterval {
        /// Never.
        No = "no",
        /// Every so many updates.
        Steps = "steps",
        /// At the end of each epoch.
        Epoch = "epoch",
        /// Whenever an evaluation was the best so far.
        Best = "best",
    }
}

choice! {
    /// The order in which training visits the rows.
    pub enum Sampling {
        /// Another random order each epoch.
        Random = "random",
        /// The order of the data set.
        Sequential = "sequential",
        /// Random, with rows of similar length side by side.
        GroupByLength = "group_by_length",
    }
}

choice! {
    /// What happens when a loss or a gradient is not finite.
    pub enum NanPolicy {
        /// Training stops with an error that names the step.
        Stop = "stop",
        /// The update is left out, and counted.
        Skip = "skip",
    }
}

choice! {
    /// How exact a product of f32 matrices is, in PyTorch's words.
    pub enum MatmulPrecision {
        /// As exact as f32.
        Highest = "highest",
        /// Three products of bf16 parts.
        High = "high",
        /// One product in bf16.
        Medium = "medium",
    }
}

/// Where training goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The beginning.
    Never,
    /// The newest checkpoint in `output_dir`.
    Latest,
    /// This checkpoint.
    From(String),
}

impl Argument for Resume {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Bool(false) => Ok(Resume::Never),
            Value::Bool(true) => Ok(Resume::Latest),
            Value::Str(path) if !path.is_empty() => Ok(Resume::From(path.to_string())),
            Value::Str(_) => Err(Refusal::Range("`true` or the path of a checkpoint")),
            _ => Err(Refusal::Type("a bool or a string")),
        }
    }

    fn value(&self) -> Value {
        match self {
            Resume::Never => Value::Bool(false),
            Resume::Latest => Value::Bool(true),
            Resume::From(path) => path.as_str().into(),
        }
    }
}

/// How many batches a dry run is made of: Lightning's `fast_dev_run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DryRun(usize);

impl DryRun {
    /// A dry run of this many batches; 0 is none.
    pub fn of(n_batches: usize) -> Self {
        DryRun(n_batches)
    }

    /// The number of batches, in a dry run.
    pub fn batches(self) -> Option<usize> {
        (self.0 > 0).then_some(self.0)
    }
}

impl Argument for DryRun {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Bool(flag) => Ok(DryRun(usize::from(*flag))),
            Value::Int(_) => usize::read(value).map(DryRun),
            _ => Err(Refusal::Type("a bool or a number of batches")),
        }
    }

    fn value(&self) -> Value {
        self.batches().map_or(Value::Bool(false), |n| Value::Int(n as i64))
    }
}

impl Argument for bool {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(Refusal::Type("a bool")),
        }
    }

    fn value(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Argument for i64 {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Int(_) | Value::Float(_) => value.as_int().ok_or(Refusal::Range("a whole number")),
            _ => Err(Refusal::Type("an integer")),
        }
    }

    fn value(&self) -> Value {
        Value::Int(*self)
    }
}

impl Argument for u64 {
    fn read(value: &Value) -> Result<Self, Refusal> {
        u64::try_from(i64::read(value)?).map_err(|_| Refusal::Range("a whole number of at least 0"))
    }

    fn value(&self) -> Value {
        // Only a seed of the command line can be larger than any integer a script knows.
        i64::try_from(*self).map_or(Value::Float(*self as f64), Value::Int)
    }
}

impl Argument for usize {
    fn read(value: &Value) -> Result<Self, Refusal> {
        usize::try_from(i64::read(value)?).map_err(|_| Refusal::Range("a whole number of at least 0"))
    }

    fn value(&self) -> Value {
        Value::Int(*self as i64)
    }
}

impl Argument for f64 {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Float(number) if !number.is_finite() => Err(Refusal::Range("finite")),
            Value::Float(number) => Ok(*number),
            Value::Int(number) => Ok(*number as f64),
            _ => Err(Refusal::Type("a number")),
        }
    }

    fn value(&self) -> Value {
        Value::Float(*self)
    }
}

impl Argument for String {
    fn read(value: &Value) -> Result<Self, Refusal> {
        value.as_str().map(str::to_string).ok_or(Refusal::Type("a string"))
    }

    fn value(&self) -> Value {
        self.as_str().into()
    }
}

/// A list of names; a single name is a list of one.
impl Argument for Vec<String> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Str(text) => Ok(vec![text.to_string()]),
            Value::List(values) => values
                .iter()
                .map(|value| value.as_str().map(str::to_string).ok_or(Refusal::Type("a list of strings")))
                .collect(),
            _ => Err(Refusal::Type("a list of strings")),
        }
    }

    fn value(&self) -> Value {
        Value::List(self.iter().map(|text| Value::from(text.as_str())).collect())
    }
}

impl Argument for IndexMap<String, Value> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Map(map) => Ok(map.as_ref().clone()),
            _ => Err(Refusal::Type("a map")),
        }
    }

    fn value(&self) -> Value {
        Value::Map(std::sync::Arc::new(self.clone()))
    }
}

impl<T: Argument> Argument for Option<T> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Null => Ok(None),
            value => T::read(value).map(Some),
        }
    }

    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::value)
    }
}
