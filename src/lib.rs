//! retune: fine-tune transformers from Rhai scripts.

pub mod error;
pub mod tensor;
pub mod kernels;
pub mod data;
pub mod tokenizer;
pub mod batch;
pub mod model;
pub mod head;
pub mod metrics;
pub mod train;
pub mod pipeline;
pub mod report;
pub mod api;
pub mod host;
pub mod cli;
