//! Where the files of a data set are: found by name, in a folder, or by `data_files`.
//!
//! A name flows in; [`Source`]s flow out, each one file on disk or of the embedded library, with the name that
//! messages use for it. Reading and parsing them is left to [`crate::data::load`].

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::data::files::{Folder, Places};
use crate::data::format::Format;
use crate::data::load::DataFiles;
use crate::data::splits;
use crate::error::{Error, Result, What, nearest};

/// One file that will be read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    folder: Folder,
    file: String,
    /// What messages call it: the path as the user named it.
    pub(super) shown: PathBuf,
}

impl Source {
    /// The file's bytes.
    pub(super) fn bytes(&self) -> Result<Cow<'static, [u8]>> {
        let gone = || Error::new(What::NotFound { kind: "file", name: self.shown.display().to_string() });
        self.folder.read(&self.file)?.ok_or_else(gone)
    }
}

/// The folder called `name`; none where it is a file or not there.
pub(super) fn folder(places: &Places, name: &str) -> Result<Option<Folder>> {
    if name.is_empty() || (name.starts_with("std/") && Format::is_data(Path::new(name))) {
        return Ok(None);
    }
    places.folder(name)
}

/// The file called `name`.
pub(super) fn file(places: &Places, name: &str) -> Result<Option<Source>> {
    let shown = PathBuf::from(name);
    if name.starts_with("std/") {
        let Some((folder, file)) = name.rsplit_once('/').filter(|(folder, _)| folder.contains('/')) else {
            return Ok(None);
        };
        let folder = places.folder(folder)?.filter(|folder| folder.has(file));
        return Ok(folder.map(|folder| Source { folder, file: file.to_string(), shown }));
    }
    let Some(path) = places.path(name).filter(|path| path.is_file()) else { return Ok(None) };
    let file = path.file_name().map(|file| file.to_string_lossy().into_owned());
    let parent = path.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(file.map(|file| Source { folder: Folder::Disk(parent), file, shown }))
}

/// The splits of a folder, by the names of its files and of the folders in it.
pub(super) fn of_folder(name: &str, folder: &Folder) -> Result<IndexMap<String, Vec<Source>>> {
    let files = list(folder)?;
    let found = splits::assign(&files);
    if found.is_empty() {
        let error = Error::new(What::BadData(format!("the folder `{name}` holds no data files")));
        return Err(match files.is_empty() {
            true => error.hint("it has no files"),
            false => error.hint(
                "none has an ending that is read, such as .jsonl, .csv or .parquet; name others with `data_files`",
            ),
        });
    }
    let source = |file: String| {
        let shown = Path::new(name).join(&file);
        Source { folder: folder.clone(), file, shown }
    };
    Ok(found.into_iter().map(|(split, files)| (split.to_string(), files.into_iter().map(source).collect())).collect())
}

/// The files of a folder and of the folders directly in it, sorted, as paths relative to it.
fn list(folder: &Folder) -> Result<Vec<String>> {
    let mut files = folder.files()?;
    if let Folder::Disk(path) = folder {
        let wrap = |source| Error::new(What::Read { path: path.clone(), source });
        for entry in std::fs::read_dir(path).map_err(wrap)? {
            let entry = entry.map_err(wrap)?;
            if entry.path().is_dir() {
                let inner = entry.file_name().to_string_lossy().into_owned();
                files.extend(Folder::Disk(entry.path()).files()?.iter().map(|file| format!("{inner}/{file}")));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The files of `data_files`, relative to a folder where there is one, given with its name.
pub(super) fn given(
    places: &Places,
    folder: Option<(&str, &Folder)>,
    files: &DataFiles,
) -> Result<IndexMap<String, Vec<Source>>> {
    let nothing = || Error::new(What::BadData("`data_files` names no files".into()));
    let all = |patterns: &[String]| -> Result<Vec<Source>> {
        let found = patterns.iter().map(|pattern| find(places, folder, pattern)).collect::<Result<Vec<_>>>()?.concat();
        if found.is_empty() { Err(nothing()) } else { Ok(found) }
    };
    match files {
        DataFiles::Train(patterns) => Ok(IndexMap::from([("train".to_string(), all(patterns)?)])),
        DataFiles::Splits(splits) if splits.is_empty() => Err(nothing()),
        DataFiles::Splits(splits) => splits.iter().map(|(split, files)| Ok((split.clone(), all(files)?))).collect(),
    }
}

/// The file called `pattern`, or those that it matches.
fn find(places: &Places, folder: Option<(&str, &Folder)>, pattern: &str) -> Result<Vec<Source>> {
    let path = match folder {
        Some((name, _)) => format!("{}/{pattern}", name.trim_end_matches('/')),
        None => pattern.to_string(),
    };
    if let Some(source) = file(places, &path)? {
        return Ok(vec![source]);
    }
    if !pattern.contains(['*', '?', '[']) {
        return Err(missing(places, &path));
    }
    let found = matching(places, folder, pattern)?;
    match found.is_empty() {
        true => {
            let error = Error::new(What::NotFound { kind: "file", name: path });
            Err(error.hint("`data_files` is a pattern that no file's name matches"))
        }
        false => Ok(found),
    }
}

/// The files whose names match a pattern such as `train-*.jsonl`.
fn matching(places: &Places, folder: Option<(&str, &Folder)>, pattern: &str) -> Result<Vec<Source>> {
    let bad = |error: glob::PatternError| {
        let allowed = format!("a pattern of file names ({})", error.msg);
        Error::new(What::OutOfRange { name: "`data_files`".into(), value: format!("{pattern:?}"), allowed })
    };
    let matcher = glob::Pattern::new(pattern).map_err(bad)?;
    let separate = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let (folder, base, matcher) = match folder {
        Some((name, folder)) => (folder.clone(), PathBuf::from(name), matcher),
        None => {
            let (base, file) = pattern.rsplit_once('/').unwrap_or((".", pattern));
            let Some(path) = places.path(base).filter(|path| path.is_dir()) else { return Ok(Vec::new()) };
            let shown = if base == "." { PathBuf::new() } else { PathBuf::from(base) };
            (Folder::Disk(path), shown, glob::Pattern::new(file).map_err(bad)?)
        }
    };
    let files = list(&folder)?.into_iter().filter(|file| matcher.matches_with(file, separate));
    Ok(files.map(|file| Source { folder: folder.clone(), shown: base.join(&file), file }).collect())
}

/// The error for a name that is neither a file nor a folder, with what lies near it.
pub(super) fn missing(places: &Places, name: &str) -> Error {
    let path = Path::new(name);
    let is_path = Format::is_data(path) || path.is_absolute() || name.starts_with(['.', '~']) || name.ends_with('/');
    let kind = if is_path { "file" } else { "data set" };
    let error = Error::new(What::NotFound { kind, name: name.into() });
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let inner = parent.map_or_else(|| ".".into(), |parent| parent.display().to_string());
    let folder = self::folder(places, &inner).ok().flatten().or_else(|| places.path(&inner).map(Folder::Disk));
    let near = folder.and_then(|folder| self::near(&folder, path));
    match near {
        Some(near) => {
            let near = parent.map_or_else(|| near.clone(), |parent| parent.join(&near).display().to_string());
            let note = if is_path { "" } else { " Data sets of the hub come later" };
            error.hint(format!("did you mean `{near}`?{note}"))
        }
        None if is_path && parent.is_some_and(|parent| places.path(&parent.display().to_string()).is_none()) => {
            error.hint(format!("there is no folder `{inner}` either"))
        }
        None if is_path => error.hint("the path is looked up from the working directory and the recipe's folder"),
        None => error.hint(
            "give a local file or folder, such as `data/train.jsonl` or `std/reviews`; data sets of the hub come later",
        ),
    }
}

/// The file or folder in `folder` whose name is nearest to that of `path`.
fn near(folder: &Folder, path: &Path) -> Option<String> {
    let mut names = folder.files().unwrap_or_default();
    if let Folder::Disk(folder) = folder {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        names.extend(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    let wanted = path.file_name()?.to_string_lossy().into_owned();
    let same_stem = |name: &&String| Path::new(name).file_stem() == path.file_stem();
    nearest(&wanted, names.iter().map(String::as_str))
        .map(str::to_string)
        .or_else(|| names.iter().find(same_stem).cloned())
}
