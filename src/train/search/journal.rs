//! `trials.json`: every trial of a search that has ended, rewritten as a whole after each one, so that nothing is lost.
//!
//! Names and states are Optuna's. Numbers that JSON does not have are the strings "nan", "inf" and "-inf".

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::data::Value;
use crate::data::durable::write_file;
use crate::error::{Error, Place, Result, What};
use crate::train::search::space::Distribution;
use crate::train::search::study::{State, Study, Trial};

/// The file's name within the output directory.
pub const FILE: &str = "trials.json";

/// Writes the trials of a study to a file, as one transaction.
///
/// # Errors
/// A folder that cannot be written to.
pub fn write(study: &Study, path: &Path) -> Result<()> {
    let json = json!({
        "direction": study.direction.as_str(),
        "seed": study.seed,
        "best_trial": study.best().map(|trial| trial.number),
        "trials": study.trials.iter().filter(|trial| trial.state != State::Running).map(to_json).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&json).expect("a JSON value can be written") + "\n";
    write_file(path, text.as_bytes())
}

/// Takes up the trials of a file, to go on from them.
///
/// # Errors
/// A file that cannot be read or is not of this form, or one of a search in the other direction or with another seed.
pub fn read(study: &mut Study, path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        let error = Error::new(What::Read { path: path.to_path_buf(), source });
        error.hint("`resume: true` goes on from the `trials.json` of an earlier search in the same `output_dir`")
    })?;
    let malformed =
        |problem: String| Error::new(What::Malformed { format: FILE.into(), problem }).at(Place::file(path));
    let json: Json = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    for (key, now) in [("direction", json!(study.direction.as_str())), ("seed", json!(study.seed))] {
        if json.get(key) != Some(&now) {
            let then = json.get(key).map(Json::to_string).unwrap_or_else(|| "nothing".into());
            let problem = format!("the search in {} had `{key}: {then}`, this one has {now}", path.display());
            return Err(Error::new(What::Conflict(problem)).hint("go on with the same, or leave out `resume`"));
        }
    }
    let trials = json.get("trials").and_then(Json::as_array).ok_or_else(|| malformed("it has no `trials`".into()))?;
    study.trials = trials
        .iter()
        .enumerate()
        .map(|(number, trial)| {
            from_json(trial)
                .filter(|trial| trial.number == number)
                .ok_or_else(|| malformed(format!("trial {number} cannot be read")))
        })
        .collect::<Result<_>>()?;
    Ok(())
}

/// A trial as the file and the event `trial` hold it.
pub fn to_json(trial: &Trial) -> Json {
    let map = |pairs: Vec<(String, Json)>| Json::Object(Map::from_iter(pairs));
    json!({
        "number": trial.number,
        "state": trial.state.as_str(),
        "value": trial.value.map(number),
        "params": map(trial.params.iter().map(|(name, value)| (name.clone(), value.to_json())).collect()),
        "distributions": map(trial.distributions.iter().map(|(name, of)| (name.clone(), of.to_json())).collect()),
        "intermediate_values":
            map(trial.intermediate_values.iter().map(|(step, value)| (step.to_string(), number(*value))).collect()),
        "error": trial.error,
        "duration_s": trial.seconds,
    })
}

fn from_json(json: &Json) -> Option<Trial> {
    let state = json.get("state")?.as_str()?;
    let params = json.get("params")?.as_object()?;
    let distributions = json.get("distributions")?.as_object()?;
    let values = json.get("intermediate_values")?.as_object()?;
    Some(Trial {
        number: json.get("number")?.as_u64()? as usize,
        state: State::ALL.into_iter().find(|known| known.as_str() == state)?,
        value: json.get("value").and_then(read_number),
        params: params.iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect(),
        distributions: distributions
            .iter()
            .map(|(name, of)| Some((name.clone(), Distribution::from_json(of)?)))
            .collect::<Option<_>>()?,
        intermediate_values: values
            .iter()
            .map(|(step, value)| Some((step.parse().ok()?, read_number(value)?)))
            .collect::<Option<_>>()?,
        error: json.get("error").and_then(Json::as_str).map(str::to_string),
        seconds: json.get("duration_s").and_then(Json::as_f64).unwrap_or(0.0),
    })
}

fn number(value: f64) -> Json {
    if value.is_finite() { json!(value) } else { json!(value.to_string().to_lowercase()) }
}

fn read_number(json: &Json) -> Option<f64> {
    json.as_f64().or_else(|| json.as_str()?.parse().ok())
}
