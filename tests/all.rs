//! All integration tests, in one binary so that candle links once.

mod hub;
mod tokenizer;
mod tokenizer_crafted;
