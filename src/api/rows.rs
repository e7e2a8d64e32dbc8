//! Rows on their way between a data set and a script: row numbers, maps as rows, and functions called for each row.

use std::sync::Arc;

use indexmap::IndexMap;
use rhai::{Array, Dynamic, EvalAltResult, FnPtr, Map, NativeCallContext};

use crate::api::session::Session;
use crate::cancel::meter;
use crate::data::stages::{self, Key};
use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Place, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, row_to_dynamic, type_name};

/// A script's row number as an index; negative ones count from the end.
pub(super) fn index(data: &Dataset, number: i64) -> Result<usize> {
    let from_start = if number < 0 { number.saturating_add(data.len() as i64) } else { number };
    match usize::try_from(from_start) {
        Ok(index) if index < data.len() => Ok(index),
        _ => Err(data.no_such_row(number)),
    }
}

/// The rows that a range or an array of row numbers means.
pub(super) fn indices(data: &Dataset, rows: &Dynamic) -> Result<Vec<usize>> {
    let numbers: Vec<i64> = if let Some(range) = rows.read_lock::<std::ops::Range<i64>>() {
        // The ends are checked before the rows between them, so that a huge range costs nothing.
        let ends = if range.is_empty() { vec![] } else { vec![range.start, range.end - 1] };
        ends.into_iter().try_for_each(|end| within(data, end))?;
        range.clone().collect()
    } else if let Some(range) = rows.read_lock::<std::ops::RangeInclusive<i64>>() {
        let ends = if range.is_empty() { vec![] } else { vec![*range.start(), *range.end()] };
        ends.into_iter().try_for_each(|end| within(data, end))?;
        range.clone().collect()
    } else if let Ok(numbers) = rows.as_array_ref() {
        numbers
            .iter()
            .map(|number| number.as_int().map_err(|_| not_rows("an array of integers", number)))
            .collect::<Result<_>>()?
    } else {
        return Err(not_rows("a range such as `0..10` or `range(0, 10)`, or an array of row numbers", rows));
    };
    numbers.into_iter().map(|number| index(data, number)).collect()
}

/// Refuses the end of a range that is not a row.
fn within(data: &Dataset, number: i64) -> Result<()> {
    match usize::try_from(number) {
        Ok(index) if index < data.len() => Ok(()),
        _ => Err(data.no_such_row(number)),
    }
}

fn not_rows(wanted: &str, got: &Dynamic) -> Error {
    What::WrongType { name: "the argument of `select`".into(), wanted: wanted.into(), got: type_name(got) }.into()
}

/// The names in a string or an array of strings.
pub(super) fn names(of: &str, value: &Dynamic) -> Result<Vec<String>> {
    let wrong = |got: &Dynamic| {
        let wanted = "a string or an array of strings".into();
        Error::new(What::WrongType { name: of.into(), wanted, got: type_name(got) })
    };
    let text = |value: &Dynamic| value.clone().into_string().map_err(|_| wrong(value));
    match value.as_array_ref() {
        Ok(values) => values.iter().map(text).collect(),
        Err(_) => Ok(vec![text(value)?]),
    }
}

/// A data set of the maps in an array.
pub(super) fn from_maps(rows: &Array) -> Result<Dataset> {
    let row = |(index, row)| cells(row, "a row").map_err(|error| error.at(Place::Row(index)));
    Ok(Dataset::from_rows("from_rows", rows.iter().enumerate().map(row).collect::<Result<_>>()?))
}

/// A data set of the arrays in a map.
pub(super) fn from_columns(columns: &Map) -> Result<Dataset> {
    let mut rows: Vec<IndexMap<String, Value>> = Vec::new();
    for (index, (name, values)) in columns.iter().enumerate() {
        let Value::List(values) = from_dynamic(values)? else {
            let wanted = "an array of its values".into();
            let got = type_name(&columns[name.as_str()]);
            return Err(What::WrongType { name: format!("column `{name}`"), wanted, got }.into());
        };
        if index == 0 {
            rows.resize(values.len(), IndexMap::new());
        }
        if values.len() != rows.len() {
            let problem = format!("column `{name}` has {} values where another has {}", values.len(), rows.len());
            return Err(What::BadData(problem).into());
        }
        for (row, value) in rows.iter_mut().zip(values.iter()) {
            row.insert(name.to_string(), value.clone());
        }
    }
    Ok(Dataset::from_rows("from_dict", rows))
}

fn cells(row: &Dynamic, name: &str) -> Result<IndexMap<String, Value>> {
    let Ok(map) = row.as_map_ref() else {
        let wanted = "a map from column to value".into();
        return Err(What::WrongType { name: name.into(), wanted, got: type_name(row) }.into());
    };
    let cell = |(key, value): (&_, &Dynamic)| {
        let value = from_dynamic(value).map_err(|error| error.at(Place::Within(format!("column `{key}`"))))?;
        Ok((ToString::to_string(key), value))
    };
    map.iter().map(cell).collect()
}

/// A function of a script that is called for each row of a data set.
pub(super) struct PerRow<'a> {
    /// The call of `map` or `filter`.
    pub(super) context: &'a NativeCallContext<'a>,
    /// The data set.
    pub(super) data: &'a Dataset,
    /// The script's function.
    pub(super) function: &'a FnPtr,
    /// Whether it takes the row's number as its second argument.
    pub(super) indices: Indices,
}

/// What a function is called with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Indices {
    /// The row and its number.
    Passed,
    /// The row.
    Left,
}

impl PerRow<'_> {
    /// A new text of the function comes too late for these rows.
    fn note_use(&self) {
        if !self.function.is_anonymous() {
            Session::of(self.context).live().note_use(self.function.fn_name());
        }
    }

    fn call(&self, index: usize, row: &Row) -> ScriptResult<Dynamic> {
        let argument = row_to_dynamic(row);
        let _call = meter::call();
        let result = match self.indices {
            Indices::Passed => self.function.call_within_context(self.context, (argument, index as i64)),
            Indices::Left => self.function.call_within_context(self.context, (argument,)),
        };
        result.map_err(|error| self.in_row(error, index))
    }

    /// An error of the script, with the row it was about. What ends the whole run is handed through.
    fn in_row(&self, error: Box<EvalAltResult>, index: usize) -> Box<EvalAltResult> {
        if error.is_system_exception() || matches!(*error, EvalAltResult::Exit(..)) {
            return error;
        }
        let message = match error.unwrap_inner() {
            EvalAltResult::ErrorRuntime(value, _) => value.read_lock::<Error>().map(|error| error.what().to_string()),
            _ => None,
        };
        let message = message.unwrap_or_else(|| error.unwrap_inner().to_string());
        raise(self.data.locate(What::InScript { message, error }.into(), index))
    }

    fn fail(&self, error: Error, index: usize) -> Box<EvalAltResult> {
        raise(self.data.locate(error, index))
    }

    /// The rows that the function makes of each row: its maps, laid over the row without its `removed` columns.
    pub(super) fn map(&self, removed: &[String]) -> ScriptResult<Dataset> {
        let said = format!("map {removed:?} {:?}", self.indices == Indices::Passed);
        self.kept("map", &said, || self.map_now(removed))
    }

    /// What a function of the recipe made of the same rows before, where it is pure.
    fn kept(
        &self,
        stage: &'static str,
        said: &str,
        make: impl FnOnce() -> ScriptResult<Dataset>,
    ) -> ScriptResult<Dataset> {
        let session = Session::of(self.context);
        let name = self.function.fn_name();
        let is_plain = !self.function.is_anonymous() && self.function.curry().is_empty();
        let pure = is_plain.then(|| session.fingerprint(name)).flatten();
        let Some(function) = pure.filter(|_| stages::is_on()) else { return make() };
        let parts =
            vec![("rows", self.data.digest().to_string()), ("function", function), ("options", said.to_string())];
        let key = Key { stage, about: format!("{} with {name}", self.data.name()), parts };
        // An error of a script keeps its place on the way through.
        let mut raised = None;
        let made = stages::cached(
            || Ok(Some(key)),
            || {
                make().map_err(|error| {
                    raised = Some(error);
                    Error::new(What::Internal("a function of the recipe failed".into()))
                })
            },
        );
        made.map_err(|error| raised.take().unwrap_or_else(|| raise(error)))
    }

    fn map_now(&self, removed: &[String]) -> ScriptResult<Dataset> {
        self.note_use();
        removed.iter().try_for_each(|column| self.data.require_column(column)).map_err(raise)?;
        self.data.expand(|index, row| {
            let result = self.call(index, row)?;
            let row = &without(row, removed);
            let laid = match result.as_array_ref() {
                Ok(maps) => maps.iter().map(|map| lay(row, map)).collect(),
                Err(_) => lay(row, &result).map(|row| vec![row]),
            };
            laid.map_err(|error| self.fail(error, index))
        })
    }

    /// The rows for which the function gives true.
    pub(super) fn filter(&self) -> ScriptResult<Dataset> {
        let said = format!("filter {:?}", self.indices == Indices::Passed);
        self.kept("filter", &said, || self.filter_now())
    }

    fn filter_now(&self) -> ScriptResult<Dataset> {
        self.note_use();
        self.data.retain(|index, row| {
            let result = self.call(index, row)?;
            result.as_bool().map_err(|_| {
                let (name, wanted) = ("the result of the function given to `filter`".into(), "a bool".into());
                let error = Error::new(What::WrongType { name, wanted, got: type_name(&result) });
                self.fail(missing_value(error, &result, "true or false"), index)
            })
        })
    }
}

fn without(row: &Row, removed: &[String]) -> Row {
    if removed.is_empty() {
        return row.clone();
    }
    let stays = row.iter().filter(|(name, _)| !removed.contains(name));
    Arc::new(stays.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A row with the cells of a map added or replaced.
fn lay(row: &Row, map: &Dynamic) -> Result<Row> {
    let new = cells(map, "the result of the function given to `map`")
        .map_err(|error| missing_value(error, map, "the map of new cells"))?;
    let mut whole = (**row).clone();
    whole.extend(new);
    Ok(Arc::new(whole))
}

/// The hint for a function that gives nothing.
fn missing_value(error: Error, result: &Dynamic, wanted: &str) -> Error {
    match result.is_unit() {
        true => error.hint(format!("end the function with {wanted}")),
        false => error,
    }
}
