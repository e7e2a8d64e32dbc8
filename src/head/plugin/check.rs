//! What is tried out of a plugin before it is trusted: the work of the canary's child.
//!
//! Each head is put on a small model. It is made, does forwards and backwards on batches of several sizes with labels of the kind
//! that its loss takes, is compared with finite differences, watched for memory it keeps, and given inputs that are wrong.

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use serde_json::json;

use crate::batch::{Batch, Draw, Features};
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::plugin::{Alone, PluginTask};
use crate::head::{HeadBuilder, HeadState, Leading, Output, Task, scalar};
use crate::model::backbone::LoadSettings;
use crate::model::parameters::Parameter;
use crate::model::{Backbone, ModelConfig};
use crate::plugin::Plugin;
use crate::plugin::canary::{Effort, Line};
use crate::tensor::rng::Rng;

/// Tries all heads of a plugin out, and tells each step before it is made.
///
/// # Errors
/// Telling itself never fails; what is wrong with the plugin is told as [`Line::Failed`], and ends the check of its head.
pub fn check(plugin: &Arc<Plugin>, effort: Effort, tell: &mut dyn FnMut(Line)) -> Result<()> {
    tell(Line::Plugin {
        name: plugin.name.clone(),
        version: plugin.version.clone(),
        abi: format!("{}.{}", plugin.abi.0, plugin.abi.1),
        heads: plugin.heads.iter().map(|head| head.name.clone()).collect(),
    });
    for head in &plugin.heads {
        let task = PluginTask::new(plugin, &head.name, Arc::new(Alone))?;
        let mut trial = Trial { task, name: head.name.clone(), tell };
        if let Err(error) = trial.run(effort) {
            let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
            (trial.tell)(Line::Failed(format!("{error}{hint}")));
        }
    }
    Ok(())
}

struct Trial<'a> {
    task: PluginTask,
    name: String,
    tell: &'a mut dyn FnMut(Line),
}

/// The kinds of labels that a loss may take: columns of rows by their lengths.
const LABELS: [&str; 6] = ["tokens", "rows", "spans", "numbers", "several", "none"];

/// Row lengths of the batches that shapes are tried with.
const SIZES: [&[usize]; 4] = [&[2, 3], &[1], &[7, 1, 4], &[5, 5, 5, 5]];

const N_LABELS: usize = 3;

impl Trial<'_> {
    fn doing(&mut self, what: &str) {
        (self.tell)(Line::Doing(format!("{what} of the head `{}`", self.name)));
    }

    fn passed(&mut self, what: &str) {
        (self.tell)(Line::Passed(format!("`{}`: {what}", self.name)));
    }

    fn run(&mut self, effort: Effort) -> Result<()> {
        self.doing("`create`");
        let (head, parameters) = self.make(8)?;
        self.doing("`forward`");
        let batch = batch(SIZES[0], "none", self.task.pads_rows())?;
        let output = self.forward(&head, &batch, 8)?;
        let leading = output.leading(&batch).ok_or_else(|| {
            let shapes: Vec<_> =
                output.tensors().iter().map(|(name, tensor)| format!("`{name}` {:?}", tensor.dims())).collect();
            Error::new(What::Plugin(format!(
                "outputs have neither one entry a row nor one a token: {}",
                shapes.join(", ")
            )))
        })?;
        self.doing("`loss`");
        let Some(kind) = self.kind_of_labels(&head, &leading) else {
            (self.tell)(Line::Skipped(format!(
                "`{}`: the loss takes none of the labels that are tried here, so gradients were not looked at",
                self.name
            )));
            return Ok(());
        };
        self.doing("the backward");
        self.backward(&head, &parameters, SIZES[0], kind)?;
        self.passed("made, forward, loss and backward");
        if effort == Effort::Full {
            self.sizes(&leading, kind)?;
            self.gradients(kind)?;
            self.memory(kind)?;
            self.wrong_inputs(&head)?;
        }
        Ok(())
    }

    /// A head on a small BERT of `hidden` numbers a token, and its parameters.
    fn make(&self, hidden: usize) -> Result<(HeadState, Vec<Arc<Parameter>>)> {
        let config = json!({
            "model_type": "bert", "vocab_size": 20, "hidden_size": hidden, "num_hidden_layers": 0, "num_attention_heads": 1,
            "intermediate_size": 8, "max_position_embeddings": 16, "num_labels": N_LABELS, "initializer_range": 0.3,
        });
        let load = LoadSettings {
            caller: "`retune plugin check`".into(),
            overrides: Vec::new(),
            ignore_mismatched_sizes: false,
            seed: 7,
            device: Device::Cpu,
        };
        let config = ModelConfig::from_map(config.as_object().cloned().unwrap_or_default());
        let backbone = Backbone::from_config(config, &load)?;
        let sizes = backbone.encoder.config();
        let before = backbone.builder.parameters().all().len();
        let builder =
            HeadBuilder::new(backbone.builder.clone(), backbone.family, sizes.initializer_range, sizes.layer_norm_eps);
        let head = self.task.create(&builder, &backbone.config)?;
        Ok((head, backbone.builder.parameters().all().split_off(before)))
    }

    fn forward(&self, head: &HeadState, batch: &Batch, hidden: usize) -> Result<Output> {
        self.task.forward(head, &states(batch.n_tokens(), hidden)?, batch)
    }

    fn loss(&self, head: &HeadState, hidden: &Tensor, batch: &Batch) -> Result<Tensor> {
        batch.start_forward();
        let output = self.task.forward(head, hidden, batch)?;
        scalar(self.task.loss(head, &output, batch)?)
    }

    /// The first kind of labels that the loss takes; those that go with the outputs come first.
    fn kind_of_labels(&self, head: &HeadState, leading: &[Leading]) -> Option<&'static str> {
        let takes = |kind: &&str| {
            let batch = batch(SIZES[0], kind, self.task.pads_rows()).ok()?;
            let loss = self.loss(head, &states(batch.n_tokens(), 8).ok()?, &batch).ok()?;
            loss.to_scalar::<f32>().ok().filter(|loss| loss.is_finite())
        };
        let is_row = leading.iter().all(|kind| *kind == Leading::Rows);
        let first = if is_row { "rows" } else { "tokens" };
        let others = LABELS.iter().filter(|kind| **kind != first);
        [first].iter().chain(others).find(|kind| takes(kind).is_some()).copied()
    }

    fn backward(&self, head: &HeadState, parameters: &[Arc<Parameter>], lengths: &[usize], kind: &str) -> Result<()> {
        let batch = batch(lengths, kind, self.task.pads_rows())?.training(Draw { seed: 1, step: 0 }, 0);
        let hidden = Var::from_tensor(&states(batch.n_tokens(), 8)?)?;
        let loss = self.loss(head, hidden.as_tensor(), &batch)?;
        let gradients = loss.backward()?;
        let problem = |what: String| Err(Error::new(What::Plugin(what)));
        for parameter in parameters {
            match gradients.get(parameter.value()) {
                None => return problem(format!("no gradient reaches the parameter `{}`", parameter.name())),
                Some(gradient) if !sum(gradient)?.is_finite() => {
                    return problem(format!("the gradient of the parameter `{}` is not finite", parameter.name()));
                }
                Some(_) => {}
            }
        }
        match gradients.get(hidden.as_tensor()) {
            None => problem("no gradient reaches the hidden states, so the encoder would not be trained".into()),
            Some(gradient) if !sum(gradient)?.is_finite() => {
                problem("the gradient of the hidden states is not finite".into())
            }
            Some(_) => Ok(()),
        }
    }

    /// Batches of several sizes, and models of two widths.
    fn sizes(&mut self, leading: &[Leading], kind: &str) -> Result<()> {
        for hidden in [8, 12] {
            let (head, _) = self.make(hidden)?;
            for lengths in SIZES {
                self.doing(&format!("`forward` with rows of {lengths:?} tokens and {hidden} numbers a token"));
                let batch = batch(lengths, kind, self.task.pads_rows())?;
                let output = self.forward(&head, &batch, hidden)?;
                output.per_row(&batch, leading)?;
                let loss = scalar(self.task.loss(&head, &output, &batch)?)?.to_scalar::<f32>()?;
                if !loss.is_finite() {
                    return Err(What::Plugin(format!("the loss of rows of {lengths:?} tokens is {loss}")).into());
                }
            }
        }
        self.passed("shapes at several sizes");
        Ok(())
    }

    /// The slope of the loss along a random direction of each parameter and of the hidden states.
    fn gradients(&mut self, kind: &str) -> Result<()> {
        self.doing("the gradient");
        let (head, parameters) = self.make(8)?;
        let batch = batch(&[4, 2, 3], kind, self.task.pads_rows())?;
        let hidden = Var::from_tensor(&states(batch.n_tokens(), 8)?)?;
        let gradients = self.loss(&head, hidden.as_tensor(), &batch)?.backward()?;
        let mut vars: Vec<(String, Var)> = vec![("the hidden states".into(), hidden.clone())];
        vars.extend(parameters.iter().map(|parameter| (format!("`{}`", parameter.name()), parameter.var().clone())));
        for (name, var) in vars {
            let value = var.as_tensor().detach().copy()?;
            let direction = normal(&format!("direction of {name}"), value.dims())?;
            let Some(gradient) = gradients.get(var.as_tensor()) else { continue };
            let found = sum(&(gradient * &direction)?)?;
            let step = 4e-3;
            let at = |change: f64| -> Result<f64> {
                var.set(&(&value + (&direction * change)?)?)?;
                let loss = self.loss(&head, hidden.as_tensor(), &batch)?;
                Ok(f64::from(loss.to_scalar::<f32>()?))
            };
            let expected = (at(step)? - at(-step)?) / (2.0 * step);
            var.set(&value)?;
            // Losses are 32-bit floats of about 1, so the quotient is right to some 1e-4.
            let allowed = 2e-3 + 0.02 * expected.abs().max(found.abs());
            if (found - expected).abs() > allowed {
                return Err(What::Plugin(format!(
                    "the gradient of {name} is wrong: along a random direction the loss changes by {expected:.5}, the gradient says {found:.5}"
                ))
                .into());
            }
        }
        self.passed("gradients agree with finite differences");
        Ok(())
    }

    /// Memory that is not given back: many heads, forwards and backwards, and no growth.
    fn memory(&mut self, kind: &str) -> Result<()> {
        self.doing("making and dropping many heads");
        let round = || -> Result<()> {
            for _ in 0..100 {
                let (head, parameters) = self.make(8)?;
                self.backward(&head, &parameters, SIZES[2], kind)?;
            }
            Ok(())
        };
        round()?;
        let Some(before) = resident() else { return Ok(()) };
        round()?;
        let between = resident().unwrap_or(before);
        round()?;
        let after = resident().unwrap_or(between);
        let (first, second) = (between.saturating_sub(before), after.saturating_sub(between));
        if first > LEAK && second > LEAK {
            let each = second / 100;
            return Err(What::Plugin(format!(
                "memory is not given back: {each} bytes for each head, forward and backward"
            ))
            .into());
        }
        self.passed("memory is given back");
        Ok(())
    }

    /// Inputs that are wrong have to end in an error, not in the end of the process.
    fn wrong_inputs(&mut self, head: &HeadState) -> Result<()> {
        self.doing("`forward` with hidden states of another width");
        let batch = batch(SIZES[0], "none", self.task.pads_rows())?;
        let _ = self.task.forward(head, &states(batch.n_tokens(), 5)?, &batch);
        self.doing("`forward` with too few hidden states");
        let _ = self.task.forward(head, &states(1, 8)?, &batch);
        self.doing("`loss` without labels");
        let output = self.forward(head, &batch, 8)?;
        let _ = self.task.loss(head, &output, &batch);
        self.doing("`loss` of outputs of another shape");
        let odd = Output::One(states(batch.n_tokens(), 1)?);
        let _ = self.task.loss(head, &odd, &batch);
        self.passed("wrong inputs are errors");
        Ok(())
    }
}

/// Growth of memory in a round of a hundred that the allocator's habits do not explain.
const LEAK: usize = 400 << 10;

/// The memory of this process in bytes, where the system says it.
fn resident() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

fn sum(x: &Tensor) -> Result<f64> {
    Ok(f64::from(x.sum_all()?.to_scalar::<f32>()?))
}

fn normal(name: &str, dims: &[usize]) -> Result<Tensor> {
    let rng = Rng::new(11, name, 0);
    let values: Vec<f32> = (0..dims.iter().product::<usize>() as u64).map(|index| rng.normal(index) as f32).collect();
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

/// Hidden states of made-up numbers.
fn states(n_tokens: usize, hidden: usize) -> Result<Tensor> {
    normal("hidden", &[n_tokens, hidden])
}

/// Rows of these lengths with labels of a kind.
fn batch(lengths: &[usize], kind: &str, padded: bool) -> Result<Batch> {
    let row = |(number, &length): (usize, &usize)| -> Result<Features> {
        let ids: Vec<usize> = (0..length).map(|place| (number + place) % 20).collect();
        let mut row = json!({ "input_ids": ids });
        match kind {
            "tokens" => {
                let labels: Vec<i64> = (0..length).map(|place| ((number + place) % N_LABELS) as i64).collect();
                row["labels"] = json!(labels);
            }
            "rows" => row["labels"] = json!(number % N_LABELS),
            "numbers" => row["labels"] = json!(0.5 + number as f64),
            "several" => row["labels"] = json!([0.0, 1.0, number as f64 % 2.0]),
            "spans" => {
                row["start_positions"] = json!(0);
                row["end_positions"] = json!(length - 1);
            }
            _ => {}
        }
        match Value::from(row) {
            Value::Map(map) => Features::from_row(&map),
            _ => Err(What::Internal("a row became something else".into()).into()),
        }
    };
    let rows = lengths.iter().enumerate().map(row).collect::<Result<Vec<_>>>()?;
    let numbered: Vec<(usize, &Features)> = rows.iter().enumerate().collect();
    if padded { Batch::pack_padded(&numbered, 0, &Device::Cpu) } else { Batch::pack(&numbered, &Device::Cpu) }
}
