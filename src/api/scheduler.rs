//! `get_scheduler(name, #{ ... })`: Hugging Face's learning rate schedules for a training loop of a script's own.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;
use rhai::plugin::*;
use rhai::{Array, Map};

use crate::api::optimizer::ScriptOptimizer;
use crate::api::options::Options;
use crate::api::tensor::number;
use crate::error::{Error, Result, What, nearest};
use crate::head::script::convert::{ScriptResult, raise};
use crate::train::schedule::{Schedule, ScheduleKind};

/// A schedule as a script holds it. Cheap to clone; all clones are the same schedule.
#[derive(Clone)]
pub struct Scheduler(Arc<Shared>);

struct Shared {
    optimizer: ScriptOptimizer,
    kind: ScheduleKind,
    progress: Mutex<Progress>,
}

/// How far the schedule has come.
struct Progress {
    /// One a group of the optimizer.
    schedules: Vec<Schedule>,
    last_epoch: usize,
}

impl Scheduler {
    fn new(name: &str, options: Map) -> Result<Self> {
        let kind = ScheduleKind::NAMES.iter().zip(ScheduleKind::ALL).find(|(known, _)| **known == name);
        let Some((_, &kind)) = kind else {
            let listed = ScheduleKind::NAMES.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            let (of, value) = ("the name of `get_scheduler`".into(), format!("{name:?}"));
            let error = Error::new(What::OutOfRange { name: of, value, allowed: format!("one of {listed}") });
            return Err(match nearest(name, ScheduleKind::NAMES.iter().copied()) {
                Some(near) => error.hint(format!("did you mean {near:?}?")),
                None => error,
            });
        };
        let mut options = Options::new("`get_scheduler`", options);
        let optimizer = options.object::<ScriptOptimizer>("optimizer", "an optimizer")?;
        let optimizer =
            optimizer.ok_or_else(|| options.missing("optimizer", "give `optimizer: AdamW(model, #{ ... })`"))?;
        let warmup = options.count("num_warmup_steps", 0)?;
        let total = options.count("num_training_steps", 0)?;
        let kwargs: IndexMap<_, _> = (*options.row("scheduler_specific_kwargs")?).clone();
        options.finish()?;
        let needs = |given: Option<usize>, key: &str| {
            given.ok_or_else(|| {
                let what =
                    What::MissingOption { key: key.into(), of: format!("the schedule {name:?} of `get_scheduler`") };
                Error::new(what)
                    .hint(format!("write `{key}: ...`; the number of updates is `n_epochs * loader.num_updates`"))
            })
        };
        use ScheduleKind::{Constant, ConstantWithWarmup, InverseSqrt, ReduceLrOnPlateau, WarmupStableDecay};
        let (warmup, total) = match kind {
            Constant | ReduceLrOnPlateau => (0, 0),
            ConstantWithWarmup | InverseSqrt => (needs(warmup, "num_warmup_steps")?, total.unwrap_or(0)),
            WarmupStableDecay if kwargs.contains_key("num_stable_steps") => {
                (needs(warmup, "num_warmup_steps")?, total.unwrap_or(0))
            }
            _ => (needs(warmup, "num_warmup_steps")?, needs(total, "num_training_steps")?),
        };
        let base_lr = optimizer.lock().defaults().lr;
        let schedule = Schedule::new(kind, &kwargs, base_lr, warmup, total)?;
        let initial: Vec<f64> = optimizer.lock().groups().iter().map(|group| group.values.initial_lr).collect();
        let schedules = initial.into_iter().map(|lr| schedule.of_group(lr)).collect();
        let progress = Mutex::new(Progress { schedules, last_epoch: 0 });
        let scheduler = Scheduler(Arc::new(Shared { optimizer, kind, progress }));
        if kind != ReduceLrOnPlateau {
            scheduler.set_rates()?;
        }
        Ok(scheduler)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives each group of the optimizer the rate of its schedule.
    fn set_rates(&self) -> Result<()> {
        let progress = self.progress();
        let mut optimizer = self.0.optimizer.lock();
        for (number, schedule) in progress.schedules.iter().enumerate() {
            let weight_decay = optimizer.groups()[number].values.weight_decay;
            optimizer.set(number, schedule.lr(progress.last_epoch), weight_decay)?;
        }
        Ok(())
    }

    fn step(&self, metric: Option<f64>) -> Result<()> {
        match (self.0.kind, metric) {
            (ScheduleKind::ReduceLrOnPlateau, None) => {
                let problem = "`step` of \"reduce_lr_on_plateau\" needs the metric of an evaluation";
                return Err(Error::new(What::Conflict(problem.into())).hint("write `scheduler.step(eval_loss)`"));
            }
            (ScheduleKind::ReduceLrOnPlateau, Some(metric)) => {
                self.progress().schedules.iter_mut().for_each(|schedule| schedule.observe(metric));
            }
            (kind, Some(_)) => {
                let problem = format!("the schedule {:?} does not look at metrics", kind.as_str());
                return Err(Error::new(What::Conflict(problem)).hint("write `scheduler.step()`"));
            }
            (_, None) => {}
        }
        self.progress().last_epoch += 1;
        self.set_rates()
    }
}

/// Makes the type and its functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<Scheduler>("Scheduler");
    engine.register_global_module(exported_module!(schedulers).into());
}

#[export_module]
mod schedulers {
    /// A learning rate schedule by Hugging Face's name: `linear`, `cosine`, `polynomial`, `constant_with_warmup`, ...
    ///
    /// Options: `optimizer`, `num_warmup_steps`, `num_training_steps`, and `scheduler_specific_kwargs`, which are what
    /// `lr_scheduler_kwargs` of the training arguments are. The optimizer's groups have the rate of the first update at once.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let optimizer = AdamW(model, #{ lr: 1e-3 });
    /// let scheduler = get_scheduler("linear", #{ optimizer: optimizer, num_warmup_steps: 2, num_training_steps: 10 });
    /// expect(optimizer.param_groups[0].lr == 0.0, "a warm-up begins at 0");
    /// scheduler.step();
    /// expect(scheduler.get_last_lr() == [0.5e-3], "half-way up");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn get_scheduler(name: &str, options: Map) -> ScriptResult<Scheduler> {
        Scheduler::new(name, options).map_err(raise)
    }

    /// Goes on to the rate of the next update: called after each `optimizer.step()`.
    ///
    /// ```rhai
    /// let optimizer = AdamW(AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"), #{ lr: 1e-3 });
    /// let scheduler = get_scheduler("linear", #{ optimizer: optimizer, num_warmup_steps: 0, num_training_steps: 4 });
    /// scheduler.step();
    /// expect(scheduler.get_last_lr() == [0.75e-3], "a quarter of the way down");
    /// ```
    #[rhai_fn(name = "step", pure, return_raw)]
    pub fn step_schedule(scheduler: &mut Scheduler) -> ScriptResult<()> {
        scheduler.step(None).map_err(raise)
    }

    /// Tells `reduce_lr_on_plateau` the metric of an evaluation.
    ///
    /// ```rhai
    /// let optimizer = AdamW(AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"), #{ lr: 1e-3 });
    /// let kwargs = #{ factor: 0.5, patience: 0 };
    /// let scheduler = get_scheduler("reduce_lr_on_plateau", #{ optimizer: optimizer, scheduler_specific_kwargs: kwargs });
    /// scheduler.step(1.0);
    /// scheduler.step(1.0);
    /// expect(scheduler.get_last_lr() == [0.5e-3], "it has not improved");
    /// ```
    #[rhai_fn(name = "step", pure, return_raw)]
    pub fn step_with_metric(scheduler: &mut Scheduler, metric: Dynamic) -> ScriptResult<()> {
        number("the metric of `step`", &metric).and_then(|metric| scheduler.step(Some(metric))).map_err(raise)
    }

    /// The learning rate of each group of the optimizer, as the schedule has set it last.
    ///
    /// ```rhai
    /// let optimizer = AdamW(AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"), #{ lr: 1e-3 });
    /// expect(get_scheduler("constant", #{ optimizer: optimizer }).get_last_lr() == [1e-3], "one group");
    /// ```
    #[rhai_fn(pure)]
    pub fn get_last_lr(scheduler: &mut Scheduler) -> Array {
        let progress = scheduler.progress();
        progress.schedules.iter().map(|schedule| Dynamic::from(schedule.lr(progress.last_epoch))).collect()
    }

    /// What the schedule remembers: `last_epoch`, the number of its steps, and the state of `reduce_lr_on_plateau`.
    ///
    /// ```rhai
    /// let optimizer = AdamW(AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"));
    /// expect(get_scheduler("constant", #{ optimizer: optimizer }).state_dict().last_epoch == 0, "no step yet");
    /// ```
    #[rhai_fn(name = "state_dict", pure)]
    pub fn scheduler_state(scheduler: &mut Scheduler) -> Map {
        let progress = scheduler.progress();
        let plateaus = progress.schedules.iter().filter_map(Schedule::state);
        let plateaus = plateaus.map(|state| crate::head::script::convert::to_dynamic(&state.into())).collect();
        let last_epoch = Dynamic::from(progress.last_epoch as i64);
        Map::from([("last_epoch".into(), last_epoch), ("plateaus".into(), Dynamic::from_array(plateaus))])
    }

    /// Takes up what `state_dict` gave, and sets the rates of the optimizer.
    ///
    /// ```rhai
    /// let optimizer = AdamW(AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"), #{ lr: 1e-3 });
    /// let scheduler = get_scheduler("linear", #{ optimizer: optimizer, num_warmup_steps: 0, num_training_steps: 4 });
    /// scheduler.load_state_dict(#{ last_epoch: 3, plateaus: [] });
    /// expect(scheduler.get_last_lr() == [0.25e-3], "a quarter is left");
    /// ```
    #[rhai_fn(name = "load_state_dict", pure, return_raw)]
    pub fn load_scheduler_state(scheduler: &mut Scheduler, state: Map) -> ScriptResult<()> {
        super::load(scheduler, state).map_err(raise)
    }
}

fn load(scheduler: &Scheduler, state: Map) -> Result<()> {
    let mut options = Options::new("`load_state_dict`", state);
    let last_epoch = options.count("last_epoch", 0)?;
    let last_epoch = last_epoch.ok_or_else(|| options.missing("last_epoch", "give what `state_dict()` gave"))?;
    let plateaus = options.array("plateaus")?.unwrap_or_default();
    options.finish()?;
    {
        let mut progress = scheduler.progress();
        for (schedule, state) in progress.schedules.iter_mut().zip(&plateaus) {
            schedule.load_state(&crate::head::script::convert::from_dynamic(state)?.to_json())?;
        }
        progress.last_epoch = last_epoch;
    }
    scheduler.set_rates()
}
