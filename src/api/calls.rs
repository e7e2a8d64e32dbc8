//! What a version that is taken back has done in the update in which it failed: the functions that were called and will not be
//! called again.
//!
//! Calls flow in as the trainer makes them; names flow out. Until the optimizer's step an update is made again as a whole, and so
//! is an evaluation; a callback that fails is called again by itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The calls of an update, in their order.
#[derive(Default)]
pub(super) struct Calls(Mutex<Vec<Call>>);

enum Call {
    /// Of a function that is called again where an update or an evaluation is made again.
    Attempted(String),
    /// Of any other function.
    Made(String),
    /// The weights have changed.
    Updated,
}

/// What is made again after a version was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// The call that failed.
    Call,
    /// The update or the evaluation that it belongs to.
    Attempt,
}

/// What the functions of a task are called together.
pub(crate) const OF_TASK: [&str; 3] = ["forward", "loss", "collate"];

impl Calls {
    /// Another update begins, or another version.
    pub(super) fn begin(&self) {
        self.lock().clear();
    }

    /// A function came back that may be called again.
    pub(super) fn attempted(&self, function: &str) {
        self.lock().push(Call::Attempted(function.to_string()));
    }

    /// A function came back that is called once.
    pub(super) fn made(&self, function: &str) {
        self.lock().push(Call::Made(function.to_string()));
    }

    /// The weights have changed.
    pub(super) fn updated(&self) {
        self.lock().push(Call::Updated);
    }

    /// The functions whose calls count, those of the task among them where the weights have changed.
    pub(super) fn counted(&self, again: Again) -> Vec<String> {
        let mut calls = self.lock();
        while again == Again::Attempt && matches!(calls.last(), Some(Call::Attempted(_))) {
            calls.pop();
        }
        let mut names = Vec::new();
        for call in calls.iter() {
            match call {
                Call::Attempted(name) | Call::Made(name) => names.push(name.clone()),
                Call::Updated => names.extend(OF_TASK.map(str::to_string)),
            }
        }
        names.sort();
        names.dedup();
        names
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
