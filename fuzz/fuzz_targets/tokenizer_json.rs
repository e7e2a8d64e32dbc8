//! Feeds `retune::fuzz`'s target `tokenizer_json`.

#![no_main]

use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder for files"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retune::fuzz::feed("tokenizer_json", bytes, FOLDER.path()));
