//! A data set's rows as features: encoded by the model's task, in parallel, in the order of the rows.
//!
//! A row may give several features (windows of a long text); each keeps the number of its row. Errors name the row and,
//! where it came from a file, its line.

use std::sync::Arc;

use indexmap::IndexMap;
use rayon::prelude::*;

use crate::batch::{Features, features};
use crate::data::{Dataset, Value};
use crate::error::{Error, Result, What};
use crate::head::labels::LabelEncoding;
use crate::head::{Function, Model};
use crate::tokenizer::Tokenizer;

/// An encoded data set.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The features, in the order of the rows.
    pub features: Vec<Features>,
    /// For each feature, its row in the data set.
    pub rows: Vec<usize>,
    /// How many rows were cut to fit the maximum length.
    pub n_truncated: usize,
    /// The maximum length in tokens.
    pub max_length: usize,
}

/// Encodes every row of `dataset`. Rows that have `input_ids` are taken as they are.
///
/// # Errors
/// An empty data set, rows that cannot be encoded, a task without `encode`, no tokenizer.
pub fn prepare(model: &Model, tokenizer: Option<&Tokenizer>, dataset: &Dataset) -> Result<Prepared> {
    if dataset.is_empty() {
        let error = Error::new(What::BadData(format!("the data set `{}` has no rows", dataset.name())));
        return Err(error.hint("if it was filtered, no row was left: print `dataset.len()` after each step"));
    }
    let max_length = max_length(model, tokenizer);
    let rows = dataset.rows();
    let encoded: Vec<Result<Vec<Features>>> = if features::is_encoded(dataset.column_names()) {
        let each = |(index, row): (usize, &crate::data::Row)| match Features::read(row, model.list_labels()) {
            Ok(features) => Ok(vec![features]),
            Err(error) => Err(dataset.locate(error, index)),
        };
        rows.par_iter().enumerate().map(each).collect::<Vec<_>>()
    } else {
        let tokenizer = tokenizer_for(model, tokenizer, dataset)?;
        let options = encode_options(model, max_length)?;
        let each = |(index, row)| model.encode(tokenizer, row, &options).map_err(|error| dataset.locate(error, index));
        rows.par_iter().enumerate().map(each).collect::<Vec<_>>()
    };
    // Of several wrong rows the first is named, whichever thread was quicker.
    let encoded = encoded.into_iter().collect::<Result<Vec<_>>>()?;
    let mut prepared =
        Prepared { features: Vec::with_capacity(rows.len()), rows: Vec::new(), n_truncated: 0, max_length };
    for (row, features) in encoded.into_iter().enumerate() {
        prepared.n_truncated += usize::from(features.iter().any(|features| features.truncated));
        for one in features {
            prepared.features.push(one);
            prepared.rows.push(row);
        }
    }
    if prepared.features.is_empty() {
        return Err(Error::new(What::BadData(format!(
            "no row of the data set `{}` gave any features",
            dataset.name()
        ))));
    }
    Ok(prepared)
}

fn tokenizer_for<'a>(model: &Model, tokenizer: Option<&'a Tokenizer>, dataset: &Dataset) -> Result<&'a Tokenizer> {
    if !model.task().has(Function::Encode) {
        let problem =
            format!("the task `{}` cannot encode rows, and the data set has no `input_ids`", model.task().name());
        return Err(Error::new(What::BadData(problem))
            .hint("encode the rows with `dataset.map(...)` so that each has `input_ids` and its labels"));
    }
    tokenizer.ok_or_else(|| {
        let problem = format!("the data set `{}` holds text, and there is no tokenizer", dataset.name());
        Error::new(What::BadData(problem)).hint("give the Trainer `processing_class: tokenizer`")
    })
}

/// The longest row in tokens: what the model's position table and the tokenizer allow.
pub fn max_length(model: &Model, tokenizer: Option<&Tokenizer>) -> usize {
    let limit = model.max_length();
    tokenizer.and_then(Tokenizer::model_max_length).map_or(limit, |length| length.min(limit))
}

/// What a task's `encode` is told beside the row: `max_length`, the label names and the problem type.
///
/// # Errors
/// A malformed configuration.
pub fn encode_options(model: &Model, max_length: usize) -> Result<Value> {
    let config = model.config();
    let names = config.label_names()?.iter().map(|name| Value::from(name.as_str())).collect();
    let problem = config.problem_type()?.map_or(Value::Null, |kind| Value::from(kind.name()));
    let options =
        [("max_length", Value::Int(max_length as i64)), ("label_names", Value::List(names)), ("problem_type", problem)];
    let map: IndexMap<String, Value> = options.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    Ok(Value::Map(Arc::new(map)))
}

/// The label encoding that a task's options carry.
///
/// # Errors
/// Options without label names.
pub fn label_encoding(options: &Value) -> Result<LabelEncoding> {
    let Value::Map(map) = options else {
        return Err(What::WrongType {
            name: "the options of `encode_label`".into(),
            wanted: "a map".into(),
            got: options.type_name().into(),
        }
        .into());
    };
    let names = map.get("label_names").and_then(Value::as_list).unwrap_or_default();
    let names = names.iter().filter_map(Value::as_str).map(str::to_string).collect();
    let problem_type =
        map.get("problem_type").and_then(Value::as_str).map(crate::model::ProblemType::named).transpose()?;
    Ok(LabelEncoding { names, problem_type })
}
