//! The encoder: embeddings to last hidden state over packed tokens.
//!
//! Two paths of the same function: on the CPU, differentiable kernels with attention over packed rows; on other devices, or when
//! `RETUNE_KERNELS=reference` asks for it, their twins composed of candle operations, with attention on the padded view
//! `(rows, heads, longest, longest)`. `model::fused` does all of it as one operation, and is tested against the twins.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::batch::Batch;
use crate::error::{Error, Place, Result, What};
use crate::kernels::activation::activation;
use crate::kernels::attention::Attention;
use crate::kernels::dropout::{Site, TokenNumber};
use crate::kernels::tiles::Kernels;
use crate::kernels::{self, residual};
use crate::model::family::{EncoderConfig, Family, Norms};
pub use crate::model::fused::Checkpointing;
use crate::model::fused::{Call, Fused};
use crate::model::gradient::Gradient;
use crate::model::layers::{Bias, Embedding, LayerNorm, Linear};
use crate::model::parameters::Builder;
use crate::tensor::ops;
use crate::tensor::rng::stream_hash;

/// An encoder with its parameters.
#[derive(Debug)]
pub struct Encoder {
    pub(super) config: EncoderConfig,
    pub(super) word: Embedding,
    pub(super) position: Embedding,
    pub(super) token_type: Option<Embedding>,
    pub(super) norm: Option<LayerNorm>,
    pub(super) projection: Option<Linear>,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Option<LayerNorm>,
    pub(super) fused: Option<Arc<Fused>>,
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) projections: Projections,
    pub(super) attention_output: Linear,
    pub(super) attention_norm: LayerNorm,
    pub(super) intermediate: Linear,
    pub(super) output: Linear,
    pub(super) output_norm: LayerNorm,
}

/// What makes queries, keys and values.
#[derive(Debug)]
pub(super) enum Projections {
    Apart {
        query: Linear,
        key: Linear,
        value: Linear,
    },
    /// One product for the three, in this order.
    Together(Linear),
}

/// What a forward needs of its batch, made once for all layers.
struct Forward<'a> {
    batch: &'a Batch,
    numbers: Arc<[TokenNumber]>,
    attention: View,
}

/// What attention looks at.
enum View {
    Packed { starts: Arc<[usize]>, key_lengths: Arc<[usize]> },
    Padded(PaddedView),
}

/// The padded view of a batch.
struct PaddedView {
    rows: usize,
    longest: usize,
    padded: Tensor,
    packed: Tensor,
    /// `(rows, 1, 1, longest)`: 0 where a token stands, very low where padding does.
    mask: Option<Tensor>,
}

impl Encoder {
    /// How many numbers training changes in the weights of each layer's halves; nothing without the fused operation.
    pub fn trained_in_halves(&self) -> Vec<[usize; 2]> {
        self.fused.as_ref().map_or_else(Vec::new, |fused| fused.trained_in_halves())
    }

    /// Makes the encoder's parameters.
    ///
    /// # Errors
    /// Sizes that do not fit each other, and those of [`Builder::make`].
    pub fn new(builder: &Builder, family: &Family, config: EncoderConfig) -> Result<Self> {
        if !config.hidden_size.is_multiple_of(config.n_heads) {
            let problem = format!(
                "the hidden size {} is not a multiple of the number of attention heads {}",
                config.hidden_size, config.n_heads
            );
            return Err(What::Conflict(problem).into());
        }
        let (hidden, deviation) = (config.hidden_size, config.initializer_range);
        let names = family.names;
        let full = |name: &str| format!("{}.{name}", family.prefix);
        let table =
            |name: &str, entries| Embedding::new(builder, &full(name), (entries, config.embedding_size), deviation);
        let norm = |name: &str| LayerNorm::new(builder, name, hidden, config.layer_norm_eps);
        let word = table(names.word, config.vocab_size)?;
        let position = table(names.position, config.max_positions)?;
        let token_type = match config.n_token_types {
            0 => None,
            entries => Some(table(names.token_type, entries)?),
        };
        let width = config.embedding_size;
        let embedding_norm = match names.embedding_norm {
            Some(name) => Some(LayerNorm::new(builder, &full(name), width, config.layer_norm_eps)?),
            None => None,
        };
        let projection = if width == hidden {
            None
        } else {
            Some(Linear::new(builder, &full(names.embedding_projection), (width, hidden), deviation, Bias::Yes)?)
        };
        let mut layers = Vec::with_capacity(config.n_layers);
        for number in 0..config.n_layers {
            let name = |pattern: &str| full(&pattern.replace("{}", &number.to_string()));
            let matrix = |pattern: &str, sizes, deviation| {
                Linear::stored(builder, &name(pattern), sizes, deviation, names.stored)
            };
            let linear = |pattern: &str, sizes| matrix(pattern, sizes, deviation);
            let projections = match names.query_key_value {
                Some(pattern) => Projections::Together(linear(pattern, (hidden, 3 * hidden))?),
                None => Projections::Apart {
                    query: linear(names.query, (hidden, hidden))?,
                    key: linear(names.key, (hidden, hidden))?,
                    value: linear(names.value, (hidden, hidden))?,
                },
            };
            layers.push(Layer {
                projections,
                attention_output: matrix(names.attention_output, (hidden, hidden), config.residual_range)?,
                attention_norm: norm(&name(names.attention_norm))?,
                intermediate: linear(names.intermediate, (hidden, config.intermediate_size))?,
                output: matrix(names.output, (config.intermediate_size, hidden), config.residual_range)?,
                output_norm: norm(&name(names.output_norm))?,
            });
        }
        let final_norm = match names.final_norm {
            Some(name) => Some(norm(&full(name))?),
            None => None,
        };
        let norm = embedding_norm;
        let mut encoder =
            Encoder { config, word, position, token_type, norm, projection, layers, final_norm, fused: None };
        encoder.fused = Fused::of(&encoder).map(Arc::new);
        Ok(encoder)
    }

    /// The sizes and rates.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The token table, `(vocabulary, hidden)`: the last layer of language models whose embeddings are tied.
    pub fn word_embeddings(&self) -> &Embedding {
        &self.word
    }

    /// The last hidden state, `(tokens, hidden)`.
    ///
    /// # Errors
    /// A token, position or segment that the model has no entry for; the row is named.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor> {
        self.check(batch)?;
        match self.fused.as_ref().and_then(|fused| fused.kernels()) {
            Some(kernels) => self.forward_on(batch, kernels),
            None => self.composed(batch),
        }
    }

    /// The last hidden state by the fused encoder on these kernels, `(tokens, hidden)`.
    ///
    /// # Errors
    /// An encoder that the fused operation does not cover, and those of the tensor operations.
    pub fn forward_on(&self, batch: &Batch, kernels: &'static Kernels) -> Result<Tensor> {
        let Some(fused) = &self.fused else {
            return Err(What::Unsupported("the fused encoder of a model whose layers lack biases".into()).into());
        };
        let scales = (0..self.layers.len()).map(|number| self.scale(number) as f32).collect();
        fused.call(Call { batch, kernels, positions: self.position_entries(batch)?, scales })
    }

    /// The gradients that backward passes through the fused encoder have left since the last call, by name.
    pub fn take_gradients(&self) -> Vec<(String, Gradient)> {
        self.fused.as_ref().map(|fused| fused.take_gradients()).unwrap_or_default()
    }

    /// The last hidden state out of single operations: the twin of the fused encoder, and what runs where that does not.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn composed(&self, batch: &Batch) -> Result<Tensor> {
        let forward = Forward::new(batch, self.word.weight.value())?;
        let padding = self.config.padding_idx;
        let mut x = look_up(&self.word, &batch.input_ids, padding)?; // (tokens, hidden)
        if let Some(token_type) = &self.token_type {
            x = (x + token_type.forward(&batch.token_type_ids)?)?;
        }
        if self.config.token_types_are_tokens && batch.has_token_types {
            x = (x + self.word.forward(&batch.token_type_ids)?)?;
        }
        // RoBERTa's position table has a padding entry of its own.
        let padding = padding.filter(|_| self.config.position_offset > 0);
        let positions = Tensor::from_vec(self.position_entries(batch)?, batch.n_tokens(), batch.input_ids.device())?;
        x = (x + look_up(&self.position, &positions, padding)?)?;
        if let Some(norm) = &self.norm {
            x = norm.forward(&x)?;
        }
        x = self.dropout(x, self.config.embedding_dropout, &forward, "embeddings")?;
        if let Some(projection) = &self.projection {
            x = projection.forward(&x)?; // (tokens, embedding) to (tokens, hidden)
        }
        for (number, layer) in self.layers.iter().enumerate() {
            x = self.layer(layer, number, x, &forward)?;
        }
        match &self.final_norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// The entries of the position table. RoBERTa counts a row's tokens from behind its padding index; padding itself, also in the
    /// middle of a row, has that index and is not counted.
    fn position_entries(&self, batch: &Batch) -> Result<Vec<u32>> {
        let offset = self.config.position_offset;
        let mut places = batch.position_ids.to_vec1::<u32>()?;
        if offset == 0 {
            return Ok(places);
        }
        let ids = batch.input_ids.to_vec1::<u32>()?;
        for row in batch.starts.windows(2) {
            // What stands before the first token was padding on the left.
            let mut not_counted = places.get(row[0]).copied().unwrap_or(0);
            for (place, id) in places[row[0]..row[1]].iter_mut().zip(&ids[row[0]..row[1]]) {
                if Some(*id) == self.config.padding_idx {
                    *place = offset - 1;
                    not_counted += 1;
                } else {
                    *place = (*place + offset).saturating_sub(not_counted);
                }
            }
        }
        Ok(places)
    }

    fn layer(&self, layer: &Layer, number: usize, x: Tensor, forward: &Forward<'_>) -> Result<Tensor> {
        let attend = |x: &Tensor| -> Result<Tensor> {
            let attended = layer.attention_output.forward(&self.attention(layer, number, x, forward)?)?;
            let site = format!("layer.{number}.attention.output");
            self.dropout(attended, self.config.hidden_dropout, forward, &site)
        };
        let feed = |x: &Tensor| -> Result<Tensor> {
            let wide = activation(&layer.intermediate.forward(x)?, self.config.activation)?; // (tokens, intermediate)
            let site = format!("layer.{number}.output");
            self.dropout(layer.output.forward(&wide)?, self.config.hidden_dropout, forward, &site)
        };
        match self.config.norms {
            Norms::After => {
                let x = layer.attention_norm.forward(&(attend(&x)? + x)?)?;
                layer.output_norm.forward(&(feed(&x)? + x)?)
            }
            Norms::Before => {
                let x = (attend(&layer.attention_norm.forward(&x)?)? + x)?;
                Ok((feed(&layer.output_norm.forward(&x)?)? + x)?)
            }
        }
    }

    /// Queries, keys and values, each `(tokens, hidden)`.
    fn projections(&self, layer: &Layer, x: &Tensor) -> Result<[Tensor; 3]> {
        match &layer.projections {
            Projections::Apart { query, key, value } => Ok([query.forward(x)?, key.forward(x)?, value.forward(x)?]),
            Projections::Together(linear) => {
                let (all, hidden) = (linear.forward(x)?, self.config.hidden_size); // (tokens, 3 * hidden)
                let part = |number: usize| all.narrow(1, number * hidden, hidden);
                Ok([part(0)?, part(1)?, part(2)?])
            }
        }
    }

    fn attention(&self, layer: &Layer, number: usize, x: &Tensor, forward: &Forward<'_>) -> Result<Tensor> {
        let [query, key, value] = self.projections(layer, x)?;
        match &forward.attention {
            View::Padded(view) => self.padded_attention(number, [&query, &key, &value], forward, view),
            View::Packed { starts, key_lengths } => {
                let attention = Attention {
                    starts: starts.clone(),
                    key_lengths: key_lengths.clone(),
                    n_heads: self.config.n_heads,
                    scale: self.scale(number) as f32,
                    is_causal: self.config.is_causal,
                    dropout: self.attention_sites(number, forward.batch).map(|sites| (sites, forward.numbers.clone())),
                };
                attention.apply(&query, &key, &value)
            }
        }
    }

    /// What a layer's attention scores are multiplied by.
    pub(super) fn scale(&self, number: usize) -> f64 {
        let width = (self.config.hidden_size / self.config.n_heads) as f64;
        let by_width = if self.config.scales_scores { 1.0 / width.sqrt() } else { 1.0 };
        if self.config.scales_scores_by_layer { by_width / (number + 1) as f64 } else { by_width }
    }

    /// The sites of a layer's attention weights: one a head.
    fn attention_sites(&self, number: usize, batch: &Batch) -> Option<Arc<[Site]>> {
        let draw = batch.draw.filter(|_| self.config.attention_dropout > 0.0)?;
        let site = |head: usize| {
            let name = stream_hash(&format!("layer.{number}.attention.{head}"));
            Site::new(draw.seed, draw.step, name, self.config.attention_dropout)
        };
        Some((0..self.config.n_heads).map(site).collect())
    }

    fn padded_attention(
        &self,
        number: usize,
        [query, key, value]: [&Tensor; 3],
        forward: &Forward<'_>,
        view: &PaddedView,
    ) -> Result<Tensor> {
        let (heads, size) = (self.config.n_heads, self.config.hidden_size / self.config.n_heads);
        let split = |x: &Tensor| -> Result<Tensor> {
            let padded = x.contiguous()?.index_select(&view.padded, 0)?; // (rows * longest, hidden)
            let apart = padded.reshape((view.rows, view.longest, heads, size))?;
            Ok(apart.transpose(1, 2)?.contiguous()?) // (rows, heads, longest, size)
        };
        let (query, key, value) = (split(query)?, split(key)?, split(value)?);
        let mut scores = (query.matmul(&key.t()?)? * self.scale(number))?; // (rows, heads, longest, longest)
        if let Some(mask) = &view.mask {
            scores = scores.broadcast_add(mask)?;
        }
        if self.config.is_causal {
            scores = scores.broadcast_add(&later_tokens(view.longest, scores.device())?)?;
        }
        let mut weights = ops::softmax(&scores, 3)?;
        if let Some(factors) = self.attention_factors(number, forward, view)? {
            weights = (weights * factors)?;
        }
        let mixed = weights.matmul(&value)?; // (rows, heads, longest, size)
        let together = mixed.transpose(1, 2)?.reshape((view.rows * view.longest, heads * size))?;
        Ok(together.index_select(&view.packed, 0)?) // (tokens, hidden)
    }

    /// Dropout's factors of the attention weights, `(rows, heads, longest, longest)`; each head is a site, each query a token.
    fn attention_factors(&self, number: usize, forward: &Forward<'_>, view: &PaddedView) -> Result<Option<Tensor>> {
        let batch = forward.batch;
        let Some(sites) = self.attention_sites(number, batch) else { return Ok(None) };
        let (heads, longest) = (self.config.n_heads, view.longest);
        let mut factors = vec![1.0f32; view.rows * heads * longest * longest];
        for (head, site) in sites.iter().enumerate() {
            for (row, (&start, &length)) in batch.starts.iter().zip(&batch.lengths).enumerate() {
                for place in 0..length {
                    let from = ((row * heads + head) * longest + place) * longest;
                    site.factors(forward.numbers[start + place], &mut factors[from..from + batch.key_lengths[row]]);
                }
            }
        }
        let shape = (view.rows, heads, longest, longest);
        Ok(Some(Tensor::from_vec(factors, shape, view.padded.device())?))
    }

    fn dropout(&self, x: Tensor, p: f64, forward: &Forward<'_>, site: &str) -> Result<Tensor> {
        let Some(draw) = forward.batch.draw.filter(|_| p > 0.0) else { return Ok(x) };
        residual::dropout(&x, Site::new(draw.seed, draw.step, stream_hash(site), p), &forward.numbers)
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        let config = &self.config;
        let limits = [
            (
                batch.largest.input_id,
                config.vocab_size,
                "token id",
                "the vocabulary",
                "is it the tokenizer of this model?",
            ),
            (
                batch.largest.position,
                config.max_length(),
                "position",
                "the position table",
                "cut the rows: `truncation: true`, or a smaller `model_max_length` of the tokenizer",
            ),
            (
                batch.largest.token_type,
                match config.n_token_types {
                    0 if config.token_types_are_tokens => config.vocab_size,
                    // A family without segments passes over them, as Hugging Face does.
                    0 => usize::MAX,
                    entries => entries,
                },
                "token type",
                "the segment table",
                "is it the tokenizer of this model?",
            ),
        ];
        for ((value, row), size, name, of, hint) in limits {
            if value as usize >= size {
                let allowed = format!("less than {size}, the size of {of}");
                return Err(Error::new(What::OutOfRange {
                    name: format!("a {name}"),
                    value: value.to_string(),
                    allowed,
                })
                .at(Place::Row(row))
                .hint(hint));
            }
        }
        Ok(())
    }
}

/// The vectors of ids, `(tokens, hidden)`. As in PyTorch, looking up padding gives its entry no gradient.
fn look_up(table: &Embedding, ids: &Tensor, padding: Option<u32>) -> Result<Tensor> {
    let x = table.forward(ids)?;
    let Some(padding) = padding else { return Ok(x) };
    let is_token: Vec<f32> = ids.to_vec1::<u32>()?.iter().map(|&id| f32::from(u8::from(id != padding))).collect();
    if !is_token.contains(&0.0) {
        return Ok(x);
    }
    let keep = Tensor::from_vec(is_token, (ids.elem_count(), 1), ids.device())?.to_dtype(x.dtype())?;
    let constant = x.detach().broadcast_mul(&keep.affine(-1.0, 1.0)?)?;
    Ok((x.broadcast_mul(&keep)? + constant)?)
}

/// Very low numbers where a key stands behind its query, else 0: `(longest, longest)`.
fn later_tokens(longest: usize, device: &Device) -> Result<Tensor> {
    let place = |query: usize| (0..longest).map(move |key| if key <= query { 0.0f32 } else { -1e30 });
    Ok(Tensor::from_vec((0..longest).flat_map(place).collect::<Vec<_>>(), (longest, longest), device)?)
}

/// Dropout of `x` `(tokens, width)` or `(rows, width)` at the site `name` in the batch's draw; unchanged in evaluation.
///
/// # Errors
/// Those of the tensor operations.
pub fn dropout(x: &Tensor, p: f64, batch: &Batch, name: u64) -> Result<Tensor> {
    let (Some(draw), true) = (batch.draw, p > 0.0) else { return Ok(x.clone()) };
    let site = Site::new(draw.seed, draw.step, name, p);
    let n_leading = x.dims().first().copied().unwrap_or(1);
    let numbers: Arc<[TokenNumber]> = if n_leading == batch.n_tokens() && n_leading != batch.n_rows() {
        batch.token_numbers().into()
    } else {
        // One vector a row, or something that has no tokens: numbered from the batch's first row.
        let first = batch.first_row as u32;
        (0..n_leading as u32).map(|row| TokenNumber { row: first + row, position: u32::MAX }).collect()
    };
    residual::dropout(x, site, &numbers)
}

impl<'a> Forward<'a> {
    fn new(batch: &'a Batch, parameter: &Tensor) -> Result<Self> {
        let attention = if kernels::path() == kernels::Path::Reference || !kernels::covers(&[parameter]) {
            View::Padded(PaddedView::new(batch, parameter.device())?)
        } else {
            View::Packed { starts: batch.starts.clone().into(), key_lengths: batch.key_lengths.clone().into() }
        };
        Ok(Forward { batch, numbers: batch.token_numbers().into(), attention })
    }
}

impl PaddedView {
    fn new(batch: &Batch, device: &Device) -> Result<Self> {
        let (rows, longest) = (batch.n_rows(), batch.longest());
        let padded = Tensor::from_vec(batch.padded_index(), rows * longest, device)?;
        let packed = Tensor::from_vec(batch.packed_index(), batch.n_tokens(), device)?;
        let mask = if batch.key_lengths.iter().all(|&length| length == longest) {
            None
        } else {
            // Low enough that exp gives an exact zero, high enough that adding a score does not overflow.
            let place = |length: usize| (0..longest).map(move |place| if place < length { 0.0f32 } else { -1e30 });
            let values: Vec<f32> = batch.key_lengths.iter().flat_map(|&length| place(length)).collect();
            Some(Tensor::from_vec(values, (rows, 1, 1, longest), device)?.to_dtype(DType::F32)?)
        };
        Ok(PaddedView { rows, longest, padded, packed, mask })
    }
}
