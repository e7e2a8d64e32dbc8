//! The dry run, Lightning's `fast_dev_run`: a few batches through everything that a recipe does, to find its mistakes before
//! the long run does.
//!
//! Training and each evaluation see the first batches alone. Metrics and callbacks run; nothing is saved, and no best model
//! is loaded.

use std::path::PathBuf;

use crate::error::Result;
use crate::train::trainer::{Hooks, TrainOutput, Trainer};
use crate::train::{Interval, SaveInterval, TrainingArguments};

impl Trainer {
    /// Trains, from the start or from a checkpoint.
    ///
    /// # Errors
    /// No training set, rows that cannot be encoded, a loss that is not finite, a folder that cannot be written to, and
    /// what scripts raise.
    pub fn train(&mut self, resume: Option<PathBuf>, hooks: &mut Hooks<'_>) -> Result<TrainOutput> {
        let result = match self.settings.args.fast_dev_run.batches() {
            Some(n_batches) => self.dry_run(n_batches, hooks),
            None => self.train_whole(resume, hooks),
        };
        self.lock = None;
        result
    }

    /// Trains for `n_batches`, evaluates, and leaves the arguments as they were.
    pub(super) fn dry_run(&mut self, n_batches: usize, hooks: &mut Hooks<'_>) -> Result<TrainOutput> {
        let batches = if n_batches == 1 { "one batch".to_string() } else { format!("{n_batches} batches") };
        hooks.note(&format!(
            "`fast_dev_run`: a dry run of {batches} of training and of evaluation, without checkpoints"
        ));
        let evaluates = self.settings.eval_dataset.is_some();
        let dry = arguments(&self.settings.args, evaluates);
        let whole = std::mem::replace(&mut self.settings.args, dry);
        let result = self.train_whole(None, hooks);
        self.settings.args = whole;
        let output = result?;
        hooks.note("`fast_dev_run`: everything ran; leave it out to train");
        Ok(output)
    }
}

/// The arguments of a dry run: one short epoch, each step logged, an evaluation at its end.
fn arguments(args: &TrainingArguments, evaluates: bool) -> TrainingArguments {
    let mut dry = args.clone();
    (dry.num_train_epochs, dry.max_steps) = (1.0, -1);
    (dry.logging_strategy, dry.logging_steps) = (Interval::Steps, 1.0);
    dry.eval_strategy = if evaluates { Interval::Epoch } else { Interval::No };
    dry.eval_delay = 0.0;
    dry.save_strategy = SaveInterval::No;
    dry
}
