//! The cut of an epoch into batches: by the number of rows, by the number of their tokens, or by both.
//!
//! An order of rows, their lengths and [`Limits`] flow in; a [`Cut`] flows out. It is a function of these alone, so that a
//! resumed run finds its place without walking there.

use serde::{Deserialize, Serialize};

/// What a batch may hold. Without any limit all rows are one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The number of rows.
    pub rows: Option<usize>,
    /// The number of tokens in all of them; a longer row is a batch of its own.
    pub tokens: Option<usize>,
    /// Whether the last batch is left out where it has room for more.
    pub drop_last: bool,
}

impl Limits {
    /// Whether the number of batches follows from the number of rows alone.
    pub fn are_even(&self) -> bool {
        self.tokens.is_none()
    }

    /// How many rows a batch of average length has.
    pub fn typical_rows(&self, lengths: &[usize]) -> usize {
        let rows = self.rows.unwrap_or(usize::MAX);
        let Some(tokens) = self.tokens else { return rows.min(lengths.len()).max(1) };
        let total = lengths.iter().sum::<usize>().max(1);
        rows.min(tokens.saturating_mul(lengths.len()) / total).max(1)
    }

    /// The number of batches of `n` rows where no tokens are counted.
    pub fn n_even_batches(&self, n: usize) -> usize {
        let Some(rows) = self.rows else { return usize::from(n > 0 && !self.drop_last) };
        if self.drop_last { n / rows } else { n.div_ceil(rows) }
    }
}

/// An epoch in batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    order: Vec<usize>,
    /// Where in the order each batch ends.
    ends: Vec<usize>,
}

impl Cut {
    /// Cuts `order` greedily: a batch takes rows until the next one would be too much.
    pub fn new(order: Vec<usize>, limits: Limits, n_tokens: impl Fn(usize) -> usize) -> Self {
        let (max_rows, max_tokens) = (limits.rows.unwrap_or(usize::MAX), limits.tokens.unwrap_or(usize::MAX));
        let mut ends = Vec::new();
        let (mut first, mut tokens) = (0, 0);
        for (place, &row) in order.iter().enumerate() {
            let more = if limits.tokens.is_some() { n_tokens(row) } else { 0 };
            if place > first && (place - first >= max_rows || tokens + more > max_tokens) {
                ends.push(place);
                (first, tokens) = (place, 0);
            }
            tokens += more;
        }
        let has_room = order.len() - first < max_rows && tokens < max_tokens;
        if first < order.len() && !(limits.drop_last && has_room) {
            ends.push(order.len());
        }
        Cut { order, ends }
    }

    /// Cuts what is behind the first `n_rows` rows in another way.
    pub fn rest(self, n_rows: usize, limits: Limits, n_tokens: impl Fn(usize) -> usize) -> Self {
        Cut::new(self.order.into_iter().skip(n_rows).collect(), limits, n_tokens)
    }

    /// The number of rows in the first `n` batches.
    pub fn n_rows_in(&self, n: usize) -> usize {
        match n.min(self.ends.len()) {
            0 => 0,
            n => self.ends[n - 1],
        }
    }

    /// Leaves out all batches behind the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.ends.truncate(n);
    }

    /// The number of batches.
    pub fn n_batches(&self) -> usize {
        self.ends.len()
    }

    /// The rows of a batch. There are [`Cut::n_batches`].
    pub fn batch(&self, number: usize) -> &[usize] {
        let first = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.order[first..self.ends[number]]
    }

    /// The batches of the window `number` of so many each: one update. None behind the last window.
    pub fn window(&self, number: usize, accumulation: usize) -> Option<Vec<&[usize]>> {
        let first = number.saturating_mul(accumulation);
        let last = first.saturating_add(accumulation).min(self.n_batches());
        (first < last).then(|| (first..last).map(|number| self.batch(number)).collect())
    }
}
