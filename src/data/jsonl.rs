//! JSON Lines: one JSON object a line. Blank lines are skipped; of a key that occurs twice the last value counts.

use std::path::Path;

use indexmap::IndexMap;

use crate::cancel;
use crate::data::Value;
use crate::data::dataset::Parsed;
use crate::data::json::{explain, kind};
use crate::error::{Error, Place, Result, What};

const FORMAT: &str = "JSON Lines";

/// The rows of a text, with the line of each.
///
/// # Errors
/// A line that is not a JSON object, with file, line and column.
pub fn parse(text: &str, path: &Path) -> Result<Parsed> {
    let mut parsed = Parsed::default();
    for (index, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        cancel::check()?;
        parsed.rows.push(row(line).map_err(|(column, problem, hint)| {
            let error = Error::new(What::Malformed { format: FORMAT.into(), problem });
            let error = error.at(Place::line(path, index + 1, Some(column)));
            match hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })?);
        parsed.lines.push(u32::try_from(index + 1).unwrap_or(0));
    }
    Ok(parsed)
}

type Problem = (usize, String, Option<&'static str>);

fn row(line: &str) -> Result<IndexMap<String, Value>, Problem> {
    let indent = line.chars().take_while(|letter| letter.is_whitespace()).count();
    if !line.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str::<Value>(line)
    {
        let problem = format!("a line must hold an object, but this one holds {}", kind(&value));
        return Err((indent + 1, problem, document(line)));
    }
    serde_json::from_str(line).map_err(|error| {
        let (at, problem, hint) = explain(&error, line);
        let column = line[..at].chars().count() + 1;
        (column, problem, hint.or_else(|| error.is_eof().then(|| document(line)).flatten()))
    })
}

/// The hint for a line that looks like the beginning of one document over several lines.
fn document(line: &str) -> Option<&'static str> {
    let opens = matches!(line.trim(), "{" | "[") || line.trim_start().starts_with('[');
    opens.then_some("for one JSON document over several lines, give `format: \"json\"`")
}
