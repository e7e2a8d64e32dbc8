//! A socket in the run's folder, through which its owner looks at a run and changes it from another terminal.
//!
//! One line of JSON flows in for each connection, one flows out: `{"ask": "set", "arguments": {"learning_rate": 1e-5}}` becomes a
//! [`Request`] that waits for the moment between two updates. The file has mode 0600 and is made in a private folder before it
//! is moved to its place; a peer of another user is refused. Systems without such sockets have none.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use crate::api::live::{Answer, Live, Request};
use crate::data::Value;
use crate::data::durable;
use crate::error::{Error, Result, What};
use crate::train::live_arguments::policy;

/// The socket's file in the run's folder.
pub const SOCKET: &str = "control.sock";

/// Reads what a client asks for.
fn request(line: &str, live: &Live, answer: Answer) -> Result<Request> {
    let wrong = |problem: String| Error::new(What::Malformed { format: "a request".into(), problem });
    let asked: Map<String, Json> = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
    Ok(match asked.get("ask").and_then(Json::as_str) {
        Some("evaluate") => Request::Evaluate(answer),
        Some("save") => Request::Save(answer),
        Some("stop") => Request::Stop(answer),
        Some("pause") => Request::Pause(answer),
        Some("status") => Request::Status(answer),
        Some("set") => {
            let chosen = match asked.get("lr_policy").and_then(Json::as_str) {
                Some(name) => policy(name)?,
                None => live.settings().policy,
            };
            let pairs = asked.get("arguments").and_then(Json::as_object).cloned().unwrap_or_default();
            Request::Set(pairs.into_iter().map(|(key, value)| (key, Value::from(value))).collect(), chosen, answer)
        }
        other => return Err(wrong(format!("{other:?} is nothing that a run can be asked for"))),
    })
}

/// An answer as a line.
fn answered(answer: Result<Json>) -> String {
    match answer {
        Ok(answer) => json!({ "ok": answer }),
        Err(error) => json!({ "error": error.to_string(), "hint": error.hint_text() }),
    }
    .to_string()
}

fn no_run(path: &Path) -> Error {
    Error::new(What::NotFound { kind: "run", name: path.display().to_string() })
        .hint("give the `output_dir` of a run that is at work")
}

/// The socket's place, where it fits: addresses are at most 107 bytes long.
fn place(folder: &Path) -> Result<PathBuf> {
    const LONGEST: usize = 107;
    let path = folder.join(SOCKET);
    if path.as_os_str().len() <= LONGEST {
        return Ok(path);
    }
    Err(Error::new(What::Unsupported(format!("a socket at a path as long as `{}`", path.display())))
        .hint("change into a folder that is nearer, and give a shorter path"))
}

#[cfg(unix)]
pub use unix::{Control, ask, serve};

#[cfg(unix)]
mod unix {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use super::*;

    /// How long a client may take to say what it wants.
    const PATIENCE: Duration = Duration::from_secs(5);
    /// The longest request.
    const LONGEST: u64 = 1 << 16;

    /// A socket that is served for as long as it lives.
    pub struct Control {
        path: PathBuf,
        inode: u64,
        /// Whether the folder is there for the socket alone.
        made: bool,
        ended: Arc<AtomicBool>,
    }

    /// Serves the run in `folder`.
    ///
    /// # Errors
    /// A folder that cannot be written to, or another run at work in it.
    pub fn serve(folder: &Path, live: Live) -> Result<Control> {
        let path = place(folder)?;
        let wrap = |source| Error::new(What::Write { path: path.clone(), source });
        if UnixStream::connect(&path).is_ok() {
            let problem = format!("another run is at work in `{}`", folder.display());
            return Err(Error::new(What::Conflict(problem)).hint("give each its own `output_dir`"));
        }
        let made = !folder.exists();
        std::fs::create_dir_all(folder).map_err(wrap)?;
        // Until the mode is set nobody else can reach it: a temporary folder is its owner's alone.
        let private = tempfile::Builder::new().prefix(durable::PASSING).tempdir_in(folder).map_err(wrap)?;
        let inner = private.path().join("s");
        let listener = UnixListener::bind(&inner).map_err(wrap)?;
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o600)).map_err(wrap)?;
        std::fs::rename(&inner, &path).map_err(wrap)?;
        let inode = std::fs::metadata(&path).map_err(wrap)?.ino();
        let ended = Arc::new(AtomicBool::new(false));
        let stop = ended.clone();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), live) = (stream, live.clone()) else { continue };
                // A connection that waits for a step must not keep others waiting.
                let _ = std::thread::Builder::new().name("control".into()).spawn(move || talk(stream, &live));
            }
        });
        thread.map_err(wrap)?;
        Ok(Control { path, inode, made, ended })
    }

    impl Drop for Control {
        fn drop(&mut self) {
            self.ended.store(true, Ordering::Release);
            let _ = UnixStream::connect(&self.path);
            // A later run may have put its own socket there.
            if std::fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
                let _ = std::fs::remove_file(&self.path);
            }
            // Only a folder into which nothing was written goes.
            if let (true, Some(folder)) = (self.made, self.path.parent()) {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }

    fn talk(mut stream: UnixStream, live: &Live) {
        let answer = match owns(&stream) {
            false => Err(Error::new(What::Conflict("the run belongs to another user".into()))),
            true => heard(&stream, live),
        };
        // A client that went away needs no answer.
        let _ = stream.write_all(format!("{}\n", answered(answer)).as_bytes());
    }

    fn heard(stream: &UnixStream, live: &Live) -> Result<Json> {
        let wrap = |source| Error::new(What::Read { path: SOCKET.into(), source });
        stream.set_read_timeout(Some(PATIENCE)).map_err(wrap)?;
        let mut line = String::new();
        BufReader::new(stream.take(LONGEST)).read_line(&mut line).map_err(wrap)?;
        let (sender, receiver) = mpsc::channel();
        let send = Box::new(move |answer| drop(sender.send(answer)));
        live.ask(request(&line, live, send)?);
        // The run may end before it comes to it; then the sender is gone.
        receiver.recv().unwrap_or_else(|_| Err(Error::new(What::Conflict("the run has ended".into()))))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn owns(stream: &UnixStream) -> bool {
        rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
    }

    /// Elsewhere the mode of the file says it.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn owns(_stream: &UnixStream) -> bool {
        true
    }

    /// Asks the run in `folder`, and waits for its answer.
    ///
    /// # Errors
    /// No run, or what the run refuses.
    pub fn ask(folder: &Path, asked: &Json) -> Result<Json> {
        let path = place(folder)?;
        let mut stream = UnixStream::connect(&path).map_err(|_| no_run(folder))?;
        let wrap = |source| Error::new(What::Read { path: path.clone(), source });
        stream.write_all(format!("{asked}\n").as_bytes()).map_err(wrap)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).map_err(wrap)?;
        let answer: Json = serde_json::from_str(&line).map_err(|_| no_run(folder).hint("the run has ended"))?;
        match answer.get("error").and_then(Json::as_str) {
            None => Ok(answer["ok"].clone()),
            Some(problem) => {
                let error = Error::new(What::Conflict(problem.to_string()));
                Err(match answer.get("hint").and_then(Json::as_str) {
                    Some(hint) => error.hint(hint),
                    None => error,
                })
            }
        }
    }
}

/// No sockets here.
#[cfg(not(unix))]
pub struct Control;

/// There are no such sockets on this system.
///
/// # Errors
/// Always.
#[cfg(not(unix))]
pub fn serve(_folder: &Path, _live: Live) -> Result<Control> {
    Err(What::Unsupported("a socket in the run's folder on this system".into()).into())
}

/// There are no such sockets on this system.
///
/// # Errors
/// Always.
#[cfg(not(unix))]
pub fn ask(_folder: &Path, _asked: &Json) -> Result<Json> {
    Err(What::Unsupported("a socket in the run's folder on this system".into()).into())
}
