//! Training: arguments, optimizer, schedule, callbacks and the state of a run.
//!
//! Options flow in through [`arguments`]; the trainer asks [`schedule`] for the learning rate, hands gradients to
//! [`optimizer`], and [`callbacks`] decide when to log, evaluate, save and stop. What is to be remembered of a run
//! lives in [`state`].

mod argument_checks;
mod argument_values;
pub mod arguments;
pub mod callbacks;
pub mod checkpoint;
mod evaluation;
mod foreign_arguments;
pub mod optimizer;
mod plan;
mod plateau;
pub mod schedule;
pub mod state;
mod step;
mod trainer;

pub use argument_values::{Interval, MatmulPrecision, NanPolicy, Resume, Sampling, SaveInterval};
pub use arguments::TrainingArguments;
pub use evaluation::{Evaluation, EvaluationData};
pub use trainer::{ComputeLoss, ComputeMetrics, Hooks, Notes, TrainOutput, Trainer, TrainerSettings};
