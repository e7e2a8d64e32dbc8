//! `debug_data`: each kind of finding with its rows, for each kind of task, and doubles and leaks against brute force.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use retune::data::files::Folder;
use retune::data::format::Format;
use retune::data::{Dataset, Value};
use retune::head::debug_data::{Findings, Settings, Work, examine};
use retune::tokenizer::{EncodeOptions, Tokenizer, TokenizerOptions};
use serde_json::{Value as Json, json};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&Folder::Embedded("minilm-tiny".into()), TokenizerOptions::default()).unwrap()
}

fn dataset(rows: &Json) -> Dataset {
    let rows = rows.as_array().unwrap().iter().map(|row| match Value::from(row.clone()) {
        Value::Map(cells) => (*cells).clone(),
        other => panic!("{other:?}"),
    });
    Dataset::from_rows("memory", rows.collect())
}

fn found(splits: &[(&str, Dataset)], task: &str) -> Findings {
    let splits: Vec<(String, Dataset)> = splits.iter().map(|(name, data)| (name.to_string(), data.clone())).collect();
    let work = Work::of(task, &splits[0].1).unwrap();
    examine(&splits, &tokenizer(), &Settings { task: task.into(), work, max_length: 12, max_rows: 2, min_count: 2 })
        .unwrap()
}

/// The parts of `value` that `expected` names are as it says.
fn check(value: &Json, expected: &Json, place: &str) {
    match expected {
        Json::Object(parts) => {
            for (key, part) in parts {
                check(&value[key], part, &format!("{place}.{key}"));
            }
        }
        _ => assert_eq!(value, expected, "{place}"),
    }
}

#[test]
fn rows_of_a_classification_are_looked_at() {
    let train = dataset(&json!([
        { "text": "a good film", "label": "pos" },
        { "text": "a bad film", "label": "neg" },
        { "text": "a good film", "label": "pos" },
        { "text": "a good film", "label": "neg" },
        { "text": "  ", "label": "neg" },
        { "text": "it went on and on and on and on and on and on", "label": null },
        { "text": "\u{2603}\u{2603} snow", "label": "odd" },
        { "text": 7, "label": "pos" },
    ]));
    let test = dataset(&json!([
        { "text": "new", "label": "pos" },
        { "text": "a bad film", "label": "other" },
    ]));
    let findings = found(&[("train", train), ("test", test)], "text-classification");
    let unknown = tokenizer().unk_id().unwrap();
    let snow = tokenizer().encode("\u{2603}\u{2603} snow", None, &EncodeOptions::default()).unwrap();
    let n_unknown = snow.input_ids.iter().filter(|id| **id == unknown).count();
    assert!(n_unknown > 0);
    let value = findings.to_value().to_json();
    check(
        &value,
        &json!({
            "task": "text-classification",
            "max_length": 12,
            "problems": 2 + 1 + 1 + 1 + 1 + 1 + 1,
            "splits": {
                "train": {
                    "rows": 8,
                    "duplicates": { "count": 2, "rows": [[0, 2], [0, 3]] },
                    "contradictions": { "count": 1, "rows": [[0, 3]] },
                    "empty": { "count": 1, "rows": [4] },
                    "unlabelled": { "count": 1, "rows": [5] },
                    "truncated": { "count": 1, "rows": [5] },
                    "unreadable": { "count": 1, "rows": [7] },
                    "labels": { "neg": 3, "odd": 1, "pos": 3 },
                    "rare_labels": ["odd"],
                    "missing_labels": [],
                    "unknown_tokens": { "count": n_unknown, "rows": [6] },
                },
                "test": { "rows": 2, "labels": { "other": 1, "pos": 1 } },
            },
            "overlap": { "train/test": { "count": 1, "rows": [[1, 1]] } },
            "unseen_labels": { "test": ["other"] },
        }),
        "",
    );
    assert_eq!(value["splits"]["train"]["longest"][0]["row"], 5);
    let text = findings.to_text();
    for line in [
        "  duplicate rows: 2: row 2 = 0, 3 = 0\n",
        "  duplicate rows with another label: 1: row 3 = 0\n",
        "  empty texts: 1: row 4\n",
        "  rows without a label: 1: row 5\n",
        "  rows cut at 12 tokens: 1: row 5\n",
        "  rows that cannot be read: 1: row 7 (the row has no text: `text` is an integer)\n",
        "train/test: rows in both: 1: row 1 = 1\n",
        "test: labels that the first split has not: other\n",
        "8 findings that are hardly meant",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn tags_that_do_not_fit_their_tokens_are_named() {
    let rows = dataset(&json!([
        { "tokens": ["Ada", "Lovelace", "slept"], "ner_tags": ["B-PER", "I-PER", "O"] },
        { "tokens": ["Ada", "slept"], "ner_tags": ["B-PER"] },
        { "tokens": ["in", "Rome", "today"], "ner_tags": ["O", "I-LOC", "O"] },
        { "tokens": ["Ada", "Rome"], "ner_tags": ["B-PER", "I-LOC"] },
        { "tokens": ["New", "York"], "ner_tags": ["B-LOC", "E-LOC"] },
        { "tokens": [], "ner_tags": [] },
    ]));
    for task in ["std/tasks/ner", "token-classification", "my/ner.rhai"] {
        let value = found(&[("data", rows.clone())], task).to_value().to_json();
        check(
            &value["splits"]["data"],
            &json!({
                "misaligned": {
                    "count": 3,
                    "rows": [1, 2],
                    "problems": ["1 tags for 2 tokens", "`I-LOC` at token 1 (`Rome`) without a `B-LOC` before it"],
                },
                "empty": { "count": 1, "rows": [5] },
                "labels": { "B-PER": 3, "I-PER": 1, "I-LOC": 2, "B-LOC": 1, "E-LOC": 1, "O": 3 },
            }),
            task,
        );
    }
    let path = Path::new("tests/golden/data/ner.parquet");
    let parsed = Format::Parquet.parse(&std::fs::read(path).unwrap(), path).unwrap();
    let value = found(&[("data", Dataset::from_file("ner", path, parsed))], "ner").to_value().to_json();
    check(
        &value["splits"]["data"],
        &json!({ "labels": { "B-PER": 1, "O": 1 }, "misaligned": { "count": 0 } }),
        "parquet",
    );
}

#[test]
fn answers_that_are_not_where_they_should_be_are_named() {
    let context = "Ada wrote to Müller in Rome.";
    let row = |answers: Json| json!({ "question": "Who?", "context": context, "answers": answers });
    let rows = dataset(&json!([
        row(json!({ "text": ["Müller", "Rome"], "answer_start": [13, 23] })),
        row(json!({ "text": ["Rome"], "answer_start": [24] })),
        row(json!({ "text": ["Paris"], "answer_start": [3] })),
        row(json!({ "text": [], "answer_start": [] })),
        row(json!({ "text": ["Ada"], "answer_start": [] })),
        row(json!([{ "text": "Ada", "answer_start": 0 }])),
        row(json!({ "text": ["Rome"], "answer_start": [-5] })),
    ]));
    let value = found(&[("data", rows)], "std/tasks/qa").to_value().to_json();
    check(
        &value["splits"]["data"],
        &json!({
            "misaligned": {
                "count": 4,
                "rows": [1, 2],
                "problems": [
                    "the answer \"Rome\" is not at 24: it stands at 23",
                    "the answer \"Paris\" is not at 3: the context does not hold it",
                ],
            },
            "labels": { "answerable": 5, "unanswerable": 1 },
            "duplicates": { "count": 6 },
        }),
        "",
    );
}

#[test]
fn tasks_are_known_by_their_names() {
    let text = dataset(&json!([{ "text": "a" }]));
    for (task, work) in [
        ("std/tasks/sentiment", Work::Sequence),
        ("sentiment-analysis", Work::Sequence),
        ("qa", Work::Question),
        ("std/tasks/causal_lm", Work::Language),
        ("fill-mask", Work::Language),
        ("./mine.rhai", Work::Language),
        ("plugin:crf", Work::Language),
    ] {
        assert_eq!(Work::of(task, &text).unwrap(), work, "{task}");
    }
    let error = Work::of("token-clasification", &text).unwrap_err();
    assert_eq!(error.hint_text(), Some("did you mean `token-classification`?"));
    let value = found(&[("data", text)], "fill-mask").to_value().to_json();
    check(&value["splits"]["data"], &json!({ "unlabelled": { "count": 0 }, "rows": 1 }), "");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Doubles within a split and between splits are those that comparing every pair of rows finds.
    #[test]
    fn doubles_and_leaks_are_those_of_brute_force(
        splits in proptest::collection::vec(proptest::collection::vec(("[ab ]{0,2}", 0i64..2), 1..12), 1..4),
    ) {
        let names = ["one", "two", "three"];
        let data: Vec<(&str, Dataset)> = names.iter().zip(&splits).map(|(name, rows)| {
            let rows: Vec<Json> = rows.iter().map(|(text, label)| json!({ "text": text, "label": label })).collect();
            (*name, dataset(&Json::from(rows)))
        }).collect();
        let value = found(&data, "text-classification").to_value().to_json();
        let filled = |text: &str| !text.trim().is_empty();
        for (name, rows) in names.iter().zip(&splits) {
            let first = |i: usize| rows[..i].iter().position(|(text, _)| *text == rows[i].0);
            let doubles: Vec<(usize, usize)> = (0..rows.len())
                .filter(|i| filled(&rows[*i].0))
                .filter_map(|i| Some((first(i)?, i)))
                .collect();
            let split = &value["splits"][name];
            prop_assert_eq!(&split["duplicates"]["count"], doubles.len());
            prop_assert_eq!(&split["duplicates"]["rows"], &json!(doubles.iter().take(2).collect::<Vec<_>>()));
            let other = doubles.iter().filter(|(one, two)| rows[*one].1 != rows[*two].1).count();
            prop_assert_eq!(&split["contradictions"]["count"], other);
            prop_assert_eq!(&split["empty"]["count"], rows.iter().filter(|(text, _)| !filled(text)).count());
            let mut labels = BTreeMap::new();
            for (_, label) in rows {
                *labels.entry(label.to_string()).or_insert(0) += 1;
            }
            prop_assert_eq!(&split["labels"], &json!(labels));
        }
        for (a, one) in splits.iter().enumerate() {
            for (b, two) in splits.iter().enumerate().skip(a + 1) {
                let shared = two.iter().filter(|(text, _)| filled(text) && one.iter().any(|(other, _)| other == text));
                prop_assert_eq!(&value["overlap"][format!("{}/{}", names[a], names[b])]["count"], shared.count());
            }
        }
    }
}
