//! Values on their way between Rust and Rhai.
//!
//! Data cells become Rhai's own types and back; Rhai maps have no order of their own, so a row that goes
//! through a script comes back with its known columns first and new ones in the order of their names.

use std::sync::Arc;

use indexmap::IndexMap;
use rhai::{Dynamic, EvalAltResult, NativeCallContext, Position};

use crate::data::{Row, Value};
use crate::error::{Error, Result, What};

/// The result of a function that scripts call.
pub type ScriptResult<T> = std::result::Result<T, Box<EvalAltResult>>;

/// Wraps an error of the library so that the engine fills in the script position (a plain `ErrorSystem` would lose it).
pub fn raise(error: Error) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(error), Position::NONE))
}

/// As [`raise`], for functions of a namespace (`AutoTokenizer::from_pretrained`): Rhai 1.27 fills in the position of
/// plain and method calls alone, so that of a qualified call is taken from its context.
pub fn raise_at(context: &NativeCallContext) -> impl Fn(Error) -> Box<EvalAltResult> + use<> {
    let position = context.call_position();
    move |error| Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(error), position))
}

/// A data cell as a script sees it.
pub fn to_dynamic(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(flag) => Dynamic::from(*flag),
        Value::Int(number) => Dynamic::from(*number),
        Value::Float(number) => Dynamic::from(*number),
        Value::Str(text) => Dynamic::from(rhai::ImmutableString::from(&**text)),
        Value::List(values) => Dynamic::from_array(values.iter().map(to_dynamic).collect()),
        Value::Map(map) => {
            Dynamic::from_map(map.iter().map(|(key, value)| (key.as_str().into(), to_dynamic(value))).collect())
        }
    }
}

/// A row as a script sees it: a map from column to value.
pub fn row_to_dynamic(row: &Row) -> Dynamic {
    Dynamic::from_map(row.iter().map(|(key, value)| (key.as_str().into(), to_dynamic(value))).collect())
}

/// A script's value as a data cell. Errors name the type that cannot be stored.
pub fn from_dynamic(value: &Dynamic) -> Result<Value> {
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(flag) = value.as_bool() {
        return Ok(Value::Bool(flag));
    }
    if let Ok(number) = value.as_int() {
        return Ok(Value::Int(number));
    }
    if let Ok(number) = value.as_float() {
        return Ok(Value::Float(number));
    }
    if let Ok(letter) = value.as_char() {
        return Ok(Value::Str(letter.to_string().into()));
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return Ok(Value::Str(text.as_str().into()));
    }
    if let Ok(values) = value.as_array_ref() {
        return Ok(Value::List(values.iter().map(from_dynamic).collect::<Result<_>>()?));
    }
    if let Ok(map) = value.as_map_ref() {
        let cells = map.iter().map(|(key, value)| Ok((key.to_string(), from_dynamic(value)?)));
        return Ok(Value::Map(Arc::new(cells.collect::<Result<IndexMap<_, _>>>()?)));
    }
    if let Some(tensor) = value.read_lock::<candle_core::Tensor>() {
        return tensor_to_value(&tensor);
    }
    Err(What::WrongType {
        name: "a value to be stored".into(),
        wanted: "a number, string, bool, array, map or tensor".into(),
        got: type_name(value),
    }
    .into())
}

/// A tensor as nested lists; a scalar becomes a number.
pub fn tensor_to_value(tensor: &candle_core::Tensor) -> Result<Value> {
    use candle_core::DType;
    if tensor.rank() > 0 {
        let rows = (0..tensor.dim(0)?).map(|row| tensor_to_value(&tensor.get(row)?));
        return Ok(Value::List(rows.collect::<Result<_>>()?));
    }
    Ok(match tensor.dtype() {
        DType::U8 | DType::U32 | DType::I64 | DType::I16 | DType::I32 => {
            Value::Int(tensor.to_dtype(DType::I64)?.to_scalar()?)
        }
        _ => Value::Float(tensor.to_dtype(DType::F64)?.to_scalar()?),
    })
}

/// The type of a script's value with its article, for error messages.
pub fn type_name(value: &Dynamic) -> String {
    match value.type_name() {
        "()" => "`()` (nothing)".into(),
        "i64" => "an integer".into(),
        "f64" => "a float".into(),
        "bool" => "a bool".into(),
        "char" => "a character".into(),
        "map" | "rhai::Map" => "a map".into(),
        "array" | "rhai::Array" => "an array".into(),
        "string" | "alloc::string::String" | "&str" | "rhai::ImmutableString" => "a string".into(),
        "Fn" | "rhai::FnPtr" => "a function".into(),
        other => format!("a `{}`", other.rsplit("::").next().unwrap_or(other)),
    }
}
