//! `retune check RECIPE`: compiles a recipe and all its imports and says everything that is wrong. A plugin is tried out instead,
//! as `retune plugin check` does.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Context, fail, plugin, print};
use crate::host::check::check;
use crate::host::diagnostics::Outcome;
use crate::host::run::Host;

/// Compile a recipe and all its imports, and say what is wrong.
#[derive(Args)]
pub(super) struct Check {
    /// The recipe, a `.rhai` file, or the library of a plugin
    recipe: PathBuf,
}

impl Check {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        if self.recipe.extension().is_some_and(|extension| extension == std::env::consts::DLL_EXTENSION) {
            return Ok(plugin::check(context, &self.recipe)?);
        }
        let host = Host::new(context.run_settings(self.recipe, &[])?, &context.sources);
        let checked = check(&host);
        let mut problems = checked.problems.into_iter().peekable();
        while let Some(problem) = problems.next() {
            // The last one is what the command fails with, and is shown by the caller.
            if problems.peek().is_none() {
                return Err(Box::new(problem));
            }
            fail(context, &problem);
        }
        if !context.globals.json {
            let scripts = match checked.scripts.len() {
                1 => String::new(),
                count => format!(" ({count} scripts)"),
            };
            print(&format!("{}: OK{scripts}\n", host.recipe_name()))?;
            if !checked.asked.names.is_empty() {
                print(&format!("arguments: {}\n", checked.asked.names.join(", ")))?;
            }
        }
        context.reporter.finish();
        Ok(())
    }
}
