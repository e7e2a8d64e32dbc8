//! Arguments and results of the functions of scripts that a plugin calls: JSON, and what JSON cannot hold.
//!
//! `{"$tensor": handle}`, `{"$batch": true}`, `{"$tokenizer": true}` and `{"$object": n}` stand for a tensor, the call's batch and
//! tokenizer, and what a function has returned before.

use std::any::Any;
use std::sync::Arc;

use candle_core::Tensor;
use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use crate::batch::Batch;
use crate::data::Value;
use crate::error::{Result, What};
use crate::plugin::call::Tensors;
use crate::tokenizer::Tokenizer;

/// An argument or a result.
#[derive(Clone)]
pub enum Argument {
    /// What JSON can hold.
    Value(Value),
    /// Several, of which some are more than JSON.
    List(Vec<Argument>),
    /// Several by name, of which some are more than JSON.
    Map(IndexMap<String, Argument>),
    /// A tensor.
    Tensor(Tensor),
    /// A batch.
    Batch(Arc<Batch>),
    /// A tokenizer.
    Tokenizer(Box<Tokenizer>),
    /// Something that the environment alone knows.
    Object(Arc<dyn Any + Send + Sync>),
}

/// What the words that begin with `$` stand for.
pub(super) struct Known<'a> {
    pub(super) batch: Option<&'a Batch>,
    pub(super) tokenizer: Option<&'a Tokenizer>,
    pub(super) objects: &'a [Argument],
}

fn refused<T>(problem: impl Into<String>) -> Result<T> {
    Err(What::Plugin(problem.into()).into())
}

/// Reads a list of arguments.
///
/// # Errors
/// Text that is no JSON list, and words that stand for nothing in this call.
pub(super) fn read(text: &str, tensors: &Tensors, known: &Known<'_>) -> Result<Vec<Argument>> {
    match serde_json::from_str::<Json>(text) {
        Ok(Json::Array(list)) => list.into_iter().map(|one| argument(one, tensors, known)).collect(),
        Ok(_) => refused("the arguments of a function are a JSON list"),
        Err(error) => refused(format!("the arguments of a function are no JSON: {error}")),
    }
}

fn argument(json: Json, tensors: &Tensors, known: &Known<'_>) -> Result<Argument> {
    match json {
        Json::Object(map) if map.len() == 1 && map.keys().all(|key| key.starts_with('$')) => {
            let Some((key, value)) = map.into_iter().next() else { return refused("an empty map") };
            special(&key, &value, tensors, known)
        }
        Json::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| Ok((key, argument(value, tensors, known)?)));
            let entries: IndexMap<String, Argument> = entries.collect::<Result<_>>()?;
            if !entries.values().all(|entry| matches!(entry, Argument::Value(_))) {
                return Ok(Argument::Map(entries));
            }
            let plain = entries.into_iter().filter_map(|(key, entry)| match entry {
                Argument::Value(value) => Some((key, value)),
                _ => None,
            });
            Ok(Argument::Value(Value::Map(Arc::new(plain.collect()))))
        }
        Json::Array(list) => {
            let list = list.into_iter().map(|one| argument(one, tensors, known)).collect::<Result<Vec<_>>>()?;
            if !list.iter().all(|one| matches!(one, Argument::Value(_))) {
                return Ok(Argument::List(list));
            }
            let plain =
                list.into_iter().filter_map(|one| if let Argument::Value(value) = one { Some(value) } else { None });
            Ok(Argument::Value(Value::List(plain.collect())))
        }
        plain => Ok(Argument::Value(Value::from(plain))),
    }
}

fn special(key: &str, value: &Json, tensors: &Tensors, known: &Known<'_>) -> Result<Argument> {
    match key {
        "$tensor" => Ok(Argument::Tensor(tensors.get(value.as_u64().unwrap_or(0))?.clone())),
        "$batch" => match known.batch {
            Some(batch) => Ok(Argument::Batch(Arc::new(batch.clone()))),
            None => refused("this call has no batch"),
        },
        "$tokenizer" => match known.tokenizer {
            Some(tokenizer) => Ok(Argument::Tokenizer(Box::new(tokenizer.clone()))),
            None => refused("this call has no tokenizer"),
        },
        "$object" => {
            let found =
                value.as_u64().and_then(|place| usize::try_from(place).ok()).and_then(|place| known.objects.get(place));
            found.cloned().map_or_else(|| refused(format!("there is no object {value} in this call")), Ok)
        }
        other => refused(format!("`{other}` stands for nothing; known are $tensor, $batch, $tokenizer and $object")),
    }
}

/// Writes a result; tensors and objects are kept until the call ends.
pub(super) fn write(result: Argument, tensors: &mut Tensors, objects: &mut Vec<Argument>) -> Json {
    match result {
        Argument::Value(value) => value.to_json(),
        Argument::List(list) => list.into_iter().map(|one| write(one, tensors, objects)).collect(),
        Argument::Map(map) => {
            Json::Object(map.into_iter().map(|(key, value)| (key, write(value, tensors, objects))).collect())
        }
        Argument::Tensor(tensor) => json!({ "$tensor": tensors.hold(tensor) }),
        Argument::Batch(_) => json!({ "$batch": true }),
        other @ (Argument::Tokenizer(_) | Argument::Object(_)) => {
            objects.push(other);
            json!({ "$object": objects.len() - 1 })
        }
    }
}
