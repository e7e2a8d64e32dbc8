//! Examples on their way to batches.

pub mod sampler;
