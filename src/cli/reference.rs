//! `retune reference`: the generated reference as Markdown, or definitions for editors.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Context, print};
use crate::error::{Error, What};
use crate::host::diagnostics::Outcome;
use crate::host::reference::{definitions, markdown};
use crate::host::run::Host;

/// Print the reference of everything a script may call.
#[derive(Args)]
pub(super) struct Reference {
    /// Write `retune.d.rhai`, which editors read, to DIR instead
    #[arg(long, value_name = "DIR")]
    definitions: Option<PathBuf>,
}

impl Reference {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        let host = Host::new(context.run_settings(PathBuf::new(), &[])?, &context.sources);
        let Some(folder) = self.definitions else { return Ok(print(&markdown(&host.engine))?) };
        let path = folder.join("retune.d.rhai");
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, definitions(&host.engine)));
        Ok(written.map_err(|source| Error::new(What::Write { path, source }))?)
    }
}
