//! CSV and TSV with a header line, after RFC 4180; the types are found for whole columns.
//!
//! A column whose filled cells are all whole numbers holds integers, one of numbers holds floats, any other holds
//! text. Leading zeros mark codes (postal codes, identifiers) and keep a column text. An empty cell is null.

use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use indexmap::{IndexMap, IndexSet};

use crate::cancel;
use crate::data::Value;
use crate::data::dataset::Parsed;
use crate::error::{Error, Place, Result, What};

const OPEN_QUOTE: &str = "a quote is opened and never closed";
const CLOSE_QUOTE: &str = "a cell that begins with `\"` ends with `\"`; a quote inside it is written twice";

/// What stands between two cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separator {
    /// CSV.
    Comma,
    /// TSV.
    Tab,
}

impl Separator {
    fn byte(self) -> u8 {
        match self {
            Separator::Comma => b',',
            Separator::Tab => b'\t',
        }
    }

    fn format(self) -> &'static str {
        match self {
            Separator::Comma => "CSV",
            Separator::Tab => "TSV",
        }
    }
}

/// The rows of a text, with the line each begins on.
///
/// # Errors
/// A row with more or fewer cells than the header, a quote that is not closed, and a header that names a column
/// twice; with file and line.
pub fn parse(text: &str, path: &Path, separator: Separator) -> Result<Parsed> {
    let fail = |line: usize, problem: String| {
        let format = separator.format().into();
        Error::new(What::Malformed { format, problem }).at(Place::line(path, line, None))
    };
    let mut records = Vec::new();
    let mut lines = Lines { text, counted: 0, line: 1 };
    let mut numbers = Vec::new();
    let mut last = (0, 1);
    let mut reader = builder(separator).from_reader(text.as_bytes());
    for record in reader.records() {
        cancel::check()?;
        let record = record.map_err(|error| fail(lines.line, error.to_string()))?;
        let (start, line) = lines.of(record.position().map_or(0, |position| position.byte() as usize));
        let n_header = records.first().map_or(record.len(), StringRecord::len);
        if record.len() != n_header {
            if !closes(&text[start..], separator) {
                return Err(fail(line, OPEN_QUOTE.into()).hint(CLOSE_QUOTE));
            }
            let problem = format!("{} where the header has {n_header}", cells(record.len()));
            let is_other = n_header == 1 && records[0].iter().any(|name| name.contains([';', '|', '\t']));
            let hint = if is_other {
                "the header looks separated by something else: commas separate cells of .csv files, tabs those of .tsv files"
            } else {
                "put a text that contains the separator or a quote into double quotes"
            };
            return Err(fail(line, problem).hint(hint));
        }
        last = (start, line);
        records.push(record);
        numbers.push(u32::try_from(line).unwrap_or(0));
    }
    if !closes(&text[last.0..], separator) {
        return Err(fail(last.1, OPEN_QUOTE.into()).hint(CLOSE_QUOTE));
    }
    let Some((header, records)) = records.split_first() else { return Ok(Parsed::default()) };
    let names = columns(header).map_err(|problem| fail(numbers[0] as usize, problem))?;
    let types: Vec<Type> = (0..names.len()).map(|column| Type::of(records.iter().map(|row| &row[column]))).collect();
    let row = |record: &StringRecord| -> IndexMap<String, Value> {
        let cells = names.iter().zip(&types).zip(record).map(|((name, kind), cell)| (name.clone(), kind.read(cell)));
        cells.collect()
    };
    Ok(Parsed { rows: records.iter().map(row).collect(), lines: numbers.split_off(1), ..Parsed::default() })
}

fn builder(separator: Separator) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder.delimiter(separator.byte()).has_headers(false).flexible(true);
    builder
}

fn cells(count: usize) -> String {
    if count == 1 { "1 cell".into() } else { format!("{count} cells") }
}

/// The header's names; one without a name is called as pandas calls it.
fn columns(header: &StringRecord) -> Result<Vec<String>, String> {
    let mut names = IndexSet::new();
    for (index, name) in header.iter().enumerate() {
        let name = if name.is_empty() { format!("Unnamed: {index}") } else { name.to_string() };
        if let Some(name) = names.replace(name) {
            return Err(format!("the header names the column `{name}` twice"));
        }
    }
    Ok(names.into_iter().collect())
}

/// Counts lines on the way through the text; the reader's own positions point before blank lines.
struct Lines<'a> {
    text: &'a str,
    counted: usize,
    line: usize,
}

impl Lines<'_> {
    /// The offset and line of the record that begins at `offset` or behind blank lines that follow it.
    fn of(&mut self, offset: usize) -> (usize, usize) {
        let start = offset + self.text[offset..].find(|letter| !matches!(letter, '\r' | '\n')).unwrap_or(0);
        self.line += self.text[self.counted..start].matches('\n').count();
        self.counted = start;
        (start, self.line)
    }
}

/// Whether the first record of `text` ends before the end of the text, or at it with its quotes closed.
fn closes(text: &str, separator: Separator) -> bool {
    let mut reader = builder(separator).from_reader(std::io::Read::chain(text.as_bytes(), &b"\nend\n"[..]));
    text.is_empty() || reader.records().take(2).count() == 2
}

/// What the cells of a column hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Int,
    Float,
    Text,
}

impl Type {
    fn of<'a>(cells: impl Iterator<Item = &'a str>) -> Type {
        let mut found = None;
        for cell in cells.filter(|cell| !cell.is_empty()) {
            let plain = is_plain_number(cell);
            found = match found {
                None | Some(Type::Int) if plain && cell.parse::<i64>().is_ok() => Some(found.unwrap_or(Type::Int)),
                Some(Type::Float) if plain && cell.parse::<i64>().is_ok() => found,
                // A whole number that does not fit is an identifier: a float would lose its last digits.
                _ if plain && cell.contains(['.', 'e', 'E']) && cell.parse::<f64>().is_ok() => Some(Type::Float),
                _ => return Type::Text,
            };
        }
        found.unwrap_or(Type::Text)
    }

    fn read(self, cell: &str) -> Value {
        let number = match self {
            _ if cell.is_empty() => Some(Value::Null),
            Type::Int => cell.parse().ok().map(Value::Int),
            Type::Float => cell.parse().ok().map(Value::Float),
            Type::Text => None,
        };
        number.unwrap_or_else(|| cell.into())
    }
}

/// Digits with an optional minus, point and exponent, and no leading zero; never `inf`, `nan` or `+1`.
fn is_plain_number(cell: &str) -> bool {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    let mut bytes = digits.bytes();
    let (first, second) = (bytes.next(), bytes.next());
    first.is_some_and(|byte| byte.is_ascii_digit() || byte == b'.')
        && !(first == Some(b'0') && second.is_some_and(|byte| byte.is_ascii_digit()))
        && digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+'))
}
