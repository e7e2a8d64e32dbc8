//! Token classification against Hugging Face (`golden/ner/generate.py`): labels on tokens as in run_ner, entities as in the
//! pipeline with each strategy, with windows and with words that were split before.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::path::{Path, PathBuf};
use std::process::Command;

use retune::data::files::Places;
use retune::data::load::{LoadOptions, Loaded, load as load_data};
use retune::data::{Dataset, Row};
use retune::head::token_labels::{self, word_labels, words_of};
use retune::head::{Model, options};
use retune::pipeline::{Pipeline, text_row};
use retune::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};

use crate::loading::{self, row};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ner").join(name)
}

fn golden() -> Json {
    serde_json::from_str(&std::fs::read_to_string(folder("cases.json")).unwrap()).unwrap()
}

fn load(name: &str) -> (Model, Tokenizer) {
    (loading::model(&folder(name), "ner", "ForTokenClassification"), loading::tokenizer(&folder(name)))
}

fn input(json: &Json) -> Row {
    json.as_str().map_or_else(|| row(&json!({ "tokens": json })), text_row)
}

fn check(case: &Json, found: &Json) {
    let (found, expected) = (found.as_array().unwrap(), case["result"].as_array().unwrap());
    assert_eq!(found.len(), expected.len(), "{found:#?}\n{case}");
    for (one, wanted) in found.iter().zip(expected) {
        let wanted = wanted.as_array().unwrap();
        let label = if wanted.len() == 6 { "entity" } else { "entity_group" };
        let keys = [label, "score", "word", "start", "end", "index"];
        assert_eq!(one.as_object().unwrap().len(), wanted.len(), "{one:?}");
        for (key, value) in keys.into_iter().zip(wanted) {
            if key == "score" {
                let difference = (one[key].as_f64().unwrap() - value.as_f64().unwrap()).abs();
                assert!(difference < 3e-6, "{one:?} has another score than {wanted:?} in {case}");
            } else {
                assert_eq!(&one[key], value, "{one:?} {wanted:?}\n{case}");
            }
        }
    }
}

#[test]
fn entities_are_those_of_hugging_faces_pipeline() {
    let golden = golden();
    let cases = golden["pipeline"].as_array().unwrap();
    assert!(cases.len() > 150);
    for name in ["wordpiece", "byte-level"] {
        let (model, tokenizer) = load(name);
        let pipeline = Pipeline::new(model, tokenizer, 4, Row::default()).unwrap();
        for case in cases.iter().filter(|case| case["model"] == name) {
            let found = pipeline.predict(&[input(&case["input"])], &row(&case["options"])).unwrap();
            check(case, &found[0].to_json());
        }
        // Many at once give what each gives by itself, windows included.
        let options = json!({ "aggregation_strategy": "simple", "stride": 5 });
        let same = |case: &&Json| case["model"] == name && case["options"] == options;
        let several: Vec<&Json> = cases.iter().filter(same).collect();
        assert!(several.len() > 1);
        let rows: Vec<Row> = several.iter().map(|case| input(&case["input"])).collect();
        for (case, found) in several.iter().zip(pipeline.predict(&rows, &row(&options)).unwrap()) {
            check(case, &found.to_json());
        }
    }
}

#[test]
fn labels_stand_where_run_ner_puts_them() {
    for case in golden()["alignment"].as_array().unwrap() {
        let (model, tokenizer) = load(case["model"].as_str().unwrap());
        let given = row(&json!({ "label_all_tokens": case["label_all_tokens"] }));
        let options = options::merged(&model, Some(&tokenizer), &[&given]).unwrap();
        let features = |row: &Json| {
            let rows = model.encode(&tokenizer, &self::row(row), &options).unwrap();
            assert_eq!(rows.len(), 1);
            rows.into_iter().next().unwrap()
        };
        let by_name = features(&json!({ "tokens": case["words"], "ner_tags": case["labels"] }));
        assert_eq!(json!(by_name.input_ids), case["input_ids"], "{case}");
        assert_eq!(by_name.column("labels").unwrap().to_value().to_json(), case["aligned"], "{case}");
        assert_eq!(by_name.truncated, case["words"].as_array().unwrap().len() > 20);
        // The same labels by their ids.
        let names = model.config().label_names().unwrap();
        let id = |label: &Json| names.iter().position(|name| name == label.as_str().unwrap()).unwrap();
        let ids: Vec<usize> = case["labels"].as_array().unwrap().iter().map(id).collect();
        assert_eq!(features(&json!({ "words": case["words"], "tags": ids })), by_name);
    }
}

#[test]
fn rows_that_do_not_fit_say_so() {
    let names = ["O", "B-PER", "I-PER"];
    let failure = |row: &Json, text_column: Option<&str>| {
        let row = self::row(row);
        let labels = words_of(&row, text_column).and_then(|words| word_labels(&row, &words, None, &names));
        let error = labels.unwrap_err();
        format!("{error} | {}", error.hint_text().unwrap_or_default())
    };
    let cases = [
        (
            json!({ "tokens": ["a", "b"], "ner_tags": ["O"] }),
            "the row has 2 words, but 1 labels in `ner_tags` | each word",
        ),
        (
            json!({ "tokens": ["a"], "ner_tags": ["B-PRE"] }),
            "the model has no label \"B-PRE\" (`ner_tags[0]`, the label of `a`) | did you mean \"B-PER\"?",
        ),
        (json!({ "tokens": ["a"], "ner_tags": ["creative-work"] }), "| its labels are \"O\", \"B-PER\", \"I-PER\""),
        (json!({ "tokens": ["a"], "ner_tags": [3] }), "the label is 3, but must be 0 to 2 (the model has 3 labels)"),
        (json!({ "tokens": ["a"], "ner_tags": [0.5] }), "a label's name or id"),
        (json!({ "tokens": ["a"], "ner_tags": "O" }), "a list with one label a word"),
        (json!({ "tokens": ["a", 1], "ner_tags": ["O", "O"] }), "`tokens[1]`"),
        (json!({ "tokens": 5 }), "a list of words, or a text"),
        (
            json!({ "text": "a b", "ner_tags": ["O", "O"] }),
            "`ner_tags` has labels of words, but the row has plain text",
        ),
        (json!({ "id": 3 }), "the row has no text; it has `id`"),
    ];
    for (row, expected) in &cases {
        let message = failure(row, None);
        assert!(message.contains(expected), "{message}\n{expected}");
    }
    let other = failure(&json!({ "tokens": ["a"] }), Some("wrods"));
    assert!(other.contains("the row has no column `wrods`; it has `tokens`"), "{other}");

    let (model, tokenizer) = load("wordpiece");
    let pipeline = Pipeline::new(model, tokenizer, 4, Row::default()).unwrap();
    let failure = |given: Json| pipeline.predict(&[text_row("a")], &row(&given)).unwrap_err().to_string();
    assert!(failure(json!({ "stride": 3 })).contains("`stride` needs an `aggregation_strategy` other than \"none\""));
    let wide = failure(json!({ "stride": 38, "aggregation_strategy": "simple" }));
    assert!(wide.contains("less than 38"), "{wide}");
    let unknown = failure(json!({ "aggregation_strategy": "middle" }));
    assert!(unknown.contains("\"none\", \"simple\", \"first\", \"average\" or \"max\""), "{unknown}");
}

fn retune(place: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_retune")).args(arguments).current_dir(place).output().unwrap();
    assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_recipe_learns_and_what_it_saves_finds_names() {
    let place = tempfile::tempdir().unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ner.rhai");
    let settings = ["max_steps=40", "logging_steps=10", "output_dir=saved"];
    let run = retune(place.path(), &[&["run", "--json", recipe.to_str().unwrap()], &settings[..]].concat());
    let events: Vec<Json> = run.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses: Vec<f64> =
        events.iter().filter(|event| event["event"] == "log").filter_map(|event| event["loss"].as_f64()).collect();
    assert!(losses.len() == 4 && losses[3] < 0.6 * losses[0], "{losses:?}");
    let result = events.last().unwrap();
    assert!(result["metrics"]["eval_f1"].as_f64().unwrap() > 0.1, "{result}");

    // People get names, programs what the pipeline returns.
    let text = "Priya Lindqvist left Halden Bank and moved to Lisbon.";
    let printed = retune(place.path(), &["predict", "saved", text]);
    assert!(
        printed
            .lines()
            .any(|line| line.starts_with("PER ") && line.contains("0-15") && line.ends_with("Priya Lindqvist")),
        "{printed}"
    );
    let grouped = ["predict", "--json", "saved", "--option", "aggregation_strategy=first", text];
    let predictions = |arguments: &[&str]| -> Vec<Json> {
        let event: Json = serde_json::from_str(retune(place.path(), arguments).lines().next().unwrap()).unwrap();
        event["prediction"].as_array().unwrap().clone()
    };
    let entities = predictions(&grouped);
    assert_eq!(entities.len(), printed.lines().count(), "{entities:?}");
    assert!(entities.iter().all(|entity| entity["entity_group"].is_string()), "{entities:?}");
    let tokens = predictions(&["predict", "--json", "saved", text]);
    assert!(tokens.len() > entities.len() && tokens[0]["entity"] == "B-PER", "{tokens:?}");
    let nothing = retune(
        place.path(),
        &["predict", "saved", "--option", "ignore_labels=[\"PER\",\"LOC\",\"ORG\",\"MISC\",\"O\"]", text],
    );
    assert_eq!(nothing.trim(), "no entities");
}

/// As run_ner takes them: hub data sets have ids, and the names beside the rows.
#[test]
fn ids_have_the_names_that_the_file_says() {
    let path = "tests/golden/data/ner.parquet";
    let Loaded::One(data) = load_data(&Places::default(), path, &LoadOptions::default()).unwrap() else { panic!() };
    assert_eq!(token_labels::label_list(&data, None).unwrap(), ["O", "B-PER"]);
    let model = crate::tiny::model("ForTokenClassification", json!({ "num_labels": 2 }));
    token_labels::settle(&model, &data, &Row::default()).unwrap();
    assert_eq!(model.config().label_names().unwrap(), ["O", "B-PER"]);
    let rows = |tags: Json| Dataset::from_shared_rows("rows", vec![row(&json!({ "words": ["a", "b"], "tags": tags }))]);
    assert_eq!(token_labels::label_list(&rows(json!([0, 2])), None).unwrap(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert!(token_labels::label_list(&rows(json!("O")), None).is_err(), "no list of labels");
    assert!(token_labels::label_list(&rows(json!([0])), Some("other")).is_err(), "no such column");
}
