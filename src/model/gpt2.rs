//! GPT-2 (Radford et al. 2019): a causal encoder with layer norms before each part, weights stored as `(in, out)`, and query, key and value in one product.

use serde_json::{Map, Value, json};

use crate::error::{Result, What};
use crate::model::bert;
use crate::model::config::ModelConfig;
use crate::model::family::{EncoderConfig, EncoderNames, Family, Norms, SequenceHead};
use crate::model::layers::Stored;
use crate::tensor::ops::Activation;

/// The GPT-2 family.
pub static GPT2: Family = Family {
    model_type: "gpt2",
    class_prefix: "GPT2",
    prefix: "transformer",
    base_parts: &["wte", "wpe", "h", "ln_f"],
    names: EncoderNames {
        word: "wte",
        position: "wpe",
        token_type: "",
        embedding_norm: None,
        embedding_projection: "",
        query: "",
        key: "",
        value: "",
        query_key_value: Some("h.{}.attn.c_attn"),
        attention_output: "h.{}.attn.c_proj",
        attention_norm: "h.{}.ln_1",
        intermediate: "h.{}.mlp.c_fc",
        output: "h.{}.mlp.c_proj",
        output_norm: "h.{}.ln_2",
        final_norm: Some("ln_f"),
        stored: Stored::InOut,
    },
    buffers: &[".attn.bias", ".attn.masked_bias"],
    encoder_config,
    config_defaults,
    sequence_head,
    head_dropout,
    qa_dropout: bert::no_dropout,
    masked_lm_head: None,
    causal_lm_class: Some("GPT2LMHeadModel"),
    copies: &["lm_head.weight"],
};

fn encoder_config(config: &ModelConfig) -> Result<EncoderConfig> {
    if config.bool_or("add_cross_attention", false)? {
        return Err(What::Unsupported("`add_cross_attention: true` of config.json".into()).into());
    }
    let hidden_size = config.count("n_embd", 1)?;
    let n_layers = config.count("n_layer", 0)?;
    let initializer_range = config.float_or("initializer_range", 0.02)?;
    Ok(EncoderConfig {
        vocab_size: config.count("vocab_size", 1)?,
        hidden_size,
        n_layers,
        n_heads: config.count("n_head", 1)?,
        intermediate_size: config.count_or("n_inner", 4 * hidden_size)?,
        padding_idx: None,
        max_positions: config.count("n_positions", 1)?,
        position_offset: 0,
        embedding_size: hidden_size,
        n_token_types: 0,
        token_types_are_tokens: true,
        layer_norm_eps: config.float_or("layer_norm_epsilon", 1e-5)?,
        activation: Activation::named(&config.string_or("activation_function", "gelu_new")?)?,
        embedding_dropout: config.probability_or("embd_pdrop", 0.1)?,
        hidden_dropout: config.probability_or("resid_pdrop", 0.1)?,
        attention_dropout: config.probability_or("attn_pdrop", 0.1)?,
        initializer_range,
        // The weights that end each of a layer's two parts are smaller, so that the sum over the layers keeps its size.
        residual_range: initializer_range / (2.0 * n_layers.max(1) as f64).sqrt(),
        norms: Norms::Before,
        is_causal: true,
        scales_scores: config.bool_or("scale_attn_weights", true)?,
        scales_scores_by_layer: config.bool_or("scale_attn_by_inverse_layer_idx", false)?,
    })
}

fn config_defaults() -> Map<String, Value> {
    let defaults = json!({
        "activation_function": "gelu_new",
        "add_cross_attention": false,
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_embd": 768,
        "n_head": 12,
        "n_inner": null,
        "n_layer": 12,
        "n_positions": 1024,
        "pad_token_id": null,
        "reorder_and_upcast_attn": false,
        "resid_pdrop": 0.1,
        "scale_attn_by_inverse_layer_idx": false,
        "scale_attn_weights": true,
        "summary_activation": null,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true,
        "summary_type": "cls_index",
        "summary_use_proj": true,
        "tie_word_embeddings": true,
        "use_cache": true,
        "vocab_size": 50257,
    });
    defaults.as_object().cloned().unwrap_or_default()
}

/// `classifier_dropout`, else `hidden_dropout`, else 0.1: the token classifier's.
fn head_dropout(config: &ModelConfig) -> Result<f64> {
    let hidden = config.probability_or("hidden_dropout", 0.1)?;
    config.probability_or("classifier_dropout", hidden)
}

fn sequence_head(_config: &ModelConfig) -> Result<SequenceHead> {
    Ok(SequenceHead {
        token: "last",
        dropout_first: false,
        dense: None,
        activation: "linear",
        dropout: 0.0,
        out: "score",
        out_bias: false,
    })
}
