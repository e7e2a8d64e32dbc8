//! `AutoConfig::from_pretrained` and `BertConfig(#{ ... })` with its sisters: configurations as maps.
//!
//! A name, or keys, flow in; a map of config.json's keys flows out, to be read, changed, and given to `from_config` or as
//! `config` to `from_pretrained`.

use rhai::{Dynamic, FuncRegistration, Map, Module, NativeCallContext};

use crate::api::options::Options;
use crate::api::session::Session;
use crate::data::Value;
use crate::data::hub::{Hub, open_model};
use crate::error::{Error, Result, What};
use crate::head::script::convert::{from_dynamic, raise_at, to_dynamic};
use crate::model::config::ModelConfig;
use crate::model::family;

const CALLER: &str = "`AutoConfig::from_pretrained`";

/// Makes the namespace and the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    let text = "Reads a model's config.json, by directory, `std/...` or hub name, with keys that replace its own.\n\n\
        It is a map: `config.hidden_size` reads a key, `config.hidden_size = 64` changes it. `from_config(config)` of a model's\n\
        class makes a new model of it, and `config: config` is an option of `from_pretrained`. `revision` is an option here.\n\n\
        ```rhai\n\
        let config = AutoConfig::from_pretrained(\"std/minilm-tiny\", #{ num_labels: 5, num_hidden_layers: 1 });\n\
        expect(config.hidden_size == 384 && config.num_hidden_layers == 1, \"as config.json says, but for the layers\");\n\
        let model = AutoModelForSequenceClassification::from_config(config);\n\
        expect(model.config.num_labels == 5, \"a new model\");\n\
        ```";
    let mut module = Module::new();
    FuncRegistration::new("from_pretrained")
        .with_params_info(["name: &str", "options: Map", "Map"])
        .with_comments(comments(text))
        .set_into_module(&mut module, |context: NativeCallContext, name: &str, options: Map| {
            read(&context, name, options).map_err(raise_at(&context))
        });
    FuncRegistration::new("from_pretrained")
        .with_params_info(["name: &str", "Map"])
        .with_comments(comments(text))
        .set_into_module(&mut module, |context: NativeCallContext, name: &str| {
            read(&context, name, Map::new()).map_err(raise_at(&context))
        });
    engine.register_static_module("AutoConfig", module.into());
    let mut module = Module::new();
    for family in family::all() {
        let (name, model_type) = (format!("{}Config", family.class_prefix), family.model_type);
        let text = format!(
            "The configuration of a new model of the family `{model_type}`: the given keys, and the family's defaults for all others.\n\n\
             ```rhai\n\
             let config = {name}(#{{ initializer_range: 0.05 }});\n\
             expect(config.initializer_range == 0.05 && config.model_type == \"{model_type}\", \"a map of keys\");\n\
             ```"
        );
        let caller = format!("`{name}`");
        FuncRegistration::new(&name)
            .with_params_info(["keys: Map", "Map"])
            .with_comments(comments(&text))
            .set_into_module(&mut module, move |context: NativeCallContext, keys: Map| {
                of_family(model_type, keys, &caller).map_err(raise_at(&context))
            });
    }
    engine.register_global_module(module.into());
}

fn read(context: &NativeCallContext, name: &str, options: Map) -> Result<Map> {
    let session = Session::of(context);
    let mut options = Options::new(CALLER, options);
    let revision = options.string("revision")?;
    let folder = open_model(session.places(), &Hub::from_env(), name, revision.as_deref())?;
    let path = folder.join("config.json");
    let text = folder
        .read_text("config.json")?
        .ok_or_else(|| Error::new(What::NotFound { kind: "file", name: path.display().to_string() }))?;
    let mut config = ModelConfig::parse(&text, &path)?;
    let known = (family::of(&config)?.config_defaults)();
    config.apply(&json(options.rest()?), &known, CALLER)?;
    to_map(&config)
}

fn of_family(model_type: &str, keys: Map, caller: &str) -> Result<Map> {
    let known = family::all().iter().find(|family| family.model_type == model_type);
    let known = known.map(|family| (family.config_defaults)()).unwrap_or_default();
    let mut config = ModelConfig::from_map(known.clone());
    let keys = keys.into_iter().map(|(key, value)| Ok((key.to_string(), from_dynamic(&value)?)));
    config.apply(&json(keys.collect::<Result<_>>()?), &known, caller)?;
    to_map(&config)
}

fn json(pairs: Vec<(String, Value)>) -> Vec<(String, serde_json::Value)> {
    pairs.into_iter().map(|(key, value)| (key, value.to_json())).collect()
}

fn to_map(config: &ModelConfig) -> Result<Map> {
    let mut map = Map::new();
    for (key, value) in config.map() {
        map.insert(key.as_str().into(), to_dynamic(&Value::from(value.clone())));
    }
    map.insert("num_labels".into(), Dynamic::from(config.num_labels()? as i64));
    Ok(map)
}

fn comments(text: &str) -> Vec<String> {
    let line = |line: &str| if line.is_empty() { "///".to_string() } else { format!("/// {}", line.trim_start()) };
    text.lines().map(line).collect()
}
