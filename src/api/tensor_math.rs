//! Methods of `Tensor` element by element, and its reductions.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use candle_core::Tensor;
use rhai::INT;
use rhai::plugin::*;

use crate::api::tensor::{number, operand};
use crate::error::Result;
use crate::head::script::convert::{ScriptResult, raise};
use crate::tensor::arithmetic::{Arithmetic, Comparison, Operand, arithmetic, as_float, compare};
use crate::tensor::ops::{self, Activation};
use crate::tensor::reduce::{self, Extreme};
use crate::tensor::shape::axis;

/// Makes the methods known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(elementwise).into());
    engine.register_global_module(exported_module!(comparisons).into());
    engine.register_global_module(exported_module!(reductions).into());
}

fn each(x: &Tensor, function: impl FnOnce(&Tensor) -> Result<Tensor>) -> ScriptResult<Tensor> {
    as_float(x).and_then(|x| function(&x)).map_err(raise)
}

fn compared(op: Comparison, x: &Tensor, other: &Dynamic) -> ScriptResult<Tensor> {
    operand("what a tensor is compared to", other).and_then(|other| compare(op, x, &other)).map_err(raise)
}

#[export_module]
mod elementwise {
    /// The negative of each element.
    ///
    /// ```rhai
    /// expect((-Tensor::from_array([1, -2])).to_array() == [-1, 2], "an operator, or a method: `x.neg()`");
    /// ```
    #[rhai_fn(name = "neg", name = "-", return_raw, pure)]
    pub fn neg(x: &mut Tensor) -> ScriptResult<Tensor> {
        arithmetic(Arithmetic::Sub, &Operand::Int(0), &x.clone().into()).map_err(raise)
    }

    /// e to the power of each element.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([1]).exp().item() == 1.0, "e to the power 0");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn exp(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |x| Ok(x.exp()?))
    }

    /// The natural logarithm of each element.
    ///
    /// ```rhai
    /// expect(Tensor::ones([1]).log().item() == 0.0, "of 1");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn log(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |x| Ok(x.log()?))
    }

    /// The square root of each element.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([9.0]).sqrt().item() == 3.0, "of 9");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn sqrt(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |x| Ok(x.sqrt()?))
    }

    /// The absolute value of each element.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([-2.5]).abs().item() == 2.5, "without its sign");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn abs(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |y| Ok(ops::abs(y)?.to_dtype(x.dtype())?))
    }

    /// The square of each element.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([3.0]).sqr().item() == 9.0, "of 3");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn sqr(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |x| Ok(x.sqr()?))
    }

    /// The hyperbolic tangent of each element.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([1]).tanh().item() == 0.0, "of 0");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn tanh(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |x| Ok(x.tanh()?))
    }

    /// The logistic function of each element, `1 / (1 + exp(-x))`.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([1]).sigmoid().item() == 0.5, "of 0");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn sigmoid(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, ops::sigmoid)
    }

    /// Each element, or 0 where it is negative.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([-1.0, 2.0]).relu().to_array() == [0.0, 2.0], "cut at 0");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn relu(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, ops::relu)
    }

    /// The GELU of each element, with the error function; Hugging Face's `gelu`.
    ///
    /// ```rhai
    /// let y = Tensor::from_array([1.0]).gelu().item();
    /// expect(y > 0.8413 && y < 0.8414, "1 times the normal distribution at 1");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn gelu(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |x| Activation::Gelu.apply(x))
    }

    /// The GELU of each element in its tanh form; Hugging Face's `gelu_new`.
    ///
    /// ```rhai
    /// let y = Tensor::from_array([1.0]).gelu_new().item();
    /// expect(y > 0.8411 && y < 0.8412, "close to `gelu`");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn gelu_new(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |x| Activation::GeluTanh.apply(x))
    }

    /// Each element times its logistic function.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([1]).silu().item() == 0.0, "of 0");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn silu(x: &mut Tensor) -> ScriptResult<Tensor> {
        each(x, |x| Activation::Silu.apply(x))
    }

    /// The same numbers, which no gradient passes.
    ///
    /// ```rhai
    /// expect(Tensor::ones([2]).detach().to_array() == [1.0, 1.0], "a constant");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn detach(x: &mut Tensor) -> ScriptResult<Tensor> {
        Ok(x.detach())
    }

    /// Each element to the power `p`.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([2.0]).pow(3).item() == 8.0, "the cube of 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn pow(x: &mut Tensor, p: Dynamic) -> ScriptResult<Tensor> {
        let p = number("the exponent of `pow`", &p).map_err(raise)?;
        each(x, |x| ops::pow(x, p))
    }

    /// Each element, cut to the range from `low` to `high`.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([-3.0, 0.5, 3.0]).clamp(-1, 1).to_array() == [-1.0, 0.5, 1.0], "both ends cut");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn clamp(x: &mut Tensor, low: Dynamic, high: Dynamic) -> ScriptResult<Tensor> {
        let low = number("the lower end of `clamp`", &low).map_err(raise)?;
        let high = number("the upper end of `clamp`", &high).map_err(raise)?;
        each(x, |x| ops::clamp(x, low, high))
    }

    /// An activation by the name that a model's configuration has for it: `gelu`, `gelu_new`, `relu`, `silu`, `tanh`, `linear`, ...
    ///
    /// ```rhai
    /// expect(Tensor::from_array([-1.0]).activation("relu").item() == 0.0, "as `relu()`");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn activation(x: &mut Tensor, name: &str) -> ScriptResult<Tensor> {
        Activation::named(name).map_err(raise).and_then(|activation| each(x, |x| activation.apply(x)))
    }

    /// Softmax over dimension `dim`: positive numbers that add up to 1.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([1, 2]).softmax(-1).to_array() == [[0.5, 0.5]], "equal scores");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn softmax(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        each(x, |x| ops::softmax(x, axis("softmax", x, dim)?))
    }

    /// The logarithm of softmax over dimension `dim`, without its rounding.
    ///
    /// ```rhai
    /// let y = Tensor::from_array([0.0, 1000.0]).log_softmax(0);
    /// expect(y.to_array() == [-1000.0, 0.0], "no infinity");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn log_softmax(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        each(x, |x| ops::log_softmax(x, axis("log_softmax", x, dim)?))
    }
}

#[export_module]
mod comparisons {
    /// 1 where an element equals `other` (a tensor or a number), else 0.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 2.0, 3.0]).eq(2).to_array() == [0, 1, 0], "each compared to 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn eq(x: &mut Tensor, other: Dynamic) -> ScriptResult<Tensor> {
        compared(Comparison::Eq, x, &other)
    }

    /// 1 where an element differs from `other` (a tensor or a number), else 0.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 2.0, 3.0]).ne(2).to_array() == [1, 0, 1], "each compared to 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn ne(x: &mut Tensor, other: Dynamic) -> ScriptResult<Tensor> {
        compared(Comparison::Ne, x, &other)
    }

    /// 1 where an element is greater than `other` (a tensor or a number), else 0.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 2.0, 3.0]).gt(2).to_array() == [0, 0, 1], "each compared to 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn gt(x: &mut Tensor, other: Dynamic) -> ScriptResult<Tensor> {
        compared(Comparison::Gt, x, &other)
    }

    /// 1 where an element is greater than or equals `other` (a tensor or a number), else 0.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 2.0, 3.0]).ge(2).to_array() == [0, 1, 1], "each compared to 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn ge(x: &mut Tensor, other: Dynamic) -> ScriptResult<Tensor> {
        compared(Comparison::Ge, x, &other)
    }

    /// 1 where an element is less than `other` (a tensor or a number), else 0.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 2.0, 3.0]).lt(2).to_array() == [1, 0, 0], "each compared to 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn lt(x: &mut Tensor, other: Dynamic) -> ScriptResult<Tensor> {
        compared(Comparison::Lt, x, &other)
    }

    /// 1 where an element is less than or equals `other` (a tensor or a number), else 0.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 2.0, 3.0]).le(2).to_array() == [1, 1, 0], "each compared to 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn le(x: &mut Tensor, other: Dynamic) -> ScriptResult<Tensor> {
        compared(Comparison::Le, x, &other)
    }
}

#[export_module]
mod reductions {
    /// The sum of all elements.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[1, 2], [3, 4]]).sum().item() == 10, "of all");
    /// ```
    #[rhai_fn(name = "sum", return_raw, pure)]
    pub fn sum_of_all(x: &mut Tensor) -> ScriptResult<Tensor> {
        reduce::sum(x, None).map_err(raise)
    }

    /// The sum over dimension `dim`, which goes.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[1, 2], [3, 4]]).sum(1).to_array() == [3, 7], "of each row");
    /// ```
    #[rhai_fn(name = "sum", return_raw, pure)]
    pub fn sum_over(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        reduce::sum(x, Some(dim)).map_err(raise)
    }

    /// The mean of all elements.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 3.0]).mean().item() == 2.0, "of all");
    /// ```
    #[rhai_fn(name = "mean", return_raw, pure)]
    pub fn mean_of_all(x: &mut Tensor) -> ScriptResult<Tensor> {
        reduce::mean(x, None).map_err(raise)
    }

    /// The mean over dimension `dim`, which goes.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[1, 2], [3, 4]]).mean(0).to_array() == [2.0, 3.0], "of each column");
    /// ```
    #[rhai_fn(name = "mean", return_raw, pure)]
    pub fn mean_over(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        reduce::mean(x, Some(dim)).map_err(raise)
    }

    /// The variance, with `n - 1` in the denominator, of all elements.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 3.0]).variance().item() == 2.0, "of two numbers");
    /// ```
    #[rhai_fn(name = "variance", return_raw, pure)]
    pub fn variance_of_all(x: &mut Tensor) -> ScriptResult<Tensor> {
        reduce::variance(x, None).map_err(raise)
    }

    /// The variance, with `n - 1` in the denominator, over dimension `dim`, which goes.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[1.0, 3.0]]).variance(1).to_array() == [2.0], "of each row");
    /// ```
    #[rhai_fn(name = "variance", return_raw, pure)]
    pub fn variance_over(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        reduce::variance(x, Some(dim)).map_err(raise)
    }

    /// The largest element of all elements.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 3.0]).max().item() == 3.0, "of all");
    /// ```
    #[rhai_fn(name = "max", return_raw, pure)]
    pub fn max_of_all(x: &mut Tensor) -> ScriptResult<Tensor> {
        reduce::extreme(x, Extreme::Max, None).map_err(raise)
    }

    /// The largest element over dimension `dim`, which goes.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[1, 2], [4, 3]]).max(1).to_array() == [2, 4], "of each row");
    /// ```
    #[rhai_fn(name = "max", return_raw, pure)]
    pub fn max_over(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        reduce::extreme(x, Extreme::Max, Some(dim)).map_err(raise)
    }

    /// The smallest element of all elements.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.0, 3.0]).min().item() == 1.0, "of all");
    /// ```
    #[rhai_fn(name = "min", return_raw, pure)]
    pub fn min_of_all(x: &mut Tensor) -> ScriptResult<Tensor> {
        reduce::extreme(x, Extreme::Min, None).map_err(raise)
    }

    /// The smallest element over dimension `dim`, which goes.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[1, 2], [4, 3]]).min(1).to_array() == [1, 3], "of each row");
    /// ```
    #[rhai_fn(name = "min", return_raw, pure)]
    pub fn min_over(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        reduce::extreme(x, Extreme::Min, Some(dim)).map_err(raise)
    }

    /// Where the largest element over dimension `dim` stands; the first of equal ones.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[0.1, 0.9], [0.7, 0.3]]).argmax(-1).to_array() == [1, 0], "in each row");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn argmax(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        reduce::place_of_extreme(x, Extreme::Max, dim).map_err(raise)
    }

    /// Where the smallest element over dimension `dim` stands; the first of equal ones.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[0.1, 0.9], [0.7, 0.3]]).argmin(-1).to_array() == [0, 1], "in each row");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn argmin(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        reduce::place_of_extreme(x, Extreme::Min, dim).map_err(raise)
    }
}
