//! The flags of a run that is watched, and the waiting for a change when it has ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;

use crate::api::live::{Live, Request};
use crate::cancel;
use crate::cli::Context;
use crate::error::{Error, Result, What};
use crate::host::control::{self, Control};
use crate::host::keys::{self, Keys};
use crate::host::run::Host;
use crate::report::Reporter;
use crate::train::live_arguments::{RatePolicy, policy};
use crate::watch::Notice;

/// How a run is watched.
#[derive(Args, Clone, Debug)]
pub(super) struct WatchFlags {
    /// Look at the files every MS milliseconds instead of waiting for the system's events, for network file systems
    #[arg(long, value_name = "MS", num_args = 0..=1, default_missing_value = "500", require_equals = true)]
    watch_poll: Option<u64>,
    /// What becomes of the schedule when the learning rate changes: the same curve, the curve begun again, or none
    #[arg(long, value_name = "POLICY", default_value = "keep_shape",
        value_parser = clap::builder::PossibleValuesParser::new(RatePolicy::NAMES))]
    lr_policy: String,
}

impl WatchFlags {
    /// How changes are noticed.
    pub(super) fn notice(&self) -> Notice {
        self.watch_poll.map_or(Notice::Events, |every| Notice::Poll(Duration::from_millis(every.max(1))))
    }

    /// Lets the run change as the flags say.
    pub(super) fn apply(&self, host: &Host) -> Result<()> {
        let policy = policy(&self.lr_policy)?;
        host.session.live().set(|settings| settings.policy = policy);
        Ok(())
    }
}

/// What steers runs for as long as it lives: keys in the terminal, and a socket in the folder of the run.
#[derive(Default)]
pub(super) struct Steering {
    keys: Option<Keys>,
    control: Arc<Mutex<Option<Control>>>,
}

impl Drop for Steering {
    fn drop(&mut self) {
        drop(self.control.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Steering {
    /// Lets people steer the run of `host` from now on.
    pub(super) fn turn_to(&mut self, host: &Host, context: &Context) {
        let (live, reporter) = (host.session.live().clone(), host.session.reporter().clone());
        let (control, listened, told) = (self.control.clone(), live.clone(), reporter.clone());
        live.book().on_folder(Box::new(move |folder| {
            let mut control = control.lock().unwrap_or_else(PoisonError::into_inner);
            drop(control.take());
            match control::serve(folder, listened.clone()) {
                Ok(serving) => *control = Some(serving),
                Err(error) => told.note(&format!("`retune ctl` cannot reach this run: {error}")),
            }
        }));
        if let Some(keys) = &self.keys {
            keys.turn_to(live);
        } else if !context.globals.quiet && !context.globals.json {
            self.keys = keys::listen(live, reporter.clone());
            if self.keys.is_some() {
                reporter.note(keys::HELP);
            }
        }
    }
}

/// What is to come after a run that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The recipe again.
    Run,
    /// Nothing.
    End,
}

/// Waits until a script has changed so that it can run, or somebody ends the watching.
///
/// # Errors
/// A signal.
pub(super) fn wait(live: &Live, reporter: &Reporter) -> Result<Next> {
    loop {
        cancel::check()?;
        if live.restart().is_some() {
            return Ok(Next::Run);
        }
        for request in live.take_waiting() {
            let nothing = || Err(Error::new(What::Conflict("nothing is being trained".into())));
            match request {
                Request::Edit(edit) => match &edit.refused {
                    Some(shown) => reporter.note(&shown.rendered),
                    None => return Ok(Next::Run),
                },
                Request::Stop(answer) => {
                    answer(Ok(serde_json::json!({ "ended": true })));
                    return Ok(Next::End);
                }
                Request::Status(answer) => answer(Ok(serde_json::json!({ "waiting": true }))),
                Request::Set(_, _, answer)
                | Request::Evaluate(answer)
                | Request::Save(answer)
                | Request::Pause(answer) => answer(nothing()),
            }
        }
        live.wait();
    }
}
