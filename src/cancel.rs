//! The wish that work ends: a signal to the process, or a time by which a call must have ended.
//!
//! A signal's handler writes it where [`signal`] says; whoever calls a script or works for long puts a [`Deadline`] in force on its thread.
//! Native loops over rows, batches, tokens and bytes call [`check`] once in each turn, and hand its error on. What is done about
//! the error is left to the callers: a trainer finishes its update and saves, a script ends. What a script takes by itself is
//! counted in [`meter`].

pub mod meter;

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::error::{Result, What};

/// The signal that asked the process to end; zero means none.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
/// How many guards of all threads want work to be finished.
static ALL_FINISHING: AtomicUsize = AtomicUsize::new(0);

/// Where the number of a signal is written to ask all work of the process to end: by the handler itself, so that no look after the
/// signal misses it.
pub fn signal() -> Arc<AtomicUsize> {
    SIGNAL.clone()
}

/// The signal that asked for the end, where one did.
pub fn requested() -> Option<i32> {
    i32::try_from(SIGNAL.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0)
}

/// As [`requested`], and none while work of this thread is to be finished first.
pub fn pressing() -> Option<i32> {
    requested().filter(|_| FINISHING.get() == 0)
}

/// Lets this thread finish what it does before a signal ends it, for as long as the guard lives: whoever holds the guard asks
/// [`requested`] where its work can stop. Deadlines count meanwhile.
#[must_use]
pub fn finish_first() -> FinishFirst {
    FINISHING.set(FINISHING.get() + 1);
    ALL_FINISHING.fetch_add(1, Ordering::Relaxed);
    FinishFirst(PhantomData)
}

/// Work of the thread that made this is finished before a signal ends it.
#[derive(Debug)]
pub struct FinishFirst(PhantomData<*const ()>);

impl Drop for FinishFirst {
    fn drop(&mut self) {
        FINISHING.set(FINISHING.get() - 1);
        ALL_FINISHING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether any thread has work to finish before a signal ends it.
pub fn is_finishing() -> bool {
    ALL_FINISHING.load(Ordering::Relaxed) > 0
}

/// Refuses to go on once the end was asked for, or the time of a deadline in force on this thread is over. Other threads that work
/// for this one know of the signal alone. Cheap: a load, and the clock where a deadline is in force.
///
/// # Errors
/// [`What::Stopped`] and [`What::Interrupted`], the signal first.
pub fn check() -> Result<()> {
    meter::note_work();
    if let Some(signal) = pressing() {
        return Err(What::Stopped { signal }.into());
    }
    IN_FORCE.with_borrow(|deadlines| match deadlines.iter().any(Deadline::has_passed) {
        true => Err(What::Interrupted(OVER.into()).into()),
        false => Ok(()),
    })
}

/// Waits for `time`, unless it is to end before.
///
/// # Errors
/// As [`check`].
pub fn sleep(time: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        check()?;
        match time.checked_sub(begun.elapsed()) {
            None | Some(Duration::ZERO) => return Ok(()),
            Some(rest) => std::thread::sleep(rest.min(LOOK)),
        }
    }
}

/// How often a sleeper looks.
const LOOK: Duration = Duration::from_millis(20);

/// What an error says of a time that is over.
pub const OVER: &str = "the time for this call is over";

thread_local! {
    static IN_FORCE: RefCell<Vec<Deadline>> = const { RefCell::new(Vec::new()) };
    /// How many guards want this thread's work to be finished.
    static FINISHING: Cell<usize> = const { Cell::new(0) };
}

/// The time by which something must have ended. Cheap to clone; all clones are the same. None is set at first.
#[derive(Clone, Debug)]
pub struct Deadline(Arc<Clock>);

#[derive(Debug)]
struct Clock {
    start: Instant,
    /// Nanoseconds after `start`; zero means none.
    end: AtomicU64,
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline(Arc::new(Clock { start: Instant::now(), end: AtomicU64::new(0) }))
    }
}

impl Deadline {
    /// The end comes once `time` has passed. Scripts cannot catch it.
    pub fn set(&self, time: Duration) {
        let end = self.0.start.elapsed().saturating_add(time).as_nanos().max(1);
        self.0.end.store(u64::try_from(end).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        self.0.end.store(0, Ordering::Relaxed);
    }

    /// The end comes at the next look.
    pub fn end_now(&self) {
        self.0.end.store(1, Ordering::Relaxed);
    }

    /// Whether the time is over.
    pub fn has_passed(&self) -> bool {
        let end = self.0.end.load(Ordering::Relaxed);
        end != 0 && self.0.start.elapsed().as_nanos() >= u128::from(end)
    }

    /// Lets [`check`] look at this deadline on this thread, beside those in force already, for as long as the guard lives.
    #[must_use]
    pub fn enforce(&self) -> InForce {
        IN_FORCE.with_borrow_mut(|deadlines| deadlines.push(self.clone()));
        InForce(PhantomData)
    }
}

/// A deadline is in force on the thread that made this, which cannot leave it. Guards end in the reverse of their order.
#[derive(Debug)]
pub struct InForce(PhantomData<*const ()>);

impl Drop for InForce {
    fn drop(&mut self) {
        IN_FORCE.with_borrow_mut(|deadlines| deadlines.pop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_counts_on_its_thread_while_its_guard_lives() {
        let (passed, open) = (Deadline::default(), Deadline::default());
        passed.end_now();
        open.set(Duration::from_secs(3600));
        assert!(check().is_ok());
        let outer = open.enforce();
        assert!(check().is_ok());
        let inner = passed.enforce();
        assert!(matches!(check().unwrap_err().what(), What::Interrupted(_)));
        assert!(std::thread::scope(|scope| scope.spawn(|| check().is_ok()).join().unwrap()));
        passed.clear();
        assert!(check().is_ok());
        passed.set(Duration::ZERO);
        assert!(check().is_err());
        drop(inner);
        assert!(check().is_ok());
        drop(outer);
    }
}
