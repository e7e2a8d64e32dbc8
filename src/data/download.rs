//! The transfer from a hub: one repository's list of files, one file at a time.
//!
//! HTTP answers flow in; complete, checked files in Hugging Face's cache layout flow out: the bytes in `blobs/ETAG`, a
//! link to them in `snapshots/COMMIT/NAME`. A file is written under another name and renamed only after its size and its
//! sha256 (the ETag of large files) were checked, so that a crash or a bad proxy leaves nothing that looks complete.
//! Which files are wanted is `data::hub`'s business.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use crate::cancel;
use crate::data::hub::{Hub, is_plain_file};
use crate::error::{Error, Result, What};

const MAX_REDIRECTS: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a hub may ask to be asked again later, and for how long altogether that is done.
const MAX_RETRIES: usize = 5;
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What a repository is of; the hub keeps the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// What stands before the name in the addresses of the API and of files.
    fn prefixes(self) -> (&'static str, &'static str) {
        match self {
            Kind::Model => ("api/models", ""),
            Kind::Dataset => ("api/datasets", "datasets/"),
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        }
    }
}

/// What a repository holds at one commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

impl Listing {
    pub(super) fn has(&self, file: &str) -> bool {
        self.files.iter().any(|name| name == file)
    }
}

#[derive(Deserialize)]
struct RepositoryInfo {
    sha: String,
    siblings: Option<Vec<Sibling>>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// An entry of a repository's tree.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

/// An error, and whether it means that no hub answered.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) is_unreachable: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error, is_unreachable: false }
    }
}

/// What the answers on the way to a file said about it.
#[derive(Default)]
struct Stated {
    etag: Option<String>,
    size: Option<u64>,
}

/// Speaks with one hub.
#[derive(Debug)]
pub(super) struct Client {
    hub: Hub,
    agent: Agent,
}

impl Client {
    pub(super) fn new(hub: Hub) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .user_agent(concat!("retune/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        Client { hub, agent: config.into() }
    }

    /// The commit that `revision` means now, and its files.
    pub(super) fn listing(&self, kind: Kind, repo: &str, revision: &str) -> Result<Listing, Failure> {
        let api = format!("{}/{}/{repo}", self.hub.settings().endpoint, kind.prefixes().0);
        let url = format!("{api}/revision/{}", escaped(revision).replace('/', "%2F"));
        let mut answer = self.get(&url, &mut Stated::default())?;
        self.check_status(&answer, repo, &format!("revision `{revision}`"))?;
        let info = answer.body_mut().with_config().limit(64 << 20).read_json::<RepositoryInfo>();
        let wrong = |error| self.problem(&format!("`{url}` gave an answer that is no {}: {error}", kind.noun()));
        let info = info.map_err(wrong)?;
        if info.sha.is_empty() || !is_plain_file(&info.sha) || info.sha.contains('/') {
            return Err(self.problem(&format!("`{url}` gave an answer without a commit")).into());
        }
        let mut files = match info.siblings {
            Some(siblings) => siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
            None => self.tree(&format!("{api}/tree/{}?recursive=true", info.sha), repo)?,
        };
        files.retain(|name| is_plain_file(name));
        Ok(Listing { commit: info.sha, files })
    }

    /// The files of a repository whose description does not list them, page by page.
    fn tree(&self, first: &str, repo: &str) -> Result<Vec<String>, Failure> {
        let (mut files, mut next) = (Vec::new(), Some(first.to_string()));
        while let Some(url) = next {
            let mut answer = self.get(&url, &mut Stated::default())?;
            self.check_status(&answer, repo, "list of files")?;
            let link = answer.headers().get("link").and_then(|link| link.to_str().ok());
            next = link
                .and_then(next_page)
                .and_then(|link| joined(&url, link))
                .filter(|link| host_of(link) == host_of(first));
            let page = answer.body_mut().with_config().limit(64 << 20).read_json::<Vec<Entry>>();
            let page =
                page.map_err(|error| self.problem(&format!("`{url}` gave an answer that is no list: {error}")))?;
            if page.is_empty() {
                break;
            }
            files.extend(page.into_iter().filter(|entry| entry.kind == "file").map(|entry| entry.path));
        }
        Ok(files)
    }

    /// Brings one file into `blobs`, and a link to it into `snapshot`.
    pub(super) fn fetch(
        &self,
        kind: Kind,
        repo: &str,
        commit: &str,
        file: &str,
        blobs: &Path,
        snapshot: &Path,
    ) -> Result<()> {
        let (endpoint, prefix) = (&self.hub.settings().endpoint, kind.prefixes().1);
        let url = format!("{endpoint}/{prefix}{repo}/resolve/{commit}/{}", escaped(file));
        let mut stated = Stated::default();
        let again = |failure: Failure| failure.error.hint("run it again; what arrived before is kept");
        let answer = self.get(&url, &mut stated).map_err(again)?;
        self.check_status(&answer, repo, &format!("`{file}`"))?;
        let etag = stated.etag.take().filter(|etag| is_plain_file(etag) && !etag.contains('/'));
        let etag = etag.ok_or_else(|| self.problem(&format!("the answer for `{repo}/{file}` has no ETag")))?;
        let blob = blobs.join(&etag);
        let wrote = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::new(What::Write { path, source })
        };
        if !blob.exists() {
            std::fs::create_dir_all(blobs).map_err(wrote(blobs))?;
            // Gone by itself when anything below fails.
            let mut part = tempfile::Builder::new().prefix(".part-").tempfile_in(blobs).map_err(wrote(blobs))?;
            let size = stated.size.or(answer.body().content_length());
            let sha256 = self.copy(answer, part.as_file_mut(), &format!("{repo}/{file}"), size)?;
            if etag.len() == 64 && !etag.eq_ignore_ascii_case(&sha256) {
                let problem = format!("`{repo}/{file}` arrived with the wrong bytes: sha256 {sha256}, not {etag}");
                return Err(self.problem(&problem).hint("run it again; if it stays, the hub or a proxy alters files"));
            }
            part.as_file().sync_all().map_err(wrote(&blob))?;
            part.persist(&blob).map_err(|error| wrote(&blob)(error.error))?;
            make_readable(&blob).map_err(wrote(&blob))?;
        }
        let pointer = snapshot.join(file);
        let folder = pointer.parent().unwrap_or(snapshot);
        std::fs::create_dir_all(folder).map_err(wrote(folder))?;
        link(&blob, &pointer, file.split('/').count(), &etag).map_err(wrote(&pointer))
    }

    /// Copies a body to a file and gives the bytes' sha256.
    fn copy(&self, answer: Response<Body>, file: &mut std::fs::File, name: &str, size: Option<u64>) -> Result<String> {
        let bar = match size {
            Some(size) if self.hub.settings().progress => ProgressBar::new(size),
            _ => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
            bar.set_style(style);
        }
        bar.set_message(name.to_string());
        let mut reader = answer.into_body().into_reader();
        let (mut hash, mut buffer, mut n_read) = (Sha256::new(), vec![0; 1 << 16], 0u64);
        loop {
            cancel::check()?;
            let n = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.cut_short(name, n_read, size, &error.to_string())),
            };
            let written = file.write_all(&buffer[..n]);
            written.map_err(|source| What::Write { path: self.hub.settings().cache.clone(), source })?;
            hash.update(&buffer[..n]);
            n_read += n as u64;
            bar.inc(n as u64);
        }
        bar.finish_and_clear();
        if size.is_some_and(|size| size != n_read) {
            return Err(self.cut_short(name, n_read, size, "the sizes differ"));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn cut_short(&self, name: &str, n_read: u64, size: Option<u64>, why: &str) -> Error {
        let of = size.map(|size| format!(" of {size}")).unwrap_or_default();
        self.problem(&format!("the download of `{name}` ended after {n_read}{of} bytes: {why}"))
            .hint("run it again; nothing of it was kept")
    }

    /// Follows redirects by itself, because what the hub states about a file is on the first answer, and because the
    /// token must not travel to another host.
    fn get(&self, url: &str, stated: &mut Stated) -> Result<Response<Body>, Failure> {
        let mut url = url.to_string();
        let home = host_of(&url);
        let (mut n_redirects, mut n_retries, mut waited) = (0, 0, Duration::ZERO);
        while n_redirects < MAX_REDIRECTS {
            let mut request = self.agent.get(&url);
            if let Some(token) = self.hub.settings().token.as_ref().filter(|_| host_of(&url) == home) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let answer = request.call().map_err(|error| Failure {
                error: self.problem(&format!("`{url}` cannot be reached: {error}")),
                is_unreachable: true,
            })?;
            let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
            let is_redirect = answer.status().is_redirection();
            let etag = header("x-linked-etag").or_else(|| header("etag").filter(|_| !is_redirect));
            let clean = |etag: &str| etag.trim_start_matches("W/").trim_matches('"').to_string();
            stated.etag = stated.etag.take().or(etag.map(clean));
            stated.size = stated.size.or(header("x-linked-size").and_then(|size| size.parse().ok()));
            if let Some(wait) =
                retry_after(&answer).filter(|wait| n_retries < MAX_RETRIES && waited + *wait <= MAX_WAIT)
            {
                (n_retries, waited) = (n_retries + 1, waited + wait);
                cancel::sleep(wait)?;
                continue;
            }
            if !is_redirect {
                let is_unreachable = answer.status().is_server_error();
                if is_unreachable {
                    let error = self.problem(&format!("`{url}` answers with status {}", answer.status()));
                    return Err(Failure { error, is_unreachable });
                }
                return Ok(answer);
            }
            let next = header("location").and_then(|location| joined(&url, location));
            url = next.ok_or_else(|| self.problem(&format!("`{url}` redirects to nowhere")))?;
            n_redirects += 1;
        }
        Err(self.problem(&format!("`{url}` redirects in circles")).into())
    }

    fn check_status(&self, answer: &Response<Body>, repo: &str, of: &str) -> Result<()> {
        let code = answer.headers().get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let has_token = self.hub.settings().token.is_some();
        let problem = |text: String, hint: &str| Err(self.problem(&text).hint(hint));
        match answer.status().as_u16() {
            200 => Ok(()),
            401 if has_token => problem(
                format!("the token was refused for `{repo}`, or there is no such repository"),
                "check the name, and HF_TOKEN or the file that `hf auth login` wrote",
            ),
            401 => problem(
                format!("`{repo}` does not exist, or is private or gated and no token was given"),
                "check the name (a local directory must exist); for a private or gated one set HF_TOKEN",
            ),
            403 => problem(
                format!("access to `{repo}` is denied"),
                "ask for access on the repository's page (its conditions may have to be accepted), then set HF_TOKEN",
            ),
            404 if code == "RevisionNotFound" => {
                problem(format!("`{repo}` has no {of}"), "check `revision`: a branch, a tag or a commit")
            }
            404 => problem(
                format!("`{repo}` or its {of} does not exist on `{}`", self.hub.settings().endpoint),
                "check the name and `revision`; a local directory must exist",
            ),
            429 => problem(format!("too many requests for `{repo}`"), "wait a while, or set HF_TOKEN"),
            status => problem(
                format!("the answer for {of} of `{repo}` has status {status}"),
                "try again, or give a local directory",
            ),
        }
    }

    fn problem(&self, text: &str) -> Error {
        Error::new(What::Hub(text.to_string()))
    }
}

/// How long an overloaded hub asks to wait.
fn retry_after(answer: &Response<Body>) -> Option<Duration> {
    let is_busy = matches!(answer.status().as_u16(), 429 | 503);
    let seconds = answer.headers().get("retry-after").filter(|_| is_busy)?;
    Some(Duration::from_secs(seconds.to_str().ok()?.trim().parse().ok()?))
}

/// The address of the next page in a header `Link: <...>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    next.trim().strip_prefix('<')?.split_once('>').map(|(url, _)| url)
}

/// A path with what an address may not hold written as `%XX`.
fn escaped(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn host_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

/// An absolute `Location`, or one relative to the host of `url`.
fn joined(url: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_string());
    }
    location.starts_with('/').then(|| Some(format!("{}{location}", host_of(url)?)))?
}

/// Temporary files are for their owner alone; a shared cache is for everybody the folder lets in.
#[cfg(unix)]
fn make_readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

/// A relative link, as Python makes it, so that the cache can be moved; `depth` counts the parts of the file's name.
fn link(blob: &Path, pointer: &Path, depth: usize, etag: &str) -> std::io::Result<()> {
    if pointer.symlink_metadata().is_ok() {
        std::fs::remove_file(pointer)?;
    }
    #[cfg(unix)]
    {
        let _ = blob;
        match std::os::unix::fs::symlink(format!("{}blobs/{etag}", "../".repeat(depth + 1)), pointer) {
            // Another process was faster, with the same file.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && pointer.exists() => Ok(()),
            outcome => outcome,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = (depth, etag);
        std::fs::copy(blob, pointer).map(|_| ())
    }
}
