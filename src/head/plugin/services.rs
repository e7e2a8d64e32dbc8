//! What a call of a plugin's function gets of the task contract: parameters, the batch, texts, functions of scripts.

use candle_core::{DType, Device, Tensor};
use retune_plugin_sdk::opcodes::op;

use crate::batch::Batch;
use crate::error::{Error, Result, What};
use crate::head::plugin::Environment;
use crate::head::plugin::arguments::{self, Argument};
use crate::head::{HeadBuilder, Output, packed};
use crate::model::parameters::Init;
use crate::plugin::Services;
use crate::plugin::call::Tensors;
use crate::tensor::shape::shown;
use crate::tokenizer::Tokenizer;

/// Where parameters come from.
pub(super) enum Parameters<'a> {
    /// `create`: they are made, unless the model has them already.
    Create {
        /// What makes them.
        builder: &'a HeadBuilder,
        /// The names that were asked for, in order.
        names: &'a mut Vec<String>,
        /// Those that did not exist before.
        made: &'a mut Vec<String>,
    },
    /// Elsewhere they are looked up.
    LookUp(&'a HeadBuilder),
}

/// What one call gets.
pub(super) struct Request<'a> {
    device: Device,
    environment: &'a dyn Environment,
    parameters: Parameters<'a>,
    /// The batch; `collate` may put another in its place.
    pub(super) batch: Option<Batch>,
    /// The encoder's last hidden states, `(tokens, hidden)`.
    pub(super) hidden: Option<&'a Tensor>,
    /// What forward has given.
    pub(super) output: Option<&'a Output>,
    pub(super) tokenizer: Option<&'a Tokenizer>,
    /// Texts by name.
    pub(super) texts: Vec<(&'static str, Vec<u8>)>,
    /// What functions of scripts have returned and JSON cannot hold.
    objects: Vec<Argument>,
}

impl<'a> Request<'a> {
    pub(super) fn new(builder: &HeadBuilder, environment: &'a dyn Environment, parameters: Parameters<'a>) -> Self {
        Request {
            device: builder.device().clone(),
            environment,
            parameters,
            batch: None,
            hidden: None,
            output: None,
            tokenizer: None,
            texts: Vec::new(),
            objects: Vec::new(),
        }
    }

    fn batch(&self) -> Result<&Batch> {
        self.batch.as_ref().ok_or_else(|| What::Plugin("this call has no batch".into()).into())
    }
}

/// The inputs that every batch has.
const OF_BATCH: [&str; 6] = ["input_ids", "token_type_ids", "position_ids", "lengths", "starts", "label_smoothing"];

impl Services for Request<'_> {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn param(&mut self, name: &str, dims: &[usize], init: Option<Init>) -> Result<Tensor> {
        let found = match &mut self.parameters {
            Parameters::LookUp(builder) => builder.made(name).ok_or_else(|| {
                let error = Error::new(What::NotFound { kind: "parameter", name: name.to_string() });
                error.hint("parameters are made in `create`, and looked up elsewhere")
            })?,
            Parameters::Create { builder, names, made } => {
                if names.iter().any(|known| known == name) {
                    let error = Error::new(What::Conflict(format!("the parameter `{name}` is made twice")));
                    return Err(error.hint("each layer needs a name of its own"));
                }
                let parameter = match builder.made(name) {
                    Some(existing) => existing,
                    None => {
                        made.push(name.to_string());
                        builder.param(name, dims, init)?
                    }
                };
                names.push(name.to_string());
                parameter
            }
        };
        if found.value().dims() != dims {
            let (has, asked) = (shown(found.value().dims()), shown(dims));
            let problem = format!("the parameter `{name}` has the shape {has}, but {asked} is asked for");
            return Err(What::Weights(problem).into());
        }
        Ok(found.tensor())
    }

    fn input(&self, name: &str) -> Result<Option<Tensor>> {
        if let Some(output) = self.output
            && let Some((_, tensor)) = output.tensors().into_iter().find(|(known, _)| *known == name)
        {
            return Ok(Some(tensor.clone()));
        }
        if name == "hidden" {
            return Ok(self.hidden.cloned());
        }
        let Some(batch) = &self.batch else { return Ok(None) };
        let counts = |values: &[usize]| {
            let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
            Tensor::from_vec(values, (batch.n_rows(),), &self.device)
        };
        Ok(match name {
            "input_ids" => Some(batch.input_ids.to_dtype(DType::I64)?),
            "token_type_ids" => Some(batch.token_type_ids.to_dtype(DType::I64)?),
            "position_ids" => Some(batch.position_ids.to_dtype(DType::I64)?),
            "lengths" => Some(counts(&batch.lengths)?),
            "starts" => Some(counts(&batch.starts[..batch.n_rows()])?),
            "label_smoothing" => Some(Tensor::new(batch.label_smoothing, &self.device)?),
            "class_weights" => batch.class_weights.clone(),
            column => batch.columns.get(column).cloned(),
        })
    }

    fn input_names(&self) -> Vec<String> {
        let outputs = self.output.iter().flat_map(|output| output.tensors()).map(|(name, _)| name.to_string());
        let hidden = self.hidden.iter().map(|_| "hidden".to_string());
        let columns = self.batch.iter().flat_map(|batch| batch.columns.keys().cloned());
        let fixed = self.batch.iter().flat_map(|_| OF_BATCH).map(str::to_string);
        outputs.chain(hidden).chain(columns).chain(fixed).collect()
    }

    fn text(&self, name: &str) -> Option<Vec<u8>> {
        self.texts.iter().find(|(known, _)| *known == name).map(|(_, text)| text.clone())
    }

    fn with_batch(&self, opcode: u32, x: &Tensor, ints: &[i64], floats: &[f64]) -> Result<Tensor> {
        let batch = self.batch()?;
        match opcode {
            op::DROPOUT => packed::dropout(x, floats[0], batch),
            op::FIRST => packed::first(x, batch),
            op::LAST => match ints.first().and_then(|id| u32::try_from(*id).ok()) {
                Some(pad_id) => packed::last_unpadded(x, batch, pad_id),
                None => packed::last(x, batch),
            },
            op::ROW_MEAN => packed::mean(x, batch),
            op::ROW_MAX => packed::max(x, batch),
            op::PADDED => packed::padded(x, batch),
            op::NEXT => packed::next(x, batch),
            other => Err(What::Internal(format!("the operation {other} has no implementation")).into()),
        }
    }

    fn call(&mut self, tensors: &mut Tensors, function: &str, arguments: &str) -> Result<String> {
        let known = arguments::Known { batch: self.batch.as_ref(), tokenizer: self.tokenizer, objects: &self.objects };
        let list = arguments::read(arguments, tensors, &known)?;
        let result = match self.environment.call(function, list)? {
            // A function that gives a batch gives the one that is looked at from now on.
            Argument::Batch(batch) => {
                self.batch = Some((*batch).clone());
                Argument::Batch(batch)
            }
            other => other,
        };
        Ok(arguments::write(result, tensors, &mut self.objects).to_string())
    }

    fn is_training(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.draw.is_some())
    }

    fn log(&self, level: u32, text: &str) {
        self.environment.log(level, text);
    }
}
