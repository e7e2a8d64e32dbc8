//! The search of a trainer: what each trial begins with, what is left of it, failures, pruning, resuming, and what is shown.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;
use retune::data::Value;
use retune::error::{Result, What};
use retune::head::Predictions;
use retune::train::search::pruner::{PercentilePruner, Pruner};
use retune::train::search::space::Distribution;
use retune::train::search::{Direction, Search, State, Study, TrialHandle, default_objective, default_space};
use retune::train::{Hooks, Trainer};
use serde_json::{Map, Value as Json, json};

use crate::tiny::{bits, classes, classifier, trainer};

/// A search over learning rates, without anything that listens.
fn search<'a>(
    study: Study,
    n_trials: usize,
    space: impl Fn(&TrialHandle) -> Result<Vec<(String, Value)>> + 'a,
) -> Search<'a> {
    Search {
        study,
        n_trials,
        timeout: None,
        patience: None,
        resume: false,
        hp_space: Box::new(space),
        objective: Box::new(|metrics| Ok(metrics["eval_loss"].as_f64().unwrap_or(f64::NAN))),
        name: None,
        model_init: None,
        hooks: Box::new(|_, _| Hooks::default()),
        watch: Box::new(|_, _| ()),
        done: Box::new(|_| ()),
    }
}

fn rates(trial: &TrialHandle) -> Result<Vec<(String, Value)>> {
    let of = Distribution::float("learning_rate", 1e-4, 1e-2, true, None)?;
    Ok(vec![("learning_rate".into(), trial.suggest("learning_rate", of)?)])
}

fn one_of(trial: &TrialHandle, rates: &[f64]) -> Result<Vec<(String, Value)>> {
    let of = Distribution::categorical("learning_rate", rates.iter().copied().map(Value::Float).collect())?;
    Ok(vec![("learning_rate".into(), trial.suggest("learning_rate", of)?)])
}

fn study_in(folder: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(folder.join("trials.json")).unwrap()).unwrap()
}

fn searcher(folder: &Path, extra: Json) -> Trainer {
    let mut args = json!({
        "output_dir": folder.display().to_string(), "num_train_epochs": 2, "per_device_train_batch_size": 4,
        "eval_strategy": "epoch",
    });
    args.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    trainer(&classifier(3), args, &classes(16, 3), Some(&classes(9, 3)))
}

#[test]
fn each_trial_begins_with_the_same_weights_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = searcher(folder.path(), json!({}));
    let (before, args) = (bits(trainer.model()), trainer.args().clone());
    let same = |trial: &TrialHandle| one_of(trial, &[3e-3]);
    let mut search = search(Study::new(Direction::Minimize, 1), 3, same);
    search.study.pruner = Pruner::None;
    let best = trainer.search(search).unwrap();
    assert_eq!(bits(trainer.model()), before, "the weights are what they were");
    assert_eq!(*trainer.args(), args);
    let trials = study_in(folder.path());
    let values: Vec<f64> =
        trials["trials"].as_array().unwrap().iter().map(|trial| trial["value"].as_f64().unwrap()).collect();
    assert_eq!(values, [best.objective; 3], "three times the same");
    assert_eq!((best.run_id.as_str(), &best.hyperparameters["learning_rate"]), ("0", &Value::Float(3e-3)));
    // The trial is what a training of its own gives.
    let mut alone = searcher(folder.path(), json!({ "learning_rate": 3e-3 }));
    alone.train(None, &mut Hooks::default()).unwrap();
    let losses: Vec<f64> = alone.state().log_history.iter().filter_map(|log| log.get("eval_loss")?.as_f64()).collect();
    assert_eq!(losses.last(), Some(&best.objective));
    assert_eq!(trials["trials"][0]["intermediate_values"], json!({ "4": losses[0], "8": losses[1] }));
    assert!(trainer.state().is_hyper_param_search && trainer.state().trial_params.is_some());
    assert!(!alone.state().is_hyper_param_search);
}

#[test]
fn checkpoints_go_to_a_folder_for_each_trial() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = searcher(folder.path(), json!({ "save_strategy": "epoch", "save_total_limit": 1 }));
    trainer.search(search(Study::new(Direction::Minimize, 1), 2, rates)).unwrap();
    for run in ["run-0", "run-1"] {
        assert!(folder.path().join(run).join("checkpoint-8/model.safetensors").is_file());
        let state = std::fs::read_to_string(folder.path().join(run).join("checkpoint-8/trainer_state.json")).unwrap();
        let state: Json = serde_json::from_str(&state).unwrap();
        assert_eq!(state["is_hyper_param_search"], true);
        assert!(state["trial_params"]["learning_rate"].is_f64(), "{state}");
    }
    let named = tempfile::tempdir().unwrap();
    let mut search = search(Study::new(Direction::Minimize, 1), 1, rates);
    search.name = Some(Box::new(|trial| Ok(format!("trial-{}", trial.number()))));
    searcher(named.path(), json!({ "save_strategy": "epoch" })).search(search).unwrap();
    assert!(named.path().join("trial-0/checkpoint-4").is_dir());
}

#[test]
fn a_trial_that_is_not_finite_fails_and_the_search_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = searcher(folder.path(), json!({ "max_grad_norm": 0.0, "num_train_epochs": 4 }));
    let space = |trial: &TrialHandle| if trial.number() == 1 { one_of(trial, &[1e30]) } else { one_of(trial, &[1e-3]) };
    let best = trainer.search(search(Study::new(Direction::Minimize, 1), 3, space)).unwrap();
    let trials = study_in(folder.path());
    let states: Vec<&str> =
        trials["trials"].as_array().unwrap().iter().map(|trial| trial["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["COMPLETE", "FAIL", "COMPLETE"]);
    assert!(trials["trials"][1]["error"].as_str().unwrap().contains("is not finite"), "{trials}");
    assert_eq!(best.run_id, "0");
    // Where none comes to an end, the reason of the first is told.
    let all = |trial: &TrialHandle| one_of(trial, &[1e30]);
    let error = trainer.search(search(Study::new(Direction::Minimize, 1), 2, all)).unwrap_err().to_string();
    assert!(error.contains("no trial came to an end; the first failed with: the"), "{error}");
    // An objective that is not a number is a failure too.
    let mut nan = search(Study::new(Direction::Minimize, 1), 1, rates);
    nan.objective = Box::new(|_| Ok(f64::NAN));
    let error = trainer.search(nan).unwrap_err().to_string();
    assert!(error.contains("the objective is not a number"), "{error}");
}

#[test]
fn trials_that_fall_behind_are_pruned_at_an_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = searcher(folder.path(), json!({ "save_strategy": "epoch" }));
    let mut study = Study::new(Direction::Maximize, 1);
    study.pruner = Pruner::Percentile(PercentilePruner { n_startup_trials: 2, ..PercentilePruner::default() });
    let mut search = search(study, 4, rates);
    // Scores by trial and evaluation: the third is behind at once, the fourth only later, when it is too late.
    let scores = [[0.5, 0.6], [0.6, 0.7], [0.4, 0.9], [0.7, 0.1]];
    let trial = std::cell::Cell::new(0);
    let ended = std::cell::Cell::new(0);
    search.hooks = Box::new(|_, _| {
        let mut next = 0;
        let number = trial.replace(trial.get() + 1);
        let ended = &ended;
        let mut hooks = crate::tiny::listening(move |event, _, _, _| {
            ended.set(ended.get() + usize::from(event == retune::train::callbacks::Event::TrainEnd));
        });
        hooks.compute_metrics = Some(Box::new(move |_: &Predictions| {
            next += 1;
            Ok(Value::Map(Arc::new(IndexMap::from([("score".to_string(), Value::Float(scores[number][next - 1]))]))))
        }));
        hooks
    });
    search.objective = Box::new(default_objective);
    let best = trainer.search(search).unwrap();
    let trials = study_in(folder.path());
    let states: Vec<&str> =
        trials["trials"].as_array().unwrap().iter().map(|trial| trial["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]);
    assert_eq!(trials["trials"][2]["intermediate_values"], json!({ "4": 0.4 }));
    assert_eq!((best.run_id.as_str(), best.objective, trials["best_trial"].as_u64()), ("1", 0.7, Some(1)));
    assert_eq!(ended.get(), 4, "callbacks learn of the end of a pruned trial too");
    assert!(
        !folder.path().join("run-2/checkpoint-4").exists(),
        "a pruned trial saves no checkpoint after the decision"
    );
}

#[test]
fn an_interrupted_search_goes_on_as_if_nothing_had_happened() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = |folder: &Path, n_trials: usize, resume: bool, signal_at: usize| {
        let mut study = Study::new(Direction::Minimize, 5);
        study.sampler = retune::train::search::sampler::Sampler::Tpe(retune::train::search::sampler::Tpe {
            n_startup_trials: 2,
            ..Default::default()
        });
        let mut search = search(study, n_trials, rates);
        search.resume = resume;
        let asked = Rc::new(Cell::new(0));
        search.hooks = Box::new(move |_, _| {
            let asked = asked.clone();
            let interrupted = move || {
                asked.set(asked.get() + 1);
                (asked.get() == signal_at).then_some(2)
            };
            Hooks { interrupted: Some(Box::new(interrupted)), ..Hooks::default() }
        });
        searcher(folder, json!({})).search(search)
    };
    let best = run(whole.path(), 6, false, 0).unwrap();
    run(cut.path(), 2, false, 0).unwrap();
    // Within a trial: it is asked for signals twice a step.
    let error = run(cut.path(), 6, true, 30).unwrap_err();
    assert!(matches!(error.what(), What::Stopped { signal: 2 }), "{error}");
    assert_eq!(run(cut.path(), 6, true, 0).unwrap(), best);
    let timeless = |folder: &Path| {
        let mut trials = study_in(folder);
        for trial in trials["trials"].as_array_mut().unwrap() {
            trial.as_object_mut().unwrap().remove("duration_s");
        }
        trials
    };
    assert_eq!(timeless(cut.path()), timeless(whole.path()));
    assert_eq!(study_in(cut.path())["trials"].as_array().unwrap().len(), 6);
}

#[test]
fn a_search_ends_by_patience_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = searcher(folder.path(), json!({}));
    let objective = |number: &std::cell::Cell<f64>| number.replace(number.get() + 1.0);
    let number = std::cell::Cell::new(0.0);
    let mut patient = search(Study::new(Direction::Minimize, 1), 20, rates);
    (patient.patience, patient.study.pruner) = (Some(2), Pruner::None);
    patient.objective = Box::new(|_| Ok(objective(&number)));
    trainer.search(patient).unwrap();
    assert_eq!(
        study_in(folder.path())["trials"].as_array().unwrap().len(),
        3,
        "the first is the best, two more follow"
    );
    let mut late = search(Study::new(Direction::Minimize, 1), 20, rates);
    late.timeout = Some(std::time::Duration::ZERO);
    assert!(trainer.search(late).unwrap_err().to_string().contains("no trial came to an end"));
}

#[test]
fn the_objective_and_the_space_are_hugging_faces() {
    let check = |metrics: Json, expected: f64| {
        let metrics: Map<String, Json> = metrics.as_object().unwrap().clone();
        assert_eq!(default_objective(&metrics).unwrap(), expected, "{metrics:?}");
    };
    let speed = json!({
        "eval_loss": 0.5, "epoch": 2.0, "eval_runtime": 3.0, "eval_samples_per_second": 7.0, "eval_steps_per_second": 2.0,
    });
    check(speed.clone(), 0.5);
    let with = |extra: Json| {
        let mut all = speed.clone();
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        all
    };
    check(with(json!({ "eval_accuracy": 0.75 })), 0.75);
    check(with(json!({ "eval_accuracy": 0.75, "eval_f1": 0.5, "eval_count": 2 })), 3.25);
    let refused = default_objective(with(json!({ "eval_name": "x" })).as_object().unwrap()).unwrap_err().to_string();
    assert_eq!(refused, "the metric `eval_name` must be a number, but is \"x\"");
    assert!(default_objective(&Map::new()).is_err());
    let study = Arc::new(std::sync::Mutex::new(Study::new(Direction::Minimize, 3)));
    let mut seen = Vec::new();
    for _ in 0..40 {
        let number = study.lock().unwrap().begin();
        let values = default_space(&TrialHandle::new(study.clone(), number)).unwrap();
        study.lock().unwrap().finish(number, State::Fail, None);
        let value = |name: &str| values.iter().find(|(key, _)| key == name).unwrap().1.as_float().unwrap();
        assert!((1e-6..=1e-4).contains(&value("learning_rate")) && (1.0..=40.0).contains(&value("seed")));
        assert!([4.0, 8.0, 16.0, 32.0, 64.0].contains(&value("per_device_train_batch_size")));
        seen.push(value("num_train_epochs") as i64);
    }
    assert!((1..=5).all(|epochs| seen.contains(&epochs)), "{seen:?}");
}

/// A small recipe from text, with what `--json` says of it.
fn recipe(text: &str, flags: &[&str]) -> (String, String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("recipe.rhai"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    let output = command.args(["run", "recipe.rhai"]).args(flags).current_dir(folder.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into());
    assert!(output.status.success(), "{err}");
    (out, err, folder)
}

const RECIPE: &str = r#"
let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
let rows = load_dataset("std/reviews", #{ split: "train[:24]" });
let trainer = Trainer(#{
    model_init: || BertForSequenceClassification::from_config(#{
        vocab_size: 8000, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32,
        max_position_embeddings: 24,
    }),
    args: TrainingArguments(#{ output_dir: "out", num_train_epochs: 1, eval_strategy: "epoch", save_strategy: "no" }),
    train_dataset: rows, eval_dataset: rows, processing_class: tokenizer, task_options: #{ max_length: 8 },
});
let best = trainer.hyperparameter_search(#{
    hp_space: #{ learning_rate: #{ low: 1e-5, high: 1e-3, log: true }, per_device_train_batch_size: [4, 8] },
    compute_objective: |metrics| metrics.eval_loss, n_trials: 3, pruner: "none",
});
"#;

#[test]
fn trials_are_shown_and_told() {
    let (out, err, folder) = recipe(RECIPE, &["--json"]);
    let events: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let trials: Vec<&Json> = events.iter().filter(|event| event["event"] == "trial").collect();
    let states: Vec<&str> = trials.iter().map(|trial| trial["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["RUNNING", "COMPLETE"].repeat(3));
    let kept = study_in(folder.path().join("out").as_path());
    for (number, trial) in trials.iter().filter(|trial| trial["state"] == "COMPLETE").enumerate() {
        for key in ["number", "value", "params", "intermediate_values", "duration_s"] {
            assert_eq!(trial[key], kept["trials"][number][key], "{key}");
        }
    }
    let result = events.last().unwrap();
    assert_eq!(result["event"], "result");
    let best = &kept["trials"][kept["best_trial"].as_u64().unwrap() as usize];
    assert_eq!(result["best_run"]["objective"], best["value"]);
    assert_eq!(result["best_run"]["hyperparameters"], best["params"]);
    assert!(best["params"]["per_device_train_batch_size"].is_i64());
    // One table, with the best first; rows are encoded once for all trials; the model's making is told once.
    let table: Vec<&str> = err.lines().skip_while(|line| !line.starts_with("  trial  objective")).take(4).collect();
    assert!(table[1].starts_with(&format!("* {}", best["number"])), "{err}");
    assert_eq!(table.iter().filter(|line| line.starts_with('*')).count(), 1);
    assert_eq!(err.matches("were cut to 8 tokens").count(), 1, "{err}");
    assert!(!folder.path().join("out/run-0").exists(), "save_strategy is \"no\"");
    let (again, ..) = recipe(RECIPE, &["--json"]);
    let values = |out: &str| -> Vec<Json> {
        let events = out.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
        events.filter(|event| event["state"] == "COMPLETE").map(|event| event["value"].clone()).collect()
    };
    assert_eq!(values(&again), values(&out), "the same search twice");
}
