//! What bounds a script: depth of calls and expressions, number of modules, time and memory.
//!
//! Sizes are not bounded by the engine: with any of Rhai's size limits, that of strings alone included, it
//! measures the whole array at each touch. Appending 20,000 numbers took 9 times as long, 40,000 four times that,
//! and recipes hold whole columns in arrays. Instead the process's own memory is looked at while a script computes, often
//! enough that what a script grows by between two looks fits ([`meter`]); the few calls that make much of little are bounded one
//! by one. A [`Deadline`] ends a script by the clock, where the host sets one.

use rhai::{Dynamic, Engine};

pub use crate::cancel::Deadline;
use crate::cancel::meter::{self, Exceeded};
use crate::cancel::{self, OVER};
use crate::error::{Error, What};
use crate::memory::shown;

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
        if let Some(signal) = cancel::pressing() {
            return Some(Dynamic::from(Error::new(What::Stopped { signal })));
        }
        // Reading the clock at each operation would be felt; one in 256 is not.
        if operations % 256 == 0 && deadline.has_passed() {
            return Some(Dynamic::from(OVER));
        }
        meter::look().map(|exceeded| Dynamic::from(explain(&exceeded)))
    });
}

fn explain(exceeded: &Exceeded) -> Error {
    match exceeded {
        Exceeded::Time(time) => {
            let problem = format!("the script has computed for {} s without an end", time.as_secs_f64());
            Error::new(What::Limit(problem)).hint(format!(
                "does a loop never end? `{}` in the environment is the number of seconds that a call may take, 0 for any",
                meter::VARIABLE
            ))
        }
        Exceeded::Memory(taken, left) => {
            let (taken, left) = (shown((*taken).into()), shown((*left).into()));
            let problem = format!("the script has taken {taken} of memory, and {left} is left");
            Error::new(What::Memory(problem)).hint("does a text, an array or a map grow without an end?")
        }
        Exceeded::Exhausted(left) => {
            let problem = format!("the memory is used up: {} is left", shown((*left).into()));
            Error::new(What::Memory(problem)).hint("use a smaller model, batch or data set, or fewer copies of them")
        }
    }
}
