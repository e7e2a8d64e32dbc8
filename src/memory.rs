//! What memory the machine has left for this process, and the refusal of what does not fit.
//!
//! The system's own figures flow in, or `RETUNE_MEMORY` in their place; bytes flow out. Whoever is about to take much memory
//! calls [`require`] first, because the system does not refuse: it ends the process later, without a word.

use std::sync::OnceLock;

use crate::error::{Error, Result, What};

/// What is never looked at: making sure would cost more.
const SMALL: u64 = 64 << 20;

/// The variable that says how much memory the process may take in all, for example `6G` or `500M`.
pub const VARIABLE: &str = "RETUNE_MEMORY";

/// The bytes that this process holds in memory; zero where the system does not say.
pub fn resident() -> u64 {
    of_process("VmRSS:")
}

/// The most bytes that this process has held in memory; zero where the system does not say.
pub fn peak() -> u64 {
    of_process("VmHWM:")
}

fn of_process(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kibibytes(&text, key).unwrap_or(0)
}

/// A line such as `VmRSS:  1234 kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// The bytes that this process can still take: what `RETUNE_MEMORY` leaves, else what the machine and its control groups have
/// left. None where the system does not say.
pub fn available() -> Option<u64> {
    match given() {
        Some(limit) => Some(limit.saturating_sub(resident())),
        None => [of_machine(), of_groups()].into_iter().flatten().min(),
    }
}

/// The limit that the environment sets.
fn given() -> Option<u64> {
    static GIVEN: OnceLock<Option<u64>> = OnceLock::new();
    *GIVEN.get_or_init(|| std::env::var(VARIABLE).ok().and_then(|text| parse(&text).ok()))
}

/// Refuses a `RETUNE_MEMORY` that is no size.
///
/// # Errors
/// Text that is no number with an optional K, M, G or T.
pub fn check_variable() -> Result<()> {
    match std::env::var(VARIABLE) {
        Ok(text) => parse(&text).map(|_| ()),
        Err(_) => Ok(()),
    }
}

/// A size such as `500M`, in bytes.
fn parse(text: &str) -> Result<u64> {
    let plain = text.trim().trim_end_matches(['B', 'b', 'i']);
    let (number, unit) = match plain.chars().last() {
        Some(unit) if unit.is_ascii_alphabetic() => (&plain[..plain.len() - 1], unit.to_ascii_uppercase()),
        _ => (plain, ' '),
    };
    let shift = match unit {
        ' ' => Some(0),
        'K' => Some(10),
        'M' => Some(20),
        'G' => Some(30),
        'T' => Some(40),
        _ => None,
    };
    let number = number.trim().parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    match (number, shift) {
        (Some(number), Some(shift)) => Ok((number * f64::from(1u32 << 10).powi(shift / 10)) as u64),
        _ => {
            let (name, allowed) = (format!("`{VARIABLE}`"), "a size such as `6G` or `500M`".to_string());
            Err(What::OutOfRange { name, value: format!("`{text}`"), allowed }.into())
        }
    }
}

/// What the machine has left, page cache that can be dropped included.
fn of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    kibibytes(&text, "MemAvailable:")
}

/// What the control groups that the process is in have left, the tightest of them.
fn of_groups() -> Option<u64> {
    const ROOT: &str = "/sys/fs/cgroup";
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    // Version 2 is the line without a controller; version 1 has one for `memory`, in a folder of its own.
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let is_memory = controllers.split(',').any(|name| name == "memory");
        let names = ["memory.max", "memory.current"];
        let names_1 = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
        match (controllers.is_empty(), is_memory) {
            (true, _) => Some((ROOT.to_string(), path, names)),
            (_, true) => Some((format!("{ROOT}/memory"), path, names_1)),
            _ => None,
        }
    });
    let left = lines.flat_map(|(root, path, names)| {
        // A group's limit holds for those inside it; within a container its own group is often mounted as the root.
        let mut folders: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
        folders.push(path.trim_end_matches('/'));
        folders.into_iter().filter_map(move |folder| left_in(&format!("{root}{folder}"), names)).min()
    });
    left.min()
}

fn left_in(folder: &str, [limit, used]: [&str; 2]) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok();
    // `max` means none, and so does the largest number of version 1.
    let limit: u64 = read(limit)?.trim().parse().ok().filter(|limit| *limit < 1 << 60)?;
    let used: u64 = read(used)?.trim().parse().ok()?;
    Some(limit.saturating_sub(used.saturating_sub(reclaimable(&read("memory.stat").unwrap_or_default()))))
}

/// What a control group can give back, by its `memory.stat`: pages of files, as `MemAvailable` counts them for the machine.
fn reclaimable(stat: &str) -> u64 {
    const VERSION_1: [&str; 2] = ["total_inactive_file", "total_active_file"];
    const VERSION_2: [&str; 3] = ["inactive_file", "active_file", "slab_reclaimable"];
    let amount = |name: &str| {
        let lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(known, _)| *known == name).find_map(|(_, amount)| amount.trim().parse::<u64>().ok())
    };
    let sum = |names: &[&str]| names.iter().filter_map(|name| amount(name)).sum::<u64>();
    // Version 1 has both its own numbers and those of its whole tree.
    if amount(VERSION_1[0]).is_some() { sum(&VERSION_1) } else { sum(&VERSION_2) }
}

/// Refuses to take `bytes` for `what` where that is more than there is. Small amounts are not looked at.
///
/// # Errors
/// [`What::Memory`] with both amounts.
pub fn require(bytes: u128, what: impl FnOnce() -> String) -> Result<()> {
    if bytes <= u128::from(SMALL) {
        return Ok(());
    }
    match available() {
        Some(left) if bytes > u128::from(left) => {
            let problem =
                format!("{} needs {} of memory, and {} is available", what(), shown(bytes), shown(left.into()));
            Err(Error::new(What::Memory(problem)))
        }
        _ => Ok(()),
    }
}

/// As [`require`], for a tensor of this shape with elements of `size` bytes.
///
/// # Errors
/// As [`require`].
pub fn require_tensor(dims: &[usize], size: usize) -> Result<()> {
    let bytes = dims.iter().fold(size as u128, |bytes, &dim| bytes.saturating_mul(dim as u128));
    require(bytes, || format!("a tensor of shape {dims:?}"))
}

/// An amount for people.
pub fn shown(bytes: u128) -> String {
    const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if amount < 10.0 => format!("{amount:.1} {}", UNITS[unit]),
        _ => format!("{amount:.0} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_files_can_be_given_back() {
        let version_2 =
            "anon 900\nfile 70\ninactive_anon 5\ninactive_file 30\nactive_file 40\nslab_reclaimable 7\nslab 9\n";
        assert_eq!(reclaimable(version_2), 77);
        let version_1 = "cache 60\ninactive_file 1\nactive_file 2\ntotal_inactive_file 20\ntotal_active_file 10\n";
        assert_eq!(reclaimable(version_1), 30);
        assert_eq!(reclaimable(""), 0);
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [("500M", 500 << 20), ("6G", 6 << 30), ("1.5 GiB", 3 << 29), ("4096", 4096), ("2kb", 2048)]
        {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "G", "-1G", "6X", "1e400", "nan"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let amounts = [(999, "999 B"), (1_500, "1.5 KB"), (23_400_000, "23 MB"), (4_000_000_000_000, "4.0 TB")];
        for (bytes, text) in amounts {
            assert_eq!(shown(bytes), text);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_taken_is_resident_and_what_is_absurd_is_refused() {
        let before = resident();
        let taken = std::hint::black_box(vec![1u8; 256 << 20]);
        // Other tests may give memory back meanwhile.
        assert!(resident() >= before + (128 << 20), "{before} {}", resident());
        drop(std::hint::black_box(taken));
        assert!(available().unwrap() > 0);
        assert!(require(1 << 20, || unreachable!()).is_ok());
        let error = require_tensor(&[1_000_000, 1_000_000], 4).unwrap_err();
        assert!(error.to_string().starts_with("a tensor of shape [1000000, 1000000] needs 4.0 TB of memory, and "));
        assert!(require_tensor(&[usize::MAX, usize::MAX, usize::MAX], 4).is_err());
    }
}
