//! CPU kernels, the only SIMD code, each beside a plain reference implementation.

pub mod dropout;
