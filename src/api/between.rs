//! The moment between two updates of a script's trainer: requests are tried there, taken up or refused, and written down.
//!
//! A new version of the recipe's functions is tried on a held batch beside the one that runs: no error, the same shapes, a loss
//! that is finite and has not jumped, gradients where there were some. Whatever is refused leaves the run as it was.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::api::changes::Change;
use crate::api::live::{Answer, Edit, Live, Request, Shown, Version, unanswered};
use crate::api::training_arguments::TrainingArguments as Arguments;
use crate::cancel;
use crate::data::Value;
use crate::error::{Error, Place, Result, What};
use crate::head::rebuild::Back;
use crate::report::Reporter;
use crate::train::BetweenUpdates;
use crate::train::callbacks::{Callback, Event, Extra, TrainerControl};
use crate::train::ledger::{Entry, Outcome, entries_of};
use crate::train::live::{Boundary, LEDGER, Shadow, ledger_state};
use crate::train::live_arguments::{ArgumentChange, RatePolicy, Takes, difference, takes};
use crate::train::state::TrainerState;

/// A new loss beyond so many times the old one is taken for a mistake.
const JUMP: f64 = 100.0;

/// The message of entries that the recipe itself asked for.
pub(crate) const SCHEDULED: &str = "as `changes` says";

/// What listens between the updates of one call of a trainer.
pub(super) struct Between {
    pub(super) live: Live,
    pub(super) reporter: Reporter,
    pub(super) arguments: Arguments,
    /// The functions that the trainer calls by name, with their numbers of parameters.
    pub(super) called: Vec<(String, usize)>,
    /// What the recipe itself changes, and how much of it has been done in this run.
    pub(super) changes: Arc<[Change]>,
    pub(super) done: Cell<usize>,
}

impl Between {
    /// The hook of the trainer.
    pub(super) fn hook<'a>(self) -> BetweenUpdates<'a> {
        Box::new(move |boundary| self.listen(boundary))
    }

    fn listen(&self, boundary: &mut Boundary<'_, '_>) -> Result<()> {
        self.live.begin_update(boundary.step() + 1);
        self.scheduled(boundary);
        if self.live.is_quiet() {
            return Ok(());
        }
        let mut paused = false;
        loop {
            for request in self.live.take(boundary.step()) {
                self.handle(request, boundary, &mut paused);
            }
            if let Some((why, files)) = self.live.restart() {
                let entry = Entry::new(boundary.step(), Outcome::Restarted);
                self.live.enter(Entry { message: Some(why.clone()), files, ..entry }, &self.reporter);
                return Err(What::Interrupted(why).into());
            }
            if !paused || cancel::requested().is_some() {
                return Ok(());
            }
            self.live.wait();
        }
    }

    /// Does what the recipe's `changes` say of this update. Arguments of earlier updates are taken up too, where a run goes
    /// on from a checkpoint.
    fn scheduled(&self, boundary: &mut Boundary<'_, '_>) {
        let step = boundary.step();
        while let Some(change) = self.changes.get(self.done.get()).filter(|change| change.step <= step) {
            self.done.set(self.done.get() + 1);
            if !change.arguments.is_empty() {
                self.set_as(change.arguments.clone(), change.policy, Some(SCHEDULED), unanswered(), boundary);
            }
            for action in change.actions.iter().filter(|_| change.step == step) {
                let act = match *action {
                    "evaluate" => Boundary::evaluate,
                    "save" => Boundary::save,
                    _ => |boundary: &mut Boundary<'_, '_>| {
                        boundary.stop();
                        Ok(())
                    },
                };
                self.act_as(action, Some(SCHEDULED), unanswered(), boundary, act);
            }
        }
    }

    fn handle(&self, request: Request, boundary: &mut Boundary<'_, '_>, paused: &mut bool) {
        match request {
            Request::Edit(edit) => self.edit(*edit, boundary),
            Request::Set(pairs, policy, answer) => self.set(pairs, policy, answer, boundary),
            Request::Evaluate(answer) => self.act("evaluate", answer, boundary, Boundary::evaluate),
            Request::Save(answer) => self.act("save", answer, boundary, Boundary::save),
            Request::Stop(answer) => {
                *paused = false;
                self.act("stop", answer, boundary, |boundary| {
                    boundary.stop();
                    Ok(())
                });
            }
            Request::Pause(answer) => {
                *paused = !*paused;
                let word = if *paused { "paused" } else { "going on" };
                self.reporter.note(&format!("{word} at step {}", boundary.step()));
                answer(Ok(json!({ "paused": *paused })));
            }
            Request::Status(answer) => answer(Ok(status(boundary, *paused))),
        }
    }

    fn act<'b, 'h>(
        &self,
        action: &str,
        answer: Answer,
        boundary: &mut Boundary<'b, 'h>,
        act: impl FnOnce(&mut Boundary<'b, 'h>) -> Result<()>,
    ) {
        self.act_as(action, None, answer, boundary, act);
    }

    fn act_as<'b, 'h>(
        &self,
        action: &str,
        why: Option<&str>,
        answer: Answer,
        boundary: &mut Boundary<'b, 'h>,
        act: impl FnOnce(&mut Boundary<'b, 'h>) -> Result<()>,
    ) {
        let step = boundary.step();
        let (action, message) = (Some(action.to_string()), why.map(str::to_string));
        let entry = Entry { action, message, ..Entry::new(step, Outcome::Adopted) };
        match act(boundary) {
            Ok(()) => {
                self.live.enter(entry, &self.reporter);
                answer(Ok(json!({ "step": step })));
            }
            Err(error) => {
                let (outcome, message) = (Outcome::Refused, Some(error.to_string()));
                self.live.enter(Entry { outcome, message, ..entry }, &self.reporter);
                answer(Err(error));
            }
        }
    }

    fn set(&self, pairs: Vec<(String, Value)>, policy: RatePolicy, answer: Answer, boundary: &mut Boundary<'_, '_>) {
        self.set_as(pairs, policy, None, answer, boundary);
    }

    fn set_as(
        &self,
        pairs: Vec<(String, Value)>,
        policy: RatePolicy,
        why: Option<&str>,
        answer: Answer,
        boundary: &mut Boundary<'_, '_>,
    ) {
        let step = boundary.step();
        let fixed = pairs.iter().find(|(key, _)| takes(key) == Takes::Restart);
        let result =
            match fixed {
                Some((key, _)) => Err(Error::new(What::Conflict(format!("`{key}` cannot change while a run goes on")))
                    .hint("start again")),
                None => self.take_up(&pairs, policy, boundary),
            };
        match result {
            Ok(changes) => {
                let lr_policy = rate_policy(&changes, policy);
                let known = json!(changes);
                let message = why.map(str::to_string);
                let entry = Entry { arguments: changes, lr_policy, message, ..Entry::new(step, Outcome::Adopted) };
                self.live.enter(entry, &self.reporter);
                answer(Ok(json!({ "step": step, "arguments": known })));
            }
            Err(error) => {
                let named: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
                let action = Some(format!("set {}", named.join(", ")));
                let entry = Entry { action, message: Some(error.to_string()), ..Entry::new(step, Outcome::Refused) };
                self.live.enter(entry, &self.reporter);
                answer(Err(error));
            }
        }
    }

    /// Changes arguments of the run, and shows them where the script looks.
    fn take_up(
        &self,
        pairs: &[(String, Value)],
        policy: RatePolicy,
        boundary: &mut Boundary<'_, '_>,
    ) -> Result<Vec<ArgumentChange>> {
        let changes = boundary.set(pairs, policy)?;
        let possible: Vec<_> = pairs.iter().filter(|(key, _)| takes(key) != Takes::Restart).cloned().collect();
        if let Ok((args, _)) = difference(&self.arguments.get(), &possible) {
            self.arguments.set(args);
        }
        Ok(changes)
    }

    fn edit(&self, edit: Edit, boundary: &mut Boundary<'_, '_>) {
        let step = boundary.step();
        self.live.book().keep_texts(&edit.texts, &self.reporter);
        self.live.book().keep_builds(&edit.builds, &self.reporter);
        let (files, functions) = (edit.files.clone(), edit.functions.clone());
        let entry = Entry { files, functions, ..Entry::new(step, Outcome::Adopted) };
        if let Some(Shown { rendered, message }) = edit.refused {
            self.refuse(entry, &rendered, message);
            return;
        }
        if let Some(why) = edit.restart {
            // A part of an edit would be neither the old scripts nor the new ones.
            let message = Some(format!("{why}: it counts when the recipe runs again"));
            self.live.enter(Entry { outcome: Outcome::Noted, message, ..entry }, &self.reporter);
            return;
        }
        for notice in edit.notices {
            self.live.enter(Entry { message: Some(notice), ..Entry::new(step, Outcome::Noted) }, &self.reporter);
        }
        match self.try_edit(edit.version, &edit.arguments, &entry, boundary) {
            Ok((arguments, message)) => {
                let lr_policy = rate_policy(&arguments, self.live.settings().policy);
                self.live.enter(Entry { arguments, lr_policy, message, ..entry }, &self.reporter);
            }
            Err(Shown { rendered, message }) => self.refuse(entry, &rendered, message),
        }
    }

    /// Takes up a version and arguments together, or neither.
    fn try_edit(
        &self,
        version: Option<Arc<Version>>,
        arguments: &[(String, Value)],
        entry: &Entry,
        boundary: &mut Boundary<'_, '_>,
    ) -> Result<(Vec<ArgumentChange>, Option<String>), Shown> {
        let show = |error: Error| self.live.show(&error);
        difference(boundary.args(), arguments).map_err(show)?;
        let policy = self.live.settings().policy;
        let Some(version) = version else {
            return self.take_up(arguments, policy, boundary).map(|changes| (changes, None)).map_err(show);
        };
        let started = Instant::now();
        let before = (boundary.shadow(), boundary.shadow_evaluation());
        // What the old version takes is no fault of the new one.
        let time = self.live.settings().shadow_time + started.elapsed() * 10;
        let _watchdog = Watchdog::start(&self.reporter);
        let tried = self.live.try_version(version, entry.clone()).and_then(|said| {
            boundary.settle_parameters()?;
            let guard = self.live.within(time);
            let judged = self.judge(&before, boundary);
            drop(guard);
            let message = [said, Some(judged?)].into_iter().flatten().collect::<Vec<_>>().join("; ");
            Ok((self.take_up(arguments, policy, boundary)?, Some(message)))
        });
        // An error is explained by the texts that raised it.
        let taken = tried.map_err(show);
        match &taken {
            Ok(_) => self.live.keep_version(),
            Err(_) => drop(self.live.drop_version(Back::Tried)),
        }
        taken
    }

    /// Compares the new version with the old one on the same weights and the same rows.
    fn judge(&self, before: &(Result<Shadow>, Result<()>), boundary: &mut Boundary<'_, '_>) -> Result<String> {
        for (name, n_params) in &self.called {
            if !self.live.defines(name, *n_params) {
                let problem =
                    format!("the Trainer calls `{name}` with {n_params} parameters, and there is no such function now");
                return Err(Error::new(What::Script(problem))
                    .hint("a Trainer that is to call another function is a change of the recipe's top level"));
            }
        }
        let after = boundary.shadow()?;
        let said = compare(before.0.as_ref().ok(), &after)?;
        if before.0.is_ok() && before.1.is_ok() {
            boundary.shadow_evaluation()?;
        }
        Ok(said)
    }

    fn refuse(&self, entry: Entry, rendered: &str, message: String) {
        self.reporter.note(rendered);
        let entry = Entry { outcome: Outcome::Refused, message: Some(message), ..entry };
        self.live.enter(entry, &self.reporter);
    }
}

/// How long a version may be tried until people are told: native code cannot be ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says that a version is still being tried, for as long as it lives.
pub(super) struct Watchdog {
    _ended: Option<Sender<()>>,
}

impl Watchdog {
    pub(super) fn start(reporter: &Reporter) -> Self {
        let (sender, ended) = channel::<()>();
        let reporter = reporter.clone();
        let told = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let seconds = PATIENCE.as_secs();
                reporter.warning(&format!(
                    "the change has been tried for {seconds} seconds and has not ended; code of a plugin cannot be interrupted: \
                     Ctrl-C twice ends the program, and the last checkpoint stays"
                ));
            }
        });
        Watchdog { _ended: told.is_ok().then_some(sender) }
    }
}

/// Compares a new version with the one before it, where that one works.
///
/// # Errors
/// A loss that is not finite or has jumped, other shapes, and parameters that no gradient reaches.
pub(super) fn compare(before: Option<&Shadow>, after: &Shadow) -> Result<String> {
    if !after.loss.is_finite() {
        return Err(What::NonFinite(format!("the loss of the held batch is {}", after.loss)).into());
    }
    let Some(before) = before else { return Ok(format!("loss of the held batch {:.4}", after.loss)) };
    if before.shapes != after.shapes {
        let (old, new) = (shapes(before), shapes(after));
        let problem = format!("the output of the held batch has another shape: {new} instead of {old}");
        return Err(What::Conflict(problem).into());
    }
    let is_new = |name: &&String| !before.trained.contains(name);
    let mut expected = after.trained.iter().filter(|name| is_new(name) || before.reached.contains(name));
    if let Some(name) = expected.find(|name| !after.reached.contains(name)) {
        let problem = match is_new(&name) {
            true => format!("no gradient reaches the new parameter `{name}`"),
            false => format!("no gradient reaches the parameter `{name}` any more"),
        };
        return Err(Error::new(What::Conflict(problem)).at(Place::Tensor(name.clone())));
    }
    if after.loss.abs() > JUMP * (before.loss.abs() + 1.0) {
        let problem = format!("the loss of the held batch jumps from {:.4} to {:.4}", before.loss, after.loss);
        return Err(Error::new(What::NonFinite(problem)).hint(format!(
            "a jump of more than {JUMP} times is taken for a mistake; run the recipe again if it is meant"
        )));
    }
    Ok(format!("loss of the held batch {:.4} -> {:.4}", before.loss, after.loss))
}

fn shapes(shadow: &Shadow) -> String {
    let each = |(name, shape): (&String, &Vec<usize>)| format!("`{name}` {shape:?}");
    shadow.shapes.iter().map(each).collect::<Vec<_>>().join(", ")
}

fn rate_policy(changes: &[ArgumentChange], policy: RatePolicy) -> Option<String> {
    changes.iter().any(|change| change.key == "learning_rate").then(|| policy.as_str().to_string())
}

fn status(boundary: &Boundary<'_, '_>, paused: bool) -> Json {
    let state = boundary.state();
    json!({
        "step": state.global_step,
        "max_steps": state.max_steps,
        "epoch": state.epoch,
        "num_train_epochs": state.num_train_epochs,
        "learning_rate": boundary.learning_rate(),
        "log": state.log_history.last(),
        "best_metric": state.best_metric,
        "paused": paused,
    })
}

/// Keeps the ledger among the callbacks' states, where a checkpoint saves it.
pub(super) struct LedgerKeeper(pub(super) Live);

impl Callback for LedgerKeeper {
    fn on_event(
        &mut self,
        event: Event,
        _args: &crate::train::TrainingArguments,
        state: &mut TrainerState,
        _control: &mut TrainerControl,
        _extra: &Extra,
    ) -> Result<()> {
        if event == Event::OptimizerStep {
            self.0.calls().updated();
        }
        // A run that goes on from a checkpoint goes on with its ledger.
        if let (Event::TrainBegin, Some(earlier)) = (event, state.stateful_callbacks.get(LEDGER)) {
            self.0.book().resume_ledger(entries_of(earlier));
        }
        Ok(())
    }

    fn state(&self) -> Option<(String, Json)> {
        let entries = self.0.book().ledger();
        (!entries.is_empty()).then(|| (LEDGER.to_string(), ledger_state(&entries)))
    }
}
