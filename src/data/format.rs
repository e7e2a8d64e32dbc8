//! The file formats: which one a file has, and its bytes turned into rows.
//!
//! A format is told by the file's extension unless the caller names it; a `.json` file that holds JSON Lines is
//! recognised by its content, as in Hugging Face's `datasets`. Each format has a file of its own.

use std::path::Path;

use crate::data::dataset::Parsed;
use crate::data::{csv, json, jsonl, text};
use crate::error::{Error, Place, Result, What, nearest};

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// One JSON document.
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// One row a line.
    Text,
}

/// Names that `format` takes and extensions that files have.
const NAMES: &[(&str, Format)] = &[
    ("jsonl", Format::JsonLines),
    ("ndjson", Format::JsonLines),
    ("json", Format::Json),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("txt", Format::Text),
    ("text", Format::Text),
];

/// Formats of which this version only knows the name.
const LATER: &[&str] = &["parquet", "conll", "squad", "arrow", "iob", "iob2", "bio"];

/// Extensions of packed files.
const PACKED: &[&str] = &["gz", "zip", "bz2", "xz", "zst", "tar", "tgz", "7z", "lz4"];

const READABLE: &str = "it reads JSON Lines (.jsonl), JSON (.json), CSV (.csv), TSV (.tsv) and plain text (.txt)";

impl Format {
    /// The format called `name`, as the option `format` gives it.
    ///
    /// # Errors
    /// A format that this version does not read, or an unknown name.
    pub fn named(name: &str) -> Result<Format> {
        let lower = name.to_lowercase();
        if let Some((_, format)) = NAMES.iter().find(|(known, _)| *known == lower) {
            return Ok(*format);
        }
        if LATER.contains(&lower.as_str()) {
            return Err(Error::new(What::Unsupported(format!("the format `{lower}`"))).hint(READABLE));
        }
        let known = NAMES.iter().map(|(name, _)| *name);
        let allowed =
            format!("one of {}", known.clone().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "));
        let error = Error::new(What::OutOfRange { name: "`format`".into(), value: format!("{name:?}"), allowed });
        Err(match nearest(&lower, known) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => error,
        })
    }

    /// The format that the extension of `path` tells.
    ///
    /// # Errors
    /// An extension that this version does not read, or none.
    pub fn of(path: &Path) -> Result<Format> {
        let extension = extension(path);
        if let Some((_, format)) = NAMES.iter().find(|(known, _)| *known == extension) {
            return Ok(*format);
        }
        let (subject, hint) = match extension.as_str() {
            "" => ("a file without an extension".into(), format!("give `format`, such as \"jsonl\"; {READABLE}")),
            packed if PACKED.contains(&packed) => (format!("a packed file (`.{packed}`)"), "unpack it first".into()),
            later if LATER.contains(&later) => (format!("the format of `.{later}` files"), READABLE.into()),
            other => (format!("the extension `.{other}`"), format!("give `format`, such as \"jsonl\"; {READABLE}")),
        };
        Err(Error::new(What::Unsupported(subject)).at(Place::file(path)).hint(hint))
    }

    /// Whether `path` looks like data: of a format that is read now or later.
    pub(super) fn is_data(path: &Path) -> bool {
        let extension = extension(path);
        NAMES.iter().any(|(known, _)| *known == extension)
            || LATER.contains(&extension.as_str())
            || PACKED.contains(&extension.as_str())
    }

    /// The rows of a file; `path` is what messages call it.
    ///
    /// # Errors
    /// Bytes that are not UTF-8, what the format does not allow, and a file without rows; each with file and line.
    pub fn parse(self, bytes: &[u8], path: &Path) -> Result<Parsed> {
        let text = decode(bytes, path)?;
        let parsed = match self {
            Format::JsonLines => jsonl::parse(text, path),
            Format::Json if json::holds_lines(text) => jsonl::parse(text, path),
            Format::Json => json::parse(text, path),
            Format::Csv => csv::parse(text, path, csv::Separator::Comma),
            Format::Tsv => csv::parse(text, path, csv::Separator::Tab),
            Format::Text => text::parse(text),
        }?;
        match parsed.rows.is_empty() {
            true => {
                let error = Error::new(What::BadData(format!("`{}` has no rows", path.display())));
                Err(error.hint("is it the right file?"))
            }
            false => Ok(parsed),
        }
    }
}

fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// The bytes as text, without a byte order mark.
fn decode<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    let at = error.valid_up_to();
    let valid = std::str::from_utf8(&bytes[..at]).expect("checked up to here");
    let (line, column) = position(valid, at);
    let problem = format!("byte 0x{:02X} at offset {at} does not belong there", bytes[at]);
    let hint = match bytes {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "the file looks like UTF-16; save it as UTF-8",
        [0x1F, 0x8B, ..] => "the file looks packed with gzip; unpack it first",
        [b'P', b'A', b'R', b'1', ..] => "the file looks like Parquet, which is not read yet",
        _ => "save the file as UTF-8; text from older Windows programs is often in Latin-1",
    };
    Err(Error::new(What::Malformed { format: "UTF-8".into(), problem })
        .at(Place::line(path, line, Some(column)))
        .hint(hint))
}

/// Line and column, both from one and the column in characters, of a byte offset.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}
