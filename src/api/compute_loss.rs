//! A Trainer's loss of the recipe's own: `compute_loss` or Hugging Face's `compute_loss_func`, called on the script's engine.

use candle_core::Tensor;
use rhai::{Dynamic, FnPtr, NativeCallContext};

use crate::api::model_output::ModelOutput;
use crate::api::options::Options;
use crate::api::session::Session;
use crate::batch::Batch;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{lower, type_name};
use crate::head::script::output_to_dynamic;
use crate::head::{Model, Output};
use crate::train::ComputeLoss;

/// The function as the recipe gave it.
#[derive(Clone)]
pub(super) enum LossFunction {
    /// `compute_loss(output, batch)`.
    OfBatch(FnPtr),
    /// `compute_loss_func(outputs, labels, num_items_in_batch)`.
    OfWindow(FnPtr),
}

impl LossFunction {
    /// Reads the options of a Trainer.
    pub(super) fn read(options: &mut Options) -> Result<Option<Self>> {
        let function = |error: Error| error.hint("write `Fn(\"NAME\")` for a function of the recipe, or a closure");
        let of_batch = options.object::<FnPtr>("compute_loss", "a function").map_err(function)?;
        let of_window = options.object::<FnPtr>("compute_loss_func", "a function").map_err(function)?;
        match (of_batch, of_window) {
            (Some(_), Some(_)) => {
                let problem = "`compute_loss` and `compute_loss_func` of `Trainer` are two losses";
                Err(Error::new(What::Conflict(problem.into())).hint("keep one of the two"))
            }
            (Some(function), None) => Ok(Some(LossFunction::OfBatch(function))),
            (None, Some(function)) => Ok(Some(LossFunction::OfWindow(function))),
            (None, None) => Ok(None),
        }
    }

    /// The function, with its number of parameters.
    pub(super) fn called(&self) -> (&FnPtr, usize) {
        match self {
            LossFunction::OfBatch(function) => (function, 2),
            LossFunction::OfWindow(function) => (function, 3),
        }
    }

    /// The loss during one call of the trainer.
    pub(super) fn hook<'a>(&'a self, context: &'a NativeCallContext<'a>, model: Model) -> ComputeLoss<'a> {
        let live = Session::of(context).live().clone();
        match self {
            LossFunction::OfBatch(function) => ComputeLoss::OfBatch(Box::new(move |output: &Output, batch: &Batch| {
                let args = (output_to_dynamic(output), batch.clone());
                let value = live.call_once(context, function, args).map_err(lower)?;
                live.calls().attempted(function.fn_name());
                scalar("compute_loss", value)
            })),
            LossFunction::OfWindow(function) => {
                ComputeLoss::OfWindow(Box::new(move |output: &Output, batch: &Batch, n_items: Option<usize>| {
                    let outputs = ModelOutput::new(model.clone(), batch.clone(), output.clone());
                    let labels = batch.columns.get("labels").map_or(Dynamic::UNIT, |one| Dynamic::from(one.clone()));
                    let n_items = n_items.map_or(Dynamic::UNIT, |count| Dynamic::from(count as i64));
                    let args = (outputs, labels, n_items);
                    let value = live.call_once(context, function, args).map_err(lower)?;
                    live.calls().attempted(function.fn_name());
                    scalar("compute_loss_func", value)
                }))
            }
        }
    }
}

fn scalar(name: &str, value: Dynamic) -> Result<Tensor> {
    value.clone().try_cast::<Tensor>().ok_or_else(|| {
        let (name, got) = (format!("what `{name}` returns"), type_name(&value));
        let error = Error::new(What::WrongType { name, wanted: "a scalar Tensor".into(), got });
        error.hint("a number has no gradient: leave out `.item()` and `.to_array()`")
    })
}
