//! The data sets of a Trainer as a script gives them, and predictions as it gets them.

use indexmap::IndexMap;
use rhai::{Dynamic, Map};

use crate::api::options::Options;
use crate::data::{Dataset, Value};
use crate::error::{Error, Result, What};
use crate::head::Predictions;
use crate::head::script::convert::{to_dynamic, type_name};
use crate::train::EvaluationData;

/// Predictions and labels as a script sees them; labels are `()` where the data has none.
pub(super) fn predictions_map(predictions: &Predictions) -> Map {
    let list = |values: &[Value]| Dynamic::from_array(values.iter().map(to_dynamic).collect());
    let mut map = Map::new();
    map.insert("predictions".into(), list(&predictions.predictions));
    let labels = if predictions.label_ids.is_empty() { Dynamic::UNIT } else { list(&predictions.label_ids) };
    map.insert("label_ids".into(), labels);
    map
}

/// The data set under `key`, where it is given.
pub(super) fn dataset(options: &mut Options, key: &'static str) -> Result<Option<Dataset>> {
    let Some(value) = options.take(key) else { return Ok(None) };
    if let Some(dataset) = value.clone().try_cast::<Dataset>() {
        return Ok(Some(dataset));
    }
    let error = Error::new(What::WrongType {
        name: format!("`{key}` of `Trainer`"),
        wanted: "a Dataset".into(),
        got: type_name(&value),
    });
    let splits = value.try_cast::<Map>().map(|map| map.keys().map(ToString::to_string).collect::<Vec<_>>());
    Err(match splits.as_deref() {
        Some([first, ..]) => error.hint(format!("a directory of splits is a map: write `data.{first}`")),
        _ => error.hint("`load_dataset(...)` or `Dataset::from_rows(...)` makes one"),
    })
}

/// What is evaluated on: a data set, or several by name.
pub(super) fn evaluation_data(value: Dynamic) -> Result<EvaluationData> {
    if let Some(dataset) = value.clone().try_cast::<Dataset>() {
        return Ok(EvaluationData::One(dataset));
    }
    let wrong = || {
        let got = type_name(&value);
        let wanted = "a Dataset, or a map from names to Datasets".into();
        let error = Error::new(What::WrongType { name: "`eval_dataset` of `Trainer`".into(), wanted, got });
        error.hint("`load_dataset(...)` or `Dataset::from_rows(...)` makes one")
    };
    let map = value.clone().try_cast::<Map>().ok_or_else(wrong)?;
    let sets = map.into_iter().map(|(name, dataset)| Some((name.to_string(), dataset.try_cast::<Dataset>()?)));
    sets.collect::<Option<IndexMap<_, _>>>().map(EvaluationData::Named).ok_or_else(wrong)
}
