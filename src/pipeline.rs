//! Inference for users: text in, answers out, with Hugging Face's option names and result keys.
//!
//! A saved model with its tokenizer flows in; a [`Pipeline`] predicts in batches. What a result looks like is the task's
//! `decode`, and its `merge` where a row gives several windows.

use indexmap::IndexMap;
use rayon::prelude::*;

use crate::batch::{Batch, Features, features};
use crate::cancel;
use crate::data::{Row, Value};
use crate::error::{Error, Result, What};
use crate::head::generation::{self, Caller, GenerationSettings};
use crate::head::{Function, Model, options, texts};
use crate::model::parameters::without_gradients;
use crate::tokenizer::Tokenizer;

/// A model and its tokenizer, ready to predict. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    model: Model,
    tokenizer: Tokenizer,
    options: Row,
    batch_size: usize,
    seed: u64,
}

/// The seed of draws where nobody gives one: Hugging Face's default for training.
const DEFAULT_SEED: u64 = 42;

/// Hugging Face's names of a task, and what follows the class prefix of the models that do it.
const TASKS: [(&str, &str); 7] = [
    ("text-classification", "ForSequenceClassification"),
    ("sentiment-analysis", "ForSequenceClassification"),
    ("token-classification", "ForTokenClassification"),
    ("ner", "ForTokenClassification"),
    ("question-answering", "ForQuestionAnswering"),
    ("fill-mask", "ForMaskedLM"),
    ("text-generation", "ForCausalLM"),
];

/// What follows the class prefix of the models that do `task`.
///
/// # Errors
/// An unknown task, with the nearest one.
pub fn suffix_of(task: &str) -> Result<&'static str> {
    if let Some((_, suffix)) = TASKS.iter().find(|(name, _)| *name == task) {
        return Ok(suffix);
    }
    let error = Error::new(What::NotFound { kind: "pipeline", name: task.to_string() });
    let known = TASKS.map(|(name, _)| name);
    Err(match crate::error::nearest(task, known) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("there are {}", known.map(|name| format!("`{name}`")).join(", "))),
    })
}

impl Pipeline {
    /// A pipeline of a model and a tokenizer, `batch_size` rows at a time, with the task's options for every call.
    ///
    /// # Errors
    /// Options that the task does not have.
    pub fn new(model: Model, tokenizer: Tokenizer, batch_size: usize, options: Row) -> Result<Self> {
        options::check(&*model.task(), &options, "`pipeline`")?;
        Ok(Pipeline { model, tokenizer, options, batch_size: batch_size.max(1), seed: DEFAULT_SEED })
    }

    /// The same pipeline with another seed of what it draws.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Pipeline { seed, ..self }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The same pipeline, with these options where it has none of its own.
    #[must_use]
    pub fn with_defaults(mut self, mut options: IndexMap<String, Value>) -> Self {
        options.extend(self.options.iter().map(|(name, value)| (name.clone(), value.clone())));
        self.options = Row::new(options);
        self
    }

    /// What an option is for a call that is given these: its own value, else the pipeline's.
    pub fn option<'a>(&'a self, name: &str, given: &'a Row) -> Option<&'a Value> {
        given.get(name).or_else(|| self.options.get(name))
    }

    /// Predicts rows: one result a row, in their order. `given` options win over the pipeline's own.
    ///
    /// # Errors
    /// Options that the task does not have, rows that cannot be encoded, and what the task raises.
    pub fn predict(&self, rows: &[Row], given: &Row) -> Result<Vec<Value>> {
        options::check(&*self.model.task(), given, "`predict`")?;
        let predicting = Row::new(IndexMap::from([(options::PREDICTING.to_string(), Value::Bool(true))]));
        let all = [&self.options, given, &predicting];
        let options = options::merged(&self.model, Some(&self.tokenizer), &all)?;
        let settings = if self.model.task().generates() {
            let given: [&Row; 2] = [&own(&self.options), &own(given)];
            Some(GenerationSettings::read(&self.model.generation_config(), &given, Caller::Pipeline, self.seed)?)
        } else {
            None
        };
        let mut results = Vec::with_capacity(rows.len());
        for (number, chunk) in rows.chunks(self.batch_size).enumerate() {
            cancel::check()?;
            let first = number * self.batch_size;
            results.extend(match &settings {
                Some(settings) => self.generate_chunk(chunk, first, settings, &options)?,
                None => self.predict_chunk(chunk, first, &options)?,
            });
        }
        Ok(results)
    }

    /// The generated texts of some prompts, the first of which has the number `first`.
    fn generate_chunk(
        &self,
        rows: &[Row],
        first: usize,
        settings: &GenerationSettings,
        options: &Value,
    ) -> Result<Vec<Value>> {
        let in_row = |index: usize| move |error| features::in_row(error, first + index);
        let prompts = rows.iter().enumerate().map(|(index, row)| {
            let (text, _) = texts::text_columns(row).map_err(in_row(index))?;
            let tokens = generation::prompt_tokens(&text, settings, &self.tokenizer).map_err(in_row(index))?;
            Ok((text, tokens))
        });
        let (prompts, tokens): (Vec<_>, Vec<_>) = prompts.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let sequences = generation::generate(&self.model, &tokens, settings, Some(&self.tokenizer), first)?;
        let prompts: Vec<(&str, usize)> =
            prompts.iter().zip(&tokens).map(|(text, tokens)| (&**text, tokens.len())).collect();
        let texts = generation::texts(&prompts, &sequences, settings, &self.tokenizer)?;
        let each = texts.chunks(settings.num_return_sequences).zip(rows).enumerate().map(|(index, (texts, row))| {
            let texts = texts.iter().map(|text| Value::from(text.as_str())).collect();
            self.model.merge(&Value::List(texts), row, options).map_err(in_row(index))
        });
        each.collect()
    }

    /// The results of some rows, the first of which has the number `first`.
    fn predict_chunk(&self, rows: &[Row], first: usize, options: &Value) -> Result<Vec<Value>> {
        let encode = |(index, row): (usize, &Row)| {
            let encoded = self.model.encode(&self.tokenizer, row, options);
            encoded.map_err(|error| features::in_row(error, first + index))
        };
        let encoded: Vec<Result<Vec<Features>>> = rows.par_iter().enumerate().map(encode).collect();
        let encoded = encoded.into_iter().collect::<Result<Vec<_>>>()?;
        let flat: Vec<(usize, &Features)> = encoded
            .iter()
            .enumerate()
            .flat_map(|(index, several)| several.iter().map(move |one| (first + index, one)))
            .collect();
        let mut decoded = Vec::with_capacity(flat.len());
        for examples in flat.chunks(self.batch_size) {
            cancel::check()?;
            // `collate` is training's and evaluation's: here nothing is masked.
            let batch = self.model.pack(examples)?;
            let output = without_gradients(|| self.model.forward(&batch))?;
            let values = self.model.decode(&output, &batch, options, Some(&self.tokenizer))?;
            decoded.extend(self.one_each(values, &batch)?);
        }
        let mut decoded = decoded.into_iter();
        let merges = self.model.task().has(Function::Merge);
        let row_results = encoded.iter().zip(rows).enumerate().map(|(index, (several, row))| {
            let results: Vec<Value> = decoded.by_ref().take(several.len()).collect();
            let merged = match <[Value; 1]>::try_from(results) {
                Ok([result]) if !merges => Ok(result),
                Ok([result]) => self.model.merge(&Value::List([result].into()), row, options),
                Err(results) => self.model.merge(&Value::List(results.into()), row, options),
            };
            merged.map_err(|error| features::in_row(error, first + index))
        });
        row_results.collect()
    }

    fn one_each(&self, values: Value, batch: &Batch) -> Result<Vec<Value>> {
        match values {
            Value::List(values) if values.len() == batch.n_rows() => Ok(values.to_vec()),
            other => {
                let wanted = format!("a list of {} results", batch.n_rows());
                let name = format!("what `decode` of the task `{}` returns", self.model.task().name());
                Err(What::WrongType { name, wanted, got: other.type_name().into() }.into())
            }
        }
    }
}

/// The options that are about generating, of all that a task may have.
fn own(options: &Row) -> Row {
    let own = options.iter().filter(|(key, _)| generation::is_option(key));
    Row::new(own.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// A row that holds one text.
pub fn text_row(text: &str) -> Row {
    Row::new(IndexMap::from([("text".to_string(), Value::from(text))]))
}

/// The rows of a map with several questions: each with its own context, or all with the same one. None where `question` is
/// no list.
///
/// # Errors
/// Lists of different lengths.
pub fn question_rows(row: &Row) -> Result<Option<Vec<Row>>> {
    let Some(Value::List(questions)) = row.get("question") else { return Ok(None) };
    let contexts = row.get("context").and_then(Value::as_list);
    if let Some(contexts) = contexts.filter(|contexts| contexts.len() != questions.len()) {
        let (questions, contexts) = (questions.len(), contexts.len());
        let error = Error::new(What::BadData(format!("there are {questions} questions for {contexts} contexts")));
        return Err(error.hint("give each question its context, or one context for all of them"));
    }
    let one = |(index, question): (usize, &Value)| {
        let mut cells = (**row).clone();
        cells.insert("question".into(), question.clone());
        if let Some(contexts) = contexts {
            cells.insert("context".into(), contexts[index].clone());
        }
        Row::new(cells)
    };
    Ok(Some(questions.iter().enumerate().map(one).collect()))
}
