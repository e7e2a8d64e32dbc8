//! A model's configuration: config.json as it is, with typed and checked access.
//!
//! Keys that retune does not use are kept and saved again. Label names, the number of labels and the problem type
//! are the part that training may change.

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::error::{Error, Result, What};

/// config.json of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    map: Map<String, Value>,
}

/// Keys that config.json files of any family may have; none changes what is computed here.
const COMMON_KEYS: [&str; 14] = [
    "_name_or_path",
    "architectures",
    "dtype",
    "finetuning_task",
    "n_ctx",
    "gradient_checkpointing",
    "output_past",
    "position_embedding_type",
    "retune_task",
    "torch_dtype",
    "transformers_version",
    "use_return_dict",
    "return_dict",
    "task_specific_params",
];

/// Options of Hugging Face's `from_pretrained` that are no keys of a configuration.
const OF_TORCH: [&str; 10] = [
    "attn_implementation",
    "cache_dir",
    "device_map",
    "force_download",
    "local_files_only",
    "low_cpu_mem_usage",
    "quantization_config",
    "token",
    "trust_remote_code",
    "use_safetensors",
];

/// What a classification head is trained for; Hugging Face's `problem_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// One class of several: cross entropy.
    SingleLabel,
    /// Any number of classes: binary cross entropy for each.
    MultiLabel,
    /// Numbers: mean squared error.
    Regression,
}

impl ProblemType {
    /// Hugging Face's name.
    pub fn name(self) -> &'static str {
        match self {
            ProblemType::SingleLabel => "single_label_classification",
            ProblemType::MultiLabel => "multi_label_classification",
            ProblemType::Regression => "regression",
        }
    }

    /// The problem type of Hugging Face's name.
    ///
    /// # Errors
    /// An unknown name.
    pub fn named(name: &str) -> Result<Self> {
        let all = [ProblemType::SingleLabel, ProblemType::MultiLabel, ProblemType::Regression];
        all.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let allowed = "\"single_label_classification\", \"multi_label_classification\" or \"regression\"".into();
            What::OutOfRange { name: "`problem_type`".into(), value: format!("{name:?}"), allowed }.into()
        })
    }
}

impl ModelConfig {
    /// Reads config.json; `path` is for messages.
    ///
    /// # Errors
    /// Text that is not a JSON object, with line and column.
    pub fn parse(text: &str, path: &std::path::Path) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(ModelConfig { map }),
            Ok(_) => {
                Err(Error::new(What::Malformed { format: "config.json".into(), problem: "it is not an object".into() })
                    .at(crate::error::Place::file(path)))
            }
            Err(error) => {
                let text = error.to_string();
                let problem = text.split(" at line ").next().unwrap_or(&text).to_string();
                Err(Error::new(What::Malformed { format: "config.json".into(), problem })
                    .at(crate::error::Place::line(path, error.line(), Some(error.column()))))
            }
        }
    }

    /// A configuration of the given keys.
    pub fn from_map(map: Map<String, Value>) -> Self {
        ModelConfig { map }
    }

    /// All keys as they are.
    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The value of `key`; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Sets `key`.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.map.insert(key.to_string(), value.into());
    }

    /// Replaces keys by what the caller of `of` gave. `num_labels`, `id2label` and `label2id` are kept consistent, as
    /// Hugging Face does: another number of labels makes their names the default ones.
    ///
    /// # Errors
    /// A key that neither the configuration nor its family (`known`) has, and label names that do not fit.
    pub fn apply(&mut self, overrides: &[(String, Value)], known: &Map<String, Value>, of: &str) -> Result<()> {
        const LABELS: [&str; 4] = ["num_labels", "id2label", "label2id", "problem_type"];
        for (key, _) in overrides {
            let is_known = LABELS.contains(&key.as_str())
                || COMMON_KEYS.contains(&key.as_str())
                || known.contains_key(key)
                || self.map.contains_key(key);
            if !is_known {
                let error = Error::new(What::UnknownOption { key: key.clone(), of: of.to_string() });
                let options = ["revision", "ignore_mismatched_sizes"];
                let all =
                    LABELS.into_iter().chain(options).chain(known.keys().chain(self.map.keys()).map(String::as_str));
                return Err(match crate::error::nearest(key, all) {
                    _ if OF_TORCH.contains(&key.as_str()) => {
                        error.hint("leave it out: it says how PyTorch loads a model, and not which")
                    }
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint("it takes `num_labels`, `id2label`, `problem_type`, and any key of config.json"),
                });
            }
        }
        let find = |key: &str| overrides.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        for (key, value) in overrides {
            if !LABELS[..3].contains(&key.as_str()) {
                self.set(key, value.clone());
            }
        }
        self.problem_type()?;
        let names = match (find("id2label"), find("label2id")) {
            (Some(value), _) => Some(names_by_id(value)?),
            (None, Some(value)) => Some(names_of_ids(value)?),
            (None, None) => None,
        };
        let count = match find("num_labels") {
            None => None,
            Some(value) => match value.as_u64() {
                Some(count) if count >= 1 => Some(count as usize),
                _ => {
                    let allowed = "a whole number of at least 1".into();
                    return Err(
                        What::OutOfRange { name: "`num_labels`".into(), value: value.to_string(), allowed }.into()
                    );
                }
            },
        };
        match (names, count) {
            (Some(names), Some(count)) if names.len() != count => {
                let problem = format!("`num_labels` is {count}, but {} label names are given", names.len());
                return Err(What::Conflict(problem).into());
            }
            (Some(names), _) => self.set_labels(&names),
            (None, Some(count)) if count != self.num_labels()? => {
                self.map.remove("id2label");
                self.map.remove("label2id");
                self.set("num_labels", count);
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// A whole number of at least `least`.
    ///
    /// # Errors
    /// An absent key, another type, or a smaller number.
    pub fn count(&self, key: &str, least: usize) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| missing(key))?;
        match value.as_u64().map(|number| number as usize) {
            Some(number) if number >= least => Ok(number),
            _ => Err(self.wrong(key, value, &format!("a whole number of at least {least}"))),
        }
    }

    /// A whole number, or `default` where the key is absent.
    ///
    /// # Errors
    /// Another type.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_none() { Ok(default) } else { self.count(key, 0) }
    }

    /// A token's id: none where the key is null, `default` where it is absent.
    ///
    /// # Errors
    /// Another type.
    pub fn token_id(&self, key: &str, default: u32) -> Result<Option<u32>> {
        match self.map.get(key) {
            None => Ok(Some(default)),
            Some(Value::Null) => Ok(None),
            Some(_) => self.count(key, 0).map(|id| Some(id as u32)),
        }
    }

    /// A number, or `default` where the key is absent.
    ///
    /// # Errors
    /// Another type.
    pub fn float_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(key, value, "a number")),
        }
    }

    /// A drop probability in [0, 1), or `default` where the key is absent.
    ///
    /// # Errors
    /// Another type, or a number out of range.
    pub fn probability_or(&self, key: &str, default: f64) -> Result<f64> {
        let p = self.float_or(key, default)?;
        if (0.0..1.0).contains(&p) {
            return Ok(p);
        }
        Err(What::OutOfRange {
            name: format!("`{key}` of config.json"),
            value: p.to_string(),
            allowed: "at least 0 and less than 1".into(),
        }
        .into())
    }

    /// A string, or `default` where the key is absent.
    ///
    /// # Errors
    /// Another type.
    pub fn string_or(&self, key: &str, default: &str) -> Result<String> {
        match self.get(key) {
            None => Ok(default.to_string()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value) => Err(self.wrong(key, value, "a string")),
        }
    }

    /// A bool, or `default` where the key is absent.
    ///
    /// # Errors
    /// Another type.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, value, "a bool")),
        }
    }

    /// The number of labels: of `id2label`, else `num_labels`, else Hugging Face's 2.
    ///
    /// # Errors
    /// Label names that are malformed.
    pub fn num_labels(&self) -> Result<usize> {
        match self.id2label()? {
            Some(names) => Ok(names.len()),
            None => self.count_or("num_labels", 2),
        }
    }

    /// The label names in the order of their ids, where the configuration has them.
    ///
    /// # Errors
    /// Ids that are not 0, 1, ..., or names that are not strings.
    pub fn id2label(&self) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get("id2label") else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong("id2label", value, "an object"))?;
        let mut names = vec![None; map.len()];
        for (id, name) in map {
            let slot = id.parse::<usize>().ok().and_then(|id| names.get_mut(id));
            match (slot, name.as_str()) {
                (Some(slot @ None), Some(name)) => *slot = Some(name.to_string()),
                _ => return Err(self.wrong("id2label", value, "an object from \"0\", \"1\", ... to names")),
            }
        }
        names
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .map(Some)
            .ok_or_else(|| self.wrong("id2label", value, "an object from every id to a name"))
    }

    /// The label names; where the configuration has none, LABEL_0, LABEL_1, ... as Hugging Face calls them.
    ///
    /// # Errors
    /// Label names that are malformed.
    pub fn label_names(&self) -> Result<Vec<String>> {
        match self.id2label()? {
            Some(names) => Ok(names),
            None => Ok(default_labels(self.num_labels()?)),
        }
    }

    /// Whether somebody gave the labels names: the default LABEL_0, ... do not count.
    ///
    /// # Errors
    /// Label names that are malformed.
    pub fn has_label_names(&self) -> Result<bool> {
        Ok(self.id2label()?.is_some_and(|names| names != default_labels(names.len())))
    }

    /// Sets the label names in the order of their ids.
    pub fn set_labels(&mut self, names: &[String]) {
        let ids: IndexMap<_, _> = names.iter().enumerate().map(|(id, name)| (id.to_string(), name.clone())).collect();
        let id2label: Map<_, _> = ids.iter().map(|(id, name)| (id.clone(), name.clone().into())).collect();
        let label2id: Map<_, _> = names.iter().enumerate().map(|(id, name)| (name.clone(), id.into())).collect();
        self.map.remove("num_labels");
        self.set("id2label", id2label);
        self.set("label2id", label2id);
    }

    /// The problem type, where it is set.
    ///
    /// # Errors
    /// An unknown name.
    pub fn problem_type(&self) -> Result<Option<ProblemType>> {
        match self.get("problem_type") {
            None => Ok(None),
            Some(Value::String(name)) => ProblemType::named(name).map(Some),
            Some(value) => Err(self.wrong("problem_type", value, "a string")),
        }
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> Error {
        What::WrongType { name: format!("`{key}` of config.json"), wanted: wanted.into(), got: value.to_string() }
            .into()
    }
}

/// Label names of `id2label`: an object from ids to names, or an array of names.
fn names_by_id(value: &Value) -> Result<Vec<String>> {
    if let Some(list) = value.as_array() {
        let names = list.iter().map(|name| name.as_str().map(str::to_string)).collect::<Option<Vec<_>>>();
        return names.filter(|names| !names.is_empty()).ok_or_else(|| unusable("id2label", value));
    }
    let config = ModelConfig { map: Map::from_iter([("id2label".to_string(), value.clone())]) };
    config.id2label()?.filter(|names| !names.is_empty()).ok_or_else(|| unusable("id2label", value))
}

/// Label names of `label2id`: an object from names to the ids 0, 1, ...
fn names_of_ids(value: &Value) -> Result<Vec<String>> {
    let map = value.as_object().ok_or_else(|| unusable("label2id", value))?;
    let mut names = vec![None; map.len()];
    for (name, id) in map {
        match id.as_u64().and_then(|id| names.get_mut(id as usize)) {
            Some(slot @ None) => *slot = Some(name.clone()),
            _ => return Err(unusable("label2id", value)),
        }
    }
    let names: Vec<String> = names.into_iter().flatten().collect();
    if names.is_empty() { Err(unusable("label2id", value)) } else { Ok(names) }
}

fn unusable(key: &str, value: &Value) -> Error {
    let wanted = if key == "id2label" { "from the ids 0, 1, ... to names" } else { "from names to the ids 0, 1, ..." };
    What::WrongType { name: format!("`{key}`"), wanted: format!("a map {wanted}"), got: value.to_string() }.into()
}

/// Hugging Face's names for labels without names.
pub fn default_labels(count: usize) -> Vec<String> {
    (0..count).map(|id| format!("LABEL_{id}")).collect()
}

fn missing(key: &str) -> Error {
    Error::new(What::Malformed { format: "config.json".into(), problem: format!("it has no `{key}`") })
}
