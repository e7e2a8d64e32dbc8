//! Tasks in native code: a plugin's functions behind the task contract.
//!
//! A [`PluginTask`] is a head of an open plugin; what its `create` makes is an [`Instance`]. Each function is a call of
//! `plugin::call`, with what the contract gives it as services: `services` answers for parameters and batches, `arguments` for the
//! functions of scripts that a plugin calls, which an [`Environment`] of the host brings.

pub mod arguments;
pub mod check;
mod instance;
mod services;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Value as Json, json};

use crate::batch::Batch;
use crate::data::{Row, Value};
use crate::error::{Error, Place, Result, What};
use crate::head::rebuild::{Head, Rebuilt};
use crate::head::script::convert::{config_map, from_dynamic};
use crate::head::{Function, HeadBuilder, HeadState, Output, Task};
use crate::model::ModelConfig;
use crate::plugin::call::Given;
use crate::plugin::{Declaration, Plugin, crash};
use crate::tokenizer::Tokenizer;
pub use arguments::Argument;
pub use instance::{Adopted, Instance};
use retune_plugin_sdk::abi;
use services::{Parameters, Request};

/// What surrounds a plugin in this program: the functions of scripts, and people.
pub trait Environment: Send + Sync {
    /// Calls a function that scripts have; a name that begins with a dot reads a property.
    ///
    /// # Errors
    /// A function that does not exist, and what it raises.
    fn call(&self, function: &str, arguments: Vec<Argument>) -> Result<Argument>;

    /// Says something to people.
    fn log(&self, level: u32, text: &str);
}

/// A program without scripts around: functions are refused, and nobody listens.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Environment for Alone {
    fn call(&self, function: &str, _arguments: Vec<Argument>) -> Result<Argument> {
        Err(What::Unsupported(format!("calling `{function}` where no script is running")).into())
    }

    fn log(&self, _level: u32, _text: &str) {}
}

/// A head of a plugin as a task.
pub struct PluginTask {
    name: String,
    plugin: Arc<Plugin>,
    head: Arc<Declaration>,
    environment: Arc<dyn Environment>,
    /// The file whose later builds may take its place.
    file: Option<PathBuf>,
}

impl PluginTask {
    /// The task of the head `head` of an open plugin.
    ///
    /// # Errors
    /// A head that the plugin does not have.
    pub fn new(plugin: &Arc<Plugin>, head: &str, environment: Arc<dyn Environment>) -> Result<Self> {
        let declaration = plugin.head(head)?;
        let (name, plugin, file) = (format!("plugin:{head}"), plugin.clone(), None);
        Ok(PluginTask { name, plugin, head: declaration, environment, file })
    }

    /// The same, built as `file`: later builds of it may take its place in a run.
    pub fn built_as(self, file: PathBuf) -> Self {
        PluginTask { file: Some(file), ..self }
    }

    /// The plugin.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// A head of this task in the place of an older one: over the same parameters, by name, and with its state.
    ///
    /// # Errors
    /// A head of another kind of task, a parameter that has another shape now, and what the plugin raises.
    pub fn replace(&self, old: &HeadState, config: &ModelConfig) -> Result<(HeadState, Adopted)> {
        let old = instance(old)?;
        let (mut new, made) = self.make(&old.builder, config)?;
        if let (Some(state), Some(_)) = (old.save_state(&*self.environment)?, self.head.raw.load_state) {
            new.load_state(&*self.environment, &state)?;
        }
        let (kept, unused) = old.own.iter().cloned().partition(|name| new.parameters.contains(name));
        let kept: Vec<String> = kept;
        new.own.splice(0..0, kept);
        Ok((Arc::new(new), Adopted { made, unused }))
    }

    /// Makes a head; also gives the names of the parameters that did not exist before.
    fn make(&self, builder: &HeadBuilder, config: &ModelConfig) -> Result<(Instance, Vec<String>)> {
        let config = from_dynamic(&config_map(config)?)?.to_json().to_string();
        let mut names = Vec::new();
        let mut made = Vec::new();
        let parameters = Parameters::Create { builder, names: &mut names, made: &mut made };
        let mut request = Request::new(builder, &*self.environment, parameters);
        request.texts = vec![("config", config.into_bytes())];
        let raw = instance::create(&self.head, &mut request)?;
        let (head, plugin) = (self.head.clone(), self.plugin.clone());
        let instance = Instance::new(head, plugin, builder.clone(), raw, names, made.clone());
        Ok((instance, made))
    }

    fn call<'a>(
        &'a self,
        head: &'a Instance,
        function: &str,
        pointer: Option<abi::HeadFunction>,
        fill: impl FnOnce(&mut Request<'a>),
    ) -> Result<(Given, Request<'a>)> {
        let Some(pointer) = pointer else {
            return Err(What::Unsupported(format!("`{function}` of the task `{}`", self.name)).into());
        };
        let mut request = Request::new(&head.builder, &*self.environment, Parameters::LookUp(&head.builder));
        fill(&mut request);
        let given = head.call(function, pointer, &mut request)?;
        Ok((given, request))
    }

    /// The JSON that a function has given back.
    fn answer(&self, function: &str, given: Given) -> Result<Value> {
        let wrong =
            |problem: String| Error::new(What::Plugin(problem)).at(Place::Within(self.head.site(function).to_string()));
        let text = given.result.ok_or_else(|| wrong("it gave no result".into()))?;
        let json: Json =
            serde_json::from_slice(&text).map_err(|error| wrong(format!("its result is no JSON: {error}")))?;
        Ok(Value::from(json))
    }
}

fn json(value: &Value) -> Vec<u8> {
    value.to_json().to_string().into_bytes()
}

fn row_json(row: &Row) -> Vec<u8> {
    json(&Value::Map(row.clone()))
}

/// What a head can know of a batch beside its tensors.
fn batch_json(batch: &Batch) -> Vec<u8> {
    let kept: Vec<Json> = batch.kept.iter().map(|row| Value::Map(row.clone()).to_json()).collect();
    json!({ "rows": batch.rows, "lengths": batch.lengths, "kept": kept }).to_string().into_bytes()
}

fn instance(head: &HeadState) -> Result<&Instance> {
    head.downcast_ref().ok_or_else(|| What::Internal("a plugin was given another task's head".into()).into())
}

impl Task for PluginTask {
    fn name(&self) -> &str {
        &self.name
    }

    fn library(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn build(&self) -> Option<&str> {
        Some(&self.plugin.sha256)
    }

    fn rebuilt(&self, plugin: &Arc<Plugin>, head: &HeadState, config: &ModelConfig) -> Result<Rebuilt> {
        let task = PluginTask::new(plugin, &self.head.name, self.environment.clone())?;
        let task = PluginTask { file: self.file.clone(), ..task };
        let (state, adopted) = task.replace(head, config)?;
        Ok(Rebuilt { head: Head { task: Arc::new(task), state }, adopted })
    }

    fn has(&self, function: Function) -> bool {
        self.head.has().contains(&function.name())
    }

    fn pads_rows(&self) -> bool {
        self.head.raw.flags & abi::PADS_ROWS != 0
    }

    fn create(&self, builder: &HeadBuilder, config: &ModelConfig) -> Result<HeadState> {
        let (instance, _) = self.make(builder, config)?;
        Ok(Arc::new(instance))
    }

    fn forward(&self, head: &HeadState, hidden: &Tensor, batch: &Batch) -> Result<Output> {
        if let Some(draw) = batch.draw {
            crash::note_step(draw.step + 1);
        }
        let (given, _) = self.call(instance(head)?, "forward", self.head.raw.forward, |request| {
            request.hidden = Some(hidden);
            request.batch = Some(batch.clone());
        })?;
        let mut outputs = given.outputs;
        if outputs.is_empty() {
            let error = Error::new(What::Plugin("it gave no output".into()));
            return Err(error.at(Place::Within(self.head.site("forward").to_string())));
        }
        match (outputs.len(), outputs.swap_remove("logits")) {
            (1, Some(logits)) => Ok(Output::One(logits)),
            (_, logits) => {
                outputs.extend(logits.map(|logits| ("logits".to_string(), logits)));
                outputs.sort_keys();
                Ok(Output::Named(outputs))
            }
        }
    }

    fn loss(&self, head: &HeadState, output: &Output, batch: &Batch) -> Result<Tensor> {
        let (mut given, _) = self.call(instance(head)?, "loss", self.head.raw.loss, |request| {
            request.output = Some(output);
            request.batch = Some(batch.clone());
        })?;
        given.outputs.swap_remove("loss").ok_or_else(|| {
            let error = Error::new(What::Plugin("it gave no output `loss`".into()));
            error.at(Place::Within(self.head.site("loss").to_string()))
        })
    }

    fn options(&self) -> Result<Row> {
        Ok(self.head.options.clone())
    }

    fn encode(&self, head: &HeadState, tokenizer: &Tokenizer, row: &Row, options: &Value) -> Result<Vec<Row>> {
        let (given, _) = self.call(instance(head)?, "encode", self.head.raw.encode, |request| {
            request.tokenizer = Some(tokenizer);
            request.texts = vec![("row", row_json(row)), ("options", json(options))];
        })?;
        let features = |value: &Value| match value {
            Value::Map(map) => Ok(map.clone()),
            other => Err(Error::new(What::WrongType {
                name: format!("what `encode` of the task `{}` returns", self.name),
                wanted: "a map of features, or a list of such maps".into(),
                got: other.type_name().into(),
            })),
        };
        match self.answer("encode", given)? {
            Value::List(several) => several.iter().map(features).collect(),
            one => Ok(vec![features(&one)?]),
        }
    }

    fn collate(&self, head: &HeadState, batch: Batch, options: &Value) -> Result<Batch> {
        let (_, request) = self.call(instance(head)?, "collate", self.head.raw.collate, |request| {
            request.texts = vec![("batch", batch_json(&batch)), ("options", json(options))];
            request.batch = Some(batch);
        })?;
        request.batch.ok_or_else(|| What::Internal("a batch went away".into()).into())
    }

    fn decode(
        &self,
        head: &HeadState,
        output: &Output,
        batch: &Batch,
        options: &Value,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Value> {
        let (given, _) = self.call(instance(head)?, "decode", self.head.raw.decode, |request| {
            request.output = Some(output);
            request.tokenizer = tokenizer;
            request.texts = vec![("batch", batch_json(batch)), ("options", json(options))];
            request.batch = Some(batch.clone());
        })?;
        self.answer("decode", given)
    }

    fn merge(&self, head: &HeadState, results: &Value, row: &Row, options: &Value) -> Result<Value> {
        if !self.has(Function::Merge) {
            let problem = format!("a row gave several windows, which the task `{}` does not join", self.name);
            return Err(Error::new(What::Unsupported(problem)).hint("give the head a function `merge`"));
        }
        let (given, _) = self.call(instance(head)?, "merge", self.head.raw.merge, |request| {
            request.texts = vec![("results", json(results)), ("row", row_json(row)), ("options", json(options))];
        })?;
        self.answer("merge", given)
    }

    fn reduce(&self, head: &HeadState, output: &Output, batch: &Batch, options: &Value) -> Result<Value> {
        let (given, _) = self.call(instance(head)?, "reduce", self.head.raw.reduce, |request| {
            request.output = Some(output);
            request.texts = vec![("batch", batch_json(batch)), ("options", json(options))];
            request.batch = Some(batch.clone());
        })?;
        self.answer("reduce", given)
    }

    fn metrics(&self, head: &HeadState, predictions: &Value, references: &Value, options: &Value) -> Result<Value> {
        let (given, _) = self.call(instance(head)?, "metrics", self.head.raw.metrics, |request| {
            let texts = [("predictions", predictions), ("references", references), ("options", options)];
            request.texts = texts.map(|(name, value)| (name, json(value))).into();
        })?;
        self.answer("metrics", given)
    }

    fn save_state(&self, head: &HeadState) -> Result<Option<Vec<u8>>> {
        instance(head)?.save_state(&*self.environment)
    }

    fn load_state(&self, head: &HeadState, state: &[u8]) -> Result<()> {
        if self.head.raw.load_state.is_none() {
            let problem = format!("the model was saved with a state that the task `{}` does not have", self.name);
            return Err(What::Conflict(problem).into());
        }
        instance(head)?.load_state(&*self.environment, state)
    }

    fn record(&self) -> Option<Json> {
        Some(json!({
            "name": self.plugin.name,
            "version": self.plugin.version,
            "head": self.head.name,
            "sha256": self.plugin.sha256,
        }))
    }
}
