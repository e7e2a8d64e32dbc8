//! What a run is asked for while it goes on, and what a changed script or plugin is by then: a version that can be tried.

use std::collections::BTreeMap;
use std::sync::Arc;

use rhai::{Module, Shared as Counted};
use serde_json::Value as Json;

use crate::data::Value;
use crate::error::{Error, Result};
use crate::head::rebuild::Back;
use crate::plugin::Plugin;
use crate::train::ledger::FileChange;
use crate::train::live_arguments::RatePolicy;

/// What a run is asked for.
pub enum Request {
    /// Scripts have changed.
    Edit(Box<Edit>),
    /// Arguments are to change.
    Set(Vec<(String, Value)>, RatePolicy, Answer),
    /// An evaluation now.
    Evaluate(Answer),
    /// A checkpoint now.
    Save(Answer),
    /// The end of training.
    Stop(Answer),
    /// A pause, or its end.
    Pause(Answer),
    /// Where the run stands.
    Status(Answer),
}

/// Where the answer to a request goes.
pub type Answer = Box<dyn FnOnce(Result<Json>) + Send>;

/// An answer that nobody waits for.
pub fn unanswered() -> Answer {
    Box::new(|_| {})
}

/// A change of scripts, looked at as far as it can be without running it.
#[derive(Default)]
pub struct Edit {
    /// The scripts and the plugins.
    pub files: Vec<FileChange>,
    /// Their texts now, for the run's folder.
    pub texts: Vec<String>,
    /// The contents of plugins that were built anew, by their digests, for the run's folder.
    pub builds: Vec<(String, Arc<[u8]>)>,
    /// The functions that differ.
    pub functions: Vec<String>,
    /// The version to try, where functions differ.
    pub version: Option<Arc<Version>>,
    /// The arguments that differ.
    pub arguments: Vec<(String, Value)>,
    /// Notices for people: closures that stay, and the like.
    pub notices: Vec<String>,
    /// Why it needs the recipe to run again, where it does.
    pub restart: Option<String>,
    /// Why it was refused before it was tried.
    pub refused: Option<Shown>,
}

/// An error as people see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// With the line of the script.
    pub rendered: String,
    /// On one line, with its place.
    pub message: String,
}

/// Shows errors with the lines of the scripts as they are now.
pub type Shows = Box<dyn Fn(&Error) -> Shown + Send + Sync>;

/// One version of a run's scripts and plugins.
pub struct Version {
    /// The recipe's functions; none for the version that the run began with.
    pub functions: Option<Counted<Module>>,
    /// The recipe's imports by name.
    pub imports: Vec<(String, Counted<Module>)>,
    /// The texts of all scripts by name.
    pub texts: BTreeMap<String, Arc<str>>,
    /// The builds of all plugins by the files they were built as.
    pub libraries: BTreeMap<String, Arc<Plugin>>,
    /// Makes the version's texts those of later imports, and its tasks those of the models. Gives what there is to say of it.
    pub install: Box<dyn Fn() -> Result<Option<String>> + Send + Sync>,
    /// Gives the models back the heads that they had before.
    pub undo: Box<dyn Fn(Back) + Send + Sync>,
}
