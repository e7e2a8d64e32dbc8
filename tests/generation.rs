//! Text generation against Hugging Face's: sequences, scores, the probabilities that are drawn from, and both pipelines.
//!
//! The expected numbers are those of `golden/language_models`, which its `generate.py` wrote with transformers.

use std::path::{Path, PathBuf};

use candle_core::Device;
use indexmap::IndexMap;
use retune::batch::{Batch, Features};
use retune::data::{Row, Value};
use retune::head::generation::{Caller, GenerationSettings, generate, scores, texts};
use retune::head::{Model, Output};
use retune::kernels::Path as KernelPath;
use retune::kernels::tiles::{Element, Kernels, Precision, available, kernels_of};
use retune::model::decoder::{Decoder, Step};
use retune::pipeline::{Pipeline, text_row};
use retune::tensor::rng::Rng;
use retune::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};

use crate::loading::{self, row};

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new("tests/golden/language_models").join(name)
}

pub(crate) fn numbers(name: &str) -> Json {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

pub(crate) fn language_model(name: &str) -> (Model, Tokenizer) {
    let (task, suffix) = match name.starts_with("gpt2") {
        true => ("causal_lm", "ForCausalLM"),
        false => ("masked_lm", "ForMaskedLM"),
    };
    (loading::model(&golden(name), task, suffix), loading::tokenizer(&golden(name)))
}

fn settings(model: &Model, options: &Json) -> GenerationSettings {
    GenerationSettings::read(&model.generation_config(), &[&row(options)], Caller::Generate, 42).unwrap()
}

fn ids(value: &Json) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn with(options: &Json, key: &str, value: Json) -> Json {
    let mut options = options.clone();
    options[key] = value;
    options
}

/// The cases of one model, and the model.
fn cases(name: &str) -> (Vec<Json>, Model, Tokenizer) {
    let all = numbers("generation.json");
    let cases: Vec<Json> = all.as_array().unwrap().iter().filter(|case| case["model"] == name).cloned().collect();
    assert!(cases.len() >= 36, "{}", cases.len());
    let (model, tokenizer) = language_model(name);
    (cases, model, tokenizer)
}

#[test]
fn greedy_search_takes_the_tokens_of_hugging_face_with_and_without_the_cache() {
    for name in ["gpt2-plain", "gpt2-odd"] {
        let (cases, model, tokenizer) = cases(name);
        for case in cases {
            for cache in [true, false] {
                let settings = settings(&model, &with(&case["options"], "use_cache", json!(cache)));
                let prompt = ids(&case["prompt"]);
                let found = generate(&model, std::slice::from_ref(&prompt), &settings, Some(&tokenizer), 0).unwrap();
                assert_eq!(
                    found,
                    [ids(&case["sequence"])],
                    "{name} {} {} cache: {cache}",
                    case["text"],
                    case["options"]
                );
                let settings = GenerationSettings { return_full_text: false, ..settings };
                let text = texts(&[("", prompt.len())], &found, &settings, &tokenizer).unwrap();
                assert_eq!(text, [case["text_after"].as_str().unwrap()]);
            }
        }
    }
}

#[test]
fn prompts_of_several_lengths_together_give_what_each_gives_alone() {
    let (cases, model, tokenizer) = cases("gpt2-plain");
    let options = json!({"stop_strings": ["s", "the m"], "max_new_tokens": 12});
    let chosen: Vec<&Json> = cases.iter().filter(|case| case["options"] == options).collect();
    assert_eq!(chosen.len(), 4);
    let prompts: Vec<Vec<u32>> = chosen.iter().map(|case| ids(&case["prompt"])).collect();
    let expected: Vec<Vec<u32>> = chosen.iter().map(|case| ids(&case["sequence"])).collect();
    // They end at different times, so that the batch shrinks.
    assert!(expected.iter().map(Vec::len).zip(prompts.iter().map(Vec::len)).any(|(all, prompt)| all < prompt + 12));
    for cache in [true, false] {
        let settings = settings(&model, &with(&options, "use_cache", json!(cache)));
        assert_eq!(generate(&model, &prompts, &settings, Some(&tokenizer), 0).unwrap(), expected);
    }
}

/// The scores of every new token: with the cache, without it, and Hugging Face's. All compute in f32; scores are below 30.
#[test]
fn the_cache_changes_no_score() {
    for name in ["gpt2-plain", "gpt2-odd"] {
        let (cases, model, _) = cases(name);
        let decoder = Decoder::new(model.encoder(), model.parameters(), model.family()).unwrap();
        for case in cases.iter().filter(|case| case["options"] == json!({})) {
            let (prompt, sequence) = (ids(&case["prompt"]), ids(&case["sequence"]));
            let mut cache = decoder.cache(sequence.len()).unwrap();
            for (step, expected) in case["scores"].as_array().unwrap().iter().enumerate() {
                let end = prompt.len() + step;
                let tokens = &sequence[cache.len()..end];
                let hidden = decoder.forward(&mut [Step { row: 0, tokens, cache: &mut cache }]).unwrap();
                let one = Features::of_tokens(&sequence[end - 1..end], end as u32 - 1);
                let cached = one_row(model.head_forward(&hidden, &pack(&one)).unwrap(), 0);
                let whole = Features::of_tokens(&sequence[..end], 0);
                let plain = one_row(model.forward(&pack(&whole)).unwrap(), end - 1);
                let worst = cached.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= 1e-5, "{name}, step {step}: {worst:e}");
                for (found, expected) in cached.iter().zip(expected.as_array().unwrap()) {
                    let expected = expected.as_f64().unwrap();
                    assert!((f64::from(*found) - expected).abs() <= 1e-5, "{name}, step {step}: {found} {expected}");
                }
            }
        }
    }
}

fn pack(features: &Features) -> Batch {
    Batch::pack(&[(0, features)], &Device::Cpu).unwrap()
}

fn one_row(output: Output, row: usize) -> Vec<f32> {
    match output {
        Output::One(scores) => scores.get(row).unwrap().to_vec1().unwrap(),
        Output::Named(_) => panic!("one tensor"),
    }
}

/// The scores that `sampling.json` begins with, after the processors of a case.
fn processed(golden: &Json, case: &Json) -> (Vec<f32>, Vec<f64>) {
    let mut scores: Vec<f32> =
        golden["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap() as f32).collect();
    let (model, _) = language_model("gpt2-plain");
    let settings = settings(&model, &with(&case["options"], "do_sample", json!(true)));
    let tokens = ids(&golden["tokens"]);
    scores::process(&mut scores, &tokens, tokens.len(), &settings);
    let mut expected = vec![0.0; scores.len()];
    for (id, probability) in case["probabilities"].as_object().unwrap() {
        expected[id.parse::<usize>().unwrap()] = probability.as_f64().unwrap();
    }
    (scores, expected)
}

#[test]
fn draws_are_made_from_the_probabilities_of_hugging_face() {
    let golden = numbers("sampling.json");
    for case in golden["cases"].as_array().unwrap() {
        let (scores, expected) = processed(&golden, case);
        let found = scores::softmax(&scores);
        for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(*found > 0.0, *expected > 0.0, "{}: token {token}", case["options"]);
            assert!((found - expected).abs() <= 1e-6, "{}: token {token}: {found} {expected}", case["options"]);
        }
    }
}

/// 20,000 draws: each token's count lies within six standard deviations of a binomial distribution. Of the some 300 tokens of
/// ten cases, one in 500 million would fall outside by chance; and the draws are always the same.
#[test]
fn draws_come_as_often_as_their_probabilities_say() {
    let golden = numbers("sampling.json");
    let n = 20_000;
    for (number, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let (scores, expected) = processed(&golden, case);
        let mut counts = vec![0u32; scores.len()];
        let rng = Rng::new(3, "test", number as u64);
        for draw in 0..n {
            counts[scores::draw(&scores, rng.uniform(draw)).unwrap() as usize] += 1;
        }
        for (token, (&count, &p)) in counts.iter().zip(&expected).enumerate() {
            let (mean, deviation) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
            let difference = (f64::from(count) - mean).abs();
            assert!(difference <= 6.0 * deviation + 1e-9, "{}: token {token}: {count} of {mean}", case["options"]);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_sequences_whatever_the_batch() {
    let (model, tokenizer) = language_model("gpt2-plain");
    let prompts: Vec<Vec<u32>> = ["the old ferry", "two", "nobody"]
        .iter()
        .map(|text| tokenizer.encode(text, None, &Default::default()).unwrap().input_ids)
        .collect();
    let options = json!({"do_sample": true, "num_return_sequences": 3, "max_new_tokens": 8, "seed": 5});
    let drawn = |options: &Json| generate(&model, &prompts, &settings(&model, options), None, 0).unwrap();
    let all = drawn(&options);
    assert_eq!(all.len(), 9);
    assert_eq!(all, drawn(&options));
    assert_eq!(all, drawn(&with(&options, "use_cache", json!(false))));
    assert_ne!(all, drawn(&with(&options, "seed", json!(6))));
    assert!(all[0] != all[1] && all[1] != all[2], "the sequences of a prompt differ");
    let alone = generate(&model, &prompts[2..], &settings(&model, &options), None, 2).unwrap();
    assert_eq!(alone, all[6..], "a prompt by itself, with its number");
}

/// Pipelines give what transformers' pipelines give; scores differ by rounding.
fn compare(found: &Json, expected: &Json, what: &Json) {
    match (found, expected) {
        (Json::Number(found), Json::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-6, "{what}: {found} {expected}");
        }
        (Json::Array(found), Json::Array(expected)) if found.len() == expected.len() => {
            found.iter().zip(expected).for_each(|(found, expected)| compare(found, expected, what));
        }
        (Json::Object(found), Json::Object(expected)) if found.len() == expected.len() => {
            expected.iter().for_each(|(key, expected)| compare(&found[key], expected, what));
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}

#[test]
fn pipelines_answer_as_in_hugging_face() {
    let golden = numbers("pipelines.json");
    for kind in ["fill_mask", "text_generation"] {
        let cases = golden[kind].as_array().unwrap();
        assert_eq!(cases.len(), 12);
        for case in cases {
            let (model, tokenizer) = language_model(case["model"].as_str().unwrap());
            let pipeline = Pipeline::new(model, tokenizer, 2, Row::new(IndexMap::new())).unwrap();
            let predict = |input: &Json| {
                let rows: Vec<Row> = match input {
                    Json::Array(several) => several.iter().map(|text| text_row(text.as_str().unwrap())).collect(),
                    one => vec![text_row(one.as_str().unwrap())],
                };
                let results = pipeline.predict(&rows, &row(&case["options"])).unwrap();
                results.iter().map(Value::to_json).collect::<Vec<_>>()
            };
            let found = predict(&case["input"]);
            let found = if case["input"].is_array() { json!(found) } else { found[0].clone() };
            compare(&found, &case["result"], &json!([case["model"], case["input"], case["options"]]));
        }
    }
}

/// What goes wrong says so before anything is computed.
#[test]
fn what_cannot_be_generated_is_refused() {
    let (model, tokenizer) = language_model("gpt2-plain");
    let config = model.generation_config();
    let read = |options: Json| GenerationSettings::read(&config, &[&row(&options)], Caller::Generate, 42);
    for (options, message, hint) in [
        (
            json!({"max_new_token": 3}),
            "unknown option `max_new_token` for `generate`",
            "did you mean `max_new_tokens`?",
        ),
        (json!({"temperature": 0.0}), "`temperature` of `generate` is 0, but must be above 0", "do_sample: false"),
        (json!({"top_p": 1.5}), "`top_p` of `generate` is 1.5, but must be from 0 to 1", ""),
        (json!({"num_beams": 4}), "beam search (`num_beams` above 1) is not supported", "do_sample: true"),
        (json!({"num_return_sequences": 2}), "greedy search finds one sequence", "do_sample: true"),
        (json!({"do_sample": "yes"}), "`do_sample` of `generate` must be a bool, but is a string", ""),
        (json!({"stop_strings": ""}), "`stop_strings` of `generate` is \"\"", ""),
    ] {
        let error = read(options).unwrap_err();
        assert!(error.what().to_string().contains(message), "{}", error.what());
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{:?}", error.hint_text());
    }
    let long = |n: usize, options: Json| {
        generate(&model, &[vec![5; n]], &read(options).unwrap(), Some(&tokenizer), 0).unwrap_err().what().to_string()
    };
    assert!(long(33, json!({})).contains("the prompt has 33 tokens, but the position table of the model has 32"));
    assert!(long(20, json!({"max_new_tokens": 14})).contains("do not fit the position table"));
    assert!(long(5, json!({"max_length": 5})).contains("nothing is left"));
    let outside = generate(&model, &[vec![5, 400]], &read(json!({})).unwrap(), Some(&tokenizer), 0).unwrap_err();
    assert!(outside.what().to_string().contains("a token id is 400"), "{}", outside.what());
    let stops = generate(&model, &[vec![5]], &read(json!({"stop_strings": "a"})).unwrap(), None, 0).unwrap_err();
    assert!(stops.what().to_string().contains("there is no tokenizer"), "{}", stops.what());
}

/// Prompts and single tokens of several rows, in blocks and alone, on every kernel beside the twin of single operations.
#[test]
fn the_fused_decoder_is_its_twin() {
    let model = language_model("gpt2-odd").0;
    let twin = Decoder::plain(model.parameters(), model.family(), model.encoder().config()).unwrap();
    let longest = model.max_length();
    let vocabulary = model.encoder().config().vocab_size as u64;
    // Rows grow by different numbers of tokens, also by several behind a cache; some hundred at once are several blocks.
    let few = [vec![3, 1, 7], vec![1, 1, 1], vec![1, 4, 1], vec![2, 1, 1]];
    let many = [vec![9; 40], vec![1; 40], vec![1; 40]];
    for kernels in every_table() {
        let tolerance = match kernels.element {
            Element::F32 | Element::Bf16(3) => 1e-5,
            Element::Bf16(2) => 1e-4,
            _ => 5e-2,
        };
        let decoder = Decoder::on(model.encoder(), model.parameters(), model.family(), kernels).unwrap();
        for plan in [&few[..], &many[..]] {
            let rows: Vec<Vec<u32>> = (0..plan[0].len())
                .map(|row| {
                    let rng = Rng::new(4, "tokens", row as u64);
                    (0..longest as u64).map(|place| (u64::from(rng.u32(place)) % vocabulary) as u32).collect()
                })
                .collect();
            let caches = |decoder: &Decoder| rows.iter().map(|_| decoder.cache(longest).unwrap()).collect::<Vec<_>>();
            let (mut ours, mut theirs) = (caches(&decoder), caches(&twin));
            for lengths in plan {
                let step = |decoder: &Decoder, caches: &mut [retune::model::decoder::Cache]| {
                    let parts = caches.iter_mut().zip(&rows).zip(lengths).enumerate();
                    let mut steps: Vec<Step<'_>> = parts
                        .map(|(row, ((cache, tokens), new))| Step {
                            row,
                            tokens: &tokens[cache.len()..cache.len() + new],
                            cache,
                        })
                        .collect();
                    decoder.forward(&mut steps).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
                };
                let (found, expected) = (step(&decoder, &mut ours), step(&twin, &mut theirs));
                let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
                let error = square(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
                let error = (error / square(&mut expected.iter().copied())).sqrt();
                assert!(error < tolerance, "{}: {error:e}", kernels.name);
            }
        }
    }
}

fn every_table() -> Vec<&'static Kernels> {
    let mut tables: Vec<&Kernels> = available().into_iter().flat_map(|(ours, twin)| [ours, twin]).collect();
    for precision in [Precision::Highest, Precision::High, Precision::Bf16] {
        tables.extend(kernels_of(KernelPath::Emulated, precision));
    }
    tables
}
