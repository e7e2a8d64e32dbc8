//! Learning rates against transformers' own functions (`golden/generate_train.py`).

use std::sync::Arc;

use indexmap::IndexMap;
use retune::data::Value;
use retune::train::TrainingArguments;
use retune::train::schedule::{Schedule, ScheduleKind};
use serde_json::Value as Json;

fn golden() -> Json {
    serde_json::from_str(include_str!("golden/schedules.json")).unwrap()
}

fn kwargs(json: &Json) -> IndexMap<String, Value> {
    json.as_object().unwrap().iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect()
}

fn numbers(json: &Json) -> Vec<f64> {
    json.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn count(json: &Json) -> usize {
    json.as_u64().unwrap() as usize
}

/// The kind as a user gives it.
fn kind(name: &str) -> ScheduleKind {
    let pairs = vec![
        ("lr_scheduler_type".to_string(), Value::from(name)),
        ("eval_strategy".to_string(), "epoch".into()),
        (
            "lr_scheduler_kwargs".to_string(),
            match name {
                "warmup_stable_decay" => Value::Map(Arc::new([("num_decay_steps".to_string(), Value::Int(1))].into())),
                name if name.ends_with("min_lr") => {
                    Value::Map(Arc::new([("min_lr".to_string(), Value::Int(0))].into()))
                }
                _ => Value::Null,
            },
        ),
    ];
    TrainingArguments::from_pairs(pairs).unwrap().0.lr_scheduler_type
}

/// Both sides compute in f64 and in the same order but for cosines of the C library: a few units in the last place
/// of the base rate.
#[test]
fn schedules_give_the_rates_of_transformers() {
    let golden = golden();
    let cases = golden["schedules"].as_array().unwrap();
    assert_eq!(cases.len(), 36);
    for case in cases {
        let base = case["base_lr"].as_f64().unwrap();
        let kind = kind(case["kind"].as_str().unwrap());
        let schedule =
            Schedule::new(kind, &kwargs(&case["kwargs"]), base, count(&case["warmup"]), count(&case["total"])).unwrap();
        for (step, expected) in numbers(&case["steps"]).into_iter().zip(numbers(&case["lr"])) {
            let lr = schedule.lr(step as usize);
            assert!((lr - expected).abs() <= base * 1e-14, "{case}: step {step}: {lr} instead of {expected}");
        }
    }
}

#[test]
fn reduce_lr_on_plateau_follows_the_metric_and_goes_on_from_its_state() {
    for case in golden()["plateaus"].as_array().unwrap() {
        let make = || {
            let kwargs = kwargs(&case["kwargs"]);
            Schedule::new(ScheduleKind::ReduceLrOnPlateau, &kwargs, case["base_lr"].as_f64().unwrap(), 5, 100).unwrap()
        };
        let mut schedule = make();
        for (metric, expected) in numbers(&case["metrics"]).into_iter().zip(numbers(&case["lr"])) {
            // A new one goes on from the state of the old one at every evaluation.
            let state = schedule.state().unwrap();
            schedule = make();
            schedule.load_state(&serde_json::from_str(&state.to_string()).unwrap()).unwrap();
            schedule.observe(metric);
            assert!((schedule.lr(0) - expected).abs() <= 1e-18, "{case}: {} instead of {expected}", schedule.lr(0));
        }
    }
}

#[test]
fn the_first_update_of_a_warm_up_has_rate_zero() {
    for kind in
        [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::InverseSqrt, ScheduleKind::ConstantWithWarmup]
    {
        let schedule = Schedule::new(kind, &IndexMap::new(), 1e-3, 4, 10).unwrap();
        assert_eq!((schedule.lr(0), schedule.lr(4)), (0.0, 1e-3), "{kind:?}");
    }
}

#[test]
fn keyword_arguments_are_checked() {
    let check = |kind, key: &str, value: Value, expected: &str| {
        let error = Schedule::new(kind, &[(key.to_string(), value)].into(), 1e-3, 0, 10).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} does not contain {expected}");
    };
    check(ScheduleKind::Linear, "power", Value::Int(2), "unknown option `power`");
    check(ScheduleKind::Constant, "num_cycles", Value::Int(2), "unknown option `num_cycles`");
    check(ScheduleKind::Polynomial, "lr_end", Value::Float(1e-2), "smaller than the learning rate");
    check(ScheduleKind::Polynomial, "power", "two".into(), "must be a number, but is a string");
    check(ScheduleKind::CosineWithMinLr, "num_cycles", Value::Float(0.5), "one of `min_lr` and `min_lr_rate`");
    check(ScheduleKind::WarmupStableDecay, "decay_type", "linear".into(), "needs `num_decay_steps`");
    check(ScheduleKind::ReduceLrOnPlateau, "mode", "up".into(), "\"min\" or \"max\"");
    check(ScheduleKind::ReduceLrOnPlateau, "factor", Value::Int(1), "smaller than 1");
}
