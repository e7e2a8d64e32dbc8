//! How much memory a run needs beside what it holds already, before its first step: from shapes and the largest batch.
//!
//! The model, the arguments and the rows' lengths flow in; an error flows out where the machine has less, which names the batch
//! and what to lower. The figures follow what the fused encoder keeps (`model::fused::block`) and what the optimizer and a save
//! hold; a test compares those of f32 without saves with measured peaks. Models on another device, and what a script's own loss
//! keeps, are not looked at.

use std::ops::Range;

use crate::error::{Error, Place, Result, What};
use crate::head::Model;
use crate::head::prepare::Prepared;
use crate::kernels::tiles::{Element, Precision, kernels};
use crate::kernels::vocabulary;
use crate::memory::{self, shown};
use crate::model::family;
use crate::train::trainer::Trainer;
use crate::train::{Interval, SaveInterval, TrainingArguments};

/// Bytes of a number.
const F32: u64 = 4;
/// Into how many blocks a batch is cut, about.
const BLOCKS: usize = 6;
/// Rows longer than this do not keep their attention probabilities.
const KEPT_ROW: usize = 192;
/// Bytes for each logit of a language model at the peak, without tile kernels: it, its log-softmax, and the gradients of both, of
/// which the masked one's head keeps more.
const CAUSAL_LOGIT: u64 = 14;
/// As [`CAUSAL_LOGIT`].
const MASKED_LOGIT: u64 = 20;
/// Hidden states beside the encoder's own: the encoder's output, what a head makes of it, and the gradients of both.
const AROUND_HEAD: u64 = 6;
/// What the allocator and threads take beside what is counted, in percent.
const SLACK: u64 = 5;
/// What the composition of single operations keeps of a layer, measured: so many hidden and inner states of each token, and so many
/// probabilities of each pair of tokens, padding included.
const COMPOSED: (u64, u64, u64) = (25, 12, 12);

/// What a run needs, in the terms that a batch is counted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Gradients, moments, packed weights, and the copies of a save.
    fixed: u64,
    /// Halves of the fused encoder's layers, whose gradients lie where what the forward kept lay.
    halves: Vec<Half>,
    /// For each token of a batch.
    token: u64,
    /// For each attention probability that is kept.
    probability: u64,
    /// Whether the fused encoder is at work, which keeps the probabilities of short rows alone.
    is_fused: bool,
    /// For each token of a batch, the gradient of its table rows; at most the tables.
    looked_up: u64,
    tables: u64,
}

/// What half a layer takes: the larger of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Half {
    /// Its weights' gradients.
    gradients: u64,
    /// What it keeps, for each token of a batch.
    token: u64,
}

/// What a batch is counted in.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    tokens: u64,
    probabilities: u64,
}

impl Need {
    /// What training `model` needs on these rows.
    pub(super) fn of_training(model: &Model, args: &TrainingArguments, prepared: &Prepared) -> Self {
        let config = model.encoder().config();
        let (hidden, inner, layers) =
            (padded(config.hidden_size), padded(config.intermediate_size), config.n_layers as u64);
        let words = model.encoder().word_embeddings().weight.name().to_string();
        let (mut largest, mut trained, mut tables, mut moments) = (0, 0, 0, 0);
        for parameter in model.parameters().all() {
            let count = parameter.value().elem_count() as u64;
            largest = largest.max(count);
            if !parameter.is_trainable() {
                continue;
            }
            trained += count;
            if parameter.name() == words {
                tables = count;
                // Pages of moments that no row of the data touches are never made.
                moments += 2 * count.min(n_words(prepared, config.vocab_size) * config.embedding_size as u64);
            } else {
                moments += 2 * count;
            }
        }
        let precision = if args.bf16 { Precision::Bf16 } else { Precision::Highest };
        let kernels = kernels(precision);
        let (element, rounds) = kernels.map_or((F32, false), |kernels| match kernels.element {
            Element::F32 => (F32, false),
            Element::RoundedF32 => (F32, true),
            Element::Bf16(parts) => (2 * parts as u64, parts == 1),
        });
        // A checkpoint is made of copies of the moments, written one tensor after the other.
        let saves = args.save_strategy != SaveInterval::No;
        let saving = if saves { 2 * (trained + largest) } else { 0 };
        let of_logit = logit_bytes(model);
        let is_vocabulary = of_logit > 0 && kernels.is_some() && config.vocab_size >= vocabulary::MANY;
        let logits = match is_vocabulary {
            true => vocabulary::bytes_of_a_row(config.vocab_size) as u64,
            false => config.vocab_size as u64 * of_logit,
        };
        let around = F32 * AROUND_HEAD * hidden + logits;
        // A language model's table has a gradient of the head too, and of all rows.
        let of_head = if is_vocabulary { tables } else { 0 };
        let fixed = F32 * (trained - tables + moments + saving + of_head);
        let looked_up = F32 * config.embedding_size as u64 * 2;
        let (tables, is_fused) = (F32 * tables, kernels.is_some());
        if !is_fused {
            let (of_hidden, of_inner, of_pairs) = COMPOSED;
            let token = F32 * layers * (of_hidden * hidden + of_inner * inner) + around;
            let probability = F32 * layers * of_pairs * config.n_heads as u64;
            return Need { fixed, halves: Vec::new(), token, probability, is_fused, looked_up, tables };
        }
        // The weights of one layer at a time are packed, for the forward and for the backward; those of all for evaluations.
        let n_packed = if args.eval_strategy == Interval::No { 2 } else { 2 + layers };
        let packed = element * n_packed * (4 * hidden * hidden + 2 * hidden * inner);
        // What a layer keeps for the backward: queries, keys and values, and what is activated, in the gradients' rooms; norms' inputs
        // and attention's context beside them. Or this of one layer.
        let number = if rounds { 2 } else { F32 };
        let (shared, checkpointing) = ([number * 3 * hidden, number * inner], args.gradient_checkpointing);
        let kept = F32 * 2 * hidden + element * hidden + if checkpointing { shared[0] + shared[1] } else { 0 };
        let gradients: Vec<[usize; 2]> = model.encoder().trained_in_halves();
        let fixed = fixed - F32 * gradients.iter().flatten().sum::<usize>() as u64;
        let half = |(gradients, token): (usize, u64)| {
            let token = if checkpointing { 0 } else { token };
            Half { gradients: F32 * gradients as u64, token }
        };
        let halves = gradients.into_iter().flat_map(|both| both.into_iter().zip(shared)).map(half).collect();
        // The hidden states and the first layer's input, or those of all layers and one that is made again.
        let (states, n_kept) = if checkpointing { (layers + 2, 1) } else { (2, layers) };
        // Operands of one layer's weight gradients, and strips of the blocks at work, which are a sixth of a batch.
        let gradients = element * (8 * hidden + 2 * inner);
        let wide = inner.max(3 * hidden);
        let strips = F32 * (7 * hidden + inner + wide) + element * wide;
        let at_work = rayon::current_num_threads().min(BLOCKS) as u64;
        Need {
            fixed: fixed + packed,
            halves,
            token: kept * n_kept + F32 * states * hidden + gradients + strips * at_work / BLOCKS as u64 + around,
            probability: F32 * config.n_heads as u64 * n_kept,
            is_fused,
            looked_up,
            tables,
        }
    }

    /// What a batch of rows of these lengths needs, all in all.
    pub(super) fn bytes(&self, lengths: impl IntoIterator<Item = usize>) -> u64 {
        let (mut size, mut n_rows, mut longest) = (Size::default(), 0, 0);
        for length in lengths {
            size.tokens += length as u64;
            if length <= KEPT_ROW {
                size.probabilities += length as u64 * padded_row(length);
            }
            (n_rows, longest) = (n_rows + 1, longest.max(length as u64));
        }
        if !self.is_fused {
            size.probabilities = n_rows * longest * longest;
        }
        self.of(size)
    }

    /// At least what any batch of so many rows and tokens needs, none of them longer than `longest`.
    fn at_most(&self, n_rows: u64, tokens: u64, longest: usize) -> u64 {
        let probabilities = match self.is_fused {
            true => tokens * padded_row(longest.min(KEPT_ROW)),
            false => n_rows.min(tokens) * (longest * longest) as u64,
        };
        self.of(Size { tokens, probabilities })
    }

    fn of(&self, Size { tokens, probabilities }: Size) -> u64 {
        let tables = self.tables.min(self.looked_up * tokens);
        let halves: u64 = self.halves.iter().map(|half| half.gradients.max(half.token * tokens)).sum();
        let counted = self.fixed + halves + tables + self.token * tokens + self.probability * probabilities;
        counted + counted / 100 * SLACK
    }
}

/// Sizes as the fused encoder rounds them up.
fn padded(n: usize) -> u64 {
    n.next_multiple_of(32) as u64
}

fn padded_row(n: usize) -> u64 {
    n.next_multiple_of(16) as u64
}

/// How many entries of the vocabulary the rows have.
fn n_words(prepared: &Prepared, vocab_size: usize) -> u64 {
    let mut seen = vec![false; vocab_size];
    let mut count = 0;
    for &id in prepared.features.iter().flat_map(|features| &features.input_ids) {
        if let Some(seen) = seen.get_mut(id as usize).filter(|seen| !**seen) {
            (*seen, count) = (true, count + 1);
        }
    }
    count
}

/// Bytes for each entry of the vocabulary at each token, where the head has a number for each.
fn logit_bytes(model: &Model) -> u64 {
    let architecture = model.architecture();
    match architecture {
        _ if architecture.ends_with(family::CAUSAL_LM) || architecture.ends_with("LMHeadModel") => CAUSAL_LOGIT,
        _ if architecture.ends_with("ForMaskedLM") => MASKED_LOGIT,
        _ => 0,
    }
}

/// What a run has been found to have room for.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    need: Need,
    /// What the largest batch so far needed, all in all: its room is kept.
    taken: u64,
}

/// What stays free for scripts and for everything that is not counted.
const RESERVE: u64 = 64 << 20;

/// How many epochs are cut into batches before the first step, where the longest rows together would not fit.
const EPOCHS: usize = 16;

impl Trainer {
    /// Refuses a run whose largest batch needs more memory than there is.
    ///
    /// # Errors
    /// [`What::Memory`] with the batch, its rows and tokens, and what to lower.
    pub(super) fn budget(&self, prepared: &Prepared, epochs: Range<usize>) -> Result<Budget> {
        let need = Need::of_training(&self.settings.model, &self.settings.args, prepared);
        let budget = Budget { need, taken: 0 };
        let need = &budget.need;
        let Some(left) = self.memory_left() else { return Ok(budget) };
        // The longest rows in one batch are more than any batch needs.
        let limits = self.layout().limits;
        let mut lengths: Vec<usize> = prepared.features.iter().map(|features| features.n_tokens()).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.truncate(limits.rows.unwrap_or(usize::MAX));
        let longest = lengths.first().copied().unwrap_or(0);
        let tokens = lengths.iter().sum::<usize>().min(limits.tokens.unwrap_or(usize::MAX).max(longest)) as u64;
        if need.at_most(lengths.len() as u64, tokens, longest) <= left {
            return Ok(budget);
        }
        for epoch in epochs.take(EPOCHS) {
            let cut = self.layout().cut(epoch, prepared);
            let batches = (0..cut.n_batches()).map(|number| cut.batch(number));
            let largest = batches.max_by_key(|batch| need.bytes(lengths_of(prepared, batch)));
            if let Some(batch) = largest.filter(|batch| need.bytes(lengths_of(prepared, batch)) > left) {
                return Err(too_large(need, &self.settings.args, prepared, batch, left));
            }
        }
        Ok(budget)
    }

    /// What is left for training, where it takes the machine's own memory.
    fn memory_left(&self) -> Option<u64> {
        let left = memory::available().filter(|_| self.settings.model.device().is_cpu());
        left.map(|left| left.saturating_sub(RESERVE))
    }

    /// Refuses an update with a batch larger than all before it that does not fit beside what has been taken meanwhile.
    ///
    /// # Errors
    /// As [`Trainer::budget`].
    pub(super) fn admit(&self, window: &[&[usize]], prepared: &Prepared, budget: &mut Budget) -> Result<()> {
        for batch in window {
            let bytes = budget.need.bytes(lengths_of(prepared, batch));
            if bytes <= budget.taken {
                continue;
            }
            if let Some(left) = self.memory_left().map(|left| left.saturating_add(budget.taken))
                && bytes > left
            {
                return Err(too_large(&budget.need, &self.settings.args, prepared, batch, left));
            }
            budget.taken = bytes;
        }
        Ok(())
    }
}

fn lengths_of<'a>(prepared: &'a Prepared, batch: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    batch.iter().map(|&index| prepared.features[index].n_tokens())
}

/// The error for a batch that does not fit.
fn too_large(need: &Need, args: &TrainingArguments, prepared: &Prepared, batch: &[usize], left: u64) -> Error {
    let lengths = || lengths_of(prepared, batch);
    let (tokens, longest) = (lengths().sum::<usize>(), lengths().max().unwrap_or(0));
    let bytes = need.bytes(lengths());
    let rows: Vec<usize> = batch.iter().map(|&index| prepared.rows[index]).collect();
    let listed = rows.iter().take(16).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let dots = if rows.len() > 16 { ", ..." } else { "" };
    let problem = format!(
        "training on a batch of {} rows with {tokens} tokens (the longest row has {longest}) needs about {} of memory, and {} is left",
        rows.len(),
        shown(bytes.into()),
        shown(left.into()),
    );
    let mut hints = Vec::new();
    let without = need.bytes([]);
    if without > left {
        hints.push(format!(
            "weights, gradients and moments alone need {}: use a smaller model, or freeze a part of it",
            shown(without.into())
        ));
    } else {
        if batch.len() > 1 {
            let fits = (left - without) as f64 / (bytes - without).max(1) as f64;
            let size = ((batch.len() as f64 * fits) as usize).clamp(1, batch.len() - 1);
            hints.push(format!(
                "lower `per_device_train_batch_size` to {size} (`gradient_accumulation_steps` makes up for it)"
            ));
        }
        hints.push("lower `max_length`".into());
        if !args.gradient_checkpointing {
            hints.push("set `gradient_checkpointing: true`".into());
        }
    }
    Error::new(What::Memory(problem))
        .at(Place::Within(format!("rows {listed}{dots} of the training set")))
        .hint(hints.join(", or "))
}
