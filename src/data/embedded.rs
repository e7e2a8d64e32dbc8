//! The files of `stdlib/`, embedded in the binary and reachable as `std/...`.
//!
//! `--stdlib DIR` replaces the whole set by a folder of the same shape; a test compares the table with the folder.

macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        /// Every embedded file: its path below `stdlib/` and its bytes.
        pub const FILES: &[(&str, &[u8])] = &[
            $(($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/stdlib/", $path)))),*
        ];
    };
}

embedded![
    "clean.rhai",
    "entities/test.conll",
    "entities/train.conll",
    "entities/validation.conll",
    "minilm-tiny/config.json",
    "minilm-tiny/model.safetensors",
    "minilm-tiny/tokenizer.json",
    "minilm-tiny/tokenizer_config.json",
    "minilm-tiny/vocab.txt",
    "questions/train.json",
    "questions/validation.json",
    "ratings/train.jsonl",
    "ratings/validation.jsonl",
    "reviews/test.jsonl",
    "reviews/train.jsonl",
    "reviews/validation.jsonl",
    "tasks/causal_lm.rhai",
    "tasks/masked_lm.rhai",
    "tasks/ner.rhai",
    "tasks/qa.rhai",
    "tasks/sentiment.rhai",
    "topics/train.jsonl",
    "topics/validation.jsonl",
];

/// The embedded file at `path`, for example `tasks/sentiment.rhai`.
pub fn file(path: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes)
}
