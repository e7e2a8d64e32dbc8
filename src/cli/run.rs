//! `retune run RECIPE [name=value ...]`: runs a recipe from its first line to its last.

use std::path::PathBuf;

use clap::Args;

use crate::cli::Context;
use crate::cli::watched::{Steering, WatchFlags};
use crate::host::diagnostics::Outcome;
use crate::host::reload::Reruns;
use crate::host::run::Host;
use crate::host::signals;
use crate::host::watching;

/// Run a recipe.
#[derive(Args)]
pub(super) struct Run {
    /// The recipe, a `.rhai` file
    recipe: PathBuf,
    /// What the recipe asks for with `arg("name", default)`
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// Take up edits of the scripts while the run goes on, as `retune watch` does, and end when it has ended
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    flags: WatchFlags,
}

impl Run {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        let settings = context.run_settings(self.recipe, &self.arguments)?;
        let host = Host::new(settings, &context.sources);
        self.flags.apply(&host)?;
        let _watching = match self.watch {
            true => {
                host.record()?;
                Some(watching::watch(&host, self.flags.notice(), Reruns::Never)?)
            }
            false => None,
        };
        signals::listen();
        let mut steering = Steering::default();
        steering.turn_to(&host, context);
        host.run()?;
        context.reporter.finish();
        Ok(())
    }
}
