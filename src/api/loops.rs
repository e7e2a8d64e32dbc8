//! Training loops of a script's own in a run that may change: what waits is looked at when an optimizer has made its step.
//!
//! New functions of a task and new builds of a plugin are tried on the batch of the last forward and count from the next one on. What
//! asks for a Trainer is refused with a reason. What the loop itself calls belongs to the recipe's top level, which runs again.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use candle_core::DType;
use indexmap::IndexMap;

use crate::api::between::{Watchdog, compare};
use crate::api::calls::Again;
use crate::api::live::{Answer, Edit, Live, Request, Shown, Version};
use crate::api::session::Session;
use crate::batch::Batch;
use crate::cancel;
use crate::error::{Error, Result, What};
use crate::head::rebuild::Back;
use crate::head::{Gradients, Model};
use crate::report::Reporter;
use crate::train::ledger::{Entry, Outcome};
use crate::train::live::Shadow;

/// An optimizer of a script's own has made a step.
///
/// # Errors
/// The end of the run, where its recipe is to run again.
pub(super) fn after_step(session: &Session) -> Result<()> {
    let live = session.live();
    // Within a Trainer's callback the Trainer listens itself.
    if live.is_training() {
        return Ok(());
    }
    let step = live.count_step();
    live.begin_update(step + 1);
    if live.is_quiet() {
        return Ok(());
    }
    let between = Between { live, reporter: session.reporter(), step };
    let mut paused = false;
    loop {
        for request in live.take(step) {
            between.handle(request, &mut paused);
        }
        if let Some((why, files)) = live.restart() {
            let entry = Entry { message: Some(why.clone()), files, ..Entry::new(step, Outcome::Restarted) };
            live.enter(entry, session.reporter());
            return Err(What::Interrupted(why).into());
        }
        if !paused {
            return Ok(());
        }
        cancel::check()?;
        live.wait();
    }
}

/// The moment between two steps of a loop.
struct Between<'a> {
    live: &'a Live,
    reporter: &'a Reporter,
    step: usize,
}

impl Between<'_> {
    fn handle(&self, request: Request, paused: &mut bool) {
        match request {
            Request::Edit(edit) => self.edit(*edit),
            Request::Set(_, _, answer) => self.refuse_action("a change of arguments", answer),
            Request::Evaluate(answer) => self.refuse_action("an evaluation", answer),
            Request::Save(answer) => self.refuse_action("a checkpoint", answer),
            Request::Stop(answer) => {
                *paused = false;
                self.refuse_action("the end of training", answer);
            }
            Request::Pause(answer) => {
                *paused = !*paused;
                self.reporter.note(&format!("{} at step {}", if *paused { "paused" } else { "going on" }, self.step));
                answer(Ok(json!({ "paused": *paused })));
            }
            Request::Status(answer) => answer(Ok(json!({ "step": self.step, "paused": *paused }))),
        }
    }

    fn refuse_action(&self, wanted: &str, answer: Answer) {
        let problem = format!("{wanted} is a Trainer's: the recipe has a loop of its own");
        self.reporter.note(&problem);
        answer(Err(What::Conflict(problem).into()));
    }

    fn edit(&self, edit: Edit) {
        self.live.book().keep_texts(&edit.texts, self.reporter);
        self.live.book().keep_builds(&edit.builds, self.reporter);
        let entry = Entry { files: edit.files, functions: edit.functions, ..Entry::new(self.step, Outcome::Adopted) };
        let noted = |message: String| {
            self.live.enter(Entry { outcome: Outcome::Noted, message: Some(message), ..entry.clone() }, self.reporter);
        };
        if let Some(shown) = edit.refused {
            return self.refuse(entry, shown);
        }
        if let Some(why) = edit.restart {
            return noted(format!("{why}: it counts when the recipe runs again"));
        }
        for notice in edit.notices {
            let entry = Entry { message: Some(notice), ..Entry::new(self.step, Outcome::Noted) };
            self.live.enter(entry, self.reporter);
        }
        if !edit.arguments.is_empty() {
            return noted("no Trainer is at work: it counts when the recipe runs again".into());
        }
        let Some(version) = edit.version else { return };
        match self.try_version(version, &entry) {
            Ok(message) => self.live.enter(Entry { message: Some(message), ..entry }, self.reporter),
            Err(shown) => self.refuse(entry, shown),
        }
    }

    /// Takes up a version, or leaves everything as it was.
    fn try_version(&self, version: Arc<Version>, entry: &Entry) -> Result<String, Shown> {
        let held = self.live.held();
        let started = Instant::now();
        let before = held.as_ref().map(|(model, batch)| shadow(model, batch));
        // What the old version takes is no fault of the new one.
        let time = self.live.settings().shadow_time + started.elapsed() * 10;
        let _watchdog = Watchdog::start(self.reporter);
        let tried = self.live.try_version(version, entry.clone()).and_then(|said| {
            let guard = self.live.within(time);
            let judged = match (&held, before) {
                (Some((model, batch)), Some(before)) => compare(before.as_ref().ok(), &shadow(model, batch)?),
                _ => Ok("there was no batch to try it on".into()),
            };
            drop(guard);
            Ok([said, Some(judged?)].into_iter().flatten().collect::<Vec<_>>().join("; "))
        });
        let taken = tried.map_err(|error| self.live.show(&error));
        match &taken {
            Ok(_) => self.live.keep_version(),
            Err(_) => drop(self.live.drop_version(Back::Tried)),
        }
        taken
    }

    fn refuse(&self, entry: Entry, shown: Shown) {
        self.reporter.note(&shown.rendered);
        let entry = Entry { outcome: Outcome::Refused, message: Some(shown.message), ..entry };
        self.live.enter(entry, self.reporter);
    }
}

/// Forward, the task's loss and backward on a batch, after which nothing is different.
fn shadow(model: &Model, batch: &Batch) -> Result<Shadow> {
    model.leaving_no_trace(|| {
        let output = model.forward(batch)?;
        let shapes = output.tensors().into_iter().map(|(name, tensor)| (name.to_string(), tensor.dims().to_vec()));
        let shapes: IndexMap<String, Vec<usize>> = shapes.collect();
        let loss = model.loss(&output, batch)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let mut sums = Gradients::new();
        model.collect_gradients(&mut model.backward(&loss)?, &mut sums)?;
        let all = model.parameters().all();
        let trained =
            all.iter().filter(|parameter| parameter.is_trainable()).map(|known| known.name().into()).collect();
        Ok(Shadow { loss: value, shapes, reached: sums.keys().cloned().collect(), trained })
    })
}

/// Calls `attempt`, and once more for each version that fails in it and can be taken back.
///
/// # Errors
/// What the version that the run began with raises.
pub(super) fn mending<T>(session: &Session, attempt: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match attempt() {
            Err(error) if !session.live().is_training() && mends(session, &error) => {}
            done => return done,
        }
    }
}

fn mends(session: &Session, error: &Error) -> bool {
    session.live().roll_back(error, Again::Attempt, session.reporter())
}
