//! From rows to unpadded batches: features, packing, samplers.
//!
//! Encoded rows ([`Features`]) flow in, a [`Batch`] flows out: the tokens of all rows one after the other,
//! without padding, and the rows' other columns (labels, positions) as tensors.

pub mod cut;
pub mod features;
mod packing;
pub mod sampler;

pub use features::{Column, Features, ListLabels};
pub use packing::{Batch, Draw, Part};
