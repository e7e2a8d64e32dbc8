//! Layers over named parameters: linear, layer norm, dropout, embedding.
//!
//! A layer is made in `create` and remembers names and sizes; the numbers belong to the program.

use crate::context::{Cx, Init};
use crate::json::Json;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A parameter by name.
#[derive(Clone, Debug)]
pub struct Param {
    name: String,
    dims: Vec<usize>,
}

impl Param {
    /// Makes the parameter `name`, from the checkpoint where it has it, else filled as `init` says.
    pub fn new(cx: Cx<'_>, name: &str, dims: &[usize], init: Init) -> Self {
        cx.param(name, dims, init);
        Param { name: name.to_string(), dims: dims.to_vec() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value in a call.
    pub fn value<'c>(&self, cx: Cx<'c>) -> Tensor<'c> {
        cx.param(&self.name, &self.dims, Init::Model)
    }
}

/// `x W^T + b`, with the parameters `NAME.weight` `(out, in)` and `NAME.bias` `(out)`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    /// A layer with a bias.
    pub fn new(cx: Cx<'_>, name: &str, n_in: usize, n_out: usize) -> Self {
        let mut layer = Linear::without_bias(cx, name, n_in, n_out);
        layer.bias = Some(Param::new(cx, &format!("{name}.bias"), &[n_out], Init::Zeros));
        layer
    }

    /// A layer without a bias.
    pub fn without_bias(cx: Cx<'_>, name: &str, n_in: usize, n_out: usize) -> Self {
        Linear { weight: Param::new(cx, &format!("{name}.weight"), &[n_out, n_in], Init::Model), bias: None }
    }

    /// `(..., in)` to `(..., out)`.
    pub fn forward<'c>(&self, x: Tensor<'c>) -> Tensor<'c> {
        x.linear(self.weight.value(x.cx), self.bias.as_ref().map(|bias| bias.value(x.cx)))
    }
}

/// Layer normalisation over the last dimension, with the parameters `NAME.weight` and `NAME.bias`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f64,
}

impl LayerNorm {
    /// A layer norm over `size` numbers.
    pub fn new(cx: Cx<'_>, name: &str, size: usize, eps: f64) -> Self {
        LayerNorm {
            weight: Param::new(cx, &format!("{name}.weight"), &[size], Init::Ones),
            bias: Param::new(cx, &format!("{name}.bias"), &[size], Init::Zeros),
            eps,
        }
    }

    /// `(..., size)` to `(..., size)`.
    pub fn forward<'c>(&self, x: Tensor<'c>) -> Tensor<'c> {
        x.layer_norm(self.weight.value(x.cx), self.bias.value(x.cx), self.eps)
    }
}

/// A table of vectors, with the parameter `NAME.weight` `(entries, size)`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Param,
}

impl Embedding {
    /// A table of `entries` vectors of `size` numbers.
    pub fn new(cx: Cx<'_>, name: &str, entries: usize, size: usize) -> Self {
        Embedding { weight: Param::new(cx, &format!("{name}.weight"), &[entries, size], Init::Model) }
    }

    /// Ids of any shape, `(...)`, to `(..., size)`.
    pub fn forward<'c>(&self, ids: Tensor<'c>) -> Tensor<'c> {
        self.weight.value(ids.cx).embedding(ids)
    }
}

/// Dropout with a probability that was checked.
#[derive(Clone, Copy, Debug)]
pub struct Dropout(f64);

impl Dropout {
    /// The probability under a key of the configuration.
    ///
    /// # Errors
    /// No number from 0 to below 1 under that key.
    pub fn of(config: &Json, key: &str) -> Result<Self> {
        let p = config.number(key)?;
        if (0.0..1.0).contains(&p) {
            Ok(Dropout(p))
        } else {
            Err(Error::new(format!("`{key}` is {p}, but must be at least 0 and less than 1")))
        }
    }

    /// Drops while training; the first dimension counts tokens or rows.
    pub fn forward<'c>(&self, x: Tensor<'c>) -> Tensor<'c> {
        x.dropout(self.0)
    }
}
