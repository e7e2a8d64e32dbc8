//! The Parzen estimator of TPE: a mixture of one kernel for each observation and one prior over the whole range.
//!
//! Bandwidths, weights and the prior are those of Optuna's `TPESampler`: a normal kernel is as wide as the gap to its farther
//! neighbour, but never narrower than a share of the range (the "magic clip"), and cut off at the ends of the range; recent
//! observations weigh 1, the older ones of more than 25 less. Several parameters make products of kernels.

use crate::tensor::rng::Rng;
use crate::train::search::space::{Distribution, Range};
use crate::train::search::truncated_normal::{ln_density, ln_mass, quantile};

/// A density over one parameter or several.
#[derive(Clone, Debug)]
pub struct Parzen {
    /// The weight of each kernel, the prior's last; they sum to 1.
    pub weights: Vec<f64>,
    /// For each parameter, its part of the kernels.
    pub kernels: Vec<Kernels>,
}

/// The kernels of one parameter.
#[derive(Clone, Debug)]
pub enum Kernels {
    /// Normal distributions, on the axis of the range and cut off at its ends.
    Normal {
        /// The range.
        range: Range,
        /// Where each kernel stands.
        mus: Vec<f64>,
        /// How wide each is.
        sigmas: Vec<f64>,
    },
    /// For each kernel, the probability of each choice.
    Categorical(Vec<Vec<f64>>),
}

/// Optuna's `default_weights`: 1 for the last 25 observations, and from 1/n up to 1 for those before.
pub fn weights(n: usize) -> Vec<f64> {
    const RECENT: usize = 25;
    let ramp = n.saturating_sub(RECENT);
    let first = 1.0 / n.max(1) as f64;
    let weight = |index: usize| match ramp {
        _ if index >= ramp => 1.0,
        1 => first,
        _ => first + (1.0 - first) * index as f64 / (ramp - 1) as f64,
    };
    (0..n).map(weight).collect()
}

impl Parzen {
    /// The estimator of `observations`: for each, the internal number of every parameter of `space`, oldest first.
    pub fn new(observations: &[Vec<f64>], space: &[&Distribution]) -> Self {
        let mut weights = weights(observations.len());
        weights.push(1.0);
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= total);
        let kernels = space.iter().enumerate().map(|(place, distribution)| {
            let column: Vec<f64> = observations.iter().map(|row| row[place]).collect();
            match (distribution, distribution.range()) {
                (_, Some(range)) => normal(&column, range),
                (Distribution::Categorical(choices), _) => categorical(&column, choices.len()),
                _ => Kernels::Categorical(Vec::new()),
            }
        });
        Parzen { kernels: kernels.collect(), weights }
    }

    /// The `index`-th sample of a stream: the internal number of each parameter.
    pub fn sample(&self, rng: &Rng, index: u64) -> Vec<f64> {
        let first = index * (self.kernels.len() as u64 + 1);
        let kernel = choose(&self.weights, rng.uniform(first));
        let numbers = self.kernels.iter().zip(first + 1..);
        numbers.map(|(kernels, draw)| kernels.sample(kernel, rng.uniform(draw))).collect()
    }

    /// The logarithm of the density at `point`, one internal number a parameter; of probabilities where values are steps.
    pub fn ln_pdf(&self, point: &[f64]) -> f64 {
        let terms: Vec<f64> = self
            .weights
            .iter()
            .enumerate()
            .map(|(kernel, weight)| {
                weight.ln()
                    + self.kernels.iter().zip(point).map(|(kernels, at)| kernels.ln_pdf(kernel, *at)).sum::<f64>()
            })
            .collect();
        let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest == f64::NEG_INFINITY {
            return largest;
        }
        terms.iter().map(|term| (term - largest).exp()).sum::<f64>().ln() + largest
    }
}

fn normal(observations: &[f64], range: Range) -> Kernels {
    let (low, high) = range.ends();
    let mut mus: Vec<f64> = observations.iter().map(|number| range.axis(*number)).collect();
    let mut order: Vec<usize> = (0..mus.len()).collect();
    order.sort_by(|a, b| mus[*a].total_cmp(&mus[*b]));
    let sorted: Vec<f64> = order.iter().map(|index| mus[*index]).collect();
    let n = sorted.len();
    let mut sigmas = vec![0.0; n];
    let narrowest = (high - low) / (n as f64 + 2.0).min(100.0);
    for (place, index) in order.into_iter().enumerate() {
        let below = (place > 0).then(|| sorted[place] - sorted[place - 1]);
        let above = (place + 1 < n).then(|| sorted[place + 1] - sorted[place]);
        let gap = match (below, above) {
            (Some(below), Some(above)) => below.max(above),
            (Some(gap), None) | (None, Some(gap)) => gap,
            // Alone, it looks at the ends of the range.
            (None, None) => (sorted[place] - low).max(high - sorted[place]),
        };
        sigmas[index] = gap.clamp(narrowest, high - low);
    }
    mus.push(0.5 * (low + high));
    sigmas.push(high - low);
    Kernels::Normal { range, mus, sigmas }
}

fn categorical(observations: &[f64], n_choices: usize) -> Kernels {
    let n_kernels = observations.len() + 1;
    let prior = 1.0 / n_kernels as f64;
    let kernel = |observed: Option<&f64>| {
        let total = prior * n_choices as f64 + f64::from(u8::from(observed.is_some()));
        let weight = |choice: usize| {
            let hit = observed.is_some_and(|observed| *observed as usize == choice);
            (prior + f64::from(u8::from(hit))) / total
        };
        (0..n_choices).map(weight).collect()
    };
    Kernels::Categorical(observations.iter().map(Some).chain([None]).map(kernel).collect())
}

/// The place that a draw from [0, 1) hits.
fn choose(weights: &[f64], draw: f64) -> usize {
    let mut sum = 0.0;
    let hit = weights.iter().position(|weight| {
        sum += weight;
        draw < sum
    });
    hit.unwrap_or(weights.len().saturating_sub(1))
}

impl Kernels {
    fn sample(&self, kernel: usize, draw: f64) -> f64 {
        match self {
            Kernels::Categorical(kernels) => choose(&kernels[kernel], draw) as f64,
            Kernels::Normal { range, mus, sigmas } => {
                let ((low, high), mu, sigma) = (range.ends(), mus[kernel], sigmas[kernel]);
                range.number(mu + sigma * quantile(draw, (low - mu) / sigma, (high - mu) / sigma))
            }
        }
    }

    fn ln_pdf(&self, kernel: usize, at: f64) -> f64 {
        match self {
            Kernels::Categorical(kernels) => kernels[kernel][at as usize].ln(),
            Kernels::Normal { range, mus, sigmas } => {
                let ((low, high), mu, sigma) = (range.ends(), mus[kernel], sigmas[kernel]);
                let place = |at: f64| (at - mu) / sigma;
                let whole = ln_mass(place(low), place(high));
                match range.step {
                    None if at < range.low || at > range.high => f64::NEG_INFINITY,
                    None => ln_density(place(range.axis(at))) - whole - sigma.ln(),
                    Some(step) => {
                        let (left, right) = (range.axis(at - step / 2.0), range.axis(at + step / 2.0));
                        ln_mass(place(left), place(right)) - whole
                    }
                }
            }
        }
    }
}
