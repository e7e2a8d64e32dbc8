//! Tensors on a device, and the random numbers that fill them.

pub mod device;
pub mod rng;
