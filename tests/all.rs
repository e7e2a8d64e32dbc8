//! All integration tests, in one binary so that candle links once.

mod metrics;
mod report;
