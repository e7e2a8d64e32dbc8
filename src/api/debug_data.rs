//! `debug_data(dataset, tokenizer, task)`: a look at data before a model is trained on it.

use rhai::plugin::*;
use rhai::{Dynamic, Engine, Map, NativeCallContext};

use crate::api::options::Options;
use crate::api::session::Session;
use crate::data::Dataset;
use crate::error::{Error, Result, What};
use crate::head::debug_data::{Settings, Work, examine};
use crate::head::script::convert::{ScriptResult, raise, to_dynamic, type_name};
use crate::tokenizer::Tokenizer;

/// What a single data set is called in the report.
const ONLY: &str = "data";

/// The longest row where neither the options nor the tokenizer say it.
const MAX_LENGTH: usize = 512;

/// Registers the functions of this file.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_global_module(rhai::exported_module!(debugging).into());
}

#[export_module]
mod debugging {
    /// Looks at a data set, or at a map of splits, for what spoils a training; prints a report and returns its numbers.
    ///
    /// For each split: `duplicates` (rows with the texts of an earlier row) and `contradictions` (those with another label),
    /// `empty`, `unreadable` and `unlabelled` rows, `truncated` rows (longer than `max_length` tokens), `misaligned` labels
    /// (an answer that is not where it should be, a number of tags that is not that of the tokens, an `I-` tag that goes on with
    /// nothing), `labels` with their counts, `rare_labels`, `missing_labels`, `unknown_tokens` and the `longest` rows; between
    /// splits `overlap` and `unseen_labels`. Each names its first rows. `task` is one of the library, such as
    /// `"std/tasks/ner"`, one of Hugging Face's names, such as `"question-answering"`, or a `.rhai` file.
    ///
    /// ```rhai
    /// let rows = [#{ text: "good", label: "pos" }, #{ text: "bad", label: "neg" }, #{ text: "good", label: "neg" }];
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let found = debug_data(Dataset::from_rows(rows), tokenizer, "text-classification");
    /// expect(found.splits.data.duplicates.rows == [[0, 2]], "row 2 has the text of row 0");
    /// expect(found.splits.data.contradictions.count == 1, "and another label");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn debug_data(
        context: NativeCallContext,
        dataset: Dynamic,
        tokenizer: Tokenizer,
        task: &str,
    ) -> ScriptResult<Map> {
        report(&context, &dataset, &tokenizer, task, Map::new()).map_err(raise)
    }

    /// Looks at data with options: `max_length` (the tokenizer's, or 512), `max_rows` (5: how many rows a finding names),
    /// `min_count` (5: with fewer rows a label is rare).
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let found = debug_data(load_dataset("std/reviews"), tokenizer, "std/tasks/sentiment", #{ max_length: 64, max_rows: 3 });
    /// expect(found.overlap["train/test"].count == 0, "no review is in both");
    /// expect(found.splits.train.longest.len == 3, "three of the longest rows");
    /// ```
    #[rhai_fn(name = "debug_data", return_raw)]
    pub fn debug_data_with(
        context: NativeCallContext,
        dataset: Dynamic,
        tokenizer: Tokenizer,
        task: &str,
        options: Map,
    ) -> ScriptResult<Map> {
        report(&context, &dataset, &tokenizer, task, options).map_err(raise)
    }
}

fn report(context: &NativeCallContext, data: &Dynamic, tokenizer: &Tokenizer, task: &str, options: Map) -> Result<Map> {
    let mut options = Options::new("`debug_data`", options);
    let max_length = options.count("max_length", 1)?;
    let (max_rows, min_count) = (options.count("max_rows", 0)?, options.count("min_count", 0)?);
    options.finish()?;
    let splits = splits(data)?;
    let Some((_, first)) = splits.first() else {
        return Err(What::BadData("`debug_data` was given no splits".into()).into());
    };
    let settings = Settings {
        task: task.to_string(),
        work: Work::of(task, first)?,
        max_length: max_length.or(tokenizer.model_max_length()).unwrap_or(MAX_LENGTH),
        max_rows: max_rows.unwrap_or(5),
        min_count: min_count.unwrap_or(5),
    };
    let findings = examine(&splits, tokenizer, &settings)?;
    Session::of(context).reporter().line(&findings.to_text());
    to_dynamic(&findings.to_value()).try_cast::<Map>().ok_or_else(|| Error::new(What::Internal("no map".into())))
}

/// The splits in the order train, validation, test, then by name: maps of scripts are sorted.
fn splits(data: &Dynamic) -> Result<Vec<(String, Dataset)>> {
    if let Some(data) = data.clone().try_cast::<Dataset>() {
        return Ok(vec![(ONLY.to_string(), data)]);
    }
    let wrong = |got: &Dynamic| -> Error {
        let (name, wanted) = ("the data of `debug_data`".into(), "a Dataset or a map of them".into());
        What::WrongType { name, wanted, got: type_name(got) }.into()
    };
    let map = data.clone().try_cast::<Map>().ok_or_else(|| wrong(data))?;
    let mut splits = Vec::new();
    for (name, value) in map {
        splits.push((name.to_string(), value.clone().try_cast::<Dataset>().ok_or_else(|| wrong(&value))?));
    }
    let place = |name: &str| ["train", "validation", "test"].iter().position(|known| *known == name).unwrap_or(3);
    splits.sort_by_key(|(name, _)| place(name));
    Ok(splits)
}
