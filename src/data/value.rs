//! What a cell of a data set can hold, and a row of cells.
//!
//! Values are immutable and cheap to clone: text, lists and maps are shared. Numbers keep the
//! distinction between integers and floats that the file made.

use std::sync::Arc;

use indexmap::IndexMap;

/// One cell of a data set.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An absent value: JSON's null, an empty cell.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// Text.
    Str(Arc<str>),
    /// Several values.
    List(Arc<[Value]>),
    /// Named values, in the order of the file.
    Map(Arc<IndexMap<String, Value>>),
}

/// One example: the values of a row in the order of its columns.
pub type Row = Arc<IndexMap<String, Value>>;

impl Value {
    /// The value's type, with its article, for error messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Str(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The text, where it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, where it is one; bools count as 0 and 1, floats without a fraction as integers.
    pub fn as_int(&self) -> Option<i64> {
        match *self {
            Value::Int(number) => Some(number),
            Value::Bool(flag) => Some(i64::from(flag)),
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(number as i64),
            _ => None,
        }
    }

    /// The number as a float, where it is a number or a bool.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Value::Float(number) => Some(number),
            Value::Int(number) => Some(number as f64),
            Value::Bool(flag) => Some(f64::from(u8::from(flag))),
            _ => None,
        }
    }

    /// The values, where it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(values) => Some(values),
            _ => None,
        }
    }

    /// The value as JSON. A float that is not finite becomes null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Int(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Str(text) => serde_json::Value::String(text.to_string()),
            Value::List(values) => values.iter().map(Value::to_json).collect(),
            Value::Map(map) => {
                serde_json::Value::Object(map.iter().map(|(key, value)| (key.clone(), value.to_json())).collect())
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Str(text.into())
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(flag) => Value::Bool(flag),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => Value::Int(whole),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Str(text.into()),
            serde_json::Value::Array(values) => Value::List(values.into_iter().map(Value::from).collect()),
            serde_json::Value::Object(map) => {
                Value::Map(Arc::new(map.into_iter().map(|(key, value)| (key, Value::from(value))).collect()))
            }
        }
    }
}
