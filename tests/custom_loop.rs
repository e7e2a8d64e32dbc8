//! Training loops of a script's own: torch's numbers, the Trainer's bits, and what goes wrong said in words.

use std::path::Path;
use std::process::Command;

use candle_core::Device;
use retune::batch::{Batch, Features};
use retune::model::parameters::without_gradients;
use serde_json::Value as Json;

use crate::parity::{check, flat, read, run, worst_relative};
use crate::tiny::{classes, classifier};

fn program(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    let output = command.args(["run"]).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `tests/golden/custom_loop/generate.py` in torch and transformers; f32 on both sides, added up in other orders.
#[test]
fn loops_and_losses_are_those_of_torch() {
    let golden = Path::new("tests/golden/custom_loop");
    let want = read(&golden.join("loop.json"));
    let arguments = [
        ("families", "tests/golden/parity/families".to_string()),
        ("want", golden.join("loop.json").display().to_string()),
    ];
    let found = run(&golden.join("loop.rhai"), &arguments, "loop.json");
    let compare = |what: &str, found: &Json, want: &Json| {
        check(&format!("{what}: loss"), worst_relative(&found["loss"], &want["loss"]), 1e-5);
        check(&format!("{what}: grad_norm"), worst_relative(&found["grad_norm"], &want["grad_norm"]), 1e-4);
        let differences = flat(&found["logits"]).into_iter().zip(flat(&want["logits"]));
        check(&format!("{what}: logits"), differences.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max), 2e-5);
    };
    for (number, want) in want["groups"].as_array().unwrap().iter().enumerate() {
        let found = &found["groups"][number];
        compare("groups", found, want);
        for (found, want) in flat(&found["lr"]).into_iter().zip(flat(&want["lr"])) {
            assert!((found - want).abs() <= 1e-15, "a rate of {}: {found} {want}", want);
        }
    }
    let rest: Vec<&String> = found.as_object().unwrap().keys().filter(|key| *key != "groups").collect();
    assert_eq!(rest.len(), 2, "{rest:?}");
    for key in rest {
        compare(key, &found[key], &want[key]);
    }
}

/// The script in `scripts/` takes the steps that a Trainer with the same settings takes, to the last bit.
#[test]
fn the_script_takes_the_steps_of_the_trainer() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = r#"
let data = load_dataset("std/reviews");
set_seed(7);
let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny", #{ num_labels: 2 });
let trainer = Trainer(#{
    model: model, train_dataset: data.train, processing_class: tokenizer,
    args: TrainingArguments(#{
        output_dir: "trainer", max_steps: 3, per_device_train_batch_size: 16, gradient_accumulation_steps: 2, seed: 7,
        learning_rate: 3e-4, weight_decay: 0.05, warmup_steps: 1, lr_scheduler_type: "cosine", logging_steps: 1,
        save_strategy: "no",
    }),
});
trainer.train();
for log in trainer.state.log_history {
    if "loss" in log {
        print(`step ${log.step}: loss ${log.loss}, grad_norm ${log.grad_norm}, lr ${log.learning_rate}`);
    }
}
trainer.save_model("trainer");
"#;
    std::fs::write(folder.path().join("trainer.rhai"), recipe).unwrap();
    let script = std::path::absolute("scripts/custom_loop.rhai").unwrap();
    let settings = [
        "max_steps=3",
        "gradient_accumulation_steps=2",
        "learning_rate=3e-4",
        "weight_decay=0.05",
        "warmup_steps=1",
        "lr_scheduler_type=cosine",
        "seed=7",
        "output_dir=loop",
    ];
    let hand = program(folder.path(), &[&[script.to_str().unwrap()], &settings[..]].concat());
    let trainer = program(folder.path(), &["trainer.rhai"]);
    let steps =
        |text: &str| text.lines().filter(|line| line.starts_with("step ")).map(str::to_string).collect::<Vec<_>>();
    assert_eq!(steps(&hand).len(), 3, "{hand}");
    assert_eq!(steps(&hand), steps(&trainer));
    let weights = |name: &str| std::fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
    assert!(weights("loop") == weights("trainer"), "the weights differ");
    let accuracy: f64 = hand.lines().find_map(|line| line.strip_prefix("accuracy ")).unwrap().parse().unwrap();
    assert!((0.3..=1.0).contains(&accuracy), "{hand}");
}

/// Nothing below the first trainable parameter keeps anything for a backward: a frozen encoder costs its forward alone.
#[test]
fn a_frozen_encoder_has_no_backward() {
    let model = classifier(2);
    let row = Features::from_row(&classes(1, 2).rows()[0]).unwrap();
    let batch = Batch::pack(&[(0, &row)], &Device::Cpu).unwrap();
    let hidden = || model.encoder().forward(&batch).unwrap().track_op();
    assert!(hidden());
    assert!(!without_gradients(hidden), "nor does anything without gradients");
    assert!(hidden(), "which ends with the call");
    model.parameters().set_trainable("bert.embeddings.*", false).unwrap();
    model.parameters().set_trainable("bert.encoder.*", false).unwrap();
    assert!(!hidden());
    let output = model.forward(&batch).unwrap();
    let mut gradients = retune::head::Gradients::new();
    let mut store = model.loss(&output, &batch).unwrap().backward().unwrap();
    model.collect_gradients(&mut store, &mut gradients).unwrap();
    let expected = ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"];
    assert_eq!(gradients.keys().collect::<Vec<_>>(), expected);
}

/// The loss of the head falls, the encoder stays as it was, and what is saved loads again and is used.
#[test]
fn few_labels_train_a_head_on_a_frozen_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let script = std::path::absolute("scripts/few_labels.rhai").unwrap();
    let shown = program(folder.path(), &["--json", script.to_str().unwrap(), "labels=8", "output_dir=few"]);
    let events: Vec<Json> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses: Vec<f64> =
        events.iter().filter(|event| event["event"] == "log").filter_map(|event| event["loss"].as_f64()).collect();
    assert!(losses.len() >= 2 && losses[losses.len() - 1] < 0.9 * losses[0], "{losses:?}");
    let recipe = r#"
let base = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
let few = AutoModelForSequenceClassification::from_pretrained("few");
for name in base.parameter_names() {
    let same = (base.parameter(name) - few.parameter(name)).abs().max().item() == 0.0;
    let is_head = name.contains("pooler") || name.contains("classifier");
    expect(same == !is_head, name);
}
expect(few.config.label2id.keys().len == 2, "the label names are saved");
expect(pipeline("text-classification", #{ model: "few" }).predict("What a film!").score > 0.5, "of two labels");
"#;
    std::fs::write(folder.path().join("again.rhai"), recipe).unwrap();
    program(folder.path(), &["again.rhai"]);
}

/// A backward that fails leaves nothing: the next one's gradients are its own, those of a table that is looked up and predicted too.
#[test]
fn a_backward_that_fails_leaves_no_gradient() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = r#"
set_seed(3);
let model = BertForMaskedLM::from_config(#{ vocab_size: 1100, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
    intermediate_size: 64, max_position_embeddings: 64 });
let ids = []; for i in 0..48 { ids.push(i * 7 % 1100); }
let batch = Batch::of([#{ input_ids: ids, labels: ids }]);
model.eval();
fn norm(model) { clip_grad_norm_(model, 1e9) }
model.forward(batch).loss.backward();
let once = norm(model);
model.zero_grad();
let loss = model.forward(batch).loss;
loss.backward();
model.zero_grad();
let failed = false;
try { loss.backward(); } catch (error) { failed = true; }
model.forward(batch).loss.backward();
print(`${failed} ${norm(model) == once} ${once > 0.0}`);
"#;
    std::fs::write(folder.path().join("recipe.rhai"), recipe).unwrap();
    assert!(program(folder.path(), &["recipe.rhai"]).contains("true true true"));
}
