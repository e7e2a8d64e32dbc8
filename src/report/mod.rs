//! What people and programs see: lines, progress bars, JSON events.
//!
//! A [`Reporter`] is a cheap handle to one destination. In text mode, lines go to stdout and progress,
//! notes and warnings to stderr; with `--json`, stdout carries one JSON object a line and people's text goes to stderr.

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

/// Where everything that is shown goes. Cheap to clone; all clones write to the same place, one line at a time.
#[derive(Clone, Debug)]
pub struct Reporter(Arc<Mutex<()>>);

impl Reporter {
    /// A reporter that keeps what it is given, for tests; [`Reporter::captured`] returns it.
    pub fn capture() -> Self {
        Reporter(Arc::default())
    }

    /// A line for people: a script's `print`, a table, the summary. Shown even with `--quiet`.
    pub fn line(&self, _text: &str) {}

    /// A line for people that `--quiet` leaves out: loading reports, progress notes.
    pub fn note(&self, _text: &str) {}

    /// A warning, on stderr and as a JSON event.
    pub fn warning(&self, _text: &str) {}

    /// A JSON event: `{"event": name, ...body}`. In text mode nothing is printed.
    pub fn event(&self, _name: &str, _body: Map<String, Value>) {}
}
