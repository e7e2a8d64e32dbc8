//! Encoded data sets by what they were made of: from this process, from a file of an earlier one, or made now.
//!
//! Rows, tokenizer, task and options flow in as digests, features flow out. Where stages are not kept, this is `prepare`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::data::digest::digest;
use crate::data::stages::{self, Key};
use crate::data::{Dataset, Row};
use crate::error::Result;
use crate::head::features_file;
use crate::head::prepare::{Prepared, prepare};
use crate::head::{Model, options};
use crate::tokenizer::Tokenizer;

/// As [`prepare`], kept by content.
///
/// # Errors
/// As [`prepare`].
pub fn encoded(model: &Model, tokenizer: Option<&Tokenizer>, dataset: &Dataset, given: &Row) -> Result<Arc<Prepared>> {
    let key = || -> Result<Option<Key>> {
        // A task that cannot say what it is made of encodes anew.
        let Some(task) = model.task().fingerprint() else { return Ok(None) };
        let options = options::merged(model, tokenizer, &[given])?;
        let parts = vec![
            ("rows", dataset.digest().to_string()),
            ("task", task),
            ("tokenizer", tokenizer.map(|tokenizer| tokenizer.fingerprint().to_string()).unwrap_or_default()),
            ("options", digest(options.to_json().to_string().as_bytes())),
            ("labels", format!("{:?}", model.list_labels())),
        ];
        Ok(Some(Key { stage: "encode", about: dataset.name().to_string(), parts }))
    };
    let find = |key: &Key| Ok(file_of(key).and_then(|path| features_file::read(&path)).map(Arc::new));
    stages::cached_or(key, find, |key| {
        let prepared = Arc::new(prepare(model, tokenizer, dataset, given)?);
        if let Some(path) = key.and_then(file_of) {
            // What cannot be kept is made again.
            let _ = features_file::write(&path, &prepared);
        }
        Ok(prepared)
    })
}

/// The file of an encoded data set, in the user's cache.
fn file_of(key: &Key) -> Option<PathBuf> {
    let parts: String = key.parts.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
    Some(cache_folder()?.join("encoded").join(format!("{}.bin", digest(parts.as_bytes()))))
}

/// `RETUNE_CACHE`, else `retune` in the user's cache folder.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("RETUNE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("retune")))
}
