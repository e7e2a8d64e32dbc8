//! Model families: what differs between BERT and its relatives, as data.
//!
//! One [`Family`] a file. The encoder is the same for all; a family says how its configuration is read, what its
//! parameters are called, and what its heads look like. `sequence_head` and `masked_lm_head` are handed to the task scripts.

use serde_json::{Map, Value};

use crate::error::{Error, Result, What, nearest};
use crate::model::config::ModelConfig;
use crate::model::layers::Stored;
use crate::model::{bert, distilbert, electra, gpt2, roberta};
use crate::tensor::ops::Activation;

/// A model family.
#[derive(Debug)]
pub struct Family {
    /// `model_type` of config.json.
    pub model_type: &'static str,
    /// What class names begin with: `Bert` of `BertForSequenceClassification`.
    pub class_prefix: &'static str,
    /// The name of the encoder within a model with a head: `bert`.
    pub prefix: &'static str,
    /// The first parts of the names that belong to the encoder: `embeddings`, `encoder`, `pooler`.
    pub base_parts: &'static [&'static str],
    /// What the encoder's parameters are called, below the prefix.
    pub names: EncoderNames,
    /// Ends of the names of stored tensors that are no parameters.
    pub buffers: &'static [&'static str],
    /// Reads the configuration.
    pub encoder_config: fn(&ModelConfig) -> Result<EncoderConfig>,
    /// The keys that Hugging Face writes for this family, with its defaults.
    pub config_defaults: fn() -> Map<String, Value>,
    /// The classification head.
    pub sequence_head: fn(&ModelConfig) -> Result<SequenceHead>,
    /// The drop probability before a token-level classifier.
    pub head_dropout: fn(&ModelConfig) -> Result<f64>,
    /// The drop probability before the scores of an answer's ends.
    pub qa_dropout: fn(&ModelConfig) -> Result<f64>,
    /// The masked-language-model head, where the family has one.
    pub masked_lm_head: Option<MaskedLmHead>,
    /// The class of its causal language model, where the family has one.
    pub causal_lm_class: Option<&'static str>,
    /// Names of the checkpoint that are copies of tied tensors, where `tie_word_embeddings` holds.
    pub copies: &'static [&'static str],
}

/// What the encoder is made of, the same words for all families.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Entries of the token table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Number of attention heads.
    pub n_heads: usize,
    /// Width between the two feed-forward products.
    pub intermediate_size: usize,
    /// The token whose entry gets no gradient from being looked up: PyTorch's `padding_idx`.
    pub padding_idx: Option<u32>,
    /// Entries of the position table.
    pub max_positions: usize,
    /// Added to every position before it is looked up: RoBERTa counts from behind its padding index.
    pub position_offset: u32,
    /// Width of the embedding tables; where it is not the hidden size, a projection follows them.
    pub embedding_size: usize,
    /// Entries of the segment table; 0 means the family has none.
    pub n_token_types: usize,
    /// Whether segments, where a row has them, are looked up in the token table: GPT-2's way.
    pub token_types_are_tokens: bool,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// Between the two feed-forward products.
    pub activation: Activation,
    /// Drop probability of embeddings.
    pub embedding_dropout: f64,
    /// Drop probability of both outputs of a layer.
    pub hidden_dropout: f64,
    /// Drop probability of attention probabilities.
    pub attention_dropout: f64,
    /// Standard deviation of new matrices.
    pub initializer_range: f64,
    /// Standard deviation of new matrices that end a part of a layer.
    pub residual_range: f64,
    /// Where the layer norms stand.
    pub norms: Norms,
    /// Whether a token sees only itself and those before it.
    pub is_causal: bool,
    /// Whether attention scores are divided by the square root of a head's width.
    pub scales_scores: bool,
    /// Whether attention scores are divided by the number of the layer, counted from 1.
    pub scales_scores_by_layer: bool,
}

/// Where the layer norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Behind each residual sum: BERT.
    After,
    /// Before each part, and once more behind the last layer: GPT-2.
    Before,
}

impl EncoderConfig {
    /// The longest row in tokens: the entries of the position table that can be looked up.
    pub fn max_length(&self) -> usize {
        self.max_positions.saturating_sub(self.position_offset as usize)
    }
}

/// What the encoder's parameters are called; `{}` stands for the layer's number.
#[derive(Clone, Copy, Debug)]
pub struct EncoderNames {
    /// Token table.
    pub word: &'static str,
    /// Position table.
    pub position: &'static str,
    /// Segment table.
    pub token_type: &'static str,
    /// Layer norm of the embeddings, where there is one.
    pub embedding_norm: Option<&'static str>,
    /// Projection from the embedding size to the hidden size, where they differ.
    pub embedding_projection: &'static str,
    /// Query projection.
    pub query: &'static str,
    /// Key projection.
    pub key: &'static str,
    /// Value projection.
    pub value: &'static str,
    /// Query, key and value in one product, in place of the three.
    pub query_key_value: Option<&'static str>,
    /// Projection of the attention's output.
    pub attention_output: &'static str,
    /// Layer norm after attention.
    pub attention_norm: &'static str,
    /// First feed-forward product.
    pub intermediate: &'static str,
    /// Second feed-forward product.
    pub output: &'static str,
    /// Layer norm after the feed-forward part.
    pub output_norm: &'static str,
    /// Layer norm behind the last layer, where there is one.
    pub final_norm: Option<&'static str>,
    /// How the matrices of the layers are stored.
    pub stored: Stored,
}

/// A classification head: a token's vector, perhaps through one dense layer, to the labels.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceHead {
    /// Which token: `first` or `last`.
    pub token: &'static str,
    /// Whether dropout also comes before the dense layer.
    pub dropout_first: bool,
    /// The dense layer's full name, where there is one.
    pub dense: Option<&'static str>,
    /// The activation after the dense layer.
    pub activation: &'static str,
    /// The drop probability before the last layer.
    pub dropout: f64,
    /// The last layer's name.
    pub out: &'static str,
    /// Whether the last layer has a bias.
    pub out_bias: bool,
}

/// A masked-language-model head: dense (to the width of the token table), activation, layer norm, then the token table as
/// last layer with a bias of its own, or a matrix of its own where `tie_word_embeddings` is false.
#[derive(Clone, Copy, Debug)]
pub struct MaskedLmHead {
    /// The dense layer's full name.
    pub dense: &'static str,
    /// The layer norm's full name.
    pub norm: &'static str,
    /// The key of the configuration that names the activation, or the activation itself after a colon.
    pub activation: &'static str,
    /// The last layer's bias.
    pub bias: &'static str,
    /// The last layer's name, where it is a layer of its own.
    pub decoder: &'static str,
}

/// What follows `AutoModel` in the name of the class of causal language models.
pub const CAUSAL_LM: &str = "ForCausalLM";

static FAMILIES: [&Family; 6] =
    [&bert::BERT, &roberta::ROBERTA, &roberta::XLM_ROBERTA, &distilbert::DISTILBERT, &electra::ELECTRA, &gpt2::GPT2];

/// The family of a configuration.
///
/// # Errors
/// A configuration without `model_type`, or a family that is not supported.
pub fn of(config: &ModelConfig) -> Result<&'static Family> {
    let name = config.string_or("model_type", "")?;
    if let Some(family) = FAMILIES.iter().find(|family| family.model_type == name) {
        return Ok(family);
    }
    let known: Vec<_> = FAMILIES.iter().map(|family| family.model_type).collect();
    let listed = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if name.is_empty() {
        let error =
            Error::new(What::Malformed { format: "config.json".into(), problem: "it has no `model_type`".into() });
        return Err(error.hint(format!("the families that can be loaded are {listed}")));
    }
    let error = Error::new(What::Unsupported(format!("the model family `{name}`")));
    Err(match nearest(&name, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`? supported: {listed}")),
        None => error.hint(format!("the families that can be loaded are {listed}")),
    })
}

/// The family of a class name's beginning, for example of `BertForSequenceClassification`.
pub fn all() -> &'static [&'static Family] {
    &FAMILIES
}

impl Family {
    /// The name of a checkpoint's tensor in the model with a head, or `None` for buffers and copies that are not parameters.
    /// `prefixed` says whether the checkpoint was saved with a head.
    pub fn canonical_name(&self, stored: &str, prefixed: bool) -> Option<String> {
        let mut name = stored.to_string();
        // Checkpoints from TensorFlow days call the two vectors of a layer norm gamma and beta.
        if let Some(start) = name.strip_suffix(".gamma") {
            name = format!("{start}.weight");
        } else if let Some(start) = name.strip_suffix(".beta") {
            name = format!("{start}.bias");
        }
        let first = name.split('.').next().unwrap_or_default();
        if !prefixed && self.base_parts.contains(&first) {
            name = format!("{}.{name}", self.prefix);
        }
        if name.ends_with(".position_ids") || self.buffers.iter().any(|end| name.ends_with(end)) {
            return None;
        }
        Some(name)
    }

    /// The class of this family's models that ends in `suffix`, for example `BertForSequenceClassification`.
    pub fn class_name(&self, suffix: &str) -> String {
        match self.causal_lm_class {
            Some(name) if suffix == CAUSAL_LM => name.to_string(),
            _ => format!("{}{suffix}", self.class_prefix),
        }
    }

    /// Whether a parameter belongs to the encoder, which a checkpoint must have in full.
    pub fn is_encoder(&self, name: &str) -> bool {
        let inner = name.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('.'));
        inner.is_some_and(|inner| !inner.starts_with("pooler"))
    }
}
