//! The builds of a run's plugins: which file each came from, which build counts, and what is trusted.
//!
//! The name of a head flows in; an open plugin flows out, with the file it was built as. While a run is watched, what is built
//! at the place of a plugin that was allowed when it was opened first is trusted without being allowed anew, and
//! [`Builds::take_up`] puts it into the models of the run. When a file has changed is left to `watching`, whether its new build is
//! right to `reload`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::session::Session;
use crate::data::digest::digest;
use crate::error::{Error, Place, Result, What};
use crate::head::rebuild::{Back, Change, rebuild};
use crate::host::plugins::PREFIX;
use crate::plugin::{Loader, Plugin, Store, Trust};

/// Plugins by the files they were built as.
pub type Libraries = BTreeMap<String, Arc<Plugin>>;

/// Told of each file that a plugin of the run was built as, with the digests of what the file held and of the build that runs.
pub type Listener = Box<dyn Fn(&Path, &str, &str) + Send + Sync>;

/// The builds of a run's plugins. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Builds(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    files: BTreeMap<PathBuf, Built>,
    /// The files that the models of this run came from.
    used: BTreeSet<PathBuf>,
    /// Whether later builds are trusted.
    watched: bool,
    /// Where allowed plugins are; the user's own where it is not said.
    store: Option<Store>,
    listener: Option<Arc<Listener>>,
}

struct Built {
    /// The build that counts.
    plugin: Arc<Plugin>,
    /// What the file held when its plugin was opened from the copy that had been allowed, where that was something else: nobody
    /// trusts it.
    other: Option<String>,
    /// Whether it was found by the name of its head alone.
    by_name: bool,
}

impl Builds {
    /// Builds of plugins that are allowed in `store`.
    pub fn in_store(store: Store) -> Self {
        Builds(Arc::new(Mutex::new(Inner { store: Some(store), ..Inner::default() })))
    }

    /// What opens plugins; those in `files` come before the allowed ones.
    ///
    /// # Errors
    /// As [`Store::of_user`].
    pub(crate) fn loader(&self, files: &[PathBuf]) -> Result<Loader> {
        let store = self.lock().store.clone();
        Ok(Loader { store: store.map_or_else(Store::of_user, Ok)?, files: files.to_vec() })
    }

    /// Later builds of what is opened from now on are trusted.
    pub(crate) fn trust_rebuilds(&self) {
        self.lock().watched = true;
    }

    /// Another run begins: it opens what is on disk.
    pub(crate) fn begin_run(&self) {
        let mut inner = self.lock();
        inner.used.clear();
        inner.listener = None;
    }

    /// Tells `listener` of each file that the run uses, and that it will use.
    pub(crate) fn listen(&self, listener: Listener) {
        let listener = Arc::new(listener);
        let known: Vec<_> = {
            let mut inner = self.lock();
            inner.listener = Some(listener.clone());
            let digests = |built: &Built| (built.held(), built.plugin.sha256.clone());
            inner.used.iter().filter_map(|file| Some((file.clone(), digests(inner.files.get(file)?)))).collect()
        };
        known.iter().for_each(|(file, (held, runs))| listener(file, held, runs));
    }

    /// Tells nobody any longer.
    pub(crate) fn stop_listening(&self) {
        drop(self.lock().listener.take());
    }

    /// The builds that count in this run.
    pub(crate) fn libraries(&self) -> Libraries {
        let inner = self.lock();
        let used = inner.used.iter().filter_map(|file| Some((name_of(file), inner.files.get(file)?.plugin.clone())));
        used.collect()
    }

    /// The digests of the builds that count in this run, and what their files hold, as far as it can be read.
    pub(crate) fn contents(&self) -> BTreeMap<String, (String, Arc<[u8]>)> {
        let loader = self.loader(&[]).ok();
        let content = |(file, plugin): (String, Arc<Plugin>)| {
            let copy = loader.as_ref().map(|loader| loader.store.copy(&plugin.sha256));
            let mut places = copy.into_iter().chain([PathBuf::from(&file)]);
            let bytes =
                places.find_map(|place| std::fs::read(place).ok().filter(|bytes| digest(bytes) == plugin.sha256))?;
            Some((file, (plugin.sha256.clone(), bytes.into())))
        };
        self.libraries().into_iter().filter_map(content).collect()
    }

    /// Lets a run have these builds and no others: a repetition.
    pub(crate) fn fix(&self, libraries: Libraries) {
        let mut inner = self.lock();
        for (file, plugin) in libraries {
            let file = PathBuf::from(file);
            inner.used.insert(file.clone());
            inner.files.insert(file, Built { plugin, other: None, by_name: true });
        }
    }

    /// The plugin with the head `head`, and the file it was built as: in `library` where it is given, else in `files`, else
    /// what the run has already, else among the allowed plugins.
    ///
    /// # Errors
    /// As [`Loader::find`].
    pub(crate) fn find(&self, files: &[PathBuf], head: &str, library: Option<&Path>) -> Result<(Arc<Plugin>, PathBuf)> {
        let loader = self.loader(files)?;
        let has = |built: &Built| built.by_name && built.plugin.heads.iter().any(|known| known.name == head);
        let known = || self.lock().files.iter().find(|(_, built)| has(built)).map(|(file, _)| file.clone());
        let library = match library {
            Some(file) => Some(file.to_path_buf()),
            None if loader.files.is_empty() => known(),
            None => None,
        };
        let (plugin, file) = loader.find_by(head, library.as_deref(), |file, record| {
            let place = absolute(file);
            let (used, known, watched) = {
                let inner = self.lock();
                let known = inner.files.get(&place).map(|built| (built.plugin.clone(), built.other.clone()));
                (inner.used.contains(&place), known, inner.watched)
            };
            let (plugin, held) = match (known, record) {
                // All models of a run have the same build.
                (Some((plugin, _)), _) if used => return Ok(plugin),
                (Some((plugin, other)), _) if watched => {
                    // The bytes that are opened, whatever is built meanwhile.
                    let bytes = std::fs::read(file).map_err(|source| What::Read { path: file.to_path_buf(), source });
                    let held = bytes.as_ref().map(|bytes| digest(bytes)).unwrap_or_default();
                    // A build that fails is watched too: the next one may be right.
                    self.tell(&place, &held, &held);
                    let plugin = match other {
                        Some(other) if held == other => plugin,
                        _ => loader.load_bytes(file, &bytes?, Trust::Rebuild)?,
                    };
                    (plugin, Some(held))
                }
                (_, Some(record)) => {
                    (loader.open_copy(record)?, std::fs::read(&place).ok().map(|bytes| digest(&bytes)))
                }
                (_, None) => {
                    let plugin = loader.load(file, Trust::Allowed)?;
                    let held = plugin.sha256.clone();
                    (plugin, Some(held))
                }
            };
            self.note(place, plugin.clone(), held, library.is_none());
            Ok(plugin)
        })?;
        Ok((plugin, absolute(&file)))
    }

    /// Notes what a model has, and the digest of what its file held when that was opened.
    fn note(&self, file: PathBuf, plugin: Arc<Plugin>, held: Option<String>, by_name: bool) {
        let built = Built { other: held.filter(|held| *held != plugin.sha256), plugin, by_name };
        let (held, runs) = (built.held(), built.plugin.sha256.clone());
        self.lock().files.insert(file.clone(), built);
        self.tell(&file, &held, &runs);
    }

    fn tell(&self, file: &Path, held: &str, runs: &str) {
        let listener = {
            let mut inner = self.lock();
            inner.used.insert(file.to_path_buf());
            inner.listener.clone()
        };
        if let Some(listener) = listener {
            listener(file, held, runs);
        }
    }

    /// The heads that models of the run may have from a file, as a recipe names them.
    pub(crate) fn heads(&self, file: &str) -> Option<String> {
        let inner = self.lock();
        let heads = &inner.files.get(Path::new(file))?.plugin.heads;
        Some(heads.iter().map(|head| format!("{PREFIX}{}", head.name)).collect::<Vec<_>>().join(", "))
    }

    /// Opens what was built at the place of a plugin of the run.
    ///
    /// # Errors
    /// A file that is no plugin, or fails in the canary.
    pub(crate) fn open(&self, file: &str, bytes: &[u8]) -> Result<Arc<Plugin>> {
        self.loader(&[])?.load_bytes(Path::new(shown(file)), bytes, Trust::Rebuild)
    }

    /// Gives the models of the run heads of these builds. What has changed leads back.
    ///
    /// # Errors
    /// As [`rebuild`]; nothing has changed then.
    pub(crate) fn take_up(&self, session: &Session, libraries: &Libraries) -> Result<Vec<Change>> {
        let mut changes: Vec<Change> = Vec::new();
        for model in session.models() {
            let task = model.task();
            let Some(file) = task.library().map(name_of) else { continue };
            let Some(plugin) = libraries.get(&file).filter(|plugin| task.build() != Some(&plugin.sha256)) else {
                continue;
            };
            match rebuild(&model, plugin) {
                Ok(change) => changes.push(change),
                Err(error) => {
                    changes.iter().rev().for_each(|change| change.undo(Back::Tried));
                    let mut places = vec![Place::file(shown(&file))];
                    places.extend(error.places().iter().filter(|place| !matches!(place, Place::File { .. })).cloned());
                    return Err(error.relocated(places));
                }
            }
        }
        let mut inner = self.lock();
        for (file, plugin) in libraries {
            if let Some(built) = inner.files.get_mut(Path::new(file)) {
                built.plugin = plugin.clone();
            }
        }
        drop(inner);
        Ok(changes)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Built {
    /// The digest of what its file held.
    fn held(&self) -> String {
        self.other.clone().unwrap_or_else(|| self.plugin.sha256.clone())
    }
}

/// What a new build did to a model's parameters, for people.
pub(crate) fn said(changes: &[Change]) -> Option<String> {
    let listed = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let of = |change: &Change| {
        let adopted = &change.adopted;
        let made = (!adopted.made.is_empty()).then(|| format!("new parameters: {}", listed(&adopted.made)));
        let unused = (!adopted.unused.is_empty()).then(|| format!("parameters left out: {}", listed(&adopted.unused)));
        [made, unused].into_iter().flatten().collect::<Vec<_>>()
    };
    let all: Vec<String> = changes.iter().flat_map(of).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The error of a file that is gone.
pub(crate) fn gone(file: &str) -> Error {
    Error::new(What::NotFound { kind: "file", name: shown(file).to_string() })
        .hint("the run goes on with the build it has; the next build at this place is taken up")
}

/// A file's name for people: from the working directory on.
pub(crate) fn shown(file: &str) -> &str {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| Path::new(file).strip_prefix(here).ok()?.to_str());
    below.filter(|below| !below.is_empty()).unwrap_or(file)
}

/// A file's name in the ledger.
pub(crate) fn name_of(file: &Path) -> String {
    file.display().to_string()
}

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf())
}
