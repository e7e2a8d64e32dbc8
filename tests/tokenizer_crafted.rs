//! Tokenizer files that are broken or made to do harm: an error or a working tokenizer, never a panic.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use retune::data::files::Folder;
use retune::tokenizer::{EncodeOptions, Tokenizer, TokenizerOptions};
use serde_json::{Value as Json, json};

use crate::tokenizer::vocabulary_files;

/// A small WordPiece tokenizer to make nasty variants of.
fn small() -> Json {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 0, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2}},
    })
}

fn try_everything(text: &str) -> Result<(), String> {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("tokenizer.json"), text).unwrap();
    let here = Folder::Disk(scratch.path().into());
    let tokenizer = Tokenizer::from_folder(&here, TokenizerOptions::default()).map_err(|error| error.to_string())?;
    for text in ["", "a ab 😀 x", "[UNK] a"] {
        let truncated = EncodeOptions::truncated(5);
        for options in [EncodeOptions::default(), truncated] {
            for pair in [None, Some("b a")] {
                let encoding = tokenizer.encode(text, pair, &options).map_err(|error| error.to_string())?;
                tokenizer.decode(&encoding.input_ids, true).map_err(|error| error.to_string())?;
            }
        }
        tokenizer.encode_words(&[text, "b"], None, &truncated).map_err(|error| error.to_string())?;
    }
    tokenizer.save_files().map_err(|error| error.to_string()).map(|_| ())
}

#[test]
fn crafted_files_are_errors_and_never_panics() {
    assert_eq!(try_everything(&small().to_string()), Ok(()));
    let with = |path: &str, value: Json| {
        let mut json = small();
        *json.pointer_mut(path).unwrap() = value;
        json.to_string()
    };
    let bpe = |merges: Json| {
        json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1}, "merges": merges})
    };
    let template = |special: Json, single: Json| {
        json!({"type": "TemplateProcessing", "single": single, "pair": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": special})
    };
    let refused: Vec<(&str, String)> = vec![
        ("empty", String::new()),
        ("no object", "[]".into()),
        ("no model", with("/model", Json::Null)),
        ("wrong version", with("/version", json!("9"))),
        ("model of wrong type", with("/model", json!("WordPiece"))),
        ("vocab of wrong type", with("/model/vocab", json!([1, 2]))),
        ("negative id", with("/model/vocab/a", json!(-1))),
        ("fractional id", with("/model/vocab/a", json!(1.5))),
        ("id past u32", with("/model/vocab/a", json!(1u64 << 40))),
        ("added id past u32", with("/added_tokens/0/id", json!(1u64 << 40))),
        ("added id negative", with("/added_tokens/0/id", json!(-7))),
        ("added id contradicts", with("/added_tokens/0/id", json!(77))),
        ("merge of unknown pieces", with("/model", bpe(json!(["x y"])))),
        ("merge into unknown piece", with("/model", bpe(json!(["a b"])))),
        ("merge of one piece", with("/model", bpe(json!(["a"])))),
        ("merge of numbers", with("/model", bpe(json!([[1, 2]])))),
        ("unknown normalizer", with("/normalizer", json!({"type": "Nonsense"}))),
        (
            "broken regex",
            with(
                "/pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
            ),
        ),
        (
            "template names unknown token",
            with("/post_processor", template(json!({}), json!([{"SpecialToken": {"id": "[CLS]", "type_id": 0}}]))),
        ),
        ("no unknown token", with("/model/unk_token", json!("[NOPE]"))),
        (
            "deep nesting",
            with("/normalizer", json!(null)).replace(
                "\"normalizer\":null",
                &format!(
                    "\"normalizer\":{}null{}",
                    "{\"type\":\"Sequence\",\"normalizers\":[".repeat(500),
                    "]}".repeat(500)
                ),
            ),
        ),
        ("broken charsmap", with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}))),
        ("unigram without unknown", with("/model", json!({"type": "Unigram", "unk_id": 99, "vocab": [["a", -1.0]]}))),
    ];
    for (name, text) in refused {
        assert!(try_everything(&text).is_err(), "{name} was taken");
    }
    // Odd but harmless, or harmful only in ways that the crate must not turn into a panic.
    let odd: Vec<String> = vec![
        with("/model/vocab/a", json!(u32::MAX)),
        with("/added_tokens", json!([])),
        with("/truncation", json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9})),
        with(
            "/padding",
            json!({"strategy": {"Fixed": 1u64 << 60}, "direction": "Left", "pad_to_multiple_of": 0,
            "pad_id": 0, "pad_type_id": 0, "pad_token": ""}),
        ),
        with("/model/max_input_chars_per_word", json!(0)),
        with("/model/continuing_subword_prefix", json!("")),
        with("/model/vocab", json!({})),
        with("/post_processor", template(json!({}), json!([]))),
        with(
            "/post_processor",
            template(
                json!({"[CLS]": {"id": "[CLS]", "ids": [9], "tokens": []}}),
                json!([{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]),
            ),
        ),
        with("/post_processor", json!({"type": "BertProcessing", "sep": ["", 4294967295u32], "cls": ["", 0]})),
        with("/post_processor", json!({"type": "Sequence", "processors": []})),
        with("/decoder", json!({"type": "Strip", "content": "a", "start": 9, "stop": 9})),
        with("/decoder", json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true})),
        with("/normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
        with("/normalizer", json!({"type": "Prepend", "prepend": ""})),
        with("/pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        with(
            "/pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "", "prepend_scheme": "always", "split": true}),
        ),
        with(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": ""}, "behavior": "MergedWithNext", "invert": true}),
        ),
        with("/model", json!({"type": "Unigram", "unk_id": null, "vocab": []})),
        with("/model", json!({"type": "Unigram", "unk_id": 0, "vocab": [["", 0.0], ["a", null]]})),
    ];
    for text in odd {
        // Either outcome is fine; a panic would fail the test.
        let _ = try_everything(&text);
    }
    let whole = small().to_string();
    for n in 1..=20 {
        assert!(try_everything(&whole[..whole.len() * n / 21]).is_err(), "cut to {n}/21");
    }
}

#[test]
fn broken_files_name_file_line_and_column() {
    let check = |name: &str, text: &str, expected: &str| {
        let scratch = tempfile::tempdir().unwrap();
        vocabulary_files("roberta", scratch.path());
        std::fs::write(scratch.path().join(name), text).unwrap();
        let here = Folder::Disk(scratch.path().into());
        let error = Tokenizer::from_folder(&here, TokenizerOptions::default()).unwrap_err();
        assert_eq!(error.to_string().replace(&scratch.path().display().to_string(), "DIR"), expected);
    };
    check(
        "tokenizer.json",
        "{\n  \"version\": \"1.0\",\n  oops\n}",
        "tokenizer.json: key must be a string (DIR/tokenizer.json:3:3)",
    );
    check(
        "tokenizer_config.json",
        "{\"a\": 1,}",
        "tokenizer_config.json: trailing comma (DIR/tokenizer_config.json:1:9)",
    );
    check(
        "tokenizer_config.json",
        "{\"model_max_length\": \"many\"}",
        "tokenizer_config.json: `model_max_length` must be a positive integer, but is \"many\" (DIR/tokenizer_config.json)",
    );
    check(
        "merges.txt",
        "#version: 0.2\na b c\n",
        "merges.txt: a line must be two pieces with a space between (DIR/merges.txt:2)",
    );
    check("vocab.json", "{\"<s>\": 0", "vocab.json: EOF while parsing an object (DIR/vocab.json:1:9)");
    let nothing = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(&Folder::Disk(nothing.path().into()), TokenizerOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("tokenizer.json` was not found"), "{error}");
    assert!(error.hint_text().unwrap().contains("vocab.txt"));
}
