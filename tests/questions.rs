//! Question answering: windows, labels and answers against run_qa and Hugging Face's pipeline (`golden/questions_generate.py`),
//! against brute force, and the recipe and commands that use them.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use indexmap::IndexMap;
use proptest::prelude::*;
use retune::batch::{Batch, Features, features::ListLabels};
use retune::data::files::{Folder, Places};
use retune::data::{Row, Value};
use retune::head::best_answers::{best_answers, n_best_spans};
use retune::head::question_windows::{check_answers, positions, slice, windows};
use retune::head::token_spans::{TokenSpan, pack, unpack};
use retune::pipeline::{Pipeline, question_rows};
use retune::tokenizer::{Tokenizer, TokenizerOptions};
use serde_json::{Value as Json, json};

use crate::loading::{self, row};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn cases(kind: &str) -> Vec<Json> {
    let all: Json = serde_json::from_str(&std::fs::read_to_string(golden("questions.json")).unwrap()).unwrap();
    all[kind].as_array().unwrap().clone()
}

fn tokenizer(name: &str) -> &'static Tokenizer {
    static ALL: LazyLock<IndexMap<&str, Tokenizer>> = LazyLock::new(|| {
        let folder = |name: &str| match name {
            "minilm-tiny" => Places::default().folder("std/minilm-tiny").unwrap().unwrap(),
            other => Folder::Disk(golden("tokenizer").join(other)),
        };
        let load = |name| (name, Tokenizer::from_folder(&folder(name), TokenizerOptions::default()).unwrap());
        ["minilm-tiny", "roberta", "gpt2"].map(load).into_iter().collect()
    });
    &ALL[name]
}

/// What `windows` makes of a row under options.
fn encode(name: &str, given: &Json, options: &Json) -> retune::error::Result<Vec<Row>> {
    windows(tokenizer(name), &row(given), &Value::from(options.clone()))
}

fn ints(value: &Value) -> Vec<i64> {
    value.as_list().unwrap().iter().map(|one| one.as_int().unwrap()).collect()
}

fn field(row: &Row, name: &str) -> Value {
    match &row["window"] {
        Value::Map(window) => window.get(name).cloned().unwrap_or(Value::Null),
        other => panic!("{other:?}"),
    }
}

fn spans(row: &Row) -> Vec<TokenSpan> {
    unpack(field(row, "spans").as_str().unwrap())
}

#[test]
fn windows_and_labels_are_those_of_run_qa() {
    for (number, case) in cases("features").iter().enumerate() {
        let options = json!({"max_length": case["max_length"], "doc_stride": case["stride"], "model_max_length": 512});
        let found = encode(case["tokenizer"].as_str().unwrap(), case, &options).unwrap();
        let found = found.iter().map(|window| {
            let ids = ints(&window["input_ids"]);
            let checksum: i64 = ids.iter().enumerate().map(|(place, id)| (place as i64 + 1) * id).sum();
            json!([ids.len(), checksum, window["start_positions"].as_int(), window["end_positions"].as_int()])
        });
        assert_eq!(Json::from_iter(found), case["windows"], "case {number}: {case}");
    }
}

fn packed(rows: &[Row]) -> Batch {
    let features: Vec<Features> =
        rows.iter().map(|row| Features::keeping(row, ListLabels::default()).unwrap()).collect();
    let numbered: Vec<(usize, &Features)> = features.iter().map(|one| (0, one)).collect();
    Batch::pack_padded(&numbered, 0, &Device::Cpu).unwrap()
}

/// Scores of windows as one tensor over the padded batch; padding scores highest, and must not matter.
fn scores(windows: &[Vec<f32>], batch: &Batch) -> Tensor {
    let longest = batch.longest();
    let padded = windows.iter().flat_map(|row| row.iter().copied().chain(vec![99.0; longest - row.len()]));
    Tensor::from_vec(padded.collect::<Vec<_>>(), batch.n_tokens(), &Device::Cpu).unwrap()
}

fn floats(value: &Json) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The best answer's text to the question of some windows.
fn answer(rows: &[Row], start: &[Vec<f32>], end: &[Vec<f32>], options: &Json) -> String {
    let (batch, options) = (packed(rows), Value::from(options.clone()));
    let found = n_best_spans(&scores(start, &batch), &scores(end, &batch), &batch, &options).unwrap();
    let references: Vec<Value> = rows.iter().map(|row| Value::Map(row.clone())).collect();
    let (answers, golds) = best_answers(&found, &references, &options).unwrap();
    assert_eq!((answers.len(), golds.len()), (1, 1));
    answers[0].to_json()["prediction_text"].as_str().unwrap().to_string()
}

#[test]
fn answers_are_those_of_run_qa() {
    let cases = cases("postprocessed");
    for (number, case) in cases.iter().enumerate() {
        let rows = encode("minilm-tiny", case, &json!({"max_length": 48, "doc_stride": 12})).unwrap();
        let (start, end) = (floats(&case["start_logits"]), floats(&case["end_logits"]));
        // Where no pair of ends makes a span, run_qa answers "empty".
        let expected = case["answer"].as_str().unwrap().replace("empty", "");
        assert_eq!(answer(&rows, &start, &end, &case["options"]), expected, "case {number}");
    }
    assert!(cases.iter().any(|case| case["start_logits"].as_array().unwrap().len() > 2));
}

fn answering() -> Pipeline {
    let model = loading::model(&golden("parity/bert-qa"), "qa", "ForQuestionAnswering");
    Pipeline::new(model, tokenizer("minilm-tiny").clone(), 3, Row::default()).unwrap()
}

#[test]
fn the_pipeline_answers_as_hugging_faces() {
    let pipeline = answering();
    let cases = cases("pipeline");
    for (number, case) in cases.iter().enumerate() {
        let asked = row(&json!({"question": case["question"], "context": case["context"]}));
        let found = pipeline.predict(&[asked], &row(&case["options"])).unwrap()[0].to_json();
        let several = |value: &Json| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        let (found, expected) = (several(&found), several(&case["result"]));
        assert_eq!(found.len(), expected.len(), "case {number}");
        for (found, expected) in found.iter().zip(&expected) {
            let (score, wanted) = (found["score"].as_f64().unwrap(), expected["score"].as_f64().unwrap());
            assert!((score - wanted).abs() <= 1e-5 * wanted, "case {number}: {found} {expected}");
            for key in ["start", "end", "answer"] {
                assert_eq!(found[key], expected[key], "case {number}: {found} {expected}");
            }
        }
    }
    // Rows of one call do not depend on each other.
    let rows: Vec<Row> =
        cases.iter().map(|case| row(&json!({"question": case["question"], "context": case["context"]}))).collect();
    let together = pipeline.predict(&rows, &Row::default()).unwrap();
    for (row, together) in rows.iter().zip(&together) {
        let alone = pipeline.predict(std::slice::from_ref(row), &Row::default()).unwrap()[0].to_json();
        let together = together.to_json();
        assert_eq!((&alone["start"], &alone["answer"]), (&together["start"], &together["answer"]));
    }
}

#[test]
fn several_questions_come_with_one_context_or_each_with_its_own() {
    let rows = |json: &Json| {
        question_rows(&row(json))
            .map(|rows| rows.map(|rows| Json::from_iter(rows.iter().map(|row| Value::Map(row.clone()).to_json()))))
    };
    assert_eq!(rows(&json!({"question": "q", "context": "c"})).unwrap(), None);
    let expected = json!([{"question": "q", "context": "c"}, {"question": "r", "context": "c"}]);
    assert_eq!(rows(&json!({"question": ["q", "r"], "context": "c"})).unwrap(), Some(expected));
    let expected = json!([{"question": "q", "context": "c"}, {"question": "r", "context": "d"}]);
    assert_eq!(rows(&json!({"question": ["q", "r"], "context": ["c", "d"]})).unwrap(), Some(expected));
    assert!(
        rows(&json!({"question": ["q", "r"], "context": ["c"]})).unwrap_err().to_string().contains("2 questions for 1")
    );
}

#[test]
fn what_cannot_be_windowed_is_refused() {
    let good =
        json!({"question": "Who?", "context": "A 🙂 captain.", "answers": {"text": ["captain"], "answer_start": [4]}});
    let with = |key: &str, value: Json| {
        let mut row = good.clone();
        row[key] = value;
        row
    };
    assert_eq!(encode("minilm-tiny", &good, &json!({"max_length": 32})).unwrap().len(), 1);
    let cases = [
        (json!({"text": "Who?"}), json!({}), "the row has no `context`; it has `text`"),
        (with("question", json!("")), json!({}), "the row's `question` is empty"),
        (with("context", json!(null)), json!({}), "the row's `context` is null, not text"),
        (
            with("answers", json!("captain")),
            json!({}),
            "`answers` must be `#{ text: [...], answer_start: [...] }`, but is a string",
        ),
        (with("answers", json!({"text": ["captain"]})), json!({}), "the answer `captain` has no `answer_start`"),
        (
            with("answers", json!({"text": ["captain"], "answer_start": [7]})),
            json!({}),
            "the answer `captain` with `answer_start` 7 is outside the context",
        ),
        (
            with("answers", json!({"text": ["captain"], "answer_start": [3]})),
            json!({"check_answers": true}),
            "the answer `captain` with `answer_start` 3 is not there: the context has ` captai` there",
        ),
        (
            good.clone(),
            json!({"max_length": 5}),
            "the question takes 2 tokens, which leaves no room for the context in `max_length` 5",
        ),
        (
            good.clone(),
            json!({"max_length": 9, "doc_stride": 4}),
            "`doc_stride` is 4, but must be less than 4, what `max_length` leaves beside the question",
        ),
        (good.clone(), json!({"doc_stride": -1}), "`doc_stride` is -1, but must be at least 0"),
    ];
    for (row, options, expected) in cases {
        let error = encode("minilm-tiny", &row, &options).unwrap_err();
        assert_eq!(error.what().to_string(), expected);
    }
    let wrong = row(&with("answers", json!([{"text": "captain", "answer_start": 6}])));
    let error = check_answers(&wrong).unwrap_err();
    assert!(error.hint_text().unwrap().starts_with("it is found at 4;"), "bytes were counted: {error}");
    check_answers(&row(&good)).unwrap();
}

#[test]
fn long_questions_leave_room_for_the_context() {
    let question = "which boat and ".repeat(40);
    let given = json!({"question": question, "context": "It lands in the harbour."});
    let found = encode("minilm-tiny", &given, &json!({"max_length": 100})).unwrap();
    assert_eq!(field(&found[0], "first_token").as_int().unwrap(), 2 + 50, "half of the window");
    let found = encode("minilm-tiny", &given, &json!({"max_length": 384, "max_question_len": 10})).unwrap();
    assert_eq!(field(&found[0], "first_token").as_int().unwrap(), 2 + 10);
    assert_eq!(found[0]["truncated"], Value::Bool(true));
    let found = encode("minilm-tiny", &given, &json!({"max_length": 384})).unwrap();
    assert_eq!(found[0]["truncated"], Value::Bool(false), "as in Hugging Face, what fits stays whole");
}

fn any_context() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "the",
        "harbour",
        "supercalifragilistic",
        "1976",
        "naïve",
        "nai\u{308}ve",
        "e\u{301}te\u{301}",
        "東京タワー",
        "駅です",
        "🙂",
        "👍🏽",
        "👨‍👩‍👧",
        "नमस्ते",
        "مرحبا",
        "straße",
        "\u{1d54f}",
        "don't",
        "(x)",
        "—",
        "한국어",
    ]);
    let glue = prop::sample::select(vec![" ", " ", "", "  ", "\n", "\u{a0}"]);
    prop::collection::vec((word, glue), 1..60)
        .prop_map(|parts| parts.into_iter().map(|(word, glue)| format!("{word}{glue}")).collect())
}

fn any_spans() -> impl Strategy<Value = Vec<TokenSpan>> {
    let span = (0usize..100_000, 0usize..70, prop::option::of(any::<u32>()));
    prop::collection::vec(span, 0..40).prop_map(|spans| {
        spans.into_iter().map(|(start, length, word)| TokenSpan { start, end: start + length, word }).collect()
    })
}

/// The span of one token of a text.
fn one(start: usize, end: usize) -> TokenSpan {
    TokenSpan { start, end, word: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn packed_spans_come_back(spans in any_spans()) {
        prop_assert_eq!(unpack(&pack(&spans)), spans);
    }

    #[test]
    fn any_text_can_be_unpacked(text in ".*") {
        unpack(&text);
    }

    #[test]
    fn slices_count_code_points(text in ".{0,40}", start in 0usize..50, length in 0usize..50) {
        let expected: String = text.chars().skip(start).take(length).collect();
        prop_assert_eq!(slice(&text, start, start + length), expected);
    }

    #[test]
    fn windows_cover_the_context_and_overlap_by_the_stride(
        context in any_context(), name in prop::sample::select(vec!["minilm-tiny", "roberta", "gpt2"]),
        max_length in 24usize..64, stride in 0usize..12,
    ) {
        let given = json!({"question": "Who sees it?", "context": context});
        let whole = encode(name, &given, &json!({"max_length": 100_000, "doc_stride": 0})).unwrap();
        prop_assert_eq!(whole.len(), 1);
        let all = spans(&whole[0]);
        let parts = encode(name, &given, &json!({"max_length": max_length, "doc_stride": stride})).unwrap();
        let mut joined: Vec<(i64, TokenSpan)> = Vec::new();
        for (number, window) in parts.iter().enumerate() {
            let (ids, spans) = (ints(&window["input_ids"]), spans(window));
            prop_assert!(ids.len() <= max_length);
            prop_assert_eq!(field(window, "number"), Value::Int(number as i64));
            let first = field(window, "first_token").as_int().unwrap() as usize;
            let tokens: Vec<(i64, TokenSpan)> = ids[first..].iter().copied().zip(spans).collect();
            if number > 0 {
                let shared = &joined[joined.len() - stride..];
                prop_assert_eq!(&tokens[..stride], shared, "the end of the window before");
            }
            joined.extend(&tokens[if number > 0 { stride } else { 0 }..]);
        }
        let first = field(&whole[0], "first_token").as_int().unwrap() as usize;
        let expected: Vec<(i64, TokenSpan)> = ints(&whole[0]["input_ids"])[first..].iter().copied().zip(all).collect();
        prop_assert_eq!(joined, expected, "every token of the context, in order");
    }

    #[test]
    fn labels_map_back_to_the_text_of_the_answer(
        context in any_context(), name in prop::sample::select(vec!["minilm-tiny", "roberta"]), from in 0usize..60, n in 1usize..6,
    ) {
        // An answer of whole tokens, as the context as a whole is cut into them.
        let whole = encode(name, &json!({"question": "Who?", "context": context}), &json!({"max_length": 100_000})).unwrap();
        let all: Vec<TokenSpan> = spans(&whole[0]).into_iter().filter(|span| span.end > span.start).collect();
        prop_assume!(!all.is_empty());
        let first = all[from % all.len()];
        let last = all[(from % all.len() + n - 1).min(all.len() - 1)];
        let text = slice(&context, first.start, last.end);
        let given = json!({"question": "Who?", "context": context, "answers": {"text": [text], "answer_start": [first.start]}});
        let parts = encode(name, &given, &json!({"max_length": 40, "doc_stride": 12, "check_answers": true})).unwrap();
        let mut found = 0;
        for window in &parts {
            let at = |key: &str| window[key].as_int().unwrap() as usize;
            let (start, end, first_token) = (at("start_positions"), at("end_positions"), field(window, "first_token").as_int().unwrap() as usize);
            let spans = spans(window);
            let holds = spans.first().is_some_and(|span| span.start <= first.start) && spans.last().is_some_and(|span| span.end >= last.end);
            prop_assert_eq!(holds, start >= first_token, "labelled where the window holds the answer");
            if holds {
                found += 1;
                prop_assert_eq!(slice(&context, spans[start - first_token].start, spans[end - first_token].end), text);
            } else {
                prop_assert_eq!((start, end), (0, 0), "the class token");
            }
        }
        prop_assert!(found > 0 || n > 1, "one token is always in some window");
    }

    #[test]
    fn positions_are_the_tightest_tokens_around_the_answer(cuts in prop::collection::btree_set(0usize..60, 2..20), start in 0usize..60, n in 1usize..20) {
        let cuts: Vec<usize> = cuts.into_iter().collect();
        let spans: Vec<TokenSpan> = cuts.windows(2).map(|pair| one(pair[0], pair[1])).collect();
        let end = start + n;
        let mut expected = None;
        for from in 0..spans.len() {
            for to in from..spans.len() {
                let covers = spans[from].start <= start && spans[to].end >= end;
                if covers && expected.is_none_or(|(a, b)| to - from < b - a) {
                    expected = Some((from, to));
                }
            }
        }
        prop_assert_eq!(positions(&spans, start, end), expected);
    }

    #[test]
    fn the_best_span_is_the_best_of_all_pairs(seed in any::<u64>(), context in any_context(), longest in 1usize..8) {
        let rows = encode("minilm-tiny", &json!({"question": "Who?", "context": context}), &json!({"max_length": 40, "doc_stride": 10})).unwrap();
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 1e6
        };
        let sides: Vec<[Vec<f32>; 2]> = rows.iter().map(|row| {
            let n = ints(&row["input_ids"]).len();
            [(0..n).map(|_| draw()).collect(), (0..n).map(|_| draw()).collect()]
        }).collect();
        let (start, end): (Vec<_>, Vec<_>) = sides.iter().map(|[start, end]| (start.clone(), end.clone())).unzip();
        let mut best: Option<(f32, String)> = None;
        for (row, [start, end]) in rows.iter().zip(&sides) {
            let first = field(row, "first_token").as_int().unwrap() as usize;
            let spans = spans(row);
            for from in 0..spans.len() {
                for to in from..spans.len().min(from + longest) {
                    let score = start[first + from] + end[first + to];
                    if best.as_ref().is_none_or(|(most, _)| score > *most) {
                        best = Some((score, slice(&context, spans[from].start, spans[to].end).to_string()));
                    }
                }
            }
        }
        let found = answer(&rows, &start, &end, &json!({"n_best_size": 1000, "max_answer_length": longest}));
        prop_assert_eq!(found, best.map(|(_, text)| text).unwrap_or_default());
    }
}

fn retune(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(arguments).current_dir(folder).stdin(std::process::Stdio::null()).output().unwrap()
}

#[test]
fn the_recipe_learns_saves_and_its_model_answers_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/qa.rhai");
    let recipe = recipe.to_str().unwrap();
    assert!(include_str!("../scripts/qa.rhai").lines().count() <= 60);
    let arguments =
        ["run", "--json", recipe, "max_steps=8", "max_train_samples=16", "logging_steps=1", "learning_rate=1e-3"];
    let run = retune(folder.path(), &arguments);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let stdout = String::from_utf8(run.stdout).unwrap();
    let events: Vec<Json> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses: Vec<f64> =
        events.iter().filter(|event| event["event"] == "log").filter_map(|event| event["loss"].as_f64()).collect();
    assert!(losses.len() == 8 && losses[7] < losses[0] - 0.5, "{losses:?}");
    let result = events.last().unwrap();
    assert!(result["metrics"]["eval_f1"].as_f64().is_some_and(|f1| (0.0..=100.0).contains(&f1)), "{result}");
    assert_eq!(result["metrics"]["eval_NoAns_total"], 4, "{result}");

    let asked = json!({"question": "When does the ferry leave?", "context": "🙂 The ferry leaves at nine."});
    let texts = ["predict", "output/qa", &asked.to_string()].map(str::to_string);
    let one = retune(folder.path(), &texts.each_ref().map(String::as_str));
    assert!(one.status.success(), "{}", String::from_utf8_lossy(&one.stderr));
    let flags = [
        "predict",
        "output/qa",
        "--question",
        "When does the ferry leave?",
        "--context",
        "🙂 The ferry leaves at nine.",
    ];
    assert_eq!(retune(folder.path(), &flags).stdout, one.stdout, "the same answer from flags");
    let more = retune(folder.path(), &[&flags[..], &["--json", "--option", "top_k=2"]].concat());
    let event: Json = serde_json::from_slice(
        more.stdout.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"{\"event\":\"prediction\"")).unwrap(),
    )
    .unwrap();
    let answers = event["prediction"].as_array().unwrap();
    for answer in answers {
        let at = |key: &str| answer[key].as_u64().unwrap() as usize;
        assert_eq!(slice("🙂 The ferry leaves at nine.", at("start"), at("end")), answer["answer"].as_str().unwrap());
    }
    let printed = String::from_utf8(one.stdout).unwrap();
    assert!(printed.starts_with(answers[0]["answer"].as_str().unwrap()), "{printed}: {event}");
    let plain = retune(folder.path(), &["predict", "output/qa", "When?"]);
    let said = String::from_utf8_lossy(&plain.stderr).to_string();
    assert!(
        !plain.status.success() && said.contains("answers questions about a text") && said.contains("--context"),
        "{said}"
    );
}
