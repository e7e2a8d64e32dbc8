//! What people and programs see: lines, progress bars, JSON events, the final result.
//!
//! A [`Reporter`] is a cheap handle to one destination. In text mode, lines go to stdout and progress,
//! notes and warnings to stderr; with `--json`, stdout carries one JSON object a line and people's text goes
//! to stderr. Whatever is written while a bar is shown appears above it. JSON has no NaN and no infinity: they
//! are null in events. Plain names and maps flow in; `callback` alone knows the trainer.
//!
//! - `streams`: where text goes, and how it keeps clear of the bars
//! - `lines`: how numbers and log lines look
//! - `callback`: the trainer's events, shown
//! - `progress`: the bars and lines of a training run
//! - `prompt`: a line in which somebody types
//! - `load`: the report on loaded weights
//! - `trials`: the trials of a search, and their table
//! - `plot`: the learning-rate finder's curve
//! - `record`: the result of a run and its summary
//! - `clock`: when the process began

mod callback;
pub mod clock;
mod lines;
mod load;
mod plot;
mod progress;
mod prompt;
mod record;
mod streams;
mod trials;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

pub use crate::head::LoadReport;
pub use callback::RunCallback;
pub use progress::{Evaluation, Progress};
pub use prompt::Prompt;
pub use streams::{Captured, Streams};

use record::Record;
use streams::Screen;

/// How things are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// `--json`: events on stdout, people's text on stderr.
    pub json: bool,
    /// `--quiet`: no bars, notes, log lines or summary.
    pub quiet: bool,
}

/// Whether bars are drawn where stderr is a terminal; Hugging Face's `disable_tqdm` leaves them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bars {
    /// They are.
    Shown,
    /// They are not.
    Hidden,
}

/// Where everything that is shown goes. Cheap to clone; all clones write to the same place, one line at a time.
#[derive(Clone)]
pub struct Reporter(Arc<Shared>);

struct Shared {
    output: Output,
    screen: Screen,
    record: Mutex<Record>,
    loads_are_noted: AtomicBool,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reporter").field(&self.0.output).finish()
    }
}

impl Reporter {
    /// A reporter to the process's stdout and stderr, with bars where stderr is a terminal.
    pub fn terminal(output: Output) -> Self {
        Reporter::with(output, Screen::terminal(!output.quiet))
    }

    /// A text reporter that keeps what it is given, for tests; [`Reporter::captured`] returns it.
    pub fn capture() -> Self {
        Reporter::capture_as(Output::default())
    }

    /// As [`Reporter::capture`], with settings.
    pub fn capture_as(output: Output) -> Self {
        Reporter::with(output, Screen::capture())
    }

    /// A reporter to streams of one's own. Bars are drawn whenever something changes, on no timer.
    pub fn to_streams(output: Output, streams: Streams) -> Self {
        Reporter::with(output, Screen::to_streams(streams, !output.quiet))
    }

    fn with(output: Output, screen: Screen) -> Self {
        Reporter(Arc::new(Shared { output, screen, record: Mutex::default(), loads_are_noted: true.into() }))
    }

    /// How things are shown.
    pub fn output(&self) -> Output {
        self.0.output
    }

    /// What was written so far, where the reporter was made by [`Reporter::capture`]; empty otherwise.
    pub fn captured(&self) -> Captured {
        self.0.screen.captured()
    }

    /// A line for people: a script's `print`, a table. Shown even with `--quiet`.
    pub fn line(&self, text: &str) {
        if self.0.output.json { self.0.screen.stderr(text) } else { self.0.screen.stdout(text) }
    }

    /// A line for people that `--quiet` leaves out: loading reports, progress notes.
    pub fn note(&self, text: &str) {
        if !self.0.output.quiet {
            self.0.screen.stderr(text);
        }
    }

    /// A warning, on stderr and as the JSON event `warning`. Shown even with `--quiet`.
    pub fn warning(&self, text: &str) {
        let title = self.0.screen.painted("warning:", console::Style::new().yellow().bold());
        self.0.screen.stderr(&format!("{title} {text}"));
        self.event("warning", Map::from_iter([("message".to_string(), text.into())]));
    }

    /// An error: the rendered diagnostic on stderr, and the JSON event `error` with `body`.
    pub fn error(&self, rendered: &str, body: Map<String, Value>) {
        self.0.screen.stderr(rendered);
        self.event("error", body);
    }

    /// A JSON event: `{"event": name, ...body}`. In text mode nothing is printed.
    pub fn event(&self, name: &str, body: Map<String, Value>) {
        if self.0.output.json {
            let mut event = Map::from_iter([("event".to_string(), Value::from(name))]);
            event.extend(body.into_iter().filter(|(key, _)| key != "event"));
            self.0.screen.stdout(&Value::Object(event).to_string());
        }
    }

    /// Reports on loaded weights: a few lines for people, and the event `load` with every name.
    pub fn loading(&self, report: &LoadReport) {
        if self.0.loads_are_noted.load(Ordering::Relaxed) {
            self.note(&load::text(report));
        }
        self.event("load", load::body(report));
    }

    /// Whether people are told of loaded weights from now on; a trainer that makes the same model again and again says it once.
    pub fn note_loads(&self, noted: bool) {
        self.0.loads_are_noted.store(noted, Ordering::Relaxed);
    }

    /// Starts the bar of a training run of `total_steps` optimizer steps, of which `resumed_at` are done already.
    pub fn training(&self, total_steps: usize, resumed_at: usize) -> Progress {
        Progress::start(self.clone(), Bars::Shown, total_steps, resumed_at)
    }

    /// Starts the bar of an evaluation, below any other. `what` is its title: `evaluate`, `predict`.
    pub fn evaluation(&self, total_batches: usize, what: &str) -> Evaluation {
        Evaluation::start(self, total_batches, what)
    }

    /// Reports an evaluation's metrics (`eval_loss`, ...): a line, the event `evaluate`, and `metrics` of the result.
    pub fn evaluated(&self, metrics: &Map<String, Value>) {
        self.note(&lines::evaluation(metrics, 0));
        self.event("evaluate", metrics.clone());
        self.set_result("metrics", Value::Object(metrics.clone()));
    }

    /// Reports that a model or checkpoint was written: a line, and the event `save` with `path`.
    pub fn saved(&self, path: &Path) {
        self.note(&format!("saved {}", path.display()));
        self.event("save", Map::from_iter([("path".to_string(), path.display().to_string().into())]));
    }

    /// Sets an entry of the run's result: `metrics`, `train`, `output_dir`, or one of the caller's own.
    pub fn set_result(&self, key: &str, value: Value) {
        self.record(|record| record.set(key, value));
    }

    /// Notes that an optimizer step has ended; the first one gives `time_to_first_step_s`, counted from the start of
    /// the process. Cheap enough to call at every step.
    pub fn first_step_done(&self) {
        self.record(Record::first_step_done);
    }

    /// Ends the run: the summary for people, where there is one, and the event `result`. Only the first call counts.
    pub fn finish(&self) {
        let Some(record) = self.record(Record::take) else { return };
        if let Some(summary) = record.summary().filter(|_| !self.0.output.quiet) {
            self.line(&summary);
        }
        self.event("result", record.body());
    }

    /// A run begins in the same process after one has ended: it has a result of its own.
    pub fn begin_again(&self) {
        self.record(|record| *record = Record::again());
    }

    fn record<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut self.0.record.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
