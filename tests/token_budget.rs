//! `max_tokens_per_batch`: the cut against brute force, and runs with such batches by what any run has to hold.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use retune::batch::cut::{Cut, Limits};
use retune::batch::sampler;
use retune::data::{Dataset, Value};
use retune::train::checkpoint::folders;
use retune::train::{Hooks, TrainingArguments};
use serde_json::{Value as Json, json};

use crate::tiny::{
    arguments, bits, classes, classifier, dataset, distance, ids, listening, logged, model, predict, tags, timeless,
    train, trainer,
};

fn lists(cut: &Cut) -> Vec<Vec<usize>> {
    (0..cut.n_batches()).map(|number| cut.batch(number).to_vec()).collect()
}

/// The rule, word for word: of all beginnings of what is left, the longest that holds; a single row always does.
fn by_hand(rows: &[usize], limits: Limits, lengths: &[usize]) -> Vec<Vec<usize>> {
    let tokens = |rows: &[usize]| rows.iter().map(|row| lengths[*row]).sum::<usize>();
    let holds = |n: usize| {
        n == 1 || (limits.rows.is_none_or(|max| n <= max) && limits.tokens.is_none_or(|max| tokens(&rows[..n]) <= max))
    };
    let Some(n) = (1..=rows.len()).take_while(|n| holds(*n)).last() else { return Vec::new() };
    let (batch, rest) = rows.split_at(n);
    let is_full = limits.rows == Some(n) || limits.tokens.is_some_and(|max| tokens(batch) >= max);
    if rest.is_empty() && limits.drop_last && !is_full {
        return Vec::new();
    }
    [vec![batch.to_vec()], by_hand(rest, limits, lengths)].concat()
}

proptest! {
    #[test]
    fn a_cut_is_what_the_rule_says(seed: u64, lengths in prop::collection::vec(0usize..40, 0..80),
                                   rows in prop::option::of(1usize..9), tokens in prop::option::of(1usize..120), drop_last: bool) {
        let limits = Limits { rows, tokens, drop_last };
        let order = sampler::random(seed, 0, lengths.len());
        let cut = Cut::new(order.clone(), limits, |row| lengths[row]);
        prop_assert_eq!(lists(&cut), by_hand(&order, limits, &lengths));
        if tokens.is_none() {
            prop_assert_eq!(cut.n_batches(), limits.n_even_batches(lengths.len()));
        }
        for accumulation in 1..4 {
            let windows: Vec<Vec<usize>> =
                (0..).map_while(|number| cut.window(number, accumulation)).map(|window| window.concat()).collect();
            prop_assert_eq!(windows.len(), cut.n_batches().div_ceil(accumulation));
            prop_assert_eq!(windows.concat(), lists(&cut).concat());
        }
    }
}

/// The logged steps of a run, their epochs, and its number of updates.
fn updates(args: Json, rows: &Dataset) -> (Vec<usize>, Vec<f64>, usize) {
    let model = classifier(2);
    let trainer = train(&model, args, rows, None);
    let state = trainer.state();
    let epochs = state.log_history.iter().filter(|log| log.contains_key("loss"));
    let epochs = epochs.map(|log| log["epoch"].as_f64().unwrap()).collect();
    let steps = state.log_history.iter().filter(|log| log.contains_key("loss"));
    (steps.map(|log| log["step"].as_u64().unwrap() as usize).collect(), epochs, state.max_steps)
}

/// How many batches each epoch has, by the sampler and the rule alone.
fn batches_of_epochs(rows: usize, budget: usize, epochs: u64) -> Vec<usize> {
    let lengths: Vec<usize> = (0..rows).map(|index| ids(index).len()).collect();
    let limits = Limits { tokens: Some(budget), ..Limits::default() };
    (0..epochs).map(|epoch| by_hand(&sampler::random(42, epoch, rows), limits, &lengths).len()).collect()
}

#[test]
fn the_updates_of_a_run_are_counted_from_the_cut_of_each_epoch() {
    let rows = classes(41, 2);
    let batches = batches_of_epochs(41, 29, 4);
    // Epochs that are all alike would show nothing.
    assert!(batches.iter().any(|count| *count != batches[0]), "{batches:?}");
    for accumulation in [1, 3] {
        let updates_of: Vec<usize> = batches.iter().map(|count| count.div_ceil(accumulation)).collect();
        let total: usize = updates_of.iter().sum();
        let args =
            json!({ "max_tokens_per_batch": 29, "gradient_accumulation_steps": accumulation, "num_train_epochs": 4 });
        let (steps, epochs, max_steps) = updates(args, &rows);
        assert_eq!((steps.len(), max_steps), (total, total));
        let mut expected = Vec::new();
        for (epoch, count) in batches.iter().enumerate() {
            let done = (1..=count.div_ceil(accumulation)).map(|update| (update * accumulation).min(*count));
            expected.extend(done.map(|done| epoch as f64 + done as f64 / *count as f64));
        }
        for (epoch, expected) in epochs.iter().zip(&expected) {
            assert!((epoch - expected).abs() < 1e-12, "{epochs:?} {expected:?}");
        }
        // Epochs in part, and a number of updates that ends within the third epoch.
        let part =
            json!({ "max_tokens_per_batch": 29, "gradient_accumulation_steps": accumulation, "num_train_epochs": 2.5 });
        let half = updates_of[0] + updates_of[1] + updates_of[2].div_ceil(2);
        assert_eq!(updates(part, &rows).2, half);
        let some = updates_of[0] + updates_of[1] + 2;
        let args =
            json!({ "max_tokens_per_batch": 29, "gradient_accumulation_steps": accumulation, "max_steps": some });
        let (steps, epochs, max_steps) = updates(args, &rows);
        assert_eq!((steps.len(), max_steps), (some, some));
        assert!(epochs[some - 1] > 2.0 && epochs[some - 1] < 3.0);
    }
}

#[test]
fn the_rate_ends_at_zero() {
    let rows = classes(41, 2);
    let args = json!({ "max_tokens_per_batch": 29, "num_train_epochs": 3, "learning_rate": 1e-3 });
    let trainer = train(&classifier(2), args, &rows, None);
    let rates = logged(&trainer, "learning_rate");
    let total = rates.len() as f64;
    for (step, rate) in rates.iter().enumerate() {
        assert!((rate - 1e-3 * (1.0 - step as f64 / total)).abs() < 1e-12);
    }
}

type End = (Vec<(String, Vec<u32>)>, Vec<serde_json::Map<String, Json>>);

fn run(folder: &Path, sampling: &str, resume: Option<PathBuf>, stop_at: Option<usize>) -> End {
    let args = json!({
        "output_dir": folder, "num_train_epochs": 3, "max_tokens_per_batch": 24, "gradient_accumulation_steps": 2,
        "train_sampling_strategy": sampling, "weight_decay": 0.1, "lr_scheduler_type": "cosine", "logging_steps": 1,
    });
    let rows = classes(13, 2);
    let model = classifier(2);
    let mut trainer = trainer(&model, args, &rows, None);
    let mut hooks = listening(|event, state, control, _| {
        if event.name() == "on_step_end" && Some(state.global_step) == stop_at {
            (control.should_save, control.should_training_stop) = (true, true);
        }
    });
    trainer.train(resume, &mut hooks).unwrap();
    drop(hooks);
    let mut history = timeless(trainer.state());
    history.retain(|log| !log.contains_key("train_loss"));
    (bits(&model), history)
}

#[test]
fn a_run_resumed_after_any_update_ends_as_one_that_was_never_interrupted() {
    for sampling in ["random", "group_by_length"] {
        let folder = tempfile::tempdir().unwrap();
        let whole = run(folder.path(), sampling, None, None);
        assert!(whole.1.len() > 6);
        for step in 1..whole.1.len() {
            let folder = tempfile::tempdir().unwrap();
            run(folder.path(), sampling, None, Some(step));
            let (checkpoint, _) = folders::newest(folder.path()).unwrap();
            let checkpoint = checkpoint.folder().to_path_buf();
            let resumed = run(folder.path(), sampling, Some(checkpoint), None);
            assert!(resumed == whole, "{sampling}, step {step}");
        }
    }
}

/// As in `trainer`: only the order of f32 additions differs, and a large epsilon keeps an update proportional to its gradient.
#[test]
fn the_same_rows_in_one_window_give_the_same_gradient_however_they_are_cut() {
    for (suffix, rows) in [("ForSequenceClassification", classes(40, 4)), ("ForTokenClassification", tags(40, 4))] {
        let run = |cut: Json| {
            let model = model(suffix, json!({ "num_labels": 4 }));
            let mut args = json!({
                "num_train_epochs": 3, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "adam_epsilon": 1e-2,
                "weight_decay": 0.1, "gradient_accumulation_steps": 1000,
            });
            args.as_object_mut().unwrap().extend(cut.as_object().unwrap().clone());
            let trainer = train(&model, args, &rows, None);
            assert_eq!(trainer.state().global_step, 3);
            (logged(&trainer, "loss"), model)
        };
        let (losses, whole) = run(json!({ "per_device_train_batch_size": 40 }));
        for cut in [
            json!({ "max_tokens_per_batch": 10_000 }),
            json!({ "max_tokens_per_batch": 37 }),
            json!({ "max_tokens_per_batch": 37, "per_device_train_batch_size": 3 }),
            json!({ "max_tokens_per_batch": 1 }),
        ] {
            let (parts, model) = run(cut.clone());
            for (a, b) in losses.iter().zip(&parts) {
                assert!((a - b).abs() <= 1e-5 * a.abs(), "{suffix}, {cut}: {losses:?} {parts:?}");
            }
            assert!(distance(&whole, &model) < 3e-6, "{suffix}, {cut}: {}", distance(&whole, &model));
        }
    }
}

#[test]
fn a_batch_size_bounds_the_rows_where_it_is_given() {
    let limits = |args: Json| (arguments(args.clone()).train_limits(), arguments(args).eval_limits());
    let of = |rows, tokens| Limits { rows, tokens, drop_last: false };
    assert_eq!(limits(json!({})), (of(Some(8), None), of(Some(8), None)));
    assert_eq!(limits(json!({ "max_tokens_per_batch": 64 })), (of(None, Some(64)), of(None, Some(64))));
    let given = json!({ "max_tokens_per_batch": 64, "per_device_train_batch_size": 4 });
    assert_eq!(limits(given.clone()), (of(Some(4), Some(64)), of(None, Some(64))));
    // What a checkpoint keeps of them bounds the same.
    for args in [json!({ "max_tokens_per_batch": 64 }), given.clone(), json!({})] {
        let args = arguments(args);
        let pairs = args.to_json().into_iter().map(|(key, value)| (key, Value::from(value))).collect();
        let again = TrainingArguments::from_pairs(pairs).unwrap().0;
        assert_eq!((again.train_limits(), again.eval_limits()), (args.train_limits(), args.eval_limits()));
    }
    let given = json!({ "per_device_eval_batch_size": 2, "max_tokens_per_batch": 64, "dataloader_drop_last": true });
    assert_eq!(limits(given), (Limits { drop_last: true, ..of(None, Some(64)) }, of(Some(2), Some(64))));
}

#[test]
fn rows_that_are_longer_are_said_once_and_train_alone() {
    let rows =
        dataset((0..6).map(|row| json!({ "input_ids": vec![5; if row < 2 { 9 } else { 3 }], "labels": row % 2 })));
    let notes = std::cell::RefCell::new(Vec::new());
    let args = json!({ "max_tokens_per_batch": 6, "num_train_epochs": 2, "train_sampling_strategy": "sequential" });
    let mut trainer = trainer(&classifier(2), args, &rows, None);
    let mut hooks =
        Hooks { notes: Some(Box::new(|note| notes.borrow_mut().push(note.to_string()))), ..Hooks::default() };
    trainer.train(None, &mut hooks).unwrap();
    drop(hooks);
    // 9, 9, 3 + 3, 3 + 3.
    assert_eq!(trainer.state().global_step, 8);
    let said = "2 rows are longer than the 6 tokens of `max_tokens_per_batch`: each is a batch of its own";
    assert_eq!(notes.into_inner().iter().filter(|note| *note == said).count(), 1);
}

#[test]
fn an_evaluation_gives_the_same_in_batches_of_tokens() {
    let rows = classes(30, 2);
    let run = |args: Json| {
        let mut trainer = trainer(&classifier(2), args, &rows, Some(&rows));
        let scores = predict(&mut trainer, &rows);
        let mut n_batches = 0;
        let mut hooks = listening(|event, _, _, _| n_batches += usize::from(event.name() == "on_prediction_step"));
        let metrics = trainer.evaluate(None, &mut hooks).unwrap();
        drop(hooks);
        (scores, metrics["eval_loss"].as_f64().unwrap(), n_batches)
    };
    let (scores, loss, even) = run(json!({}));
    assert_eq!(even, 4, "30 rows, 8 a batch");
    let lengths: Vec<usize> = (0..30).map(|index| ids(index).len()).collect();
    for (args, rows) in [
        (json!({ "max_tokens_per_batch": 25 }), None),
        (json!({ "max_tokens_per_batch": 25, "per_device_eval_batch_size": 2 }), Some(2)),
    ] {
        let (others, other, n_batches) = run(args);
        let limits = Limits { rows, tokens: Some(25), ..Limits::default() };
        assert_eq!(n_batches, by_hand(&sampler::sequential(30), limits, &lengths).len());
        assert!((loss - other).abs() < 1e-6);
        for (a, b) in scores.concat().iter().zip(others.concat()) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}

#[test]
fn no_budget_of_nothing() {
    let pairs = vec![("max_tokens_per_batch".to_string(), Value::Int(0))];
    let error = TrainingArguments::from_pairs(pairs).unwrap_err().to_string();
    assert!(error.contains("`max_tokens_per_batch`") && error.contains("at least 1"), "{error}");
}
