//! Saving a model in Hugging Face's layout: config.json and model.safetensors.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, View};
use serde_json::{Map, Value};

use crate::data::durable;
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::family::Family;

/// The version of transformers whose layout is followed.
pub const TRANSFORMERS_VERSION: &str = "5.23.0";

/// Writes tensors to a safetensors file, f32, with Hugging Face's metadata. One tensor at a time is copied.
///
/// # Errors
/// A file that cannot be written.
pub fn write_safetensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), Stored(tensor)));
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    durable::write_by(path, |beside| {
        safetensors::serialize_to_file(views, Some(metadata), beside).map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => std::io::Error::other(other),
        })
    })
}

/// A tensor as it is stored.
struct Stored<'a>(&'a Tensor);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.0.to_dtype(DType::F32).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
        let values = values.expect("a tensor that exists can be read");
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * size_of::<f32>()
    }
}

/// config.json as Hugging Face writes it: the family's keys, the model's own, in alphabetical order.
pub fn config_json(config: &ModelConfig, family: &Family, architecture: &str) -> String {
    let mut map: Map<String, Value> = (family.config_defaults)();
    for (key, value) in config.map() {
        // Renamed in transformers 5; `num_labels` follows from the label names.
        let key = if key == "torch_dtype" { "dtype" } else { key };
        map.insert(key.to_string(), value.clone());
    }
    map.remove("_name_or_path");
    let labels = config.label_names().unwrap_or_default();
    map.remove("num_labels");
    // Hugging Face leaves out what equals its default: two labels without names.
    if labels == crate::model::config::default_labels(2) {
        map.remove("id2label");
        map.remove("label2id");
    } else if !labels.is_empty() {
        let mut named = ModelConfig::from_map(Map::new());
        named.set_labels(&labels);
        map.extend(named.map().clone());
    }
    map.insert("architectures".into(), Value::from(vec![architecture]));
    map.insert("dtype".into(), "float32".into());
    map.insert("transformers_version".into(), TRANSFORMERS_VERSION.into());
    let mut keys: Vec<_> = map.into_iter().collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    let sorted: Map<String, Value> = keys.into_iter().collect();
    serde_json::to_string_pretty(&Value::Object(sorted)).expect("a map of JSON values can be written") + "\n"
}
