//! `ModelOutput`: what `model.forward(batch)` gives, as Hugging Face's: `loss` and `logits`, or the tensors by their names.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use rhai::plugin::*;
use rhai::{Array, ImmutableString};

use crate::api::loops;
use crate::api::session::Session;
use crate::batch::Batch;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, raise};
use crate::head::{Mode, Model, Output};

/// The output of a forward. Cheap to clone; all clones are the same output.
#[derive(Clone)]
pub struct ModelOutput(Arc<Inner>);

struct Inner {
    model: Model,
    batch: Batch,
    output: Output,
    loss: Mutex<Option<Tensor>>,
}

impl ModelOutput {
    /// An output of `model` for `batch`.
    pub(super) fn new(model: Model, batch: Batch, output: Output) -> Self {
        ModelOutput(Arc::new(Inner { model, batch, output, loss: Mutex::default() }))
    }

    /// The forward of a script: in the model's mode, where somebody has set it.
    pub(super) fn forward(session: &Session, model: &Model, mut batch: Batch) -> Result<Self> {
        match model.mode() {
            Mode::Unset => {}
            Mode::Eval => batch.draw = None,
            Mode::Train if batch.draw.is_some() => {}
            Mode::Train => {
                let problem = "the model is in training mode, but the batch has no draw for dropout";
                return Err(Error::new(What::Conflict(problem.into())).hint(
                    "call `model.train()` before the loop over the `DataLoader`, or `model.eval()` before the forward",
                ));
            }
        }
        let output = loops::mending(session, || model.forward(&batch))?;
        session.live().hold(model, &batch);
        Ok(ModelOutput::new(model.clone(), batch, output))
    }

    /// The task's loss, computed once.
    fn loss(&self, session: &Session) -> Result<Tensor> {
        let mut known = self.0.loss.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loss) = &*known {
            return Ok(loss.clone());
        }
        let loss = loops::mending(session, || self.0.model.loss(&self.0.output, &self.0.batch))?;
        *known = Some(loss.clone());
        Ok(loss)
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        let tensors = self.0.output.tensors();
        if let Some((_, tensor)) = tensors.iter().find(|(known, _)| *known == name) {
            return Ok((*tensor).clone());
        }
        let known: Vec<String> = tensors.iter().map(|(name, _)| format!("`{name}`")).collect();
        Err(Error::new(What::NotFound { kind: "output", name: name.to_string() })
            .hint(format!("the model gives {} and `loss`", known.join(", "))))
    }
}

/// Makes the type and its functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<ModelOutput>("ModelOutput");
    engine.register_global_module(exported_module!(outputs).into());
}

#[export_module]
mod outputs {
    /// The task's loss, a scalar: the mean over the batch's labels.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let outputs = model.forward(Batch::of([#{ input_ids: [2, 100, 3], labels: 1 }]));
    /// expect(outputs.loss.item() > 0.0, "the batch has labels");
    /// ```
    #[rhai_fn(get = "loss", pure, return_raw)]
    pub fn loss(context: NativeCallContext, outputs: &mut ModelOutput) -> ScriptResult<Tensor> {
        outputs.loss(&Session::of(&context)).map_err(raise)
    }

    /// A tensor of the output by name: `outputs.logits`, `outputs.start_logits`, ...
    ///
    /// Tokens of all rows stand one after the other, without padding.
    ///
    /// ```rhai
    /// let model = AutoModelForTokenClassification::from_pretrained("std/minilm-tiny", #{ num_labels: 5 });
    /// let outputs = model.forward(Batch::of([#{ input_ids: [2, 100, 3] }, #{ input_ids: [2, 3] }]));
    /// expect(outputs.logits.shape == [5, 5], "five tokens, five labels");
    /// ```
    #[rhai_fn(index_get, pure, return_raw)]
    pub fn by_name(outputs: &mut ModelOutput, name: ImmutableString) -> ScriptResult<Tensor> {
        outputs.get(&name).map_err(raise)
    }

    /// The names of the output's tensors, without the loss.
    ///
    /// ```rhai
    /// let model = AutoModelForQuestionAnswering::from_pretrained("std/minilm-tiny");
    /// let outputs = model.forward(Batch::of([#{ input_ids: [2, 100, 3] }]));
    /// expect(outputs.keys() == ["end_logits", "start_logits"], "both ends");
    /// ```
    #[rhai_fn(pure)]
    pub fn keys(outputs: &mut ModelOutput) -> Array {
        outputs.0.output.tensors().iter().map(|(name, _)| Dynamic::from((*name).to_string())).collect()
    }
}
