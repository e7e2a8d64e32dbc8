//! Steps of training: what moves and what does not, accumulation, clipping, decay, epochs and logs, by Hugging Face's rules.

use retune::train::{ComputeLoss, Hooks};
use serde_json::{Value as Json, json};

use crate::tiny::{
    arguments, bits, classes, classifier, dataset, distance, ids, listening, logged, model, predict, tags, timeless,
    train, trainer, weights,
};

/// One step at 1e-3 moves every parameter that is trained, and a frozen one by no bit, though weight decay is on.
fn check_moves(suffix: &str, config: Json, rows: &retune::data::Dataset) {
    let model = model(suffix, config);
    model.parameters().set_trainable("bert.encoder.layer.0.*", false).unwrap();
    model.parameters().set_trainable("bert.embeddings.word*", false).unwrap();
    let before = weights(&model);
    train(&model, json!({ "max_steps": 1, "weight_decay": 0.1 }), rows, None);
    let after = weights(&model);
    for parameter in model.parameters().all() {
        let name = parameter.name();
        let moved = before[name].iter().zip(&after[name]).any(|(a, b)| a.to_bits() != b.to_bits());
        // A number that is added to all scores of a softmax changes nothing, so its gradient is 0 but for rounding:
        // each query's scores share the key's bias, a row's positions share the bias of the answer's ends.
        let is_free = name.ends_with("attention.self.key.bias") || name == "qa_outputs.bias";
        if !parameter.is_trainable() || !is_free {
            assert_eq!(moved, parameter.is_trainable(), "{suffix}: {name}");
        }
    }
}

#[test]
fn every_trainable_parameter_moves_and_no_frozen_one() {
    let rows = |columns: fn(usize, usize) -> Json| {
        dataset((0..8).map(|index| {
            let ids = ids(index);
            let mut row = columns(index, ids.len());
            row["input_ids"] = json!(ids);
            row
        }))
    };
    check_moves("ForSequenceClassification", json!({ "num_labels": 3 }), &classes(8, 3));
    let several = rows(|index, _| json!({ "labels": [index % 2, 1.0, 0.0] }));
    check_moves("ForSequenceClassification", json!({ "num_labels": 3 }), &several);
    let number = rows(|index, _| json!({ "labels": index as f64 / 4.0 }));
    check_moves("ForSequenceClassification", json!({ "num_labels": 1 }), &number);
    check_moves("ForTokenClassification", json!({ "num_labels": 4 }), &tags(8, 4));
    let spans = rows(|index, n| json!({ "start_positions": index % n, "end_positions": n - 1 }));
    check_moves("ForQuestionAnswering", json!({}), &spans);
    let words = rows(|index, n| json!({ "labels": (0..n).map(|at| (index + at) as i64 % 40).collect::<Vec<_>>() }));
    check_moves("ForMaskedLM", json!({}), &words);
}

/// Three steps of 80 rows, dropout on: batches of 32, 32 and 16, against windows of four, four and two batches of 8.
///
/// Only the order of f32 additions differs. AdamW divides by the size of a gradient, so that a gradient that is nothing
/// but rounding would move its weight by a full learning rate; an epsilon of 1e-2 keeps the update proportional to it:
/// three steps at 1e-2 of gradients that differ by 1e-6 then differ by 3e-6.
fn check_accumulation(suffix: &str, rows: &retune::data::Dataset) {
    let run = |batch: usize, accumulation: usize| {
        let model = model(suffix, json!({ "num_labels": 4 }));
        let args = json!({
            "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "num_train_epochs": 1,
            "learning_rate": 1e-2, "lr_scheduler_type": "constant", "adam_epsilon": 1e-2, "weight_decay": 0.1,
        });
        let trainer = train(&model, args, rows, None);
        (model, trainer)
    };
    let ((whole, one), (parts, four)) = (run(32, 1), run(8, 4));
    assert_eq!(one.state().global_step, 3);
    assert_eq!(four.state().global_step, 3);
    for key in ["loss", "grad_norm"] {
        let (one, four) = (logged(&one, key), logged(&four, key));
        assert_eq!(one.len(), 3);
        for (a, b) in one.iter().zip(&four) {
            assert!((a - b).abs() <= 1e-5 * a.abs(), "{suffix}: {key} {one:?} {four:?}");
        }
    }
    assert!(distance(&whole, &parts) < 3e-6, "{suffix}: {}", distance(&whole, &parts));
    assert!(distance(&whole, &model(suffix, json!({ "num_labels": 4 }))) > 1e-3, "{suffix}: nothing was learned");
}

#[test]
fn four_batches_of_eight_equal_one_of_thirty_two() {
    check_accumulation("ForSequenceClassification", &classes(80, 4));
    // One label in most rows, up to twelve in others, so that the batches of a window differ in their labels.
    check_accumulation("ForTokenClassification", &tags(80, 4));
    // As many tokens as labels in some rows: their labels are still a row's.
    let several = dataset((0..80).map(|index| {
        let labels: Vec<f64> = (0..4).map(|label| f64::from((index + label) % 3 == 0)).collect();
        json!({ "input_ids": ids(index as usize), "labels": labels })
    }));
    check_accumulation("ForSequenceClassification", &several);
}

#[test]
fn labels_of_a_row_are_its_own_though_it_has_as_many_tokens() {
    let rows = |mask: bool| {
        dataset((0..4).map(|index| {
            let mut row = json!({ "input_ids": [2, 5 + index, 6, 3], "labels": [1, 0, index % 2, 0] });
            if mask {
                row["input_ids"] = json!([2, 5 + index, 6, 3]);
                row["attention_mask"] = json!([1, 1, 1, 1]);
            }
            row
        }))
    };
    let padded = dataset((0..4).map(|index| {
        json!({ "input_ids": [2, 5 + index, 3, 0], "attention_mask": [1, 1, 1, 0], "labels": [1, 0, index % 2, 0] })
    }));
    for rows in [rows(false), rows(true), padded] {
        let model = classifier(4);
        let trainer = train(&model, json!({ "max_steps": 2, "per_device_train_batch_size": 1 }), &rows, None);
        assert_eq!(logged(&trainer, "loss").len(), 2);
    }
}

/// The gradient of one step, from a step of AdamW whose epsilon is 1: it moves a weight by g / (|g| + 1).
fn gradients(before: &[f32], after: &[f32]) -> Vec<f64> {
    let moved = before.iter().zip(after).map(|(a, b)| f64::from(*a) - f64::from(*b));
    moved.map(|moved| moved / (1.0 - moved.abs())).collect()
}

#[test]
fn gradients_are_scaled_down_to_the_norm() {
    let run = |max_grad_norm: f64| {
        let model = classifier(3);
        let before = weights(&model);
        let args = json!({
            "max_steps": 1, "learning_rate": 1.0, "adam_epsilon": 1.0, "max_grad_norm": max_grad_norm,
        });
        let trainer = train(&model, args, &classes(8, 3), None);
        let after = weights(&model);
        let all: Vec<f64> = before.iter().flat_map(|(name, before)| gradients(before, &after[name])).collect();
        (all, logged(&trainer, "grad_norm")[0])
    };
    let ((free, norm), (clipped, clipped_norm)) = (run(0.0), run(0.05));
    let expected = free.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!((norm - expected).abs() < 1e-4 * expected, "{norm} {expected}");
    assert_eq!(norm, clipped_norm, "the norm before clipping is logged");
    assert!(norm > 0.1, "{norm}: nothing to clip");
    for (free, clipped) in free.iter().zip(&clipped) {
        // torch.nn.utils.clip_grad_norm_: max_norm / (norm + 1e-6). Weights of size 1 hold 6e-8.
        assert!((free * 0.05 / (norm + 1e-6) - clipped).abs() < 5e-7, "{free} {clipped}");
    }
}

#[test]
fn decay_spares_biases_and_norms() {
    let run = |weight_decay: f64| {
        let model = classifier(3);
        let before = weights(&model);
        train(&model, json!({ "max_steps": 1, "weight_decay": weight_decay }), &classes(8, 3), None);
        (before, weights(&model))
    };
    let ((before, plain), (_, decayed)) = (run(0.0), run(0.5));
    for (name, start) in &before {
        let spared = name.ends_with(".bias") || name.contains("LayerNorm");
        for (index, start) in start.iter().enumerate() {
            let (plain, decayed) = (plain[name][index], decayed[name][index]);
            if spared {
                assert_eq!(plain.to_bits(), decayed.to_bits(), "{name}");
            } else {
                let expected = f64::from(plain) - 1e-3 * 0.5 * f64::from(*start);
                assert!((expected - f64::from(decayed)).abs() < 2e-7, "{name}: {expected} {decayed}");
            }
        }
    }
}

/// The steps and epochs at which the loss is logged.
fn check_logs(args: Json, n_rows: usize, expected: &[(usize, f64)]) {
    let trainer = train(&classifier(2), args.clone(), &classes(n_rows, 2), None);
    let history = &trainer.state().log_history;
    let logs = history.iter().filter(|log| log.contains_key("loss"));
    let found: Vec<(usize, f64)> =
        logs.map(|log| (log["step"].as_u64().unwrap() as usize, log["epoch"].as_f64().unwrap())).collect();
    assert_eq!(found.len(), expected.len(), "{args}: {found:?}");
    for ((step, epoch), (wanted_step, wanted_epoch)) in found.iter().zip(expected) {
        assert!(step == wanted_step && (epoch - wanted_epoch).abs() < 1e-12, "{args}: {found:?}");
    }
}

#[test]
fn epochs_steps_and_logs_are_counted_as_in_hugging_face() {
    let small = |extra: Json| {
        let mut args = json!({ "per_device_train_batch_size": 2 });
        args.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        args
    };
    // Five batches an epoch, in windows of two, two and one.
    let windows = |epochs: f64| small(json!({ "gradient_accumulation_steps": 2, "num_train_epochs": epochs }));
    let two = [(1, 0.4), (2, 0.8), (3, 1.0), (4, 1.4), (5, 1.8), (6, 2.0)];
    check_logs(windows(2.0), 10, &two);
    check_logs(windows(0.5), 10, &two[..2]); // ceil(0.5 * 3)
    check_logs(windows(1.5), 10, &two[..5]); // ceil(1.5 * 3)
    check_logs(small(json!({ "gradient_accumulation_steps": 2, "max_steps": 4 })), 10, &two[..4]);
    check_logs(small(json!({ "gradient_accumulation_steps": 9, "num_train_epochs": 2 })), 10, &[(1, 1.0), (2, 2.0)]);
    let drop = json!({ "per_device_train_batch_size": 4, "dataloader_drop_last": true, "num_train_epochs": 2 });
    check_logs(drop, 10, &[(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]);
    check_logs(
        json!({ "per_device_train_batch_size": 4, "num_train_epochs": 1 }),
        10,
        &[(1, 1.0 / 3.0), (2, 2.0 / 3.0), (3, 1.0)],
    );
    let five = |extra: Json| {
        let mut args = small(json!({ "num_train_epochs": 2 }));
        args.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        args
    };
    check_logs(five(json!({ "logging_steps": 4 })), 10, &[(4, 0.8), (8, 1.6)]);
    check_logs(five(json!({ "logging_steps": 4, "logging_first_step": true })), 10, &[(1, 0.2), (4, 0.8), (8, 1.6)]);
    check_logs(five(json!({ "logging_steps": 0.25 })), 10, &[(3, 0.6), (6, 1.2), (9, 1.8)]); // ceil(10 / 4)
    check_logs(five(json!({ "logging_strategy": "epoch" })), 10, &[(5, 1.0), (10, 2.0)]);
    check_logs(five(json!({ "logging_strategy": "no" })), 10, &[]);
}

#[test]
fn the_log_history_has_hugging_faces_keys_in_their_order() {
    let rows = classes(8, 2);
    let args = json!({ "per_device_train_batch_size": 4, "num_train_epochs": 1, "eval_strategy": "epoch" });
    let trainer = train(&classifier(2), args, &rows, Some(&rows));
    let keys: Vec<Vec<&str>> =
        trainer.state().log_history.iter().map(|log| log.keys().map(String::as_str).collect()).collect();
    let step = ["loss", "grad_norm", "learning_rate", "epoch", "step"];
    let evaluation = [
        "eval_loss",
        "eval_accuracy",
        "eval_f1",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
        "epoch",
        "step",
    ];
    let end = [
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "total_flos",
        "train_loss",
        "epoch",
        "step",
    ];
    assert_eq!(keys, [&step[..], &step, &evaluation, &end]);
}

#[test]
fn the_rate_that_is_logged_is_the_one_that_was_used() {
    let model = classifier(2);
    let before = bits(&model);
    let mut after_first = Vec::new();
    let mut trainer = trainer(
        &model,
        json!({ "max_steps": 6, "warmup_steps": 2, "per_device_train_batch_size": 4 }),
        &classes(12, 2),
        None,
    );
    trainer
        .train(
            None,
            &mut listening(|event, state, _, _| {
                if event.name() == "on_step_end" && state.global_step == 1 {
                    after_first = bits(&model);
                }
            }),
        )
        .unwrap();
    // Two steps up from 0, four down to 0.
    let expected = [0.0, 0.5e-3, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3];
    for (rate, expected) in logged(&trainer, "learning_rate").iter().zip(expected) {
        assert!((rate - expected).abs() < 1e-18, "{rate} {expected}");
    }
    assert_eq!(before, after_first, "the first step of a warm-up has the rate 0");
    assert_ne!(before, bits(&model));
}

#[test]
fn the_loss_is_the_mean_since_the_last_log() {
    let run = |every: usize| {
        let args = json!({ "max_steps": 7, "logging_steps": every, "per_device_train_batch_size": 4 });
        train(&classifier(2), args, &classes(12, 2), None)
    };
    let (each, third) = (run(1), run(3));
    let each_loss = logged(&each, "loss");
    let means: Vec<f64> = each_loss[..6].chunks(3).map(|three| three.iter().sum::<f64>() / 3.0).collect();
    for (found, expected) in logged(&third, "loss").iter().zip(&means) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
    assert_eq!(logged(&third, "loss").len(), 2);
    let mean = each_loss.iter().sum::<f64>() / 7.0;
    assert!((logged(&third, "train_loss")[0] - mean).abs() < 1e-12);
}

/// Padding that `attention_mask` marks is taken out, with the labels of its tokens: the same bits as without it.
#[test]
fn padded_rows_train_as_unpadded_ones() {
    let pad = |row: &retune::data::Row| {
        let mut row: Json =
            serde_json::Value::Object(row.iter().map(|(key, value)| (key.clone(), value.to_json())).collect());
        let n = row["input_ids"].as_array().unwrap().len();
        let fill = |value: &Json, with: Json| {
            let mut list = value.as_array().unwrap().clone();
            list.resize(16, with);
            Json::from(list)
        };
        row["attention_mask"] = (0..16).map(|place| i64::from(place < n)).collect();
        row["input_ids"] = fill(&row["input_ids"], json!(0));
        if row["labels"].is_array() {
            row["labels"] = fill(&row["labels"], json!(-100));
        }
        row
    };
    for (suffix, rows) in [("ForSequenceClassification", classes(12, 4)), ("ForTokenClassification", tags(12, 4))] {
        let run = |rows| {
            let model = model(suffix, json!({ "num_labels": 4 }));
            let trainer = train(&model, json!({ "max_steps": 4 }), rows, None);
            (bits(&model), timeless(trainer.state()))
        };
        assert_eq!(run(&rows), run(&dataset(rows.rows().iter().map(pad))), "{suffix}");
    }
}

/// A loss that is not a number at the second of four steps.
fn poisoned<'a>() -> Hooks<'a> {
    let mut calls = 0;
    Hooks {
        compute_loss: Some(ComputeLoss::OfBatch(Box::new(move |output, batch| {
            calls += 1;
            let logits = output.tensors()[0].1;
            let labels = batch.column("labels")?;
            let settings = retune::tensor::loss::CrossEntropy::default();
            let loss = retune::tensor::loss::cross_entropy(logits, labels, &settings)?;
            Ok(if calls == 2 { (loss * f64::NAN)? } else { loss })
        }))),
        ..Hooks::default()
    }
}

#[test]
fn a_loss_that_is_not_a_number_stops_before_the_weights() {
    let args = |steps: usize, policy: &str| {
        json!({
            "max_steps": steps, "per_device_train_batch_size": 3, "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential", "nan_policy": policy,
        })
    };
    let rows = classes(12, 2);
    let one = classifier(2);
    train(&one, args(1, "stop"), &rows, None);
    let stopped = classifier(2);
    let mut stopping = trainer(&stopped, args(4, "stop"), &rows, None);
    let error = stopping.train(None, &mut poisoned()).unwrap_err();
    assert_eq!(bits(&one), bits(&stopped), "the weights are those of the step before");
    let text = format!("{error} {:?}", error.places());
    assert!(
        text.contains("loss of step 2 is not finite") && text.contains("rows 3, 4, 5 of the training set"),
        "{text}"
    );

    let notes = std::sync::Mutex::new(Vec::new());
    let skipped = classifier(2);
    let mut skipping = trainer(&skipped, args(4, "skip"), &rows, None);
    let mut hooks = poisoned();
    hooks.notes = Some(Box::new(|note| notes.lock().unwrap().push(note.to_string())));
    skipping.train(None, &mut hooks).unwrap();
    drop(hooks);
    let notes = notes.into_inner().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("1 so far") && notes[0].contains("rows 3, 4, 5"), "{notes:?}");
    assert_eq!(skipping.state().global_step, 4);
    // What was left out counts in no mean.
    let losses: Vec<f64> =
        skipping.state().log_history.iter().filter_map(|log| log.get("loss")).filter_map(Json::as_f64).collect();
    assert_eq!(losses.len(), 3);
    let mean = losses.iter().sum::<f64>() / 3.0;
    assert!((logged(&skipping, "train_loss")[0] - mean).abs() < 1e-12, "{losses:?}");
    assert!(weights(&skipped).values().flatten().all(|weight| weight.is_finite()));
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    let model = classifier(2);
    let mut trainer = trainer(&model, json!({ "max_steps": 1 }), &classes(4, 2), None);
    let before = bits(&model);
    let weight = model.parameters().get("classifier.weight").unwrap().tensor();
    let loss = ComputeLoss::OfBatch(Box::new(move |_, _| Ok(weight.sqr()?.sum_all()?)));
    let mut hooks = Hooks { compute_loss: Some(loss), ..Hooks::default() };
    let error = trainer.train(None, &mut hooks).unwrap_err().to_string();
    assert!(error.contains("`bert.embeddings.word_embeddings.weight` (and 39 others) has no gradient"), "{error}");
    assert_eq!(before, bits(&model));
}

#[test]
fn another_order_of_rows_is_all_that_data_seed_changes() {
    let run = |extra: Json| {
        let mut args = json!({ "max_steps": 3, "per_device_train_batch_size": 4 });
        args.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let model = classifier(2);
        train(&model, args, &classes(16, 2), None);
        bits(&model)
    };
    let plain = run(json!({}));
    assert_eq!(plain, run(json!({})), "the same run twice");
    assert_eq!(plain, run(json!({ "data_seed": 42 })), "42 is the default of `seed`, which `data_seed` falls back on");
    assert_ne!(plain, run(json!({ "data_seed": 7 })));
    assert_ne!(plain, run(json!({ "seed": 7, "data_seed": 42 })), "dropout draws by `seed`");
    let fixed = |seed: u64| run(json!({ "train_sampling_strategy": "sequential", "data_seed": seed }));
    assert_eq!(fixed(7), fixed(8), "without an order to draw it changes nothing");
}

#[test]
fn arguments_of_the_tests_are_what_they_seem() {
    let args = arguments(json!({ "max_steps": 3 }));
    assert_eq!((args.max_steps, args.learning_rate, args.seed), (3, 1e-3, 42));
    let mut trainer = trainer(&classifier(2), json!({ "max_steps": 1 }), &classes(4, 2), None);
    assert_eq!(predict(&mut trainer, &classes(3, 2)).len(), 3);
}
