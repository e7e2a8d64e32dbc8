//! Training: arguments, optimizer, schedule, callbacks and the state of a run.
//!
//! Options flow in through [`arguments`]; the trainer asks [`schedule`] for the learning rate, hands gradients to
//! [`optimizer`], and [`callbacks`] decide when to log, evaluate, save and stop. What is to be remembered of a run
//! lives in [`state`]. [`search`] makes many runs of one trainer, [`lr_find`] tries learning rates on a copy.

mod argument_checks;
mod argument_values;
pub mod arguments;
pub mod callbacks;
pub mod checkpoint;
mod compute_loss;
mod dry_run;
pub mod epochs;
mod evaluation;
mod foreign_arguments;
pub mod ledger;
pub mod live;
pub mod live_arguments;
pub mod loader;
pub mod loop_optimizer;
pub mod lr_find;
mod memory;
mod non_finite;
pub mod optimizer;
mod output_dir;
pub mod param_groups;
mod plan;
mod plateau;
mod precision;
mod resume;
pub mod schedule;
pub mod search;
mod snapshot;
pub mod state;
mod step;
mod trainer;

pub use argument_values::{DryRun, Interval, MatmulPrecision, NanPolicy, Resume, Sampling, SaveInterval};
pub use arguments::TrainingArguments;
pub use compute_loss::{ComputeLoss, LossOfBatch, LossOfWindow};
pub use evaluation::{Evaluation, EvaluationData};
pub use trainer::{
    BetweenUpdates, ComputeMetrics, GivesScripts, Hooks, Interrupted, Mend, Notes, TrainOutput, Trainer,
    TrainerSettings,
};
