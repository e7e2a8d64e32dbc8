//! The canary: a child process that tries a plugin out before this process opens it.
//!
//! The child is this program again, `retune plugin check --here FILE`, and says on each line of its standard output what it is
//! about to do or has found, as JSON. One that dies or does not end takes nobody with it; its last line says in what.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Place, Result, What};

/// How much is tried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Each head is made, and does one forward and one backward: before a plugin is loaded.
    Quick,
    /// Everything: shapes at several sizes, gradients, memory, wrong inputs.
    Full,
}

/// A line of the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// What it is about to do.
    Doing(String),
    /// What it has found to be right.
    Passed(String),
    /// What could not be tried, and why.
    Skipped(String),
    /// What it has found to be wrong.
    Failed(String),
    /// What the plugin says of itself: name, version, ABI, heads.
    Plugin {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// The ABI it was built with.
        abi: String,
        /// The names of its heads.
        heads: Vec<String>,
    },
    /// That it has come to its end.
    Done,
}

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says where the program `retune` is, which the child is made of: the command line does. The first one counts.
pub fn set_program(path: PathBuf) {
    PROGRAM.get_or_init(|| path);
}

/// How long a child may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Tries a plugin out in a child process.
///
/// # Errors
/// A child that cannot be started, that dies, that takes too long, or that has found something wrong.
pub fn run(file: &Path, effort: Effort, patience: Duration) -> Result<Vec<Line>> {
    let Some(program) = PROGRAM.get() else {
        let problem =
            "the plugin cannot be tried out before it is loaded: this process does not know the program `retune`";
        return Err(Error::new(What::Conflict(problem.into())).hint("call `plugin::canary::set_program` first"));
    };
    let mut command = Command::new(program);
    command.args(["plugin", "check", "--here"]).arg(file);
    if effort == Effort::Quick {
        command.arg("--quick");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let wrap = |source| Error::new(What::Read { path: program.clone(), source });
    let mut child = command.spawn().map_err(wrap)?;
    let (sender, receiver) = mpsc::channel();
    let errors = Mutex::new(String::new());
    let started = Instant::now();
    let (lines, status, late) = std::thread::scope(|scope| -> Result<_> {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        scope.spawn(move || {
            for line in
                stdout.into_iter().flat_map(|stream| BufReader::new(stream).lines()).map_while(std::io::Result::ok)
            {
                // What is no line of ours was printed by the plugin.
                let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        scope.spawn(|| {
            for line in
                stderr.into_iter().flat_map(|stream| BufReader::new(stream).lines()).map_while(std::io::Result::ok)
            {
                let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
                errors.push_str(&line);
                errors.push('\n');
            }
        });
        let (mut lines, mut late) = (Vec::new(), false);
        loop {
            let left = patience.saturating_sub(started.elapsed());
            match receiver.recv_timeout(left) {
                Ok(line) => lines.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    late = true;
                    child.kill().map_err(wrap)?;
                    break;
                }
            }
        }
        let status = child.wait().map_err(wrap)?;
        lines.extend(receiver.try_iter());
        Ok((lines, status, late))
    })?;
    let errors = errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    judge(lines, status, late.then_some(patience), &errors).map_err(|error| error.at(Place::file(file)))
}

fn judge(lines: Vec<Line>, status: ExitStatus, late: Option<Duration>, errors: &str) -> Result<Vec<Line>> {
    let refused = |problem: String| {
        Err(Error::new(What::Plugin(problem)).hint("it was tried out in a process of its own; this one is unharmed"))
    };
    let doing =
        lines.iter().rev().find_map(|line| if let Line::Doing(what) = line { Some(what.as_str()) } else { None });
    let doing = doing.unwrap_or("opening the library");
    if let Some(patience) = late {
        return refused(format!("the plugin did not end within {} seconds: {doing}", patience.as_secs()));
    }
    if let Some(failed) = lines.iter().find_map(|line| if let Line::Failed(what) = line { Some(what) } else { None }) {
        return refused(failed.clone());
    }
    if let Some(signal) = signal(status) {
        return refused(format!("the plugin ended its process with {signal}: {doing}"));
    }
    if !status.success() {
        let why =
            errors.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or("without saying why").to_string();
        return refused(format!("the plugin could not be tried out: {why}"));
    }
    if !lines.contains(&Line::Done) {
        return refused(format!("the plugin ended its process: {doing}"));
    }
    Ok(lines)
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<String> {
    use std::os::unix::process::ExitStatusExt;
    let name = |signal: i32| match signal {
        libc::SIGSEGV => "a segmentation fault".to_string(),
        libc::SIGABRT => "an abort".to_string(),
        libc::SIGBUS => "a bus error".to_string(),
        libc::SIGILL => "an illegal instruction".to_string(),
        libc::SIGFPE => "an arithmetic error".to_string(),
        other => format!("the signal {other}"),
    };
    status.signal().map(name)
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<String> {
    None
}

/// Keeps a child that dies from leaving a core dump where the user works.
pub fn without_core_dumps() {
    #[cfg(unix)]
    // SAFETY: a plain system call with a limit that lives during it.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
    }
}
