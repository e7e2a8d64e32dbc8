//! `TrainingArguments`: Hugging Face's names, types and defaults (transformers 5).
//!
//! An options map flows in as pairs of a name and a value; typed arguments and the notes a user should read flow
//! out. Each name either works (the fields here), is accepted with a note because it changes nothing in this program,
//! or is refused with the reason (both `foreign_arguments`); none is ignored in silence. How arguments fit together
//! is left to `argument_checks`.

use indexmap::IndexMap;
use serde_json::Map;

use crate::batch::cut::Limits;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::train::argument_checks;
use crate::train::argument_values::{
    Argument, DryRun, Interval, MatmulPrecision, NanPolicy, Refusal, Resume, Sampling, SaveInterval, unknown_key,
};
use crate::train::foreign_arguments::{self, Foreign};
use crate::train::param_groups::ParamGroup;
use crate::train::schedule::{Schedule, ScheduleKind};

/// The callee's name in messages.
pub(crate) const OF: &str = "`TrainingArguments`";

macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        /// How to train. The names are Hugging Face's.
        #[derive(Clone, Debug)]
        pub struct TrainingArguments {
            $($(#[$doc])* pub $name: $type,)*
            /// What was given for names that change nothing here; absent means the default.
            foreign: IndexMap<&'static str, Value>,
            /// The batch sizes that were given, which bound batches of `max_tokens_per_batch`.
            given_sizes: [bool; 2],
        }

        impl PartialEq for TrainingArguments {
            fn eq(&self, other: &Self) -> bool {
                let limits = |args: &Self| (args.train_limits(), args.eval_limits());
                $(self.$name == other.$name &&)* self.foreign == other.foreign && limits(self) == limits(other)
            }
        }

        impl Default for TrainingArguments {
            fn default() -> Self {
                TrainingArguments { $($name: $default,)* foreign: IndexMap::new(), given_sizes: [false; 2] }
            }
        }

        impl TrainingArguments {
            const FIELDS: &[&str] = &[$(stringify!($name)),*];

            fn field(&self, key: &str) -> Option<Value> {
                match key {
                    $(stringify!($name) => Some(Argument::value(&self.$name)),)*
                    _ => None,
                }
            }

            /// Sets a field; none where there is no such field. Null restores the default where nothing else is meant.
            fn set_field(&mut self, key: &str, value: &Value) -> Option<Result<(), Refusal>> {
                match key {
                    $(stringify!($name) => Some(read_or(value, $default).map(|value| self.$name = value)),)*
                    _ => None,
                }
            }
        }
    };
}

/// An absent value means the default, as `()` does in an options map, unless the type itself knows absence.
fn read_or<T: Argument>(value: &Value, default: T) -> Result<T, Refusal> {
    match (T::read(value), value) {
        (Err(Refusal::Type(_)), Value::Null) => Ok(default),
        (read, _) => read,
    }
}

arguments! {
    /// Where checkpoints and the run's files go.
    output_dir: String = "trainer_output".into();
    /// How often the training set is seen; a fraction ends within an epoch.
    num_train_epochs: f64 = 3.0;
    /// Updates to make; wins over `num_train_epochs` when it is above 0.
    max_steps: i64 = -1;
    /// Rows of a training batch.
    per_device_train_batch_size: usize = 8;
    /// Rows of an evaluation batch.
    per_device_eval_batch_size: usize = 8;
    /// Tokens of a batch, this project's own: a batch takes rows until the next one would exceed them. Where a batch size is given
    /// too, it bounds the rows. A longer row is a batch of its own.
    max_tokens_per_batch: Option<usize> = None;
    /// Batches whose gradients make one update.
    gradient_accumulation_steps: usize = 1;
    /// AdamW's base rate.
    learning_rate: f64 = 5e-5;
    /// AdamW's decay of all weights but biases and norms.
    weight_decay: f64 = 0.0;
    /// Parameters with a learning rate or a decay of their own, by patterns of their names.
    param_groups: Vec<ParamGroup> = Vec::new();
    /// AdamW's first moment.
    adam_beta1: f64 = 0.9;
    /// AdamW's second moment.
    adam_beta2: f64 = 0.999;
    /// AdamW's epsilon.
    adam_epsilon: f64 = 1e-8;
    /// Gradients are scaled down to this norm; none or 0 switches it off.
    max_grad_norm: Option<f64> = Some(1.0);
    /// Share of the target that is spread over all labels.
    label_smoothing_factor: f64 = 0.0;
    /// The schedule of the learning rate.
    lr_scheduler_type: ScheduleKind = ScheduleKind::Linear;
    /// The schedule's own settings.
    lr_scheduler_kwargs: Option<IndexMap<String, Value>> = None;
    /// Updates of warm-up; below 1 it is a share of all updates.
    warmup_steps: f64 = 0.0;
    /// Share of all updates that is warm-up; `warmup_steps` wins.
    warmup_ratio: Option<f64> = None;
    /// The optimizer: all accepted names are AdamW.
    optim: String = "adamw_torch_fused".into();
    /// Whether the encoder's products are of bf16 numbers, summed in f32; weights and their updates stay f32.
    bf16: bool = false;
    /// How exact products of matrices are.
    float32_matmul_precision: MatmulPrecision = MatmulPrecision::Highest;
    /// Whether the backward computes the layers' forward again instead of keeping what it needs: less memory, a third more time.
    gradient_checkpointing: bool = false;
    /// When to log.
    logging_strategy: Interval = Interval::Steps;
    /// Updates between logs; below 1 it is a share of all updates.
    logging_steps: f64 = 500.0;
    /// Whether the first update is logged.
    logging_first_step: bool = false;
    /// When to evaluate.
    eval_strategy: Interval = Interval::No;
    /// Updates between evaluations; below 1 a share of all updates; `logging_steps` where it is not given.
    eval_steps: Option<f64> = None;
    /// Epochs or updates (after `eval_strategy`) before the first evaluation.
    eval_delay: f64 = 0.0;
    /// Whether to evaluate before the first update.
    eval_on_start: bool = false;
    /// When to save a checkpoint.
    save_strategy: SaveInterval = SaveInterval::Steps;
    /// Updates between checkpoints; below 1 it is a share of all updates.
    save_steps: f64 = 500.0;
    /// How many checkpoints to keep.
    save_total_limit: Option<usize> = None;
    /// Whether training ends with the weights of the best checkpoint.
    load_best_model_at_end: bool = false;
    /// The metric that tells which is best.
    metric_for_best_model: Option<String> = None;
    /// Whether more of that metric is better.
    greater_is_better: Option<bool> = None;
    /// The checkpoint to go on from.
    resume_from_checkpoint: Option<Resume> = None;
    /// The seed of new weights, of dropout and, unless `data_seed` is given, of the order of rows.
    seed: u64 = 42;
    /// The seed of the order of rows.
    data_seed: Option<u64> = None;
    /// Whether to train on the CPU though there is another device.
    use_cpu: bool = false;
    /// The order in which rows are visited.
    train_sampling_strategy: Sampling = Sampling::Random;
    /// Whether the last, smaller batch of an epoch is left out.
    dataloader_drop_last: bool = false;
    /// The columns that hold labels, where they have other names than usual.
    label_names: Option<Vec<String>> = None;
    /// What happens when a loss or a gradient is not finite.
    nan_policy: NanPolicy = NanPolicy::Stop;
    /// A dry run: one batch (`true`) or so many, of training and of each evaluation, without checkpoints.
    fast_dev_run: DryRun = DryRun::default();
    /// Whether to leave out progress bars.
    disable_tqdm: bool = false;
    /// Services to report to: none so far.
    report_to: Vec<String> = Vec::new();
    /// A name for the run.
    run_name: Option<String> = None;
}

/// The arguments that bound the rows of a batch, in training and in evaluation.
const BATCH_SIZES: [&str; 2] = ["per_device_train_batch_size", "per_device_eval_batch_size"];

impl TrainingArguments {
    /// Reads arguments in the order in which they were given. Returns them with notes for the user.
    ///
    /// # Errors
    /// An unknown name (with the nearest one), a wrong type, a value out of range, a feature that is not there, or
    /// arguments that do not fit together.
    pub fn from_pairs(pairs: Vec<(String, Value)>) -> Result<(Self, Vec<String>)> {
        TrainingArguments::default().with(pairs)
    }

    /// These arguments with some of them replaced, for example by a search or an edit of the recipe.
    ///
    /// # Errors
    /// As [`TrainingArguments::from_pairs`].
    pub fn with(mut self, pairs: Vec<(String, Value)>) -> Result<(Self, Vec<String>)> {
        let mut notes = Vec::new();
        let mut given: IndexMap<String, String> = IndexMap::new();
        for (written, value) in pairs {
            let (key, value) = match foreign_arguments::alias(&written, &value)? {
                Some(alias) => {
                    notes.push(alias.note);
                    (alias.key.to_string(), alias.value)
                }
                None => (written.clone(), value),
            };
            if let Some(other) = given.insert(key.clone(), written.clone()) {
                let what = What::Conflict(format!("`{other}` and `{written}` of {OF} mean the same"));
                return Err(Error::new(what).hint(format!("keep `{key}`")));
            }
            self.set(&key, &value, &mut notes)?;
        }
        argument_checks::check(&mut self, &|key| given.contains_key(key), &mut notes)?;
        Ok((self, notes))
    }

    fn set(&mut self, key: &str, value: &Value, notes: &mut Vec<String>) -> Result<()> {
        if let Some(place) = BATCH_SIZES.iter().position(|size| *size == key) {
            self.given_sizes[place] = *value != Value::Null;
        }
        if let Some(set) = self.set_field(key, value) {
            return set.map_err(|refusal| refusal.error(key, OF, value));
        }
        let Some(foreign) = Foreign::named(key) else {
            return Err(Self::unknown(key));
        };
        if let Some(note) = foreign.accept(value)? {
            notes.push(note);
        }
        self.foreign.insert(foreign.name, if *value == Value::Null { foreign.default() } else { value.clone() });
        Ok(())
    }

    /// The value of an argument by name, also of one that changes nothing here.
    pub fn get(&self, key: &str) -> Option<Value> {
        let foreign = || self.foreign.get(key).cloned().or_else(|| Foreign::named(key).map(Foreign::default));
        self.field(key).or_else(foreign)
    }

    /// The names of all arguments: first those that work.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        Self::FIELDS.iter().copied().chain(foreign_arguments::FOREIGN.iter().map(|foreign| foreign.name))
    }

    /// The error for a name that is no argument, with the nearest one, or the callee that it belongs to.
    pub fn unknown(key: &str) -> Error {
        match foreign_arguments::belongs_elsewhere(key) {
            Some(hint) => Error::new(What::UnknownOption { key: key.into(), of: OF.into() }).hint(hint),
            None => unknown_key(key, OF, &Self::keys().collect::<Vec<_>>()),
        }
    }

    /// All arguments that work and all others that were given, for `training_args.json`.
    pub fn to_json(&self) -> Map<String, serde_json::Value> {
        // Where tokens bound a batch, a size that was not given would be a bound of its own when it is read again.
        let is_meant = |key: &&&str| {
            let size = BATCH_SIZES.iter().position(|size| size == *key);
            size.is_none_or(|place| self.given_sizes[place] || self.max_tokens_per_batch.is_none())
        };
        let fields = Self::FIELDS.iter().filter(is_meant);
        let fields = fields.filter_map(|key| Some((key.to_string(), self.field(key)?.to_json())));
        fields.chain(self.foreign.iter().map(|(key, value)| (key.to_string(), value.to_json()))).collect()
    }

    /// The number of warm-up updates among `total_steps`.
    pub fn warmup_steps_of(&self, total_steps: usize) -> usize {
        let share = |ratio: f64| (total_steps as f64 * ratio).ceil() as usize;
        match self.warmup_ratio {
            Some(ratio) if self.warmup_steps == 0.0 => share(ratio),
            _ if self.warmup_steps < 1.0 => share(self.warmup_steps),
            _ => self.warmup_steps as usize,
        }
    }

    /// The schedule of a run of `total_steps` updates.
    ///
    /// # Errors
    /// `lr_scheduler_kwargs` that do not fit the schedule.
    pub fn schedule(&self, total_steps: usize) -> Result<Schedule> {
        let none = IndexMap::new();
        let kwargs = self.lr_scheduler_kwargs.as_ref().unwrap_or(&none);
        let warmup = self.warmup_steps_of(total_steps);
        Schedule::new(self.lr_scheduler_type, kwargs, self.learning_rate, warmup, total_steps)
    }

    /// What a training batch may hold.
    pub fn train_limits(&self) -> Limits {
        let limits = self.limits(self.per_device_train_batch_size, self.given_sizes[0]);
        Limits { drop_last: self.dataloader_drop_last, ..limits }
    }

    /// What an evaluation batch may hold.
    pub fn eval_limits(&self) -> Limits {
        self.limits(self.per_device_eval_batch_size, self.given_sizes[1])
    }

    fn limits(&self, size: usize, is_given: bool) -> Limits {
        let tokens = self.max_tokens_per_batch;
        Limits { rows: (is_given || tokens.is_none()).then_some(size), tokens, drop_last: false }
    }

    /// The norm that gradients are clipped to, where they are.
    pub fn clip_norm(&self) -> Option<f64> {
        self.max_grad_norm.filter(|norm| *norm > 0.0)
    }

    /// `metric_for_best_model` as evaluations name it: `eval_loss`, `eval_accuracy`, ...
    pub fn best_metric_key(&self) -> Option<String> {
        let name = self.metric_for_best_model.as_ref()?;
        Some(if name.starts_with("eval_") { name.clone() } else { format!("eval_{name}") })
    }

    /// Updates between events where an interval is a number of updates, or a share (below 1) of `max_steps`.
    pub fn interval(steps: f64, max_steps: usize) -> usize {
        if steps < 1.0 { (max_steps as f64 * steps).ceil() as usize } else { steps as usize }
    }
}
