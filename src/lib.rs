//! retune: fine-tune transformers from Rhai scripts.

pub mod error;
pub mod tensor;
pub mod data;
pub mod head;
pub mod report;
pub mod api;
pub mod host;
pub mod cli;
