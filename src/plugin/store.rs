//! The store: which plugins may run, by the sha256 of their files, and a private copy of each.
//!
//! A folder of one JSON file and one library a plugin: `<sha256>.json`, `<sha256>.so`. A plugin is native code with the rights of
//! whoever runs it, so one that was not allowed is not opened, and what was allowed is the content, not the path. The copy is
//! what is opened: nobody writes to it while it is mapped. A build that a watched run trusted by its path leaves an empty file
//! `<sha256>.trusted` alone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Place, Result, What};

/// The folder that plugins are kept in.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

/// What is known of an allowed plugin without opening it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// The sha256 of its file.
    pub sha256: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The version of the ABI it was built with.
    pub abi: String,
    /// The names of its heads.
    pub heads: Vec<String>,
    /// The file that was allowed.
    pub path: PathBuf,
    /// When, in seconds since 1970.
    pub allowed_at: u64,
}

/// The environment variable that names the folder of the program's own files.
pub const HOME: &str = "RETUNE_HOME";

impl Store {
    /// The user's own: below `RETUNE_HOME`, else `XDG_DATA_HOME/retune`, else `~/.local/share/retune`.
    ///
    /// # Errors
    /// An environment that names no home.
    pub fn of_user() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = set(HOME)
            .or_else(|| set("XDG_DATA_HOME").map(|folder| folder.join("retune")))
            .or_else(|| set("HOME").map(|folder| folder.join(".local/share/retune")));
        match home {
            Some(home) => Ok(Store(home.join("plugins"))),
            None => {
                let error = Error::new(What::Conflict("there is no home folder to keep plugins in".into()));
                Err(error.hint("set `RETUNE_HOME` to a folder of your own"))
            }
        }
    }

    /// The store in a folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Store(folder.into())
    }

    fn record(&self, sha256: &str) -> PathBuf {
        self.0.join(format!("{sha256}.json"))
    }

    /// The copy of a plugin.
    pub fn copy(&self, sha256: &str) -> PathBuf {
        self.0.join(format!("{sha256}.so"))
    }

    /// Whether a plugin with this hash may run.
    pub fn allows(&self, sha256: &str) -> bool {
        self.record(sha256).is_file()
    }

    /// All plugins that may run, the last allowed first.
    ///
    /// # Errors
    /// A folder that cannot be read, a record that is damaged.
    pub fn list(&self) -> Result<Vec<Allowed>> {
        let wrap = |source| Error::new(What::Read { path: self.0.clone(), source });
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(wrap(error)),
        };
        for entry in entries {
            let path = entry.map_err(wrap)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = std::fs::read(&path).map_err(|source| What::Read { path: path.clone(), source })?;
                let record: Allowed = serde_json::from_slice(&text).map_err(|error| {
                    let what = What::Malformed {
                        format: "the record of an allowed plugin".into(),
                        problem: error.to_string(),
                    };
                    Error::new(what).at(Place::file(&path)).hint("delete the file, and allow the plugin again")
                })?;
                found.push(record);
            }
        }
        found.sort_by(|a, b| (b.allowed_at, &a.sha256).cmp(&(a.allowed_at, &b.sha256)));
        Ok(found)
    }

    /// Keeps a copy of a library under its hash, and gives its path.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn keep(&self, sha256: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.copy(sha256);
        // A copy that was made before is used again, unless somebody has changed it.
        if std::fs::read(&path).is_ok_and(|found| found == bytes) {
            return Ok(path);
        }
        self.write(&path, bytes)?;
        Ok(path)
    }

    /// A copy of a library that is deleted when it is dropped.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn passing(&self, bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
        let wrap = |source| Error::new(What::Write { path: self.0.clone(), source });
        std::fs::create_dir_all(&self.0).map_err(wrap)?;
        private(&self.0).map_err(wrap)?;
        let mut file = tempfile::Builder::new().suffix(".so").tempfile_in(&self.0).map_err(wrap)?;
        std::io::Write::write_all(&mut file, bytes).map_err(wrap)?;
        Ok(file)
    }

    fn trusted(&self, sha256: &str) -> PathBuf {
        self.0.join(format!("{sha256}.trusted"))
    }

    /// Remembers that a watched run has trusted a build.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn trust(&self, sha256: &str) -> Result<()> {
        self.write(&self.trusted(sha256), b"")
    }

    /// Whether a build was allowed, or a watched run has trusted it: a repetition of the run may open it.
    pub fn knows(&self, sha256: &str) -> bool {
        self.allows(sha256) || self.trusted(sha256).is_file()
    }

    /// Lets a plugin run from now on.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn allow(&self, record: &Allowed) -> Result<()> {
        let text = serde_json::to_vec_pretty(record).map_err(|error| Error::new(What::Internal(error.to_string())))?;
        self.write(&self.record(&record.sha256), &text)
    }

    /// Takes back what [`Store::allow`] did. Its copy is deleted; processes that have it open keep it.
    ///
    /// # Errors
    /// Files that cannot be deleted.
    pub fn remove(&self, sha256: &str) -> Result<()> {
        for path in [self.record(sha256), self.copy(sha256), self.trusted(sha256)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(What::Write { path, source: error }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes a file beside its place and renames it, so that nobody sees half of it.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let wrap = |source| Error::new(What::Write { path: path.to_path_buf(), source });
        std::fs::create_dir_all(&self.0).map_err(wrap)?;
        private(&self.0).map_err(wrap)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0).map_err(wrap)?;
        std::io::Write::write_all(&mut file, bytes).map_err(wrap)?;
        file.persist(path).map_err(|error| wrap(error.error))?;
        Ok(())
    }
}

/// Only the user may change what is in the folder: what lies there is run.
#[cfg(unix)]
fn private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn private(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}
