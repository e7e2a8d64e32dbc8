//! Tasks of plugins: found and opened, and given the functions that scripts have.
//!
//! A plugin calls a function by its name with arguments that were JSON; here it is called on an engine like that of a task
//! script, so that whatever a script may call a plugin may call, with the same result.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use retune_plugin_sdk::abi;
use rhai::{AST, Dynamic, Engine, EvalAltResult, Scope};

use crate::api::session::Session;
use crate::batch::Batch;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::Task;
use crate::head::plugin::{Argument, Environment, PluginTask};
use crate::head::script::convert::{from_dynamic, to_dynamic};
use crate::host::builds::Builds;
use crate::report::Reporter;
use crate::tokenizer::Tokenizer;

/// What the name of a plugin's task begins with.
pub const PREFIX: &str = "plugin:";

/// The task of the head `head`: in `library` where it is given, else in one of `libraries`, else among the allowed plugins.
///
/// # Errors
/// A plugin that is not there, was not allowed, or fails when it is tried out.
pub fn task(
    session: &Session,
    engine: Arc<Engine>,
    (libraries, builds): (&[PathBuf], &Builds),
    head: &str,
    library: Option<&Path>,
) -> Result<Arc<dyn Task>> {
    let (plugin, file) = builds.find(libraries, head, library)?;
    let environment = Arc::new(Scripts::new(engine, session.reporter().clone()));
    Ok(Arc::new(PluginTask::new(&plugin, head, environment)?.built_as(file)))
}

/// The functions of scripts, for plugins.
pub struct Scripts {
    engine: Arc<Engine>,
    reporter: Reporter,
    /// The calls that were made before, compiled: by name and number of arguments.
    calls: Mutex<HashMap<(String, usize), Arc<AST>>>,
}

impl Scripts {
    /// The functions of an engine; what plugins say goes to `reporter`.
    pub fn new(engine: Arc<Engine>, reporter: Reporter) -> Self {
        Scripts { engine, reporter, calls: Mutex::default() }
    }

    /// `NAME(a0, a1, ...)`, or `a0.NAME` for a name that begins with a dot.
    fn compiled(&self, function: &str, n_arguments: usize) -> Result<Arc<AST>> {
        let key = (function.to_string(), n_arguments);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = calls.get(&key) {
            return Ok(known.clone());
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':')
        };
        let property = function.strip_prefix('.');
        if !is_name(property.unwrap_or(function)) || (property.is_some() && n_arguments != 1) {
            let error = Error::new(What::Plugin(format!("`{function}` with {n_arguments} arguments is no function")));
            return Err(error.hint("a property is `.name`, with its object as the only argument"));
        }
        let names: Vec<String> = (0..n_arguments).map(|place| format!("a{place}")).collect();
        let text = match property {
            Some(property) => format!("a0.{property}"),
            None => format!("{function}({})", names.join(", ")),
        };
        let mut scope = Scope::new();
        for name in &names {
            scope.push(name.as_str(), ());
        }
        let compiled = self.engine.compile_with_scope(&scope, text);
        let ast = Arc::new(compiled.map_err(|error| Error::new(What::Plugin(format!("`{function}`: {error}"))))?);
        calls.insert(key, ast.clone());
        Ok(ast)
    }
}

impl Environment for Scripts {
    fn call(&self, function: &str, arguments: Vec<Argument>) -> Result<Argument> {
        let ast = self.compiled(function, arguments.len())?;
        let mut scope = Scope::new();
        for (place, argument) in arguments.into_iter().enumerate() {
            scope.push_dynamic(format!("a{place}"), to_script(argument));
        }
        let result = self.engine.eval_ast_with_scope::<Dynamic>(&mut scope, &ast);
        from_script(result.map_err(|error| ours(&error))?)
    }

    fn log(&self, level: u32, text: &str) {
        match level {
            abi::LOG_DEBUG => {}
            abi::LOG_INFO => self.reporter.note(text),
            _ => self.reporter.warning(text),
        }
    }
}

/// The library's own error inside one of the engine's, with its hint; a plain text for any other.
fn ours(error: &EvalAltResult) -> Error {
    match error {
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) | EvalAltResult::ErrorInModule(_, inner, _) => ours(inner),
        EvalAltResult::ErrorRuntime(value, _) => match value.read_lock::<Error>() {
            Some(error) => error.clone(),
            None => What::Script(value.to_string()).into(),
        },
        EvalAltResult::ErrorFunctionNotFound(call, _) => {
            let error = Error::new(What::Plugin(format!("scripts have no function `{call}`")));
            error.hint("`retune reference` lists the functions that scripts have, with the types they take")
        }
        other => What::Script(other.to_string()).into(),
    }
}

fn to_script(argument: Argument) -> Dynamic {
    match argument {
        Argument::Value(value) => to_dynamic(&value),
        Argument::List(list) => Dynamic::from_array(list.into_iter().map(to_script).collect()),
        Argument::Map(map) => {
            Dynamic::from_map(map.into_iter().map(|(key, value)| (key.into(), to_script(value))).collect())
        }
        Argument::Tensor(tensor) => Dynamic::from(tensor),
        Argument::Batch(batch) => Dynamic::from((*batch).clone()),
        Argument::Tokenizer(tokenizer) => Dynamic::from(*tokenizer),
        Argument::Object(object) => object.downcast_ref::<Dynamic>().cloned().unwrap_or_default(),
    }
}

fn from_script(value: Dynamic) -> Result<Argument> {
    let is_plain = |argument: &Argument| matches!(argument, Argument::Value(_));
    if let Some(tensor) = value.read_lock::<candle_core::Tensor>() {
        return Ok(Argument::Tensor(tensor.clone()));
    }
    if let Some(batch) = value.read_lock::<Batch>() {
        return Ok(Argument::Batch(Arc::new(batch.clone())));
    }
    if let Some(tokenizer) = value.read_lock::<Tokenizer>() {
        return Ok(Argument::Tokenizer(Box::new(tokenizer.clone())));
    }
    if let Ok(list) = value.as_array_ref() {
        let list = list.iter().map(|one| from_script(one.clone())).collect::<Result<Vec<_>>>()?;
        return Ok(match list.iter().all(is_plain) {
            true => Argument::Value(Value::List(list.into_iter().filter_map(plain).collect())),
            false => Argument::List(list),
        });
    }
    if let Ok(map) = value.as_map_ref() {
        let map = map.iter().map(|(key, value)| Ok((key.to_string(), from_script(value.clone())?)));
        let map: IndexMap<String, Argument> = map.collect::<Result<_>>()?;
        return Ok(match map.values().all(is_plain) {
            true => {
                let plain = map.into_iter().filter_map(|(key, value)| plain(value).map(|value| (key, value)));
                Argument::Value(Value::Map(Arc::new(plain.collect())))
            }
            false => Argument::Map(map),
        });
    }
    Ok(match from_dynamic(&value) {
        Ok(value) => Argument::Value(value),
        Err(_) => Argument::Object(Arc::new(value)),
    })
}

fn plain(argument: Argument) -> Option<Value> {
    if let Argument::Value(value) = argument { Some(value) } else { None }
}
