//! Cleaning a column of a data set: what `std/clean` calls, row loops that would be slow in a script.

use std::collections::HashSet;
use std::convert::Infallible;

use crate::data::{Dataset, Value};
use crate::error::Result;

/// What two equal values have in common; floats are compared by their text.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a str),
    Other(String),
}

impl<'a> Key<'a> {
    fn of(value: &'a Value) -> Self {
        match value {
            Value::Str(text) => Key::Text(text),
            other => Key::Other(format!("{other:?}")),
        }
    }
}

impl Dataset {
    /// The different values of a column, in the order in which they first appear.
    ///
    /// # Errors
    /// An unknown column.
    pub fn unique(&self, column: &str) -> Result<Vec<Value>> {
        let mut seen = HashSet::new();
        Ok(self.cells(column)?.filter(|cell| seen.insert(Key::of(cell))).cloned().collect())
    }

    /// The rows with white space cut off both ends of the texts of a column; other values stay as they are.
    ///
    /// # Errors
    /// An unknown column.
    pub fn strip(&self, column: &str) -> Result<Dataset> {
        self.require_column(column)?;
        self.map(|row| {
            let Some(text) = row.get(column).and_then(Value::as_str) else { return Ok(row.clone()) };
            if text.trim().len() == text.len() {
                return Ok(row.clone());
            }
            let mut cells = (**row).clone();
            cells.insert(column.to_string(), text.trim().into());
            Ok(cells.into())
        })
    }

    /// The rows whose cell in a column is there: not null, not blank text, not an empty list.
    ///
    /// # Errors
    /// An unknown column.
    pub fn drop_empty(&self, column: &str) -> Result<Dataset> {
        self.require_column(column)?;
        self.filter(|row| {
            Ok(match row.get(column) {
                None | Some(Value::Null) => false,
                Some(Value::Str(text)) => !text.trim().is_empty(),
                Some(Value::List(values)) => !values.is_empty(),
                Some(_) => true,
            })
        })
    }

    /// The first row of each different value of a column.
    ///
    /// # Errors
    /// An unknown column.
    pub fn drop_duplicates(&self, column: &str) -> Result<Dataset> {
        let mut seen = HashSet::new();
        let first: Vec<bool> = self.cells(column)?.map(|cell| seen.insert(Key::of(cell))).collect();
        let Ok(kept) = self.retain(|index, _| Ok::<_, Infallible>(first[index]));
        Ok(kept)
    }

    /// The number of rows whose cell in a column differs from that of the same row of `other`.
    ///
    /// # Errors
    /// A column that one of them lacks.
    pub fn count_changed(&self, other: &Dataset, column: &str) -> Result<usize> {
        let changed = self.cells(column)?.zip(other.cells(column)?).filter(|(one, two)| Key::of(one) != Key::of(two));
        Ok(changed.count() + self.len().abs_diff(other.len()))
    }
}
