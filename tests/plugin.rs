//! Plugins: the ABI on both sides, calls and what may go wrong in them, loading, and the plugins of this repository.
//!
//! Heads that fail on purpose are written in Rust with the SDK and linked into this binary (`heads`), or in C and compiled here
//! with the system's compiler (`faults.c`, `misuse.c`). The plugins of `plugins/` are built by cargo into a folder of their own.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

mod abi;
mod calls;
mod commands;
mod crf;
mod heads;
mod loading;
mod misuse;
mod operations;
mod reloading;
mod tasks;
mod template;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use candle_core::Device;
use retune::batch::{Batch, Features};
use retune::data::Value;
use retune::head::plugin::{Alone, Environment, PluginTask};
use retune::head::{Model, ModelSettings};
use retune::model::ModelConfig;
use retune::model::backbone::LoadSettings;
use retune::plugin::load::{Loader, open};
use retune::plugin::{Plugin, Store, canary};
use serde_json::{Value as Json, json};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compiles a C file as a shared library with the header of a folder.
fn compiled_with(header: &str, source: &str, flags: &[&str], out: &Path) {
    let mut command = Command::new("cc");
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-pthread"]).args(flags);
    command.arg("-I").arg(repository(header)).arg("-o").arg(out).arg(repository(source));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn compiled(source: &str, flags: &[&str], out: &Path) {
    compiled_with("plugins/sdk/include", source, flags, out);
}

/// A library of C code, opened without a canary.
fn opened(source: &str, flags: &[&str]) -> Arc<Plugin> {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("library.so");
    compiled(source, flags, &library);
    // The folder may go: what is mapped stays.
    Arc::new(open(&library, &library, "").unwrap())
}

/// A library of this repository's plugins, which cargo has built.
fn built(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let target = repository("target/plugins");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--release", "--offline", "--locked", "--lib", "--target-dir"]).arg(&target);
        for package in ["retune-sentiment", "retune-ner", "retune-qa", "retune-crf"] {
            command.args(["-p", package]);
        }
        let output = command.current_dir(repository(".")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join("release")
    });
    folder.join(format!("{}retune_{name}.{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_EXTENSION))
}

/// A store of a test's own; the canary is the program that this test belongs to.
fn loader(folder: &Path) -> Loader {
    canary::set_program(PathBuf::from(env!("CARGO_BIN_EXE_retune")));
    Loader { store: Store::at(folder.join("plugins")), files: Vec::new() }
}

/// The program with a store below `home`.
fn retune(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(arguments).env("RETUNE_HOME", home).current_dir(home);
    command
}

fn succeeded(mut command: Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// The error text and exit code of a command that must fail.
fn refused(mut command: Command) -> (String, Option<i32>) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stdout));
    (stderr, output.status.code())
}

fn task(plugin: &Arc<Plugin>, head: &str) -> PluginTask {
    PluginTask::new(plugin, head, Arc::new(Alone)).unwrap()
}

/// A BERT of one layer with a plugin's head.
fn model_with(plugin: &Arc<Plugin>, head: &str, environment: Arc<dyn Environment>) -> retune::error::Result<Model> {
    let config = json!({
        "model_type": "bert", "vocab_size": 13, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 12, "max_position_embeddings": 9, "num_labels": 3, "initializer_range": 0.2,
    });
    let load = LoadSettings {
        caller: "`test`".into(),
        overrides: Vec::new(),
        ignore_mismatched_sizes: false,
        seed: 1,
        device: Device::Cpu,
    };
    let task = Arc::new(PluginTask::new(plugin, head, environment)?);
    let settings = ModelSettings { name: "small".into(), suffix: "ForTask".into(), task, load };
    Model::from_config(ModelConfig::from_map(config.as_object().unwrap().clone()), settings)
}

fn model(plugin: &Arc<Plugin>, head: &str) -> retune::error::Result<Model> {
    model_with(plugin, head, Arc::new(Alone))
}

/// Rows of these columns as a batch.
fn batch(rows: &Json) -> Batch {
    let row = |row: &Json| match Value::from(row.clone()) {
        Value::Map(map) => Features::from_row(&map).unwrap(),
        other => panic!("{other:?}"),
    };
    let features: Vec<Features> = rows.as_array().unwrap().iter().map(row).collect();
    let numbered: Vec<(usize, &Features)> = features.iter().enumerate().collect();
    Batch::pack(&numbered, &Device::Cpu).unwrap()
}

/// Two rows of three and two tokens with a label each.
fn two_rows() -> Batch {
    batch(&json!([{"input_ids": [1, 5, 2], "labels": 2}, {"input_ids": [1, 2], "labels": 0}]))
}
