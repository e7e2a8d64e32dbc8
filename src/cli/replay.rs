//! `retune replay RUN`: a run again, with every edit at its update, to the same bits.

use std::path::PathBuf;

use clap::Args;

use crate::cli::Context;
use crate::data::permissions::Permissions;
use crate::error::What;
use crate::host::diagnostics::Outcome;
use crate::host::{replay, signals};
use crate::train::ledger::Recorded;

/// Repeat a run that was watched, with its edits at their updates.
#[derive(Args)]
pub(super) struct Replay {
    /// The folder of the run: its `output_dir`
    run: PathBuf,
    /// Where the files of the repetition go; RUN-replay unless it is given
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Replay {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        let recorded = Recorded::read(&self.run)?;
        let folder = self.output.unwrap_or_else(|| {
            let mut name = self.run.file_name().unwrap_or_default().to_os_string();
            name.push("-replay");
            self.run.with_file_name(name)
        });
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|source| crate::error::Error::new(What::Read { path, source }))
        };
        let folder = absolute(folder)?;
        let mut settings = replay::settings(&recorded, context.run_settings(PathBuf::new(), &[])?);
        let grants = context.grants()?;
        let place = recorded.start.working_dir.clone();
        if place.as_os_str().is_empty() || std::env::set_current_dir(&place).is_err() {
            context.reporter.warning(&format!("the run's folder `{}` is gone: paths are looked up here", place.display()));
        }
        // The folder of the repetition is the user's own choice.
        settings.permissions =
            Permissions::of_recipe(&settings.recipe, &super::working_dir()?, &grants).and_write(&folder);
        let host = replay::host(&recorded, settings, &context.sources, &folder)?;
        signals::listen();
        replay::run(&host, &recorded)?;
        context.reporter.note(&format!("the same changes at the same updates; files in {}", folder.display()));
        context.reporter.finish();
        Ok(())
    }
}
