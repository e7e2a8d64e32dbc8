//! The learning-rate finder: losses at rates that rise with every update, and a rate to begin with (Smith 2017, "Cyclical
//! learning rates for training neural networks"; the details are those of Lightning's `Tuner.lr_find`).
//!
//! It works on the model itself and puts the weights back afterwards, whatever happens; optimizer, state and arguments of the
//! trainer are never touched, and random draws are functions of seed and step, so that a training that follows is the one
//! that would have been without it.

use crate::batch::Draw;
use crate::cancel;
use crate::error::Result;
use crate::head::prepare::Prepared;
use crate::train::epochs::Origin;
use crate::train::optimizer::{clip_factor, grad_norm};
use crate::train::snapshot::Snapshot;
use crate::train::step::{accumulate, window_of};
use crate::train::trainer::{Hooks, Trainer};

/// How the rate rises from update to update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the same factor.
    Exponential,
    /// By the same difference.
    Linear,
}

/// The settings, with Lightning's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct LrFindSettings {
    /// The first rate.
    pub min_lr: f64,
    /// The last rate.
    pub max_lr: f64,
    /// How many updates are made.
    pub num_training: usize,
    /// How the rate rises.
    pub mode: Mode,
    /// The finder stops where the smoothed loss is above so many times the best one.
    pub early_stop_threshold: Option<f64>,
    /// How many losses at the beginning are left out of the suggestion.
    pub skip_begin: usize,
    /// How many losses at the end are left out of the suggestion.
    pub skip_end: usize,
}

impl Default for LrFindSettings {
    fn default() -> Self {
        LrFindSettings {
            min_lr: 1e-8,
            max_lr: 1.0,
            num_training: 100,
            mode: Mode::Exponential,
            early_stop_threshold: Some(4.0),
            skip_begin: 10,
            skip_end: 1,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct LrFind {
    /// The rate at which the loss falls fastest; none where there are too few losses.
    pub suggestion: Option<f64>,
    /// The rates that were tried.
    pub lrs: Vec<f64>,
    /// The smoothed loss after the update at each rate.
    pub losses: Vec<f64>,
    /// Whether the loss rose too far, or was not finite, before all rates had been tried.
    pub stopped_early: bool,
}

/// The share of the smoothed loss that stays at each update.
const BETA: f64 = 0.98;

impl LrFindSettings {
    /// The rate of update `index`, from 0.
    pub fn rate(&self, index: usize) -> f64 {
        // As Lightning: the second update is two steps from the beginning, the last one reaches the end.
        let share = if index == 0 { 0.0 } else { (index + 1) as f64 / self.num_training as f64 };
        match self.mode {
            Mode::Exponential => self.min_lr * (self.max_lr / self.min_lr).powf(share),
            Mode::Linear => self.min_lr + share * (self.max_lr - self.min_lr),
        }
    }
}

/// The running mean of the losses, and the best value it has had.
#[derive(Clone, Copy, Debug, Default)]
pub struct Smoothing {
    mean: f64,
    best: f64,
    steps: i32,
}

impl Smoothing {
    /// The smoothed loss after one more, and whether it is above `threshold` times the best.
    pub fn push(&mut self, loss: f64, threshold: Option<f64>) -> (f64, bool) {
        self.steps += 1;
        self.mean = BETA * self.mean + (1.0 - BETA) * loss;
        let smoothed = self.mean / (1.0 - BETA.powi(self.steps + 1));
        let diverges = self.steps > 1 && threshold.is_some_and(|threshold| smoothed > threshold * self.best);
        if self.steps == 1 || smoothed < self.best {
            self.best = smoothed;
        }
        (smoothed, diverges)
    }
}

/// The rate at which the loss falls fastest, but for the first `skip_begin` and the last `skip_end`; none where fewer than two
/// finite losses are left.
pub fn suggestion(lrs: &[f64], losses: &[f64], skip_begin: usize, skip_end: usize) -> Option<f64> {
    let end = losses.len().min(lrs.len()).saturating_sub(skip_end);
    let points: Vec<(f64, f64)> = (skip_begin..end)
        .map(|index| (lrs[index], losses[index]))
        .filter(|(rate, loss)| rate.is_finite() && loss.is_finite())
        .collect();
    let slope = |from: usize, to: usize| (points[to].1 - points[from].1) / (points[to].0 - points[from].0);
    // As torch.gradient: at the ends the slope to the neighbour, elsewhere both slopes, the nearer neighbour's weighing more.
    let gradient = |index: usize| match index {
        0 => slope(0, 1),
        _ if index + 1 == points.len() => slope(index - 1, index),
        _ => {
            let (before, after) = (points[index].0 - points[index - 1].0, points[index + 1].0 - points[index].0);
            (slope(index - 1, index) * after + slope(index, index + 1) * before) / (before + after)
        }
    };
    if points.len() < 2 {
        return None;
    }
    let steepest = (0..points.len()).map(|index| (gradient(index), index));
    let steepest = steepest.reduce(|best, next| if next.0 < best.0 { next } else { best });
    steepest.map(|(_, index)| points[index].0)
}

impl Trainer {
    /// Tries learning rates and suggests one; `progress` is told of each update. The trainer and its model are afterwards what they were.
    ///
    /// # Errors
    /// No training set, rows that cannot be encoded, and what scripts raise. A loss that is not finite ends the trying.
    pub fn lr_find(
        &mut self,
        settings: &LrFindSettings,
        hooks: &mut Hooks<'_>,
        progress: &mut dyn FnMut(),
    ) -> Result<LrFind> {
        let dataset = self.training_set()?;
        let prepared = self.prepared(&dataset, hooks)?;
        let weights = Snapshot::of(&self.settings.model)?;
        let found = self.try_rates(settings, &prepared, hooks, progress);
        weights.restore()?;
        found
    }

    fn try_rates(
        &self,
        settings: &LrFindSettings,
        prepared: &Prepared,
        hooks: &mut Hooks<'_>,
        progress: &mut dyn FnMut(),
    ) -> Result<LrFind> {
        let (model, args) = (&self.settings.model, &self.settings.args);
        let mut optimizer = self.new_optimizer()?;
        let _precision = self.precision(hooks);
        let layout = self.layout();
        layout.n_batches(0, prepared, "dataloader_drop_last")?;
        let (mut smoothing, mut lrs, mut losses) = (Smoothing::default(), Vec::new(), Vec::new());
        let (mut epoch, mut number, mut cut) = (0, 0, self.cut(0, prepared, Origin::default()));
        for index in 0..settings.num_training {
            cancel::check()?;
            if number * layout.accumulation >= cut.n_batches() {
                (epoch, number) = (epoch + 1, 0);
                cut = self.cut(epoch, prepared, Origin::default());
            }
            let Some(window) = cut.window(number, layout.accumulation) else { break };
            number += 1;
            let draw = Draw { seed: args.seed, step: index as u64 };
            let batches = window_of(model, prepared, &window, args.label_smoothing_factor, draw)?;
            let window = accumulate(model, batches, &mut hooks.compute_loss, || Ok(()))?;
            let norm = if window.loss.is_finite() { grad_norm(&window.gradients)? } else { f64::NAN };
            if !norm.is_finite() {
                break;
            }
            let rate = settings.rate(index);
            let factor = args.clip_norm().map_or(1.0, |max_norm| clip_factor(norm, max_norm));
            optimizer.step(&window.gradients, rate, factor)?;
            let (smoothed, diverges) = smoothing.push(window.loss, settings.early_stop_threshold);
            lrs.push(rate);
            losses.push(smoothed);
            progress();
            if diverges {
                break;
            }
        }
        let suggestion = suggestion(&lrs, &losses, settings.skip_begin, settings.skip_end);
        let stopped_early = lrs.len() < settings.num_training;
        Ok(LrFind { suggestion, lrs, losses, stopped_early })
    }
}
