//! Metrics against scikit-learn 1.9.1 and scipy 1.17.1 (`golden/metrics_generate.py`), and their script functions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking; clippy exempts only the test functions themselves")]

use retune::metrics::classification::{Average, Scores, Tally, confusion_matrix};
use retune::metrics::multi_label::MultiLabelTally;
use retune::metrics::{ranking, regression};
use serde_json::Value;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|value| value as usize).collect()
}

fn bools(value: &Value) -> Vec<bool> {
    numbers(value).into_iter().map(|value| value == 1.0).collect()
}

/// Whether two numbers agree to 1e-12 relative; 1e-15 is allowed where cancellation should give zero.
fn agree(got: f64, expected: f64) -> bool {
    let allowed = (1e-12 * expected.abs()).clamp(1e-15, 1e-12 * f64::MAX);
    got == expected || (got.is_nan() && expected.is_nan()) || (got - expected).abs() <= allowed
}

fn check(case: &Value, key: &str, got: &[f64]) {
    let expected = if case[key].is_array() { numbers(&case[key]) } else { vec![number(&case[key])] };
    let same = got.len() == expected.len() && got.iter().zip(&expected).all(|(got, expected)| agree(*got, *expected));
    assert!(same, "{key}: {got:?}, scikit-learn has {expected:?} for {case}");
}

fn check_scores(case: &Value, key: &str, got: Scores) {
    check(case, key, &[got.precision, got.recall, got.f1]);
}

fn check_per_class(case: &Value, got: &[Scores]) {
    let columns: [fn(&Scores) -> f64; 4] = [|s| s.precision, |s| s.recall, |s| s.f1, |s| s.support as f64];
    for (at, column) in columns.into_iter().enumerate() {
        let got: Vec<f64> = got.iter().map(column).collect();
        let expected = numbers(&case["none"][at]);
        let same = got.len() == expected.len() && got.iter().zip(&expected).all(|(got, want)| agree(*got, *want));
        assert!(same, "none[{at}]: {got:?}, scikit-learn has {expected:?} for {case}");
    }
}

const AVERAGES: [(&str, Average); 3] =
    [("micro", Average::Micro), ("macro", Average::Macro), ("weighted", Average::Weighted)];

fn check_classification(case: &Value) {
    let (predictions, references) = (indices(&case["predictions"]), indices(&case["references"]));
    let tally = Tally::of(&predictions, &references).unwrap();
    let labels = if case["labels"].is_null() { tally.labels() } else { indices(&case["labels"]) };
    let zero_division = number(&case["zero_division"]);
    check(case, "accuracy", &[tally.accuracy()]);
    check(case, "balanced_accuracy", &[tally.balanced_accuracy()]);
    check(case, "matthews_correlation", &[tally.matthews_correlation()]);
    for (name, average) in AVERAGES {
        check_scores(case, name, tally.average(&labels, average, zero_division));
    }
    check_per_class(case, &tally.per_class(&labels, zero_division));
    if case.get("binary").is_some() {
        check_scores(case, "binary", tally.binary(1, zero_division).unwrap());
    }
    if let Some(matrix) = case.get("confusion_matrix") {
        let got = confusion_matrix(&predictions, &references, &labels).unwrap();
        assert_eq!(&serde_json::to_value(got).unwrap(), matrix, "{case}");
    }
}

fn check_multi_label(case: &Value) {
    let rows = |key: &str| case[key].as_array().unwrap().iter().map(bools).collect::<Vec<_>>();
    let (predictions, references) = (rows("predictions"), rows("references"));
    let mut tally = MultiLabelTally::new(references[0].len());
    for (prediction, reference) in predictions.iter().zip(&references) {
        tally.add(prediction, reference).unwrap();
    }
    let zero_division = number(&case["zero_division"]);
    check(case, "subset_accuracy", &[tally.subset_accuracy()]);
    check(case, "hamming_loss", &[tally.hamming_loss()]);
    for (name, average) in AVERAGES {
        check_scores(case, name, tally.average(average, zero_division));
    }
    check_per_class(case, &tally.per_label(zero_division));
}

fn check_regression(case: &Value) {
    let (predictions, references) = (numbers(&case["predictions"]), numbers(&case["references"]));
    type Metric = fn(&[f64], &[f64]) -> retune::error::Result<f64>;
    let metrics: [(&str, Metric); 6] = [
        ("mse", regression::mse),
        ("rmse", regression::rmse),
        ("mae", regression::mae),
        ("r2", regression::r2),
        ("pearson", regression::pearson),
        ("spearman", regression::spearman),
    ];
    for (name, metric) in metrics {
        check(case, name, &[metric(&predictions, &references).unwrap()]);
    }
}

#[test]
fn metrics_are_those_of_scikit_learn_and_scipy() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/metrics.json")).unwrap();
    assert!(cases.len() >= 220, "{} cases", cases.len());
    for case in &cases {
        match case["kind"].as_str().unwrap() {
            "classification" => check_classification(case),
            "multi_label" => check_multi_label(case),
            "regression" => check_regression(case),
            "roc_auc" => {
                let area = ranking::roc_auc(&numbers(&case["predictions"]), &bools(&case["references"])).unwrap();
                check(case, "roc_auc", &[area]);
            }
            other => panic!("unknown kind {other}"),
        }
    }
}

#[test]
fn ties_share_their_mean_rank() {
    // By hand, and as scipy.stats.rankdata has it; -0.0 and 0.0 are equal.
    for (values, expected) in [
        (&[][..], &[][..]),
        (&[5.0], &[1.0]),
        (&[3.0, 1.0, 3.0, 2.0], &[3.5, 1.0, 3.5, 2.0]),
        (&[0.0, -0.0, -1.0], &[2.5, 2.5, 1.0]),
    ] {
        assert_eq!(ranking::average_ranks(values), expected);
    }
}

#[test]
fn nan_stays_nan_and_never_hangs() {
    let (with_nan, plain) = ([1.0, f64::NAN, 2.0], [1.0, 2.0, 3.0]);
    assert!(regression::mse(&with_nan, &plain).unwrap().is_nan());
    assert!(regression::pearson(&with_nan, &plain).unwrap().is_nan());
    assert!(regression::spearman(&with_nan, &plain).unwrap().is_nan());
    assert!(ranking::roc_auc(&with_nan, &[true, false, true]).unwrap().is_nan());
}

/// An engine with the metrics and `expect`.
fn engine() -> rhai::Engine {
    let mut engine = rhai::Engine::new();
    retune::api::metrics::register(&mut engine);
    engine.register_fn("expect", |holds: bool, message: &str| -> Result<(), Box<rhai::EvalAltResult>> {
        if holds { Ok(()) } else { Err(message.into()) }
    });
    engine
}

#[test]
fn examples_of_the_metrics_run() {
    let source = include_str!("../src/api/metrics.rs");
    let lines: Vec<&str> = source.lines().filter_map(|line| line.trim().strip_prefix("///")).collect();
    let examples: Vec<String> = lines
        .split(|line| line.trim() == "```rhai")
        .skip(1)
        .map(|block| block.iter().take_while(|line| line.trim() != "```").copied().collect::<Vec<_>>().join("\n"))
        .collect();
    assert_eq!(examples.len(), source.matches("#[rhai_fn(").count(), "each function has one example");
    let engine = engine();
    for example in examples {
        assert!(example.contains("expect("), "an example proves nothing:\n{example}");
        engine.run(&example).unwrap_or_else(|error| panic!("{error} in\n{example}"));
    }
}

#[test]
fn wrong_inputs_of_the_metrics_are_explained() {
    let engine = engine();
    for (script, message, hint) in [
        ("accuracy([1, 2], [1])", "there are 2 predictions, but 1 references", ""),
        ("accuracy([], [])", "there are no predictions to score", ""),
        ("accuracy(1, [1])", "`predictions` must be an array, but is an integer", ""),
        ("accuracy([1, 0.5], [1, 1])", "`predictions[1]` must be an integer or a string, but is a float", ""),
        (
            "accuracy([[0.1, 0.9]], [1])",
            "`predictions[0]` must be an integer or a string, but is an array",
            "scores become labels with `argmax(predictions)`; one score a row is `row[0]`",
        ),
        (
            r#"accuracy([0, 1], ["neg", "pos"])"#,
            r#"labels are of mixed types: 0 and "pos""#,
            "`label2id` and `id2label` of a model translate them",
        ),
        (
            "f1([0, 1, 2], [0, 1, 2])",
            "there are 3 labels, but `average: \"binary\"` is for two",
            "use `average: \"macro\"`, \"micro\", \"weighted\" or \"none\"",
        ),
        (
            r#"f1(["neg", "pos"], ["pos", "neg"])"#,
            "the positive label `1` does not occur",
            "set `pos_label` to one of neg, pos",
        ),
        ("f1([0, 1], [0, 1], #{ avarage: \"macro\" })", "unknown option `avarage` for `f1`", "did you mean `average`?"),
        (
            "f1([0, 1], [0, 1], #{ average: \"makro\" })",
            "`average` of `f1` is \"makro\", but must be one of \"binary\", \"macro\", \"micro\", \"weighted\", \"none\"",
            "did you mean \"macro\"?",
        ),
        (
            "classification_report([0, 1], [0, 1], #{ target_names: [\"a\"] })",
            "there are 1 `target_names`, but 2 labels",
            "give `labels` too; those that occur are 0, 1",
        ),
        ("multi_label_f1([[1, 0]], [[1]])", "row 0 has 2 predictions, but there are 1 labels", ""),
        (
            "multi_label_f1([[1]], [])",
            "there are 1 predictions and 0 references",
            "there must be one prediction for each reference",
        ),
        ("pearson([1, \"a\"], [1, 2])", "`predictions[1]` must be a number, but is a string", ""),
        ("roc_auc([0.1, 0.2], [1, 2])", "a reference is 2, but must be 0 or 1", ""),
        ("argmax([])", "`scores` must be an array of numbers, or of such arrays, but is an empty array", ""),
        ("argmax(3)", "`scores` must be an array of numbers, or of such arrays, but is an integer", ""),
        (
            "argmax([1, \"a\"])",
            "`scores` must be an array of numbers, or of such arrays, but is an array with a string",
            "",
        ),
    ] {
        let failure = *engine.run(script).expect_err(script);
        let rhai::EvalAltResult::ErrorRuntime(payload, position) = failure else { panic!("{script}: {failure}") };
        let error = payload.try_cast::<retune::error::Error>().unwrap_or_else(|| panic!("{script}: no error of ours"));
        assert_eq!(error.to_string(), message, "{script}");
        assert_eq!(error.hint_text().unwrap_or_default(), hint, "{script}");
        assert_eq!(position.line(), Some(1), "{script}");
    }
}

#[test]
fn arrays_of_any_depth_have_an_argmax() {
    let engine = engine();
    for (script, expected) in [
        ("argmax([3, 3, 1])", "0"),
        ("argmax([0.0/0.0, 1.0])", "0"),
        ("argmax([1.0, 0.0/0.0])", "1"),
        ("argmax([[[1, 2], [2, 1]], [[0, 1]]])", "[[1, 0], [1]]"),
        ("argmax([-1.5, -0.5])", "1"),
    ] {
        assert_eq!(engine.eval::<rhai::Dynamic>(script).unwrap().to_string(), expected, "{script}");
    }
}

/// The tables are what scikit-learn 1.9.1 prints for the same input.
#[test]
fn the_classification_report_is_scikit_learns() {
    let engine = engine();
    for (options, expected) in [
        (
            "#{}",
            "              precision    recall  f1-score   support

           0       1.00      1.00      1.00         1
           1       0.50      1.00      0.67         1
           2       1.00      0.50      0.67         2

    accuracy                           0.75         4
   macro avg       0.83      0.83      0.78         4
weighted avg       0.88      0.75      0.75         4
",
        ),
        (
            "#{ labels: [0, 1] }",
            "              precision    recall  f1-score   support

           0       1.00      1.00      1.00         1
           1       0.50      1.00      0.67         1

   micro avg       0.67      1.00      0.80         2
   macro avg       0.75      1.00      0.83         2
weighted avg       0.75      1.00      0.83         2
",
        ),
    ] {
        let script = format!("classification_report([0, 1, 1, 2], [0, 1, 2, 2], {options})");
        assert_eq!(engine.eval::<String>(&script).unwrap(), expected, "{options}");
    }
}
