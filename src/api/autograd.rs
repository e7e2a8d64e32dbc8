//! What a training loop does with gradients: `loss.backward()`, `model.train()`, `model.eval()`, `clip_grad_norm_`, `no_grad`.
//!
//! Gradients belong to the models that a script has loaded, by the names of their parameters, and add up until they are set
//! to none, as in torch.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use candle_core::{DType, Tensor};
use rhai::FnPtr;
use rhai::plugin::*;

use crate::api::session::Session;
use crate::api::tensor::number;
use crate::cancel;
use crate::error::{Error, Result, What, nearest};
use crate::head::script::convert::{ScriptResult, raise};
use crate::head::{Gradients, Mode, Model, scalar};
use crate::model::gradient::Gradient;
use crate::model::parameters::without_gradients;
use crate::train::optimizer::{clip_factor, grad_norm};

/// Makes the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(gradients).into());
}

#[export_module]
mod gradients {
    /// Computes the gradients of a scalar and adds them to those of the models' trainable parameters.
    ///
    /// A loss that is not finite is an error, and changes nothing.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let outputs = model.forward(Batch::of([#{ input_ids: [2, 100, 3], labels: 1 }]));
    /// outputs.loss.backward();
    /// expect(model.grad("classifier.bias").shape == [2], "one number for each label");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn backward(context: NativeCallContext, loss: &mut Tensor) -> ScriptResult<()> {
        super::add_gradients(&Session::of(&context), loss).map_err(raise)
    }

    /// The gradient of a parameter as it has added up, or `()` where there is none.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(model.grad("classifier.bias") == (), "before the first `backward`");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn grad(model: &mut Model, name: &str) -> ScriptResult<Dynamic> {
        let known = super::named(model, name).map_err(raise)?;
        let gradients = model.gradients();
        let gradient = gradients.get(known.name()).map(Gradient::to_tensor).transpose().map_err(raise)?;
        Ok(gradient.map_or(Dynamic::UNIT, Dynamic::from))
    }

    /// A parameter's values as they are now.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(model.parameter("classifier.bias").to_array() == [0.0, 0.0], "a new head");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn parameter(model: &mut Model, name: &str) -> ScriptResult<Tensor> {
        let copy = |name: &str| Ok(super::named(model, name)?.value().detach().copy()?);
        copy(name).map_err(raise)
    }

    /// Sets all gradients of the model to none.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.forward(Batch::of([#{ input_ids: [2, 100, 3], labels: 1 }])).loss.backward();
    /// model.zero_grad();
    /// expect(model.grad("classifier.bias") == (), "they are gone");
    /// ```
    #[rhai_fn(pure)]
    pub fn zero_grad(model: &mut Model) {
        model.gradients().clear();
    }

    /// Scales the model's gradients down so that their norm together is at most `max_norm`. Gives the norm before.
    ///
    /// A norm that is not finite is given back as it is, and leaves the gradients alone: `optimizer.step()` refuses them.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.forward(Batch::of([#{ input_ids: [2, 100, 3], labels: 1 }])).loss.backward();
    /// let norm = clip_grad_norm_(model, 1e-3);
    /// expect(norm > 1e-3 && clip_grad_norm_(model, 1.0) < 1.1e-3, "scaled down");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn clip_grad_norm_(model: Model, max_norm: Dynamic) -> ScriptResult<f64> {
        super::clip(&model, &max_norm).map_err(raise)
    }

    /// Sets the model to training mode: `DataLoader`s make their batches for it with dropout. Gives the model.
    ///
    /// A loaded model does not drop until this is called, as in Hugging Face. The Trainer trains in any mode.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(!model.training && model.train().training, "from now on");
    /// ```
    #[rhai_fn(name = "train", pure)]
    pub fn train_model(model: &mut Model) -> Model {
        model.set_mode(Mode::Train);
        model.clone()
    }

    /// Sets the model to training mode, or with `false` to evaluation mode. Gives the model.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.train(true);
    /// expect(!model.train(false).training, "as `model.eval()`");
    /// ```
    #[rhai_fn(name = "train", pure)]
    pub fn train_model_or_not(model: &mut Model, mode: bool) -> Model {
        model.set_mode(if mode { Mode::Train } else { Mode::Eval });
        model.clone()
    }

    /// Sets the model to evaluation mode, in which nothing is dropped: `model.eval()`. Gives the model.
    ///
    /// `eval` is a word of the script language, so this is the function's name; a recipe may write either.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.train();
    /// expect(!model.eval().training, "nothing drops");
    /// ```
    #[rhai_fn(pure)]
    pub fn eval_mode(model: &mut Model) -> Model {
        model.set_mode(Mode::Eval);
        model.clone()
    }

    /// Whether the model is in training mode.
    ///
    /// ```rhai
    /// expect(!AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny").training, "not yet");
    /// ```
    #[rhai_fn(get = "training", pure)]
    pub fn is_training(model: &mut Model) -> bool {
        model.mode() == Mode::Train
    }

    /// Calls a function in which no forward keeps anything for gradients, as torch's `no_grad`; gives what it returns.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let batch = Batch::of([#{ input_ids: [2, 100, 3], labels: 1 }]);
    /// let loss = no_grad(|| model.forward(batch).loss.item());
    /// expect(loss > 0.0, "the same loss, with less memory");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn no_grad(context: NativeCallContext, function: FnPtr) -> ScriptResult<Dynamic> {
        without_gradients(|| function.call_within_context(&context, ()))
    }
}

fn add_gradients(session: &Session, loss: &Tensor) -> Result<()> {
    cancel::check()?;
    let loss = scalar(loss.clone())?;
    if !loss.dtype().is_float() {
        let (name, got) = ("what `backward` starts from".into(), "whole numbers".into());
        return Err(What::WrongType { name, wanted: "a float Tensor".into(), got }.into());
    }
    let value: f64 = loss.to_dtype(DType::F64)?.to_scalar()?;
    if !value.is_finite() {
        let error = Error::new(What::NonFinite(format!("the loss is {value}; no gradient was computed")));
        return Err(error.hint("lower the learning rate, clip the gradients, or look at the rows of this batch"));
    }
    let forget = |_: &candle_core::Error| session.models().iter().for_each(Model::discard_gradients);
    let mut store = loss.backward().inspect_err(forget)?;
    let mut reached = 0;
    for model in session.models() {
        let mut gradients = model.gradients();
        let mut sums = gradients.clone();
        reached += model.collect_gradients(&mut store, &mut sums)?;
        *gradients = sums;
    }
    if reached == 0 {
        let error = Error::new(What::Conflict("no trainable parameter has a gradient of this tensor".into()));
        return Err(error.hint(
            "it must come from `model.forward(batch)` outside `no_grad`, by tensor operations, with parameters that are not frozen",
        ));
    }
    Ok(())
}

fn named(model: &Model, name: &str) -> Result<std::sync::Arc<crate::model::parameters::Parameter>> {
    model.parameters().get(name).ok_or_else(|| {
        let error = Error::new(What::NotFound { kind: "parameter", name: name.to_string() });
        let all = model.parameters().all();
        match nearest(name, all.iter().map(|parameter| parameter.name())) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`model.parameter_names()` lists the names"),
        }
    })
}

fn clip(model: &Model, max_norm: &Dynamic) -> Result<f64> {
    let max_norm = number("the `max_norm` of `clip_grad_norm_`", max_norm)?;
    if max_norm.is_nan() || max_norm < 0.0 {
        let name = "the `max_norm` of `clip_grad_norm_`".into();
        return Err(What::OutOfRange { name, value: max_norm.to_string(), allowed: "at least 0".into() }.into());
    }
    let mut gradients = model.gradients();
    if gradients.is_empty() {
        let error = Error::new(What::Conflict("the model has no gradients to clip".into()));
        return Err(error.hint("call `loss.backward()` before"));
    }
    let norm = grad_norm(&gradients)?;
    let factor = clip_factor(norm, max_norm);
    if norm.is_finite() && factor < 1.0 {
        let scaled = gradients.iter().map(|(name, gradient)| Ok((name.clone(), gradient.scaled(factor)?)));
        let scaled = scaled.collect::<Result<Gradients>>()?;
        *gradients = scaled;
    }
    Ok(norm)
}
