//! What a run is laid out with before its first step: the optimizer, and how an epoch is cut into batches.

use std::collections::HashSet;

use crate::batch::cut::Cut;
use crate::data::Dataset;
use crate::error::{Error, Place, Result, What};
use crate::head::prepare::Prepared;
use crate::model::parameters::Variable;
use crate::train::TrainingArguments;
use crate::train::epochs::{Begun, Origin};
use crate::train::loader::Layout;
use crate::train::optimizer::{AdamW, AdamWSettings, Gradients, GroupSettings, decays};
use crate::train::trainer::{Hooks, Run, Trainer};

impl Trainer {
    /// Replaces the arguments, for the next call.
    ///
    /// # Errors
    /// Arguments that need evaluation data without any.
    pub fn set_args(&mut self, args: TrainingArguments) -> Result<()> {
        args.check_evaluates(self.settings.eval_dataset.is_some())?;
        self.settings.args = args;
        Ok(())
    }

    /// The training set.
    pub(super) fn training_set(&self) -> Result<Dataset> {
        self.settings.train_dataset.clone().ok_or_else(|| {
            Error::new(What::Conflict("there is nothing to train on".into())).hint("give the Trainer `train_dataset`")
        })
    }

    /// The optimizer of the trainable parameters; biases and norms do not decay.
    pub(super) fn new_optimizer(&self) -> Result<AdamW> {
        let args = &self.settings.args;
        let settings = AdamWSettings { beta1: args.adam_beta1, beta2: args.adam_beta2, eps: args.adam_epsilon };
        AdamW::new(self.trainable()?, settings)
    }

    /// What the optimizer is told of the trainable parameters.
    fn trainable(&self) -> Result<Vec<(String, Variable, GroupSettings)>> {
        let all = self.settings.model.parameters().all();
        let trainable: Vec<_> = all
            .iter()
            .filter(|parameter| parameter.is_trainable())
            .map(|parameter| {
                let group = GroupSettings { weight_decay: self.weight_decay(parameter.name()), lr_scale: 1.0 };
                (parameter.name().to_string(), parameter.variable().clone(), group)
            })
            .collect();
        if trainable.is_empty() {
            return Err(Error::new(What::Conflict("every parameter is frozen".into()))
                .hint("unfreeze some: `model.unfreeze(\"classifier.*\")`"));
        }
        Ok(trainable)
    }

    /// Takes note of the parameters that a head of another build has: what is new has no moments, what is gone is left out, and
    /// the rest goes on.
    ///
    /// # Errors
    /// A pattern of `param_groups` that matches nothing any more.
    pub(super) fn settle_parameters(&self, run: &mut Run) -> Result<()> {
        let parameters = self.settings.model.parameters();
        let exchanges = parameters.exchanges();
        if run.exchanges == exchanges {
            return Ok(());
        }
        let groups = run.groups.regrouped(parameters)?;
        run.optimizer.exchange(self.trainable()?)?;
        run.groups = groups;
        run.exchanges = exchanges;
        run.gradients_are_complete = false;
        Ok(())
    }

    /// How many batches an epoch has.
    pub(super) fn n_batches(&self, epoch: usize, prepared: &Prepared, origin: Origin) -> Result<usize> {
        if origin.begun(epoch).is_some() {
            return Ok(self.cut(epoch, prepared, origin).n_batches());
        }
        let count = self.layout().n_batches(epoch, prepared, "dataloader_drop_last")?;
        Ok(self.settings.args.fast_dev_run.batches().map_or(count, |n_batches| count.min(n_batches)))
    }

    /// The batches of an epoch.
    pub(super) fn cut(&self, epoch: usize, prepared: &Prepared, origin: Origin) -> Cut {
        let layout = self.layout();
        let mut cut = match origin.begun(epoch) {
            Some(Begun { layout: before, rows }) => {
                let n_tokens = |row: usize| prepared.features[row].n_tokens();
                before.cut(epoch, prepared).rest(rows, layout.limits, n_tokens)
            }
            None => layout.cut(epoch, prepared),
        };
        if let Some(n_batches) = self.settings.args.fast_dev_run.batches() {
            cut.truncate(n_batches);
        }
        cut
    }

    /// The decay of a parameter that no group gives one.
    pub(super) fn weight_decay(&self, name: &str) -> f64 {
        if decays(name) { self.settings.args.weight_decay } else { 0.0 }
    }

    /// One update of the weights; groups of parameters have a rate of their own.
    ///
    /// # Errors
    /// A parameter that was frozen when the run began and has a gradient now: the optimizer does not know it.
    pub(super) fn update(&self, run: &mut Run, gradients: &Gradients, learning_rate: f64, factor: f64) -> Result<()> {
        let known: HashSet<&str> = run.optimizer.names().collect();
        if let Some(name) = gradients.keys().find(|name| !known.contains(name.as_str())) {
            let problem = format!("the parameter `{name}` was frozen when training began, and is not now");
            return Err(Error::new(What::Conflict(problem))
                .at(Place::Tensor(name.clone()))
                .hint("unfreeze it before `trainer.train()`; a loop with `AdamW` can unfreeze at any time"));
        }
        if run.groups.is_empty() {
            return run.optimizer.step(gradients, learning_rate, factor);
        }
        let step = self.state.global_step;
        let settings = |name: &str| {
            let other = GroupSettings { weight_decay: self.weight_decay(name), lr_scale: learning_rate };
            run.groups.settings(name, step, other)
        };
        run.optimizer.set_groups(settings);
        run.optimizer.step(gradients, 1.0, factor)
    }

    /// How the rows of an epoch are cut into batches.
    pub(super) fn layout(&self) -> Layout {
        let args = &self.settings.args;
        let limits = args.train_limits();
        Layout {
            limits,
            accumulation: args.gradient_accumulation_steps,
            sampling: args.train_sampling_strategy,
            seed: args.data_seed.unwrap_or(args.seed),
        }
    }

    /// Says how many rows are longer than a batch may be.
    pub(super) fn note_long_rows(&self, prepared: &Prepared, hooks: &Hooks<'_>) {
        let Some(budget) = self.settings.args.max_tokens_per_batch else { return };
        let long = prepared.features.iter().filter(|features| features.n_tokens() > budget).count();
        if long > 0 {
            let (rows, each) = if long == 1 { ("1 row is", "it is") } else { ("rows are", "each is") };
            let count = if long == 1 { String::new() } else { format!("{long} ") };
            hooks.note(&format!(
                "{count}{rows} longer than the {budget} tokens of `max_tokens_per_batch`: {each} a batch of its own"
            ));
        }
    }
}
