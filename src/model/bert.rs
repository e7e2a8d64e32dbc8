//! BERT (Devlin et al. 2019): names, configuration and heads as Hugging Face has them.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result, What};
use crate::model::config::ModelConfig;
use crate::model::family::{EncoderConfig, EncoderNames, Family, MaskedLmHead, Norms, SequenceHead};
use crate::model::layers::Stored;
use crate::tensor::ops::Activation;

/// The BERT family.
pub static BERT: Family = Family {
    model_type: "bert",
    class_prefix: "Bert",
    prefix: "bert",
    base_parts: &["embeddings", "encoder", "pooler"],
    names: NAMES,
    buffers: &[],
    encoder_config,
    config_defaults,
    sequence_head,
    head_dropout,
    qa_dropout: no_dropout,
    masked_lm_head: Some(MaskedLmHead {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        activation: "hidden_act",
        bias: "cls.predictions.bias",
        decoder: "cls.predictions.decoder",
    }),
    causal_lm_class: None,
    copies: &["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
};

/// What BERT calls its parameters; its closer relatives do too.
pub(super) const NAMES: EncoderNames = EncoderNames {
    word: "embeddings.word_embeddings",
    position: "embeddings.position_embeddings",
    token_type: "embeddings.token_type_embeddings",
    embedding_norm: Some("embeddings.LayerNorm"),
    embedding_projection: "embeddings_project",
    query: "encoder.layer.{}.attention.self.query",
    key: "encoder.layer.{}.attention.self.key",
    value: "encoder.layer.{}.attention.self.value",
    query_key_value: None,
    attention_output: "encoder.layer.{}.attention.output.dense",
    attention_norm: "encoder.layer.{}.attention.output.LayerNorm",
    intermediate: "encoder.layer.{}.intermediate.dense",
    output: "encoder.layer.{}.output.dense",
    output_norm: "encoder.layer.{}.output.LayerNorm",
    final_norm: None,
    stored: Stored::OutIn,
};

/// The sizes of BERT and of the families that share its configuration's keys.
///
/// # Errors
/// Sizes that are missing, and variants that would be computed differently: relative positions, decoders.
pub(super) fn encoder_config(config: &ModelConfig) -> Result<EncoderConfig> {
    let positions = config.string_or("position_embedding_type", "absolute")?;
    if positions != "absolute" {
        return Err(What::Unsupported(format!("`position_embedding_type: {positions:?}` of config.json")).into());
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if config.bool_or(key, false)? {
            let error = Error::new(What::Unsupported(format!("`{key}: true` of config.json")));
            return Err(error.hint("this family is an encoder here; the decoder that can be trained is `gpt2`"));
        }
    }
    Ok(EncoderConfig {
        vocab_size: config.count("vocab_size", 1)?,
        hidden_size: config.count("hidden_size", 1)?,
        n_layers: config.count("num_hidden_layers", 0)?,
        n_heads: config.count("num_attention_heads", 1)?,
        intermediate_size: config.count("intermediate_size", 1)?,
        padding_idx: config.token_id("pad_token_id", 0)?,
        max_positions: config.count("max_position_embeddings", 1)?,
        position_offset: 0,
        embedding_size: config.count("hidden_size", 1)?,
        n_token_types: config.count_or("type_vocab_size", 2)?,
        token_types_are_tokens: false,
        layer_norm_eps: config.float_or("layer_norm_eps", 1e-12)?,
        activation: Activation::named(&config.string_or("hidden_act", "gelu")?)?,
        embedding_dropout: config.probability_or("hidden_dropout_prob", 0.1)?,
        hidden_dropout: config.probability_or("hidden_dropout_prob", 0.1)?,
        attention_dropout: config.probability_or("attention_probs_dropout_prob", 0.1)?,
        initializer_range: config.float_or("initializer_range", 0.02)?,
        residual_range: config.float_or("initializer_range", 0.02)?,
        norms: Norms::After,
        is_causal: false,
        scales_scores: true,
        scales_scores_by_layer: false,
    })
}

fn config_defaults() -> Map<String, Value> {
    let defaults = json!({
        "add_cross_attention": false,
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": null,
        "classifier_dropout": null,
        "eos_token_id": null,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "is_decoder": false,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 0,
        "tie_word_embeddings": true,
        "type_vocab_size": 2,
        "use_cache": true,
        "vocab_size": 30522,
    });
    match defaults {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `classifier_dropout`, or `hidden_dropout_prob` where it is null.
pub(super) fn head_dropout(config: &ModelConfig) -> Result<f64> {
    let hidden = config.probability_or("hidden_dropout_prob", 0.1)?;
    config.probability_or("classifier_dropout", hidden)
}

/// Nothing is dropped.
pub(super) fn no_dropout(_config: &ModelConfig) -> Result<f64> {
    Ok(0.0)
}

fn sequence_head(config: &ModelConfig) -> Result<SequenceHead> {
    Ok(SequenceHead {
        token: "first",
        dropout_first: false,
        dense: Some("bert.pooler.dense"),
        activation: "tanh",
        dropout: head_dropout(config)?,
        out: "classifier",
        out_bias: true,
    })
}
