//! `Encoding`: what `tokenizer.encode` gives to a script, with Hugging Face's property names.

use rhai::plugin::*;
use rhai::{Array, Map};

use crate::tokenizer::{Encoding, Tokenizer};

/// What `tokenizer.encode` gives to a script: the encoding, and the tokenizer that knows its tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ScriptEncoding {
    /// The tokenizer that made it.
    pub tokenizer: Tokenizer,
    /// The numbers.
    pub encoding: std::sync::Arc<Encoding>,
}

impl ScriptEncoding {
    pub(super) fn new(tokenizer: &Tokenizer, encoding: Encoding) -> Self {
        ScriptEncoding { tokenizer: tokenizer.clone(), encoding: encoding.into() }
    }

    /// The columns that a model reads: `input_ids`, `attention_mask`, and `token_type_ids` where the family has them.
    pub fn columns(&self) -> Vec<(&'static str, &[u32])> {
        let mut columns = vec![("input_ids", &self.encoding.input_ids[..])];
        if self.tokenizer.uses_token_type_ids() {
            columns.push(("token_type_ids", &self.encoding.token_type_ids));
        }
        columns.push(("attention_mask", &self.encoding.attention_mask));
        columns
    }
}

/// Makes the type known to an engine.
pub(super) fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<ScriptEncoding>("Encoding");
    engine.register_global_module(exported_module!(encoding_functions).into());
}

pub(super) fn optional_int(number: Option<impl Into<i64>>) -> Dynamic {
    number.map_or(Dynamic::UNIT, |number| Dynamic::from(number.into()))
}

pub(super) fn int_array(numbers: &[u32]) -> Array {
    numbers.iter().map(|&number| Dynamic::from(i64::from(number))).collect()
}

pub(super) fn texts(values: impl Iterator<Item = Option<String>>) -> Array {
    values.map(|text| text.map_or(Dynamic::UNIT, Dynamic::from)).collect()
}

/// Functions and properties of `Encoding`.
#[export_module]
mod encoding_functions {
    /// The ids of the tokens.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a fine film");
    /// expect(encoding.input_ids[0] == tokenizer.cls_token_id, "it begins with [CLS]");
    /// ```
    #[rhai_fn(global, pure, get = "input_ids")]
    pub fn input_ids(encoding: &mut ScriptEncoding) -> Array {
        int_array(&encoding.encoding.input_ids)
    }

    /// 0 for the first sequence and 1 for the second, where the family tells them apart.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("one", #{ text_pair: "two" });
    /// expect(encoding.token_type_ids[-1] == 1, "the second text");
    /// ```
    #[rhai_fn(global, pure, get = "token_type_ids")]
    pub fn token_type_ids(encoding: &mut ScriptEncoding) -> Array {
        int_array(&encoding.encoding.token_type_ids)
    }

    /// 1 for every token: nothing is padded.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a fine film");
    /// expect(encoding.attention_mask.all(|flag| flag == 1), "nothing is padded");
    /// ```
    #[rhai_fn(global, pure, get = "attention_mask")]
    pub fn attention_mask(encoding: &mut ScriptEncoding) -> Array {
        int_array(&encoding.encoding.attention_mask)
    }

    /// 1 for tokens that were added around the text, else 0.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a fine film");
    /// expect(encoding.special_tokens_mask[0] == 1 && encoding.special_tokens_mask[1] == 0, "[CLS], then text");
    /// ```
    #[rhai_fn(global, pure, get = "special_tokens_mask")]
    pub fn special_tokens_mask(encoding: &mut ScriptEncoding) -> Array {
        int_array(&encoding.encoding.special_tokens_mask)
    }

    /// Start and end of each token in the text, in characters; `[0, 0]` for special tokens.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a fine film");
    /// expect(encoding.offsets[1] == [0, 1], "from the first character to the second");
    /// ```
    #[rhai_fn(global, pure, get = "offsets")]
    pub fn offsets(encoding: &mut ScriptEncoding) -> Array {
        let pair = |&(start, end): &(usize, usize)| {
            Dynamic::from_array(vec![Dynamic::from(start as i64), Dynamic::from(end as i64)])
        };
        encoding.encoding.offsets.iter().map(pair).collect()
    }

    /// The word each token belongs to; `()` for special tokens.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a fine film");
    /// expect(encoding.word_ids[0] == () && encoding.word_ids[1] == 0, "special tokens belong to no word");
    /// ```
    #[rhai_fn(global, pure, get = "word_ids")]
    pub fn word_ids(encoding: &mut ScriptEncoding) -> Array {
        encoding.encoding.word_ids.iter().map(|&word| optional_int(word)).collect()
    }

    /// The sequence each token belongs to, 0 or 1; `()` for special tokens.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("one", #{ text_pair: "two" });
    /// expect(encoding.sequence_ids[1] == 0 && encoding.sequence_ids[-2] == 1, "the first text and the second");
    /// ```
    #[rhai_fn(global, pure, get = "sequence_ids")]
    pub fn sequence_ids(encoding: &mut ScriptEncoding) -> Array {
        encoding.encoding.sequence_ids.iter().map(|id| optional_int(id.map(|id| id as i64))).collect()
    }

    /// The tokens as text.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a fine film");
    /// expect(encoding.tokens[0] == "[CLS]", "the tokens as text");
    /// ```
    #[rhai_fn(global, pure, get = "tokens")]
    pub fn tokens(encoding: &mut ScriptEncoding) -> Array {
        texts(encoding.encoding.input_ids.iter().map(|&id| encoding.tokenizer.id_to_token(id)))
    }

    /// The windows after the first, where `return_overflowing_tokens: true` asked for them.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a film about a film about a film", #{
    ///     truncation: true, max_length: 6, stride: 1, return_overflowing_tokens: true,
    /// });
    /// expect(encoding.overflowing.len() == 2, "eight words in windows of four that share one");
    /// ```
    #[rhai_fn(global, pure, get = "overflowing")]
    pub fn overflowing(encoding: &mut ScriptEncoding) -> Array {
        let window = |window: &Encoding| Dynamic::from(ScriptEncoding::new(&encoding.tokenizer, window.clone()));
        encoding.encoding.overflowing.iter().map(window).collect()
    }

    /// Whether anything was cut off.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode("a very fine film", #{ truncation: true, max_length: 4 });
    /// expect(encoding.truncated, "it had to be cut");
    /// ```
    #[rhai_fn(global, pure, get = "truncated")]
    pub fn truncated(encoding: &mut ScriptEncoding) -> bool {
        encoding.encoding.truncated
    }

    /// The columns that a model reads, as a map: `input_ids`, `attention_mask`, and `token_type_ids` where the family has them.
    ///
    /// # Example
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let row = tokenizer.encode("a film").to_map();
    /// expect(row.keys() == ["attention_mask", "input_ids", "token_type_ids"], "what BERT reads");
    /// ```
    #[rhai_fn(global, pure)]
    pub fn to_map(encoding: &mut ScriptEncoding) -> Map {
        let column = |(name, numbers): (&str, &[u32])| (name.into(), Dynamic::from_array(int_array(numbers)));
        encoding.columns().into_iter().map(column).collect()
    }

    /// The number of tokens.
    ///
    /// # Example
    /// ```rhai
    /// expect(AutoTokenizer::from_pretrained("std/minilm-tiny").encode("a film").len() == 4, "with [CLS] and [SEP]");
    /// ```
    #[rhai_fn(global, pure)]
    pub fn len(encoding: &mut ScriptEncoding) -> i64 {
        encoding.encoding.len() as i64
    }

    /// A short description, for `print`.
    ///
    /// ```rhai
    /// print(AutoTokenizer::from_pretrained("std/minilm-tiny").encode("a fine film").to_string());
    /// ```
    #[rhai_fn(global, pure, name = "to_string", name = "to_debug")]
    pub fn describe(encoding: &mut ScriptEncoding) -> String {
        format!("Encoding({} tokens)", encoding.encoding.len())
    }
}
