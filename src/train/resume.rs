//! Going on from a checkpoint, and leaving one behind where a run ends before its time.
//!
//! A checkpoint flows in, and the run is where it was, bit for bit; what has changed since is said and recorded. A signal, a loss
//! that is not finite and the like flow in as errors: the last good state is saved before they are handed on.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use crate::data::digest::digest;
use crate::error::{Error, Place, Result, What};
use crate::train::checkpoint::progress::{MadeOf, Progress, Resumed};
use crate::train::checkpoint::{self, Scripts, manifest};
use crate::train::epochs::{Begun, Origin};
use crate::train::param_groups::GroupRates;
use crate::train::trainer::{Hooks, Run, Trainer, Why};
use crate::train::{SaveInterval, TrainingArguments, output_dir};

impl Trainer {
    /// Claims the output directory where the next run writes checkpoints into it; it is released when that run has ended.
    ///
    /// # Errors
    /// A directory that cannot be written to, or that another run is writing into.
    pub fn claim(&mut self) -> Result<()> {
        let args = &self.settings.args;
        let writes = args.save_strategy != SaveInterval::No && args.fast_dev_run.batches().is_none();
        if writes && self.lock.is_none() {
            self.lock = Some(output_dir::claim(&args.output_dir)?);
        }
        Ok(())
    }

    /// Puts the run where the checkpoint `from` was made.
    pub(super) fn resume(&mut self, from: &Path, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        let complete = manifest::verify(from)?;
        let (state, progress) = checkpoint::load(&self.settings.model, &complete, &mut run.optimizer)?;
        (self.state, run.progress) = (state, progress);
        let best = self.state.best_model_checkpoint.as_ref();
        self.state.best_model_checkpoint = best.map(|best| self.place_of(Path::new(best)).display().to_string());
        self.cut_anew(&mut run.progress);
        run.plan = self.plan(&run.prepared, run.progress.origin)?;
        run.schedule = self.schedule_of(run.progress.rate.as_ref(), run.plan.max_steps)?;
        let args = &self.settings.args;
        let parameters = self.settings.model.parameters();
        run.groups = GroupRates::new(parameters, &args.param_groups, args.learning_rate, &run.schedule)?;
        if let Some(state) = &run.progress.schedule {
            run.schedule.load_state(state)?;
        }
        if let Some(state) = &run.progress.group_schedules {
            run.groups.load_state(state)?;
        }
        self.load_callback_states(hooks)?;
        let step = self.state.global_step;
        hooks.note(&format!("resumed from {} at step {step}", from.display()));
        let mut changed = differences(&checkpoint::arguments_of(from)?, &self.settings.args);
        let scripts = hooks.scripts.as_ref().map_or_else(Scripts::default, |scripts| scripts());
        changed.extend(run.progress.made_of.changes(&self.made_of(&scripts)?));
        for change in &changed {
            hooks.note(&format!("changed since then: {change}"));
        }
        run.progress.resumed.push(Resumed { step, changed });
        Ok(())
    }

    /// Where batches are made in another way now: what is left of the epoch is cut anew, and epochs are counted from here.
    fn cut_anew(&self, progress: &mut Progress) {
        let (now, step) = (self.layout(), self.state.global_step);
        let Some(before) = progress.layout.replace(now).filter(|before| *before != now) else { return };
        let position = &mut progress.position;
        if position.ended {
            progress.origin = Origin { epoch: position.epoch + 1, step, begun: None };
            return;
        }
        let layout = progress.origin.begun(position.epoch).map_or(before, |begun| begun.layout);
        let begun = (position.rows > 0).then_some(Begun { layout, rows: position.rows });
        progress.origin = Origin { epoch: position.epoch, step, begun };
        position.updates = 0;
    }

    /// Does what was due when the checkpoint was made and a signal came first.
    pub(super) fn catch_up(&mut self, run: &mut Run, hooks: &mut Hooks<'_>) -> Result<()> {
        let position = &mut run.progress.position;
        if !std::mem::take(&mut position.evaluation_is_due) {
            return Ok(());
        }
        self.control.should_evaluate = true;
        self.control.should_save = std::mem::take(&mut position.save_is_due);
        self.log_evaluate_save(run, hooks)
    }

    /// What the run is made of.
    pub(super) fn made_of(&self, scripts: &Scripts) -> Result<MadeOf> {
        let scripts = scripts.iter().map(|(name, text)| (name.clone(), digest(text.as_bytes()))).collect();
        Ok(MadeOf {
            data: self.training_set()?.digest().to_string(),
            scripts,
            plugin: self.settings.model.task().record(),
        })
    }

    /// Where a folder of an earlier run is now: a run's folder may have been moved as a whole.
    fn place_of(&self, folder: &Path) -> PathBuf {
        let here = folder.file_name().map(|name| Path::new(&self.settings.args.output_dir).join(name));
        here.filter(|here| !folder.exists() && here.exists()).unwrap_or_else(|| folder.to_path_buf())
    }

    /// Saves the last good state where a run ends before its time and something would be lost, and says so in the error.
    pub(super) fn save_what_was_made(
        &mut self,
        result: Result<()>,
        run: &mut Run,
        hooks: &mut Hooks<'_>,
    ) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if !matches!(error.what(), What::Stopped { .. } | What::NonFinite(_)) {
            return Err(error);
        }
        let (step, stopped) = (self.state.global_step, matches!(error.what(), What::Stopped { .. }));
        if step == 0 {
            return Err(error);
        }
        if self.lock.is_none() {
            let hint = format!("{step} steps were made, and nothing is saved: `save_strategy` is \"no\"");
            return Err(if stopped { error.hint(hint) } else { error });
        }
        let folder = Path::new(&self.settings.args.output_dir).join(format!("checkpoint-{step}"));
        if run.saved.as_ref() != Some(&(step, run.progress.position.clone())) {
            self.save(Why::Ending, run, hooks).map_err(|failed| {
                failed.at(Place::Within(format!("saving the state after step {step}, because: {error}")))
            })?;
        }
        Err(error.hint(format!("{} is saved: go on with `resume_from_checkpoint: true`", folder.display())))
    }
}

impl Hooks<'_> {
    /// Refuses to go on once a signal has asked for the end.
    pub(super) fn refuse_to_go_on(&self) -> Result<()> {
        match self.interrupted.as_ref().and_then(|interrupted| interrupted()) {
            Some(signal) => Err(Error::new(What::Stopped { signal })),
            None => Ok(()),
        }
    }
}

/// The arguments that differ from those of a checkpoint, in words.
fn differences(before: &Map<String, Json>, args: &TrainingArguments) -> Vec<String> {
    /// What says how the run was begun.
    const OF_THE_CALL: [&str; 1] = ["resume_from_checkpoint"];
    let now = args.to_json();
    let differs = |key: &String| {
        let (old, new) = (before.get(key).unwrap_or(&Json::Null), now.get(key).unwrap_or(&Json::Null));
        (old != new && !OF_THE_CALL.contains(&key.as_str())).then(|| format!("{key} {old} -> {new}"))
    };
    let mut keys: Vec<&String> = now.keys().collect();
    keys.extend(before.keys().filter(|key| !now.contains_key(*key)));
    keys.into_iter().filter_map(differs).collect()
}
