//! A run that is watched: the files of its scripts and plugins, followed as the run reads them, and the reloader that makes
//! requests of changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::live::Live;
use crate::data::digest::digest;
use crate::data::files::Places;
use crate::error::{Error, Result, What};
use crate::host::builds::{Builds, name_of, shown};
use crate::host::reload::{Reloader, Reruns};
use crate::host::run::Host;
use crate::host::sources::Sources;
use crate::report::Reporter;
use crate::watch::{Changed, Kind, Notice, Watcher};

/// Watches the scripts and plugins of a run for as long as it lives.
pub struct Watching {
    sources: Sources,
    builds: Builds,
}

/// What a watched file is to the run.
#[derive(Clone)]
enum Named {
    Script(String),
    Build(String),
}

/// The files that are watched.
type Names = Arc<Mutex<BTreeMap<PathBuf, Named>>>;

/// The content of a plugin's file, where there is one.
type Build = (String, Option<Arc<[u8]>>);

/// Watches the scripts and plugins of `host`, those that it has read and those that it will read.
///
/// # Errors
/// A system that gives no watches.
pub fn watch(host: &Host, notice: Notice, reruns: Reruns) -> Result<Watching> {
    let reloader = Arc::new(Reloader::new(host, reruns));
    let names = Names::default();
    let (live, reporter) = (host.session.live().clone(), host.session.reporter().clone());
    // Who asks has looked at all that is on the disk, and nobody else asks meanwhile.
    let turn = Arc::new(Mutex::new(()));
    let built = follow_builds(reloader.clone(), live.clone(), reporter.clone(), turn.clone())?;
    let known = names.clone();
    let watcher = Watcher::start(notice, move |changed| {
        let mut scripts = Vec::new();
        for change in changed {
            let named = known.lock().unwrap_or_else(PoisonError::into_inner).get(&change.path).cloned();
            match named {
                Some(Named::Script(name)) => scripts.push((name, text(&change))),
                // Who follows builds is there for as long as this is.
                Some(Named::Build(name)) => drop(built.send((name, change.content))),
                None => {}
            }
        }
        if !scripts.is_empty() {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(request) = reloader.propose(scripts) {
                live.ask(request);
            }
        }
    })?;
    let watcher = Arc::new(watcher);
    host.builds.trust_rebuilds();
    host.builds.listen(Box::new({
        let (names, reporter, watcher) = (names.clone(), reporter.clone(), watcher.clone());
        move |file, held, runs| {
            if !insert(&names, file, Named::Build(name_of(file))) {
                return;
            }
            if held != runs {
                let file = name_of(file);
                let file = shown(&file);
                reporter.warning(&format!(
                    "`{file}` holds another build than the one that was allowed, which runs; its next build is taken up"
                ));
            }
            warn(&reporter, file, watcher.watch(file, Kind::Library, Some(held)));
        }
    }));
    let places = host.session.places().clone();
    host.sources.listen(Box::new(move |name, text| {
        let Some(path) = path_of(&places, name) else { return };
        if insert(&names, &path, Named::Script(name.into())) {
            // What cannot be read counts when it has changed.
            let known = match text {
                Some(text) => Some(digest(text.as_bytes())),
                None => std::fs::read(&path).ok().map(|bytes| digest(&bytes)),
            };
            warn(&reporter, &path, watcher.watch(&path, Kind::Text, known.as_deref()));
        }
    }));
    Ok(Watching { sources: host.sources.clone(), builds: host.builds.clone() })
}

/// Notes what a file is. False where it was known.
fn insert(names: &Names, path: &Path, named: Named) -> bool {
    names.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf(), named).is_none()
}

/// Tries builds on a thread of their own, since the canary may take its time: scripts do not wait for it.
fn follow_builds(
    reloader: Arc<Reloader>,
    live: Live,
    reporter: Reporter,
    turn: Arc<Mutex<()>>,
) -> Result<Sender<Build>> {
    let (sender, received) = channel::<Build>();
    let thread = std::thread::Builder::new().name("builds".into());
    let spawned = thread.spawn(move || {
        while let Ok(first) = received.recv() {
            // Of several builds of a file the last one counts.
            let newest: BTreeMap<String, Option<Arc<[u8]>>> =
                std::iter::once(first).chain(received.try_iter()).collect();
            for (file, content) in newest {
                if content.is_some() {
                    reporter.note(&format!("build   {}: trying it out", shown(&file)));
                }
                let refused = reloader.note_build(&file, content);
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(request) = refused.or_else(|| reloader.propose(Vec::new())) {
                    live.ask(request);
                }
            }
        }
    });
    spawned.map_err(|error| Error::new(What::Internal(format!("no thread to try builds: {error}"))))?;
    Ok(sender)
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.sources.stop_listening();
        self.builds.stop_listening();
    }
}

fn warn(reporter: &Reporter, path: &Path, watched: Result<()>) {
    if let Err(error) = watched {
        reporter.warning(&format!("`{}` is not watched: {error}", path.display()));
    }
}

/// What a file holds as text; bytes that are no text are shown as such, and fail where they stand.
fn text(change: &Changed) -> Option<Arc<str>> {
    change.content.as_ref().map(|content| String::from_utf8_lossy(content).into())
}

/// The file of a script; none for those that the program holds itself.
fn path_of(places: &Places, name: &str) -> Option<PathBuf> {
    match name.strip_prefix("std/") {
        Some(inner) => places.stdlib.as_ref().map(|stdlib| stdlib.join(inner)).filter(|path| path.is_file()),
        None => Some(PathBuf::from(name)),
    }
}
