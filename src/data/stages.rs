//! Results of pure stages, kept by the content of what they were made of: data sets, tokenizers, weights, encoded rows.
//!
//! A stage, what it is about and the digests of its parts flow in; its result flows out, made anew or from an earlier run in this
//! process. `retune watch` switches it on, because it runs recipes again; otherwise nothing is kept. Each answer can be explained:
//! a hit, or a miss and the part that differs.

use std::any::Any;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// What a result was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The stage: `load_dataset`, `tokenizer`, ...
    pub stage: &'static str,
    /// What it is about, for people.
    pub about: String,
    /// The digest of each part.
    pub parts: Vec<(&'static str, String)>,
}

/// Told of each stage, in one line.
pub type Explain = Box<dyn Fn(&str) + Send>;

#[derive(Default)]
struct Kept {
    on: bool,
    results: Vec<(Key, Arc<dyn Any + Send + Sync>)>,
    explain: Option<Explain>,
}

/// Results of one stage about one thing: enough for going back and forth between a few edits, but for weights, which are large.
fn room(stage: &str) -> usize {
    if stage == "weights" { 1 } else { 4 }
}

static STAGES: Mutex<Kept> = Mutex::new(Kept { on: false, results: Vec::new(), explain: None });

/// Keeps results from now on; `explain` is told of each.
pub fn keep(explain: Option<Explain>) {
    let mut kept = lock();
    (kept.on, kept.explain) = (true, explain);
}

/// Keeps nothing any longer, and forgets what was kept.
pub fn forget() {
    *lock() = Kept::default();
}

/// Whether results are kept.
pub fn is_on() -> bool {
    lock().on
}

/// Why a stage is done again, or that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In this process.
    InMemory,
    /// In a file of an earlier process.
    OnDisk,
    /// Nowhere.
    Nowhere,
}

/// The result that was made of the same parts, else what `make` makes of them now.
///
/// # Errors
/// What `make` raises.
pub fn cached<T: Clone + Send + Sync + 'static>(
    key: impl FnOnce() -> Result<Option<Key>>,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    cached_or(key, |_| Ok(None), |_| make())
}

/// As [`cached`]; before it is made, a result is looked for by `find`, for example on disk. `make` is told the key.
///
/// # Errors
/// What `find` and `make` raise.
pub fn cached_or<T: Clone + Send + Sync + 'static>(
    key: impl FnOnce() -> Result<Option<Key>>,
    find: impl FnOnce(&Key) -> Result<Option<T>>,
    make: impl FnOnce(Option<&Key>) -> Result<T>,
) -> Result<T> {
    if !is_on() {
        return make(None);
    }
    let Some(key) = key()? else { return make(None) };
    let known = lock().results.iter().find(|(known, _)| *known == key).map(|(_, result)| result.clone());
    if let Some(result) = known.and_then(|result| result.downcast_ref::<T>().cloned()) {
        explain(&key, Found::InMemory);
        return Ok(result);
    }
    let result = match find(&key)? {
        Some(found) => {
            explain(&key, Found::OnDisk);
            found
        }
        None => {
            explain(&key, Found::Nowhere);
            make(Some(&key))?
        }
    };
    let mut kept = lock();
    let same = |known: &Key| known.stage == key.stage && known.about == key.about;
    if kept.results.iter().filter(|(known, _)| same(known)).count() >= room(key.stage)
        && let Some(oldest) = kept.results.iter().position(|(known, _)| same(known))
    {
        kept.results.remove(oldest);
    }
    kept.results.push((key, Arc::new(result.clone())));
    Ok(result)
}

/// Says whether a stage was done again, and which part of it differs from the last time.
fn explain(key: &Key, found: Found) {
    let kept = lock();
    let Some(explain) = &kept.explain else { return };
    let why = match found {
        Found::InMemory => "hit".to_string(),
        Found::OnDisk => "hit on disk".to_string(),
        Found::Nowhere => {
            let same = |known: &&Key| known.stage == key.stage && known.about == key.about;
            match kept.results.iter().map(|(known, _)| known).rfind(same) {
                None => "miss: the first time".to_string(),
                Some(last) => {
                    let differs = key.parts.iter().filter(|part| !last.parts.contains(part)).map(|(name, _)| *name);
                    format!("miss: {} changed", differs.collect::<Vec<_>>().join(", "))
                }
            }
        }
    };
    explain(&format!("cache  {} {}: {why}", key.stage, key.about));
}

/// What tells a version of a large file from another: its length, its place on the disk and the times that the system keeps. Its
/// content is not read.
pub fn identity(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (written, changed) = (metadata.mtime_nsec(), metadata.ctime_nsec());
        Some(format!(
            "{} {} {} {} {written} {} {changed}",
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.ctime()
        ))
    }
    #[cfg(not(unix))]
    Some(format!("{} {:?}", metadata.len(), metadata.modified().ok()?))
}

fn lock() -> MutexGuard<'static, Kept> {
    STAGES.lock().unwrap_or_else(PoisonError::into_inner)
}
