//! RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020): BERT's encoder with positions that are counted from
//! behind the padding index, one segment, and a classification head of two layers.

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::model::bert;
use crate::model::config::ModelConfig;
use crate::model::family::{EncoderConfig, Family, MaskedLmHead, SequenceHead};

/// The RoBERTa family.
pub static ROBERTA: Family = Family {
    model_type: "roberta",
    class_prefix: "Roberta",
    prefix: "roberta",
    base_parts: &["embeddings", "encoder", "pooler"],
    names: bert::NAMES,
    buffers: &[],
    encoder_config,
    config_defaults: || config_defaults("roberta"),
    sequence_head,
    head_dropout: bert::head_dropout,
    qa_dropout: bert::no_dropout,
    masked_lm_head: Some(LM_HEAD),
    causal_lm_class: None,
    copies: &["lm_head.decoder.weight", "lm_head.decoder.bias"],
};

/// The XLM-RoBERTa family: RoBERTa with another vocabulary.
pub static XLM_ROBERTA: Family = Family {
    model_type: "xlm-roberta",
    class_prefix: "XLMRoberta",
    prefix: "roberta",
    base_parts: &["embeddings", "encoder", "pooler"],
    names: bert::NAMES,
    buffers: &[],
    encoder_config,
    config_defaults: || config_defaults("xlm-roberta"),
    sequence_head,
    head_dropout: bert::head_dropout,
    qa_dropout: bert::no_dropout,
    masked_lm_head: Some(LM_HEAD),
    causal_lm_class: None,
    copies: &["lm_head.decoder.weight", "lm_head.decoder.bias"],
};

const LM_HEAD: MaskedLmHead = MaskedLmHead {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    activation: ":gelu",
    bias: "lm_head.bias",
    decoder: "lm_head.decoder",
};

fn encoder_config(config: &ModelConfig) -> Result<EncoderConfig> {
    let padding = config.token_id("pad_token_id", 1)?;
    Ok(EncoderConfig {
        padding_idx: padding,
        position_offset: padding.unwrap_or(1) + 1,
        ..bert::encoder_config(config)?
    })
}

fn config_defaults(model_type: &str) -> Map<String, Value> {
    let own = json!({
        "bos_token_id": 0, "eos_token_id": 2, "model_type": model_type, "pad_token_id": 1, "vocab_size": 50265,
    });
    let mut map = (bert::BERT.config_defaults)();
    map.extend(own.as_object().cloned().unwrap_or_default());
    map
}

fn sequence_head(config: &ModelConfig) -> Result<SequenceHead> {
    Ok(SequenceHead {
        token: "first",
        dropout_first: true,
        dense: Some("classifier.dense"),
        activation: "tanh",
        dropout: bert::head_dropout(config)?,
        out: "classifier.out_proj",
        out_bias: true,
    })
}
