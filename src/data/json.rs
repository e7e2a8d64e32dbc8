//! JSON documents: an array of objects, an object with one field that holds such an array, an object of columns, or SQuAD.
//!
//! Values are read straight into [`Value`], without an intermediate tree. Errors carry line and column.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::data::dataset::{Parsed, listed};
use crate::data::format::position;
use crate::data::{Value, jsonl, squad};
use crate::error::{Error, Place, Result, What};

type Cells = IndexMap<String, Value>;

/// The rows of a document, or of JSON Lines that are called `.json`.
///
/// # Errors
/// Broken JSON, or a document that holds no rows, with file, line and column.
pub fn parse(text: &str, path: &Path) -> Result<Parsed> {
    if holds_lines(text) {
        return jsonl::parse(text, path);
    }
    let start = text.len() - text.trim_start().len();
    match text[start..].chars().next() {
        None => Ok(Parsed::default()),
        Some('[') => array(text, start, path),
        _ => object(text, path),
    }
}

/// Whether the text is JSON Lines: a whole object on the first line that is not blank, and then nothing or another.
fn holds_lines(text: &str) -> bool {
    let text = text.trim_start();
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(cells) = serde_json::from_str::<Cells>(first) else { return false };
    !rest.trim().is_empty() || !cells.values().any(|value| matches!(value, Value::List(_) | Value::Map(_)))
}

/// An array of objects, read one by one so that each row knows its line.
fn array(text: &str, start: usize, path: &Path) -> Result<Parsed> {
    let fail = |at: usize, problem: String| malformed(text, at, problem, path);
    let blank = |at: usize| at + text[at..].len() - text[at..].trim_start().len();
    let mut parsed = Parsed::default();
    let (mut at, mut line, mut counted) = (blank(start + 1), 1, 0);
    if text[at..].starts_with(']') {
        return end(text, blank(at + 1), path).map(|()| parsed);
    }
    loop {
        line += text[counted..at].matches('\n').count();
        counted = at;
        let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        match stream.next() {
            Some(Ok(Value::Map(cells))) => parsed.rows.push(Arc::unwrap_or_clone(cells)),
            Some(Ok(other)) => {
                let problem = format!("the array must hold objects, but here is {}", kind(&other));
                return Err(fail(at, problem));
            }
            Some(Err(error)) => return Err(broken(&error, text, at, path)),
            None => return Err(fail(text.len(), "the array is not closed".into())),
        }
        parsed.lines.push(u32::try_from(line).unwrap_or(0));
        at = blank(at + stream.byte_offset());
        match text[at..].chars().next() {
            Some(',') => at = blank(at + 1),
            Some(']') => return end(text, blank(at + 1), path).map(|()| parsed),
            Some(_) => return Err(fail(at, "expected `,` or `]` after an object".into())),
            None => return Err(fail(at, "the array is not closed".into())),
        }
    }
}

/// Refuses what follows the document.
fn end(text: &str, at: usize, path: &Path) -> Result<()> {
    match text[at..].is_empty() {
        true => Ok(()),
        false => Err(malformed(text, at, "something follows the end of the document".into(), path)),
    }
}

/// The rows of a document that must be in SQuAD's format.
///
/// # Errors
/// Broken JSON, or another shape, with file and place.
pub fn squad_document(text: &str, path: &Path) -> Result<Parsed> {
    match serde_json::from_str(text).map_err(|error| broken(&error, text, 0, path))? {
        Value::Map(fields) => squad::rows(&fields, path),
        other => {
            let problem =
                format!("a document in SQuAD's format is an object with `data`, but here is {}", kind(&other));
            Err(malformed(text, 0, problem, path))
        }
    }
}

fn object(text: &str, path: &Path) -> Result<Parsed> {
    let document: Value = serde_json::from_str(text).map_err(|error| broken(&error, text, 0, path))?;
    let Value::Map(fields) = document else {
        let problem = format!("the document must be an array of objects, but is {}", kind(&document));
        return Err(malformed(text, 0, problem, path));
    };
    if squad::is_squad(&fields) {
        return squad::rows(&fields, path);
    }
    let tables: Vec<&String> = fields.iter().filter(|(_, value)| is_table(value)).map(|(name, _)| name).collect();
    let table = match tables[..] {
        [only] => Some(only.as_str()),
        _ => tables.iter().map(|name| name.as_str()).find(|name| *name == "data"),
    };
    if let Some(Value::List(rows)) = table.and_then(|name| fields.get(name)) {
        let rows: Vec<Cells> = rows.iter().filter_map(as_cells).collect();
        return Ok(Parsed { lines: vec![0; rows.len()], rows, ..Parsed::default() });
    }
    match tables.is_empty() {
        true => columns(&fields, text, path),
        false => {
            let problem = format!("several fields hold rows: {}", listed(&tables));
            Err(malformed(text, 0, problem, path)
                .hint("put each into a file of its own; files may be named `train.json`, `test.json`"))
        }
    }
}

/// An object of columns: arrays of one length.
fn columns(fields: &Cells, text: &str, path: &Path) -> Result<Parsed> {
    let mut lists = Vec::new();
    for (name, value) in fields {
        let Value::List(values) = value else {
            let problem = format!("the document holds no rows: field `{name}` is {}", kind(value));
            let hint = "rows are an array of objects, one field that holds such an array, or one array for each column";
            return Err(malformed(text, 0, problem, path).hint(hint));
        };
        lists.push((name, values));
    }
    let length = lists.first().map_or(0, |(_, values)| values.len());
    if let Some((name, values)) = lists.iter().find(|(_, values)| values.len() != length) {
        let problem = format!("column `{name}` has {} values where `{}` has {length}", values.len(), lists[0].0);
        return Err(malformed(text, 0, problem, path));
    }
    let row = |index: usize| lists.iter().map(|(name, values)| ((*name).clone(), values[index].clone())).collect();
    Ok(Parsed { rows: (0..length).map(row).collect(), lines: vec![0; length], ..Parsed::default() })
}

fn as_cells(value: &Value) -> Option<Cells> {
    match value {
        Value::Map(cells) => Some((**cells).clone()),
        _ => None,
    }
}

/// Whether a field holds rows: a filled array of nothing but objects.
fn is_table(value: &Value) -> bool {
    value.as_list().is_some_and(|rows| !rows.is_empty() && rows.iter().all(|row| matches!(row, Value::Map(_))))
}

/// The kind of a JSON value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Int(_) | Value::Float(_) => "a number",
        Value::Str(_) => "a string",
        Value::List(_) => "an array",
        Value::Map(_) => "an object",
    }
}

fn malformed(text: &str, at: usize, problem: String, path: &Path) -> Error {
    let (line, column) = position(text, at);
    Error::new(What::Malformed { format: "JSON".into(), problem }).at(Place::line(path, line, Some(column)))
}

fn broken(error: &serde_json::Error, text: &str, start: usize, path: &Path) -> Error {
    let (at, problem, hint) = explain(error, &text[start..]);
    let error = malformed(text, start + at, problem, path);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// A parser's error about `text`: the byte offset, the problem in words, and a hint for what Python often writes.
pub(super) fn explain(error: &serde_json::Error, text: &str) -> (usize, String, Option<&'static str>) {
    let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
    let line = std::iter::once(0).chain(newlines).nth(error.line().saturating_sub(1)).unwrap_or(0);
    let mut at = (line + error.column().saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let full = error.to_string();
    let problem = full.rsplit_once(" at line ").map_or(full.as_str(), |(problem, _)| problem);
    let before = text[..at].char_indices().rfind(|(_, letter)| !letter.is_alphanumeric());
    let word = before.map_or(0, |(before, letter)| before + letter.len_utf8());
    let hint = match text[word..].chars().next() {
        Some('N' | 'I') if ["NaN", "Infinity", "None"].iter().any(|name| text[word..].starts_with(name)) => {
            Some("JSON has no NaN, Infinity or None; write null")
        }
        Some('T' | 'F') if ["True", "False"].iter().any(|name| text[word..].starts_with(name)) => {
            Some("JSON writes true and false in lower case")
        }
        Some('\'') => Some("JSON takes double quotes only"),
        _ => None,
    };
    (at, problem.to_string(), hint)
}

/// Reads any JSON value; a whole number that an `i64` cannot hold becomes a float.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::Float(number as f64), Value::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Str(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut cells = Cells::new();
        while let Some((key, value)) = entries.next_entry()? {
            cells.insert(key, value);
        }
        Ok(Value::Map(Arc::new(cells)))
    }
}
