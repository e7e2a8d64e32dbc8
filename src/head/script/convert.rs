//! Values on their way between Rust and Rhai.
//!
//! Data cells become Rhai's own types and back; Rhai maps have no order of their own, so a row that goes
//! through a script comes back with its known columns first and new ones in the order of their names.

use std::sync::Arc;

use indexmap::IndexMap;
use rhai::{Dynamic, EvalAltResult, NativeCallContext, Position};

use crate::data::{Row, Value};
use crate::error::{Error, Result, What};
use crate::model::{ModelConfig, family};

/// The result of a function that scripts call.
pub type ScriptResult<T> = std::result::Result<T, Box<EvalAltResult>>;

/// Wraps an error of the library so that the engine fills in the script position (a plain `ErrorSystem` would lose it).
pub fn raise(error: Error) -> Box<EvalAltResult> {
    raised(error, Position::NONE)
}

/// An end that was asked for ends the script, whatever it catches.
fn raised(error: Error, position: Position) -> Box<EvalAltResult> {
    Box::new(match error.what() {
        What::Interrupted(_) | What::Stopped { .. } => EvalAltResult::ErrorTerminated(Dynamic::from(error), position),
        _ => EvalAltResult::ErrorRuntime(Dynamic::from(error), position),
    })
}

/// As [`raise`], for functions that live in a namespace (`Tensor::zeros`): Rhai 1.27 fills no position in for those.
pub fn raise_in(context: &rhai::NativeCallContext) -> impl Fn(Error) -> Box<EvalAltResult> + use<> {
    let position = context.call_position();
    move |error| raised(error, position)
}

/// An error of a script function that Rust has called, on its way through the library; the other direction of [`raise`].
///
/// Positions and calls are kept, so that the diagnostic shows the line inside the function.
pub fn lower(error: Box<EvalAltResult>) -> Error {
    fn message(error: &EvalAltResult) -> String {
        match error {
            EvalAltResult::ErrorInFunctionCall(_, _, inner, _) | EvalAltResult::ErrorInModule(_, inner, _) => {
                message(inner)
            }
            EvalAltResult::ErrorRuntime(value, _) | EvalAltResult::ErrorTerminated(value, _) => {
                match value.read_lock::<Error>() {
                    Some(error) => error.what().to_string(),
                    None => value.to_string(),
                }
            }
            other => other.to_string(),
        }
    }
    /// The end that a signal asked for, which is the run's and not the script's.
    fn stopped(error: &EvalAltResult) -> Option<Error> {
        match error {
            EvalAltResult::ErrorInFunctionCall(_, _, inner, _) | EvalAltResult::ErrorInModule(_, inner, _) => {
                stopped(inner)
            }
            EvalAltResult::ErrorTerminated(value, _) => {
                let error = value.read_lock::<Error>()?;
                matches!(error.what(), What::Stopped { .. }).then(|| error.clone())
            }
            _ => None,
        }
    }
    stopped(&error).unwrap_or_else(|| What::InScript { message: message(&error), error }.into())
}

/// A model's configuration as a script sees it: the keys of config.json, the number of labels, and what the family says
/// of its heads (`sequence_head`, `masked_lm_head`, `head_dropout`, `qa_dropout`).
pub fn config_map(config: &ModelConfig) -> Result<Dynamic> {
    let family = family::of(config)?;
    let mut map = rhai::Map::new();
    for (key, value) in (family.config_defaults)().into_iter().chain(config.map().clone()) {
        map.insert(key.as_str().into(), to_dynamic(&Value::from(value)));
    }
    let sizes = (family.encoder_config)(config)?;
    for (key, size) in [
        ("vocab_size", sizes.vocab_size),
        ("hidden_size", sizes.hidden_size),
        ("embedding_size", sizes.embedding_size),
        ("num_labels", config.num_labels()?),
    ] {
        map.insert(key.into(), Dynamic::from(size as i64));
    }
    let names = config.label_names()?.into_iter().map(Dynamic::from).collect();
    map.insert("label_names".into(), Dynamic::from_array(names));
    map.insert("problem_type".into(), config.problem_type()?.map_or(Dynamic::UNIT, |kind| kind.name().into()));
    map.insert("head_dropout".into(), Dynamic::from((family.head_dropout)(config)?));
    let head = (family.sequence_head)(config)?;
    let name = |name: Option<&'static str>| name.map_or(Dynamic::UNIT, Dynamic::from);
    let sequence_head = [
        ("token", head.token.into()),
        ("dropout_first", head.dropout_first.into()),
        ("dense", name(head.dense)),
        ("activation", head.activation.into()),
        ("dropout", head.dropout.into()),
        ("out", head.out.into()),
        ("out_bias", head.out_bias.into()),
    ];
    map.insert("sequence_head".into(), named(sequence_head));
    map.insert("qa_dropout".into(), Dynamic::from((family.qa_dropout)(config)?));
    map.insert("is_causal".into(), sizes.is_causal.into());
    map.insert("tie_word_embeddings".into(), config.bool_or("tie_word_embeddings", true)?.into());
    if let Some(head) = family.masked_lm_head {
        let activation = match head.activation.strip_prefix(':') {
            Some(name) => name.to_string(),
            None => config.string_or(head.activation, "gelu")?,
        };
        let parts = [
            ("dense", head.dense.into()),
            ("norm", head.norm.into()),
            ("activation", activation.into()),
            ("bias", head.bias.into()),
            ("decoder", head.decoder.into()),
        ];
        map.insert("masked_lm_head".into(), named(parts));
    }
    Ok(Dynamic::from_map(map))
}

fn named<const N: usize>(parts: [(&str, Dynamic); N]) -> Dynamic {
    Dynamic::from_map(parts.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// As [`raise`], for functions of a namespace (`AutoTokenizer::from_pretrained`): Rhai 1.27 fills in the position of
/// plain and method calls alone, so that of a qualified call is taken from its context.
pub fn raise_at(context: &NativeCallContext) -> impl Fn(Error) -> Box<EvalAltResult> + use<> {
    let position = context.call_position();
    move |error| raised(error, position)
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
    let flat = tensor.flatten_all()?;
    let mut values: Vec<Value> = if tensor.dtype().is_int() {
        flat.to_dtype(DType::I64)?.to_vec1::<i64>()?.into_iter().map(Value::Int).collect()
    } else {
        flat.to_dtype(DType::F64)?.to_vec1::<f64>()?.into_iter().map(Value::Float).collect()
    };
    // From the last dimension to the first, each `size` values become one list.
    for (place, &size) in tensor.dims().iter().enumerate().rev() {
        let n_lists = tensor.dims()[..place].iter().product::<usize>();
        let list = |number: usize| Value::List(values[number * size..(number + 1) * size].into());
        values = (0..n_lists).map(list).collect();
    }
    values.pop().ok_or_else(|| What::Internal("a tensor gave no value".into()).into())
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
        other => format!("a `{}`", other.rsplit("::").next().unwrap_or(other).trim_end_matches('>')),
    }
}
