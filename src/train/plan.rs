//! What a run is laid out with before its first step: the optimizer, the batches of an epoch, the order of the rows.

use crate::batch::sampler;
use crate::error::{Error, Result, What};
use crate::head::prepare::Prepared;
use crate::train::Sampling;
use crate::train::optimizer::{AdamW, AdamWSettings, GroupSettings, decays};
use crate::train::trainer::Trainer;

impl Trainer {
    /// The optimizer of the trainable parameters; biases and norms do not decay.
    pub(super) fn new_optimizer(&self) -> Result<AdamW> {
        let args = &self.settings.args;
        let all = self.settings.model.parameters().all();
        let trainable: Vec<_> = all
            .iter()
            .filter(|parameter| parameter.is_trainable())
            .map(|parameter| {
                let weight_decay = if decays(parameter.name()) { args.weight_decay } else { 0.0 };
                let group = GroupSettings { weight_decay, ..GroupSettings::default() };
                (parameter.name().to_string(), parameter.var().clone(), group)
            })
            .collect();
        if trainable.is_empty() {
            return Err(Error::new(What::Conflict("every parameter is frozen".into()))
                .hint("unfreeze some: `model.unfreeze(\"classifier.*\")`"));
        }
        let settings = AdamWSettings { beta1: args.adam_beta1, beta2: args.adam_beta2, eps: args.adam_epsilon };
        AdamW::new(trainable, settings)
    }

    /// How many batches an epoch has.
    pub(super) fn batches_per_epoch(&self, n: usize) -> Result<usize> {
        let size = self.settings.args.per_device_train_batch_size;
        let count = if self.settings.args.dataloader_drop_last { n / size } else { n.div_ceil(size) };
        if count == 0 {
            let problem =
                format!("`dataloader_drop_last` leaves no batch: the training set has {n} rows, a batch {size}");
            return Err(
                Error::new(What::Conflict(problem)).hint("make the batch smaller, or leave `dataloader_drop_last` out")
            );
        }
        Ok(count)
    }

    /// The order of the features in an epoch: a pure function of the seed and the epoch.
    pub(super) fn order(&self, epoch: usize, prepared: &Prepared) -> Vec<usize> {
        let args = &self.settings.args;
        let (seed, n) = (args.data_seed.unwrap_or(args.seed), prepared.features.len());
        match args.train_sampling_strategy {
            Sampling::Random => sampler::random(seed, epoch as u64, n),
            Sampling::Sequential => sampler::sequential(n),
            Sampling::GroupByLength => {
                let lengths: Vec<usize> = prepared.features.iter().map(|features| features.n_tokens()).collect();
                let size = args.per_device_train_batch_size * args.gradient_accumulation_steps;
                sampler::group_by_length(seed, epoch as u64, &lengths, size)
            }
        }
    }
}
