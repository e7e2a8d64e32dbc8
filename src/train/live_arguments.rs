//! Arguments that change while a run goes on: which of them can, from when on, and what becomes of the learning rate.
//!
//! Pairs of a name and a value flow in at the moment between two updates; the run's arguments, its schedule and its plan
//! change, and what became of each key flows out.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::train::argument_values::choice;
use crate::train::epochs::Origin;
use crate::train::optimizer::GroupSettings;
use crate::train::output_dir;
use crate::train::param_groups::GroupRates;
use crate::train::schedule::{Schedule, ScheduleKind};
use crate::train::trainer::{Hooks, Run, Trainer};
use crate::train::{SaveInterval, TrainingArguments};

/// From when on a changed argument counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// From the next update on.
    Now,
    /// From the next epoch on.
    NextEpoch,
    /// In a new run alone.
    Restart,
}

/// Arguments that change from the next update on.
const LIVE: &[&str] = &[
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "warmup_ratio",
    "num_train_epochs",
    "max_steps",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "per_device_eval_batch_size",
    "label_smoothing_factor",
    "nan_policy",
];

/// Arguments that change with the next epoch.
const NEXT_EPOCH: &[&str] = &[
    "per_device_train_batch_size",
    "max_tokens_per_batch",
    "gradient_accumulation_steps",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "data_seed",
];

/// What the schedule is made of.
const OF_SCHEDULE: &[&str] = &[
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "warmup_ratio",
    "num_train_epochs",
    "max_steps",
];

/// From when on a change of the argument `key` counts.
pub fn takes(key: &str) -> Takes {
    if LIVE.contains(&key) {
        Takes::Now
    } else if NEXT_EPOCH.contains(&key) {
        Takes::NextEpoch
    } else {
        Takes::Restart
    }
}

choice! {
    /// What becomes of the schedule when the learning rate changes.
    pub enum RatePolicy {
        /// The curve stays, its height changes: where the rate had fallen to a half, it is half of the new one.
        KeepShape = "keep_shape",
        /// The curve begins again, without a warm-up, over the updates that are left: the rate is the new one now.
        Rewarp = "rewarp",
        /// The rate is the new one until the end.
        Constant = "constant",
    }
}

/// A rate that no longer follows the arguments alone; a checkpoint keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateChange {
    /// The policy's name.
    pub policy: String,
    /// The updates that were made before.
    pub step: usize,
    /// The rate.
    pub learning_rate: f64,
}

/// What became of one argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArgumentChange {
    /// Its name.
    pub key: String,
    /// Its value before.
    pub old: Json,
    /// Its value now.
    pub new: Json,
    /// From when on it counts.
    pub takes: Takes,
}

/// The arguments with `pairs` in place of theirs, and what differs. The pairs are checked as a recipe's are.
///
/// # Errors
/// As [`TrainingArguments::from_pairs`].
pub fn difference(
    args: &TrainingArguments,
    pairs: &[(String, Value)],
) -> Result<(TrainingArguments, Vec<ArgumentChange>)> {
    let (changed, _) = args.clone().with(pairs.to_vec())?;
    let changes = TrainingArguments::keys().filter_map(|key| {
        let (old, new) = (args.get(key)?.to_json(), changed.get(key)?.to_json());
        (old != new).then(|| ArgumentChange { key: key.into(), old, new, takes: takes(key) })
    });
    let changes = changes.collect();
    Ok((changed, changes))
}

impl Trainer {
    /// Changes arguments between two updates. Those that need a new run are left as they are.
    pub(super) fn change_arguments(
        &mut self,
        pairs: &[(String, Value)],
        policy: RatePolicy,
        run: &mut Run,
    ) -> Result<Vec<ArgumentChange>> {
        let possible = |wanted: Takes| {
            let fits = |(key, _): &&(String, Value)| takes(key) == wanted;
            pairs.iter().filter(fits).cloned().collect::<Vec<_>>()
        };
        let (_, mut changes) = difference(&self.settings.args, pairs)?;
        let (args, now) = difference(&self.settings.args, &possible(Takes::Now))?;
        args.check_evaluates(self.settings.eval_dataset.is_some())?;
        if args.save_strategy != SaveInterval::No && self.settings.args.save_strategy == SaveInterval::No {
            self.lock = Some(output_dir::claim(&args.output_dir)?);
        }
        // Whatever may fail comes before anything changes.
        let before = std::mem::replace(&mut self.settings.args, args);
        let result = self.take_up(&now, policy, run);
        if result.is_err() {
            self.settings.args = before;
        }
        result?;
        run.next_epoch.retain(|(key, _)| !pairs.iter().any(|(newer, _)| newer == key));
        run.next_epoch.extend(possible(Takes::NextEpoch));
        // A check may have changed another argument along with those that were given.
        changes.retain(|change| takes(&change.key) != Takes::Now);
        changes.extend(now);
        Ok(changes)
    }

    fn take_up(&mut self, changes: &[ArgumentChange], policy: RatePolicy, run: &mut Run) -> Result<()> {
        let has = |keys: &[&str]| changes.iter().any(|change| keys.contains(&change.key.as_str()));
        let plan = self.plan(&run.prepared, run.plan.origin)?;
        if has(OF_SCHEDULE) {
            let rate = match policy {
                RatePolicy::KeepShape => None,
                other if has(&["learning_rate"]) => Some(RateChange {
                    policy: other.as_str().into(),
                    step: self.state.global_step,
                    learning_rate: self.settings.args.learning_rate,
                }),
                _ => run.progress.rate.clone(),
            };
            let schedule = self.schedule_of(rate.as_ref(), plan.max_steps)?;
            let args = &self.settings.args;
            let parameters = self.settings.model.parameters();
            run.groups = GroupRates::new(parameters, &args.param_groups, args.learning_rate, &schedule)?;
            (run.schedule, run.progress.rate) = (schedule, rate);
        }
        if has(&["weight_decay"]) {
            let decay = |name: &str| GroupSettings { weight_decay: self.weight_decay(name), lr_scale: 1.0 };
            run.optimizer.set_groups(decay);
        }
        let args = self.settings.args.clone();
        self.state.plan(&args, plan.max_steps, plan.n_epochs);
        run.plan = plan;
        Ok(())
    }

    /// The schedule of the arguments, or of a rate that was set while the run went on.
    pub(super) fn schedule_of(&self, rate: Option<&RateChange>, max_steps: usize) -> Result<Schedule> {
        let args = &self.settings.args;
        let Some(rate) = rate.filter(|rate| rate.learning_rate == args.learning_rate) else {
            return args.schedule(max_steps);
        };
        let none = indexmap::IndexMap::new();
        let kwargs = args.lr_scheduler_kwargs.as_ref().unwrap_or(&none);
        if rate.policy == RatePolicy::Constant.as_str() {
            let nothing = indexmap::IndexMap::new();
            return Schedule::new(ScheduleKind::Constant, &nothing, rate.learning_rate, 0, max_steps);
        }
        let left = max_steps.saturating_sub(rate.step);
        let schedule = Schedule::new(args.lr_scheduler_type, kwargs, rate.learning_rate, 0, left)?;
        Ok(schedule.beginning_at(rate.step))
    }

    /// Takes up what has waited for the epoch `epoch`.
    pub(super) fn take_up_next_epoch(&mut self, epoch: usize, run: &mut Run, hooks: &Hooks<'_>) -> Result<()> {
        let pairs = std::mem::take(&mut run.next_epoch);
        if pairs.is_empty() {
            return Ok(());
        }
        let (args, changes) = difference(&self.settings.args, &pairs)?;
        let origin = Origin { epoch, step: self.state.global_step, begun: None };
        let before = std::mem::replace(&mut self.settings.args, args);
        let plan = match self.plan(&run.prepared, origin) {
            Ok(plan) => plan,
            Err(error) => {
                self.settings.args = before;
                hooks.note(&format!("the arguments of the next epoch are left as they were: {error}"));
                return Ok(());
            }
        };
        let stretches = plan.max_steps != run.plan.max_steps;
        run.plan = plan;
        if stretches {
            run.schedule = self.schedule_of(run.progress.rate.as_ref(), run.plan.max_steps)?;
            let args = &self.settings.args;
            let parameters = self.settings.model.parameters();
            run.groups = GroupRates::new(parameters, &args.param_groups, args.learning_rate, &run.schedule)?;
        }
        let args = self.settings.args.clone();
        self.state.plan(&args, run.plan.max_steps, run.plan.n_epochs);
        let names: Vec<String> = changes.iter().map(|change| format!("{}={}", change.key, change.new)).collect();
        hooks.note(&format!("epoch {}: {}", epoch + 1, names.join(", ")));
        Ok(())
    }
}

/// The policy of that name.
///
/// # Errors
/// Another name; the error lists them.
pub fn policy(name: &str) -> Result<RatePolicy> {
    RatePolicy::ALL.iter().copied().find(|policy| policy.as_str() == name).ok_or_else(|| {
        let allowed = RatePolicy::NAMES.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let what = What::OutOfRange { name: "`lr_policy`".into(), value: format!("{name:?}"), allowed };
        Error::new(what)
    })
}
