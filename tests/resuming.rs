//! Going on from a checkpoint: bit for bit the run that was never interrupted.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use retune::data::Value;
use retune::error::What;
use retune::head::Model;
use retune::train::callbacks::{Callback, EarlyStoppingCallback, Event, Extra, TrainerControl};
use retune::train::checkpoint::{folders, manifest};
use retune::train::state::TrainerState;
use retune::train::{ComputeLoss, Hooks, TrainingArguments};
use serde_json::{Value as Json, json};

use crate::tiny::{bits, classes, classifier, listening, timeless, trainer, weights};

/// Two epochs of three updates, each of two batches, with dropout, decay, a schedule and a mean over two losses.
fn args(folder: &Path) -> Json {
    json!({
        "output_dir": folder, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "weight_decay": 0.1, "lr_scheduler_type": "cosine", "warmup_steps": 1, "logging_steps": 2,
        "eval_strategy": "steps", "eval_steps": 2,
    })
}

fn newest(folder: &Path) -> PathBuf {
    folders::newest(folder).unwrap().0.folder().to_path_buf()
}

/// What a run ends with: weights and log history.
type End = (Vec<(String, Vec<u32>)>, Vec<serde_json::Map<String, Json>>, Option<f64>);

fn run(args: Json, resume: Option<PathBuf>, stop_at: Option<usize>) -> End {
    let rows = classes(11, 2);
    let model = classifier(2);
    let mut trainer = trainer(&model, args, &rows, Some(&rows));
    let mut hooks = listening(|event, state, control, _| {
        if event.name() == "on_step_end" && Some(state.global_step) == stop_at {
            (control.should_save, control.should_training_stop) = (true, true);
        }
    });
    trainer.train(resume, &mut hooks).unwrap();
    drop(hooks);
    let mut history = timeless(trainer.state());
    if stop_at.is_none() {
        assert_eq!(trainer.state().global_step, 6);
    }
    // The mean over all steps is summed in the same order.
    let train_loss = trainer.state().log_history.last().unwrap().get("train_loss").and_then(Json::as_f64);
    history.retain(|log| !log.contains_key("train_loss"));
    (bits(&model), history, train_loss)
}

#[test]
fn a_run_resumed_after_any_step_ends_as_one_that_was_never_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(args(folder.path()), None, None);
    for step in 1..=5 {
        let folder = tempfile::tempdir().unwrap();
        run(args(folder.path()), None, Some(step));
        let checkpoint = newest(folder.path());
        assert_eq!(checkpoint.file_name().unwrap().to_string_lossy(), format!("checkpoint-{step}"));
        let resumed = run(args(folder.path()), Some(checkpoint), None);
        assert!(resumed.0 == whole.0, "step {step}: other weights");
        assert_eq!(resumed.1, whole.1, "step {step}");
        assert_eq!(resumed.2, whole.2, "step {step}");
    }
}

#[test]
fn the_newest_complete_checkpoint_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folders::newest(folder.path()).unwrap_err().to_string();
    assert!(missing.contains("checkpoint") && missing.contains("was not found"), "{missing}");
    run(args(folder.path()), None, Some(2));
    // Left behind by a process that died: no manifest; and what a later run has not finished.
    let torn = folder.path().join("checkpoint-4");
    std::fs::create_dir(&torn).unwrap();
    let complete = folder.path().join("checkpoint-2");
    std::fs::copy(complete.join("model.safetensors"), torn.join("model.safetensors")).unwrap();
    std::fs::create_dir(folder.path().join(".checkpoint-abc")).unwrap();
    std::fs::create_dir(folder.path().join("checkpoint-last")).unwrap();
    assert_eq!(newest(folder.path()), complete);
    let rows = classes(11, 2);
    let resume = |path: &Path| {
        let mut trainer = trainer(&classifier(2), args(folder.path()), &rows, Some(&rows));
        trainer.train(Some(path.to_path_buf()), &mut Hooks::default()).map(|output| output.global_step)
    };
    assert!(resume(&torn).unwrap_err().to_string().contains("checkpoint-4"));
    // A file that was changed is found by its sum, before anything is taken from the folder.
    let state = complete.join("trainer_state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    std::fs::write(&state, text.replace("\"global_step\": 2", "\"global_step\": 3")).unwrap();
    let error = resume(&complete).unwrap_err().to_string();
    assert!(error.contains("`trainer_state.json` of the checkpoint was changed after it was written"), "{error}");
    std::fs::write(&state, text).unwrap();
    assert_eq!(resume(&complete).unwrap(), 6);
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(args(folder.path()), None, Some(2));
    let rows = classes(11, 3);
    let mut trainer = trainer(&classifier(3), args(folder.path()), &rows, Some(&rows));
    let error = trainer.train(Some(folder.path().join("checkpoint-2")), &mut Hooks::default()).unwrap_err();
    assert!(error.to_string().contains("no `classifier.weight` of shape [3, 32]"), "{error}");
}

#[test]
fn the_plateau_schedule_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let rows = classes(4, 2);
    let run = |epochs: usize, resume: Option<PathBuf>| {
        let args = json!({
            "output_dir": folder.path(), "num_train_epochs": epochs, "eval_strategy": "epoch", "save_strategy": "epoch",
            "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": { "patience": 1, "factor": 0.5 },
        });
        let mut trainer = trainer(&classifier(2), args, &rows, Some(&rows));
        let mut hooks = Hooks {
            compute_metrics: Some(Box::new(|_| {
                Ok(Value::Map(std::sync::Arc::new([("loss".to_string(), Value::Float(1.0))].into())))
            })),
            ..Hooks::default()
        };
        trainer.train(resume, &mut hooks).unwrap();
        crate::tiny::logged(&trainer, "learning_rate")
    };
    let whole = run(5, None);
    // The first evaluation is the best; two later ones that are no better halve the rate.
    assert_eq!(whole, [1e-3, 1e-3, 1e-3, 5e-4, 5e-4]);
    assert_eq!(run(5, Some(folder.path().join("checkpoint-2"))), whole);
}

/// Thirty updates of two batches each, with dropout, decay, evaluations, early stopping that counts, and rotation.
fn long(folder: &Path) -> Json {
    json!({
        "output_dir": folder, "num_train_epochs": 5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "weight_decay": 0.1, "warmup_steps": 3, "logging_steps": 4, "eval_strategy": "steps", "eval_steps": 5,
        "per_device_eval_batch_size": 8, "save_strategy": "steps", "save_steps": 10, "save_total_limit": 2,
        "metric_for_best_model": "loss", "load_best_model_at_end": true, "learning_rate": 4e-3,
    })
}

/// Trains, from the newest checkpoint where that is wanted, until the end or until `asked` says that a signal has come.
/// Gives the number of times that it was asked, and what the run ended with, where it ended.
fn long_run(folder: &Path, patience: u64, resume: bool, asked: impl Fn(usize) -> bool) -> (usize, Option<Ended>) {
    let rows = classes(23, 2);
    let model = classifier(2);
    let mut trainer = trainer(&model, long(folder), &rows, Some(&rows));
    let mut hooks = Hooks::default();
    hooks.callbacks.push(Box::new(EarlyStoppingCallback::new(patience, 0.0)));
    let count = Rc::new(Cell::new(0));
    let counted = count.clone();
    hooks.interrupted = Some(Box::new(move || {
        counted.set(counted.get() + 1);
        asked(counted.get()).then_some(15)
    }));
    let resume = resume.then(|| folders::newest_of(folder).unwrap().0).flatten();
    let result = trainer.train(resume.map(|complete| complete.folder().to_path_buf()), &mut hooks);
    drop(hooks);
    let ended = match result {
        Ok(_) => {
            let newest = newest(folder);
            let sums = manifest::Manifest::read(&newest).unwrap().sha256;
            let names: Vec<PathBuf> = folders::all(folder).unwrap().into_iter().map(|(_, path)| path).collect();
            let names = names.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
            let moments = sums["optimizer.safetensors"].clone();
            let log = timeless(trainer.state());
            let callbacks = trainer.state().stateful_callbacks["EarlyStoppingCallback"].clone();
            Some(Ended { weights: bits(&model), moments, log, callbacks, checkpoints: names })
        }
        Err(error) => {
            assert!(matches!(error.what(), What::Stopped { signal: 15 }), "{error}");
            None
        }
    };
    (count.get(), ended)
}

/// What a run ends with: the weights (the best), the moments of the last checkpoint, the logs, what early stopping has counted,
/// and the checkpoints that are left.
#[derive(Debug, PartialEq)]
struct Ended {
    weights: Vec<(String, Vec<u32>)>,
    moments: String,
    log: Vec<serde_json::Map<String, Json>>,
    callbacks: Json,
    checkpoints: Vec<String>,
}

/// Signals at each moment that the trainer looks for one: before and after each step, and before each batch of an evaluation.
fn signal_at_every_moment(patience: u64, stops_early: bool) {
    let folder = tempfile::tempdir().unwrap();
    let (moments, whole) = long_run(folder.path(), patience, false, |_| false);
    let whole = whole.unwrap();
    let last_step = whole.log.last().unwrap()["step"].as_u64().unwrap() as usize;
    assert_eq!(last_step < 30, stops_early, "{last_step}");
    assert!(moments > 2 * last_step, "{moments}");
    for moment in 1..=moments {
        let folder = tempfile::tempdir().unwrap();
        let (_, ended) = long_run(folder.path(), patience, false, |asked| asked == moment);
        assert!(ended.is_none(), "moment {moment}");
        // Resumed by another number of threads.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + moment % 3).build().unwrap();
        let (_, ended) = pool.install(|| long_run(folder.path(), patience, true, |_| false));
        let ended = ended.unwrap();
        assert_eq!(ended.log, whole.log, "moment {moment}");
        assert_eq!(ended.callbacks, whole.callbacks, "moment {moment}");
        assert_eq!(ended.moments, whole.moments, "moment {moment}");
        assert!(ended.weights == whole.weights, "moment {moment}");
    }
}

#[test]
fn a_signal_at_any_moment_of_a_run_and_a_resume_give_the_run_that_was_never_interrupted() {
    signal_at_every_moment(100, false);
}

#[test]
fn a_signal_at_any_moment_of_a_run_that_stops_early_changes_nothing() {
    signal_at_every_moment(1, true);
}

#[test]
fn a_run_that_is_interrupted_again_and_again_ends_as_one_that_never_was() {
    let folder = tempfile::tempdir().unwrap();
    let whole = long_run(folder.path(), 100, false, |_| false).1.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut resumes = 0;
    let ended = loop {
        // Some two steps further each time.
        let (_, ended) = long_run(folder.path(), 100, resumes > 0, |asked| asked > 5);
        resumes += 1;
        match ended {
            Some(ended) => break ended,
            None => assert!(resumes < 100),
        }
    };
    assert!(resumes > 10, "{resumes}");
    assert_eq!((&ended.log, &ended.moments), (&whole.log, &whole.moments));
    assert!(ended.weights == whole.weights);
}

/// The rows of every batch that is trained on, in order.
fn rows_seen(folder: &Path, changes: Json, resume: Option<&Path>, stop_at: usize) -> (Vec<Vec<usize>>, TrainerState) {
    let mut args = json!({
        "output_dir": folder, "num_train_epochs": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "train_sampling_strategy": "group_by_length", "logging_steps": 1,
    });
    args.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let rows = classes(23, 2);
    let mut trainer = trainer(&classifier(2), args, &rows, None);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (see, model) = (seen.clone(), trainer.model().clone());
    let mut hooks = listening(|event, state, control, _| {
        if event.name() == "on_step_end" && state.global_step == stop_at {
            (control.should_save, control.should_training_stop) = (true, true);
        }
    });
    hooks.compute_loss = Some(ComputeLoss::OfBatch(Box::new(move |output, batch| {
        see.borrow_mut().push(batch.rows.clone());
        model.loss(output, batch)
    })));
    trainer.train(resume.map(Path::to_path_buf), &mut hooks).unwrap();
    drop(hooks);
    let state = trainer.state().clone();
    (Rc::try_unwrap(seen).unwrap().into_inner(), state)
}

#[test]
fn a_run_that_goes_on_with_batches_of_another_size_uses_each_row_once_an_epoch() {
    // 23 rows in batches of 2, two of them an update: 6 updates an epoch.
    for stop_at in [2, 5, 6, 8, 12] {
        let folder = tempfile::tempdir().unwrap();
        let (mut seen, _) = rows_seen(folder.path(), json!({}), None, stop_at);
        let from = folder.path().join(format!("checkpoint-{stop_at}"));
        let changes = json!({ "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1 });
        let (rest, state) = rows_seen(folder.path(), changes, Some(&from), 0);
        let n_before: usize = seen.iter().map(Vec::len).sum();
        assert_eq!(n_before, stop_at / 6 * 23 + stop_at % 6 * 4);
        // What is left of the epoch, and whole epochs after it, in batches of three.
        let left = (23 - n_before % 23) % 23;
        let sizes = |n: usize| (0..n.div_ceil(3)).map(move |batch| 3.min(n - batch * 3)).collect::<Vec<_>>();
        let mut expected = sizes(left);
        (0..(3 * 23 - n_before) / 23).for_each(|_| expected.extend(sizes(23)));
        assert_eq!(rest.iter().map(Vec::len).collect::<Vec<_>>(), expected, "stopped at {stop_at}");
        assert_eq!(state.global_step, stop_at + expected.len());
        assert_eq!(state.max_steps, state.global_step);
        assert_eq!(state.epoch, 3.0);
        let epochs: Vec<f64> = state.log_history.iter().map(|log| log["epoch"].as_f64().unwrap()).collect();
        assert!(epochs.is_sorted(), "{epochs:?}");
        seen.extend(rest);
        let all = seen.concat();
        for epoch in all.chunks(23) {
            let mut rows = epoch.to_vec();
            rows.sort_unstable();
            assert_eq!(rows, (0..23).collect::<Vec<_>>(), "stopped at {stop_at}");
        }
        // And once more, by way of a third size, from a checkpoint within what was cut anew.
        if left > 6 {
            let changes = json!({ "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1 });
            let (second, _) = rows_seen(folder.path(), changes, Some(&from), stop_at + 1);
            let from = folder.path().join(format!("checkpoint-{}", stop_at + 1));
            let changes = json!({ "per_device_train_batch_size": 5, "gradient_accumulation_steps": 1 });
            let (third, state) = rows_seen(folder.path(), changes, Some(&from), 0);
            assert_eq!((second.len(), state.epoch), (1, 3.0));
            let mut rows = [&all[..n_before], &second.concat(), &third.concat()].concat();
            rows[..23].sort_unstable();
            let begin = n_before / 23 * 23;
            rows[begin..begin + 23].sort_unstable();
            assert_eq!(rows.len(), 69);
            assert_eq!(rows[begin..begin + 23], (0..23).collect::<Vec<_>>(), "stopped at {stop_at}");
        }
    }
}

#[test]
fn what_has_changed_since_a_checkpoint_is_said_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    run(args(folder.path()), None, Some(2));
    let mut changed = args(folder.path());
    changed["learning_rate"] = json!(5e-4);
    changed["weight_decay"] = json!(0.0);
    let rows = classes(12, 2);
    let mut trainer = trainer(&classifier(2), changed, &rows, Some(&rows));
    let notes = Rc::new(RefCell::new(Vec::new()));
    let told = notes.clone();
    let mut hooks =
        Hooks { notes: Some(Box::new(move |text| told.borrow_mut().push(text.to_string()))), ..Hooks::default() };
    hooks.callbacks.push(Box::new(SaveAtEnd));
    trainer.train(Some(folder.path().join("checkpoint-2")), &mut hooks).unwrap();
    drop(hooks);
    let notes = Rc::try_unwrap(notes).unwrap().into_inner();
    let expected = ["learning_rate 0.001 -> 0.0005", "weight_decay 0.1 -> 0.0", "the training set has other rows"];
    let said: Vec<&str> = notes.iter().filter_map(|note| note.strip_prefix("changed since then: ")).collect();
    assert_eq!(said, expected);
    let text = std::fs::read_to_string(newest(folder.path()).join("rng_state.json")).unwrap();
    let progress: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(progress["resumed"], json!([{ "step": 2, "changed": expected }]));
}

/// Asks for a checkpoint after the last step.
struct SaveAtEnd;

impl Callback for SaveAtEnd {
    fn on_event(
        &mut self,
        event: Event,
        _args: &TrainingArguments,
        state: &mut TrainerState,
        control: &mut TrainerControl,
        _extra: &Extra,
    ) -> retune::error::Result<()> {
        control.should_save |= event == Event::StepEnd && state.global_step == state.max_steps;
        Ok(())
    }
}

#[test]
fn a_folder_that_a_run_writes_into_is_refused_to_another_until_it_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let rows = classes(11, 2);
    let args = |folder: &Path| {
        let mut args = args(folder);
        args["save_strategy"] = json!("steps");
        args
    };
    let mut first = trainer(&classifier(2), args(folder.path()), &rows, Some(&rows));
    let mut hooks = listening(|event, state, _, _| {
        if event == Event::StepBegin && state.global_step == 1 {
            let mut second = trainer(&classifier(2), args(folder.path()), &rows, Some(&rows));
            let error = second.train(None, &mut Hooks::default()).unwrap_err();
            let process = std::process::id();
            assert!(error.to_string().contains(&format!("another run (process {process}) is writing into")), "{error}");
        }
    });
    first.train(None, &mut hooks).unwrap();
    drop(hooks);
    let mut third = trainer(&classifier(2), args(folder.path()), &rows, Some(&rows));
    third.train(None, &mut Hooks::default()).unwrap();
    assert!(!folder.path().join(".lock").exists());
}

#[test]
fn a_row_that_gives_no_number_is_named_and_changes_no_weight() {
    let folder = tempfile::tempdir().unwrap();
    let rows = classes(11, 2);
    let model = classifier(2);
    let args = |policy: &str, folder: &Path| {
        let mut args = args(folder);
        args["nan_policy"] = json!(policy);
        (args["save_strategy"], args["eval_strategy"]) = (json!("steps"), json!("no"));
        // Rows 4 to 7 are the second update.
        args["train_sampling_strategy"] = json!("sequential");
        args
    };
    let poisoned = |model: &Model| {
        let model = model.clone();
        ComputeLoss::OfBatch(Box::new(move |output, batch| {
            let loss = model.loss(output, batch)?;
            let factor = if batch.rows.contains(&7) { f64::NAN } else { 1.0 };
            Ok((loss * factor)?)
        }))
    };
    let mut stopped = trainer(&model, args("stop", folder.path()), &rows, None);
    let last = Rc::new(RefCell::new(Vec::new()));
    let kept = last.clone();
    let seen = model.clone();
    let mut hooks = listening(move |event, _, _, _| {
        if event == Event::StepBegin {
            *kept.borrow_mut() = bits(&seen);
        }
    });
    hooks.compute_loss = Some(poisoned(&model));
    let error = stopped.train(None, &mut hooks).unwrap_err();
    drop(hooks);
    assert!(
        error.to_string().contains("is not finite") && error.to_string().contains("(row 7 of the training set)"),
        "{error}"
    );
    assert!(bits(&model) == *last.borrow());
    // The last good state is on the disk.
    assert_eq!(stopped.state().global_step, 1);
    assert!(newest(folder.path()).ends_with("checkpoint-1"));
    let mut skipping = trainer(&classifier(2), args("skip", folder.path()), &rows, None);
    let mut hooks = Hooks { compute_loss: Some(poisoned(skipping.model())), ..Hooks::default() };
    skipping.train(None, &mut hooks).unwrap();
    drop(hooks);
    assert!(weights(skipping.model()).values().flatten().all(|weight| weight.is_finite()));
    let text = serde_json::to_string(&skipping.state().to_json()).unwrap();
    assert!(!text.contains("NaN"), "{text}");
}

#[test]
fn the_best_checkpoint_of_a_run_is_found_where_its_folder_was_moved_to_and_has_to_be_whole() {
    let begun = tempfile::tempdir().unwrap();
    // A signal between the best evaluation and the one after which early stopping ends the run.
    let (_, ended) = long_run(begun.path(), 1, false, |asked| asked > 45);
    assert!(ended.is_none());
    let moved = tempfile::tempdir().unwrap();
    let here = moved.path().join("here");
    std::fs::rename(begun.path(), &here).unwrap();
    let (newest, _) = folders::newest(&here).unwrap();
    let text = std::fs::read_to_string(newest.folder().join("trainer_state.json")).unwrap();
    let state: Json = serde_json::from_str(&text).unwrap();
    let best = Path::new(state["best_model_checkpoint"].as_str().unwrap()).file_name().unwrap().to_owned();
    let (_, ended) = long_run(&here, 1, true, |_| false);
    let kept = ended.unwrap().checkpoints;
    assert!(kept.contains(&best.to_string_lossy().into_owned()), "{kept:?} without {best:?}");
    // One that was damaged meanwhile is no model to end with.
    let whole = tempfile::tempdir().unwrap();
    let (moments, _) = long_run(whole.path(), 1, false, |_| false);
    let again = tempfile::tempdir().unwrap();
    assert!(long_run(again.path(), 1, false, |asked| asked == moments - 1).1.is_none());
    let model = again.path().join(&best).join("model.safetensors");
    let mut bytes = std::fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&model, bytes).unwrap();
    let rows = classes(23, 2);
    let mut trainer = trainer(&classifier(2), long(again.path()), &rows, Some(&rows));
    let (newest, _) = folders::newest(again.path()).unwrap();
    let mut hooks = Hooks::default();
    hooks.callbacks.push(Box::new(EarlyStoppingCallback::new(1, 0.0)));
    let error = trainer.train(Some(newest.folder().to_path_buf()), &mut hooks).unwrap_err();
    assert!(error.to_string().contains("`model.safetensors` of the checkpoint was changed"), "{error}");
}
