//! Arithmetic and comparisons between tensors and numbers, with PyTorch's broadcasting and promotion.
//!
//! Whole numbers stay whole, except in a division; with a float they become 32-bit floats.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::tensor::shape::common_shape;

/// One of the four operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a * b.
    Mul,
    /// a / b.
    Div,
}

/// A comparison, whose result is 1 where it holds and 0 where it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// a = b.
    Eq,
    /// a ≠ b.
    Ne,
    /// a > b.
    Gt,
    /// a ≥ b.
    Ge,
    /// a < b.
    Lt,
    /// a ≤ b.
    Le,
}

/// What stands on one side of an operator.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A tensor.
    Tensor(Tensor),
    /// A whole number.
    Int(i64),
    /// A float.
    Float(f64),
}

impl From<Tensor> for Operand {
    fn from(tensor: Tensor) -> Self {
        Operand::Tensor(tensor)
    }
}

impl From<i64> for Operand {
    fn from(number: i64) -> Self {
        Operand::Int(number)
    }
}

impl From<f64> for Operand {
    fn from(number: f64) -> Self {
        Operand::Float(number)
    }
}

/// `x` as floats: unchanged where it has floats already, else 32-bit floats.
///
/// # Errors
/// Those of the tensor operations.
pub fn as_float(x: &Tensor) -> Result<Tensor> {
    if x.dtype().is_float() { Ok(x.clone()) } else { Ok(x.to_dtype(DType::F32)?) }
}

/// Two tensors with the type they have in common: the wider float, else 32-bit floats for a float and whole numbers that
/// are not of one type become 64-bit ones.
///
/// # Errors
/// Those of the tensor operations.
pub fn promoted(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let common = match (a.dtype(), b.dtype()) {
        (left, right) if left == right => return Ok((a.clone(), b.clone())),
        (left, right) if left.is_int() && right.is_int() => DType::I64,
        (left, right) if left.is_int() => right,
        (left, right) if right.is_int() => left,
        (DType::F64, _) | (_, DType::F64) => DType::F64,
        _ => DType::F32,
    };
    Ok((a.to_dtype(common)?, b.to_dtype(common)?))
}

/// `a op b`.
///
/// # Errors
/// Shapes that do not fit.
pub fn arithmetic(op: Arithmetic, a: &Operand, b: &Operand) -> Result<Tensor> {
    let (a, b) = as_tensors(a, b)?;
    let (a, b) = if op == Arithmetic::Div { (as_float(&a)?, as_float(&b)?) } else { (a, b) };
    let (a, b) = promoted(&a, &b)?;
    let (name, sign) = match op {
        Arithmetic::Add => ("the sum", "+"),
        Arithmetic::Sub => ("the difference", "-"),
        Arithmetic::Mul => ("the product", "*"),
        Arithmetic::Div => ("the quotient", "/"),
    };
    common_shape(&format!("{name} (`{sign}`)"), a.dims(), b.dims())?;
    Ok(match op {
        Arithmetic::Add => a.broadcast_add(&b)?,
        Arithmetic::Sub => a.broadcast_sub(&b)?,
        Arithmetic::Mul => a.broadcast_mul(&b)?,
        Arithmetic::Div => a.broadcast_div(&b)?,
    })
}

/// 1 where `a` compares to `b` as asked, else 0; whole numbers, which no gradient passes.
///
/// # Errors
/// Shapes that do not fit.
pub fn compare(op: Comparison, a: &Tensor, b: &Operand) -> Result<Tensor> {
    let (a, b) = as_tensors(&Operand::Tensor(a.clone()), b)?;
    let (a, b) = promoted(&a, &b)?;
    common_shape("the comparison", a.dims(), b.dims())?;
    let holds = match op {
        Comparison::Eq => a.broadcast_eq(&b)?,
        Comparison::Ne => a.broadcast_ne(&b)?,
        Comparison::Gt => a.broadcast_gt(&b)?,
        Comparison::Ge => a.broadcast_ge(&b)?,
        Comparison::Lt => a.broadcast_lt(&b)?,
        Comparison::Le => a.broadcast_le(&b)?,
    };
    Ok(holds.to_dtype(DType::I64)?)
}

/// Both sides as tensors. A number takes the type of the tensor beside it, except that a float turns whole numbers
/// into floats.
fn as_tensors(a: &Operand, b: &Operand) -> Result<(Tensor, Tensor)> {
    // A number becomes a tensor rather than candle's `affine`, which cuts the gradient where the factor is 0.
    Ok(match (a, b) {
        (Operand::Tensor(a), Operand::Tensor(b)) => (a.clone(), b.clone()),
        (Operand::Tensor(a), number) => (a.clone(), beside(number, a)?),
        (number, Operand::Tensor(b)) => (beside(number, b)?, b.clone()),
        (a, b) => {
            let device = candle_core::Device::Cpu;
            (beside(a, &Tensor::new(0i64, &device)?)?, beside(b, &Tensor::new(0i64, &device)?)?)
        }
    })
}

fn beside(number: &Operand, tensor: &Tensor) -> Result<Tensor> {
    let device = tensor.device();
    let float = if tensor.dtype().is_int() { DType::F32 } else { tensor.dtype() };
    Ok(match number {
        Operand::Tensor(own) => own.clone(),
        Operand::Int(number) if tensor.dtype().is_int() => Tensor::new(*number, device)?,
        Operand::Int(number) => Tensor::new(*number as f64, device)?.to_dtype(float)?,
        Operand::Float(number) => Tensor::new(*number, device)?.to_dtype(float)?,
    })
}
