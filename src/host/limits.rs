//! What bounds a script: depth of calls and expressions, number of modules, and time.
//!
//! Sizes are not bounded by the engine: with any of Rhai's size limits, that of strings alone included, it
//! measures the whole array at each touch. Appending 20,000 numbers took 9 times as long, 40,000 four times that,
//! and recipes hold whole columns in arrays. A runaway script is stopped by its [`Deadline`], where the host sets one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rhai::{Dynamic, Engine};

/// How deep calls may nest.
pub const MAX_CALL_LEVELS: usize = 64;
/// How deep an expression may nest at the top level and inside a function.
pub const MAX_EXPRESSION_DEPTH: usize = 64;
/// How many imports one run may evaluate.
pub const MAX_MODULES: usize = 1000;

/// The time by which the script that is running must have ended. Cheap to clone; all clones are the same. None is set at first.
#[derive(Clone, Debug)]
pub struct Deadline(Arc<Clock>);

#[derive(Debug)]
struct Clock {
    start: Instant,
    /// Milliseconds after `start`; zero means none.
    end: AtomicU64,
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline(Arc::new(Clock { start: Instant::now(), end: AtomicU64::new(0) }))
    }
}

impl Deadline {
    /// Ends the running script once `time` has passed; native calls are not interrupted, and scripts cannot catch it.
    pub fn set(&self, time: Duration) {
        let end = (self.0.start.elapsed() + time).as_millis().max(1);
        self.0.end.store(u64::try_from(end).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        self.0.end.store(0, Ordering::Relaxed);
    }

    fn has_passed(&self) -> bool {
        let end = self.0.end.load(Ordering::Relaxed);
        end != 0 && self.0.start.elapsed().as_millis() >= u128::from(end)
    }
}

/// Sets the limits of an engine.
pub(crate) fn apply(engine: &mut Engine, deadline: &Deadline) {
    engine.set_max_call_levels(MAX_CALL_LEVELS);
    engine.set_max_expr_depths(MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_DEPTH);
    engine.set_max_modules(MAX_MODULES);
    let deadline = deadline.clone();
    engine.on_progress(move |operations| {
        // Reading the clock at each operation would be felt; one in 256 is not.
        (operations % 256 == 0 && deadline.has_passed()).then(|| Dynamic::from("the time for this call is over"))
    });
}
