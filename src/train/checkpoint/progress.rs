//! What a run has to remember beside weights, moments and the trainer's state: `rng_state.json`.
//!
//! Every random draw is a function of the seed and the step, so there is no generator's state: what is kept is how far the run
//! has come, and what it was made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::train::epochs::Origin;
use crate::train::live_arguments::RateChange;
use crate::train::loader::Layout;

/// What a run needs to go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The seed of every draw.
    pub seed: u64,
    /// The updates that were made.
    pub step: usize,
    /// Where in the data.
    pub position: Position,
    /// From where epochs are counted.
    pub origin: Origin,
    /// How rows are cut into batches.
    pub layout: Option<Layout>,
    /// What is summed up between logs and over the run.
    pub totals: Totals,
    /// A rate that was set while the run went on.
    pub rate: Option<RateChange>,
    /// The state of `reduce_lr_on_plateau`.
    pub schedule: Option<Json>,
    /// Its states for `param_groups`.
    pub group_schedules: Option<Json>,
    /// What the run was made of.
    pub made_of: MadeOf,
    /// Each time that the run went on from a checkpoint, and what had changed.
    pub resumed: Vec<Resumed>,
}

/// Where in the data a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, from zero.
    pub epoch: usize,
    /// Its updates that were made since it began, or since its batches changed.
    pub updates: usize,
    /// The rows of its order that were used.
    pub rows: usize,
    /// Whether its end has been announced.
    pub ended: bool,
    /// An evaluation was due and was not finished.
    pub evaluation_is_due: bool,
    /// A checkpoint was due after it.
    pub save_is_due: bool,
}

/// What is summed up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// The losses of all updates.
    pub loss: f64,
    /// The losses since the last log.
    pub loss_since_log: f64,
    /// The step of the last log.
    pub last_logged_step: usize,
    /// The norm of the last update's gradient.
    pub grad_norm: f64,
    /// The last update's learning rate.
    pub learning_rate: f64,
    /// Updates left out by `nan_policy: "skip"`: no loss of theirs is counted.
    pub skipped: usize,
    /// Those since the last log.
    pub skipped_since_log: usize,
}

/// What a run was made of, by digests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOf {
    /// The rows of the training set.
    pub data: String,
    /// The scripts by name; their texts are in `scripts/`.
    pub scripts: BTreeMap<String, String>,
    /// The plugin of the task.
    pub plugin: Option<Json>,
}

/// A run that went on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// The updates that were made before.
    pub step: usize,
    /// What had changed, in words.
    pub changed: Vec<String>,
}

impl MadeOf {
    /// What differs from `now`, in words.
    pub fn changes(&self, now: &MadeOf) -> Vec<String> {
        let mut changes = Vec::new();
        for (name, text) in &now.scripts {
            match self.scripts.get(name) {
                Some(before) if before == text => {}
                Some(_) => changes.push(format!("the script {name} was edited")),
                None => changes.push(format!("the script {name} is new")),
            }
        }
        let gone = self.scripts.keys().filter(|name| !now.scripts.contains_key(*name) && !now.scripts.is_empty());
        changes.extend(gone.map(|name| format!("the script {name} is not used any more")));
        if self.data != now.data {
            changes.push("the training set has other rows".into());
        }
        if self.plugin != now.plugin {
            changes.push("the plugin is another build".into());
        }
        changes
    }
}
