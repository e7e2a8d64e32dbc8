//! Where task scripts come from: `std/tasks/NAME` or a path to a `.rhai` file.
//!
//! A name flows in; the compiled script with an engine of its own flows out. What the functions of a task
//! mean is left to `head`.

use std::sync::Arc;

use crate::api::session::{Session, TaskLoader};
use crate::error::{Error, Result, What};
use crate::head::script::ScriptTask;
use crate::head::script::convert::{lower, type_name};
use crate::host::engine::engine;
use crate::host::limits::Deadline;
use crate::host::resolver::compile;
use crate::host::sources::{Sources, imported_name, read_script};

/// A task script, compiled.
pub struct LoadedTask {
    /// The name it was asked for by.
    pub name: String,
    /// Where it was found: a path, or `std/...`.
    pub path: String,
    /// Its text.
    pub source: Arc<str>,
    /// The compiled script.
    pub ast: rhai::AST,
    /// The engine that compiled it and calls its functions.
    pub engine: Arc<rhai::Engine>,
}

/// Finds and compiles the task `name`. Relative paths are tried beside the recipe and in the working directory.
///
/// # Errors
/// An unknown name, a script that does not compile, and plugins, which this version does not have.
pub fn load_task(session: &Session, sources: &Sources, deadline: &Deadline, name: &str) -> Result<LoadedTask> {
    if name.starts_with("plugin:") {
        let error = Error::new(What::Unsupported(format!("the task `{name}`")));
        return Err(error.hint("native plugins are not part of this version; write the task as a `.rhai` script"));
    }
    let path = imported_name("", name);
    let path = match session.places().path(&path) {
        Some(found) => found.to_string_lossy().into_owned(),
        None => path,
    };
    let text = read_script(session.places(), &path)?;
    let source = sources.add(&path, &text);
    let engine = engine(session.clone(), sources, deadline);
    let ast = compile(&engine, &path, &text).map_err(|error| lower(error).at(crate::error::Place::file(&path)))?;
    Ok(LoadedTask { name: name.to_string(), path, source, ast, engine: Arc::new(engine) })
}

/// The task that a script extends: what its function `extends()` returns.
fn extended(engine: &rhai::Engine, ast: &rhai::AST, path: &str) -> Result<Option<String>> {
    if !ast.iter_functions().any(|function| function.name == "extends" && function.params.is_empty()) {
        return Ok(None);
    }
    let options = rhai::CallFnOptions::new().eval_ast(false);
    let value: rhai::Dynamic =
        engine.call_fn_with_options(options, &mut rhai::Scope::new(), ast, "extends", ()).map_err(lower)?;
    let base = value.clone().into_string().map_err(|_| {
        let (name, got) = ("what `extends` returns".into(), type_name(&value));
        Error::new(What::WrongType { name, wanted: "the name of a task".into(), got })
            .at(crate::error::Place::file(path))
    })?;
    Ok(Some(base))
}

/// The loader that a session is given.
pub(crate) fn loader(sources: &Sources, deadline: &Deadline) -> Arc<TaskLoader> {
    let (sources, deadline) = (sources.clone(), deadline.clone());
    Arc::new(move |session, name| {
        let LoadedTask { name, engine, ast, path, .. } = load_task(session, &sources, &deadline, name)?;
        let base = match extended(&engine, &ast, &path)? {
            Some(base) => Some(load_task(session, &sources, &deadline, &base)?.ast),
            None => None,
        };
        Ok(Arc::new(ScriptTask::new(name, engine, ast, base.as_ref())?))
    })
}
