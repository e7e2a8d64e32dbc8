//! SQuAD: its scores against the official script 1.1 and transformers' metrics (`golden/squad_generate.py`), and its files.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::path::Path;

use indexmap::IndexMap;
use retune::data::format::Format;
use retune::data::{Dataset, Row, Value};
use retune::metrics::squad::{Prediction, Squad, normalize, squad_v2};
use serde_json::{Value as Json, json};

fn golden() -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/squad.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Json) -> &[Json] {
    value.as_array().unwrap()
}

fn text(value: &Json) -> &str {
    value.as_str().unwrap()
}

fn scores(row: &Row) -> Json {
    Value::Map(row.clone()).to_json()
}

#[test]
fn texts_are_normalized_as_in_python() {
    for pair in list(&golden()["normalized"]) {
        assert_eq!(normalize(text(&pair[0])), text(&pair[1]), "{pair}");
    }
}

#[test]
fn scores_agree_with_the_originals_to_the_last_digit() {
    let golden = golden();
    let cases = list(&golden["cases"]);
    assert_eq!(cases.len(), 200);
    for (number, case) in cases.iter().enumerate() {
        let questions: IndexMap<&str, &Json> = list(&case["questions"]).iter().map(|q| (text(&q["id"]), q)).collect();
        let golds =
            |question: &Json| list(&question["golds"]).iter().map(|gold| text(gold).to_string()).collect::<Vec<_>>();
        if let Some(expected) = case.get("squad") {
            let mut squad = Squad::default();
            for question in questions.values() {
                let golds = golds(question);
                let golds: Vec<&str> = golds.iter().map(String::as_str).collect();
                squad.add(Some(text(&question["prediction"])), &golds).unwrap();
            }
            assert_eq!(scores(&squad.scores().unwrap()), *expected, "case {number}");
        }
        let prediction = |id: &Json| {
            let question = questions[text(id)];
            let no_answer_probability = question["probability"].as_f64().unwrap();
            let text = text(&question["prediction"]).to_string();
            (question["id"].as_str().unwrap().to_string(), Prediction { text, no_answer_probability })
        };
        let predictions = list(&case["order"]).iter().map(prediction).collect();
        let references = questions.iter().map(|(id, question)| ((*id).to_string(), golds(question))).collect();
        let found = squad_v2(&predictions, &references, case["threshold"].as_f64().unwrap()).unwrap();
        assert_eq!(scores(&found), case["squad_v2"], "case {number}");
    }
}

#[test]
fn published_examples() {
    // The examples of Hugging Face's metric cards.
    let mut squad = Squad::default();
    squad.add(Some("1976"), &["1976"]).unwrap();
    assert_eq!(scores(&squad.scores().unwrap()), json!({"exact_match": 100.0, "f1": 100.0}));
    squad.add(Some("Beyonce"), &["Beyoncé and Bruno Mars"]).unwrap();
    squad.add(Some("climate change"), &["climate change"]).unwrap();
    let expected = json!({"exact_match": 66.66666666666667, "f1": 66.66666666666667});
    assert_eq!(scores(&squad.scores().unwrap()), expected);
    let answer = Prediction { text: "1976".into(), no_answer_probability: 0.0 };
    let predictions = IndexMap::from([("56e10a3be3433e1400422b22".to_string(), answer)]);
    let references = IndexMap::from([("56e10a3be3433e1400422b22".to_string(), vec!["1976".to_string()])]);
    let expected = json!({
        "exact": 100.0, "f1": 100.0, "total": 1, "HasAns_exact": 100.0, "HasAns_f1": 100.0, "HasAns_total": 1,
        "best_exact": 100.0, "best_exact_thresh": 0.0, "best_f1": 100.0, "best_f1_thresh": 0.0,
    });
    assert_eq!(scores(&squad_v2(&predictions, &references, 1.0).unwrap()), expected);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let mut squad = Squad::default();
    assert!(squad.scores().unwrap_err().to_string().contains("no references"));
    let error = squad.add(Some("x"), &[]).unwrap_err();
    assert!(error.hint_text().unwrap().contains("squad_v2"), "{error}");
    squad.add(None, &["x"]).unwrap();
    assert_eq!(scores(&squad.scores().unwrap()), json!({"exact_match": 0.0, "f1": 0.0}));
    let references = IndexMap::from([("q".to_string(), vec!["x".to_string()])]);
    let error = squad_v2(&IndexMap::new(), &references, 1.0).unwrap_err();
    assert!(error.to_string().contains("`q`"), "{error}");
}

fn parse(format: Format, document: &Json) -> Result<Vec<Json>, String> {
    let parsed = format.parse(document.to_string().as_bytes(), Path::new("f.json")).map_err(|error| {
        let places: Vec<String> = error.places().iter().map(ToString::to_string).collect();
        format!("{} @ {}", error.what(), places.join(" @ "))
    })?;
    let data = Dataset::from_file("f", Path::new("f.json"), parsed);
    Ok(data.rows().iter().map(|row| Value::Map(row.clone()).to_json()).collect())
}

#[test]
fn files_become_rows_as_in_hugging_faces_data_sets() {
    let document = json!({"version": "v2.0", "data": [
        {"title": "Ferries", "paragraphs": [
            {"context": "Nine 🙂 boats.", "qas": [
                {"id": "a", "question": "How many?", "answers": [
                    {"text": "Nine", "answer_start": 0}, {"text": "Nine 🙂", "answer_start": 0},
                ]},
                {"id": 7, "question": "Whose?", "is_impossible": true, "answers": [], "plausible_answers": [
                    {"text": "boats", "answer_start": 7},
                ]},
            ]},
            {"context": "No question.", "qas": []},
        ]},
        {"paragraphs": [{"context": "c", "qas": [{"id": "b", "question": "q", "is_impossible": true}]}]},
    ]});
    let expected = vec![
        json!({"id": "a", "title": "Ferries", "context": "Nine 🙂 boats.", "question": "How many?",
            "answers": {"text": ["Nine", "Nine 🙂"], "answer_start": [0, 0]}}),
        json!({"id": "7", "title": "Ferries", "context": "Nine 🙂 boats.", "question": "Whose?",
            "answers": {"text": [], "answer_start": []}}),
        json!({"id": "b", "title": "", "context": "c", "question": "q", "answers": {"text": [], "answer_start": []}}),
    ];
    assert_eq!(parse(Format::Json, &document).unwrap(), expected, "recognised by its shape");
    assert_eq!(parse(Format::named("squad").unwrap(), &document).unwrap(), expected);
}

#[test]
fn errors_say_where_in_the_file() {
    let with = |question: Json| json!({"data": [{"title": "T", "paragraphs": [{"context": "c", "qas": [question]}]}]});
    let place = "@ f.json @ data[0].paragraphs[0].qas[0]";
    let cases = [
        (
            json!({"data": [{"paragraphs": 1}]}),
            "`paragraphs` must be an array, but is a number @ f.json @ data[0]".to_string(),
        ),
        (
            json!({"data": [{"title": "T", "paragraphs": [{"qas": []}]}]}),
            "there is no `context` @ f.json @ data[0].paragraphs[0] (article `T`)".into(),
        ),
        (with(json!({"question": "q"})), format!("there is no `id` {place} (article `T`)")),
        (with(json!({"id": "i"})), format!("there is no `question` {place} (article `T`, question `i`)")),
        (with(json!([1])), format!("here must be an object, but there is an array {place} (article `T`)")),
        (
            with(json!({"id": "i", "question": "q", "answers": [{"text": "c"}]})),
            format!("there is no `answer_start` {place}.answers[0] (article `T`, question `i`)"),
        ),
        (
            with(json!({"id": "i", "question": "q", "answers": [{"text": "c", "answer_start": -1}]})),
            format!(
                "`answer_start` must be a whole number from 0, but is a number {place}.answers[0] (article `T`, question `i`)"
            ),
        ),
    ];
    for (document, expected) in cases {
        let found = parse(Format::Squad, &document).unwrap_err();
        assert_eq!(found, format!("SQuAD JSON: {expected}"), "{document}");
    }
    assert!(parse(Format::Squad, &json!([])).unwrap_err().contains("an object with `data`"));
    assert!(
        parse(Format::Squad, &json!({"rows": []})).unwrap_err().contains("there is no `data` @ f.json @ the document")
    );
}
