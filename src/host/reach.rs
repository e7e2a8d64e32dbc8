//! What has been called before training began, and what is called only while it goes on.
//!
//! Scripts in pieces flow in; the functions that their top levels reach, and those of tasks that make heads and features, are
//! known then. A new text of such a function comes too late for the run.

use std::collections::{BTreeMap, BTreeSet};

use crate::data::digest::digest;
use crate::host::pieces::Pieces;
use crate::host::reload::Texts;
use crate::host::sources::imported_name;
use crate::host::tasks::TaskPlace;

/// The functions of a task whose work is done when training begins.
const TASK_ROOTS: [&str; 7] = ["create", "encode", "options", "padding", "block_size", "extends", "generates"];

/// Functions by script and name.
#[derive(Debug, Default)]
pub(crate) struct Reach(BTreeSet<(String, String)>);

impl Reach {
    /// What has been called. `used` are the functions that data sets were made with.
    pub(crate) fn of(
        scripts: &BTreeMap<String, Pieces>,
        recipe: &str,
        tasks: &[TaskPlace],
        used: &BTreeSet<String>,
    ) -> Self {
        let mut reach = Reach::default();
        let is_task = |name: &str| tasks.iter().any(|task| task.paths().any(|path| path == name));
        for (name, pieces) in scripts.iter().filter(|(name, _)| *name == recipe || !is_task(name)) {
            for mention in &pieces.mentions {
                reach.follow(scripts, name, mention);
            }
        }
        used.iter().for_each(|name| reach.follow(scripts, recipe, name));
        for path in tasks.iter().flat_map(TaskPlace::paths) {
            TASK_ROOTS.iter().for_each(|name| reach.follow(scripts, path, name));
        }
        reach
    }

    /// Whether the function has been called.
    pub(crate) fn has(&self, script: &str, function: &str) -> bool {
        self.0.contains(&(script.to_string(), function.to_string()))
    }

    /// Follows a call of `mention` in `script`.
    fn follow(&mut self, scripts: &BTreeMap<String, Pieces>, script: &str, mention: &str) {
        let Some(pieces) = scripts.get(script) else { return };
        if let Some((space, function)) = mention.rsplit_once("::") {
            let imported = pieces.imports.iter().find(|(_, name)| name == space);
            if let Some((path, _)) = imported {
                self.follow(scripts, &imported_name(script, path), function);
            }
            return;
        }
        let found: Vec<_> = pieces.functions.iter().filter(|function| function.name == mention).collect();
        if found.is_empty() || !self.0.insert((script.to_string(), mention.to_string())) {
            return;
        }
        for inner in found.iter().flat_map(|function| &function.mentions) {
            self.follow(scripts, script, inner);
        }
    }
}

/// Names whose calls may give another result another time, or do something.
const IMPURE: [&str; 12] = [
    "print",
    "debug",
    "arg",
    "read_json",
    "write_json",
    "load_dataset",
    "current_update",
    "pipeline",
    "set_seed",
    "timestamp",
    "eval",
    "global",
];

/// The digest of a function of the recipe and of all that it calls in scripts; none where it is impure or not there.
pub(crate) fn fingerprint(texts: &Texts, recipe: &str, name: &str) -> Option<String> {
    let scripts: BTreeMap<String, Pieces> = texts.iter().map(|(name, text)| (name.clone(), Pieces::of(text))).collect();
    let mut reach = Reach::default();
    reach.follow(&scripts, recipe, name);
    let mut said = String::new();
    for (script, function) in &reach.0 {
        for version in scripts.get(script)?.functions.iter().filter(|known| known.name == *function) {
            if version.tokens.split(' ').any(|word| IMPURE.contains(&word)) {
                return None;
            }
            said += &format!("{script} {}\n", version.tokens);
        }
    }
    if said.is_empty() {
        return None;
    }
    // Functions of imported scripts may use what these define.
    for (_, pieces) in scripts.iter().filter(|(script, _)| *script != recipe) {
        said += &pieces.top;
    }
    Some(digest(said.as_bytes()))
}
