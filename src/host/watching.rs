//! A run that is watched: its scripts' files, followed as the run reads them, and the reloader that makes requests of changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::data::files::Places;
use crate::error::Result;
use crate::host::reload::{Reloader, Reruns};
use crate::host::run::Host;
use crate::host::sources::Sources;
use crate::report::Reporter;
use crate::watch::{Changed, Notice, Watcher};

/// Watches the scripts of a run for as long as it lives.
pub struct Watching {
    sources: Sources,
}

/// Watches the scripts of `host`, those that it has read and those that it will read.
///
/// # Errors
/// A system that gives no watches.
pub fn watch(host: &Host, notice: Notice, reruns: Reruns) -> Result<Watching> {
    let reloader = Arc::new(Reloader::new(host, reruns));
    let names: Arc<Mutex<BTreeMap<PathBuf, String>>> = Arc::default();
    let (live, known) = (host.session.live().clone(), names.clone());
    let watcher = Watcher::start(notice, move |changed| {
        let named = changed.iter().filter_map(|change| {
            let name = known.lock().unwrap_or_else(PoisonError::into_inner).get(&change.path).cloned()?;
            Some((name, text(change)))
        });
        if let Some(request) = reloader.propose(named.collect()) {
            live.ask(request);
        }
    })?;
    let (places, reporter) = (host.session.places().clone(), host.session.reporter().clone());
    host.sources.listen(Box::new(move |name, text| {
        let Some(path) = path_of(&places, name) else { return };
        let is_new = names.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), name.into()).is_none();
        if is_new {
            warn(&reporter, &path, watcher.watch(&path, Some(text.as_bytes())));
        }
    }));
    Ok(Watching { sources: host.sources.clone() })
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.sources.stop_listening();
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
