//! `retune predict MODEL [TEXT]`: a saved model on one text, or on every line of standard input.
//!
//! A model that answers questions takes JSON instead of plain text, `{"question": "...", "context": "..."}`, or `--question` and
//! `--context`.

use std::io::{BufRead, IsTerminal};

use clap::Args;
use serde_json::{Map, Value as Json};

use crate::api::session::Session;
use crate::cli::Context;
use crate::data::{Row, Value};
use crate::data::hub::{Hub, open_model};
use crate::data::permissions::Permissions;
use crate::error::{Error, Result, What};
use crate::head::{Model, ModelSettings};
use crate::host::diagnostics::Outcome;
use crate::host::run::Host;
use crate::model::backbone::LoadSettings;
use crate::pipeline::{Pipeline, text_row};
use crate::tokenizer::{Tokenizer, TokenizerOptions};

/// Use a saved model on a text.
#[derive(Args)]
pub(super) struct Predict {
    /// A directory, a hub name, or `std/...`
    model: String,
    /// The text, or JSON such as {"question": "...", "context": "..."} for question answering; without it, every line of
    /// standard input is one
    text: Option<String>,
    /// The question, for a model that answers questions
    #[arg(long, value_name = "TEXT", requires = "context", conflicts_with = "text")]
    question: Option<String>,
    /// The text that holds the answer
    #[arg(long, value_name = "TEXT", requires = "question", conflicts_with = "text")]
    context: Option<String>,
    /// Show this many labels, best first (0 means all)
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// An option of the model's task, as `pipeline(...)` takes it; may be given several times
    #[arg(long = "option", value_name = "NAME=VALUE")]
    options: Vec<String>,
    /// Rows that are predicted together
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
}

impl Predict {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        self.predict(context)?;
        Ok(())
    }

    fn predict(self, context: &Context) -> Result<()> {
        // The task's script runs as it does in a recipe.
        let mut settings = context.run_settings("predict".into(), &[])?;
        // The user names the model, and no recipe is at work.
        settings.permissions = Permissions::default();
        let host = Host::new(settings, &context.sources);
        let session = &host.session;
        let pipeline = open(session, &self)?;
        let pipeline = pipeline.seeded(session.seed());
        let pipeline = if context.globals.json { pipeline } else { for_people(pipeline)? };
        let asked = match (&self.question, &self.context) {
            (Some(question), Some(context)) => {
                Some(serde_json::json!({"question": question, "context": context}).to_string())
            }
            _ => None,
        };
        match self.text.as_ref().or(asked.as_ref()) {
            Some(text) => show(context, &pipeline, std::slice::from_ref(text)),
            None => {
                let stdin = std::io::stdin();
                if stdin.is_terminal() {
                    return Err(Error::new(What::Usage("there is no text to predict".into()))
                        .hint("give it after the model, or pipe a file with one text a line"));
                }
                let mut lines = Vec::new();
                for line in stdin.lock().lines() {
                    let line = line.map_err(|source| What::Read { path: "standard input".into(), source })?;
                    if line.trim().is_empty() {
                        continue;
                    }
                    lines.push(line);
                    if lines.len() == self.batch_size.max(1) {
                        show(context, &pipeline, &lines)?;
                        lines.clear();
                    }
                }
                show(context, &pipeline, &lines)
            }
        }
    }
}

fn open(session: &Session, command: &Predict) -> Result<Pipeline> {
    let folder = open_model(session.places(), &Hub::from_env(), &command.model, None)?;
    let (suffix, task) = crate::api::model::class_of(&folder)?;
    let model = Model::from_pretrained(
        &folder,
        ModelSettings {
            name: command.model.clone(),
            suffix,
            task: crate::api::model::task_for(session, &folder, &task, None)?,
            load: LoadSettings {
                caller: "`retune predict`".into(),
                overrides: Vec::new(),
                ignore_mismatched_sizes: false,
                seed: crate::api::session::DEFAULT_SEED,
                device: session.device().clone(),
            },
        },
    )?;
    if let Some(name) = model.load_report().new.first() {
        return Err(Error::new(What::Weights(format!("the model has no weights for `{name}`: its head was never trained")))
            .hint("predict with a model that a recipe saved"));
    }
    let tokenizer = Tokenizer::from_folder(&folder, TokenizerOptions::default())?;
    Pipeline::new(model, tokenizer, command.batch_size, options(command)?)
}

/// The task's options: `--top-k`, and what `--option` gives, as JSON where it is.
fn options(command: &Predict) -> Result<Row> {
    let mut map = indexmap::IndexMap::new();
    for text in &command.options {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Error::new(What::Usage(format!("`--option {text}` has no value")))
                .hint("write `--option NAME=VALUE`, for example `--option top_k=3`"));
        };
        let value = serde_json::from_str::<Json>(value).unwrap_or_else(|_| Json::from(value));
        map.insert(name.to_string(), Value::from(value));
    }
    if let Some(count) = command.top_k {
        map.insert("top_k".into(), Value::Int(count as i64));
    }
    Ok(Row::new(map))
}

/// The option of token classification that brings tokens together to names.
const AGGREGATION: &str = "aggregation_strategy";

/// People want names of whole words rather than pieces of words, unless they ask for those.
fn for_people(pipeline: Pipeline) -> Result<Pipeline> {
    let groups = pipeline.model().task().options()?.contains_key(AGGREGATION);
    let defaults = groups.then(|| (AGGREGATION.to_string(), Value::from("first")));
    Ok(pipeline.with_defaults(defaults.into_iter().collect()))
}

/// One line a text: label or answer, score, text, or one line an entity; with `--json` one event each.
fn show(context: &Context, pipeline: &Pipeline, texts: &[String]) -> Result<()> {
    let rows = texts.iter().map(|text| row(pipeline, text)).collect::<Result<Vec<_>>>()?;
    let results = pipeline.predict(&rows, &Row::default())?;
    for ((text, row), result) in texts.iter().zip(&rows).zip(results) {
        if context.globals.json {
            let body = [("text", Json::from(text.as_str())), ("prediction", result.to_json())];
            let body: Map<String, Json> = body.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
            context.reporter.event("prediction", body);
        } else if let Some(entities) = entities(&result, text) {
            let indent = if texts.len() > 1 { "  " } else { "" };
            if texts.len() > 1 {
                context.reporter.line(text);
            }
            for entity in entities {
                context.reporter.line(&format!("{indent}{entity}"));
            }
        } else {
            let input = row.get("question").and_then(Value::as_str).unwrap_or(text);
            let suffix = if texts.len() > 1 { format!("  {input}") } else { String::new() };
            context.reporter.line(&format!("{}{suffix}", shown(&result)));
        }
    }
    Ok(())
}

/// The row that a text stands for: for question answering, the fields of a JSON object.
fn row(pipeline: &Pipeline, text: &str) -> Result<Row> {
    if !pipeline.model().architecture().ends_with("ForQuestionAnswering") {
        return Ok(text_row(text));
    }
    match serde_json::from_str::<Json>(text).map(Value::from) {
        Ok(Value::Map(row)) => Ok(row),
        _ => {
            let problem = "this model answers questions about a text, and plain text is neither";
            Err(Error::new(What::Usage(problem.into())).hint(
                "write `{\"question\": \"...\", \"context\": \"...\"}`, one object a line, or `--question TEXT --context TEXT`",
            ))
        }
    }
}

/// A result on one line: what is said of the text, best first; masks apart from each other.
fn shown(result: &Value) -> String {
    match result.as_list() {
        Some(several @ [Value::List(_), ..]) => several.iter().map(shown).collect::<Vec<_>>().join(" | "),
        Some(several) => several.iter().map(labelled).collect::<Vec<_>>().join("  "),
        None => labelled(result),
    }
}

/// `label 0.9876`, a text that was generated, or the result as JSON where it has another form.
fn labelled(result: &Value) -> String {
    let Value::Map(map) = result else { return result.to_json().to_string() };
    if let Some(text) = map.get("generated_text").and_then(Value::as_str) {
        return text.to_string();
    }
    let label = ["label", "token_str", "answer"].iter().find_map(|key| map.get(*key)).and_then(Value::as_str);
    match (label, map.get("score").and_then(Value::as_float)) {
        (Some(""), Some(score)) if map.contains_key("answer") => format!("(no answer) {score:.4}"),
        (Some(label), Some(score)) => format!("{label} {score:.4}"),
        _ => result.to_json().to_string(),
    }
}

/// A line for each entity: its type, score, place and what stands there in the text; `None` where the result is something else.
fn entities(result: &Value, text: &str) -> Option<Vec<String>> {
    let list = result.as_list()?;
    if list.is_empty() {
        return Some(vec!["no entities".into()]);
    }
    let line = |entity: &Value| {
        let Value::Map(map) = entity else { return None };
        let label = map.get("entity_group").or_else(|| map.get("entity"))?.as_str()?;
        let place = |key: &str| map.get(key).and_then(Value::as_int).and_then(|place| usize::try_from(place).ok());
        let (score, start, end) = (map.get("score")?.as_float()?, place("start")?, place("end")?);
        let shown: String = text.chars().skip(start).take(end.saturating_sub(start)).collect();
        Some(format!("{label:<6} {score:.4}  {:<9} {shown}", format!("{start}-{end}")))
    };
    list.iter().map(line).collect()
}
