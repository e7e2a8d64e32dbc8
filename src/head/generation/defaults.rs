//! generation_config.json: what a model says of generating text with it.

use serde_json::{Map, Value as Json};

use crate::data::files::Folder;
use crate::error::{Error, Place, Result, What};
use crate::model::family::Family;
use crate::model::{ModelConfig, save};

/// The file.
pub const FILE: &str = "generation_config.json";

/// Reads the file of a folder; nothing where there is none.
///
/// # Errors
/// A file that is no JSON object.
pub fn read(folder: &Folder) -> Result<Map<String, Json>> {
    let Some(text) = folder.read_text(FILE)? else { return Ok(Map::new()) };
    let malformed = |problem: String, line: Option<usize>| {
        let path = folder.join(FILE);
        let place = line.map_or_else(|| Place::file(&path), |line| Place::line(&path, line, None));
        Error::new(What::Malformed { format: FILE.into(), problem }).at(place)
    };
    match serde_json::from_str(&text) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(_) => Err(malformed("it is no object".into(), None)),
        Err(error) => Err(malformed(error.to_string(), Some(error.line()))),
    }
}

/// What config.json says of special tokens, as Hugging Face takes it over where there is no file.
pub fn of_config(config: &ModelConfig, family: &Family) -> Map<String, Json> {
    let defaults = (family.config_defaults)();
    let mut map = Map::from_iter([("_from_model_config".to_string(), Json::Bool(true))]);
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(value) = config.get(key).or_else(|| defaults.get(key)).filter(|value| !value.is_null()) {
            map.insert(key.to_string(), value.clone());
        }
    }
    map
}

/// The file's text, with keys in alphabetical order.
pub fn to_text(config: &Map<String, Json>) -> String {
    let mut map = config.clone();
    map.insert("transformers_version".into(), save::TRANSFORMERS_VERSION.into());
    map.sort_keys();
    serde_json::to_string_pretty(&Json::Object(map)).expect("a map of JSON values can be written") + "\n"
}
