//! Loading: entries that are not right, files that are no plugins, the canary, the allow-list, private copies.

use std::path::Path;
use std::time::Duration;

use retune::plugin::canary::{self, Effort};
use retune::plugin::load::{Trust, open, read};
use retune::plugin::{Plugin, elf};
use retune_plugin_sdk::abi::{ABI_MINOR, SIZES_OF_1_0};

use super::{built, compiled, loader, model, two_rows};

const SOURCE: &str = "tests/plugin/faults.c";

fn library(folder: &Path, flags: &[&str]) -> std::path::PathBuf {
    let path = folder.join("fault.so");
    compiled(SOURCE, flags, &path);
    path
}

/// Entries are read without running anything of the plugin, so this happens in this process.
#[test]
fn entries_that_are_not_right_are_refused() {
    let next_minor = format!("-DMINOR={}", ABI_MINOR + 1);
    let (short_entry, short_head) =
        (format!("-DSIZE={}", SIZES_OF_1_0[0] - 8), format!("-DHEAD_SIZE={}", SIZES_OF_1_0[1] - 8));
    let cases: [(&[&str], &str); 17] = [
        (&["-DMAGIC=0x12345678"], "`retune_plugin_entry` is no entry of a plugin: it begins with 0x12345678"),
        (&["-DMAJOR=2"], "the plugin was built for version 2.1 of the plugin ABI, this program has 1.1"),
        (&["-DMAJOR=0"], "the plugin was built for version 0.1 of the plugin ABI"),
        (&[&next_minor], "the plugin was built for version 1.2 of the plugin ABI"),
        (&[&short_entry], "the entry has 48 bytes instead of 56"),
        (&["-DSIZE=0"], "the entry has 0 bytes"),
        (&[&short_head], "a head has 112 bytes instead of 120"),
        (&["-DN_HEADS=0"], "the plugin has 0 heads"),
        (&["-DN_HEADS=4000000000u"], "the plugin has 4000000000 heads"),
        (&["-DNULL_HEADS"], "`heads` is null, but has 1 entries"),
        (&["-DNULL_HEAD"], "a head of the plugin is null"),
        (&["-DSAME_HEADS"], "the plugin has two heads `fault`"),
        (&["-DNAME=\"\""], "the plugin's name is \"\""),
        (&["-DHEAD_NAME=\"a/../b\""], "the name of a head is \"a/../b\""),
        (&["-DOPTIONS=\"[1]\""], "the options of the head `fault` are a list, not a map"),
        (&["-DOPTIONS=\"{\""], "the options of the head `fault` are no JSON"),
        (&["-DNO_LOSS", "-Wno-unused-function"], "the head `fault` has no function `loss`"),
    ];
    for (flags, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = library(folder.path(), flags);
        let error = open(&path, &path, "").err().unwrap_or_else(|| panic!("{flags:?} was opened"));
        assert!(error.to_string().contains(expected), "{flags:?}: {error}");
        assert_eq!(error.exit_code(), 65);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = library(folder.path(), &["-DONLY_SAVE"]);
    let error = open(&path, &path, "").unwrap_err().to_string();
    assert!(error.contains("has one of `save_state` and `load_state`, but not the other"), "{error}");
    // A sound one is opened; under the path of the last one the system would give that again.
    let folder = tempfile::tempdir().unwrap();
    let path = library(folder.path(), &[]);
    assert_eq!(open(&path, &path, "").unwrap().name, "fault");
}

#[test]
fn files_that_are_no_plugins_are_told_before_they_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let sound = std::fs::read(library(folder.path(), &[])).unwrap();
    assert!(elf::check(&sound).is_ok());
    let refused = |bytes: &[u8], expected: &str| {
        let error = elf::check(bytes).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint_text().is_some() || expected.contains("64-bit"), "{error}");
    };
    refused(b"", "no shared library");
    refused(b"#!/bin/sh\n", "no shared library");
    refused(b"\x7fELF", "ends before its header");
    let change = |place: usize, value: u8| {
        let mut bytes = sound.clone();
        bytes[place] = value;
        bytes
    };
    refused(&change(4, 1), "no 64-bit little-endian library");
    refused(&change(5, 2), "no 64-bit little-endian library");
    refused(&change(18, 40), "built for another machine (40)");
    refused(&change(16, 2), "no shared library");
    let other = std::fs::read(library(folder.path(), &["-DNO_ENTRY"])).unwrap();
    refused(&other, "it does not export `retune_plugin_entry`");
    // Every number of the header, and of the first tables, may be anything: no panic, no reading beyond the file.
    for place in 16..sound.len().min(1024) {
        for value in [0, 0x7f, 0xff] {
            let _ = elf::check(&change(place, value));
        }
    }
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in [std::fs::read(library(folder.path(), &[])).unwrap(), std::fs::read(built("crf")).unwrap()] {
        for part in 0..40 {
            let length = bytes.len() * part / 40;
            assert!(elf::check(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
        assert!(elf::check(&bytes[..bytes.len() - 1]).is_err());
        assert!(elf::check(&bytes).is_ok());
    }
}

/// Only the canary may open these.
#[test]
fn the_canary_dies_in_place_of_this_process() {
    let folder = tempfile::tempdir().unwrap();
    let loader = loader(folder.path());
    let cases: [(&[&str], &str); 9] = [
        (&["-DFAULT_ABORT", "-DIN_CREATE"], "the plugin ended its process with an abort: `create` of the head `fault`"),
        (
            &["-DFAULT_ABORT", "-DIN_FORWARD"],
            "the plugin ended its process with an abort: `forward` of the head `fault`",
        ),
        (&["-DFAULT_SEGFAULT", "-DIN_FORWARD"], "the plugin ended its process with a segmentation fault: `forward`"),
        (&["-DFAULT_DIVISION", "-DIN_FORWARD"], "the plugin ended its process with an arithmetic error: `forward`"),
        (&["-DFAULT_EXIT", "-DIN_CREATE"], "the plugin ended its process: `create`"),
        (&["-DFAULT_LIBRARY_DIES"], "the plugin ended its process with an abort: opening the library"),
        (&["-DFAULT_LIBRARY_EXITS"], "the plugin ended its process: opening the library"),
        (&["-DFAULT_GRADIENT"], "the gradient of"),
        (&["-DFAULT_CUT"], "no gradient reaches the hidden states"),
    ];
    for (flags, expected) in cases {
        let path = library(folder.path(), flags);
        let error = loader.allow(&path).unwrap_err();
        assert!(error.to_string().contains(expected), "{flags:?}: {error}");
        assert!(error.to_string().contains("fault.so"), "{error}");
        let (_, sha256) = read(&path).unwrap();
        assert!(!loader.store.allows(&sha256) && !loader.store.copy(&sha256).exists());
    }
    let path = library(folder.path(), &["-DFAULT_LEAK"]);
    let error = loader.allow(&path).unwrap_err().to_string();
    assert!(error.contains("memory is not given back"), "{error}");
}

#[test]
fn a_canary_that_does_not_end_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    loader(folder.path());
    let path = library(folder.path(), &["-DFAULT_ENDLESS", "-DIN_FORWARD"]);
    let error = canary::run(&path, Effort::Quick, Duration::from_secs(2)).unwrap_err().to_string();
    assert!(error.contains("did not end within 2 seconds: `forward` of the head `fault`"), "{error}");
}

/// An ELF file may be whole and empty inside: half of it zeros, as while it is being written.
#[test]
fn a_library_whose_second_half_is_zeros_does_not_reach_this_process() {
    let folder = tempfile::tempdir().unwrap();
    let loader = loader(folder.path());
    for source in [library(folder.path(), &[]), built("ner")] {
        let whole = std::fs::read(&source).unwrap();
        for start in [whole.len() / 4, whole.len() / 2] {
            let mut bytes = whole.clone();
            // The tables at the end stay, so that it looks complete.
            let end = whole.len() - whole.len() / 8;
            bytes[start..end].fill(0);
            let path = folder.path().join("half.so");
            std::fs::write(&path, &bytes).unwrap();
            assert!(loader.allow(&path).is_err());
        }
    }
}

#[test]
fn only_what_was_allowed_is_opened_and_each_build_anew() {
    let folder = tempfile::tempdir().unwrap();
    let loader = loader(folder.path());
    let path = library(folder.path(), &[]);
    let error = loader.load(&path, Trust::Allowed).unwrap_err();
    assert!(error.to_string().contains("was not allowed to run (sha256 "), "{error}");
    assert_eq!(error.exit_code(), 77);
    assert!(error.hint_text().unwrap().contains("retune plugin allow"));

    let (allowed, _) = loader.allow(&path).unwrap();
    assert_eq!(loader.store.list().unwrap(), std::slice::from_ref(&allowed));
    let first = loader.load(&path, Trust::Allowed).unwrap();
    assert_eq!(first.sha256, allowed.sha256);
    // The same content at another place is the same plugin; another content is not allowed.
    let copy = folder.path().join("elsewhere.so");
    std::fs::copy(&path, &copy).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &loader.load(&copy, Trust::Allowed).unwrap()));
    compiled(SOURCE, &["-DNAME=\"fault2\""], &path);
    assert_eq!(loader.load(&path, Trust::Allowed).unwrap_err().exit_code(), 77);

    // A rebuild of a plugin that is trusted by its path is opened beside the first one, which goes on.
    let second = loader.load(&path, Trust::Rebuild).unwrap();
    assert_eq!((first.name.as_str(), second.name.as_str()), ("fault", "fault2"));
    for plugin in [&first, &second] {
        let found = model(plugin, "fault").unwrap().forward(&two_rows()).unwrap();
        assert_eq!(found.tensors()[0].1.dims(), [5, 8]);
    }
    // What is mapped is the private copy: the file may be cut while it runs.
    std::fs::write(&path, b"").unwrap();
    assert!(model(&second, "fault").unwrap().forward(&two_rows()).is_ok());

    assert!(loader.find("fault", None).is_ok());
    loader.store.remove(&allowed.sha256).unwrap();
    let error = loader.find("fault", None).unwrap_err();
    assert_eq!(error.to_string(), "plugin `fault` was not found");
}

#[test]
fn a_private_copy_that_was_changed_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let loader = loader(folder.path());
    // A content of its own, which no other test has opened in this process.
    let (allowed, _) = loader.allow(&library(folder.path(), &["-DHEAD_NAME=\"changed\""])).unwrap();
    let copy = loader.store.copy(&allowed.sha256);
    let mut bytes = std::fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    let error = loader.find("changed", None).unwrap_err().to_string();
    assert!(error.contains("the copy of the plugin `fault` was changed"), "{error}");
}

#[test]
fn the_plugin_of_the_command_line_wins_over_the_allowed_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut loader = loader(folder.path());
    loader.allow(&library(folder.path(), &["-DNAME=\"one\""])).unwrap();
    let other = folder.path().join("other.so");
    compiled(SOURCE, &["-DNAME=\"two\""], &other);
    loader.allow(&other).unwrap();
    let name = |plugin: std::sync::Arc<Plugin>| plugin.name.clone();
    loader.files = vec![other.clone()];
    assert_eq!(name(loader.find("fault", None).unwrap()), "two");
    assert_eq!(name(loader.find("fault", Some(&folder.path().join("fault.so"))).unwrap()), "one");
    let error = loader.find("faults", None).unwrap_err();
    assert_eq!(error.hint_text(), Some("did you mean `plugin:fault`?"));
}
