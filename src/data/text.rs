//! Plain text: one row a line, in the column `text`. Blank lines are rows too, as in Hugging Face's `text` format.

use indexmap::IndexMap;

use crate::data::dataset::Parsed;
use crate::error::Result;

/// The rows of a text, with the line of each.
///
/// # Errors
/// None: every text is plain text.
pub fn parse(text: &str) -> Result<Parsed> {
    let rows: Vec<_> = text.lines().map(|line| IndexMap::from([("text".to_string(), line.into())])).collect();
    let lines = (1..=rows.len()).map(|line| u32::try_from(line).unwrap_or(0)).collect();
    Ok(Parsed { rows, lines, ..Parsed::default() })
}
