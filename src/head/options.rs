//! The options of a task: what its functions are told beside the row or the batch, with defaults that a recipe or a pipeline may change.
//!
//! A task names its options and their defaults; what a user gives is checked against them here. The map that the functions
//! get also has what follows from the model and the tokenizer: `max_length`, the label names, the ids of special tokens.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::data::{Row, Value};
use crate::error::{Error, Result, What, nearest};
use crate::head::{Model, Task, class_weights};
use crate::tokenizer::Tokenizer;

/// The option that every task has: the longest row in tokens.
pub const MAX_LENGTH: &str = "max_length";

/// Whether a pipeline predicts, so that labels are not looked at and what `decode` needs is kept.
pub const PREDICTING: &str = "predicting";

/// Checks what a user gave against the options that the task declares. `of` is what they were given to, for messages.
///
/// # Errors
/// An unknown option, with the nearest one; a value of another type than the default.
pub fn check(task: &dyn Task, given: &Row, of: &str) -> Result<()> {
    let declared = task.options()?;
    for (key, value) in given.iter() {
        let default = match declared.get(key) {
            Some(default) => default,
            None if key == MAX_LENGTH => &Value::Int(0),
            None => return Err(unknown(key, &declared, of)),
        };
        let fits = match (default, value) {
            (Value::Null, _) | (_, Value::Null) => true,
            (Value::Float(_), Value::Int(_) | Value::Float(_)) => true,
            (default, value) => default.type_name() == value.type_name(),
        };
        if !fits {
            let (wanted, got) = (default.type_name().to_string(), value.type_name().to_string());
            return Err(What::WrongType { name: format!("`{key}` of {of}"), wanted, got }.into());
        }
    }
    Ok(())
}

fn unknown(key: &str, declared: &Row, of: &str) -> Error {
    let known: Vec<&str> = declared.keys().map(String::as_str).chain([MAX_LENGTH]).collect();
    let error = Error::new(What::UnknownOption { key: key.to_string(), of: of.to_string() });
    match nearest(key, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => {
            let listed = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            error.hint(format!("the task knows {listed}"))
        }
    }
}

/// The longest row in tokens: what the model's position table and the tokenizer allow.
pub fn max_length(model: &Model, tokenizer: Option<&Tokenizer>) -> usize {
    let limit = model.max_length();
    tokenizer.and_then(Tokenizer::model_max_length).map_or(limit, |length| length.min(limit))
}

/// What a task's functions get: `max_length`, `label_names`, `problem_type`, `vocab_size`, `model_max_length`, the ids of special
/// tokens and `predicting`, then the task's own options, then what was `given`, the later ones winning.
///
/// # Errors
/// A malformed configuration, a `max_length` below 1, and what the task raises.
pub fn merged(model: &Model, tokenizer: Option<&Tokenizer>, given: &[&Row]) -> Result<Value> {
    let config = model.config();
    let names = config.label_names()?.iter().map(|name| Value::from(name.as_str())).collect();
    let problem = config.problem_type()?.map_or(Value::Null, |kind| Value::from(kind.name()));
    let longest = max_length(model, tokenizer);
    let id = |read: fn(&Tokenizer) -> Option<u32>| {
        tokenizer.and_then(read).map_or(Value::Null, |id| Value::Int(i64::from(id)))
    };
    let vocab_size = tokenizer.map_or_else(|| model.encoder().config().vocab_size, Tokenizer::len);
    let special = tokenizer.map(Tokenizer::special_ids).unwrap_or_default();
    let base = [
        ("label_names", Value::List(names)),
        ("problem_type", problem),
        ("vocab_size", Value::Int(vocab_size as i64)),
        ("pad_token_id", id(Tokenizer::pad_id)),
        ("mask_token_id", id(Tokenizer::mask_id)),
        ("eos_token_id", id(Tokenizer::eos_id)),
        ("special_token_ids", Value::List(special.into_iter().map(|id| Value::Int(i64::from(id))).collect())),
        ("model_max_length", Value::Int(longest as i64)),
        (MAX_LENGTH, Value::Int(longest as i64)),
        (PREDICTING, Value::Bool(false)),
    ];
    let mut map: IndexMap<String, Value> = base.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    map.extend(model.task().options()?.iter().map(|(key, value)| (key.clone(), value.clone())));
    for given in given {
        let changed = given.iter().filter(|(_, value)| **value != Value::Null);
        map.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
    }
    // A longer row than the model takes cannot be asked for; a shorter one can.
    let wanted = match map.get(MAX_LENGTH) {
        None | Some(Value::Null) => longest as i64,
        Some(value) => value.as_int().unwrap_or(0),
    };
    if wanted < 1 {
        let (name, value, allowed) = ("`max_length`".into(), wanted.to_string(), "at least 1".into());
        return Err(What::OutOfRange { name, value, allowed }.into());
    }
    map.insert(MAX_LENGTH.into(), Value::Int(wanted.min(longest as i64)));
    let mut options = Value::Map(Arc::new(map));
    class_weights::settle(&mut options)?;
    Ok(options)
}
