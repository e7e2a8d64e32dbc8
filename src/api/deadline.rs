//! The time by which a script must have ended: for calls that may never end, and for runs that are to begin again.
//!
//! The engine looks at it while a script runs; whoever calls a script sets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

    /// Ends the running script at its next operation.
    pub fn end_now(&self) {
        self.0.end.store(1, Ordering::Relaxed);
    }

    /// Whether the time is over.
    pub fn has_passed(&self) -> bool {
        let end = self.0.end.load(Ordering::Relaxed);
        end != 0 && self.0.start.elapsed().as_millis() >= u128::from(end)
    }
}
