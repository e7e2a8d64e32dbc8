//! The ledger: every change that a run took up, refused or took back, and the folder that keeps it.
//!
//! An [`Entry`] flows in for each change; a line of `run.jsonl` in the run's folder flows out, and every text that a script of
//! the run has had, under its digest, in `scripts/`, and every build of its plugins in `plugins/`. `replay` and `bake` read them.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::data::digest::digest;
use crate::data::durable;
use crate::error::{Error, Place, Result, What};
use crate::train::live_arguments::ArgumentChange;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It counts from the update after `step` on.
    Adopted,
    /// The run went on without it.
    Refused,
    /// It was adopted, failed, and was taken back.
    RolledBack,
    /// It has no effect on the run that goes on.
    Noted,
    /// The recipe ran again from its first line.
    Restarted,
}

impl Outcome {
    /// The outcome as people read it.
    pub fn words(self) -> &'static str {
        match self {
            Outcome::Adopted => "adopted",
            Outcome::Refused => "refused",
            Outcome::RolledBack => "rolled back",
            Outcome::Noted => "noted",
            Outcome::Restarted => "the recipe runs again",
        }
    }
}

/// A script whose text changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// The script's name.
    pub file: String,
    /// The digest of its text before.
    pub old: String,
    /// The digest of its text now; empty where the file is gone.
    pub new: String,
    /// The lines that differ.
    pub diff: String,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The updates that were made before it.
    pub step: usize,
    /// What became of it.
    pub outcome: Outcome,
    /// The scripts that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileChange>,
    /// The functions that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
    /// The arguments that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<ArgumentChange>,
    /// The policy for the learning rate, where it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_policy: Option<String>,
    /// What somebody asked for: `evaluate`, `save`, `stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// What a version that was taken back had called in the update that was being made, and what counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub called: Vec<String>,
    /// Why, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Entry {
    /// An entry about nothing yet.
    pub fn new(step: usize, outcome: Outcome) -> Self {
        let (files, functions, arguments, called) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Entry { step, outcome, files, functions, arguments, called, lr_policy: None, action: None, message: None }
    }
}

/// How a run began: what `replay` needs besides the texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The recipe's name.
    pub recipe: String,
    /// The folder in which it ran.
    pub working_dir: PathBuf,
    /// `name=value` of the command line.
    pub arguments: std::collections::BTreeMap<String, String>,
    /// `--seed`.
    pub seed: Option<u64>,
    /// `--stdlib`.
    pub stdlib: Option<PathBuf>,
    /// The run's folder.
    pub output_dir: String,
    /// The digest of each script's text.
    pub scripts: std::collections::BTreeMap<String, String>,
    /// The digest of each plugin by the file it was built as.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub plugins: std::collections::BTreeMap<String, String>,
    /// The program's version.
    pub version: String,
}

/// The file of a run's record.
pub const RECORD: &str = "run.jsonl";
/// The folder of a run's texts.
pub const SCRIPTS: &str = "scripts";
/// The folder of the builds of a run's plugins.
pub const PLUGINS: &str = "plugins";

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Start(Start),
    Reload(Entry),
}

/// The folder of a run, for writing.
#[derive(Clone, Debug)]
pub struct RunRecord {
    folder: PathBuf,
}

impl RunRecord {
    /// Begins the record of a run, in place of that of an earlier one.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn begin(folder: &Path, start: &Start, texts: impl IntoIterator<Item = String>) -> Result<Self> {
        let record = RunRecord { folder: folder.to_path_buf() };
        let scripts = folder.join(SCRIPTS);
        durable::make_folder(&scripts)?;
        for text in texts {
            record.keep(&text)?;
        }
        record.write(&Line::Start(start.clone()), false)?;
        Ok(record)
    }

    /// Keeps a text under its digest.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn keep(&self, text: &str) -> Result<()> {
        let path = self.folder.join(SCRIPTS).join(format!("{}.rhai", digest(text.as_bytes())));
        if path.exists() {
            return Ok(());
        }
        durable::write_file(&path, text.as_bytes())
    }

    /// Keeps a build of a plugin under its digest.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn keep_build(&self, digest: &str, content: &[u8]) -> Result<()> {
        let path = self.folder.join(PLUGINS).join(format!("{digest}.so"));
        if std::fs::metadata(&path).is_ok_and(|known| known.len() == content.len() as u64) {
            return Ok(());
        }
        let written = std::fs::create_dir_all(self.folder.join(PLUGINS)).and_then(|()| std::fs::write(&path, content));
        written.map_err(|source| What::Write { path, source }.into())
    }

    /// Adds a line.
    ///
    /// # Errors
    /// A file that cannot be written to.
    pub fn add(&self, entry: &Entry) -> Result<()> {
        self.write(&Line::Reload(entry.clone()), true)
    }

    fn write(&self, line: &Line, append: bool) -> Result<()> {
        let path = self.folder.join(RECORD);
        let text = serde_json::to_string(line).map_err(|error| What::Internal(error.to_string()))? + "\n";
        let mut options = std::fs::OpenOptions::new();
        options.create(true).write(true).append(append).truncate(!append);
        let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| What::Write { path, source }.into())
    }
}

/// The record of a run, as it is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// How the run began.
    pub start: Start,
    /// Its changes, in order.
    pub entries: Vec<Entry>,
    folder: PathBuf,
}

impl Recorded {
    /// Reads the record in a run's folder.
    ///
    /// # Errors
    /// A folder without a record, or one that is damaged.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(RECORD);
        let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(What::NotFound { kind: "run record", name: path.display().to_string() })
                    .hint("`retune watch` and `retune run --watch` write one into the `output_dir` of the run")
            }
            _ => What::Read { path: path.clone(), source }.into(),
        })?;
        let mut recorded = Recorded { folder: folder.to_path_buf(), ..Recorded::default() };
        for (number, line) in text.lines().enumerate() {
            let read: Line = serde_json::from_str(line).map_err(|error| {
                let what = What::Malformed { format: RECORD.into(), problem: error.to_string() };
                Error::new(what).at(Place::line(&path, number + 1, None))
            })?;
            match read {
                Line::Start(start) => (recorded.start, recorded.entries) = (start, Vec::new()),
                Line::Reload(entry) => recorded.entries.push(entry),
            }
        }
        Ok(recorded)
    }

    /// The text with that digest.
    ///
    /// # Errors
    /// A text that is missing or was changed.
    pub fn text(&self, wanted: &str) -> Result<String> {
        let path = self.folder.join(SCRIPTS).join(format!("{wanted}.rhai"));
        let text = std::fs::read_to_string(&path).map_err(|source| What::Read { path: path.clone(), source })?;
        if digest(text.as_bytes()) == wanted {
            return Ok(text);
        }
        Err(Error::new(What::BadData("a script of the run was changed afterwards".into())).at(Place::file(path)))
    }

    /// Where a build of a plugin is kept.
    pub fn build_file(&self, digest: &str) -> PathBuf {
        self.folder.join(PLUGINS).join(format!("{digest}.so"))
    }

    /// The build of a plugin with that digest, where the digest is one of a build.
    ///
    /// # Errors
    /// A file that was changed.
    pub fn build(&self, wanted: &str) -> Result<Option<Vec<u8>>> {
        let path = self.build_file(wanted);
        match std::fs::read(&path) {
            Ok(content) if digest(&content) == wanted => Ok(Some(content)),
            Ok(_) => {
                Err(Error::new(What::BadData("a plugin of the run was changed afterwards".into()))
                    .at(Place::file(path)))
            }
            Err(_) => Ok(None),
        }
    }

    /// The texts with which the run began, by name.
    ///
    /// # Errors
    /// As [`Recorded::text`].
    pub fn first_texts(&self) -> Result<std::collections::BTreeMap<String, String>> {
        self.start.scripts.iter().map(|(name, digest)| Ok((name.clone(), self.text(digest)?))).collect()
    }
}

/// The entries that a checkpoint's `stateful_callbacks` hold.
pub fn entries_of(state: &Json) -> Vec<Entry> {
    serde_json::from_value(state["attributes"]["ledger"].clone()).unwrap_or_default()
}
