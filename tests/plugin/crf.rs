//! The plugin `crf` in the program: it learns, its predictions are valid sequences of a chain, its recipe runs.

use serde_json::Value as Json;

use super::{built, repository, retune, succeeded};

#[test]
fn the_recipe_runs_learns_and_finds_names() {
    let home = tempfile::tempdir().unwrap();
    let library = built("crf");
    let checked = succeeded(retune(home.path(), &["plugin", "allow", library.to_str().unwrap()]));
    for part in ["gradients agree with finite differences", "memory is given back", "wrong inputs are errors"] {
        assert!(checked.contains(part), "{checked}");
    }
    let recipe = repository("scripts/ner_crf.rhai");
    let text = std::fs::read_to_string(&recipe).unwrap();
    assert!(text.lines().count() <= 60);
    let recipe = recipe.display().to_string();
    let output = succeeded(retune(home.path(), &["run", &recipe, "output_dir=out", "num_train_epochs=6", "--json"]));
    let result: Json = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    let f1 = result["metrics"]["eval_f1"].as_f64().unwrap();
    // Six epochs of the tiny model; one that had not learned would find nothing.
    assert!(f1 > 0.35, "{result}");
    // What was saved is used with the same plugin.
    let found = succeeded(retune(
        home.path(),
        &["predict", "out", "Priya Lindqvist left Halden Bank and moved to Lisbon.", "--json"],
    ));
    let event: Json = serde_json::from_str(found.lines().next().unwrap()).unwrap();
    let places =
        event["prediction"].as_array().unwrap().iter().map(|one| (one["start"].as_i64(), one["entity"].as_str()));
    assert!(places.into_iter().any(|place| place == (Some(46), Some("B-LOC"))), "{event}");
}

/// Where steps between labels count for nothing, a CRF is the softmax over each label: the same losses as `std/tasks/ner`
/// without its layer's other tokens.
#[test]
fn frozen_steps_make_it_the_softmax() {
    let home = tempfile::tempdir().unwrap();
    succeeded(retune(home.path(), &["plugin", "allow", built("crf").to_str().unwrap()]));
    let recipe = r#"
let losses = #{};
for task in ["std/tasks/ner", "plugin:crf"] {
    set_seed(5);
    let model = AutoModelForTask::from_pretrained("std/minilm-tiny", task, #{ num_labels: 9 });
    if task == "plugin:crf" {
        expect(model.freeze("crf.*") == 2, "steps and ends");
    }
    let trainer = Trainer(#{
        model: model, processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
        train_dataset: load_dataset("std/entities").train.take(40),
        args: TrainingArguments(#{
            output_dir: "out", max_steps: 5, logging_steps: 1, save_strategy: "no", learning_rate: 3e-4,
            gradient_accumulation_steps: 2, per_device_train_batch_size: 4,
        }),
    });
    trainer.train();
    losses[task] = trainer.state.log_history.filter(|entry| "loss" in entry).map(|entry| entry.loss);
}
write_json("losses.json", losses);
"#;
    std::fs::write(home.path().join("softmax.rhai"), recipe).unwrap();
    succeeded(retune(home.path(), &["run", "softmax.rhai", "--quiet"]));
    let text = std::fs::read_to_string(home.path().join("losses.json")).unwrap();
    let losses: Json = serde_json::from_str(&text).unwrap();
    let numbers =
        |task: &str| losses[task].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect::<Vec<_>>();
    let (softmax, crf) = (numbers("std/tasks/ner"), numbers("plugin:crf"));
    assert_eq!(softmax.len(), 5);
    for (one, other) in softmax.iter().zip(&crf) {
        // Sums over a chain are added up in another order, and steps of AdamW carry that on.
        assert!((one - other).abs() < 1e-5, "{softmax:?} {crf:?}");
    }
}
