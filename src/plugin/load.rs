//! From a file to an open plugin: read, ELF check, allowed, private copy, canary, opened for ever.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use retune_plugin_sdk::abi::{ENTRY, Entry};

use crate::data::digest::digest;
use crate::error::{Error, Place, Result, What, nearest};
use crate::plugin::canary::{self, Effort, Line, PATIENCE};
use crate::plugin::store::{Allowed, Store};
use crate::plugin::{Plugin, crash, elf, entry};

/// Whether a file that was not allowed may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Only what was allowed by its hash.
    Allowed,
    /// Whatever it is now: a rebuild of a plugin that was allowed when a watched run started.
    Rebuild,
}

/// Finds and opens plugins.
#[derive(Clone, Debug)]
pub struct Loader {
    /// Where allowed plugins are.
    pub store: Store,
    /// Files that were named on the command line.
    pub files: Vec<PathBuf>,
}

/// The plugins of this process by their hashes: opening one again gives the same.
static OPEN: LazyLock<Mutex<HashMap<String, Arc<Plugin>>>> = LazyLock::new(Mutex::default);

impl Loader {
    /// A loader over the user's store and files that were named on the command line.
    ///
    /// # Errors
    /// An environment that names no home.
    pub fn new(files: Vec<PathBuf>) -> Result<Self> {
        Ok(Loader { store: Store::of_user()?, files })
    }

    /// The plugin with the head `name`: in `file` where it is given, else in the files of the command line, else among the
    /// allowed plugins, the last allowed first.
    ///
    /// # Errors
    /// No plugin with such a head, and those of [`Loader::load`].
    pub fn find(&self, name: &str, file: Option<&Path>) -> Result<Arc<Plugin>> {
        let open = |file: &Path, record: Option<&Allowed>| match record {
            Some(record) => self.open_copy(record),
            None => self.load(file, Trust::Allowed),
        };
        self.find_by(name, file, open).map(|(plugin, _)| plugin)
    }

    /// As [`Loader::find`], also with the file that the plugin was built as. Files are opened by `open`, which is told the
    /// record of one that was found among the allowed plugins.
    ///
    /// # Errors
    /// No plugin with such a head, and what `open` refuses.
    pub fn find_by(
        &self,
        name: &str,
        file: Option<&Path>,
        mut open: impl FnMut(&Path, Option<&Allowed>) -> Result<Arc<Plugin>>,
    ) -> Result<(Arc<Plugin>, PathBuf)> {
        if let Some(file) = file {
            let plugin = open(file, None)?;
            plugin.head(name)?;
            return Ok((plugin, file.to_path_buf()));
        }
        let mut known = Vec::new();
        for file in &self.files {
            let plugin = open(file, None)?;
            if plugin.heads.iter().any(|head| head.name == name) {
                return Ok((plugin, file.clone()));
            }
            known.extend(plugin.heads.iter().map(|head| head.name.clone()));
        }
        let allowed = self.store.list()?;
        if let Some(record) = allowed.iter().find(|record| record.heads.iter().any(|head| head == name)) {
            return Ok((open(&record.path, Some(record))?, record.path.clone()));
        }
        known.extend(allowed.into_iter().flat_map(|record| record.heads));
        let error = Error::new(What::NotFound { kind: "plugin", name: name.to_string() });
        Err(match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `plugin:{near}`?")),
            None => error.hint("build it, then `retune plugin allow FILE`; `retune plugin list` shows what is there"),
        })
    }

    /// Opens an allowed plugin from its private copy.
    ///
    /// # Errors
    /// A copy that is gone or was changed, and those of [`Loader::load`].
    pub fn open_copy(&self, record: &Allowed) -> Result<Arc<Plugin>> {
        let copy = self.store.copy(&record.sha256);
        let bytes = std::fs::read(&copy).map_err(|source| What::Read { path: copy.clone(), source })?;
        let found = digest(&bytes);
        if found != record.sha256 {
            return Err(Error::new(What::Plugin(format!("the copy of the plugin `{}` was changed", record.name)))
                .at(Place::file(&copy))
                .hint("`retune plugin allow FILE` makes it again"));
        }
        self.open(&record.path, &found, &bytes)
    }

    /// Opens a plugin: the same file gives the same plugin, another content a new one beside it.
    ///
    /// # Errors
    /// A file that cannot be read, is no plugin, was not allowed, or fails in the canary.
    pub fn load(&self, file: &Path, trust: Trust) -> Result<Arc<Plugin>> {
        let bytes = std::fs::read(file).map_err(|source| What::Read { path: file.to_path_buf(), source })?;
        self.load_bytes(file, &bytes, trust)
    }

    /// As [`Loader::load`], with the content of the file.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load_bytes(&self, file: &Path, bytes: &[u8], trust: Trust) -> Result<Arc<Plugin>> {
        elf::check(bytes).map_err(|error| error.at(Place::file(file)))?;
        let sha256 = digest(bytes);
        if trust == Trust::Allowed && !self.store.allows(&sha256) {
            let problem = format!("the plugin `{}` was not allowed to run (sha256 {})", file.display(), &sha256[..16]);
            return Err(Error::new(What::NotAllowed(problem)).hint(format!(
                "a plugin is native code with your rights: if you trust it, `retune plugin allow {}`; each build is allowed anew",
                file.display()
            )));
        }
        if trust == Trust::Rebuild && !self.store.allows(&sha256) {
            return self.open_rebuild(file, &sha256, bytes);
        }
        self.open(file, &sha256, bytes)
    }

    /// Opens a build that was not allowed itself from a copy that nobody needs when it is open. The store remembers that it was
    /// trusted, so that the run can be repeated.
    fn open_rebuild(&self, file: &Path, sha256: &str, bytes: &[u8]) -> Result<Arc<Plugin>> {
        if let Some(plugin) = OPEN.lock().unwrap_or_else(PoisonError::into_inner).get(sha256) {
            return Ok(plugin.clone());
        }
        let copy = self.store.passing(bytes)?;
        canary::run(copy.path(), Effort::Quick, PATIENCE).map_err(|error| error.relocated(vec![Place::file(file)]))?;
        let plugin = Arc::new(open(copy.path(), file, sha256)?);
        self.store.trust(sha256)?;
        Ok(OPEN.lock().unwrap_or_else(PoisonError::into_inner).entry(sha256.to_string()).or_insert(plugin).clone())
    }

    fn open(&self, file: &Path, sha256: &str, bytes: &[u8]) -> Result<Arc<Plugin>> {
        if let Some(plugin) = OPEN.lock().unwrap_or_else(PoisonError::into_inner).get(sha256) {
            return Ok(plugin.clone());
        }
        let copy = self.store.keep(sha256, bytes)?;
        canary::run(&copy, Effort::Quick, PATIENCE).map_err(|error| error.relocated(vec![Place::file(file)]))?;
        let plugin = Arc::new(open(&copy, file, sha256)?);
        Ok(OPEN.lock().unwrap_or_else(PoisonError::into_inner).entry(sha256.to_string()).or_insert(plugin).clone())
    }

    /// Tries a plugin out in full, and lets it run from now on.
    ///
    /// # Errors
    /// A file that is no plugin, or that fails in the canary.
    pub fn allow(&self, file: &Path) -> Result<(Allowed, Vec<Line>)> {
        let (bytes, sha256) = read(file)?;
        let copy = self.store.keep(&sha256, &bytes)?;
        let lines =
            canary::run(&copy, Effort::Full, PATIENCE).map_err(|error| error.relocated(vec![Place::file(file)]));
        let lines = match lines {
            Ok(lines) => lines,
            Err(error) => {
                if !self.store.allows(&sha256) {
                    self.store.remove(&sha256)?;
                }
                return Err(error);
            }
        };
        let found = lines.iter().find_map(|line| match line {
            Line::Plugin { name, version, abi, heads } => {
                Some((name.clone(), version.clone(), abi.clone(), heads.clone()))
            }
            _ => None,
        });
        let (name, version, abi, heads) =
            found.ok_or_else(|| Error::new(What::Internal("the canary named no plugin".into())))?;
        let path = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        let allowed_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let record = Allowed { sha256, name, version, abi, heads, path, allowed_at };
        self.store.allow(&record)?;
        Ok((record, lines))
    }
}

/// Reads a file, checks that it is a library with a plugin's entry, and gives its hash.
///
/// # Errors
/// A file that cannot be read, or is no plugin.
pub fn read(file: &Path) -> Result<(Vec<u8>, String)> {
    let bytes = std::fs::read(file).map_err(|source| What::Read { path: file.to_path_buf(), source })?;
    elf::check(&bytes).map_err(|error| error.at(Place::file(file)))?;
    let sha256 = digest(&bytes);
    Ok((bytes, sha256))
}

/// Opens a library for ever and reads its entry. Nobody but the canary's child does this to a file that was not tried out.
///
/// # Errors
/// A library that the system cannot open, or an entry of another version.
pub fn open(library: &Path, file: &Path, sha256: &str) -> Result<Plugin> {
    crash::watch();
    let refused = |error: libloading::Error| {
        Error::new(What::Plugin(format!("the library cannot be opened: {error}"))).at(Place::file(file))
    };
    // A name without a folder would be looked for among the system's libraries.
    let library = std::path::absolute(library).map_err(|source| What::Read { path: library.to_path_buf(), source })?;
    // SAFETY: the constructors of an allowed library run with the rights of the user, who has allowed that; it was tried out
    // before. It is never closed, so what its entry leads to lives for ever.
    unsafe {
        let handle = dlopen(&library).map_err(refused)?;
        let entry: *const Entry = *handle.get::<*const Entry>(ENTRY.as_bytes()).map_err(refused)?;
        std::mem::forget(handle);
        entry::read(entry, file, sha256)
    }
}

/// # Safety
/// As that of the system's function.
#[cfg(unix)]
unsafe fn dlopen(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: the caller's promise.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL).map(Into::into) }
}

/// # Safety
/// As that of the system's function.
#[cfg(not(unix))]
unsafe fn dlopen(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: the caller's promise.
    unsafe { libloading::Library::new(path) }
}
