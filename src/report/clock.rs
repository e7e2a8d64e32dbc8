//! When the process began, so that times count what the user waited for and not only what we measured.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// How long a process may plausibly take to reach its `main`.
const LONGEST_LOADING: Duration = Duration::from_secs(10);

/// When the process began. `main` calls this first: where the system does not say when the process began, the first call counts.
pub fn process_start() -> Instant {
    *START.get_or_init(|| {
        let now = Instant::now();
        // In some containers the two clocks disagree; then the age is absurd.
        let age = age().filter(|age| *age < LONGEST_LOADING);
        age.and_then(|age| now.checked_sub(age)).unwrap_or(now)
    })
}

/// The process's age from /proc, in steps of 10 ms.
#[cfg(target_os = "linux")]
fn age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    age_from(&stat, &uptime)
}

#[cfg(not(target_os = "linux"))]
fn age() -> Option<Duration> {
    None
}

/// proc(5): field 22 of `stat` is the start in clock ticks after boot, of which Linux shows 100 a second; the command's name,
/// field 2, may contain blanks and brackets. The first field of `uptime` is the seconds since boot.
#[cfg(target_os = "linux")]
fn age_from(stat: &str, uptime: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let start: f64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(now - start / 100.0).ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn age_is_read_past_a_name_with_brackets() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 12345 1000 200 18446744073709551615";
        let age = |uptime| age_from(stat, uptime).map(|age| (age.as_secs_f64() * 100.0).round());
        assert_eq!(age("124.00 99.0"), Some(55.0));
        assert_eq!(age("100.00 99.0"), None, "a start in the future is no age");
        assert_eq!(age("nonsense"), None);
        assert_eq!(age_from("nonsense", "124.00"), None);
    }
}
