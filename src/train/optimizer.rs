//! AdamW as `torch.optim.AdamW` computes it, with moments that can be saved.
//!
//! Gradients by parameter name flow in, together with the learning rate of the step and the factor of clipping; the
//! variables change in place. On the CPU one pass over each f32 parameter reads the gradient and writes both moments
//! and the weight (`kernels::adamw`); elsewhere the same arithmetic is made of tensor operations. Rows of a table that have
//! never had a gradient are only decayed. Which parameters decay is left to [`decays`], what the learning rate is to `schedule`.
//!
//! The order of operations is torch's `_single_tensor_adam`: scalars in f64, arithmetic in f32. Every element is
//! computed by itself, so the number of threads does not change a bit.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor};
use indexmap::IndexMap;
use rayon::prelude::*;

use crate::error::{Error, Place, Result, What};
pub use crate::head::Gradients;
use crate::kernels::profile::{self, Part};
use crate::kernels::{adamw, pages, with_values};
use crate::model::gradient::{Gradient, View};
use crate::model::parameters::Variable;

/// Elements per task: small enough to share out, large enough to pay for the sharing.
const CHUNK: usize = 1 << 14;

/// Settings of all parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// What is added to the root of the second moment.
    pub eps: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        AdamWSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// Settings of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupSettings {
    /// Share of the weight that each step takes away, times the learning rate.
    pub weight_decay: f64,
    /// Factor on the learning rate.
    pub lr_scale: f64,
}

impl Default for GroupSettings {
    fn default() -> Self {
        GroupSettings { weight_decay: 0.0, lr_scale: 1.0 }
    }
}

/// What the optimizer remembers of one parameter.
#[derive(Clone, Debug)]
pub struct Moments {
    /// How many updates the parameter has had.
    pub step: u64,
    /// The running mean of the gradient; shape and type of the parameter.
    pub exp_avg: Tensor,
    /// The running mean of the squared gradient; shape and type of the parameter.
    pub exp_avg_sq: Tensor,
}

/// What the optimizer remembers, by parameter name: all parameters, also those that have had no update yet.
pub type OptimizerState = IndexMap<String, Moments>;

/// The optimizer.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    parameters: IndexMap<String, Parameter>,
    /// What [`AdamW::exchange`] took out, in case it comes back.
    retired: Vec<(String, Parameter)>,
}

#[derive(Debug)]
struct Parameter {
    variable: Variable,
    group: GroupSettings,
    step: u64,
    memory: Memory,
}

/// The moments: nothing before the first update, as in torch.
#[derive(Debug)]
enum Memory {
    Untouched,
    /// `touched` says of each row of a table whether it has ever had a gradient: the moments of the others are zero.
    Fused {
        m: Vec<f32>,
        v: Vec<f32>,
        touched: Vec<bool>,
    },
    Plain {
        m: Tensor,
        v: Tensor,
    },
}

/// The scalars of one update of one parameter.
#[derive(Clone, Copy, Debug)]
struct Update {
    keep: f64,
    beta1: f64,
    beta2: f64,
    step_size: f64,
    root: f64,
    eps: f64,
    grad_scale: f64,
}

impl AdamW {
    /// An optimizer of these parameters.
    ///
    /// # Errors
    /// Two parameters of the same name.
    pub fn new<V: Into<Variable>>(
        parameters: Vec<(String, V, GroupSettings)>,
        settings: AdamWSettings,
    ) -> Result<Self> {
        let mut named = IndexMap::with_capacity(parameters.len());
        for (name, variable, group) in parameters {
            let parameter = Parameter { variable: variable.into(), group, step: 0, memory: Memory::Untouched };
            if named.insert(name.clone(), parameter).is_some() {
                return Err(What::Conflict(format!("two parameters are named `{name}`")).into());
            }
        }
        Ok(AdamW { settings, parameters: named, retired: Vec::new() })
    }

    /// Puts these parameters in the place of all: a variable that was there before keeps its moments and its step, or gets
    /// them back.
    ///
    /// # Errors
    /// Two parameters of the same name; nothing has changed then.
    pub fn exchange<V: Into<Variable>>(&mut self, parameters: Vec<(String, V, GroupSettings)>) -> Result<()> {
        let mut new = AdamW::new(parameters, self.settings)?;
        let mut known: Vec<_> = self.parameters.drain(..).chain(self.retired.drain(..)).collect();
        for (name, parameter) in &mut new.parameters {
            let same = |(old, known): &(String, Parameter)| {
                old == name && known.variable.value().id() == parameter.variable.value().id()
            };
            if let Some(place) = known.iter().position(same) {
                let group = parameter.group;
                *parameter = Parameter { group, ..known.swap_remove(place).1 };
            }
        }
        new.retired = known;
        *self = new;
        Ok(())
    }

    /// The names of the parameters, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parameters.keys().map(String::as_str)
    }

    /// Changes the settings of each parameter by name; moments and steps stay.
    pub fn set_groups(&mut self, choose: impl Fn(&str) -> GroupSettings) {
        for (name, parameter) in &mut self.parameters {
            parameter.group = choose(name);
        }
    }

    /// One update. `grad_scale` multiplies every gradient first: the factor of clipping, or 1.
    ///
    /// # Errors
    /// A gradient whose shape is not its parameter's, or a tensor operation that fails.
    pub fn step(&mut self, gradients: &Gradients, lr: f64, grad_scale: f64) -> Result<()> {
        let mut work = Vec::with_capacity(self.parameters.len());
        for (name, parameter) in &mut self.parameters {
            let Some(gradient) = gradients.get(name) else { continue };
            if gradient.dims() != parameter.variable.value().dims() {
                let text = format!(
                    "the gradient has shape {:?}, its parameter {:?}",
                    gradient.dims(),
                    parameter.variable.value().dims()
                );
                return Err(Error::new(What::Internal(text)).at(Place::Tensor(name.clone())));
            }
            work.push((name, parameter, gradient));
        }
        let settings = self.settings;
        let results: Vec<Result<()>> = work
            .into_par_iter()
            .with_max_len(1)
            .map(|(name, parameter, gradient)| {
                parameter.step += 1;
                let update = settings.update(parameter, lr, grad_scale);
                parameter.apply(gradient, update).map_err(|error| error.at(Place::Tensor(name.clone())))
            })
            .collect();
        results.into_iter().collect()
    }

    /// What has to be saved to go on from here.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn state(&self) -> Result<OptimizerState> {
        self.parameters.iter().map(|(name, parameter)| Ok((name.clone(), parameter.moments()?))).collect()
    }

    /// Takes up what [`AdamW::state`] gave.
    ///
    /// # Errors
    /// A parameter that the state lacks, one that only the state has, or moments of another shape, each by name.
    pub fn load_state(&mut self, mut state: OptimizerState) -> Result<()> {
        if let Some(stranger) = state.keys().find(|name| !self.parameters.contains_key(*name)) {
            return Err(misfit(stranger, "the optimizer state holds a parameter that is not being trained"));
        }
        let mut memories = Vec::with_capacity(self.parameters.len());
        for (name, parameter) in &self.parameters {
            let Some(moments) = state.swap_remove(name) else {
                return Err(misfit(name, "the optimizer state lacks a parameter"));
            };
            for (what, tensor) in [("exp_avg", &moments.exp_avg), ("exp_avg_sq", &moments.exp_avg_sq)] {
                if tensor.dims() != parameter.variable.value().dims() {
                    let (found, wanted) = (tensor.dims(), parameter.variable.value().dims());
                    let text = format!("`{what}` of the optimizer state has shape {found:?}, its parameter {wanted:?}");
                    return Err(misfit(name, &text));
                }
            }
            memories.push((moments.step, parameter.memory_of(&moments)?));
        }
        // Only now that all of it fits does anything change.
        for (parameter, (step, memory)) in self.parameters.values_mut().zip(memories) {
            parameter.step = step;
            parameter.memory = memory;
        }
        Ok(())
    }
}

fn misfit(name: &str, text: &str) -> Error {
    let error = Error::new(What::Weights(text.into())).at(Place::Tensor(name.into()));
    error.hint("resume with the same model and the same frozen parameters as before")
}

impl AdamWSettings {
    fn update(&self, parameter: &Parameter, lr: f64, grad_scale: f64) -> Update {
        let lr = lr * parameter.group.lr_scale;
        let correction = |beta: f64| 1.0 - beta.powf(parameter.step as f64);
        Update {
            keep: 1.0 - lr * parameter.group.weight_decay,
            beta1: self.beta1,
            beta2: self.beta2,
            step_size: lr / correction(self.beta1),
            root: correction(self.beta2).sqrt(),
            eps: self.eps,
            grad_scale,
        }
    }
}

impl Parameter {
    fn is_fused(&self) -> bool {
        let value = self.variable.value();
        value.device().is_cpu() && value.dtype() == DType::F32 && value.is_contiguous()
    }

    /// The rows of a table; a parameter of another rank is one row.
    fn n_rows(&self) -> usize {
        let value = self.variable.value();
        if value.rank() == 2 { value.dims()[0] } else { 1 }
    }

    fn apply(&mut self, gradient: &Gradient, update: Update) -> Result<()> {
        let is_first = matches!(self.memory, Memory::Untouched);
        if is_first {
            self.memory = self.zeros()?;
            // Of a table's rows most may never be touched.
            if let (Memory::Fused { m, v, .. }, View::Dense(_) | View::Tensor(_)) = (&self.memory, gradient.view()) {
                pages::prefer_large(m);
                pages::prefer_large(v);
            }
        }
        match &mut self.memory {
            Memory::Fused { m, v, touched } => {
                let update = update.rounded();
                let mut run = |rows: Option<&[u32]>, values: &[f32]| {
                    let moments = RefCell::new((&mut *m, &mut *v, &mut *touched));
                    self.variable.change().inplace_op1(&FusedAdamW { rows, values, moments, update, is_first })
                };
                match gradient.view() {
                    View::Dense(values) => run(None, values)?,
                    View::Rows(rows, values) => run(Some(rows), values)?,
                    View::Tensor(tensor) => {
                        with_values([&tensor.to_dtype(DType::F32)?], |[values]| run(None, values))??;
                    }
                }
                Ok(())
            }
            Memory::Plain { m, v } => {
                let (weight, first, second) = plain(self.variable.value(), &gradient.to_tensor()?, m, v, update)?;
                self.variable.change().set(&weight)?;
                (*m, *v) = (first, second);
                Ok(())
            }
            Memory::Untouched => Ok(()),
        }
    }

    fn zeros(&self) -> candle_core::Result<Memory> {
        if self.is_fused() {
            let n = self.variable.value().elem_count();
            return Ok(Memory::Fused { m: vec![0.0; n], v: vec![0.0; n], touched: vec![false; self.n_rows()] });
        }
        Ok(Memory::Plain { m: self.variable.value().zeros_like()?, v: self.variable.value().zeros_like()? })
    }

    fn moments(&self) -> Result<Moments> {
        let tensor = |values: &Vec<f32>| {
            Tensor::from_slice(values, self.variable.value().dims(), self.variable.value().device())
        };
        let (exp_avg, exp_avg_sq) = match &self.memory {
            Memory::Untouched => (self.variable.value().zeros_like()?, self.variable.value().zeros_like()?),
            Memory::Fused { m, v, .. } => (tensor(m)?, tensor(v)?),
            Memory::Plain { m, v } => (m.clone(), v.clone()),
        };
        Ok(Moments { step: self.step, exp_avg, exp_avg_sq })
    }

    fn memory_of(&self, moments: &Moments) -> Result<Memory> {
        let (m, v) = (&moments.exp_avg, &moments.exp_avg_sq);
        if self.is_fused() {
            let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
            let (m, v) = (values(m)?, values(v)?);
            let width = m.len() / self.n_rows().max(1);
            let is_used = |(m, v): (&[f32], &[f32])| m.iter().chain(v).any(|moment| *moment != 0.0);
            let touched = m.chunks(width.max(1)).zip(v.chunks(width.max(1))).map(is_used).collect();
            return Ok(Memory::Fused { m, v, touched });
        }
        let like =
            |tensor: &Tensor| tensor.to_dtype(self.variable.value().dtype())?.to_device(self.variable.value().device());
        Ok(Memory::Plain { m: like(m)?, v: like(v)? })
    }
}

/// The same arithmetic made of tensor operations: for other devices and types, and the oracle of the fused pass.
/// Returns the weight and both moments.
fn plain(
    weight: &Tensor,
    gradient: &Tensor,
    m: &Tensor,
    v: &Tensor,
    update: Update,
) -> candle_core::Result<(Tensor, Tensor, Tensor)> {
    let Update { keep, beta1, beta2, step_size, root, eps, grad_scale } = update;
    let gradient = (gradient.to_dtype(weight.dtype())?.detach() * grad_scale)?;
    let m = (m + ((&gradient - m)? * (1.0 - beta1))?)?;
    let v = ((v * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
    let denominator = ((v.sqrt()? / root)? + eps)?;
    let weight = ((weight.detach() * keep)? - ((&m * step_size)? / denominator)?)?;
    Ok((weight, m, v))
}

/// One pass over a parameter on the CPU.
struct FusedAdamW<'a> {
    /// The rows that have a gradient, ascending; all of them where there is no list.
    rows: Option<&'a [u32]>,
    values: &'a [f32],
    moments: RefCell<(&'a mut Vec<f32>, &'a mut Vec<f32>, &'a mut Vec<bool>)>,
    update: adamw::Update,
    /// Whether the moments are zeros that nobody has written.
    is_first: bool,
}

impl InplaceOp1 for FusedAdamW<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some((start, end)), CpuStorage::F32(weights)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("adamw needs a contiguous f32 parameter")
        };
        let _part = profile::begin(Part::Optimizer);
        let (m, v, touched) = &mut *self.moments.borrow_mut();
        let (weights, update) = (&mut weights[start..end], &self.update);
        let (rows, values, is_first) = (self.rows, self.values, self.is_first);
        // A page that is read before it is written costs two faults, and the second one an interrupt of the other threads.
        let begin = |m: &mut [f32], v: &mut [f32]| {
            m.fill(0.0);
            v.fill(0.0);
        };
        if (touched.len() < 2 && self.rows.is_none()) || weights.is_empty() {
            weights
                .par_chunks_mut(CHUNK)
                .zip(m.par_chunks_mut(CHUNK))
                .zip(v.par_chunks_mut(CHUNK))
                .zip(values.par_chunks(CHUNK))
                .for_each(|(((weights, m), v), gradient)| {
                    if is_first {
                        begin(m, v);
                    }
                    adamw::step(update, weights, m, v, gradient);
                });
            return Ok(());
        }
        let width = weights.len() / touched.len();
        let n_rows = (CHUNK / width.max(1)).max(1);
        let nothing = vec![0.0f32; width];
        weights
            .par_chunks_mut(n_rows * width)
            .zip(m.par_chunks_mut(n_rows * width))
            .zip(v.par_chunks_mut(n_rows * width))
            .zip(touched.par_chunks_mut(n_rows))
            .enumerate()
            .for_each(|(chunk, (((weights, m), v), touched))| {
                let first = chunk * n_rows;
                let mut place = rows.map_or(0, |rows| rows.partition_point(|row| (*row as usize) < first));
                let parts = weights.chunks_mut(width).zip(m.chunks_mut(width)).zip(v.chunks_mut(width)).zip(touched);
                for (number, (((weights, m), v), touched)) in parts.enumerate() {
                    let (row, was_touched) = (first + number, *touched);
                    let gradient = match rows {
                        None => {
                            let gradient = &values[row * width..][..width];
                            *touched = *touched || gradient.iter().any(|gradient| *gradient != 0.0);
                            gradient
                        }
                        Some(rows) if rows.get(place) == Some(&(row as u32)) => {
                            *touched = true;
                            place += 1;
                            &values[(place - 1) * width..][..width]
                        }
                        Some(_) => &nothing,
                    };
                    if *touched {
                        if !was_touched {
                            begin(m, v);
                        }
                        adamw::step(update, weights, m, v, gradient);
                    } else if update.keep != 1.0 {
                        // What a row without moments and without a gradient goes through, bit for bit.
                        weights.iter_mut().for_each(|weight| *weight *= update.keep);
                    }
                }
            });
        Ok(())
    }
}

impl Update {
    /// As the kernel takes it.
    fn rounded(&self) -> adamw::Update {
        adamw::Update {
            keep: self.keep as f32,
            grad_scale: self.grad_scale as f32,
            first: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            second: (1.0 - self.beta2) as f32,
            root: self.root as f32,
            step_size: self.step_size as f32,
            eps: self.eps as f32,
        }
    }
}

/// The norm of all gradients together, as `torch.nn.utils.clip_grad_norm_` has it: the norm of the f32 norms of the
/// tensors. Squares are summed in f64, in an order that does not depend on threads. A gradient that is not finite
/// makes the norm not finite, which is left to the caller.
///
/// # Errors
/// A tensor operation that fails.
pub fn grad_norm(gradients: &Gradients) -> Result<f64> {
    let mut total = 0.0;
    for gradient in gradients.values() {
        let norm = f64::from(gradient.sum_of_squares()?.sqrt() as f32);
        total += norm * norm;
    }
    Ok(f64::from(total.sqrt() as f32))
}

/// The factor that scales gradients of `norm` down to `max_norm`, as `clip_grad_norm_` has it.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Whether weight decay applies to the parameter: Hugging Face's rule, which spares biases and norms.
///
/// Hugging Face also spares every `nn.LayerNorm` by its type; by name those are GPT-2's `ln_1`, `ln_2` and `ln_f`.
pub fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let is_norm = |part: &str| part == "norm" || part.ends_with("_norm") || part.starts_with("ln_");
    !(name.contains("bias") || name.contains("layernorm") || name.contains("rmsnorm") || name.split('.').any(is_norm))
}
