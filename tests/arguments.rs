//! `TrainingArguments`: defaults, aliases, refusals and cross-checks of Hugging Face, and the callbacks they steer.

use std::path::Path;
use std::sync::Arc;

use retune::api::session::{Session, SessionSettings};
use retune::data::Value;
use retune::report::Reporter;
use retune::train::TrainingArguments;
use retune::train::callbacks::{Callback, DefaultFlowCallback, EarlyStoppingCallback, Event, Extra, TrainerControl};
use retune::train::state::TrainerState;
use serde_json::{Map, Value as Json, json};

fn pairs(json: Json) -> Vec<(String, Value)> {
    json.as_object().unwrap().iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect()
}

fn read(json: Json) -> (TrainingArguments, Vec<String>) {
    TrainingArguments::from_pairs(pairs(json)).unwrap()
}

/// Defaults of transformers 5.23, read from the fields of its class.
#[test]
fn defaults_are_those_of_transformers() {
    let (args, notes) = read(json!({}));
    assert!(notes.is_empty(), "{notes:?}");
    let check = |key: &str, expected: Json| assert_eq!(args.get(key).unwrap().to_json(), expected, "{key}");
    let expected = r#"{
        "output_dir": "trainer_output", "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
        "num_train_epochs": 3.0, "max_steps": -1, "learning_rate": 5e-5, "lr_scheduler_type": "linear",
        "lr_scheduler_kwargs": null, "warmup_steps": 0.0, "optim": "adamw_torch_fused", "weight_decay": 0.0,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "gradient_accumulation_steps": 1,
        "max_grad_norm": 1.0, "label_smoothing_factor": 0.0, "bf16": false, "fp16": false,
        "activation_checkpointing": false, "logging_strategy": "steps", "logging_steps": 500.0,
        "logging_first_step": false, "report_to": [], "run_name": null, "eval_strategy": "no", "eval_steps": null,
        "eval_delay": 0.0, "eval_on_start": false, "save_strategy": "steps", "save_steps": 500.0,
        "save_total_limit": null, "load_best_model_at_end": false, "metric_for_best_model": null,
        "greater_is_better": null, "seed": 42, "data_seed": null, "use_cpu": false, "dataloader_drop_last": false,
        "dataloader_num_workers": 0, "label_names": null, "train_sampling_strategy": "random",
        "resume_from_checkpoint": null, "deepspeed": null, "push_to_hub": false
    }"#;
    for (key, expected) in pairs(serde_json::from_str(expected).unwrap()) {
        check(&key, expected.to_json());
    }
}

#[test]
fn values_are_kept_and_integers_are_numbers() {
    let check = |key: &str, value: Json, expected: Json| {
        let (args, notes) = read(json!({ key: value }));
        assert_eq!(args.get(key).unwrap().to_json(), expected, "{key}");
        assert!(notes.is_empty(), "{key}: {notes:?}");
    };
    check("num_train_epochs", json!(2), json!(2.0));
    check("max_steps", json!(10.0), json!(10));
    check("learning_rate", json!(0), json!(0.0));
    check("max_grad_norm", json!(null), json!(null));
    check("seed", json!(null), json!(42));
    check("label_names", json!("label"), json!(["label"]));
    check("resume_from_checkpoint", json!(true), json!(true));
    check("resume_from_checkpoint", json!("out/checkpoint-5"), json!("out/checkpoint-5"));
    check("report_to", json!("none"), json!([]));
    check("bf16", json!(false), json!(false));
    check("gradient_checkpointing", json!(false), json!(false));
    check("fsdp", json!(""), json!(""));
    check("lr_scheduler_type", json!("polynomial"), json!("polynomial"));
}

#[test]
fn earlier_names_and_idle_arguments_are_accepted_with_a_note() {
    let check = |key: &str, value: Json, read_as: &str, expected: Json, note: &str| {
        let (args, notes) = read(json!({ key: value }));
        assert_eq!(args.get(read_as).unwrap().to_json(), expected, "{key}");
        assert!(notes.len() == 1 && notes[0].contains(note), "{key}: {notes:?} does not say {note}");
    };
    check("evaluation_strategy", json!("epoch"), "eval_strategy", json!("epoch"), "is now `eval_strategy`");
    check("no_cuda", json!(true), "use_cpu", json!(true), "is now `use_cpu`");
    check("group_by_length", json!(true), "train_sampling_strategy", json!("group_by_length"), "is now");
    check("per_gpu_train_batch_size", json!(4), "per_device_train_batch_size", json!(4), "is now");
    check("dataloader_num_workers", json!(4), "dataloader_num_workers", json!(4), "changes nothing here");
    check("optim", json!("adamw_hf"), "optim", json!("adamw_hf"), "the same numbers");
    check("logging_nan_inf_filter", json!(true), "logging_nan_inf_filter", json!(true), "`nan_policy`");
    check("remove_unused_columns", json!(false), "remove_unused_columns", json!(false), "changes nothing here");
    check("overwrite_output_dir", json!(true), "overwrite_output_dir", json!(true), "changes nothing here");
    check("report_to", json!("all"), "report_to", json!([]), "no service");
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let check = |given: Json, expected: &str, hint: &str| {
        let error = TrainingArguments::from_pairs(pairs(given.clone())).unwrap_err();
        assert!(error.to_string().contains(expected), "{given}: {error} does not contain {expected}");
        let found = error.hint_text().unwrap_or_default();
        assert!(found.contains(hint), "{given}: the hint {found:?} does not contain {hint}");
    };
    check(json!({ "learning_rat": 1 }), "unknown option `learning_rat`", "`learning_rate`");
    check(json!({ "tokenizer": 1 }), "unknown option `tokenizer`", "option of `Trainer`");
    check(json!({ "learning_rate": "5e-5" }), "must be a number, but is a string", "without quotes");
    check(json!({ "learning_rate": true }), "must be a number, but is a bool", "");
    check(json!({ "logging_first_step": 1 }), "must be a bool, but is an integer", "");
    check(json!({ "per_device_train_batch_size": 8.5 }), "is 8.5, but must be a whole number", "");
    check(json!({ "per_device_train_batch_size": -8 }), "is -8, but must be a whole number of at least 0", "");
    check(json!({ "dataloader_num_workers": "many" }), "must be an integer", "");
    check(json!({ "eval_strategy": "epochs" }), "one of \"no\", \"steps\", \"epoch\"", "\"epoch\"");
    check(json!({ "lr_scheduler_type": "cosin" }), "\"cosin\"", "\"cosine\"");
    check(json!({ "optim": "adafactor" }), "`optim: \"adafactor\"` of `TrainingArguments` is not supported", "AdamW");
    check(json!({ "optim": "paged_adamw_8bit" }), "is not supported", "AdamW");
    check(json!({ "optim": "adamm" }), "is \"adamm\", but must be", "");
    check(json!({ "report_to": "wandb" }), "`report_to: \"wandb\"`", "comes later");
    check(json!({ "fp16": true }), "`fp16: true`", "`bf16`");
    check(
        json!({ "activation_checkpointing": true }),
        "`activation_checkpointing: true`",
        "`gradient_checkpointing: true`",
    );
    check(json!({ "push_to_hub": true }), "`push_to_hub: true`", "save_model");
    check(json!({ "deepspeed": "ds.json" }), "`deepspeed` of", "several devices");
    check(json!({ "fsdp": "full_shard" }), "`fsdp` of", "several devices");
    check(json!({ "torch_compile": true }), "`torch_compile: true`", "PyTorch");
    check(json!({ "eval_strategy": "no", "evaluation_strategy": "no" }), "mean the same", "`eval_strategy`");
    check(json!({ "batch_size": 8 }), "unknown option `batch_size`", "");
}

#[test]
fn values_out_of_range_are_refused() {
    for (key, value) in [
        ("per_device_train_batch_size", json!(0)),
        ("per_device_eval_batch_size", json!(0)),
        ("gradient_accumulation_steps", json!(0)),
        ("num_train_epochs", json!(0)),
        ("max_steps", json!(0)),
        ("max_steps", json!(-2)),
        ("learning_rate", json!(-1e-5)),
        ("weight_decay", json!(-0.1)),
        ("adam_beta1", json!(1)),
        ("max_grad_norm", json!(-1)),
        ("label_smoothing_factor", json!(1.0)),
        ("warmup_ratio", json!(1.5)),
        ("warmup_steps", json!(-1)),
        ("logging_steps", json!(0)),
        ("logging_steps", json!(2.5)),
        ("save_total_limit", json!(0)),
        ("seed", json!(-1)),
    ] {
        let error = TrainingArguments::from_pairs(pairs(json!({ key: value }))).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{key}` of `TrainingArguments` is ")), "{key}: {error}");
    }
    for number in [f64::NAN, f64::INFINITY] {
        let error = TrainingArguments::from_pairs(vec![("learning_rate".into(), Value::Float(number))]).unwrap_err();
        assert!(error.to_string().contains("must be finite"), "{error}");
    }
}

#[test]
fn arguments_have_to_fit_together() {
    let refused = |given: Json, expected: &str| {
        let error = TrainingArguments::from_pairs(pairs(given.clone())).unwrap_err().to_string();
        assert!(error.contains(expected), "{given}: {error} does not contain {expected}");
    };
    let best = |more: Json| {
        let mut all = json!({ "load_best_model_at_end": true });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    refused(best(json!({})), "needs evaluations");
    refused(best(json!({ "eval_strategy": "epoch" })), "the same `eval_strategy` and `save_strategy`");
    refused(best(json!({ "eval_strategy": "steps", "eval_steps": 200 })), "multiple of `eval_steps`");
    refused(best(json!({ "eval_strategy": "steps", "eval_steps": 0.1 })), "multiple of `eval_steps`");
    refused(best(json!({ "eval_strategy": "steps", "eval_steps": 0.3, "save_steps": 0.4 })), "multiple");
    refused(json!({ "lr_scheduler_type": "reduce_lr_on_plateau" }), "needs an `eval_strategy`");
    refused(json!({ "lr_scheduler_kwargs": { "num_cycles": 2 } }), "unknown option `num_cycles`");
    refused(json!({ "save_strategy": "best", "eval_strategy": "epoch" }), "`metric_for_best_model`");
    refused(
        json!({ "logging_strategy": "no", "logging_steps": 0, "eval_strategy": "steps" }),
        "needs `eval_steps` or `logging_steps`",
    );

    let args = read(best(json!({ "eval_strategy": "steps", "eval_steps": 250 }))).0;
    assert_eq!((args.metric_for_best_model.as_deref(), args.greater_is_better), (Some("loss"), Some(false)));
    let args =
        read(best(json!({ "eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "f1" }))).0;
    assert_eq!((args.best_metric_key().as_deref(), args.greater_is_better), (Some("eval_f1"), Some(true)));
    read(best(json!({ "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.2 })));
    assert_eq!(read(json!({ "eval_strategy": "steps", "logging_steps": 50 })).0.eval_steps, Some(50.0));
}

/// transformers: `int(steps)` from 1 on, `ceil(total * steps)` below.
#[test]
fn a_warm_up_is_a_number_of_updates_or_a_share() {
    for (given, expected) in [
        (json!({}), 0),
        (json!({ "warmup_steps": 10 }), 10),
        (json!({ "warmup_steps": 1 }), 1),
        (json!({ "warmup_steps": 0.1 }), 11),
        (json!({ "warmup_ratio": 0.1 }), 11),
        (json!({ "warmup_ratio": 1 }), 101),
        (json!({ "warmup_ratio": 0.5, "warmup_steps": 3 }), 3),
    ] {
        assert_eq!(read(given.clone()).0.warmup_steps_of(101), expected, "{given}");
    }
}

#[test]
fn the_json_of_arguments_can_be_read_again() {
    let given = json!({
        "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": true, "dataloader_num_workers": 2,
        "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": { "num_cycles": 1.0 }, "warmup_ratio": 0.1,
    });
    let args = read(given).0;
    let text = serde_json::to_string(&args.to_json()).unwrap();
    assert_eq!(read(serde_json::from_str(&text).unwrap()).0, args);
    let unique: std::collections::HashSet<_> = TrainingArguments::keys().collect();
    assert_eq!(unique.len(), TrainingArguments::keys().count(), "an argument is listed twice");
    assert!(TrainingArguments::keys().all(|key| args.get(key).is_some()));
}

/// Runs the default flow over a run of `total` updates with two epochs; returns the steps of (log, evaluate, save).
fn flow(given: Json, total: usize) -> [Vec<usize>; 3] {
    let args = read(given).0;
    let (mut state, mut control) = (TrainerState::default(), TrainerControl::default());
    state.plan(&args, total, 2);
    let mut due = [Vec::new(), Vec::new(), Vec::new()];
    let mut note = |step, control: &TrainerControl| {
        let flags = [control.should_log, control.should_evaluate, control.should_save];
        due.iter_mut().zip(flags).filter(|(_, flag)| *flag).for_each(|(steps, _)| steps.push(step));
    };
    for step in 1..=total {
        control.new_step();
        (state.global_step, state.epoch) = (step, 2.0 * step as f64 / total as f64);
        DefaultFlowCallback.on_event(Event::StepEnd, &args, &mut state, &mut control, &Extra::default()).unwrap();
        note(step, &control);
        assert_eq!(control.should_training_stop, step == total);
        if step == total / 2 || step == total {
            control.new_step();
            DefaultFlowCallback.on_event(Event::EpochEnd, &args, &mut state, &mut control, &Extra::default()).unwrap();
            note(step, &control);
        }
    }
    due
}

/// Worked out by hand from transformers' DefaultFlowCallback.
#[test]
fn the_default_flow_logs_evaluates_and_saves_when_transformers_does() {
    let check = |given: Json, expected: [&[usize]; 3]| assert_eq!(flow(given.clone(), 10), expected, "{given}");
    check(json!({}), [&[], &[], &[10]]);
    check(json!({ "logging_steps": 4, "logging_first_step": true, "save_strategy": "no" }), [&[1, 4, 8], &[], &[]]);
    check(
        json!({ "logging_steps": 5, "eval_strategy": "steps", "eval_steps": 4, "eval_delay": 5, "save_steps": 0.3 }),
        [&[5, 10], &[8, 10], &[3, 6, 9, 10]],
    );
    check(
        json!({ "logging_strategy": "epoch", "eval_strategy": "epoch", "save_strategy": "epoch" }),
        [&[5, 10], &[5, 10], &[5, 10]],
    );
    check(json!({ "logging_strategy": "no", "eval_strategy": "epoch", "eval_delay": 1.5 }), [&[], &[10], &[10]]);
    check(
        json!({ "save_strategy": "best", "eval_strategy": "steps", "metric_for_best_model": "f1" }),
        [&[], &[10], &[]],
    );
}

/// The step of a run of evaluations at which early stopping stops, with a save and a load before each.
fn stops_at(patience: u64, threshold: f64, metrics: &[f64]) -> Option<usize> {
    let args = read(json!({ "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": true,
                            "metric_for_best_model": "accuracy" }))
    .0;
    let (mut state, mut control) = (TrainerState::default(), TrainerControl::default());
    let mut callback = EarlyStoppingCallback::new(patience, threshold);
    callback.on_event(Event::TrainBegin, &args, &mut state, &mut control, &Extra::default()).unwrap();
    assert!(callback.warnings().is_empty());
    metrics.iter().enumerate().find_map(|(idx, metric)| {
        let (_, saved) = callback.state().unwrap();
        callback = EarlyStoppingCallback::new(patience, threshold);
        callback.load_state(&saved).unwrap();
        let metrics: Map<_, _> = [("eval_accuracy".to_string(), json!(metric))].into_iter().collect();
        let extra = Extra { metrics: Some(&metrics), ..Extra::default() };
        callback.on_event(Event::Evaluate, &args, &mut state, &mut control, &extra).unwrap();
        state.note_evaluation(&args, &metrics).unwrap();
        control.should_training_stop.then_some(idx)
    })
}

/// Worked out by hand from transformers' EarlyStoppingCallback.
#[test]
fn early_stopping_counts_evaluations_that_do_not_improve() {
    for (patience, threshold, metrics, expected) in [
        (1, 0.0, &[0.5, 0.6, 0.6][..], Some(2)),
        (2, 0.0, &[0.5, 0.4, 0.6, 0.5, 0.6], Some(4)),
        (2, 0.0, &[0.5, 0.4, 0.6, 0.5, 0.7], None),
        // An improvement below the threshold counts as none, and yet becomes the best.
        (2, 0.05, &[0.5, 0.52, 0.54, 0.9], Some(2)),
        (1, 0.0, &[0.5, f64::NAN], Some(1)),
        (3, 0.0, &[0.5], None),
    ] {
        assert_eq!(stops_at(patience, threshold, metrics), expected, "{patience} {threshold} {metrics:?}");
    }
}

#[test]
fn early_stopping_says_what_it_needs() {
    let begin = |given: Json| {
        let mut callback = EarlyStoppingCallback::new(1, 0.0);
        let (mut state, mut control) = (TrainerState::default(), TrainerControl::default());
        let extra = Extra::default();
        let result = callback.on_event(Event::TrainBegin, &read(given).0, &mut state, &mut control, &extra);
        result.map(|()| callback.warnings().concat())
    };
    assert!(begin(json!({})).unwrap_err().to_string().contains("needs `metric_for_best_model`"));
    let error = begin(json!({ "metric_for_best_model": "f1" })).unwrap_err();
    assert!(error.to_string().contains("needs an `eval_strategy`"), "{error}");
    let warning = begin(json!({ "metric_for_best_model": "f1", "eval_strategy": "epoch" })).unwrap();
    assert!(warning.contains("without `load_best_model_at_end`"), "{warning}");
}

#[test]
fn flags_are_taken_back_as_in_transformers() {
    let all = TrainerControl {
        should_training_stop: true,
        should_epoch_stop: true,
        should_save: true,
        should_evaluate: true,
        should_log: true,
    };
    let check = |reset: fn(&mut TrainerControl), expected: [bool; 5]| {
        let mut control = all;
        reset(&mut control);
        let TrainerControl { should_training_stop, should_epoch_stop, should_save, should_evaluate, should_log } =
            control;
        assert_eq!([should_training_stop, should_epoch_stop, should_save, should_evaluate, should_log], expected);
    };
    check(TrainerControl::new_training, [false, true, true, true, true]);
    check(TrainerControl::new_epoch, [true, false, true, true, true]);
    check(TrainerControl::new_step, [true, true, false, false, false]);
    assert!(Event::ALL.iter().all(|event| Event::named(event.name()) == Some(*event)));
    assert_eq!(Event::ALL.len(), 15);
}

#[test]
fn the_state_survives_its_file() {
    let mut state = TrainerState { global_step: 7, epoch: 0.7, ..TrainerState::default() };
    let logs: Map<_, _> =
        [("loss".to_string(), json!(0.1)), ("grad_norm".to_string(), json!(2.5))].into_iter().collect();
    let shown = state.log(logs);
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["loss", "grad_norm", "epoch"]);
    assert_eq!(state.log_history[0].keys().collect::<Vec<_>>(), ["loss", "grad_norm", "epoch", "step"]);
    let mut json = state.to_json();
    let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    // The file that transformers 5.23 writes: the fields of TrainerState, sorted.
    assert_eq!(
        keys.join(" "),
        "best_global_step best_metric best_model_checkpoint epoch eval_steps global_step is_hyper_param_search \
         is_local_process_zero is_world_process_zero log_history logging_steps max_steps num_input_tokens_seen \
         num_train_epochs save_steps stateful_callbacks total_flos train_batch_size trial_name trial_params"
    );
    json["a_key_of_the_future"] = json!(1);
    let path = Path::new("trainer_state.json");
    let read = TrainerState::from_json(&json.to_string(), path).unwrap();
    assert_eq!((read.global_step, read.epoch, read.log_history.len()), (7, 0.7, 1));
    let error = TrainerState::from_json("{\n\"epoch\": x}", path).unwrap_err().to_string();
    assert!(error.contains("trainer_state.json:2:"), "{error}");
}

#[test]
fn the_best_evaluation_is_remembered() {
    let args = read(json!({ "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": true })).0;
    let mut state = TrainerState::default();
    for (step, loss, better) in [(1, 0.5, true), (2, 0.6, false), (3, 0.5, false), (4, 0.4, true)] {
        state.global_step = step;
        let metrics = [("eval_loss".to_string(), json!(loss))].into_iter().collect();
        assert_eq!(state.note_evaluation(&args, &metrics).unwrap(), better, "step {step}");
    }
    assert_eq!((state.best_metric, state.best_global_step), (Some(0.4), Some(4)));
    let error = state.note_evaluation(&args, &[("eval_f1".to_string(), json!(1))].into_iter().collect()).unwrap_err();
    assert!(error.to_string().contains("metric `eval_loss`") && error.hint_text().unwrap().contains("`eval_f1`"));
}

fn run(script: &str, seed: Option<u64>) -> Result<rhai::Dynamic, Box<rhai::EvalAltResult>> {
    let mut engine = rhai::Engine::new();
    retune::api::register(&mut engine);
    engine.set_default_tag(rhai::Dynamic::from(Session::new(SessionSettings {
        places: Default::default(),
        device: candle_core::Device::Cpu,
        reporter: Reporter::capture(),
        arguments: Default::default(),
        seed,
        tasks: Arc::new(|_, name, _| Err(retune::error::What::NotFound { kind: "task", name: name.into() }.into())),
        recipe: "recipe.rhai".into(),
    })));
    engine.eval(script)
}

#[test]
fn scripts_read_arguments_as_properties() {
    let check = |script: &str, expected: &str| assert_eq!(run(script, None).unwrap().to_string(), expected, "{script}");
    check("TrainingArguments(#{ learning_rate: 1 }).learning_rate", "1.0");
    check("const ARGS = TrainingArguments(#{ seed: 7 }); ARGS.seed", "7");
    check("TrainingArguments()[\"eval_strategy\"]", "no");
    check("TrainingArguments().save_total_limit == ()", "true");
    check("TrainingArguments(#{ max_steps: 5 }).to_string().contains(\"  max_steps=5,\")", "true");
    check("EarlyStoppingCallback(#{ early_stopping_patience: 3 }).to_string().contains(\"patience=3\")", "true");
    assert_eq!(run("TrainingArguments(#{ seed: 7 }).seed", Some(9)).unwrap().as_int().unwrap(), 9);

    let refused = |script: &str, expected: &str| {
        let rhai::EvalAltResult::ErrorRuntime(value, position) = *run(script, None).unwrap_err() else {
            panic!("{script} fails in another way")
        };
        let error = value.cast::<retune::error::Error>();
        assert!(error.to_string().contains(expected), "{error} does not contain {expected}");
        assert!(!position.is_none(), "{script} lost its position");
    };
    refused("TrainingArguments().learning_rte", "unknown option `learning_rte`");
    refused("TrainingArguments(#{ learning_rte: 1 })", "unknown option `learning_rte`");
    refused("EarlyStoppingCallback(#{ patience: 1 })", "unknown option `patience`");
    refused("EarlyStoppingCallback(#{ early_stopping_threshold: -1 })", "at least 0");
}
