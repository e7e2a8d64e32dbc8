//! A hub on the loopback: a tiny HTTP server that gives fixed answers by path, good ones and broken ones.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// The answers of each path: the first one stays, those behind it are given once each, the last first.
type Answers = BTreeMap<String, Vec<Answer>>;

/// An answer: status line, headers, body. The body may be shorter than its Content-Length says.
#[derive(Clone)]
pub(crate) struct Answer {
    status: &'static str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    pub(crate) length: usize,
    manner: Manner,
}

/// How an answer is given.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    Whole,
    /// Piece by piece, so that the client reads many times.
    InPieces,
    /// The connection is closed before the first byte of an answer.
    Nothing,
    /// The connection is reset: it is closed while the request waits to be read.
    Reset,
}

impl Answer {
    pub(crate) fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Answer { status, headers: Vec::new(), length: body.len(), body, manner: Manner::Whole }
    }

    /// The same answer, given in another way.
    pub(crate) fn given(self, manner: Manner) -> Self {
        Answer { manner, ..self }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }
}

/// A server that gives fixed answers by path and remembers what it was asked.
pub(crate) struct Server {
    pub(crate) address: String,
    answers: Arc<Mutex<Answers>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (answers, requests) = (Arc::<Mutex<Answers>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let shared = (answers.clone(), requests.clone());
        // The thread lives until the test process ends; it only ever waits for connections.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(stream, &shared.0, &shared.1);
            }
        });
        Server { address, answers, requests }
    }

    pub(crate) fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.into(), vec![answer]);
    }

    /// An answer that is given once, before the one that stays.
    pub(crate) fn set_once(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().entry(path.into()).or_default().push(answer);
    }

    /// A repository at `COMMIT` with the given files; `large` ones come by redirect with their sha256, as from LFS.
    pub(crate) fn repository(&self, repo: &str, revision: &str, commit: &str, files: &[(&str, Vec<u8>, bool)]) {
        self.files(("models", ""), repo, revision, commit, files);
    }

    /// The same for a data set.
    pub(crate) fn dataset(&self, repo: &str, revision: &str, commit: &str, files: &[(&str, Vec<u8>, bool)]) {
        self.files(("datasets", "datasets/"), repo, revision, commit, files);
    }

    fn files(
        &self,
        (api, prefix): (&str, &str),
        repo: &str,
        revision: &str,
        commit: &str,
        files: &[(&str, Vec<u8>, bool)],
    ) {
        let siblings: Vec<_> = files.iter().map(|(name, ..)| serde_json::json!({"rfilename": name})).collect();
        let info = serde_json::json!({"id": repo, "sha": commit, "siblings": siblings});
        self.set(&format!("/api/{api}/{repo}/revision/{revision}"), Answer::new("200 OK", info.to_string()));
        for (name, bytes, large) in files {
            let address = name.replace(' ', "%20").replace('#', "%23");
            let path = format!("/{prefix}{repo}/resolve/{commit}/{address}");
            if *large {
                let storage = format!("/storage/{repo}/{name}");
                self.set(
                    &path,
                    Answer::new("302 Found", "moved")
                        .header("Location", format!("{}{storage}", self.address))
                        .header("X-Repo-Commit", commit)
                        .header("X-Linked-Size", bytes.len())
                        .header("X-Linked-Etag", format!("\"{}\"", sha256(bytes))),
                );
                self.set(&storage, Answer::new("200 OK", bytes.clone()).header("ETag", "\"storage-etag\""));
            } else {
                self.set(
                    &path,
                    Answer::new("200 OK", bytes.clone()).header("ETag", format!("\"git-{}\"", name.replace('/', "-"))),
                );
            }
        }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, answers: &Mutex<Answers>, requests: &Mutex<Vec<String>>) -> std::io::Result<()> {
    // Looked at without being taken: a connection that is closed with a request unread is reset.
    let mut peeked = [0; 2048];
    let n = loop {
        let n = stream.peek(&mut peeked)?;
        if n == 0 || peeked[..n].contains(&b'\n') {
            break n;
        }
    };
    let first = String::from_utf8_lossy(&peeked[..n]).into_owned();
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let resets = |answers: &mut Vec<Answer>| {
        let is_reset = answers.last().is_some_and(|answer| answer.manner == Manner::Reset);
        if is_reset && answers.len() > 1 {
            answers.pop();
        }
        is_reset
    };
    if answers.lock().unwrap().get_mut(&path).is_some_and(resets) {
        requests.lock().unwrap().push(path);
        return Ok(());
    }
    let lines = BufReader::new(stream.try_clone()?).lines().skip(1);
    let mut token = String::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("authorization: bearer ") {
            token = format!(" with {value}");
        }
    }
    requests.lock().unwrap().push(format!("{path}{token}"));
    let answer = answers.lock().unwrap().get_mut(&path).and_then(|answers| match answers.len() {
        1 => answers.first().cloned(),
        _ => answers.pop(),
    });
    let answer = answer.unwrap_or_else(|| Answer::new("404 Not Found", "no").header("X-Error-Code", "EntryNotFound"));
    match answer.manner {
        Manner::Nothing => return Ok(()),
        Manner::Whole | Manner::InPieces | Manner::Reset => {}
    }
    write!(stream, "HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: {}\r\n", answer.status, answer.length)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    let piece = if answer.manner == Manner::InPieces { 1000 } else { answer.body.len().max(1) };
    for piece in answer.body.chunks(piece) {
        stream.write_all(piece)?;
        stream.flush()?;
    }
    Ok(())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
