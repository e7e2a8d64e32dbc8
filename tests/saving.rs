//! What is written, and read again: files, keys and names as Hugging Face has them, stored types, shards.
//!
//! `golden/saved` holds config.json and the tensors' names and shapes of models that transformers 5.23 saved: one of each
//! class, with two layers (sequence classification: the embedded model with a head of two labels).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use retune::train::Hooks;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value as Json, json};

use crate::tiny::{bits, classes, classifier, dataset, ids, load, model, predict, tags, train, trainer, weights};

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A model made and saved by us has the keys, values and tensors of the one that Hugging Face saved.
fn check_saved(suffix: &str, golden: &str) {
    let golden: Json = serde_json::from_str(golden).unwrap();
    let mut config = golden["config"].clone();
    for key in ["architectures", "dtype", "transformers_version"] {
        config.as_object_mut().unwrap().remove(key);
    }
    // Left over from an older checkpoint, whose config.json has keys that nothing reads.
    let old = ["gradient_checkpointing", "position_embedding_type"]
        .map(|key| (key, config.as_object_mut().unwrap().remove(key)));
    let model = model(suffix, config);
    for (key, value) in old {
        value.into_iter().for_each(|value| model.change_config(|config| config.set(key, value)));
    }
    let folder = tempfile::tempdir().unwrap();
    model.save_pretrained(folder.path()).unwrap();
    assert_eq!(files(folder.path()), ["config.json", "model.safetensors"], "{suffix}");
    let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    // Key order and all.
    let wanted = serde_json::to_string_pretty(&golden["config"]).unwrap();
    assert_eq!(text.trim_end(), wanted, "{suffix}");
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let shapes: BTreeMap<String, Vec<usize>> =
        tensors.iter().map(|(name, view)| (name.to_string(), view.shape().to_vec())).collect();
    let wanted: BTreeMap<String, Vec<usize>> = serde_json::from_value(golden["tensors"].clone()).unwrap();
    assert_eq!(shapes, wanted, "{suffix}");
    let types: BTreeSet<String> = tensors.iter().map(|(_, view)| format!("{:?}", view.dtype())).collect();
    assert_eq!(json!(types), golden["dtypes"]);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(json!(header.metadata()), golden["metadata"]);
    let again = load(folder.path(), suffix).unwrap();
    assert_eq!(bits(&model), bits(&again), "{suffix}");
}

#[test]
fn what_is_saved_has_hugging_faces_names() {
    check_saved("ForSequenceClassification", include_str!("golden/saved/bert-seqcls-tiny.json"));
    check_saved("ForTokenClassification", include_str!("golden/saved/bert-tokcls.json"));
    check_saved("ForQuestionAnswering", include_str!("golden/saved/bert-qa.json"));
    check_saved("ForMaskedLM", include_str!("golden/saved/bert-mlm.json"));
}

#[test]
fn a_checkpoint_has_every_file_and_the_sum_of_each() {
    let folder = tempfile::tempdir().unwrap();
    let args = json!({ "output_dir": folder.path(), "max_steps": 1, "save_strategy": "steps" });
    let trainer = train(&classifier(2), args, &classes(4, 2), None);
    let checkpoint = folder.path().join("checkpoint-1");
    let expected = [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "rng_state.json",
        "trainer_state.json",
        "training_args.json",
    ];
    assert_eq!(files(&checkpoint), expected);
    let manifest = read(&checkpoint.join("manifest.json"));
    let listed: Vec<&String> = manifest["sha256"].as_object().unwrap().keys().collect();
    assert_eq!(listed.len(), expected.len() - 1, "all but itself");
    let args = read(&checkpoint.join("training_args.json"));
    assert_eq!((&args["learning_rate"], &args["max_steps"]), (&json!(1e-3), &json!(1)));
    // The keys of Hugging Face's trainer_state.json.
    let state = read(&checkpoint.join("trainer_state.json"));
    let keys: Vec<&String> = state.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "best_global_step",
            "best_metric",
            "best_model_checkpoint",
            "epoch",
            "eval_steps",
            "global_step",
            "is_hyper_param_search",
            "is_local_process_zero",
            "is_world_process_zero",
            "log_history",
            "logging_steps",
            "max_steps",
            "num_input_tokens_seen",
            "num_train_epochs",
            "save_steps",
            "stateful_callbacks",
            "total_flos",
            "train_batch_size",
            "trial_name",
            "trial_params",
        ]
    );
    let saved = folder.path().join("saved");
    trainer.save_model(&saved).unwrap();
    assert_eq!(files(&saved), ["config.json", "model.safetensors", "training_args.json"]);
}

#[test]
fn label_names_and_problem_type_come_back_with_the_same_predictions() {
    let folder = tempfile::tempdir().unwrap();
    let texts = |labels: &[&str]| {
        dataset((0..12).map(|index| json!({ "input_ids": ids(index), "label": labels[index % labels.len()] })))
    };
    let several = dataset((0..6).map(|index| json!({ "input_ids": ids(index), "labels": [index % 2, 1.0, 0.0] })));
    let number = dataset((0..6).map(|index| json!({ "input_ids": ids(index), "labels": index as f64 / 6.0 })));
    let cases = [
        ("ForSequenceClassification", 3, classes(6, 3), "single_label_classification"),
        ("ForSequenceClassification", 3, several, "multi_label_classification"),
        ("ForSequenceClassification", 1, number, "regression"),
        ("ForTokenClassification", 3, tags(6, 3), ""),
    ];
    for (suffix, num_labels, rows, problem) in cases {
        let model = model(suffix, json!({ "num_labels": num_labels }));
        let mut trained = train(&model, json!({ "max_steps": 2 }), &rows, None);
        trained.save_model(folder.path()).unwrap();
        let config = read(&folder.path().join("config.json"));
        assert_eq!(config.get("problem_type").and_then(Json::as_str).unwrap_or(""), problem, "{suffix}");
        let loaded = load(folder.path(), suffix).unwrap();
        let mut again = trainer(&loaded, json!({}), &rows, None);
        assert_eq!(predict(&mut trained, &rows), predict(&mut again, &rows), "{suffix} {problem}");
    }
    // Strings that are not encoded yet are the sentiment task's to encode; here only the names are settled.
    let named = classifier(3);
    trainer(&named, json!({}), &texts(&["neutral", "bad", "good"]), None);
    named.save_pretrained(folder.path()).unwrap();
    let config = read(&folder.path().join("config.json"));
    assert_eq!(config["id2label"], json!({ "0": "bad", "1": "good", "2": "neutral" }));
    assert_eq!(config["label2id"], json!({ "bad": 0, "good": 1, "neutral": 2 }));
    assert_eq!(
        load(folder.path(), "ForSequenceClassification").unwrap().config().label_names().unwrap(),
        ["bad", "good", "neutral"]
    );
}

/// Numbers that each stored type holds exactly, and their bytes.
fn stored(dtype: Dtype, count: usize) -> (Vec<f32>, Vec<u8>) {
    // 0, 0.5, 1, 1.5, ..., 3.5 and their negatives: in 8 bits, exponent 7 is 1 and three bits follow.
    let eighths: [(f32, u8); 8] =
        [(0.0, 0), (0.5, 0x30), (1.0, 0x38), (1.5, 0x3c), (2.0, 0x40), (2.5, 0x42), (3.0, 0x44), (3.5, 0x46)];
    let mut values = Vec::new();
    let mut bytes = Vec::new();
    for index in 0..count {
        let (size, code) = eighths[index * 5 % 8];
        let negative = index % 3 == 0;
        let value = if negative { -size } else { size };
        values.push(value);
        match dtype {
            Dtype::F64 => bytes.extend(f64::from(value).to_le_bytes()),
            // The upper half of an f32.
            Dtype::BF16 => bytes.extend(&value.to_le_bytes()[2..]),
            // One sign, five exponent and ten fraction bits: the f32's with another bias.
            Dtype::F16 if size == 0.0 => bytes.extend((u16::from(negative) << 15).to_le_bytes()),
            Dtype::F16 => {
                let bits = value.to_bits();
                let exponent = (bits >> 23 & 0xff) as u16 + 15 - 127;
                bytes.extend((u16::from(negative) << 15 | exponent << 10 | (bits >> 13 & 0x3ff) as u16).to_le_bytes());
            }
            Dtype::F8_E4M3 => bytes.push(u8::from(negative) << 7 | code),
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    (values, bytes)
}

/// Writes a checkpoint whose tensors have that type, in as many files; gives the numbers that are in it.
fn write(folder: &Path, dtype: Dtype, n_files: usize) -> BTreeMap<String, Vec<f32>> {
    let model = classifier(2);
    model.save_pretrained(folder).unwrap();
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut expected = BTreeMap::new();
    let mut all = Vec::new();
    for parameter in model.parameters().all() {
        let (values, bytes) = stored(dtype, parameter.var().elem_count());
        expected.insert(parameter.name().to_string(), values);
        all.push((parameter.name().to_string(), parameter.var().dims().to_vec(), bytes));
    }
    let mut weight_map = serde_json::Map::new();
    for (number, part) in all.chunks(all.len().div_ceil(n_files)).enumerate() {
        let file = match n_files {
            1 => "model.safetensors".to_string(),
            n => format!("model-{:05}-of-{n:05}.safetensors", number + 1),
        };
        let view = |(name, shape, bytes)| (name, TensorView::new(dtype, shape, bytes).unwrap());
        let views = part.iter().map(|(name, shape, bytes)| view((name.as_str(), shape.clone(), bytes.as_slice())));
        std::fs::write(folder.join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
        weight_map.extend(part.iter().map(|(name, ..)| (name.clone(), Json::from(file.as_str()))));
    }
    if n_files > 1 {
        let index = json!({ "metadata": { "total_size": 0 }, "weight_map": weight_map });
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    expected
}

#[test]
fn every_stored_type_and_shards_load_to_the_numbers_they_hold() {
    let types = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16, Dtype::F8_E4M3];
    for (dtype, n_files) in types.into_iter().map(|dtype| (dtype, 1)).chain([(Dtype::F32, 3), (Dtype::BF16, 2)]) {
        let folder = tempfile::tempdir().unwrap();
        let expected = write(folder.path(), dtype, n_files);
        let loaded = weights(&load(folder.path(), "ForSequenceClassification").unwrap());
        let loaded: BTreeMap<String, Vec<f32>> = loaded.into_iter().collect();
        assert_eq!(loaded, expected, "{dtype:?} in {n_files}");
    }
}

#[test]
fn a_missing_shard_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), Dtype::F32, 2);
    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = load(folder.path(), "ForSequenceClassification").err().unwrap();
    assert!(error.to_string().contains("model-00002-of-00002.safetensors"), "{error}");
}

#[test]
fn saving_over_a_checkpoint_of_an_earlier_run_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let args = |rate: f64| json!({ "output_dir": folder.path(), "max_steps": 1, "save_strategy": "steps", "learning_rate": rate });
    for rate in [1e-3, 2e-3] {
        let model = classifier(2);
        let mut trainer = trainer(&model, args(rate), &classes(4, 2), None);
        trainer.train(None, &mut Hooks::default()).unwrap();
        let saved = load(&folder.path().join("checkpoint-1"), "ForSequenceClassification").unwrap();
        assert_eq!(bits(&model), bits(&saved));
        assert_eq!(files(folder.path()), ["checkpoint-1"]);
    }
}
