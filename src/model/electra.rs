//! ELECTRA (Clark et al. 2020), discriminator and generator: BERT's encoder behind embeddings of a smaller size, no pooler.

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::model::bert;
use crate::model::config::ModelConfig;
use crate::model::family::{EncoderConfig, Family, MaskedLmHead, SequenceHead};

/// The ELECTRA family. The masked-language-model head is the generator's.
pub static ELECTRA: Family = Family {
    model_type: "electra",
    class_prefix: "Electra",
    prefix: "electra",
    base_parts: &["embeddings", "embeddings_project", "encoder"],
    names: bert::NAMES,
    buffers: &[],
    encoder_config,
    config_defaults,
    sequence_head,
    head_dropout: bert::head_dropout,
    qa_dropout: bert::no_dropout,
    masked_lm_head: Some(MaskedLmHead {
        dense: "generator_predictions.dense",
        norm: "generator_predictions.LayerNorm",
        activation: ":gelu",
        bias: "generator_lm_head.bias",
        decoder: "generator_lm_head",
    }),
    causal_lm_class: None,
    copies: &["generator_lm_head.weight"],
};

fn encoder_config(config: &ModelConfig) -> Result<EncoderConfig> {
    let shared = bert::encoder_config(config)?;
    Ok(EncoderConfig { embedding_size: config.count_or("embedding_size", shared.hidden_size)?, ..shared })
}

fn config_defaults() -> Map<String, Value> {
    let own = json!({
        "embedding_size": 128,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "model_type": "electra",
        "num_attention_heads": 4,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "summary_type": "first",
        "summary_use_proj": true,
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
        activation: "gelu",
        dropout: bert::head_dropout(config)?,
        out: "classifier.out_proj",
        out_bias: true,
    })
}
