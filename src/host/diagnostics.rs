//! What a failure looks like: what happened, where, how the script got there, and what to do next.
//!
//! A [`Diagnostic`] is made by `host::explain` from a script error or directly from a library error. It is
//! rendered with the source line and a caret for people, and as one JSON event for programs.

use std::io::{BufRead, BufReader, Read};
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde_json::{Map, Value, json};

use crate::error::{Error, Place};
use crate::host::sources::Sources;

/// A failure, ready to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// What happened: lower case, without a final dot.
    pub message: String,
    /// Where in a script it happened.
    pub location: Option<Location>,
    /// Other places: a file and line of data, a row, a tensor.
    pub places: Vec<Place>,
    /// The calls and imports that led there, innermost first.
    pub trail: Vec<Frame>,
    /// What to do next.
    pub hint: Option<String>,
    /// The exit code of the command line.
    pub exit_code: u8,
}

/// A position in a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The script's name.
    pub file: String,
    /// The line, from one.
    pub line: usize,
    /// The column in characters, from one.
    pub column: usize,
}

/// One step of the way to the failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// `called` or `imported`.
    pub how: &'static str,
    /// Where from.
    pub from: Location,
    /// The function that this place is in, where it is in one.
    pub within: Option<String>,
}

/// The result of what ends in at most one diagnostic.
pub type Outcome<T = ()> = std::result::Result<T, Box<Diagnostic>>;

/// Whether the rendering has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For files, pipes and tests.
    Plain,
    /// For terminals.
    Colored,
}

impl Diagnostic {
    /// The failure as people read it, without a final line break.
    pub fn render(&self, sources: &Sources, style: Style) -> String {
        let mut group = Level::ERROR.primary_title(self.message.as_str()).elements(None::<Origin<'_>>);
        if let Some(Location { file, line, column }) = &self.location {
            let text = sources.text(file);
            match text.as_deref().and_then(|text| span(text, *line, *column)) {
                Some((source, range)) => {
                    let snippet = Snippet::source(source.to_string()).line_start(*line).path(file.as_str());
                    group = group.element(snippet.annotation(AnnotationKind::Primary.span(range)));
                }
                None => group = group.element(Origin::path(file.as_str()).line(*line).char_column(*column)),
            }
        }
        for place in &self.places {
            group = match data_line(place) {
                Some((path, line, column, source)) => {
                    let range = span(&source, 1, column).map_or(0..0, |(_, range)| range);
                    let snippet = Snippet::source(source).line_start(line).path(path);
                    group.element(snippet.annotation(AnnotationKind::Primary.span(range)))
                }
                None => group.element(Level::NOTE.message(format!("in {place}"))),
            };
        }
        for line in self.trail_lines() {
            group = group.element(Level::NOTE.message(line));
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
        }
        let renderer = if style == Style::Colored { Renderer::styled() } else { Renderer::plain() };
        let text = renderer.render(&[group]);
        let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        // The rule that leads to a source line leads nowhere where there is none.
        if self.location.is_none() && lines.get(1).is_some_and(|line| console::strip_ansi_codes(line).trim() == "|") {
            lines.remove(1);
        }
        lines.join("\n")
    }

    /// The failure as the body of an `error` event.
    pub fn to_json(&self, sources: &Sources) -> Map<String, Value> {
        let location = self.location.as_ref().map_or(
            Value::Null,
            |Location { file, line, column }| json!({ "file": file, "line": line, "column": column }),
        );
        let mut body = Map::new();
        body.insert("message".into(), self.message.clone().into());
        body.insert("where".into(), location);
        body.insert("places".into(), self.places.iter().map(Place::to_string).collect());
        body.insert("hint".into(), self.hint.clone().into());
        body.insert("rendered".into(), self.render(sources, Style::Plain).into());
        body
    }

    /// A recursion that ran wild repeats itself: a long trail is shown by its two ends.
    fn trail_lines(&self) -> Vec<String> {
        const ENDS: usize = 4;
        let lines: Vec<String> = self.trail.iter().map(Frame::to_string).collect();
        if lines.len() <= 2 * ENDS + 1 {
            return lines;
        }
        let left_out = format!("... {} more calls ...", lines.len() - 2 * ENDS);
        [&lines[..ENDS], &[left_out], &lines[lines.len() - ENDS..]].concat()
    }
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Location { file, line, column } = &self.from;
        write!(f, "{} from {file}:{line}:{column}", self.how)?;
        match &self.within {
            Some(name) if name.starts_with("anon$") => f.write_str(" in a closure"),
            Some(name) => write!(f, " in `{name}`"),
            None => Ok(()),
        }
    }
}

impl From<Error> for Box<Diagnostic> {
    fn from(error: Error) -> Self {
        Box::new(Diagnostic::from(&error))
    }
}

impl From<&Error> for Diagnostic {
    fn from(error: &Error) -> Self {
        Diagnostic {
            message: error.what().to_string(),
            places: error.places().to_vec(),
            hint: error.hint_text().map(str::to_string),
            exit_code: error.exit_code(),
            ..Diagnostic::default()
        }
    }
}

/// The line of a data file that a place means, for a file that can be read and a line that is fit to be shown.
fn data_line(place: &Place) -> Option<(String, usize, usize, String)> {
    const LONGEST: u64 = 100_000;
    let Place::File { path, line: Some(line), column: Some(column) } = place else { return None };
    let mut reader = BufReader::new(std::fs::File::open(path).ok()?);
    let mut source = Vec::new();
    for _ in 0..*line {
        source.clear();
        if (&mut reader).take(LONGEST).read_until(b'\n', &mut source).ok()? == LONGEST as usize {
            return None;
        }
    }
    let source = String::from_utf8(source).ok()?;
    Some((path.display().to_string(), *line, *column, source.trim_end().to_string()))
}

/// The line and the bytes of the word at a position: a name as a whole, anything else one character.
fn span(text: &str, line: usize, column: usize) -> Option<(&str, Range<usize>)> {
    let source = text.lines().nth(line.checked_sub(1)?)?;
    let at = column.saturating_sub(1);
    let start = source.char_indices().nth(at).map_or(source.len(), |(byte, _)| byte);
    let rest = &source[start..];
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let length = match rest.chars().next() {
        Some('"') => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
        Some(first) if is_word(first) => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
        Some(first) => first.len_utf8(),
        None => 0,
    };
    Some((source, start..start + length))
}
