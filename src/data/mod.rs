//! Examples and where they come from: values, rows, data sets, one file per format, and named folders.
//!
//! Paths and names flow in, [`Row`]s of [`Value`]s flow out. What a row means is left to the tasks.

mod download;
pub mod embedded;
pub mod files;
pub mod hub;
mod value;

pub use value::{Row, Value};
