//! What predictions are compared with: the labels of a row, and what its `encode` kept beside them.

use std::sync::Arc;

use crate::batch::{Column, Features};
use crate::data::Value;

/// What a task's metrics compare a prediction with: the labels, and what its `encode` kept beside them.
pub fn reference_of(features: &Features, names: &[String]) -> Value {
    let labels = label_of(features, names).unwrap_or(Value::Null);
    if features.kept.is_empty() {
        return labels;
    }
    let mut map = (*features.kept).clone();
    match labels {
        Value::Map(several) => map.extend(several.iter().map(|(name, value)| (name.clone(), value.clone()))),
        one => {
            map.insert(names.first().cloned().unwrap_or_else(|| "labels".into()), one);
        }
    }
    Value::Map(Arc::new(map))
}

/// The label column of a row for metrics, where it has one.
pub fn label_of(features: &Features, names: &[String]) -> Option<Value> {
    let found: Vec<(&String, &Column)> =
        names.iter().filter_map(|name| features.column(name).map(|column| (name, column))).collect();
    match found.as_slice() {
        [] => None,
        [(_, column)] => Some(column.to_value()),
        several => Some(Value::Map(Arc::new(
            several.iter().map(|(name, column)| ((*name).clone(), column.to_value())).collect(),
        ))),
    }
}
