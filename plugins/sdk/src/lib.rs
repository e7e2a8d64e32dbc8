//! Write task heads for retune in safe Rust.
//!
//! A head is a type with [`TaskHead`]; [`export_heads!`] makes a plugin of it. Tensors are operations of the program: they
//! have gradients, and what fails shows up once, as the error of the call, so that a head needs no `?` between operations.
//!
//! ```
//! use retune_plugin_sdk::{Cx, Json, Linear, Outputs, Result, TaskHead, Tensor, export_heads};
//!
//! struct Mood {
//!     dropout: f64,
//!     out: Linear,
//! }
//!
//! impl TaskHead for Mood {
//!     const NAME: &'static str = "mood";
//!
//!     fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
//!         let out = Linear::new(cx, "classifier", config.count("hidden_size")?, config.count("num_labels")?);
//!         Ok(Mood { dropout: config.number("head_dropout")?, out })
//!     }
//!
//!     fn forward<'c>(&self, _: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
//!         Ok(self.out.forward(hidden.first().dropout(self.dropout)).into()) // (rows, labels)
//!     }
//!
//!     fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
//!         Ok(cx.input("logits").cross_entropy(cx.input("labels")))
//!     }
//! }
//!
//! export_heads!(Mood);
//! # fn main() {}
//! ```
//!
//! # Layout
//!
//! - [`abi`]: the C declarations that cross the border, the Rust side of `include/retune_plugin.h`
//! - [`opcodes`]: the table of operations
//! - [`json`]: options, rows and metrics
//! - [`context`]: what a call of the program brings: inputs, parameters, functions of scripts
//! - [`tensor`]: tensors and what can be done with them
//! - [`layers`]: linear, layer norm, dropout, embedding
//! - [`custom`]: operations on raw numbers with a gradient of one's own
//! - [`head`]: the trait, and `export` behind [`export_heads!`]
//! - [`testing`]: gradients of custom operations against finite differences
//!
//! Only this crate has `unsafe`; a plugin needs none. A panic becomes the error of the call it happens in.

#[cfg(not(panic = "unwind"))]
compile_error!("a plugin needs `panic = \"unwind\"`: a panic must become an error, not the end of a training run");

pub mod abi;
pub mod opcodes;
pub mod json;
pub mod context;
pub mod tensor;
pub mod layers;
pub mod custom;
pub mod head;
#[doc(hidden)]
pub mod export;
pub mod testing;

pub use context::{Cx, Init, Level};
pub use custom::{CustomOp, View};
pub use head::{Function, Outputs, TaskHead};
pub use json::Json;
pub use layers::{Dropout, Embedding, LayerNorm, Linear, Param};
pub use tensor::Tensor;

use std::fmt;

/// What went wrong, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

/// The result of what can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with a text: lower case, without a final dot, names of things in backticks.
    pub fn new(text: impl Into<String>) -> Self {
        Error(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}
