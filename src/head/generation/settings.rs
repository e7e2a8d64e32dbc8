//! The options of text generation, with Hugging Face's names, defaults and checks.
//!
//! What a call gives wins over the pipeline's own options, these over the model's generation_config.json, and that over
//! Hugging Face's defaults: greedy, 20 new tokens; in a pipeline sampled at temperature 0.7, 256 new tokens.

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::data::{Row, Value};
use crate::error::{Error, Result, What, nearest};

/// How text is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationSettings {
    /// Where a sequence ends at the latest.
    pub limit: Limit,
    /// New tokens before which no end of text is chosen.
    pub min_new_tokens: usize,
    /// Tokens, with the prompt, before which no end of text is chosen.
    pub min_length: usize,
    /// Whether tokens are drawn; otherwise the likeliest is taken.
    pub do_sample: bool,
    /// What scores are divided by before a draw.
    pub temperature: f64,
    /// Only the best tokens are drawn from; 0 means all.
    pub top_k: usize,
    /// Only the likeliest tokens with this sum of probabilities are drawn from.
    pub top_p: f64,
    /// Only tokens with this share of the likeliest's probability are drawn from.
    pub min_p: Option<f64>,
    /// What the scores of tokens that were seen are divided by (multiplied where negative).
    pub repetition_penalty: f64,
    /// No sequence of so many tokens comes twice; 0 means it may.
    pub no_repeat_ngram_size: usize,
    /// Sequences for each prompt.
    pub num_return_sequences: usize,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// What an empty prompt begins with.
    pub bos_token_id: Option<u32>,
    /// Texts that end a sequence; they are part of it.
    pub stop_strings: Vec<String>,
    /// The seed of the draws.
    pub seed: u64,
    /// Whether keys and values of earlier tokens are kept. The result is the same.
    pub use_cache: bool,
    /// Whether texts are returned with their prompts.
    pub return_full_text: bool,
    /// Whether special tokens are left out of texts.
    pub skip_special_tokens: bool,
    /// Whether a prompt's text gets the tokenizer's special tokens.
    pub add_special_tokens: bool,
}

/// Where a sequence ends at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After so many new tokens, as somebody asked for.
    NewTokens(usize),
    /// At so many tokens with the prompt, as somebody asked for.
    Length(usize),
    /// After so many new tokens, or where the position table ends.
    Default(usize),
}

/// Who generates: the defaults differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// `model.generate`.
    Generate,
    /// The pipeline `text-generation`.
    Pipeline,
}

/// The options that there are.
pub const KEYS: [&str; 22] = [
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_return_sequences",
    "num_beams",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "stop_strings",
    "seed",
    "use_cache",
    "return_full_text",
    "skip_special_tokens",
    "add_special_tokens",
];

/// The pipeline's name of `stop_strings`.
const STOP_SEQUENCE: &str = "stop_sequence";

/// Whether there is such an option.
pub fn is_option(key: &str) -> bool {
    key == STOP_SEQUENCE || KEYS.contains(&key)
}

/// Those that only apply to draws: a pipeline's defaults for them are left out where nothing is drawn.
const SAMPLING: [&str; 1] = ["temperature"];

/// Entries of a generation_config.json that would change the text and are not known here, with what leaves it as it is.
const UNSUPPORTED: [(&str, f64); 12] = [
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("top_h", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("diversity_penalty", 0.0),
    ("num_beam_groups", 1.0),
    ("guidance_scale", 1.0),
    ("penalty_alpha", 0.0),
    ("length_penalty", f64::NAN),
    ("early_stopping", f64::NAN),
];

/// As [`UNSUPPORTED`], for entries that are lists or maps where they are there.
const UNSUPPORTED_LISTS: [&str; 8] = [
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "watermarking_config",
];

impl GenerationSettings {
    /// Reads the settings of a call: `given` options, the later ones winning, over the model's own.
    ///
    /// # Errors
    /// Unknown options, values of another type or out of range, and settings that do not fit together.
    pub fn read(model: &Map<String, Json>, given: &[&Row], caller: Caller, seed: u64) -> Result<Self> {
        let mut map = from_model(model)?;
        for row in given {
            for (key, value) in row.iter() {
                let key = if key == STOP_SEQUENCE { "stop_strings" } else { key.as_str() };
                if !KEYS.contains(&key) {
                    return Err(unknown(key));
                }
                if *value != Value::Null {
                    map.insert(key.to_string(), value.clone());
                }
            }
        }
        let mut reader = Reader(map);
        let draws = reader.bool("do_sample")?;
        let do_sample = draws.unwrap_or(caller == Caller::Pipeline);
        let default_temperature = if caller == Caller::Pipeline && do_sample { 0.7 } else { 1.0 };
        let length = reader.count("max_length", 1)?;
        let limit = match (reader.count("max_new_tokens", 1)?, length) {
            (Some(count), _) => Limit::NewTokens(count),
            (None, Some(length)) => Limit::Length(length),
            (None, None) => Limit::Default(if caller == Caller::Pipeline { 256 } else { 20 }),
        };
        let settings = GenerationSettings {
            limit,
            min_new_tokens: reader.count("min_new_tokens", 0)?.unwrap_or(0),
            min_length: reader.count("min_length", 0)?.unwrap_or(0),
            do_sample,
            temperature: reader.float("temperature", "above 0", |t| t > 0.0)?.unwrap_or(default_temperature),
            top_k: reader.count("top_k", 0)?.unwrap_or(50),
            top_p: reader.float("top_p", "from 0 to 1", |p| (0.0..=1.0).contains(&p))?.unwrap_or(1.0),
            min_p: reader.float("min_p", "from 0 to 1", |p| (0.0..=1.0).contains(&p))?,
            repetition_penalty: reader.float("repetition_penalty", "above 0", |p| p > 0.0)?.unwrap_or(1.0),
            no_repeat_ngram_size: reader.count("no_repeat_ngram_size", 0)?.unwrap_or(0),
            num_return_sequences: reader.count("num_return_sequences", 1)?.unwrap_or(1),
            eos_token_ids: reader.ids("eos_token_id")?,
            bos_token_id: reader.ids("bos_token_id")?.first().copied(),
            stop_strings: reader.texts("stop_strings")?,
            seed: reader.count("seed", 0)?.map_or(seed, |seed| seed as u64),
            use_cache: reader.bool("use_cache")?.unwrap_or(true),
            return_full_text: reader.bool("return_full_text")?.unwrap_or(true),
            skip_special_tokens: reader.bool("skip_special_tokens")?.unwrap_or(true),
            add_special_tokens: reader.bool("add_special_tokens")?.unwrap_or(true),
        };
        if reader.count("num_beams", 1)?.is_some_and(|beams| beams > 1) {
            return Err(Error::new(What::Unsupported("beam search (`num_beams` above 1)".into()))
                .hint("leave it out for greedy search, or draw: `do_sample: true`"));
        }
        if !settings.do_sample && settings.num_return_sequences > 1 {
            let count = settings.num_return_sequences;
            let problem =
                format!("greedy search finds one sequence, so `num_return_sequences: {count}` has no meaning");
            return Err(Error::new(What::Conflict(problem)).hint("draw them: `do_sample: true`"));
        }
        Ok(settings)
    }

    /// The number of tokens at which a sequence with a prompt of `n_prompt` ends at the latest, in a model that takes
    /// `longest` tokens.
    ///
    /// # Errors
    /// A prompt that is longer than the model takes, a length that leaves nothing to generate, or more tokens than fit.
    pub fn length(&self, n_prompt: usize, longest: usize) -> Result<usize> {
        let fits = "shorten the prompt: `tokenizer.encode(text, #{ truncation: true, max_length: ... })`";
        if n_prompt > longest {
            let problem =
                format!("the prompt has {n_prompt} tokens, but the position table of the model has {longest}");
            return Err(Error::new(What::Conflict(problem)).hint(fits));
        }
        let length = match self.limit {
            Limit::NewTokens(count) => n_prompt.saturating_add(count),
            Limit::Length(length) if length <= n_prompt => {
                let problem = format!(
                    "the prompt has {n_prompt} tokens, and `max_length: {length}` counts them: nothing is left"
                );
                return Err(Error::new(What::Conflict(problem)).hint("raise it, or give `max_new_tokens`"));
            }
            Limit::Length(length) => length,
            Limit::Default(count) => return Ok((n_prompt + count).min(longest).max(n_prompt + 1)),
        };
        // The last token is not looked at any more, so it needs no position.
        if length > longest + 1 {
            let problem = format!(
                "a prompt of {n_prompt} tokens and {} new ones do not fit the position table of the model, which has {longest}",
                length - n_prompt
            );
            return Err(Error::new(What::Conflict(problem))
                .hint(format!("give `max_new_tokens: {}` at most, or shorten the prompt", longest + 1 - n_prompt)));
        }
        Ok(length)
    }
}

fn unknown(key: &str) -> Error {
    let error = Error::new(What::UnknownOption { key: key.to_string(), of: "`generate`".into() });
    match nearest(key, KEYS) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("it knows {}", KEYS.map(|key| format!("`{key}`")).join(", "))),
    }
}

/// The entries of generation_config.json that mean something here.
fn from_model(config: &Map<String, Json>) -> Result<IndexMap<String, Value>> {
    let refused = |key: &str| {
        let error = Error::new(What::Unsupported(format!("`{key}` of generation_config.json")));
        error.hint("take it out of the file, where its effect is not wanted")
    };
    for (key, neutral) in UNSUPPORTED {
        let value = config.get(key).and_then(Json::as_f64);
        if value.is_some_and(|value| !neutral.is_nan() && value != neutral) {
            return Err(refused(key));
        }
    }
    if let Some(key) = UNSUPPORTED_LISTS.iter().find(|key| config.get(**key).is_some_and(|value| !value.is_null())) {
        return Err(refused(key));
    }
    let known = config.iter().filter(|(key, value)| KEYS.contains(&key.as_str()) && !value.is_null());
    Ok(known.map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect())
}

/// Options that are read one by one.
struct Reader(IndexMap<String, Value>);

impl Reader {
    fn wrong(key: &str, wanted: &str, got: &Value) -> Error {
        let (name, got) = (format!("`{key}` of `generate`"), got.type_name().to_string());
        What::WrongType { name, wanted: wanted.into(), got }.into()
    }

    fn out_of_range(key: &str, value: impl ToString, allowed: &str) -> Error {
        let (name, value) = (format!("`{key}` of `generate`"), value.to_string());
        What::OutOfRange { name, value, allowed: allowed.into() }.into()
    }

    fn bool(&mut self, key: &str) -> Result<Option<bool>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Self::wrong(key, "a bool", other)),
        }
    }

    fn count(&mut self, key: &str, least: usize) -> Result<Option<usize>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let number = match value {
            Value::Int(number) => *number,
            Value::Float(number) if number.fract() == 0.0 => *number as i64,
            other => return Err(Self::wrong(key, "an integer", other)),
        };
        match usize::try_from(number).ok().filter(|number| *number >= least) {
            Some(number) => Ok(Some(number)),
            None => Err(Self::out_of_range(key, number, &format!("at least {least}"))),
        }
    }

    fn float(&mut self, key: &str, allowed: &str, fits: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let number = match value {
            Value::Int(number) => *number as f64,
            Value::Float(number) => *number,
            other => return Err(Self::wrong(key, "a number", other)),
        };
        if !number.is_finite() || !fits(number) {
            let error = Self::out_of_range(key, number, allowed);
            let hint = "for the likeliest token at each step leave it out, and give `do_sample: false`";
            return Err(if SAMPLING.contains(&key) { error.hint(hint) } else { error });
        }
        Ok(Some(number))
    }

    /// One token id, or several.
    fn ids(&mut self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.0.get(key) else { return Ok(Vec::new()) };
        let id = |value: &Value| match value {
            Value::Int(number) => {
                u32::try_from(*number).map_err(|_| Self::out_of_range(key, number, "a token id, from 0"))
            }
            other => Err(Self::wrong(key, "a token id, or an array of them", other)),
        };
        match value {
            Value::List(values) => values.iter().map(id).collect(),
            one => Ok(vec![id(one)?]),
        }
    }

    /// One text, or several.
    fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.0.get(key) else { return Ok(Vec::new()) };
        let text = |value: &Value| match value.as_str() {
            Some("") => Err(Self::out_of_range(key, "\"\"", "a text that is not empty")),
            Some(text) => Ok(text.to_string()),
            None => Err(Self::wrong(key, "a text, or an array of texts", value)),
        };
        match value {
            Value::List(values) => values.iter().map(text).collect(),
            one => Ok(vec![text(one)?]),
        }
    }
}
