//! The data set: rows of named values, immutable and shared.
//!
//! Rows come in from a file format or a script; every operation gives a new handle and leaves the old one as it
//! was. Each row remembers the file and line it came from, through selection, filtering and shuffling, so that an
//! error found much later can still say where to look. What a row means is left to the tasks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use indexmap::{IndexMap, IndexSet};

use crate::data::digest::digest_rows;
use crate::data::{Row, Value};
use crate::error::{Error, Place, Result, What, nearest};
use crate::tensor::rng::Rng;

/// Rows of named values. Cheap to clone; every row has every column, absent cells are [`Value::Null`].
#[derive(Clone, Debug)]
pub struct Dataset(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    name: Arc<str>,
    columns: Arc<[String]>,
    rows: Arc<[Row]>,
    origins: Option<Origins>,
    classes: Arc<Classes>,
    digest: OnceLock<String>,
}

/// Where the rows came from: an index into `files` and a line from one for each row; line 0 is unknown.
#[derive(Clone, Debug)]
struct Origins {
    files: Arc<[PathBuf]>,
    rows: Arc<[Origin]>,
}

#[derive(Clone, Copy, Debug)]
struct Origin {
    file: u32,
    line: u32,
}

/// A row that was made in memory.
const NOWHERE: Origin = Origin { file: u32::MAX, line: 0 };

/// The names of the classes that a column's numbers stand for, in the order of the numbers, by column.
pub type Classes = IndexMap<String, Arc<[String]>>;

/// What a format makes of one file.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The rows, in the order of the file.
    pub rows: Vec<IndexMap<String, Value>>,
    /// The line each row begins on, from one; 0 where it is unknown.
    pub lines: Vec<u32>,
    /// The names of classes that the file states, of columns that hold their numbers or lists of them.
    pub classes: Classes,
}

impl Dataset {
    /// A data set made in memory; `name` is what messages call it.
    pub fn from_rows(name: impl Into<Arc<str>>, rows: Vec<IndexMap<String, Value>>) -> Self {
        Self::from_shared_rows(name, rows.into_iter().map(Arc::new).collect())
    }

    /// A data set of rows that exist already.
    pub fn from_shared_rows(name: impl Into<Arc<str>>, rows: Vec<Row>) -> Self {
        build(name.into(), rows, None, Arc::default())
    }

    /// A data set of the rows of one file.
    pub fn from_file(name: impl Into<Arc<str>>, path: &Path, parsed: Parsed) -> Self {
        let origins = Origins {
            files: Arc::new([path.to_path_buf()]),
            rows: parsed.lines.into_iter().map(|line| Origin { file: 0, line }).collect(),
        };
        build(name.into(), parsed.rows.into_iter().map(Arc::new).collect(), Some(origins), Arc::new(parsed.classes))
    }

    /// What messages call it: a path, or `std/reviews[train]`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The same rows under another name.
    #[must_use]
    pub fn named(&self, name: impl Into<Arc<str>>) -> Self {
        let Parts { columns, rows, origins, classes, .. } = &*self.0;
        let (columns, rows, origins, classes) = (columns.clone(), rows.clone(), origins.clone(), classes.clone());
        Dataset(Arc::new(Parts { name: name.into(), columns, rows, origins, classes, digest: OnceLock::new() }))
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.0.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.0.rows.is_empty()
    }

    /// The row at `index`, counted from zero.
    pub fn row(&self, index: usize) -> Option<&Row> {
        self.0.rows.get(index)
    }

    /// All rows.
    pub fn rows(&self) -> &Arc<[Row]> {
        &self.0.rows
    }

    /// The names of the columns, in the order in which they first appear.
    pub fn column_names(&self) -> &[String] {
        &self.0.columns
    }

    /// Whether there is a column `name`.
    pub fn has_column(&self, name: &str) -> bool {
        self.0.columns.iter().any(|column| column == name)
    }

    /// The names of the classes that the numbers of a column stand for, where the data set's files say them.
    pub fn class_names(&self, column: &str) -> Option<&[String]> {
        self.0.classes.get(column).filter(|_| self.has_column(column)).map(|names| &**names)
    }

    /// What is known of a column, in Hugging Face's words; the types are those of its first filled cell.
    pub fn feature(&self, column: &str) -> Value {
        let classes = self.class_names(column);
        let mut cells = self.0.rows.iter().filter_map(|row| row.get(column));
        match cells.find(|value| **value != Value::Null) {
            Some(Value::List(values)) => {
                let inner = values.iter().find(|value| **value != Value::Null);
                map(&[("_type", "List".into()), ("feature", feature(inner, classes))])
            }
            first => feature(first, classes),
        }
    }

    /// The same rows with other names of classes.
    #[must_use]
    pub(super) fn with_classes(&self, classes: Classes) -> Dataset {
        let Parts { name, columns, rows, origins, .. } = &*self.0;
        let (name, columns, rows, origins) = (name.clone(), columns.clone(), rows.clone(), origins.clone());
        Dataset(Arc::new(Parts { name, columns, rows, origins, classes: Arc::new(classes), digest: OnceLock::new() }))
    }

    /// The values of one column.
    ///
    /// # Errors
    /// An unknown column, with the nearest name.
    pub fn column(&self, name: &str) -> Result<Vec<Value>> {
        Ok(self.cells(name)?.cloned().collect())
    }

    /// The values of one column, borrowed.
    ///
    /// # Errors
    /// An unknown column, with the nearest name.
    pub fn cells<'a>(&'a self, name: &'a str) -> Result<impl Iterator<Item = &'a Value>> {
        self.require_column(name)?;
        Ok(self.0.rows.iter().map(move |row| row.get(name).unwrap_or(&Value::Null)))
    }

    /// Refuses an unknown column, with the nearest name.
    ///
    /// # Errors
    /// The column is not there.
    pub fn require_column(&self, name: &str) -> Result<()> {
        if self.has_column(name) {
            return Ok(());
        }
        let error = Error::new(What::NotFound { kind: "column", name: name.into() }).at(self.within());
        Err(match nearest(name, self.0.columns.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if self.0.columns.is_empty() => error.hint("it has no columns"),
            None => error.hint(format!("it has the columns {}", listed(&self.0.columns))),
        })
    }

    /// Where the row at `index` is: its number, then the file and line it came from, or the data set's name.
    pub fn place(&self, index: usize) -> Vec<Place> {
        vec![Place::Row(index), self.file_of(index).unwrap_or_else(|| self.within())]
    }

    /// Adds [`Dataset::place`] to an error about the row at `index`.
    pub fn locate(&self, error: Error, index: usize) -> Error {
        self.place(index).into_iter().fold(error, Error::at)
    }

    fn within(&self) -> Place {
        Place::Within(format!("data set `{}`", self.0.name))
    }

    fn file_of(&self, index: usize) -> Option<Place> {
        let origins = self.0.origins.as_ref()?;
        let origin = origins.rows.get(index)?;
        let path = origins.files.get(origin.file as usize)?;
        Some(match origin.line {
            0 => Place::file(path),
            line => Place::line(path, line as usize, None),
        })
    }

    /// The digest of the rows, by which equal data sets are known.
    pub fn digest(&self) -> &str {
        self.0.digest.get_or_init(|| digest_rows(self.rows()))
    }

    /// The rows at `indices`, in that order; an index may occur more than once.
    ///
    /// # Errors
    /// An index that is not below the number of rows.
    pub fn select(&self, indices: &[usize]) -> Result<Dataset> {
        match indices.iter().find(|&&index| index >= self.len()) {
            Some(index) => Err(self.no_such_row(index)),
            None => Ok(self.pick(indices.iter().copied())),
        }
    }

    /// The error for a row number that is out of range.
    pub fn no_such_row(&self, index: impl ToString) -> Error {
        let allowed = match self.len() {
            0 => "left out, as there are no rows".into(),
            rows => format!("between 0 and {}", rows - 1),
        };
        Error::new(What::OutOfRange { name: "the row number".into(), value: index.to_string(), allowed })
            .at(self.within())
    }

    /// The rows at `indices`, which are known to exist.
    pub(super) fn pick(&self, indices: impl Iterator<Item = usize>) -> Dataset {
        let indices: Vec<usize> = indices.collect();
        self.with_rows(indices.iter().map(|&index| self.0.rows[index].clone()).collect(), &indices)
    }

    /// New rows with the same columns; `sources` says which old row each came from.
    fn with_rows(&self, rows: Arc<[Row]>, sources: &[usize]) -> Dataset {
        let origins = self.origins_of(sources);
        let (name, columns, classes) = (self.0.name.clone(), self.0.columns.clone(), self.0.classes.clone());
        Dataset(Arc::new(Parts { name, columns, rows, origins, classes, digest: OnceLock::new() }))
    }

    fn origins_of(&self, sources: &[usize]) -> Option<Origins> {
        let origins = self.0.origins.as_ref()?;
        let rows = sources.iter().map(|&source| origins.rows[source]).collect();
        Some(Origins { files: origins.files.clone(), rows })
    }

    /// The first `n` rows, or all where there are fewer.
    #[must_use]
    pub fn take(&self, n: usize) -> Dataset {
        self.pick(0..n.min(self.len()))
    }

    /// The rows in an order that depends on `seed` and on their number alone.
    #[must_use]
    pub fn shuffle(&self, seed: u64) -> Dataset {
        self.pick(Rng::new(seed, "shuffle", 0).permutation(self.len()).into_iter())
    }

    /// The rows followed by those of `other`; a column that one of them lacks is null there.
    #[must_use]
    pub fn concat(&self, other: &Dataset) -> Dataset {
        let rows = self.0.rows.iter().chain(other.0.rows.iter()).cloned().collect();
        let mut classes = Classes::clone(&self.0.classes);
        classes.retain(|column, names| other.class_names(column).is_none_or(|others| others == &**names));
        for (column, names) in other.0.classes.iter().filter(|(column, _)| !self.has_column(column)) {
            classes.insert(column.clone(), names.clone());
        }
        build(self.0.name.clone(), rows, self.joined_origins(other), Arc::new(classes))
    }

    fn joined_origins(&self, other: &Dataset) -> Option<Origins> {
        if self.0.origins.is_none() && other.0.origins.is_none() {
            return None;
        }
        let (mut files, mut rows) = (IndexSet::new(), Vec::with_capacity(self.len() + other.len()));
        for data in [self, other] {
            let Some(origins) = &data.0.origins else {
                rows.resize(rows.len() + data.len(), NOWHERE);
                continue;
            };
            let places: Vec<u32> = origins.files.iter().map(|path| files.insert_full(path.clone()).0 as u32).collect();
            rows.extend(origins.rows.iter().map(|origin| Origin {
                file: places.get(origin.file as usize).copied().unwrap_or(NOWHERE.file),
                ..*origin
            }));
        }
        Some(Origins { files: files.into_iter().collect(), rows: rows.into() })
    }

    /// Replaces each row by any number of rows. The error is handed through as it is.
    ///
    /// # Errors
    /// The first error of `change`.
    pub fn expand<E>(&self, mut change: impl FnMut(usize, &Row) -> Result<Vec<Row>, E>) -> Result<Dataset, E> {
        let (mut rows, mut sources) = (Vec::with_capacity(self.len()), Vec::with_capacity(self.len()));
        for (index, row) in self.0.rows.iter().enumerate() {
            rows.extend(change(index, row)?);
            sources.resize(rows.len(), index);
        }
        Ok(build(self.0.name.clone(), rows, self.origins_of(&sources), self.0.classes.clone()))
    }

    /// Keeps the rows for which `keep` says so. The error is handed through as it is.
    ///
    /// # Errors
    /// The first error of `keep`.
    pub fn retain<E>(&self, mut keep: impl FnMut(usize, &Row) -> Result<bool, E>) -> Result<Dataset, E> {
        let mut kept = Vec::new();
        for (index, row) in self.0.rows.iter().enumerate() {
            if keep(index, row)? {
                kept.push(index);
            }
        }
        Ok(self.pick(kept.into_iter()))
    }

    /// Replaces each row by another.
    ///
    /// # Errors
    /// The first error of `change`, with the row's place added.
    pub fn map(&self, mut change: impl FnMut(&Row) -> Result<Row>) -> Result<Dataset> {
        self.expand(|index, row| change(row).map(|row| vec![row]).map_err(|error| self.locate(error, index)))
    }

    /// Keeps the rows for which `keep` says so.
    ///
    /// # Errors
    /// The first error of `keep`, with the row's place added.
    pub fn filter(&self, mut keep: impl FnMut(&Row) -> Result<bool>) -> Result<Dataset> {
        self.retain(|index, row| keep(row).map_err(|error| self.locate(error, index)))
    }

    /// The same rows with the column `from` called `to`, in the same position.
    ///
    /// # Errors
    /// No column `from`, or a column `to` that is there already.
    pub fn rename_column(&self, from: &str, to: &str) -> Result<Dataset> {
        self.require_column(from)?;
        if from != to && self.has_column(to) {
            let problem = format!("a column `{to}` is there already, so `{from}` cannot be renamed to it");
            return Err(Error::new(What::Conflict(problem)).at(self.within()));
        }
        let name = |key: &String| if key == from { to.to_string() } else { key.clone() };
        let renamed = self.with_cells(|row| row.iter().map(|(key, value)| (name(key), value.clone())).collect());
        let classes = self.0.classes.iter().map(|(key, names)| (name(key), names.clone())).collect();
        Ok(renamed.with_classes(classes))
    }

    /// The same rows without some columns.
    ///
    /// # Errors
    /// A column that is not there.
    pub fn remove_columns(&self, names: &[impl AsRef<str>]) -> Result<Dataset> {
        for name in names {
            self.require_column(name.as_ref())?;
        }
        let stays = |key: &String| !names.iter().any(|name| name.as_ref() == key);
        Ok(self.with_cells(|row| {
            row.iter().filter(|(key, _)| stays(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
        }))
    }

    /// Each row remade by a change that is the same for all rows.
    pub(super) fn with_cells(&self, change: impl Fn(&Row) -> IndexMap<String, Value>) -> Dataset {
        let rows = self.0.rows.iter().map(|row| Arc::new(change(row))).collect();
        build(self.0.name.clone(), rows, self.0.origins.clone(), self.0.classes.clone())
    }
}

/// Hugging Face's summary: the columns and the number of rows.
impl std::fmt::Display for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let features: Vec<String> = self.0.columns.iter().map(|name| format!("'{name}'")).collect();
        write!(f, "Dataset({{\n    features: [{}],\n    num_rows: {}\n}})", features.join(", "), self.len())
    }
}

/// Finds the columns and gives every row all of them. Rows that have them already are left as they are.
fn build(name: Arc<str>, mut rows: Vec<Row>, origins: Option<Origins>, classes: Arc<Classes>) -> Dataset {
    let mut columns: IndexSet<String> = IndexSet::new();
    for row in &rows {
        if !row.keys().eq(columns.iter()) {
            columns.extend(row.keys().filter(|key| !columns.contains(*key)).cloned().collect::<Vec<_>>());
        }
    }
    for row in rows.iter_mut().filter(|row| row.len() < columns.len()) {
        let cell = |key: &String| (key.clone(), row.get(key).cloned().unwrap_or(Value::Null));
        *row = Arc::new(columns.iter().map(cell).collect());
    }
    Dataset(Arc::new(Parts {
        name,
        columns: columns.into_iter().collect(),
        rows: rows.into(),
        origins,
        classes,
        digest: OnceLock::new(),
    }))
}

/// What is known of single values.
fn feature(value: Option<&Value>, classes: Option<&[String]>) -> Value {
    if let Some(names) = classes {
        let list = names.iter().map(|name| name.as_str().into()).collect();
        return map(&[("_type", "ClassLabel".into()), ("names", Value::List(list))]);
    }
    let dtype = match value {
        None | Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "bool",
        Some(Value::Int(_)) => "int64",
        Some(Value::Float(_)) => "float64",
        Some(Value::Str(_)) => "string",
        Some(Value::List(_)) => "list",
        Some(Value::Map(_)) => "struct",
    };
    map(&[("_type", "Value".into()), ("dtype", dtype.into())])
}

fn map(entries: &[(&str, Value)]) -> Value {
    Value::Map(Arc::new(entries.iter().map(|(key, value)| (key.to_string(), value.clone())).collect()))
}

/// Names in backticks, for messages.
pub(super) fn listed(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}
