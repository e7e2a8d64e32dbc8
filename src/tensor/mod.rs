//! Tensors on a device, and the random numbers that fill them.

pub mod rng;
