//! Data sets as Hugging Face's `datasets` changes them: order, parts and columns, and a whole map of splits at once.
//!
//! A data set, or the map of splits that `load_dataset` gives for a folder, flows in; new ones flow out.

use std::cmp::Ordering;
use std::sync::Arc;

use rhai::plugin::*;
use rhai::{Array, Dynamic, Engine, FnPtr, Map, NativeCallContext};

use crate::api::dataset::map_options;
use crate::api::options::Options;
use crate::api::rows::{self, PerRow};
use crate::cancel;
use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, type_name};

/// Registers the functions of this file.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_global_module(exported_module!(columns).into());
    engine.register_global_module(exported_module!(splits).into());
}

#[export_module]
mod columns {
    /// The rows in the order of a column: numbers by size, text by its letters, `()` last. Equal rows keep their order.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ n: 3 }, #{ n: 1 }, #{ n: 2 }]);
    /// expect(ds.sort("n").column("n") == [1, 2, 3], "the smallest first");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn sort(ds: &mut Dataset, column: &str) -> ScriptResult<Dataset> {
        super::sorted(ds, column, false).map_err(raise)
    }

    /// The rows in the order of a column, `reverse: true` for the largest first.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ n: 3 }, #{ n: 1 }, #{ n: 2 }]);
    /// expect(ds.sort("n", #{ reverse: true }).column("n") == [3, 2, 1], "the largest first");
    /// ```
    #[rhai_fn(global, pure, name = "sort", return_raw)]
    pub fn sort_with(ds: &mut Dataset, column: &str, options: Map) -> ScriptResult<Dataset> {
        let mut options = Options::new("`sort`", options);
        let reverse = options.bool("reverse").map_err(raise)?.unwrap_or(false);
        options.finish().map_err(raise)?;
        super::sorted(ds, column, reverse).map_err(raise)
    }

    /// One of `num_shards` parts of nearly equal size: the part `index`, counted from 0.
    ///
    /// A part is a run of rows that follow each other; `contiguous: false` takes every `num_shards`-th row instead.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ n: 0 }, #{ n: 1 }, #{ n: 2 }]);
    /// expect(ds.shard(#{ num_shards: 2, index: 0 }).column("n") == [0, 1], "the first part has one more");
    /// expect(ds.shard(#{ num_shards: 2, index: 0, contiguous: false }).column("n") == [0, 2], "every second row");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn shard(ds: &mut Dataset, options: Map) -> ScriptResult<Dataset> {
        super::part(ds, options).map_err(raise)
    }

    /// The rows with one column, or an array of columns, alone.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good", id: 1, source: "web" }]);
    /// expect("source" !in ds.select_columns(["text", "id"]).column_names, "two columns are left");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn select_columns(ds: &mut Dataset, name_or_names: Dynamic) -> ScriptResult<Dataset> {
        super::selected(ds, &name_or_names).map_err(raise)
    }

    /// The rows with another column, whose values are given one a row.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good" }, #{ text: "bad" }]).add_column("label", [1, 0]);
    /// expect(ds[1].label == 0, "the second row's label");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn add_column(ds: &mut Dataset, name: &str, values: Array) -> ScriptResult<Dataset> {
        super::with_column(ds, name, &values).map_err(raise)
    }

    /// The number of columns.
    ///
    /// ```rhai
    /// expect(load_dataset("std/reviews").test.num_columns == 3, "text, label and score");
    /// ```
    #[rhai_fn(global, pure, get = "num_columns")]
    pub fn num_columns(ds: &mut Dataset) -> i64 {
        ds.column_names().len() as i64
    }

    /// The numbers of rows and of columns.
    ///
    /// ```rhai
    /// expect(load_dataset("std/reviews").test.shape == [500, 3], "five hundred rows of three columns");
    /// ```
    #[rhai_fn(global, pure, get = "shape")]
    pub fn shape(ds: &mut Dataset) -> Array {
        [ds.len(), ds.column_names().len()].into_iter().map(|n| Dynamic::from(n as i64)).collect()
    }

    /// The rows of several data sets, one after the other.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good" }]);
    /// expect(concatenate_datasets([ds, ds, ds]).len() == 3, "three times one row");
    /// ```
    #[rhai_fn(global, return_raw)]
    pub fn concatenate_datasets(datasets: Array) -> ScriptResult<Dataset> {
        super::joined(&datasets).map_err(raise)
    }
}

#[export_module]
mod splits {
    /// `map` of each split. A map of anything else is mapped as Rhai does: the key is the argument and `this` the value.
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews").map(|row| #{ n_letters: row.text.len() });
    /// expect(reviews.train[0].n_letters > 0 && reviews.test[0].n_letters > 0, "in each split");
    /// expect(#{ a: 1, b: 2 }.map(|key| this * 2) == #{ a: 2, b: 4 }, "a map of numbers");
    /// ```
    #[rhai_fn(name = "map", return_raw)]
    pub fn map_splits(context: NativeCallContext, map: Map, function: FnPtr) -> ScriptResult<Map> {
        if let Some(splits) = super::splits_of(&map) {
            return super::map_each(&context, splits, &function, Map::new());
        }
        let mut mapped = Map::new();
        for (key, mut value) in map {
            let name: Dynamic = key.as_str().into();
            let result = function.call_raw_with_extra_args("map", &context, Some(&mut value), [name], [], Some(1))?;
            mapped.insert(key, result);
        }
        Ok(mapped)
    }

    /// `map` of each split, with its options.
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews").map(|row| #{ n: row.text.len() }, #{ remove_columns: "text" });
    /// expect("text" !in reviews.test.column_names, "in each split");
    /// ```
    #[rhai_fn(name = "map", return_raw)]
    pub fn map_splits_with(
        context: NativeCallContext,
        splits: Map,
        function: FnPtr,
        options: Map,
    ) -> ScriptResult<Map> {
        let splits = super::need_splits("map", &splits).map_err(raise)?;
        super::map_each(&context, splits, &function, options)
    }

    /// `remove_columns` of each split.
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews").remove_columns(["score"]);
    /// expect(reviews.train.column_names == ["text", "label"], "in each split");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn remove_columns(splits: Map, name_or_names: Dynamic) -> ScriptResult<Map> {
        let names = rows::names("the argument of `remove_columns`", &name_or_names).map_err(raise)?;
        super::each("remove_columns", &splits, |ds| ds.remove_columns(&names)).map_err(raise)
    }

    /// `select_columns` of each split.
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews").select_columns(["text"]);
    /// expect(reviews.train.column_names == ["text"], "in each split");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn select_columns(splits: Map, name_or_names: Dynamic) -> ScriptResult<Map> {
        super::each("select_columns", &splits, |ds| super::selected(ds, &name_or_names)).map_err(raise)
    }

    /// `rename_column` of each split.
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews").rename_column("label", "labels");
    /// expect("labels" in reviews.test.column_names, "in each split");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn rename_column(splits: Map, from: &str, to: &str) -> ScriptResult<Map> {
        super::each("rename_column", &splits, |ds| ds.rename_column(from, to)).map_err(raise)
    }
}

/// Numbers by size, text by its code points, lists by their entries; what is absent comes last, as in `datasets`.
fn order(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Bool(_) => 0,
        Value::Int(_) | Value::Float(_) => 1,
        Value::Str(_) => 2,
        Value::List(_) => 3,
        Value::Map(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Str(a), Value::Str(b)) => a.cmp(b),
        (Value::List(a), Value::List(b)) => {
            let first = a.iter().zip(b.iter()).map(|(a, b)| order(a, b)).find(|found| found.is_ne());
            first.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => match (a.as_float(), b.as_float()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => rank(a).cmp(&rank(b)),
        },
    }
}

fn sorted(ds: &Dataset, column: &str, reverse: bool) -> Result<Dataset> {
    let values = ds.column(column)?;
    let mut indices: Vec<usize> = (0..ds.len()).collect();
    indices.sort_by(|&a, &b| {
        let (a, b) = (&values[a], &values[b]);
        let absent = (*a == Value::Null).cmp(&(*b == Value::Null));
        absent.then_with(|| if reverse { order(b, a) } else { order(a, b) })
    });
    cancel::check()?;
    ds.select(&indices)
}

fn part(ds: &Dataset, options: Map) -> Result<Dataset> {
    let mut options = Options::new("`shard`", options);
    let n = options.count("num_shards", 1)?.ok_or_else(|| options.missing("num_shards", "give the number of parts"))?;
    let index =
        options.count("index", 0)?.ok_or_else(|| options.missing("index", "give which part, counted from 0"))?;
    let contiguous = options.bool("contiguous")?.unwrap_or(true);
    options.finish()?;
    if index >= n {
        let (name, allowed) = ("`index` of `shard`".into(), format!("less than {n}, the number of parts"));
        return Err(What::OutOfRange { name, value: index.to_string(), allowed }.into());
    }
    if !contiguous {
        return ds.select(&(index..ds.len()).step_by(n).collect::<Vec<_>>());
    }
    // The first parts have one row more where the rows cannot be shared out evenly.
    let (size, more) = (ds.len() / n, ds.len() % n);
    let start = size * index + index.min(more);
    ds.select(&(start..start + size + usize::from(index < more)).collect::<Vec<_>>())
}

fn selected(ds: &Dataset, name_or_names: &Dynamic) -> Result<Dataset> {
    let names = rows::names("the argument of `select_columns`", name_or_names)?;
    names.iter().try_for_each(|name| ds.require_column(name))?;
    let others: Vec<&String> = ds.column_names().iter().filter(|name| !names.contains(name)).collect();
    ds.remove_columns(&others)
}

fn with_column(ds: &Dataset, name: &str, values: &Array) -> Result<Dataset> {
    if ds.has_column(name) {
        let error = Error::new(What::Conflict(format!("a column `{name}` is there already")));
        return Err(error.hint(format!("leave the old one out first: `remove_columns(\"{name}\")`")));
    }
    if values.len() != ds.len() {
        let problem = format!("`add_column` got {} values for {} rows", values.len(), ds.len());
        return Err(What::Conflict(problem).into());
    }
    ds.expand(|index, row| {
        let mut cells = (**row).clone();
        cells.insert(name.to_string(), from_dynamic(&values[index])?);
        Ok(vec![Arc::new(cells) as Row])
    })
}

fn joined(datasets: &Array) -> Result<Dataset> {
    let each = datasets.iter().map(|value| {
        let wrong = || {
            let (name, wanted) = ("an item of `concatenate_datasets`".into(), "a Dataset".into());
            Error::new(What::WrongType { name, wanted, got: type_name(value) })
        };
        value.clone().try_cast::<Dataset>().ok_or_else(wrong)
    });
    let each = each.collect::<Result<Vec<_>>>()?;
    let Some((first, others)) = each.split_first() else {
        return Err(What::BadData("`concatenate_datasets` got no data sets".into()).into());
    };
    Ok(others.iter().fold(first.clone(), |all, next| all.concat(next)))
}

/// The data sets of a map of splits; none where a value is something else.
fn splits_of(map: &Map) -> Option<Vec<(String, Dataset)>> {
    if map.is_empty() {
        return None;
    }
    map.iter().map(|(name, value)| Some((name.to_string(), value.clone().try_cast::<Dataset>()?))).collect()
}

fn need_splits(name: &str, map: &Map) -> Result<Vec<(String, Dataset)>> {
    splits_of(map).ok_or_else(|| {
        let error = Error::new(What::Conflict(format!("`{name}` works on a Dataset or on a map of splits")));
        error.hint("`load_dataset(...)` or `Dataset::from_rows(...)` makes one")
    })
}

fn each(name: &str, splits: &Map, change: impl Fn(&Dataset) -> Result<Dataset>) -> Result<Map> {
    let splits = need_splits(name, splits)?;
    splits.iter().map(|(name, ds)| Ok((name.as_str().into(), Dynamic::from(change(ds)?)))).collect()
}

fn map_each(
    context: &NativeCallContext,
    splits: Vec<(String, Dataset)>,
    function: &FnPtr,
    options: Map,
) -> ScriptResult<Map> {
    let (indices, removed) = map_options(options).map_err(raise)?;
    let mapped = splits.iter().map(|(name, data)| {
        let each = PerRow { context, data, function, indices };
        Ok((name.as_str().into(), Dynamic::from(each.map(&removed)?)))
    });
    mapped.collect()
}
