//! Tensors on a device: the differentiable operations of heads and of the reference path, and random numbers.
//!
//! candle's `Tensor` is the tensor of the whole program; this module adds the operations that candle lacks or
//! that have no backward there. Shapes are in the comments, first dimension first.

pub mod arithmetic;
mod cross_entropy;
pub mod device;
pub mod loss;
pub mod ops;
pub mod reduce;
pub mod rng;
pub mod shape;

pub use candle_core::{DType, Device, Tensor, Var};
