//! The operations of the table of opcodes over tensors, with gradients.
//!
//! Numbers and shapes flow in, a tensor flows out. Each operation is the one that scripts have under the same name; those that
//! look at the batch are left to the services of the call.

use std::sync::LazyLock;

use candle_core::{DType, Tensor};
use retune_plugin_sdk::opcodes::{TABLE, op, opcode};

use crate::error::{Result, What};
use crate::kernels;
use crate::tensor::arithmetic::{Arithmetic, Comparison, Operand, arithmetic, as_float, compare};
use crate::tensor::loss::{self, CrossEntropy};
use crate::tensor::ops::{self, Activation};
use crate::tensor::reduce::{self, Extreme};
use crate::tensor::shape::{self, conflict, shown};

/// How many of something an operation takes: at least, and at most.
type Count = (usize, usize);

/// For each number up to the largest, how many tensors, whole numbers and floats its operation takes.
static COUNTS: LazyLock<Vec<Option<[Count; 3]>>> = LazyLock::new(|| {
    let mut counts = vec![None; TABLE.iter().map(|known| known.code as usize + 1).max().unwrap_or(0)];
    for known in TABLE {
        counts[known.code as usize] = Some([known.tensors, known.ints, known.floats].map(count));
    }
    counts
});

/// `x, weight, [bias]` is two or three; `x...` is one or more for tensors and any number for `dims...`.
fn count(text: &str) -> Count {
    let mut count = (0, 0);
    for part in text.split(", ").filter(|part| !part.is_empty()) {
        match (part.starts_with('['), part.strip_suffix("...")) {
            (_, Some(name)) => count = (usize::from(name != "dims"), usize::MAX),
            (true, None) => count.1 += 1,
            (false, None) => count = (count.0 + 1, count.1 + 1),
        }
    }
    count
}

/// Checks that an operation exists, and that it was given what it takes: so many tensors, whole numbers and floats.
///
/// # Errors
/// What is missing or too much.
pub fn check(code: u32, given: [usize; 3]) -> Result<()> {
    let Some(wanted) = COUNTS.get(code as usize).copied().flatten() else {
        return Err(What::Plugin(format!("there is no operation {code}; `has_op` asks")).into());
    };
    for ((given, (least, most)), what) in given.into_iter().zip(wanted).zip(["tensors", "whole numbers", "floats"]) {
        if given < least || given > most {
            let takes = opcode(code).map_or("", |known| match what {
                "tensors" => known.tensors,
                "floats" => known.floats,
                _ => known.ints,
            });
            let takes = if takes.is_empty() { "none".into() } else { format!("`{takes}`") };
            return Err(What::Plugin(format!("it was given {given} {what}, but takes {takes}")).into());
        }
    }
    Ok(())
}

/// Applies an operation to what [`check`] has seen; `None` for one that looks at the batch.
///
/// # Errors
/// Shapes that do not fit, ids and labels out of range.
pub fn apply(code: u32, x: &[Tensor], ints: &[i64], floats: &[f64]) -> Result<Option<Tensor>> {
    let first = &x[0];
    let pair = |op| arithmetic(op, &x[0].clone().into(), &x[1].clone().into());
    let comparison = |op| compare(op, first, &x[1].clone().into());
    let axis = |name| shape::axis(name, first, ints[0]);
    Ok(Some(match code {
        op::ADD => pair(Arithmetic::Add)?,
        op::SUB => pair(Arithmetic::Sub)?,
        op::MUL => pair(Arithmetic::Mul)?,
        op::DIV => pair(Arithmetic::Div)?,
        op::MATMUL => shape::matmul(first, &x[1])?,
        op::AFFINE => affine(first, floats[0], floats[1])?,
        op::EQ => comparison(Comparison::Eq)?,
        op::GT => comparison(Comparison::Gt)?,
        op::LT => comparison(Comparison::Lt)?,
        op::GELU => Activation::Gelu.apply(&as_float(first)?)?,
        op::GELU_TANH => Activation::GeluTanh.apply(&as_float(first)?)?,
        op::RELU => ops::relu(&as_float(first)?)?,
        op::SILU => Activation::Silu.apply(&as_float(first)?)?,
        op::TANH => as_float(first)?.tanh()?,
        op::SIGMOID => ops::sigmoid(&as_float(first)?)?,
        op::EXP => as_float(first)?.exp()?,
        op::LOG => as_float(first)?.log()?,
        op::SQRT => as_float(first)?.sqrt()?,
        op::ABS => ops::abs(&as_float(first)?)?,
        op::POW => ops::pow(&as_float(first)?, floats[0])?,
        op::CLAMP => ops::clamp(&as_float(first)?, floats[0], floats[1])?,
        op::SOFTMAX => ops::softmax(&as_float(first)?, axis("softmax")?)?,
        op::LOG_SOFTMAX => ops::log_softmax(&as_float(first)?, axis("log_softmax")?)?,
        op::SUM => reduce::sum(first, ints.first().copied())?,
        op::MEAN => reduce::mean(first, ints.first().copied())?,
        op::MAX => reduce::extreme(first, Extreme::Max, ints.first().copied())?,
        op::MIN => reduce::extreme(first, Extreme::Min, ints.first().copied())?,
        op::ARGMAX => reduce::place_of_extreme(first, Extreme::Max, ints[0])?,
        op::RESHAPE => shape::reshape(first, ints)?,
        op::TRANSPOSE => shape::transpose(first, ints[0], ints[1])?,
        op::NARROW => shape::narrow(first, ints[0], ints[1], ints[2])?,
        op::SQUEEZE => shape::squeeze(first, ints[0])?,
        op::UNSQUEEZE => shape::unsqueeze(first, ints[0])?,
        op::EXPAND => shape::expand(first, ints)?,
        op::INDEX_SELECT => shape::index_select(first, ints[0], &x[1])?,
        op::GATHER => shape::gather(first, ints[0], &x[1])?,
        op::CAT => shape::cat(x, ints[0])?,
        op::STACK => shape::stack(x, ints[0])?,
        op::LINEAR => kernels::linear::linear(first, &x[1], x.get(2))?,
        op::LAYER_NORM => kernels::norm::layer_norm(first, &x[1], &x[2], floats[0])?,
        op::EMBEDDING => embedding(first, &x[1])?,
        op::DETACH => first.detach(),
        op::CROSS_ENTROPY => {
            let settings = CrossEntropy {
                ignore_index: ints.first().copied().unwrap_or(loss::IGNORE_INDEX),
                label_smoothing: floats.first().copied().unwrap_or(0.0),
                weight: x.get(2).cloned(),
            };
            kernels::vocabulary_loss::cross_entropy(first, &x[1], &settings)?
        }
        op::MSE_LOSS => loss::mse(first, &x[1])?,
        op::BCE_WITH_LOGITS => loss::bce_with_logits(first, &x[1])?,
        op::DROPOUT | op::FIRST | op::LAST | op::ROW_MEAN | op::ROW_MAX | op::PADDED | op::NEXT => return Ok(None),
        other => return Err(What::Internal(format!("the operation {other} has no implementation")).into()),
    }))
}

fn affine(x: &Tensor, mul: f64, add: f64) -> Result<Tensor> {
    let x = if mul == 1.0 { x.clone() } else { arithmetic(Arithmetic::Mul, &x.clone().into(), &Operand::Float(mul))? };
    if add == 0.0 { Ok(x) } else { arithmetic(Arithmetic::Add, &x.into(), &Operand::Float(add)) }
}

/// The vectors that ids of any shape name: `(entries, size)` and `(...)` to `(..., size)`.
fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let &[_, size] = table.dims() else {
        return Err(conflict(format!(
            "an embedding's table has the shape (entries, size), but got {}",
            shown(table.dims())
        )));
    };
    if !ids.dtype().is_int() {
        return Err(conflict(format!("an embedding takes whole numbers, but got floats of {}", shown(ids.dims()))));
    }
    let dims: Vec<usize> = ids.dims().iter().copied().chain([size]).collect();
    Ok(shape::index_select(table, 0, &ids.flatten_all()?.to_dtype(DType::I64)?)?.reshape(dims)?)
}
