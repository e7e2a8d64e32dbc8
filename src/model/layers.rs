//! Layers over named parameters: linear, layer norm, embedding.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::{Result, What};
use crate::kernels;
use crate::model::parameters::{Builder, Init, Parameter};

/// `x W^T + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `(out, in)`, or `(in, out)` where it is stored so.
    pub weight: Arc<Parameter>,
    /// `(out)`.
    pub bias: Option<Arc<Parameter>>,
    /// How the weight is stored.
    pub stored: Stored,
}

/// How the matrix of a linear layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// `(out, in)`, as torch's `Linear`.
    OutIn,
    /// `(in, out)`, as Hugging Face's `Conv1D`.
    InOut,
}

impl Linear {
    /// Makes `NAME.weight` (normal, `deviation`) and, where asked for, `NAME.bias` (zeros).
    ///
    /// # Errors
    /// Those of [`Builder::make`].
    pub fn new(
        builder: &Builder,
        name: &str,
        (n_in, n_out): (usize, usize),
        deviation: f64,
        bias: Bias,
    ) -> Result<Self> {
        let weight = builder.make(&format!("{name}.weight"), &[n_out, n_in], Init::Normal(deviation))?;
        let bias = match bias {
            Bias::Yes => Some(builder.make(&format!("{name}.bias"), &[n_out], Init::Zeros)?),
            Bias::No => None,
        };
        Ok(Linear { weight, bias, stored: Stored::OutIn })
    }

    /// Makes `NAME.weight` (normal, `deviation`), stored in either way, and `NAME.bias` (zeros).
    ///
    /// # Errors
    /// Those of [`Builder::make`].
    pub fn stored(
        builder: &Builder,
        name: &str,
        (n_in, n_out): (usize, usize),
        deviation: f64,
        stored: Stored,
    ) -> Result<Self> {
        let shape = match stored {
            Stored::OutIn => [n_out, n_in],
            Stored::InOut => [n_in, n_out],
        };
        let weight = builder.make(&format!("{name}.weight"), &shape, Init::Normal(deviation))?;
        let bias = Some(builder.make(&format!("{name}.bias"), &[n_out], Init::Zeros)?);
        Ok(Linear { weight, bias, stored })
    }

    /// `(..., in)` to `(..., out)`.
    ///
    /// # Errors
    /// A last dimension other than `in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.tensor());
        let weight = match self.stored {
            Stored::OutIn => self.weight.tensor(),
            Stored::InOut => self.weight.tensor().t()?,
        };
        kernels::linear::linear(x, &weight, bias.as_ref())
    }
}

/// Whether a linear layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// With a bias.
    Yes,
    /// Without one.
    No,
}

/// Layer normalisation over the last dimension.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `(n)`.
    pub weight: Arc<Parameter>,
    /// `(n)`.
    pub bias: Arc<Parameter>,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// Makes `NAME.weight` (ones) and `NAME.bias` (zeros).
    ///
    /// # Errors
    /// Those of [`Builder::make`].
    pub fn new(builder: &Builder, name: &str, size: usize, eps: f64) -> Result<Self> {
        let weight = builder.make(&format!("{name}.weight"), &[size], Init::Ones)?;
        let bias = builder.make(&format!("{name}.bias"), &[size], Init::Zeros)?;
        Ok(LayerNorm { weight, bias, eps })
    }

    /// `(..., n)` to `(..., n)`.
    ///
    /// # Errors
    /// A last dimension other than `n`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::norm::layer_norm(x, &self.weight.tensor(), &self.bias.tensor(), self.eps)
    }
}

/// A table of vectors.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `(entries, size)`.
    pub weight: Arc<Parameter>,
}

impl Embedding {
    /// Makes `NAME.weight` (normal, `deviation`).
    ///
    /// # Errors
    /// Those of [`Builder::make`].
    pub fn new(builder: &Builder, name: &str, (entries, size): (usize, usize), deviation: f64) -> Result<Self> {
        Ok(Embedding { weight: builder.make(&format!("{name}.weight"), &[entries, size], Init::Normal(deviation))? })
    }

    /// Looks up `ids` `(n)`, u32, to `(n, size)`.
    ///
    /// # Errors
    /// Ids of another rank.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        if ids.rank() != 1 {
            return Err(What::Conflict(format!("an embedding takes ids of (n), but got {:?}", ids.dims())).into());
        }
        Ok(self.weight.tensor().index_select(ids, 0)?)
    }
}
