//! Options maps: the last argument of a call, `#{ key: value, ... }`.
//!
//! A reader takes the keys it knows one by one and then calls [`Options::finish`], which refuses what is
//! left and names the nearest key. Integers are accepted where floats are.

use rhai::{Array, Dynamic, Map};

use crate::data::{Row, Value};
use crate::error::{Error, Result, What, nearest};
use crate::head::script::convert::{from_dynamic, type_name};

/// An options map that is being read.
pub struct Options {
    of: String,
    map: Map,
    known: Vec<&'static str>,
}

impl Options {
    /// Starts reading the options of `of`, for example `` `load_dataset` ``.
    pub fn new(of: impl Into<String>, map: Map) -> Self {
        Options { of: of.into(), map, known: Vec::new() }
    }

    /// What the options belong to, as in messages.
    pub fn of(&self) -> &str {
        &self.of
    }

    /// Takes the value of `key` as it is; `()` counts as absent.
    pub fn take(&mut self, key: &'static str) -> Option<Dynamic> {
        self.known.push(key);
        self.map.remove(key).filter(|value| !value.is_unit())
    }

    /// Whether `key` is there, `()` included.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The value of `key` without taking it.
    pub fn peek(&self, key: &str) -> Option<&Dynamic> {
        self.map.get(key)
    }

    /// The error for an option that has to be given and is not; a key that looks like it was meant to be that one.
    pub fn missing(&self, key: &str, hint: &str) -> Error {
        match nearest(key, self.map.keys().map(|key| key.as_str())) {
            Some(near) => Error::new(What::UnknownOption { key: near.to_string(), of: self.of.clone() })
                .hint(format!("did you mean `{key}`?")),
            None => Error::new(What::MissingOption { key: key.to_string(), of: self.of.clone() }).hint(hint),
        }
    }

    /// Takes a float; integers are accepted.
    pub fn float(&mut self, key: &'static str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| value.as_float().or_else(|_| value.as_int().map(|n| n as f64)).ok())
    }

    /// Takes an integer; a float without a fraction is accepted.
    pub fn int(&mut self, key: &'static str) -> Result<Option<i64>> {
        self.typed(key, "an integer", |value| {
            value.as_int().ok().or_else(|| value.as_float().ok().filter(|n| n.fract() == 0.0).map(|n| n as i64))
        })
    }

    /// Takes a whole number of at least `least`.
    pub fn count(&mut self, key: &'static str, least: usize) -> Result<Option<usize>> {
        let Some(number) = self.int(key)? else { return Ok(None) };
        match usize::try_from(number) {
            Ok(number) if number >= least => Ok(Some(number)),
            _ => Err(self.out_of_range(key, number, format!("at least {least}"))),
        }
    }

    /// Takes a bool.
    pub fn bool(&mut self, key: &'static str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| value.as_bool().ok())
    }

    /// Takes a string.
    pub fn string(&mut self, key: &'static str) -> Result<Option<String>> {
        self.typed(key, "a string", |value| value.clone().into_string().ok())
    }

    /// Takes one of a fixed set of strings.
    pub fn choice(&mut self, key: &'static str, choices: &[&str]) -> Result<Option<String>> {
        let Some(value) = self.string(key)? else { return Ok(None) };
        if choices.contains(&value.as_str()) {
            return Ok(Some(value));
        }
        let listed = choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(", ");
        let error = self.out_of_range(key, format!("{value:?}"), format!("one of {listed}"));
        Err(match nearest(&value, choices.iter().copied()) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => error,
        })
    }

    /// Takes an array.
    pub fn array(&mut self, key: &'static str) -> Result<Option<Array>> {
        self.typed(key, "an array", |value| value.clone().into_array().ok())
    }

    /// Takes a map.
    pub fn map(&mut self, key: &'static str) -> Result<Option<Map>> {
        self.typed(key, "a map", |value| value.clone().try_cast::<Map>())
    }

    /// Takes a map as data values; empty where it is not given.
    pub fn row(&mut self, key: &'static str) -> Result<Row> {
        let map = self.map(key)?.unwrap_or_default();
        let cells = map.into_iter().map(|(key, value)| Ok((key.to_string(), from_dynamic(&value)?)));
        Ok(Row::new(cells.collect::<Result<_>>()?))
    }

    /// Takes a value of one of our own script types, for example a `Dataset`.
    pub fn object<T: Clone + Send + Sync + 'static>(&mut self, key: &'static str, wanted: &str) -> Result<Option<T>> {
        self.typed(key, wanted, |value| value.clone().try_cast::<T>())
    }

    /// Takes every key that is left, as data values: for maps with open keys, such as a model's configuration.
    pub fn rest(&mut self) -> Result<Vec<(String, Value)>> {
        let map = std::mem::take(&mut self.map);
        map.into_iter().map(|(key, value)| Ok((key.to_string(), from_dynamic(&value)?))).collect()
    }

    /// Refuses what was not taken.
    pub fn finish(self) -> Result<()> {
        let Some(key) = self.map.keys().next() else { return Ok(()) };
        let error = Error::new(What::UnknownOption { key: key.to_string(), of: self.of.clone() });
        Err(match nearest(key, self.known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if self.known.is_empty() => error.hint("it takes no options"),
            None => error.hint(format!("it knows {}", listed(&self.known))),
        })
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl FnOnce(&Dynamic) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match read(&value) {
            Some(value) => Ok(Some(value)),
            None => Err(What::WrongType {
                name: format!("`{key}` of {}", self.of),
                wanted: wanted.into(),
                got: type_name(&value),
            }
            .into()),
        }
    }

    fn out_of_range(&self, key: &str, value: impl ToString, allowed: String) -> Error {
        What::OutOfRange { name: format!("`{key}` of {}", self.of), value: value.to_string(), allowed }.into()
    }
}

fn listed(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
