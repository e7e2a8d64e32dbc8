//! Words with a label each, as token classification reads them: which columns hold them, the labels' ids, and their place
//! among the pieces that a tokenizer makes of the words. The rules are those of Hugging Face's run_ner.
//!
//! Rows and encodings flow in, ids flow out, -100 standing where the loss looks at nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What, nearest};
use crate::head::{Model, texts};
use crate::model::config::default_labels;
use crate::tensor::loss::IGNORE_INDEX;

/// The option that says which column holds the words; a task that declares it labels words.
pub const TEXT_COLUMN: &str = "text_column_name";
/// The option that says which column holds the labels.
pub const LABEL_COLUMN: &str = "label_column_name";

/// The columns that can hold words, in the order they are looked for.
const WORD_COLUMNS: [&str; 2] = ["tokens", "words"];
/// The columns that can hold the labels of words, in the order they are looked for.
const LABEL_COLUMNS: [&str; 4] = ["ner_tags", "tags", "labels", "label"];

/// What a row is encoded from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// Words that were split before.
    Split(Vec<Arc<str>>),
    /// Plain text.
    Text(Arc<str>),
}

/// The words of a row, or its text: the column `name`, else `tokens`, `words`, or a column of text.
///
/// # Errors
/// A row without such a column, or a column of something else.
pub fn words_of(row: &Row, name: Option<&str>) -> Result<Words> {
    let found = match name {
        Some(name) => Some(name),
        None => WORD_COLUMNS.into_iter().find(|name| row.contains_key(*name)),
    };
    let Some(name) = found else {
        let (text, _) = texts::text_columns(row).map_err(|error| {
            error.hint("words are a list in the column `tokens`, or in the one of `text_column_name`")
        })?;
        return Ok(Words::Text(text));
    };
    let wrong = |name: String, got: &str| {
        let wanted = "a list of words, or a text".into();
        Error::new(What::WrongType { name, wanted, got: got.into() })
    };
    match row.get(name) {
        Some(Value::Str(text)) => Ok(Words::Text(text.clone())),
        Some(Value::List(words)) => {
            let word = |(at, word): (usize, &Value)| match word {
                Value::Str(word) => Ok(word.clone()),
                other => Err(wrong(format!("`{name}[{at}]`"), other.type_name())),
            };
            words.iter().enumerate().map(word).collect::<Result<_>>().map(Words::Split)
        }
        Some(other) => Err(wrong(format!("`{name}`"), other.type_name())),
        None => {
            let known = row.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let problem = format!("the row has no column `{name}`; it has {known}");
            Err(Error::new(What::BadData(problem)).hint("`text_column_name` says which column holds the words"))
        }
    }
}

/// The column that holds the labels of words: `name`, else the first of Hugging Face's names that is there.
fn label_column(name: Option<&str>, has: impl Fn(&str) -> bool) -> Option<&str> {
    match name {
        Some(name) => Some(name).filter(|name| has(name)),
        None => LABEL_COLUMNS.into_iter().find(|name| has(name)),
    }
}

/// The ids of the row's labels, one a word; `None` where the row has no labels.
///
/// `label_names` are the model's labels in the order of their ids.
///
/// # Errors
/// Labels of plain text, more or fewer labels than words, a label that the model does not have.
pub fn word_labels(row: &Row, words: &Words, name: Option<&str>, label_names: &[&str]) -> Result<Option<Vec<i64>>> {
    let Some(name) = label_column(name, |name| row.get(name).is_some_and(|value| *value != Value::Null)) else {
        return Ok(None);
    };
    let Some(labels) = row.get(name).and_then(Value::as_list) else {
        let got = row.get(name).map_or("nothing", Value::type_name).to_string();
        let wanted = "a list with one label a word".into();
        return Err(Error::new(What::WrongType { name: format!("`{name}`"), wanted, got })
            .hint("for one label a row, load the model with `AutoModelForSequenceClassification`"));
    };
    let Words::Split(words) = words else {
        return Err(Error::new(What::BadData(format!("`{name}` has labels of words, but the row has plain text")))
            .hint("give the words as a list in the column `tokens`"));
    };
    if labels.len() != words.len() {
        let problem = format!("the row has {} words, but {} labels in `{name}`", words.len(), labels.len());
        return Err(Error::new(What::BadData(problem)).hint("each word has one label"));
    }
    let id = |(at, label): (usize, &Value)| {
        id_of(label, label_names).map_err(|error| {
            error.at(crate::error::Place::Within(format!("`{name}[{at}]`, the label of `{}`", words[at])))
        })
    };
    labels.iter().enumerate().map(id).collect::<Result<_>>().map(Some)
}

fn id_of(label: &Value, names: &[&str]) -> Result<i64> {
    if let Value::Str(text) = label {
        if let Some(id) = names.iter().position(|name| *name == &**text) {
            return Ok(id as i64);
        }
        let error = Error::new(What::BadData(format!("the model has no label \"{text}\"")));
        return Err(match nearest(text, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean \"{near}\"? labels are learnt from the training set alone")),
            None => error.hint(format!("its labels are {}", listed(names.iter().copied()))),
        });
    }
    match label.as_int() {
        Some(id) if id == IGNORE_INDEX || (0..names.len() as i64).contains(&id) => Ok(id),
        Some(id) => {
            let allowed = format!("0 to {} (the model has {} labels)", names.len() as i64 - 1, names.len());
            Err(Error::new(What::OutOfRange { name: "the label".into(), value: id.to_string(), allowed })
                .hint("load the model with the right `num_labels`"))
        }
        None => {
            let (wanted, got) = ("a label's name or id".into(), label.type_name().into());
            Err(What::WrongType { name: "the label".into(), wanted, got }.into())
        }
    }
}

/// The labels of words on the pieces of their encoding: on the first piece of each word, and with `label_all` on the others
/// too, where `B-X` goes on as `I-X` if there is such a label; -100 everywhere else.
pub fn align(word_ids: &[Option<u32>], labels: &[i64], label_names: &[&str], label_all: bool) -> Vec<i64> {
    let going_on = |label: i64| {
        let name = usize::try_from(label).ok().and_then(|label| label_names.get(label))?;
        let inside = format!("I-{}", name.strip_prefix("B-")?);
        label_names.iter().position(|name| *name == inside).map(|id| id as i64)
    };
    let mut before = None;
    let label = |word: &Option<u32>| {
        let first = *word != before;
        before = *word;
        let Some(label) = word.and_then(|word| labels.get(word as usize)).copied() else { return IGNORE_INDEX };
        match (first, label_all) {
            (true, _) => label,
            (false, true) => going_on(label).unwrap_or(label),
            (false, false) => IGNORE_INDEX,
        }
    };
    word_ids.iter().map(label).collect()
}

/// The labels of a column of lists, in the order of their ids: run_ner's `label_list`. Names in the rows are sorted. Ids have the
/// names that the data set's files say, or else `LABEL_0`, `LABEL_1`, ... up to the largest.
///
/// # Errors
/// No such column, or without `name` none of those that can hold labels; a column without lists of labels.
pub fn label_list(dataset: &Dataset, name: Option<&str>) -> Result<Vec<String>> {
    let column = match name {
        Some(name) => name,
        None => label_column(None, |name| dataset.has_column(name)).ok_or_else(|| {
            let error = Error::new(What::NotFound { kind: "column", name: LABEL_COLUMNS[0].into() });
            let known = dataset.column_names().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            error.hint(format!("labels are looked for in {}; the data set has {known}", quoted(&LABEL_COLUMNS)))
        })?,
    };
    let names = unique_names(dataset, column)?;
    if !names.is_empty() {
        return Ok(names);
    }
    if let Some(names) = dataset.class_names(column) {
        return Ok(names.to_vec());
    }
    let ids = dataset.cells(column)?.filter_map(Value::as_list).flatten().filter_map(Value::as_int);
    let most = ids.max().and_then(|id| usize::try_from(id + 1).ok());
    most.map(default_labels).ok_or_else(|| {
        let problem = format!("`{column}` of the data set `{}` holds no lists of labels", dataset.name());
        Error::new(What::BadData(problem)).hint("each row has a list with one label a word, names or ids")
    })
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The sorted unique names among the labels of a column of lists.
fn unique_names(dataset: &Dataset, name: &str) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for labels in dataset.cells(name)?.filter_map(Value::as_list) {
        for label in labels.iter().filter_map(Value::as_str) {
            if !names.contains(label) {
                names.insert(label.to_string());
            }
        }
    }
    Ok(names.into_iter().collect())
}

/// Learns the label names from the training set, where the model has none of its own and the labels are names, or ids with names
/// that the data set's files say.
///
/// # Errors
/// Another number of labels than the model has.
pub fn settle(model: &Model, dataset: &Dataset, given: &Row) -> Result<()> {
    let config = model.config();
    let name = given.get(LABEL_COLUMN).and_then(Value::as_str);
    let Some(column) = label_column(name, |name| dataset.has_column(name)) else { return Ok(()) };
    if config.has_label_names()? {
        return Ok(());
    }
    let n_labels = config.num_labels()?;
    let mut names = unique_names(dataset, column)?;
    if names.is_empty() {
        // A class may be missing from the rows, but not from the names.
        names = dataset.class_names(column).map(<[String]>::to_vec).unwrap_or_default();
    }
    if names.is_empty() {
        return Ok(());
    }
    if let [only] = names.as_slice() {
        let problem = format!("every label in `{column}` of the training set is \"{only}\"");
        return Err(
            Error::new(What::BadData(problem)).hint("a model needs at least two different labels to learn from")
        );
    }
    if names.len() != n_labels {
        let listed = listed(names.iter().map(String::as_str));
        let problem = format!("the training set has {} labels ({listed}), but the model has {n_labels}", names.len());
        return Err(
            Error::new(What::BadData(problem)).hint(format!("load the model with `num_labels: {}`", names.len()))
        );
    }
    model.change_config(|config| config.set_labels(&names));
    Ok(())
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.take(12).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}
