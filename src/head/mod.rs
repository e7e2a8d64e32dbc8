//! The task contract: what turns hidden states into logits, logits into a loss, rows into features.
//!
//! [`Task`] has two implementers: `script` (a Rhai module) and `plugin` (native code). A [`Model`] is an encoder with a task's
//! head on it.

pub mod autograd;
pub mod best_answers;
pub mod best_labels;
pub mod blocks;
pub mod builder;
pub mod class_weights;
pub mod debug_data;
pub mod encoded;
pub mod entities;
mod features_file;
pub mod fill_mask;
pub mod generation;
pub mod labels;
pub mod masking;
mod model;
pub mod options;
mod output;
pub mod packed;
pub mod plugin;
pub mod prepare;
pub mod question_windows;
pub mod rebuild;
mod references;
pub mod script;
pub mod spans;
pub mod texts;
pub mod token_labels;
pub mod token_spans;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use crate::batch::Batch;
use crate::data::{Row, Value};
use crate::error::{Result, What};
use crate::model::ModelConfig;
use crate::plugin::Plugin;
use crate::tokenizer::Tokenizer;

pub use autograd::{Gradients, Mode};
pub use builder::HeadBuilder;
pub use model::{LoadReport, Model, ModelSettings, WeakModel, scalar};
pub use output::{Leading, Output, Predictions};
pub use rebuild::{Head, Rebuilt};
pub use references::{label_of, reference_of};

/// What a task's `create` made: opaque to everybody else.
pub type HeadState = Arc<dyn Any + Send + Sync>;

/// The optional functions of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Rows to features.
    Encode,
    /// A batch as it came from the rows to the batch that is looked at, for masking.
    Collate,
    /// Logits to what a pipeline returns.
    Decode,
    /// What was decoded of a row's windows to what a pipeline returns for the row.
    Merge,
    /// Logits to the little that metrics need of them.
    Reduce,
    /// Predictions and references to numbers.
    Metrics,
}

impl Function {
    /// The function's name in a task script.
    pub fn name(self) -> &'static str {
        match self {
            Function::Encode => "encode",
            Function::Collate => "collate",
            Function::Decode => "decode",
            Function::Merge => "merge",
            Function::Reduce => "reduce",
            Function::Metrics => "metrics",
        }
    }
}

/// A task: the functions of a head. Shapes: `hidden` is `(tokens, hidden)`, packed.
pub trait Task: Send + Sync {
    /// The task's name, for example `std/tasks/sentiment`.
    fn name(&self) -> &str;

    /// The digest of everything that decides what the task's functions do, where the task can say it.
    fn fingerprint(&self) -> Option<String> {
        None
    }

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

    /// The options of the functions below with their defaults, by name; `Null` where an option has none.
    ///
    /// # Errors
    /// What the task raises.
    fn options(&self) -> Result<Row> {
        Ok(Row::default())
    }

    /// One row as one feature map, or several (windows of a long text).
    ///
    /// # Errors
    /// What the task raises: no text, a label it does not know.
    fn encode(&self, head: &HeadState, tokenizer: &Tokenizer, row: &Row, options: &Value) -> Result<Vec<Row>>;

    /// How many tokens the blocks have that encoded rows are joined into; `None` where rows stay by themselves.
    ///
    /// # Errors
    /// What the task raises.
    fn block_size(&self, _options: &Value) -> Result<Option<usize>> {
        Ok(None)
    }

    /// The batch that the forward gets: masked, for example. Called in training and evaluation.
    ///
    /// # Errors
    /// What the task raises.
    fn collate(&self, _head: &HeadState, batch: Batch, _options: &Value) -> Result<Batch> {
        Ok(batch)
    }

    /// Whether a pipeline gives texts that the model generates: the optional function `generates()`, which returns true.
    /// The task's `merge` gets the texts of a prompt then, and there is no `decode`.
    fn generates(&self) -> bool {
        false
    }

    /// What a pipeline returns for a batch's logits: one value a feature. A task that names tokens gets the tokenizer.
    ///
    /// # Errors
    /// What the task raises.
    fn decode(
        &self,
        head: &HeadState,
        output: &Output,
        batch: &Batch,
        options: &Value,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Value>;

    /// What a pipeline returns for a row, from what was decoded of each of its features.
    ///
    /// # Errors
    /// What the task raises.
    fn merge(&self, _head: &HeadState, _results: &Value, _row: &Row, _options: &Value) -> Result<Value> {
        Err(What::Unsupported(format!("a pipeline over windows with the task `{}`", self.name())).into())
    }

    /// The little that [`Task::metrics`] needs of a batch's logits: one value a feature.
    ///
    /// # Errors
    /// What the task raises.
    fn reduce(&self, _head: &HeadState, _output: &Output, _batch: &Batch, _options: &Value) -> Result<Value> {
        Err(What::Unsupported(format!("`reduce` of the task `{}`", self.name())).into())
    }

    /// Metrics of predictions against references, by name. `options` also has `loss`, the mean over the data set.
    ///
    /// # Errors
    /// What the task raises.
    fn metrics(&self, head: &HeadState, predictions: &Value, references: &Value, options: &Value) -> Result<Value>;

    /// What the head remembers beside its parameters, which is saved with the model.
    ///
    /// # Errors
    /// What the task raises.
    fn save_state(&self, _head: &HeadState) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// The bytes of [`Task::save_state`] again.
    ///
    /// # Errors
    /// What the task raises, or a task without a state.
    fn load_state(&self, _head: &HeadState, _state: &[u8]) -> Result<()> {
        Err(What::Conflict(format!("the model was saved with a state that the task `{}` does not have", self.name()))
            .into())
    }

    /// What is saved beside the task's name, so that it can be found again: a plugin's name, version and hash.
    fn record(&self) -> Option<serde_json::Value> {
        None
    }

    /// The file that native code was built as, whose later builds may take the task's place.
    fn library(&self) -> Option<&Path> {
        None
    }

    /// The digest of the build that the task is of, where it is native code.
    fn build(&self) -> Option<&str> {
        None
    }

    /// The task and a head of it in another build of its plugin, over the parameters of `head` and with its state.
    ///
    /// # Errors
    /// A task that is no plugin's, a parameter that has another shape now, and what the plugin raises.
    fn rebuilt(&self, _plugin: &Arc<Plugin>, _head: &HeadState, _config: &ModelConfig) -> Result<Rebuilt> {
        Err(What::Unsupported(format!("another build of the task `{}`", self.name())).into())
    }
}
