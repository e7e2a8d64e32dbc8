//! A row's text, or pair of texts, by the column names that Hugging Face's examples and data sets use.

use std::sync::Arc;

use crate::data::{Row, Value};
use crate::error::{Error, Result, What};

/// Columns that hold two texts, in the order they are looked for.
const PAIRS: [(&str, &str); 6] = [
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("text1", "text2"),
];

/// Columns that hold one text, in the order they are looked for.
const SINGLES: [&str; 4] = ["text", "sentence", "content", "review"];

/// The row's text, and the second one where it has a pair. Empty text counts as text.
///
/// # Errors
/// A row without text, with the columns it has; a text column that holds something else.
pub fn text_columns(row: &Row) -> Result<(Arc<str>, Option<Arc<str>>)> {
    if let Some((first, second)) = PAIRS.iter().find(|(a, b)| row.contains_key(*a) && row.contains_key(*b)) {
        return Ok((text(row, first)?, Some(text(row, second)?)));
    }
    match SINGLES.iter().find(|name| row.contains_key(**name)) {
        Some(name) => Ok((text(row, name)?, None)),
        None => {
            let known = row.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let columns = if known.is_empty() { "nothing".into() } else { known };
            Err(Error::new(What::BadData(format!("the row has no text; it has {columns}")))
                .hint("`rename_column(\"...\", \"text\")` tells which column holds it"))
        }
    }
}

fn text(row: &Row, name: &str) -> Result<Arc<str>> {
    match row.get(name) {
        Some(Value::Str(text)) => Ok(text.clone()),
        other => {
            let got = other.map_or("nothing", Value::type_name);
            Err(Error::new(What::BadData(format!("the row has no text: `{name}` is {got}")))
                .hint("leave such rows out, for example with `filter`, or turn the values into strings"))
        }
    }
}
