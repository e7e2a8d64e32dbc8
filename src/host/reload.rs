//! From changed scripts to what a run can do about them: a new version, new arguments, a notice, a refusal, a new run.
//!
//! Texts flow in; the whole import graph is compiled beside the running one and compared with it in pieces; a
//! [`Request`] for the moment between two updates flows out, or the run is asked to begin again. What is right while it runs is
//! left to `api::between`; when files change, to `watching`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rhai::{AST, Dynamic, Engine, Position};

use crate::api::live::{Edit, Live, Request, Shown, Version};
use crate::api::session::Session;
use crate::cancel::Deadline;
use crate::data::Value;
use crate::data::digest::digest;
use crate::error::{Error, What};
use crate::head::rebuild::Change;
use crate::head::script::convert::from_dynamic;
use crate::host::builds::{self, Builds, Libraries};
use crate::host::check::unknown_calls;
use crate::host::diagnostics::{Diagnostic, Style};
use crate::host::diff::diff;
use crate::host::engine::engine;
use crate::host::explain::{explain, explain_error};
use crate::host::names::Api;
use crate::host::pieces::{Pieces, line_of};
use crate::host::reach::Reach;
use crate::host::resolver::compile;
use crate::host::run::Host;
use crate::host::sources::{Sources, imported_name};
use crate::host::tasks::Registry;
use crate::plugin::Plugin;
use crate::train::ledger::{FileChange, Outcome};
use crate::train::live_arguments::{Takes, takes};

/// Which edits run the recipe again from its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reruns {
    /// None: what cannot change while the run goes on is noted.
    Never,
    /// Those that cannot change while the run goes on.
    WhereNeeded,
    /// All.
    Always,
}

/// The texts of scripts by name.
pub type Texts = BTreeMap<String, Arc<str>>;

/// What a module's top level may take when it is compiled anew.
const TOP_LEVEL: Duration = Duration::from_secs(2);

/// Makes requests of changed scripts.
pub struct Reloader {
    live: Live,
    session: Session,
    /// The scripts of the run, and the copy in which new texts are compiled.
    sources: Sources,
    beside: Sources,
    engine: Engine,
    deadline: Deadline,
    tasks: Registry,
    builds: Builds,
    api: OnceLock<Api>,
    recipe: String,
    reruns: Reruns,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the files hold now, where it is not what the run began with; none where a file is gone.
    disk: BTreeMap<String, Option<Arc<str>>>,
    /// Builds of plugins that were opened and wait to be taken up, with the contents of their files.
    builds: BTreeMap<String, (Arc<Plugin>, Arc<[u8]>)>,
}

/// Modules by the names that a script imports them under.
type Imports = Vec<(String, rhai::Shared<rhai::Module>)>;

/// What was found out about a candidate.
type Found<T> = Result<T, Box<Diagnostic>>;

impl Reloader {
    /// A reloader for the scripts of `host`, whose texts are held from now on.
    pub fn new(host: &Host, reruns: Reruns) -> Self {
        host.sources.hold();
        let (beside, deadline) = (Sources::default(), Deadline::default());
        let mut engine = engine(host.session.clone(), &beside, &deadline);
        // A module that is compiled beside the running one has been heard already.
        engine.on_print(|_| {});
        engine.on_debug(|_, _, _| {});
        let live = host.session.live().clone();
        live.show_by(shows(host));
        Reloader {
            live,
            session: host.session.clone(),
            sources: host.sources.clone(),
            beside,
            engine,
            deadline,
            tasks: host.tasks.clone(),
            builds: host.builds.clone(),
            api: OnceLock::new(),
            recipe: host.recipe_name(),
            reruns,
            state: Mutex::default(),
        }
    }

    /// Makes of changed scripts what the run can do about them; nothing where they hold what the run has.
    pub fn propose(&self, changed: Vec<(String, Option<Arc<str>>)>) -> Option<Request> {
        let gone = changed.iter().find(|(_, text)| text.is_none()).map(|(name, _)| name.clone());
        self.lock().disk.extend(changed);
        if let Some(name) = gone {
            let what = What::NotFound { kind: "script", name: name.clone() };
            let error = Error::new(what).hint("the run goes on with the text it has");
            let old = self.accepted().get(&name).map(|text| digest(text.as_bytes())).unwrap_or_default();
            return Some(self.refused(FileChange { file: name, old, ..FileChange::default() }, &error));
        }
        // What an editor or a full disk has left of a script is no edit.
        let is_empty = |text: &Option<Arc<str>>| text.as_ref().is_some_and(|text| text.trim().is_empty());
        let mut state = self.lock();
        let empty = state.disk.iter().find(|(_, text)| is_empty(text)).map(|(name, _)| name.clone());
        let empty = empty.and_then(|name| Some((name.clone(), state.disk.remove(&name)?)));
        drop(state);
        if let Some((name, text)) = empty {
            let (old, new) = (self.accepted().remove(&name), text.unwrap_or_default());
            let digest = |text: &str| digest(text.as_bytes());
            let error = Error::new(What::BadData(format!("script `{name}` is empty")));
            let file = FileChange {
                file: name,
                old: old.map(|old| digest(&old)).unwrap_or_default(),
                new: digest(&new),
                diff: String::new(),
            };
            return Some(self.refused(file, &error.hint("the run goes on with the text it has")));
        }
        self.request()
    }

    /// Makes of the file of a plugin what the run can do about it; nothing where it is the build that the run has, or one that
    /// has failed before.
    pub fn propose_build(&self, file: &str, content: Option<Arc<[u8]>>) -> Option<Request> {
        self.note_build(file, content).or_else(|| self.request())
    }

    /// Opens what was built as `file`, for the next request. Gives its refusal where that fails.
    pub(crate) fn note_build(&self, file: &str, content: Option<Arc<[u8]>>) -> Option<Request> {
        let old = self.accepted_builds().get(file).map(|plugin| plugin.sha256.clone()).unwrap_or_default();
        let new = content.as_ref().map(|content| digest(content)).unwrap_or_default();
        let change = FileChange { file: file.to_string(), old: old.clone(), new: new.clone(), diff: String::new() };
        self.lock().builds.remove(file);
        let Some(content) = content else { return Some(self.refused(change, &builds::gone(file))) };
        if new != old && self.bad().contains(&(file.to_string(), new)) {
            return None;
        }
        // The canary takes its time, and nobody waits for it.
        match self.builds.open(file, &content) {
            Ok(plugin) => self.lock().builds.insert(file.to_string(), (plugin, content)),
            Err(error) => return Some(self.refused(change, &error)),
        };
        None
    }

    fn refused(&self, file: FileChange, error: &Error) -> Request {
        let refused = Some(shown(&Diagnostic::from(error), &self.sources));
        Request::Edit(Box::new(Edit { files: vec![file], refused, ..Edit::default() }))
    }

    /// What the run can do about all that differs on disk from what it has.
    fn request(&self) -> Option<Request> {
        let (accepted, has) = (self.accepted(), self.accepted_builds());
        let bad = self.bad();
        let (mut texts, mut libraries) = (accepted.clone(), has.clone());
        let (mut files, mut builds) = (Vec::new(), Vec::new());
        let mut state = self.lock();
        for (name, text) in &state.disk {
            let Some(text) = text else { continue };
            let old = accepted.get(name).map_or("", |old| old);
            let new = digest(text.as_bytes());
            if old == &**text || bad.contains(&(name.clone(), new.clone())) {
                continue;
            }
            texts.insert(name.clone(), text.clone());
            let (old_digest, diff) = (digest(old.as_bytes()), diff(old, text));
            files.push(FileChange { file: name.clone(), old: old_digest, new, diff });
        }
        let names: BTreeSet<String> = files.iter().map(|file| file.file.clone()).collect();
        let is_open = |file: &String, plugin: &Plugin| {
            let same = has.get(file).is_some_and(|known| known.sha256 == plugin.sha256);
            !same && !bad.contains(&(file.clone(), plugin.sha256.clone()))
        };
        state.builds.retain(|file, (plugin, _)| is_open(file, plugin));
        for (file, (plugin, content)) in &state.builds {
            libraries.insert(file.clone(), plugin.clone());
            let old = has.get(file).map(|known| known.sha256.clone()).unwrap_or_default();
            builds.push((plugin.sha256.clone(), content.clone()));
            files.push(FileChange { file: file.clone(), old, new: plugin.sha256.clone(), diff: String::new() });
        }
        drop(state);
        if files.is_empty() {
            return None;
        }
        if self.live.version().is_none() {
            self.live.begin_with(Arc::new(self.version(accepted.clone(), has, None, Vec::new())));
        }
        self.beside.hold_only(texts.clone());
        let edit = match self.examine(&accepted, (&texts, libraries), &names) {
            Ok(edit) if edit.restart.is_some() && self.reruns != Reruns::Never => {
                self.live.ask_restart(&edit.restart.unwrap_or_default(), files);
                return None;
            }
            Ok(edit) => edit,
            Err(diagnostic) => Edit { refused: Some(shown(&diagnostic, &self.beside)), ..Edit::default() },
        };
        let mut functions = edit.functions;
        let anew = files.iter().filter(|file| !names.contains(&file.file));
        functions.extend(anew.filter_map(|file| self.builds.heads(&file.file)));
        Some(Request::Edit(Box::new(Edit { texts: new_texts(&files, &texts), files, builds, functions, ..edit })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The builds that the run has.
    fn accepted_builds(&self) -> Libraries {
        let mut libraries = self.builds.libraries();
        if let Some(version) = self.live.settled_version() {
            libraries.extend(version.libraries.iter().map(|(file, plugin)| (file.clone(), plugin.clone())));
        }
        libraries
    }

    /// The texts that the run has.
    fn accepted(&self) -> Texts {
        let mut texts = self.sources.texts();
        if let Some(version) = self.live.settled_version() {
            texts.extend(version.texts.iter().map(|(name, text)| (name.clone(), text.clone())));
        }
        texts
    }

    /// Contents that failed are not tried again until they change.
    fn bad(&self) -> BTreeSet<(String, String)> {
        let failed = self.live.book().ledger().into_iter().flat_map(|entry| {
            let outcome = entry.outcome;
            entry.files.into_iter().filter_map(move |file| match outcome {
                Outcome::Refused => Some((file.file, file.new)),
                Outcome::RolledBack => Some((file.file, file.old)),
                _ => None,
            })
        });
        failed.collect()
    }

    /// Compiles the graph and compares it with the running one.
    fn examine(&self, old: &Texts, (new, libraries): (&Texts, Libraries), names: &BTreeSet<String>) -> Found<Edit> {
        self.deadline.set(TOP_LEVEL);
        let in_force = self.deadline.enforce();
        let compiled = self.compile(new, names);
        drop(in_force);
        self.deadline.clear();
        let (recipe, imports) = compiled?;
        let mut edit = Edit::default();
        let pieces = |texts: &Texts| -> BTreeMap<String, Pieces> {
            texts.iter().map(|(name, text)| (name.clone(), Pieces::of(text))).collect()
        };
        let (before, after) = (pieces(old), pieces(new));
        if self.reruns == Reruns::Always {
            edit.restart = Some("every edit runs the recipe again".into());
            return Ok(edit);
        }
        let reach = Reach::of(&before, &self.recipe, &self.tasks.places(), &self.live.used());
        for name in names {
            let (Some(was), Some(is)) = (before.get(name), after.get(name)) else { continue };
            self.compare(name, was, is, &reach, new, &mut edit);
        }
        let functions = Some(recipe.shared_lib().clone());
        edit.version = Some(Arc::new(self.version(new.clone(), libraries, functions, imports)));
        Ok(edit)
    }

    /// Compares two versions of a script.
    fn compare(&self, name: &str, was: &Pieces, is: &Pieces, reach: &Reach, texts: &Texts, edit: &mut Edit) {
        let changed = was.changed_functions(is);
        let restart = |edit: &mut Edit, why: String| {
            edit.restart.get_or_insert(why);
        };
        if let Some(function) = changed.iter().find(|function| reach.has(name, function)) {
            restart(edit, format!("`{function}` of {name} has done its work before training began"));
        }
        edit.functions.extend(changed);
        let is_task = self.tasks.places().iter().any(|place| place.paths().any(|path| path == name));
        if is_task && name != self.recipe {
            return;
        }
        if was.top != is.top || was.arguments.len() != is.arguments.len() {
            return restart(edit, format!("the top level of {name} has changed"));
        }
        if let (Some(text), Some(closure)) =
            (texts.get(name), is.closures.iter().zip(&was.closures).find(|(new, old)| new.tokens != old.tokens))
        {
            let line = line_of(text, closure.0.at);
            let stays =
                "a closure stays what it was when it was made; a named function, `Fn(\"name\")`, changes with its text";
            edit.notices.push(format!("{name}:{line}: {stays}"));
        }
        for (was_here, is_here) in was.arguments.iter().zip(&is.arguments) {
            let mut keys: Vec<&String> = was_here.values.keys().chain(is_here.values.keys()).collect();
            keys.dedup();
            let differs = |key: &&&String| was_here.values.get(**key) != is_here.values.get(**key);
            for key in keys.iter().filter(differs).copied().collect::<BTreeSet<_>>() {
                if is.arguments.len() > 1 {
                    return restart(edit, format!("{name} has several `TrainingArguments`"));
                }
                let value = match is_here.values.get(key) {
                    None => Some(Value::Null),
                    // What depends on the recipe's variables is known to the recipe alone.
                    Some(text) => self.engine.eval_expression::<Dynamic>(text).ok().and_then(|v| from_dynamic(&v).ok()),
                };
                match value {
                    Some(_) if takes(key) == Takes::Restart && self.reruns == Reruns::WhereNeeded => {
                        return restart(edit, format!("`{key}` needs a new run"));
                    }
                    Some(value) => edit.arguments.push((key.clone(), value)),
                    None => return restart(edit, format!("`{key}` of `TrainingArguments` is not a plain value")),
                }
            }
        }
    }

    /// Compiles the recipe and what it imports.
    fn compile(&self, texts: &Texts, names: &BTreeSet<String>) -> Found<(AST, Imports)> {
        let api = self.api.get_or_init(|| Api::of(&self.engine, true));
        let mut asts: BTreeMap<&str, AST> = BTreeMap::new();
        for name in names.iter().map(String::as_str).chain([self.recipe.as_str()]) {
            if asts.contains_key(name) {
                continue;
            }
            let Some(text) = texts.get(name) else { continue };
            let ast =
                compile(&self.engine, name, text).map_err(|error| explain(&error, &self.engine, &self.beside, name))?;
            // Scripts that others extend call what others define.
            let extends = ast.iter_functions().any(|function| function.name == "extends");
            if names.contains(name)
                && !extends
                && let Some(problem) = unknown_calls(api, name, &ast).into_iter().next()
            {
                return Err(Box::new(problem));
            }
            asts.insert(name, ast);
        }
        let Some(recipe) = asts.remove(self.recipe.as_str()) else {
            let error = Error::new(What::Internal(format!("the recipe `{}` is not known", self.recipe)));
            return Err(error.into());
        };
        // What an earlier version has changed is changed in this one too.
        let first = self.live.first_version();
        let differs = |(name, text): &(&String, &Arc<str>)| {
            first.as_ref().is_none_or(|first| first.texts.get(*name).is_none_or(|old| old != *text))
        };
        let changed: BTreeSet<String> = texts.iter().filter(differs).map(|(name, _)| name.clone()).collect();
        let mut imports = Vec::new();
        let pieces = Pieces::of(texts.get(&self.recipe).map_or("", |text| text));
        for (path, alias) in pieces.imports {
            let imported = imported_name(&self.recipe, &path);
            if alias.is_empty() || !self.depends(&imported, &changed, texts, &mut BTreeSet::new()) {
                continue;
            }
            let module = self.engine.module_resolver().resolve(&self.engine, Some(&self.recipe), &path, Position::NONE);
            let module = module.map_err(|error| explain(&error, &self.engine, &self.beside, &self.recipe))?;
            imports.push((alias, module));
        }
        self.tasks
            .try_texts(&self.engine, texts, names)
            .map_err(|error| explain_error(&error, &self.engine, &self.beside, &self.recipe))?;
        Ok((recipe, imports))
    }

    /// Whether a script is one of `names` or imports one of them.
    fn depends(&self, name: &str, names: &BTreeSet<String>, texts: &Texts, seen: &mut BTreeSet<String>) -> bool {
        if names.contains(name) {
            return true;
        }
        if !seen.insert(name.to_string()) {
            return false;
        }
        let imports = texts.get(name).map(|text| Pieces::of(text).imports).unwrap_or_default();
        imports.iter().any(|(path, _)| self.depends(&imported_name(name, path), names, texts, seen))
    }

    fn version(
        &self,
        texts: Texts,
        libraries: Libraries,
        functions: Option<rhai::Shared<rhai::Module>>,
        imports: Imports,
    ) -> Version {
        let (sources, tasks, builds, session) =
            (self.sources.clone(), self.tasks.clone(), self.builds.clone(), self.session.clone());
        let (installed, built) = (texts.clone(), libraries.clone());
        let changes: Arc<Mutex<Vec<Change>>> = Arc::default();
        let changed = changes.clone();
        let install = Box::new(move || {
            for (name, text) in &installed {
                sources.add(name, text);
            }
            tasks.take_up(&installed);
            let new = builds.take_up(&session, &built)?;
            let said = builds::said(&new);
            changed.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
            Ok(said)
        });
        let undo = Box::new(move |back| {
            let all = std::mem::take(&mut *changes.lock().unwrap_or_else(PoisonError::into_inner));
            all.iter().rev().for_each(|change| change.undo(back));
        });
        Version { functions, imports, texts, libraries, install, undo }
    }

    /// The session of the run.
    pub fn session(&self) -> &Session {
        &self.session
    }
}

/// The texts of the files that changed.
fn new_texts(files: &[FileChange], texts: &Texts) -> Vec<String> {
    files.iter().filter_map(|file| texts.get(&file.file)).map(ToString::to_string).collect()
}

/// A diagnostic as people see it, and on one line.
pub(crate) fn shown(diagnostic: &Diagnostic, sources: &Sources) -> Shown {
    let style = if console::colors_enabled_stderr() { Style::Colored } else { Style::Plain };
    let place = diagnostic.location.as_ref();
    let place = place.map(|place| format!(" ({}:{}:{})", place.file, place.line, place.column));
    let place = place.or_else(|| diagnostic.places.first().map(|place| format!(" ({place})"))).unwrap_or_default();
    Shown { rendered: diagnostic.render(sources, style), message: format!("{}{place}", diagnostic.message) }
}

/// Shows errors of a run with the lines of its scripts.
fn shows(host: &Host) -> crate::api::live::Shows {
    let (sources, session, recipe) = (host.sources.clone(), host.session.clone(), host.recipe_name());
    Box::new(move |error| {
        // An engine of its own: the run's is at work.
        let engine = engine(session.clone(), &Sources::default(), &Deadline::default());
        shown(&explain_error(error, &engine, &sources, &recipe), &sources)
    })
}
