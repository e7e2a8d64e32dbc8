//! retune: fine-tune transformers from Rhai scripts.

pub mod api;
pub mod data;
pub mod error;
pub mod head;
pub mod metrics;
pub mod report;
pub mod tensor;
