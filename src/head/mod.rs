//! The task contract: what turns hidden states into logits, logits into a loss, rows into features.
//!
//! [`Task`] has two implementers: `script` (a Rhai module) and, with the issue on plugins, native code. A [`Model`] is an
//! encoder with a task's head on it.

pub mod best_labels;
pub mod builder;
pub mod labels;
mod model;
mod output;
pub mod packed;
pub mod prepare;
pub mod script;
pub mod spans;
pub mod texts;

use std::any::Any;
use std::sync::Arc;

use candle_core::Tensor;

use crate::batch::Batch;
use crate::data::{Row, Value};
use crate::error::Result;
use crate::model::ModelConfig;
use crate::tokenizer::Tokenizer;

pub use builder::HeadBuilder;
pub use model::{LoadReport, Model, ModelSettings, label_of, scalar};
pub use output::{Output, Predictions};

/// What a task's `create` made: opaque to everybody else.
pub type HeadState = Arc<dyn Any + Send + Sync>;

/// The optional functions of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Rows to features.
    Encode,
    /// Logits to what a pipeline returns.
    Decode,
    /// Predictions and references to numbers.
    Metrics,
}

/// A task: the functions of a head. Shapes: `hidden` is `(tokens, hidden)`, packed.
pub trait Task: Send + Sync {
    /// The task's name, for example `std/tasks/sentiment`.
    fn name(&self) -> &str;

    /// Whether the task has an optional function.
    fn has(&self, function: Function) -> bool;

    /// Whether rows are filled up to the longest of their batch, because the loss looks at padding: the optional function
    /// `padding()`, which returns Hugging Face's word `"longest"`.
    fn pads_rows(&self) -> bool {
        false
    }

    /// Makes the head's parameters, by name.
    ///
    /// # Errors
    /// What the task raises, and weights that do not fit.
    fn create(&self, builder: &HeadBuilder, config: &ModelConfig) -> Result<HeadState>;

    /// Logits: one tensor or several by name, one row a token or one row an example.
    ///
    /// # Errors
    /// What the task raises.
    fn forward(&self, head: &HeadState, hidden: &Tensor, batch: &Batch) -> Result<Output>;

    /// The loss, a scalar: the mean over the batch's labels.
    ///
    /// # Errors
    /// What the task raises.
    fn loss(&self, head: &HeadState, output: &Output, batch: &Batch) -> Result<Tensor>;

    /// One row as one feature map, or several (windows of a long text).
    ///
    /// # Errors
    /// What the task raises: no text, a label it does not know.
    fn encode(&self, tokenizer: &Tokenizer, row: &Row, options: &Value) -> Result<Vec<Row>>;

    /// What a pipeline returns for a batch's logits: one value a row.
    ///
    /// # Errors
    /// What the task raises.
    fn decode(&self, output: &Output, batch: &Batch, options: &Value) -> Result<Value>;

    /// Metrics of predictions against references, by name.
    ///
    /// # Errors
    /// What the task raises.
    fn metrics(&self, predictions: &Value, references: &Value) -> Result<Value>;
}
