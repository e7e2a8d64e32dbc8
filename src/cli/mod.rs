//! The command line: one file per command, and what they share.
//!
//! Arguments flow in, an exit code flows out (sysexits.h). A command is a file with a clap struct and an
//! `execute`, and one line in the list below.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cancel::meter;
use crate::data::permissions::{Grants, Permissions};
use crate::error::{Error, Result, What};
use crate::host::builds::Builds;
use crate::host::diagnostics::{Diagnostic, Outcome, Style};
use crate::host::run::RunSettings;
use crate::host::sources::Sources;
use crate::kernels;
use crate::memory;
use crate::plugin::canary;
use crate::report::{Output, Reporter};
use crate::tensor::device;

macro_rules! commands {
    ($($(#[$doc:meta])* $file:ident :: $name:ident),* $(,)?) => {
        $(mod $file;)*

        #[derive(Subcommand)]
        enum Command {
            $($(#[$doc])* $name($file::$name)),*
        }

        impl Command {
            fn execute(self, context: &Context) -> Outcome {
                match self {
                    $(Command::$name(command) => command.execute(context)),*
                }
            }
        }
    };
}

commands![
    /// Run a recipe
    run::Run,
    /// Run a recipe, take up its edits while it runs, and run it again where that cannot be
    watch::Watch,
    /// Look at a run that is at work, or change it
    ctl::Ctl,
    /// Repeat a run that was watched, with its edits at their updates
    replay::Replay,
    /// Write a recipe that does from its start what a run did with its edits
    bake::Bake,
    /// Compile a recipe and all its imports, and say what is wrong
    check::Check,
    /// Use a saved model on a text, or on every line of standard input
    predict::Predict,
    /// Make something new to start from
    new::New,
    /// Allow, list, remove, look at and try out plugins
    plugin::Plugin,
    /// List checkpoints, and see whether they are whole
    checkpoint::Checkpoint,
    /// Print the reference of everything a script may call
    reference::Reference,
];

mod watched;

/// What the help says of the environment.
const ENVIRONMENT: &str = "\
Environment:
  RETUNE_KERNELS  \"amx\", \"avx512\" or \"gemm\", of which the first that the machine has is the default; \"emulated\"
                  (what amx computes, anywhere) and \"reference\" (plain tensor operations) are slower, for comparison
  RETUNE_MEMORY   How much memory the program may take, such as 6G or 500M; else what the machine has left
  RETUNE_CALL_SECONDS
                  How long one call of a script's function may compute: 60 unless it is given, 0 for ever
  RETUNE_HOME     Where allowed plugins are kept; else $XDG_DATA_HOME/retune, else ~/.local/share/retune
  NO_COLOR        Leave out colours";

/// Fine-tune transformers from Rhai scripts.
#[derive(Parser)]
#[command(name = "retune", version, arg_required_else_help = true, subcommand_required = true, after_help = ENVIRONMENT)]
struct CommandLine {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// The flags that every command takes.
#[derive(Args, Clone, Debug)]
pub struct Globals {
    /// Write one JSON object a line to stdout, and people's text to stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Leave out loading reports and progress
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Where tensors live
    #[arg(long, global = true, default_value = "auto", value_parser = clap::builder::PossibleValuesParser::new(device::NAMES))]
    pub device: String,
    /// Let scripts read below PATH too, beside the working directory and the recipe's folder
    #[arg(long, global = true, value_name = "PATH")]
    pub allow_read: Vec<PathBuf>,
    /// Let scripts write and read below PATH too, beside the working directory
    #[arg(long, global = true, value_name = "PATH")]
    pub allow_write: Vec<PathBuf>,
    /// Use this seed instead of the recipe's
    #[arg(long, global = true)]
    pub seed: Option<u64>,
    /// Use the library in DIR instead of the embedded one
    #[arg(long, global = true, value_name = "DIR")]
    pub stdlib: Option<PathBuf>,
    /// Look for tasks `plugin:NAME` in FILE, a plugin that was allowed
    #[arg(long, global = true, value_name = "FILE")]
    pub plugin: Vec<PathBuf>,
}

/// What a command works with.
pub struct Context {
    /// The flags.
    pub globals: Globals,
    /// Where everything that is shown goes.
    pub reporter: Reporter,
    /// The scripts that diagnostics show lines of.
    pub sources: Sources,
}

impl Context {
    /// The same, with other scripts to show lines of.
    fn with(&self, sources: &Sources) -> Context {
        Context { globals: self.globals.clone(), reporter: self.reporter.clone(), sources: sources.clone() }
    }

    /// What scripts may read and write beside their own folder and the working directory.
    ///
    /// # Errors
    /// An empty path.
    fn grants(&self) -> Result<Grants> {
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).map_err(|source| Error::new(What::Read { path: path.clone(), source }))
        };
        let all = |paths: &[PathBuf]| paths.iter().map(absolute).collect::<Result<_>>();
        Ok(Grants { read: all(&self.globals.allow_read)?, write: all(&self.globals.allow_write)? })
    }

    /// The settings of a run of `recipe`, with `name=value` arguments.
    ///
    /// # Errors
    /// A device that is not there, a `--stdlib` that is no folder, or an argument without `=`.
    pub fn run_settings(&self, recipe: PathBuf, arguments: &[String]) -> Result<RunSettings> {
        if let Some(stdlib) = self.globals.stdlib.as_ref().filter(|folder| !folder.is_dir()) {
            let name = stdlib.display().to_string();
            return Err(Error::new(What::NotFound { kind: "folder", name })
                .hint("`--stdlib` wants a folder like the embedded library"));
        }
        let permissions = Permissions::of_recipe(&recipe, &working_dir()?, &self.grants()?);
        Ok(RunSettings {
            recipe,
            arguments: parse_arguments(arguments)?,
            stdlib: self.globals.stdlib.clone(),
            device: device::open(&self.globals.device)?,
            seed: self.globals.seed,
            reporter: self.reporter.clone(),
            plugins: self.globals.plugin.clone(),
            builds: Builds::default(),
            permissions,
        })
    }
}

fn working_dir() -> Result<PathBuf> {
    std::env::current_dir().map_err(|source| What::Read { path: ".".into(), source }.into())
}

/// Runs the command line `arguments`, program name first, and returns the exit code.
pub fn main(arguments: Vec<OsString>) -> u8 {
    let command_line = match CommandLine::try_parse_from(&arguments) {
        Ok(command_line) => command_line,
        Err(refused) => return refuse(&refused, arguments.iter().any(|argument| argument == "--json")),
    };
    let CommandLine { globals, command } = command_line;
    let reporter = Reporter::terminal(Output { json: globals.json, quiet: globals.quiet });
    // Plugins are tried out in a child process, which is this program again.
    if let Ok(program) = std::env::current_exe() {
        canary::set_program(program);
    }
    let context = Context { globals, reporter, sources: Sources::default() };
    if let Some(complaint) = kernels::tiles::complaint() {
        context.reporter.warning(complaint);
    }
    let environment = kernels::path_from_env().map(|_| ());
    let outcome = match environment.and_then(|()| memory::check_variable()).and_then(|()| meter::check_variable()) {
        Ok(()) => command.execute(&context),
        Err(error) => Err(Box::new(Diagnostic::from(&error))),
    };
    match outcome {
        Ok(()) => 0,
        Err(diagnostic) => {
            fail(&context, &diagnostic);
            diagnostic.exit_code
        }
    }
}

/// Shows a failure: on stderr for people, and as an event for programs.
fn fail(context: &Context, diagnostic: &Diagnostic) {
    context.reporter.event("error", diagnostic.to_json(&context.sources));
    let colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let style = if colored { Style::Colored } else { Style::Plain };
    // Where stderr is closed, nobody is left to be told.
    let _ = writeln!(std::io::stderr(), "{}", diagnostic.render(&context.sources, style));
}

/// Shows what clap says about a wrong command line (64), or the help or version that was asked for (0).
fn refuse(refused: &clap::Error, json: bool) -> u8 {
    // Where the stream is closed, nobody is left to be told.
    let _ = refused.print();
    if !refused.use_stderr() {
        return 0;
    }
    let text = refused.to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string();
    let usage = Error::new(What::Usage(message)).hint("`retune --help` lists the commands");
    let diagnostic = Diagnostic::from(&usage);
    if json {
        Reporter::terminal(Output { json, quiet: false }).event("error", diagnostic.to_json(&Sources::default()));
    }
    diagnostic.exit_code
}

/// Writes text to stdout. A reader that went away is no failure: `retune reference | head` is fine.
///
/// # Errors
/// Any other failure to write.
fn print(text: &str) -> Result<()> {
    let written = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
    match written {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(What::Write { path: "stdout".into(), source }.into())
        }
        _ => Ok(()),
    }
}

/// `name=value` pairs; a name given twice is an error.
fn parse_arguments(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    let mut arguments = BTreeMap::new();
    for pair in pairs {
        let usage = |text: String| Error::new(What::Usage(text));
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(usage(format!("`{pair}` is not of the form `name=value`"))
                .hint("arguments of the recipe are written `name=value`, without spaces around `=`"));
        };
        if arguments.insert(name.to_string(), value.to_string()).is_some() {
            return Err(usage(format!("the argument `{name}` is given twice")));
        }
    }
    Ok(arguments)
}
