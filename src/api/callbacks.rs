//! Callbacks written in a script: a map from Hugging Face's event names to functions of `(args, state, control, extra)`.
//!
//! The state is a view that the trainer keeps up to date; setting a flag of the control steers the run, as in Hugging Face.

use std::sync::{Arc, Mutex};

use rhai::plugin::*;
use rhai::{Array, FnPtr, Map};
use serde_json::{Map as JsonMap, Value as Json};

use crate::api::calls::Again;
use crate::api::options::Options;
use crate::api::run_state::{Control, StateView};
use crate::api::session::Session;
use crate::api::training_arguments::{EarlyStopping, TrainingArguments as Arguments};
use crate::data::Value;
use crate::error::{Error, Result, What, nearest};
use crate::head::Model;
use crate::head::script::convert::{to_dynamic, type_name};
use crate::train::TrainingArguments;
use crate::train::callbacks::{Callback, Event, Extra, TrainerControl};
use crate::train::state::TrainerState;

/// One entry of the Trainer's `callbacks`.
#[derive(Clone)]
pub enum CallbackSetting {
    /// Functions by event name.
    Script(Vec<(Event, FnPtr)>),
    /// Early stopping.
    EarlyStopping(EarlyStopping),
}

impl CallbackSetting {
    /// Reads an entry of `callbacks`.
    ///
    /// # Errors
    /// An unknown event, with the nearest one; a value that is no function.
    pub fn read(value: &Dynamic) -> Result<Self> {
        if let Some(early) = value.clone().try_cast::<EarlyStopping>() {
            return Ok(CallbackSetting::EarlyStopping(early));
        }
        let Some(map) = value.clone().try_cast::<Map>() else {
            return Err(What::WrongType {
                name: "a callback".into(),
                wanted: "a map from event names to functions, or an `EarlyStoppingCallback`".into(),
                got: type_name(value),
            }
            .into());
        };
        let mut functions = Vec::new();
        for (name, function) in map {
            let Some(event) = Event::named(&name) else {
                let error = Error::new(What::UnknownOption { key: name.to_string(), of: "a callback".into() });
                let names: Vec<_> = Event::ALL.iter().map(|event| event.name()).collect();
                return Err(match nearest(&name, names.iter().copied()) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint(format!("the events are {}", names.join(", "))),
                });
            };
            let Some(function) = function.clone().try_cast::<FnPtr>() else {
                let (name, got) = (format!("`{name}` of a callback"), type_name(&function));
                let error = Error::new(What::WrongType { name, wanted: "a function".into(), got });
                return Err(error.hint("write `|args, state, control, extra| { ... }`, or `Fn(\"name\")`"));
            };
            functions.push((event, function));
        }
        Ok(CallbackSetting::Script(functions))
    }

    /// Whether both have the same settings, or the same functions for the same events.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (CallbackSetting::EarlyStopping(one), CallbackSetting::EarlyStopping(two)) => one == two,
            (CallbackSetting::Script(one), CallbackSetting::Script(two)) => {
                let same = |(a, b): (&(Event, FnPtr), &(Event, FnPtr))| a.0 == b.0 && a.1.fn_name() == b.1.fn_name();
                one.len() == two.len() && one.iter().zip(two).all(same)
            }
            _ => false,
        }
    }
}

/// A script's callback during one call of the trainer.
pub(super) struct ScriptCallback<'a> {
    pub(super) context: &'a NativeCallContext<'a>,
    pub(super) functions: Vec<(Event, FnPtr)>,
    pub(super) arguments: Arguments,
    pub(super) view: StateView,
    pub(super) model: Model,
    pub(super) session: Session,
}

impl Callback for ScriptCallback<'_> {
    fn on_event(
        &mut self,
        event: Event,
        _args: &TrainingArguments,
        state: &mut TrainerState,
        control: &mut TrainerControl,
        extra: &Extra,
    ) -> Result<()> {
        for (wanted, function) in &self.functions {
            if *wanted != event {
                continue;
            }
            self.view.follow(state);
            let shared = Control(Arc::new(Mutex::new(*control)));
            let mut map = Map::new();
            map.insert("model".into(), Dynamic::from(self.model.clone()));
            for (name, values) in [("logs", extra.logs), ("metrics", extra.metrics)] {
                if let Some(values) = values {
                    map.insert(name.into(), json_to_dynamic(values));
                }
            }
            let args = (self.arguments.clone(), self.view.clone(), shared.clone(), map);
            let (live, reporter) = (self.session.live(), self.session.reporter());
            let _: Dynamic = live.call(self.context, function, args, |error| {
                // What a callback that failed has set counts as little as the callback.
                *shared.flags() = *control;
                live.roll_back(error, Again::Call, reporter)
            })?;
            match event {
                Event::SubstepEnd | Event::PreOptimizerStep | Event::PredictionStep => {
                    live.calls().attempted(function.fn_name());
                }
                _ => live.calls().made(function.fn_name()),
            }
            *control = *shared.flags();
        }
        Ok(())
    }
}

/// Keeps the view of the state up to date, whatever other callbacks there are.
pub(super) struct Follow(pub(super) StateView);

impl Callback for Follow {
    fn on_event(
        &mut self,
        event: Event,
        _args: &TrainingArguments,
        state: &mut TrainerState,
        _control: &mut TrainerControl,
        _extra: &Extra,
    ) -> Result<()> {
        if event != Event::PredictionStep {
            self.0.follow(state);
        }
        Ok(())
    }
}

/// A JSON object as a script sees it.
pub(super) fn json_to_dynamic(map: &JsonMap<String, Json>) -> Dynamic {
    to_dynamic(&Value::from(Json::Object(map.clone())))
}

/// Reads the `callbacks` of a Trainer.
pub(super) fn read_all(options: &mut Options) -> Result<Vec<CallbackSetting>> {
    let list: Array = options.array("callbacks")?.unwrap_or_default();
    list.iter().map(CallbackSetting::read).collect()
}
