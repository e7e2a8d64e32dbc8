//! Where the files of a data set are: found by name, in a folder, or by `data_files`.
//!
//! A name flows in; [`Source`]s flow out, each one file on disk, of the embedded library or of a hub, with the name that
//! messages use for it. Reading and parsing them is left to [`crate::data::load`].

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::data::files::{Folder, Places};
use crate::data::format::Format;
use crate::data::hub_dataset::Repository;
use crate::data::layout::Layout;
use crate::data::load::DataFiles;
use crate::data::splits;
use crate::error::{Error, Result, What, nearest};

/// One file that will be read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    place: Keeper,
    file: String,
    /// What messages call it: the path as the user named it.
    pub(super) shown: PathBuf,
}

/// What has a file.
#[derive(Clone, Debug)]
enum Keeper {
    Folder(Folder),
    Hub(Arc<Repository>),
}

impl Source {
    /// The file `file` of a folder that messages call `name`.
    fn of_folder(folder: &Folder, name: impl AsRef<Path>, file: String) -> Self {
        Source { place: Keeper::Folder(folder.clone()), shown: name.as_ref().join(&file), file }
    }

    /// The file `file` of a hub's repository.
    pub(super) fn of_hub(repository: &Arc<Repository>, file: String) -> Self {
        Source { place: Keeper::Hub(repository.clone()), shown: repository.shown(&file), file }
    }

    /// The file's bytes, which are fetched first where the file is on a hub.
    pub(super) fn bytes(&self) -> Result<Cow<'static, [u8]>> {
        let gone = || Error::new(What::NotFound { kind: "file", name: self.shown.display().to_string() });
        match &self.place {
            Keeper::Folder(folder) => folder.read(&self.file)?.ok_or_else(gone),
            Keeper::Hub(repository) => {
                let path = repository.get(&self.file)?;
                std::fs::read(&path).map(Cow::Owned).map_err(|source| What::Read { path, source }.into())
            }
        }
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
        let place = folder.map(Keeper::Folder);
        return Ok(place.map(|place| Source { place, file: file.to_string(), shown }));
    }
    let Some(path) = places.path(name)?.filter(|path| path.is_file()) else { return Ok(None) };
    let file = path.file_name().map(|file| file.to_string_lossy().into_owned());
    let parent = path.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(file.map(|file| Source { place: Keeper::Folder(places.open(parent)), file, shown }))
}

/// The splits of a folder, by the names of its files and of the folders in it.
///
/// # Errors
/// A folder without data, and what [`Layout::splits`] refuses.
pub(super) fn of_folder(name: &str, folder: &Folder, config: Option<&str>) -> Result<IndexMap<String, Vec<Source>>> {
    let files = folder.all_files()?;
    let readme = folder.read_text("README.md")?;
    let found = Layout { dataset: name, files: &files, readme: readme.as_deref(), config }.splits()?;
    if found.is_empty() {
        let error = Error::new(What::BadData(format!("the folder `{name}` holds no data files")));
        return Err(match files.is_empty() {
            true => error.hint("it has no files"),
            false => error.hint(
                "none has an ending that is read, such as .jsonl, .csv or .parquet; name others with `data_files`",
            ),
        });
    }
    let source = |file: String| Source::of_folder(folder, name, file);
    Ok(found.into_iter().map(|(split, files)| (split, files.into_iter().map(source).collect())).collect())
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
    let (folder, base, pattern) = match folder {
        Some((name, folder)) => (folder.clone(), PathBuf::from(name), pattern),
        None => {
            // The part before the first wildcard names the folder that is searched.
            let plain = pattern.find(['*', '?', '[']).map_or(pattern, |at| &pattern[..at]);
            let (base, inner) = plain.rfind('/').map_or((".", pattern), |at| (&pattern[..at], &pattern[at + 1..]));
            let Some(path) = places.path(base)?.filter(|path| path.is_dir()) else {
                return splits::matching(&[], pattern).map(|_| Vec::new());
            };
            (places.open(path), if base == "." { PathBuf::new() } else { PathBuf::from(base) }, inner)
        }
    };
    // Where `**` is not used, folders below those that the pattern names need no look.
    let files = match folder.on_disk().is_some() && pattern.contains('/') {
        true => folder.all_files()?,
        false => folder.files()?,
    };
    let found = splits::matching(&files, pattern)?;
    Ok(found.into_iter().map(|file| Source::of_folder(&folder, &base, file)).collect())
}

/// The error for a name that is neither a file nor a folder, with what lies near it.
pub(super) fn missing(places: &Places, name: &str) -> Error {
    let path = Path::new(name);
    let is_path = Format::is_data(path) || path.is_absolute() || name.starts_with(['.', '~']) || name.ends_with('/');
    let kind = if is_path { "file" } else { "data set" };
    let error = Error::new(What::NotFound { kind, name: name.into() });
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let inner = parent.map_or_else(|| ".".into(), |parent| parent.display().to_string());
    let folder = self::folder(places, &inner).ok().flatten().or_else(|| places.path(&inner).ok()?.map(Folder::Disk));
    let near = folder.and_then(|folder| self::near(&folder, path));
    match near {
        Some(near) => {
            let near = parent.map_or_else(|| near.clone(), |parent| parent.join(&near).display().to_string());
            error.hint(format!("did you mean `{near}`?"))
        }
        None if is_path && parent.is_some_and(|parent| matches!(places.path(&parent.display().to_string()), Ok(None))) => {
            error.hint(format!("there is no folder `{inner}` either"))
        }
        None if is_path => error.hint("the path is looked up from the working directory and the recipe's folder"),
        None => error.hint(
            "give a local file or folder, such as `data/train.jsonl` or `std/reviews`, or a data set of the hub, `USER/NAME`",
        ),
    }
}

/// The file or folder in `folder` whose name is nearest to that of `path`.
fn near(folder: &Folder, path: &Path) -> Option<String> {
    let mut names = folder.files().unwrap_or_default();
    if let Some(folder) = folder.on_disk() {
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
