//! Differentiable operations composed of candle operations that all have a backward.
//!
//! candle's fused `LayerNorm`, `softmax_last_dim` and friends cut the gradient without a word; nothing here uses them.

use candle_core::{D, DType, Tensor};

use crate::error::{Error, Result, What, nearest};
use crate::tensor::shape::{conflict, shown};

/// The activation functions that a model's configuration can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), with the error function; Hugging Face's `gelu`.
    Gelu,
    /// The tanh form of GELU; Hugging Face's `gelu_new` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x σ(x); `silu` and `swish`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// x, unchanged.
    Linear,
}

impl Activation {
    const NAMES: [(&str, Activation); 12] = [
        ("gelu", Activation::Gelu),
        ("gelu_python", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_accurate", Activation::GeluTanh),
        ("gelu_python_tanh", Activation::GeluTanh),
        ("relu", Activation::Relu),
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("tanh", Activation::Tanh),
        ("linear", Activation::Linear),
    ];

    /// The activation of a configuration's name.
    ///
    /// # Errors
    /// An unknown name, with the nearest one.
    pub fn named(name: &str) -> Result<Self> {
        if let Some((_, activation)) = Self::NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*activation);
        }
        let error = Error::new(What::Unsupported(format!("the activation `{name}`")));
        Err(match nearest(name, Self::NAMES.iter().map(|(known, _)| *known)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("known are gelu, gelu_new, gelu_pytorch_tanh, relu, silu (swish), tanh and linear"),
        })
    }

    /// Applies the activation element by element.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Gelu => x.gelu_erf()?,
            Activation::GeluTanh => x.gelu()?,
            Activation::Relu => relu(x)?,
            Activation::Silu => x.silu()?,
            Activation::Tanh => x.tanh()?,
            Activation::Linear => x.clone(),
        })
    }
}

/// `x W^T + b`, with `x` of `(..., in)`, `weight` of `(out, in)` and `bias` of `(out)`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let Some((&n_in, leading)) = dims.split_last() else {
        return Err(conflict("a linear layer needs at least one dimension, but got a scalar".into()));
    };
    let &[n_out, wanted] = weight.dims() else {
        let got = shown(weight.dims());
        return Err(conflict(format!("a linear layer's weight has the shape (out, in), but got {got}")));
    };
    if let Some(bias) = bias.filter(|bias| bias.dims() != [n_out]) {
        let got = shown(bias.dims());
        return Err(conflict(format!("a linear layer with {n_out} outputs has a bias of ({n_out}), but got {got}")));
    }
    if n_in != wanted {
        let got = shown(&dims);
        return Err(conflict(format!(
            "a linear layer takes {wanted} features, but the last dimension of {got} is {n_in}"
        )));
    }
    let flat = x.reshape(((), n_in))?; // (rows, in)
    let y = flat.matmul(&weight.t()?)?; // (rows, out)
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    let shape: Vec<usize> = leading.iter().copied().chain([n_out]).collect();
    Ok(y.reshape(shape)?)
}

/// Layer normalisation over the last dimension (Ba, Kiros, Hinton 2016): `(x - mean) / sqrt(var + eps) * weight + bias`.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let size = x.dims().last().copied().unwrap_or(0);
    if size == 0 || weight.dims() != [size] || bias.dims() != [size] {
        return Err(conflict(format!(
            "layer_norm of {} with a weight of {} and a bias of {}: both have the size of the last dimension",
            shown(x.dims()),
            shown(weight.dims()),
            shown(bias.dims())
        )));
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?; // (..., 1)
    let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    Ok(normal.broadcast_mul(weight)?.broadcast_add(bias)?)
}

/// Softmax over dimension `dim`.
///
/// # Errors
/// A dimension that does not exist.
pub fn softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    // The maximum is a constant of the result, so no gradient has to pass through it.
    let max = x.max_keepdim(dim)?.detach();
    let exp = x.broadcast_sub(&max)?.exp()?;
    Ok(exp.broadcast_div(&exp.sum_keepdim(dim)?)?)
}

/// The logarithm of softmax over dimension `dim`.
///
/// # Errors
/// A dimension that does not exist.
pub fn log_softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    let max = x.max_keepdim(dim)?.detach();
    let shifted = x.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(dim)?.log()?;
    Ok(shifted.broadcast_sub(&log_sum)?)
}

/// The logistic function `1 / (1 + exp(-x))`, composed so that it has a backward.
///
/// # Errors
/// Those of the tensor operations.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    // tanh does not overflow: sigmoid(x) = (tanh(x / 2) + 1) / 2.
    Ok((((x * 0.5)?.tanh()? + 1.0)? * 0.5)?)
}

/// max(x, 0), whose gradient at 0 is 0 as in PyTorch (candle's is 1).
///
/// # Errors
/// Those of the tensor operations.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    let zeros = x.zeros_like()?;
    Ok(x.gt(&zeros)?.where_cond(x, &zeros)?)
}

/// |x|, whose gradient at 0 is 0 as in PyTorch (candle's is 1).
///
/// # Errors
/// Those of the tensor operations.
pub fn abs(x: &Tensor) -> Result<Tensor> {
    Ok((x * x.sign()?.detach())?)
}

/// `x` to the power `p`.
///
/// # Errors
/// Those of the tensor operations.
pub fn pow(x: &Tensor, p: f64) -> Result<Tensor> {
    Ok(match p {
        // 1 everywhere, with a gradient of 0 rather than none: `powf` would give 0 times infinity at 0.
        0.0 => Tensor::zeros(x.shape(), DType::U8, x.device())?.where_cond(x, &x.ones_like()?)?,
        1.0 => x.clone(),
        2.0 => x.sqr()?,
        _ => x.powf(p)?,
    })
}

/// `x` cut to `[low, high]`; the gradient passes where nothing was cut, the ends included, as in PyTorch.
///
/// # Errors
/// Those of the tensor operations.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let low = (x.zeros_like()? + low)?;
    let high = (x.zeros_like()? + high)?;
    let raised = x.lt(&low)?.where_cond(&low, x)?;
    Ok(x.gt(&high)?.where_cond(&high, &raised)?)
}
