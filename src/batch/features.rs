//! One encoded example: token ids, and the columns that go with them.
//!
//! A row of a data set that already has `input_ids`, or what a task's `encode` returned, flows in. Positions whose
//! `attention_mask` is 0 are padding and are taken out, here and in every column that has one value a token.

use indexmap::IndexMap;

use crate::data::{Row, Value};
use crate::error::{Error, Place, Result, What};

/// A column of an encoded example, beside its tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// One whole number: a class, a position.
    Int(i64),
    /// One number: a score.
    Float(f64),
    /// Whole numbers, one a token or a fixed count a row.
    Ints(Vec<i64>),
    /// Numbers, one a token or a fixed count a row.
    Floats(Vec<f64>),
}

/// One encoded example.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Token ids, without padding.
    pub input_ids: Vec<u32>,
    /// Segment of each token; absent means all 0.
    pub token_type_ids: Option<Vec<u32>>,
    /// Position of each token; absent means 0, 1, 2, ...
    pub position_ids: Option<Vec<u32>>,
    /// Other numeric columns by name: `labels`, `start_positions`, ...
    pub columns: Vec<(String, Column)>,
    /// What is neither a number nor a list of numbers, by name, where a task's `encode` gave such: texts, offsets, ids.
    pub kept: Row,
    /// Whether tokens were cut off to fit the maximum length.
    pub truncated: bool,
    /// What a list under `labels` counts.
    pub list_labels: ListLabels,
}

/// What a list under `labels` counts. Its length alone cannot tell where a row has as many tokens as the model labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListLabels {
    /// One entry a token where there are as many entries as tokens, else a fixed count a row.
    #[default]
    ByLength,
    /// A fixed count a row, as in multi-label classification.
    PerRow,
}

/// Columns that are read by name and are never passed on as they are.
const RESERVED: [&str; 5] = ["input_ids", "token_type_ids", "attention_mask", "position_ids", "truncated"];

/// Whether a row is encoded already.
pub fn is_encoded(columns: &[String]) -> bool {
    columns.iter().any(|name| name == "input_ids")
}

impl Features {
    /// A row of these tokens and nothing else, the first of which stands at `position`.
    pub fn of_tokens(tokens: &[u32], position: u32) -> Self {
        let places = (position..).take(tokens.len());
        Features {
            input_ids: tokens.to_vec(),
            token_type_ids: None,
            position_ids: (position > 0).then(|| places.collect()),
            columns: Vec::new(),
            kept: Row::default(),
            truncated: false,
            list_labels: ListLabels::default(),
        }
    }

    /// Reads an encoded row, where it is not known what reads its labels.
    ///
    /// # Errors
    /// As [`Features::read`].
    pub fn from_row(row: &IndexMap<String, Value>) -> Result<Self> {
        Self::read(row, ListLabels::default())
    }

    /// Reads what a task's `encode` gave: as [`Features::read`], with everything that is no number in `kept`.
    ///
    /// # Errors
    /// As [`Features::read`].
    pub fn keeping(row: &IndexMap<String, Value>, list_labels: ListLabels) -> Result<Self> {
        let mut features = Self::read(row, list_labels)?;
        let kept = row.iter().filter(|(name, value)| {
            !RESERVED.contains(&name.as_str()) && **value != Value::Null && Column::from_value(value).is_none()
        });
        let kept: IndexMap<String, Value> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        features.kept = Row::new(kept);
        Ok(features)
    }

    /// Reads an encoded row. Text and other columns that are not numbers are left out; `label` is read as `labels`.
    ///
    /// # Errors
    /// A row without tokens, columns of the wrong type, columns whose length is not that of `input_ids`.
    pub fn read(row: &IndexMap<String, Value>, list_labels: ListLabels) -> Result<Self> {
        let ids = row.get("input_ids").ok_or_else(|| bad("the row has no `input_ids`".into()))?;
        let mut input_ids = token_ids("input_ids", ids)?;
        let n_tokens = input_ids.len();
        let per_token = |name: &'static str| -> Result<Option<Vec<u32>>> {
            let Some(value) = row.get(name).filter(|value| **value != Value::Null) else { return Ok(None) };
            let values = token_ids(name, value)?;
            if values.len() != n_tokens {
                return Err(bad(format!("`{name}` has {} values for {n_tokens} `input_ids`", values.len())));
            }
            Ok(Some(values))
        };
        let mut token_type_ids = per_token("token_type_ids")?;
        let mut position_ids = per_token("position_ids")?;
        let mask = per_token("attention_mask")?;
        let mut columns = Vec::new();
        for (name, value) in row {
            if RESERVED.contains(&name.as_str()) {
                continue;
            }
            if let Some(column) = Column::from_value(value) {
                let name = if name == "label" && !row.contains_key("labels") { "labels" } else { name };
                columns.push((name.to_string(), column));
            }
        }
        if let Some(mask) = mask.filter(|mask| mask.contains(&0)) {
            let positions = position_ids.unwrap_or_else(|| (0..n_tokens as u32).collect());
            let keep: Vec<bool> = mask.iter().map(|&flag| flag != 0).collect();
            input_ids = kept(&input_ids, &keep);
            token_type_ids = token_type_ids.map(|ids| kept(&ids, &keep));
            let positions = kept(&positions, &keep);
            let plain = positions.iter().enumerate().all(|(index, &position)| index as u32 == position);
            position_ids = (!plain).then_some(positions);
            for (name, column) in &mut columns {
                if list_labels.is_per_token(name, column, n_tokens) {
                    match column {
                        Column::Ints(values) => *values = kept(values, &keep),
                        Column::Floats(values) => *values = kept(values, &keep),
                        Column::Int(_) | Column::Float(_) => {}
                    }
                }
            }
        }
        if input_ids.is_empty() {
            return Err(bad("the row has no tokens".into()).hint("leave such rows out, for example with `filter`"));
        }
        let truncated = row.get("truncated").and_then(Value::as_int) == Some(1);
        Ok(Features { input_ids, token_type_ids, position_ids, columns, kept: Row::default(), truncated, list_labels })
    }

    /// The column `name`.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|(known, _)| known == name).map(|(_, column)| column)
    }

    /// Whether the column `name` has one value a token.
    pub fn is_per_token(&self, name: &str, column: &Column) -> bool {
        self.list_labels.is_per_token(name, column, self.n_tokens())
    }

    /// The number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// The same example filled up to `length` tokens: padding has segment 0, and labels that take no part.
    #[must_use]
    pub fn padded(&self, length: usize, pad_id: u32) -> Features {
        let n_tokens = self.n_tokens();
        let mut padded = self.clone();
        padded.input_ids.resize(length, pad_id);
        if let Some(ids) = &mut padded.token_type_ids {
            ids.resize(length, 0);
        }
        if let Some(ids) = &mut padded.position_ids {
            ids.extend(n_tokens as u32..length as u32);
        }
        for (name, column) in &mut padded.columns {
            if self.list_labels.is_per_token(name, column, n_tokens) {
                match column {
                    Column::Ints(values) => values.resize(length, crate::tensor::loss::IGNORE_INDEX),
                    Column::Floats(values) => values.resize(length, 0.0),
                    Column::Int(_) | Column::Float(_) => {}
                }
            }
        }
        padded
    }

    /// How many labels take part in the loss: what a mean over a batch divides by. Rows without `labels` count as one.
    pub fn n_items(&self) -> usize {
        match self.column("labels") {
            Some(column @ Column::Ints(labels)) if self.is_per_token("labels", column) => {
                labels.iter().filter(|&&label| label != crate::tensor::loss::IGNORE_INDEX).count()
            }
            Some(Column::Int(label)) if *label == crate::tensor::loss::IGNORE_INDEX => 0,
            _ => 1,
        }
    }
}

impl ListLabels {
    fn is_per_token(self, name: &str, column: &Column, n_tokens: usize) -> bool {
        let count = match column {
            Column::Int(_) | Column::Float(_) => return false,
            Column::Ints(values) => values.len(),
            Column::Floats(values) => values.len(),
        };
        count == n_tokens && (name != "labels" || self == ListLabels::ByLength)
    }
}

impl Column {
    /// Reads a number or a list of numbers; anything else is no column of a batch.
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(number) => Some(Column::Int(*number)),
            Value::Bool(flag) => Some(Column::Int(i64::from(*flag))),
            Value::Float(number) => Some(Column::Float(*number)),
            Value::List(values) if values.is_empty() => None,
            Value::List(values) => {
                let whole = |value: &Value| match value {
                    Value::Int(number) => Some(*number),
                    Value::Bool(flag) => Some(i64::from(*flag)),
                    _ => None,
                };
                match values.iter().map(whole).collect::<Option<Vec<_>>>() {
                    Some(numbers) => Some(Column::Ints(numbers)),
                    None => values.iter().map(Value::as_float).collect::<Option<Vec<_>>>().map(Column::Floats),
                }
            }
            Value::Null | Value::Str(_) | Value::Map(_) => None,
        }
    }

    /// How many values a list has; none where it is one value.
    pub fn list_len(&self) -> Option<usize> {
        match self {
            Column::Int(_) | Column::Float(_) => None,
            Column::Ints(values) => Some(values.len()),
            Column::Floats(values) => Some(values.len()),
        }
    }

    /// The column as a data value.
    pub fn to_value(&self) -> Value {
        match self {
            Column::Int(number) => Value::Int(*number),
            Column::Float(number) => Value::Float(*number),
            Column::Ints(numbers) => Value::List(numbers.iter().map(|&number| Value::Int(number)).collect()),
            Column::Floats(numbers) => Value::List(numbers.iter().map(|&number| Value::Float(number)).collect()),
        }
    }
}

fn kept<T: Copy>(values: &[T], keep: &[bool]) -> Vec<T> {
    values.iter().zip(keep).filter(|(_, keep)| **keep).map(|(value, _)| *value).collect()
}

fn token_ids(name: &str, value: &Value) -> Result<Vec<u32>> {
    let list = value.as_list().ok_or_else(|| wrong_type(name, "a list of whole numbers", value.type_name()))?;
    list.iter()
        .enumerate()
        .map(|(index, item)| match item.as_int().map(u32::try_from) {
            Some(Ok(id)) => Ok(id),
            _ => {
                let got = item.as_int().map_or_else(|| item.type_name().to_string(), |number| number.to_string());
                Err(wrong_type(&format!("{name}[{index}]"), "a whole number from 0", &got))
            }
        })
        .collect()
}

fn wrong_type(name: &str, wanted: &str, got: &str) -> Error {
    What::WrongType { name: format!("`{name}`"), wanted: wanted.into(), got: got.into() }.into()
}

fn bad(text: String) -> Error {
    What::BadData(text).into()
}

/// Adds the row's number to an error that has no place yet.
pub fn in_row(error: Error, row: usize) -> Error {
    if error.places().iter().any(|place| matches!(place, Place::Row(_))) { error } else { error.at(Place::Row(row)) }
}
