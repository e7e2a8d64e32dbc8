//! A data set's rows as features: encoded by the model's task, in parallel, in the order of the rows.
//!
//! A row may give several features (windows of a long text); each keeps the number of its row. Errors name the row and,
//! where it came from a file, its line.

use rayon::prelude::*;

use crate::batch::{Features, features};
use crate::cancel;
use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What};
use crate::head::labels::LabelEncoding;
use crate::head::{Function, Model, blocks, options};
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
    /// What the task's functions are told beside rows and batches.
    pub options: Value,
}

/// Encodes every row of `dataset`. Rows that have `input_ids` are taken as they are. `given` are the task's options
/// where they differ from their defaults.
///
/// # Errors
/// An empty data set, rows that cannot be encoded, a task without `encode`, no tokenizer.
pub fn prepare(model: &Model, tokenizer: Option<&Tokenizer>, dataset: &Dataset, given: &Row) -> Result<Prepared> {
    if dataset.is_empty() {
        let error = Error::new(What::BadData(format!("the data set `{}` has no rows", dataset.name())));
        return Err(error.hint("if it was filtered, no row was left: print `dataset.len()` after each step"));
    }
    let options = options::merged(model, tokenizer, &[given])?;
    let max_length = number(&options, options::MAX_LENGTH).unwrap_or(0);
    let rows = dataset.rows();
    let mut block_size = None;
    let encoded: Vec<Result<Vec<Features>>> = if features::is_encoded(dataset.column_names()) {
        let each = |(index, row): (usize, &Row)| match Features::read(row, model.list_labels()) {
            Ok(features) => Ok(vec![features]),
            Err(error) => Err(dataset.locate(error, index)),
        };
        rows.par_iter().enumerate().map(each).collect::<Vec<_>>()
    } else {
        let tokenizer = tokenizer_for(model, tokenizer, dataset)?;
        block_size = model.task().block_size(&options)?;
        let each = |(index, row)| {
            cancel::check()?;
            model.encode(tokenizer, row, &options).map_err(|error| dataset.locate(error, index))
        };
        rows.par_iter().enumerate().map(each).collect::<Vec<_>>()
    };
    // Of several wrong rows the first is named, whichever thread was quicker.
    let encoded = encoded.into_iter().collect::<Result<Vec<_>>>()?;
    let n_truncated = encoded.iter().filter(|several| several.iter().any(|features| features.truncated)).count();
    let numbered = encoded.into_iter().enumerate();
    let mut numbered: Vec<(usize, Features)> =
        numbered.flat_map(|(row, several)| several.into_iter().map(move |one| (row, one))).collect();
    if let Some(size) = block_size {
        numbered = blocks::join(&numbered, size).map_err(|(row, error)| dataset.locate(error, row))?;
    }
    if numbered.is_empty() {
        let error = Error::new(What::BadData(format!("no row of the data set `{}` gave any features", dataset.name())));
        return Err(match block_size {
            Some(size) => error.hint(format!(
                "all its text is shorter than one block of {size} tokens: `block_size` of a causal and `max_seq_length` of a masked language model make blocks smaller"
            )),
            None => error,
        });
    }
    let (rows, features) = numbered.into_iter().unzip();
    Ok(Prepared { features, rows, n_truncated, max_length, options })
}

/// A whole number among the options.
fn number(options: &Value, key: &str) -> Option<usize> {
    let Value::Map(map) = options else { return None };
    map.get(key).and_then(Value::as_int).and_then(|number| usize::try_from(number).ok())
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
