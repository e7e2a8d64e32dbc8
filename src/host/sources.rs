//! The scripts of a run: the text of each as it was compiled, and who imported whom.
//!
//! The resolver and the task loader write here; diagnostics read the lines they show, and a hot reload reads
//! the import graph. Names are paths as the user would write them, or `std/...`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::data::files::Places;
use crate::error::{Error, Result, What, nearest};
use crate::tensor::rng::stream_hash;

/// The scripts of a run. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Sources(Arc<Mutex<Inner>>);

/// Told of each script that is read, with its text; without one where it cannot be read.
pub type Listener = Box<dyn Fn(&str, Option<&str>) + Send + Sync>;

#[derive(Default)]
struct Inner {
    texts: BTreeMap<String, Arc<str>>,
    imports: Vec<Import>,
    /// Whether a script that was read once is never read from disk again.
    held: bool,
    listener: Option<Arc<Listener>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("texts", &self.texts).field("imports", &self.imports).finish_non_exhaustive()
    }
}

/// One edge of the import graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The script that imports; empty where an engine was given text without a name.
    pub importer: String,
    /// The script that is imported.
    pub imported: String,
    /// The hash of the imported text.
    pub hash: u64,
}

impl Sources {
    /// Keeps the text of the script `name`; a newer text replaces an older one.
    pub fn add(&self, name: &str, text: &str) -> Arc<str> {
        let text: Arc<str> = text.into();
        let listener = {
            let mut inner = self.lock();
            inner.texts.insert(name.to_string(), text.clone());
            inner.listener.clone()
        };
        if let Some(listener) = listener {
            listener(name, Some(&text));
        }
        text
    }

    /// Tells `listener` of each script that was read and that will be.
    pub fn listen(&self, listener: Listener) {
        let listener = Arc::new(listener);
        let texts = {
            let mut inner = self.lock();
            inner.listener = Some(listener.clone());
            inner.texts.clone()
        };
        texts.iter().for_each(|(name, text)| listener(name, Some(text)));
    }

    /// Tells nobody any longer.
    pub fn stop_listening(&self) {
        drop(self.lock().listener.take());
    }

    /// The text of the script `name`.
    pub fn text(&self, name: &str) -> Option<Arc<str>> {
        self.lock().texts.get(name).cloned()
    }

    /// From now on a script that was read keeps its text, whatever becomes of its file: a run that is watched takes
    /// up a new text when it has been tried, and not when it is imported again.
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// The text of the script `name`: the one that is held, else that of its file.
    ///
    /// # Errors
    /// As [`read_script`].
    pub fn read(&self, places: &Places, name: &str) -> Result<String> {
        let held = {
            let inner = self.lock();
            inner.held.then(|| inner.texts.get(name).cloned()).flatten()
        };
        if let Some(text) = held {
            return Ok(text.to_string());
        }
        let read = read_script(places, name);
        let listener = self.lock().listener.clone();
        if let (Err(_), Some(listener)) = (&read, listener) {
            listener(name, None);
        }
        read
    }

    /// All texts by name.
    pub fn texts(&self) -> BTreeMap<String, Arc<str>> {
        self.lock().texts.clone()
    }

    /// Holds these texts and no others.
    pub fn hold_only(&self, texts: BTreeMap<String, Arc<str>>) {
        let mut inner = self.lock();
        (inner.texts, inner.held) = (texts, true);
    }

    /// The names of all scripts, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().texts.keys().cloned().collect()
    }

    /// The import graph, in the order of the imports.
    pub fn imports(&self) -> Vec<Import> {
        self.lock().imports.clone()
    }

    /// Records that `importer` imports `imported`, whose text is `text`.
    pub(crate) fn record(&self, importer: &str, imported: &str, text: &str) {
        let edge = Import { importer: importer.into(), imported: imported.into(), hash: stream_hash(text) };
        let mut inner = self.lock();
        inner.imports.retain(|known| known.importer != edge.importer || known.imported != edge.imported);
        inner.imports.push(edge);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the script `name`: a path, or `std/...`.
///
/// # Errors
/// A file that does not exist, with the nearest name beside it, or cannot be read, or is not UTF-8.
pub fn read_script(places: &Places, name: &str) -> Result<String> {
    if let Some(inner) = name.strip_prefix("std/") {
        return places.std_text(inner).map(std::borrow::Cow::into_owned);
    }
    let path = Path::new(name);
    let opened = places.permissions.read(path)?;
    let bytes = std::fs::read(opened).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => near_file(path),
        _ => What::Read { path: path.into(), source }.into(),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let problem = format!("it is not UTF-8 (byte {})", error.utf8_error().valid_up_to());
        What::Malformed { format: name.to_string(), problem }.into()
    })
}

/// The name of the script that `import "path"` means inside `importer`: `std/...`, or a path beside the importer.
/// `.rhai` is added where it is missing.
pub fn imported_name(importer: &str, path: &str) -> String {
    let mut target = match Path::new(importer).parent() {
        Some(folder) if !path.starts_with("std/") => folder.join(path),
        _ => PathBuf::from(path),
    };
    if target.extension().is_none_or(|extension| extension != "rhai") {
        target.as_mut_os_string().push(".rhai");
    }
    // `./` says nothing, and `folder/../` leads back: the same file must have one name.
    let mut clean = PathBuf::new();
    for part in target.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(clean.components().next_back(), Some(Component::Normal(_))) => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean.to_string_lossy().into_owned()
}

fn near_file(path: &Path) -> Error {
    let error = Error::new(What::NotFound { kind: "script", name: path.display().to_string() });
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return error.hint(format!("there is no folder `{}`", folder.display()));
    };
    let mut scripts: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".rhai"))
        .collect();
    scripts.sort();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match nearest(&name, scripts.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean `{}`?", path.with_file_name(near).display())),
        None if scripts.is_empty() => error.hint(format!("`{}` has no `.rhai` files", folder.display())),
        None => error.hint(format!("`{}` has {}", folder.display(), scripts[..scripts.len().min(8)].join(", "))),
    }
}
