//! `retune bake RUN`: writes one recipe that does from its start what a run did with its edits.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::Context;
use crate::host::bake::bake;
use crate::host::diagnostics::Outcome;
use crate::data::durable::write_file;
use crate::train::ledger::Recorded;

/// Write a recipe that does from its start what a run did with its edits.
#[derive(Args)]
pub(super) struct Bake {
    /// The folder of the run: its `output_dir`
    run: PathBuf,
}

impl Bake {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        let recorded = Recorded::read(&self.run)?;
        for (name, text) in bake(&recorded)? {
            // Beside the script it comes from, so that data and scripts are found as before.
            let path = recorded.start.working_dir.join(Path::new(&name));
            write_file(&path, text.as_bytes())?;
            context.reporter.saved(&path);
        }
        Ok(())
    }
}
