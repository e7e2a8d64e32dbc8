//! Where the values of a trial come from: random search, or the tree-structured Parzen estimator (TPE).
//!
//! TPE (Bergstra et al. 2011; the details are those of Optuna's `TPESampler`): the best tenth of the trials so far, at most 25,
//! makes one density, the others make a second one; of 24 candidates from the first density the one is taken at which the
//! first exceeds the second by the largest factor.

use indexmap::IndexMap;

use crate::tensor::rng::Rng;
use crate::train::search::parzen::Parzen;
use crate::train::search::space::Distribution;
use crate::train::search::study::{Direction, State, Trial};

/// How values are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Without regard to what was found.
    Random,
    /// Where good trials have been more often than others.
    Tpe(Tpe),
}

/// The settings of TPE, with Optuna's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tpe {
    /// Random trials to begin with.
    pub n_startup_trials: usize,
    /// Candidates of which the best is taken.
    pub n_ei_candidates: usize,
    /// Whether the parameters that all trials have are chosen together rather than one by one.
    pub multivariate: bool,
}

impl Default for Tpe {
    fn default() -> Self {
        Tpe { n_startup_trials: 10, n_ei_candidates: 24, multivariate: false }
    }
}

/// What a sampler looks at.
pub(super) struct History<'a> {
    pub(super) trials: &'a [Trial],
    pub(super) direction: Direction,
    pub(super) seed: u64,
    /// The number of the trial that is being made.
    pub(super) number: usize,
}

impl Sampler {
    /// The value of one parameter, as its internal number.
    pub(super) fn suggest(&self, history: &History<'_>, name: &str, distribution: &Distribution) -> f64 {
        let rng = |stream: &str| Rng::new(history.seed, &format!("search/{stream}/{name}"), history.number as u64);
        match self {
            Sampler::Tpe(tpe) if history.n_finished() >= tpe.n_startup_trials => {
                tpe.suggest(history, &[(name, distribution)], &rng("tpe"))[0]
            }
            _ => random(distribution, rng("random").uniform(0)),
        }
    }

    /// The values of parameters that are chosen together, before the trial asks for them.
    pub(super) fn suggest_together(&self, history: &History<'_>) -> IndexMap<String, f64> {
        let Sampler::Tpe(tpe) = self else { return IndexMap::new() };
        if !tpe.multivariate || history.n_finished() < tpe.n_startup_trials {
            return IndexMap::new();
        }
        let space = history.common_space();
        if space.is_empty() {
            return IndexMap::new();
        }
        let rng = Rng::new(history.seed, "search/together", history.number as u64);
        let found = tpe.suggest(history, &space, &rng);
        space.iter().zip(found).map(|((name, _), value)| ((*name).to_string(), value)).collect()
    }
}

impl Tpe {
    fn suggest(&self, history: &History<'_>, space: &[(&str, &Distribution)], rng: &Rng) -> Vec<f64> {
        let (below, above) = history.split();
        let distributions: Vec<&Distribution> = space.iter().map(|(_, distribution)| *distribution).collect();
        let estimator = |trials: &[&Trial]| {
            let rows = trials.iter().filter_map(|trial| {
                space.iter().map(|(name, distribution)| distribution.internal(trial.params.get(*name)?)).collect()
            });
            Parzen::new(&rows.collect::<Vec<Vec<f64>>>(), &distributions)
        };
        let (below, above) = (estimator(&below), estimator(&above));
        let candidates = (0..self.n_ei_candidates.max(1) as u64).map(|index| below.sample(rng, index));
        let scored = candidates.map(|point| (below.ln_pdf(&point) - above.ln_pdf(&point), point));
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, point)| point).unwrap_or_default()
    }
}

/// Optuna's `default_gamma`: how many of `n` trials count as good.
pub fn n_below(n: usize) -> usize {
    n.div_ceil(10).min(25)
}

impl<'a> History<'a> {
    fn finished(&self) -> impl Iterator<Item = &'a Trial> {
        self.trials.iter().filter(|trial| matches!(trial.state, State::Complete | State::Pruned))
    }

    fn n_finished(&self) -> usize {
        self.finished().count()
    }

    /// The good trials and the others, each in the order of their numbers. Complete trials are good by their value; where
    /// they do not suffice, pruned ones by how far they came and by their last value.
    pub(super) fn split(&self) -> (Vec<&'a Trial>, Vec<&'a Trial>) {
        let n_good = n_below(self.n_finished());
        let rank = |value: f64| match self.direction {
            Direction::Minimize => value,
            Direction::Maximize => -value,
        };
        let key = |trial: &Trial| match (trial.state, trial.intermediate_values.last_key_value()) {
            (State::Complete, _) => (0, 0.0, rank(trial.value.unwrap_or(f64::INFINITY))),
            (_, Some((&step, &value))) => (1, -(step as f64), if value.is_nan() { f64::INFINITY } else { rank(value) }),
            _ => (1, 1.0, 0.0),
        };
        let mut sorted: Vec<&Trial> = self.finished().collect();
        sorted.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2))
        });
        let mut above = sorted.split_off(n_good.min(sorted.len()));
        above.sort_by_key(|trial| trial.number);
        sorted.sort_by_key(|trial| trial.number);
        (sorted, above)
    }

    /// The parameters that every finished trial has, with the same distribution and more than one value.
    fn common_space(&self) -> Vec<(&'a str, &'a Distribution)> {
        let Some(first) = self.finished().next() else { return Vec::new() };
        let in_all = |name: &str, distribution: &Distribution| {
            self.finished().all(|trial| trial.distributions.get(name) == Some(distribution))
        };
        let mut space: Vec<(&str, &Distribution)> = first
            .distributions
            .iter()
            .filter(|(name, distribution)| !distribution.is_single() && in_all(name, distribution))
            .map(|(name, distribution)| (name.as_str(), distribution))
            .collect();
        space.sort_by_key(|(name, _)| *name);
        space
    }
}

/// The value at a uniform draw from [0, 1), as its internal number.
pub fn random(distribution: &Distribution, draw: f64) -> f64 {
    match (distribution, distribution.range()) {
        (_, Some(range)) => {
            let (low, high) = range.ends();
            range.number(low + draw * (high - low))
        }
        (Distribution::Categorical(choices), _) => (draw * choices.len() as f64).floor(),
        _ => 0.0,
    }
}
