//! Feeds readers with changed seeds for a while: `cargo bench --bench fuzz -- [SECONDS] [TARGET ...]`.
//!
//! Needs no nightly compiler. Each target runs in child processes with 4 GB of address space and 5 s for an input; an input that
//! panics, hangs, is killed or takes more memory is kept in `target/fuzz/`, and printed at the end. `RETUNE_FUZZ_SEED` begins with
//! other changes, `RETUNE_FUZZ_CORPUS` is another folder of seeds. With a nightly compiler, `cargo fuzz run TARGET` in `fuzz/` does the same by coverage.

#![expect(clippy::print_stdout, reason = "what a benchmark is for")]
#![expect(clippy::unwrap_used, reason = "a driver may fail loudly")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use retune::fuzz::mutate::{Random, mutate};
use retune::fuzz::{TARGETS, feed};

/// The longest time for one input, after which its process ends.
const PATIENCE: Duration = Duration::from_secs(10);
/// What an input may take that comes to its end.
const SLOW: Duration = Duration::from_secs(5);
/// Inputs of one child.
const ROUNDS: u64 = 20_000;
/// Kilobytes of address space.
const SPACE: u64 = 4_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, target, seed, until, folder] = &arguments[..]
        && flag == "--child"
    {
        return child(target, seed.parse().unwrap(), until.parse().unwrap(), Path::new(folder));
    }
    let (seconds, wanted) = match arguments.first().map(|text| text.parse::<u64>()) {
        Some(Ok(seconds)) => (seconds, &arguments[1..]),
        _ => (10, &arguments[..]),
    };
    for name in wanted {
        assert!(TARGETS.iter().any(|target| target.name == name), "there is no target `{name}`");
    }
    let base: u64 = std::env::var("RETUNE_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut n_found = 0;
    for target in TARGETS.iter().filter(|target| wanted.is_empty() || wanted.iter().any(|name| name == target.name)) {
        n_found += run(target.name, Duration::from_secs(seconds), base);
    }
    assert!(n_found == 0, "{n_found} inputs failed; they are in target/fuzz");
}

/// Runs children until the time is over; how many inputs failed.
fn run(target: &str, time: Duration, base: u64) -> usize {
    let (begun, mut seed, mut n_inputs, mut failed) = (Instant::now(), base << 32, 0, Vec::new());
    while begun.elapsed() < time {
        let folder = tempfile::tempdir().unwrap();
        let left = (time - begun.elapsed()).as_secs_f64().ceil();
        let me = std::env::current_exe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {SPACE}; ulimit -c 0; exec \"$0\" \"$@\"")]).arg(me);
        command.args(["--child", target, &seed.to_string(), &left.to_string()]).arg(folder.path());
        command
            .env("RETUNE_MEMORY", "1G")
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", folder.path())
            .current_dir(folder.path());
        command.env("RETUNE_CORPUS", corpus(target)).env("RAYON_NUM_THREADS", "1").env("RETUNE_HOME", folder.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(folder.path().join("input").exists(), "the driver itself failed: {said}");
        let done = std::fs::read_to_string(folder.path().join("round")).unwrap_or_default();
        let done: u64 = done.trim().parse().unwrap_or(seed);
        n_inputs += done - seed + 1;
        if !output.status.success() {
            let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            std::fs::create_dir_all(&kept).unwrap();
            let kept = kept.join(format!("{target}-{done}"));
            std::fs::copy(folder.path().join("input"), &kept).unwrap();
            let said: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).take(4).collect();
            println!("{target}: {} {}: {}", kept.display(), output.status, said.join(" | "));
            failed.push(kept);
        }
        seed = done + 1;
    }
    println!("{target}: {n_inputs} inputs in {:.0} s, {} failed", begun.elapsed().as_secs_f64(), failed.len());
    failed.len()
}

fn corpus(target: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    // Children run in a folder of their own.
    std::env::var_os("RETUNE_FUZZ_CORPUS").map_or(here, |given| std::path::absolute(given).unwrap()).join(target)
}

/// Feeds inputs and writes down which one is at work.
fn child(target: &str, first: u64, seconds: f64, folder: &Path) {
    let seeds = seeds(Path::new(&std::env::var("RETUNE_CORPUS").unwrap()));
    let begun = Instant::now();
    let scratch = folder.join("scratch");
    for number in first..first + ROUNDS {
        if begun.elapsed().as_secs_f64() > seconds {
            break;
        }
        let mut random = Random::new(number);
        let (one, two) = (random.below(seeds.len()), random.below(seeds.len()));
        let input = mutate(&seeds[one], &seeds[two], &mut random);
        std::fs::write(folder.join("input"), &input).unwrap();
        std::fs::write(folder.join("round"), number.to_string()).unwrap();
        std::fs::create_dir_all(&scratch).unwrap();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // The input is kept by the parent, which sees the exit code.
                std::process::exit(99);
            }
        });
        let begun = Instant::now();
        feed(target, &input, &scratch);
        drop(done);
        watch.join().unwrap();
        if begun.elapsed() > SLOW {
            std::process::exit(98);
        }
    }
}

/// The seeds of a target, in the order of their names.
fn seeds(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}
