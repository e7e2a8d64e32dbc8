//! Reading a tokenizer's files, in each of the forms that Hugging Face models come in.
//!
//! `tokenizer.json` is taken as it is, apart from its padding and truncation; vocabulary files are first turned
//! into the `tokenizer.json` that Hugging Face would make of them. Settings come from, in this order: the options,
//! `tokenizer_config.json`, `special_tokens_map.json`, the class's defaults.

use std::sync::Arc;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value as Json, json};
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TruncationDirection};

use super::{Kind, Parts, SpecialToken, Tokenizer, TokenizerOptions, guard};
use crate::data::files::Folder;
use crate::error::{Error, Place, Result, What};

/// Above this, Hugging Face's `model_max_length` means that there is none.
const LARGE_INTEGER: f64 = 1e20;

/// The files that a tokenizer may be made of.
pub(super) const FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "config.json",
];

pub(super) fn load(folder: &Folder, options: TokenizerOptions) -> Result<Tokenizer> {
    let mut config = json_file(folder, "tokenizer_config.json")?.unwrap_or_default();
    for (key, value) in json_file(folder, "special_tokens_map.json")?.unwrap_or_default() {
        config.entry(key).or_insert(value);
    }
    let kind = options.kind.or_else(|| stated_kind(&config, folder));
    override_config(&mut config, &options);

    let (name, mut inner, kind) = if let Some(text) = folder.read_text("tokenizer.json")? {
        ("tokenizer.json", from_json(&text, &folder.join("tokenizer.json"))?, kind)
    } else if let Some(text) = folder.read_text("vocab.txt")? {
        let kind = kind.filter(|kind| matches!(kind, Kind::Bert | Kind::DistilBert)).unwrap_or(Kind::Bert);
        ("vocab.txt", build(word_piece(&text, kind, &config), folder, "vocab.txt")?, Some(kind))
    } else if let Some(vocab) = json_file(folder, "vocab.json")? {
        let Some(merges) = folder.read_text("merges.txt")? else { return Err(no_files(folder, "merges.txt")) };
        let detected = if vocab.contains_key("<s>") && vocab.contains_key("</s>") { Kind::Roberta } else { Kind::Gpt2 };
        let kind = kind.filter(|kind| matches!(kind, Kind::Roberta | Kind::Gpt2)).unwrap_or(detected);
        let merges = merge_rules(&merges, &folder.join("merges.txt"))?;
        let largest = vocab.values().filter_map(Json::as_u64).max().unwrap_or(0);
        refuse_large(largest, "vocab.json").map_err(|error| error.at(Place::file(folder.join("vocab.json"))))?;
        ("vocab.json", build(byte_level(vocab, merges, &config), folder, "vocab.json")?, Some(kind))
    } else {
        return Err(no_files(folder, "tokenizer.json"));
    };
    let kind = kind.unwrap_or_else(|| detected_kind(&inner));

    let malformed = |problem: String| malformed(name, problem).at(Place::file(folder.join(name)));
    let special = guard::catch(|| {
        apply_settings(&mut inner, &config)?;
        add_tokens(&mut inner, folder, kind, &config)
    })
    .map_err(&malformed)?;
    if name != "tokenizer.json" {
        let processor = post_processor(&inner, kind, &special, &config).map_err(&malformed)?;
        inner.with_post_processor(Some(processor));
    }
    let special = special.into_iter().map(|(token, text)| {
        let id = inner.token_to_id(&text);
        (token, text, id)
    });
    Ok(Tokenizer(Arc::new(Parts {
        special: special.collect(),
        kind,
        model_max_length: model_max_length(&config, folder)?,
        truncation_side: match config.get("truncation_side").and_then(Json::as_str) {
            Some("left") => TruncationDirection::Left,
            _ => TruncationDirection::Right,
        },
        uses_token_type_ids: match config.get("model_input_names").and_then(Json::as_array) {
            Some(names) => names.iter().any(|name| name == "token_type_ids"),
            None => matches!(kind, Kind::Bert | Kind::Other),
        },
        is_local: !options.from_hub,
        has_told_of_glued_words: Default::default(),
        fingerprint: Default::default(),
        config,
        inner,
    })))
}

fn malformed(name: &str, problem: String) -> Error {
    Error::new(What::Malformed { format: name.to_string(), problem })
}

fn no_files(folder: &Folder, missing: &'static str) -> Error {
    let error = Error::new(What::NotFound { kind: "tokenizer file", name: folder.join(missing).display().to_string() });
    error.hint("a tokenizer is `tokenizer.json`, or `vocab.txt`, or `vocab.json` with `merges.txt`")
}

/// A JSON object, or `None` where there is no such file.
fn json_file(folder: &Folder, name: &str) -> Result<Option<Map<String, Json>>> {
    let Some(text) = folder.read_text(name)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| json_error(name, &folder.join(name), &error))
}

fn json_error(name: &str, path: &std::path::Path, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let (problem, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    let place = match error.line() {
        0 => Place::file(path),
        line => Place::line(path, line, Some(error.column()).filter(|&column| column > 0)),
    };
    malformed(name, problem.to_string())
        .at(place)
        .hint("the file is damaged or crafted; fetch or save the tokenizer again")
}

/// What the file itself says about added tokens; the crate ignores an id that contradicts the vocabulary.
#[derive(Deserialize)]
struct Declared {
    #[serde(default)]
    added_tokens: Vec<DeclaredToken>,
    model: DeclaredModel,
}

#[derive(Deserialize)]
struct DeclaredModel {
    #[serde(default)]
    vocab: LargestId,
}

/// Ids from here on are refused: the crate makes lists as long as the largest id when it saves, and those of all models known
/// are below a million.
const ID_LIMIT: u64 = 1 << 24;

/// The largest id of a vocabulary; that of a list is its length.
#[derive(Default)]
struct LargestId(u64);

impl<'de> Deserialize<'de> for LargestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = LargestId;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<LargestId, A::Error> {
                let mut largest = 0;
                while let Some((_, id)) = entries.next_entry::<IgnoredAny, u64>()? {
                    largest = largest.max(id);
                }
                Ok(LargestId(largest))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> std::result::Result<LargestId, A::Error> {
                let mut count = 0;
                while entries.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(LargestId(count))
            }
        }
        deserializer.deserialize_any(Ids)
    }
}

fn refuse_large(largest: u64, name: &str) -> Result<()> {
    match largest {
        0..ID_LIMIT => Ok(()),
        _ => Err(malformed(name, format!("the vocabulary has an id {largest}, and {ID_LIMIT} is the limit"))),
    }
}

#[derive(Deserialize)]
struct DeclaredToken {
    id: u32,
    content: String,
}

fn from_json(text: &str, path: &std::path::Path) -> Result<tokenizers::Tokenizer> {
    let name = "tokenizer.json";
    let parsed = guard::catch(|| Ok::<_, String>(serde_json::from_str::<tokenizers::Tokenizer>(text)));
    let mut inner = parsed
        .map_err(|problem| malformed(name, problem).at(Place::file(path)))?
        .map_err(|error| json_error(name, path, &error))?;
    let declared: Declared = serde_json::from_str(text).map_err(|error| json_error(name, path, &error))?;
    refuse_large(declared.model.vocab.0, name).map_err(|error| error.at(Place::file(path)))?;
    if let Some(token) = declared.added_tokens.iter().find(|token| inner.token_to_id(&token.content) != Some(token.id))
    {
        let problem = match inner.token_to_id(&token.content) {
            Some(id) => format!("added token `{}` says id {}, but it gets {id}", token.content, token.id),
            None => format!("added token `{}` cannot be added", token.content),
        };
        return Err(malformed(name, problem).at(Place::file(path)));
    }
    inner.with_padding(None);
    guard::catch(|| inner.with_truncation(None).map(|_| ())).map_err(|problem| malformed(name, problem))?;
    Ok(inner)
}

fn build(json: Json, folder: &Folder, name: &'static str) -> Result<tokenizers::Tokenizer> {
    guard::catch(|| serde_json::from_value(json))
        .map_err(|problem| malformed(name, problem).at(Place::file(folder.join(name))))
}

/// The `tokenizer.json` of a BERT vocabulary: one piece a line, the line's number is the id.
fn word_piece(vocab: &str, kind: Kind, config: &Map<String, Json>) -> Json {
    let lines = vocab.strip_suffix('\n').unwrap_or(vocab).split('\n');
    let pieces = lines.enumerate().map(|(id, line)| (line.strip_suffix('\r').unwrap_or(line).to_string(), id.into()));
    let flag = |key: &str, default: Json| config.get(key).cloned().unwrap_or(default);
    let lowercase = flag("do_lower_case", true.into());
    json!({
        "version": "1.0", "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "lowercase": lowercase,
            "handle_chinese_chars": flag("tokenize_chinese_chars", true.into()),
            "strip_accents": flag("strip_accents", Json::Null),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "unk_token": special_text(config, kind, SpecialToken::Unk).unwrap_or_else(|| "[UNK]".into()),
            "vocab": Json::Object(pieces.collect()),
        },
    })
}

/// The `tokenizer.json` of a byte-level BPE vocabulary.
fn byte_level(vocab: Map<String, Json>, merges: Vec<Json>, config: &Map<String, Json>) -> Json {
    let add_prefix_space = config.get("add_prefix_space").and_then(Json::as_bool).unwrap_or(false);
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

fn merge_rules(text: &str, path: &std::path::Path) -> Result<Vec<Json>> {
    let numbered =
        (1..).zip(text.lines()).filter(|(line, text)| !(text.is_empty() || *line == 1 && text.starts_with("#version")));
    numbered
        .map(|(line, text)| match text.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                Ok(json!([left, right]))
            }
            _ => Err(malformed("merges.txt", "a line must be two pieces with a space between".into())
                .at(Place::line(path, line, None))),
        })
        .collect()
}

/// The family, where a class name or a model type states it.
fn stated_kind(config: &Map<String, Json>, folder: &Folder) -> Option<Kind> {
    let by_class = config.get("tokenizer_class").and_then(Json::as_str).and_then(Kind::of_class);
    by_class.or_else(|| {
        // A broken config.json is for the model's loader to complain about.
        let model = json_file(folder, "config.json").ok().flatten()?;
        Kind::of_model_type(model.get("model_type")?.as_str()?)
    })
}

fn detected_kind(inner: &tokenizers::Tokenizer) -> Kind {
    let has = |token| inner.token_to_id(token).is_some();
    match inner.get_model() {
        tokenizers::ModelWrapper::WordPiece(_) if has("[CLS]") && has("[SEP]") => Kind::Bert,
        _ => Kind::Other,
    }
}

fn override_config(config: &mut Map<String, Json>, options: &TokenizerOptions) {
    let flags = [
        ("do_lower_case", options.do_lower_case),
        ("strip_accents", options.strip_accents),
        ("tokenize_chinese_chars", options.tokenize_chinese_chars),
        ("add_prefix_space", options.add_prefix_space),
    ];
    for (key, flag) in flags {
        if let Some(flag) = flag {
            config.insert(key.into(), flag.into());
        }
    }
    if let Some(length) = options.model_max_length {
        config.insert("model_max_length".into(), length.into());
    }
}

/// Hugging Face lets `tokenizer_config.json` win over the normalizer and pre-tokenizer of `tokenizer.json`.
fn apply_settings(inner: &mut tokenizers::Tokenizer, config: &Map<String, Json>) -> tokenizers::Result<()> {
    let flag = |key: &str| config.get(key).and_then(Json::as_bool);
    if let Some(NormalizerWrapper::BertNormalizer(normalizer)) = inner.get_normalizer() {
        let mut normalizer = *normalizer;
        normalizer.lowercase = flag("do_lower_case").unwrap_or(normalizer.lowercase);
        normalizer.handle_chinese_chars = flag("tokenize_chinese_chars").unwrap_or(normalizer.handle_chinese_chars);
        normalizer.strip_accents = flag("strip_accents").or(normalizer.strip_accents);
        inner.with_normalizer(Some(normalizer))?;
    }
    let Some(add_prefix_space) = flag("add_prefix_space") else { return Ok(()) };
    if let Some(PreTokenizerWrapper::ByteLevel(byte_level)) = inner.get_pre_tokenizer() {
        let byte_level = byte_level.add_prefix_space(add_prefix_space);
        inner.with_pre_tokenizer(Some(byte_level));
        if let Some(PostProcessorWrapper::Roberta(processor)) = inner.get_post_processor() {
            let processor = processor.clone().add_prefix_space(add_prefix_space);
            inner.with_post_processor(Some(processor));
        }
    }
    Ok(())
}

/// A special token's text: a string or `{"content": ...}`, or the class's default where nothing is said.
fn special_text(config: &Map<String, Json>, kind: Kind, token: SpecialToken) -> Option<String> {
    match config.get(token.key()) {
        Some(value) => content(value).map(str::to_string),
        None => kind.special_tokens().iter().find(|(name, _)| *name == token).map(|(_, text)| text.to_string()),
    }
}

fn content(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn added(value: &Json, special: bool) -> Option<AddedToken> {
    let flag = |key: &str, default| value.get(key).and_then(Json::as_bool).unwrap_or(default);
    let special = flag("special", special);
    let token = AddedToken::from(content(value)?, special)
        .single_word(flag("single_word", false))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .normalized(flag("normalized", !special));
    Some(token).filter(|token| !token.content.is_empty())
}

/// Adds what the configuration names and the vocabulary file does not have, and gives the named special tokens.
fn add_tokens(
    inner: &mut tokenizers::Tokenizer,
    folder: &Folder,
    kind: Kind,
    config: &Map<String, Json>,
) -> tokenizers::Result<Vec<(SpecialToken, String)>> {
    let mut tokens: Vec<(u64, AddedToken)> = Vec::new();
    if let Some(decoder) = config.get("added_tokens_decoder").and_then(Json::as_object) {
        let listed = decoder.iter().filter_map(|(id, value)| Some((id.parse().ok()?, added(value, false)?)));
        tokens.extend(listed);
    }
    let legacy = json_file(folder, "added_tokens.json").map_err(|error| error.to_string())?.unwrap_or_default();
    tokens.extend(legacy.iter().filter_map(|(text, id)| Some((id.as_u64()?, AddedToken::from(text.as_str(), false)))));
    tokens.sort_by_key(|(id, _)| *id);

    let mut special = Vec::new();
    for token in SpecialToken::ALL {
        let Some(text) = special_text(config, kind, token) else { continue };
        let stated = config.contains_key(token.key());
        let is_known = inner.token_to_id(&text).is_some() || tokens.iter().any(|(_, token)| token.content == text);
        // A default that the vocabulary lacks is no token of this model: an id past the embedding would break it.
        if !text.is_empty() && (stated || is_known) {
            special.push((token, text));
        }
    }
    let known = inner.get_added_tokens_decoder();
    let is_new = |text: &str| !known.values().any(|token| token.content == text);
    let decorated = tokens.into_iter().map(|(_, token)| token).filter(|token| is_new(&token.content));
    let mut fresh: Vec<AddedToken> = decorated.collect();
    let named = special.iter().filter_map(|(token, text)| {
        let plain = Json::String(text.clone());
        added(config.get(token.key()).unwrap_or(&plain), true)
    });
    let extra =
        ["additional_special_tokens", "extra_special_tokens"].into_iter().filter_map(|key| config.get(key)?.as_array());
    let extra = extra.flatten().filter_map(|value| added(value, true));
    for mut token in named.chain(extra) {
        token.special = true;
        match fresh.iter_mut().find(|other| other.content == token.content) {
            Some(other) => other.special = true,
            None if is_new(&token.content) => {
                token.normalized = false;
                fresh.push(token);
            }
            None => {}
        }
    }
    inner.add_tokens(fresh)?;
    Ok(special)
}

/// What is put around the text when it was built from vocabulary files.
fn post_processor(
    inner: &tokenizers::Tokenizer,
    kind: Kind,
    special: &[(SpecialToken, String)],
    config: &Map<String, Json>,
) -> Result<PostProcessorWrapper, String> {
    let find = |wanted: SpecialToken| {
        let text = special.iter().find(|(token, _)| *token == wanted).map(|(_, text)| text.as_str());
        let text = text.ok_or_else(|| format!("it has no {}", wanted.key()))?;
        let id = inner.token_to_id(text).ok_or_else(|| format!("it has no `{text}`"))?;
        Ok::<_, String>((text, id))
    };
    let flag = |key: &str, default| config.get(key).and_then(Json::as_bool).unwrap_or(default);
    let json = match kind {
        Kind::Roberta => {
            let (sep, cls) = (find(SpecialToken::Sep)?, find(SpecialToken::Cls)?);
            json!({
                "type": "RobertaProcessing", "sep": [sep.0, sep.1], "cls": [cls.0, cls.1],
                "trim_offsets": flag("trim_offsets", true), "add_prefix_space": flag("add_prefix_space", false),
            })
        }
        Kind::Gpt2 | Kind::Other => {
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true})
        }
        Kind::Bert | Kind::DistilBert => {
            let (sep, cls) = (find(SpecialToken::Sep)?, find(SpecialToken::Cls)?);
            let piece = |text: &str, type_id: u32| json!({"SpecialToken": {"id": text, "type_id": type_id}});
            let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
            let single = [piece(cls.0, 0), sequence("A", 0), piece(sep.0, 0)];
            let pair = [&single[..], &[sequence("B", 1), piece(sep.0, 1)]].concat();
            let ids = |(text, id): (&str, u32)| json!({"id": text, "ids": [id], "tokens": [text]});
            let special_tokens = Map::from_iter([cls, sep].map(|token| (token.0.to_string(), ids(token))));
            json!({
                "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens,
            })
        }
    };
    serde_json::from_value(json).map_err(|error| error.to_string())
}

fn model_max_length(config: &Map<String, Json>, folder: &Folder) -> Result<Option<usize>> {
    let Some(value) = config.get("model_max_length").filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_f64() {
        Some(length) if length > LARGE_INTEGER => Ok(None),
        Some(length) if length >= 1.0 && length.fract() == 0.0 => Ok(Some(length as usize)),
        _ => {
            let problem = format!("`model_max_length` must be a positive integer, but is {value}");
            let name = "tokenizer_config.json";
            Err(malformed(name, problem).at(Place::file(folder.join(name))))
        }
    }
}
