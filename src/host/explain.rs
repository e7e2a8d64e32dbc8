//! From a script error to a [`Diagnostic`]: the place, the trail of calls, and who knows the words.
//!
//! Rhai nests an error in the calls and imports it came through; each layer knows the script that the layers
//! inside it belong to. Library errors travel inside script errors and keep their own places and hints; the words
//! for the engine's own errors are left to `host::words`.

use rhai::{Engine, EvalAltResult, Position};

use crate::error::{Error, Place, What};
use crate::host::diagnostics::{Diagnostic, Frame, Location};
use crate::host::mistakes::{self, lowered};
use crate::host::sources::Sources;
use crate::host::words::Words;

/// Exit code for errors of a script's own making (sysexits' EX_CONFIG).
const SCRIPT: u8 = 78;

/// Explains an error of the script `name`.
pub fn explain(error: &EvalAltResult, engine: &Engine, sources: &Sources, name: &str) -> Box<Diagnostic> {
    let mut walk = Walk::new(engine, sources, name);
    walk.enter(error);
    walk.finish()
}

/// Explains an error of the library that was raised outside any script; it may carry a script error.
pub fn explain_error(error: &Error, engine: &Engine, sources: &Sources, name: &str) -> Box<Diagnostic> {
    let mut walk = Walk::new(engine, sources, name);
    walk.library_error(error, Position::NONE);
    walk.finish()
}

struct Walk<'a> {
    engine: &'a Engine,
    sources: &'a Sources,
    /// The script that positions belong to.
    file: String,
    /// The function that positions are in.
    function: Option<String>,
    diagnostic: Diagnostic,
}

impl<'a> Walk<'a> {
    fn new(engine: &'a Engine, sources: &'a Sources, name: &str) -> Self {
        Walk { engine, sources, file: name.to_string(), function: None, diagnostic: Diagnostic::default() }
    }

    fn finish(self) -> Box<Diagnostic> {
        let mut diagnostic = self.diagnostic;
        diagnostic.trail.reverse();
        // Without a position of its own, an error happened where the innermost call is.
        if diagnostic.location.is_none() && !diagnostic.trail.is_empty() {
            diagnostic.location = Some(diagnostic.trail.remove(0).from);
        }
        // The place itself is no step of the way to it.
        if diagnostic.trail.first().is_some_and(|frame| Some(&frame.from) == diagnostic.location.as_ref()) {
            diagnostic.trail.remove(0);
        }
        // A native function that calls a closure is a frame of its own, at the same place.
        diagnostic.trail.dedup_by(|outer, inner| {
            let same = outer.from == inner.from;
            if same {
                inner.within = outer.within.take();
            }
            same
        });
        Box::new(diagnostic)
    }

    fn enter(&mut self, error: &EvalAltResult) {
        use EvalAltResult as E;
        match error {
            E::ErrorInFunctionCall(name, source, inner, position) => {
                self.frame("called", *position);
                if !source.is_empty() {
                    self.file.clone_from(source);
                }
                self.function = Some(name.clone());
                self.enter(inner);
            }
            E::ErrorInModule(path, inner, position) => {
                self.frame("imported", *position);
                self.file.clone_from(path);
                self.function = None;
                self.enter(inner);
            }
            E::ErrorRuntime(value, position) | E::ErrorTerminated(value, position) if value.is::<Error>() => {
                let error = value.clone().try_cast::<Error>().expect("just looked at");
                self.library_error(&error, *position);
            }
            E::ErrorRuntime(value, position) => {
                self.thrown(value);
                self.place(*position);
            }
            other => self.script_error(other),
        }
    }

    fn library_error(&mut self, error: &Error, position: Position) {
        let Some(inner) = inner_script_error(error) else {
            let known = std::mem::take(&mut self.diagnostic);
            // Places that were found on the way are the error's too: a value of a row is data.
            let error = known.places.into_iter().fold(error.clone(), Error::at);
            self.diagnostic = Diagnostic { trail: known.trail, ..Diagnostic::from(&error) };
            return self.place(position);
        };
        self.frame("called", position);
        self.function = None;
        let (scripts, caller) = (self.sources.names(), self.file.clone());
        // A task script is named by the place; any other place is about data and stays.
        for place in error.places() {
            match place {
                Place::File { path, line: None, .. }
                    if scripts.iter().any(|name| **name == *path.to_string_lossy()) =>
                {
                    self.file = path.to_string_lossy().into_owned();
                }
                place => self.diagnostic.places.push(place.clone()),
            }
        }
        self.enter(inner);
        // The engine knows no position of a loop that was ended: its script is named at least.
        if self.diagnostic.location.is_none() && self.file != caller {
            self.diagnostic.places.insert(0, Place::file(&self.file));
        }
    }

    /// `throw value`: text is the message; a map may bring `message` and `hint`, as caught errors do.
    fn thrown(&mut self, value: &rhai::Dynamic) {
        let diagnostic = &mut self.diagnostic;
        diagnostic.exit_code = SCRIPT;
        diagnostic.message = value.to_string();
        if value.is_unit() || diagnostic.message.is_empty() {
            diagnostic.message = "the script threw an error without a message".into();
        }
        if let Ok(map) = value.as_map_ref() {
            let text = |key: &str| map.get(key).filter(|value| !value.is_unit()).map(ToString::to_string);
            if let Some(message) = text("message") {
                diagnostic.message = lowered(message.lines().next().unwrap_or_default());
            }
            diagnostic.hint = text("hint");
        }
    }

    fn script_error(&mut self, error: &EvalAltResult) {
        use EvalAltResult as E;
        let text = self.sources.text(&self.file).unwrap_or_default();
        let (message, hint) = Words::new(self.engine, text).explain(error);
        self.diagnostic.message = message;
        self.diagnostic.hint = hint;
        self.diagnostic.exit_code = match error {
            E::ErrorParsing(..) => 65,
            _ => SCRIPT,
        };
        self.place(error.position());
        if let (E::ErrorParsing(what, _), Some(location)) = (error, &mut self.diagnostic.location) {
            let text = self.sources.text(&location.file).unwrap_or_default();
            location.column = mistakes::column(what, &text, location.line, location.column);
            // The end of the text is shown at the end of its last line.
            let last = text.trim_end();
            let count = last.lines().count();
            if count > 0 && location.line > count {
                (location.line, location.column) = (count, last.lines().last().unwrap_or_default().chars().count());
            }
        }
    }

    fn frame(&mut self, how: &'static str, position: Position) {
        if let Some(from) = self.at(position) {
            self.diagnostic.trail.push(Frame { how, from, within: self.function.clone() });
        }
    }

    fn place(&mut self, position: Position) {
        self.diagnostic.location = self.at(position);
    }

    fn at(&self, position: Position) -> Option<Location> {
        let line = position.line()?;
        Some(Location { file: self.file.clone(), line, column: position.position().unwrap_or(1).max(1) })
    }
}

fn inner_script_error(error: &Error) -> Option<&EvalAltResult> {
    match error.what() {
        What::InScript { error, .. } => {
            error.downcast_ref::<Box<EvalAltResult>>().map(Box::as_ref).or_else(|| error.downcast_ref())
        }
        _ => None,
    }
}
