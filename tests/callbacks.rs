//! Events and flags: what fires when, and what setting a flag does, in Hugging Face's order.

use retune::train::callbacks::EarlyStoppingCallback;
use serde_json::{Value as Json, json};

use crate::tiny::{classes, classifier, listening, logged, scripted, trainer};

/// The events of a run, without `on_`; repetitions are counted.
fn events(args: Json, n_rows: usize) -> Vec<String> {
    let rows = classes(n_rows, 2);
    let mut trainer = trainer(&classifier(2), args, &rows, Some(&rows.take(5)));
    let mut events: Vec<(&str, usize)> = Vec::new();
    let mut hooks = listening(|event, _, _, _| match events.last_mut() {
        Some((last, count)) if *last == event.name() => *count += 1,
        _ => events.push((event.name(), 1)),
    });
    trainer.made(&mut hooks).unwrap();
    trainer.train(None, &mut hooks).unwrap();
    trainer.evaluate(None, &mut hooks).unwrap();
    trainer.predict(&rows, &mut hooks).unwrap();
    drop(hooks);
    let shown = |(name, count): (&str, usize)| {
        let name = name.trim_start_matches("on_");
        if count == 1 { name.to_string() } else { format!("{count} {name}") }
    };
    events.into_iter().map(shown).collect()
}

#[test]
fn every_event_fires_in_hugging_faces_order() {
    let folder = tempfile::tempdir().unwrap();
    let args = json!({
        "output_dir": folder.path(), "num_train_epochs": 2, "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 2, "logging_steps": 3, "eval_strategy": "epoch", "save_strategy": "epoch",
    });
    let step = ["step_begin", "pre_optimizer_step", "optimizer_step", "step_end"];
    let evaluation = ["3 prediction_step", "log", "evaluate"];
    let mut expected = vec!["init_end", "train_begin"];
    for _ in 0..2 {
        expected.push("epoch_begin");
        expected.extend([step, step, step].concat());
        // The third step is logged, then the epoch ends.
        expected.extend(["log", "epoch_end"]);
        expected.extend(evaluation);
        expected.push("save");
    }
    expected.extend(["log", "train_end"]);
    expected.extend(evaluation);
    expected.extend(["6 prediction_step", "predict"]);
    assert_eq!(events(args, 12), expected);
}

#[test]
fn substeps_end_and_a_step_is_evaluated_once() {
    let folder = tempfile::tempdir().unwrap();
    let args = json!({
        "output_dir": folder.path(), "num_train_epochs": 1, "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 5, "gradient_accumulation_steps": 2, "logging_steps": 1, "eval_strategy": "steps",
        "eval_steps": 2, "eval_on_start": true, "save_strategy": "steps", "save_steps": 1,
    });
    let expected = [
        "init_end",
        "train_begin",
        "prediction_step",
        "log",
        "evaluate",
        "epoch_begin",
        // Two batches.
        "step_begin",
        "substep_end",
        "pre_optimizer_step",
        "optimizer_step",
        "step_end",
        "log",
        "save",
        // The one that is left; the last step of the epoch is not evaluated and saved a second time where the epoch ends.
        "step_begin",
        "pre_optimizer_step",
        "optimizer_step",
        "step_end",
        "log",
        "prediction_step",
        "log",
        "evaluate",
        "save",
        "epoch_end",
        "log",
        "train_end",
        "prediction_step",
        "log",
        "evaluate",
        "3 prediction_step",
        "predict",
    ];
    assert_eq!(events(args, 12), expected);
}

/// Sets a flag at an event of a step; gives the steps at which the loss was logged, an evaluation ended and a checkpoint was
/// saved, and the step and epoch at the end.
fn steered(
    event: &str,
    step: usize,
    set: impl Fn(&mut retune::train::callbacks::TrainerControl),
) -> (Vec<u64>, Vec<u64>, Vec<usize>, (usize, f64)) {
    let folder = tempfile::tempdir().unwrap();
    let args = json!({
        "output_dir": folder.path(), "num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_strategy": "no",
    });
    let rows = classes(12, 2);
    let mut trainer = trainer(&classifier(2), args, &rows, Some(&rows));
    let mut saved = Vec::new();
    let mut hooks = listening(|found, state, control, _| {
        if found.name() == event && state.global_step == step {
            set(control);
        }
        if found.name() == "on_save" {
            saved.push(state.global_step);
        }
    });
    trainer.train(None, &mut hooks).unwrap();
    drop(hooks);
    let state = trainer.state();
    let at = |key: &str| {
        let logs = state.log_history.iter().filter(|log| log.contains_key(key));
        logs.map(|log| log["step"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    (at("loss"), at("eval_loss"), saved, (state.global_step, state.epoch))
}

#[test]
fn flags_steer_the_run() {
    let end = (6, 2.0);
    assert_eq!(steered("on_step_end", 9, |_| ()), (vec![], vec![], vec![], end));
    assert_eq!(steered("on_step_end", 2, |c| c.should_log = true), (vec![2], vec![], vec![], end));
    assert_eq!(steered("on_step_end", 2, |c| c.should_evaluate = true), (vec![], vec![2], vec![], end));
    assert_eq!(steered("on_step_end", 2, |c| c.should_save = true), (vec![], vec![], vec![2], end));
    assert_eq!(steered("on_epoch_end", 3, |c| c.should_save = true), (vec![], vec![], vec![3], end));
    // Stopping an epoch ends it there; the next one begins.
    assert_eq!(steered("on_step_end", 1, |c| c.should_epoch_stop = true), (vec![], vec![], vec![], (4, 2.0)));
    let (.., stopped) = steered("on_step_end", 4, |c| c.should_training_stop = true);
    assert!(stopped.0 == 4 && (stopped.1 - 4.0 / 3.0).abs() < 1e-12, "{stopped:?}");
    let both = steered("on_step_end", 4, |c| (c.should_training_stop, c.should_save) = (true, true));
    assert_eq!((both.2, both.3.0), (vec![4], 4), "saved once");
}

/// The epochs trained with these values of the metric, one an epoch; `None` where early stopping did not come.
fn stops(greater: bool, patience: u64, threshold: f64, values: &'static [f64]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let args = json!({
        "output_dir": folder.path(), "num_train_epochs": values.len(), "per_device_train_batch_size": 8,
        "eval_strategy": "epoch", "metric_for_best_model": "score", "greater_is_better": greater,
    });
    let rows = classes(4, 2);
    let mut trainer = trainer(&classifier(2), args, &rows, Some(&rows));
    let mut hooks = retune::train::Hooks::default();
    hooks.callbacks.push(Box::new(EarlyStoppingCallback::new(patience, threshold)));
    scripted(&mut hooks, "score", values);
    trainer.train(None, &mut hooks).unwrap();
    assert_eq!(logged(&trainer, "eval_score"), values[..trainer.state().global_step]);
    trainer.state().global_step
}

#[test]
fn early_stopping_counts_evaluations_without_an_improvement() {
    let cases: &[(bool, u64, f64, &[f64], usize)] = &[
        (true, 1, 0.0, &[0.5, 0.6, 0.6, 0.9], 3), // no better is no improvement
        (true, 2, 0.0, &[0.5, 0.4, 0.6, 0.5, 0.5, 0.9], 5), // the counter starts again
        (true, 2, 0.0, &[0.5, 0.4, 0.3, 0.9], 3),
        (false, 1, 0.0, &[0.5, 0.4, 0.45, 0.1], 3),
        // The best moves on by less than the threshold, and each step is compared with that best.
        (true, 2, 0.15, &[0.5, 0.6, 0.7, 0.8], 3),
        (true, 2, 0.05, &[0.5, 0.6, 0.7, 0.8], 4),
    ];
    for (greater, patience, threshold, values, expected) in cases {
        assert_eq!(stops(*greater, *patience, *threshold, values), *expected, "{patience} {threshold} {values:?}");
    }
}

#[test]
fn what_callbacks_remember_is_saved_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let args = |epochs: usize| {
        json!({
            "output_dir": folder.path(), "num_train_epochs": epochs, "per_device_train_batch_size": 8,
            "eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "score",
        })
    };
    let rows = classes(4, 2);
    let run = |epochs: usize, resume: Option<&str>, values: &'static [f64]| {
        let mut trainer = trainer(&classifier(2), args(epochs), &rows, Some(&rows));
        let mut hooks = retune::train::Hooks::default();
        hooks.callbacks.push(Box::new(EarlyStoppingCallback::new(3, 0.0)));
        scripted(&mut hooks, "score", values);
        trainer.train(resume.map(|name| folder.path().join(name)), &mut hooks).unwrap();
        trainer.state().global_step
    };
    assert_eq!(run(3, None, &[0.5, 0.4, 0.3]), 3);
    let text = std::fs::read_to_string(folder.path().join("checkpoint-3/trainer_state.json")).unwrap();
    let state: Json = serde_json::from_str(&text).unwrap();
    let early = &state["stateful_callbacks"]["EarlyStoppingCallback"];
    assert_eq!(early["args"], json!({ "early_stopping_patience": 3, "early_stopping_threshold": 0.0 }));
    assert_eq!(early["attributes"], json!({ "early_stopping_patience_counter": 2 }));
    assert!(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"].is_boolean());
    assert_eq!(run(9, Some("checkpoint-3"), &[0.2, 0.1]), 4, "one more without an improvement is the third");
}

#[test]
fn a_callback_sees_logs_metrics_and_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let args = json!({
        "output_dir": folder.path(), "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps",
    });
    let rows = classes(4, 2);
    let mut trainer = trainer(&classifier(2), args, &rows, Some(&rows));
    let mut seen: Vec<(&str, Vec<String>)> = Vec::new();
    let mut hooks = listening(|event, _, _, extra| {
        if let Some(map) = extra.logs.or(extra.metrics) {
            seen.push((event.name(), map.keys().filter(|key| !key.contains("_per_second")).cloned().collect()));
        }
        if let Some(folder) = extra.checkpoint {
            seen.push((event.name(), vec![folder.file_name().unwrap().to_string_lossy().into_owned()]));
        }
    });
    trainer.train(None, &mut hooks).unwrap();
    drop(hooks);
    let words = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
    assert_eq!(
        seen,
        [
            ("on_log", words("loss grad_norm learning_rate epoch")),
            ("on_log", words("eval_loss eval_accuracy eval_f1 eval_runtime epoch")),
            ("on_evaluate", words("eval_loss eval_accuracy eval_f1 eval_runtime epoch")),
            ("on_save", words("checkpoint-1")),
            ("on_log", words("train_runtime total_flos train_loss epoch")),
        ]
    );
}
