//! Panics of the crates that read untrusted files, which some crafted files provoke, become errors here.
//!
//! The panic hook is wrapped once, so that a caught panic prints nothing; every other panic prints as before.

use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic counts as an error, and either comes back as text.
pub(crate) fn catch<T, E: Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A thread that is ending has no thread-locals left: then print.
            if !SILENT.try_with(Cell::get).unwrap_or(false) {
                previous(info);
            }
        }));
    });
    let outer = SILENT.replace(true);
    // Unwind safety: what a panic leaves half done is dropped with the closure, or is the crate's own cache,
    // which guards itself by a lock that poisons.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    SILENT.set(outer);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(payload) => Err(text_of(payload.as_ref())),
    }
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("the reader gave up").to_string()
}
