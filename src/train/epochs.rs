//! How a run is cut into epochs and updates, and the walk through them.
//!
//! Arguments and the number of rows flow in; each window of batches is handed to the trainer's `step`. The cut may change
//! while the run goes on, at the end of an epoch: it is counted from an [`Origin`], which a checkpoint keeps.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::train::callbacks::{Event, Extra, TrainerControl};
use crate::train::param_groups::GroupRates;
use crate::train::state::TrainerState;
use crate::train::trainer::{Hooks, Run, TrainOutput, Trainer};
use crate::train::{SaveInterval, checkpoint};

/// From where epochs are counted: the run's beginning, or the epoch in which the size of a batch changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The epoch.
    pub epoch: usize,
    /// The updates that were made before it.
    pub step: usize,
}

/// The cut of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Batches of an epoch.
    pub(super) n_batches: usize,
    /// Updates of an epoch.
    pub(super) updates_per_epoch: usize,
    /// Updates in all.
    pub(super) max_steps: usize,
    /// Epochs in all, the last one perhaps in part.
    pub(super) n_epochs: usize,
    pub(super) origin: Origin,
}

impl Plan {
    /// The epoch in which the update after `step` is made.
    fn epoch_of(&self, step: usize) -> usize {
        self.origin.epoch + step.saturating_sub(self.origin.step) / self.updates_per_epoch
    }

    /// The updates of `epoch` that are among the first `step` of the run.
    fn updates_before(&self, epoch: usize, step: usize) -> usize {
        let begins = self.origin.step + (epoch - self.origin.epoch) * self.updates_per_epoch;
        if self.epoch_of(step) == epoch { step.saturating_sub(begins) } else { 0 }
    }
}

impl Trainer {
    /// The cut that the arguments say, for `n` rows.
    pub(super) fn plan(&self, n: usize, origin: Origin) -> Result<Plan> {
        let args = &self.settings.args;
        let n_batches = self.batches_per_epoch(n)?;
        let updates_per_epoch = n_batches.div_ceil(args.gradient_accumulation_steps);
        let (max_steps, n_epochs) = if args.max_steps > 0 {
            let steps = args.max_steps as usize;
            (steps, origin.epoch + steps.saturating_sub(origin.step).div_ceil(updates_per_epoch))
        } else {
            let epochs = (args.num_train_epochs - origin.epoch as f64).max(0.0);
            (origin.step + (epochs * updates_per_epoch as f64).ceil() as usize, args.num_train_epochs.ceil() as usize)
        };
        Ok(Plan { n_batches, updates_per_epoch, max_steps, n_epochs, origin })
    }

    /// Trains, and not as a dry run.
    pub(super) fn train_whole(&mut self, resume: Option<PathBuf>, hooks: &mut Hooks<'_>) -> Result<TrainOutput> {
        let started = Instant::now();
        let dataset = self.training_set()?;
        let writes = self.settings.args.save_strategy != SaveInterval::No;
        if writes {
            checkpoint::check_writable(&self.settings.args.output_dir)?;
        }
        let prepared = self.prepared(&dataset, hooks)?;
        let args = self.settings.args.clone();
        let _precision = self.precision(hooks);
        let mut plan = self.plan(prepared.features.len(), Origin::default())?;
        self.state = TrainerState::new(self.trial.as_ref());
        self.control = TrainerControl::default();
        let schedule = args.schedule(plan.max_steps)?;
        let parameters = self.settings.model.parameters();
        let mut run = Run {
            optimizer: self.new_optimizer()?,
            groups: GroupRates::new(parameters, &args.param_groups, args.learning_rate, &schedule)?,
            schedule,
            plan,
            prepared,
            next_epoch: Vec::new(),
            rate: None,
            started,
            loss_since_log: 0.0,
            loss_total: 0.0,
            last_logged_step: 0,
            grad_norm: 0.0,
            learning_rate: 0.0,
            skipped_since_log: 0,
            skipped: 0,
            gradients_are_complete: false,
        };
        if let Some(folder) = resume {
            let loaded = checkpoint::load(&self.settings.model, &folder, &mut run.optimizer)?;
            self.state = loaded.state;
            run.loss_total = loaded.loss_total;
            run.last_logged_step = loaded.last_logged_step;
            run.loss_since_log = loaded.loss_since_log;
            run.skipped_since_log = loaded.skipped_since_log;
            run.skipped = loaded.skipped;
            if loaded.origin != Origin::default() || loaded.rate.is_some() {
                plan = self.plan(run.prepared.features.len(), loaded.origin)?;
                run.plan = plan;
                run.rate = loaded.rate;
                run.schedule = self.schedule_of(run.rate.as_ref(), plan.max_steps)?;
                run.groups = GroupRates::new(parameters, &args.param_groups, args.learning_rate, &run.schedule)?;
            }
            if let Some(state) = &loaded.schedule {
                run.schedule.load_state(state)?;
            }
            if let Some(state) = &loaded.group_schedules {
                run.groups.load_state(state)?;
            }
            self.load_callback_states(hooks)?;
            hooks.note(&format!("resumed from {} at step {}", folder.display(), self.state.global_step));
        }
        self.state.plan(&args, plan.max_steps, plan.n_epochs);
        self.control.new_training();
        self.announce(Event::TrainBegin, hooks, &Extra::default())?;
        if args.eval_on_start {
            self.evaluate(None, hooks)?;
        }
        let start_step = self.state.global_step;
        let mut epoch = run.plan.epoch_of(start_step);
        while epoch < run.plan.n_epochs {
            let skip = run.plan.updates_before(epoch, self.state.global_step);
            self.epoch(epoch, skip, &mut run, hooks)?;
            if self.control.should_training_stop {
                break;
            }
            epoch += 1;
            self.take_up_next_epoch(epoch, &mut run, hooks)?;
        }
        self.finish(&mut run, start_step, hooks)
    }

    /// One epoch, from its `skip`-th update on.
    fn epoch(&mut self, epoch: usize, skip: usize, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        self.control.new_epoch();
        self.announce(Event::EpochBegin, hooks, &Extra::default())?;
        let prepared = run.prepared.clone();
        let n_batches = run.plan.n_batches;
        let size = self.settings.args.per_device_train_batch_size;
        let accumulation = self.settings.args.gradient_accumulation_steps;
        let order = self.layout().order(epoch, &prepared);
        let batches: Vec<&[usize]> = order.chunks(size).take(n_batches).collect();
        for (number, window) in batches.chunks(accumulation).enumerate().skip(skip) {
            self.between_updates(run, hooks)?;
            if self.control.should_training_stop {
                break;
            }
            self.control.new_step();
            self.announce(Event::StepBegin, hooks, &Extra::default())?;
            self.step(window, run, hooks)?;
            self.state.global_step += 1;
            self.state.epoch = epoch as f64 + (number * accumulation + window.len()) as f64 / n_batches as f64;
            self.announce(Event::StepEnd, hooks, &Extra::default())?;
            self.log_evaluate_save(run, hooks)?;
            if self.control.should_epoch_stop || self.control.should_training_stop {
                break;
            }
        }
        self.announce(Event::EpochEnd, hooks, &Extra::default())?;
        self.log_evaluate_save(run, hooks)
    }
}
