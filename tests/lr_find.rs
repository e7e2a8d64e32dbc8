//! The learning-rate finder: Lightning's rates, smoothing and suggestions, and that it leaves no trace.

use retune::train::lr_find::{LrFindSettings, Mode, Smoothing, suggestion};
use retune::train::{ComputeLoss, Hooks};
use serde_json::{Value as Json, json};

use crate::search_study::{golden, number};
use crate::tiny::{bits, classes, classifier, timeless, trainer};

fn numbers(json: &Json) -> Vec<f64> {
    json.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn rates_losses_and_suggestions_are_lightnings() {
    let golden = golden("learning_rates");
    for case in golden["rates"].as_array().unwrap() {
        let settings = LrFindSettings {
            min_lr: case["min_lr"].as_f64().unwrap(),
            max_lr: case["max_lr"].as_f64().unwrap(),
            num_training: case["num_training"].as_u64().unwrap() as usize,
            mode: if case["mode"] == "linear" { Mode::Linear } else { Mode::Exponential },
            ..LrFindSettings::default()
        };
        for (index, expected) in numbers(&case["lrs"]).into_iter().enumerate() {
            assert!((settings.rate(index) - expected).abs() < 1e-10 * expected, "{case} {index}");
        }
        assert!((settings.rate(settings.num_training - 1) - settings.max_lr).abs() < 1e-12);
    }
    let (mut n_stopped, mut n_suggested) = (0, 0);
    for case in golden["curves"].as_array().unwrap() {
        let (lrs, raw, expected) = (numbers(&case["lrs"]), numbers(&case["raw"]), numbers(&case["smoothed"]));
        let (mut smoothing, mut smoothed, mut stopped) = (Smoothing::default(), Vec::new(), false);
        for loss in raw {
            let (value, diverges) = smoothing.push(loss, Some(4.0));
            smoothed.push(value);
            stopped = diverges;
            if stopped {
                break;
            }
        }
        assert_eq!(stopped, case["stopped"] == true, "{case}");
        assert_eq!(smoothed.len(), expected.len());
        for (a, b) in smoothed.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-10 * b.abs() || (a.is_nan() && b.is_nan()), "{a} {b}");
        }
        let skip = numbers(&case["skip"]);
        let found = suggestion(&lrs, &smoothed, skip[0] as usize, skip[1] as usize);
        match (found, case["suggestion"].as_f64()) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-9 * expected, "{found} {expected}"),
            (found, expected) => assert_eq!(found, expected),
        }
        n_stopped += usize::from(stopped);
        n_suggested += usize::from(found.is_some());
    }
    assert!(n_stopped > 3 && n_suggested > 20, "{n_stopped} {n_suggested}");
}

#[test]
fn nothing_is_left_of_the_finder() {
    let args = json!({ "max_steps": 6, "per_device_train_batch_size": 4, "weight_decay": 0.1, "gradient_accumulation_steps": 2 });
    let run = |find: bool| {
        let model = classifier(3);
        let mut trainer = trainer(&model, args.clone(), &classes(22, 3), None);
        if find {
            let before = bits(&model);
            let settings = LrFindSettings { min_lr: 1e-6, max_lr: 1e-1, num_training: 25, ..LrFindSettings::default() };
            let mut updates = 0;
            let found = trainer.lr_find(&settings, &mut Hooks::default(), &mut || updates += 1).unwrap();
            assert_eq!((found.lrs.len(), found.losses.len(), updates), (25, 25, 25));
            assert!(found.losses.iter().any(|loss| (loss - found.losses[1]).abs() > 0.05), "it has trained: {found:?}");
            assert_eq!(bits(&model), before, "the weights are what they were, to the bit");
            assert_eq!(trainer.state().global_step, 0);
        }
        trainer.train(None, &mut Hooks::default()).unwrap();
        (bits(&model), timeless(trainer.state()))
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn weights_come_back_when_the_finder_is_interrupted() {
    let model = classifier(3);
    let before = bits(&model);
    let mut trainer = trainer(&model, json!({ "per_device_train_batch_size": 4 }), &classes(16, 3), None);
    let settings = LrFindSettings { min_lr: 1e-3, num_training: 20, ..LrFindSettings::default() };
    // A script's loss that fails after a few updates.
    let mut calls = 0;
    let mut hooks = Hooks {
        compute_loss: Some(ComputeLoss::OfBatch(Box::new(|output, _| {
            calls += 1;
            if calls == 5 {
                return Err(retune::error::What::Script("enough".into()).into());
            }
            Ok(output.tensors()[0].1.sqr()?.mean_all()?)
        }))),
        ..Hooks::default()
    };
    let error = trainer.lr_find(&settings, &mut hooks, &mut || ()).unwrap_err();
    assert_eq!(error.to_string(), "enough");
    drop(hooks);
    assert_eq!((calls, bits(&model)), (5, before.clone()));
    // A loss that is not finite ends the trying.
    let mut calls = 0;
    let mut hooks = Hooks {
        compute_loss: Some(ComputeLoss::OfBatch(Box::new(|output, _| {
            calls += 1;
            Ok((output.tensors()[0].1.sqr()?.mean_all()? * if calls == 5 { f64::NAN } else { 1.0 })?)
        }))),
        ..Hooks::default()
    };
    let found = trainer.lr_find(&settings, &mut hooks, &mut || ()).unwrap();
    assert!(found.stopped_early && found.lrs.len() == 4, "{found:?}");
    drop(hooks);
    assert_eq!(bits(&model), before);
}
