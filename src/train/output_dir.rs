//! The output directory of a run: claimed before any work is done, so that what cannot be saved is known at once.

use std::path::Path;

use crate::data::durable::{self, Lock};
use crate::error::{Error, Result, What};
use crate::head::Model;
use crate::memory::shown;
use crate::train::SaveInterval;
use crate::train::checkpoint::folders;
use crate::train::trainer::{Hooks, Trainer};

/// Claims `output_dir` for this run: makes it, locks it, sees that it can be written to, and removes what runs that died have
/// left half-written.
///
/// # Errors
/// A directory that cannot be made or written to, or that another run is writing into.
pub(super) fn claim(output_dir: &str) -> Result<Lock> {
    let folder = Path::new(output_dir);
    let hint = "choose another `output_dir`, or mend its permissions";
    durable::make_folder(folder).map_err(|error| error.hint(hint))?;
    let lock = Lock::of(folder).map_err(|error| error.hint(hint))?;
    durable::sweep(folder);
    Ok(lock)
}

impl Trainer {
    /// Refuses a disk that has no room for one checkpoint, and says where it has none for all that are to come.
    ///
    /// # Errors
    /// Too little room.
    pub(super) fn check_room(&self, hooks: &Hooks<'_>) -> Result<()> {
        let args = &self.settings.args;
        let folder = Path::new(&args.output_dir);
        let Some(free) = durable::free_space(folder) else { return Ok(()) };
        let one = checkpoint_size(&self.settings.model);
        if one > free {
            let problem = format!(
                "a checkpoint needs about {}, and {} has {}",
                shown(one.into()),
                args.output_dir,
                shown(free.into())
            );
            return Err(Error::new(What::Conflict(problem))
                .hint("make room, write elsewhere with `output_dir`, or set `save_strategy: \"no\"`"));
        }
        let there = folders::all(folder)?.len() as u64;
        let limit = args.save_total_limit.map(|limit| (limit as u64 + 1).saturating_sub(there));
        let planned = self.checkpoints_to_come() as u64;
        let kept = limit.map_or(planned, |limit| planned.min(limit));
        if kept.saturating_mul(one) > free {
            hooks.note(&format!(
                "{kept} checkpoints of about {} are planned, and {} has {}: set `save_total_limit`, or save less often",
                shown(one.into()),
                args.output_dir,
                shown(free.into())
            ));
        }
        Ok(())
    }

    /// How many checkpoints the arguments plan from here on.
    fn checkpoints_to_come(&self) -> usize {
        let state = &self.state;
        match self.settings.args.save_strategy {
            SaveInterval::No => 0,
            SaveInterval::Best => 1,
            SaveInterval::Epoch => state.num_train_epochs.saturating_sub(state.epoch as usize),
            SaveInterval::Steps => state.max_steps.saturating_sub(state.global_step).div_ceil(state.save_steps.max(1)),
        }
    }
}

/// The bytes of a checkpoint, but for small files: the weights and two moments of those that are trained, f32.
fn checkpoint_size(model: &Model) -> u64 {
    let parameters = model.parameters().all();
    let copies = |is_trainable: bool| if is_trainable { 3 } else { 1 };
    let numbers = parameters.iter().map(|one| one.value().elem_count() as u64 * copies(one.is_trainable()));
    numbers.sum::<u64>() * 4
}
