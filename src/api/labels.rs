//! What scripts give to metrics, as numbers: labels become indices, arrays of numbers become slices.
//!
//! Labels are integers or strings (bools count as 0 and 1). Their indices follow the sorted order of all labels that
//! occur, as scikit-learn sorts them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rhai::Dynamic;

use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{from_dynamic, to_dynamic, type_name};

/// A label as the script writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Label {
    Int(i64),
    Text(Arc<str>),
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Label::Int(number) => write!(f, "{number}"),
            Label::Text(text) => f.write_str(text),
        }
    }
}

/// Predictions and references as indices into the labels that occur.
pub(super) struct Labelled {
    pub(super) predictions: Vec<usize>,
    pub(super) references: Vec<usize>,
    names: BTreeMap<Label, usize>,
}

impl Labelled {
    pub(super) fn new(predictions: &Dynamic, references: &Dynamic) -> Result<Self> {
        let predictions = labels("predictions", predictions)?;
        let references = labels("references", references)?;
        let mut names: BTreeMap<Label, usize> =
            predictions.iter().chain(&references).map(|label| (label.clone(), 0)).collect();
        for (at, index) in names.values_mut().enumerate() {
            *index = at;
        }
        if let (Some((Label::Int(number), _)), Some((Label::Text(text), _))) =
            (names.first_key_value(), names.last_key_value())
        {
            let problem = format!("labels are of mixed types: {number} and {text:?}");
            return Err(Error::new(What::BadData(problem)).hint("`label2id` and `id2label` of a model translate them"));
        }
        let indices = |labels: Vec<Label>| labels.iter().map(|label| names[label]).collect();
        Ok(Labelled { predictions: indices(predictions), references: indices(references), names })
    }

    /// The index of a label; one that does not occur gets an index of its own.
    pub(super) fn index(&mut self, label: Label) -> usize {
        let next = self.names.len();
        *self.names.entry(label).or_insert(next)
    }

    /// Whether the label occurs or was asked for.
    pub(super) fn knows(&self, label: &Label) -> bool {
        self.names.contains_key(label)
    }

    /// All labels that occur, as text, in sorted order.
    pub(super) fn listed(&self) -> Vec<String> {
        self.names.keys().map(Label::to_string).collect()
    }

    /// The label behind an index.
    pub(super) fn name(&self, index: usize) -> String {
        let found = self.names.iter().find(|(_, at)| **at == index);
        found.map(|(label, _)| label.to_string()).unwrap_or_default()
    }
}

/// One label, named `name` in errors.
pub(super) fn label(name: &str, value: &Dynamic) -> Result<Label> {
    label_of(&from_dynamic(value)?).ok_or_else(|| {
        let wanted = "a label (an integer or a string)".into();
        What::WrongType { name: format!("`{name}`"), wanted, got: type_name(value) }.into()
    })
}

/// An array of labels, named `name` in errors.
pub(super) fn labels(name: &str, array: &Dynamic) -> Result<Vec<Label>> {
    items(name, array, "an integer or a string", label_of)
}

/// An array of numbers, named `name` in errors.
pub(super) fn numbers(name: &str, array: &Dynamic) -> Result<Vec<f64>> {
    items(name, array, "a number", Value::as_float)
}

/// An array of arrays of numbers, named `name` in errors.
pub(super) fn rows_of_numbers(name: &str, array: &Dynamic) -> Result<Vec<Vec<f64>>> {
    items(name, array, "an array of numbers", |row| row.as_list()?.iter().map(Value::as_float).collect())
}

fn label_of(value: &Value) -> Option<Label> {
    match value {
        Value::Str(text) => Some(Label::Text(text.clone())),
        value => value.as_int().map(Label::Int),
    }
}

fn items<T>(name: &str, array: &Dynamic, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
    let wrong =
        |name: String, wanted: &str, got: String| Error::new(What::WrongType { name, wanted: wanted.to_string(), got });
    let value = from_dynamic(array)?;
    let Value::List(values) = &value else {
        return Err(wrong(format!("`{name}`"), "an array", type_name(array)));
    };
    let items = values.iter().enumerate().map(|(at, item)| {
        read(item).ok_or_else(|| {
            let error = wrong(format!("`{name}[{at}]`"), wanted, type_name(&to_dynamic(item)));
            match item {
                Value::List(_) if name == "predictions" => {
                    error.hint("scores become labels with `argmax(predictions)`; one score a row is `row[0]`")
                }
                _ => error,
            }
        })
    });
    items.collect()
}
