//! The one error type: what happened, where, and what to do next.
//!
//! Every fallible function of the library returns [`Result`]. [`What`] carries values, not prose; the
//! place and the hint are added by whoever knows them, with [`Error::at`] and [`Error::hint`]. Rendering
//! with the script's source line is left to `host::diagnostics`, the exit code to [`Error::exit_code`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, where, and what to do next. Cheap to clone, so that it can travel through a script.
#[derive(Clone, Debug)]
pub struct Error(Arc<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    what: Arc<What>,
    places: Vec<Place>,
    hint: Option<String>,
}

/// What went wrong, as values. The text is lower case, without a final dot, and names things in backticks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum What {
    /// An options map has a key that the callee does not know.
    #[error("unknown option `{key}` for {of}")]
    UnknownOption {
        /// The key as written.
        key: String,
        /// The callee, for example `` `TrainingArguments` ``.
        of: String,
    },
    /// An option that has to be given is not there.
    #[error("{of} needs the option `{key}`")]
    MissingOption {
        /// The option's name.
        key: String,
        /// The callee, for example `` `Trainer` ``.
        of: String,
    },
    /// A value has the wrong type.
    #[error("{name} must be {wanted}, but is {got}")]
    WrongType {
        /// The value's name, in backticks where it is code.
        name: String,
        /// The type that was wanted, with its article.
        wanted: String,
        /// The type or value that was found.
        got: String,
    },
    /// A value has the right type and is not allowed.
    #[error("{name} is {value}, but must be {allowed}")]
    OutOfRange {
        /// The value's name.
        name: String,
        /// The value as written.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Two or more settings that do not fit together.
    #[error("{0}")]
    Conflict(String),
    /// Something that has a name does not exist.
    #[error("{kind} `{name}` was not found")]
    NotFound {
        /// What kind of thing: `file`, `model`, `column`, ...
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Something known that this version does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A file or a value that cannot be parsed; the place says where.
    #[error("{format}: {problem}")]
    Malformed {
        /// The format: `JSON Lines`, `safetensors`, `config.json`, ...
        format: String,
        /// What the parser says.
        problem: String,
    },
    /// Data that parses and cannot be used: a row without text, a label out of range, an empty data set.
    #[error("{0}")]
    BadData(String),
    /// Weights that do not fit the model.
    #[error("{0}")]
    Weights(String),
    /// Reading from the file system failed.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Writing to the file system failed.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A hub could not be reached or answered with an error.
    #[error("hub: {0}")]
    Hub(String),
    /// A number that must be finite is not.
    #[error("{0}")]
    NonFinite(String),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(candle_core::Error),
    /// A device that was asked for is not there.
    #[error("device `{0}` is not available in this build or on this machine")]
    Device(String),
    /// A script failed by its own means: `throw`, `expect`, or a wrong call.
    #[error("{0}")]
    Script(String),
    /// A function of a script failed while the library was calling it: a callback, a metric, a task function.
    #[error("{message}")]
    InScript {
        /// What happened, in one line.
        message: String,
        /// The script engine's error with its positions, which `host::diagnostics` unfolds.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A plugin that is no plugin, or a failure in one.
    #[error("{0}")]
    Plugin(String),
    /// Something that the user has not allowed.
    #[error("{0}")]
    NotAllowed(String),
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The run was asked to begin again.
    #[error("the run was ended: {0}")]
    Interrupted(String),
    /// A signal asked for the end.
    #[error("stopped by {}", signal_name(*.signal))]
    Stopped {
        /// The signal's number.
        signal: i32,
    },
    /// Something that needs more memory than there is.
    #[error("{0}")]
    Memory(String),
    /// A script that goes on for longer, or takes more, than it may.
    #[error("{0}")]
    Limit(String),
    /// An invariant of the program does not hold: a defect of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Where something went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, with line and column counted from one where they are known.
    File {
        /// The file as the user named it.
        path: PathBuf,
        /// Line, from one.
        line: Option<usize>,
        /// Column in characters, from one.
        column: Option<usize>,
    },
    /// A row of a data set, counted from zero as `ds[i]` counts.
    Row(usize),
    /// An item of a batch, counted from zero, until somebody knows the row it came from.
    Item(usize),
    /// A tensor or parameter by name.
    Tensor(String),
    /// A part of something, in words: `` column `text` ``, `the recipe's compute_metrics`.
    Within(String),
}

impl Place {
    /// A file without a position.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Place::File { path: path.as_ref().to_path_buf(), line: None, column: None }
    }

    /// A line of a file, from one, with a column where it is known.
    pub fn line(path: impl AsRef<Path>, line: usize, column: Option<usize>) -> Self {
        Place::File { path: path.as_ref().to_path_buf(), line: Some(line), column }
    }

    /// Whether it is a place in data: a file, a row, an item or a token of one.
    fn is_data(&self) -> bool {
        match self {
            Place::File { path, .. } => path.extension().is_none_or(|extension| extension != "rhai"),
            Place::Row(_) | Place::Item(_) => true,
            Place::Within(text) => text.starts_with("row "),
            Place::Tensor(_) => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line, column } => {
                write!(f, "{}", path.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                if let Some(column) = column {
                    write!(f, ":{column}")?;
                }
                Ok(())
            }
            Place::Row(row) => write!(f, "row {row}"),
            Place::Item(item) => write!(f, "item {item} of the batch"),
            Place::Tensor(name) => write!(f, "tensor `{name}`"),
            Place::Within(text) => f.write_str(text),
        }
    }
}

impl Error {
    /// An error without place or hint.
    pub fn new(what: What) -> Self {
        Error(Arc::new(Parts { what: Arc::new(what), places: Vec::new(), hint: None }))
    }

    /// Adds a place. Inner places come first: the row, then the file.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        self.with(|parts| parts.places.push(place))
    }

    /// Says what to do next, unless a hint is there already.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        self.with(|parts| {
            parts.hint.get_or_insert_with(|| hint.into());
        })
    }

    /// Replaces the places, for whoever can say them better.
    #[must_use]
    pub fn relocated(self, places: Vec<Place>) -> Self {
        self.with(|parts| parts.places = places)
    }

    fn with(self, change: impl FnOnce(&mut Parts)) -> Self {
        let mut parts = Arc::unwrap_or_clone(self.0);
        change(&mut parts);
        Error(Arc::new(parts))
    }

    /// What happened.
    pub fn what(&self) -> &What {
        &self.0.what
    }

    /// Where it happened, innermost first.
    pub fn places(&self) -> &[Place] {
        &self.0.places
    }

    /// What to do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The exit code of the command line, after sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self.what() {
            What::Usage(_) => 64,
            What::Malformed { .. } | What::BadData(_) | What::Weights(_) | What::NonFinite(_) | What::Plugin(_) => 65,
            What::NotFound { kind, .. } if NAMES.contains(kind) => 78,
            What::NotFound { .. } | What::Read { .. } => 66,
            What::Hub(_) | What::Device(_) => 69,
            What::Write { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => 77,
            What::Write { .. } => 73,
            What::NotAllowed(_) => 77,
            What::Internal(_) | What::Tensor(_) => 70,
            What::Memory(_) => 71,
            What::Stopped { signal } => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            // A value of a row or of a file is data; one of a recipe is a setting.
            What::WrongType { .. } | What::OutOfRange { .. } if self.places().iter().any(Place::is_data) => 65,
            _ => 78,
        }
    }
}

/// The name of a signal that ends programs.
fn signal_name(signal: i32) -> String {
    match signal {
        1 => "SIGHUP".into(),
        2 => "SIGINT".into(),
        3 => "SIGQUIT".into(),
        15 => "SIGTERM".into(),
        other => format!("signal {other}"),
    }
}

/// Kinds of things that a recipe names and that are no files: to misspell one is a wrong setting, not a missing input.
const NAMES: [&str; 7] = ["class", "column", "label", "metric", "output", "parameter", "pipeline"];

/// What happened, then the places in brackets; the hint is printed by the renderer, on a line of its own.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.what)?;
        for place in &self.0.places {
            write!(f, " ({place})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<What> for Error {
    fn from(what: What) -> Self {
        Error::new(what)
    }
}

impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Self {
        Error::new(What::Tensor(source))
    }
}

/// The candidate nearest to `name`, where one is near enough to be what was meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= 2.max(name.len().max(candidate.len()) / 3))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}
