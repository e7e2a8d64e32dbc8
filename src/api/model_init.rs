//! `model_init` of a Trainer: the script's function that returns a fresh model.

use rhai::{Dynamic, EvalAltResult, FnPtr, NativeCallContext};

use crate::api::session::Session;
use crate::error::{Error, Result, What};
use crate::head::Model;
use crate::head::script::convert::{lower, type_name};
use crate::train::search::TrialHandle;

/// Whether people are told what the model was loaded from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loads {
    /// They are: it is the first one.
    Noted,
    /// They are not: it is the same again.
    Silent,
}

/// What `model_init` makes, with new weights drawn from `seed`. It may take the trial of a search, which is `()` outside of one.
pub(super) fn fresh_model(
    context: &NativeCallContext,
    init: &FnPtr,
    trial: Option<&TrialHandle>,
    seed: u64,
    loads: Loads,
) -> Result<Model> {
    let session = Session::of(context);
    let before = session.seed();
    session.set_seed(seed);
    session.reporter().note_loads(loads == Loads::Noted);
    let argument = trial.map_or(Dynamic::UNIT, |trial| Dynamic::from(trial.clone()));
    let made = match init.call_within_context::<Dynamic>(context, (argument,)) {
        Err(error) if matches!(&*error, EvalAltResult::ErrorFunctionNotFound(name, _) if name.starts_with(init.fn_name())) => {
            init.call_within_context::<Dynamic>(context, ())
        }
        made => made,
    };
    session.reporter().note_loads(true);
    session.set_seed(before);
    let made = made.map_err(lower)?;
    made.clone().try_cast::<Model>().ok_or_else(|| {
        let (name, got) = ("what `model_init` returns".into(), type_name(&made));
        let error = Error::new(What::WrongType { name, wanted: "a model".into(), got });
        error.hint("end it with `AutoModelFor...::from_pretrained(\"NAME\")`, without a `;`")
    })
}
