//! All integration tests, in one binary so that candle links once.

#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover their helper functions")]

mod data;
mod data_formats;
mod dataset_script;
