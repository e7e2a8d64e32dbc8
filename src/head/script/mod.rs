//! Tasks written in Rhai.

pub mod convert;
