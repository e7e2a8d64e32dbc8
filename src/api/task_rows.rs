//! What a task's `encode` and `decode` do with a row: find its text, encode its label, name the best labels.

use candle_core::Tensor;
use rhai::plugin::*;
use rhai::{Array, Map};

use crate::data::{Row, Value};
use crate::error::{Result, What};
use crate::head::best_labels::ScoredLabel;
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, to_dynamic, type_name};
use crate::head::{labels, prepare, texts};

/// Makes the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(task_rows).into());
}

#[export_module]
mod task_rows {
    /// The text of a row and the second text of a pair (else `()`), by the column names of Hugging Face's examples.
    ///
    /// Pairs: `sentence1` and `sentence2`, `question1` and `question2`, `premise` and `hypothesis`, `question` and `sentence`,
    /// `text` and `text_pair`, `text1` and `text2`. Single texts: `text`, `sentence`, `content`, `review`. A row without text
    /// is an error.
    ///
    /// ```rhai
    /// expect(text_columns(#{ text: "good", label: 1 }) == ["good", ()], "one text");
    /// expect(text_columns(#{ premise: "it rains", hypothesis: "it is wet" })[1] == "it is wet", "a pair");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn text_columns(row: Map) -> ScriptResult<Array> {
        super::texts_of(row).map_err(raise)
    }

    /// The label of a row as the loss takes it, or `()` where the row has none: a class, a number, or one number a class.
    ///
    /// `options` is what `encode` is given: its `label_names` and `problem_type` decide.
    ///
    /// ```rhai
    /// let options = #{ label_names: ["negative", "positive"], problem_type: () };
    /// expect(encode_label(#{ text: "good", label: "positive" }, options) == 1, "by its name");
    /// expect(encode_label(#{ text: "good" }, options) == (), "no label");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn encode_label(row: Map, options: Map) -> ScriptResult<Dynamic> {
        super::label_of(row, options).map_err(raise)
    }

    /// The labels with the highest scores, as Hugging Face's text-classification pipeline returns them.
    ///
    /// `scores` has the shape `(rows, labels)`; there is one result a row.
    /// With `()` for `top_k`, each row gives the best one as `#{ label, score }`; with a number, an array of that many,
    /// best first; with 0, an array of all.
    ///
    /// ```rhai
    /// let scores = Tensor::from_array([[0.25, 0.75]]);
    /// expect(best_labels(scores, ["bad", "good"], ()) == [#{ label: "good", score: 0.75 }], "the best one");
    /// expect(best_labels(scores, ["bad", "good"], 2)[0][1].label == "bad", "all of them, best first");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn best_labels(scores: Tensor, names: Array, top_k: Dynamic) -> ScriptResult<Array> {
        super::best(&scores, &names, &top_k).map_err(raise)
    }
}

fn row_of(row: Map) -> Result<Row> {
    match from_dynamic(&Dynamic::from_map(row))? {
        Value::Map(row) => Ok(row),
        _ => Err(What::Internal("a map became something else".into()).into()),
    }
}

fn texts_of(row: Map) -> Result<Array> {
    let (first, second) = texts::text_columns(&row_of(row)?)?;
    let second = second.map_or(Value::Null, Value::Str);
    Ok(vec![to_dynamic(&Value::Str(first)), to_dynamic(&second)])
}

fn label_of(row: Map, options: Map) -> Result<Dynamic> {
    let encoding = prepare::label_encoding(&from_dynamic(&Dynamic::from_map(options))?)?;
    let label = labels::encode(&row_of(row)?, &encoding)?;
    Ok(label.map_or(Dynamic::UNIT, |label| to_dynamic(&label)))
}

fn best(scores: &Tensor, names: &[Dynamic], top_k: &Dynamic) -> Result<Array> {
    let wrong = |name: &str, wanted: &str, got: &Dynamic| {
        crate::error::Error::new(What::WrongType { name: name.into(), wanted: wanted.into(), got: type_name(got) })
    };
    let name = |name: &Dynamic| name.clone().into_string().map_err(|_| wrong("a label's name", "a string", name));
    let names: Vec<String> = names.iter().map(name).collect::<Result<_>>()?;
    let count = match top_k.as_int() {
        _ if top_k.is_unit() => 1,
        Ok(0) => usize::MAX,
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(_) => return Err(wrong("`top_k`", "an integer or `()`", top_k)),
    };
    let scored = |one: ScoredLabel| {
        let parts = [("label".into(), Dynamic::from(one.label)), ("score".into(), Dynamic::from(one.score))];
        Dynamic::from_map(parts.into_iter().collect())
    };
    let rows = crate::head::best_labels::best_labels(scores, &names, count)?;
    let each = rows.into_iter().map(|row| {
        let mut row: Array = row.into_iter().map(scored).collect();
        if top_k.is_unit() { row.pop().unwrap_or_default() } else { Dynamic::from_array(row) }
    });
    Ok(each.collect())
}
