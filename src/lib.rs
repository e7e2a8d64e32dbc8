//! retune: fine-tune transformers from Rhai scripts.
//!
//! A *recipe* is a Rhai script that loads a pretrained model and a tokenizer, prepares data, configures a `Trainer`, trains,
//! evaluates, saves and uses the result. A *task* (sentiment, NER, question answering) is a Rhai script too: the head on the
//! encoder. Names, defaults and numbers are those of Hugging Face `transformers`.
//!
//! # The flow
//!
//! text -> `data::Dataset` -> `tokenizer` -> `batch::Batch` -> `model::encoder` -> `head::Task` -> loss -> `train::optimizer`
//! -> `train::checkpoint` -> `report`
//!
//! # Layout
//!
//! The modules stand in the order of the flow, and each uses only those above it (a test enforces it).
//!
//! - [`error`]: what happened, where, and what to do next
//! - [`memory`]: what memory the machine has left, and the refusal of what does not fit
//! - [`cancel`]: the wish that work ends, a signal or a deadline, which long loops look at
//! - [`tensor`]: devices, counter-based random numbers, differentiable operations, losses
//! - [`kernels`]: CPU kernels with backward, each beside a plain twin; products over tiles, by instruction set and precision
//! - [`data`]: values, data sets, one file per format, named folders and who may read and write them, whole files, the hub
//! - [`tokenizer`]: text to token ids
//! - [`batch`]: examples to unpadded batches, samplers
//! - [`model`]: configuration, families, the encoder and its fused form, the decoder with its cache, weights and their saving
//! - [`plugin`]: task heads in native code: loading, versions, the table of functions they get
//! - [`head`]: the task contract, models with a task's head, the token loops of tasks, text generation, gradients for loops of a
//!   script's own, `debug_data`
//! - [`metrics`]: classification and regression as scikit-learn and scipy define them, entities as seqeval, answers as SQuAD,
//!   perplexity
//! - [`train`]: arguments, trainer, optimizer, schedule, callbacks, checkpoints; hyperparameter search, loops of a script's own,
//!   the learning-rate finder
//! - [`pipeline`]: inference for users
//! - [`report`]: progress, log lines, events, the result of a run
//! - [`watch`]: what changed on disk
//! - [`api`]: what a script may call
//! - [`host`]: the Rhai engine: resolver, limits, diagnostics, reload, signals, reference
//! - `fuzz`: the readers of untrusted bytes, for fuzzing
//! - [`cli`]: the commands
//!
//! # Invariants
//!
//! - Batches are packed: there is no padding, and hidden states are `(tokens, hidden)`. A task whose loss looks at padding
//!   (extractive question answering) asks for it with `padding()`.
//! - A random draw is a function of (seed, stream, step, index), never of history, threads or timing.
//! - Work is cut by shape alone, so the bits do not depend on the number of threads.
//! - Nothing that is not finite reaches the weights; nothing is half-written; nothing panics on bad input.
//! - A run that goes on changes between two updates alone. What is tried there and refused leaves no trace in it.
//! - Only `api`, `host` and `head::script` know Rhai; only `kernels`, `plugin` and `head::plugin` hold `unsafe`.

pub mod error;
pub mod memory;
pub mod cancel;
pub mod tensor;
pub mod kernels;
pub mod data;
pub mod tokenizer;
pub mod batch;
pub mod model;
pub mod plugin;
pub mod head;
pub mod metrics;
pub mod train;
pub mod pipeline;
pub mod report;
pub mod watch;
pub mod api;
pub mod host;
#[doc(hidden)]
pub mod fuzz;
pub mod cli;
