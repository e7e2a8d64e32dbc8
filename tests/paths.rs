//! Every path of `RETUNE_KERNELS` beside the reference path, each in a process of its own: gradients of an encoder over batches of
//! all kinds, and the steps of a pack of Hugging Face's.

use std::path::Path;
use std::process::Command;

use candle_core::{Device, Tensor};
use retune::batch::{Batch, Draw, Features};
use retune::kernels::Path as KernelPath;
use retune::kernels::tiles::{Precision, kernels_of};
use retune::model::{Backbone, ModelConfig};
use retune::tensor::rng::Rng;
use serde_json::json;

use crate::loading::{load_settings, ragged};
use crate::parity::{check, minilm_with_head, paired, read, worst, worst_relative};
use crate::shared::shared;

/// Ragged rows, one token, a row of 512, a single sequence.
const BATCHES: [&[usize]; 4] = [&[25, 3, 17, 31, 1, 1, 16, 40], &[1], &[512], &[33]];
const PRECISIONS: [(&str, Precision); 3] =
    [("highest", Precision::Highest), ("high", Precision::High), ("bf16", Precision::Bf16)];
/// The variable that asks a process of this test binary for its gradients.
const FILE: &str = "RETUNE_TEST_GRADIENTS";

fn backbone() -> Backbone {
    let config = json!({
        "model_type": "bert", "vocab_size": 31, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 96, "max_position_embeddings": 600, "initializer_range": 0.05, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    });
    let config = ModelConfig::from_map(config.as_object().unwrap().clone());
    Backbone::from_config(config, &load_settings()).unwrap()
}

/// All gradients one after the other, in the order of the parameters, after a loss that weighs every hidden state differently.
fn gradients(backbone: &Backbone, lengths: &[usize]) -> Vec<f32> {
    let rows = ragged(lengths, 31, 1000);
    let numbered: Vec<(usize, &Features)> = rows.iter().enumerate().collect();
    let batch = Batch::pack(&numbered, &Device::Cpu).unwrap().training(Draw { seed: 5, step: 2 }, 0);
    let hidden = backbone.encoder.forward(&batch).unwrap();
    let rng = Rng::new(9, "weights", 0);
    let weights: Vec<f32> = (0..hidden.elem_count() as u64).map(|index| rng.normal(index) as f32).collect();
    let weights = Tensor::from_vec(weights, hidden.dims(), &Device::Cpu).unwrap();
    let store = (hidden * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let fused: std::collections::HashMap<_, _> = backbone.encoder.take_gradients().into_iter().collect();
    let parameters = backbone.builder.parameters().all();
    let one = |name: &str, value: &Tensor| -> Vec<f32> {
        let gradient = match fused.get(name) {
            Some(gradient) => gradient.to_tensor().unwrap(),
            None => store.get(value).unwrap().clone(),
        };
        gradient.flatten_all().unwrap().to_vec1().unwrap()
    };
    parameters.iter().flat_map(|parameter| one(parameter.name(), parameter.value())).collect()
}

/// The same gradients each time; a process that is asked for them writes them down.
#[test]
fn gradients_are_the_same_when_they_are_computed_again() {
    let backbone = backbone();
    let mut all = Vec::new();
    for (_, precision) in PRECISIONS {
        backbone.encoder.set_precision(precision);
        for lengths in BATCHES {
            all.push(gradients(&backbone, lengths));
        }
    }
    backbone.encoder.set_precision(Precision::Highest);
    assert_eq!(gradients(&backbone, BATCHES[0]), all[0]);
    if let Some(file) = std::env::var_os(FILE) {
        let bytes: Vec<u8> = all.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(file, bytes).unwrap();
    }
}

/// The paths that this machine has, but for the reference.
fn paths() -> Vec<&'static str> {
    let tiled = [("emulated", KernelPath::Emulated), ("avx512", KernelPath::Avx512), ("amx", KernelPath::Amx)];
    let here = tiled.into_iter().filter(|(_, path)| kernels_of(*path, Precision::Highest).is_some());
    std::iter::once("gemm").chain(here.map(|(name, _)| name)).collect()
}

/// engine.md's measured errors of all gradients against f32: 3e-6 for f32 and six products, 2e-5 for three, 1e-2 for bf16.
#[test]
fn gradients_of_every_path_are_those_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let of = |path: &str| -> Vec<f32> {
        let file = folder.path().join(path);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "paths::gradients_are_the_same_when_they_are_computed_again"]);
        let output = command.env("RETUNE_KERNELS", path).env(FILE, &file).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stdout));
        let bytes = std::fs::read(file).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
    };
    let expected = of("reference");
    let each = expected.len() / (PRECISIONS.len() * BATCHES.len());
    for path in paths() {
        let found = of(path);
        assert_eq!(found.len(), expected.len());
        assert!(found != expected, "{path}: were the variable not read, the bits would be the same");
        let parts = found.chunks_exact(each).zip(expected.chunks_exact(each)).enumerate();
        for (number, (found, expected)) in parts {
            let (precision, lengths) = (PRECISIONS[number / BATCHES.len()].0, BATCHES[number % BATCHES.len()]);
            let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
            let error = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
            let error = (error / square(&mut expected.iter().map(|b| f64::from(*b)))).sqrt();
            let tolerance = match precision {
                "highest" => 3e-6,
                "high" => 2e-5,
                _ => 1e-2,
            };
            assert!(error < tolerance, "{path}, {precision}, rows of {lengths:?}: {error:e}");
        }
    }
}

/// Thirty steps of a pack on each path: losses within 1e-4 of Hugging Face's in f32 and in three products, within 3e-3 in bf16, and
/// ten times that for what thirty steps of AdamW make of it.
#[test]
fn every_path_takes_the_steps_of_hugging_face() {
    let folder = tempfile::tempdir().unwrap();
    let golden = |name: &str| std::path::absolute(Path::new("tests/golden/parity").join(name)).unwrap();
    let (pack, tokenizer) = (golden("bert-tokcls"), golden("tokenizer"));
    std::fs::copy(golden("parity.rhai"), folder.path().join("parity.rhai")).unwrap();
    let expected = read(&pack.join("reference.json"));
    for path in std::iter::once("reference").chain(paths()) {
        // One product of bf16 is what `bf16: true` computes too.
        for (precision, tolerance) in [("highest", 1e-4), ("high", 1e-4), ("medium", 3e-3)] {
            let name = format!("{path}-{precision}");
            std::fs::create_dir(folder.path().join(&name)).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
            command.args(["run", "parity.rhai", "--quiet", "--allow-read", "/"]);
            command.args([format!("pack={}", pack.display()), format!("tokenizer={}", tokenizer.display())]);
            command.args([format!("precision={precision}"), format!("out={name}")]);
            let output = command.current_dir(folder.path()).env("RETUNE_KERNELS", path).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let found = read(&folder.path().join(&name).join("parity.json"));
            let logits = |key: &str, reference: &str| worst(&paired(&found[key], &expected[reference], ""));
            check(&format!("{name}: loss"), worst_relative(&found["loss"], &expected["loss"]), tolerance);
            let norms = worst_relative(&found["grad_norm"], &expected["grad_norm"]);
            check(&format!("{name}: gradient norm"), norms, 10.0 * tolerance);
            check(&format!("{name}: logits before"), logits("before", "logits_before"), tolerance);
            check(&format!("{name}: logits after"), logits("after", "logits_after"), 10.0 * tolerance);
        }
    }
}

/// One hundred steps of a real model on each path: losses within 1e-5 of Hugging Face's in f32 and in three products, within 3e-3
/// in bf16.
#[test]
fn every_path_takes_a_hundred_steps_of_a_real_model() {
    let (Some(trace), Some(base)) = (shared("reference/minilm-l6-trace"), shared("models/minilm-l6")) else { return };
    let model = minilm_with_head(&base, &trace.join("classifier.safetensors"));
    let curve = read(&trace.join("train_curve.json"));
    let trace = std::path::absolute(trace).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy("tests/golden/parity/trace.rhai", folder.path().join("trace.rhai")).unwrap();
    for path in std::iter::once("reference").chain(paths()) {
        // The reference multiplies in f32 whatever is asked for.
        let precisions = if path == "reference" { &PRECISIONS[..1] } else { &PRECISIONS[..] };
        for (precision, _) in precisions {
            let name = format!("{path}-{precision}");
            std::fs::create_dir(folder.path().join(&name)).unwrap();
            let (precision, tolerance) = if *precision == "bf16" { ("medium", 3e-3) } else { (*precision, 1e-5) };
            let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
            command.args(["run", "trace.rhai", "--quiet", "--allow-read", "/"]);
            command.args([format!("folder={}", model.path().display()), format!("trace={}", trace.display())]);
            command.args([format!("precision={precision}"), format!("out={name}")]);
            let output = command.current_dir(folder.path()).env("RETUNE_KERNELS", path).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let found = read(&folder.path().join(&name).join("trace.json"));
            check(&format!("{name}: loss"), worst_relative(&found["loss"], &curve["loss"]), tolerance);
        }
    }
}
