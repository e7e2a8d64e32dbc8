//! What changed on disk: files by their contents, once they have settled.
//!
//! Paths flow in; for each save of an editor one batch of [`Changed`] flows out, on a thread of the watcher's own. Folders are
//! watched, because a watch on a file goes deaf at the first save that renames a new file over it. Contents decide and not
//! times: a save without a change is no change. A file that was closed after writing or renamed into place has settled
//! after 5 ms, anything else after 50 ms; one that is gone or not whole may be about to be written and gets longer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::data::digest::digest;
use crate::error::{Error, Result, What};
use crate::plugin::elf;

/// After a close or a rename, which ends a save.
const ENDED: Duration = Duration::from_millis(5);
/// After anything else: more may follow.
const MAYBE_MORE: Duration = Duration::from_millis(50);
/// How long a file that is gone or empty may be in the middle of a save.
const GONE: Duration = Duration::from_millis(300);
/// How long a linker may pause while it writes a library.
const LINKING: Duration = Duration::from_secs(1);
/// How often a file that is gone is looked for: its folder may be gone too, and come back as another one.
const LOST: Duration = Duration::from_millis(250);

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// By the system's events.
    Events,
    /// By looking at every file at this interval: for network file systems, which have no events.
    Poll(Duration),
}

/// What a file is, which says when it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text: whole where there is something in it.
    Text,
    /// A shared library: whole where its tables and sections are.
    Library,
}

impl Kind {
    fn is_whole(self, content: &[u8]) -> bool {
        !content.is_empty() && (self == Kind::Text || elf::check(content).is_ok())
    }

    /// How long a file that is not whole may be in the middle of being written.
    fn patience(self) -> Duration {
        match self {
            Kind::Text => GONE,
            Kind::Library => LINKING,
        }
    }
}

/// A file whose content is another one now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The file, as it was named to the watcher.
    pub path: PathBuf,
    /// Its content; none where the file is gone.
    pub content: Option<Arc<[u8]>>,
}

/// Watches files. Dropping it ends the watching.
pub struct Watcher {
    messages: Sender<Message>,
    system: System,
    folders: Mutex<BTreeSet<PathBuf>>,
}

/// What tells of events; none where files are looked at instead.
type System = Arc<Mutex<Option<RecommendedWatcher>>>;

enum Message {
    Event(notify::Result<notify::Event>),
    Watch { place: PathBuf, name: PathBuf, kind: Kind, known: Option<String> },
    End,
}

impl Watcher {
    /// Starts a watcher that watches nothing yet and calls `on_change` with what has changed together.
    ///
    /// # Errors
    /// A system that gives no more watches, or no more threads.
    pub fn start(notice: Notice, on_change: impl FnMut(Vec<Changed>) + Send + 'static) -> Result<Self> {
        let (messages, received) = channel();
        let system = match notice {
            Notice::Poll(_) => None,
            Notice::Events => {
                let events = messages.clone();
                let made = notify::recommended_watcher(move |event| {
                    // The receiver is gone only where the watcher is being dropped.
                    let _ = events.send(Message::Event(event));
                });
                Some(made.map_err(|error| unwatchable(Path::new("."), &error))?)
            }
        };
        let poll = match notice {
            Notice::Poll(interval) => Some(interval),
            Notice::Events => None,
        };
        let system: System = Arc::new(Mutex::new(system));
        let files = Files { poll, system: system.clone(), files: BTreeMap::new() };
        let thread = std::thread::Builder::new().name("watch".into());
        let spawned = thread.spawn(move || files.follow(&received, on_change));
        spawned.map_err(|error| Error::new(What::Internal(format!("no thread to watch files: {error}"))))?;
        Ok(Watcher { messages, system, folders: Mutex::default() })
    }

    /// Watches the file `path`, whose content has the digest `known` so far. What has changed since counts as a change.
    ///
    /// # Errors
    /// A folder that is not there, or a system that gives no more watches.
    pub fn watch(&self, path: &Path, kind: Kind, known: Option<&str>) -> Result<()> {
        let place = place_of(path)?;
        // The link may be replaced, and what it leads to.
        let target = std::fs::canonicalize(&place).ok().filter(|target| *target != place);
        for place in [Some(&place), target.as_ref()].into_iter().flatten() {
            if let Some(folder) = place.parent() {
                self.watch_folder(folder)?;
            }
            let (place, name, known) = (place.clone(), path.to_path_buf(), known.map(str::to_string));
            let _ = self.messages.send(Message::Watch { place, name, kind, known });
        }
        Ok(())
    }

    fn watch_folder(&self, folder: &Path) -> Result<()> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = self.folders.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_path_buf());
        match &mut *system {
            Some(system) if is_new => {
                system.watch(folder, RecursiveMode::NonRecursive).map_err(|error| unwatchable(folder, &error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::End);
    }
}

/// The file under the true name of its folder, as events name it.
fn place_of(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let true_folder = std::fs::canonicalize(folder);
    let true_folder = true_folder.map_err(|source| Error::new(What::Read { path: folder.into(), source }))?;
    Ok(true_folder.join(path.file_name().unwrap_or_default()))
}

fn unwatchable(folder: &Path, error: &notify::Error) -> Error {
    let source = std::io::Error::other(error.to_string());
    Error::new(What::Read { path: folder.to_path_buf(), source })
        .hint("the system refuses to watch it; `--watch-poll` looks at the files instead")
}

/// The files that are watched, by their places.
struct Files {
    poll: Option<Duration>,
    system: System,
    files: BTreeMap<PathBuf, File>,
}

struct File {
    name: PathBuf,
    kind: Kind,
    /// The digest of the content that was told last; none where the file was gone.
    known: Option<String>,
    /// When it is looked at next.
    due: Option<Instant>,
    /// Since when it has been gone, or has not been whole, like that.
    lost: Option<(Instant, Option<String>)>,
}

impl Files {
    fn follow(mut self, messages: &Receiver<Message>, mut on_change: impl FnMut(Vec<Changed>)) {
        let mut next_poll = self.poll.map(|interval| Instant::now() + interval);
        loop {
            let wake = self.files.values().filter_map(|file| file.due).chain(next_poll).min();
            let message = match wake {
                Some(wake) => match messages.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => None,
                    Ok(message) => Some(message),
                },
                None => match messages.recv() {
                    Ok(message) => Some(message),
                    Err(_) => return,
                },
            };
            let now = Instant::now();
            match message {
                Some(Message::End) => return,
                Some(Message::Watch { place, name, kind, known }) => {
                    self.files.entry(place).or_insert(File { name, kind, known, due: Some(now), lost: None });
                }
                Some(Message::Event(Ok(event))) => self.note(&event, now),
                // What was lost may be any of them.
                Some(Message::Event(Err(_))) => self.all_due(now),
                None => {}
            }
            if let (Some(interval), Some(next)) = (self.poll, &mut next_poll)
                && *next <= now
            {
                *next = now + interval;
                self.all_due(now);
            }
            let changed = self.look(now);
            if !changed.is_empty() {
                on_change(changed);
            }
        }
    }

    fn all_due(&mut self, now: Instant) {
        self.files.values_mut().for_each(|file| file.due = Some(now));
    }

    fn note(&mut self, event: &notify::Event, now: Instant) {
        if event.need_rescan() {
            return self.all_due(now + MAYBE_MORE);
        }
        let wait = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => ENDED,
            EventKind::Access(_) => return,
            _ => MAYBE_MORE,
        };
        let is_gone = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        for path in &event.paths {
            if let Some(file) = self.files.get_mut(path) {
                file.due = Some(now + wait);
            } else if is_gone {
                // A folder went: another one of that name may be there already, which nobody watches yet.
                for (_, file) in self.files.iter_mut().filter(|(place, _)| place.parent() == Some(path)) {
                    file.due = Some(now + wait);
                    file.lost.get_or_insert((now, file.known.clone()));
                }
            }
        }
    }

    /// Looks at the files whose time has come.
    fn look(&mut self, now: Instant) -> Vec<Changed> {
        let mut changed = Vec::new();
        for (place, file) in &mut self.files {
            if file.due.is_none_or(|due| due > now) {
                continue;
            }
            file.due = None;
            let content = std::fs::read(place).ok();
            let found = content.as_deref().map(digest);
            let is_whole = content.as_deref().is_some_and(|content| file.kind.is_whole(content));
            if !is_whole && found != file.known {
                // What changes is being written.
                let since = file.lost.take().filter(|(_, like)| *like == found).map_or(now, |(since, _)| since);
                let end = since + file.kind.patience();
                file.lost = Some((since, found.clone()));
                if now < end {
                    file.due = Some(end);
                    continue;
                }
            }
            if content.is_none() {
                file.due = Some(now + LOST);
            } else if found != file.known || file.lost.is_some() {
                watch_again(&self.system, place);
            }
            file.lost = None;
            if found != file.known {
                file.known = found;
                changed.push(Changed { path: file.name.clone(), content: content.map(Into::into) });
            }
        }
        changed.dedup();
        changed
    }
}

/// Watches a file's folder again: it may be another one of the same name.
fn watch_again(system: &System, place: &Path) {
    if let (Some(system), Some(folder)) = (&mut *system.lock().unwrap_or_else(PoisonError::into_inner), place.parent())
    {
        // Where that cannot be, the file is watched as far as it was.
        let _ = system.watch(folder, RecursiveMode::NonRecursive);
    }
}
