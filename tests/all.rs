//! All integration tests, in one binary so that candle links once.

mod arguments;
mod optimizer;
mod samplers;
mod schedules;
