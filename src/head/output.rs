//! What a head returns, and its cutting into one prediction a row.

use candle_core::Tensor;
use indexmap::IndexMap;
use std::sync::Arc;

use crate::batch::Batch;
use crate::data::Value;
use crate::error::{Result, What};
use crate::head::script::convert::tensor_to_value;

/// Logits: one tensor, or several by name.
#[derive(Clone, Debug)]
pub enum Output {
    /// One tensor.
    One(Tensor),
    /// Several tensors by name.
    Named(IndexMap<String, Tensor>),
}

/// Predictions of a data set, in the order of its rows.
#[derive(Clone, Debug, Default)]
pub struct Predictions {
    /// One entry a row: a list of scores, one list a token, or a map of lists.
    pub predictions: Vec<Value>,
    /// The labels, one entry a row; empty where the data has none.
    pub label_ids: Vec<Value>,
}

/// Whether a tensor's first dimension counts rows or tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leading {
    /// One entry a row.
    Rows,
    /// One entry a token.
    Tokens,
}

impl Output {
    /// The tensors with their names; a single one is called `logits`.
    pub fn tensors(&self) -> Vec<(&str, &Tensor)> {
        match self {
            Output::One(tensor) => vec![("logits", tensor)],
            Output::Named(map) => map.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect(),
        }
    }

    /// What the first dimension of each tensor counts in `batch`; `None` where it is neither.
    pub fn leading(&self, batch: &Batch) -> Option<Vec<Leading>> {
        let tensors = self.tensors();
        let each = tensors.iter().map(|(_, tensor)| match tensor.dims().first() {
            Some(&n) if n == batch.n_rows() => Some(Leading::Rows),
            Some(&n) if n == batch.n_tokens() => Some(Leading::Tokens),
            _ => None,
        });
        each.collect()
    }

    /// One value a row: the row's slice of each tensor.
    ///
    /// # Errors
    /// A tensor that has neither one entry a row nor one a token.
    pub fn per_row(&self, batch: &Batch, leading: &[Leading]) -> Result<Vec<Value>> {
        let mut columns = Vec::new();
        for ((name, tensor), kind) in self.tensors().into_iter().zip(leading) {
            let wanted = if *kind == Leading::Rows { batch.n_rows() } else { batch.n_tokens() };
            if tensor.dims().first() != Some(&wanted) {
                let (rows, tokens, dims) = (batch.n_rows(), batch.n_tokens(), tensor.dims());
                let problem = format!(
                    "the task's forward returned `{name}` of shape {dims:?}, which has neither one entry for each of \
                     {rows} rows nor one for each of {tokens} tokens"
                );
                return Err(What::Conflict(problem).into());
            }
            let all = tensor_to_value(tensor)?;
            let all = all.as_list().unwrap_or_default();
            let rows: Vec<Value> = match kind {
                Leading::Rows => all.to_vec(),
                Leading::Tokens => {
                    let spans = batch.starts.iter().zip(&batch.key_lengths);
                    spans.map(|(&start, &length)| Value::List(all[start..start + length].into())).collect()
                }
            };
            columns.push((name.to_string(), rows));
        }
        if let (Output::One(_), Some((_, rows))) = (self, columns.first()) {
            return Ok(rows.clone());
        }
        let row = |index: usize| columns.iter().map(|(name, rows)| (name.clone(), rows[index].clone())).collect();
        Ok((0..batch.n_rows()).map(|index| Value::Map(Arc::new(row(index)))).collect())
    }
}
