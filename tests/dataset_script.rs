//! Data sets in scripts: every method, functions over rows, and errors that name the row.

use std::sync::{Arc, Mutex};

use candle_core::Device;
use retune::api::session::{Session, SessionSettings};
use retune::data::embedded;
use retune::data::files::Places;
use retune::error::{Error, What};
use retune::report::Reporter;
use rhai::{Dynamic, Engine, EvalAltResult, Module, Scope};

/// An engine with the data functions, `std/clean`, and what was printed.
fn engine() -> (Engine, Arc<Mutex<Vec<String>>>) {
    let mut engine = Engine::new();
    engine.set_fail_on_invalid_map_property(true);
    retune::api::register(&mut engine);
    engine.set_default_tag(Dynamic::from(Session::new(SessionSettings {
        places: Places::default(),
        device: Device::Cpu,
        reporter: Reporter::capture(),
        arguments: Default::default(),
        seed: None,
        tasks: Arc::new(|_, _, _| Err(What::Internal("no tasks here".into()).into())),
        recipe: "test.rhai".into(),
    })));
    let printed = Arc::new(Mutex::new(Vec::new()));
    let lines = printed.clone();
    engine.on_print(move |line| lines.lock().unwrap().push(line.to_string()));
    let text = std::str::from_utf8(embedded::file("clean.rhai").unwrap()).unwrap();
    let module = Module::eval_ast_as_new(Scope::new(), &engine.compile(text).unwrap(), &engine).unwrap();
    engine.register_static_module("clean", module.into());
    (engine, printed)
}

/// The error of the library inside a script error, with the script's own message where one is inside that.
fn failure(error: &EvalAltResult) -> String {
    let EvalAltResult::ErrorRuntime(value, position) = error.unwrap_inner() else { return error.to_string() };
    let Some(error) = value.clone().try_cast::<Error>() else { return error.to_string() };
    match error.hint_text() {
        Some(hint) => format!("{error} [{position}] | {hint}"),
        None => format!("{error} [{position}]"),
    }
}

#[test]
fn scripts_compute_with_data_sets() {
    let cases = [
        ("ds.len() + ds.num_rows", "6"),
        ("ds.column_names", r#"["label", "text"]"#),
        ("ds[0].text + ds[-1].text", "ac"),
        ("ds.column(\"text\") == ds[\"text\"]", "true"),
        ("let all = \"\"; for row in ds { all += row.text; } all", "abc"),
        ("const FIXED = ds; FIXED.take(1).len() + FIXED.len()", "4"),
        ("ds.map(|row| #{ n: row.label * 2 }).column(\"n\")", "[2, 0, 2]"),
        ("ds.map(|row| { row.text = \"x\"; row })[2].text", "x"),
        ("ds.map(|row| [#{ part: 1 }, #{ part: 2 }]).len()", "6"),
        ("let factor = 3; ds.map(|row| #{ n: row.label * factor })[0].n", "3"),
        ("map(ds, |row| #{ n: ds.len() })[0].n", "3"),
        ("fn double(row) { #{ n: row.label * 2 } } ds.map(double)[0].n", "2"),
        (
            "ds.map(|row, i| #{ i: i }, #{ with_indices: true, remove_columns: [\"text\"] })[2]",
            r#"#{"i": 2, "label": 1}"#,
        ),
        ("ds.filter(|row| row.label == 1).column(\"text\")", r#"["a", "c"]"#),
        ("let unused = |row| ds.len(); ds.filter(|row| row.label == 0).len()", "1"),
        ("ds.select(range(1, ds.len())).column(\"text\")", r#"["b", "c"]"#),
        ("ds.select(1..3).len() + ds.select(0..=2).len() + ds.select([2, -3]).len() + ds.select(2..2).len()", "7"),
        ("ds.select([2, -3]).column(\"text\")", r#"["c", "a"]"#),
        ("ds.take(2).len() + ds.take(9).len()", "5"),
        ("ds.shuffle(5).column(\"text\") == ds.shuffle(#{ seed: 5 }).column(\"text\")", "true"),
        ("ds.shuffle().column(\"text\") == ds.shuffle(42).column(\"text\")", "true"),
        (
            "let p = ds.train_test_split(#{ test_size: 1, shuffle: false }); [p.train.len(), p.test[0].text]",
            r#"[2, "c"]"#,
        ),
        ("ds.rename_column(\"text\", \"words\").column_names", r#"["label", "words"]"#),
        ("ds.remove_columns(\"label\")[0]", r#"#{"text": "a"}"#),
        ("ds.concat(Dataset::from_dict(#{ more: [7] }))[3]", r#"#{"label": (), "more": 7, "text": ()}"#),
        ("ds.unique(\"label\")", "[1, 0]"),
        ("`${ds}`", "Dataset({\n    features: ['label', 'text'],\n    num_rows: 3\n})"),
        ("load_dataset(\"std/reviews\").keys()", r#"["test", "train", "validation"]"#),
        ("load_dataset(\"std/reviews\", #{ split: \"test\" })[0].label", "positive"),
        ("Dataset::from_rows([]).len()", "0"),
    ];
    let (engine, _) = engine();
    for (script, expected) in cases {
        let setup = r#"let ds = Dataset::from_rows([#{ text: "a", label: 1 }, #{ text: "b", label: 0 }, #{ text: "c", label: 1 }]);"#;
        let found = engine.eval::<Dynamic>(&format!("{setup} {script}"));
        assert_eq!(
            found.map(|value| value.to_string()).map_err(|error| failure(&error)),
            Ok(expected.to_string()),
            "{script}"
        );
    }
}

#[test]
fn errors_in_scripts_name_the_row_and_keep_their_position() {
    let cases = [
        ("ds[2]", "the row number is 2, but must be between 0 and 1 (data set `from_rows`) [line 2, position 3]"),
        ("ds[-3]", "the row number is -3, but must be between 0 and 1 (data set `from_rows`) [line 2, position 3]"),
        (
            "ds.column(\"txt\")",
            "column `txt` was not found (data set `from_rows`) [line 2, position 4] | did you mean `text`?",
        ),
        (
            "ds.select(0..3)",
            "the row number is 2, but must be between 0 and 1 (data set `from_rows`) [line 2, position 4]",
        ),
        (
            "ds.select(0..9_000_000_000_000)",
            "the row number is 8999999999999, but must be between 0 and 1 (data set `from_rows`) [line 2, position 4]",
        ),
        (
            "ds.select(\"x\")",
            "the argument of `select` must be a range such as `0..10` or `range(0, 10)`, or an array of row numbers, but is a string [line 2, position 4]",
        ),
        (
            "ds.map(|row| { let n = row.text; })",
            "the result of the function given to `map` must be a map from column to value, but is `()` (nothing) (row 0) (data set `from_rows`) [line 2, position 4] | end the function with the map of new cells",
        ),
        (
            "ds.filter(|row| row.text)",
            "the result of the function given to `filter` must be a bool, but is a string (row 0) (data set `from_rows`) [line 2, position 4]",
        ),
        (
            "ds.map(|row| { if row.label == 0 { throw \"bad row\" } row })",
            "Runtime error: bad row (line 2, position 36) (row 1) (data set `from_rows`) [line 2, position 4]",
        ),
        (
            "ds.map(|row| #{ other: Fn(\"f\") })",
            "a value to be stored must be a number, string, bool, array, map or tensor, but is a function (column `other`) (row 0) (data set `from_rows`) [line 2, position 4]",
        ),
        (
            "map(ds, |row| ds[7])",
            "the row number is 7, but must be between 0 and 1 (row 0) (data set `from_rows`) [line 2, position 1]",
        ),
        (
            "ds.map(|row| row, #{ batched: true })",
            "`batched` of `map` is not supported [line 2, position 4] | the function is called with one row at a time; leave `batched` out",
        ),
        (
            "ds.map(|row| row, #{ with_index: true })",
            "unknown option `with_index` for `map` [line 2, position 4] | did you mean `with_indices`?",
        ),
        (
            "ds.train_test_split(#{ test_size: \"half\" })",
            "`test_size` of `train_test_split` must be a share such as 0.2 or a number of rows, but is a string [line 2, position 4]",
        ),
        (
            "ds.train_test_split(#{ stratify_by: \"label\", shuffle: false })",
            "`stratify_by` of `train_test_split` draws rows at random and does not go with `shuffle: false` [line 2, position 4]",
        ),
        ("ds.shuffle(-1)", "the seed is -1, but must be zero or more [line 2, position 4]"),
        (
            "Dataset::from_rows([#{ a: 1 }, 2])",
            "a row must be a map from column to value, but is an integer (row 1) [line 2, position 10]",
        ),
        (
            "Dataset::from_dict(#{ a: [1], b: [1, 2] })",
            "column `b` has 2 values where another has 1 [line 2, position 10]",
        ),
        (
            "load_dataset(\"std/reviews\", #{ splt: \"train\" })",
            "unknown option `splt` for `load_dataset` [line 2, position 1] | did you mean `split`?",
        ),
        (
            "load_dataset(\"std/reviews\", #{ data_files: 7 })",
            "`data_files` of `load_dataset` must be a string, an array of strings, or a map from split to these, but is an integer [line 2, position 1]",
        ),
    ];
    let (engine, _) = engine();
    for (script, expected) in cases {
        let setup = r#"let ds = Dataset::from_rows([#{ text: "a", label: 1 }, #{ text: "b", label: 0 }]);"#;
        let error = engine.eval::<Dynamic>(&format!("{setup}\n{script}")).expect_err(script);
        assert_eq!(failure(&error), expected, "{script}");
    }
}

#[test]
fn an_error_about_a_row_of_a_file_names_the_line() {
    let (engine, _) = engine();
    let script = "load_dataset(\"std/reviews/test.jsonl\").filter(|row| row.score > -2.9).map(|row| row.missing)";
    let error = engine.eval::<Dynamic>(script).unwrap_err();
    let text = failure(&error);
    assert!(text.contains("(row 0) (std/reviews/test.jsonl:1)"), "{text}");
}

#[test]
fn cleaning_prints_what_it_did() {
    let (engine, printed) = engine();
    let script = r#"
        let ds = Dataset::from_rows([#{ text: " a" }, #{ text: "a" }, #{ text: " " }, #{ text: () }, #{ text: "b" }]);
        ds = clean::drop_duplicates(clean::drop_empty(clean::strip(ds, "text"), "text"), "text");
        let parts = clean::drop_empty(#{ train: ds, test: Dataset::from_rows([#{ text: "" }]) }, "text");
        [ds.column("text"), parts.train.len(), parts.test.len()]
    "#;
    assert_eq!(engine.eval::<Dynamic>(script).unwrap().to_string(), r#"[["a", "b"], 2, 0]"#);
    let expected = [
        "strip: 2 of 5 rows changed (text)",
        "drop_empty: 2 of 5 rows dropped (text)",
        "drop_duplicates: 1 of 3 rows dropped (text)",
        "drop_empty: 1 of 1 rows dropped (test: text)",
        "drop_empty: 0 of 2 rows dropped (train: text)",
    ];
    assert_eq!(*printed.lock().unwrap(), expected);
    let error = engine.eval::<Dynamic>("clean::strip(Dataset::from_rows([#{ text: 1 }]), \"txt\")").unwrap_err();
    assert!(failure(&error).starts_with("column `txt` was not found"), "{error}");
}
