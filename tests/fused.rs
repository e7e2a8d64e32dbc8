//! The fused encoder beside its twin, the composition of single operations: hidden states and gradients of every family, on every
//! kernel of this machine and on their emulations, over ragged, tiny and odd shapes, with dropout on.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Once;

use candle_core::{Device, Tensor};
use retune::batch::{Batch, Draw, Features};
use retune::kernels::Path;
use retune::kernels::tiles::{Element, Kernels, Precision, available, kernels_of};
use retune::model::encoder::Checkpointing;
use retune::model::gradient::Gradient;
use retune::model::parameters::without_gradients;
use retune::model::{Backbone, ModelConfig};
use retune::tensor::rng::Rng;
use retune::train::optimizer::{AdamW, AdamWSettings, Gradients, GroupSettings};
use serde_json::{Value as Json, json};

use crate::loading::{load_settings, ragged};

/// Every table that this machine can run: its own, and the emulated ones.
fn tables() -> Vec<&'static Kernels> {
    let mut tables: Vec<&Kernels> = available().into_iter().flat_map(|(ours, twin)| [ours, twin]).collect();
    for precision in [Precision::Highest, Precision::High, Precision::Bf16] {
        tables.extend(kernels_of(Path::Emulated, precision));
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        for (path, name) in [(Path::Avx512, "AVX-512"), (Path::Amx, "AMX")] {
            if kernels_of(path, Precision::Highest).is_none() {
                // Written past the test harness, which shows what a test prints only where it fails.
                let _ = writeln!(std::io::stderr(), "skipped: kernels for {name}, which this machine does not have");
            }
        }
    });
    let mut names = std::collections::HashSet::new();
    tables.retain(|table| names.insert(table.name));
    tables
}

/// Relative Frobenius errors that a table may have against f32, as they were measured for one, three and six products of
/// parts: hidden states (a product's error, twice over two layers), and all gradients together. In bf16 a product is off by
/// 2.4e-3, and some thirty follow each other: 2.4e-3 times the root of 30, and half as much again.
fn tolerances(kernels: &Kernels) -> (f64, f64) {
    match kernels.element {
        Element::F32 | Element::Bf16(3) => (2e-6, 3e-6),
        Element::Bf16(2) => (2e-5, 2e-5),
        _ => (1e-2, 2e-2),
    }
}

fn backbone(config: Json) -> Backbone {
    let settings = load_settings();
    let backbone =
        Backbone::from_config(ModelConfig::from_map(config.as_object().unwrap().clone()), &settings).unwrap();
    // Biases begin at 0 and norms at 1: move them, so that every parameter matters.
    for parameter in backbone.builder.parameters().all() {
        let rng = Rng::new(3, parameter.name(), 0);
        let count = parameter.value().elem_count() as u64;
        let noise: Vec<f32> = (0..count).map(|index| rng.normal(index) as f32 * 0.03).collect();
        let noise = Tensor::from_vec(noise, parameter.value().dims(), &Device::Cpu).unwrap();
        parameter.var().set(&(parameter.value() + noise).unwrap()).unwrap();
    }
    backbone
}

fn batch(lengths: &[usize], vocab_size: usize, padded: bool) -> Batch {
    let rows = ragged(lengths, vocab_size, 1000);
    let numbered: Vec<(usize, &Features)> = rows.iter().enumerate().collect();
    let batch = if padded {
        Batch::pack_padded(&numbered, 1, &Device::Cpu).unwrap()
    } else {
        Batch::pack(&numbered, &Device::Cpu).unwrap()
    };
    batch.training(Draw { seed: 5, step: 2 }, 0)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A scalar that weighs every hidden state differently.
fn weighed(hidden: &Tensor) -> Tensor {
    let rng = Rng::new(9, "weights", 0);
    let weights: Vec<f32> = (0..hidden.elem_count() as u64).map(|index| rng.normal(index) as f32).collect();
    let weights = Tensor::from_vec(weights, hidden.dims(), hidden.device()).unwrap();
    (hidden * weights).unwrap().sum_all().unwrap()
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    distance(found, expected) / expected.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>().sqrt()
}

/// Hidden states and gradients by name.
fn composed(backbone: &Backbone, batch: &Batch) -> (Vec<f32>, HashMap<String, Vec<f32>>) {
    let hidden = backbone.encoder.composed(batch).unwrap();
    let store = weighed(&hidden).backward().unwrap();
    let parameters = backbone.builder.parameters().all();
    let gradients = parameters.iter().filter_map(|parameter| {
        let gradient = store.get(parameter.value())?;
        Some((parameter.name().to_string(), numbers(gradient)))
    });
    (numbers(&hidden), gradients.collect())
}

fn fused(backbone: &Backbone, batch: &Batch, kernels: &'static Kernels) -> (Vec<f32>, HashMap<String, Vec<f32>>) {
    let hidden = backbone.encoder.forward_on(batch, kernels).unwrap();
    weighed(&hidden).backward().unwrap();
    let gradients = backbone.encoder.take_gradients();
    let by_name = |(name, gradient): (String, Gradient)| (name, numbers(&gradient.to_tensor().unwrap()));
    (numbers(&hidden), gradients.into_iter().map(by_name).collect())
}

fn check(name: &str, backbone: &Backbone, batch: &Batch) {
    let (hidden, gradients) = composed(backbone, batch);
    let size = gradients.values().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    for kernels in tables() {
        let (of_hidden, of_gradients) = tolerances(kernels);
        let (found, found_gradients) = fused(backbone, batch, kernels);
        backbone.encoder.set_checkpointing(Checkpointing::On);
        let again = fused(backbone, batch, kernels);
        backbone.encoder.set_checkpointing(Checkpointing::Off);
        assert!(again == (found.clone(), found_gradients.clone()), "{name}, {}: layers computed again", kernels.name);
        let error = relative(&found, &hidden);
        assert!(error < of_hidden, "{name}, {}: hidden states {error:e}", kernels.name);
        let mut names: Vec<_> = gradients.keys().collect();
        names.sort();
        let mut others: Vec<_> = found_gradients.keys().collect();
        others.sort();
        assert_eq!(others, names, "{name}, {}", kernels.name);
        let mut total = 0.0;
        for (parameter, expected) in &gradients {
            let error = distance(&found_gradients[parameter], expected);
            total += error * error;
            // A single parameter may be off by ten times as much of its own size; a key's bias has no gradient in truth.
            let own = expected.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>().sqrt().max(size * 0.01);
            assert!(error < 10.0 * of_gradients * own, "{name}, {}: {parameter} {:e}", kernels.name, error / own);
        }
        let error = total.sqrt() / size;
        assert!(error < of_gradients, "{name}, {}: gradients {error:e}", kernels.name);
    }
}

fn bert(hidden: usize, heads: usize, inner: usize, layers: usize, more: &[(&str, Json)]) -> Json {
    let mut config = json!({
        "model_type": "bert", "vocab_size": 31, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": inner, "max_position_embeddings": 600,
        "initializer_range": 0.05, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    });
    for (key, value) in more {
        config[*key] = value.clone();
    }
    config
}

#[test]
fn ragged_tiny_and_odd_shapes() {
    let shapes = [(16, 4, 24, 2), (20, 5, 37, 2), (64, 2, 96, 1), (128, 2, 40, 1), (80, 1, 70, 1), (48, 1, 64, 2)];
    for (hidden, heads, inner, layers) in shapes {
        let backbone = backbone(bert(hidden, heads, inner, layers, &[]));
        for lengths in [&[1][..], &[4, 1, 6], &[25, 3, 17, 31, 1, 1, 16, 40], &[33]] {
            let name = format!("bert {hidden}/{heads}/{inner} {lengths:?}");
            check(&name, &backbone, &batch(lengths, 31, false));
        }
        check(&format!("bert {hidden}/{heads} padded"), &backbone, &batch(&[5, 19, 2], 31, true));
    }
}

#[test]
fn long_rows() {
    let backbone = backbone(bert(32, 1, 48, 1, &[]));
    check("one row of 512", &backbone, &batch(&[512], 31, false));
    check("129, 300 and 1", &backbone, &batch(&[129, 300, 1], 31, false));
    // 192 is the longest row whose probabilities are kept.
    check("192, 193 and 16", &backbone, &batch(&[192, 193, 16], 31, false));
    check("192 with padding", &backbone, &batch(&[192, 140, 131], 31, true));
}

#[test]
fn every_family_and_activation() {
    for activation in ["gelu", "gelu_new", "relu", "silu", "tanh"] {
        let backbone = backbone(bert(32, 2, 48, 2, &[("hidden_act", json!(activation))]));
        check(activation, &backbone, &batch(&[7, 12, 3], 31, false));
    }
    let lengths = [9, 2, 14];
    let others = [
        json!({"model_type": "roberta", "vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 40, "max_position_embeddings": 40, "type_vocab_size": 2, "pad_token_id": 1, "initializer_range": 0.05}),
        json!({"model_type": "distilbert", "vocab_size": 31, "dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 40,
            "max_position_embeddings": 40, "initializer_range": 0.05}),
        json!({"model_type": "electra", "vocab_size": 31, "embedding_size": 20, "hidden_size": 36, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 40, "max_position_embeddings": 40, "initializer_range": 0.05}),
        json!({"model_type": "gpt2", "vocab_size": 31, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40,
            "initializer_range": 0.05}),
        json!({"model_type": "gpt2", "vocab_size": 31, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 200, "n_inner": 50,
            "scale_attn_by_inverse_layer_idx": true, "initializer_range": 0.05}),
    ];
    for config in others {
        let name = config["model_type"].as_str().unwrap().to_string();
        let backbone = backbone(config);
        check(&name, &backbone, &batch(&lengths, 31, false));
        check(&format!("{name} padded"), &backbone, &batch(&lengths, 31, true));
    }
    let long = backbone(
        json!({"model_type": "gpt2", "vocab_size": 31, "n_embd": 32, "n_layer": 1, "n_head": 1, "n_positions": 300,
        "initializer_range": 0.05}),
    );
    check("gpt2, 260 tokens", &long, &batch(&[260, 5], 31, false));
}

/// Frozen parameters get no gradient, and the others the same as before.
#[test]
fn frozen_parts() {
    for (frozen, kept) in [
        ("bert.embeddings.*", "bert.encoder.layer.0.output.dense.weight"),
        ("bert.e[mn]*[gr].[wpLl]*[0s].*", "bert.encoder.layer.1.output.dense.bias"),
        ("*query*", "bert.embeddings.word_embeddings.weight"),
        ("*.weight", "bert.encoder.layer.0.attention.self.key.bias"),
    ] {
        let backbone = backbone(bert(32, 2, 40, 2, &[]));
        let batch = batch(&[7, 3], 31, false);
        backbone.builder.parameters().set_trainable(frozen, false).unwrap();
        let (_, expected) = composed(&backbone, &batch);
        let kernels = tables()[0];
        let (_, found) = fused(&backbone, &batch, kernels);
        assert!(found.contains_key(kept), "{frozen}: {kept}");
        for parameter in backbone.builder.parameters().all() {
            assert_eq!(
                found.contains_key(parameter.name()),
                parameter.is_trainable(),
                "{frozen}: {}",
                parameter.name()
            );
            // A key's bias has no gradient in truth, only rounding.
            if parameter.is_trainable() && !parameter.name().contains("key.bias") {
                assert!(relative(&found[parameter.name()], &expected[parameter.name()]) < 1e-3, "{}", parameter.name());
            }
        }
    }
    let backbone = backbone(bert(32, 2, 40, 2, &[]));
    backbone.builder.parameters().set_trainable("*", false).unwrap();
    let hidden = backbone.encoder.forward_on(&batch(&[7, 3], 31, false), tables()[0]).unwrap();
    assert!(!hidden.track_op(), "an encoder that is wholly frozen is not part of the graph");
}

/// What a batch leaves behind, in memory that is used again, does not reach the next one.
#[test]
fn batches_of_changing_size_do_not_see_each_other() {
    for config in [
        bert(20, 2, 40, 2, &[]),
        json!({"model_type": "gpt2", "vocab_size": 31, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 400,
            "initializer_range": 0.05}),
    ] {
        let used = backbone(config.clone());
        for kernels in tables() {
            for lengths in [&[200, 150, 90][..], &[1], &[3, 9], &[200, 1, 150, 90, 77]] {
                let batch = batch(lengths, 31, false);
                let fresh = fused(&backbone(config.clone()), &batch, kernels);
                assert!(fused(&used, &batch, kernels) == fresh, "{} {lengths:?}", kernels.name);
                let other = self::batch(&[12, 5], 31, false);
                without_gradients(|| used.encoder.forward_on(&other, kernels)).unwrap();
            }
        }
    }
}

/// As in torch, a graph serves for one backward.
#[test]
fn a_second_backward_is_refused() {
    for checkpointing in [Checkpointing::Off, Checkpointing::On] {
        let backbone = backbone(bert(32, 2, 40, 2, &[]));
        backbone.encoder.set_checkpointing(checkpointing);
        let hidden = backbone.encoder.forward_on(&batch(&[7, 3], 31, false), tables()[0]).unwrap();
        weighed(&hidden).backward().unwrap();
        let error = weighed(&hidden).backward().unwrap_err().to_string();
        assert!(error.contains("a second backward through the same forward"), "{error}");
    }
}

/// As in torch, the gradients of weights that have changed meanwhile are not to be had; those of another model do not matter.
#[test]
fn a_backward_after_a_change_is_refused() {
    let (own, other) = (backbone(bert(32, 2, 40, 2, &[])), backbone(bert(32, 2, 40, 2, &[])));
    let name = "bert.encoder.layer.1.output.dense.bias";
    let change = |backbone: &Backbone| {
        let parameter = backbone.builder.parameters().get(name).unwrap();
        let settings = GroupSettings { weight_decay: 0.0, lr_scale: 1.0 };
        let parameters = vec![(name.to_string(), parameter.variable().clone(), settings)];
        let gradients: Gradients =
            [(name.to_string(), parameter.value().ones_like().unwrap().into())].into_iter().collect();
        AdamW::new(parameters, AdamWSettings::default()).unwrap().step(&gradients, 1e-3, 1.0).unwrap();
    };
    let forward = || weighed(&own.encoder.forward_on(&batch(&[7, 3], 31, false), tables()[0]).unwrap());
    let loss = forward();
    change(&other);
    loss.backward().unwrap();
    let loss = forward();
    change(&own);
    let error = loss.backward().unwrap_err().to_string();
    assert!(error.contains("call `backward` before `step`"), "{error}");
}

/// An optimizer's or a user's change of a weight is seen by the next forward.
#[test]
fn changed_weights_are_packed_again() {
    let backbone = backbone(bert(32, 2, 40, 1, &[]));
    let batch = batch(&[7, 3], 31, false);
    let before = numbers(&backbone.encoder.forward_on(&batch, tables()[0]).unwrap());
    let parameter = backbone.builder.parameters().get("bert.encoder.layer.0.intermediate.dense.weight").unwrap();
    parameter.var().set(&(parameter.value() * 2.0).unwrap()).unwrap();
    let after = numbers(&backbone.encoder.forward_on(&batch, tables()[0]).unwrap());
    let expected = numbers(&backbone.encoder.composed(&batch).unwrap());
    assert!(relative(&after, &before) > 1e-3 && relative(&after, &expected) < 1e-6);
}
