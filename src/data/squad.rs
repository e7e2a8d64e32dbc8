//! SQuAD JSON, versions 1.1 and 2.0: articles of paragraphs with questions, flattened to one row a question.
//!
//! A document flows in; rows with `id`, `title`, `context`, `question` and `answers` flow out, as Hugging Face's data sets
//! `squad` and `squad_v2` have them. An unanswerable question has empty `answers`; `plausible_answers` are left out. Errors
//! name the file and the place in it: `data[0].paragraphs[2].qas[1]`, with the article's title and the question's id.

use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::cancel;
use crate::data::Value;
use crate::data::dataset::Parsed;
use crate::data::json::kind;
use crate::error::{Error, Place, Result, What};

type Cells = IndexMap<String, Value>;

/// Whether a document has SQuAD's shape: some article under `data` has `paragraphs`.
pub(super) fn is_squad(fields: &Cells) -> bool {
    let articles = fields.get("data").and_then(Value::as_list).unwrap_or_default();
    articles.iter().any(|article| matches!(article, Value::Map(parts) if parts.contains_key("paragraphs")))
}

/// The rows of a document, one a question.
///
/// # Errors
/// A part that is missing or of another kind, with its place.
pub(super) fn rows(fields: &Cells, path: &Path) -> Result<Parsed> {
    let document = Part { path, place: String::new(), names: Vec::new(), cells: fields };
    let mut parsed = Parsed::default();
    for article in document.list("data")? {
        let title = article.optional_text("title")?.unwrap_or_default();
        let article = article.named("article", &title);
        for paragraph in article.list("paragraphs")? {
            let context = paragraph.text("context")?;
            for question in paragraph.list("qas")? {
                cancel::check()?;
                let id = question.id()?;
                let question = question.named("question", &id);
                let mut row = Cells::new();
                row.insert("id".into(), Value::Str(id.clone()));
                row.insert("title".into(), Value::Str(title.clone()));
                row.insert("context".into(), Value::Str(context.clone()));
                row.insert("question".into(), Value::Str(question.text("question")?));
                if let Some(answers) = question.answers()? {
                    row.insert("answers".into(), answers);
                }
                parsed.rows.push(row);
                parsed.lines.push(0);
            }
        }
    }
    Ok(parsed)
}

/// An object of the document, with where it stands.
struct Part<'a> {
    path: &'a Path,
    place: String,
    names: Vec<String>,
    cells: &'a Cells,
}

impl<'a> Part<'a> {
    /// The same part, called by its title or id too.
    fn named(mut self, kind: &str, name: &str) -> Self {
        if !name.is_empty() {
            self.names.push(format!("{kind} `{name}`"));
        }
        self
    }

    fn error(&self, problem: String) -> Error {
        let names = if self.names.is_empty() { String::new() } else { format!(" ({})", self.names.join(", ")) };
        let place = if self.place.is_empty() { "the document" } else { &self.place };
        let error = Error::new(What::Malformed { format: "SQuAD JSON".into(), problem });
        error.at(Place::file(self.path)).at(Place::Within(format!("{place}{names}")))
    }

    fn wrong(&self, field: &str, wanted: &str) -> Error {
        match self.cells.get(field) {
            None => self.error(format!("there is no `{field}`")),
            Some(value) => self.error(format!("`{field}` must be {wanted}, but is {}", kind(value))),
        }
    }

    fn text(&self, field: &str) -> Result<Arc<str>> {
        self.optional_text(field)?.ok_or_else(|| self.wrong(field, "a string"))
    }

    fn optional_text(&self, field: &str) -> Result<Option<Arc<str>>> {
        match self.cells.get(field) {
            Some(Value::Str(text)) => Ok(Some(text.clone())),
            None | Some(Value::Null) => Ok(None),
            Some(_) => Err(self.wrong(field, "a string")),
        }
    }

    fn id(&self) -> Result<Arc<str>> {
        match self.cells.get("id") {
            Some(Value::Str(id)) => Ok(id.clone()),
            Some(Value::Int(id)) => Ok(id.to_string().into()),
            _ => Err(self.wrong("id", "a string").hint("metrics find the answer to a question by its `id`")),
        }
    }

    fn list(&self, field: &str) -> Result<Vec<Part<'a>>> {
        let Some(Value::List(items)) = self.cells.get(field) else { return Err(self.wrong(field, "an array")) };
        let dot = if self.place.is_empty() { "" } else { "." };
        let part = |(index, item): (usize, &'a Value)| {
            let place = format!("{}{dot}{field}[{index}]", self.place);
            match item {
                Value::Map(cells) => Ok(Part { path: self.path, place, names: self.names.clone(), cells }),
                other => {
                    let (path, names, cells) = (self.path, self.names.clone(), self.cells);
                    let here = Part { path, place, names, cells };
                    Err(here.error(format!("here must be an object, but there is {}", kind(other))))
                }
            }
        };
        items.iter().enumerate().map(part).collect()
    }

    /// The texts and places of a question's answers; none where the question has neither `answers` nor `is_impossible`.
    fn answers(&self) -> Result<Option<Value>> {
        if matches!(self.cells.get("answers"), None | Some(Value::Null)) {
            let impossible = self.cells.get("is_impossible").and_then(Value::as_int) == Some(1);
            return Ok(impossible.then(|| columns(Vec::new(), Vec::new())));
        }
        let (mut texts, mut starts) = (Vec::new(), Vec::new());
        for answer in self.list("answers")? {
            texts.push(Value::Str(answer.text("text")?));
            match answer.cells.get("answer_start").and_then(Value::as_int).filter(|start| *start >= 0) {
                Some(start) => starts.push(Value::Int(start)),
                None => return Err(answer.wrong("answer_start", "a whole number from 0")),
            }
        }
        Ok(Some(columns(texts, starts)))
    }
}

fn columns(texts: Vec<Value>, starts: Vec<Value>) -> Value {
    let columns =
        [("text".to_string(), Value::List(texts.into())), ("answer_start".into(), Value::List(starts.into()))];
    Value::Map(Arc::new(columns.into_iter().collect()))
}
