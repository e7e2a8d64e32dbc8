//! Tensors and what can be done with them: PyTorch's names, one operation of the program each.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::abi::{self, Handle};
use crate::context::Cx;
use crate::json::Json;
use crate::opcodes::op;
use crate::{Error, Result};

/// A tensor of the current call. Copied freely; gradients flow through everything but constants.
#[derive(Clone, Copy)]
pub struct Tensor<'c> {
    pub(crate) handle: Handle,
    pub(crate) cx: Cx<'c>,
}

macro_rules! operations {
    ($($(#[doc = $doc:literal])+ $name:ident => $opcode:ident;)*) => {
        impl<'c> Tensor<'c> {
            $($(#[doc = $doc])+
            #[must_use]
            pub fn $name(self) -> Self {
                self.cx.op(op::$opcode, &[self], &[], &[])
            })*
        }
    };
}

operations! {
    /// GELU with the error function, Hugging Face's `gelu`.
    gelu => GELU;
    /// The tanh form of GELU, Hugging Face's `gelu_new`.
    gelu_tanh => GELU_TANH;
    /// max(x, 0).
    relu => RELU;
    /// x times its logistic function.
    silu => SILU;
    /// The hyperbolic tangent.
    tanh => TANH;
    /// The logistic function.
    sigmoid => SIGMOID;
    /// The exponential function.
    exp => EXP;
    /// The natural logarithm.
    log => LOG;
    /// The square root.
    sqrt => SQRT;
    /// The absolute value.
    abs => ABS;
    /// The sum of all elements.
    sum_all => SUM;
    /// The mean of all elements.
    mean_all => MEAN;
    /// The largest element.
    max_all => MAX;
    /// The smallest element.
    min_all => MIN;
    /// The same numbers as a constant.
    detach => DETACH;
    /// The first token of each row: `(tokens, ...)` to `(rows, ...)`.
    first => FIRST;
    /// The last token of each row: `(tokens, ...)` to `(rows, ...)`.
    last => LAST;
    /// The mean over each row's tokens: `(tokens, ...)` to `(rows, ...)`.
    row_mean => ROW_MEAN;
    /// The largest values over each row's tokens: `(tokens, ...)` to `(rows, ...)`.
    row_max => ROW_MAX;
    /// The padded view: `(tokens, ...)` to `(rows, longest, ...)`, with zeros where a row has ended.
    padded => PADDED;
    /// What stands behind each token in its row; -100 where a row ends.
    next => NEXT;
}

impl<'c> Tensor<'c> {
    fn with(self, opcode: u32, ints: &[i64], floats: &[f64]) -> Self {
        self.cx.op(opcode, &[self], ints, floats)
    }

    /// The product of matrices: `(..., n, k)` and `(..., k, m)` to `(..., n, m)`.
    #[must_use]
    pub fn matmul(self, other: Tensor<'c>) -> Self {
        self.cx.op(op::MATMUL, &[self, other], &[], &[])
    }

    /// 1 where equal, else 0.
    #[must_use]
    pub fn eq(self, other: Tensor<'c>) -> Self {
        self.cx.op(op::EQ, &[self, other], &[], &[])
    }

    /// 1 where greater than `other`, else 0.
    #[must_use]
    pub fn gt(self, other: Tensor<'c>) -> Self {
        self.cx.op(op::GT, &[self, other], &[], &[])
    }

    /// 1 where less than `other`, else 0.
    #[must_use]
    pub fn lt(self, other: Tensor<'c>) -> Self {
        self.cx.op(op::LT, &[self, other], &[], &[])
    }

    /// [`Tensor::last`], passing over a row's closing tokens whose id is `pad_token_id`, where there is one.
    #[must_use]
    pub fn last_unpadded(self, pad_token_id: Option<i64>) -> Self {
        self.with(op::LAST, pad_token_id.as_slice(), &[])
    }

    /// To the power `p`.
    #[must_use]
    pub fn pow(self, p: f64) -> Self {
        self.with(op::POW, &[], &[p])
    }

    /// Cut to `[low, high]`.
    #[must_use]
    pub fn clamp(self, low: f64, high: f64) -> Self {
        self.with(op::CLAMP, &[], &[low, high])
    }

    /// The activation that a configuration names: `gelu`, `gelu_new`, `relu`, `silu`, `tanh` or `linear`.
    ///
    /// # Errors
    /// Another name.
    pub fn activation(self, name: &str) -> Result<Self> {
        Ok(match name {
            "gelu" | "gelu_python" => self.gelu(),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => self.gelu_tanh(),
            "relu" => self.relu(),
            "silu" | "swish" => self.silu(),
            "tanh" => self.tanh(),
            "linear" => self,
            _ => return Err(Error::new(format!("the activation `{name}` is not supported"))),
        })
    }

    /// Softmax over a dimension; -1 is the last one, here and everywhere.
    #[must_use]
    pub fn softmax(self, dim: i64) -> Self {
        self.with(op::SOFTMAX, &[dim], &[])
    }

    /// The logarithm of softmax over a dimension.
    #[must_use]
    pub fn log_softmax(self, dim: i64) -> Self {
        self.with(op::LOG_SOFTMAX, &[dim], &[])
    }

    /// The sum over a dimension.
    #[must_use]
    pub fn sum(self, dim: i64) -> Self {
        self.with(op::SUM, &[dim], &[])
    }

    /// The mean over a dimension.
    #[must_use]
    pub fn mean(self, dim: i64) -> Self {
        self.with(op::MEAN, &[dim], &[])
    }

    /// The largest over a dimension.
    #[must_use]
    pub fn max(self, dim: i64) -> Self {
        self.with(op::MAX, &[dim], &[])
    }

    /// The smallest over a dimension.
    #[must_use]
    pub fn min(self, dim: i64) -> Self {
        self.with(op::MIN, &[dim], &[])
    }

    /// Where the largest over a dimension stands.
    #[must_use]
    pub fn argmax(self, dim: i64) -> Self {
        self.with(op::ARGMAX, &[dim], &[])
    }

    /// The same numbers in another shape; one dimension may be -1.
    #[must_use]
    pub fn reshape(self, dims: &[i64]) -> Self {
        self.with(op::RESHAPE, dims, &[])
    }

    /// Two dimensions exchanged.
    #[must_use]
    pub fn transpose(self, a: i64, b: i64) -> Self {
        self.with(op::TRANSPOSE, &[a, b], &[])
    }

    /// `len` entries of a dimension from `start`.
    #[must_use]
    pub fn narrow(self, dim: i64, start: i64, len: i64) -> Self {
        self.with(op::NARROW, &[dim, start, len], &[])
    }

    /// Without a dimension of 1.
    #[must_use]
    pub fn squeeze(self, dim: i64) -> Self {
        self.with(op::SQUEEZE, &[dim], &[])
    }

    /// With a dimension of 1 put in.
    #[must_use]
    pub fn unsqueeze(self, dim: i64) -> Self {
        self.with(op::UNSQUEEZE, &[dim], &[])
    }

    /// Repeated to a shape; -1 keeps a dimension.
    #[must_use]
    pub fn expand(self, dims: &[i64]) -> Self {
        self.with(op::EXPAND, dims, &[])
    }

    /// The entries of a dimension that `ids` `(n)` name.
    #[must_use]
    pub fn index_select(self, dim: i64, ids: Tensor<'c>) -> Self {
        self.cx.op(op::INDEX_SELECT, &[self, ids], &[dim], &[])
    }

    /// One entry of a dimension for each of `ids`.
    #[must_use]
    pub fn gather(self, dim: i64, ids: Tensor<'c>) -> Self {
        self.cx.op(op::GATHER, &[self, ids], &[dim], &[])
    }

    /// Tensors joined along a dimension; at least one.
    ///
    /// # Errors
    /// No tensors.
    pub fn cat(tensors: &[Tensor<'c>], dim: i64) -> Result<Self> {
        let first = tensors.first().ok_or_else(|| Error::new("`cat` needs at least one tensor"))?;
        Ok(first.cx.op(op::CAT, tensors, &[dim], &[]))
    }

    /// Tensors put side by side along a new dimension; at least one.
    ///
    /// # Errors
    /// No tensors.
    pub fn stack(tensors: &[Tensor<'c>], dim: i64) -> Result<Self> {
        let first = tensors.first().ok_or_else(|| Error::new("`stack` needs at least one tensor"))?;
        Ok(first.cx.op(op::STACK, tensors, &[dim], &[]))
    }

    /// `x W^T + b`: x `(..., in)`, W `(out, in)`, b `(out)`.
    #[must_use]
    pub fn linear(self, weight: Tensor<'c>, bias: Option<Tensor<'c>>) -> Self {
        match bias {
            Some(bias) => self.cx.op(op::LINEAR, &[self, weight, bias], &[], &[]),
            None => self.cx.op(op::LINEAR, &[self, weight], &[], &[]),
        }
    }

    /// Layer normalisation over the last dimension.
    #[must_use]
    pub fn layer_norm(self, weight: Tensor<'c>, bias: Tensor<'c>, eps: f64) -> Self {
        self.cx.op(op::LAYER_NORM, &[self, weight, bias], &[], &[eps])
    }

    /// The vectors that `ids` name in this table.
    #[must_use]
    pub fn embedding(self, ids: Tensor<'c>) -> Self {
        self.cx.op(op::EMBEDDING, &[self, ids], &[], &[])
    }

    /// While training, each element is 0 with probability `p`, else divided by `1 - p`.
    #[must_use]
    pub fn dropout(self, p: f64) -> Self {
        self.with(op::DROPOUT, &[], &[p])
    }

    /// The mean cross entropy of these logits `(n, classes)` against `labels` `(n)`, of which -100 is ignored.
    #[must_use]
    pub fn cross_entropy(self, labels: Tensor<'c>) -> Self {
        self.cx.op(op::CROSS_ENTROPY, &[self, labels], &[], &[])
    }

    /// [`Tensor::cross_entropy`] with what the recipe asks of a loss: label smoothing and class weights, as the batch has them.
    ///
    /// # Errors
    /// A call that has no batch.
    pub fn task_cross_entropy(self, labels: Tensor<'c>) -> Result<Self> {
        let smoothing = self.cx.input("label_smoothing").item()?;
        Ok(match self.cx.optional_input("class_weights") {
            Some(weights) => self.cx.op(op::CROSS_ENTROPY, &[self, labels, weights], &[-100], &[smoothing]),
            None => self.cx.op(op::CROSS_ENTROPY, &[self, labels], &[-100], &[smoothing]),
        })
    }

    /// The mean squared error of these predictions.
    #[must_use]
    pub fn mse_loss(self, targets: Tensor<'c>) -> Self {
        self.cx.op(op::MSE_LOSS, &[self, targets], &[], &[])
    }

    /// The mean binary cross entropy of these logits.
    #[must_use]
    pub fn bce_with_logits(self, targets: Tensor<'c>) -> Self {
        self.cx.op(op::BCE_WITH_LOGITS, &[self, targets], &[], &[])
    }

    /// The shape.
    ///
    /// # Errors
    /// A tensor that a failed operation has given.
    pub fn dims(self) -> Result<Vec<usize>> {
        let mut dims = [0usize; 8];
        // SAFETY: there is room for as many dimensions as is said.
        let rank = unsafe { (self.cx.host.dims)(self.handle, dims.as_mut_ptr(), dims.len()) };
        match usize::try_from(rank) {
            Ok(rank) if rank <= dims.len() => Ok(dims[..rank].to_vec()),
            _ => Err(Error::new("the shape of a tensor that a failed operation has given")),
        }
    }

    /// The number of dimensions.
    ///
    /// # Errors
    /// A tensor that a failed operation has given.
    pub fn rank(self) -> Result<usize> {
        Ok(self.dims()?.len())
    }

    /// Whether the tensor holds whole numbers.
    ///
    /// # Errors
    /// A tensor that a failed operation has given.
    pub fn is_int(self) -> Result<bool> {
        // SAFETY: a plain call.
        match unsafe { (self.cx.host.dtype)(self.handle) } {
            -1 => Err(Error::new("the type of a tensor that a failed operation has given")),
            dtype => Ok(dtype == abi::I64 as i32),
        }
    }

    /// The numbers, row by row, as 32-bit floats.
    ///
    /// # Errors
    /// A tensor that a failed operation has given.
    pub fn to_floats(self) -> Result<Vec<f32>> {
        self.read(abi::F32, 0.0)
    }

    /// The numbers, row by row, as whole numbers.
    ///
    /// # Errors
    /// A tensor that a failed operation has given.
    pub fn to_ints(self) -> Result<Vec<i64>> {
        self.read(abi::I64, 0)
    }

    /// The number that a tensor of one element holds.
    ///
    /// # Errors
    /// Any other number of elements.
    pub fn item(self) -> Result<f64> {
        match self.read::<f64>(abi::F64, 0.0)?.as_slice() {
            [one] => Ok(*one),
            several => Err(Error::new(format!("`item` of a tensor of {} elements", several.len()))),
        }
    }

    fn read<T: Copy>(self, dtype: u32, zero: T) -> Result<Vec<T>> {
        let failed = || Error::new("the numbers of a tensor that a failed operation has given");
        let count = self.dims()?.iter().product();
        let mut values = vec![zero; count];
        // SAFETY: there is room for as many numbers as is said, of the type that is said.
        let read = unsafe { (self.cx.host.read)(self.handle, dtype, values.as_mut_ptr().cast(), count) };
        if usize::try_from(read) == Ok(count) { Ok(values) } else { Err(failed()) }
    }
}

/// A tensor as an argument of [`Cx::call`].
impl From<Tensor<'_>> for Json {
    fn from(tensor: Tensor<'_>) -> Json {
        Json::map([("$tensor", Json::Int(tensor.handle as i64))])
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $opcode:ident;)*) => {
        $(impl<'c> $trait for Tensor<'c> {
            type Output = Tensor<'c>;
            fn $method(self, other: Tensor<'c>) -> Tensor<'c> {
                self.cx.op(op::$opcode, &[self, other], &[], &[])
            }
        })*
    };
}

operators! {
    Add add ADD;
    Sub sub SUB;
    Mul mul MUL;
    Div div DIV;
}

macro_rules! with_numbers {
    ($($trait:ident $method:ident |$number:ident| $mul:expr, $add:expr;)*) => {
        $(impl<'c> $trait<f64> for Tensor<'c> {
            type Output = Tensor<'c>;
            fn $method(self, $number: f64) -> Tensor<'c> {
                self.with(op::AFFINE, &[], &[$mul, $add])
            }
        })*
    };
}

with_numbers! {
    Add add |number| 1.0, number;
    Sub sub |number| 1.0, -number;
    Mul mul |number| number, 0.0;
}

impl<'c> Div<f64> for Tensor<'c> {
    type Output = Tensor<'c>;
    fn div(self, number: f64) -> Tensor<'c> {
        // A product with the inverse would round twice.
        self / self.cx.floats(&[number as f32], &[])
    }
}

impl<'c> Neg for Tensor<'c> {
    type Output = Tensor<'c>;
    fn neg(self) -> Tensor<'c> {
        self * -1.0
    }
}
