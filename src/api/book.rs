//! The book of a run that may change: its ledger, and the record in its folder.
//!
//! Entries flow in; each is shown, kept, and written into the folder of the first trainer that trains, where the run is to be
//! recorded. Who listens is told of each trainer's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};

use crate::data::digest::digest;
use crate::error::Result;
use crate::report::Reporter;
use crate::train::ledger::{Entry, RunRecord, Start};
use crate::train::live_arguments::{ArgumentChange, Takes};

/// What a run is made of besides its data.
pub struct Parts {
    /// The texts of its scripts by name.
    pub texts: BTreeMap<String, Arc<str>>,
    /// The digests of its plugins by the files they were built as, and the contents.
    pub builds: BTreeMap<String, (String, Arc<[u8]>)>,
}

/// Gives the parts of a run.
pub type Reads = Box<dyn Fn() -> Parts + Send>;

/// Told of a run's folder.
pub type OnFolder = Box<dyn FnMut(&Path) + Send>;

/// The ledger, and the folder it is written to.
#[derive(Default)]
pub struct Book(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    entries: Vec<Entry>,
    /// How a run begins, where it is to be recorded.
    start: Option<(Start, Reads)>,
    /// Texts that were tried before there was a folder.
    waiting: Vec<String>,
    /// Builds that were tried before.
    waiting_builds: Vec<(String, Arc<[u8]>)>,
    record: Option<RunRecord>,
    warned: bool,
    on_folder: Option<OnFolder>,
}

impl Book {
    /// Says how a run begins, so that the first trainer that trains begins its record.
    pub fn record_as(&self, start: Start, texts: Reads) {
        self.lock().start = Some((start, texts));
    }

    /// Tells `listener` of the folder of each trainer that trains.
    pub fn on_folder(&self, listener: OnFolder) {
        self.lock().on_folder = Some(listener);
    }

    /// A trainer begins to write into `output_dir`.
    pub(super) fn begin(&self, output_dir: &str, reporter: &Reporter) {
        let mut book = self.lock();
        let folder = PathBuf::from(output_dir);
        if let Some((start, texts)) = book.start.take() {
            let Parts { texts, builds } = texts();
            // What waits to be tried is among the texts on disk alone; what runs is what is recorded.
            let scripts = texts.iter().map(|(name, text)| (name.clone(), digest(text.as_bytes()))).collect();
            let plugins = builds.iter().map(|(file, (digest, _))| (file.clone(), digest.clone())).collect();
            let start = Start { output_dir: output_dir.to_string(), scripts, plugins, ..start };
            let all = texts.values().map(ToString::to_string).chain(std::mem::take(&mut book.waiting));
            let builds = builds.into_values().chain(std::mem::take(&mut book.waiting_builds));
            let begun = RunRecord::begin(&folder, &start, all).and_then(|record| {
                builds.into_iter().try_for_each(|(digest, content)| record.keep_build(&digest, &content))?;
                // What was refused before training belongs to the run too.
                book.entries.iter().try_for_each(|entry| record.add(entry))?;
                Ok(record)
            });
            match begun {
                Ok(record) => book.record = Some(record),
                Err(error) => warn(&mut book, Err(error), reporter),
            }
        }
        if let Some(listener) = &mut book.on_folder {
            listener(&folder);
        }
    }

    /// Keeps texts of scripts in the run's folder.
    pub(super) fn keep_texts(&self, texts: &[String], reporter: &Reporter) {
        let mut book = self.lock();
        if let Some(record) = book.record.clone() {
            let kept = texts.iter().try_for_each(|text| record.keep(text));
            warn(&mut book, kept, reporter);
        } else {
            book.waiting.extend_from_slice(texts);
        }
    }

    /// Keeps builds of plugins in the run's folder.
    pub(super) fn keep_builds(&self, builds: &[(String, Arc<[u8]>)], reporter: &Reporter) {
        let mut book = self.lock();
        if let Some(record) = book.record.clone() {
            let kept = builds.iter().try_for_each(|(digest, content)| record.keep_build(digest, content));
            warn(&mut book, kept, reporter);
        } else {
            book.waiting_builds.extend_from_slice(builds);
        }
    }

    /// Writes an entry into the ledger, and shows it.
    pub fn enter(&self, entry: Entry, reporter: &Reporter) {
        reporter.note(&shown(&entry));
        if let Json::Object(body) = json!(entry) {
            reporter.event("reload", body);
        }
        let mut book = self.lock();
        let written = book.record.as_ref().map_or(Ok(()), |record| record.add(&entry));
        warn(&mut book, written, reporter);
        book.entries.push(entry);
    }

    /// The ledger so far.
    pub fn ledger(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// The entries of a run that goes on come before those of this process.
    pub(super) fn resume_ledger(&self, mut earlier: Vec<Entry>) {
        let mut book = self.lock();
        earlier.append(&mut book.entries);
        book.entries = earlier;
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warn(book: &mut Pages, written: Result<()>, reporter: &Reporter) {
    if let Err(error) = written
        && !std::mem::replace(&mut book.warned, true)
    {
        reporter.warning(&format!("the run is not recorded: {error}"));
    }
}

/// An entry on one line.
fn shown(entry: &Entry) -> String {
    let mut parts: Vec<String> = Vec::new();
    let here = std::env::current_dir().unwrap_or_default();
    let short =
        |file: &str| Path::new(file).strip_prefix(&here).map_or(file.into(), |below| below.display().to_string());
    let files: Vec<String> = entry.files.iter().map(|file| short(&file.file)).collect();
    if !files.is_empty() {
        parts.push(files.join(", "));
    }
    if !entry.functions.is_empty() {
        parts.push(entry.functions.join(", "));
    }
    let change = |change: &ArgumentChange| {
        let when = match change.takes {
            Takes::Now => "",
            Takes::NextEpoch => " from the next epoch on",
            Takes::Restart => " needs a new run and stays",
        };
        format!("{} {} -> {}{when}", change.key, change.old, change.new)
    };
    if !entry.arguments.is_empty() {
        parts.push(entry.arguments.iter().map(change).collect::<Vec<_>>().join(", "));
    }
    parts.extend(entry.action.clone());
    let message = entry.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
    format!("reload  step {}  {}: {}{message}", entry.step, parts.join(": "), entry.outcome.words())
}
