//! One run of a recipe: read, compile, refuse unknown arguments, run.
//!
//! Settings flow in; what the recipe does flows through the session's reporter; a diagnostic flows out where
//! it fails. Everything a run shares is in [`Host`], which a hot reload will keep while recipes change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use rhai::{AST, Engine, Scope};

use crate::api::book::Parts;
use crate::api::session::{Session, SessionSettings};
use crate::cancel::meter;
use crate::data::files::Places;
use crate::data::permissions::Permissions;
use crate::error::{Error, Result, What};
use crate::host::arguments::{Asked, imports};
use crate::host::builds::Builds;
use crate::host::diagnostics::{Diagnostic, Outcome};
use crate::host::engine::engine;
use crate::host::explain::{explain, explain_error};
use crate::host::limits::Deadline;
use crate::host::reach::fingerprint;
use crate::host::resolver::compile;
use crate::host::sources::{Sources, imported_name};
use crate::host::tasks::{Registry, loader};
use crate::report::Reporter;
use crate::train::ledger::Start;

/// What a run is made of.
#[derive(Clone)]
pub struct RunSettings {
    /// The recipe, as the user names it.
    pub recipe: PathBuf,
    /// `name=value` of the command line.
    pub arguments: BTreeMap<String, String>,
    /// A folder that replaces the embedded library.
    pub stdlib: Option<PathBuf>,
    /// Where tensors live.
    pub device: Device,
    /// The seed that wins over every seed of the recipe.
    pub seed: Option<u64>,
    /// Where everything that is shown goes.
    pub reporter: Reporter,
    /// Libraries that tasks `plugin:NAME` are looked for in, before the plugins that were allowed.
    pub plugins: Vec<PathBuf>,
    /// The builds of plugins that runs before it have opened in this process.
    pub builds: Builds,
    /// Which files its scripts may read and write: all of them, unless somebody says otherwise.
    pub permissions: Permissions,
}

impl RunSettings {
    /// A run of `recipe` on the processor, without arguments.
    pub fn new(recipe: impl Into<PathBuf>, reporter: Reporter) -> Self {
        let (arguments, stdlib, device, seed) = (BTreeMap::new(), None, Device::Cpu, None);
        let (recipe, plugins, builds) = (recipe.into(), Vec::new(), Builds::default());
        let permissions = Permissions::default();
        RunSettings { recipe, arguments, stdlib, device, seed, reporter, plugins, builds, permissions }
    }
}

/// An engine with everything that its scripts share.
pub struct Host {
    /// The engine of the recipe.
    pub engine: Engine,
    /// The session that the engine is tagged with.
    pub session: Session,
    /// The scripts that were read.
    pub sources: Sources,
    /// The time by which a call must have ended.
    pub deadline: Deadline,
    /// The tasks of its models.
    pub tasks: Registry,
    /// The builds of its plugins.
    pub builds: Builds,
    arguments: BTreeMap<String, String>,
    seed: Option<u64>,
}

impl Host {
    /// Makes a session and its engine; nothing is read yet. Every script that is read will be added to `sources`.
    pub fn new(settings: RunSettings, sources: &Sources) -> Self {
        let (sources, deadline, tasks) = (sources.clone(), Deadline::default(), Registry::default());
        let builds = settings.builds;
        builds.begin_run();
        // The library is the user's own choice, from the command line.
        let permissions = settings.stdlib.iter().fold(settings.permissions, |known, folder| known.and_read(folder));
        let session = Session::new(SessionSettings {
            places: Places { roots: roots(&settings.recipe), stdlib: settings.stdlib, permissions },
            device: settings.device,
            reporter: settings.reporter,
            arguments: settings.arguments.clone(),
            seed: settings.seed,
            tasks: loader(&sources, &deadline, &tasks, &settings.plugins, &builds),
            recipe: settings.recipe,
        });
        session.live().end_by(&deadline);
        let (texts, recipe) = (sources.clone(), session.recipe().to_string_lossy().into_owned());
        session.tell_functions_by(Arc::new(move |name| fingerprint(&texts.texts(), &recipe, name)));
        let texts = sources.clone();
        session.keep_texts_by(Arc::new(move || texts.texts()));
        let engine = engine(session.clone(), &sources, &deadline);
        Host { engine, session, sources, deadline, tasks, builds, arguments: settings.arguments, seed: settings.seed }
    }

    /// Records the run in the folder of the first trainer that trains, for `retune replay` and `retune bake`.
    ///
    /// # Errors
    /// A recipe that cannot be read.
    pub fn record(&self) -> Result<()> {
        let recipe = self.recipe_name();
        let text = self.sources.read(self.session.places(), &recipe)?;
        self.sources.add(&recipe, &text);
        let start = Start {
            recipe,
            working_dir: std::env::current_dir().unwrap_or_default(),
            arguments: self.arguments.clone(),
            seed: self.seed,
            stdlib: self.session.places().stdlib.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Start::default()
        };
        let (sources, builds) = (self.sources.clone(), self.builds.clone());
        let parts = move || Parts { texts: sources.texts(), builds: builds.contents() };
        self.session.live().book().record_as(start, Box::new(parts));
        Ok(())
    }

    /// The recipe's name in messages.
    pub fn recipe_name(&self) -> String {
        self.session.recipe().to_string_lossy().into_owned()
    }

    /// Reads and compiles the recipe, and refuses arguments that it does not ask for.
    ///
    /// # Errors
    /// A recipe that cannot be read or compiled, or an unknown argument.
    pub fn compile(&self) -> Outcome<AST> {
        let name = self.recipe_name();
        let text = self.sources.read(self.session.places(), &name)?;
        self.sources.add(&name, &text);
        let ast = compile(&self.engine, &name, &text).map_err(|error| self.explain(&error))?;
        if !self.arguments.is_empty() {
            let mut asked = Asked::default();
            self.learn(&mut asked, &name, &ast, &mut vec![name.clone()]);
            asked.refuse_others(&self.arguments)?;
        }
        Ok(ast)
    }

    /// Runs the recipe from its first line to its last, on a thread whose stack is deep enough for the limits on depth.
    ///
    /// # Errors
    /// Everything that [`Host::compile`] refuses, and what goes wrong on the way.
    pub fn run(&self) -> Outcome {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("recipe".into()).stack_size(STACK);
            let running = thread.spawn_scoped(scope, || self.run_here()).map_err(|error| {
                Error::from(What::Internal(format!("the recipe's thread could not be started: {error}")))
            })?;
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn run_here(&self) -> Outcome {
        let (_in_force, _ticking) = (self.deadline.enforce(), meter::tick());
        let ast = self.compile()?;
        self.engine.run_ast_with_scope(&mut Scope::new(), &ast).map_err(|error| self.explain(&error))?;
        self.session.refuse_unasked()?;
        Ok(())
    }

    /// Explains an error of one of this run's scripts.
    pub fn explain(&self, error: &rhai::EvalAltResult) -> Box<Diagnostic> {
        explain(error, &self.engine, &self.sources, &self.recipe_name())
    }

    /// Explains an error of the library in this run.
    pub fn explain_error(&self, error: &Error) -> Box<Diagnostic> {
        explain_error(error, &self.engine, &self.sources, &self.recipe_name())
    }

    /// Collects the `arg` calls of a script and its imports. Imports that cannot be read are left to the run, which says more.
    fn learn(&self, asked: &mut Asked, name: &str, ast: &AST, seen: &mut Vec<String>) {
        asked.learn(ast);
        for (path, _) in imports(ast) {
            let imported = imported_name(name, &path);
            if seen.contains(&imported) {
                continue;
            }
            seen.push(imported.clone());
            let text = self.sources.read(self.session.places(), &imported);
            match text.ok().and_then(|text| compile(&self.engine, &imported, &text).ok()) {
                Some(ast) => self.learn(asked, &imported, &ast, seen),
                None => asked.computed = true,
            }
        }
    }
}

/// Bytes of stack for a recipe: calls as deep as the limit overflowed 2 MiB without optimization, and callbacks nest
/// further. Pages that are never touched cost nothing.
const STACK: usize = 64 << 20;

/// Where relative paths are looked up: the working directory, then the recipe's folder.
fn roots(recipe: &Path) -> std::sync::Arc<[PathBuf]> {
    let folder = recipe.parent().filter(|folder| !folder.as_os_str().is_empty());
    [PathBuf::new()].into_iter().chain(folder.map(Path::to_path_buf)).collect()
}
