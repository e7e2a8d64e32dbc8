//! Which file of a folder belongs to which split, by Hugging Face's file name patterns.
//!
//! A word of the file's name tells: `train.jsonl`, `train-00000-of-00002.jsonl`, `my_dev_set.csv`. Words are parted by
//! `-`, `.`, `_`, spaces and digits. Files in folders called `train`, `test` and so on belong to those splits; where
//! there is none of all this, everything is `train`. Shards in `data/` (`data/extra-00000-of-00001.parquet`) may name any
//! split. What else lies in the folder is ignored.

use std::path::Path;

use indexmap::IndexMap;

use crate::data::format::Format;
use crate::error::{Error, Result, What};

/// The splits in the order in which they are listed, each with the words that mean it.
const WORDS: &[(&str, &[&str])] = &[
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Files that describe a data set and are not part of it.
const NOT_DATA: &[&str] = &[
    "readme.txt",
    "license.txt",
    "notice.txt",
    "citation.txt",
    "requirements.txt",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "config.json",
];

/// The split that a file or folder name means.
pub fn split_of(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let words: Vec<&str> = lower.split(|letter: char| matches!(letter, '-' | '.' | '_' | ' ' | '0'..='9')).collect();
    WORDS.iter().find(|(_, known)| words.iter().any(|word| known.contains(word))).map(|(split, _)| *split)
}

/// The files of each split, in the order train, validation, test; files within a split keep their order.
///
/// `files` are paths relative to the folder, with `/` between their parts.
pub fn assign(files: &[String]) -> IndexMap<String, Vec<String>> {
    let data: Vec<&String> = files.iter().filter(|file| is_data(file)).collect();
    if data.iter().any(|file| shard_of(file).is_some()) {
        return shards(&data);
    }
    let parts = |file: &str| -> (Option<&'static str>, Option<&'static str>) {
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
        (folder.split('/').find_map(split_of), split_of(name))
    };
    let by_folder = data.iter().any(|file| parts(file).0.is_some());
    let split = |file: &str| if by_folder { parts(file).0 } else { parts(file).1 };
    let any = data.iter().any(|file| split(file).is_some());
    let mut splits = IndexMap::new();
    for (name, _) in WORDS {
        let belongs = |file: &str| if any { split(file) == Some(*name) } else { *name == "train" };
        let own: Vec<String> = data.iter().filter(|file| belongs(file)).map(|file| (*file).clone()).collect();
        if !own.is_empty() {
            splits.insert(name.to_string(), own);
        }
    }
    splits
}

/// The shards in `data/`; the known splits come first, then others by name.
fn shards(files: &[&String]) -> IndexMap<String, Vec<String>> {
    let mut splits: IndexMap<String, Vec<String>> = IndexMap::new();
    for file in files {
        if let Some(split) = shard_of(file) {
            splits.entry(split.to_string()).or_default().push((*file).clone());
        }
    }
    let place = |name: &str| WORDS.iter().position(|(split, _)| *split == name).unwrap_or(WORDS.len());
    splits.sort_by(|one, _, two, _| place(one).cmp(&place(two)).then(one.cmp(two)));
    splits
}

/// The split of `data/SPLIT-00000-of-00001.parquet`.
fn shard_of(file: &str) -> Option<&str> {
    let (stem, after) = file.strip_prefix("data/").filter(|name| !name.contains('/'))?.rsplit_once("-of-")?;
    let (split, number) = stem.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = |name: &str| {
        let letters = name.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.' | '-'));
        letters && name.starts_with(char::is_alphanumeric)
    };
    let is_shard = is_number(number) && after.get(..5).is_some_and(is_number) && after[5..].contains('.');
    (is_shard && is_name(split)).then_some(split)
}

/// The files, in their order, that a pattern such as `data/train-*` or `**/*.csv` matches; `*` does not reach over `/`.
///
/// # Errors
/// A text that is not a pattern.
pub fn matching(files: &[String], pattern: &str) -> Result<Vec<String>> {
    let plain = pattern.trim_start_matches("./");
    let matcher = glob::Pattern::new(plain).map_err(|error| {
        let allowed = format!("a pattern of file names ({})", error.msg);
        Error::new(What::OutOfRange { name: "`data_files`".into(), value: format!("{pattern:?}"), allowed })
    })?;
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let matches = |file: &&String| file.as_str() == plain || matcher.matches_with(file, options);
    Ok(files.iter().filter(matches).cloned().collect())
}

fn is_data(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_lowercase();
    let hidden = file.split('/').any(|part| part.starts_with(['.', '_']));
    !hidden && !NOT_DATA.contains(&name.as_str()) && Format::is_data(Path::new(file))
}
