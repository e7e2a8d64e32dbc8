//! Where named things come from: a folder on disk, the embedded library, or the hub's cache.
//!
//! A name such as `std/minilm-tiny`, `./my-model` or `bert-base-uncased` flows in; a [`Folder`] flows out
//! from which single files are read. Downloading is left to `data::hub`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cancel;
use crate::data::embedded;
use crate::data::permissions::Permissions;
use crate::error::{Error, Result, What, nearest};
use crate::memory;

/// Where names are looked up. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Folders that a relative path is tried in, in order; empty means the working directory alone.
    pub roots: Arc<[PathBuf]>,
    /// A folder that replaces the embedded `stdlib/`.
    pub stdlib: Option<PathBuf>,
    /// Which files may be read and written; a folder in place of `stdlib/` is among those that may be read.
    pub permissions: Permissions,
}

/// A folder of files, on disk or embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// A folder on disk.
    Disk(PathBuf),
    /// A folder on disk whose files are read only where the permissions let a recipe read them.
    Restricted(PathBuf, Permissions),
    /// A folder of the embedded library, without the leading `std/`.
    Embedded(String),
}

impl Places {
    /// The existing file or folder on disk that `name` means, tried relative to each root. What is read of it is opened through
    /// [`Places::open`] or [`Permissions::read`], which follow its links again.
    ///
    /// # Errors
    /// A name that leads to what may not be read, whether it is there or not.
    pub fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        let direct = Path::new(name);
        let candidates: Vec<PathBuf> = match direct.is_absolute() || self.roots.is_empty() {
            true => vec![direct.to_path_buf()],
            false => self.roots.iter().map(|root| root.join(name)).collect(),
        };
        // A link that leads to nothing is there too, and is refused.
        if let Some(found) = candidates.iter().find(|path| path.symlink_metadata().is_ok()) {
            self.permissions.read_named(name, found)?;
            return Ok(found.exists().then(|| found.clone()));
        }
        let refused = candidates.iter().map(|path| self.permissions.read_named(name, path)).collect::<Result<Vec<_>>>();
        refused.map(|_| None)
    }

    /// The folder `path`, which was found by [`Places::path`].
    pub fn open(&self, path: PathBuf) -> Folder {
        match self.permissions.is_restricted() {
            true => Folder::Restricted(path, self.permissions.clone()),
            false => Folder::Disk(path),
        }
    }

    /// The folder that `name` means, where it is embedded or on disk; `None` where it may be a hub repository.
    ///
    /// # Errors
    /// An unknown `std/...` name, and what [`Places::path`] refuses.
    pub fn folder(&self, name: &str) -> Result<Option<Folder>> {
        let Some(inner) = name.strip_prefix("std/") else {
            return Ok(self.path(name)?.filter(|path| path.is_dir()).map(|path| self.open(path)));
        };
        if let Some(stdlib) = &self.stdlib {
            let path = stdlib.join(inner);
            if path.is_dir() {
                self.permissions.read(&path)?;
                return Ok(Some(self.open(path)));
            }
        }
        let prefix = format!("{inner}/");
        if embedded::FILES.iter().any(|(path, _)| path.starts_with(&prefix)) {
            return Ok(Some(Folder::Embedded(inner.to_string())));
        }
        Err(unknown_std(name))
    }

    /// The text of a file of the library, for example `tasks/sentiment.rhai`: from `--stdlib` where it has it, else embedded.
    ///
    /// # Errors
    /// An unknown name, or text that is not UTF-8.
    pub fn std_text(&self, inner: &str) -> Result<Cow<'static, str>> {
        if let Some(path) = self.stdlib.as_ref().map(|stdlib| stdlib.join(inner)).filter(|path| path.is_file()) {
            let path = self.permissions.read(&path)?;
            return std::fs::read_to_string(&path).map(Cow::Owned).map_err(|source| What::Read { path, source }.into());
        }
        let bytes = embedded::file(inner).ok_or_else(|| unknown_std(&format!("std/{inner}")))?;
        std::str::from_utf8(bytes)
            .map(Cow::Borrowed)
            .map_err(|_| What::Malformed { format: format!("std/{inner}"), problem: "it is not UTF-8".into() }.into())
    }
}

fn unknown_std(name: &str) -> Error {
    let name = name.strip_suffix(".rhai").unwrap_or(name);
    let folders = embedded::FILES.iter().filter_map(|(path, _)| path.rsplit_once('/')).map(|(folder, _)| folder);
    let files = embedded::FILES.iter().filter_map(|(path, _)| path.strip_suffix(".rhai"));
    let mut known: Vec<String> = folders.chain(files).map(|inner| format!("std/{inner}")).collect();
    known.sort();
    known.dedup();
    let error = Error::new(What::NotFound { kind: "library name", name: name.to_string() });
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("the library has {}", known.join(", "))),
    }
}

impl Folder {
    /// The bytes of the file `name`, or `None` where the folder has no such file.
    ///
    /// # Errors
    /// A file that is there and cannot be read, or may not be.
    pub fn read(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>> {
        match self {
            Folder::Embedded(inner) => Ok(embedded::file(&format!("{inner}/{name}")).map(Cow::Borrowed)),
            Folder::Restricted(folder, permissions) => read(&permissions.read(&folder.join(name))?),
            Folder::Disk(folder) => read(&folder.join(name)),
        }
    }

    /// The text of the file `name`, or `None` where the folder has no such file.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8.
    pub fn read_text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        String::from_utf8(bytes.into_owned()).map(Some).map_err(|error| {
            let problem = format!("it is not UTF-8 (byte {})", error.utf8_error().valid_up_to());
            What::Malformed { format: self.join(name).display().to_string(), problem }.into()
        })
    }

    /// Whether the folder has the file `name`.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Folder::Embedded(inner) => embedded::file(&format!("{inner}/{name}")).is_some(),
            Folder::Disk(folder) | Folder::Restricted(folder, _) => folder.join(name).is_file(),
        }
    }

    /// The names of the files directly in the folder, sorted.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = match self {
            Folder::Embedded(inner) => {
                let prefix = format!("{inner}/");
                embedded::FILES.iter().filter_map(|(path, _)| path.strip_prefix(&prefix)).map(str::to_string).collect()
            }
            Folder::Disk(folder) | Folder::Restricted(folder, _) => {
                let wrap = |source| Error::new(What::Read { path: folder.clone(), source });
                let mut names = Vec::new();
                for entry in std::fs::read_dir(folder).map_err(wrap)? {
                    let entry = entry.map_err(wrap)?;
                    if entry.path().is_file() {
                        names.push(entry.file_name().to_string_lossy().into_owned());
                    }
                }
                names
            }
        };
        names.sort();
        Ok(names)
    }

    /// The files in the folder and in the folders below it, sorted, as paths relative to it with `/` between their parts.
    /// Hidden folders are left out.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn all_files(&self) -> Result<Vec<String>> {
        let mut files = self.files()?;
        if let Some(folder) = self.on_disk() {
            below(folder, "", DEPTH, &mut files)?;
            files.sort();
        }
        Ok(files)
    }

    /// The folder's path, where it is on disk.
    pub fn on_disk(&self) -> Option<&Path> {
        match self {
            Folder::Embedded(_) => None,
            Folder::Disk(folder) | Folder::Restricted(folder, _) => Some(folder),
        }
    }

    /// The path of the file `name` as messages show it; embedded files are shown as `std/...`.
    pub fn join(&self, name: &str) -> PathBuf {
        match self {
            Folder::Embedded(inner) => Path::new("std").join(inner).join(name),
            Folder::Disk(folder) | Folder::Restricted(folder, _) => folder.join(name),
        }
    }
}

/// The bytes of a file on disk, where it is there.
fn read(path: &Path) -> Result<Option<Cow<'static, [u8]>>> {
    cancel::check()?;
    let size = path.metadata().map_or(0, |metadata| metadata.len());
    memory::require(size.into(), || format!("reading `{}`", path.display()))?;
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(What::Read { path: path.to_path_buf(), source }.into()),
    }
}

/// How deep folders are searched, which also ends circles of links.
const DEPTH: usize = 6;

/// Adds the files of the folders in `folder`, as paths behind `prefix`.
fn below(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) -> Result<()> {
    let wrap = |source| Error::new(What::Read { path: folder.to_path_buf(), source });
    for entry in std::fs::read_dir(folder).map_err(wrap)? {
        let entry = entry.map_err(wrap)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if depth == 0 || name.starts_with('.') || !path.is_dir() {
            continue;
        }
        let prefix = format!("{prefix}{name}/");
        found.extend(Folder::Disk(path.clone()).files()?.iter().map(|file| format!("{prefix}{file}")));
        below(&path, &prefix, depth - 1, found)?;
    }
    Ok(())
}
