//! `model.generate(prompt, #{ ... })`: texts or token ids that a causal language model goes on with.

use indexmap::IndexMap;
use rhai::plugin::*;
use rhai::{Array, Map};

use crate::api::encoding::{ScriptEncoding, int_array};
use crate::api::options::Options;
use crate::api::session::Session;
use crate::data::Row;
use crate::error::{Error, Result, What};
use crate::head::Model;
use crate::head::generation::{self, Caller, GenerationSettings};
use crate::head::script::convert::{ScriptResult, raise, type_name};
use crate::tokenizer::Tokenizer;

/// Makes the methods known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(methods).into());
}

#[export_module]
mod methods {
    /// Goes on with a prompt, greedily and for 20 new tokens: see the form with options.
    ///
    /// ```rhai
    /// let model = GPT2LMHeadModel::from_config(#{ n_embd: 16, n_layer: 1, n_head: 2, vocab_size: 50, n_positions: 40 });
    /// let ids = model.generate([5, 6, 7]);
    /// expect(ids.len == 23 && ids.extract(0, 3) == [5, 6, 7], "the prompt and 20 new tokens");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn generate(context: NativeCallContext, model: &mut Model, prompt: Dynamic) -> ScriptResult<Dynamic> {
        super::generate(&Session::of(&context), model, &prompt, Map::new()).map_err(raise)
    }

    /// Goes on with a prompt: a text gives a text, token ids give token ids, an array of prompts an array.
    ///
    /// Options, with Hugging Face's names and defaults: `max_new_tokens` (20) or `max_length` (with the prompt), `min_new_tokens`, `min_length`,
    /// `do_sample` (false: the likeliest token at each step), and for draws `temperature` (1.0), `top_k` (50; 0 means all), `top_p` (1.0), `min_p`
    /// and `num_return_sequences` (an array of so many); `repetition_penalty`, `no_repeat_ngram_size`, `eos_token_id` (one or several), `bos_token_id`
    /// (what an empty prompt begins with), `stop_strings`, `seed`, `use_cache` (true: faster, with the same result). For texts also
    /// `return_full_text` (true: with the prompt), `skip_special_tokens` (true), `add_special_tokens` (true: of the prompt), and
    /// `tokenizer`, which is otherwise the one that the model was trained with, or that of the folder it was loaded
    /// from. What the model's generation_config.json says holds where no option is given.
    ///
    /// ```rhai
    /// let sizes = #{ n_embd: 16, n_layer: 1, n_head: 2, vocab_size: 8000, n_positions: 40 };
    /// let model = GPT2LMHeadModel::from_config(sizes);
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let drawn = #{ tokenizer: tokenizer, add_special_tokens: false, do_sample: true, seed: 7, max_new_tokens: 5 };
    /// let text = model.generate("a fine film", drawn);
    /// expect(text.starts_with("a fine film"), "the prompt comes first");
    /// expect(text == model.generate("a fine film", drawn), "the same seed, the same text");
    /// let several = model.generate([[5, 6], [7]], #{ do_sample: true, num_return_sequences: 2, max_length: 6 });
    /// expect(several.len == 4 && several.all(|ids| ids.len == 6), "two for each prompt, one after the other");
    /// ```
    #[rhai_fn(name = "generate", pure, return_raw)]
    pub fn generate_with(
        context: NativeCallContext,
        model: &mut Model,
        prompt: Dynamic,
        options: Map,
    ) -> ScriptResult<Dynamic> {
        super::generate(&Session::of(&context), model, &prompt, options).map_err(raise)
    }
}

/// What a script gives as prompts.
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    SeveralIds(Vec<Vec<u32>>),
}

fn generate(session: &Session, model: &Model, prompt: &Dynamic, options: Map) -> Result<Dynamic> {
    let mut options = Options::new("`generate`", options);
    let given = options.object::<Tokenizer>("tokenizer", "a tokenizer")?;
    let options = Row::new(options.rest()?.into_iter().collect::<IndexMap<_, _>>());
    let defaults = model.generation_config();
    let settings = GenerationSettings::read(&defaults, &[&options], Caller::Generate, session.seed())?;
    let (texts, one, ids) = match read(prompt)? {
        Prompts::Text(text) => (Some(vec![text]), true, Vec::new()),
        Prompts::Texts(texts) => (Some(texts), false, Vec::new()),
        Prompts::Ids(ids) => (None, true, vec![ids]),
        Prompts::SeveralIds(several) => (None, false, several),
    };
    let Some(texts) = texts else {
        let needs_texts = !settings.stop_strings.is_empty();
        let tokenizer = if given.is_none() && needs_texts { model.tokenizer()? } else { given };
        let sequences = generation::generate(model, &ids, &settings, tokenizer.as_ref(), 0)?;
        let values = sequences.iter().map(|ids| Dynamic::from_array(int_array(ids))).collect();
        return Ok(one_or_all(values, one && settings.num_return_sequences == 1));
    };
    let tokenizer = match given {
        Some(tokenizer) => tokenizer,
        None => model.tokenizer()?.ok_or_else(|| {
            let problem = "the prompt is a text, and the model has no tokenizer";
            Error::new(What::Conflict(problem.into())).hint("give `tokenizer: tokenizer`")
        })?,
    };
    let tokens = texts.iter().map(|text| generation::prompt_tokens(text, &settings, &tokenizer));
    let tokens = tokens.collect::<Result<Vec<_>>>()?;
    let sequences = generation::generate(model, &tokens, &settings, Some(&tokenizer), 0)?;
    let prompts: Vec<(&str, usize)> = texts.iter().zip(&tokens).map(|(text, ids)| (&**text, ids.len())).collect();
    let values = generation::texts(&prompts, &sequences, &settings, &tokenizer)?.into_iter().map(Dynamic::from);
    Ok(one_or_all(values.collect(), one && settings.num_return_sequences == 1))
}

fn one_or_all(mut values: Array, one: bool) -> Dynamic {
    if one { values.pop().unwrap_or_default() } else { Dynamic::from_array(values) }
}

fn read(prompt: &Dynamic) -> Result<Prompts> {
    let wrong = |got: &Dynamic| -> Error {
        let wanted = "a text, an array of token ids, what `tokenizer.encode` gives, or an array of these".into();
        What::WrongType { name: "the prompt of `generate`".into(), wanted, got: type_name(got) }.into()
    };
    if let Ok(text) = prompt.clone().into_string() {
        return Ok(Prompts::Text(text));
    }
    if let Some(ids) = ids_of(prompt) {
        return Ok(Prompts::Ids(ids));
    }
    let Ok(list) = prompt.as_array_ref() else { return Err(wrong(prompt)) };
    let texts: Option<Vec<String>> = list.iter().map(|item| item.clone().into_string().ok()).collect();
    if let Some(texts) = texts {
        return Ok(Prompts::Texts(texts));
    }
    let several = list.iter().map(|item| ids_of(item).ok_or_else(|| wrong(item)));
    several.collect::<Result<_>>().map(Prompts::SeveralIds)
}

/// Token ids: an array of them, an encoding, or a map with `input_ids`.
fn ids_of(value: &Dynamic) -> Option<Vec<u32>> {
    if let Some(encoding) = value.read_lock::<ScriptEncoding>() {
        return Some(encoding.encoding.input_ids.clone());
    }
    if let Some(map) = value.read_lock::<Map>() {
        return ids_of(map.get("input_ids")?);
    }
    let list = value.as_array_ref().ok()?;
    if list.is_empty() {
        return None;
    }
    list.iter().map(|id| id.as_int().ok().and_then(|id| u32::try_from(id).ok())).collect()
}
