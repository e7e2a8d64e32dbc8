//! A model of two layers and 32 numbers, rows of token ids, and trainers of them: what the tests of training share.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;
use retune::data::files::Folder;
use retune::data::{Dataset, Value};
use retune::error::Result;
use retune::head::script::ScriptTask;
use retune::head::{Model, ModelSettings, Predictions};
use retune::model::ModelConfig;
use retune::model::backbone::LoadSettings;
use retune::train::callbacks::{Callback, Event, Extra, TrainerControl};
use retune::train::state::TrainerState;
use retune::train::{EvaluationData, Hooks, Trainer, TrainerSettings, TrainingArguments};
use serde_json::{Value as Json, json};

use crate::loading::load_settings;
use crate::tensor::engine;

/// The classes behind `AutoModelFor...`: what follows the prefix, the task's name and its script.
const CLASSES: [(&str, &str, &str); 4] = [
    ("ForSequenceClassification", "std/tasks/sentiment", include_str!("../stdlib/tasks/sentiment.rhai")),
    ("ForTokenClassification", "std/tasks/ner", include_str!("../stdlib/tasks/ner.rhai")),
    ("ForQuestionAnswering", "std/tasks/qa", include_str!("../stdlib/tasks/qa.rhai")),
    ("ForMaskedLM", "std/tasks/masked_lm", include_str!("../stdlib/tasks/masked_lm.rhai")),
];

fn settings(suffix: &str, overrides: Json) -> ModelSettings {
    static ENGINE: OnceLock<Arc<rhai::Engine>> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| Arc::new(engine()));
    let (_, name, script) = CLASSES.into_iter().find(|(known, ..)| *known == suffix).unwrap();
    let task = ScriptTask::new(name.to_string(), engine.clone(), engine.compile(script).unwrap(), None).unwrap();
    let load =
        LoadSettings { overrides: overrides.as_object().unwrap().clone().into_iter().collect(), ..load_settings() };
    ModelSettings { name: "tiny".into(), suffix: suffix.into(), task: Arc::new(task), load }
}

/// A new model of the class `Bert` + `suffix`; always the same weights. `config` changes keys of its configuration.
pub(crate) fn model(suffix: &str, config: Json) -> Model {
    let mut all = json!({
        "model_type": "bert", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 16, "initializer_range": 0.2,
    });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Model::from_config(ModelConfig::from_map(all.as_object().unwrap().clone()), settings(suffix, json!({}))).unwrap()
}

/// A sequence classifier with dropout.
pub(crate) fn classifier(num_labels: usize) -> Model {
    model("ForSequenceClassification", json!({ "num_labels": num_labels }))
}

/// Loads what was saved.
pub(crate) fn load(folder: &Path, suffix: &str) -> Result<Model> {
    Model::from_pretrained(&Folder::Disk(folder.to_path_buf()), settings(suffix, json!({})))
}

/// A data set of these rows.
pub(crate) fn dataset(rows: impl IntoIterator<Item = Json>) -> Dataset {
    let row = |row: Json| match Value::from(row) {
        Value::Map(map) => IndexMap::clone(&map),
        other => panic!("{other:?}"),
    };
    Dataset::from_rows("rows", rows.into_iter().map(row).collect())
}

/// Token ids of row `index`: three to twelve of them, with the first and last as in BERT.
pub(crate) fn ids(index: usize) -> Vec<usize> {
    let inner = (0..1 + index * 7 % 10).map(|place| 4 + (index * 31 + place * 17 + place * place * index) % 36);
    std::iter::once(2).chain(inner).chain([3]).collect()
}

/// Rows with a class each.
pub(crate) fn classes(n: usize, num_labels: usize) -> Dataset {
    dataset((0..n).map(|index| json!({ "input_ids": ids(index), "labels": index * index % num_labels })))
}

/// Rows with a class for some of their tokens: from one in most rows to all in some.
pub(crate) fn tags(n: usize, num_labels: usize) -> Dataset {
    dataset((0..n).map(|index| {
        let ids = ids(index);
        let few = index % 16 < 8;
        let labels: Vec<i64> = (0..ids.len())
            .map(|place| if few && place != 1 { -100 } else { ((index + place) % num_labels) as i64 })
            .collect();
        json!({ "input_ids": ids, "labels": labels })
    }))
}

/// Arguments that write nothing and show nothing unless they say so.
pub(crate) fn arguments(given: Json) -> TrainingArguments {
    let mut all = json!({ "save_strategy": "no", "logging_steps": 1, "learning_rate": 1e-3 });
    all.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
    let pairs = all.as_object().unwrap().clone().into_iter().map(|(key, value)| (key, Value::from(value)));
    TrainingArguments::from_pairs(pairs.collect()).unwrap().0
}

/// A trainer.
pub(crate) fn trainer(model: &Model, args: Json, train: &Dataset, eval: Option<&Dataset>) -> Trainer {
    Trainer::new(TrainerSettings {
        model: model.clone(),
        args: arguments(args),
        train_dataset: Some(train.clone()),
        eval_dataset: eval.cloned().map(EvaluationData::One),
        tokenizer: None,
        task_options: retune::data::Row::default(),
    })
    .unwrap()
}

/// Trains without anything that listens.
pub(crate) fn train(model: &Model, args: Json, train: &Dataset, eval: Option<&Dataset>) -> Trainer {
    let mut trainer = trainer(model, args, train, eval);
    trainer.train(None, &mut Hooks::default()).unwrap();
    trainer
}

/// The model's parameters by name.
pub(crate) fn weights(model: &Model) -> IndexMap<String, Vec<f32>> {
    let values = |tensor: candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    model.parameters().all().iter().map(|one| (one.name().to_string(), values(one.tensor()))).collect()
}

/// Weights as bits: equal only where they are the same numbers.
pub(crate) fn bits(model: &Model) -> Vec<(String, Vec<u32>)> {
    weights(model).into_iter().map(|(name, values)| (name, values.into_iter().map(f32::to_bits).collect())).collect()
}

/// The largest difference between two models' weights.
pub(crate) fn distance(one: &Model, other: &Model) -> f32 {
    let (one, other) = (weights(one), weights(other));
    let pairs = one.iter().flat_map(|(name, values)| values.iter().zip(&other[name]));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The entries of the log history that have `key`: its values.
pub(crate) fn logged(trainer: &Trainer, key: &str) -> Vec<f64> {
    trainer.state().log_history.iter().filter_map(|log| log.get(key)).map(|value| value.as_f64().unwrap()).collect()
}

/// The log history without what the clock says.
pub(crate) fn timeless(state: &TrainerState) -> Vec<serde_json::Map<String, Json>> {
    let timed = |key: &str| key.ends_with("_runtime") || key.ends_with("_per_second");
    let entry = |log: &serde_json::Map<String, Json>| {
        log.iter().filter(|(key, _)| !timed(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    state.log_history.iter().map(entry).collect()
}

/// One list of numbers a prediction, whatever its nesting.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::List(list) => list.iter().flat_map(numbers).collect(),
        Value::Map(map) => map.values().flat_map(numbers).collect(),
        other => vec![other.as_float().unwrap()],
    }
}

/// The scores of every row.
pub(crate) fn predict(trainer: &mut Trainer, rows: &Dataset) -> Vec<Vec<f64>> {
    let evaluation = trainer.predict(rows, &mut Hooks::default()).unwrap();
    evaluation.predictions.predictions.iter().map(numbers).collect()
}

/// A callback that is a closure.
struct Listener<F>(F);

impl<F: FnMut(Event, &mut TrainerState, &mut TrainerControl, &Extra)> Callback for Listener<F> {
    fn on_event(
        &mut self,
        event: Event,
        _args: &TrainingArguments,
        state: &mut TrainerState,
        control: &mut TrainerControl,
        extra: &Extra,
    ) -> Result<()> {
        (self.0)(event, state, control, extra);
        Ok(())
    }
}

/// Hooks with one listener.
pub(crate) fn listening<'a>(
    listener: impl FnMut(Event, &mut TrainerState, &mut TrainerControl, &Extra) + 'a,
) -> Hooks<'a> {
    Hooks { callbacks: vec![Box::new(Listener(listener))], ..Hooks::default() }
}

/// Makes each evaluation give the next of these values under `name`; the last one stays.
pub(crate) fn scripted(hooks: &mut Hooks<'_>, name: &'static str, values: &'static [f64]) {
    let mut next = 0;
    hooks.compute_metrics = Some(Box::new(move |_: &Predictions| {
        let value = values[next.min(values.len() - 1)];
        next += 1;
        Ok(Value::Map(Arc::new(IndexMap::from([(name.to_string(), Value::Float(value))]))))
    }));
}
