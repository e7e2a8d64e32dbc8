//! The plugins `sentiment`, `ner` and `qa` against the script tasks and against Hugging Face: the same parameters, the same numbers.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{built, repository, retune, succeeded};
use crate::parity::compare;
use crate::shared::shared;

/// A home in which the three plugins may run.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for name in ["sentiment", "ner", "qa"] {
        succeeded(retune(home.path(), &["plugin", "allow", built(name).to_str().unwrap()]));
    }
    home
}

/// Runs a recipe with a task and gives the file that it writes.
fn run(home: &Path, recipe: &Path, arguments: &[(&str, &str)], file: &str) -> Json {
    let out = tempfile::tempdir().unwrap();
    let mut all =
        vec!["run".to_string(), recipe.display().to_string(), "--quiet".into(), "--allow-read".into(), "/".into()];
    all.extend(["--allow-write".to_string(), out.path().display().to_string()]);
    all.extend(arguments.iter().map(|(name, value)| format!("{name}={value}")));
    all.push(format!("out={}", out.path().display()));
    succeeded(retune(home, &all.iter().map(String::as_str).collect::<Vec<_>>()));
    serde_json::from_str(&std::fs::read_to_string(out.path().join(file)).unwrap()).unwrap()
}

fn packs() -> Vec<(PathBuf, &'static str)> {
    let golden = |name: &str| repository("tests/golden/parity").join(name);
    let mut packs = vec![(golden("bert-tokcls"), "ner"), (golden("bert-qa"), "qa")];
    let families = golden("families");
    for entry in std::fs::read_dir(families).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(path.join("reference.json")).unwrap();
        let reference: Json = serde_json::from_str(&text).unwrap();
        let task = match reference["task"].as_str().unwrap() {
            "sequence-classification" => "sentiment",
            "token-classification" => "ner",
            "question-answering" => "qa",
            _ => continue,
        };
        packs.push((path, task));
    }
    packs.sort();
    packs
}

/// Loss trace, gradient norms and logits are those of the script bit for bit, and those of Hugging Face within the tolerances of the
/// packs: both go through the same operations.
#[test]
fn the_plugins_take_the_steps_of_the_scripts_and_of_hugging_face() {
    let home = home();
    let recipe = repository("tests/golden/parity/parity.rhai");
    let tokenizer = repository("tests/golden/parity/tokenizer").display().to_string();
    let packs = packs();
    assert!(packs.len() >= 20, "{packs:?}");
    for (pack, task) in packs {
        let path = pack.display().to_string();
        let arguments = [("pack", path.as_str()), ("tokenizer", &tokenizer)];
        let script = run(home.path(), &recipe, &arguments, "parity.json");
        let name = format!("plugin:{task}");
        let plugin = run(home.path(), &recipe, &[arguments[0], arguments[1], ("task", &name)], "parity.json");
        assert_eq!(plugin, script, "{path}");
        compare(&pack, &plugin);
    }
}

#[test]
fn larger_packs_pass_through_the_plugins() {
    let home = home();
    let recipe = repository("tests/golden/parity/parity.rhai");
    for (name, task) in [
        ("bert-seqcls-tiny", "sentiment"),
        ("roberta-seqcls", "sentiment"),
        ("distilbert-seqcls", "sentiment"),
        ("electra-seqcls", "sentiment"),
        ("gpt2-seqcls", "sentiment"),
        ("bert-tokcls", "ner"),
        ("bert-qa", "qa"),
    ] {
        let Some(pack) = shared(&format!("reference/{name}")) else { return };
        let pack = pack.canonicalize().unwrap();
        let (path, task) = (pack.display().to_string(), format!("plugin:{task}"));
        compare(&pack, &run(home.path(), &recipe, &[("pack", &path), ("task", &task)], "parity.json"));
    }
}

/// From text to metrics and to what a pipeline returns, on the embedded data: the functions beside forward and loss.
const WHOLE: &str = r#"
let task = arg("task", "");
let name = "std/minilm-tiny";
let tokenizer = AutoTokenizer::from_pretrained(name);
let data = load_dataset(arg("data", ""));
let train = data.train.take(48);
let options = #{};
if arg("num_labels", 0) > 0 {
    options.num_labels = arg("num_labels", 0);
}
set_seed(7);
let model = AutoModelForTask::from_pretrained(name, task, options);
let given = read_json(arg("options", ""));
let trainer = Trainer(#{
    model: model, processing_class: tokenizer, train_dataset: train, eval_dataset: data.validation.take(24),
    args: TrainingArguments(#{
        output_dir: arg("out", "") + "/output", max_steps: 6, learning_rate: 5e-4, logging_steps: 1, save_strategy: "no",
        per_device_train_batch_size: 8, label_smoothing_factor: arg("smoothing", 0.0),
    }),
    task_options: given.training,
});
trainer.train();
let metrics = trainer.evaluate();
for key in metrics.keys() {
    if key.contains("runtime") || key.contains("per_second") {
        metrics.remove(key);
    }
}
let pipe = pipeline(arg("pipeline", ""), #{ model: model, tokenizer: tokenizer });
let results = given.calls.map(|one| pipe.predict(one.input, one.options));
let losses = trainer.state.log_history.filter(|entry| "loss" in entry).map(|entry| entry.loss);
let names = model.parameter_names();
write_json(arg("out", "") + "/whole.json", #{ losses: losses, metrics: metrics, results: results, names: names });
"#;

#[test]
fn the_plugins_have_the_whole_contract_of_the_scripts() {
    let home = home();
    let recipe = home.path().join("whole.rhai");
    std::fs::write(&recipe, WHOLE).unwrap();
    let film = "What a film! I would see it again.";
    let names = "Priya Lindqvist left Halden Bank and moved to Lisbon, where Ann Smith of Acme Corp lives.";
    let question = serde_json::json!({ "question": "Where did she move?", "context": names });
    let cases = [
        (
            "sentiment",
            "std/reviews",
            "text-classification",
            2,
            "0.1",
            serde_json::json!({
                "training": { "class_weights": [1.0, 2.5] },
                "calls": [
                    { "input": film, "options": {} }, { "input": [film, "bad"], "options": { "top_k": 2 } },
                    { "input": film, "options": { "function_to_apply": "sigmoid" } },
                    { "input": { "text": film, "text_pair": "It was fine." }, "options": { "function_to_apply": "none", "top_k": 2 } },
                ],
            }),
        ),
        (
            "sentiment",
            "std/ratings",
            "text-classification",
            1,
            "0.0",
            serde_json::json!({
                "training": {}, "calls": [{ "input": film, "options": {} }],
            }),
        ),
        (
            "ner",
            "std/entities",
            "ner",
            9,
            "0.1",
            serde_json::json!({
                "training": { "label_all_tokens": true, "return_entity_level_metrics": true, "mode": "strict", "scheme": "IOB2" },
                "calls": [
                    { "input": names, "options": {} },
                    { "input": names, "options": { "aggregation_strategy": "simple", "stride": 4, "max_length": 12 } },
                    { "input": [names, film], "options": { "aggregation_strategy": "max", "ignore_labels": [] } },
                ],
            }),
        ),
        (
            "ner",
            "std/entities",
            "ner",
            9,
            "0.0",
            serde_json::json!({ "training": { "class_weights": "balanced" }, "calls": [] }),
        ),
        (
            "qa",
            "std/questions",
            "question-answering",
            0,
            "0.0",
            serde_json::json!({
                "training": { "max_length": 64, "doc_stride": 16, "version_2_with_negative": true },
                "calls": [{ "input": question, "options": {} }, { "input": question, "options": { "top_k": 3, "max_answer_len": 5 } }],
            }),
        ),
    ];
    for (task, data, pipeline, labels, smoothing, options) in cases {
        let file = home.path().join("options.json");
        std::fs::write(&file, options.to_string()).unwrap();
        let (labels, file) = (format!("{labels}"), file.display().to_string());
        let with = |task: &str| {
            let arguments = [
                ("task", task),
                ("data", data),
                ("pipeline", pipeline),
                ("num_labels", &labels),
                ("options", &file),
                ("smoothing", smoothing),
            ];
            run(home.path(), &recipe, &arguments, "whole.json")
        };
        let (script, plugin) = (with(&format!("std/tasks/{task}")), with(&format!("plugin:{task}")));
        assert_eq!(plugin, script, "{task} {options}");
        assert_eq!(script["losses"].as_array().unwrap().len(), 6);
    }
}
