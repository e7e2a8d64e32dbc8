//! Text to token ids and back, with the numbers Hugging Face's tokenizers give.
//!
//! A [`Folder`] flows in, a [`Tokenizer`] comes out: a cheap shared handle over the `tokenizers` crate plus what
//! `tokenizer_config.json` says. Reading files is `loading`'s story, truncation and windows `encoding`'s, saving
//! `saving`'s; padding does not exist here, because batches are packed.

mod encoding;
mod loading;
mod saving;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value as Json};
use tokenizers::{Decoder, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use crate::data::digest::digest;
use crate::data::durable;
use crate::data::files::Folder;
use crate::data::guard;
use crate::data::stages::{self, Key};
use crate::error::{Result, What};

pub use encoding::{EncodeOptions, Encoding, Input, Truncation, TruncationStrategy};

/// A tokenizer. Cheap to clone; all clones are the same tokenizer, and it may be used from many threads.
#[derive(Clone, Debug)]
pub struct Tokenizer(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    inner: tokenizers::Tokenizer,
    kind: Kind,
    /// `tokenizer_config.json` with the options on top.
    config: Map<String, Json>,
    special: Vec<(SpecialToken, String, Option<u32>)>,
    model_max_length: Option<usize>,
    truncation_side: tokenizers::TruncationDirection,
    uses_token_type_ids: bool,
    is_local: bool,
    has_told_of_glued_words: AtomicBool,
    fingerprint: OnceLock<String>,
}

/// What overrides `tokenizer_config.json`: Hugging Face's keyword arguments of `from_pretrained`.
#[derive(Clone, Debug, Default)]
pub struct TokenizerOptions {
    /// The most tokens a sequence may have when truncation is asked for without a length.
    pub model_max_length: Option<usize>,
    /// Whether text is lowercased (BERT's normalizer).
    pub do_lower_case: Option<bool>,
    /// Whether accents are stripped (BERT's normalizer); by default as `do_lower_case`.
    pub strip_accents: Option<bool>,
    /// Whether Chinese characters are tokens of their own (BERT's normalizer).
    pub tokenize_chinese_chars: Option<bool>,
    /// Whether a space is put before the first word (byte-level BPE); RoBERTa and GPT-2 need it for split words.
    pub add_prefix_space: Option<bool>,
    /// Which family the caller asked for, as `RobertaTokenizer::from_pretrained` does.
    pub kind: Option<Kind>,
    /// The folder came from a hub rather than from the local disk; only recorded in `tokenizer_config.json`.
    pub from_hub: bool,
}

/// The families of tokenizers whose rules are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WordPiece as in BERT and ELECTRA.
    Bert,
    /// WordPiece without token type ids.
    DistilBert,
    /// Byte-level BPE with `<s>` and `</s>`.
    Roberta,
    /// Byte-level BPE without special tokens around the text.
    Gpt2,
    /// Whatever `tokenizer.json` says.
    Other,
}

/// The named special tokens, in Hugging Face's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialToken {
    /// Beginning of text.
    Bos,
    /// End of text.
    Eos,
    /// What stands for a piece outside the vocabulary.
    Unk,
    /// Between and after sequences.
    Sep,
    /// Padding.
    Pad,
    /// The first token, whose hidden state stands for the sequence.
    Cls,
    /// What a masked language model fills in.
    Mask,
}

impl SpecialToken {
    /// All of them.
    pub const ALL: [SpecialToken; 7] = [
        SpecialToken::Bos,
        SpecialToken::Eos,
        SpecialToken::Unk,
        SpecialToken::Sep,
        SpecialToken::Pad,
        SpecialToken::Cls,
        SpecialToken::Mask,
    ];

    /// The key in `tokenizer_config.json`.
    pub fn key(self) -> &'static str {
        match self {
            SpecialToken::Bos => "bos_token",
            SpecialToken::Eos => "eos_token",
            SpecialToken::Unk => "unk_token",
            SpecialToken::Sep => "sep_token",
            SpecialToken::Pad => "pad_token",
            SpecialToken::Cls => "cls_token",
            SpecialToken::Mask => "mask_token",
        }
    }
}

impl Kind {
    fn of_class(class: &str) -> Option<Kind> {
        match class.strip_suffix("Fast").unwrap_or(class) {
            "BertTokenizer" | "ElectraTokenizer" => Some(Kind::Bert),
            "DistilBertTokenizer" => Some(Kind::DistilBert),
            "RobertaTokenizer" => Some(Kind::Roberta),
            "GPT2Tokenizer" => Some(Kind::Gpt2),
            _ => None,
        }
    }

    fn of_model_type(model_type: &str) -> Option<Kind> {
        match model_type {
            "bert" | "electra" => Some(Kind::Bert),
            "distilbert" => Some(Kind::DistilBert),
            "roberta" => Some(Kind::Roberta),
            "gpt2" => Some(Kind::Gpt2),
            _ => None,
        }
    }

    /// The class as Hugging Face names it.
    fn class(self) -> Option<&'static str> {
        match self {
            Kind::Bert => Some("BertTokenizer"),
            Kind::DistilBert => Some("DistilBertTokenizer"),
            Kind::Roberta => Some("RobertaTokenizer"),
            Kind::Gpt2 => Some("GPT2Tokenizer"),
            Kind::Other => None,
        }
    }

    /// The default special tokens of the class.
    fn special_tokens(self) -> &'static [(SpecialToken, &'static str)] {
        use SpecialToken::{Bos, Cls, Eos, Mask, Pad, Sep, Unk};
        match self {
            Kind::Bert | Kind::DistilBert => {
                &[(Unk, "[UNK]"), (Sep, "[SEP]"), (Pad, "[PAD]"), (Cls, "[CLS]"), (Mask, "[MASK]")]
            }
            Kind::Roberta => &[
                (Bos, "<s>"),
                (Eos, "</s>"),
                (Unk, "<unk>"),
                (Sep, "</s>"),
                (Pad, "<pad>"),
                (Cls, "<s>"),
                (Mask, "<mask>"),
            ],
            Kind::Gpt2 => &[(Bos, "<|endoftext|>"), (Eos, "<|endoftext|>"), (Unk, "<|endoftext|>")],
            Kind::Other => &[],
        }
    }
}

impl Tokenizer {
    /// Reads the tokenizer of a folder: `tokenizer.json`, else `vocab.txt`, else `vocab.json` with `merges.txt`.
    ///
    /// Padding and truncation stored in `tokenizer.json` are dropped: they do not impose themselves.
    ///
    /// # Errors
    /// No tokenizer files, or files that are broken or crafted; the error names the file and, for broken JSON, the
    /// line and column.
    pub fn from_folder(folder: &Folder, options: TokenizerOptions) -> Result<Tokenizer> {
        let key = || -> Result<Option<Key>> {
            let mut parts = vec![("options", format!("{options:?}"))];
            for file in loading::FILES {
                parts.push((file, folder.read(file)?.map(|bytes| digest(&bytes)).unwrap_or_default()));
            }
            Ok(Some(Key { stage: "tokenizer", about: folder.join("").display().to_string(), parts }))
        };
        stages::cached(key, || loading::load(folder, options.clone()))
    }

    /// The digest of everything that decides how text is encoded.
    pub fn fingerprint(&self) -> &str {
        self.0.fingerprint.get_or_init(|| {
            let inner = self.inner().to_string(false).unwrap_or_default();
            let said = (&self.0.kind, &self.0.config, self.0.model_max_length, self.0.uses_token_type_ids);
            digest(format!("{inner}{said:?}").as_bytes())
        })
    }

    fn inner(&self) -> &tokenizers::Tokenizer {
        &self.0.inner
    }

    /// The pieces `text` falls into, without special tokens.
    ///
    /// # Errors
    /// Text the tokenizer cannot encode, for example an unknown piece where it has no unknown token.
    pub fn tokenize(&self, text: &str) -> Result<Vec<String>> {
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let encoding = self.encode(text, None, &options)?;
        Ok(encoding.input_ids.iter().map(|&id| self.id_to_token(id).unwrap_or_default()).collect())
    }

    /// The text of `ids`; ids outside the vocabulary are left out, as in Hugging Face.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        guard::catch(|| self.inner().decode(ids, skip_special_tokens))
            .map_err(|problem| What::Malformed { format: "the tokenizer's decoder".into(), problem }.into())
    }

    /// The text that tokens make, special ones too: Hugging Face's `convert_tokens_to_string`.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn join(&self, tokens: Vec<String>) -> Result<String> {
        let Some(decoder) = self.inner().get_decoder() else { return Ok(tokens.join(" ")) };
        guard::catch(|| decoder.decode(tokens))
            .map_err(|problem| What::Malformed { format: "the tokenizer's decoder".into(), problem }.into())
    }

    /// What marks a piece that goes on with a word, such as `##`; none where pieces are not marked so.
    pub fn continuing_subword_prefix(&self) -> Option<&str> {
        let prefix = match self.inner().get_model() {
            ModelWrapper::WordPiece(model) => Some(model.continuing_subword_prefix.as_str()),
            ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_deref(),
            _ => None,
        };
        prefix.filter(|prefix| !prefix.is_empty())
    }

    /// The number of entries of the base vocabulary, without added tokens: Hugging Face's `vocab_size`.
    pub fn vocab_size(&self) -> usize {
        self.inner().get_vocab_size(false)
    }

    /// The number of entries with added tokens: Hugging Face's `len(tokenizer)`.
    pub fn len(&self) -> usize {
        self.inner().get_vocab_size(true)
    }

    /// Whether there is no vocabulary at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most tokens the model takes, where `tokenizer_config.json` or the options say so.
    pub fn model_max_length(&self) -> Option<usize> {
        self.0.model_max_length
    }

    /// The id of a token, where the vocabulary has it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner().token_to_id(token)
    }

    /// The token of an id, where the vocabulary has it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner().id_to_token(id)
    }

    /// The text of a named special token.
    pub fn special_token(&self, token: SpecialToken) -> Option<&str> {
        self.0.special.iter().find(|(name, ..)| *name == token).map(|(_, text, _)| text.as_str())
    }

    /// The id of a named special token.
    pub fn special_id(&self, token: SpecialToken) -> Option<u32> {
        self.0.special.iter().find(|(name, ..)| *name == token).and_then(|(.., id)| *id)
    }

    /// The ids of all special tokens, sorted: masked language models never mask them.
    pub fn special_ids(&self) -> Vec<u32> {
        let added = self.inner().get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        ids.extend(self.0.special.iter().filter_map(|(.., id)| *id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The id of the token a sequence begins with, if any.
    pub fn cls_id(&self) -> Option<u32> {
        self.special_id(SpecialToken::Cls)
    }

    /// The id of the separator.
    pub fn sep_id(&self) -> Option<u32> {
        self.special_id(SpecialToken::Sep)
    }

    /// The id of the padding token.
    pub fn pad_id(&self) -> Option<u32> {
        self.special_id(SpecialToken::Pad)
    }

    /// The id of the mask token.
    pub fn mask_id(&self) -> Option<u32> {
        self.special_id(SpecialToken::Mask)
    }

    /// The id of the unknown token.
    pub fn unk_id(&self) -> Option<u32> {
        self.special_id(SpecialToken::Unk)
    }

    /// The id of the beginning of text.
    pub fn bos_id(&self) -> Option<u32> {
        self.special_id(SpecialToken::Bos)
    }

    /// The id of the end of text.
    pub fn eos_id(&self) -> Option<u32> {
        self.special_id(SpecialToken::Eos)
    }

    /// Whether models of this family read token type ids; DistilBERT, RoBERTa and GPT-2 do not.
    pub fn uses_token_type_ids(&self) -> bool {
        self.0.uses_token_type_ids
    }

    /// Whether split words come out glued together because this byte-level BPE was loaded without
    /// `add_prefix_space: true`: worth a warning wherever words are encoded.
    pub fn glues_split_words(&self) -> bool {
        byte_level(self.inner().get_pre_tokenizer()).is_some_and(|adds_prefix_space| !adds_prefix_space)
    }

    /// Whether split words come out glued together and nobody was told yet; true at most once for a tokenizer.
    pub fn must_tell_of_glued_words(&self) -> bool {
        self.glues_split_words() && !self.0.has_told_of_glued_words.swap(true, Ordering::Relaxed)
    }

    /// How many special tokens surround a sequence, or a pair of them.
    pub fn n_special_tokens(&self, is_pair: bool) -> usize {
        use tokenizers::PostProcessor;
        self.inner().get_post_processor().map_or(0, |processor: &PostProcessorWrapper| processor.added_tokens(is_pair))
    }

    /// The files of `save_pretrained`, by name: `tokenizer.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// A tokenizer that cannot be written as JSON.
    pub fn save_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        saving::files(&self.0)
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn save_pretrained(&self, folder: &std::path::Path) -> Result<()> {
        for (name, bytes) in self.save_files()? {
            durable::write_file(&folder.join(name), &bytes)?;
        }
        Ok(())
    }
}

/// Whether a byte-level pre-tokenizer adds a space before the first word; `None` where there is none.
fn byte_level(pre_tokenizer: Option<&PreTokenizerWrapper>) -> Option<bool> {
    match pre_tokenizer? {
        PreTokenizerWrapper::ByteLevel(byte_level) => Some(byte_level.add_prefix_space),
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref().iter().find_map(|part| byte_level(Some(part))),
        _ => None,
    }
}
