//! The learning rate as a function of the step: Hugging Face's schedules, with their formulas and defaults.
//!
//! A kind, its keyword arguments, the base rate and the number of steps flow in; a rate per step flows out. All but
//! `reduce_lr_on_plateau` are pure functions of the step, so nothing of them needs saving. Steps count from zero: the
//! first update uses `lr(0)`, which is 0 where there is a warm-up.
//!
//! The formulas are those of `transformers/optimization.py` (5.23) and of torch's `ReduceLROnPlateau`.

use std::f64::consts::PI;

use indexmap::IndexMap;

use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::train::argument_values::{Argument, Refusal, choice, unknown_key};
use crate::train::plateau::{Plateau, PlateauSettings, PlateauState};

choice! {
    /// `lr_scheduler_type`: Hugging Face's names.
    pub enum ScheduleKind {
        /// Down to 0 in a straight line.
        Linear = "linear",
        /// Down to 0 along a half cosine.
        Cosine = "cosine",
        /// A cosine that starts again `num_cycles` times.
        CosineWithRestarts = "cosine_with_restarts",
        /// Down to `lr_end` as a power of what is left.
        Polynomial = "polynomial",
        /// Always the base rate, without warm-up.
        Constant = "constant",
        /// The base rate after a warm-up.
        ConstantWithWarmup = "constant_with_warmup",
        /// Falls with the inverse square root of the step.
        InverseSqrt = "inverse_sqrt",
        /// Falls whenever the metric has stopped improving.
        ReduceLrOnPlateau = "reduce_lr_on_plateau",
        /// A half cosine down to `min_lr` or `min_lr_rate`.
        CosineWithMinLr = "cosine_with_min_lr",
        /// As `cosine_with_min_lr`, with a warm-up that does not start at 0.
        CosineWarmupWithMinLr = "cosine_warmup_with_min_lr",
        /// Warm-up, plateau, and `num_decay_steps` of decay.
        WarmupStableDecay = "warmup_stable_decay",
    }
}

choice! {
    /// The form of a rise or a fall in `warmup_stable_decay`.
    pub enum Curve {
        /// A straight line.
        Linear = "linear",
        /// A half cosine.
        Cosine = "cosine",
        /// One minus a square root.
        OneMinusSqrt = "1-sqrt",
    }
}

/// A learning rate schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: ScheduleKind,
    form: Form,
    /// The optimizer's base rate: what the formulas refer to.
    base_lr: f64,
    /// The rate that is multiplied: `base_lr`, unless a group of parameters has its own.
    initial_lr: f64,
    warmup: f64,
    total: f64,
    /// The updates that were made before the schedule began.
    begin: f64,
}

/// What each form needs besides the steps.
#[derive(Clone, Debug)]
enum Form {
    Linear,
    Cosine { cycles: f64, floor: f64 },
    CosineWithRestarts { cycles: f64 },
    Polynomial { lr_end: f64, power: f64 },
    Constant,
    ConstantWithWarmup,
    InverseSqrt { timescale: f64 },
    CosineWarmup { cycles: f64, floor: f64, warmup_floor: Option<f64> },
    StableDecay { stable: f64, decay: f64, rise: Curve, fall: Curve, floor: f64, cycles: f64 },
    Plateau(Plateau),
}

impl Schedule {
    /// A schedule over `total_steps` updates of which the first `warmup_steps` rise from 0 to `base_lr`.
    ///
    /// # Errors
    /// A keyword argument that the schedule does not have, or whose value it cannot use.
    pub fn new(
        kind: ScheduleKind,
        kwargs: &IndexMap<String, Value>,
        base_lr: f64,
        warmup_steps: usize,
        total_steps: usize,
    ) -> Result<Self> {
        let mut kwargs = Kwargs::new(kind, kwargs);
        let (warmup, total) = (warmup_steps as f64, total_steps as f64);
        let form = match kind {
            ScheduleKind::Linear => Form::Linear,
            ScheduleKind::Cosine => Form::Cosine { cycles: kwargs.take("num_cycles", 0.5)?, floor: 0.0 },
            ScheduleKind::CosineWithRestarts => {
                Form::CosineWithRestarts { cycles: kwargs.take("num_cycles", 1u64)? as f64 }
            }
            ScheduleKind::Polynomial => polynomial(&mut kwargs, base_lr)?,
            ScheduleKind::Constant => Form::Constant,
            ScheduleKind::ConstantWithWarmup => Form::ConstantWithWarmup,
            ScheduleKind::InverseSqrt => {
                let default = if warmup_steps == 0 { 10_000 } else { warmup_steps };
                Form::InverseSqrt { timescale: kwargs.above_zero("timescale", default as f64)? }
            }
            ScheduleKind::CosineWithMinLr => {
                Form::Cosine { cycles: kwargs.take("num_cycles", 0.5)?, floor: kwargs.floor(base_lr)? }
            }
            ScheduleKind::CosineWarmupWithMinLr => Form::CosineWarmup {
                cycles: kwargs.take("num_cycles", 0.5)?,
                floor: kwargs.floor(base_lr)?,
                warmup_floor: kwargs.take("warmup_lr_rate", None)?,
            },
            ScheduleKind::WarmupStableDecay => stable_decay(&mut kwargs, warmup, total)?,
            ScheduleKind::ReduceLrOnPlateau => Form::Plateau(Plateau::new(plateau(&mut kwargs)?, base_lr)),
        };
        kwargs.finish()?;
        Ok(Schedule { kind, form, base_lr, initial_lr: base_lr, warmup, total, begin: 0.0 })
    }

    /// The same schedule for a group of parameters whose own base rate is `initial_lr`, as torch's schedulers have it.
    #[must_use]
    pub fn of_group(&self, initial_lr: f64) -> Self {
        let mut schedule = Schedule { initial_lr, ..self.clone() };
        if let Form::Plateau(plateau) = &mut schedule.form {
            plateau.state.lr = initial_lr;
        }
        schedule
    }

    /// The same schedule for the updates behind the first `step` of the run.
    #[must_use]
    pub fn beginning_at(self, step: usize) -> Self {
        Schedule { begin: step as f64, ..self }
    }

    /// The schedule's kind.
    pub fn kind(&self) -> ScheduleKind {
        self.kind
    }

    /// The learning rate of the update that follows `step` finished ones.
    pub fn lr(&self, step: usize) -> f64 {
        match &self.form {
            Form::Plateau(plateau) => plateau.state.lr,
            _ => self.initial_lr * self.factor((step as f64 - self.begin).max(0.0)),
        }
    }

    /// Tells `reduce_lr_on_plateau` the metric of an evaluation; the others need no telling.
    pub fn observe(&mut self, metric: f64) {
        if let Form::Plateau(plateau) = &mut self.form {
            plateau.observe(metric);
        }
    }

    /// What has to be saved: none for the schedules that are functions of the step.
    pub fn state(&self) -> Option<serde_json::Value> {
        match &self.form {
            Form::Plateau(plateau) => serde_json::to_value(&plateau.state).ok(),
            _ => None,
        }
    }

    /// Takes up what [`Schedule::state`] gave; the state of another kind of schedule is refused.
    ///
    /// # Errors
    /// A state that is not of `reduce_lr_on_plateau`.
    pub fn load_state(&mut self, state: &serde_json::Value) -> Result<()> {
        let Form::Plateau(plateau) = &mut self.form else { return Ok(()) };
        plateau.state = PlateauState::deserialize_from(state)?;
        Ok(())
    }

    /// The factor on the base rate, as `LambdaLR` has it.
    fn factor(&self, step: f64) -> f64 {
        let (warmup, total) = (self.warmup, self.total);
        let rising = step < warmup;
        // Safe for any number of steps: each divisor is at least one.
        let rise = step / warmup.max(1.0);
        let progress = (step - warmup) / (total - warmup).max(1.0);
        match &self.form {
            Form::Constant | Form::Plateau(_) => 1.0,
            Form::CosineWarmup { cycles, floor, warmup_floor } => {
                if rising {
                    return match warmup_floor {
                        None => (step + 1.0) / warmup.max(1.0),
                        Some(start) => start + (1.0 - start) * step / (warmup - 1.0).max(1.0),
                    };
                }
                let progress = (step - warmup + 1.0) / (total - warmup).max(1.0);
                lifted(half_cosine(*cycles, progress), *floor)
            }
            Form::StableDecay { stable, decay, rise: curve, fall, floor, cycles } => {
                if rising {
                    let factor = match curve {
                        Curve::Linear => rise,
                        Curve::Cosine => 0.5 * (1.0 - (PI * rise).cos()),
                        Curve::OneMinusSqrt => 1.0 - (1.0 - rise).sqrt(),
                    };
                    return lifted(factor, *floor);
                }
                if step < warmup + stable {
                    return 1.0;
                }
                if step >= warmup + stable + decay {
                    return *floor;
                }
                let progress = (step - warmup - stable) / decay.max(1.0);
                let factor = match fall {
                    Curve::Linear => 1.0 - progress,
                    Curve::Cosine => half_cosine(*cycles, progress),
                    Curve::OneMinusSqrt => 1.0 - progress.sqrt(),
                };
                lifted(factor, *floor)
            }
            _ if rising => rise,
            Form::Linear => ((total - step) / (total - warmup).max(1.0)).max(0.0),
            Form::Cosine { cycles, floor } => lifted(half_cosine(*cycles, progress), *floor),
            Form::CosineWithRestarts { cycles } if progress < 1.0 => {
                (0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos())).max(0.0)
            }
            Form::CosineWithRestarts { .. } => 0.0,
            Form::Polynomial { lr_end, power } => {
                let past_the_end = step > total || total <= warmup;
                let left = if past_the_end { 0.0 } else { 1.0 - (step - warmup) / (total - warmup) };
                ((self.base_lr - lr_end) * left.powf(*power) + lr_end) / self.base_lr
            }
            Form::ConstantWithWarmup => 1.0,
            Form::InverseSqrt { timescale } => 1.0 / ((step + (timescale - warmup)) / timescale).sqrt(),
        }
    }
}

fn half_cosine(cycles: f64, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
}

/// A factor between 0 and 1 moved to between `floor` and 1.
fn lifted(factor: f64, floor: f64) -> f64 {
    (factor * (1.0 - floor) + floor).max(0.0)
}

fn polynomial(kwargs: &mut Kwargs, base_lr: f64) -> Result<Form> {
    let lr_end = kwargs.take("lr_end", 1e-7)?;
    let power = kwargs.take("power", 1.0)?;
    if lr_end < base_lr {
        return Ok(Form::Polynomial { lr_end, power });
    }
    Err(kwargs.out_of_range("lr_end", lr_end, format!("smaller than the learning rate, {base_lr}")))
}

fn stable_decay(kwargs: &mut Kwargs, warmup: f64, total: f64) -> Result<Form> {
    let Some(decay) = kwargs.take::<Option<u64>>("num_decay_steps", None)? else {
        let what = What::Conflict("`lr_scheduler_type: \"warmup_stable_decay\"` needs `num_decay_steps`".into());
        return Err(Error::new(what).hint("write `lr_scheduler_kwargs: #{ num_decay_steps: 100 }`"));
    };
    let decay = decay as f64;
    let stable = kwargs.take::<Option<u64>>("num_stable_steps", None)?;
    Ok(Form::StableDecay {
        stable: stable.map_or((total - warmup - decay).max(0.0), |steps| steps as f64),
        decay,
        rise: kwargs.take("warmup_type", Curve::Linear)?,
        fall: kwargs.take("decay_type", Curve::Cosine)?,
        floor: kwargs.take("min_lr_ratio", 0.0)?,
        cycles: kwargs.take("num_cycles", 0.5)?,
    })
}

fn plateau(kwargs: &mut Kwargs) -> Result<PlateauSettings> {
    let default = PlateauSettings::default();
    let mode: String = kwargs.take("mode", "min".into())?;
    let threshold_mode: String = kwargs.take("threshold_mode", "rel".into())?;
    for (key, value, allowed) in [("mode", &mode, ["min", "max"]), ("threshold_mode", &threshold_mode, ["rel", "abs"])]
    {
        if !allowed.contains(&value.as_str()) {
            let [first, second] = allowed;
            return Err(kwargs.out_of_range(key, format!("{value:?}"), format!("{first:?} or {second:?}")));
        }
    }
    let factor = kwargs.take("factor", default.factor)?;
    if factor >= 1.0 {
        return Err(kwargs.out_of_range("factor", factor, "smaller than 1".into()));
    }
    Ok(PlateauSettings {
        maximize: mode == "max",
        factor,
        patience: kwargs.take("patience", default.patience)?,
        threshold: kwargs.take("threshold", default.threshold)?,
        threshold_is_relative: threshold_mode == "rel",
        cooldown: kwargs.take("cooldown", default.cooldown)?,
        min_lr: kwargs.take("min_lr", default.min_lr)?,
        eps: kwargs.take("eps", default.eps)?,
    })
}

/// `lr_scheduler_kwargs` being read.
struct Kwargs<'a> {
    kind: ScheduleKind,
    values: &'a IndexMap<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Kwargs<'a> {
    fn new(kind: ScheduleKind, values: &'a IndexMap<String, Value>) -> Self {
        Kwargs { kind, values, known: Vec::new() }
    }

    fn of(&self) -> String {
        format!("`lr_scheduler_kwargs` of {:?}", self.kind.as_str())
    }

    fn take<T: Argument>(&mut self, key: &'static str, default: T) -> Result<T> {
        self.known.push(key);
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => T::read(value).map_err(|refusal: Refusal| refusal.error(key, &self.of(), value)),
        }
    }

    fn above_zero(&mut self, key: &'static str, default: f64) -> Result<f64> {
        let value = self.take(key, default)?;
        if value > 0.0 { Ok(value) } else { Err(self.out_of_range(key, value, "above 0".into())) }
    }

    /// `min_lr` or `min_lr_rate` as a factor on the base rate; one of them has to be there.
    fn floor(&mut self, base_lr: f64) -> Result<f64> {
        let absolute: Option<f64> = self.take("min_lr", None)?;
        let relative: Option<f64> = self.take("min_lr_rate", None)?;
        match (absolute, relative) {
            // A base rate of 0 stays 0 whatever the factor.
            (Some(lr), None) => Ok(if base_lr > 0.0 { lr / base_lr } else { 0.0 }),
            (None, Some(rate)) => Ok(rate),
            (both, _) => {
                let number = if both.is_some() { "only one" } else { "one" };
                let text = format!("{} needs {number} of `min_lr` and `min_lr_rate`", self.of());
                Err(Error::new(What::Conflict(text)).hint("write `lr_scheduler_kwargs: #{ min_lr_rate: 0.1 }`"))
            }
        }
    }

    fn out_of_range(&self, key: &str, value: impl ToString, allowed: String) -> Error {
        What::OutOfRange { name: format!("`{key}` of {}", self.of()), value: value.to_string(), allowed }.into()
    }

    fn finish(self) -> Result<()> {
        match self.values.keys().find(|key| !self.known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(unknown_key(key, &self.of(), &self.known)),
        }
    }
}
