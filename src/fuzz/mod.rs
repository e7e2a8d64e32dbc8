//! What is fed with bytes that nobody trusts: the readers of every format, one function each.
//!
//! Bytes flow in, nothing flows out: an error is as good as a result, a panic or an endless loop is a defect. `fuzz/` drives these
//! functions with libFuzzer, `benches/fuzz.rs` and a test with [`mutate`]. Not part of the library's interface.

pub mod mutate;

use std::path::Path;

use candle_core::Device;

use crate::data::configs;
use crate::data::conll::{self, Columns};
use crate::data::csv::{self, Separator};
use crate::data::files::Folder;
use crate::data::permissions::{Grants, Permissions};
use crate::data::{gzip, json, jsonl, parquet};
use crate::host::check::check;
use crate::host::run::{Host, RunSettings};
use crate::host::sources::Sources;
use crate::model::ModelConfig;
use crate::model::backbone::{Backbone, LoadSettings};
use crate::report::Reporter;
use crate::tokenizer::{EncodeOptions, Tokenizer, TokenizerOptions};
use crate::train::checkpoint::{folders, manifest, read_progress};
use crate::train::ledger::Recorded;
use crate::train::search::journal;
use crate::train::search::study::{Direction, Study};
use crate::train::state::TrainerState;

/// A reader that is fed.
pub struct Target {
    /// What it reads; the name of its folder of seeds.
    pub name: &'static str,
    /// Feeds it. Files are made in the folder that is given, and stay there.
    pub feed: fn(&[u8], &Path),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "safetensors", feed: safetensors },
    Target { name: "tokenizer_json", feed: tokenizer_json },
    Target { name: "config_json", feed: config_json },
    Target { name: "jsonl", feed: |bytes, _| on_text(bytes, |text| drop(jsonl::parse(text, Path::new("x.jsonl")))) },
    Target { name: "json", feed: |bytes, _| on_text(bytes, |text| drop(json::parse(text, Path::new("x.json")))) },
    Target {
        name: "squad",
        feed: |bytes, _| on_text(bytes, |text| drop(json::squad_document(text, Path::new("x.json")))),
    },
    Target { name: "csv", feed: |bytes, _| on_text(bytes, csv_and_tsv) },
    Target { name: "conll", feed: |bytes, _| on_text(bytes, conll_columns) },
    Target { name: "parquet", feed: |bytes, _| drop(parquet::parse(bytes, Path::new("x.parquet"))) },
    Target { name: "gzip", feed: |bytes, _| drop(gzip::unpack(bytes, Path::new("x.gz"))) },
    Target { name: "readme", feed: |bytes, _| on_text(bytes, |text| drop(configs::read(text))) },
    Target { name: "checkpoint", feed: checkpoint },
    Target { name: "run_record", feed: run_record },
    Target { name: "recipe", feed: recipe },
];

/// Feeds the target `name`.
///
/// # Panics
/// An unknown name, and what the target does wrong.
pub fn feed(name: &str, bytes: &[u8], folder: &Path) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("the target is one of TARGETS");
    (target.feed)(bytes, folder);
}

fn on_text(bytes: &[u8], read: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read(text);
    }
}

fn csv_and_tsv(text: &str) {
    for separator in [Separator::Comma, Separator::Tab] {
        drop(csv::parse(text, Path::new("x.csv"), separator));
    }
}

fn conll_columns(text: &str) {
    for columns in [Columns::ENDS, Columns { token: 1, tag: 2 }, Columns { token: -2, tag: 0 }] {
        drop(conll::parse(text, Path::new("x.conll"), columns));
    }
}

/// A model small enough to be made thousands of times a minute.
const CONFIG: &str = r#"{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 8, "hidden_size": 4,
"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 8, "type_vocab_size": 2}"#;

fn settings() -> LoadSettings {
    let (caller, overrides, device) = ("`from_pretrained`".into(), Vec::new(), Device::Cpu);
    LoadSettings { caller, overrides, ignore_mismatched_sizes: false, seed: 0, device }
}

/// Writes a file; where that fails there is nothing to feed.
fn write(folder: &Path, name: &str, bytes: &[u8]) {
    drop(std::fs::write(folder.join(name), bytes));
}

fn safetensors(bytes: &[u8], folder: &Path) {
    write(folder, "config.json", CONFIG.as_bytes());
    write(folder, "model.safetensors", bytes);
    drop(Backbone::from_pretrained(&Folder::Disk(folder.into()), &settings()));
}

fn tokenizer_json(bytes: &[u8], folder: &Path) {
    write(folder, "tokenizer.json", bytes);
    let Ok(tokenizer) = Tokenizer::from_folder(&Folder::Disk(folder.into()), TokenizerOptions::default()) else {
        return;
    };
    for text in ["", "a good film, it was\n", "Ünïcode \u{1F600}\u{200d} [MASK] ##b"] {
        for pair in [None, Some("b a")] {
            let Ok(encoding) = tokenizer.encode(text, pair, &EncodeOptions::truncated(5)) else { continue };
            drop(tokenizer.decode(&encoding.input_ids, true));
        }
    }
    drop(tokenizer.save_files());
}

fn config_json(bytes: &[u8], folder: &Path) {
    on_text(bytes, |text| {
        let Ok(config) = ModelConfig::parse(text, &folder.join("config.json")) else { return };
        drop(config.label_names());
        drop(config.problem_type());
        drop(Backbone::from_config(config, &settings()));
    });
}

/// The files of a checkpoint that are not weights, and the trials of a search; the first byte chooses.
fn checkpoint(bytes: &[u8], folder: &Path) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which {
        b'm' => {
            write(folder, manifest::FILE, bytes);
            drop(manifest::verify(folder));
            drop(folders::size(folder));
        }
        b'p' => on_text(bytes, |text| drop(read_progress(text, folder))),
        which if which % 2 == 0 => {
            on_text(bytes, |text| drop(TrainerState::from_json(text, &folder.join("trainer_state.json"))))
        }
        _ => {
            write(folder, "trials.json", bytes);
            drop(journal::read(&mut Study::new(Direction::Minimize, 42), &folder.join("trials.json")));
        }
    }
}

fn run_record(bytes: &[u8], folder: &Path) {
    write(folder, "run.jsonl", bytes);
    let Ok(recorded) = Recorded::read(folder) else { return };
    drop(recorded.first_texts());
}

/// How long a recipe may run.
const RECIPE_TIME: std::time::Duration = std::time::Duration::from_millis(300);

/// Checks a recipe, and runs it with little time in a folder that it cannot leave.
fn recipe(bytes: &[u8], folder: &Path) {
    on_text(bytes, |text| {
        write(folder, "recipe.rhai", text.as_bytes());
        let path = folder.join("recipe.rhai");
        let (sources, mut settings) = (Sources::default(), RunSettings::new(&path, Reporter::capture()));
        settings.permissions = Permissions::of_recipe(&path, folder, &Grants::default());
        let host = Host::new(settings, &sources);
        drop(check(&host));
        host.deadline.set(RECIPE_TIME);
        drop(host.run());
    });
}
