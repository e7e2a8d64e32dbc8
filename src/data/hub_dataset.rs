//! Data sets from a hub, kept in Hugging Face's own cache: which files they have, and each file when it is read.
//!
//! The name of a data set flows in; the splits with their [`Source`]s flow out. What the files are called decides, or the
//! repository's README.md; where a repository has no file that is read, the Parquet files that the hub itself makes of it
//! (the branch `refs/convert/parquet`) are taken. The list of files is kept beside the cache, so that what was loaded once
//! loads again without a network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indexmap::IndexMap;

use crate::data::configs;
use crate::data::download::{Client, Kind, Listing};
use crate::data::files::Folder;
use crate::data::format::Format;
use crate::data::hub::{Hub, is_commit, is_revision};
use crate::data::layout::{Layout, Splits};
use crate::data::load::LoadOptions;
use crate::data::sources::Source;
use crate::error::{Error, Result, What};

/// The branch on which the hub keeps data sets that it turned into Parquet.
const CONVERTED: &str = "refs/convert/parquet";

/// A data set's repository at one commit. Files arrive in the cache when they are asked for.
#[derive(Debug)]
pub(super) struct Repository {
    hub: Hub,
    client: Option<Client>,
    name: String,
    revision: String,
    commit: String,
    files: Vec<String>,
    /// Whether `files` are all of the repository's, not only those that the cache happens to have.
    is_whole: bool,
}

/// The splits of the data set `name`, and the files of each.
///
/// # Errors
/// A data set, a configuration or a revision that is not there or not for this token, and whatever stops the transfer.
pub(super) fn splits(hub: &Hub, name: &str, options: &LoadOptions) -> Result<IndexMap<String, Vec<Source>>> {
    let repository = Repository::open(hub, name, options.revision.as_deref().unwrap_or("main"))?;
    let config = options.config.as_deref();
    let readme = repository.text("README.md")?;
    let layout = Layout { dataset: name, files: &repository.files, readme: readme.as_deref(), config };
    if let Some(data_files) = &options.data_files {
        let found = layout.given(data_files)?;
        return repository.sources(found);
    }
    let found = layout.splits();
    let is_read = |splits: &Splits| {
        let mut files = splits.values().flatten();
        !splits.is_empty() && files.all(|file| options.format.is_some() || Format::of(Path::new(file)).is_ok())
    };
    if found.as_ref().is_ok_and(is_read) && !repository.has_script() || options.revision.is_some() {
        return repository.sources(found?);
    }
    let converted = Repository::open(hub, name, CONVERTED).and_then(|converted| {
        let splits = converted.converted(config)?;
        converted.sources(splits)
    });
    match (converted, found) {
        (Ok(sources), _) => Ok(sources),
        (Err(_), Ok(found)) if is_read(&found) => repository.sources(found),
        // A wrong `config` is explained by the one who knows the names.
        (Err(error), Ok(_)) if matches!(error.what(), What::NotFound { .. } | What::Conflict(_)) => Err(error),
        (Err(_), Err(error)) => Err(error),
        (Err(_), Ok(_)) => {
            let problem = format!("the data set `{name}` has no files that are read, and no `{CONVERTED}`");
            Err(Error::new(What::BadData(problem))
                .hint("name its files with `data_files` and `format`, or save it as Parquet"))
        }
    }
}

impl Repository {
    /// The repository `name` at `revision`; only the list of its files is asked for.
    fn open(hub: &Hub, name: &str, revision: &str) -> Result<Self> {
        if !is_revision(revision) {
            let (name, value) = ("`revision`".into(), format!("`{revision}`"));
            return Err(What::OutOfRange { name, value, allowed: "a branch, a tag or a commit".into() }.into());
        }
        let settings = hub.settings();
        let cached = Repository::cached(hub, name, revision);
        match cached {
            Some(cached) if settings.offline || (cached.is_whole && is_commit(revision)) => return Ok(cached),
            None if settings.offline => {
                let problem =
                    format!("`{name}` (revision `{revision}`) is not in the cache, and HF_HUB_OFFLINE is set");
                return Err(Error::new(What::Hub(problem)).hint(format!(
                    "unset HF_HUB_OFFLINE, copy the files into `{}`, or give a local file or folder",
                    settings.cache.display()
                )));
            }
            _ => {}
        }
        let client = Client::new(hub.clone());
        match client.listing(Kind::Dataset, name, revision) {
            Ok(Listing { commit, files }) => {
                let (hub, client, name, revision) = (hub.clone(), Some(client), name.to_string(), revision.to_string());
                let repository = Repository { hub, client, name, revision, commit, files, is_whole: true };
                repository.keep_listing()?;
                Ok(repository)
            }
            // As in Python: what the cache has is better than no answer.
            Err(failure) if failure.is_unreachable => cached.ok_or_else(|| hub.unreachable(name, failure.error)),
            Err(failure) => Err(failure.error),
        }
    }

    /// What the cache has of a revision: the list that was kept, or the files that are there.
    fn cached(hub: &Hub, name: &str, revision: &str) -> Option<Self> {
        let cache = cache(hub, name, revision);
        let commit = match is_commit(revision) {
            true => revision.to_string(),
            false => {
                let refs = cache.pointer_path("-").ancestors().nth(2)?.join("refs").join(revision);
                std::fs::read_to_string(refs).ok()?.trim().to_string()
            }
        };
        let kept = std::fs::read(listing_path(&cache, &commit)?).ok();
        let kept: Option<Vec<String>> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let is_whole = kept.is_some();
        let files = match kept {
            Some(files) => files,
            None => Folder::Disk(cache.pointer_path(&commit)).all_files().ok().filter(|files| !files.is_empty())?,
        };
        let (hub, name, revision) = (hub.clone(), name.to_string(), revision.to_string());
        Some(Repository { hub, client: None, name, revision, commit, files, is_whole })
    }

    fn snapshot(&self) -> PathBuf {
        cache(&self.hub, &self.name, &self.revision).pointer_path(&self.commit)
    }

    /// Keeps the list of files, for the time when there is no network.
    fn keep_listing(&self) -> Result<()> {
        let Some(path) = listing_path(&cache(&self.hub, &self.name, &self.revision), &self.commit) else {
            return Ok(());
        };
        let failed = |source| Error::new(What::Write { path: path.clone(), source });
        if path.exists() {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut part = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        serde_json::to_writer(&mut part, &self.files).map_err(|error| failed(error.into()))?;
        part.persist(&path).map_err(|error| failed(error.error)).map(|_| ())
    }

    /// Whether a Python script makes the data set of files that only the script can read.
    fn has_script(&self) -> bool {
        let base = self.name.rsplit('/').next().unwrap_or(&self.name);
        self.files.iter().any(|file| file.strip_suffix(".py") == Some(base))
    }

    /// The text of a file, where the repository has it.
    fn text(&self, file: &str) -> Result<Option<String>> {
        if !self.files.iter().any(|name| name == file) {
            return Ok(None);
        }
        let path = self.get(file)?;
        std::fs::read(&path)
            .map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned()))
            .map_err(|source| What::Read { path, source }.into())
    }

    /// The path of a file in the cache, brought there where it is not yet.
    pub(super) fn get(&self, file: &str) -> Result<PathBuf> {
        let snapshot = self.snapshot();
        let path = snapshot.join(file);
        if path.exists() {
            return Ok(path);
        }
        let Some(client) = &self.client else {
            let why = if self.hub.settings().offline { "HF_HUB_OFFLINE is set" } else { "the hub cannot be reached" };
            let problem = format!("`{}/{file}` is not in the cache, and {why}", self.name);
            return Err(Error::new(What::Hub(problem))
                .hint("load it once with a network; other splits may be there: give `split`"));
        };
        let blobs = snapshot.ancestors().nth(2).map(|folder| folder.join("blobs"));
        let blobs = blobs.ok_or_else(|| Error::new(What::Internal("the cache folder has no parent".into())))?;
        client.fetch(Kind::Dataset, &self.name, &self.commit, file, &blobs, &snapshot)?;
        if !is_commit(&self.revision) {
            let failed = |source| Error::new(What::Write { path: self.hub.settings().cache.clone(), source });
            cache(&self.hub, &self.name, &self.revision).create_ref(&self.commit).map_err(failed)?;
        }
        Ok(path)
    }

    /// The splits of the hub's own Parquet files: `CONFIG/SPLIT/0000.parquet`.
    fn converted(&self, config: Option<&str>) -> Result<Splits> {
        let mut found: IndexMap<&str, Splits> = IndexMap::new();
        for file in &self.files {
            let parts: Vec<&str> = file.split('/').collect();
            if let [config, split, name] = parts[..]
                && name.ends_with(".parquet")
            {
                let split = split.strip_prefix("partial-").unwrap_or(split);
                found.entry(config).or_default().entry(split.to_string()).or_default().push(file.clone());
            }
        }
        let as_config = |name: &&str| configs::Config {
            is_default: *name == "default",
            name: name.to_string(),
            data_dir: None,
            data_files: None,
        };
        let known: Vec<configs::Config> = found.keys().map(as_config).collect();
        if known.is_empty() {
            return Ok(Splits::new());
        }
        let chosen = configs::choose(&known, config, &self.name)?.name.clone();
        Ok(found.swap_remove(chosen.as_str()).unwrap_or_default())
    }

    /// The splits with their files, where there are any and none is known to be missing.
    fn sources(self, splits: Splits) -> Result<IndexMap<String, Vec<Source>>> {
        if splits.is_empty() {
            let problem = format!("the data set `{}` has no files that are read", self.name);
            return Err(Error::new(What::BadData(problem)).hint("name its files with `data_files` and `format`"));
        }
        if let Some((split, stated)) = splits.iter().filter(|_| !self.is_whole).find_map(missing_shards) {
            let problem = format!("the cache has not all {stated} files of the split `{split}` of `{}`", self.name);
            return Err(Error::new(What::Hub(problem)).hint("load it once with a network"));
        }
        let repository = Arc::new(self);
        let source = |file: String| Source::of_hub(&repository, file);
        Ok(splits.into_iter().map(|(split, files)| (split, files.into_iter().map(source).collect())).collect())
    }

    /// What messages call a file.
    pub(super) fn shown(&self, file: &str) -> PathBuf {
        Path::new(&self.name).join(file)
    }
}

/// A split that has fewer files than their names (`train-00000-of-00003.parquet`) say.
fn missing_shards<'a>((split, files): (&'a String, &Vec<String>)) -> Option<(&'a str, usize)> {
    let stated = files.iter().filter_map(|file| file.split_once("-of-")?.1.get(..5)?.parse::<usize>().ok()).max()?;
    (files.len() < stated).then_some((split.as_str(), stated))
}

fn cache(hub: &Hub, name: &str, revision: &str) -> CacheRepo {
    let repo = Repo::with_revision(name.to_string(), RepoType::Dataset, revision.to_string());
    Cache::new(hub.settings().cache.clone()).repo(repo)
}

/// Where the list of a commit's files is kept: beside `snapshots`, where Python does not look.
fn listing_path(cache: &CacheRepo, commit: &str) -> Option<PathBuf> {
    Some(cache.pointer_path("-").ancestors().nth(2)?.join("listings").join(format!("{commit}.json")))
}
