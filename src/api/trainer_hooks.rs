//! What accompanies a call of a script's trainer: its callbacks, metrics and loss, what people see, and what may change meanwhile.

use std::cell::Cell;

use rhai::{FnPtr, NativeCallContext};

use crate::api::between::{Between, LedgerKeeper};
use crate::api::callbacks::{CallbackSetting, Follow, ScriptCallback};
use crate::api::calls::Again;
use crate::api::compute_loss::LossFunction;
use crate::api::session::Session;
use crate::api::trainer::ScriptTrainer;
use crate::api::trainer_data::predictions_map;
use crate::cancel;
use crate::head::Predictions;
use crate::head::script::convert::{from_dynamic, lower};
use crate::report::{Bars, RunCallback};
use crate::train::Hooks;

impl ScriptTrainer {
    /// The hooks of one call.
    pub(super) fn hooks<'a>(&'a self, context: &'a NativeCallContext<'a>) -> Hooks<'a> {
        let session = Session::of(context);
        let (reporter, live) = (session.reporter().clone(), session.live().clone());
        let bars = if self.arguments().get().disable_tqdm { Bars::Hidden } else { Bars::Shown };
        let mut hooks = Hooks {
            notes: Some(Box::new({
                let reporter = reporter.clone();
                move |text: &str| reporter.note(text)
            })),
            ..Hooks::default()
        };
        hooks.callbacks.push(Box::new(Follow(self.view().clone())));
        hooks.callbacks.push(Box::new(RunCallback::new(reporter.clone(), bars)));
        hooks.callbacks.push(Box::new(LedgerKeeper(live.clone())));
        for callback in self.callbacks().iter() {
            match callback {
                CallbackSetting::EarlyStopping(early) => hooks.callbacks.push(Box::new(early.callback())),
                CallbackSetting::Script(functions) => hooks.callbacks.push(Box::new(ScriptCallback {
                    context,
                    functions: functions.clone(),
                    arguments: self.arguments().clone(),
                    view: self.view().clone(),
                    model: self.model().clone(),
                    session: session.clone(),
                })),
            }
        }
        if let Some(function) = self.compute_metrics() {
            let live = live.clone();
            hooks.compute_metrics = Some(Box::new(move |predictions: &Predictions| {
                let argument = predictions_map(predictions);
                let value = live.call_once(context, function, (argument,)).map_err(lower)?;
                live.calls().attempted(function.fn_name());
                from_dynamic(&value)
            }));
        }
        hooks.compute_loss = self.compute_loss().map(|function| function.hook(context, self.model().clone()));
        let between = Between {
            live: live.clone(),
            reporter: reporter.clone(),
            arguments: self.arguments().clone(),
            called: self.called_by_name(),
            changes: self.arguments().changes().clone(),
            done: Cell::default(),
        };
        hooks.between = Some(between.hook());
        hooks.interrupted = Some(Box::new(cancel::requested));
        let scripts = session.clone();
        hooks.scripts = Some(Box::new(move || scripts.texts()));
        hooks.mend = Some(Box::new(move |error| live.roll_back(error, Again::Attempt, &reporter)));
        hooks
    }

    /// The functions that are called by name, which a new version of the recipe has to have.
    fn called_by_name(&self) -> Vec<(String, usize)> {
        let named = |function: &FnPtr, n: usize| {
            (!function.is_anonymous()).then(|| (function.fn_name().to_string(), n + function.curry().len()))
        };
        let mut all: Vec<(String, usize)> = Vec::new();
        for callback in self.callbacks().iter() {
            if let CallbackSetting::Script(functions) = callback {
                all.extend(functions.iter().filter_map(|(_, function)| named(function, 4)));
            }
        }
        all.extend(self.compute_metrics().and_then(|function| named(function, 1)));
        all.extend(self.compute_loss().map(LossFunction::called).and_then(|(function, n)| named(function, n)));
        all
    }
}
