//! Text generation: prompts flow in as token ids, sequences flow out, one token at a time.
//!
//! Rows have their own lengths and end on their own; nothing is padded. With the cache each step looks at the new tokens
//! alone (`model::decoder`), without it at all of them (`model::encoder`): the tokens are the same. A draw is a function of
//! (seed, number of the sequence, number of the new token).

pub mod defaults;
pub mod scores;
mod settings;
mod stop;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::batch::{Batch, Features};
use crate::cancel;
use crate::error::{Error, Place, Result, What};
use crate::head::{Model, Output, packed};
use crate::model::decoder::{Cache, Decoder, Step};
use crate::tensor::rng::Rng;
use crate::tokenizer::{EncodeOptions, Tokenizer};

pub use settings::{Caller, GenerationSettings, KEYS, Limit, is_option};

/// A sequence that is being generated.
struct Sequence {
    tokens: Vec<u32>,
    n_prompt: usize,
    /// How many tokens it may have.
    longest: usize,
    /// Its number, for draws and messages.
    number: usize,
    done: bool,
}

/// The sequences of `prompts`, `num_return_sequences` for each, with their prompts. The first prompt has the number `first`.
///
/// # Errors
/// Prompts that are empty or too long, stop strings without a tokenizer, and what the task raises.
pub fn generate(
    model: &Model,
    prompts: &[Vec<u32>],
    settings: &GenerationSettings,
    tokenizer: Option<&Tokenizer>,
    first: usize,
) -> Result<Vec<Vec<u32>>> {
    if !settings.stop_strings.is_empty() && tokenizer.is_none() {
        return Err(Error::new(What::Conflict("`stop_strings` are texts, and there is no tokenizer".into()))
            .hint("give `tokenizer: tokenizer`"));
    }
    let copies = settings.num_return_sequences;
    let mut sequences = Vec::with_capacity(prompts.len() * copies);
    for (number, prompt) in prompts.iter().enumerate() {
        let started = started(prompt, settings).and_then(|tokens| {
            let longest = settings.length(tokens.len(), model.max_length())?;
            Ok((tokens, longest))
        });
        let (tokens, longest) = started.map_err(|error| match prompts.len() {
            1 => error,
            _ => error.at(Place::Within(format!("prompt {}", first + number))),
        })?;
        for copy in 0..copies {
            let number = (first + number) * copies + copy;
            let n_prompt = tokens.len();
            sequences.push(Sequence { tokens: tokens.clone(), n_prompt, longest, number, done: false });
        }
    }
    if settings.use_cache {
        with_cache(model, &mut sequences, settings, tokenizer)
    } else {
        plain(model, &mut sequences, settings, tokenizer)
    }?;
    Ok(sequences.into_iter().map(|sequence| sequence.tokens).collect())
}

/// A prompt's tokens; an empty one begins with the beginning of text.
fn started(prompt: &[u32], settings: &GenerationSettings) -> Result<Vec<u32>> {
    if !prompt.is_empty() {
        return Ok(prompt.to_vec());
    }
    match settings.bos_token_id {
        Some(id) => Ok(vec![id]),
        None => Err(Error::new(What::BadData("the prompt has no tokens".into()))
            .hint("give a text, or `bos_token_id` for what begins one")),
    }
}

fn with_cache(
    model: &Model,
    sequences: &mut [Sequence],
    settings: &GenerationSettings,
    tokenizer: Option<&Tokenizer>,
) -> Result<()> {
    let decoder = Decoder::new(model.encoder(), model.parameters(), model.family())?;
    let caches = sequences.iter().map(|sequence| decoder.cache(sequence.longest));
    let mut caches: Vec<Cache> = caches.collect::<Result<_>>()?;
    run(model, sequences, settings, tokenizer, |active| {
        let mut steps: Vec<Step<'_>> = Vec::with_capacity(active.len());
        let mut waiting = caches.iter_mut().enumerate();
        for (place, sequence) in active {
            let Some((_, cache)) = waiting.find(|(number, _)| number == place) else { continue };
            steps.push(Step { row: sequence.number, tokens: &sequence.tokens[cache.len()..], cache });
        }
        decoder.forward(&mut steps)
    })
}

fn plain(
    model: &Model,
    sequences: &mut [Sequence],
    settings: &GenerationSettings,
    tokenizer: Option<&Tokenizer>,
) -> Result<()> {
    run(model, sequences, settings, tokenizer, |active| {
        let rows: Vec<Features> = active.iter().map(|(_, sequence)| Features::of_tokens(&sequence.tokens, 0)).collect();
        let numbered: Vec<(usize, &Features)> =
            active.iter().zip(&rows).map(|((_, sequence), row)| (sequence.number, row)).collect();
        let batch = Batch::pack(&numbered, model.device())?;
        packed::last(&model.encoder().forward(&batch)?.detach(), &batch)
    })
}

/// Adds tokens until all sequences are done. `hidden` gives the last hidden state of those that are not, `(rows, hidden)`.
fn run(
    model: &Model,
    sequences: &mut [Sequence],
    settings: &GenerationSettings,
    tokenizer: Option<&Tokenizer>,
    mut hidden: impl FnMut(&[(usize, &Sequence)]) -> Result<Tensor>,
) -> Result<()> {
    loop {
        cancel::check()?;
        let active: Vec<(usize, &Sequence)> =
            sequences.iter().enumerate().filter(|(_, sequence)| !sequence.done).collect();
        if active.is_empty() {
            return Ok(());
        }
        let scores = next_scores(model, &hidden(&active)?, &active)?;
        let choose = |((_, sequence), mut scores): (&(usize, &Sequence), Vec<f32>)| {
            scores::process(&mut scores, &sequence.tokens, sequence.n_prompt, settings);
            if !settings.do_sample {
                return scores::best(&scores);
            }
            let step = (sequence.tokens.len() - sequence.n_prompt) as u64;
            scores::draw(&scores, Rng::new(settings.seed, "generate", step).uniform(sequence.number as u64))
        };
        let chosen: Vec<Result<u32>> = active.par_iter().zip(scores).map(choose).collect();
        let places: Vec<usize> = active.iter().map(|(place, _)| *place).collect();
        for (place, token) in places.into_iter().zip(chosen) {
            let sequence = &mut sequences[place];
            let token = token?;
            sequence.tokens.push(token);
            let stops = match tokenizer {
                Some(tokenizer) => stop::completes(&sequence.tokens, &settings.stop_strings, tokenizer)?,
                None => false,
            };
            sequence.done =
                stops || settings.eos_token_ids.contains(&token) || sequence.tokens.len() >= sequence.longest;
        }
    }
}

/// The scores of each sequence's next token, as the task's head gives them for its last hidden state.
fn next_scores(model: &Model, hidden: &Tensor, active: &[(usize, &Sequence)]) -> Result<Vec<Vec<f32>>> {
    let last = |sequence: &Sequence| {
        let place = sequence.tokens.len() - 1;
        Features::of_tokens(&sequence.tokens[place..], place as u32)
    };
    let rows: Vec<Features> = active.iter().map(|(_, sequence)| last(sequence)).collect();
    let numbered: Vec<(usize, &Features)> =
        active.iter().zip(&rows).map(|((_, sequence), row)| (sequence.number, row)).collect();
    let batch = Batch::pack(&numbered, model.device())?;
    match model.head_forward(hidden, &batch)? {
        Output::One(scores) if scores.dims() == [active.len(), model.encoder().config().vocab_size] => {
            Ok(scores.detach().to_dtype(DType::F32)?.to_vec2()?) // (rows, vocabulary)
        }
        _ => {
            let problem = format!("generating text with the task `{}`", model.task().name());
            let error = Error::new(What::Unsupported(problem));
            Err(error
                .hint("its `forward` has to give each token's scores over the vocabulary, as `std/tasks/causal_lm`"))
        }
    }
}

/// The tokens of a prompt's text.
///
/// # Errors
/// Text that the tokenizer cannot encode.
pub fn prompt_tokens(text: &str, settings: &GenerationSettings, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let options = EncodeOptions { add_special_tokens: settings.add_special_tokens, ..EncodeOptions::default() };
    Ok(tokenizer.encode(text, None, &options)?.input_ids)
}

/// The texts of `sequences`, `num_return_sequences` for each of `prompts`, with the prompts before them where the
/// settings say so.
///
/// # Errors
/// A decoder that fails.
pub fn texts(
    prompts: &[(&str, usize)],
    sequences: &[Vec<u32>],
    settings: &GenerationSettings,
    tokenizer: &Tokenizer,
) -> Result<Vec<String>> {
    let text = |(number, tokens): (usize, &Vec<u32>)| {
        let (prompt, n_prompt) = prompts[number / settings.num_return_sequences];
        let new = tokenizer.decode(&tokens[n_prompt..], settings.skip_special_tokens)?;
        Ok(if settings.return_full_text { format!("{prompt}{new}") } else { new })
    };
    sequences.iter().enumerate().map(text).collect()
}
