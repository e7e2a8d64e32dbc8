//! Models from a hub, kept in Hugging Face's own cache so that Python shares them.
//!
//! A repository's name and a revision flow in; a [`Folder`], the snapshot of one commit, flows out. The cache's
//! layout is `hf-hub`'s, the transfer is `data::download`'s. A file enters the cache only once it is complete and its
//! size and sha256, where the hub states them, are right. What the files mean is left to their readers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::data::download::{Client, Kind, Listing};
use crate::data::files::{Folder, Places};
use crate::data::foreign_weights;
use crate::error::{Error, Result, What, nearest};

const ENDPOINT: &str = "https://huggingface.co";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// How a hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// The cache folder, which has a `models--ORG--NAME` folder for each repository.
    pub cache: PathBuf,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// What proves who asks, for gated and private repositories.
    pub token: Option<String>,
    /// Whether downloads show a bar (on a terminal only).
    pub progress: bool,
}

impl HubSettings {
    /// What the environment says: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_TOKEN` or the token file.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`HubSettings::from_env`], from a given lookup of variables.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let filled = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let flag = |name: &str| {
            filled(name)
                .is_some_and(|value| matches!(value.trim().to_lowercase().as_str(), "1" | "true" | "yes" | "on"))
        };
        let home = filled("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = filled("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| filled("HOME").map(|home| Path::new(&home).join(".cache")));
            cache.unwrap_or_else(std::env::temp_dir).join("huggingface")
        });
        let cache = filled("HF_HUB_CACHE").or_else(|| filled("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let token_file = filled("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = filled("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        HubSettings {
            endpoint: filled("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_string(),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            offline: flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            progress: !flag("HF_HUB_DISABLE_PROGRESS_BARS"),
        }
    }
}

/// Which files of a repository are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What a tokenizer is made of.
    Tokenizer,
    /// Configuration and weights, and the tokenizer's files too.
    Model,
}

/// A hub and its cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub(Arc<HubSettings>);

/// The folder of a model: local, `std/...`, or downloaded from the hub.
///
/// # Errors
/// A name that is none of these, with what was tried; or whatever stops the download.
pub fn open_model(places: &Places, hub: &Hub, name: &str, revision: Option<&str>) -> Result<Folder> {
    open(places, hub, name, revision, Wanted::Model)
}

/// The folder of a tokenizer: local, `std/...`, or downloaded from the hub without the weights.
///
/// # Errors
/// As [`open_model`].
pub fn open_tokenizer(places: &Places, hub: &Hub, name: &str, revision: Option<&str>) -> Result<Folder> {
    open(places, hub, name, revision, Wanted::Tokenizer)
}

fn open(places: &Places, hub: &Hub, name: &str, revision: Option<&str>, wanted: Wanted) -> Result<Folder> {
    if let Some(folder) = places.folder(name)? {
        return Ok(folder);
    }
    let not_found = || Error::new(What::NotFound { kind: "model", name: name.to_string() });
    if places.path(name)?.is_some() {
        return Err(not_found().hint("it is a file, not a directory; a model is a directory with config.json in it"));
    }
    // A misspelt local directory would otherwise end as a question about the network.
    if let Some(near) = nearest_folder(places, name) {
        return Err(not_found().hint(format!("did you mean `{near}`?")));
    }
    if !is_repository(name) {
        let hint = "there is no such directory, and `NAME` or `ORG/NAME` is what a hub repository is called";
        return Err(not_found().hint(hint));
    }
    hub.model_folder(name, revision, wanted).map_err(|error| match error.hint_text() {
        Some(_) => error,
        None => error.hint(format!("`{name}` is not a directory here, so it was looked for on the hub")),
    })
}

/// The folder beside the one that `name` would be, where there is such a place and a name near enough to be meant.
fn nearest_folder(places: &Places, name: &str) -> Option<String> {
    let path = Path::new(name);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty())?;
    let entries = std::fs::read_dir(places.path(parent.to_str()?).ok()??).ok()?.flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let near = nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(parent.join(near).display().to_string())
}

/// Whether `name` may be a hub repository: `NAME` or `ORG/NAME`, as `huggingface_hub` checks it.
pub fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        let letters = part.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'));
        let edge = |letter: Option<char>| letter.is_some_and(|letter| !matches!(letter, '-' | '.'));
        letters
            && edge(part.chars().next())
            && edge(part.chars().last())
            && !part.contains("--")
            && !part.contains("..")
    };
    let parts: Vec<&str> = name.split('/').collect();
    name.len() <= 96 && matches!(parts.len(), 1 | 2) && parts.into_iter().all(is_part) && !name.ends_with(".git")
}

impl Hub {
    /// A hub with the given settings; nothing is contacted yet.
    pub fn new(settings: HubSettings) -> Self {
        Hub(Arc::new(settings))
    }

    /// The hub that the environment names.
    pub fn from_env() -> Self {
        Hub::new(HubSettings::from_env())
    }

    /// The settings.
    pub fn settings(&self) -> &HubSettings {
        &self.0
    }

    /// The snapshot of a repository with the wanted files in it; `revision` is a branch, a tag or a commit.
    ///
    /// A pinned commit that the cache has needs no network. Offline, or where the hub cannot be reached, the cache is used
    /// where it is complete.
    ///
    /// # Errors
    /// A repository or revision that is not there or not for this token; a repository without safetensors; a transfer
    /// that was cut short or gave wrong bytes; a hub that cannot be reached and a cache that does not have it.
    pub fn model_folder(&self, repo: &str, revision: Option<&str>, wanted: Wanted) -> Result<Folder> {
        let revision = revision.unwrap_or("main");
        if !is_revision(revision) {
            let (name, value) = ("`revision`".into(), format!("`{revision}`"));
            return Err(What::OutOfRange { name, value, allowed: "a branch, a tag or a commit".into() }.into());
        }
        let cache = self.cache(repo, revision);
        let cached = cached_snapshot(&cache, revision, wanted);
        if let Some(folder) = cached.clone().filter(|_| self.0.offline || is_commit(revision)) {
            return Ok(Folder::Disk(folder));
        }
        if self.0.offline {
            let problem = format!("`{repo}` (revision `{revision}`) is not in the cache, and HF_HUB_OFFLINE is set");
            return Err(Error::new(What::Hub(problem)).hint(format!(
                "unset HF_HUB_OFFLINE, copy the files into `{}`, or give a local directory",
                self.0.cache.display()
            )));
        }
        let client = Client::new(self.clone());
        let listing = match client.listing(Kind::Model, repo, revision) {
            Ok(listing) => listing,
            Err(error) if error.is_unreachable => {
                // As in Python: a complete snapshot is better than no answer.
                return cached.map(Folder::Disk).ok_or_else(|| self.unreachable(repo, error.error));
            }
            Err(error) => return Err(error.error),
        };
        self.fetch(&client, repo, revision, &listing, wanted)
    }

    fn cache(&self, repo: &str, revision: &str) -> CacheRepo {
        let repo = Repo::with_revision(repo.to_string(), RepoType::Model, revision.to_string());
        Cache::new(self.0.cache.clone()).repo(repo)
    }

    /// Adds what to do about a hub that does not answer.
    pub(super) fn unreachable(&self, repo: &str, error: Error) -> Error {
        error.hint(format!(
            "`{repo}` is neither here nor in the cache `{}`: give a local directory, set HF_ENDPOINT to a hub within reach, \
             or fill the cache elsewhere and set HF_HUB_OFFLINE=1",
            self.0.cache.display()
        ))
    }

    fn fetch(&self, client: &Client, repo: &str, revision: &str, listing: &Listing, wanted: Wanted) -> Result<Folder> {
        let cache = self.cache(repo, revision);
        let snapshot = cache.pointer_path(&listing.commit);
        let blobs = snapshot.ancestors().nth(2).map(|folder| folder.join("blobs"));
        let blobs = blobs.ok_or_else(|| Error::new(What::Internal("the cache folder has no parent".into())))?;
        let get = |file: &str| match snapshot.join(file).exists() {
            true => Ok(()),
            false => client.fetch(Kind::Model, repo, &listing.commit, file, &blobs, &snapshot),
        };
        for file in small_files(listing) {
            get(file)?;
        }
        if wanted == Wanted::Model {
            if listing.has(WEIGHTS) {
                get(WEIGHTS)?;
            } else if listing.has(INDEX) {
                get(INDEX)?;
                for shard in shards(&snapshot)? {
                    get(&shard)?;
                }
            } else {
                return Err(no_safetensors(repo, listing));
            }
        }
        if !is_commit(revision) {
            let failed = |source| Error::new(What::Write { path: self.0.cache.clone(), source });
            cache.create_ref(&listing.commit).map_err(failed)?;
        }
        Ok(Folder::Disk(snapshot))
    }
}

/// Configuration and tokenizer files; vocabulary files only where `tokenizer.json` does not make them needless.
fn small_files(listing: &Listing) -> impl Iterator<Item = &'static str> + '_ {
    const ALWAYS: [&str; 5] = [
        "config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
    ];
    const VOCABULARY: [&str; 3] = ["vocab.txt", "vocab.json", "merges.txt"];
    let tokenizer: &[&str] = if listing.has("tokenizer.json") { &["tokenizer.json"] } else { &VOCABULARY };
    ALWAYS.iter().chain(tokenizer).copied().filter(|file| listing.has(file))
}

fn no_safetensors(repo: &str, listing: &Listing) -> Error {
    match foreign_weights::find(&listing.files) {
        Some(found) => {
            let problem = format!("`{repo}` has only {} (`{}`), which", found.kind, found.file);
            Error::new(What::Unsupported(problem))
                .hint(format!("{}; or pass a `revision` that has `{WEIGHTS}`", found.hint))
        }
        None => Error::new(What::NotFound { kind: "weights file", name: format!("{repo}/{WEIGHTS}") })
            .hint("the repository must hold `config.json` and `model.safetensors`"),
    }
}

/// The shard files that the snapshot's index names.
fn shards(snapshot: &Path) -> Result<Vec<String>> {
    let path = snapshot.join(INDEX);
    let malformed = |problem: String| Error::new(What::Malformed { format: path.display().to_string(), problem });
    let text = std::fs::read_to_string(&path).map_err(|source| What::Read { path: path.clone(), source })?;
    let index: serde_json::Value = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let map = index.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| malformed("it has no `weight_map`".into()))?;
    let mut shards = Vec::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|file| is_plain_file(file));
        let file = file.ok_or_else(|| malformed(format!("`weight_map` gives no file name for `{tensor}`")))?;
        shards.push(file.to_string());
    }
    shards.sort();
    shards.dedup();
    Ok(shards)
}

/// The snapshot that the cache has for `revision`, where it has all that is wanted.
fn cached_snapshot(cache: &CacheRepo, revision: &str, wanted: Wanted) -> Option<PathBuf> {
    let commit = if is_commit(revision) {
        revision.to_string()
    } else {
        // `hf-hub` gives the path below a ref's commit, and only for files that exist: read the ref itself.
        let refs = cache.pointer_path("-").ancestors().nth(2)?.join("refs").join(revision);
        std::fs::read_to_string(refs).ok()?.trim().to_string()
    };
    let snapshot = cache.pointer_path(&commit);
    let has = |file: &str| snapshot.join(file).is_file();
    let tokenizer = has("tokenizer.json") || has("vocab.txt") || (has("vocab.json") && has("merges.txt"));
    let complete = match wanted {
        Wanted::Tokenizer => tokenizer,
        Wanted::Model => {
            let weights =
                || has(WEIGHTS) || shards(&snapshot).is_ok_and(|shards| shards.iter().all(|shard| has(shard)));
            has("config.json") && weights()
        }
    };
    complete.then_some(snapshot)
}

/// Whether a revision is a full commit hash, which never changes its meaning.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `revision` may be a branch, a tag or a commit, and stays inside the folder it is kept in.
pub(super) fn is_revision(revision: &str) -> bool {
    !revision.is_empty() && revision.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\\'))
}

/// Whether a name of the hub's stays inside the folder it is put in.
pub(super) fn is_plain_file(name: &str) -> bool {
    !name.contains('\\') && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
