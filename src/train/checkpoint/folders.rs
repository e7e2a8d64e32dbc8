//! The checkpoints of an output directory: which there are, which is the newest whole one, and which make room.

use std::path::{Path, PathBuf};

use crate::data::durable;
use crate::error::{Error, Result, What};
use crate::train::checkpoint::manifest::{self, Complete, Manifest};

/// The folders `checkpoint-N` of an output directory with their steps, oldest first; also those that are not whole.
///
/// # Errors
/// A directory that cannot be listed.
pub fn all(output_dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let wrap = |source| Error::new(What::Read { path: output_dir.to_path_buf(), source });
    let mut found = Vec::new();
    for entry in std::fs::read_dir(output_dir).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        if let Some(step) = step_of(&path)
            && path.is_dir()
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The step that a folder's name says.
pub fn step_of(folder: &Path) -> Option<usize> {
    folder.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
}

/// The newest checkpoint that is whole, where there is one, and why each newer folder was passed over.
///
/// # Errors
/// A directory that cannot be listed.
pub fn newest_of(output_dir: &Path) -> Result<(Option<Complete>, Vec<Error>)> {
    let mut passed_over = Vec::new();
    for (_, folder) in all(output_dir)?.iter().rev() {
        match manifest::verify(folder) {
            Ok(complete) => return Ok((Some(complete), passed_over)),
            Err(error) => passed_over.push(error),
        }
    }
    Ok((None, passed_over))
}

/// As [`newest_of`], of a directory that has to have one.
///
/// # Errors
/// A directory without a whole checkpoint.
pub fn newest(output_dir: &Path) -> Result<(Complete, Vec<Error>)> {
    let (newest, passed_over) = if output_dir.is_dir() { newest_of(output_dir)? } else { (None, Vec::new()) };
    if let Some(newest) = newest {
        return Ok((newest, passed_over));
    }
    let name = output_dir.join("checkpoint-N").display().to_string();
    let error = Error::new(What::NotFound { kind: "checkpoint", name });
    Err(if passed_over.is_empty() {
        error.hint("`resume_from_checkpoint: true` goes on from the newest `checkpoint-N` of `output_dir`")
    } else {
        let why: Vec<String> = passed_over.iter().map(ToString::to_string).collect();
        error.hint(format!("there are checkpoints, and none of them is whole: {}", why.join("; ")))
    })
}

/// Deletes the oldest checkpoints beyond `limit`, never the best nor the newest.
///
/// # Errors
/// A checkpoint that cannot be deleted.
pub(in crate::train) fn rotate(output_dir: &Path, limit: usize, best: Option<&str>, newest: &Path) -> Result<()> {
    // What is not whole is left to people: it is no checkpoint.
    let all: Vec<_> = all(output_dir)?.into_iter().filter(|(_, path)| path.join(manifest::FILE).is_file()).collect();
    let mut excess = all.len().saturating_sub(limit);
    for (_, path) in all {
        if excess == 0 {
            break;
        }
        if best.is_some_and(|best| is_same(Path::new(best), &path)) || is_same(newest, &path) {
            continue;
        }
        durable::remove_folder(&path)?;
        excess -= 1;
    }
    Ok(())
}

/// Whether two paths mean the same folder, however they are written.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// The bytes of a checkpoint, as its manifest says.
///
/// # Errors
/// A folder without a manifest.
pub fn size(folder: &Path) -> Result<u64> {
    Ok(Manifest::read(folder)?.bytes.values().sum())
}
