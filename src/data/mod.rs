//! Examples and where they come from: values, rows, data sets, one file per format, and named folders.
//!
//! Paths and names flow in, [`Row`]s of [`Value`]s flow out. What a row means is left to the tasks.

mod clean;
pub mod configs;
pub mod conll;
pub mod csv;
mod dataset;
pub mod digest;
mod download;
pub mod durable;
pub mod embedded;
pub mod files;
pub mod foreign_weights;
pub mod format;
pub(crate) mod guard;
pub mod gzip;
pub mod hub;
mod hub_dataset;
pub mod json;
pub mod jsonl;
mod layout;
pub mod load;
mod magic;
pub mod parquet;
pub mod permissions;
pub mod slices;
mod sources;
pub mod splits;
pub mod stages;
pub mod stored;
mod squad;
pub mod text;
pub mod train_test_split;
mod value;

pub use dataset::{Classes, Dataset, Parsed};
pub use value::{Row, Value};
