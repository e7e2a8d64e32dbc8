//! The fused encoder: embeddings to last hidden state as one differentiable operation with its own forward and backward.
//!
//! A batch flows in; hidden states `(tokens, hidden)` flow out, and on the way back the gradients of the encoder's parameters, by
//! name. Rows of a batch are computed in blocks that stay in the caches; products run over tiles (`kernels::tiles`). What it
//! computes is the same function as `model::encoder`'s composition of single operations, which is its oracle in tests and runs
//! wherever this one does not: on other devices, and on machines without its kernels.

mod attention;
mod backward;
mod block;
mod course;
mod decoding;
mod embeddings;
mod forward;
mod gradients;
mod kept;
mod operation;
mod packed;
mod pass;
mod weights;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernels::tiles::{Kernels, Precision, kernels};
use crate::model::encoder::{Encoder, Layer, Projections};
use crate::model::family::EncoderConfig;
use crate::model::gradient::{Buffer, Gradient, Pool};
use crate::model::layers::{Embedding, LayerNorm};
use crate::model::parameters::Parameter;
use block::{Block, Scratch};
pub(super) use decoding::{Decoding, NewTokens, Seen};
pub(super) use operation::Call;
use packed::{Packed, PackedLayer};
use weights::Matrix;

/// Whether the fused encoder's backward computes each layer's forward again instead of keeping all that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpointing {
    /// All is kept.
    #[default]
    Off,
    /// The layers' inputs are kept.
    On,
}

/// An encoder's parameters as the fused operation sees them.
#[derive(Debug)]
pub(super) struct Fused {
    config: EncoderConfig,
    word: Embedding,
    position: Embedding,
    token_type: Option<Embedding>,
    norm: Option<LayerNorm>,
    projection: Option<Matrix>,
    layers: Vec<FusedLayer>,
    final_norm: Option<LayerNorm>,
    precision: Mutex<Precision>,
    checkpointing: Mutex<Checkpointing>,
    packed: Mutex<Option<Arc<Packed>>>,
    /// Room for the halves that are packed in their turn.
    turns: Mutex<Vec<PackedLayer>>,
    /// Room for what does not last, as much as was in use at one time.
    scratches: Mutex<Vec<Scratch>>,
    /// Blocks that no forward holds at the moment.
    blocks: Mutex<Vec<Vec<Block>>>,
    /// Gradients of backward passes that nobody has fetched.
    deposit: Mutex<Vec<(String, Gradient)>>,
    /// Room for what the halves of a layer keep that is computed again.
    again: [Arc<Pool>; 2],
}

impl Encoder {
    /// Sets how exact the products of the fused encoder are from now on; returns how exact they were.
    pub fn set_precision(&self, precision: Precision) -> Precision {
        self.fused.as_ref().map(|fused| fused.set_precision(precision)).unwrap_or_default()
    }

    /// How exact the products of the fused encoder are.
    pub fn precision(&self) -> Precision {
        self.fused.as_ref().map(|fused| fused.precision()).unwrap_or_default()
    }

    /// Switches gradient checkpointing of the fused encoder; returns what it was before.
    pub fn set_checkpointing(&self, checkpointing: Checkpointing) -> Checkpointing {
        self.fused.as_ref().map(|fused| fused.set_checkpointing(checkpointing)).unwrap_or_default()
    }
}

/// One layer: attention, then the feed-forward part.
#[derive(Debug)]
struct FusedLayer {
    halves: [FusedHalf; 2],
}

/// Half a layer: query, key and value side by side and attention's output, or both feed-forward matrices; and the norm behind or
/// before them.
#[derive(Debug)]
struct FusedHalf {
    matrices: [Matrix; 2],
    norm: LayerNorm,
}

impl Fused {
    /// The fused form of an encoder; `None` where it has a shape that this operation does not cover.
    pub(super) fn of(encoder: &Encoder) -> Option<Fused> {
        let layer = |layer: &Layer| {
            let qkv = match &layer.projections {
                Projections::Apart { query, key, value } => Matrix::side_by_side([query, key, value])?,
                Projections::Together(linear) => Matrix::of(linear, 3)?,
            };
            let attention = [qkv, Matrix::of(&layer.attention_output, 1)?];
            let feed_forward = [Matrix::of(&layer.intermediate, 1)?, Matrix::of(&layer.output, 1)?];
            Some(FusedLayer {
                halves: [
                    FusedHalf { matrices: attention, norm: layer.attention_norm.clone() },
                    FusedHalf { matrices: feed_forward, norm: layer.output_norm.clone() },
                ],
            })
        };
        let projection = match &encoder.projection {
            Some(linear) => Some(Matrix::of(linear, 1)?),
            None => None,
        };
        Some(Fused {
            config: encoder.config.clone(),
            word: encoder.word.clone(),
            position: encoder.position.clone(),
            token_type: encoder.token_type.clone(),
            norm: encoder.norm.clone(),
            projection,
            layers: encoder.layers.iter().map(layer).collect::<Option<_>>()?,
            final_norm: encoder.final_norm.clone(),
            precision: Mutex::default(),
            checkpointing: Mutex::default(),
            packed: Mutex::default(),
            turns: Mutex::default(),
            scratches: Mutex::default(),
            blocks: Mutex::default(),
            deposit: Mutex::default(),
            again: Default::default(),
        })
    }

    /// The kernels that products run on, where this machine has any for the precision asked for.
    pub(super) fn kernels(&self) -> Option<&'static Kernels> {
        let covers = self.word.weight.value().device().is_cpu();
        if covers { kernels(self.precision()) } else { None }
    }

    /// How exact products are.
    pub(super) fn precision(&self) -> Precision {
        *lock(&self.precision)
    }

    /// Sets how exact products are from now on; returns how exact they were.
    pub(super) fn set_precision(&self, precision: Precision) -> Precision {
        std::mem::replace(&mut *lock(&self.precision), precision)
    }

    fn checkpointing(&self) -> Checkpointing {
        *lock(&self.checkpointing)
    }

    /// Switches gradient checkpointing; returns what it was before.
    pub(super) fn set_checkpointing(&self, checkpointing: Checkpointing) -> Checkpointing {
        std::mem::replace(&mut *lock(&self.checkpointing), checkpointing)
    }

    /// The gradients that backward passes have left since the last call, by name.
    pub(super) fn take_gradients(&self) -> Vec<(String, Gradient)> {
        std::mem::take(&mut *lock(&self.deposit))
    }

    /// Blocks for a batch, those of an earlier one where they are free.
    fn take_blocks(&self, starts: &[usize]) -> Vec<Block> {
        let mut blocks = lock(&self.blocks).pop().unwrap_or_default();
        let spans = block::spans(starts);
        blocks.truncate(spans.len());
        blocks.resize_with(spans.len(), Block::default);
        for (block, span) in blocks.iter_mut().zip(spans) {
            block.span = span;
            block.layers.resize_with(self.layers.len(), Default::default);
        }
        blocks
    }

    /// Keeps blocks for the next forward. Two sets are enough: one at work, and one of an evaluation in between.
    fn keep_blocks(&self, blocks: Vec<Block>) {
        let mut kept = lock(&self.blocks);
        if kept.len() < 2 {
            kept.push(blocks);
        }
    }

    /// Calls `work` with room for what does not last.
    fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = lock(&self.scratches).pop().unwrap_or_default();
        let result = work(&mut scratch);
        lock(&self.scratches).push(scratch);
        result
    }

    /// The first layer that something trainable stands in; `None` where that is the embeddings.
    fn first_trainable_layer(&self) -> Option<usize> {
        let tables = [Some(&self.word), Some(&self.position), self.token_type.as_ref()];
        let norm = self.norm.iter().flat_map(|norm| [&norm.weight, &norm.bias]);
        let mut below = tables.into_iter().flatten().map(|table| &table.weight).chain(norm);
        if below.any(|parameter| parameter.is_trainable()) || self.projection.as_ref().is_some_and(Matrix::is_trainable)
        {
            return None;
        }
        Some(self.layers.iter().position(FusedLayer::is_trainable).unwrap_or(self.layers.len()))
    }

    /// Whether training changes anything in it.
    fn is_trainable(&self) -> bool {
        let last = self.final_norm.iter().any(|norm| norm.weight.is_trainable() || norm.bias.is_trainable());
        last || self.first_trainable_layer() != Some(self.layers.len())
    }
}

impl FusedLayer {
    fn is_trainable(&self) -> bool {
        self.halves.iter().any(FusedHalf::is_trainable)
    }
}

/// What stays behind when a thread panicked is whole: every change is made under the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small gradient under its parameter's name.
fn named(parameter: &Parameter, values: Vec<f32>) -> (String, Gradient) {
    let gradient = Gradient::dense(parameter.value().dims(), Buffer::owned(values), None);
    (parameter.name().to_string(), gradient)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use indexmap::IndexMap;
    use serde_json::json;

    use crate::batch::{Batch, Draw, Features};
    use crate::data::Value;
    use crate::kernels::Path;
    use crate::kernels::tiles::{Kernels, Precision, kernels_of};
    use crate::model::backbone::LoadSettings;
    use crate::model::{Backbone, ModelConfig};
    use crate::tensor::rng::Rng;

    fn backbone() -> Backbone {
        let config = json!({
            "model_type": "bert", "vocab_size": 31, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 70, "max_position_embeddings": 60, "initializer_range": 0.05,
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        });
        let settings = LoadSettings {
            caller: "`test`".into(),
            overrides: Vec::new(),
            ignore_mismatched_sizes: false,
            seed: 1,
            device: Device::Cpu,
        };
        Backbone::from_config(ModelConfig::from_map(config.as_object().unwrap().clone()), &settings).unwrap()
    }

    fn batch(lengths: &[usize]) -> Batch {
        let rng = Rng::new(11, "ids", 0);
        let row = |(row, &length): (usize, &usize)| {
            let id = |place: usize| Value::Int((rng.uniform((row * 100 + place) as u64) * 31.0) as i64);
            let ids = ("input_ids".to_string(), Value::List((0..length).map(id).collect()));
            Features::from_row(&IndexMap::from([ids])).unwrap()
        };
        let rows: Vec<Features> = lengths.iter().enumerate().map(row).collect();
        let numbered: Vec<(usize, &Features)> = rows.iter().enumerate().collect();
        Batch::pack(&numbered, &Device::Cpu).unwrap().training(Draw { seed: 5, step: 2 }, 0)
    }

    /// All gradients in the order of the parameters, on these kernels or by single operations.
    fn gradients(backbone: &Backbone, batch: &Batch, kernels: Option<&'static Kernels>) -> Vec<f32> {
        let encoder = &backbone.encoder;
        let hidden = match kernels {
            Some(kernels) => encoder.forward_on(batch, kernels).unwrap(),
            None => encoder.composed(batch).unwrap(),
        };
        let rng = Rng::new(9, "weights", 0);
        let weights: Vec<f32> = (0..hidden.elem_count() as u64).map(|index| rng.normal(index) as f32).collect();
        let weights = Tensor::from_vec(weights, hidden.dims(), &Device::Cpu).unwrap();
        let store = (hidden * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let fused: std::collections::HashMap<_, _> = encoder.take_gradients().into_iter().collect();
        let parameters = backbone.builder.parameters().all();
        let one = |name: &str, value: &Tensor| -> Vec<f32> {
            let gradient = match fused.get(name) {
                Some(gradient) => gradient.to_tensor().unwrap(),
                None => store.get(value).unwrap().clone(),
            };
            gradient.flatten_all().unwrap().to_vec1().unwrap()
        };
        parameters.iter().flat_map(|parameter| one(parameter.name(), parameter.value())).collect()
    }

    /// engine.md's measured errors of all gradients against f32, on AMX or its emulation, with dropout on: 3e-6 for six products, 2e-5
    /// for three, 1e-2 for bf16.
    #[test]
    fn gradients_on_amx_are_those_of_single_operations() {
        let backbone = backbone();
        for lengths in [&[1][..], &[21, 1, 7, 40, 1], &[33]] {
            let batch = batch(lengths);
            let expected = gradients(&backbone, &batch, None);
            for (precision, tolerance) in [(Precision::Highest, 3e-6), (Precision::High, 2e-5), (Precision::Bf16, 1e-2)]
            {
                let Some(kernels) = kernels_of(Path::Amx, precision) else { continue };
                let found = gradients(&backbone, &batch, Some(kernels));
                assert_eq!(found.len(), expected.len());
                let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
                let error = square(&mut found.iter().zip(&expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
                let error = (error / square(&mut expected.iter().map(|b| f64::from(*b)))).sqrt();
                assert!(error < tolerance, "{}, rows of {lengths:?}: {error:e}", kernels.name);
                // Were these kernels not what ran, bf16 would be as exact as f32.
                assert!(precision != Precision::Bf16 || error > 1e-5, "{}: {error:e}", kernels.name);
            }
        }
    }
}
