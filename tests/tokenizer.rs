//! Tokenizers against what Hugging Face's transformers gives (golden/tokenizer/generate.py), and against crafted files.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use retune::data::files::{Folder, Places};
use retune::error::Place;
use retune::tokenizer::{
    EncodeOptions, Encoding, Input, SpecialToken, Tokenizer, TokenizerOptions, Truncation, TruncationStrategy,
};
use serde_json::{Value as Json, json};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer")
}

fn cases() -> Json {
    serde_json::from_str(&std::fs::read_to_string(golden().join("cases.json")).unwrap()).unwrap()
}

fn folder(name: &str) -> Folder {
    match name {
        "minilm-tiny" => Places::default().folder("std/minilm-tiny").unwrap().unwrap(),
        other => Folder::Disk(golden().join(other)),
    }
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::from_folder(&folder(name), TokenizerOptions::default()).unwrap()
}

fn with_prefix_space(name: &str) -> Tokenizer {
    let options = TokenizerOptions { add_prefix_space: Some(true), ..TokenizerOptions::default() };
    Tokenizer::from_folder(&folder(name), options).unwrap()
}

fn options_of(case: &Json) -> EncodeOptions {
    let options = &case["options"];
    EncodeOptions {
        add_special_tokens: options["add_special_tokens"].as_bool().unwrap_or(true),
        truncation: options["truncation"].as_str().map(|strategy| Truncation {
            strategy: match strategy {
                "longest_first" => TruncationStrategy::LongestFirst,
                "only_first" => TruncationStrategy::OnlyFirst,
                "only_second" => TruncationStrategy::OnlySecond,
                other => panic!("{other}"),
            },
            max_length: options["max_length"].as_u64().unwrap() as usize,
            stride: options["stride"].as_u64().unwrap_or(0) as usize,
            return_overflowing: true,
        }),
    }
}

fn encode(tokenizer: &Tokenizer, text: &Json, pair: &Json, options: &EncodeOptions) -> retune::error::Result<Encoding> {
    let words = |value: &Json| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    if let Some(text) = text.as_str() {
        return tokenizer.encode(text, pair.as_str(), options);
    }
    let (first, second) = (words(text), pair.as_array().map(|_| words(pair)));
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    let second: Option<Vec<&str>> = second.as_ref().map(|words| words.iter().map(String::as_str).collect());
    tokenizer.encode_words(&first, second.as_deref(), options)
}

fn window(encoding: &Encoding) -> Json {
    json!({
        "ids": encoding.input_ids, "type_ids": encoding.token_type_ids,
        "special_tokens_mask": encoding.special_tokens_mask, "offsets": encoding.offsets,
        "word_ids": encoding.word_ids, "sequence_ids": encoding.sequence_ids,
    })
}

fn windows(encoding: &Encoding) -> Vec<Json> {
    std::iter::once(encoding).chain(&encoding.overflowing).map(window).collect()
}

/// Every case of the golden file, on whatever tokenizers `load` gives.
fn check_cases(mut load: impl FnMut(&str, bool) -> Tokenizer) -> usize {
    let mut loaded: BTreeMap<(String, bool), Tokenizer> = BTreeMap::new();
    let cases = cases();
    let cases = cases["cases"].as_array().unwrap();
    for case in cases {
        let (name, prefix) = (case["tokenizer"].as_str().unwrap(), case["prefix_space"].as_bool().unwrap());
        let tokenizer = loaded.entry((name.to_string(), prefix)).or_insert_with(|| load(name, prefix));
        let about = format!("{name} {} {} {}", case["text"], case["pair"], case["options"]);
        let encoding = encode(tokenizer, &case["text"], &case["pair"], &options_of(case)).expect(&about);
        let expected = case["expected"].as_array().unwrap();
        assert_eq!(windows(&encoding), *expected, "{about}");
        assert_eq!(encoding.truncated, expected.len() > 1, "{about}");
        let tokens: Vec<String> = encoding.input_ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap()).collect();
        assert_eq!(json!(tokens), case["tokens"], "{about}");
        assert_eq!(tokenizer.decode(&encoding.input_ids, false).unwrap(), case["decoded"], "{about}");
        assert_eq!(tokenizer.decode(&encoding.input_ids, true).unwrap(), case["decoded_plain"], "{about}");
    }
    cases.len()
}

#[test]
fn encodings_equal_hugging_faces() {
    let n = check_cases(|name, prefix| if prefix { with_prefix_space(name) } else { load(name) });
    assert!(n > 200, "{n}");
}

/// The vocabulary files that Hugging Face's older formats have, made from `tokenizer.json`.
pub(crate) fn vocabulary_files(name: &str, into: &Path) {
    let source = folder(name);
    let json: Json = serde_json::from_str(&source.read_text("tokenizer.json").unwrap().unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    if json["model"]["type"] == "WordPiece" {
        let mut pieces: Vec<(&String, u64)> = vocab.iter().map(|(piece, id)| (piece, id.as_u64().unwrap())).collect();
        pieces.sort_by_key(|(_, id)| *id);
        let lines: String = pieces.iter().map(|(piece, _)| format!("{piece}\n")).collect();
        std::fs::write(into.join("vocab.txt"), lines).unwrap();
    } else {
        std::fs::write(into.join("vocab.json"), serde_json::to_string(vocab).unwrap()).unwrap();
        let merges = json["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge.as_str() {
            Some(text) => format!("{text}\n"),
            None => format!("{} {}\n", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()),
        });
        let lines: String = merges.collect();
        std::fs::write(into.join("merges.txt"), format!("#version: 0.2\n{lines}")).unwrap();
    }
}

#[test]
fn vocabulary_files_give_what_tokenizer_json_gives() {
    check_cases(|name, prefix| {
        let scratch = tempfile::tempdir().unwrap();
        vocabulary_files(name, scratch.path());
        let options = TokenizerOptions { add_prefix_space: prefix.then_some(true), ..TokenizerOptions::default() };
        let tokenizer = Tokenizer::from_folder(&Folder::Disk(scratch.path().into()), options).unwrap();
        let reference = load(name);
        for token in [SpecialToken::Unk, SpecialToken::Cls, SpecialToken::Sep, SpecialToken::Mask, SpecialToken::Eos] {
            assert_eq!(tokenizer.special_id(token), reference.special_id(token), "{name} {token:?}");
        }
        tokenizer
    });
}

#[test]
fn the_embedded_vocab_txt_is_the_same_vocabulary() {
    let scratch = tempfile::tempdir().unwrap();
    let vocab = folder("minilm-tiny").read("vocab.txt").unwrap().unwrap();
    std::fs::write(scratch.path().join("vocab.txt"), vocab).unwrap();
    let from_text = Tokenizer::from_folder(&Folder::Disk(scratch.path().into()), TokenizerOptions::default()).unwrap();
    let from_json = load("minilm-tiny");
    assert_eq!(from_text.len(), from_json.len());
    assert!((0..8000).all(|id| from_text.id_to_token(id) == from_json.id_to_token(id)));
}

#[test]
fn saving_writes_what_hugging_face_writes() {
    let cases = cases();
    for (name, expected) in cases["configs"].as_object().unwrap() {
        let scratch = tempfile::tempdir().unwrap();
        let tokenizer = load(name);
        tokenizer.save_pretrained(&scratch.path().join("deep/er")).unwrap();
        let saved = Folder::Disk(scratch.path().join("deep/er"));
        assert_eq!(json!(saved.files().unwrap()), expected["files"], "{name}");
        let text = saved.read_text("tokenizer_config.json").unwrap().unwrap();
        let config: Json = serde_json::from_str(&text).unwrap();
        let mut wanted = expected["tokenizer_config"].clone();
        // Hugging Face copies the truncation of tokenizer.json into these; here it is dropped.
        for key in ["max_length", "stride", "truncation_side", "truncation_strategy"] {
            wanted.as_object_mut().unwrap().shift_remove(key);
        }
        assert_eq!(config, wanted, "{name}");
        assert_eq!(json!(tokenizer.vocab_size()), expected["vocab_size"], "{name}");
        assert_eq!(json!(tokenizer.len()), expected["len"], "{name}");
        let parsed: Json = serde_json::from_str(&saved.read_text("tokenizer.json").unwrap().unwrap()).unwrap();
        assert_eq!((&parsed["truncation"], &parsed["padding"]), (&Json::Null, &Json::Null), "{name}");
        let again = Tokenizer::from_folder(&saved, TokenizerOptions::default()).unwrap();
        assert_eq!(again.save_files().unwrap(), tokenizer.save_files().unwrap(), "{name}");
    }
}

#[test]
fn a_missing_limit_is_saved_as_python_writes_it_and_read_as_none() {
    let scratch = tempfile::tempdir().unwrap();
    vocabulary_files("minilm-tiny", scratch.path());
    let here = Folder::Disk(scratch.path().into());
    let tokenizer = Tokenizer::from_folder(&here, TokenizerOptions::default()).unwrap();
    assert_eq!(tokenizer.model_max_length(), None);
    tokenizer.save_pretrained(scratch.path()).unwrap();
    let text = here.read_text("tokenizer_config.json").unwrap().unwrap();
    assert!(text.contains("\"model_max_length\": 1000000000000000019884624838656"), "{text}");
    assert_eq!(Tokenizer::from_folder(&here, TokenizerOptions::default()).unwrap().model_max_length(), None);
}

#[test]
fn stored_padding_and_truncation_do_not_impose_themselves() {
    let source = folder("minilm-tiny").read_text("tokenizer.json").unwrap().unwrap();
    let mut json: Json = serde_json::from_str(&source).unwrap();
    json["truncation"] = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(&Folder::Disk(scratch.path().into()), TokenizerOptions::default()).unwrap();
    let encoding = tokenizer.encode("a fine movie, really", None, &EncodeOptions::default()).unwrap();
    assert_eq!(encoding.len(), 7);
}

#[test]
fn settings_come_from_the_configuration_and_the_options() {
    let check = |config: Json, options: TokenizerOptions, text: &str, expected: &[&str]| {
        let scratch = tempfile::tempdir().unwrap();
        vocabulary_files("minilm-tiny", scratch.path());
        let check_folder = |what: &str| {
            let here = Folder::Disk(scratch.path().into());
            let tokenizer = Tokenizer::from_folder(&here, options.clone()).unwrap();
            assert_eq!(tokenizer.tokenize(text).unwrap(), expected, "{config} from {what}");
        };
        std::fs::write(scratch.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        check_folder("vocab.txt");
        let json = folder("minilm-tiny").read("tokenizer.json").unwrap().unwrap();
        std::fs::write(scratch.path().join("tokenizer.json"), json).unwrap();
        check_folder("tokenizer.json");
    };
    let none = TokenizerOptions::default;
    check(json!({}), none(), "Film é", &["film", "e"]);
    check(json!({"do_lower_case": false}), none(), "Film", &["[UNK]"]);
    check(json!({"do_lower_case": false}), TokenizerOptions { do_lower_case: Some(true), ..none() }, "Film", &["film"]);
    check(json!({"unk_token": {"content": "[UNK]", "lstrip": false}}), none(), "电影", &["[UNK]", "[UNK]"]);
    check(json!({"tokenize_chinese_chars": false}), none(), "电影", &["[UNK]"]);
    check(json!({"additional_special_tokens": ["<x>"]}), none(), "film<x>film", &["film", "<x>", "film"]);
    let decoder =
        json!({"added_tokens_decoder": {"8000": {"content": "newword", "special": false, "normalized": true}}});
    check(decoder, none(), "Newword film", &["newword", "film"]);
}

#[test]
fn families_know_whether_they_use_token_type_ids() {
    let check = |config: Json, expected: bool| {
        let scratch = tempfile::tempdir().unwrap();
        vocabulary_files("minilm-tiny", scratch.path());
        std::fs::write(scratch.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let here = Folder::Disk(scratch.path().into());
        let tokenizer = Tokenizer::from_folder(&here, TokenizerOptions::default()).unwrap();
        assert_eq!(tokenizer.uses_token_type_ids(), expected, "{config}");
    };
    check(json!({}), true);
    check(json!({"tokenizer_class": "ElectraTokenizerFast"}), true);
    check(json!({"tokenizer_class": "DistilBertTokenizer"}), false);
    check(json!({"model_input_names": ["input_ids", "attention_mask"]}), false);
}

#[test]
fn glued_words_are_told_of_once_and_only_where_they_happen() {
    let glued = load("roberta");
    assert!(glued.must_tell_of_glued_words());
    assert!(!glued.clone().must_tell_of_glued_words());
    assert!(!with_prefix_space("roberta").must_tell_of_glued_words());
    assert!(!load("minilm-tiny").must_tell_of_glued_words());
}

#[test]
fn truncation_that_cannot_be_done_is_an_error() {
    let tokenizer = load("minilm-tiny");
    let long = "good film ".repeat(30);
    let check = |pair: Option<&str>, truncation: Truncation, expected: &str| {
        let options = EncodeOptions { truncation: Some(truncation), ..EncodeOptions::default() };
        let error = tokenizer.encode(&long, pair, &options).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let base = Truncation::new(16);
    check(None, Truncation { max_length: 1, ..base }, "`max_length` is 1, but must be at least 2");
    check(None, Truncation { stride: 14, ..base }, "`stride` is 14, but must be less than 14");
    check(None, Truncation { strategy: TruncationStrategy::OnlySecond, ..base }, "needs a second sequence");
    check(Some("x"), Truncation { strategy: TruncationStrategy::OnlySecond, ..base }, "first sequence alone fills");
    check(Some(&long), Truncation { stride: 8, ..base }, "`stride` is 8");
    let only_special = EncodeOptions::truncated(2);
    assert_eq!(tokenizer.encode(&long, None, &only_special).unwrap().input_ids, [2, 3]);
}

#[test]
fn a_batch_gives_what_single_calls_give() {
    let tokenizer = load("minilm-tiny");
    let texts: Vec<String> = (0..200).map(|n| "a very fine film ".repeat(n % 17)).collect();
    let words = ["fine", "film"];
    let mut inputs: Vec<(Input, Option<Input>)> = texts.iter().map(|text| (Input::Text(text), None)).collect();
    inputs.push((Input::Words(&words), Some(Input::Text("and text"))));
    let options = EncodeOptions::truncated(20);
    let batch = tokenizer.encode_batch(&inputs, &options).unwrap();
    for (encoding, &(first, second)) in batch.iter().zip(&inputs) {
        assert_eq!(*encoding, tokenizer.encode_input(first, second, &options).unwrap());
    }
    let error = tokenizer.encode_batch(&inputs, &EncodeOptions::truncated(2)).unwrap_err();
    assert_eq!(error.places(), [Place::Row(200)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Offsets are character positions, in order, and the slice of a lowercased WordPiece token is that token.
    #[test]
    fn offsets_lie_in_the_text(text in "(\\PC|[ a-zA-Zéü电影😀]){0,40}", index in 0usize..3) {
        use std::sync::LazyLock;
        static ALL: LazyLock<[Tokenizer; 3]> = LazyLock::new(|| ["minilm-tiny", "gpt2", "roberta"].map(load));
        let tokenizer = &ALL[index];
        let letters: Vec<char> = text.chars().collect();
        let encoding = tokenizer.encode(&text, None, &EncodeOptions::default()).unwrap();
        let mut last = 0;
        for (position, &(start, end)) in encoding.offsets.iter().enumerate() {
            if encoding.special_tokens_mask[position] == 1 {
                prop_assert_eq!((start, end), (0, 0));
                continue;
            }
            prop_assert!(start <= end && end <= letters.len() && start >= last, "{:?}", encoding.offsets);
            last = start;
            let slice: String = letters[start..end].iter().collect();
            let token = tokenizer.id_to_token(encoding.input_ids[position]).unwrap();
            let plain = token.strip_prefix("##").unwrap_or(&token);
            if index == 0 && slice.is_ascii() && token != "[UNK]" {
                prop_assert_eq!(slice.to_lowercase(), plain);
            }
        }
        let only_text: Vec<u32> = encoding.input_ids.iter().zip(&encoding.special_tokens_mask)
            .filter(|(_, special)| **special == 0).map(|(id, _)| *id).collect();
        if index > 0 && encoding.input_ids.iter().all(|id| !tokenizer.special_ids().contains(id)) {
            prop_assert_eq!(tokenizer.decode(&only_text, false).unwrap(), text);
        }
    }
}

#[test]
fn script_errors_keep_their_position_and_say_what_to_do() {
    let session = retune::api::session::Session::new(retune::api::session::SessionSettings {
        places: Places::default(),
        device: candle_core::Device::Cpu,
        reporter: retune::report::Reporter::capture(),
        arguments: BTreeMap::new(),
        seed: None,
        tasks: std::sync::Arc::new(|_, _, _| panic!("no tasks here")),
        recipe: "recipe.rhai".into(),
    });
    let mut engine = rhai::Engine::new();
    engine.set_default_tag(rhai::Dynamic::from(session));
    retune::api::tokenizer::register(&mut engine);
    engine.register_fn("expect", |condition: bool, message: &str| -> Result<(), Box<rhai::EvalAltResult>> {
        if condition { Ok(()) } else { Err(message.into()) }
    });
    let check = |script: &str, expected: &str| {
        let script = format!("let t = AutoTokenizer::from_pretrained(\"std/minilm-tiny\"); {script}");
        let error = engine.run(&script).unwrap_err();
        assert!(!error.position().is_none(), "{error:?} {script}");
        let rhai::EvalAltResult::ErrorRuntime(error, _) = error.unwrap_inner() else { panic!("{script}") };
        let error = error.clone().cast::<retune::error::Error>();
        let text = format!("{error} / {}", error.hint_text().unwrap_or_default());
        assert!(text.contains(expected), "{text}");
    };
    check(
        "t.encode(\"x\", #{ max_lenght: 3 })",
        "unknown option `max_lenght` for `encode` / did you mean `max_length`?",
    );
    check("t.encode(7)", "the text of `encode` must be a string or an array of words, but is an integer");
    check("t.encode([\"a\", 7])", "word 1 of the text of `encode` must be a string");
    check("t.encode(\"x\", #{ padding: true })", "`padding` of `encode` is not supported / leave it out");
    check("t.encode(\"x\", #{ truncation: \"longest\" })", "`truncation` of `encode` is \"longest\"");
    check("t.decode([-1])", "a token id is -1");
    check("AutoTokenizer::from_pretrained(\"std/minilm\")", "did you mean `std/minilm-tiny`?");
    engine
        .run(
            "const T = BertTokenizerFast::from_pretrained(\"std/minilm-tiny\");
             expect(T.cls_token_id == 2 && T.cls_token == \"[CLS]\" && T.bos_token_id == (), \"special tokens\");
             expect(T.encode(\"a b\", #{ text_pair: \"c\" }).token_type_ids == [0, 0, 0, 0, 1, 1], \"pairs\");
             expect(T.encode(\"a b\").offsets == [[0, 0], [0, 1], [2, 3], [0, 0]], \"offsets\");
             let D = DistilBertTokenizer::from_pretrained(\"std/minilm-tiny\");
             expect(D.encode(\"a\").to_map().keys() == [\"attention_mask\", \"input_ids\"], \"no type ids\");",
        )
        .unwrap();
}
