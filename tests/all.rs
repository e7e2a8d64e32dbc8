//! All integration tests, in one binary so that candle links once.

#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover their helper functions")]

mod cli;
mod host;
mod layers;
mod reference;
mod wrong;
