//! A run that may change while it goes on: what it is asked for, the versions of its functions, and its ledger.
//!
//! Requests flow in from a watcher, a terminal or a socket, on threads of their own, and wait for the moment between two
//! updates; `between_updates` tries them there. Functions of the recipe that the trainer calls go through [`Live::call`], which
//! calls the newest version. Where texts come from and what a version is made of is left to the host.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rhai::{Dynamic, FnPtr, FuncArgs, NativeCallContext};

use crate::api::book::Book;
use crate::api::calls::{Again, Calls};
pub use crate::api::requests::{Answer, Edit, Request, Shown, Shows, Version, unanswered};
use crate::batch::Batch;
use crate::cancel::{self, Deadline, InForce, meter};
use crate::error::{Error, Result, What};
use crate::head::rebuild::Back;
use crate::head::script::convert::{ScriptResult, lower};
use crate::head::{Model, WeakModel};
use crate::report::Reporter;
use crate::train::ledger::{Entry, FileChange, Outcome};
use crate::train::live_arguments::RatePolicy;

/// What a shadow run may take, beside what the version before it took.
const SHADOW_TIME: Duration = Duration::from_secs(2);
/// What the first call of a new callback may take.
const FIRST_CALL: Duration = Duration::from_secs(60);

/// A run that may change. Cheap to clone; all clones are the same run.
#[derive(Clone, Default)]
pub struct Live(Arc<Shared>);

#[derive(Default)]
struct Shared {
    requests: Mutex<VecDeque<Request>>,
    arrived: Condvar,
    /// Whether there is anything to look at between two updates: one load a step.
    waiting: AtomicBool,
    /// The versions, the one that is called last; empty where nothing is watched.
    versions: Mutex<Vec<Adopted>>,
    /// Whether a version is only tried.
    trying: AtomicBool,
    source: Mutex<Option<Source>>,
    shows: Mutex<Option<Shows>>,
    training: AtomicBool,
    /// The update that is being made, from 1.
    update: AtomicUsize,
    /// What was called in this update.
    calls: Calls,
    /// The steps of optimizers of the script's own.
    steps: AtomicUsize,
    /// The batch of the last forward of a script's own loop.
    held: Mutex<Option<(WeakModel, Batch)>>,
    restart: Mutex<Option<Restart>>,
    used: Mutex<BTreeSet<String>>,
    book: Book,
    deadline: Mutex<Deadline>,
    settings: Mutex<LiveSettings>,
}

/// Why a recipe runs again, and for which files.
type Restart = (String, Vec<FileChange>);

struct Adopted {
    version: Arc<Version>,
    entry: Entry,
    /// The callbacks that have been called once and came back.
    proven: BTreeSet<String>,
}

/// Makes requests for an update: a replay.
pub type Source = Box<dyn FnMut(usize) -> Vec<Request> + Send>;

/// How a run changes.
#[derive(Clone, Debug)]
pub struct LiveSettings {
    /// What becomes of the learning rate.
    pub policy: RatePolicy,
    /// How long a shadow run may take.
    pub shadow_time: Duration,
    /// How long the first call of a new callback may take.
    pub first_call: Duration,
}

impl Default for LiveSettings {
    fn default() -> Self {
        LiveSettings { policy: RatePolicy::KeepShape, shadow_time: SHADOW_TIME, first_call: FIRST_CALL }
    }
}

impl Live {
    /// The run's scripts are ended by `deadline`.
    pub fn end_by(&self, deadline: &Deadline) {
        *lock(&self.0.deadline) = deadline.clone();
    }

    /// The settings.
    pub fn settings(&self) -> LiveSettings {
        lock(&self.0.settings).clone()
    }

    /// Changes the settings.
    pub fn set(&self, change: impl FnOnce(&mut LiveSettings)) {
        change(&mut lock(&self.0.settings));
    }

    /// Lets `request` wait for the moment between two updates.
    pub fn ask(&self, request: Request) {
        lock(&self.0.requests).push_back(request);
        self.0.waiting.store(true, Ordering::Release);
        self.0.arrived.notify_all();
    }

    /// Asks `source` before each update.
    pub fn follow(&self, source: Source) {
        *lock(&self.0.source) = Some(source);
        self.0.waiting.store(true, Ordering::Release);
    }

    /// Whether somebody trains.
    pub fn is_training(&self) -> bool {
        self.0.training.load(Ordering::Acquire)
    }

    /// A trainer begins to train; it ends when the guard is dropped.
    pub(super) fn training(&self, output_dir: &str, reporter: &Reporter) -> Training {
        self.0.book.begin(output_dir, reporter);
        self.0.training.store(true, Ordering::Release);
        Training(self.clone())
    }

    /// The update that is being made, from 1; 0 before the first.
    pub fn update(&self) -> usize {
        self.0.update.load(Ordering::Relaxed)
    }

    pub(super) fn begin_update(&self, number: usize) {
        self.0.update.store(number, Ordering::Relaxed);
        self.0.calls.begin();
    }

    /// Counts a step of an optimizer of the script's own, from 1.
    pub(super) fn count_step(&self) -> usize {
        self.0.steps.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Holds the batch of a forward, on which new versions are tried while no Trainer is at work.
    pub(super) fn hold(&self, model: &Model, batch: &Batch) {
        if lock(&self.0.shows).is_some() {
            *lock(&self.0.held) = Some((model.downgrade(), batch.clone()));
        }
    }

    /// The batch of the last forward, and its model.
    pub(super) fn held(&self) -> Option<(Model, Batch)> {
        let held = lock(&self.0.held).clone();
        held.and_then(|(model, batch)| Some((model.upgrade()?, batch)))
    }

    /// Whether there is nothing to do between two updates.
    pub(super) fn is_quiet(&self) -> bool {
        !self.0.waiting.load(Ordering::Acquire)
    }

    /// The requests for the update after `step`, in their order.
    pub(super) fn take(&self, step: usize) -> VecDeque<Request> {
        let mut source = lock(&self.0.source);
        let mut requests: VecDeque<Request> = source.as_mut().map(|source| source(step)).unwrap_or_default().into();
        let mut waiting = lock(&self.0.requests);
        requests.append(&mut waiting);
        self.0.waiting.store(source.is_some(), Ordering::Release);
        requests
    }

    /// The requests that wait, without an update.
    pub fn take_waiting(&self) -> VecDeque<Request> {
        std::mem::take(&mut *lock(&self.0.requests))
    }

    /// Waits until something is asked for.
    pub fn wait(&self) {
        /// How often a signal is looked for.
        const LOOK: Duration = Duration::from_millis(50);
        let mut requests = lock(&self.0.requests);
        while requests.is_empty() && self.restart().is_none() && cancel::requested().is_none() {
            requests = self.0.arrived.wait_timeout(requests, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks for the recipe to run again from its first line: at the next update where somebody trains, else at once.
    pub fn ask_restart(&self, why: &str, files: Vec<FileChange>) {
        let requests = lock(&self.0.requests);
        *lock(&self.0.restart) = Some((why.to_string(), files));
        self.0.waiting.store(true, Ordering::Release);
        drop(requests);
        self.0.arrived.notify_all();
        if !self.is_training() {
            lock(&self.0.deadline).end_now();
        }
    }

    /// Why the recipe is to run again, where it is.
    pub fn restart(&self) -> Option<Restart> {
        lock(&self.0.restart).clone()
    }

    /// Notes that a function was called for the rows of a data set: a new one of that name comes too late for them.
    pub fn note_use(&self, function: &str) {
        lock(&self.0.used).insert(function.to_string());
    }

    /// The functions that data sets were made with.
    pub fn used(&self) -> BTreeSet<String> {
        lock(&self.0.used).clone()
    }

    /// Begins with a version, to which others can be rolled back.
    pub fn begin_with(&self, version: Arc<Version>) {
        let entry = Entry::new(0, Outcome::Adopted);
        *lock(&self.0.versions) = vec![Adopted { version, entry, proven: BTreeSet::new() }];
    }

    /// The version that is called now.
    pub fn version(&self) -> Option<Arc<Version>> {
        lock(&self.0.versions).last().map(|adopted| adopted.version.clone())
    }

    /// The version that the run began with.
    pub fn first_version(&self) -> Option<Arc<Version>> {
        lock(&self.0.versions).first().map(|adopted| adopted.version.clone())
    }

    /// The newest version that is not merely tried.
    pub fn settled_version(&self) -> Option<Arc<Version>> {
        let versions = lock(&self.0.versions);
        let skipped = usize::from(self.0.trying.load(Ordering::Acquire));
        versions.iter().rev().nth(skipped).map(|adopted| adopted.version.clone())
    }

    /// Calls `version` from now on: at first to try it. Gives what there is to say of it.
    ///
    /// # Errors
    /// A head of another build that does not go with the model.
    pub(super) fn try_version(&self, version: Arc<Version>, entry: Entry) -> Result<Option<String>> {
        let mut versions = lock(&self.0.versions);
        versions.push(Adopted { version: version.clone(), entry, proven: BTreeSet::new() });
        self.0.trying.store(true, Ordering::Release);
        drop(versions);
        (version.install)()
    }

    /// Ends a trial: the version stays.
    pub(super) fn keep_version(&self) {
        self.0.trying.store(false, Ordering::Release);
        self.0.calls.begin();
    }

    /// What was called in this update.
    pub(super) fn calls(&self) -> &Calls {
        &self.0.calls
    }

    /// Takes the newest version back.
    pub(super) fn drop_version(&self, back: Back) -> Option<Entry> {
        let mut versions = lock(&self.0.versions);
        if versions.len() < 2 {
            return None;
        }
        self.0.trying.store(false, Ordering::Release);
        let dropped = versions.pop()?;
        let version = versions.last()?.version.clone();
        drop(versions);
        (dropped.version.undo)(back);
        // It was in use before: only a model that was made meanwhile may not take it.
        let _ = (version.install)();
        Some(dropped.entry)
    }

    /// Takes the newest version back because it failed in use, and says so. False where there is none to take back.
    pub(super) fn roll_back(&self, error: &Error, again: Again, reporter: &Reporter) -> bool {
        // What ends the whole run is no fault of the newest version.
        let is_end = cancel::pressing().is_some() || matches!(error.what(), What::Stopped { .. });
        if is_end || self.0.trying.load(Ordering::Acquire) || lock(&self.0.versions).len() < 2 {
            return false;
        }
        let shown = self.show(error);
        let Some(adopted) = self.drop_version(Back::Used) else { return false };
        reporter.note(&shown.rendered);
        let back = |file: FileChange| FileChange { old: file.new, new: file.old, diff: String::new(), ..file };
        let entry = Entry::new(self.update().saturating_sub(1), Outcome::RolledBack);
        let files = adopted.files.into_iter().map(back).collect();
        let (functions, called) = (adopted.functions, self.0.calls.counted(again));
        let entry = Entry { files, functions, called, message: Some(shown.message), ..entry };
        self.enter(entry, reporter);
        true
    }

    /// Shows errors by `shows` from now on.
    pub fn show_by(&self, shows: Shows) {
        *lock(&self.0.shows) = Some(shows);
    }

    /// An error as people see it.
    pub(super) fn show(&self, error: &Error) -> Shown {
        let plain = || Shown { rendered: format!("error: {error}"), message: error.to_string() };
        lock(&self.0.shows).as_ref().map_or_else(plain, |shows| shows(error))
    }

    /// Whether the newest version has such a function; a run without versions has what it was compiled with.
    pub(super) fn defines(&self, name: &str, n_params: usize) -> bool {
        let versions = lock(&self.0.versions);
        let functions = versions.last().and_then(|last| last.version.functions.as_ref());
        functions.is_none_or(|functions| {
            functions.iter_script_fn_info().any(|(.., known, n, _)| known == name && n == n_params)
        })
    }

    /// Calls a function of the recipe in its newest version.
    ///
    /// # Errors
    /// What the function raises.
    pub(super) fn call_once(
        &self,
        context: &NativeCallContext,
        function: &FnPtr,
        args: impl FuncArgs,
    ) -> ScriptResult<Dynamic> {
        let _call = meter::call();
        let version = match lock(&self.0.versions).last() {
            Some(Adopted { version, .. }) if version.functions.is_some() => version.clone(),
            _ => return function.call_within_context(context, args),
        };
        let mut global = context.global_runtime_state().clone();
        if let Some(functions) = &version.functions {
            // A closure is looked up in the first library, and belongs to the text that made it; what it calls is new.
            if !function.is_anonymous() {
                global.lib.clear();
            }
            global.lib.push(functions.clone());
        }
        let imports: Vec<_> = global.scan_imports_raw().map(|(name, module)| (name.clone(), module.clone())).collect();
        global.truncate_imports(0);
        for (name, module) in imports {
            let newer = version.imports.iter().find(|(known, _)| *known == name.as_str());
            global.push_import(name, newer.map_or(module, |(_, newer)| newer.clone()));
        }
        let (engine, position) = (context.engine(), context.call_position());
        let inner =
            NativeCallContext::new_with_all_fields(engine, context.fn_name(), context.fn_source(), &global, position);
        function.call_within_context(&inner, args)
    }

    /// Calls a callback in its newest version; one that fails is rolled back, and the one before it is called instead.
    ///
    /// # Errors
    /// What the version that the run began with raises.
    pub(super) fn call(
        &self,
        context: &NativeCallContext,
        function: &FnPtr,
        args: impl FuncArgs + Clone,
        mut mend: impl FnMut(&Error) -> bool,
    ) -> Result<Dynamic> {
        loop {
            let is_first = {
                let mut versions = lock(&self.0.versions);
                let new = versions.len() > 1;
                new && versions.last_mut().is_some_and(|last| !last.proven.contains(function.fn_name()))
            };
            let guard = is_first.then(|| self.within(self.settings().first_call));
            let result = self.call_once(context, function, args.clone()).map_err(lower);
            drop(guard);
            match result {
                Ok(value) => {
                    if is_first && let Some(last) = lock(&self.0.versions).last_mut() {
                        last.proven.insert(function.fn_name().to_string());
                    }
                    return Ok(value);
                }
                Err(error) if mend(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends scripts that take longer, for as long as the guard lives.
    pub(super) fn within(&self, time: Duration) -> DeadlineGuard {
        let deadline = lock(&self.0.deadline).clone();
        deadline.set(time);
        let in_force = deadline.enforce();
        DeadlineGuard { deadline, _in_force: in_force }
    }

    /// The run's ledger and its record.
    pub fn book(&self) -> &Book {
        &self.0.book
    }

    /// Writes an entry into the ledger, and shows it.
    pub fn enter(&self, entry: Entry, reporter: &Reporter) {
        self.0.book.enter(entry, reporter);
    }
}

/// A trainer trains for as long as it lives.
pub(super) struct Training(Live);

impl Drop for Training {
    fn drop(&mut self) {
        self.0.0.training.store(false, Ordering::Release);
    }
}

/// Takes a deadline away when it is dropped.
pub(super) struct DeadlineGuard {
    deadline: Deadline,
    _in_force: InForce,
}

impl Drop for DeadlineGuard {
    fn drop(&mut self) {
        self.deadline.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
