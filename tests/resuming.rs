//! Going on from a checkpoint: bit for bit the run that was never interrupted.

use std::path::{Path, PathBuf};

use retune::data::Value;
use retune::train::{Hooks, checkpoint};
use serde_json::{Value as Json, json};

use crate::tiny::{bits, classes, classifier, listening, timeless, trainer};

/// Two epochs of three updates, each of two batches, with dropout, decay, a schedule and a mean over two losses.
fn args(folder: &Path) -> Json {
    json!({
        "output_dir": folder, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "weight_decay": 0.1, "lr_scheduler_type": "cosine", "warmup_steps": 1, "logging_steps": 2,
        "eval_strategy": "steps", "eval_steps": 2,
    })
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
        let checkpoint = checkpoint::latest(folder.path()).unwrap();
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
    let missing = checkpoint::latest(folder.path()).unwrap_err().to_string();
    assert!(missing.contains("checkpoint") && missing.contains("was not found"), "{missing}");
    run(args(folder.path()), None, Some(2));
    // Left behind by a process that died: no manifest; and what a later run has not finished.
    let torn = folder.path().join("checkpoint-4");
    std::fs::create_dir(&torn).unwrap();
    let complete = folder.path().join("checkpoint-2");
    std::fs::copy(complete.join("model.safetensors"), torn.join("model.safetensors")).unwrap();
    std::fs::create_dir(folder.path().join(".checkpoint-abc")).unwrap();
    std::fs::create_dir(folder.path().join("checkpoint-last")).unwrap();
    assert_eq!(checkpoint::latest(folder.path()).unwrap(), complete);
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
    assert!(error.contains("`trainer_state.json` of the checkpoint is missing or was changed"), "{error}");
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
