//! `retune run RECIPE [name=value ...]`: runs a recipe from its first line to its last.

use std::path::PathBuf;

use clap::Args;

use crate::cli::Context;
use crate::host::diagnostics::Outcome;
use crate::host::run::Host;

/// Run a recipe.
#[derive(Args)]
pub(super) struct Run {
    /// The recipe, a `.rhai` file
    recipe: PathBuf,
    /// What the recipe asks for with `arg("name", default)`
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
}

impl Run {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        let settings = context.run_settings(self.recipe, &self.arguments)?;
        let host = Host::new(settings, &context.sources);
        host.run()?;
        context.reporter.finish();
        Ok(())
    }
}
