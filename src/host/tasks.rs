//! Where tasks come from: `std/tasks/NAME` or a path to a `.rhai` file; those of plugins are left to `plugins`.
//!
//! A name flows in; the compiled script with an engine of its own flows out. What the functions of a task
//! mean is left to `head`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::api::session::{Session, TaskLoader};
use crate::data::digest::digest;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{lower, type_name};
use crate::head::script::{ScriptTask, TaskVersion};
use crate::host::builds::Builds;
use crate::host::engine::engine;
use crate::host::limits::Deadline;
use crate::host::pieces::Pieces;
use crate::host::plugins;
use crate::host::reload::Texts;
use crate::host::resolver::compile;
use crate::host::sources::{Sources, imported_name};

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
/// An unknown name, a script that does not compile, a plugin.
pub fn load_task(session: &Session, sources: &Sources, deadline: &Deadline, name: &str) -> Result<LoadedTask> {
    if name.starts_with(plugins::PREFIX) {
        let error = Error::new(What::Unsupported(format!("reading the task `{name}` as a script")));
        return Err(error.hint("a script can extend scripts alone"));
    }
    let path = imported_name("", name);
    let path = match session.places().path(&path)? {
        Some(found) => found.to_string_lossy().into_owned(),
        None => path,
    };
    let text = sources.read(session.places(), &path)?;
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

/// Where a task's scripts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskPlace {
    path: String,
    /// The script of the task that it extends.
    base: Option<String>,
}

impl TaskPlace {
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        [Some(self.path.as_str()), self.base.as_deref()].into_iter().flatten()
    }

    /// The texts that the task is made of.
    fn texts(&self, texts: &Texts) -> Vec<Option<Arc<str>>> {
        self.paths().map(|path| texts.get(path).cloned()).collect()
    }
}

/// The tasks of a run's models. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Vec<Registered>>>);

struct Registered {
    task: Weak<ScriptTask>,
    place: TaskPlace,
    engine: Arc<rhai::Engine>,
    /// The texts of the version that is called now.
    made_of: Vec<Option<Arc<str>>>,
}

impl Registry {
    /// Where the scripts of the tasks are.
    pub(crate) fn places(&self) -> Vec<TaskPlace> {
        self.lock().iter().map(|known| known.place.clone()).collect()
    }

    fn add(&self, task: &Arc<ScriptTask>, place: TaskPlace, engine: Arc<rhai::Engine>, sources: &Sources) {
        let made_of = place.texts(&sources.texts());
        task.set_fingerprint(fingerprint(&made_of));
        let mut known = self.lock();
        known.retain(|other| other.task.strong_count() > 0);
        known.push(Registered { task: Arc::downgrade(task), place, engine, made_of });
    }

    /// Compiles the tasks that are made of scripts in `names`, and lets it be.
    ///
    /// # Errors
    /// A script that does not compile or is no task any more.
    pub(crate) fn try_texts(&self, engine: &rhai::Engine, texts: &Texts, names: &BTreeSet<String>) -> Result<()> {
        for known in self.lock().iter().filter(|known| known.place.paths().any(|path| names.contains(path))) {
            let Some(task) = known.task.upgrade() else { continue };
            version(&task, &known.place, engine, texts)?;
        }
        Ok(())
    }

    /// Lets the models call these texts from now on.
    pub(crate) fn take_up(&self, texts: &Texts) {
        for known in self.lock().iter_mut() {
            let made_of = known.place.texts(texts);
            let Some(task) = known.task.upgrade().filter(|_| made_of != known.made_of) else { continue };
            // They were tried before; a task whose text is not known stays as it is.
            if let Ok(version) = version(&task, &known.place, &known.engine, texts) {
                task.set_version(version);
                task.set_fingerprint(fingerprint(&made_of));
                known.made_of = made_of;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digest of the functions in these texts; none where they import others.
fn fingerprint(texts: &[Option<Arc<str>>]) -> Option<String> {
    let mut said = String::new();
    for text in texts {
        let pieces = Pieces::of(text.as_ref()?);
        if !pieces.imports.is_empty() {
            return None;
        }
        pieces.functions.iter().for_each(|function| said += &format!("{}\n", function.tokens));
    }
    Some(digest(said.as_bytes()))
}

fn version(task: &ScriptTask, place: &TaskPlace, engine: &rhai::Engine, texts: &Texts) -> Result<Arc<TaskVersion>> {
    let ast = |path: &str| -> Result<rhai::AST> {
        let missing = || Error::new(What::NotFound { kind: "script", name: path.to_string() });
        let text = texts.get(path).ok_or_else(missing)?;
        compile(engine, path, text).map_err(|error| lower(error).at(crate::error::Place::file(path)))
    };
    let base = place.base.as_deref().map(ast).transpose()?;
    task.other_version(ast(&place.path)?, base.as_ref())
}

/// The loader that a session is given; tasks that it loads are kept in `registry`, `libraries` are the plugins of the
/// command line, `builds` those that were opened.
pub(crate) fn loader(
    sources: &Sources,
    deadline: &Deadline,
    registry: &Registry,
    libraries: &[PathBuf],
    builds: &Builds,
) -> Arc<TaskLoader> {
    let (sources, deadline, registry) = (sources.clone(), deadline.clone(), registry.clone());
    let (libraries, builds) = (libraries.to_vec(), builds.clone());
    Arc::new(move |session, name, library| {
        if let Some(head) = name.strip_prefix(plugins::PREFIX) {
            let engine = Arc::new(engine(session.clone(), &sources, &deadline));
            return plugins::task(session, engine, (&libraries, &builds), head, library);
        }
        if library.is_some() {
            let problem = format!("`plugin_path` is for tasks `plugin:NAME`, but the task is `{name}`");
            return Err(What::Conflict(problem).into());
        }
        let LoadedTask { name, engine, ast, path, .. } = load_task(session, &sources, &deadline, name)?;
        let base = match extended(&engine, &ast, &path)? {
            Some(base) => Some(load_task(session, &sources, &deadline, &base)?),
            None => None,
        };
        let place = TaskPlace { path, base: base.as_ref().map(|base| base.path.clone()) };
        let task = Arc::new(ScriptTask::new(name, engine.clone(), ast, base.as_ref().map(|base| &base.ast))?);
        registry.add(&task, place, engine, &sources);
        Ok(task)
    })
}
