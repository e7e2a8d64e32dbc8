//! What `import` finds: `std/...`, or a script beside the one that imports.
//!
//! Texts are read at every import and modules are kept by content: a module is used again only while its text
//! and the texts of everything it imports are what they were. Each import is an edge of [`Sources`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhai::{Engine, EvalAltResult, GlobalRuntimeState, Module, ModuleResolver, Position, Scope, Shared};

use crate::data::files::Places;
use crate::error::{Error, What};
use crate::head::script::convert::raise;
use crate::host::sources::{Sources, imported_name};

type SharedModule = Shared<Module>;
type Resolved<T> = Result<T, Box<EvalAltResult>>;

/// The module resolver of one engine.
pub struct Resolver {
    places: Places,
    sources: Sources,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    modules: BTreeMap<String, Kept>,
    /// The modules that are being loaded, outermost first, each with what it has read so far.
    loading: Vec<(String, Read)>,
}

/// The texts that a module was made from, by name.
type Read = BTreeMap<String, Arc<str>>;

struct Kept {
    module: SharedModule,
    made_from: Read,
}

impl Resolver {
    /// A resolver that looks `std/...` up in `places` and records what it reads in `sources`.
    pub fn new(places: Places, sources: Sources) -> Self {
        Resolver { places, sources, state: Mutex::default() }
    }

    fn load(
        &self,
        engine: &Engine,
        global: &mut GlobalRuntimeState,
        importer: &str,
        path: &str,
        position: Position,
    ) -> Resolved<SharedModule> {
        // An error that is raised here happens at the `import`: the position is that of its path.
        let here = |error: Error| {
            let mut raised = raise(error);
            raised.set_position(position);
            raised
        };
        let name = imported_name(importer, path);
        if let Some(cycle) = self.cycle(&name) {
            let error = Error::new(What::Conflict(format!("`{name}` imports itself: {cycle}")));
            return Err(here(error.hint("move what both need into a third script")));
        }
        let text = self.sources.read(&self.places, &name).map_err(&here)?;
        self.sources.record(importer, &name, &text);
        if let Some(module) = self.kept(&name, &text) {
            return Ok(module);
        }
        let text = self.sources.add(&name, &text);
        self.state().loading.push((name.clone(), Read::from([(name.clone(), text.clone())])));
        let made = compile(engine, &name, &text)
            .and_then(|ast| Module::eval_ast_as_new_raw(engine, &mut Scope::new(), global, &ast));
        let mut state = self.state();
        let (_, made_from) = state.loading.pop().expect("pushed above, and loads nest");
        if let Some((_, outer)) = state.loading.last_mut() {
            outer.extend(made_from.clone());
        }
        let module: SharedModule =
            made.map_err(|error| Box::new(EvalAltResult::ErrorInModule(name.clone(), error, position)))?.into();
        state.modules.insert(name, Kept { module: module.clone(), made_from });
        Ok(module)
    }

    /// The chain of imports that leads back to `name`, where it is being loaded.
    fn cycle(&self, name: &str) -> Option<String> {
        let state = self.state();
        let from = state.loading.iter().position(|(loading, _)| loading == name)?;
        let mut chain: Vec<&str> = state.loading[from..].iter().map(|(loading, _)| loading.as_str()).collect();
        chain.push(name);
        Some(chain.join(" -> "))
    }

    /// The module made earlier, where nothing it was made from has changed.
    fn kept(&self, name: &str, text: &str) -> Option<SharedModule> {
        let mut state = self.state();
        let kept = state.modules.get(name)?;
        let unchanged = kept.made_from.iter().all(|(part, old)| match part == name {
            true => **old == *text,
            false => self.sources.read(&self.places, part).is_ok_and(|now| now == **old),
        });
        let (module, made_from) = unchanged.then(|| (kept.module.clone(), kept.made_from.clone()))?;
        if let Some((_, outer)) = state.loading.last_mut() {
            outer.extend(made_from);
        }
        Some(module)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compiles a script under its name, so that its errors and its own imports know where they are.
pub(crate) fn compile(engine: &Engine, name: &str, text: &str) -> Resolved<rhai::AST> {
    let mut ast = engine.compile(text)?;
    ast.set_source(name);
    Ok(ast)
}

impl ModuleResolver for Resolver {
    fn resolve_raw(
        &self,
        engine: &Engine,
        global: &mut GlobalRuntimeState,
        _scope: &mut Scope<'_>,
        path: &str,
        position: Position,
    ) -> Resolved<SharedModule> {
        let importer = global.source().unwrap_or_default().to_string();
        self.load(engine, global, &importer, path, position)
    }

    fn resolve(&self, engine: &Engine, source: Option<&str>, path: &str, position: Position) -> Resolved<SharedModule> {
        let mut global = engine.new_global_runtime_state();
        self.load(engine, &mut global, source.unwrap_or_default(), path, position)
    }
}
