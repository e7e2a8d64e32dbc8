//! All integration tests, in one binary so that candle links once.

#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover their helper functions")]

mod arguments;
mod data;
mod dataset_script;
mod hub;
mod optimizer;
mod samplers;
mod schedules;
mod tokenizer;
mod tokenizer_crafted;
