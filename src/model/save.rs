//! Saving a model in Hugging Face's layout: config.json and model.safetensors.
//!
//! Files are written to a temporary file beside their place and renamed, so that none is ever half-written.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use crate::error::{Error, Result, What};
use crate::model::config::ModelConfig;
use crate::model::family::Family;

/// The version of transformers whose layout is followed.
pub const TRANSFORMERS_VERSION: &str = "5.23.0";

/// Writes `bytes` to `path` through a temporary file and a rename.
///
/// # Errors
/// A directory that cannot be written to.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrap = |source| Error::new(What::Write { path: path.to_path_buf(), source });
    std::fs::create_dir_all(folder).map_err(wrap)?;
    let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder).map_err(wrap)?;
    file.write_all(bytes).map_err(wrap)?;
    file.as_file().sync_all().map_err(wrap)?;
    set_readable(file.as_file(), path)?;
    file.persist(path).map_err(|error| wrap(error.error))?;
    Ok(())
}

/// Temporary files are private; what is saved is as readable as any other file.
#[cfg(unix)]
fn set_readable(file: &std::fs::File, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o644);
    file.set_permissions(permissions).map_err(|source| What::Write { path: path.to_path_buf(), source }.into())
}

#[cfg(not(unix))]
fn set_readable(_file: &std::fs::File, _path: &Path) -> Result<()> {
    Ok(())
}

/// Tensors as the bytes of a safetensors file, f32, with Hugging Face's metadata.
///
/// # Errors
/// Tensors that cannot be read back from their device.
pub fn to_safetensors(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut data = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        data.push((name, tensor.dims().to_vec(), bytes));
    }
    let mut views = Vec::with_capacity(data.len());
    for (name, shape, bytes) in &data {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes)
            .map_err(|error| Error::new(What::Internal(format!("`{name}`: {error}"))))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).map_err(|error| What::Internal(error.to_string()).into())
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
