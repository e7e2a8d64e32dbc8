//! Processes that are killed, disks that fail and fill up: a whole checkpoint is there each time, and what goes on from it ends as
//! the run that nothing happened to.
//!
//! `faults/shim.c` is preloaded into the program and makes one call fail, or ends the process before it.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use retune::train::checkpoint::{folders, manifest};
use serde_json::Value as Json;

/// The shim, built once.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shim.so");
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "tests/faults/shim.c", "-ldl", "-o"]);
        assert!(command.arg(&path).status().unwrap().success());
        (folder, path)
    });
    path
}

/// A run of the recipe that writes into `out`.
fn run(out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(["run", "--quiet", "tests/faults/recipe.rhai"]).arg(format!("out={}", out.display()));
    command.args(arguments).arg("--allow-write").arg(out).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The same with a fault.
fn faulty(out: &Path, kind: &str, at: usize, arguments: &[&str]) -> Command {
    let mut command = run(out, arguments);
    command.env("LD_PRELOAD", shim()).env("FAULT_UNDER", out).env("FAULT_KIND", kind);
    command.env("FAULT_AT", at.to_string());
    command
}

fn succeeds(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What a run has ended with: the sums of weights and moments, and the logs without what the clock says.
#[derive(Debug, PartialEq)]
struct End {
    weights: String,
    moments: String,
    log: Vec<Json>,
}

fn end(out: &Path) -> End {
    let (newest, passed_over) = folders::newest(out).unwrap();
    assert!(passed_over.is_empty(), "{passed_over:?}");
    let sums = manifest::Manifest::read(newest.folder()).unwrap().sha256;
    let state = std::fs::read_to_string(newest.folder().join("trainer_state.json")).unwrap();
    let state: Json = serde_json::from_str(&state).unwrap();
    let mut log = state["log_history"].as_array().unwrap().clone();
    let is_timed = |key: &str| key.ends_with("_runtime") || key.ends_with("_per_second");
    for entry in &mut log {
        entry.as_object_mut().unwrap().retain(|key, _| !is_timed(key));
    }
    End { weights: sums["model.safetensors"].clone(), moments: sums["optimizer.safetensors"].clone(), log }
}

/// How a run ends that nothing happens to.
fn undisturbed() -> &'static End {
    static END: OnceLock<End> = OnceLock::new();
    END.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        succeeds(run(folder.path(), &[]));
        end(folder.path())
    })
}

/// A folder in which a run has come to step 4, and how many calls the run from there to step 8, with one save, makes in it.
fn prepared() -> &'static (tempfile::TempDir, usize) {
    static PREPARED: OnceLock<(tempfile::TempDir, usize)> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        succeeds(run(folder.path(), &["stop_at=8"]));
        // Two checkpoints are there, and a third one makes room: rotation is part of the save.
        let copied = copy(folder.path());
        let counted = copied.path().join("count");
        let mut command = faulty(copied.path(), "none", 0, &[]);
        command.env("FAULT_COUNT", &counted);
        succeeds(command);
        let calls: usize = std::fs::read_to_string(counted).unwrap().parse().unwrap();
        assert!(calls > 30, "{calls}");
        (folder, calls)
    })
}

/// A copy of a run's folder.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    assert!(Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status().unwrap().success());
    to
}

/// Every checkpoint that is named as one is whole, and one of the two that were there, or the new one, is the newest.
fn check_whole(out: &Path, what: &str) -> PathBuf {
    let (newest, passed_over) = folders::newest(out).unwrap();
    assert!(passed_over.is_empty(), "{what}: {passed_over:?}");
    for (_, path) in folders::all(out).unwrap() {
        manifest::verify(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let step = folders::step_of(newest.folder()).unwrap();
    assert!((8..=12).contains(&step), "{what}: {step}");
    newest.folder().to_path_buf()
}

#[test]
fn a_process_that_ends_at_any_call_of_a_save_leaves_a_whole_checkpoint_from_which_the_run_ends_as_ever() {
    let (before, calls) = prepared();
    for at in 1..=*calls {
        let out = copy(before.path());
        let output = faulty(out.path(), "kill", at, &[]).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "call {at}");
        check_whole(out.path(), &format!("call {at}"));
        succeeds(run(out.path(), &[]));
        assert_eq!(end(out.path()), *undisturbed(), "call {at}");
        // Nothing is left of what was half-written.
        let names = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(hidden.is_empty(), "call {at}: {hidden:?}");
    }
}

/// Faults that a run lives through: it says what happened, and what was there stays whole.
fn check_failing(kind: &str, words: &str) {
    let (before, calls) = prepared();
    let mut n_failed = 0;
    for at in 1..=*calls {
        let out = copy(before.path());
        let output = faulty(out.path(), kind, at, &[]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            // What cannot be removed or unlocked at the end is no failure.
            Some(0) => {}
            Some(73) => {
                n_failed += 1;
                assert!(text.contains("error: ") && text.contains(words), "call {at}: {text}");
                assert!(!text.contains("panicked"), "call {at}: {text}");
            }
            _ => panic!("call {at}: {:?} {text}", output.status),
        }
        check_whole(out.path(), &format!("call {at}"));
    }
    assert!(n_failed * 2 > *calls, "{n_failed} of {calls}");
}

#[test]
fn an_io_error_at_any_call_of_a_save_leaves_whole_checkpoints() {
    check_failing("eio", "Input/output error");
}

#[test]
fn a_disk_that_is_full_from_any_call_of_a_save_on_leaves_whole_checkpoints() {
    check_failing("full", "No space left on device");
}

#[test]
fn a_signal_in_the_middle_of_a_save_lets_it_end() {
    let (before, calls) = prepared();
    for at in (1..=*calls).step_by(5) {
        let out = copy(before.path());
        let output = faulty(out.path(), "term", at, &[]).output().unwrap();
        // At the last calls nothing is left to be stopped.
        let code = output.status.code();
        let ended = code == Some(0) && at + 5 > *calls;
        assert!(ended || code == Some(143), "call {at}: {code:?} {}", String::from_utf8_lossy(&output.stderr));
        check_whole(out.path(), &format!("call {at}"));
        succeeds(run(out.path(), &[]));
        assert_eq!(end(out.path()), *undisturbed(), "call {at}");
    }
}

/// Says on stderr what was not tried.
fn skipped(what: &str) {
    // Past the test harness, which shows what a test prints only where it fails.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {what}\n").as_bytes());
}

/// A file system in memory; none where the process may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        let mounted = command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(SmallDisk(folder))
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_small_disk_that_fills_up_at_random_moments_keeps_whole_checkpoints() {
    let Some(disk) = SmallDisk::mount("2m") else {
        skipped("this process may not mount a file system; run the tests as root to try a disk that fills up");
        return;
    };
    let begun = Instant::now();
    succeeds(run(&disk.0.path().join("whole"), &["save_steps=1"]));
    let whole = begun.elapsed();
    let mut state = 777u64;
    let mut n_failed = 0;
    for number in 0..16 {
        let out = disk.0.path().join(format!("out{number}"));
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let after = whole.mul_f64((state >> 40) as f64 / f64::from(1 << 24));
        let child = run(&out, &["save_steps=1"]).spawn().unwrap();
        std::thread::sleep(after);
        disk.fill();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            // 78 where there was no room from the first.
            Some(73 | 78) => {
                n_failed += 1;
                assert!(text.contains("No space left") || text.contains("a checkpoint needs about"), "{text}");
            }
            code => panic!("run {number}: {code:?} {text}"),
        }
        std::fs::remove_file(disk.0.path().join("filler")).unwrap();
        if out.is_dir() {
            assert!(folders::newest_of(&out).unwrap().1.is_empty(), "run {number}");
        }
        succeeds(run(&out, &["save_steps=1"]));
        assert_eq!(end(&out), *undisturbed(), "run {number}");
        std::fs::remove_dir_all(&out).unwrap();
    }
    assert!(n_failed >= 4, "{n_failed}");
}

#[test]
fn a_disk_without_room_for_a_checkpoint_is_refused_before_the_first_step() {
    let Some(disk) = SmallDisk::mount("128k") else {
        skipped("this process may not mount a file system; run the tests as root to try a disk that is too small");
        return;
    };
    let output = run(&disk.0.path().join("out"), &[]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("error: a checkpoint needs about") && text.contains("make room"), "{text}");
}

#[test]
fn a_run_that_is_killed_at_random_moments_ends_as_ever() {
    // The moments come from a fixed sequence, over somewhat more than the time that a whole run takes.
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    succeeds(run(folder.path(), &["save_steps=1"]));
    let whole = begun.elapsed();
    let n_runs = std::env::var("RETUNE_TEST_KILLS").map_or(12, |number| number.parse().unwrap());
    let mut state = 12345u64;
    let mut n_killed = 0;
    for number in 0..n_runs {
        let out = tempfile::tempdir().unwrap();
        loop {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let after = whole.mul_f64((state >> 40) as f64 / f64::from(1 << 24) * 1.1);
            let mut child = run(out.path(), &["save_steps=1"]).spawn().unwrap();
            let begun = Instant::now();
            while begun.elapsed() < after && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
            // A process that has ended is past killing, and has its exit code.
            child.kill().unwrap();
            let ended = child.wait().unwrap();
            if out.path().is_dir() && !folders::all(out.path()).unwrap().is_empty() {
                assert!(folders::newest(out.path()).unwrap().1.is_empty(), "run {number}");
            }
            match ended.code() {
                Some(0) => break,
                Some(code) => panic!("run {number}: exit code {code}"),
                None => n_killed += 1,
            }
        }
        assert_eq!(end(out.path()), *undisturbed(), "run {number}");
    }
    assert!(n_killed >= n_runs / 2, "{n_killed}");
}
