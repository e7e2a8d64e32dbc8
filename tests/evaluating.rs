//! Evaluation and prediction: order, independence of batches, losses by Hugging Face's rules, and the best model.

use retune::data::{Dataset, Value};
use retune::train::{EvaluationData, Hooks, Trainer, TrainerSettings};
use serde_json::{Value as Json, json};

use crate::tiny::{
    arguments, bits, classes, classifier, dataset, ids, load, logged, model, numbers, predict, scripted, tags, train,
    trainer,
};

/// Weights of the size that the reference packs have, so that scores are around 0.1 and rounding stays below 1e-6.
const INITIALIZER_RANGE: f64 = 0.08;

fn evaluated(suffix: &str, args: Json, rows: &Dataset) -> (f64, Vec<Vec<f64>>) {
    let model = model(suffix, json!({ "num_labels": 4, "initializer_range": INITIALIZER_RANGE }));
    let mut trainer = trainer(&model, args, rows, None);
    let evaluation = trainer.predict(rows, &mut Hooks::default()).unwrap();
    let loss = evaluation.metrics["test_loss"].as_f64().unwrap();
    (loss, evaluation.predictions.predictions.iter().map(numbers).collect())
}

fn close(one: &[Vec<f64>], other: &[Vec<f64>], tolerance: f64) {
    assert_eq!(one.len(), other.len());
    for (row, (one, other)) in one.iter().zip(other).enumerate() {
        assert_eq!(one.len(), other.len(), "row {row}");
        for (a, b) in one.iter().zip(other) {
            assert!((a - b).abs() <= tolerance, "row {row}: {one:?} {other:?}");
        }
    }
}

#[test]
fn rows_keep_their_order_and_do_not_depend_on_their_batch() {
    for (suffix, rows) in [("ForSequenceClassification", classes(21, 4)), ("ForTokenClassification", tags(21, 4))] {
        let model = model(suffix, json!({ "num_labels": 4, "initializer_range": INITIALIZER_RANGE }));
        let mut trainer = trainer(&model, json!({}), &rows, None);
        let alone: Vec<Vec<f64>> =
            (0..rows.len()).flat_map(|row| predict(&mut trainer, &rows.select(&[row]).unwrap())).collect();
        for args in [
            json!({ "per_device_eval_batch_size": 1 }),
            json!({ "per_device_eval_batch_size": 4 }),
            json!({ "per_device_eval_batch_size": 64, "group_by_length": true }),
        ] {
            // Matrix products of another size add in another order: a few units in the last place of numbers around 1.
            close(&evaluated(suffix, args, &rows).1, &alone, 1e-6);
        }
        let backwards: Vec<usize> = (0..rows.len()).rev().collect();
        let mut turned = predict(&mut trainer, &rows.select(&backwards).unwrap());
        turned.reverse();
        close(&turned, &alone, 1e-6);
        for (row, scores) in alone.iter().enumerate() {
            let n_tokens = ids(row).len();
            assert_eq!(scores.len(), if suffix == "ForSequenceClassification" { 4 } else { 4 * n_tokens });
        }
    }
}

/// log(softmax(scores)).
fn log_softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    scores.iter().map(|score| score - largest - sum.ln()).collect()
}

/// Hugging Face's `LabelSmoother` over (scores, class) pairs: (1 - e) * mean of -log p(class) + e * mean over the labels too.
fn smoothed(pairs: &[(&[f64], i64)], epsilon: f64) -> f64 {
    let active: Vec<_> = pairs.iter().filter(|(_, class)| *class != -100).collect();
    let (mut nll, mut smooth) = (0.0, 0.0);
    for (scores, class) in &active {
        let logs = log_softmax(scores);
        nll -= logs[*class as usize];
        smooth -= logs.iter().sum::<f64>() / logs.len() as f64;
    }
    let n = active.len() as f64;
    (1.0 - epsilon) * nll / n + epsilon * smooth / n
}

/// The oracle of the oracle: numbers from numpy for scores [2, 0, -1], class 0, factor 0.1.
///
/// `l = x - np.log(np.exp(x).sum()); 0.9 * -l[0] + 0.1 * -l.mean()` is 0.3365113...
#[test]
fn label_smoothing_is_written_down_correctly() {
    let scores = [2.0f64, 0.0, -1.0];
    let sum: f64 = 2f64.exp() + 1.0 + (-1f64).exp();
    let expected = 0.9 * (sum.ln() - 2.0) + 0.1 * (sum.ln() - 1.0 / 3.0);
    assert!((smoothed(&[(&scores, 0)], 0.1) - expected).abs() < 1e-15);
}

/// The loss of an evaluation is the mean over batches, each weighted by its rows, though a batch's own is one over labels.
fn check_eval_loss(suffix: &str, rows: &Dataset, factor: f64) {
    let args = json!({ "per_device_eval_batch_size": 4, "label_smoothing_factor": factor });
    let (loss, predictions) = evaluated(suffix, args, rows);
    let mut sum = 0.0;
    for (number, batch) in predictions.chunks(4).enumerate() {
        let mut pairs = Vec::new();
        for (place, scores) in batch.iter().enumerate() {
            let labels = numbers(&rows.row(number * 4 + place).unwrap()["labels"]);
            pairs.extend(scores.chunks(4).zip(labels.into_iter().map(|label| label as i64)));
        }
        sum += smoothed(&pairs, factor) * batch.len() as f64;
    }
    let expected = sum / rows.len() as f64;
    // Scores are f32.
    assert!((loss - expected).abs() < 2e-6 * expected, "{suffix}: {loss} {expected}");
}

#[test]
fn losses_are_those_of_hugging_face() {
    check_eval_loss("ForTokenClassification", &tags(22, 4), 0.0);
    check_eval_loss("ForTokenClassification", &tags(22, 4), 0.1);
    check_eval_loss("ForSequenceClassification", &classes(10, 4), 0.0);
    check_eval_loss("ForSequenceClassification", &classes(10, 4), 0.3);
}

#[test]
fn smoothing_is_in_the_training_loss_too() {
    let rows = classes(6, 4);
    let still = json!({ "num_labels": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0 });
    let model = model("ForSequenceClassification", still);
    let args =
        json!({ "max_steps": 1, "label_smoothing_factor": 0.2, "eval_strategy": "steps", "eval_on_start": true });
    let trainer = train(&model, args, &rows, Some(&rows));
    // Without dropout the first step has the loss of the evaluation before it.
    let (evaluation, step) = (logged(&trainer, "eval_loss")[0], logged(&trainer, "loss")[0]);
    assert!((evaluation - step).abs() < 1e-6 * step, "{evaluation} {step}");
}

#[test]
fn rows_without_labels_give_no_label_ids_and_no_loss() {
    let rows = dataset((0..5).map(|index| json!({ "input_ids": ids(index) })));
    let mut trainer = trainer(&classifier(2), json!({}), &classes(4, 2), None);
    let mut hooks =
        Hooks { compute_metrics: Some(Box::new(|_| panic!("there is nothing to compare with"))), ..Hooks::default() };
    let evaluation = trainer.predict(&rows, &mut hooks).unwrap();
    assert_eq!(evaluation.predictions.predictions.len(), 5);
    assert!(evaluation.predictions.label_ids.is_empty());
    let keys: Vec<&String> = evaluation.metrics.keys().collect();
    assert_eq!(keys, ["test_runtime", "test_samples_per_second", "test_steps_per_second"]);
}

/// The steps of the evaluations.
fn eval_steps(args: Json) -> Vec<u64> {
    let rows = classes(8, 2);
    let mut all = json!({ "per_device_train_batch_size": 4 });
    all.as_object_mut().unwrap().extend(args.as_object().unwrap().clone());
    let trainer = train(&classifier(2), all, &rows, Some(&rows));
    let logs = trainer.state().log_history.iter().filter(|log| log.contains_key("eval_loss"));
    logs.map(|log| log["step"].as_u64().unwrap()).collect()
}

#[test]
fn evaluations_come_when_the_arguments_say() {
    let cases = [
        (json!({ "num_train_epochs": 3, "eval_strategy": "no" }), vec![]),
        (json!({ "num_train_epochs": 3, "eval_strategy": "epoch" }), vec![2, 4, 6]),
        (json!({ "num_train_epochs": 3, "evaluation_strategy": "epoch" }), vec![2, 4, 6]),
        (json!({ "num_train_epochs": 3, "eval_strategy": "epoch", "eval_delay": 2 }), vec![4, 6]),
        (json!({ "num_train_epochs": 3, "eval_strategy": "steps", "eval_steps": 2 }), vec![2, 4, 6]),
        (json!({ "num_train_epochs": 3, "eval_strategy": "steps", "eval_steps": 3 }), vec![3, 6]),
        (json!({ "num_train_epochs": 3, "eval_strategy": "steps", "eval_steps": 2, "eval_delay": 3 }), vec![4, 6]),
        (json!({ "num_train_epochs": 3, "eval_strategy": "steps", "eval_steps": 0.5 }), vec![3, 6]),
        (json!({ "num_train_epochs": 2, "eval_strategy": "steps", "logging_steps": 2 }), vec![2, 4]),
        (json!({ "num_train_epochs": 1, "eval_strategy": "epoch", "eval_on_start": true }), vec![0, 2]),
    ];
    for (args, expected) in cases {
        assert_eq!(eval_steps(args.clone()), expected, "{args}");
    }
}

#[test]
fn several_data_sets_are_evaluated_by_name() {
    let (one, two) = (classes(5, 2), classes(9, 2));
    let mut trainer = Trainer::new(TrainerSettings {
        model: classifier(2),
        args: arguments(json!({ "max_steps": 1, "eval_strategy": "steps", "metric_for_best_model": "b_loss" })),
        train_dataset: Some(one.clone()),
        eval_dataset: Some(EvaluationData::Named(
            [("a".to_string(), one.clone()), ("b".to_string(), two.clone())].into(),
        )),
        tokenizer: None,
        task_options: retune::data::Row::default(),
    })
    .unwrap();
    trainer.train(None, &mut Hooks::default()).unwrap();
    let history = &trainer.state().log_history;
    let firsts: Vec<&String> = history.iter().map(|log| log.keys().next().unwrap()).collect();
    assert_eq!(firsts, ["loss", "eval_a_loss", "eval_b_loss", "train_runtime"], "each has its own entry");
    assert_eq!(trainer.state().best_metric, Some(logged(&trainer, "eval_b_loss")[0]));
    let metrics = trainer.evaluate(None, &mut Hooks::default()).unwrap();
    for name in ["eval_a_loss", "eval_a_accuracy", "eval_a_runtime", "eval_b_loss", "eval_b_f1"] {
        assert!(metrics.contains_key(name), "{name}: {metrics:?}");
    }
    assert_eq!(metrics.keys().next_back().unwrap(), "epoch");
    let alone = trainer.evaluate(Some(&EvaluationData::One(two)), &mut Hooks::default()).unwrap();
    assert_eq!(alone["eval_loss"], metrics["eval_b_loss"]);
}

struct Best {
    args: Json,
    metric: &'static str,
    values: &'static [f64],
    /// The checkpoints that are there at the end.
    kept: &'static [usize],
    best: usize,
}

fn check_best(case: &Best) {
    let folder = tempfile::tempdir().unwrap();
    let rows = classes(8, 2);
    let mut args = json!({
        "output_dir": folder.path(), "num_train_epochs": case.values.len(), "eval_strategy": "epoch",
        "save_strategy": "epoch", "load_best_model_at_end": true, "metric_for_best_model": case.metric,
        "lr_scheduler_type": "constant",
    });
    args.as_object_mut().unwrap().extend(case.args.as_object().unwrap().clone());
    let model = classifier(2);
    let mut trainer = trainer(&model, args, &rows, Some(&rows));
    let mut hooks = Hooks::default();
    scripted(&mut hooks, case.metric, case.values);
    trainer.train(None, &mut hooks).unwrap();
    let mut found: Vec<usize> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_start_matches("checkpoint-").parse().unwrap())
        .collect();
    found.sort_unstable();
    assert_eq!(found, case.kept, "{:?} {:?}", case.args, case.values);
    let state = trainer.state();
    let best = folder.path().join(format!("checkpoint-{}", case.best));
    assert_eq!(state.best_model_checkpoint.as_deref(), best.to_str());
    assert_eq!((state.best_global_step, state.best_metric), (Some(case.best), Some(case.values[case.best - 1])));
    let loaded = load(&best, "ForSequenceClassification").unwrap();
    assert_eq!(bits(&model), bits(&loaded), "the weights are the best ones");
    let mut other = crate::tiny::trainer(&loaded, json!({}), &rows, None);
    assert_eq!(predict(&mut trainer, &rows), predict(&mut other, &rows));
}

#[test]
fn the_best_model_comes_back() {
    let cases = [
        Best { args: json!({}), metric: "score", values: &[0.3, 0.9, 0.5], kept: &[1, 2, 3], best: 2 },
        Best { args: json!({}), metric: "score", values: &[0.9, 0.9, 0.9], kept: &[1, 2, 3], best: 1 },
        Best {
            args: json!({ "greater_is_better": false }),
            metric: "score",
            values: &[0.3, 0.9, 0.1],
            kept: &[1, 2, 3],
            best: 3,
        },
        // A name that ends in `loss` is better when less.
        Best { args: json!({}), metric: "my_loss", values: &[0.3, 0.2, 0.5], kept: &[1, 2, 3], best: 2 },
        // The best and the newest stay.
        Best {
            args: json!({ "save_total_limit": 2 }),
            metric: "score",
            values: &[0.9, 0.2, 0.3, 0.4],
            kept: &[1, 4],
            best: 1,
        },
        Best {
            args: json!({ "save_total_limit": 2 }),
            metric: "score",
            values: &[0.1, 0.2, 0.3, 0.4],
            kept: &[3, 4],
            best: 4,
        },
        // At the end a limit of one keeps the best alone.
        Best { args: json!({ "save_total_limit": 1 }), metric: "score", values: &[0.1, 0.9, 0.3], kept: &[2], best: 2 },
        Best {
            args: json!({ "save_strategy": "best" }),
            metric: "score",
            values: &[0.3, 0.2, 0.9, 0.5],
            kept: &[1, 3],
            best: 3,
        },
    ];
    cases.iter().for_each(check_best);
}

#[test]
fn a_limit_without_a_best_keeps_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let args = json!({
        "output_dir": folder.path(), "max_steps": 5, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2,
        "per_device_train_batch_size": 4,
    });
    train(&classifier(2), args, &classes(8, 2), None);
    let mut names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["checkpoint-4", "checkpoint-5"], "the last step is saved too");
}

#[test]
fn the_rate_falls_where_the_metric_does_not_improve() {
    let args = json!({
        "num_train_epochs": 5, "eval_strategy": "epoch", "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": { "patience": 0, "factor": 0.5 }, "metric_for_best_model": "score",
        "greater_is_better": false, "learning_rate": 8e-4,
    });
    let rows = classes(4, 2);
    let mut trainer = trainer(&classifier(2), args, &rows, Some(&rows));
    let mut hooks = Hooks::default();
    scripted(&mut hooks, "score", &[1.0, 1.0, 0.5, 0.9, 0.9]);
    trainer.train(None, &mut hooks).unwrap();
    // Epochs 2 and 4 are no better than what came before; the rate of an epoch follows from the one before it.
    let expected = [8e-4, 8e-4, 4e-4, 4e-4, 2e-4];
    for (rate, expected) in logged(&trainer, "learning_rate").iter().zip(expected) {
        assert!((rate - expected).abs() < 1e-18, "{rate} {expected}");
    }
}

#[test]
fn metrics_get_every_row_and_its_label() {
    let rows = classes(7, 3);
    let mut trainer = trainer(&classifier(3), json!({ "per_device_eval_batch_size": 2 }), &rows, Some(&rows));
    let mut seen = Vec::new();
    let mut hooks = Hooks {
        compute_metrics: Some(Box::new(|output| {
            seen.push((output.predictions.len(), output.label_ids.clone()));
            Ok(Value::Map(std::sync::Arc::new([("eval_here".to_string(), Value::Int(1))].into())))
        })),
        ..Hooks::default()
    };
    let metrics = trainer.evaluate(None, &mut hooks).unwrap();
    drop(hooks);
    let labels: Vec<Value> = (0..7).map(|index| Value::Int(index * index % 3)).collect();
    assert_eq!(seen, [(7, labels)]);
    assert!(metrics.contains_key("eval_here") && !metrics.contains_key("eval_accuracy"), "{metrics:?}");
}
