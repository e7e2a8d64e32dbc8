//! Calls of heads that are linked into this binary: the task contract, errors, panics, threads, states, newer versions.

use std::sync::Arc;

use candle_core::{Tensor, Var};
use retune::batch::Draw;
use retune::data::{Row, Value};
use retune::head::plugin::{Alone, PluginTask};
use retune::head::{Function, HeadBuilder, Task};
use retune::model::backbone::LoadSettings;
use retune::model::{Backbone, ModelConfig};
use retune::plugin::canary::{Effort, Line};
use retune::tokenizer::{Tokenizer, TokenizerOptions};
use serde_json::json;

use super::heads::linked;
use super::{batch, model, task, two_rows};

fn options() -> Value {
    Value::from(json!({ "top_k": 1 }))
}

#[test]
fn a_linked_head_has_the_whole_contract() {
    let model = model(&linked(), "sound").unwrap();
    let names: Vec<String> = model.parameters().all().iter().map(|parameter| parameter.name().to_string()).collect();
    let own: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.starts_with("sound.")).collect();
    let expected = [
        "sound.norm.weight",
        "sound.norm.bias",
        "sound.kinds.weight",
        "sound.scale",
        "sound.out.weight",
        "sound.out.bias",
    ];
    let mut sorted = own.clone();
    sorted.sort_unstable();
    let mut wanted = expected;
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);

    let batch = two_rows();
    let output = model.forward(&batch).unwrap();
    assert_eq!(output.tensors()[0].1.dims(), [2, 3]);
    let gradients = model.loss(&output, &batch).unwrap().backward().unwrap();
    for name in own {
        let parameter = model.parameters().get(name).unwrap();
        assert!(gradients.get(parameter.value()).is_some(), "no gradient for {name}");
    }
    assert!(model.task().has(Function::Decode) && !model.task().has(Function::Encode));
    let decoded = model.decode(&output, &batch, &options(), None).unwrap().to_json();
    assert_eq!(decoded.as_array().unwrap().len(), 2);
    assert_eq!(decoded[0]["top_k"], 1);
    let labels = model.reduce(&output, &batch, &options()).unwrap();
    let metrics = model.metrics(&labels, &labels, &options()).unwrap().to_json();
    assert_eq!(metrics, json!({ "right": 1.0 }));
}

/// Dropout is the program's: it drops the same elements for the same draw, and none in evaluation.
#[test]
fn a_forward_is_a_function_of_its_draw() {
    let model = model(&linked(), "sound").unwrap();
    let numbers = |batch: &retune::batch::Batch| {
        let output = model.forward(batch).unwrap();
        output.tensors()[0].1.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = two_rows();
    let drawn = |step| two_rows().training(Draw { seed: 3, step }, 0);
    assert_eq!(numbers(&plain), numbers(&plain));
    assert_eq!(numbers(&drawn(0)), numbers(&drawn(0)));
    assert_ne!(numbers(&drawn(0)), numbers(&drawn(1)));
    assert_ne!(numbers(&drawn(0)), numbers(&plain));
}

#[test]
fn heads_run_on_many_threads_at_once() {
    let model = model(&linked(), "sound").unwrap();
    let wanted = model.forward(&two_rows()).unwrap().tensors()[0].1.to_vec2::<f32>().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let found = model.forward(&two_rows()).unwrap().tensors()[0].1.to_vec2::<f32>().unwrap();
                    assert_eq!(found, wanted);
                }
            });
        }
    });
}

#[test]
fn the_first_failure_names_its_operation_and_shapes() {
    let model = model(&linked(), "sticky").unwrap();
    let error = model.forward(&two_rows()).unwrap_err().to_string();
    for part in ["`MATMUL` of (5, 8) and (5, 8)", "`forward` of the head `sticky`", "8 columns, the second 5 rows"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("no such input"), "{error}");
    let output =
        retune::head::Output::One(Tensor::zeros((2, 3), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap());
    let error = model.loss(&output, &two_rows()).unwrap_err().to_string();
    assert!(error.contains("the reason is here") && error.contains("`loss` of the head `sticky`"), "{error}");
    // A call that has failed leaves nothing behind for the next one.
    let error = model.forward(&two_rows()).unwrap_err().to_string();
    assert!(error.contains("MATMUL"), "{error}");
}

/// A label out of range names the row, as for a script.
#[test]
fn an_error_in_the_data_names_its_row() {
    let model = model(&linked(), "sound").unwrap();
    let batch = batch(&json!([{"input_ids": [1, 5], "labels": 0}, {"input_ids": [1], "labels": 9}]));
    let output = model.forward(&batch).unwrap();
    let error = model.loss(&output, &batch).unwrap_err();
    assert!(error.to_string().contains("(row 1)"), "{error}");
    assert_eq!(error.exit_code(), 65, "{error}");
}

fn tokenizer() -> Tokenizer {
    let folder = retune::data::files::Folder::Embedded("minilm-tiny".into());
    Tokenizer::from_folder(&folder, TokenizerOptions::default()).unwrap()
}

#[test]
fn a_panic_in_every_function_is_an_error_with_its_place() {
    let plugin = linked();
    let (tokenizer, batch) = (tokenizer(), two_rows());
    let (value, row) = (Value::List([].into()), Row::default());
    let expect = |function: &str, error: retune::error::Error| {
        let text = error.to_string();
        for part in [
            &format!("it panicked: thrown on purpose in {function}"),
            "heads.rs:",
            &format!("`{function}` of the head `panics_in_{function}`"),
        ] {
            assert!(text.contains(part), "{text}");
        }
    };
    expect("create", model(&plugin, "panics_in_create").err().unwrap());
    let model = |function: &str| model(&plugin, &format!("panics_in_{function}")).unwrap();
    expect("forward", model("forward").forward(&batch).unwrap_err());
    let output = model("loss").forward(&batch).unwrap();
    expect("loss", model("loss").loss(&output, &batch).unwrap_err());
    expect("encode", model("encode").encode(&tokenizer, &row, &options()).unwrap_err());
    expect("collate", model("collate").collate(two_rows(), &options()).unwrap_err());
    expect("decode", model("decode").decode(&output, &batch, &options(), None).unwrap_err());
    expect("merge", model("merge").merge(&value, &row, &options()).unwrap_err());
    expect("reduce", model("reduce").reduce(&output, &batch, &options()).unwrap_err());
    expect("metrics", model("metrics").metrics(&value, &value, &options()).unwrap_err());
    let folder = tempfile::tempdir().unwrap();
    expect("save_state", model("save_state").save_pretrained(folder.path()).unwrap_err());
    std::fs::write(folder.path().join("head_state.bin"), b"x").unwrap();
    let folder = retune::data::files::Folder::Disk(folder.path().into());
    expect("load_state", model("load_state").load_head_state(&folder).unwrap_err());
    // Nobody is there to be told of a panic while a head is freed; the process goes on.
    drop(model("destroy"));
    assert!(model("destroy").forward(&batch).is_ok());
}

#[test]
fn a_panic_in_an_operation_of_its_own_is_an_error() {
    let model = model(&linked(), "own_panics").unwrap();
    let error = model.forward(&batch(&json!([{"input_ids": [1, 2]}]))).unwrap_err().to_string();
    assert!(error.contains("it panicked: forward of its own") && error.contains("on (2, 8)"), "{error}");
    let batch = two_rows();
    let output = model.forward(&batch).unwrap();
    let error = model.loss(&output, &batch).unwrap().backward().unwrap_err().to_string();
    assert!(error.contains("it panicked: backward of its own") && error.contains("own_panics"), "{error}");
}

/// The gradient of an operation of the plugin's own joins that of the program's.
#[test]
fn gradients_flow_through_an_operation_of_its_own() {
    let plugin = linked();
    let mut lines = Vec::new();
    retune::head::plugin::check::check(&plugin, Effort::Full, &mut |line| lines.push(line)).unwrap();
    let passed = |text: &str| lines.iter().any(|line| matches!(line, Line::Passed(what) if what == text));
    for what in
        ["made, forward, loss and backward", "shapes at several sizes", "gradients agree with finite differences"]
    {
        assert!(passed(&format!("`sound`: {what}")), "{what}: {lines:?}");
    }
    let failed: Vec<_> =
        lines.iter().filter_map(|line| if let Line::Failed(text) = line { Some(text) } else { None }).collect();
    for head in ["panics_in_create", "panics_in_forward", "panics_in_loss", "sticky", "own_panics"] {
        let wanted = format!("`{head}`");
        let skipped = lines.iter().any(|line| matches!(line, Line::Skipped(text) if text.contains(&wanted)));
        assert!(skipped || failed.iter().any(|text| text.contains(&wanted)), "{head}: {failed:?}");
    }
}

#[test]
fn a_state_is_saved_with_the_model_and_read_again() {
    let plugin = linked();
    let first = model(&plugin, "sound").unwrap();
    let folder = tempfile::tempdir().unwrap();
    first.save_pretrained(folder.path()).unwrap();
    let saved = |folder: &std::path::Path| {
        u64::from_le_bytes(std::fs::read(folder.join("head_state.bin")).unwrap().try_into().unwrap())
    };
    let before = saved(folder.path());
    for _ in 0..5 {
        first.forward(&two_rows()).unwrap();
    }
    first.save_pretrained(folder.path()).unwrap();
    assert_eq!(saved(folder.path()), before + 5);
    let second = model(&plugin, "sound").unwrap();
    second.load_head_state(&retune::data::files::Folder::Disk(folder.path().into())).unwrap();
    let other = tempfile::tempdir().unwrap();
    second.save_pretrained(other.path()).unwrap();
    assert_eq!(saved(other.path()), before + 5);
    // What cannot be a state is refused by the head.
    std::fs::write(other.path().join("head_state.bin"), b"short").unwrap();
    let error = second.load_head_state(&retune::data::files::Folder::Disk(other.path().into())).unwrap_err();
    assert!(error.to_string().contains("the state has eight bytes"), "{error}");
}

#[test]
fn a_newer_head_takes_over_parameters_and_state_by_name() {
    let plugin = linked();
    let load = LoadSettings {
        caller: "`test`".into(),
        overrides: Vec::new(),
        ignore_mismatched_sizes: false,
        seed: 1,
        device: candle_core::Device::Cpu,
    };
    let config = json!({
        "model_type": "bert", "vocab_size": 13, "hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 2,
        "intermediate_size": 12, "num_labels": 3,
    });
    let backbone = Backbone::from_config(ModelConfig::from_map(config.as_object().unwrap().clone()), &load).unwrap();
    let builder = HeadBuilder::new(backbone.builder.clone(), backbone.family, 0.02, 1e-5);
    let old = task(&plugin, "sound").create(&builder, &backbone.config).unwrap();
    let weight = backbone.builder.parameters().get("sound.out.weight").unwrap();
    weight.var().set(&Tensor::ones((3, 8), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap()).unwrap();
    let hidden =
        Var::from_tensor(&Tensor::ones((5, 8), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap()).unwrap();
    let sound = task(&plugin, "sound");
    sound.forward(&old, hidden.as_tensor(), &two_rows()).unwrap();

    let newer = task(&plugin, "newer");
    let (new, adopted) = newer.replace(&old, &backbone.config).unwrap();
    assert_eq!(adopted.made, ["newer.shift"]);
    assert_eq!(adopted.unused, ["sound.norm.weight", "sound.norm.bias", "sound.kinds.weight", "sound.scale"]);
    let output = newer.forward(&new, hidden.as_tensor(), &two_rows()).unwrap();
    let numbers = output.tensors()[0].1.to_vec2::<f32>().unwrap();
    assert_eq!(numbers, vec![vec![8.0; 3]; 2], "the trained weights are the newer head's");
    assert_eq!(newer.save_state(&new).unwrap(), sound.save_state(&old).unwrap(), "and so is the state");
    assert_eq!(sound.save_state(&old).unwrap().unwrap()[0], 1);

    let Err(error) = task(&plugin, "wider").replace(&old, &backbone.config) else { panic!("another shape was taken") };
    assert!(error.to_string().contains("has the shape (3, 8), but (4, 8) is asked for"), "{error}");
}

#[test]
fn heads_and_functions_that_are_not_there_are_named() {
    let plugin = linked();
    let Err(error) = PluginTask::new(&plugin, "soundd", Arc::new(Alone)) else { panic!("there is no such head") };
    assert_eq!(error.hint_text(), Some("did you mean `plugin:sound`?"));
    let model = model(&plugin, "newer").unwrap();
    let output = model.forward(&two_rows()).unwrap();
    let error = model.decode(&output, &two_rows(), &options(), None).unwrap_err();
    assert!(error.to_string().contains("a pipeline for the task `plugin:newer` is not supported"), "{error}");
    let error = model.merge(&Value::Null, &Row::default(), &options()).unwrap_err();
    assert!(error.to_string().contains("which the task `plugin:newer` does not join"), "{error}");
}
