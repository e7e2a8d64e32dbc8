//! Checkpoints: the folder `checkpoint-N`, written beside its place and given its name when it is whole and on the disk.
//!
//! A checkpoint holds what Hugging Face's does (config.json, model.safetensors, the tokenizer's files, trainer_state.json),
//! arguments and moments, what the run has to remember ([`progress`]), the scripts it was made of, and last a [`manifest`]
//! with the sha256 of each file. Which checkpoints an output directory has, and which make room, is [`folders`]' story.

pub mod folders;
pub mod manifest;
pub mod progress;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Tensor};
use serde::Serialize;
use serde_json::Value as Json;

use crate::data::durable::{Transaction, write_file};
use crate::data::files::Folder;
use crate::error::{Error, Place, Result, What};
use crate::head::Model;
use crate::model::save::write_safetensors;
use crate::model::weights::Weights;
use crate::plugin::crash;
use crate::train::checkpoint::manifest::{Complete, Manifest};
use crate::train::checkpoint::progress::Progress;
use crate::train::optimizer::{AdamW, Moments, OptimizerState};
use crate::train::state::TrainerState;
use crate::train::trainer::TrainerSettings;

/// The texts of a run's scripts by name.
pub type Scripts = BTreeMap<String, Arc<str>>;

/// What is saved beside the model.
pub struct Saved<'a> {
    /// Steps, epoch, logs, the best metric, callbacks' states.
    pub state: &'a TrainerState,
    /// What the run needs to go on.
    pub progress: &'a Progress,
    /// The moments of the optimizer.
    pub optimizer: &'a AdamW,
    /// The scripts that the run was made of.
    pub scripts: &'a Scripts,
}

/// Writes the model, the tokenizer and the arguments into `folder`.
///
/// # Errors
/// A folder that cannot be written to.
pub fn save_model(settings: &TrainerSettings, folder: &Path) -> Result<()> {
    settings.model.save_pretrained(folder)?;
    if let Some(tokenizer) = &settings.tokenizer {
        tokenizer.save_pretrained(folder)?;
    }
    let args = Json::Object(settings.args.to_json());
    write_file(&folder.join(ARGUMENTS), pretty(&args)?.as_bytes())
}

/// Saves a checkpoint as one transaction, in place of one of that name.
///
/// # Errors
/// A folder that cannot be written to, a full disk; the checkpoints that are there stay as they are.
pub(super) fn save(settings: &TrainerSettings, folder: &Path, saved: &Saved<'_>) -> Result<()> {
    let transaction = Transaction::begin(folder)?;
    let inside = transaction.folder();
    save_model(settings, inside)?;
    let mut moments = Vec::new();
    for (name, Moments { step, exp_avg, exp_avg_sq }) in saved.optimizer.state()? {
        moments.push((format!("{name}.exp_avg"), exp_avg));
        moments.push((format!("{name}.exp_avg_sq"), exp_avg_sq));
        // f32 counts exactly up to 2^24 updates, as torch's own step tensor does.
        moments.push((format!("{name}.step"), Tensor::new(step as f32, &candle_core::Device::Cpu)?));
    }
    write_safetensors(&inside.join(MOMENTS), &moments)?;
    write_file(&inside.join(STATE), pretty(&saved.state.to_json())?.as_bytes())?;
    write_file(&inside.join(PROGRESS), pretty(saved.progress)?.as_bytes())?;
    for (name, text) in saved.scripts {
        write_file(&inside.join(script_file(name)), text.as_bytes())?;
    }
    Manifest::write(inside)?;
    transaction.commit()?;
    crash::note_checkpoint(folder);
    Ok(())
}

const MOMENTS: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";
const PROGRESS: &str = "rng_state.json";

/// Where a checkpoint keeps the script `name`: below `scripts/`, whatever its path.
fn script_file(name: &str) -> PathBuf {
    let parts = Path::new(name).components().filter_map(|part| match part {
        std::path::Component::Normal(part) => Some(part.to_os_string()),
        std::path::Component::ParentDir => Some("__".into()),
        _ => None,
    });
    Path::new("scripts").join(parts.collect::<PathBuf>())
}

/// Loads weights, moments, state and progress of a checkpoint.
///
/// # Errors
/// A checkpoint of another model, or one of another version.
pub(super) fn load(model: &Model, from: &Complete, optimizer: &mut AdamW) -> Result<(TrainerState, Progress)> {
    let folder = from.folder();
    let files = Folder::Disk(folder.to_path_buf());
    let read = |name: &str| -> Result<String> {
        let missing = || Error::new(What::NotFound { kind: "file", name: folder.join(name).display().to_string() });
        files.read_text(name)?.ok_or_else(missing)
    };
    // Whatever may be refused comes before anything changes.
    let state = TrainerState::from_json(&read(STATE)?, &folder.join(STATE))?;
    let progress = read_progress(&read(PROGRESS)?, folder)?;
    let moments = moments(folder)?;
    crash::note_checkpoint(folder);
    load_weights(model, folder)?;
    optimizer.load_state(moments)?;
    Ok((state, progress))
}

/// Reads rng_state.json of a checkpoint; `folder` is for messages.
///
/// # Errors
/// Text of another form.
pub fn read_progress(text: &str, folder: &Path) -> Result<Progress> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(What::Malformed { format: PROGRESS.into(), problem: error.to_string() }).at(Place::line(
            folder.join(PROGRESS),
            error.line(),
            Some(error.column()),
        ))
    })
}

/// The arguments with which a checkpoint was made.
///
/// # Errors
/// A file that is not there or of another form.
pub fn arguments_of(folder: &Path) -> Result<serde_json::Map<String, Json>> {
    let path = folder.join(ARGUMENTS);
    let text = std::fs::read_to_string(&path).map_err(|source| What::Read { path: path.clone(), source })?;
    serde_json::from_str(&text).map_err(|error| {
        Error::new(What::Malformed { format: ARGUMENTS.into(), problem: error.to_string() }).at(Place::file(path))
    })
}

const ARGUMENTS: &str = "training_args.json";

/// Copies the weights of a saved model into a model that is in use.
///
/// # Errors
/// Weights that are missing or of another shape: the model is left as it was then.
pub fn load_weights(model: &Model, folder: &Path) -> Result<()> {
    let weights = Weights::open(
        &Folder::Disk(folder.to_path_buf()),
        model.family(),
        model.config().bool_or("tie_word_embeddings", true)?,
    )?;
    let parameters = model.parameters().all();
    for parameter in &parameters {
        let (name, value) = (parameter.name(), parameter.value());
        if weights.shape(name).map(Vec::as_slice) != Some(value.dims()) {
            let problem = format!("the checkpoint has no `{name}` of shape {:?}", value.dims());
            return Err(Error::new(What::Weights(problem)).at(Place::file(folder)));
        }
    }
    for parameter in &parameters {
        parameter.var().set(&weights.load(parameter.name(), model.device())?)?;
    }
    model.load_head_state(&Folder::Disk(folder.to_path_buf()))
}

fn moments(folder: &Path) -> Result<OptimizerState> {
    let path = folder.join(MOMENTS);
    let malformed =
        |problem: String| Error::new(What::Malformed { format: MOMENTS.into(), problem }).at(Place::file(&path));
    let bytes = std::fs::read(&path).map_err(|source| Error::new(What::Read { path: path.clone(), source }))?;
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &candle_core::Device::Cpu)
        .map_err(|error| malformed(error.to_string()))?;
    let mut names: Vec<String> =
        tensors.keys().filter_map(|key| key.strip_suffix(".step")).map(str::to_string).collect();
    names.sort();
    let mut state = OptimizerState::new();
    for name in names {
        let mut take = |part: &str| {
            let key = format!("{name}.{part}");
            tensors.remove(&key).ok_or_else(|| malformed(format!("it has no `{key}`")))
        };
        let step = take("step")?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let step = step.first().copied().unwrap_or(0.0) as u64;
        state.insert(name.clone(), Moments { step, exp_avg: take("exp_avg")?, exp_avg_sq: take("exp_avg_sq")? });
    }
    Ok(state)
}

fn pretty(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| What::Internal(error.to_string()))?;
    Ok(text + "\n")
}
