//! Models: configuration, families, the encoder, weights and their saving.
//!
//! A folder flows in, a [`Backbone`] flows out: the encoder with its parameters, and a builder for the head's.

pub mod backbone;
pub mod bert;
pub mod config;
pub mod decoder;
pub mod distilbert;
pub mod electra;
pub mod encoder;
pub mod family;
mod fused;
pub mod gpt2;
pub mod gradient;
pub mod layers;
pub mod parameters;
pub mod roberta;
pub mod save;
pub mod weights;

pub use backbone::Backbone;
pub use config::{ModelConfig, ProblemType};
