//! A batch of examples without padding: all tokens one after the other, with the rows' boundaries beside them.
//!
//! Shapes: `tokens` is the number of tokens of all rows together, `rows` the number of rows. The padded view that
//! attention by plain matrix products needs is an index, made once a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};
use indexmap::IndexMap;

use crate::batch::features::{Column, Features};
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
    /// How many dropout sites the head has used in this forward.
    dropout_sites: Arc<AtomicU64>,
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
            dropout_sites: Arc::default(),
        })
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

    /// The number of the next dropout site of the head: 0, 1, ... in the order of the calls of one forward.
    pub fn next_dropout_site(&self) -> u64 {
        self.dropout_sites.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts dropout sites from 0 again: called where a forward starts, so that the same forward drops the same elements.
    pub fn start_forward(&self) {
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
