//! What a script has taken: its own time, and the memory that it made the process grow by.
//!
//! The engine calls [`look`] before each operation. That costs a load and a comparison, until the clock has ticked: then the
//! process's memory is read, and what has happened since the last tick is counted. It counts as the script's where the library
//! did no work meanwhile, which it says with [`note_work`]. Counting is by thread, and what other threads take meanwhile cannot be
//! told apart: a call that the library makes begins with such a note, so that short calls beside others are never blamed.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::error::{Result, What};
use crate::memory;

/// How often the clock ticks.
const TICK: Duration = Duration::from_millis(10);

/// How long one call of a script's function may compute, beside the library's work that it asks for.
const CALL: Duration = Duration::from_secs(60);
/// How long a recipe may compute without any work of the library that says so: rows, tokens, batches, steps.
const TOP_LEVEL: Duration = Duration::from_secs(600);

/// What a script may always take.
const FREE: u64 = 32 << 20;
/// The machine keeps this much.
const KEPT: u64 = 32 << 20;

static CLOCK: AtomicU64 = AtomicU64::new(0);

/// The clock ticks as long as somebody holds this.
#[derive(Debug)]
pub struct Ticking(#[expect(dead_code, reason = "held for its drop")] Arc<()>);

/// Starts the clock, or joins those who need it.
pub fn tick() -> Ticking {
    static HELD: Mutex<Weak<()>> = Mutex::new(Weak::new());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = held.upgrade() {
        return Ticking(running);
    }
    let new = Arc::new(());
    *held = Arc::downgrade(&new);
    let mine = held.clone();
    let ticks = move || {
        while mine.strong_count() > 0 {
            std::thread::sleep(TICK);
            CLOCK.fetch_add(1, Ordering::Relaxed);
        }
    };
    // Without a clock nothing is counted, and the script runs on.
    let _ = std::thread::Builder::new().name("clock".into()).spawn(ticks);
    Ticking(new)
}

/// Why a script may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// A call has computed for as long as it may.
    Time(Duration),
    /// The script has taken so much memory that its next operation may end the process: what it took, and what is left.
    Memory(u64, u64),
    /// The machine has next to nothing left.
    Exhausted(u64),
}

#[derive(Clone, Copy, Default)]
struct Usage {
    /// The clock at the last look.
    seen: u64,
    /// Whether the library has worked since the last look.
    worked: bool,
    /// Ticks that the script has computed in the innermost call, or at the top level since the library's last work.
    ticks: u64,
    /// How many calls of script functions by the library are open.
    calls: u32,
    /// The process's memory at the last look, and how much of it the script has taken.
    resident: u64,
    taken: i64,
    /// What was available when it was last asked for, and how much was resident then.
    available: u64,
    asked_at: u64,
}

thread_local! {
    static USAGE: Cell<Usage> = const { Cell::new(Usage {
        seen: 0, worked: false, ticks: 0, calls: 0, resident: 0, taken: 0, available: u64::MAX, asked_at: 0,
    }) };
}

/// Says that the library works on this thread: what it takes is not the script's.
pub fn note_work() {
    let usage = USAGE.get();
    if !usage.worked {
        USAGE.set(Usage { worked: true, ..usage });
    }
}

/// A function of a script is called by the library: its time is counted by itself while the guard lives.
#[must_use]
pub fn call() -> Call {
    let usage = USAGE.get();
    USAGE.set(Usage { ticks: 0, calls: usage.calls + 1, worked: true, ..usage });
    Call { ticks: usage.ticks }
}

/// An open call. Guards end in the reverse of their order.
#[derive(Debug)]
pub struct Call {
    ticks: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        let usage = USAGE.get();
        USAGE.set(Usage { ticks: self.ticks, calls: usage.calls.saturating_sub(1), ..usage });
    }
}

/// How long one call may compute: `RETUNE_CALL_SECONDS`, or a minute; zero means for ever.
fn call_limit() -> Duration {
    static LIMIT: std::sync::OnceLock<Duration> = std::sync::OnceLock::new();
    *LIMIT.get_or_init(|| {
        let given = std::env::var(VARIABLE).ok().and_then(|text| parse(&text).ok());
        given.map_or(CALL, |limit| if limit.is_zero() { Duration::MAX } else { limit })
    })
}

/// Refuses a `RETUNE_CALL_SECONDS` that is no time.
///
/// # Errors
/// Text that is no number of seconds.
pub fn check_variable() -> Result<()> {
    std::env::var(VARIABLE).map_or(Ok(()), |text| parse(&text).map(|_| ()))
}

fn parse(text: &str) -> Result<Duration> {
    let seconds = text.trim().parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| {
        let (name, allowed) = (format!("`{VARIABLE}`"), "a number of seconds such as `300`, 0 for any".to_string());
        What::OutOfRange { name, value: format!("`{text}`"), allowed }.into()
    })
}

/// The variable that says how many seconds one call of a script's function may compute.
pub const VARIABLE: &str = "RETUNE_CALL_SECONDS";

/// Looks whether the script may go on. Cheap where the clock has not ticked since the last look.
pub fn look() -> Option<Exceeded> {
    let now = CLOCK.load(Ordering::Relaxed);
    let usage = USAGE.get();
    if usage.seen == now { None } else { look_closely(usage, now) }
}

#[cold]
fn look_closely(mut usage: Usage, now: u64) -> Option<Exceeded> {
    usage.seen = now;
    usage.ticks = if usage.worked && usage.calls == 0 { 0 } else { usage.ticks + u64::from(!usage.worked) };
    let resident = memory::resident();
    let change = resident as i64 - usage.resident as i64;
    let grew = !usage.worked && change > 0;
    // At a thread's first look there is nothing to compare with. What is given back counts for the script whoever worked meanwhile.
    if usage.resident > 0 && (!usage.worked || change < 0) {
        usage.taken = (usage.taken + change).max(0);
    }
    (usage.resident, usage.worked) = (resident, false);
    // What is available follows from what is resident, until that has changed by much.
    if resident.abs_diff(usage.asked_at) > 16 << 20 || now.is_multiple_of(64) {
        (usage.available, usage.asked_at) = (memory::available().unwrap_or(u64::MAX), resident);
    }
    USAGE.set(usage);
    let limit = if usage.calls > 0 { call_limit() } else { TOP_LEVEL.max(call_limit()) };
    if TICK.saturating_mul(u32::try_from(usage.ticks).unwrap_or(u32::MAX)) > limit {
        return Some(Exceeded::Time(limit));
    }
    // An operation may double what there is, and holds both while it does.
    let taken = usage.taken as u64;
    if grew && taken > FREE && taken > usage.available / 2 {
        return Some(Exceeded::Memory(taken, usage.available));
    }
    (usage.available < KEPT).then_some(Exceeded::Exhausted(usage.available))
}
