//! Class weights: the option `class_weights` of tasks that give each row or token one class.
//!
//! What a recipe gives (a list, a map from label names, or "balanced") flows in; one number a class flows out, which a task's
//! `collate` puts on its batches. The loss is then torch's weighted cross entropy: a weighted mean over the labels.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::batch::Column;
use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What, nearest};
use crate::head::prepare::{Prepared, prepare};
use crate::head::{Model, options};
use crate::tensor::loss::IGNORE_INDEX;
use crate::tokenizer::Tokenizer;

/// The option's name.
pub const OPTION: &str = "class_weights";

/// The word for weights that follow from the training set.
const BALANCED: &str = "balanced";

/// Whether the weights are to follow from the training set.
pub fn is_balanced(task_options: &Row) -> bool {
    task_options.get(OPTION).and_then(Value::as_str) == Some(BALANCED)
}

/// Encodes a training set and finds its balanced weights. Gives the encoded rows, and the options with the weights.
///
/// # Errors
/// Those of [`prepare`], and labels that are not classes.
pub fn prepare_balanced(
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    dataset: &Dataset,
    given: &Row,
) -> Result<(Prepared, Row)> {
    let mut map: IndexMap<String, Value> = (**given).clone();
    map.shift_remove(OPTION);
    let mut prepared = prepare(model, tokenizer, dataset, &Row::new(map.clone()))?;
    let n_labels = model.config().num_labels()?;
    let mut classes = Vec::new();
    for features in &prepared.features {
        match features.column("labels") {
            Some(Column::Int(label)) => classes.push(*label),
            Some(column @ Column::Ints(labels)) if features.is_per_token("labels", column) => classes.extend(labels),
            None => {}
            Some(_) => {
                let problem = "`class_weights` need one class for each row or token";
                return Err(Error::new(What::Conflict(problem.into())).hint("leave `class_weights` out"));
            }
        }
    }
    let classes = classes.into_iter().filter(|label| *label != IGNORE_INDEX);
    let weights = balanced(&classes.map(|label| label as usize).collect::<Vec<_>>(), n_labels);
    map.insert(OPTION.into(), Value::List(weights.into_iter().map(Value::Float).collect()));
    let task_options = Row::new(map);
    prepared.options = options::merged(model, tokenizer, &[&task_options])?;
    Ok((prepared, task_options))
}

/// scikit-learn's "balanced": `n / (k * count)` of each class, where `k` is the number of classes that occur. A class that
/// does not occur has the weight 1.
pub fn balanced(classes: &[usize], n_labels: usize) -> Vec<f64> {
    let mut counts = vec![0usize; n_labels];
    for &class in classes {
        if let Some(count) = counts.get_mut(class) {
            *count += 1;
        }
    }
    let occurring = counts.iter().filter(|count| **count > 0).count();
    let weight = |&count: &usize| if count == 0 { 1.0 } else { classes.len() as f64 / (occurring * count) as f64 };
    counts.iter().map(weight).collect()
}

/// Replaces what was given by one number a class, in the options that a task's functions get.
///
/// # Errors
/// A label that the model does not have, the wrong number of weights, a weight that is negative or no number.
pub fn settle(options: &mut Value) -> Result<()> {
    let Value::Map(map) = &*options else { return Ok(()) };
    let Some(given) = map.get(OPTION).filter(|given| **given != Value::Null) else { return Ok(()) };
    let names = map.get("label_names").and_then(Value::as_list).unwrap_or_default();
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    let weights = read(given, &names)?;
    let mut map = (**map).clone();
    map.insert(OPTION.into(), Value::List(weights.into_iter().map(Value::Float).collect()));
    *options = Value::Map(Arc::new(map));
    Ok(())
}

fn read(given: &Value, names: &[&str]) -> Result<Vec<f64>> {
    let mut weights = vec![1.0; names.len()];
    match given {
        Value::List(list) if list.len() == names.len() => {
            for ((weight, value), name) in weights.iter_mut().zip(list.iter()).zip(names) {
                *weight = number(value, name)?;
            }
        }
        Value::List(list) => {
            let (given, n_labels) = (list.len(), names.len());
            let problem = format!("`class_weights` has {given} numbers, but the model has {n_labels} labels");
            return Err(
                Error::new(What::Conflict(problem)).hint("give one number for each label, or a map from label names")
            );
        }
        Value::Map(map) => {
            for (name, value) in map.iter() {
                let Some(place) = names.iter().position(|known| known == name) else {
                    let error = Error::new(What::NotFound { kind: "label", name: name.clone() });
                    return Err(match nearest(name, names.iter().copied()) {
                        Some(near) => error.hint(format!("`class_weights`: did you mean \"{near}\"?")),
                        None => error.hint(format!("`class_weights`: the model's labels are {}", names.join(", "))),
                    });
                };
                weights[place] = number(value, name)?;
            }
        }
        Value::Str(word) if &**word == BALANCED => {
            let problem = "`class_weights: \"balanced\"` needs a training set to count labels in";
            return Err(Error::new(What::Conflict(problem.into())).hint("give the Trainer `train_dataset`, or numbers"));
        }
        Value::Str(word) => {
            let (name, value) = ("`class_weights`".into(), format!("{:?}", &**word));
            let allowed = "\"balanced\", a list of numbers, or a map from label names".into();
            return Err(What::OutOfRange { name, value, allowed }.into());
        }
        other => {
            let wanted = "\"balanced\", a list of numbers, or a map from label names".into();
            return Err(
                What::WrongType { name: "`class_weights`".into(), wanted, got: other.type_name().into() }.into()
            );
        }
    }
    Ok(weights)
}

fn number(value: &Value, label: &str) -> Result<f64> {
    let name = format!("the class weight of \"{label}\"");
    let Some(weight) = value.as_float() else {
        return Err(What::WrongType { name, wanted: "a number".into(), got: value.type_name().into() }.into());
    };
    if weight.is_finite() && weight >= 0.0 {
        return Ok(weight);
    }
    Err(What::OutOfRange { name, value: weight.to_string(), allowed: "at least 0".into() }.into())
}
