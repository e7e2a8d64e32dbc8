//! The encoder against candle's own BERT, an implementation that shares nothing with ours but the tensor library.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use indexmap::IndexMap;
use retune::batch::{Batch, Features};
use retune::data::Value;
use retune::model::backbone::LoadSettings;
use retune::model::{Backbone, ModelConfig};
use retune::tensor::rng::Rng;
use serde_json::json;

struct Case {
    hidden: usize,
    heads: usize,
    layers: usize,
    intermediate: usize,
    eps: f64,
    activation: &'static str,
    lengths: &'static [usize],
}

/// Random configurations give the same hidden states as `candle_transformers`, on packed rows against padded ones.
#[test]
fn hidden_states_are_those_of_candle_transformers() {
    let cases = [
        Case { hidden: 12, heads: 3, layers: 1, intermediate: 20, eps: 1e-12, activation: "gelu", lengths: &[5, 1, 8] },
        Case {
            hidden: 32,
            heads: 4,
            layers: 3,
            intermediate: 48,
            eps: 1e-5,
            activation: "gelu_pytorch_tanh",
            lengths: &[3, 3],
        },
        Case { hidden: 10, heads: 1, layers: 2, intermediate: 7, eps: 1e-3, activation: "relu", lengths: &[11] },
        Case {
            hidden: 8,
            heads: 8,
            layers: 4,
            intermediate: 32,
            eps: 1e-12,
            activation: "gelu",
            lengths: &[2, 9, 4, 9, 1],
        },
    ];
    for (number, case) in cases.iter().enumerate() {
        compare(number, case);
    }
}

fn compare(number: usize, case: &Case) {
    let device = Device::Cpu;
    let vocab_size = 29;
    let config = json!({
        "model_type": "bert", "vocab_size": vocab_size, "hidden_size": case.hidden, "num_hidden_layers": case.layers,
        "num_attention_heads": case.heads, "intermediate_size": case.intermediate, "hidden_act": case.activation,
        "hidden_dropout_prob": 0.1, "max_position_embeddings": 16, "type_vocab_size": 2, "initializer_range": 0.3,
        "layer_norm_eps": case.eps, "pad_token_id": 0,
    });
    let settings = LoadSettings {
        caller: "`test`".into(),
        overrides: Vec::new(),
        ignore_mismatched_sizes: false,
        seed: number as u64,
        device: device.clone(),
    };
    let ours = Backbone::from_config(ModelConfig::from_map(config.as_object().unwrap().clone()), &settings).unwrap();
    let mut weights = HashMap::new();
    for parameter in ours.builder.parameters().all() {
        // Biases and norms are moved off 0 and 1, so that each takes part.
        let rng = Rng::new(9, parameter.name(), 0);
        let noise = (0..parameter.var().elem_count() as u64).map(|index| 0.2 * rng.normal(index) as f32).collect();
        let noise = Tensor::from_vec(noise, parameter.var().shape(), &device).unwrap();
        parameter.var().set(&(parameter.var().as_tensor() + noise).unwrap()).unwrap();
        let name = parameter.name().strip_prefix("bert.").unwrap().to_string();
        weights.insert(name, parameter.var().as_detached_tensor());
    }
    let mut config = config;
    if case.activation == "gelu_pytorch_tanh" {
        config["hidden_act"] = "geluapproximate".into(); // candle's word for it
    }
    let theirs: Config = serde_json::from_value(config).unwrap();
    let theirs = BertModel::load(VarBuilder::from_tensors(weights, DType::F32, &device), &theirs).unwrap();

    let rng = Rng::new(number as u64, "ids", 0);
    let longest = case.lengths.iter().copied().max().unwrap();
    let (mut rows, mut ids, mut segments, mut mask) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, &length) in case.lengths.iter().enumerate() {
        let id = |place: usize| (rng.uniform((row * 50 + place) as u64) * vocab_size as f64) as u32;
        let segment = |place: usize| u32::from(place * 2 > length);
        let column = |value: &dyn Fn(usize) -> u32| {
            Value::List((0..length).map(|place| Value::Int(i64::from(value(place)))).collect())
        };
        let columns = [("input_ids".to_string(), column(&id)), ("token_type_ids".to_string(), column(&segment))];
        rows.push(Features::from_row(&IndexMap::from(columns)).unwrap());
        for place in 0..longest {
            let inside = place < length;
            ids.push(if inside { id(place) } else { 0 });
            segments.push(if inside { segment(place) } else { 0 });
            mask.push(u32::from(inside));
        }
    }
    let numbered: Vec<(usize, &Features)> = rows.iter().enumerate().collect();
    let batch = Batch::pack(&numbered, &device).unwrap();
    let found: Vec<Vec<f32>> = ours.encoder.forward(&batch).unwrap().to_vec2().unwrap();

    let shape = (case.lengths.len(), longest);
    let tensor = |values: Vec<u32>| Tensor::from_vec(values, shape, &device).unwrap();
    let expected = theirs.forward(&tensor(ids), &tensor(segments), Some(&tensor(mask))).unwrap();
    let expected: Vec<Vec<Vec<f32>>> = expected.to_vec3().unwrap();
    for (row, &length) in case.lengths.iter().enumerate() {
        for place in 0..length {
            let (found, expected) = (&found[batch.starts[row] + place], &expected[row][place]);
            for (column, (a, b)) in found.iter().zip(expected).enumerate() {
                let at = format!("case {number}, row {row}, token {place}, column {column}");
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{at}: {a} instead of {b}");
            }
        }
    }
}
