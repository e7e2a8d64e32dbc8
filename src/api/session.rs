//! What one run of a recipe shares: where names are looked up, the device, the arguments, what people see.
//!
//! The session travels as the engine's default tag, so that every function a script calls can reach it
//! through its call context.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;
use rhai::NativeCallContext;

use crate::api::live::Live;
use crate::data::files::Places;
use crate::data::permissions::Permissions;
use crate::error::{Result, What};
use crate::head::{Model, Task, WeakModel};
use crate::report::Reporter;
use crate::train::checkpoint::Scripts;

/// Loads a task by name: `std/tasks/NAME`, a path to a `.rhai` file, or `plugin:NAME`, the last from a library where one is given.
pub type TaskLoader = dyn Fn(&Session, &str, Option<&Path>) -> Result<Arc<dyn Task>> + Send + Sync;

/// The state of one run. Cheap to clone; all clones are the same run.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

struct Shared {
    places: Places,
    device: Device,
    reporter: Reporter,
    arguments: BTreeMap<String, String>,
    asked: Mutex<BTreeMap<String, String>>,
    seed: AtomicU64,
    seed_is_forced: bool,
    tasks: Arc<TaskLoader>,
    recipe: PathBuf,
    models: Mutex<Vec<WeakModel>>,
    live: Live,
    /// A run's folder, and the one that it is to be written to instead.
    redirect: Mutex<Option<(String, String)>>,
    fingerprints: Mutex<Option<Arc<Fingerprints>>>,
    texts: Mutex<Option<Arc<Texts>>>,
}

/// Gives the texts of the run's scripts by name.
pub type Texts = dyn Fn() -> Scripts + Send + Sync;

/// The digest of everything that a function of the recipe is made of; none where it may give another result another time.
pub type Fingerprints = dyn Fn(&str) -> Option<String> + Send + Sync;

/// What a session is made of.
pub struct SessionSettings {
    /// Where names are looked up.
    pub places: Places,
    /// Where tensors live.
    pub device: Device,
    /// Where everything that is shown goes.
    pub reporter: Reporter,
    /// `name=value` of the command line.
    pub arguments: BTreeMap<String, String>,
    /// `--seed`: wins over every seed of the recipe.
    pub seed: Option<u64>,
    /// How tasks are loaded.
    pub tasks: Arc<TaskLoader>,
    /// The recipe's path.
    pub recipe: PathBuf,
}

/// Hugging Face's default seed.
pub const DEFAULT_SEED: u64 = 42;

impl Session {
    /// Starts a session.
    pub fn new(settings: SessionSettings) -> Self {
        Session(Arc::new(Shared {
            places: settings.places,
            device: settings.device,
            reporter: settings.reporter,
            arguments: settings.arguments,
            asked: Mutex::default(),
            seed: AtomicU64::new(settings.seed.unwrap_or(DEFAULT_SEED)),
            seed_is_forced: settings.seed.is_some(),
            tasks: settings.tasks,
            recipe: settings.recipe,
            models: Mutex::default(),
            live: Live::default(),
            redirect: Mutex::default(),
            fingerprints: Mutex::default(),
            texts: Mutex::default(),
        }))
    }

    /// Notes a model that a script has loaded: `backward` adds gradients to those that are still there.
    pub fn remember(&self, model: &Model) {
        let mut models = self.0.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.retain(|known| known.upgrade().is_some());
        models.push(model.downgrade());
    }

    /// The models that scripts have loaded and still hold.
    pub fn models(&self) -> Vec<Model> {
        self.0.models.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(WeakModel::upgrade).collect()
    }

    /// The session of the script that is calling.
    ///
    /// # Panics
    /// Never: `host::engine` tags every engine with a session.
    pub fn of(context: &NativeCallContext) -> Session {
        context.tag().and_then(|tag| tag.clone().try_cast::<Session>()).expect("every engine is tagged with a session")
    }

    /// What may change while the run goes on.
    pub fn live(&self) -> &Live {
        &self.0.live
    }

    /// Functions of the recipe are told apart by `fingerprints` from now on.
    pub fn tell_functions_by(&self, fingerprints: Arc<Fingerprints>) {
        *self.0.fingerprints.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprints);
    }

    /// The scripts' texts come from `texts` from now on.
    pub fn keep_texts_by(&self, texts: Arc<Texts>) {
        *self.0.texts.lock().unwrap_or_else(PoisonError::into_inner) = Some(texts);
    }

    /// The texts of the run's scripts by name.
    pub fn texts(&self) -> Scripts {
        let texts = self.0.texts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        texts.map_or_else(Scripts::default, |texts| texts())
    }

    /// The digest of everything that the function is made of, where it is pure.
    pub fn fingerprint(&self, function: &str) -> Option<String> {
        let fingerprints = self.0.fingerprints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        fingerprints.and_then(|fingerprints| fingerprints(function))
    }

    /// Whatever has the folder `from` as its `output_dir` is to have `to`.
    pub fn redirect(&self, from: &str, to: &str) {
        *self.0.redirect.lock().unwrap_or_else(PoisonError::into_inner) = Some((from.into(), to.into()));
    }

    /// Puts the folder in place that `output_dir` is to be written to.
    pub(super) fn redirected(&self, output_dir: &mut String) {
        let redirect = self.0.redirect.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, to)) = redirect.as_ref().filter(|(from, _)| from == output_dir) {
            output_dir.clone_from(to);
        }
    }

    /// Where names are looked up.
    pub fn places(&self) -> &Places {
        &self.0.places
    }

    /// Which files scripts may read and write.
    pub fn permissions(&self) -> &Permissions {
        &self.0.places.permissions
    }

    /// Where tensors live.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Where everything that is shown goes.
    pub fn reporter(&self) -> &Reporter {
        &self.0.reporter
    }

    /// The recipe's path.
    pub fn recipe(&self) -> &PathBuf {
        &self.0.recipe
    }

    /// Loads a task by name.
    ///
    /// # Errors
    /// An unknown name, or a script that does not compile.
    pub fn task(&self, name: &str) -> Result<Arc<dyn Task>> {
        (self.0.tasks)(self, name, None)
    }

    /// Loads the task `plugin:NAME` from a library.
    ///
    /// # Errors
    /// As [`Session::task`], and a library that is no plugin or was not allowed.
    pub fn task_from(&self, name: &str, library: &Path) -> Result<Arc<dyn Task>> {
        (self.0.tasks)(self, name, Some(library))
    }

    /// The seed that initialises new weights: `set_seed` or 42, unless `--seed` is given.
    pub fn seed(&self) -> u64 {
        self.0.seed.load(Ordering::Relaxed)
    }

    /// Whether `--seed` was given, which wins over every seed of the recipe.
    pub fn seed_is_forced(&self) -> bool {
        self.0.seed_is_forced
    }

    /// Sets the seed, unless `--seed` was given.
    pub fn set_seed(&self, seed: u64) {
        if !self.0.seed_is_forced {
            self.0.seed.store(seed, Ordering::Relaxed);
        }
    }

    /// The command line's value of `name`, which counts as asked for from now on; `default` is kept for `retune run --help`-like listings.
    pub fn argument(&self, name: &str, default: &str) -> Option<String> {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(name.to_string(), default.to_string());
        self.0.arguments.get(name).cloned()
    }

    /// Refuses arguments that the recipe never asked for; called when the recipe has ended.
    ///
    /// # Errors
    /// The first such argument, with the nearest name that was asked for.
    pub fn refuse_unasked(&self) -> Result<()> {
        let asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(name) = self.0.arguments.keys().find(|name| !asked.contains_key(*name)) else { return Ok(()) };
        let error = crate::error::Error::new(What::Usage(format!("the recipe has no argument `{name}`")));
        Err(match crate::error::nearest(name, asked.keys().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}=...`?")),
            None => error.hint(format!("it asks for {}", asked.keys().cloned().collect::<Vec<_>>().join(", "))),
        })
    }
}
