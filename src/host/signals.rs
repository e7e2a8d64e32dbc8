//! The signals that ask a run to end: SIGINT, SIGTERM, SIGHUP.
//!
//! The handler itself hands the first one to [`cancel`]: a trainer finishes its step and saves, everything else ends at its next look. A second one
//! ends the process at once; so does time, where what goes on does not look. Nothing is half-written then, because files get their
//! names when they are whole.

#[cfg(unix)]
pub use unix::listen;

/// Signals do what they do anyway on this system.
#[cfg(not(unix))]
pub fn listen() {}

#[cfg(unix)]
mod unix {
    use std::sync::Once;
    use std::time::Duration;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::{flag, low_level};

    use crate::cancel;
    use crate::host::keys;

    /// How long something may take to look, where nothing is to be finished first: a download that stands still, a library's call.
    const PATIENCE: Duration = Duration::from_secs(3);
    /// How often it is looked whether something is to be finished first meanwhile.
    const LOOKS: u32 = 30;

    /// Listens from now on, in a thread of its own. Signals that whoever started the process wants ignored stay ignored, as under
    /// `nohup`.
    pub fn listen() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let wanted = || [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
            // Where there can be no listener, signals end the process as they do anyway.
            if let Ok(signals) = Signals::new(wanted()) {
                for signal in wanted() {
                    // Where this fails, the listener still ends the process.
                    let _ = flag::register_usize(signal, cancel::signal(), signal as usize);
                }
                let _ = std::thread::Builder::new().name("signals".into()).spawn(move || follow(signals));
            }
        });
    }

    fn follow(mut signals: Signals) {
        let mut is_first = true;
        for signal in signals.forever() {
            if !std::mem::take(&mut is_first) {
                end(signal);
            }
            let _ = std::thread::Builder::new().name("patience".into()).spawn(move || {
                let mut idle = 0;
                while idle < LOOKS {
                    std::thread::sleep(PATIENCE / LOOKS);
                    // What has been finished may be on its way out.
                    idle = if cancel::is_finishing() { 0 } else { idle + 1 };
                }
                end(signal);
            });
        }
    }

    fn end(signal: i32) -> ! {
        keys::restore();
        low_level::exit(128 + signal)
    }

    /// Whether the process was started with that signal ignored.
    fn is_ignored(signal: i32) -> bool {
        let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask >> (signal - 1) & 1 == 1
    }
}
