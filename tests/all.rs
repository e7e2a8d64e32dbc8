//! All integration tests, in one binary so that candle links once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arguments;
mod hub;
mod optimizer;
mod samplers;
mod schedules;
mod tokenizer;
mod tokenizer_crafted;
