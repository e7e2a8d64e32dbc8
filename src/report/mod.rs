//! What people and programs see: lines, progress bars, JSON events.
//!
//! A [`Reporter`] is a cheap handle to one destination. In text mode, lines go to stdout and progress,
//! notes and warnings to stderr; with `--json`, stdout carries one JSON object a line and people's text goes to stderr.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

/// How the command line wants to be answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// One JSON object a line on stdout, people's text on stderr.
    pub json: bool,
    /// Only what the script prints.
    pub quiet: bool,
}

/// Where everything that is shown goes. Cheap to clone; all clones write to the same place, one line at a time.
#[derive(Clone, Debug)]
pub struct Reporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    output: Option<Output>,
    captured: Mutex<String>,
}

impl Reporter {
    /// A reporter for the command line.
    pub fn terminal(output: Output) -> Self {
        Reporter(Arc::new(Inner { output: Some(output), captured: Mutex::default() }))
    }

    /// A reporter that keeps what it is given, for tests; [`Reporter::captured`] returns it.
    pub fn capture() -> Self {
        Reporter(Arc::new(Inner { output: None, captured: Mutex::default() }))
    }

    /// What a reporter made by [`Reporter::capture`] was given.
    pub fn captured(&self) -> String {
        self.0.captured.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A line for people: a script's `print`, a table, the summary. Shown even with `--quiet`.
    pub fn line(&self, text: &str) {
        self.write(text, self.0.output.is_some_and(|output| !output.json));
    }

    /// A line for people that `--quiet` leaves out: loading reports, progress notes.
    pub fn note(&self, text: &str) {
        if !self.0.output.is_some_and(|output| output.quiet) {
            self.write(text, false);
        }
    }

    /// A warning, on stderr and as a JSON event.
    pub fn warning(&self, text: &str) {
        self.write(&format!("warning: {text}"), false);
    }

    /// A JSON event: `{"event": name, ...body}`. In text mode nothing is printed.
    pub fn event(&self, name: &str, body: Map<String, Value>) {
        if self.0.output.is_some_and(|output| output.json) {
            let mut event = Map::from_iter([("event".to_string(), Value::from(name))]);
            event.extend(body);
            self.write(&Value::Object(event).to_string(), true);
        }
    }

    /// The last event, `result`.
    pub fn finish(&self) {
        self.event("result", Map::new());
    }

    fn write(&self, text: &str, to_stdout: bool) {
        let mut captured = self.0.captured.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody is left to read: there is nothing to do about it.
        let _ = match self.0.output {
            None => {
                captured.push_str(text);
                captured.push('\n');
                Ok(())
            }
            Some(_) if to_stdout => writeln!(std::io::stdout(), "{text}"),
            Some(_) => writeln!(std::io::stderr(), "{text}"),
        };
    }
}

impl Reporter {
    /// Stub.
    pub fn loading(&self, report: &crate::head::LoadReport) {
        self.note(&format!("{report:?}"));
    }
    /// Stub.
    pub fn saved(&self, path: &std::path::Path) {
        self.note(&format!("saved {}", path.display()));
    }
    /// Stub.
    pub fn set_result(&self, _key: &str, _value: Value) {}
}

/// Stub.
pub struct RunCallback(Reporter);
impl RunCallback {
    /// Stub.
    pub fn new(reporter: Reporter, _bars: bool) -> Self {
        RunCallback(reporter)
    }
}
impl crate::train::callbacks::Callback for RunCallback {
    fn on_event(
        &mut self,
        event: crate::train::callbacks::Event,
        _args: &crate::train::TrainingArguments,
        _state: &mut crate::train::state::TrainerState,
        _control: &mut crate::train::callbacks::TrainerControl,
        extra: &crate::train::callbacks::Extra,
    ) -> crate::error::Result<()> {
        if event == crate::train::callbacks::Event::Log {
            self.0.note(&Value::Object(extra.logs.cloned().unwrap_or_default()).to_string());
        }
        Ok(())
    }
}
