//! `load_dataset` and `Dataset::...`: how a script comes by a data set.

use indexmap::IndexMap;
use rhai::plugin::*;
use rhai::{Array, Dynamic, Engine, Map, NativeCallContext};

use crate::api::options::Options;
use crate::api::rows;
use crate::api::session::Session;
use crate::data::Dataset;
use crate::data::hub::Hub;
use crate::data::load::{DataFiles, LoadOptions, Loaded, load};
use crate::error::{Result, What};
use crate::head::script::convert::{ScriptResult, raise, raise_at, type_name};

/// Registers the functions of this file.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_global_module(rhai::exported_module!(loading).into());
    engine.register_static_module("Dataset", rhai::exported_module!(constructors).into());
}

#[export_module]
mod loading {
    /// Loads a data set: a file gives a `Dataset`, a folder gives a map from split to `Dataset`.
    ///
    /// The name is a path, looked up in the working directory and beside the recipe, `std/...`, or a data set of the hub such
    /// as `"stanfordnlp/imdb"`, of which only the files that are read are fetched. The files of a folder are sorted into
    /// `train`, `validation` and `test` by their names or by a README.md, as in Hugging Face's `datasets`. Each file may be
    /// packed with gzip (`.gz`).
    ///
    /// ```rhai
    /// let reviews = load_dataset("std/reviews");
    /// expect(reviews.train.len() == 3000, "the training split");
    /// let test = load_dataset("std/reviews/test.jsonl");
    /// expect(test.len() == 500, "one file is one data set");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn load_dataset(context: NativeCallContext, path_or_name: &str) -> ScriptResult<Dynamic> {
        loaded(&context, path_or_name, Map::new()).map_err(raise)
    }

    /// Loads a data set with options.
    ///
    /// `split` picks rows: `"train"`, `"train[:100]"`, `"train[10%:20%]"`, `"train+validation"`; the result is then one
    /// `Dataset`. `data_files` names files: a string, an array, or a map from split to these; patterns such as
    /// `"train-*.jsonl"` are allowed, and the name may then be a format, as in `load_dataset("csv", #{ data_files: "my.csv" })`.
    /// `format` names the format (`jsonl`, `csv`, `parquet`, ...) where the extension does not tell it. `config` is the
    /// configuration of a data set that has several, `revision` a branch, a tag or a commit of one on the hub.
    /// A CoNLL file gives the columns `tokens` and `ner_tags`, from its first and last column unless `token_column` and
    /// `tag_column` say otherwise (from 0, or from -1 at the end).
    ///
    /// ```rhai
    /// let some = load_dataset("std/reviews", #{ split: "train[:10%]" });
    /// expect(some.len() == 300, "a tenth of 3000 rows");
    /// let parts = load_dataset("std/reviews", #{ data_files: #{ mine: "test.jsonl" } });
    /// expect(parts.mine.len() == 500, "splits may have any name");
    /// ```
    #[rhai_fn(name = "load_dataset", return_raw)]
    pub fn load_dataset_with(context: NativeCallContext, path_or_name: &str, options: Map) -> ScriptResult<Dynamic> {
        loaded(&context, path_or_name, options).map_err(raise)
    }

    /// Loads one configuration of a data set that has several, as in `load_dataset("glue", "mrpc")`.
    ///
    /// ```rhai
    /// let refused = false;
    /// try { load_dataset("std/reviews", "mrpc"); } catch { refused = true; }
    /// expect(refused, "the reviews have no configurations");
    /// ```
    #[rhai_fn(name = "load_dataset", return_raw)]
    pub fn load_configuration(context: NativeCallContext, path_or_name: &str, config: &str) -> ScriptResult<Dynamic> {
        let options = Map::from_iter([("config".into(), config.into())]);
        loaded(&context, path_or_name, options).map_err(raise)
    }

    /// Loads one configuration of a data set that has several, with other options.
    ///
    /// ```rhai
    /// let refused = false;
    /// try { load_dataset("std/reviews", "mrpc", #{ split: "train" }); } catch { refused = true; }
    /// expect(refused, "the reviews have no configurations");
    /// ```
    #[rhai_fn(name = "load_dataset", return_raw)]
    pub fn load_configuration_with(
        context: NativeCallContext,
        path_or_name: &str,
        config: &str,
        options: Map,
    ) -> ScriptResult<Dynamic> {
        let mut options = options;
        options.insert("config".into(), config.into());
        loaded(&context, path_or_name, options).map_err(raise)
    }
}

fn loaded(context: &NativeCallContext, name: &str, options: Map) -> Result<Dynamic> {
    let mut options = Options::new("`load_dataset`", options);
    let settings = LoadOptions {
        split: options.string("split")?,
        format: options.string("format")?,
        data_files: options.take("data_files").map(|files| data_files(&files)).transpose()?,
        config: options.string("config")?,
        revision: options.string("revision")?,
        hub: Some(Hub::from_env()),
        token_column: options.int("token_column")?,
        tag_column: options.int("tag_column")?,
    };
    options.finish()?;
    Ok(match load(Session::of(context).places(), name, &settings)? {
        Loaded::One(data) => Dynamic::from(data),
        Loaded::Splits(splits) => {
            Dynamic::from_map(splits.into_iter().map(|(split, data)| (split.into(), Dynamic::from(data))).collect())
        }
    })
}

fn data_files(files: &Dynamic) -> Result<DataFiles> {
    const NAME: &str = "`data_files` of `load_dataset`";
    let Ok(map) = files.as_map_ref() else {
        return rows::names(NAME, files).map(DataFiles::Train).map_err(|_| {
            let wanted = "a string, an array of strings, or a map from split to these".into();
            What::WrongType { name: NAME.into(), wanted, got: type_name(files) }.into()
        });
    };
    let mut splits = IndexMap::new();
    for (split, files) in map.iter() {
        splits.insert(split.to_string(), rows::names(&format!("`{split}` in {NAME}"), files)?);
    }
    Ok(DataFiles::Splits(splits))
}

#[export_module]
mod constructors {
    /// Makes a data set of an array of maps, one for each row.
    ///
    /// Columns are in the order of their names; a row that lacks a column has `()` there.
    ///
    /// ```rhai
    /// let ds = Dataset::from_rows([#{ text: "good", label: 1 }, #{ text: "bad", label: 0 }]);
    /// expect(ds.len() == 2 && ds[0].text == "good", "two rows");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_rows(context: NativeCallContext, rows: Array) -> ScriptResult<Dataset> {
        rows::from_maps(&rows).map_err(raise_at(&context))
    }

    /// Makes a data set of an array of maps: Hugging Face's name for `from_rows`.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ text: "good" }, #{ text: "bad" }]);
    /// expect(ds.len() == 2, "two rows");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_list(context: NativeCallContext, rows: Array) -> ScriptResult<Dataset> {
        rows::from_maps(&rows).map_err(raise_at(&context))
    }

    /// Makes a data set of a map from column to its values, which are arrays of one length.
    ///
    /// ```rhai
    /// let ds = Dataset::from_dict(#{ text: ["good", "bad"], label: [1, 0] });
    /// expect(ds[1].text == "bad" && ds[1].label == 0, "columns become rows");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_dict(context: NativeCallContext, columns: Map) -> ScriptResult<Dataset> {
        rows::from_columns(&columns).map_err(raise_at(&context))
    }
}
