//! The optimizer of a training loop of a script's own: torch's `AdamW` over groups of parameters.
//!
//! The gradients that a model has added up flow in, its weights change in place. All parameters belong to it, also those that
//! are frozen: they have no gradient, and one that is unfrozen later is trained.

use crate::error::{Error, Place, Result, What};
use crate::head::{Gradients, Model};
use crate::model::parameters::Parameters;
use crate::train::optimizer::{AdamW, AdamWSettings, GroupSettings, OptimizerState, grad_norm};
use crate::train::param_groups::split;
use crate::train::step::refuse_missing_gradients;

/// The settings of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupValues {
    /// The learning rate of the next update.
    pub lr: f64,
    /// The rate that a schedule multiplies: the one the group was made with.
    pub initial_lr: f64,
    /// Share of each weight that an update takes away, times the learning rate.
    pub weight_decay: f64,
    /// The decays of the moments, and epsilon.
    pub adam: AdamWSettings,
}

/// A group of parameters.
#[derive(Debug)]
pub struct Group {
    /// The names of its parameters.
    pub params: Vec<String>,
    /// Its settings.
    pub values: GroupValues,
    /// Its place among the patterns; that of the parameters that none of them names comes last.
    number: usize,
    optimizer: AdamW,
}

/// The optimizer.
#[derive(Debug)]
pub struct LoopOptimizer {
    groups: Vec<Group>,
    /// The patterns of each group that was given, with the settings it was given.
    patterns: Vec<(Vec<String>, GroupValues)>,
    /// The settings of parameters that no group names.
    defaults: GroupValues,
    /// Which parameters of the model it knows.
    exchanges: u64,
    /// Whether a parameter may stay without a gradient from the first step on.
    allow_unused: bool,
    has_stepped: bool,
}

impl LoopOptimizer {
    /// An optimizer of `parameters`: each of `groups` is patterns of names and settings, the rest has `defaults`.
    ///
    /// # Errors
    /// As [`split`].
    pub fn new(
        parameters: &Parameters,
        groups: &[(Vec<String>, GroupValues)],
        defaults: GroupValues,
        allow_unused: bool,
    ) -> Result<Self> {
        let patterns = groups.to_vec();
        let mut optimizer =
            LoopOptimizer { groups: Vec::new(), patterns, defaults, exchanges: 0, allow_unused, has_stepped: false };
        optimizer.group(parameters)?;
        Ok(optimizer)
    }

    /// Gives each group its parameters; those that it has had before keep their moments.
    fn group(&mut self, parameters: &Parameters) -> Result<()> {
        let lists = split(parameters, self.patterns.iter().map(|(patterns, _)| patterns.as_slice()))?;
        let values: Vec<GroupValues> = self.patterns.iter().map(|(_, values)| *values).chain([self.defaults]).collect();
        let mut before = std::mem::take(&mut self.groups);
        for (number, (list, values)) in
            lists.into_iter().zip(values).enumerate().filter(|(_, (list, _))| !list.is_empty())
        {
            let known = before.iter().position(|group| group.number == number).map(|place| before.swap_remove(place));
            let values = known.as_ref().map_or(values, |group| group.values);
            let settings = GroupSettings { weight_decay: values.weight_decay, lr_scale: 1.0 };
            let own: Vec<_> =
                list.iter().map(|one| (one.name().to_string(), one.variable().clone(), settings)).collect();
            let params = list.iter().map(|one| one.name().to_string()).collect();
            let optimizer = match known {
                Some(mut known) => {
                    known.optimizer.exchange(own)?;
                    known.optimizer
                }
                None => AdamW::new(own, values.adam)?,
            };
            self.groups.push(Group { params, values, number, optimizer });
        }
        self.exchanges = parameters.exchanges();
        Ok(())
    }

    /// The groups: those that were given, then the parameters that none of them names.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The settings that the optimizer was made with.
    pub fn defaults(&self) -> GroupValues {
        self.defaults
    }

    /// Changes the rate and the decay of a group.
    ///
    /// # Errors
    /// A number that is negative or not finite; a group that is not there.
    pub fn set(&mut self, number: usize, lr: f64, weight_decay: f64) -> Result<()> {
        for (name, value) in [("lr", lr), ("weight_decay", weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                let name = format!("`{name}` of a parameter group");
                return Err(What::OutOfRange { name, value: value.to_string(), allowed: "at least 0".into() }.into());
            }
        }
        let Some(group) = self.groups.get_mut(number) else {
            return Err(What::Conflict(format!("the optimizer has {} parameter groups", self.groups.len())).into());
        };
        group.values.lr = lr;
        if group.values.weight_decay != weight_decay {
            group.values.weight_decay = weight_decay;
            group.optimizer.set_groups(|_| GroupSettings { weight_decay, lr_scale: 1.0 });
        }
        Ok(())
    }

    /// Changes the rate that schedules made from now on multiply, for a group that is there.
    pub fn set_initial_lr(&mut self, number: usize, initial_lr: f64) {
        if let Some(group) = self.groups.get_mut(number) {
            group.values.initial_lr = initial_lr;
        }
    }

    /// One update from the gradients that `model` has added up; parameters without one stay as they are.
    ///
    /// # Errors
    /// No gradient at all, one that is not finite, and at the first update a trainable parameter without one.
    pub fn step(&mut self, model: &Model) -> Result<()> {
        if self.exchanges != model.parameters().exchanges() {
            self.group(model.parameters())?;
        }
        let gradients = model.gradients();
        if gradients.is_empty() {
            let error = Error::new(What::Conflict("the model of the optimizer has no gradients".into()));
            return Err(error.hint("call `loss.backward()` before `optimizer.step()`, on a loss of this model"));
        }
        refuse_what_is_not_finite(&gradients)?;
        if !self.has_stepped && !self.allow_unused {
            refuse_missing_gradients(model, &gradients)?;
        }
        for group in &mut self.groups {
            group.optimizer.step(&gradients, group.values.lr, 1.0)?;
        }
        self.has_stepped = true;
        Ok(())
    }

    /// What the optimizer remembers of each parameter.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn state(&self) -> Result<OptimizerState> {
        let mut all = OptimizerState::new();
        for group in &self.groups {
            all.extend(group.optimizer.state()?);
        }
        Ok(all)
    }

    /// Takes up what [`LoopOptimizer::state`] gave.
    ///
    /// # Errors
    /// A state of other parameters.
    pub fn load_state(&mut self, mut state: OptimizerState) -> Result<()> {
        for group in &mut self.groups {
            let known = |name: &String| group.params.contains(name);
            let own = state.iter().filter(|(name, _)| known(name)).map(|(name, one)| (name.clone(), one.clone()));
            let own: OptimizerState = own.collect();
            state.retain(|name, _| !known(name));
            group.optimizer.load_state(own)?;
        }
        match state.keys().next() {
            None => Ok(()),
            Some(stranger) => {
                let text = "the optimizer state holds a parameter that the model does not have";
                Err(Error::new(What::Weights(text.into())).at(Place::Tensor(stranger.clone())))
            }
        }
    }
}

fn refuse_what_is_not_finite(gradients: &Gradients) -> Result<()> {
    if grad_norm(gradients)?.is_finite() {
        return Ok(());
    }
    for (name, gradient) in gradients {
        let one = Gradients::from([(name.clone(), gradient.clone())]);
        if !grad_norm(&one)?.is_finite() {
            let problem = format!("the gradient of `{name}` is not finite; the weights are unchanged");
            return Err(Error::new(What::NonFinite(problem))
                .at(Place::Tensor(name.clone()))
                .hint("lower the learning rate, or leave this batch out: `optimizer.zero_grad()`"));
        }
    }
    Err(What::NonFinite("the norm of the gradients is not finite; the weights are unchanged".into()).into())
}
