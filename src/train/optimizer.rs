//! AdamW as `torch.optim.AdamW` computes it, with moments that can be saved.
//!
//! Gradients by parameter name flow in, together with the learning rate of the step and the factor of clipping; the
//! variables change in place. On the CPU one pass over each f32 parameter reads the gradient and writes both moments
//! and the weight; elsewhere the same arithmetic is made of tensor operations. Which parameters decay is left to
//! [`decays`], what the learning rate is to `schedule`.
//!
//! The order of operations is torch's `_single_tensor_adam`: scalars in f64, arithmetic in f32. Every element is
//! computed by itself, so the number of threads does not change a bit.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, Tensor, Var};
use indexmap::IndexMap;
use rayon::prelude::*;

use crate::error::{Error, Place, Result, What};

/// Gradients by parameter name. A parameter without one is left as it is, as torch leaves one whose `grad` is none.
pub type Gradients = IndexMap<String, Tensor>;

/// Elements per task: small enough to share out, large enough to pay for the sharing. It never changes, because the
/// partial sums of [`grad_norm`] depend on it.
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
}

#[derive(Debug)]
struct Parameter {
    var: Var,
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
    pub fn new(parameters: Vec<(String, Var, GroupSettings)>, settings: AdamWSettings) -> Result<Self> {
        let mut named = IndexMap::with_capacity(parameters.len());
        for (name, var, group) in parameters {
            let parameter = Parameter { var, group, step: 0, memory: Memory::Untouched };
            if named.insert(name.clone(), parameter).is_some() {
                return Err(What::Conflict(format!("two parameters are named `{name}`")).into());
            }
        }
        Ok(AdamW { settings, parameters: named })
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
        crate::model::parameters::changed();
        for (name, parameter) in &mut self.parameters {
            let Some(gradient) = gradients.get(name) else { continue };
            if gradient.shape() != parameter.var.shape() {
                let text =
                    format!("the gradient has shape {:?}, its parameter {:?}", gradient.dims(), parameter.var.dims());
                return Err(Error::new(What::Internal(text)).at(Place::Tensor(name.clone())));
            }
            parameter.step += 1;
            let update = self.settings.update(parameter, lr, grad_scale);
            parameter.apply(gradient, update).map_err(|error| Error::from(error).at(Place::Tensor(name.clone())))?;
        }
        Ok(())
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
                if tensor.dims() != parameter.var.dims() {
                    let (found, wanted) = (tensor.dims(), parameter.var.dims());
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
        self.var.device().is_cpu() && self.var.dtype() == DType::F32 && self.var.is_contiguous()
    }

    /// The rows of a table; a parameter of another rank is one row.
    fn n_rows(&self) -> usize {
        if self.var.rank() == 2 { self.var.dims()[0] } else { 1 }
    }

    fn apply(&mut self, gradient: &Tensor, update: Update) -> candle_core::Result<()> {
        if matches!(self.memory, Memory::Untouched) {
            self.memory = self.zeros()?;
        }
        match &mut self.memory {
            Memory::Fused { m, v, touched } => {
                let gradient = gradient.to_dtype(DType::F32)?.contiguous()?;
                self.var.inplace_op1(&FusedAdamW { gradient, moments: RefCell::new((m, v, touched)), update })
            }
            Memory::Plain { m, v } => {
                let (weight, first, second) = plain(self.var.as_tensor(), gradient, m, v, update)?;
                self.var.set(&weight)?;
                (*m, *v) = (first, second);
                Ok(())
            }
            Memory::Untouched => Ok(()),
        }
    }

    fn zeros(&self) -> candle_core::Result<Memory> {
        if self.is_fused() {
            let n = self.var.elem_count();
            return Ok(Memory::Fused { m: vec![0.0; n], v: vec![0.0; n], touched: vec![false; self.n_rows()] });
        }
        Ok(Memory::Plain { m: self.var.zeros_like()?, v: self.var.zeros_like()? })
    }

    fn moments(&self) -> Result<Moments> {
        let tensor = |values: &Vec<f32>| Tensor::from_slice(values, self.var.dims(), self.var.device());
        let (exp_avg, exp_avg_sq) = match &self.memory {
            Memory::Untouched => (self.var.zeros_like()?, self.var.zeros_like()?),
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
        let like = |tensor: &Tensor| tensor.to_dtype(self.var.dtype())?.to_device(self.var.device());
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
    gradient: Tensor,
    moments: RefCell<(&'a mut Vec<f32>, &'a mut Vec<f32>, &'a mut Vec<bool>)>,
    update: Update,
}

impl InplaceOp1 for FusedAdamW<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some((start, end)), CpuStorage::F32(weights)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("adamw needs a contiguous f32 parameter")
        };
        let (gradient, gradient_layout) = self.gradient.storage_and_layout();
        let (Some((first, last)), Storage::Cpu(CpuStorage::F32(gradient))) =
            (gradient_layout.contiguous_offsets(), &*gradient)
        else {
            candle_core::bail!("adamw needs a contiguous f32 gradient on the cpu")
        };
        let (m, v, touched) = &mut *self.moments.borrow_mut();
        let (weights, gradient, update) = (&mut weights[start..end], &gradient[first..last], self.update);
        if touched.len() < 2 || weights.is_empty() {
            weights
                .par_chunks_mut(CHUNK)
                .zip(m.par_chunks_mut(CHUNK))
                .zip(v.par_chunks_mut(CHUNK))
                .zip(gradient.par_chunks(CHUNK))
                .for_each(|(((weights, m), v), gradient)| update.chunk(weights, m, v, gradient));
            return Ok(());
        }
        let width = weights.len() / touched.len();
        let rows = (CHUNK / width.max(1)).max(1);
        weights
            .par_chunks_mut(rows * width)
            .zip(m.par_chunks_mut(rows * width))
            .zip(v.par_chunks_mut(rows * width))
            .zip(gradient.par_chunks(rows * width))
            .zip(touched.par_chunks_mut(rows))
            .for_each(|((((weights, m), v), gradient), touched)| {
                let rows = weights.chunks_mut(width).zip(m.chunks_mut(width)).zip(v.chunks_mut(width));
                for ((((weights, m), v), gradient), touched) in rows.zip(gradient.chunks(width)).zip(touched) {
                    *touched = *touched || gradient.iter().any(|gradient| *gradient != 0.0);
                    if *touched {
                        update.chunk(weights, m, v, gradient);
                    } else {
                        update.decay(weights);
                    }
                }
            });
        Ok(())
    }
}

impl Update {
    /// What a row without moments and without a gradient goes through: bit for bit what [`Update::chunk`] does to it.
    fn decay(&self, weights: &mut [f32]) {
        let keep = self.keep as f32;
        if keep != 1.0 {
            weights.iter_mut().for_each(|weight| *weight *= keep);
        }
    }

    fn chunk(&self, weights: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32]) {
        let (keep, scale, eps) = (self.keep as f32, self.grad_scale as f32, self.eps as f32);
        let (first, beta2, second) = ((1.0 - self.beta1) as f32, self.beta2 as f32, (1.0 - self.beta2) as f32);
        let (root, step_size) = (self.root as f32, self.step_size as f32);
        for (((weight, m), v), gradient) in weights.iter_mut().zip(m).zip(v).zip(gradient) {
            let gradient = gradient * scale;
            *m += first * (gradient - *m);
            *v = *v * beta2 + second * gradient * gradient;
            let denominator = v.sqrt() / root + eps;
            *weight = *weight * keep - step_size * *m / denominator;
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
        let norm = f64::from(sum_of_squares(gradient)?.sqrt() as f32);
        total += norm * norm;
    }
    Ok(f64::from(total.sqrt() as f32))
}

fn sum_of_squares(tensor: &Tensor) -> candle_core::Result<f64> {
    if !tensor.device().is_cpu() {
        return tensor.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>().map(f64::from);
    }
    let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let (Some((start, end)), Storage::Cpu(CpuStorage::F32(values))) = (layout.contiguous_offsets(), &*storage) else {
        candle_core::bail!("the gradient is not on the cpu")
    };
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    let sums: Vec<f64> =
        values[start..end].par_chunks(CHUNK).map(|chunk| chunk.iter().map(square).sum::<f64>()).collect();
    Ok(sums.iter().sum())
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
