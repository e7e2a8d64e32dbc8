//! Writing a tokenizer as Hugging Face writes it: `tokenizer.json` and `tokenizer_config.json`.
//!
//! The keys of the configuration that was loaded are kept; those that only describe where it came from are not.

use serde_json::{Map, Value as Json};

use super::{Kind, Parts};
use crate::error::{Error, Result, What};

/// What Hugging Face writes for "no limit": `int(1e30)` of Python.
const NO_LENGTH: f64 = 1e30;

/// Keys that Hugging Face leaves out when it saves.
const LEFT_OUT: [&str; 14] = [
    "added_tokens_decoder",
    "additional_special_tokens",
    "add_bos_token",
    "add_eos_token",
    "auto_map",
    "device_map",
    "files_loaded",
    "merges_file",
    "name_or_path",
    "slow_tokenizer_class",
    "special_tokens_map_file",
    "tokenizer_file",
    "use_fast",
    "vocab_file",
];

pub(super) fn files(parts: &Parts) -> Result<Vec<(String, Vec<u8>)>> {
    let failed = |problem: String| Error::new(What::Internal(format!("the tokenizer cannot be written: {problem}")));
    let tokenizer = parts.inner.to_string(true).map_err(|error| failed(error.to_string()))?;
    let mut config = serde_json::to_string_pretty(&config(parts)).map_err(|error| failed(error.to_string()))?;
    // Python writes int(1e30) digit by digit, and would read it back from any other form as a float.
    let float = Json::from(NO_LENGTH).to_string();
    let digits = "1000000000000000019884624838656";
    config = config.replace(&format!("\"model_max_length\": {float}"), &format!("\"model_max_length\": {digits}"));
    config.push('\n');
    Ok(vec![("tokenizer.json".into(), tokenizer.into_bytes()), ("tokenizer_config.json".into(), config.into_bytes())])
}

fn config(parts: &Parts) -> Json {
    let mut config: Map<String, Json> = parts.config.clone();
    if let Some(extra) = config.remove("additional_special_tokens").filter(|extra| extra != &Json::Array(Vec::new())) {
        config.entry("extra_special_tokens").or_insert(extra);
    }
    for key in LEFT_OUT {
        config.shift_remove(key);
    }
    for (token, text, _) in &parts.special {
        config.insert(token.key().into(), text.as_str().into());
    }
    let length = parts.model_max_length.map_or(Json::from(NO_LENGTH), Json::from);
    config.insert("model_max_length".into(), length);
    config.entry("backend").or_insert("tokenizers".into());
    config.entry("is_local").or_insert(parts.is_local.into());
    config.entry("local_files_only").or_insert(false.into());
    let defaults: &[(&str, Json)] = match parts.kind {
        Kind::Bert | Kind::DistilBert => &[
            ("do_lower_case", Json::Bool(true)),
            ("strip_accents", Json::Null),
            ("tokenize_chinese_chars", Json::Bool(true)),
        ],
        _ => &[],
    };
    for (key, value) in defaults {
        config.entry(*key).or_insert_with(|| value.clone());
    }
    let class = parts.config.get("tokenizer_class").and_then(Json::as_str);
    let class = class.filter(|class| Kind::of_class(class).is_none()).or(parts.kind.class());
    config.insert("tokenizer_class".into(), class.unwrap_or("PreTrainedTokenizerFast").into());
    let mut sorted: Vec<(String, Json)> = config.into_iter().collect();
    sorted.sort_by(|left, right| left.0.cmp(&right.0));
    Json::Object(sorted.into_iter().collect())
}
