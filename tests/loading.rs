//! What several tests begin with: models with the head of an embedded task, settings, rows of JSON, and encoded rows of many lengths.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use indexmap::IndexMap;
use retune::batch::Features;
use retune::data::files::Folder;
use retune::data::{Row, Value};
use retune::head::script::ScriptTask;
use retune::head::{Model, ModelSettings};
use retune::model::backbone::LoadSettings;
use retune::tensor::rng::Rng;
use retune::tokenizer::{Tokenizer, TokenizerOptions};
use serde_json::Value as Json;

use crate::tensor::engine;

/// No overrides, seed 1, on the CPU.
pub(crate) fn load_settings() -> LoadSettings {
    LoadSettings {
        caller: "`test`".into(),
        overrides: Vec::new(),
        ignore_mismatched_sizes: false,
        seed: 1,
        device: Device::Cpu,
    }
}

/// The embedded task `std/tasks/NAME`, on an engine of its own.
pub(crate) fn task(name: &str) -> Arc<ScriptTask> {
    let engine = Arc::new(engine());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("stdlib/tasks/{name}.rhai"));
    let ast = engine.compile(std::fs::read_to_string(path).unwrap()).unwrap();
    Arc::new(ScriptTask::new(format!("std/tasks/{name}"), engine, ast, None).unwrap())
}

/// The model in `folder` with the head of `std/tasks/NAME`, which is that of the classes that end in `suffix`.
pub(crate) fn model(folder: &Path, name: &str, suffix: &str) -> Model {
    let settings = ModelSettings { name: name.into(), suffix: suffix.into(), task: task(name), load: load_settings() };
    Model::from_pretrained(&Folder::Disk(folder.to_path_buf()), settings).unwrap()
}

/// The tokenizer in `folder`.
pub(crate) fn tokenizer(folder: &Path) -> Tokenizer {
    Tokenizer::from_folder(&Folder::Disk(folder.to_path_buf()), TokenizerOptions::default()).unwrap()
}

/// A JSON object as a row.
pub(crate) fn row(json: &Json) -> Row {
    match Value::from(json.clone()) {
        Value::Map(map) => map,
        other => panic!("{other:?} is no map"),
    }
}

/// Rows with these numbers of tokens, their ids drawn below `vocab_size`, in two segments. The draws of a row begin `spacing`
/// behind those of the row before.
pub(crate) fn ragged(lengths: &[usize], vocab_size: usize, spacing: usize) -> Vec<Features> {
    let rng = Rng::new(11, "ids", 0);
    let row = |(row, &length): (usize, &usize)| {
        let id = |place: usize| Value::Int((rng.uniform((row * spacing + place) as u64) * vocab_size as f64) as i64);
        let segment = |place: usize| Value::Int(i64::from(place > length / 2));
        let columns = [
            ("input_ids".to_string(), Value::List((0..length).map(id).collect())),
            ("token_type_ids".to_string(), Value::List((0..length).map(segment).collect())),
        ];
        Features::from_row(&IndexMap::from(columns)).unwrap()
    };
    lengths.iter().enumerate().map(row).collect()
}
