//! What makes a folder a checkpoint: `manifest.json`, written last, with the size and the sha256 of every other file.
//!
//! A folder flows in; a [`Complete`] checkpoint flows out, or an error that names what is missing or was changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::digest;
use crate::data::durable::write_file;
use crate::data::files::Folder;
use crate::error::{Error, Place, Result, What};

/// The manifest's file.
pub const FILE: &str = "manifest.json";

/// What a manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The sha256 of each file, by its path below the folder.
    pub sha256: BTreeMap<String, String>,
    /// The size of each file, in bytes.
    pub bytes: BTreeMap<String, u64>,
}

/// A checkpoint of which every file is there with the bytes that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete(PathBuf);

impl Complete {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Manifest {
    /// Looks at every file of a folder.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn of(folder: &Path) -> Result<Manifest> {
        let names = Folder::Disk(folder.to_path_buf()).all_files()?;
        let names: Vec<String> = names.into_iter().filter(|name| name != FILE).collect();
        let looked = |name: String| sum(&folder.join(&name)).map(|(bytes, sha256)| (name, bytes, sha256));
        let looked: Vec<_> = names.into_par_iter().map(looked).collect::<Result<_>>()?;
        let mut manifest = Manifest::default();
        for (name, bytes, sha256) in looked {
            manifest.bytes.insert(name.clone(), bytes);
            manifest.sha256.insert(name, sha256);
        }
        Ok(manifest)
    }

    /// Writes the manifest of what is in the folder.
    ///
    /// # Errors
    /// A folder that cannot be read or written to.
    pub(super) fn write(folder: &Path) -> Result<()> {
        write_file(&folder.join(FILE), super::pretty(&Manifest::of(folder)?)?.as_bytes())
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// A folder without one, or one that is damaged.
    pub fn read(folder: &Path) -> Result<Manifest> {
        let missing = || {
            Error::new(What::NotFound { kind: "checkpoint", name: folder.display().to_string() }).hint(
                "a checkpoint is a folder `checkpoint-N` with a manifest.json; one that was not finished has none",
            )
        };
        let text = Folder::Disk(folder.to_path_buf()).read_text(FILE)?.ok_or_else(missing)?;
        serde_json::from_str(&text).map_err(|error| {
            Error::new(What::Malformed { format: FILE.into(), problem: error.to_string() })
                .at(Place::line(folder.join(FILE), error.line(), Some(error.column())))
                .hint(ELSE)
        })
    }
}

const ELSE: &str = "go on from another checkpoint: `retune checkpoint list` shows which are whole";

/// Compares every file of a checkpoint with its manifest.
///
/// # Errors
/// No manifest; the first file that is missing or has other bytes, by name.
pub fn verify(folder: &Path) -> Result<Complete> {
    let wrong = |problem: String| Err(Error::new(What::Weights(problem)).at(Place::file(folder)).hint(ELSE));
    let manifest = Manifest::read(folder)?;
    // Sizes first: what was cut short is found at once.
    for (name, bytes) in &manifest.bytes {
        match std::fs::metadata(folder.join(name)) {
            Err(_) => return wrong(format!("the checkpoint lacks `{name}`")),
            Ok(found) if found.len() != *bytes => {
                return wrong(format!("`{name}` of the checkpoint has {} bytes instead of {bytes}", found.len()));
            }
            Ok(_) => {}
        }
    }
    let names: Vec<&String> = manifest.sha256.keys().collect();
    let sums: Vec<_> = names.par_iter().map(|name| sum(&folder.join(name))).collect();
    for (name, sum) in names.into_iter().zip(sums) {
        match sum {
            Err(error) => return wrong(format!("`{name}` of the checkpoint cannot be read: {error}")),
            Ok((_, sha256)) if sha256 != manifest.sha256[name] => {
                return wrong(format!("`{name}` of the checkpoint was changed after it was written"));
            }
            Ok(_) => {}
        }
    }
    Ok(Complete(folder.to_path_buf()))
}

/// The size and the sha256 of a file.
fn sum(path: &Path) -> Result<(u64, String)> {
    let wrap = |source| Error::new(What::Read { path: path.to_path_buf(), source });
    let mut file = File::open(path).map_err(wrap)?;
    let (mut sha256, mut bytes, mut part) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut part).map_err(wrap)? {
            0 => return Ok((bytes, digest::hex(&sha256.finalize()))),
            n => {
                sha256.update(&part[..n]);
                bytes += n as u64;
            }
        }
    }
}
