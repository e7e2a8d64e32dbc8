//! `Dataset` in scripts: reading rows, and making new data sets from old ones.
//!
//! A data set never changes; each method gives a new one. Functions given to `map` and `filter` see rows as maps.

use std::any::TypeId;

use rhai::plugin::*;
use rhai::{Array, Dynamic, Engine, FnPtr, ImmutableString, Map, Module, NativeCallContext};

use crate::api::options::Options;
use crate::api::rows::{self, Indices, PerRow};
use crate::api::session::Session;
use crate::data::Dataset;
use crate::data::train_test_split::{Draw, Size, SplitOptions};
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, raise, row_to_dynamic, to_dynamic, type_name};

/// Registers the functions of this file.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Dataset>("Dataset");
    let mut module: Module = rhai::exported_module!(dataset);
    module.set_iter(TypeId::of::<Dataset>(), |data| {
        let data = data.cast::<Dataset>();
        Box::new((0..data.len()).filter_map(move |index| data.row(index).map(row_to_dynamic)))
    });
    engine.register_global_module(module.into());
}

#[export_module]
mod dataset {
    /// The number of rows.
    ///
    /// ```rhai
    /// expect(load_dataset("std/reviews").test.len() == 500, "five hundred rows");
    /// ```
    #[rhai_fn(global, pure)]
    pub fn len(ds: &mut Dataset) -> i64 {
        ds.len() as i64
    }

    /// The number of rows, under Hugging Face's name.
    ///
    /// ```rhai
    /// expect(load_dataset("std/reviews").test.num_rows == 500, "five hundred rows");
    /// ```
    #[rhai_fn(global, pure, get = "num_rows")]
    pub fn num_rows(ds: &mut Dataset) -> i64 {
        ds.len() as i64
    }

    /// The names of the columns, in the order of the file.
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews").train;
    /// expect(reviews.column_names == ["text", "label", "score"], "three columns");
    /// ```
    #[rhai_fn(global, pure, get = "column_names")]
    pub fn column_names(ds: &mut Dataset) -> Array {
        ds.column_names().iter().map(|name| name.as_str().into()).collect()
    }

    /// What is known of the columns, by name, in Hugging Face's words.
    ///
    /// `_type` is `ClassLabel` (with the `names` behind its numbers, which Parquet files carry), `List` (with a `feature`) or
    /// `Value` (with a `dtype`).
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews").train;
    /// expect(reviews.features.text.dtype == "string" && reviews.features.score.dtype == "float64", "text and a number");
    /// ```
    #[rhai_fn(global, pure, get = "features")]
    pub fn features(ds: &mut Dataset) -> Map {
        ds.column_names().iter().map(|name| (name.as_str().into(), to_dynamic(&ds.feature(name)))).collect()
    }

    /// A row as a map; a negative number counts from the end.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "first" }, #{ text: "last" }]);
    /// expect(ds[0].text == "first" && ds[-1].text == "last", "both ends");
    /// ```
    #[rhai_fn(global, pure, index_get, return_raw)]
    pub fn row(ds: &mut Dataset, number: i64) -> ScriptResult<Dynamic> {
        let index = rows::index(ds, number).map_err(raise)?;
        Ok(ds.row(index).map_or(Dynamic::UNIT, row_to_dynamic))
    }

    /// The values of a column, as `column` gives them.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ label: 1 }, #{ label: 0 }]);
    /// expect(ds["label"] == [1, 0], "one value for each row");
    /// ```
    #[rhai_fn(global, pure, index_get, return_raw)]
    pub fn column_by_index(ds: &mut Dataset, name: &str) -> ScriptResult<Array> {
        column(ds, name)
    }

    /// The values of a column, one for each row.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ label: 1 }, #{ label: 0 }]);
    /// expect(ds.column("label") == [1, 0], "one value for each row");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn column(ds: &mut Dataset, name: &str) -> ScriptResult<Array> {
        Ok(ds.cells(name).map_err(raise)?.map(to_dynamic).collect())
    }

    /// The different values of a column, in the order in which they first appear.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ label: "b" }, #{ label: "a" }, #{ label: "b" }]);
    /// expect(ds.unique("label") == ["b", "a"], "each value once");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn unique(ds: &mut Dataset, name: &str) -> ScriptResult<Array> {
        Ok(ds.unique(name).map_err(raise)?.iter().map(to_dynamic).collect())
    }

    /// Calls a function with each row and lays the map it gives over the row: keys are added or replaced.
    ///
    /// A function that gives an array of maps makes several rows of one. A function that uses the data set itself must be
    /// passed as `map(ds, f)`, because `ds.map(f)` locks `ds` while it runs.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good" }, #{ text: "bad" }]);
    /// let longer = ds.map(|row| #{ n_letters: row.text.len() });
    /// expect(longer[1].text == "bad" && longer[1].n_letters == 3, "a new column");
    /// ```
    #[rhai_fn(global, return_raw)]
    pub fn map(context: NativeCallContext, ds: Dataset, function: FnPtr) -> ScriptResult<Dataset> {
        map_with(context, ds, function, Map::new())
    }

    /// `map` with options: `with_indices` also passes the row's number, `remove_columns` drops columns of the old rows.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good" }, #{ text: "bad" }]);
    /// let numbered = ds.map(|row, i| #{ id: i }, #{ with_indices: true, remove_columns: "text" });
    /// expect(numbered.column_names == ["id"] && numbered[1].id == 1, "numbers instead of texts");
    /// ```
    #[rhai_fn(global, name = "map", return_raw)]
    pub fn map_with(context: NativeCallContext, ds: Dataset, function: FnPtr, options: Map) -> ScriptResult<Dataset> {
        let (indices, removed) = super::map_options(options).map_err(raise)?;
        let mapped = PerRow { context: &context, data: &ds, function: &function, indices };
        mapped.map(&removed)
    }

    /// Keeps the rows for which a function gives true.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ label: 1 }, #{ label: 0 }, #{ label: 1 }]);
    /// expect(ds.filter(|row| row.label == 1).len() == 2, "two rows of label 1");
    /// ```
    #[rhai_fn(global, return_raw)]
    pub fn filter(context: NativeCallContext, ds: Dataset, function: FnPtr) -> ScriptResult<Dataset> {
        filter_with(context, ds, function, Map::new())
    }

    /// `filter` with options: `with_indices` also passes the row's number.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ id: 10 }, #{ id: 11 }, #{ id: 12 }]);
    /// let even = ds.filter(|row, i| i % 2 == 0, #{ with_indices: true });
    /// expect(even.column("id") == [10, 12], "every second row");
    /// ```
    #[rhai_fn(global, name = "filter", return_raw)]
    pub fn filter_with(
        context: NativeCallContext,
        ds: Dataset,
        function: FnPtr,
        options: Map,
    ) -> ScriptResult<Dataset> {
        let mut options = Options::new("`filter`", options);
        let indices = with_indices(&mut options).map_err(raise)?;
        options.finish().map_err(raise)?;
        PerRow { context: &context, data: &ds, function: &function, indices }.filter()
    }

    /// The rows of a range or of an array of row numbers, in that order.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ id: 0 }, #{ id: 1 }, #{ id: 2 }]);
    /// expect(ds.select(range(1, 3)).column("id") == [1, 2], "from 1 up to 3, which is left out");
    /// expect(ds.select(0..=1).len() == 2 && ds.select([2, 0])[0].id == 2, "other ways to say it");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn select(ds: &mut Dataset, range_or_array: Dynamic) -> ScriptResult<Dataset> {
        rows::indices(ds, &range_or_array).and_then(|indices| ds.select(&indices)).map_err(raise)
    }

    /// The first `n` rows, or all where there are fewer.
    ///
    /// ```rhai
    /// expect(load_dataset("std/reviews").train.take(10).len() == 10, "ten rows");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn take(ds: &mut Dataset, n: i64) -> ScriptResult<Dataset> {
        Ok(ds.take(whole("the number of rows to take", n).map_err(raise)? as usize))
    }

    /// The rows in random order, by the seed of the run.
    ///
    /// ```rhai
    /// let ds = load_dataset("std/reviews").test;
    /// expect(ds.shuffle().len() == ds.len(), "the same rows");
    /// ```
    #[rhai_fn(global, pure)]
    pub fn shuffle(context: NativeCallContext, ds: &mut Dataset) -> Dataset {
        ds.shuffle(Session::of(&context).seed())
    }

    /// The rows in the random order that belongs to a seed: the same for the same seed on every machine.
    ///
    /// ```rhai
    /// let ds = load_dataset("std/reviews").test;
    /// expect(ds.shuffle(7)[0] == ds.shuffle(7)[0], "the same order twice");
    /// ```
    #[rhai_fn(global, pure, name = "shuffle", return_raw)]
    pub fn shuffle_seed(ds: &mut Dataset, seed: i64) -> ScriptResult<Dataset> {
        Ok(ds.shuffle(whole("the seed", seed).map_err(raise)?))
    }

    /// The rows in random order, with the option `seed`.
    ///
    /// ```rhai
    /// let ds = load_dataset("std/reviews").test;
    /// expect(ds.shuffle(#{ seed: 7 })[0] == ds.shuffle(7)[0], "two ways to say it");
    /// ```
    #[rhai_fn(global, pure, name = "shuffle", return_raw)]
    pub fn shuffle_with(context: NativeCallContext, ds: &mut Dataset, options: Map) -> ScriptResult<Dataset> {
        let mut options = Options::new("`shuffle`", options);
        let seed = seed(&context, &mut options).map_err(raise)?;
        options.finish().map_err(raise)?;
        Ok(ds.shuffle(seed))
    }

    /// Splits off a quarter of the rows, at random, as `test`; the rest is `train`.
    ///
    /// ```rhai
    /// let parts = load_dataset("std/reviews").test.train_test_split();
    /// expect(parts.train.len() == 375 && parts.test.len() == 125, "three to one");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn train_test_split(context: NativeCallContext, ds: &mut Dataset) -> ScriptResult<Map> {
        train_test_split_with(context, ds, Map::new())
    }

    /// Splits into a map of `train` and `test`.
    ///
    /// `test_size` and `train_size` are shares (0.2) or numbers of rows (100). `stratify_by` (or `stratify_by_column`)
    /// names a column whose values get the same share in both parts. `seed` fixes the draw; `shuffle: false` cuts off the end.
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews").train;
    /// let parts = reviews.train_test_split(#{ test_size: 0.2, seed: 1, stratify_by: "label" });
    /// expect(parts.test.len() == 600, "a fifth of 3000 rows");
    /// expect(parts.test.filter(|row| row.label == "positive").len() == 300, "half of them positive, as in the whole");
    /// ```
    #[rhai_fn(global, pure, name = "train_test_split", return_raw)]
    pub fn train_test_split_with(context: NativeCallContext, ds: &mut Dataset, options: Map) -> ScriptResult<Map> {
        let settings = split_options(&context, options).map_err(raise)?;
        let (train, test) = ds.train_test_split(&settings).map_err(raise)?;
        Ok([("train".into(), Dynamic::from(train)), ("test".into(), Dynamic::from(test))].into())
    }

    /// Gives a column another name.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ sentence: "good" }]);
    /// expect(ds.rename_column("sentence", "text")[0].text == "good", "the column is now `text`");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn rename_column(ds: &mut Dataset, from: &str, to: &str) -> ScriptResult<Dataset> {
        ds.rename_column(from, to).map_err(raise)
    }

    /// Leaves out a column, or an array of columns.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good", id: 1, source: "web" }]);
    /// expect(ds.remove_columns(["id", "source"]).column_names == ["text"], "one column is left");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn remove_columns(ds: &mut Dataset, name_or_names: Dynamic) -> ScriptResult<Dataset> {
        let names = rows::names("the argument of `remove_columns`", &name_or_names).map_err(raise)?;
        ds.remove_columns(&names).map_err(raise)
    }

    /// The rows followed by those of another data set; a column that one of them lacks is `()` there.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good" }]);
    /// expect(ds.concat(ds).len() == 2, "twice one row");
    /// ```
    #[rhai_fn(global, pure)]
    pub fn concat(ds: &mut Dataset, other: Dataset) -> Dataset {
        ds.concat(&other)
    }

    /// Cuts white space off both ends of the texts of a column; `clean::strip` also says how many it changed.
    ///
    /// ```rhai
    /// expect(Dataset::from_rows([#{ text: " good\n" }]).strip("text")[0].text == "good", "nothing around it");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn strip(ds: &mut Dataset, column: &str) -> ScriptResult<Dataset> {
        ds.strip(column).map_err(raise)
    }

    /// Keeps the rows whose cell in a column is neither `()` nor blank text nor an empty array.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good" }, #{ text: " " }, #{ text: () }]);
    /// expect(ds.drop_empty("text").len() == 1, "one row has text");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn drop_empty(ds: &mut Dataset, column: &str) -> ScriptResult<Dataset> {
        ds.drop_empty(column).map_err(raise)
    }

    /// Keeps the first row of each different value of a column.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good" }, #{ text: "bad" }, #{ text: "good" }]);
    /// expect(ds.drop_duplicates("text").len() == 2, "each text once");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn drop_duplicates(ds: &mut Dataset, column: &str) -> ScriptResult<Dataset> {
        ds.drop_duplicates(column).map_err(raise)
    }

    /// The number of rows whose cell in a column differs from that of the same row of another data set.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: " good" }, #{ text: "bad" }]);
    /// expect(ds.strip("text").count_changed(ds, "text") == 1, "one text had a space before it");
    /// ```
    #[rhai_fn(global, pure, return_raw)]
    pub fn count_changed(ds: &mut Dataset, other: Dataset, column: &str) -> ScriptResult<i64> {
        Ok(ds.count_changed(&other, column).map_err(raise)? as i64)
    }

    /// The columns and the number of rows, as `print` shows them.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good" }]);
    /// expect(ds.to_string() == "Dataset({\n    features: ['text'],\n    num_rows: 1\n})", "as Hugging Face shows it");
    /// ```
    #[rhai_fn(global, pure, name = "to_string", name = "to_debug")]
    pub fn to_text(ds: &mut Dataset) -> ImmutableString {
        ds.to_string().into()
    }
}

/// The options of `map`: what its function is called with, and the columns that it drops.
pub(super) fn map_options(options: Map) -> Result<(Indices, Vec<String>)> {
    let mut options = Options::new("`map`", options);
    let indices = with_indices(&mut options)?;
    let removed = options.take("remove_columns").map(|names| rows::names("`remove_columns` of `map`", &names));
    let removed = removed.transpose()?.unwrap_or_default();
    options.finish()?;
    Ok((indices, removed))
}

fn with_indices(options: &mut Options) -> Result<Indices> {
    if options.bool("batched")? == Some(true) {
        let error = Error::new(What::Unsupported(format!("`batched` of {}", options.of())));
        return Err(error.hint("the function is called with one row at a time; leave `batched` out"));
    }
    // What says how the work is done, and not what it gives, is passed over.
    for key in ["num_proc", "batch_size", "load_from_cache_file", "keep_in_memory", "desc"] {
        options.take(key);
    }
    Ok(if options.bool("with_indices")? == Some(true) { Indices::Passed } else { Indices::Left })
}

fn whole(name: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| {
        What::OutOfRange { name: name.into(), value: number.to_string(), allowed: "zero or more".into() }.into()
    })
}

/// The option `seed`, or the seed of the run.
fn seed(context: &NativeCallContext, options: &mut Options) -> Result<u64> {
    match options.int("seed")? {
        Some(seed) => whole(&format!("`seed` of {}", options.of()), seed),
        None => Ok(Session::of(context).seed()),
    }
}

fn split_options(context: &NativeCallContext, options: Map) -> Result<SplitOptions> {
    let mut options = Options::new("`train_test_split`", options);
    let test_size = size(&mut options, "test_size")?;
    let train_size = size(&mut options, "train_size")?;
    let seed = seed(context, &mut options)?;
    let columns = (options.string("stratify_by")?, options.string("stratify_by_column")?);
    let shuffle = options.bool("shuffle")?.unwrap_or(true);
    options.finish()?;
    let column = match columns {
        (Some(_), Some(_)) => {
            let problem =
                "`stratify_by` and `stratify_by_column` of `train_test_split` mean the same; give one of them";
            return Err(What::Conflict(problem.into()).into());
        }
        (one, other) => one.or(other),
    };
    let draw = match (column, shuffle) {
        (Some(_), false) => {
            let problem =
                "`stratify_by` of `train_test_split` draws rows at random and does not go with `shuffle: false`";
            return Err(What::Conflict(problem.into()).into());
        }
        (Some(column), true) => Draw::Stratified { seed, column },
        (None, true) => Draw::Shuffled { seed },
        (None, false) => Draw::InOrder,
    };
    Ok(SplitOptions { test_size, train_size, draw })
}

/// A share, where it is a float, or a number of rows.
fn size(options: &mut Options, key: &'static str) -> Result<Option<Size>> {
    let Some(value) = options.take(key) else { return Ok(None) };
    let name = format!("`{key}` of {}", options.of());
    if let Ok(count) = value.as_int() {
        return Ok(Some(Size::Count(whole(&name, count)? as usize)));
    }
    match value.as_float() {
        Ok(share) => Ok(Some(Size::Fraction(share))),
        Err(_) => {
            let wanted = "a share such as 0.2 or a number of rows".into();
            Err(What::WrongType { name, wanted, got: type_name(&value) }.into())
        }
    }
}
