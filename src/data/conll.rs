//! CoNLL: one token a line with its tags in columns, a blank line behind each sentence.
//!
//! A text flows in; one row a sentence flows out, with `tokens` and `ner_tags` as Hugging Face calls them. Columns are parted
//! by tabs where the line has any, else by spaces, so a token with spaces needs tabs. `-DOCSTART-` parts documents. A line that
//! begins with `#` is a comment only where it cannot be a token: before a sentence, and without a tag where tags stand.

use std::collections::HashSet;
use std::path::Path;

use indexmap::IndexMap;

use crate::cancel;
use crate::data::Value;
use crate::data::dataset::Parsed;
use crate::error::{Error, Place, Result, What};

/// Which column holds what, counted from 0, or from -1 at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Columns {
    /// The token.
    pub token: i64,
    /// The tag.
    pub tag: i64,
}

impl Columns {
    /// The first and the last one.
    pub const ENDS: Columns = Columns { token: 0, tag: -1 };
}

/// The column of the rows that holds the tokens.
pub const TOKENS: &str = "tokens";
/// The column of the rows that holds the tags.
pub const TAGS: &str = "ner_tags";

/// What stands in the place of a token between two documents.
const DOCUMENT: &str = "-DOCSTART-";

/// The letters of tag schemes.
const LETTERS: [&str; 6] = ["B", "I", "E", "S", "L", "U"];

/// One line, cut into its columns.
struct Line<'a> {
    number: usize,
    text: &'a str,
    cells: Vec<&'a str>,
}

/// The sentences of a text, with the line each begins on.
///
/// # Errors
/// A line with more or fewer columns than the first one, a column that is not there, an empty token or tag; with file, line
/// and column.
pub fn parse(text: &str, path: &Path, columns: Columns) -> Result<Parsed> {
    let lines: Vec<Line<'_>> = text.split('\n').enumerate().map(|(index, line)| Line::cut(index + 1, line)).collect();
    let plain = || lines.iter().filter(|line| !line.is_blank() && !line.is_hash() && !line.is_document());
    let hashes = || lines.iter().filter(|line| line.is_hash());
    // In a file whose every token begins with `#`, the first line with a tag tells.
    let first = plain().next().or_else(|| hashes().find(|line| line.cells.last().is_some_and(|tag| is_tag(tag))));
    let Some(first) = first else { return Ok(Parsed::default()) };
    let width = first.cells.len();
    let fail = |line: &Line<'_>, cell: usize, problem: String| {
        let place = Place::line(path, line.number, Some(line.column_of(cell)));
        Error::new(What::Malformed { format: "CoNLL".into(), problem }).at(place)
    };
    if width == 1 {
        let hint = "columns are parted by tabs or spaces, the token first and its tag last: `Paris B-LOC`";
        return Err(fail(first, 0, format!("there is no tag beside the token `{}`", first.cells[0])).hint(hint));
    }
    let index = |name: &str, column: i64| {
        let index = if column < 0 { column + width as i64 } else { column };
        usize::try_from(index).ok().filter(|index| *index < width).ok_or_else(|| {
            fail(first, width - 1, format!("there is no column {column} in a line of {width} columns"))
                .hint(format!("`{name}` counts from 0 to {}, or from -1 at the end", width - 1))
        })
    };
    let (token_at, tag_at) = (index("token_column", columns.token)?, index("tag_column", columns.tag)?);
    let known: HashSet<&str> = plain().filter_map(|line| line.cells.get(tag_at).copied()).collect();
    let mut parsed = Parsed::default();
    let mut sentence = Sentence::default();
    for line in &lines {
        cancel::check()?;
        if line.is_blank() || line.is_document() {
            sentence.end(&mut parsed);
            continue;
        }
        let has_tag = line.cells.len() == width
            && line.has_tabs() == first.has_tabs()
            && (!sentence.is_empty() || is_tag(line.cells[tag_at]) || known.contains(line.cells[tag_at]));
        let is_remark = sentence.is_empty() || line.cells[0] == "#" || line.cells[0].starts_with("##");
        if line.is_hash() && !has_tag && is_remark {
            continue;
        }
        if line.cells.len() != width {
            let (n, s) = (line.cells.len(), if line.cells.len() == 1 { "" } else { "s" });
            let error = fail(line, n.min(width) - 1, format!("{n} column{s} where line {} has {width}", first.number));
            return Err(error.hint(match n {
                1 => "each token has its tag; is a blank line missing or a line broken in two?",
                _ => "a token that contains spaces needs tabs between the columns",
            }));
        }
        for (at, what) in [(token_at, "token"), (tag_at, "tag")] {
            if line.cells[at].is_empty() {
                return Err(fail(line, at, format!("the {what} is empty")).hint("take the line out, or fill it in"));
            }
        }
        sentence.add(line.number, line.cells[token_at], line.cells[tag_at]);
    }
    sentence.end(&mut parsed);
    Ok(parsed)
}

/// What has been read of the sentence so far.
#[derive(Default)]
struct Sentence {
    line: usize,
    tokens: Vec<Value>,
    tags: Vec<Value>,
}

impl Sentence {
    fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn add(&mut self, line: usize, token: &str, tag: &str) {
        if self.is_empty() {
            self.line = line;
        }
        self.tokens.push(token.into());
        self.tags.push(tag.into());
    }

    /// Puts the sentence into `parsed`, unless there is none.
    fn end(&mut self, parsed: &mut Parsed) {
        let Sentence { line, tokens, tags } = std::mem::take(self);
        if tokens.is_empty() {
            return;
        }
        parsed.lines.push(u32::try_from(line).unwrap_or(0));
        parsed.rows.push(IndexMap::from([
            (TOKENS.to_string(), Value::List(tokens.into())),
            (TAGS.to_string(), Value::List(tags.into())),
        ]));
    }
}

impl<'a> Line<'a> {
    /// Only spaces and tabs part columns: others of Unicode's spaces are tokens in real files.
    fn cut(number: usize, line: &'a str) -> Self {
        let text = line.trim_end_matches([' ', '\t', '\r']);
        let cells = if text.contains('\t') {
            text.split('\t').map(|cell| cell.trim_matches(' ')).collect()
        } else {
            text.split(' ').filter(|cell| !cell.is_empty()).collect()
        };
        Line { number, text, cells }
    }

    fn is_blank(&self) -> bool {
        self.cells.is_empty() || self.text.is_empty()
    }

    fn is_hash(&self) -> bool {
        self.cells.first().is_some_and(|cell| cell.starts_with('#'))
    }

    fn has_tabs(&self) -> bool {
        self.text.contains('\t')
    }

    fn is_document(&self) -> bool {
        self.cells.first().is_some_and(|cell| *cell == DOCUMENT)
    }

    /// The place of a cell in its line, counted in characters from 1.
    fn column_of(&self, cell: usize) -> usize {
        let Some(cell) = self.cells.get(cell) else { return 1 };
        let offset = (cell.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.text.get(..offset).map_or(1, |before| before.chars().count() + 1)
    }
}

/// Whether a cell looks like the tag of an entity: `O`, `B-PER`, `PER-B`, or a letter alone.
fn is_tag(cell: &str) -> bool {
    let (first, last) =
        (cell.split_once('-').map(|(letter, _)| letter), cell.rsplit_once('-').map(|(_, letter)| letter));
    cell == "O"
        || LETTERS.contains(&cell)
        || [first, last].into_iter().flatten().any(|letter| LETTERS.contains(&letter))
}
