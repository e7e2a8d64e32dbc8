//! The embedded tasks on a small model: shapes, a finite loss, a gradient for every parameter, named results.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::sync::Arc;

use candle_core::Device;
use retune::batch::{Batch, Draw, Features};
use retune::data::Value;
use retune::head::script::ScriptTask;
use retune::head::{Model, ModelSettings, Output};
use retune::model::ModelConfig;
use serde_json::json;

use crate::loading::load_settings;
use crate::tensor::engine;

fn model(task: &str, script: &str, num_labels: usize) -> Model {
    let engine = Arc::new(engine());
    let ast = engine.compile(script).unwrap();
    let task = ScriptTask::new(format!("std/tasks/{task}"), engine, ast, None).unwrap();
    let config = json!({
        "model_type": "bert", "vocab_size": 13, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 12, "max_position_embeddings": 9, "num_labels": num_labels, "initializer_range": 0.2,
    });
    let load = load_settings();
    let settings = ModelSettings { name: "small".into(), suffix: "ForTest".into(), task: Arc::new(task), load };
    Model::from_config(ModelConfig::from_map(config.as_object().unwrap().clone()), settings).unwrap()
}

/// Rows of these encoded columns, in the draw of a training step.
fn batch(rows: &serde_json::Value) -> Batch {
    let features: Vec<Features> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| match Value::from(row.clone()) {
            Value::Map(map) => Features::from_row(&map).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    let numbered: Vec<(usize, &Features)> = features.iter().enumerate().collect();
    Batch::pack(&numbered, &Device::Cpu).unwrap().training(Draw { seed: 3, step: 0 }, 0)
}

/// Trains one step in mind: outputs of these shapes, a finite loss, a gradient for every parameter.
fn check(task: &str, script: &str, num_labels: usize, rows: serde_json::Value, shapes: &[(&str, &[usize])]) {
    let model = model(task, script, num_labels);
    let batch = batch(&rows);
    let output = model.forward(&batch).unwrap();
    let found: Vec<(&str, &[usize])> =
        output.tensors().into_iter().map(|(name, tensor)| (name, tensor.dims())).collect();
    assert_eq!(found, shapes, "{task}");
    let again = model.forward(&batch).unwrap();
    assert_eq!(numbers(&output), numbers(&again), "{task}: the same forward drops the same elements");
    let loss = model.loss(&output, &batch).unwrap();
    assert!(loss.to_scalar::<f32>().unwrap().is_finite(), "{task}");
    let grads = loss.backward().unwrap();
    let of_encoder = model.encoder().take_gradients();
    for parameter in model.parameters().all() {
        let found =
            grads.get(parameter.value()).is_some() || of_encoder.iter().any(|(name, _)| name == parameter.name());
        assert!(found, "{task}: no gradient for {}", parameter.name());
    }
}

fn numbers(output: &Output) -> Vec<Vec<f32>> {
    output.tensors().iter().map(|(_, tensor)| tensor.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

const SENTIMENT: &str = include_str!("../stdlib/tasks/sentiment.rhai");

#[test]
fn every_task_trains_every_parameter() {
    let single = json!([{"input_ids": [1, 5, 2], "labels": 2}, {"input_ids": [1, 7, 8, 9, 2], "labels": 0}]);
    check("sentiment", SENTIMENT, 3, single, &[("logits", &[2, 3])]);
    let several = json!([{"input_ids": [1, 5, 2], "labels": [0.0, 1.0]}, {"input_ids": [1, 2], "labels": [1.0, 1.0]}]);
    check("sentiment", SENTIMENT, 2, several, &[("logits", &[2, 2])]);
    let number = json!([{"input_ids": [1, 5, 2], "labels": 0.5}, {"input_ids": [1, 2], "labels": 3.0}]);
    check("sentiment", SENTIMENT, 1, number, &[("logits", &[2, 1])]);
    let tokens = json!([{"input_ids": [1, 5, 2], "labels": [-100, 3, -100]}, {"input_ids": [1, 2], "labels": [0, 1]}]);
    check("ner", include_str!("../stdlib/tasks/ner.rhai"), 4, tokens.clone(), &[("logits", &[5, 4])]);
    let spans = json!([
        {"input_ids": [1, 5, 2], "start_positions": 1, "end_positions": 2},
        {"input_ids": [1, 6, 7, 2], "start_positions": 0, "end_positions": 9},
    ]);
    let shapes: [(&str, &[usize]); 2] = [("end_logits", &[7]), ("start_logits", &[7])];
    check("qa", include_str!("../stdlib/tasks/qa.rhai"), 2, spans, &shapes);
    check("masked_lm", include_str!("../stdlib/tasks/masked_lm.rhai"), 2, tokens, &[("logits", &[5, 13])]);
}

#[test]
fn sentiment_names_the_best_label() {
    let model = model("sentiment", SENTIMENT, 2);
    let batch = batch(&json!([{"input_ids": [1, 5, 2]}, {"input_ids": [1, 2]}]));
    let output = model.forward(&batch).unwrap();
    let options = |top_k: serde_json::Value| {
        let names = ["bad", "good"];
        Value::from(json!({"label_names": names, "function_to_apply": null, "problem_type": null, "top_k": top_k}))
    };
    let best = model.decode(&output, &batch, &options(json!(null)), None).unwrap().to_json();
    let all = model.decode(&output, &batch, &options(json!(2)), None).unwrap().to_json();
    for row in 0..2 {
        assert_eq!(best[row], all[row][0]);
        let scores = [0, 1].map(|place| all[row][place]["score"].as_f64().unwrap());
        assert!(scores[0] >= scores[1] && (scores[0] + scores[1] - 1.0).abs() < 1e-6, "{all}");
    }
}
