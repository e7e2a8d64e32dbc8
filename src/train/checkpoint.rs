//! Checkpoints: the folder `checkpoint-N`, written beside its place and renamed, so that a partial one is never taken for whole.
//!
//! A checkpoint holds what Hugging Face's does (config.json, model.safetensors, the tokenizer's files, trainer_state.json),
//! the arguments and moments, and a manifest with the sha256 of each file. Full durability and exactness under faults are
//! the issue on reliability; what is here already goes on from the same step with the same numbers.

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::data::files::Folder;
use crate::error::{Error, Place, Result, What};
use crate::head::Model;
use crate::model::save::{to_safetensors, write_file};
use crate::model::weights::Weights;
use crate::plugin::crash;
use crate::train::epochs::Origin;
use crate::train::live_arguments::RateChange;
use crate::train::optimizer::{AdamW, Moments, OptimizerState};
use crate::train::state::TrainerState;
use crate::train::trainer::TrainerSettings;

/// What a run needs to go on, beside weights and moments.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Steps, epoch, logs, the best metric, callbacks' states.
    pub state: TrainerState,
    /// The state of `reduce_lr_on_plateau`.
    pub schedule: Option<Json>,
    /// Its states for `param_groups`.
    pub group_schedules: Option<Json>,
    /// The sum of the losses of all steps.
    pub loss_total: f64,
    /// The sum of the losses since the last log.
    pub loss_since_log: f64,
    /// The step of the last log.
    pub last_logged_step: usize,
    /// Updates left out since the last log.
    pub skipped_since_log: usize,
    /// Updates left out in all.
    pub skipped: usize,
    /// From where epochs are counted.
    pub origin: Origin,
    /// A rate that was set while the run went on.
    pub rate: Option<RateChange>,
}

/// rng_state.json: the generator is a function of seed and step, so there is nothing else to remember of it.
#[derive(Serialize, Deserialize)]
struct RngState {
    seed: u64,
    step: usize,
    loss_total: f64,
    loss_since_log: f64,
    last_logged_step: usize,
    #[serde(default)]
    skipped_since_log: usize,
    #[serde(default)]
    skipped: usize,
    #[serde(default)]
    origin: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<RateChange>,
    schedule: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_schedules: Option<Json>,
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
    write_file(&folder.join("training_args.json"), pretty(&args).as_bytes())
}

/// Refuses an output directory that cannot be written to, before any work is done.
///
/// # Errors
/// A directory that cannot be made or written to.
pub fn check_writable(output_dir: &str) -> Result<()> {
    let path = PathBuf::from(output_dir);
    let hint = "choose another `output_dir`, or mend its permissions";
    let wrap = |source| Error::new(What::Write { path: path.clone(), source }).hint(hint);
    std::fs::create_dir_all(&path).map_err(wrap)?;
    let mut probe = tempfile::Builder::new().prefix(".writable-").tempfile_in(&path).map_err(wrap)?;
    probe.write_all(b"x").map_err(wrap)
}

/// Saves a checkpoint as one transaction.
///
/// # Errors
/// A folder that cannot be written to; the checkpoints that are there stay as they are.
pub fn save(settings: &TrainerSettings, folder: &Path, optimizer: &AdamW, progress: &Progress) -> Result<()> {
    let parent = folder.parent().unwrap_or(Path::new("."));
    let wrap = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::new(What::Write { path: path.clone(), source })
    };
    std::fs::create_dir_all(parent).map_err(wrap(parent))?;
    let temporary = tempfile::Builder::new().prefix(".checkpoint-").tempdir_in(parent).map_err(wrap(parent))?;
    let inside = temporary.path();
    save_model(settings, inside)?;
    let mut moments = Vec::new();
    for (name, Moments { step, exp_avg, exp_avg_sq }) in optimizer.state()? {
        moments.push((format!("{name}.exp_avg"), exp_avg));
        moments.push((format!("{name}.exp_avg_sq"), exp_avg_sq));
        // f32 counts exactly up to 2^24 updates, as torch's own step tensor does.
        moments.push((format!("{name}.step"), Tensor::new(step as f32, &candle_core::Device::Cpu)?));
    }
    write_file(&inside.join("optimizer.safetensors"), &to_safetensors(&moments)?)?;
    write_file(&inside.join("trainer_state.json"), pretty(&progress.state.to_json()).as_bytes())?;
    let rng = RngState {
        seed: settings.args.seed,
        step: progress.state.global_step,
        loss_total: progress.loss_total,
        loss_since_log: progress.loss_since_log,
        last_logged_step: progress.last_logged_step,
        skipped_since_log: progress.skipped_since_log,
        skipped: progress.skipped,
        origin: progress.origin,
        rate: progress.rate.clone(),
        schedule: progress.schedule.clone(),
        group_schedules: progress.group_schedules.clone(),
    };
    let rng = serde_json::to_value(&rng).map_err(|error| Error::new(What::Internal(error.to_string())))?;
    write_file(&inside.join("rng_state.json"), pretty(&rng).as_bytes())?;
    write_file(&inside.join("manifest.json"), pretty(&manifest(inside)?).as_bytes())?;
    if folder.exists() {
        // The same step of an earlier run: moved away only when the new one is complete.
        std::fs::remove_dir_all(folder).map_err(wrap(folder))?;
    }
    readable(inside).map_err(wrap(inside))?;
    let complete = temporary.keep();
    std::fs::rename(&complete, folder).map_err(wrap(folder))?;
    crash::note_checkpoint(folder);
    sync_directory(parent).map_err(wrap(parent))
}

/// The sha256 of every file of a folder.
fn manifest(folder: &Path) -> Result<Json> {
    let mut files = serde_json::Map::new();
    for name in Folder::Disk(folder.to_path_buf()).files()? {
        let path = folder.join(&name);
        let bytes = std::fs::read(&path).map_err(|source| Error::new(What::Read { path, source }))?;
        let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        files.insert(name, Json::from(digest));
    }
    Ok(serde_json::json!({ "sha256": files }))
}

#[cfg(unix)]
fn readable(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    sync_directory(folder)
}

#[cfg(not(unix))]
fn readable(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}

fn sync_directory(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { std::fs::File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The checkpoints of an output directory with their steps, oldest first. Folders without a manifest are not checkpoints.
///
/// # Errors
/// A directory that cannot be listed.
pub fn list(output_dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let wrap = |source| Error::new(What::Read { path: output_dir.to_path_buf(), source });
    let mut found = Vec::new();
    for entry in std::fs::read_dir(output_dir).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("checkpoint-").and_then(|step| step.parse().ok())
            && path.join("manifest.json").is_file()
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint of an output directory.
///
/// # Errors
/// A directory without checkpoints.
pub fn latest(output_dir: &Path) -> Result<PathBuf> {
    let all = if output_dir.is_dir() { list(output_dir)? } else { Vec::new() };
    all.last().map(|(_, path)| path.clone()).ok_or_else(|| {
        let name = output_dir.join("checkpoint-N").display().to_string();
        Error::new(What::NotFound { kind: "checkpoint", name })
            .hint("`resume_from_checkpoint: true` goes on from the newest `checkpoint-N` of `output_dir`")
    })
}

/// Deletes the oldest checkpoints beyond `limit`, never the best nor the newest.
///
/// # Errors
/// A checkpoint that cannot be deleted.
pub fn rotate(output_dir: &Path, limit: usize, best: Option<&str>, newest: &Path) -> Result<()> {
    let all = list(output_dir)?;
    let mut excess = all.len().saturating_sub(limit);
    for (_, path) in all {
        let is_best = best.is_some_and(|best| Path::new(best) == path);
        if excess == 0 {
            break;
        }
        if is_best || path == newest {
            continue;
        }
        std::fs::remove_dir_all(&path).map_err(|source| Error::new(What::Write { path: path.clone(), source }))?;
        excess -= 1;
    }
    Ok(())
}

/// Loads weights, moments and progress of a checkpoint.
///
/// # Errors
/// A folder that is no complete checkpoint, or one of another model.
pub fn load(model: &Model, folder: &Path, optimizer: &mut AdamW) -> Result<Progress> {
    let files = Folder::Disk(folder.to_path_buf());
    if !files.has("manifest.json") {
        return Err(Error::new(What::NotFound { kind: "checkpoint", name: folder.display().to_string() })
            .hint("a checkpoint is a folder `checkpoint-N` with a manifest.json; an incomplete one has none"));
    }
    let read = |name: &str| -> Result<String> {
        let missing = || Error::new(What::NotFound { kind: "file", name: folder.join(name).display().to_string() });
        files.read_text(name)?.ok_or_else(missing)
    };
    verify(folder, &read("manifest.json")?)?;
    crash::note_checkpoint(folder);
    load_weights(model, folder)?;
    optimizer.load_state(moments(folder)?)?;
    let state = TrainerState::from_json(&read("trainer_state.json")?, &folder.join("trainer_state.json"))?;
    let rng: RngState = serde_json::from_str(&read("rng_state.json")?).map_err(|error| {
        Error::new(What::Malformed { format: "rng_state.json".into(), problem: error.to_string() })
            .at(Place::file(folder.join("rng_state.json")))
    })?;
    Ok(Progress {
        state,
        schedule: rng.schedule,
        group_schedules: rng.group_schedules,
        loss_total: rng.loss_total,
        loss_since_log: rng.loss_since_log,
        last_logged_step: rng.last_logged_step,
        skipped_since_log: rng.skipped_since_log,
        skipped: rng.skipped,
        origin: rng.origin,
        rate: rng.rate,
    })
}

fn verify(folder: &Path, text: &str) -> Result<()> {
    let malformed = |problem: String| {
        Error::new(What::Malformed { format: "manifest.json".into(), problem })
            .at(Place::file(folder.join("manifest.json")))
    };
    let wanted: Json = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let wanted =
        wanted.get("sha256").and_then(Json::as_object).ok_or_else(|| malformed("it has no `sha256`".into()))?;
    let found = manifest(folder)?;
    for (name, digest) in wanted {
        if found["sha256"].get(name) != Some(digest) {
            return Err(Error::new(What::Weights(format!("`{name}` of the checkpoint is missing or was changed")))
                .at(Place::file(folder))
                .hint("go on from an earlier checkpoint"));
        }
    }
    Ok(())
}

/// Copies the weights of a saved model into a model that is in use.
///
/// # Errors
/// Weights that are missing or of another shape.
pub fn load_weights(model: &Model, folder: &Path) -> Result<()> {
    let weights = Weights::open(
        &Folder::Disk(folder.to_path_buf()),
        model.family(),
        model.config().bool_or("tie_word_embeddings", true)?,
    )?;
    for parameter in model.parameters().all() {
        let (name, var) = (parameter.name(), parameter.var());
        if weights.shape(name).map(Vec::as_slice) != Some(var.dims()) {
            let problem = format!("the checkpoint has no `{name}` of shape {:?}", var.dims());
            return Err(Error::new(What::Weights(problem)).at(Place::file(folder)));
        }
        var.set(&weights.load(name, model.device())?)?;
    }
    model.load_head_state(&Folder::Disk(folder.to_path_buf()))
}

fn moments(folder: &Path) -> Result<OptimizerState> {
    let path = folder.join("optimizer.safetensors");
    let malformed = |problem: String| {
        Error::new(What::Malformed { format: "optimizer.safetensors".into(), problem }).at(Place::file(&path))
    };
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

fn pretty(value: &Json) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value can be written") + "\n"
}
