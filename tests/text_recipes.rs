//! `scripts/topic.rhai` and `scripts/regression.rhai` as they stand: the loss falls, the model has learnt something, and what is
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
