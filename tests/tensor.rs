//! Tensors, layers and batches as scripts use them: results, and errors in people's words.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use retune::api::session::{Session, SessionSettings};
use retune::batch::{Batch, Features};
use retune::data::files::Places;
use retune::data::{Row, Value};
use retune::error::{Error, What};
use retune::head::best_labels::best_labels;
use retune::head::packed;
use retune::head::texts::text_columns;
use retune::report::Reporter;
use rhai::{Dynamic, Engine, EvalAltResult};

pub(crate) fn engine() -> Engine {
    let session = Session::new(SessionSettings {
        places: Places { roots: Arc::new([]), ..Places::default() },
        device: Device::Cpu,
        reporter: Reporter::capture(),
        arguments: BTreeMap::new(),
        seed: Some(1),
        tasks: Arc::new(|_, name, _| Err(What::NotFound { kind: "task", name: name.to_string() }.into())),
        recipe: PathBuf::from("test.rhai"),
    });
    let mut engine = Engine::new();
    engine.set_max_expr_depths(128, 128);
    engine.set_fail_on_invalid_map_property(true);
    retune::api::register(&mut engine);
    engine.set_default_tag(Dynamic::from(session));
    engine
}

/// The result of an expression, as Rhai's debug form shows it.
fn check(script: &str, expected: &str) {
    let value: Dynamic = engine().eval(script).unwrap_or_else(|error| panic!("{script}\n{error}"));
    assert_eq!(format!("{value:?}"), expected, "{script}");
}

/// The error of an expression: the text of the library's error, and the hint where there is one.
fn check_error(script: &str, expected: &str, hint: Option<&str>) {
    let error = *engine().eval::<Dynamic>(script).expect_err(script);
    let EvalAltResult::ErrorRuntime(value, position) = &error else { panic!("{script}\n{error}") };
    let found = value.clone().try_cast::<Error>().unwrap_or_else(|| panic!("{script}\n{error}"));
    assert_eq!(found.to_string(), expected, "{script}");
    assert_eq!(found.hint_text(), hint, "{script}");
    assert!(!position.is_none(), "the error keeps its position: {script}");
}

#[test]
fn operators_promote_and_broadcast() {
    for (script, expected) in [
        ("(Tensor::from_array([1, 2]) + 1).to_array()", "[2, 3]"),
        ("(Tensor::from_array([1, 2]) + 1.0).to_array()", "[2.0, 3.0]"),
        ("(Tensor::from_array([1, 2]) + Tensor::from_array([0.5, 0.5])).dtype", "\"float32\""),
        ("(6 / Tensor::from_array([1, 4])).to_array()", "[6.0, 1.5]"),
        ("(2 - Tensor::from_array([[1], [2]]) * Tensor::from_array([1, 2])).to_array()", "[[1, 0], [0, -2]]"),
        ("(-Tensor::from_array([1.5, -2.0])).to_array()", "[-1.5, 2.0]"),
        ("Tensor::from_array([1, -2]).abs().to_array()", "[1, 2]"),
        ("Tensor::from_array([1, 4]).sqrt().to_array()", "[1.0, 2.0]"),
        ("Tensor::from_array([1, 2, 3]).ge(Tensor::from_array([2])).to_array()", "[0, 1, 1]"),
        ("Tensor::from_array([[1, 2], [3, 4]]).mean(-1).to_array()", "[1.5, 3.5]"),
        ("Tensor::from_array([true, false]).to_array()", "[1, 0]"),
        ("Tensor::from_array([]).shape", "[0]"),
        ("Tensor::zeros([2, 0]).to_array()", "[[], []]"),
        ("Tensor::from_array([[1, 2], [3, 4]]).t().matmul(Tensor::from_array([[1], [1]])).to_array()", "[[4], [6]]"),
        ("let loss = Tensor::ones([2]).sum(); \"loss: \" + loss", "\"loss: 2.0\""),
        ("const X = Tensor::ones([2]); X.exp().shape[0] + X.len", "4"),
        ("Tensor::cat([Tensor::from_array([1]), Tensor::from_array([0.5])], 0).to_array()", "[1.0, 0.5]"),
        ("Tensor::full([2], 3).to_array()", "[3, 3]"),
        ("cross_entropy(Tensor::from_array([[1, 1]]), Tensor::from_array([0])).dtype", "\"float32\""),
    ] {
        check(script, expected);
    }
}

#[test]
fn errors_name_the_operation_and_the_shapes() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        (
            "Tensor::zeros([2, 3]).matmul(Tensor::zeros([4, 5]))",
            "matmul of (2, 3) and (4, 5): the first has 3 columns, the second 4 rows",
            None,
        ),
        (
            "Tensor::zeros([2, 3]) + Tensor::zeros([2])",
            "the sum (`+`) of (2, 3) and (2): 3 and 2 do not fit (dimension 1 of the result)",
            None,
        ),
        ("Tensor::from_array([[1, 2], [3]])", "the array is ragged: [1] has 1 entries, those before it have 2", None),
        ("Tensor::from_array([[1, 2], 3])", "the array is ragged: [1] is an integer beside arrays", None),
        ("Tensor::from_array([1, \"two\"])", "[1] of the array must be a number, but is a string", None),
        ("Tensor::zeros([6]).reshape([4, -1])", "reshape of (6) to [4, -1]: 6 elements cannot be divided by 4", None),
        (
            "Tensor::zeros([2, 3]).sum(2)",
            "the dimension of `sum` is 2, but must be -2 to 1 for a tensor of shape (2, 3)",
            None,
        ),
        (
            "Tensor::zeros([2, 3]).item()",
            "`item()` of (2, 3): the tensor has 6 elements instead of one",
            Some("`to_array()` gives all of them"),
        ),
        (
            "Tensor::zeros([3]).index_select(0, Tensor::from_array([0, -1]))",
            "an id of `index_select` is -1, but must be at least 0 and less than 3",
            None,
        ),
        (
            "cross_entropy(Tensor::zeros([1, 2]), Tensor::from_array([0]), #{ smoothing: 0.1 })",
            "unknown option `smoothing` for `cross_entropy`",
            Some("it knows `ignore_index`, `label_smoothing`, `weight`"),
        ),
        (
            "Batch::of([#{ input_ids: [1], labels: 0 }]).start_positions",
            "column `start_positions` was not found",
            Some("the batch has `input_ids` and `labels`"),
        ),
        (
            "Tensor::zeros([3, 2]).first(Batch::of([#{ input_ids: [1, 2] }]))",
            "`first(batch)` of (3, 2): the first dimension must count the 2 tokens of the batch",
            None,
        ),
        (
            "HeadBuilder::from_config(#{}).param(\"x\", [2], #{ init: \"zero\" })",
            "`init` of `param` is \"zero\", but must be one of \"zeros\", \"ones\", \"normal\"",
            Some("did you mean \"zeros\"?"),
        ),
        (
            "text_columns(#{ title: \"x\", stars: 3 })",
            "the row has no text; it has `stars`, `title`",
            Some("`rename_column(\"...\", \"text\")` tells which column holds it"),
        ),
    ];
    for (script, expected, hint) in cases {
        check_error(script, expected, *hint);
    }
}

#[test]
fn each_dropout_of_a_forward_draws_for_itself_and_every_forward_alike() {
    let row =
        Features::from_row(&[("input_ids".to_string(), Value::List((0..9).map(Value::Int).collect()))].into()).unwrap();
    let batch = Batch::pack(&[(0, &row)], &Device::Cpu).unwrap();
    let batch = batch.training(retune::batch::Draw { seed: 1, step: 0 }, 0);
    let x = Tensor::ones((9, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
    // A clone is what a script is given: it counts along.
    let forward = || {
        batch.start_forward();
        let script = batch.clone();
        [0, 1].map(|_| packed::dropout(&x, 0.5, &script).unwrap().to_vec2::<f32>().unwrap())
    };
    let [first, second] = forward();
    assert_ne!(first, second);
    assert_eq!(forward(), [first, second]);
}

#[test]
fn text_columns_are_found_as_in_hugging_faces_examples() {
    let row = |columns: &[(&str, Value)]| -> Row {
        Arc::new(columns.iter().map(|(name, value)| ((*name).to_string(), value.clone())).collect())
    };
    let text = |text: &str| Value::from(text);
    for (columns, expected) in [
        (vec![("text", text("a"))], Ok(("a", None))),
        (vec![("label", Value::Int(1)), ("review", text(""))], Ok(("", None))),
        (vec![("question", text("q")), ("sentence", text("s")), ("text", text("t"))], Ok(("q", Some("s")))),
        (vec![("question", text("q")), ("text", text("t"))], Ok(("t", None))),
        (vec![("text", Value::Null)], Err("the row has no text: `text` is null")),
        (vec![("text", Value::Int(3))], Err("the row has no text: `text` is an integer")),
        (vec![("text1", text("a")), ("text2", Value::Null)], Err("the row has no text: `text2` is null")),
        (vec![], Err("the row has no text; it has nothing")),
    ] {
        let found = text_columns(&row(&columns));
        let found = found.as_ref().map(|(a, b)| (&**a, b.as_deref())).map_err(ToString::to_string);
        assert_eq!(found, expected.map_err(str::to_string), "{columns:?}");
    }
}

#[test]
fn best_labels_are_sorted_and_ties_keep_their_order() {
    let scores = Tensor::new(&[[0.25f32, 0.5, 0.25], [0.0, 0.0, 1.0]], &Device::Cpu).unwrap();
    let names = ["a", "b", "c"].map(str::to_string);
    for (top_k, expected) in [(1, vec!["b", "c"]), (3, vec!["bac", "cab"]), (9, vec!["bac", "cab"])] {
        let rows = best_labels(&scores, &names, top_k).unwrap();
        let found: Vec<String> = rows.iter().map(|row| row.iter().map(|one| one.label.as_str()).collect()).collect();
        assert_eq!(found, expected, "top_k {top_k}");
    }
    assert!(best_labels(&scores, &names[..2], 1).is_err());
    assert!(best_labels(&scores, &names, 0).is_err());
}
