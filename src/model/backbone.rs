//! A pretrained encoder with its configuration, before a head is put on it.

use std::path::Path;

use candle_core::Device;
use serde_json::Value;

use crate::cancel;
use crate::data::files::Folder;
use crate::error::{Error, Place, Result, What};
use crate::memory;
use crate::model::config::ModelConfig;
use crate::model::encoder::Encoder;
use crate::model::family::{self, EncoderConfig, Family};
use crate::model::parameters::{Builder, LoadRecord};
use crate::model::weights::Weights;

/// An encoder, its configuration, and the builder that makes a head's parameters from the same checkpoint.
pub struct Backbone {
    /// The configuration, with the keys that the caller overrides.
    pub config: ModelConfig,
    /// The family.
    pub family: &'static Family,
    /// The encoder.
    pub encoder: Encoder,
    /// Makes the head's parameters.
    pub builder: Builder,
    /// The checkpoint's stored type, for the loading report.
    pub stored_type: String,
}

/// How a backbone is loaded.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// Who is asking, for messages: `` `AutoModelForSequenceClassification::from_pretrained` ``.
    pub caller: String,
    /// Keys that replace those of config.json.
    pub overrides: Vec<(String, Value)>,
    /// Whether weights of another shape are replaced by new ones instead of refused.
    pub ignore_mismatched_sizes: bool,
    /// The seed of new parameters.
    pub seed: u64,
    /// Where the parameters live.
    pub device: Device,
}

impl Backbone {
    /// Loads the model in `folder`.
    ///
    /// # Errors
    /// A folder without configuration or weights, an unsupported family, an encoder that the checkpoint does not have in full.
    pub fn from_pretrained(folder: &Folder, settings: &LoadSettings) -> Result<Self> {
        let path = folder.join("config.json");
        let text = folder.read_text("config.json")?.ok_or_else(|| {
            Error::new(What::NotFound { kind: "file", name: path.display().to_string() })
                .hint("a model directory holds config.json, model.safetensors and the tokenizer's files")
        })?;
        let mut config = ModelConfig::parse(&text, &path)?;
        let in_config = |error: Error| error.at(Place::file(&path));
        let family = family::of(&config).map_err(in_config)?;
        config.apply(&settings.overrides, &(family.config_defaults)(), &settings.caller)?;
        let weights = Weights::kept(folder, family, config.bool_or("tie_word_embeddings", true)?)?;
        let backbone = Self::build(config, weights, settings).map_err(in_config)?;
        backbone.refuse_incomplete(&folder.join(""))?;
        Ok(backbone)
    }

    /// A model with new weights, from its configuration alone.
    ///
    /// # Errors
    /// An unsupported family, or sizes that are missing or do not fit.
    pub fn from_config(config: ModelConfig, settings: &LoadSettings) -> Result<Self> {
        cancel::check()?;
        let family = family::of(&config)?;
        let mut full = ModelConfig::from_map((family.config_defaults)());
        let given: Vec<_> = config.map().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        full.apply(&given, &(family.config_defaults)(), &settings.caller)?;
        full.apply(&settings.overrides, &(family.config_defaults)(), &settings.caller)?;
        Self::build(full, Weights::none(), settings)
    }

    fn build(config: ModelConfig, weights: Weights, settings: &LoadSettings) -> Result<Self> {
        let family = family::of(&config)?;
        let encoder_config = (family.encoder_config)(&config)?;
        require_layers(&encoder_config)?;
        let stored_type = weights.stored_type();
        let builder = Builder::new(weights, settings.device.clone(), settings.seed, settings.ignore_mismatched_sizes);
        let encoder = Encoder::new(&builder, family, encoder_config).map_err(|error| match error.what() {
            What::Weights(_) => error.hint("does config.json belong to these weights?"),
            _ => error,
        })?;
        Ok(Backbone { config, family, encoder, builder, stored_type })
    }

    /// What became of the checkpoint's weights.
    pub fn record(&self) -> LoadRecord {
        self.builder.record()
    }

    fn refuse_incomplete(&self, folder: &Path) -> Result<()> {
        let record = self.record();
        let missing: Vec<_> = record.new.iter().filter(|name| self.family.is_encoder(name)).collect();
        let Some(first) = missing.first() else { return Ok(()) };
        let problem = format!(
            "the checkpoint lacks {} of the encoder's {} tensors, the first is `{first}`",
            missing.len(),
            record.new.len() + record.matched.len()
        );
        let found = record.unused.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let error = Error::new(What::Weights(problem)).at(Place::file(folder));
        Err(if found.is_empty() {
            error.hint("does config.json belong to these weights?")
        } else {
            error.hint(format!("does config.json belong to these weights? they have, for example, {found}"))
        })
    }
}

/// Refuses a number of layers that no memory holds, before the first one is made.
fn require_layers(config: &EncoderConfig) -> Result<()> {
    /// Names, shapes and locks of a layer's parameters.
    const OVERHEAD: u128 = 32 << 10;
    let (hidden, inner) = (config.hidden_size as u128, config.intermediate_size as u128);
    let layer = hidden.saturating_mul(hidden.saturating_mul(4).saturating_add(inner.saturating_mul(2)));
    let bytes = layer.saturating_mul(size_of::<f32>() as u128).saturating_add(OVERHEAD);
    memory::require(bytes.saturating_mul(config.n_layers as u128), || format!("a model of {} layers", config.n_layers))
}
