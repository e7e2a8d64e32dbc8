//! `fast_dev_run`: a few batches through everything, and no trace on disk.

use std::cell::RefCell;

use retune::train::callbacks::Event;
use serde_json::json;

use crate::tiny::{arguments, classes, classifier, listening, scripted, trainer};

#[test]
fn a_dry_run_is_so_many_batches_of_everything() {
    for (given, n) in [(json!(true), 1), (json!(3), 3)] {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let args = json!({
            "fast_dev_run": given, "output_dir": output.display().to_string(), "num_train_epochs": 5, "save_strategy": "steps",
            "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": true,
            "metric_for_best_model": "score", "per_device_train_batch_size": 2, "per_device_eval_batch_size": 4,
        });
        let mut trainer = trainer(&classifier(3), args, &classes(20, 3), Some(&classes(30, 3)));
        let seen = RefCell::new(Vec::new());
        let notes = RefCell::new(Vec::new());
        let mut hooks = listening(|event, _, _, _| seen.borrow_mut().push(event));
        hooks.notes = Some(Box::new(|note| notes.borrow_mut().push(note.to_string())));
        scripted(&mut hooks, "score", &[0.5]);
        let result = trainer.train(None, &mut hooks).unwrap();
        assert_eq!(result.global_step, n);
        let count = |wanted: Event| seen.borrow().iter().filter(|event| **event == wanted).count();
        assert_eq!((count(Event::StepEnd), count(Event::Evaluate), count(Event::PredictionStep)), (n, 1, n));
        assert_eq!((count(Event::Save), count(Event::TrainEnd)), (0, 1));
        assert!(!output.exists(), "nothing is written");
        let first = notes.borrow()[0].clone();
        assert!(
            first.contains("a dry run of") && first.contains(if n == 1 { "one batch" } else { "3 batches" }),
            "{first}"
        );
        let metrics = trainer.evaluate(None, &mut hooks).unwrap();
        assert_eq!(metrics["eval_score"], 0.5);
        let predictions = trainer.predict(&classes(30, 3), &mut hooks).unwrap().predictions;
        assert_eq!((predictions.predictions.len(), predictions.label_ids.len()), (4 * n, 4 * n));
        assert_eq!(trainer.args().num_train_epochs, 5.0, "the arguments are what they were");
    }
}

#[test]
fn false_and_zero_are_no_dry_run() {
    for given in [json!(false), json!(0)] {
        assert_eq!(arguments(json!({ "fast_dev_run": given })).fast_dev_run.batches(), None);
    }
    assert_eq!(arguments(json!({ "fast_dev_run": 2 })).to_json()["fast_dev_run"], 2);
    assert_eq!(arguments(json!({})).to_json()["fast_dev_run"], false);
}
