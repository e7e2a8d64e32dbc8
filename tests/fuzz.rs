//! The readers of untrusted bytes, fed with the kept seeds and with changed ones: never a panic. What fuzzing has found is kept
//! among the seeds as `found-...`; `benches/fuzz.rs` goes on for as long as one likes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use retune::fuzz::mutate::{Random, mutate};
use retune::fuzz::{TARGETS, feed};

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

/// Feeds one input in a folder of its own; what it was called where it panicked.
fn fails(target: &str, name: &str, bytes: &[u8]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let fed = catch_unwind(AssertUnwindSafe(|| feed(target, bytes, folder.path())));
    fed.is_err().then(|| format!("{target}: {name}"))
}

#[test]
fn no_reader_panics() {
    let failed: Vec<String> = TARGETS
        .par_iter()
        .flat_map(|target| {
            let seeds = seeds(target.name);
            assert!(!seeds.is_empty());
            let mut failed: Vec<String> = seeds
                .iter()
                .filter_map(|(path, bytes)| fails(target.name, &path.display().to_string(), bytes))
                .collect();
            // A recipe may run for a while.
            for number in 0..if target.name == "recipe" { 30 } else { 250 } {
                let mut random = Random::new(number);
                let (one, two) = (random.below(seeds.len()), random.below(seeds.len()));
                let input = mutate(&seeds[one].1, &seeds[two].1, &mut random);
                failed.extend(fails(target.name, &format!("change {number}"), &input));
            }
            failed
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn changes_are_the_same_for_the_same_number_and_mostly_get_past_a_parser() {
    let seed = br#"{"a": [1, 2, {"b": "text"}], "c": null}"#;
    let change = |number| mutate(seed, b"other", &mut Random::new(number));
    let changes: Vec<Vec<u8>> = (0..500).map(change).collect();
    assert!(changes.iter().enumerate().all(|(number, changed)| *changed == change(number as u64)));
    let differ = changes.iter().filter(|changed| **changed != seed[..]).count();
    let parse = changes.iter().filter(|changed| serde_json::from_slice::<serde_json::Value>(changed).is_ok()).count();
    assert!(differ > 450 && (50..450).contains(&parse), "{differ} {parse}");
    // A header behind its length stays one.
    let header = [&(seed.len() as u64).to_le_bytes()[..], seed, &[0; 8]].concat();
    let whole = (0..500).map(|number| mutate(&header, b"", &mut Random::new(number))).filter(|changed| {
        let length = changed.get(..8).map_or(u64::MAX, |length| u64::from_le_bytes(length.try_into().unwrap()));
        let end = (length as usize).saturating_add(8);
        changed.get(8..end).is_some_and(|header| serde_json::from_slice::<serde_json::Value>(header).is_ok())
    });
    assert!(whole.count() > 50);
}

#[test]
fn every_target_is_one_of_cargo_fuzz_too() {
    let manifest = std::fs::read_to_string("fuzz/Cargo.toml").unwrap();
    for target in TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{}.rs\"", target.name)), "{}", target.name);
        let text = std::fs::read_to_string(format!("fuzz/fuzz_targets/{}.rs", target.name)).unwrap();
        assert!(text.contains(&format!("feed(\"{}\", ", target.name)));
    }
}
