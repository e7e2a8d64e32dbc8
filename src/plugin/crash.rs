//! What is said when a plugin takes the process down: which plugin, which head, which step, and the last checkpoint.
//!
//! While a function of a plugin runs, its thread carries a [`Site`]. A handler of the signals that end a process writes a message
//! that needs no memory, and lets the signal do what it did before. Crashes outside of plugins are left alone.

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};

/// A function of a plugin, in words that live for ever: `` `forward` of the head `crf` of the plugin `retune-crf` 0.1.0 ``.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site(&'static str);

thread_local! {
    static SITE: Cell<Site> = const { Cell::new(Site("")) };
}

/// The optimizer step that is being made; -1 outside of training.
static STEP: AtomicI64 = AtomicI64::new(-1);
/// The folder of the last checkpoint.
static CHECKPOINT: AtomicPtr<&'static str> = AtomicPtr::new(std::ptr::null_mut());

impl Site {
    /// A site with these words, which are never freed: made once for each function of a head.
    pub fn new(words: String) -> Self {
        Site(Box::leak(words.into_boxed_str()))
    }

    /// The site of this thread.
    pub fn current() -> Self {
        SITE.get()
    }

    /// Puts the thread at this site until the guard is dropped.
    pub fn enter(self) -> AtSite {
        AtSite(SITE.replace(self))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Puts the former site back.
pub struct AtSite(Site);

impl Drop for AtSite {
    fn drop(&mut self) {
        SITE.set(self.0);
    }
}

/// Notes the optimizer step that is being made, counted from 1.
pub fn note_step(step: u64) {
    STEP.store(i64::try_from(step).unwrap_or(-1), Ordering::Relaxed);
}

/// Notes a checkpoint that was written or read. One path a checkpoint is never freed.
pub fn note_checkpoint(folder: &Path) {
    let text: &'static str = Box::leak(folder.display().to_string().into_boxed_str());
    CHECKPOINT.store(Box::into_raw(Box::new(text)), Ordering::Release);
}

/// Installs the handler, once.
pub fn watch() {
    #[cfg(unix)]
    handler::install();
}

#[cfg(unix)]
mod handler {
    //! The handler: everything it calls is safe in a signal handler (`write`, `sigaction`, atomics, thread-locals without
    //! destructors).

    use std::ffi::c_int;
    use std::sync::Once;
    use std::sync::atomic::Ordering;

    use super::{CHECKPOINT, SITE, STEP};

    const SIGNALS: [(c_int, &str); 5] = [
        (libc::SIGSEGV, "segmentation fault"),
        (libc::SIGBUS, "bus error"),
        (libc::SIGILL, "illegal instruction"),
        (libc::SIGFPE, "arithmetic error"),
        (libc::SIGABRT, "abort"),
    ];

    /// What each signal did before.
    static mut BEFORE: [std::mem::MaybeUninit<libc::sigaction>; SIGNALS.len()] =
        [const { std::mem::MaybeUninit::uninit() }; SIGNALS.len()];

    pub(super) fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            for (place, (signal, _)) in SIGNALS.iter().enumerate() {
                // SAFETY: a zeroed `sigaction` is valid; the handler is of the kind that the flags say; `BEFORE` is written here
                // alone, before the handler can run for this signal.
                unsafe {
                    let mut action: libc::sigaction = std::mem::zeroed();
                    action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
                    action.sa_flags = libc::SA_ONSTACK;
                    libc::sigemptyset(&raw mut action.sa_mask);
                    let before = (&raw mut BEFORE).cast::<libc::sigaction>().add(place);
                    libc::sigaction(*signal, &raw const action, before);
                }
            }
        });
    }

    extern "C" fn on_signal(signal: c_int) {
        let place = SIGNALS.iter().position(|(known, _)| *known == signal).unwrap_or(0);
        let site = SITE.get().0;
        // SAFETY: `BEFORE` was filled when the handler was installed.
        unsafe {
            let before = (&raw const BEFORE).cast::<libc::sigaction>().add(place);
            libc::sigaction(signal, before, std::ptr::null_mut());
        }
        // Returning makes a fault happen again, with what the signal did before. One that was sent is sent again.
        if !site.is_empty() {
            report(SIGNALS[place].1, site);
            // SAFETY: a plain call; the signal is blocked until this function returns.
            unsafe { libc::raise(signal) };
        }
    }

    fn report(what: &str, site: &str) {
        let mut digits = [0u8; 20];
        let checkpoint = CHECKPOINT.load(Ordering::Acquire);
        // SAFETY: null, or a text that is never freed.
        let checkpoint = unsafe { checkpoint.as_ref() }.copied();
        for part in ["\nerror: ", what, " in native code: ", site, "\n"] {
            write(part);
        }
        let step = STEP.load(Ordering::Relaxed);
        if step >= 0 {
            for part in ["  step: ", decimal(step, &mut digits), "\n"] {
                write(part);
            }
        }
        for part in ["  last checkpoint: ", checkpoint.unwrap_or("none"), "\n"] {
            write(part);
        }
        write("  = hint: `retune plugin check FILE` tries the plugin out in a process of its own");
        if checkpoint.is_some() {
            write("; `resume_from_checkpoint: true` goes on from the last checkpoint");
        }
        write("\n");
    }

    fn write(text: &str) {
        // SAFETY: a text with its length.
        let _ = unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }

    fn decimal(mut number: i64, digits: &mut [u8; 20]) -> &str {
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 || at == 0 {
                break;
            }
        }
        std::str::from_utf8(&digits[at..]).unwrap_or("")
    }
}
