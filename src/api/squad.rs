//! `squad` and `squad_v2`: answers to questions scored as SQuAD's official scripts do, with Hugging Face's arguments and keys.

use indexmap::IndexMap;
use rhai::plugin::*;
use rhai::{Array, Map};

use crate::api::options::Options;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, to_dynamic};
use crate::metrics::squad::{self as metric, Prediction, Squad};

/// Makes the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(squad_functions).into());
}

#[export_module]
mod squad_functions {
    /// Exact match and F1 of SQuAD 1.1 in percent, as Hugging Face's metric `squad`: `#{ exact_match, f1 }`.
    ///
    /// A prediction is `#{ id, prediction_text }`, a reference `#{ id, answers: #{ text: [...] } }`; of several gold answers the
    /// best counts, and a question without a prediction counts as wrong.
    ///
    /// ```rhai
    /// let predictions = [#{ id: "q1", prediction_text: "the old harbour" }];
    /// let references = [#{ id: "q1", answers: #{ text: ["Old harbour!", "harbour"], answer_start: [12, 16] } }];
    /// expect(squad(predictions, references).exact_match == 100.0, "case, punctuation and articles do not count");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn squad(predictions: Array, references: Array) -> ScriptResult<Map> {
        super::version_1(&predictions, &references).map_err(raise)
    }

    /// The scores of SQuAD 2.0 in percent, where a question may have no answer, as Hugging Face's metric `squad_v2`.
    ///
    /// As `squad`; the gold answers of a question may be empty, and a prediction may have a `no_answer_probability` (0.0). Gives
    /// `exact`, `f1` and `total`, the same as `HasAns_...` and `NoAns_...`, and `best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`.
    ///
    /// ```rhai
    /// let predictions = [#{ id: "q1", prediction_text: "harbour" }, #{ id: "q2", prediction_text: "" }];
    /// let references = [#{ id: "q1", answers: #{ text: ["the harbour"] } }, #{ id: "q2", answers: #{ text: [] } }];
    /// let scores = squad_v2(predictions, references);
    /// expect(scores.exact == 100.0 && scores.NoAns_total == 1, "both are right, one by saying nothing");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn squad_v2(predictions: Array, references: Array) -> ScriptResult<Map> {
        super::version_2(&predictions, &references, Map::new()).map_err(raise)
    }

    /// The scores of SQuAD 2.0, where a `no_answer_probability` above `no_answer_threshold` (1.0) counts as an empty answer.
    ///
    /// ```rhai
    /// let predictions = [#{ id: "q", prediction_text: "harbour", no_answer_probability: 0.75 }];
    /// let references = [#{ id: "q", answers: #{ text: [] } }];
    /// expect(squad_v2(predictions, references).exact == 0.0, "an answer where there is none");
    /// expect(squad_v2(predictions, references, #{ no_answer_threshold: 0.5 }).exact == 100.0, "taken for none");
    /// ```
    #[rhai_fn(name = "squad_v2", return_raw)]
    pub fn squad_v2_with(predictions: Array, references: Array, options: Map) -> ScriptResult<Map> {
        super::version_2(&predictions, &references, options).map_err(raise)
    }
}

fn version_1(predictions: &[Dynamic], references: &[Dynamic]) -> Result<Map> {
    let predictions: IndexMap<String, Prediction> = predictions.iter().map(prediction).collect::<Result<_>>()?;
    let mut squad = Squad::default();
    for reference in references {
        let (id, golds) = gold(reference)?;
        let golds: Vec<&str> = golds.iter().map(String::as_str).collect();
        let added = squad.add(predictions.get(&id).map(|prediction| prediction.text.as_str()), &golds);
        added.map_err(|error| error.at(crate::error::Place::Within(format!("question `{id}`"))))?;
    }
    Ok(named(&*squad.scores()?))
}

fn version_2(predictions: &[Dynamic], references: &[Dynamic], options: Map) -> Result<Map> {
    let mut options = Options::new("`squad_v2`", options);
    let threshold = options.float("no_answer_threshold")?.unwrap_or(1.0);
    options.finish()?;
    let predictions = predictions.iter().map(prediction).collect::<Result<_>>()?;
    let references = references.iter().map(gold).collect::<Result<_>>()?;
    Ok(named(&*metric::squad_v2(&predictions, &references, threshold)?))
}

fn named(scores: &IndexMap<String, Value>) -> Map {
    scores.iter().map(|(name, value)| (name.as_str().into(), to_dynamic(value))).collect()
}

fn prediction(value: &Dynamic) -> Result<(String, Prediction)> {
    let value = from_dynamic(value)?;
    let parts = parts(&value, "a prediction", "`#{ id, prediction_text }`")?;
    let text = match parts.get("prediction_text") {
        Some(Value::Str(text)) => text.to_string(),
        other => return Err(wrong("`prediction_text` of a prediction", "a string", other)),
    };
    let no_answer_probability = match parts.get("no_answer_probability") {
        None | Some(Value::Null) => 0.0,
        Some(value) => {
            let number = value.as_float();
            number.ok_or_else(|| wrong("`no_answer_probability` of a prediction", "a number", Some(value)))?
        }
    };
    Ok((id(parts, "a prediction")?, Prediction { text, no_answer_probability }))
}

/// The id and the gold answers of a reference, as columns or one by one.
fn gold(value: &Dynamic) -> Result<(String, Vec<String>)> {
    let value = from_dynamic(value)?;
    let parts = parts(&value, "a reference", "`#{ id, answers }`")?;
    let answers = parts.get("answers");
    let list = match answers {
        Some(Value::Map(columns)) => columns.get("text").and_then(Value::as_list),
        Some(Value::List(answers)) => Some(&answers[..]),
        _ => None,
    };
    let list = list.ok_or_else(|| wrong("`answers` of a reference", "`#{ text: [...] }`", answers))?;
    let texts = list.iter().map(|answer| match answer {
        Value::Str(text) => Ok(text.to_string()),
        Value::Map(parts) if parts.contains_key("text") => match &parts["text"] {
            Value::Str(text) => Ok(text.to_string()),
            other => Err(wrong("the text of an answer", "a string", Some(other))),
        },
        other => Err(wrong("an answer", "a string", Some(other))),
    });
    Ok((id(parts, "a reference")?, texts.collect::<Result<_>>()?))
}

fn parts<'a>(value: &'a Value, name: &str, wanted: &str) -> Result<&'a IndexMap<String, Value>> {
    match value {
        Value::Map(parts) => Ok(parts),
        other => Err(wrong(name, wanted, Some(other))),
    }
}

fn id(parts: &IndexMap<String, Value>, of: &str) -> Result<String> {
    match parts.get("id") {
        Some(Value::Str(id)) => Ok(id.to_string()),
        Some(Value::Int(id)) => Ok(id.to_string()),
        other => Err(wrong(&format!("`id` of {of}"), "a string", other)),
    }
}

fn wrong(name: &str, wanted: &str, got: Option<&Value>) -> Error {
    let got = got.map_or("missing", Value::type_name).to_string();
    What::WrongType { name: name.into(), wanted: wanted.into(), got }.into()
}
