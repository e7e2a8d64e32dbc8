//! DistilBERT (Sanh et al. 2019): BERT's encoder without segments and pooler, with names and keys of its own.

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::family::{EncoderConfig, EncoderNames, Family, MaskedLmHead, Norms, SequenceHead};
use crate::model::layers::Stored;
use crate::tensor::ops::Activation;

/// The DistilBERT family.
pub static DISTILBERT: Family = Family {
    model_type: "distilbert",
    class_prefix: "DistilBert",
    prefix: "distilbert",
    base_parts: &["embeddings", "transformer"],
    names: EncoderNames {
        word: "embeddings.word_embeddings",
        position: "embeddings.position_embeddings",
        token_type: "",
        embedding_norm: Some("embeddings.LayerNorm"),
        embedding_projection: "",
        query: "transformer.layer.{}.attention.q_lin",
        key: "transformer.layer.{}.attention.k_lin",
        value: "transformer.layer.{}.attention.v_lin",
        query_key_value: None,
        attention_output: "transformer.layer.{}.attention.out_lin",
        attention_norm: "transformer.layer.{}.sa_layer_norm",
        intermediate: "transformer.layer.{}.ffn.lin1",
        output: "transformer.layer.{}.ffn.lin2",
        output_norm: "transformer.layer.{}.output_layer_norm",
        final_norm: None,
        stored: Stored::OutIn,
    },
    buffers: &[],
    encoder_config,
    config_defaults,
    sequence_head,
    head_dropout: |config| config.probability_or("dropout", 0.1),
    qa_dropout: |config| config.probability_or("qa_dropout", 0.1),
    masked_lm_head: Some(MaskedLmHead {
        dense: "vocab_transform",
        norm: "vocab_layer_norm",
        activation: "activation",
        bias: "vocab_projector.bias",
        decoder: "vocab_projector",
    }),
    causal_lm_class: None,
    copies: &["vocab_projector.weight"],
};

fn encoder_config(config: &ModelConfig) -> Result<EncoderConfig> {
    let hidden_size = config.count("dim", 1)?;
    Ok(EncoderConfig {
        vocab_size: config.count("vocab_size", 1)?,
        hidden_size,
        n_layers: config.count("n_layers", 0)?,
        n_heads: config.count("n_heads", 1)?,
        intermediate_size: config.count("hidden_dim", 1)?,
        padding_idx: config.token_id("pad_token_id", 0)?,
        max_positions: config.count("max_position_embeddings", 1)?,
        position_offset: 0,
        embedding_size: hidden_size,
        n_token_types: 0,
        token_types_are_tokens: false,
        layer_norm_eps: 1e-12,
        activation: Activation::named(&config.string_or("activation", "gelu")?)?,
        embedding_dropout: config.probability_or("dropout", 0.1)?,
        hidden_dropout: config.probability_or("dropout", 0.1)?,
        attention_dropout: config.probability_or("attention_dropout", 0.1)?,
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
        "activation": "gelu",
        "attention_dropout": 0.1,
        "bos_token_id": null,
        "dim": 768,
        "dropout": 0.1,
        "eos_token_id": null,
        "hidden_dim": 3072,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "model_type": "distilbert",
        "n_heads": 12,
        "n_layers": 6,
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": false,
        "tie_word_embeddings": true,
        "vocab_size": 30522,
    });
    defaults.as_object().cloned().unwrap_or_default()
}

fn sequence_head(config: &ModelConfig) -> Result<SequenceHead> {
    Ok(SequenceHead {
        token: "first",
        dropout_first: false,
        dense: Some("pre_classifier"),
        activation: "relu",
        dropout: config.probability_or("seq_classif_dropout", 0.2)?,
        out: "classifier",
        out_bias: true,
    })
}
