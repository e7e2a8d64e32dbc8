//! How a run is cut into epochs and updates, and the walk through them.
//!
//! Arguments and the number of rows flow in; each window of batches is handed to the trainer's `step`. The cut may change
//! while the run goes on, at the end of an epoch: it is counted from an [`Origin`], which a checkpoint keeps.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cancel;
use crate::error::Result;
use crate::head::prepare::Prepared;
use crate::train::callbacks::{Event, Extra, TrainerControl};
use crate::train::checkpoint::progress::{Position, Progress};
use crate::train::loader::Layout;
use crate::train::param_groups::GroupRates;
use crate::train::state::TrainerState;
use crate::train::trainer::{Hooks, Run, TrainOutput, Trainer};

/// From where epochs are counted: the run's beginning, or the epoch in which the size of a batch changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The epoch.
    pub epoch: usize,
    /// The updates that were made before it, or before the change within it.
    pub step: usize,
    /// What of the epoch had been used, where the change came within it: a run that goes on with batches of another size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
}

/// An epoch of which a part was used before batches changed. Each of its rows is used once all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// What its order comes from.
    pub layout: Layout,
    /// The rows of that order that were used.
    pub rows: usize,
}

impl Origin {
    /// What of `epoch` had been used before.
    pub(super) fn begun(&self, epoch: usize) -> Option<Begun> {
        self.begun.filter(|_| epoch == self.epoch)
    }
}

/// The cut of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Batches of each epoch from the origin on; the last number counts for all that follow.
    n_batches: Vec<usize>,
    /// Batches of an update.
    accumulation: usize,
    /// Updates in all.
    pub(super) max_steps: usize,
    /// Epochs in all, the last one perhaps in part.
    pub(super) n_epochs: usize,
    pub(super) origin: Origin,
}

impl Plan {
    /// Batches of an epoch.
    fn n_batches(&self, epoch: usize) -> usize {
        let place = (epoch - self.origin.epoch).min(self.n_batches.len() - 1);
        self.n_batches[place]
    }

    /// Updates of an epoch.
    fn n_updates(&self, epoch: usize) -> usize {
        self.n_batches(epoch).div_ceil(self.accumulation)
    }

    /// The updates of the run before an epoch.
    fn begins(&self, epoch: usize) -> usize {
        let known = epoch.min(self.origin.epoch + self.n_batches.len());
        let listed: usize = (self.origin.epoch..known).map(|epoch| self.n_updates(epoch)).sum();
        self.origin.step + listed + (epoch - known) * self.n_updates(epoch)
    }

    /// The epoch in which the update after `step` is made.
    fn epoch_of(&self, step: usize) -> usize {
        let mut left = step.saturating_sub(self.origin.step);
        for (place, n_batches) in self.n_batches.iter().enumerate() {
            let n_updates = n_batches.div_ceil(self.accumulation);
            if left < n_updates {
                return self.origin.epoch + place;
            }
            left -= n_updates;
        }
        let known = self.origin.epoch + self.n_batches.len();
        known + left / self.n_updates(known)
    }
}

impl Trainer {
    /// The cut that the arguments say, for these rows.
    pub(super) fn plan(&self, prepared: &Prepared, origin: Origin) -> Result<Plan> {
        let args = &self.settings.args;
        let accumulation = args.gradient_accumulation_steps;
        let mut plan = Plan { n_batches: Vec::new(), accumulation, max_steps: 0, n_epochs: origin.epoch + 1, origin };
        let last_epoch = (args.num_train_epochs.ceil() as usize).max(origin.epoch + 1);
        let mut updates = origin.step;
        loop {
            let epoch = origin.epoch + plan.n_batches.len();
            plan.n_batches.push(self.n_batches(epoch, prepared, origin)?);
            updates += plan.n_updates(epoch);
            let is_enough =
                if args.max_steps > 0 { updates >= args.max_steps as usize } else { epoch + 1 >= last_epoch };
            if is_enough || (self.layout().is_same_each_epoch() && origin.begun(epoch).is_none()) {
                break;
            }
        }
        if args.max_steps > 0 {
            plan.max_steps = args.max_steps as usize;
            plan.n_epochs = match plan.max_steps.checked_sub(origin.step) {
                None | Some(0) => origin.epoch,
                Some(_) => plan.epoch_of(plan.max_steps - 1) + 1,
            };
        } else {
            plan.n_epochs = args.num_train_epochs.ceil() as usize;
            plan.max_steps = match plan.n_batches.as_slice() {
                [_] => {
                    let epochs = (args.num_train_epochs - origin.epoch as f64).max(0.0);
                    origin.step + (epochs * plan.n_updates(origin.epoch) as f64).ceil() as usize
                }
                _ => {
                    // A product like 0.1 * 30 may be a rounding above a whole number.
                    let part = args.num_train_epochs.fract() * plan.n_updates(plan.n_epochs - 1) as f64;
                    plan.begins(args.num_train_epochs as usize) + (part - 1e-6).ceil() as usize
                }
            };
        }
        Ok(plan)
    }

    /// Trains, and not as a dry run.
    pub(super) fn train_whole(&mut self, resume: Option<PathBuf>, hooks: &mut Hooks<'_>) -> Result<TrainOutput> {
        let started = Instant::now();
        let dataset = self.training_set()?;
        self.claim()?;
        let prepared = self.prepared(&dataset, hooks)?;
        let args = self.settings.args.clone();
        let _precision = self.precision(hooks);
        self.note_long_rows(&prepared, hooks);
        let plan = self.plan(&prepared, Origin::default())?;
        self.state = TrainerState::new(self.trial.as_ref());
        self.control = TrainerControl::default();
        let schedule = args.schedule(plan.max_steps)?;
        let parameters = self.settings.model.parameters();
        let budget = self.budget(&prepared, 0..plan.n_epochs)?;
        let mut run = Run {
            budget,
            optimizer: self.new_optimizer()?,
            groups: GroupRates::new(parameters, &args.param_groups, args.learning_rate, &schedule)?,
            schedule,
            plan,
            prepared,
            next_epoch: Vec::new(),
            progress: Progress::default(),
            saved: None,
            started,
            gradients_are_complete: false,
            exchanges: self.settings.model.parameters().exchanges(),
        };
        if let Some(from) = &resume {
            self.resume(from, &mut run, hooks)?;
        }
        self.state.plan(&args, run.plan.max_steps, run.plan.n_epochs);
        if self.lock.is_some() {
            self.check_room(hooks)?;
        }
        self.control.new_training();
        self.announce(Event::TrainBegin, hooks, &Extra::default())?;
        let start_step = self.state.global_step;
        // A step that a signal comes upon is finished.
        let finishing = cancel::finish_first();
        let result = self.epochs(resume.is_some(), &mut run, hooks);
        self.save_what_was_made(result, &mut run, hooks)?;
        let output = self.finish(&mut run, start_step, hooks);
        drop(finishing);
        output
    }

    /// The epochs that are left.
    fn epochs(&mut self, is_resumed: bool, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        if self.settings.args.eval_on_start && !is_resumed {
            self.evaluate(None, hooks)?;
        }
        self.catch_up(run, hooks)?;
        let Position { mut epoch, mut updates, ended, .. } = run.progress.position;
        if ended {
            (epoch, updates) = (epoch + 1, 0);
        }
        while epoch < run.plan.n_epochs && !(ended && self.control.should_training_stop) {
            self.epoch(epoch, updates, run, hooks)?;
            if self.control.should_training_stop {
                break;
            }
            (epoch, updates) = (epoch + 1, 0);
            self.take_up_next_epoch(epoch, run, hooks)?;
        }
        Ok(())
    }

    /// One epoch, from its `skip`-th update on.
    fn epoch(&mut self, epoch: usize, skip: usize, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        let prepared = run.prepared.clone();
        let n_batches = run.plan.n_batches(epoch);
        let accumulation = run.plan.accumulation;
        let cut = self.cut(epoch, &prepared, run.plan.origin);
        let used_before = run.plan.origin.begun(epoch).map_or(0, |begun| begun.rows);
        let share_before = used_before as f64 / prepared.features.len() as f64;
        let rows = used_before + cut.n_rows_in(skip * accumulation);
        run.progress.position = Position { epoch, updates: skip, rows, ..Position::default() };
        self.control.new_epoch();
        self.announce(Event::EpochBegin, hooks, &Extra::default())?;
        for number in skip.. {
            let Some(window) = cut.window(number, accumulation) else { break };
            self.between_updates(run, hooks)?;
            hooks.refuse_to_go_on()?;
            if self.control.should_training_stop {
                break;
            }
            self.control.new_step();
            self.announce(Event::StepBegin, hooks, &Extra::default())?;
            self.admit(&window, &prepared, &mut run.budget)?;
            self.step(&window, run, hooks)?;
            self.state.global_step += 1;
            let done = number * accumulation + window.len();
            run.progress.position.updates = number + 1;
            run.progress.position.rows = used_before + cut.n_rows_in(done);
            self.state.epoch = epoch as f64 + share_before + (1.0 - share_before) * done as f64 / n_batches as f64;
            self.announce(Event::StepEnd, hooks, &Extra::default())?;
            self.log_evaluate_save(run, hooks)?;
            hooks.refuse_to_go_on()?;
            if self.control.should_epoch_stop || self.control.should_training_stop {
                break;
            }
        }
        run.progress.position.ended = true;
        self.announce(Event::EpochEnd, hooks, &Extra::default())?;
        self.log_evaluate_save(run, hooks)
    }
}
