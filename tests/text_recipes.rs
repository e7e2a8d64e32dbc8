//! `scripts/topic.rhai`, `scripts/regression.rhai` and `scripts/search.rhai`: the loss falls, the model has learnt something, and what is
//! saved predicts what the recipe predicted.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

/// What the program writes for programs and for people.
fn retune(place: &Path, arguments: &[&str]) -> (Vec<Json>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_retune")).args(arguments).current_dir(place).output().unwrap();
    let people = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{people}");
    let events = String::from_utf8(output.stdout).unwrap();
    (events.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), people)
}

/// Runs a recipe and gives its logged losses, its metrics, and what it printed.
fn run(place: &Path, recipe: &str, steps: &str) -> (Vec<f64>, Json, String) {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(recipe);
    let (events, people) = retune(place, &["run", "--json", recipe.to_str().unwrap(), steps, "output_dir=saved"]);
    let logs = events.iter().filter(|event| event["event"] == "log");
    (logs.filter_map(|event| event["loss"].as_f64()).collect(), events.last().unwrap()["metrics"].clone(), people)
}

/// The best label and score that the saved model gives a text.
fn predicted(place: &Path, text: &str) -> (String, f64) {
    let (events, _) = retune(place, &["predict", "--json", "saved", text]);
    let best = &events[0]["prediction"];
    let best = best.get(0).unwrap_or(best);
    (best["label"].as_str().unwrap().to_string(), best["score"].as_f64().unwrap())
}

#[test]
fn topics_are_learnt() {
    let place = tempfile::tempdir().unwrap();
    let (losses, metrics, people) = run(place.path(), "topic.rhai", "max_steps=30");
    assert!(losses.len() == 3 && losses[2] < 0.8 * losses[0], "{losses:?}");
    assert!(metrics["eval_accuracy"].as_f64().unwrap() > 0.5, "one in six by chance: {metrics}");
    let text = "Who won the cup final on Sunday?";
    let printed = people.lines().find(|line| line.ends_with(text)).unwrap();
    let (label, score) = predicted(place.path(), text);
    let (first, rest) = printed.split_once(' ').unwrap();
    let shown: f64 = rest.split(' ').next().unwrap().parse().unwrap();
    assert!(first == label && (shown - score).abs() < 1e-6, "{printed}: {label} {score}");
}

#[test]
fn ratings_are_learnt() {
    let place = tempfile::tempdir().unwrap();
    let (losses, metrics, people) = run(place.path(), "regression.rhai", "max_steps=39");
    assert!(losses.len() == 3 && losses[2] < 0.5 * losses[0], "{losses:?}");
    assert!(metrics["eval_spearman"].as_f64().unwrap() > 0.3, "none by chance: {metrics}");
    let printed = people.lines().find(|line| line.contains(" for ") && line.contains("\"text\"")).unwrap();
    let shown: f64 = printed.split(' ').next().unwrap().parse().unwrap();
    let text = printed.split("\"text\": \"").nth(1).unwrap().split('"').next().unwrap();
    let (_, score) = predicted(place.path(), text);
    assert!((shown - score).abs() < 1e-5, "{printed}: {score}");
}

#[test]
fn a_search_trains_with_what_it_found_and_saves_it() {
    let place = tempfile::tempdir().unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/search.rhai");
    let arguments = ["n_trials=2", "rows=64", "num_train_epochs=3", "output_dir=saved"];
    let (events, people) =
        retune(place.path(), &[&["run", "--json", recipe.to_str().unwrap()], &arguments[..]].concat());
    assert!(events.iter().any(|event| event["event"] == "trial"));
    let trials: Json = serde_json::from_slice(&std::fs::read(place.path().join("saved/trials.json")).unwrap()).unwrap();
    assert_eq!(trials["trials"].as_array().unwrap().len(), 2);
    // The last training is the one with the best arguments: three epochs, a loss for each.
    let losses: Vec<f64> =
        events.iter().filter(|event| event["event"] == "log").filter_map(|event| event["loss"].as_f64()).collect();
    let last = &losses[losses.len() - 3..];
    assert!(last[2] < last[0], "{losses:?}");
    let shown = people.lines().rev().find(|line| line.starts_with("accuracy ")).unwrap();
    // The saved model has the accuracy that was printed.
    let check = "let rows = load_dataset(\"std/reviews\").validation.take(32); let right = 0;\n\
        for (result, row) in pipeline(\"text-classification\", #{ model: \"saved\" }).predict(rows) {\n\
        if result.label == rows[row].label { right += 1; } }\n\
        print(`accuracy ${right / 32.0}`);\n";
    std::fs::write(place.path().join("check.rhai"), check).unwrap();
    let (_, again) = retune(place.path(), &["run", "--json", "check.rhai"]);
    assert!(again.lines().any(|line| line == shown), "{shown}: {again}");
}

/// A folder may have a training split alone, or a test split in place of a validation split; columns may hold ids or names.
#[test]
fn recipes_take_folders_with_other_splits() {
    let place = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        format!("{{\"text\": \"{} film, row {i} of the file\", \"label\": {}}}\n", ["dull", "fine"][i % 2], i % 2)
    };
    let lines: Vec<String> = (0..40).map(row).collect();
    for (folder, split, rows) in [("alone", "train", 0..40), ("two", "train", 0..30), ("two", "test", 30..40)] {
        std::fs::create_dir_all(place.path().join(folder)).unwrap();
        std::fs::write(place.path().join(folder).join(format!("{split}.jsonl")), lines[rows].concat()).unwrap();
    }
    let recipes = ["sentiment", "topic", "regression", "custom_loop", "few_labels", "search", "language_model"];
    for recipe in recipes {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scripts/{recipe}.rhai"));
        for data in ["data=alone", "data=two"] {
            let mut arguments = vec!["run", "--json", path.to_str().unwrap(), data, "max_steps=1", "output_dir=saved"];
            arguments.extend(match recipe {
                "search" => Some("n_trials=1"),
                "language_model" => Some("block_size=8"),
                _ => None,
            });
            retune(place.path(), &arguments);
            assert!(place.path().join("saved/tokenizer.json").exists(), "{recipe} saves what predicting needs");
            std::fs::remove_dir_all(place.path().join("saved")).unwrap();
        }
    }
}
