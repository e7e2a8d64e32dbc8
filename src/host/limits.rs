//! What bounds a script: depth of calls and expressions, number of modules, and time.
//!
//! Sizes are not bounded by the engine: with any of Rhai's size limits, that of strings alone included, it
//! measures the whole array at each touch. Appending 20,000 numbers took 9 times as long, 40,000 four times that,
//! and recipes hold whole columns in arrays. A runaway script is stopped by its [`Deadline`], where the host sets one.

use rhai::{Dynamic, Engine};

pub use crate::cancel::Deadline;
use crate::cancel::{self, OVER};
use crate::error::{Error, What};

/// How deep calls may nest.
pub const MAX_CALL_LEVELS: usize = 64;
/// How deep an expression may nest at the top level and inside a function.
pub const MAX_EXPRESSION_DEPTH: usize = 64;
/// How many imports one run may evaluate.
pub const MAX_MODULES: usize = 1000;

/// Sets the limits of an engine.
pub(crate) fn apply(engine: &mut Engine, deadline: &Deadline) {
    engine.set_max_call_levels(MAX_CALL_LEVELS);
    engine.set_max_expr_depths(MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_DEPTH);
    engine.set_max_modules(MAX_MODULES);
    let deadline = deadline.clone();
    engine.on_progress(move |operations| {
        // Reading the clock at each operation would be felt; one in 256 is not.
        if let Some(signal) = cancel::requested() {
            return Some(Dynamic::from(Error::new(What::Stopped { signal })));
        }
        (operations % 256 == 0 && deadline.has_passed()).then(|| Dynamic::from(OVER))
    });
}
