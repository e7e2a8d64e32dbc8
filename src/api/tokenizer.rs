//! `AutoTokenizer`, its sisters for single families, and the `Tokenizer` they give.
//!
//! Names, options and defaults are Hugging Face's. What encoding means is `crate::tokenizer`'s; this file turns
//! script values into its arguments and its results into script values.

use rhai::plugin::*;
use rhai::{Array, FuncRegistration, Map, Module};

use crate::api::encoding::{self, ScriptEncoding, int_array, optional_int, texts};
use crate::api::options::Options;
use crate::api::session::Session;
use crate::data::hub::{Hub, open_tokenizer};
use crate::error::{Result, What};
use crate::head::script::convert::{ScriptResult, raise, raise_at, type_name};
use crate::tokenizer::{
    EncodeOptions, Input, Kind, SpecialToken, Tokenizer, TokenizerOptions, Truncation, TruncationStrategy,
};

/// Makes the namespaces and types known to an engine.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<Tokenizer>("Tokenizer");
    encoding::register(engine);
    engine.register_global_module(exported_module!(tokenizer_functions).into());
    register_special_tokens(engine);
    engine.register_static_module("AutoTokenizer", exported_module!(auto_tokenizer).into());
    let families = [
        ("BertTokenizer", Kind::Bert),
        ("DistilBertTokenizer", Kind::DistilBert),
        ("RobertaTokenizer", Kind::Roberta),
        ("GPT2Tokenizer", Kind::Gpt2),
    ];
    for (class, kind) in families {
        engine.register_static_module(class, family(class, kind).into());
        engine.register_static_module(format!("{class}Fast"), family(class, kind).into());
    }
}

/// `BertTokenizer` and its like: `AutoTokenizer` for files that do not say which family they are.
fn family(class: &'static str, kind: Kind) -> Module {
    let summary =
        format!("/// Loads a tokenizer as `{class}`, whatever class its files name; else as `AutoTokenizer` does.");
    let example = format!(
        "///\n/// ```rhai\n/// let tokenizer = {class}::from_pretrained(\"std/minilm-tiny\");\n/// \
         expect(tokenizer.vocab_size == 8000, \"its own files say what it is\");\n/// ```"
    );
    let mut module = Module::new();
    FuncRegistration::new("from_pretrained")
        .with_params_info(["name: &str", "options: Map", "Tokenizer"])
        .with_comments([summary.as_str(), &example])
        .set_into_module(&mut module, move |context: NativeCallContext, name: &str, options: Map| {
            load(&context, class, name, options, Some(kind)).map_err(raise_at(&context))
        });
    FuncRegistration::new("from_pretrained")
        .with_params_info(["name: &str", "Tokenizer"])
        .with_comments([summary.as_str(), &example])
        .set_into_module(&mut module, move |context: NativeCallContext, name: &str| {
            load(&context, class, name, Map::new(), Some(kind)).map_err(raise_at(&context))
        });
    module
}

fn load(context: &NativeCallContext, class: &str, name: &str, options: Map, kind: Option<Kind>) -> Result<Tokenizer> {
    let session = Session::of(context);
    let mut options = Options::new(format!("`{class}::from_pretrained`"), options);
    let revision = options.string("revision")?;
    if options.bool("use_fast")? == Some(false) {
        session.reporter().note("`use_fast: false` makes no difference: there is one implementation, the fast one");
    }
    let mut settings = TokenizerOptions {
        model_max_length: options.count("model_max_length", 1)?,
        do_lower_case: options.bool("do_lower_case")?,
        strip_accents: options.bool("strip_accents")?,
        tokenize_chinese_chars: options.bool("tokenize_chinese_chars")?,
        add_prefix_space: options.bool("add_prefix_space")?,
        kind,
        from_hub: false,
    };
    options.finish()?;
    let hub = Hub::from_env();
    let folder = open_tokenizer(session.places(), &hub, name, revision.as_deref())?;
    settings.from_hub = folder.on_disk().is_some_and(|path| path.starts_with(&hub.settings().cache));
    Tokenizer::from_folder(&folder, settings)
}

/// Loads the tokenizer that belongs to a model.
#[export_module]
mod auto_tokenizer {
    /// Loads a tokenizer by name: a local directory, `"std/..."`, or a hub repository.
    ///
    /// Reads `tokenizer.json`, else `vocab.txt`, else `vocab.json` with `merges.txt`. Padding and truncation that
    /// the file carries do not impose themselves. Options: `model_max_length`, `do_lower_case`, `strip_accents`,
    /// `tokenize_chinese_chars`, `add_prefix_space`, `revision` (a branch, tag or commit of the hub) and `use_fast`
    /// (accepted, without effect).
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny", #{ model_max_length: 64 });
    /// expect(tokenizer.model_max_length == 64, "the option wins");
    /// ```
    #[rhai_fn(name = "from_pretrained", return_raw)]
    pub fn from_pretrained_with(context: NativeCallContext, name: &str, options: Map) -> ScriptResult<Tokenizer> {
        load(&context, "AutoTokenizer", name, options, None).map_err(raise_at(&context))
    }

    /// Loads a tokenizer by name: a local directory, `"std/..."`, or a hub repository.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// expect(tokenizer.vocab_size == 8000, "its vocabulary");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_pretrained(context: NativeCallContext, name: &str) -> ScriptResult<Tokenizer> {
        load(&context, "AutoTokenizer", name, Map::new(), None).map_err(raise_at(&context))
    }
}

/// One side of an input as a script gave it.
enum Side {
    Text(rhai::ImmutableString),
    Words(Vec<rhai::ImmutableString>),
}

impl Side {
    fn read(value: &Dynamic, name: &str, split: Option<bool>) -> Result<Side> {
        let wrong = |wanted: &str, got: &Dynamic| {
            crate::error::Error::new(What::WrongType { name: name.into(), wanted: wanted.into(), got: type_name(got) })
        };
        if let Ok(text) = value.clone().into_immutable_string() {
            return match split {
                Some(true) => Err(wrong("an array of words, because of `is_split_into_words: true`,", value)),
                _ => Ok(Side::Text(text)),
            };
        }
        let Ok(words) = value.as_array_ref() else { return Err(wrong("a string or an array of words", value)) };
        if split == Some(false) {
            return Err(wrong("a string, because of `is_split_into_words: false`,", value)
                .hint("encode one text at a time; an array means words"));
        }
        let read = |(idx, word): (usize, &Dynamic)| {
            let name = format!("word {idx} of {name}");
            word.clone()
                .into_immutable_string()
                .map_err(|_| What::WrongType { name, wanted: "a string".into(), got: type_name(word) }.into())
        };
        words.iter().enumerate().map(read).collect::<Result<_>>().map(Side::Words)
    }

    fn words(&self) -> Vec<&str> {
        match self {
            Side::Text(_) => Vec::new(),
            Side::Words(words) => words.iter().map(|word| word.as_str()).collect(),
        }
    }

    fn input<'a>(&'a self, words: &'a [&'a str]) -> Input<'a> {
        match self {
            Side::Text(text) => Input::Text(text),
            Side::Words(_) => Input::Words(words),
        }
    }
}

fn encode_value(session: &Session, tokenizer: &Tokenizer, text: &Dynamic, options: Map) -> Result<ScriptEncoding> {
    let mut options = Options::new("`encode`", options);
    let split = options.bool("is_split_into_words")?;
    let first = Side::read(text, "the text of `encode`", split)?;
    let pair = options.take("text_pair");
    let second = pair.map(|pair| Side::read(&pair, "`text_pair` of `encode`", split)).transpose()?;
    let encode_options = EncodeOptions {
        add_special_tokens: options.bool("add_special_tokens")?.unwrap_or(true),
        truncation: truncation(tokenizer, &mut options)?,
    };
    if options.take("padding").is_some_and(|padding| padding.as_bool() != Ok(false)) {
        let error = crate::error::Error::new(What::Unsupported("`padding` of `encode`".into()));
        return Err(error.hint("leave it out: batches are packed without padding, and the results are the same"));
    }
    // Everything is there without being asked for, as arrays.
    for key in ["return_tensors", "return_offsets_mapping", "return_attention_mask", "return_token_type_ids"] {
        options.take(key);
    }
    options.finish()?;
    if matches!(first, Side::Words(_)) && tokenizer.must_tell_of_glued_words() {
        session.reporter().warning(
            "this tokenizer was loaded without `add_prefix_space: true`: split words are encoded as if they were glued together",
        );
    }
    let (first_words, second_words) = (first.words(), second.as_ref().map(Side::words).unwrap_or_default());
    let second = second.as_ref().map(|side| side.input(&second_words));
    let encoding = tokenizer.encode_input(first.input(&first_words), second, &encode_options)?;
    Ok(ScriptEncoding::new(tokenizer, encoding))
}

/// `truncation`, `max_length`, `stride` and `return_overflowing_tokens`, as Hugging Face combines them.
fn truncation(tokenizer: &Tokenizer, options: &mut Options) -> Result<Option<Truncation>> {
    let max_length = options.count("max_length", 1)?;
    let stride = options.count("stride", 0)?.unwrap_or(0);
    let return_overflowing = options.bool("return_overflowing_tokens")?.unwrap_or(false);
    let given = options.take("truncation");
    let strategy = match given.as_ref() {
        None => max_length.map(|_| TruncationStrategy::LongestFirst),
        Some(value) => match (value.as_bool(), value.clone().into_string().as_deref()) {
            (Ok(flag), _) => flag.then_some(TruncationStrategy::LongestFirst),
            (_, Ok("longest_first")) => Some(TruncationStrategy::LongestFirst),
            (_, Ok("only_first")) => Some(TruncationStrategy::OnlyFirst),
            (_, Ok("only_second")) => Some(TruncationStrategy::OnlySecond),
            (_, Ok("do_not_truncate")) => None,
            _ => {
                return Err(What::OutOfRange {
                    name: "`truncation` of `encode`".into(),
                    value: format!("{value:?}"),
                    allowed: "a bool, \"longest_first\", \"only_first\", \"only_second\" or \"do_not_truncate\"".into(),
                }
                .into());
            }
        },
    };
    let max_length = max_length.or(tokenizer.model_max_length());
    Ok(strategy.zip(max_length).map(|(strategy, max_length)| Truncation {
        strategy,
        max_length,
        stride,
        return_overflowing,
    }))
}

fn id_of(value: &Dynamic) -> Result<u32> {
    let number = value.as_int().map_err(|_| What::WrongType {
        name: "a token id".into(),
        wanted: "an integer".into(),
        got: type_name(value),
    })?;
    let (name, allowed) = ("a token id".into(), "from 0 to 4294967295".into());
    u32::try_from(number).map_err(|_| What::OutOfRange { name, value: number.to_string(), allowed }.into())
}

fn ids_of(value: &Dynamic) -> Result<Vec<u32>> {
    match value.as_array_ref() {
        Ok(ids) => ids.iter().map(id_of).collect(),
        Err(_) => Ok(vec![id_of(value)?]),
    }
}

fn each_token(tokenizer: &Tokenizer, value: &Dynamic) -> Result<Dynamic> {
    if let Ok(tokens) = value.as_array_ref() {
        let ids = tokens.iter().map(|token| each_token(tokenizer, token)).collect::<Result<Array>>()?;
        return Ok(Dynamic::from_array(ids));
    }
    let token = value.clone().into_immutable_string().map_err(|_| What::WrongType {
        name: "a token".into(),
        wanted: "a string".into(),
        got: type_name(value),
    })?;
    Ok(optional_int(tokenizer.token_to_id(&token).or(tokenizer.unk_id())))
}

/// Functions and properties of `Tokenizer`.
#[export_module]
mod tokenizer_functions {
    /// Turns a text, or an array of words, into token ids.
    ///
    /// Options: `text_pair`; `truncation` (a bool, `"longest_first"`, `"only_first"`, `"only_second"`,
    /// `"do_not_truncate"`), `max_length` (by default the model's), `stride` and `return_overflowing_tokens` for windows;
    /// `is_split_into_words`; `add_special_tokens` (true).
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a fine film, really", #{ truncation: true, max_length: 4 });
    /// expect(encoding.tokens == ["[CLS]", "a", "fine", "[SEP]"], "cut to four tokens");
    /// let words = tokenizer.encode(["fine", "film"], #{ is_split_into_words: true });
    /// expect(words.word_ids == [(), 0, 1, ()], "each token knows its word");
    /// ```
    #[rhai_fn(name = "encode", global, pure, return_raw)]
    pub fn encode_with(
        context: NativeCallContext,
        tokenizer: &mut Tokenizer,
        text: Dynamic,
        options: Map,
    ) -> ScriptResult<ScriptEncoding> {
        encode_value(&Session::of(&context), tokenizer, &text, options).map_err(raise)
    }

    /// Turns a text, or an array of words, into token ids, with special tokens and without truncation.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a fine film");
    /// expect(encoding.input_ids.len() == 5, "three words between [CLS] and [SEP]");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn encode(
        context: NativeCallContext,
        tokenizer: &mut Tokenizer,
        text: Dynamic,
    ) -> ScriptResult<ScriptEncoding> {
        encode_value(&Session::of(&context), tokenizer, &text, Map::new()).map_err(raise)
    }

    /// The pieces a text falls into, without special tokens.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// expect(tokenizer.tokenize("A film!") == ["a", "film", "!"], "lowercased and split");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn tokenize(tokenizer: &mut Tokenizer, text: &str) -> ScriptResult<Array> {
        let tokens = tokenizer.tokenize(text).map_err(raise)?;
        Ok(tokens.into_iter().map(Dynamic::from).collect())
    }

    /// The text of an array of ids; `skip_special_tokens: true` leaves out `[CLS]` and the like.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let ids = tokenizer.encode("a film").input_ids;
    /// expect(tokenizer.decode(ids, #{ skip_special_tokens: true }) == "a film", "back again");
    /// ```
    #[rhai_fn(name = "decode", global, pure, return_raw)]
    pub fn decode_with(tokenizer: &mut Tokenizer, ids: Dynamic, options: Map) -> ScriptResult<String> {
        let mut options = Options::new("`decode`", options);
        let skip = options.bool("skip_special_tokens").map_err(raise)?.unwrap_or(false);
        options.finish().map_err(raise)?;
        ids_of(&ids).and_then(|ids| tokenizer.decode(&ids, skip)).map_err(raise)
    }

    /// The texts of an array of arrays of ids, special tokens included.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let rows = ["a film", "a play"].map(|text| tokenizer.encode(text).input_ids);
    /// expect(tokenizer.batch_decode(rows)[1] == "[CLS] a play [SEP]", "one text a row");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn batch_decode(tokenizer: &mut Tokenizer, rows: Array) -> ScriptResult<Array> {
        rows.into_iter().map(|ids| decode(tokenizer, ids).map(Dynamic::from)).collect()
    }

    /// The texts of an array of arrays of ids; `skip_special_tokens: true` leaves out `[CLS]` and the like.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let rows = ["a film", "a play"].map(|text| tokenizer.encode(text).input_ids);
    /// expect(tokenizer.batch_decode(rows, #{ skip_special_tokens: true }) == ["a film", "a play"], "back again");
    /// ```
    #[rhai_fn(name = "batch_decode", global, pure, return_raw)]
    pub fn batch_decode_with(tokenizer: &mut Tokenizer, rows: Array, options: Map) -> ScriptResult<Array> {
        rows.into_iter().map(|ids| decode_with(tokenizer, ids, options.clone()).map(Dynamic::from)).collect()
    }

    /// The text of an array of ids, special tokens included.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// expect(tokenizer.decode(tokenizer.encode("a film").input_ids) == "[CLS] a film [SEP]", "all of it");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn decode(tokenizer: &mut Tokenizer, ids: Dynamic) -> ScriptResult<String> {
        ids_of(&ids).and_then(|ids| tokenizer.decode(&ids, false)).map_err(raise)
    }

    /// The id of a token, or the ids of an array of tokens; an unknown token has the unknown token's id.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// expect(tokenizer.convert_tokens_to_ids(["[CLS]", "no such token"]) == [2, 1], "2, and 1 for [UNK]");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn convert_tokens_to_ids(tokenizer: &mut Tokenizer, tokens: Dynamic) -> ScriptResult<Dynamic> {
        each_token(tokenizer, &tokens).map_err(raise)
    }

    /// The token of an id, or the tokens of an array of ids; `()` for an id outside the vocabulary.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// expect(tokenizer.convert_ids_to_tokens([2, 3]) == ["[CLS]", "[SEP]"], "two special tokens");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn convert_ids_to_tokens(tokenizer: &mut Tokenizer, ids: Dynamic) -> ScriptResult<Dynamic> {
        let found = ids_of(&ids).map_err(raise)?;
        let mut tokens = texts(found.into_iter().map(|id| tokenizer.id_to_token(id)));
        Ok(if ids.is_array() { Dynamic::from_array(tokens) } else { tokens.pop().unwrap_or(Dynamic::UNIT) })
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder, as Hugging Face does.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("std/minilm-tiny").save_pretrained("my-model");
    /// expect(AutoTokenizer::from_pretrained("my-model").vocab_size == 8000, "the same tokenizer");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn save_pretrained(context: NativeCallContext, tokenizer: &mut Tokenizer, dir: &str) -> ScriptResult<()> {
        let dir = std::path::Path::new(dir);
        Session::of(&context).permissions().write_below(dir).map_err(raise)?;
        tokenizer.save_pretrained(dir).map_err(raise)
    }

    /// The number of entries with added tokens: Python's `len(tokenizer)`.
    ///
    /// # Example
    /// ```rhai
    /// expect(AutoTokenizer::from_pretrained("std/minilm-tiny").len() == 8000, "nothing was added");
    /// ```
    #[rhai_fn(global, pure)]
    pub fn len(tokenizer: &mut Tokenizer) -> i64 {
        tokenizer.len() as i64
    }

    /// The number of entries of the vocabulary, without added tokens.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// expect(tokenizer.vocab_size == 8000, "without added tokens");
    /// ```
    #[rhai_fn(global, pure, get = "vocab_size")]
    pub fn vocab_size(tokenizer: &mut Tokenizer) -> i64 {
        tokenizer.vocab_size() as i64
    }

    /// The most tokens the model takes; `()` where nothing says so.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// expect(tokenizer.model_max_length == 256, "as tokenizer_config.json says");
    /// ```
    #[rhai_fn(global, pure, get = "model_max_length")]
    pub fn model_max_length(tokenizer: &mut Tokenizer) -> Dynamic {
        optional_int(tokenizer.model_max_length().map(|length| length as i64))
    }

    /// The ids of all special tokens.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// expect(tokenizer.all_special_ids.contains(tokenizer.pad_token_id), "padding is one of them");
    /// ```
    #[rhai_fn(global, pure, get = "all_special_ids")]
    pub fn all_special_ids(tokenizer: &mut Tokenizer) -> Array {
        int_array(&tokenizer.special_ids())
    }

    /// A short description, for `print`.
    ///
    /// ```rhai
    /// expect(AutoTokenizer::from_pretrained("std/minilm-tiny").to_string().contains("8000"), "its size is in it");
    /// ```
    #[rhai_fn(global, pure, name = "to_string", name = "to_debug")]
    pub fn describe(tokenizer: &mut Tokenizer) -> String {
        format!("Tokenizer({} tokens)", tokenizer.len())
    }
}

/// The special tokens' properties: `cls_token`, `cls_token_id`, and their sisters.
/// An example of a special token's property, as documentation lines.
fn special_example(key: &str) -> String {
    let has = if key.starts_with("bos") || key.starts_with("eos") { "== ()" } else { "!= ()" };
    format!(
        "///\n/// ```rhai\n/// let tokenizer = AutoTokenizer::from_pretrained(\"std/minilm-tiny\");\n/// \
         expect(tokenizer.{key} {has}, \"a BERT tokenizer\");\n/// ```"
    )
}

fn register_special_tokens(engine: &mut rhai::Engine) {
    let mut module = Module::new();
    for token in SpecialToken::ALL {
        let key = token.key();
        let comment = format!("/// The {}, or `()` where the tokenizer has none.", key.replace('_', " "));
        FuncRegistration::new_getter(key)
            .with_namespace(rhai::FnNamespace::Global)
            .with_purity(true)
            .with_params_info(["tokenizer: &mut Tokenizer", "Dynamic"])
            .with_comments([comment.as_str(), &special_example(key)])
            .set_into_module(&mut module, move |tokenizer: &mut Tokenizer| -> Dynamic {
                tokenizer.special_token(token).map_or(Dynamic::UNIT, |text| Dynamic::from(text.to_string()))
            });
        let comment = format!("/// The id of the {}, or `()` where the tokenizer has none.", key.replace('_', " "));
        FuncRegistration::new_getter(format!("{key}_id"))
            .with_namespace(rhai::FnNamespace::Global)
            .with_purity(true)
            .with_params_info(["tokenizer: &mut Tokenizer", "Dynamic"])
            .with_comments([comment.as_str(), &special_example(&format!("{key}_id"))])
            .set_into_module(&mut module, move |tokenizer: &mut Tokenizer| -> Dynamic {
                optional_int(tokenizer.special_id(token))
            });
    }
    engine.register_global_module(module.into());
}
