//! `retune watch RECIPE [name=value ...]`: runs a recipe, changes the run when its scripts change, and runs it again where that
//! cannot be.

use std::path::PathBuf;

use clap::Args;

use crate::cancel;
use crate::cli::watched::{Next, Steering, WatchFlags, wait};
use crate::cli::{Context, fail};
use crate::data::stages;
use crate::host::diagnostics::{Diagnostic, Outcome};
use crate::host::reload::Reruns;
use crate::host::run::Host;
use crate::host::signals;
use crate::host::sources::Sources;
use crate::host::watching;
use crate::kernels::memory;

/// Run a recipe, and take up its edits while it runs.
#[derive(Args)]
pub(super) struct Watch {
    /// The recipe, a `.rhai` file
    recipe: PathBuf,
    /// What the recipe asks for with `arg("name", default)`
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// Run the recipe again at every edit, instead of changing the run that goes on
    #[arg(long)]
    restart: bool,
    /// Load and encode everything anew each time the recipe runs
    #[arg(long)]
    no_cache: bool,
    /// Say for each data set, tokenizer and set of weights whether it was kept from the run before, and why not
    #[arg(long)]
    explain_cache: bool,
    #[command(flatten)]
    flags: WatchFlags,
}

impl Watch {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        let settings = context.run_settings(self.recipe, &self.arguments)?;
        let reruns = if self.restart { Reruns::Always } else { Reruns::WhereNeeded };
        memory::keep();
        if !self.no_cache {
            let reporter = context.reporter.clone();
            let explain = self.explain_cache.then(|| Box::new(move |line: &str| reporter.note(line)) as stages::Explain);
            stages::keep(explain);
        }
        signals::listen();
        let mut steering = Steering::default();
        let mut runs = 0;
        loop {
            let sources = Sources::default();
            let host = Host::new(settings.clone(), &sources);
            self.flags.apply(&host)?;
            let live = host.session.live().clone();
            let _watching = watching::watch(&host, self.flags.notice(), reruns)?;
            // A recipe that was there and cannot be read now may be written soon.
            let outcome = match host.record() {
                Err(error) if runs == 0 => return Err(error.into()),
                Err(error) => Err(Box::new(Diagnostic::from(&error))),
                Ok(()) => {
                    steering.turn_to(&host, context);
                    host.run()
                }
            };
            runs += 1;
            if let Some((why, _)) = live.restart() {
                context.reporter.note(&format!("again from the first line: {why}"));
                context.reporter.begin_again();
                continue;
            }
            if let Err(stopped) = cancel::check() {
                return outcome.and(Err(Box::new(Diagnostic::from(&stopped))));
            }
            match outcome {
                Ok(()) => context.reporter.finish(),
                Err(diagnostic) => fail(&context.with(&sources), &diagnostic),
            }
            context.reporter.note("waiting for a change");
            if wait(&live, &context.reporter)? == Next::End {
                return Ok(());
            }
            context.reporter.begin_again();
        }
    }
}
