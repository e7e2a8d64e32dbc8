//! All integration tests, in one binary so that candle links once.

mod bert;
mod gradients;
mod losses;
mod tasks;
mod tensor;
