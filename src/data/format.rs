//! The file formats: which one a file has, and its bytes turned into rows.
//!
//! A format is told by the file's extension unless the caller names it, with `.gz` behind it where the file is packed. The
//! first bytes must agree: a Parquet file called `.jsonl` is refused with what it is. A `.json` file that holds JSON Lines
//! is recognised by its content, as in Hugging Face's `datasets`. Each format has a file of its own and a line in
//! [`FORMATS`].

use std::borrow::Cow;
use std::path::Path;

use crate::data::dataset::Parsed;
use crate::data::magic::Magic;
use crate::data::{conll, csv, gzip, json, jsonl, parquet, text};
use crate::error::{Error, Place, Result, What, nearest};

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// One JSON document; SQuAD's is recognised by its shape.
    Json,
    /// One JSON document that must be in SQuAD's format.
    Squad,
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// One row a line.
    Text,
    /// Apache Parquet.
    Parquet,
    /// One token a line, with its tag, in these columns.
    Conll(conll::Columns),
}

/// How a format's rows are read; the path is what messages call the file.
enum Reader {
    /// From text, which must be UTF-8.
    Text(fn(&str, &Path) -> Result<Parsed>),
    /// From bytes.
    Bytes(fn(&[u8], &Path) -> Result<Parsed>),
}

/// What is known of a format.
struct Known {
    format: Format,
    /// What people call it.
    title: &'static str,
    /// What the option `format` calls it; the first name is the usual one.
    names: &'static [&'static str],
    /// The extensions that files of this format have; the first is the usual one, and there is none for what `.json` files hold.
    extensions: &'static [&'static str],
    reader: Reader,
}

/// Every format. A new one is a file with a reader, a variant of [`Format`] and an entry here.
const FORMATS: &[Known] = &[
    Known {
        format: Format::JsonLines,
        title: "JSON Lines",
        names: &["jsonl", "ndjson"],
        extensions: &["jsonl", "ndjson"],
        reader: Reader::Text(jsonl::parse),
    },
    Known {
        format: Format::Json,
        title: "JSON",
        names: &["json"],
        extensions: &["json"],
        reader: Reader::Text(json::parse),
    },
    Known {
        format: Format::Squad,
        title: "SQuAD",
        names: &["squad"],
        extensions: &[],
        reader: Reader::Text(json::squad_document),
    },
    Known {
        format: Format::Csv,
        title: "CSV",
        names: &["csv"],
        extensions: &["csv"],
        reader: Reader::Text(|text, path| csv::parse(text, path, csv::Separator::Comma)),
    },
    Known {
        format: Format::Tsv,
        title: "TSV",
        names: &["tsv"],
        extensions: &["tsv", "tab"],
        reader: Reader::Text(|text, path| csv::parse(text, path, csv::Separator::Tab)),
    },
    Known {
        format: Format::Text,
        title: "plain text",
        names: &["text", "txt"],
        extensions: &["txt", "text"],
        reader: Reader::Text(|text, _| text::parse(text)),
    },
    Known {
        format: Format::Parquet,
        title: "Parquet",
        names: &["parquet"],
        extensions: &["parquet"],
        reader: Reader::Bytes(parquet::parse),
    },
    Known {
        format: Format::Conll(conll::Columns::ENDS),
        title: "CoNLL",
        names: &["conll", "iob", "iob2", "bio"],
        extensions: &["conll", "iob", "iob2", "bio"],
        reader: Reader::Text(|text, path| conll::parse(text, path, conll::Columns::ENDS)),
    },
];

/// Formats of which this version only knows the name.
const LATER: &[&str] = &["arrow"];

const LATER_HINT: &str = "save its rows as JSON Lines, CSV or Parquet";

/// Extensions of packed files that are not unpacked here; [`GZIP`] is.
const PACKED: &[&str] = &["zip", "bz2", "xz", "zst", "tar", "tgz", "7z", "lz4"];

/// The extension of a packed file, behind that of its format.
const GZIP: &str = "gz";

impl Format {
    fn known(self) -> &'static Known {
        let any = match self {
            Format::Conll(_) => Format::Conll(conll::Columns::ENDS),
            format => format,
        };
        FORMATS.iter().find(|known| known.format == any).expect("every format has an entry")
    }

    fn by_extension(extension: &str) -> Option<Format> {
        FORMATS.iter().find(|known| known.extensions.contains(&extension)).map(|known| known.format)
    }

    /// The format called `name`, as the option `format` gives it.
    ///
    /// # Errors
    /// A format that this version does not read, or an unknown name.
    pub fn named(name: &str) -> Result<Format> {
        let lower = name.to_lowercase();
        if let Some(known) = FORMATS.iter().find(|known| known.names.contains(&lower.as_str())) {
            return Ok(known.format);
        }
        if LATER.contains(&lower.as_str()) {
            return Err(Error::new(What::Unsupported(format!("the format `{lower}`"))).hint(LATER_HINT));
        }
        let names = FORMATS.iter().flat_map(|known| known.names).copied();
        let listed = FORMATS.iter().map(|known| format!("{:?}", known.names[0])).collect::<Vec<_>>().join(", ");
        let (value, allowed) = (format!("{name:?}"), format!("one of {listed}"));
        let error = Error::new(What::OutOfRange { name: "`format`".into(), value, allowed });
        Err(match nearest(&lower, names) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None if lower.contains(GZIP) => error.hint("a file packed with gzip is known by its ending `.gz`"),
            None => error,
        })
    }

    /// The format that the extension of `path` tells, before `.gz` where the file is packed.
    ///
    /// # Errors
    /// An extension that this version does not read, or none.
    pub fn of(path: &Path) -> Result<Format> {
        let extension = extension(path);
        if let Some(format) = Format::by_extension(&extension) {
            return Ok(format);
        }
        let give = || format!("give `format`, such as \"jsonl\"; {}", readable());
        let (subject, hint) = match extension.as_str() {
            "" => ("a file without an extension".into(), give()),
            packed if PACKED.contains(&packed) => {
                (format!("a packed file (`.{packed}`)"), "unpack it first, or pack it with gzip (`.gz`)".into())
            }
            later if LATER.contains(&later) => (format!("the format of `.{later}` files"), LATER_HINT.into()),
            other => (format!("the extension `.{other}`"), give()),
        };
        Err(Error::new(What::Unsupported(subject)).at(Place::file(path)).hint(hint))
    }

    /// Whether `path` looks like data: of a format that is read now or later.
    pub(super) fn is_data(path: &Path) -> bool {
        let extension = extension(path);
        let extension = extension.as_str();
        Format::by_extension(extension).is_some() || LATER.contains(&extension) || PACKED.contains(&extension)
    }

    /// The rows of a file, packed with gzip where its name ends in `.gz`; `path` is what messages call it.
    ///
    /// # Errors
    /// Content of another kind than the name says, bytes that are not UTF-8, what the format does not allow, and a file
    /// without rows; each with file and line.
    pub fn parse(self, bytes: &[u8], path: &Path) -> Result<Parsed> {
        let bytes = unpacked(bytes, path)?;
        let bytes = self.checked(&bytes, path)?;
        let parsed = match (self, &self.known().reader) {
            (Format::Conll(columns), _) => conll::parse(decode(bytes, path)?, path, columns),
            (_, Reader::Text(read)) => read(decode(bytes, path)?, path),
            (_, Reader::Bytes(read)) => read(bytes, path),
        }?;
        match parsed.rows.is_empty() {
            true => {
                let error = Error::new(What::BadData(format!("`{}` has no rows", path.display())));
                Err(error.hint("is it the right file?"))
            }
            false => Ok(parsed),
        }
    }

    /// Refuses bytes whose beginning says that they are of another kind.
    fn checked<'a>(self, bytes: &'a [u8], path: &Path) -> Result<&'a [u8]> {
        match Magic::of(bytes) {
            Some(magic) if !magic.fits(self) => {
                let problem = format!("the file does not hold {}: {}", self.known().title, magic.what());
                let format = self.known().title.to_string();
                Err(Error::new(What::Malformed { format, problem }).at(Place::file(path)).hint(magic.hint()))
            }
            _ => Ok(bytes),
        }
    }
}

/// The formats that are read, for hints.
fn readable() -> String {
    let shown = |known: &Known| Some(format!("{} (.{})", known.title, known.extensions.first()?));
    let mut listed: Vec<String> = FORMATS.iter().filter_map(shown).collect();
    let last = listed.pop().unwrap_or_default();
    format!("it reads {} and {last}, each also packed with gzip (.gz)", listed.join(", "))
}

/// The bytes without their packing.
fn unpacked<'a>(bytes: &'a [u8], path: &Path) -> Result<Cow<'a, [u8]>> {
    let is_packed = Magic::of(bytes) == Some(Magic::Gzip);
    if ending(path) == GZIP {
        return gzip::unpack(bytes, path).map(Cow::Owned);
    }
    if is_packed {
        let error =
            Error::new(What::BadData("the file is packed with gzip, but its name does not end in `.gz`".into()));
        return Err(error.at(Place::file(path)).hint(format!("rename it to `{}.gz`", path.display())));
    }
    Ok(Cow::Borrowed(bytes))
}

/// The last part of a file's name.
fn ending(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// The extension that tells the format: the last, or the one before `.gz`.
fn extension(path: &Path) -> String {
    match ending(path).as_str() {
        GZIP => path.file_stem().map(|stem| ending(Path::new(stem))).unwrap_or_default(),
        other => other.to_string(),
    }
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
