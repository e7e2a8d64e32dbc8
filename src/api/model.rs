//! Models: `AutoModelFor...`, `BertFor...`, and what a script can ask of one.
//!
//! The classes differ in the task they put on the encoder; all heads are task scripts. Names and options are Hugging Face's.

use std::path::Path;
use std::sync::Arc;

use rhai::plugin::*;
use rhai::{Array, FuncRegistration, Map, Module};

use crate::api::model_output::ModelOutput;
use crate::api::options::Options;
use crate::api::session::Session;
use crate::batch::Batch;
use crate::data::files::Folder;
use crate::data::hub::{Hub, open_model};
use crate::data::{Row, Value};
use crate::error::{Error, Place, Result, What};
use crate::head::labels::FOR_TASK;
use crate::head::script::convert::{ScriptResult, config_map, from_dynamic, raise, raise_at};
use crate::head::{Model, ModelSettings, Task};
use crate::model::backbone::LoadSettings;
use crate::model::{ModelConfig, family};

/// What follows `AutoModel` or a family's name, and the task behind it.
const CLASSES: [(&str, &str); 5] = [
    ("ForSequenceClassification", "std/tasks/sentiment"),
    ("ForTokenClassification", "std/tasks/ner"),
    ("ForQuestionAnswering", "std/tasks/qa"),
    (family::CAUSAL_LM, "std/tasks/causal_lm"),
    ("ForMaskedLM", "std/tasks/masked_lm"),
];

/// What follows the class prefix of a saved model, and its task, from `architectures` (or `retune_task`) of its config.json.
///
/// # Errors
/// A folder without configuration, or a class that has no task.
pub fn class_of(folder: &Folder) -> Result<(String, String)> {
    let path = folder.join("config.json");
    let text = folder.read_text("config.json")?.ok_or_else(|| {
        Error::new(What::NotFound { kind: "file", name: path.display().to_string() })
            .hint("a model directory holds config.json, model.safetensors and the tokenizer's files")
    })?;
    let config = ModelConfig::parse(&text, &path)?;
    if let Some(task) = config.get("retune_task").and_then(|task| task.as_str()) {
        return Ok((FOR_TASK.into(), task.to_string()));
    }
    let architecture = config.get("architectures").and_then(|list| list.get(0)).and_then(|name| name.as_str());
    let architecture = architecture.unwrap_or("a model without `architectures`");
    let suffix = if architecture.ends_with(LM_HEAD_MODEL) { family::CAUSAL_LM } else { architecture };
    match CLASSES.iter().find(|(known, _)| suffix.ends_with(known)) {
        Some((suffix, task)) => Ok((suffix.to_string(), task.to_string())),
        None => Err(Error::new(What::Unsupported(format!("predicting with `{architecture}`")))
            .at(Place::file(path))
            .hint("fine-tune it first, for example with AutoModelForSequenceClassification")),
    }
}

/// Loads a task for a model that lies in `folder`. Where it was saved with a plugin that is not here, the error says with which;
/// where another build is here, a warning does.
///
/// # Errors
/// Those of [`Session::task`].
pub fn task_for(session: &Session, folder: &Folder, task: &str, library: Option<&Path>) -> Result<Arc<dyn Task>> {
    let loaded = match library {
        Some(library) => session.task_from(task, library),
        None => session.task(task),
    };
    let Some(saved) = saved_with(folder, task)? else { return loaded };
    let text = |key: &str| saved.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_string();
    let (name, version, hash) = (text("name"), text("version"), text("sha256"));
    let short = hash.get(..16).unwrap_or(&hash);
    match loaded {
        Ok(loaded) => {
            let here = loaded.record().and_then(|record| record.get("sha256").cloned());
            if here.as_ref().and_then(|here| here.as_str()) != Some(hash.as_str()) {
                session.reporter().warning(&format!(
                    "the model was saved with another build of the plugin `{name}`: version {version}, sha256 {short}"
                ));
            }
            Ok(loaded)
        }
        Err(error) if matches!(error.what(), What::NotFound { kind: "plugin", .. }) => {
            let what = What::NotFound { kind: "plugin", name: task.trim_start_matches("plugin:").to_string() };
            Err(Error::new(what).at(Place::file(folder.join("config.json"))).hint(format!(
                "the model was saved with the plugin `{name}` {version} (sha256 {short}): build it, then \
                 `retune plugin allow FILE`, or give `--plugin FILE`"
            )))
        }
        Err(error) => Err(error),
    }
}

/// What a model's config.json says of the plugin that its task came from.
fn saved_with(folder: &Folder, task: &str) -> Result<Option<serde_json::Value>> {
    let Some(text) = folder.read_text("config.json")? else { return Ok(None) };
    let config = ModelConfig::parse(&text, &folder.join("config.json"))?;
    let same_task = config.get("retune_task").and_then(|saved| saved.as_str()) == Some(task);
    Ok(config.get("retune_plugin").filter(|_| same_task).cloned())
}

/// What the class of a causal language model is called in the families where it does not end in `ForCausalLM`.
const LM_HEAD_MODEL: &str = "LMHeadModel";

/// Which class is asked for.
#[derive(Clone)]
struct Class {
    name: String,
    /// The family that the class is bound to.
    model_type: Option<&'static str>,
    suffix: &'static str,
    task: String,
}

/// Makes the namespaces and the type known to an engine.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<Model>("Model");
    engine.register_global_module(exported_module!(model_functions).into());
    for (suffix, task) in CLASSES {
        let auto = Class { name: format!("AutoModel{suffix}"), model_type: None, suffix, task: task.into() };
        engine.register_static_module(auto.name.clone(), namespace(&auto).into());
        for family in family::all() {
            let name = format!("{}{suffix}", family.class_prefix);
            let class = Class { name, model_type: Some(family.model_type), ..auto.clone() };
            let own = family.class_name(suffix);
            if own != class.name {
                let class = Class { name: own, ..class.clone() };
                engine.register_static_module(class.name.clone(), namespace(&class).into());
            }
            engine.register_static_module(class.name.clone(), namespace(&class).into());
        }
    }
    engine.register_static_module("AutoModelForTask", task_namespace().into());
}

/// The functions of one class.
fn namespace(class: &Class) -> Module {
    let mut module = Module::new();
    let (own, sizes) = small(class);
    let example = match (class.suffix, class.model_type) {
        (family::CAUSAL_LM, Some("bert" | "roberta" | "xlm-roberta" | "distilbert" | "electra"))
        | ("ForMaskedLM", Some("gpt2")) => format!(
            "let refused = false;\ntry {{ {}::from_config(#{{ {sizes} }}); }} catch {{ refused = true; }}\n\
             expect(refused, \"the family has no such head\");",
            class.name
        ),
        (suffix, None | Some("bert")) if suffix != family::CAUSAL_LM => format!(
            "let model = {}::from_pretrained(\"std/minilm-tiny\", #{{ num_labels: 3 }});\n\
             expect(model.num_parameters() > 8000000, \"the encoder and the head\");",
            class.name
        ),
        _ => format!(
            "{0}::from_config(#{{ {sizes} }}).save_pretrained(\"small\");\n\
             let model = {0}::from_pretrained(\"small\");\n\
             expect(model.num_parameters() > 1000, \"the encoder and the head\");",
            class.name
        ),
    };
    let pretrained = comments(
        "Loads a pretrained model by directory, `std/...` or hub name, and puts the class's head on it.",
        "Options: `num_labels`, `id2label`, `label2id`, `problem_type`, `revision`, `ignore_mismatched_sizes`, `config` (of `AutoConfig`), and any key of config.json.",
        &example,
    );
    let loader = class.clone();
    FuncRegistration::new("from_pretrained")
        .with_params_info(["name: &str", "options: Map", "Model"])
        .with_comments(pretrained.clone())
        .set_into_module(&mut module, move |context: NativeCallContext, name: &str, options: Map| {
            load(&context, &loader, name, options).map_err(raise_at(&context))
        });
    let loader = class.clone();
    FuncRegistration::new("from_pretrained")
        .with_params_info(["name: &str", "Model"])
        .with_comments(pretrained)
        .set_into_module(&mut module, move |context: NativeCallContext, name: &str| {
            load(&context, &loader, name, Map::new()).map_err(raise_at(&context))
        });
    let example = match (class.suffix, class.model_type) {
        (family::CAUSAL_LM, Some("bert" | "roberta" | "xlm-roberta" | "distilbert" | "electra"))
        | ("ForMaskedLM", Some("gpt2")) => example,
        _ => format!(
            "let model = {}::from_config(#{{ {sizes} }});\nexpect(model.config.{own} == 16, \"the sizes that were given\");",
            class.name
        ),
    };
    let maker = class.clone();
    FuncRegistration::new("from_config")
        .with_params_info(["config: Map", "Model"])
        .with_comments(comments(
            "Makes a model with new weights from the keys of a config.json.",
            "Keys that are not given have the family's defaults.",
            &example,
        ))
        .set_into_module(&mut module, move |context: NativeCallContext, config: Map| {
            make(&context, &maker, config).map_err(raise_at(&context))
        });
    module
}

/// What a family calls its hidden size, and the sizes of a small model of a class, for the examples.
fn small(class: &Class) -> (&'static str, String) {
    let gpt2 = "n_embd: 16, n_layer: 1, n_head: 2, vocab_size: 50, n_positions: 20";
    let family = class.model_type.map_or_else(|| "model_type: \"bert\", ".to_string(), |_| String::new());
    match class.model_type {
        None if class.suffix == family::CAUSAL_LM => ("n_embd", format!("model_type: \"gpt2\", {gpt2}")),
        Some("gpt2") => ("n_embd", gpt2.to_string()),
        Some("distilbert") => ("dim", "dim: 16, n_layers: 1, n_heads: 2, hidden_dim: 32, vocab_size: 50".to_string()),
        _ => (
            "hidden_size",
            format!(
                "{family}hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, vocab_size: 50"
            ),
        ),
    }
}

/// `AutoModelForTask`: any task by name.
fn task_namespace() -> Module {
    let mut module = Module::new();
    let example = "let model = AutoModelForTask::from_pretrained(\"std/minilm-tiny\", \"std/tasks/ner\", #{ num_labels: 9 });\nexpect(model.parameter_names().contains(\"classifier.weight\"), \"the task's own layer\");";
    let text = comments(
        "Loads a pretrained model and puts a task's head on it: `std/tasks/NAME`, the path of a `.rhai` file, or `plugin:NAME`.",
        "Options as `AutoModelForSequenceClassification::from_pretrained` has them. A plugin is one that `retune plugin allow` allowed; `plugin_path` names its library where `--plugin FILE` does not.",
        example,
    );
    FuncRegistration::new("from_pretrained")
        .with_params_info(["name: &str", "task: &str", "options: Map", "Model"])
        .with_comments(text.clone())
        .set_into_module(&mut module, |context: NativeCallContext, name: &str, task: &str, options: Map| {
            load(&context, &for_task(task), name, options).map_err(raise_at(&context))
        });
    FuncRegistration::new("from_pretrained")
        .with_params_info(["name: &str", "task: &str", "Model"])
        .with_comments(text)
        .set_into_module(&mut module, |context: NativeCallContext, name: &str, task: &str| {
            load(&context, &for_task(task), name, Map::new()).map_err(raise_at(&context))
        });
    module
}

fn for_task(task: &str) -> Class {
    let suffix = CLASSES.iter().find(|(_, known)| *known == task).map_or(FOR_TASK, |(suffix, _)| *suffix);
    Class { name: "AutoModelForTask".into(), model_type: None, suffix, task: task.to_string() }
}

fn comments(summary: &str, details: &str, example: &str) -> Vec<String> {
    let text = format!("{summary}\n\n{details}\n\n```rhai\n{example}\n```");
    text.lines().map(|line| if line.is_empty() { "///".to_string() } else { format!("/// {line}") }).collect()
}

fn settings(
    context: &NativeCallContext,
    class: &Class,
    name: &str,
    overrides: Vec<(String, serde_json::Value)>,
    ignore: bool,
    function: &str,
    task: Arc<dyn Task>,
) -> Result<ModelSettings> {
    let session = Session::of(context);
    Ok(ModelSettings {
        name: name.to_string(),
        suffix: class.suffix.to_string(),
        task,
        load: LoadSettings {
            caller: format!("`{}::{function}`", class.name),
            overrides,
            ignore_mismatched_sizes: ignore,
            seed: session.seed(),
            device: session.device().clone(),
        },
    })
}

/// The keys of a whole configuration, and those of the call, which win. The call's labels replace all that the configuration
/// says of labels.
fn with_config(config: &Row, given: Vec<(String, Value)>) -> Vec<(String, serde_json::Value)> {
    const LABELS: [&str; 3] = ["num_labels", "id2label", "label2id"];
    let is_given = |key: &str| given.iter().any(|(name, _)| name == key);
    let has_labels = LABELS.into_iter().any(is_given);
    let kept = config.iter().filter(|(key, _)| !(is_given(key) || has_labels && LABELS.contains(&key.as_str())));
    let kept = kept.map(|(key, value)| (key.clone(), value.to_json()));
    kept.chain(given.iter().map(|(key, value)| (key.clone(), value.to_json()))).collect()
}

fn load(context: &NativeCallContext, class: &Class, name: &str, options: Map) -> Result<Model> {
    let session = Session::of(context);
    let mut options = Options::new(format!("`{}::from_pretrained`", class.name), options);
    let revision = options.string("revision")?;
    let ignore = options.bool("ignore_mismatched_sizes")?.unwrap_or(false);
    let library = options.string("plugin_path")?;
    let config = options.row("config")?;
    let overrides = with_config(&config, options.rest()?);
    let folder = open_model(session.places(), &Hub::from_env(), name, revision.as_deref())?;
    let library = match library {
        Some(path) => Some(session.places().path(&path)?.unwrap_or_else(|| path.into())),
        None => None,
    };
    let task = task_for(&session, &folder, &class.task, library.as_deref())?;
    let settings = settings(context, class, name, overrides, ignore, "from_pretrained", task)?;
    let model = Model::from_pretrained(&folder, settings)?;
    check_family(class, &model)?;
    session.remember(&model);
    session.reporter().loading(model.load_report());
    Ok(model)
}

/// Loads a model for a pipeline: of the class `AutoModel` + `suffix`, or with the task that it was saved with.
pub(super) fn load_for(context: &NativeCallContext, suffix: &str, name: &str, revision: Option<&str>) -> Result<Model> {
    let folder = open_model(Session::of(context).places(), &Hub::from_env(), name, revision)?;
    let class = match class_of(&folder) {
        Ok((own, task)) if own == FOR_TASK => for_task(&task),
        _ => {
            let (suffix, task) = CLASSES.iter().find(|(known, _)| *known == suffix).copied().unwrap_or(CLASSES[0]);
            Class { name: format!("AutoModel{suffix}"), model_type: None, suffix, task: task.into() }
        }
    };
    let mut options = Map::new();
    if let Some(revision) = revision {
        options.insert("revision".into(), Dynamic::from(revision.to_string()));
    }
    load(context, &class, name, options)
}

fn make(context: &NativeCallContext, class: &Class, config: Map) -> Result<Model> {
    let mut map = serde_json::Map::new();
    if let Some(model_type) = class.model_type {
        map.insert("model_type".into(), model_type.into());
    }
    for (key, value) in config {
        map.insert(key.to_string(), from_dynamic(&value)?.to_json());
    }
    let task = Session::of(context).task(&class.task)?;
    let settings = settings(context, class, "from_config", Vec::new(), false, "from_config", task)?;
    let model = Model::from_config(ModelConfig::from_map(map), settings)?;
    check_family(class, &model)?;
    Session::of(context).remember(&model);
    Ok(model)
}

fn check_family(class: &Class, model: &Model) -> Result<()> {
    match class.model_type {
        Some(wanted) if wanted != model.family().model_type => {
            let problem =
                format!("`{}` is a `{}` model, not a `{wanted}` one", model.name(), model.family().model_type);
            Err(Error::new(What::Conflict(problem)).hint(format!("use `AutoModel{}`", class.suffix)))
        }
        _ => Ok(()),
    }
}

/// What a script can ask of a model.
#[export_module]
mod model_functions {
    /// The configuration: the keys of config.json, and `num_labels`, `label_names` and what the family says of its heads.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(model.config.hidden_size == 384, "as config.json says");
    /// ```
    #[rhai_fn(get = "config", pure, return_raw)]
    pub fn config(model: &mut Model) -> ScriptResult<Dynamic> {
        config_map(&model.config()).map_err(raise)
    }

    /// How many numbers the model has in all.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// print(model.num_parameters());
    /// expect(model.num_parameters() > 8000000, "8.6 million");
    /// ```
    #[rhai_fn(pure)]
    pub fn num_parameters(model: &mut Model) -> i64 {
        model.parameters().count() as i64
    }

    /// How many numbers the model has, `only_trainable: true` for those that training changes.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.freeze("bert.*");
    /// expect(model.num_parameters(#{ only_trainable: true }) == 770, "a matrix of 2 x 384 and two biases");
    /// ```
    #[rhai_fn(name = "num_parameters", pure, return_raw)]
    pub fn num_parameters_with(model: &mut Model, options: Map) -> ScriptResult<i64> {
        let mut options = Options::new("`num_parameters`", options);
        let trainable = options.bool("only_trainable").map_err(raise)?.unwrap_or(false);
        options.finish().map_err(raise)?;
        let all = model.parameters().all();
        let counted = all.iter().filter(|parameter| !trainable || parameter.is_trainable());
        Ok(counted.map(|parameter| parameter.value().elem_count() as i64).sum())
    }

    /// The names of all parameters, as Hugging Face has them.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(model.parameter_names().contains("classifier.weight"), "the head's");
    /// ```
    #[rhai_fn(pure)]
    pub fn parameter_names(model: &mut Model) -> Array {
        model.parameters().all().iter().map(|parameter| Dynamic::from(parameter.name().to_string())).collect()
    }

    /// The names of the parameters that training changes.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.freeze("bert.*");
    /// expect(model.trainable_parameter_names() == ["classifier.weight", "classifier.bias"], "the last layer alone");
    /// ```
    #[rhai_fn(pure)]
    pub fn trainable_parameter_names(model: &mut Model) -> Array {
        let all = model.parameters().all();
        all.iter().filter(|p| p.is_trainable()).map(|p| Dynamic::from(p.name().to_string())).collect()
    }

    /// Keeps the parameters whose names match the pattern (`*` matches any characters) as they are during training. Gives their number.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(model.freeze("bert.embeddings.*") == 5, "three tables and a layer norm");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn freeze(model: &mut Model, pattern: &str) -> ScriptResult<i64> {
        model.parameters().set_trainable(pattern, false).map(|count| count as i64).map_err(raise)
    }

    /// Lets training change the parameters whose names match the pattern again. Gives their number.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.freeze("*");
    /// expect(model.unfreeze("classifier.*") == 2, "weight and bias");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn unfreeze(model: &mut Model, pattern: &str) -> ScriptResult<i64> {
        model.parameters().set_trainable(pattern, true).map(|count| count as i64).map_err(raise)
    }

    /// The model's output for a batch, as Hugging Face's `ModelOutput`.
    ///
    /// It has `outputs.loss` where the batch has labels, and `outputs.logits` or the task's tensors by name. Tokens of all rows stand one after the other, without padding. Dropout drops in training mode alone: `model.train()`.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let outputs = model.forward(Batch::of([#{ input_ids: [2, 100, 3] }, #{ input_ids: [2, 100, 200, 3] }]));
    /// expect(outputs.logits.shape == [2, 2], "two rows, two labels");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn forward(context: NativeCallContext, model: &mut Model, batch: Batch) -> ScriptResult<ModelOutput> {
        ModelOutput::forward(&Session::of(&context), model, batch).map_err(raise)
    }

    /// Writes config.json and model.safetensors in Hugging Face's layout.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.save_pretrained("saved");
    /// let again = AutoModelForSequenceClassification::from_pretrained("saved");
    /// expect(again.num_parameters() == model.num_parameters(), "the same model");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn save_pretrained(context: NativeCallContext, model: &mut Model, folder: &str) -> ScriptResult<()> {
        let (session, folder) = (Session::of(&context), std::path::Path::new(folder));
        session.permissions().write_below(folder).map_err(raise)?;
        model.save_pretrained(folder).map_err(raise)?;
        session.reporter().saved(folder);
        Ok(())
    }

    /// The model's class and size.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(model.to_string().contains("BertForSequenceClassification"), "the class");
    /// ```
    #[rhai_fn(global, name = "to_string", name = "to_debug", pure)]
    pub fn to_string(model: &mut Model) -> String {
        format!("{}({} parameters)", model.architecture(), model.parameters().count())
    }
}
