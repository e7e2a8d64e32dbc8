//! Feeds `retune::fuzz`'s target `squad`.

#![no_main]

use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder for files"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retune::fuzz::feed("squad", bytes, FOLDER.path()));
