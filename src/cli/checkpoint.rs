//! `retune checkpoint list|verify DIR`: which checkpoints there are, and whether they are whole.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use crate::cli::{Context, print};
use crate::error::{Error, Result, What};
use crate::host::diagnostics::Outcome;
use crate::memory::shown;
use crate::train::checkpoint::{folders, manifest};
use crate::train::state::TrainerState;

/// List checkpoints, and see whether they are whole.
#[derive(Args)]
pub(super) struct Checkpoint {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the checkpoints of a run, oldest first: step, epoch, size, metric, and whether they are whole
    List {
        /// The run's `output_dir`, or one checkpoint
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Compare every file with the sha256 that was written with it; ends with exit code 65 where one differs
    Verify {
        /// The run's `output_dir`, or one checkpoint
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

impl Checkpoint {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        match self.action {
            Action::List { folder } => list(context, &folder)?,
            Action::Verify { folder } => verify(context, &folder)?,
        }
        Ok(())
    }
}

fn list(context: &Context, folder: &Path) -> Result<()> {
    for (step, path) in found(folder)? {
        let state_file = path.join("trainer_state.json");
        let state = std::fs::read_to_string(&state_file).ok();
        let state = state.and_then(|text| TrainerState::from_json(&text, &state_file).ok());
        let bytes = folders::size(&path).ok();
        let problem = manifest::verify(&path).err().map(|error| error.to_string());
        let epoch = state.as_ref().map(|state| state.epoch);
        let metric = state.as_ref().and_then(|state| state.best_metric);
        let is_best = state.as_ref().is_some_and(|state| state.best_global_step == Some(step));
        let body = json!({
            "path": path, "step": step, "epoch": epoch, "bytes": bytes, "best_metric": metric, "is_best": is_best,
            "whole": problem.is_none(), "problem": problem,
        });
        let metric = if is_best { metric.map(|metric| format!("  best so far: {metric:.4}")) } else { None };
        let text = format!(
            "{}  step {step:>6}  epoch {:>6}  {:>9}  {}{}",
            path.display(),
            epoch.map_or("?".into(), |epoch| format!("{epoch:.2}")),
            bytes.map_or("?".into(), |bytes| shown(bytes.into())),
            problem.map_or("whole".to_string(), |problem| format!("NOT WHOLE: {problem}")),
            metric.unwrap_or_default(),
        );
        say(context, body, &text)?;
    }
    Ok(())
}

fn verify(context: &Context, folder: &Path) -> Result<()> {
    let mut damaged = 0;
    for (step, path) in found(folder)? {
        let problem = manifest::verify(&path).err().map(|error| error.to_string());
        damaged += usize::from(problem.is_some());
        let text = match &problem {
            None => format!("{}  whole", path.display()),
            Some(problem) => format!("{}  NOT WHOLE: {problem}", path.display()),
        };
        say(context, json!({ "path": path, "step": step, "whole": problem.is_none(), "problem": problem }), &text)?;
    }
    match damaged {
        0 => Ok(()),
        1 => Err(What::BadData("one checkpoint is not whole".into()).into()),
        _ => Err(What::BadData(format!("{damaged} checkpoints are not whole")).into()),
    }
}

/// The checkpoints that a folder means: those in it, or itself.
fn found(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let missing = |kind| Error::new(What::NotFound { kind, name: folder.display().to_string() });
    if !folder.is_dir() {
        return Err(missing("folder").hint("give the `output_dir` of a run, or one of its checkpoints"));
    }
    if folder.join(manifest::FILE).is_file() || folders::step_of(folder).is_some() {
        return Ok(vec![(folders::step_of(folder).unwrap_or(0), folder.to_path_buf())]);
    }
    match folders::all(folder)? {
        none if none.is_empty() => {
            Err(missing("checkpoint").hint("a run writes its checkpoints as `checkpoint-N` into its `output_dir`"))
        }
        all => Ok(all),
    }
}

fn say(context: &Context, body: Json, text: &str) -> Result<()> {
    if context.globals.json {
        let Json::Object(body) = body else { return Ok(()) };
        context.reporter.event("checkpoint", Map::from_iter(body));
        return Ok(());
    }
    print(&format!("{text}\n"))
}
