//! One run of a recipe: read, compile, refuse unknown arguments, run.
//!
//! Settings flow in; what the recipe does flows through the session's reporter; a diagnostic flows out where
//! it fails. Everything a run shares is in [`Host`], which a hot reload will keep while recipes change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use rhai::{AST, Engine, Scope};

use crate::api::session::{Session, SessionSettings};
use crate::data::files::Places;
use crate::error::{Error, What};
use crate::host::arguments::{Asked, imports};
use crate::host::diagnostics::{Diagnostic, Outcome};
use crate::host::engine::engine;
use crate::host::explain::{explain, explain_error};
use crate::host::limits::Deadline;
use crate::host::resolver::compile;
use crate::host::sources::{Sources, imported_name, read_script};
use crate::host::tasks::loader;
use crate::report::Reporter;

/// What a run is made of.
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
}

impl RunSettings {
    /// A run of `recipe` on the processor, without arguments.
    pub fn new(recipe: impl Into<PathBuf>, reporter: Reporter) -> Self {
        let (arguments, stdlib, device, seed) = (BTreeMap::new(), None, Device::Cpu, None);
        RunSettings { recipe: recipe.into(), arguments, stdlib, device, seed, reporter }
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
    arguments: BTreeMap<String, String>,
}

impl Host {
    /// Makes a session and its engine; nothing is read yet. Every script that is read will be added to `sources`.
    pub fn new(settings: RunSettings, sources: &Sources) -> Self {
        let (sources, deadline) = (sources.clone(), Deadline::default());
        let session = Session::new(SessionSettings {
            places: Places { roots: roots(&settings.recipe), stdlib: settings.stdlib },
            device: settings.device,
            reporter: settings.reporter,
            arguments: settings.arguments.clone(),
            seed: settings.seed,
            tasks: loader(&sources, &deadline),
            recipe: settings.recipe,
        });
        let engine = engine(session.clone(), &sources, &deadline);
        Host { engine, session, sources, deadline, arguments: settings.arguments }
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
        let text = read_script(self.session.places(), &name)?;
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
            let text = read_script(self.session.places(), &imported);
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
