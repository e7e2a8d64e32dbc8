//! A batch of examples without padding: all tokens one after the other, with the rows' boundaries beside them.
//!
//! Shapes: `tokens` is the number of tokens of all rows together, `rows` the number of rows. The padded view that
//! attention by plain matrix products needs is an index, made once a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};
use indexmap::IndexMap;

use crate::batch::features::{Column, Features};
use crate::cancel::meter;
use crate::data::Row;
use crate::error::{Error, Place, Result, What};
use crate::kernels::dropout::TokenNumber;
use crate::tensor::loss::IGNORE_INDEX;

/// The key of a training step's random draws; evaluation has none, and drops nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step, counted from 0.
    pub step: u64,
}

/// Several examples packed together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, `(tokens)`, u32.
    pub input_ids: Tensor,
    /// Segments, `(tokens)`, u32.
    pub token_type_ids: Tensor,
    /// Whether any row has segments of its own.
    pub has_token_types: bool,
    /// Positions, `(tokens)`, u32.
    pub position_ids: Tensor,
    /// Number of tokens of each row.
    pub lengths: Vec<usize>,
    /// Number of tokens of each row that attention may look at: all, unless the task asked for padding.
    pub key_lengths: Vec<usize>,
    /// Where each row starts; one more entry than rows, the last being `tokens`.
    pub starts: Vec<usize>,
    /// The other columns: `(rows)`, `(rows, k)`, or `(tokens)` for one value a token; i64 or f32.
    pub columns: IndexMap<String, Tensor>,
    /// What the rows have that is neither a number nor a list of numbers, one map a row.
    pub kept: Vec<Row>,
    /// The rows' numbers in the data set they come from.
    pub rows: Vec<usize>,
    /// The draw of this step while training, `None` in evaluation.
    pub draw: Option<Draw>,
    /// The number of the first row within its optimizer step (other micro-batches come before it).
    pub first_row: usize,
    /// The number of labels that take part in the loss.
    pub n_items: usize,
    /// The largest token id and position, and the largest segment: checked against the model before use.
    pub largest: Largest,
    /// The share of a class target that a task's loss spreads over all classes: `label_smoothing_factor` while training.
    pub label_smoothing: f64,
    /// The weight of each class in a task's loss, `(classes)`, where the recipe gave `class_weights`.
    pub class_weights: Option<Tensor>,
    /// What the batch is in its accumulation window.
    pub part: Part,
    /// The sum of the class weights of the labels that take part.
    total_weight: Option<f64>,
    /// How many dropout sites the head has used in this forward.
    dropout_sites: Arc<AtomicU64>,
}

/// What a batch is in its accumulation window: the whole of it, unless gradients are accumulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// The share of the window's labels that the batch has: what its mean loss counts with.
    pub share: f64,
    /// The number of labels that take part in the loss, of all batches of the window.
    pub num_items_in_batch: usize,
    /// Whether the window ends with this batch.
    pub is_last: bool,
}

/// The largest indices of a batch, with the rows that hold them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Largest {
    /// Token id and row.
    pub input_id: (u32, usize),
    /// Position and row.
    pub position: (u32, usize),
    /// Segment and row.
    pub token_type: (u32, usize),
}

impl Batch {
    /// Packs `examples`, given with their row numbers, onto `device`, each row filled up to the longest with `pad_id`.
    ///
    /// Only for tasks whose loss looks at padding, as Hugging Face's does in extractive question answering: there the
    /// softmax over a row's positions includes those of the padding, whose hidden states attend to the row's own tokens.
    ///
    /// # Errors
    /// As [`Batch::pack`].
    pub fn pack_padded(examples: &[(usize, &Features)], pad_id: u32, device: &Device) -> Result<Self> {
        let longest = examples.iter().map(|(_, features)| features.n_tokens()).max().unwrap_or(0);
        let padded: Vec<(usize, Features)> =
            examples.iter().map(|(row, features)| (*row, features.padded(longest, pad_id))).collect();
        let borrowed: Vec<(usize, &Features)> = padded.iter().map(|(row, features)| (*row, features)).collect();
        let mut batch = Batch::pack(&borrowed, device)?;
        batch.key_lengths = examples.iter().map(|(_, features)| features.n_tokens()).collect();
        Ok(batch)
    }

    /// Packs `examples`, given with their row numbers, onto `device`.
    ///
    /// # Errors
    /// No examples, or a column that some rows lack or give in another form; the row is named.
    pub fn pack(examples: &[(usize, &Features)], device: &Device) -> Result<Self> {
        let Some((_, first)) = examples.first() else {
            return Err(What::BadData("a batch needs at least one row".into()).into());
        };
        let lengths: Vec<usize> = examples.iter().map(|(_, features)| features.n_tokens()).collect();
        let mut starts = vec![0];
        for length in &lengths {
            starts.push(starts[starts.len() - 1] + length);
        }
        let n_tokens = starts[lengths.len()];
        let (mut ids, mut types, mut positions) = (Vec::new(), Vec::with_capacity(n_tokens), Vec::new());
        let mut largest = Largest::default();
        for (row, features) in examples {
            let n = features.n_tokens();
            ids.extend_from_slice(&features.input_ids);
            match &features.token_type_ids {
                Some(segment) => types.extend_from_slice(segment),
                None => types.resize(types.len() + n, 0),
            }
            match &features.position_ids {
                Some(given) => positions.extend_from_slice(given),
                None => positions.extend(0..n as u32),
            }
            let tail = ids.len() - n;
            for (all, most) in
                [(&ids, &mut largest.input_id), (&types, &mut largest.token_type), (&positions, &mut largest.position)]
            {
                let here = all[tail..].iter().copied().max().unwrap_or(0);
                if here > most.0 {
                    *most = (here, *row);
                }
            }
        }
        let mut columns = IndexMap::new();
        for (name, _) in &first.columns {
            columns.insert(name.clone(), pack_column(name, examples, n_tokens, device)?);
        }
        Ok(Batch {
            input_ids: Tensor::from_vec(ids, n_tokens, device)?,
            token_type_ids: Tensor::from_vec(types, n_tokens, device)?,
            has_token_types: examples.iter().any(|(_, features)| features.token_type_ids.is_some()),
            position_ids: Tensor::from_vec(positions, n_tokens, device)?,
            key_lengths: lengths.clone(),
            lengths,
            starts,
            columns,
            kept: examples.iter().map(|(_, features)| features.kept.clone()).collect(),
            rows: examples.iter().map(|(row, _)| *row).collect(),
            draw: None,
            first_row: 0,
            n_items: examples.iter().map(|(_, features)| features.n_items()).sum(),
            largest,
            label_smoothing: 0.0,
            class_weights: None,
            total_weight: None,
            part: Part { share: 1.0, num_items_in_batch: 0, is_last: true },
            dropout_sites: Arc::default(),
        })
    }

    /// Marks these batches as one accumulation window: each counts with its share of the window's labels, or of their class
    /// weights, so that one batch of 32 equals 4 of 8.
    pub fn share_out(window: &mut [Batch]) {
        let num_items_in_batch = window.iter().map(|batch| batch.n_items).sum();
        let weights: Vec<f64> = window.iter().map(Batch::weight_of_items).collect();
        let (total, n_batches) = (weights.iter().sum::<f64>(), window.len());
        for (number, (batch, weight)) in window.iter_mut().zip(weights).enumerate() {
            let share = if total == 0.0 { 1.0 / n_batches as f64 } else { weight / total };
            batch.part = Part { share, num_items_in_batch, is_last: number + 1 == n_batches };
        }
    }

    /// What the mean over the batch's labels divides by: their number, or the sum of their class weights.
    fn weight_of_items(&self) -> f64 {
        self.total_weight.unwrap_or(self.n_items as f64)
    }

    /// The same batch, whose loss counts each label with the weight of its class, where it has labels.
    ///
    /// # Errors
    /// Labels that are not one class a row or a token, or that are out of range.
    pub fn with_class_weights(mut self, weights: &[f32]) -> Result<Self> {
        let Some(labels) = self.columns.get("labels") else { return Ok(self) };
        if !labels.dtype().is_int() || labels.rank() != 1 {
            let problem =
                "`class_weights` need one class for each row or token: the labels are numbers, or several a row";
            return Err(Error::new(What::Conflict(problem.into())).hint("leave `class_weights` out"));
        }
        let mut total = 0.0;
        for (item, label) in
            labels.to_vec1::<i64>()?.into_iter().enumerate().filter(|(_, label)| *label != IGNORE_INDEX)
        {
            let weight = usize::try_from(label).ok().and_then(|label| weights.get(label)).ok_or_else(|| {
                let allowed = format!("0 to {} (there are {} class weights)", weights.len().max(1) - 1, weights.len());
                let what = What::OutOfRange { name: "a label".into(), value: label.to_string(), allowed };
                self.relocate(Error::new(what).at(Place::Item(item)))
            })?;
            total += f64::from(*weight);
        }
        self.class_weights = Some(Tensor::new(weights, labels.device())?);
        self.total_weight = Some(total);
        Ok(self)
    }

    /// The same batch for training: with the step's draw, and the number of rows that came before it in the step.
    #[must_use]
    pub fn training(mut self, draw: Draw, first_row: usize) -> Self {
        self.draw = Some(draw);
        self.first_row = first_row;
        self.dropout_sites = Arc::default();
        self
    }

    /// The same batch, whose mean divides by those of `labels` that are not ignored, `(tokens)` or `(rows)` of whole numbers.
    ///
    /// # Errors
    /// Labels that are not whole numbers.
    pub fn with_items(mut self, labels: &Tensor) -> Result<Self> {
        let labels: Vec<i64> = labels.flatten_all()?.to_dtype(DType::I64)?.to_vec1()?;
        self.n_items = labels.iter().filter(|&&label| label != IGNORE_INDEX).count();
        Ok(self)
    }

    /// The same batch with the column `name`, whole numbers as i64.
    ///
    /// # Errors
    /// Values that are neither one a row nor one a token.
    pub fn with_column(mut self, name: &str, values: Tensor) -> Result<Self> {
        let n_leading = values.dims().first().copied().unwrap_or(0);
        if n_leading != self.n_rows() && n_leading != self.n_tokens() {
            let (rows, tokens, dims) = (self.n_rows(), self.n_tokens(), values.dims());
            let problem =
                format!("`{name}` of {dims:?} has neither one entry for each of {rows} rows nor {tokens} tokens");
            return Err(What::Conflict(problem).into());
        }
        let values = if values.dtype().is_int() { values.to_dtype(DType::I64)? } else { values };
        self.columns.insert(name.to_string(), values);
        Ok(self)
    }

    /// The same batch with other tokens, as many as before.
    ///
    /// # Errors
    /// Another number of tokens.
    pub fn with_input_ids(&self, ids: Vec<u32>) -> Result<Self> {
        if ids.len() != self.n_tokens() {
            let problem = format!("{} tokens for a batch of {}", ids.len(), self.n_tokens());
            return Err(What::Conflict(problem).into());
        }
        let mut batch = self.clone();
        batch.largest.input_id = (0, self.rows.first().copied().unwrap_or(0));
        for (row, &number) in self.rows.iter().enumerate() {
            let most = ids[self.starts[row]..self.starts[row + 1]].iter().copied().max().unwrap_or(0);
            if most > batch.largest.input_id.0 {
                batch.largest.input_id = (most, number);
            }
        }
        batch.input_ids = Tensor::from_vec(ids, self.n_tokens(), self.input_ids.device())?;
        Ok(batch)
    }

    /// The number of the next dropout site of the head: 0, 1, ... in the order of the calls of one forward.
    pub fn next_dropout_site(&self) -> u64 {
        self.dropout_sites.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts dropout sites from 0 again: called where a forward starts, so that the same forward drops the same elements. What
    /// the forward takes is the library's.
    pub fn start_forward(&self) {
        meter::note_work();
        self.dropout_sites.store(0, Ordering::Relaxed);
    }

    /// The number of rows.
    pub fn n_rows(&self) -> usize {
        self.lengths.len()
    }

    /// The number of tokens of all rows together.
    pub fn n_tokens(&self) -> usize {
        self.starts[self.lengths.len()]
    }

    /// The number of tokens of the longest row.
    pub fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// The column `labels`, or an error that says what the batch has.
    ///
    /// # Errors
    /// A batch without that column.
    pub fn column(&self, name: &str) -> Result<&Tensor> {
        self.columns.get(name).ok_or_else(|| {
            let known: Vec<_> = self.columns.keys().map(|name| format!("`{name}`")).collect();
            let error = Error::new(What::NotFound { kind: "column", name: name.to_string() });
            if name == "labels" && known.is_empty() {
                return error.hint("the rows have no labels: the data set needs a column `label` (or `labels`)");
            }
            error.hint(format!(
                "the batch has `input_ids` and {}",
                if known.is_empty() { "nothing else".into() } else { known.join(", ") }
            ))
        })
    }

    /// The numbers of all tokens within the optimizer step, for dropout.
    pub fn token_numbers(&self) -> Vec<TokenNumber> {
        let mut numbers = Vec::with_capacity(self.n_tokens());
        for (row, &length) in self.lengths.iter().enumerate() {
            let row = (self.first_row + row) as u32;
            numbers.extend((0..length as u32).map(|position| TokenNumber { row, position }));
        }
        numbers
    }

    /// For each place of the padded view `(rows, longest)`, the token that stands there; padding points at the row's first token.
    pub fn padded_index(&self) -> Vec<u32> {
        let longest = self.longest();
        let mut index = Vec::with_capacity(self.n_rows() * longest);
        for (&start, &length) in self.starts.iter().zip(&self.lengths) {
            index.extend((0..longest).map(|place| (start + if place < length { place } else { 0 }) as u32));
        }
        index
    }

    /// For each token, its place in the padded view flattened to `(rows * longest)`.
    pub fn packed_index(&self) -> Vec<u32> {
        let longest = self.longest();
        let rows = self.lengths.iter().enumerate();
        rows.flat_map(|(row, &length)| (0..length).map(move |place| (row * longest + place) as u32)).collect()
    }

    /// Turns the place of an error from an item of this batch into the row of the data set.
    pub fn relocate(&self, error: Error) -> Error {
        if !error.places().iter().any(|place| matches!(place, Place::Item(_))) {
            return error;
        }
        let places = error.places().iter().map(|place| match place {
            Place::Item(item)
                if *item < self.n_rows()
                    && self.columns.get("labels").is_none_or(|labels| {
                        labels.dims() != [self.n_tokens()] || self.n_tokens() == self.n_rows()
                    }) =>
            {
                Place::Row(self.rows[*item])
            }
            Place::Item(item) if *item < self.n_tokens() => {
                let row = self.starts.partition_point(|start| start <= item) - 1;
                Place::Within(format!("row {}, token {}", self.rows[row], item - self.starts[row]))
            }
            other => other.clone(),
        });
        let places = places.collect();
        error.relocated(places)
    }
}

fn pack_column(name: &str, examples: &[(usize, &Features)], n_tokens: usize, device: &Device) -> Result<Tensor> {
    let column = |row: usize, features: &'_ Features| {
        features.column(name).cloned().ok_or_else(|| {
            Error::new(What::BadData(format!("the row has no `{name}`, but others of the batch have it")))
                .at(Place::Row(row))
        })
    };
    let n_rows = examples.len();
    // Whole numbers of a batch stay far below 2^53, so f64 holds both kinds.
    let mut values: Vec<f64> = Vec::new();
    let (mut per_token, mut scalar, mut whole) = (true, true, true);
    let mut width = None;
    // Where lists are of several lengths they have to be one a token: the row that breaks this is the one to be named.
    let lengths = examples.iter().filter_map(|(_, features)| features.column(name).and_then(Column::list_len));
    let varies = lengths.clone().max() != lengths.min();
    for (row, features) in examples {
        let before = values.len();
        let column = column(*row, features)?;
        let is_scalar = matches!(column, Column::Int(_) | Column::Float(_));
        per_token &= features.is_per_token(name, &column);
        whole &= matches!(column, Column::Int(_) | Column::Ints(_));
        match column {
            Column::Int(value) => values.push(value as f64),
            Column::Float(value) => values.push(value),
            Column::Ints(list) => values.extend(list.into_iter().map(|value| value as f64)),
            Column::Floats(list) => values.extend(list),
        }
        let count = values.len() - before;
        scalar &= is_scalar;
        let same_width = width.is_none_or(|width| width == (is_scalar, count));
        if (varies && !is_scalar && count != features.n_tokens()) || (!same_width && !per_token) {
            let problem = format!("`{name}` has {count} values for {} `input_ids`", features.n_tokens());
            return Err(Error::new(What::BadData(problem))
                .at(Place::Row(*row))
                .hint("give one value a token, or the same number of values in every row"));
        }
        width = Some((is_scalar, count));
    }
    let shape: Vec<usize> = match width {
        _ if scalar => vec![n_rows],
        _ if per_token => vec![n_tokens],
        Some((_, count)) => vec![n_rows, count],
        None => vec![n_rows],
    };
    if whole {
        return Ok(Tensor::from_vec(values.into_iter().map(|value| value as i64).collect::<Vec<_>>(), shape, device)?);
    }
    Ok(Tensor::from_vec(values.into_iter().map(|value| value as f32).collect::<Vec<_>>(), shape, device)?)
}
