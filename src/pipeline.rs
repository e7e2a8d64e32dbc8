//! Inference for users: text in, labels out, with Hugging Face's option names and result keys.
//!
//! A saved model with its tokenizer flows in; a [`Pipeline`] predicts in batches. What a result looks like is the task's
//! `decode`; other tasks than classification come with the issue on tasks and families.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::batch::Features;
use crate::data::{Row, Value};
use crate::error::{Error, Result, What};
use crate::head::{Model, prepare};
use crate::tokenizer::Tokenizer;

/// A model and its tokenizer, ready to predict. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    model: Model,
    tokenizer: Tokenizer,
    options: IndexMap<String, Value>,
    batch_size: usize,
}

/// Hugging Face's names of a task, and what follows the class prefix of the models that do it.
const TASKS: [(&str, &str); 2] =
    [("text-classification", "ForSequenceClassification"), ("sentiment-analysis", "ForSequenceClassification")];

/// What follows the class prefix of the models that do `task`.
///
/// # Errors
/// An unknown task, with the nearest one, or a known one that this version does not have.
pub fn suffix_of(task: &str) -> Result<&'static str> {
    const LATER: [&str; 5] = ["token-classification", "ner", "question-answering", "fill-mask", "text-generation"];
    if let Some((_, suffix)) = TASKS.iter().find(|(name, _)| *name == task) {
        return Ok(suffix);
    }
    if LATER.contains(&task) {
        let error = Error::new(What::Unsupported(format!("the pipeline `{task}`")));
        return Err(error.hint("this version has `text-classification`; the others come later"));
    }
    let error = Error::new(What::NotFound { kind: "pipeline", name: task.to_string() });
    let known = TASKS.iter().map(|(name, _)| *name);
    Err(match crate::error::nearest(task, known) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("this version has `text-classification` (also called `sentiment-analysis`)"),
    })
}

impl Pipeline {
    /// A pipeline of a model and a tokenizer, `batch_size` rows at a time.
    pub fn new(model: Model, tokenizer: Tokenizer, batch_size: usize) -> Self {
        Pipeline { model, tokenizer, options: IndexMap::new(), batch_size: batch_size.max(1) }
    }

    /// The same pipeline with an option for every call: `top_k`, `function_to_apply`.
    #[must_use]
    pub fn with_option(mut self, name: &str, value: Value) -> Self {
        self.options.insert(name.to_string(), value);
        self
    }

    /// Predicts rows: one result a row, in their order. `options` win over the pipeline's own.
    ///
    /// # Errors
    /// Rows that cannot be encoded, and what the task raises.
    pub fn predict(&self, rows: &[Row], options: &IndexMap<String, Value>) -> Result<Vec<Value>> {
        let max_length = prepare::max_length(&self.model, Some(&self.tokenizer));
        let encode_options = prepare::encode_options(&self.model, max_length)?;
        let Value::Map(base) = &encode_options else {
            return Err(What::Internal("the options of encode are a map".into()).into());
        };
        let mut decode_options = (**base).clone();
        for key in ["top_k", "function_to_apply"] {
            decode_options.insert(key.to_string(), Value::Null);
        }
        decode_options.extend(self.options.clone());
        decode_options.extend(options.clone());
        let decode_options = Value::Map(Arc::new(decode_options));

        let mut results = Vec::with_capacity(rows.len());
        for (number, chunk) in rows.chunks(self.batch_size).enumerate() {
            let mut features: Vec<(usize, Features)> = Vec::with_capacity(chunk.len());
            for (index, row) in chunk.iter().enumerate() {
                let row_number = number * self.batch_size + index;
                let encoded = self.model.encode(&self.tokenizer, row, &encode_options);
                let mut encoded = encoded.map_err(|error| crate::batch::features::in_row(error, row_number))?;
                match encoded.pop() {
                    Some(one) if encoded.is_empty() => features.push((row_number, one)),
                    _ => {
                        return Err(What::Unsupported("a pipeline over rows that give several windows".into()).into());
                    }
                }
            }
            let examples: Vec<(usize, &Features)> = features.iter().map(|(row, features)| (*row, features)).collect();
            let batch = self.model.pack(&examples)?;
            let output = self.model.forward(&batch)?;
            match self.model.decode(&output, &batch, &decode_options)? {
                Value::List(values) if values.len() == chunk.len() => results.extend(values.iter().cloned()),
                other => {
                    let wanted = format!("a list of {} results", chunk.len());
                    let name = format!("what `decode` of the task `{}` returns", self.model.task().name());
                    return Err(What::WrongType { name, wanted, got: other.type_name().into() }.into());
                }
            }
        }
        Ok(results)
    }
}

/// A row that holds one text.
pub fn text_row(text: &str) -> Row {
    Arc::new(IndexMap::from([("text".to_string(), Value::from(text))]))
}
