//! Label names: from the strings of a training set into the model's configuration, and from a row's label to its id.
//!
//! As Hugging Face's run_glue does: where the model has no label names of its own, the sorted unique labels of the
//! training set become `label2id` and are saved with the model.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What, nearest};
use crate::head::{Model, token_labels};
use crate::model::ProblemType;

/// The columns that can hold a row's label, in the order they are looked for.
pub const LABEL_COLUMNS: [&str; 3] = ["labels", "label", "label_ids"];

/// What follows the class prefix of models that classify whole rows.
pub const SEQUENCE_CLASSIFICATION: &str = "ForSequenceClassification";

/// What follows the class prefix of models with a task of the user's own.
pub const FOR_TASK: &str = "ForTask";

/// The label column of a data set.
pub fn column(dataset: &Dataset) -> Option<&'static str> {
    LABEL_COLUMNS.into_iter().find(|name| dataset.column_names().iter().any(|column| column == name))
}

/// Fits a classification model's labels to its training set: label names and problem type, where it has none. `given` are
/// the task's options where they differ from their defaults.
///
/// # Errors
/// Labels of several types (the first row that differs is named), more labels than the model has.
pub fn settle(model: &Model, dataset: &Dataset, given: &Row) -> Result<()> {
    if model.task().options()?.contains_key(token_labels::LABEL_COLUMN) {
        return token_labels::settle(model, dataset, given);
    }
    let Some(name) = column(dataset) else { return Ok(()) };
    if model.architecture().ends_with(FOR_TASK) {
        return suit(model, dataset, name);
    }
    if !model.architecture().ends_with(SEQUENCE_CLASSIFICATION) {
        return Ok(());
    }
    let kind = one_kind(dataset, name)?;
    let config = model.config();
    let n_labels = config.num_labels()?;
    let names = strings(dataset, name);
    if !names.is_empty() && !config.has_label_names()? {
        if let (1, Some(only)) = (names.len(), names.first()) {
            let problem = format!("every label of the training set is \"{only}\"");
            return Err(Error::new(What::BadData(problem)).hint("a classifier needs at least two different labels"));
        }
        if names.len() > n_labels || (names.len() < n_labels && n_labels != 2) {
            let listed = names.iter().take(8).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            let problem =
                format!("the training set has {} labels ({listed}), but the model has {n_labels}", names.len());
            let hint = format!("load the model with `num_labels: {}`", names.len());
            return Err(Error::new(What::BadData(problem)).hint(hint));
        }
        let names: Vec<String> = names.into_iter().collect();
        model.change_config(|config| config.set_labels(&names));
    }
    // The names that the data set itself has for its numbers, as run_glue takes them.
    if let (Kind::Whole, false, Some(names)) = (kind, config.has_label_names()?, dataset.class_names(name))
        && names.len() == n_labels
    {
        model.change_config(|config| config.set_labels(names));
    }
    if config.problem_type()?.is_none() {
        let problem = match kind {
            _ if n_labels == 1 => ProblemType::Regression,
            Kind::Text | Kind::Whole => ProblemType::SingleLabel,
            Kind::List => ProblemType::MultiLabel,
            Kind::Fraction => {
                return Err(Error::new(What::BadData(format!(
                    "`{name}` holds fractions, but the model has {n_labels} labels"
                )))
                .hint("for regression, load the model with `num_labels: 1`"));
            }
        };
        model.change_config(|config| config.set("problem_type", Json::from(problem.name())));
    }
    Ok(())
}

/// As [`settle`] for a task of the user's own, whose labels may be anything: names and problem type are settled where the labels
/// look like those of a classification with as many classes as the model has, and nothing is refused.
fn suit(model: &Model, dataset: &Dataset, name: &str) -> Result<()> {
    let Ok(kind) = one_kind(dataset, name) else { return Ok(()) };
    let config = model.config();
    let n_labels = config.num_labels()?;
    let names: Vec<String> = strings(dataset, name).into_iter().collect();
    if !names.is_empty() && !config.has_label_names()? && names.len() == n_labels {
        model.change_config(|config| config.set_labels(&names));
    }
    let problem = match kind {
        Kind::Fraction | Kind::Whole if n_labels == 1 => ProblemType::Regression,
        Kind::Text | Kind::Whole => ProblemType::SingleLabel,
        Kind::List => ProblemType::MultiLabel,
        Kind::Fraction => return Ok(()),
    };
    if config.problem_type()?.is_none() {
        model.change_config(|config| config.set("problem_type", Json::from(problem.name())));
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Fraction,
    List,
}

/// The one kind of value that a label column holds; whole numbers among fractions are fractions.
fn one_kind(dataset: &Dataset, name: &str) -> Result<Kind> {
    let mut all: Option<(Kind, usize)> = None;
    for (index, row) in dataset.rows().iter().enumerate() {
        let value = row.get(name).unwrap_or(&Value::Null);
        let kind = match value {
            Value::Str(_) => Kind::Text,
            Value::Int(_) | Value::Bool(_) => Kind::Whole,
            Value::Float(_) => Kind::Fraction,
            Value::List(_) => Kind::List,
            Value::Null | Value::Map(_) => {
                let problem = format!("the label of the row is {}", value.type_name());
                return Err(dataset
                    .locate(Error::new(What::BadData(problem)), index)
                    .hint("leave such rows out, for example with `filter`"));
            }
        };
        all = match all {
            None => Some((kind, index)),
            Some((known, first)) if known == kind => Some((known, first)),
            Some((Kind::Whole | Kind::Fraction, first)) if matches!(kind, Kind::Whole | Kind::Fraction) => {
                Some((Kind::Fraction, first))
            }
            Some((_, first)) => {
                let other = dataset.rows()[first].get(name).map_or("null", Value::type_name);
                let problem =
                    format!("the labels are of several types: {} here, {other} in row {first}", value.type_name());
                return Err(dataset
                    .locate(Error::new(What::BadData(problem)), index)
                    .hint("a column holds names or numbers, not both; `map` can turn one into the other"));
            }
        };
    }
    Ok(all.map_or(Kind::Whole, |(kind, _)| kind))
}

/// The sorted unique strings of a label column: single labels, or the members of lists of labels.
fn strings(dataset: &Dataset, name: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for value in dataset.rows().iter().filter_map(|row| row.get(name)) {
        match value {
            Value::Str(text) => drop(names.insert(text.to_string())),
            Value::List(list) => names.extend(list.iter().filter_map(Value::as_str).map(str::to_string)),
            _ => {}
        }
    }
    names
}

/// What a label of a row is encoded with.
#[derive(Clone, Debug)]
pub struct LabelEncoding {
    /// Label names in the order of their ids.
    pub names: Vec<String>,
    /// The problem type, where it is settled.
    pub problem_type: Option<ProblemType>,
}

/// A row's label as the loss takes it: a class, a number, or one number a class; `None` where the row has no label.
///
/// # Errors
/// A label that the model does not have, with the nearest name.
pub fn encode(row: &Row, encoding: &LabelEncoding) -> Result<Option<Value>> {
    let Some(value) = LABEL_COLUMNS.iter().find_map(|name| row.get(*name)).filter(|value| **value != Value::Null)
    else {
        return Ok(None);
    };
    let n_labels = encoding.names.len();
    let regression =
        encoding.problem_type == Some(ProblemType::Regression) || (encoding.problem_type.is_none() && n_labels == 1);
    Ok(Some(match value {
        Value::Str(text) if regression => {
            let got = format!("{text:?}");
            return Err(What::WrongType { name: "the label".into(), wanted: "a number".into(), got }.into());
        }
        Value::Str(text) => Value::Int(id_of(text, encoding)?),
        Value::List(list)
            if encoding.problem_type == Some(ProblemType::MultiLabel) || encoding.problem_type.is_none() =>
        {
            several(list, encoding)?
        }
        number if regression => Value::Float(number.as_float().ok_or_else(|| unusable(number))?),
        Value::List(_) => {
            return Err(unusable(value)
                .hint("for several labels a row, load the model with `problem_type: \"multi_label_classification\"`"));
        }
        Value::Float(number) if number.fract() != 0.0 => {
            let (name, got) = ("the label".into(), number.to_string());
            return Err(Error::new(What::WrongType { name, wanted: "a class (0, 1, ... or a name)".into(), got })
                .hint("for regression, load the model with `num_labels: 1`"));
        }
        number => {
            let id = number.as_int().ok_or_else(|| unusable(number))?;
            if id != crate::tensor::loss::IGNORE_INDEX && !(0..n_labels as i64).contains(&id) {
                let allowed = format!("0 to {} (the model has {n_labels} labels)", n_labels - 1);
                return Err(Error::new(What::OutOfRange { name: "the label".into(), value: id.to_string(), allowed })
                    .hint("load the model with the right `num_labels`, or map the labels to 0, 1, ..."));
            }
            Value::Int(id)
        }
    }))
}

/// Several labels: their names, or one number for each of the model's labels.
fn several(list: &[Value], encoding: &LabelEncoding) -> Result<Value> {
    let n_labels = encoding.names.len();
    if list.iter().all(|item| item.as_str().is_some()) && (list.is_empty() || n_labels > 0) && !is_numbers(list) {
        let mut flags = vec![Value::Float(0.0); n_labels];
        for name in list.iter().filter_map(Value::as_str) {
            flags[id_of(name, encoding)? as usize] = Value::Float(1.0);
        }
        return Ok(Value::List(flags.into()));
    }
    if list.len() != n_labels {
        let problem = format!("the row has {} labels, but the model has {n_labels}", list.len());
        return Err(Error::new(What::BadData(problem)).hint("give one number for each label, or a list of label names"));
    }
    let numbers = list.iter().map(|item| item.as_float().map(Value::Float).ok_or_else(|| unusable(item)));
    Ok(Value::List(numbers.collect::<Result<Vec<_>>>()?.into()))
}

fn is_numbers(list: &[Value]) -> bool {
    !list.is_empty() && list.iter().all(|item| item.as_float().is_some())
}

fn id_of(name: &str, encoding: &LabelEncoding) -> Result<i64> {
    if let Some(id) = encoding.names.iter().position(|known| known == name) {
        return Ok(id as i64);
    }
    let error = Error::new(What::BadData(format!("the model has no label \"{name}\"")));
    Err(match nearest(name, encoding.names.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint(format!(
            "its labels are {}",
            encoding.names.iter().take(12).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
        )),
    })
}

fn unusable(value: &Value) -> Error {
    What::WrongType { name: "the label".into(), wanted: "a class or a number".into(), got: value.type_name().into() }
        .into()
}
