//! What one row of a data set tells: its texts, its labels, how many tokens it has, and what is wrong with it.

use std::sync::Arc;

use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What, nearest};
use crate::head::labels::LABEL_COLUMNS;
use crate::head::texts::text_columns;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// What the rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One label a row: a text, or a pair of texts.
    Sequence,
    /// One label a word.
    Tokens,
    /// A question, a context, and where the answer stands in it.
    Question,
    /// Text alone.
    Language,
}

/// The names of the tasks, the library's and Hugging Face's.
const NAMES: [(&str, Work); 12] = [
    ("sentiment", Work::Sequence),
    ("text-classification", Work::Sequence),
    ("sentiment-analysis", Work::Sequence),
    ("ner", Work::Tokens),
    ("token-classification", Work::Tokens),
    ("qa", Work::Question),
    ("question-answering", Work::Question),
    ("causal_lm", Work::Language),
    ("text-generation", Work::Language),
    ("masked_lm", Work::Language),
    ("fill-mask", Work::Language),
    ("regression", Work::Sequence),
];

const WORDS: [&str; 2] = ["tokens", "words"];
const TAGS: [&str; 5] = ["ner_tags", "tags", "labels", "label", "pos_tags"];

impl Work {
    /// The work of a task: of the library or of Hugging Face by its name, of any other by the columns of the data.
    ///
    /// # Errors
    /// A name that is none of these, with the nearest one.
    pub fn of(task: &str, data: &Dataset) -> Result<Work> {
        let name = task.strip_prefix("std/tasks/").unwrap_or(task).trim_end_matches(".rhai");
        if let Some((_, work)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*work);
        }
        if !task.starts_with("std/") && (task.ends_with(".rhai") || task.contains(['/', ':'])) {
            let has = |names: &[&str]| names.iter().any(|name| data.has_column(name));
            return Ok(if has(&WORDS) && has(&TAGS) {
                Work::Tokens
            } else if has(&["question"]) && has(&["context"]) {
                Work::Question
            } else if has(&LABEL_COLUMNS) {
                Work::Sequence
            } else {
                Work::Language
            });
        }
        let error = Error::new(What::NotFound { kind: "task", name: task.into() });
        Err(match nearest(name, NAMES.map(|(known, _)| known)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("name a task such as \"std/tasks/ner\" or \"question-answering\", or a `.rhai` file"),
        })
    }
}

/// What one row tells.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The texts that the model reads.
    pub(super) inputs: Vec<Arc<str>>,
    pub(super) n_tokens: usize,
    pub(super) n_unknown: usize,
    /// The names of the row's labels.
    pub(super) labels: Vec<String>,
    /// The row's label, where it is a number with a fraction.
    pub(super) number: Option<f64>,
    pub(super) is_unlabelled: bool,
    /// Why the row cannot be read.
    pub(super) unreadable: Option<String>,
    /// What of its labels does not fit its text.
    pub(super) misaligned: Option<String>,
}

impl Looked {
    /// Whether a text is empty or blank.
    pub(super) fn is_empty(&self) -> bool {
        self.unreadable.is_none() && (self.inputs.is_empty() || self.inputs.iter().any(|text| text.trim().is_empty()))
    }
}

/// Looks at one row.
pub(super) fn look(data: &Dataset, row: &Row, work: Work, tokenizer: &Tokenizer) -> Looked {
    let mut looked = Looked::default();
    let outcome = match work {
        Work::Sequence => sequence(data, row, tokenizer, &mut looked),
        Work::Tokens => tokens(data, row, tokenizer, &mut looked),
        Work::Question => question(row, tokenizer, &mut looked),
        Work::Language => text_columns(row).and_then(|texts| count_texts(texts, tokenizer, &mut looked)),
    };
    looked.unreadable = outcome.err().map(|error| error.to_string());
    looked
}

fn count_texts(texts: (Arc<str>, Option<Arc<str>>), tokenizer: &Tokenizer, looked: &mut Looked) -> Result<()> {
    let encoding = tokenizer.encode(&texts.0, texts.1.as_deref(), &EncodeOptions::default())?;
    count(&encoding.input_ids, tokenizer, looked);
    looked.inputs = [Some(texts.0), texts.1].into_iter().flatten().collect();
    Ok(())
}

fn count(ids: &[u32], tokenizer: &Tokenizer, looked: &mut Looked) {
    looked.n_tokens = ids.len();
    looked.n_unknown = tokenizer.unk_id().map_or(0, |unknown| ids.iter().filter(|id| **id == unknown).count());
}

/// A label's name: the class that a number stands for, or the value as it is.
fn name(data: &Dataset, column: &str, value: &Value) -> String {
    let names = data.class_names(column);
    let class = value.as_int().and_then(|id| usize::try_from(id).ok()).and_then(|id| names?.get(id));
    match (class, value) {
        (Some(name), Value::Int(_) | Value::Bool(_)) => name.clone(),
        (_, Value::Str(text)) => text.to_string(),
        _ => value.to_json().to_string(),
    }
}

fn sequence(data: &Dataset, row: &Row, tokenizer: &Tokenizer, looked: &mut Looked) -> Result<()> {
    let column = LABEL_COLUMNS.into_iter().find(|name| row.contains_key(*name));
    match column.and_then(|column| Some((column, row.get(column)?))) {
        None | Some((_, Value::Null)) => looked.is_unlabelled = true,
        Some((_, Value::Float(number))) => looked.number = Some(*number),
        // -1 is what `datasets` writes for a label that is kept back.
        Some((column, Value::Int(-1))) if data.class_names(column).is_some() => looked.is_unlabelled = true,
        Some((column, Value::List(labels))) => {
            looked.labels = labels.iter().map(|label| name(data, column, label)).collect();
        }
        Some((column, label)) => looked.labels = vec![name(data, column, label)],
    }
    count_texts(text_columns(row)?, tokenizer, looked)
}

fn strings<'a>(row: &'a Row, column: &str) -> Result<Vec<&'a Arc<str>>> {
    let values = row.get(column).and_then(Value::as_list);
    let texts = values.and_then(|values| {
        let text = |value: &'a Value| match value {
            Value::Str(text) => Some(text),
            _ => None,
        };
        values.iter().map(text).collect()
    });
    texts.ok_or_else(|| What::BadData(format!("`{column}` is not a list of strings")).into())
}

fn tokens(data: &Dataset, row: &Row, tokenizer: &Tokenizer, looked: &mut Looked) -> Result<()> {
    let column = WORDS.into_iter().find(|name| row.contains_key(*name));
    let column = column.ok_or_else(|| Error::new(What::BadData("the row has no `tokens`".into())))?;
    let words = strings(row, column)?;
    let plain: Vec<&str> = words.iter().map(|word| &***word).collect();
    count(&tokenizer.encode_words(&plain, None, &EncodeOptions::default())?.input_ids, tokenizer, looked);
    looked.inputs = words.into_iter().cloned().collect();
    let tags = TAGS.into_iter().find_map(|column| Some((column, row.get(column)?.as_list()?)));
    let Some((column, tags)) = tags else {
        looked.is_unlabelled = true;
        return Ok(());
    };
    let names: Vec<String> = tags.iter().map(|tag| name(data, column, tag)).collect();
    looked.misaligned = if names.len() == plain.len() {
        wrong_tag(&names, &plain)
    } else {
        Some(format!("{} tags for {} tokens", names.len(), plain.len()))
    };
    looked.labels = names;
    Ok(())
}

/// The first tag that goes on with an entity which nothing began. `I-` and `E-` go on, in IOB2 as in BIOES.
fn wrong_tag(tags: &[String], words: &[&str]) -> Option<String> {
    let mut open: Option<&str> = None;
    for (index, tag) in tags.iter().enumerate() {
        let (prefix, kind) = tag.split_once('-').unwrap_or((tag.as_str(), ""));
        if matches!(prefix, "I" | "E") && open != Some(kind) {
            return Some(format!("`{tag}` at token {index} (`{}`) without a `B-{kind}` before it", words[index]));
        }
        open = matches!(prefix, "B" | "I").then_some(kind);
    }
    None
}

fn question(row: &Row, tokenizer: &Tokenizer, looked: &mut Looked) -> Result<()> {
    let text = |column: &str| match row.get(column) {
        Some(Value::Str(text)) => Ok(text.clone()),
        _ => Err(Error::new(What::BadData(format!("the row has no text in `{column}`")))),
    };
    let (question, context) = (text("question")?, text("context")?);
    let answers = row.get("answers").map(spans);
    match &answers {
        None => looked.is_unlabelled = true,
        Some(Err(problem)) => looked.misaligned = Some(problem.clone()),
        Some(Ok(answers)) => {
            looked.labels = vec![if answers.is_empty() { "unanswerable" } else { "answerable" }.into()];
            looked.misaligned = answers.iter().find_map(|(answer, start)| misplaced(&context, answer, *start));
        }
    }
    count_texts((question, Some(context)), tokenizer, looked)
}

/// The answers with their starts: `#{ text: [...], answer_start: [...] }`, or a list of single ones.
fn spans(answers: &Value) -> Result<Vec<(Arc<str>, i64)>, String> {
    let wrong = || "`answers` is not a map of `text` and `answer_start`".to_string();
    let pair = |text: Option<&Value>, start: Option<&Value>| match (text, start.and_then(Value::as_int)) {
        (Some(Value::Str(text)), Some(start)) => Ok((text.clone(), start)),
        _ => Err(wrong()),
    };
    match answers {
        Value::Null => Ok(Vec::new()),
        Value::List(answers) => answers
            .iter()
            .map(|answer| match answer {
                Value::Map(answer) => pair(answer.get("text"), answer.get("answer_start")),
                _ => Err(wrong()),
            })
            .collect(),
        Value::Map(answers) => {
            let list = |key: &str| answers.get(key).and_then(Value::as_list).ok_or_else(wrong);
            let (texts, starts) = (list("text")?, list("answer_start")?);
            if texts.len() != starts.len() {
                return Err(format!("{} answers and {} values of `answer_start`", texts.len(), starts.len()));
            }
            texts.iter().zip(starts).map(|(text, start)| pair(Some(text), Some(start))).collect()
        }
        _ => Err(wrong()),
    }
}

/// What is wrong with an answer that does not stand where it should; starts count characters.
fn misplaced(context: &str, answer: &str, start: i64) -> Option<String> {
    let n = answer.chars().count();
    let found: Option<String> = usize::try_from(start).ok().map(|start| context.chars().skip(start).take(n).collect());
    if found.as_deref() == Some(answer) {
        return None;
    }
    let elsewhere = match context.find(answer) {
        Some(at) => format!("it stands at {}", context[..at].chars().count()),
        None => "the context does not hold it".into(),
    };
    Some(format!("the answer {answer:?} is not at {start}: {elsewhere}"))
}
