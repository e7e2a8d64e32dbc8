//! What a task's `create` makes its parameters with: layers by name, from the same checkpoint as the encoder.

use std::sync::Arc;

use crate::error::{Error, Result, What};
use crate::model::family::Family;
use crate::model::layers::{Bias, Embedding, LayerNorm, Linear};
use crate::model::parameters::{Builder, Init, Parameter};

/// Makes a head's layers. Cheap to clone.
#[derive(Clone)]
pub struct HeadBuilder {
    builder: Builder,
    family: &'static Family,
    deviation: f64,
    eps: f64,
}

impl HeadBuilder {
    /// A builder for a head on `family`, with the encoder's `initializer_range` and layer norm epsilon.
    pub fn new(builder: Builder, family: &'static Family, deviation: f64, eps: f64) -> Self {
        HeadBuilder { builder, family, deviation, eps }
    }

    /// `NAME.weight` `(out, in)` and `NAME.bias` `(out)`.
    ///
    /// # Errors
    /// Weights of another shape, a name made twice.
    pub fn linear(&self, name: &str, n_in: usize, n_out: usize, bias: Bias) -> Result<Linear> {
        Linear::new(&self.builder, name, (n_in, n_out), self.deviation, bias).map_err(of_another_shape)
    }

    /// `NAME.weight` and `NAME.bias` of a layer norm; `eps` is the encoder's unless given.
    ///
    /// # Errors
    /// Weights of another shape, a name made twice.
    pub fn layer_norm(&self, name: &str, size: usize, eps: Option<f64>) -> Result<LayerNorm> {
        LayerNorm::new(&self.builder, name, size, eps.unwrap_or(self.eps)).map_err(of_another_shape)
    }

    /// `NAME.weight` `(entries, size)`.
    ///
    /// # Errors
    /// Weights of another shape, a name made twice.
    pub fn embedding(&self, name: &str, entries: usize, size: usize) -> Result<Embedding> {
        Embedding::new(&self.builder, name, (entries, size), self.deviation).map_err(of_another_shape)
    }

    /// A parameter of any shape; `init` is normal with the model's `initializer_range` unless given.
    ///
    /// # Errors
    /// Weights of another shape, a name made twice.
    pub fn param(&self, name: &str, shape: &[usize], init: Option<Init>) -> Result<Arc<Parameter>> {
        self.builder.make(name, shape, init.unwrap_or(Init::Normal(self.deviation))).map_err(of_another_shape)
    }

    /// The parameter `name` of the whole model, where it has been made.
    pub fn made(&self, name: &str) -> Option<Arc<Parameter>> {
        self.builder.parameters().get(name)
    }

    /// Where the parameters live.
    pub fn device(&self) -> &candle_core::Device {
        self.builder.device()
    }

    /// The encoder's token table, for heads whose last layer is tied to it.
    ///
    /// # Errors
    /// Never for a complete encoder.
    pub fn word_embeddings(&self) -> Result<Arc<Parameter>> {
        let name = format!("{}.{}.weight", self.family.prefix, self.family.names.word);
        self.builder.parameters().get(&name).ok_or_else(|| Error::new(What::NotFound { kind: "parameter", name }))
    }
}

/// What to do about a head that the checkpoint has in another shape.
fn of_another_shape(error: Error) -> Error {
    match error.what() {
        What::Weights(_) => error.hint(
            "give the `num_labels` that the checkpoint was made with, or `ignore_mismatched_sizes: true` for new weights",
        ),
        _ => error,
    }
}
