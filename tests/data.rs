//! Data sets in Rust: loading by name, splits and slices, and the operations on rows.

use std::path::Path;

use indexmap::IndexMap;
use retune::data::files::Places;
use retune::data::format::Format;
use retune::data::load::{DataFiles, LoadOptions, Loaded, load};
use retune::data::splits;
use retune::data::train_test_split::{Draw, Size, SplitOptions};
use retune::data::{Dataset, Value};
use retune::error::Error;

pub(crate) fn json(data: &Dataset) -> String {
    let row = |row: &retune::data::Row| Value::Map(row.clone()).to_json().to_string();
    data.rows().iter().map(row).collect::<Vec<_>>().join(" ")
}

/// The error as text, with its hint.
pub(crate) fn failure(error: Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error} | {hint}"),
        None => error.to_string(),
    }
}

/// Names and their splits, after the patterns in `datasets/data_files.py`.
#[test]
fn file_names_tell_the_split() {
    let cases: &[(&[&str], &str)] = &[
        (&["train.jsonl", "dev.jsonl", "test.jsonl"], "train=train.jsonl validation=dev.jsonl test=test.jsonl"),
        (
            &["train-00000-of-00002.csv", "train-00001-of-00002.csv"],
            "train=train-00000-of-00002.csv,train-00001-of-00002.csv",
        ),
        (&["my_val_set.csv", "Training.csv"], "train=Training.csv validation=my_val_set.csv"),
        (&["valid.txt", "eval.txt", "README.txt", "notes.txt"], "validation=valid.txt test=eval.txt"),
        (&["reviews.jsonl", "trainer.jsonl", "README.md", "dataset_info.json"], "train=reviews.jsonl,trainer.jsonl"),
        (
            &["data/train-0.jsonl", "data/validation-0.jsonl"],
            "train=data/train-0.jsonl validation=data/validation-0.jsonl",
        ),
        (&["test/a.txt", "train/a.txt", "train/b.txt"], "train=train/a.txt,train/b.txt test=test/a.txt"),
        (&[".train.jsonl", "README.md", "model.safetensors"], ""),
    ];
    for (files, expected) in cases {
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        let found = splits::assign(&files);
        let text: Vec<String> = found.iter().map(|(split, files)| format!("{split}={}", files.join(","))).collect();
        assert_eq!(text.join(" "), *expected, "{files:?}");
    }
}

/// A folder with `train.jsonl` (ten rows `i` = 0..10), `dev.jsonl` (three) and other files.
fn folder() -> (tempfile::TempDir, Places) {
    let folder = tempfile::tempdir().unwrap();
    let numbers = |n: usize| (0..n).map(|i| format!("{{\"i\": {i}}}\n")).collect::<String>();
    let files = [
        ("many/train.jsonl", numbers(10)),
        ("many/dev.jsonl", numbers(3)),
        ("many/notes.md", "notes".into()),
        ("mixed/train.jsonl", numbers(1)),
        ("mixed/train.csv", "i\n1\n".into()),
        ("parts/train-0.jsonl", numbers(2)),
        ("parts/train-1.jsonl", numbers(2)),
        ("notes/notes.md", "notes".into()),
        ("later/train.arrow", "PAR1".into()),
        ("odd.dat", "i\tj\n1\t2\n".into()),
        ("lines.json", numbers(2)),
        ("broken.jsonl", "{\"i\": 1}\n{\"i\": oops}\n".into()),
        ("blank.csv", "a,b\n".into()),
    ];
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let places = Places { roots: vec![folder.path().to_path_buf()].into(), ..Places::default() };
    (folder, places)
}

/// What was loaded: `name: values of column i`, one part for each split.
fn shown(loaded: Loaded) -> String {
    let one = |data: &Dataset| {
        let column = data.column_names()[0].clone();
        let values: Vec<String> =
            data.column(&column).unwrap().iter().map(|value| value.to_json().to_string()).collect();
        format!("{}: {}", data.name(), values.join(" "))
    };
    match loaded {
        Loaded::One(data) => one(&data),
        Loaded::Splits(splits) => splits.values().map(one).collect::<Vec<_>>().join("; "),
    }
}

fn split(split: &str) -> LoadOptions {
    LoadOptions { split: Some(split.into()), ..LoadOptions::default() }
}

fn files(files: &[&str]) -> LoadOptions {
    let files = DataFiles::Train(files.iter().map(ToString::to_string).collect());
    LoadOptions { data_files: Some(files), ..LoadOptions::default() }
}

/// Slices are computed by hand after `ReadInstruction` (rounding "closest": `round(percent * rows / 100)`, halves to even).
#[test]
fn names_and_slices_find_their_rows() {
    let (_folder, places) = folder();
    let cases = [
        ("many", LoadOptions::default(), "many[train]: 0 1 2 3 4 5 6 7 8 9; many[validation]: 0 1 2"),
        ("many/dev.jsonl", LoadOptions::default(), "many/dev.jsonl: 0 1 2"),
        ("lines.json", LoadOptions::default(), "lines.json: 0 1"),
        ("parts", split("train"), "parts[train]: 0 1 0 1"),
        ("many", split("train[:2]"), "many[train[:2]]: 0 1"),
        ("many", split("train[-2:]"), "many[train[-2:]]: 8 9"),
        ("many", split("train[8:100]"), "many[train[8:100]]: 8 9"),
        ("many", split("train[10%:30%]"), "many[train[10%:30%]]: 1 2"),
        // 2.5 rounds to 2 and 3.5 to 4, as in Python.
        ("many", split("train[25%:35%]"), "many[train[25%:35%]]: 2 3"),
        ("many", split("train[-20%:]"), "many[train[-20%:]]: 8 9"),
        ("many", split("train[:1]+validation[1:]"), "many[train[:1]+validation[1:]]: 0 1 2"),
        ("many", split("all"), "many[all]: 0 1 2 3 4 5 6 7 8 9 0 1 2"),
        ("many/dev.jsonl", split("train[:1]"), "many/dev.jsonl[train[:1]]: 0"),
        ("many", files(&["dev.jsonl"]), "many[train]: 0 1 2"),
        ("parts", files(&["train-*.jsonl"]), "parts[train]: 0 1 0 1"),
        ("json", files(&["many/dev.jsonl", "lines.json"]), "many/dev.jsonl: 0 1 2 0 1"),
        ("json", files(&["parts/*-1.jsonl"]), "parts/train-1.jsonl: 0 1"),
        ("odd.dat", LoadOptions { format: Some("tsv".into()), ..LoadOptions::default() }, "odd.dat: 1"),
        ("std/reviews/test.jsonl", split("train[:0%]+train[499:]"), "std/reviews/test.jsonl[train[:0%]+train[499:]]: "),
    ];
    for (name, options, expected) in cases {
        let found = load(&places, name, &options).map(shown).map_err(failure);
        // Of `std/reviews` the name alone is compared.
        assert!(
            found
                .as_ref()
                .is_ok_and(|found| found == expected || expected.ends_with(": ") && found.starts_with(expected)),
            "{name} {options:?}: {found:?} instead of {expected}"
        );
    }
}

#[test]
fn names_and_slices_that_are_wrong_are_explained() {
    let (_folder, places) = folder();
    let config = LoadOptions { config: Some("sst2".into()), ..LoadOptions::default() };
    let slices = "`split` is \"train[\", but must be a split or slices of splits, such as \"train\", \"train[:100]\", \
                  \"train[10%:20%]\" or \"train+validation\"";
    let cases = [
        (
            "many/tran.jsonl",
            LoadOptions::default(),
            "file `many/tran.jsonl` was not found | did you mean `many/train.jsonl`?",
        ),
        (
            "many/train.csv",
            LoadOptions::default(),
            "file `many/train.csv` was not found | did you mean `many/train.jsonl`?",
        ),
        (
            "nowhere/x.csv",
            LoadOptions::default(),
            "file `nowhere/x.csv` was not found | there is no folder `nowhere` either",
        ),
        (
            "stanfordnlp/imdb",
            LoadOptions::default(),
            "data set `stanfordnlp/imdb` was not found | give a local file or folder, such as `data/train.jsonl` or \
             `std/reviews`, or a data set of the hub, `USER/NAME`",
        ),
        ("std/review", LoadOptions::default(), "library name `std/review` was not found | did you mean `std/reviews`?"),
        (
            "std/reviews/tran.jsonl",
            LoadOptions::default(),
            "file `std/reviews/tran.jsonl` was not found | did you mean `std/reviews/train.jsonl`?",
        ),
        ("many", split("trian"), "split `trian` was not found (data set `many`) | did you mean `train`?"),
        ("many", split("train["), slices),
        (
            "many",
            split("train[5:5]"),
            "`many[train[5:5]]` has no rows | the slice begins behind the last row, or ends where it begins",
        ),
        ("many", split("dev"), "split `dev` was not found (data set `many`) | it has `train`, `validation`"),
        (
            "mixed",
            LoadOptions::default(),
            "the split `train` has files of two formats: `mixed/train.csv` and `mixed/train.jsonl` | choose with `data_files`",
        ),
        (
            "notes",
            LoadOptions::default(),
            "the folder `notes` holds no data files | none has an ending that is read, such as .jsonl, .csv or .parquet; name others with `data_files`",
        ),
        (
            "later",
            LoadOptions::default(),
            "the format of `.arrow` files is not supported (later/train.arrow) | save its rows as JSON Lines, CSV or Parquet",
        ),
        (
            "many",
            config,
            "configuration `sst2` was not found (data set `many`) | the data set has no configurations; leave `config` out",
        ),
        (
            "many",
            files(&["x-*.jsonl"]),
            "file `many/x-*.jsonl` was not found | `data_files` is a pattern that no file's name matches",
        ),
        ("many", files(&[]), "`data_files` names no files"),
        ("broken.jsonl", LoadOptions::default(), "JSON Lines: expected value (broken.jsonl:2:7)"),
        ("blank.csv", LoadOptions::default(), "`blank.csv` has no rows | is it the right file?"),
    ];
    for (name, options, expected) in cases {
        let error = load(&places, name, &options).map(shown).map_err(failure);
        assert_eq!(error, Err(expected.to_string()), "{name} {options:?}");
    }
}

/// Rows with a number `i` and a label that repeats `labels`.
fn numbered(n: usize, labels: &[&str]) -> Dataset {
    let row = |i: usize| {
        IndexMap::from([("i".into(), Value::Int(i as i64)), ("label".into(), labels[i % labels.len()].into())])
    };
    Dataset::from_rows("numbers", (0..n).map(row).collect())
}

fn numbers(data: &Dataset) -> Vec<i64> {
    data.cells("i").unwrap().map(|value| value.as_int().unwrap()).collect()
}

#[test]
fn a_row_remembers_its_line_through_every_operation() {
    let (_folder, places) = folder();
    let read = |name: &str| match load(&places, name, &LoadOptions::default()).unwrap() {
        Loaded::One(data) => data,
        Loaded::Splits(mut splits) => splits.swap_remove("train").unwrap(),
    };
    let made = numbered(1, &["a"]);
    let data = read("many")
        .shuffle(3)
        .filter(|row| Ok(row["i"] != Value::Int(4)))
        .unwrap()
        .concat(&read("parts/train-1.jsonl"));
    let data = data.concat(&made).rename_column("i", "n").unwrap().map(|row| Ok(row.clone())).unwrap();
    for (index, row) in data.rows().iter().enumerate() {
        let place: Vec<String> = data.place(index).iter().map(ToString::to_string).collect();
        let line = row["n"].as_int().unwrap() + 1;
        let from = match index {
            0..9 => format!("many/train.jsonl:{line}"),
            9..11 => format!("parts/train-1.jsonl:{line}"),
            _ => "data set `many[train]`".into(),
        };
        assert_eq!(place, [format!("row {index}"), from]);
    }
    let error = data.map(|_| Err(retune::error::What::BadData("no".into()).into())).unwrap_err();
    assert!(error.to_string().starts_with("no (row 0) (many/train.jsonl:"), "{error}");
}

#[test]
fn columns_are_kept_in_order_and_misspelt_ones_are_explained() {
    let data = numbered(3, &["a", "b"]);
    let names = |data: &Dataset| data.column_names().join(" ");
    assert_eq!(names(&data.rename_column("i", "id").unwrap()), "id label");
    assert_eq!(names(&data.remove_columns(&["i"]).unwrap()), "label");
    assert_eq!(names(&data.remove_columns(&["i"]).unwrap().concat(&data)), "label i");
    assert_eq!(data.unique("label").unwrap(), ["a".into(), "b".into()]);
    assert_eq!(numbers(&data.drop_duplicates("label").unwrap()), [0, 1]);
    assert_eq!(
        failure(data.column("lable").unwrap_err()),
        "column `lable` was not found (data set `numbers`) | did you mean `label`?"
    );
    assert_eq!(
        data.rename_column("i", "label").unwrap_err().to_string(),
        "a column `label` is there already, so `i` cannot be renamed to it (data set `numbers`)"
    );
    assert_eq!(
        data.select(&[0, 3]).unwrap_err().to_string(),
        "the row number is 3, but must be between 0 and 2 (data set `numbers`)"
    );
}

#[test]
fn cleaning_keeps_what_is_there() {
    let rows = r#"[{"t": " a\n"}, {"t": "a"}, {"t": ""}, {"t": "\u00a0 "}, {"t": null}, {"t": 1}, {"t": 1.0}, {"t": []}, {"t": "1"}, {"t": 1}]"#;
    let parsed = Format::Json.parse(rows.as_bytes(), Path::new("f")).unwrap();
    let data = Dataset::from_file("f", Path::new("f"), parsed);
    let stripped = data.strip("t").unwrap();
    assert_eq!(stripped.count_changed(&data, "t").unwrap(), 2);
    let filled = stripped.drop_empty("t").unwrap();
    assert_eq!(json(&filled), r#"{"t":"a"} {"t":"a"} {"t":1} {"t":1.0} {"t":"1"} {"t":1}"#);
    assert_eq!(json(&filled.drop_duplicates("t").unwrap()), r#"{"t":"a"} {"t":1} {"t":1.0} {"t":"1"}"#);
}

fn shuffled(test_size: Option<Size>, train_size: Option<Size>) -> SplitOptions {
    SplitOptions { test_size, train_size, draw: Draw::Shuffled { seed: 1 } }
}

/// Sizes by hand after scikit-learn's `_validate_shuffle_split`: the test part rounds up, the training part down.
#[test]
fn split_sizes_are_those_of_scikit_learn() {
    use Size::{Count, Fraction};
    let cases = [
        (10, Some(Fraction(0.25)), None, (7, 3)),
        (10, None, None, (7, 3)),
        (3000, Some(Fraction(0.2)), None, (2400, 600)),
        (7, Some(Count(2)), None, (5, 2)),
        (10, None, Some(Fraction(0.55)), (5, 5)),
        (10, Some(Count(2)), Some(Count(3)), (3, 2)),
        (11, Some(Fraction(0.33)), Some(Fraction(0.5)), (5, 4)),
    ];
    for (rows, test, train, expected) in cases {
        let (train, test) = numbered(rows, &["a"]).train_test_split(&shuffled(test, train)).unwrap();
        assert_eq!((train.len(), test.len()), expected);
        let mut all = [numbers(&train), numbers(&test)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), train.len() + test.len(), "no row is in both parts");
    }
    let in_order = SplitOptions { test_size: Some(Count(2)), train_size: None, draw: Draw::InOrder };
    let (train, test) = numbered(5, &["a"]).train_test_split(&in_order).unwrap();
    assert_eq!((numbers(&train), numbers(&test)), (vec![0, 1, 2], vec![3, 4]));
}

/// Class counts of `sklearn.utils.extmath._approximate_mode`: (5, 2) of which 4 are drawn gives (3, 1), and by hand.
#[test]
fn a_stratified_split_gives_each_class_its_share() {
    let cases = [
        // labels, training rows, test rows, of which label `a` in each
        (vec!["a", "a", "b", "a", "a", "b", "a"], 4, 3, (3, 2)),
        (["a", "b"].repeat(50), 80, 20, (40, 10)),
        // 75 of a, 25 of b: training 0.75 * 50 = 37.5 and 12.5, a tie that goes to a; then 37 and 13 are left
        (["a", "a", "a", "b"].repeat(25), 50, 50, (38, 37)),
    ];
    for (labels, n_train, n_test, expected) in cases {
        let draw = |seed| SplitOptions {
            test_size: Some(Size::Count(n_test)),
            train_size: Some(Size::Count(n_train)),
            draw: Draw::Stratified { seed, column: "label".into() },
        };
        let data = numbered(labels.len(), &labels);
        let (train, test) = data.train_test_split(&draw(1)).unwrap();
        let count = |data: &Dataset| data.cells("label").unwrap().filter(|label| label.as_str() == Some("a")).count();
        assert_eq!((train.len(), test.len()), (n_train, n_test));
        assert_eq!((count(&train), count(&test)), expected);
        assert_eq!(numbers(&data.train_test_split(&draw(1)).unwrap().0), numbers(&train), "the same seed");
        assert_ne!(numbers(&data.train_test_split(&draw(2)).unwrap().0), numbers(&train), "another seed");
    }
}

#[test]
fn splits_that_cannot_be_are_refused() {
    let stratified = |test| SplitOptions {
        test_size: Some(test),
        train_size: None,
        draw: Draw::Stratified { seed: 1, column: "label".into() },
    };
    let cases = [
        (
            10,
            shuffled(Some(Size::Fraction(1.0)), None),
            "`test_size` of `train_test_split` is 1.0, but must be above 0.0 and below 1.0, or a whole number of rows",
        ),
        (
            10,
            shuffled(Some(Size::Count(10)), None),
            "`test_size` of `train_test_split` is 10, but must be above 0 and below the number of rows, 10",
        ),
        (1, shuffled(None, None), "the training part would have no rows: there are 1 in all"),
        (0, shuffled(None, None), "the training part would have no rows: there are 0 in all"),
        (
            10,
            shuffled(Some(Size::Count(6)), Some(Size::Count(5))),
            "`train_size` and `test_size` ask for 5 + 6 rows where there are 10",
        ),
        (4, stratified(Size::Count(2)), "class `b` of column `label` has one row, and a stratified split needs two"),
        (6, stratified(Size::Count(1)), "the test part would have 1 rows, fewer than the 2 classes of column `label`"),
    ];
    for (rows, options, expected) in cases {
        let error = numbered(rows, &["a", "a", "b"]).train_test_split(&options).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn shuffling_depends_on_the_seed_alone() {
    let data = numbered(100, &["a"]);
    let mut order = numbers(&data.shuffle(1));
    assert_eq!(order, numbers(&data.named("other").shuffle(1)));
    assert_ne!(order, numbers(&data.shuffle(2)));
    order.sort_unstable();
    assert_eq!(order, numbers(&data));
}
