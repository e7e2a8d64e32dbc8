//! Encoding: from text or words to ids, with truncation, windows and post-processing.
//!
//! Truncation is an argument of each call and never a setting of the shared tokenizer, so that many threads
//! may encode with different lengths at once. The steps are those of the `tokenizers` crate, in its order:
//! normalize, split, look up, truncate each sequence, add special tokens. Offsets count characters (Unicode
//! code points) of the original text, as in Python.

use rayon::prelude::*;
use tokenizers::utils::truncation::{TruncationError, TruncationParams, truncate_encodings};
use tokenizers::{Model, OffsetType, PreTokenizer};

use super::{Tokenizer, guard};
use crate::cancel::meter;
use crate::error::{Error, Place, Result, What};

/// What one call of [`Tokenizer::encode`] may be told.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    /// Whether special tokens such as `[CLS]` and `[SEP]` are added.
    pub add_special_tokens: bool,
    /// How far the input is cut; `None` keeps it whole.
    pub truncation: Option<Truncation>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        EncodeOptions { add_special_tokens: true, truncation: None }
    }
}

impl EncodeOptions {
    /// Cuts to `max_length` tokens from the longer sequence first: `truncation=True` in Hugging Face.
    pub fn truncated(max_length: usize) -> Self {
        EncodeOptions { truncation: Some(Truncation::new(max_length)), ..EncodeOptions::default() }
    }
}

/// How an input is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Which sequence gives way.
    pub strategy: TruncationStrategy,
    /// The most tokens of the result, special tokens included.
    pub max_length: usize,
    /// How many tokens a window shares with the one before it.
    pub stride: usize,
    /// Whether what was cut off comes back as further windows.
    pub return_overflowing: bool,
}

impl Truncation {
    /// Cuts to `max_length` tokens from the longer sequence first, without windows.
    pub fn new(max_length: usize) -> Self {
        let strategy = TruncationStrategy::LongestFirst;
        Truncation { strategy, max_length, stride: 0, return_overflowing: false }
    }
}

/// Which sequence of a pair gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruncationStrategy {
    /// The longer one, until both are equally long, then both.
    LongestFirst,
    /// The first one.
    OnlyFirst,
    /// The second one.
    OnlySecond,
}

/// One side of an input.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Plain text.
    Text(&'a str),
    /// Words that were split before: word ids are their indices, offsets lie within each word.
    Words(&'a [&'a str]),
}

/// What a text became. All lists have one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The ids of the tokens.
    pub input_ids: Vec<u32>,
    /// 0 for the first sequence, 1 for the second where the family tells them apart.
    pub token_type_ids: Vec<u32>,
    /// 1 throughout, since nothing is padded.
    pub attention_mask: Vec<u32>,
    /// 1 for tokens that were added around the text.
    pub special_tokens_mask: Vec<u32>,
    /// Start and end of the token in the text (or in the word), in characters.
    pub offsets: Vec<(usize, usize)>,
    /// The word a token belongs to; none for special tokens.
    pub word_ids: Vec<Option<u32>>,
    /// The sequence a token belongs to, 0 or 1; none for special tokens.
    pub sequence_ids: Vec<Option<usize>>,
    /// The windows after the first, where they were asked for.
    pub overflowing: Vec<Encoding>,
    /// Whether anything was cut off.
    pub truncated: bool,
}

impl Encoding {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }
}

type Raw = tokenizers::Encoding;

impl Tokenizer {
    /// Encodes a text, or a pair of texts.
    ///
    /// # Errors
    /// Truncation that cannot be done as asked, or text that the tokenizer cannot encode.
    pub fn encode(&self, text: &str, pair: Option<&str>, options: &EncodeOptions) -> Result<Encoding> {
        self.encode_input(Input::Text(text), pair.map(Input::Text), options)
    }

    /// Encodes words that were split before, or a pair of such lists.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_words(&self, words: &[&str], pair: Option<&[&str]>, options: &EncodeOptions) -> Result<Encoding> {
        self.encode_input(Input::Words(words), pair.map(Input::Words), options)
    }

    /// Encodes many inputs in parallel; the results are those of encoding one by one.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], with the row of the first input that failed.
    pub fn encode_batch(
        &self,
        inputs: &[(Input<'_>, Option<Input<'_>>)],
        options: &EncodeOptions,
    ) -> Result<Vec<Encoding>> {
        let encodings: Vec<Result<Encoding>> =
            inputs.par_iter().map(|&(first, second)| self.encode_input(first, second, options)).collect();
        let placed = encodings.into_iter().enumerate();
        placed.map(|(row, encoding)| encoding.map_err(|error| error.at(Place::Row(row)))).collect()
    }

    /// Encodes one input, each side of which is text or words.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_input(
        &self,
        first: Input<'_>,
        second: Option<Input<'_>>,
        options: &EncodeOptions,
    ) -> Result<Encoding> {
        meter::note_work();
        let raw = |input, type_id| {
            guard::catch(|| self.raw(input, type_id))
                .map_err(|problem| Error::new(What::Malformed { format: "the tokenizer".into(), problem }))
        };
        let mut first = raw(first, 0)?;
        let mut second = second.map(|second| raw(second, 1)).transpose()?;
        if let Some(truncation) = &options.truncation {
            (first, second) = self.truncate(first, second, truncation, options.add_special_tokens)?;
        }
        let encoding = guard::catch(|| self.inner().post_process(first, second, options.add_special_tokens))
            .map_err(|problem| What::Malformed { format: "the tokenizer's post-processor".into(), problem })?;
        let keep_windows = options.truncation.is_some_and(|truncation| truncation.return_overflowing);
        Ok(convert(encoding, keep_windows))
    }

    /// One side, before truncation and special tokens.
    fn raw(&self, input: Input<'_>, type_id: u32) -> tokenizers::Result<Raw> {
        match input {
            Input::Text(text) => self.raw_text(text, None, type_id),
            Input::Words(words) => {
                let numbered = (0u32..).zip(words);
                numbered.map(|(word_idx, word)| self.raw_text(word, Some(word_idx), type_id)).collect()
            }
        }
    }

    fn raw_text(&self, text: &str, word_idx: Option<u32>, type_id: u32) -> tokenizers::Result<Raw> {
        let inner = self.inner();
        let mut pieces = inner.get_added_vocabulary().extract_and_normalize(inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| inner.get_model().tokenize(piece.get()))?;
        pieces.into_encoding(word_idx, type_id, OffsetType::Char)
    }

    fn truncate(
        &self,
        first: Raw,
        second: Option<Raw>,
        truncation: &Truncation,
        add_special_tokens: bool,
    ) -> Result<(Raw, Option<Raw>)> {
        if truncation.strategy == TruncationStrategy::OnlySecond && second.is_none() {
            let problem = "`truncation: \"only_second\"` needs a second sequence";
            return Err(Error::new(What::Conflict(problem.into())).hint("pass `text_pair`, or use `truncation: true`"));
        }
        let n_special = if add_special_tokens { self.n_special_tokens(second.is_some()) } else { 0 };
        let refuse = |name: &str, value: usize, allowed: String| {
            Error::new(What::OutOfRange { name: format!("`{name}`"), value: value.to_string(), allowed })
        };
        let Some(budget) = truncation.max_length.checked_sub(n_special) else {
            let allowed = format!("at least {n_special}, the special tokens of the input");
            return Err(refuse("max_length", truncation.max_length, allowed));
        };
        if truncation.stride > 0 && truncation.stride >= budget {
            let allowed = format!("less than {budget}, what `max_length` leaves after {n_special} special tokens");
            return Err(refuse("stride", truncation.stride, allowed));
        }
        let strategy = match truncation.strategy {
            TruncationStrategy::LongestFirst => tokenizers::TruncationStrategy::LongestFirst,
            TruncationStrategy::OnlyFirst => tokenizers::TruncationStrategy::OnlyFirst,
            TruncationStrategy::OnlySecond => tokenizers::TruncationStrategy::OnlySecond,
        };
        let direction = self.0.truncation_side;
        let params = TruncationParams { direction, max_length: budget, strategy, stride: truncation.stride };
        let outcome = guard::catch(|| {
            truncate_encodings(first, second, &params)
                .map_or_else(|error| error.downcast::<TruncationError>().map(|known| Err(*known)), |pair| Ok(Ok(pair)))
        });
        match outcome {
            Ok(Ok(pair)) => Ok(pair),
            Ok(Err(_)) => {
                let other = if truncation.strategy == TruncationStrategy::OnlyFirst { "second" } else { "first" };
                let problem = format!("the {other} sequence alone fills `max_length` {}", truncation.max_length);
                Err(Error::new(What::BadData(problem))
                    .hint("use `truncation: true`, which cuts the longer one, or a larger `max_length`"))
            }
            // The crate panics where the stride does not fit the window that is left for one sequence of a pair.
            Err(_) => Err(refuse("stride", truncation.stride, "less than what is kept of the cut sequence".into())),
        }
    }
}

fn convert(mut raw: Raw, keep_windows: bool) -> Encoding {
    let windows = raw.take_overflowing();
    Encoding {
        truncated: !windows.is_empty(),
        overflowing: if keep_windows {
            windows.into_iter().map(|window| Encoding { truncated: true, ..convert(window, false) }).collect()
        } else {
            Vec::new()
        },
        input_ids: raw.get_ids().to_vec(),
        token_type_ids: raw.get_type_ids().to_vec(),
        attention_mask: raw.get_attention_mask().to_vec(),
        special_tokens_mask: raw.get_special_tokens_mask().to_vec(),
        offsets: raw.get_offsets().to_vec(),
        word_ids: raw.get_word_ids().to_vec(),
        sequence_ids: raw.get_sequence_ids(),
    }
}
