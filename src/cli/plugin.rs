//! `retune plugin allow|list|remove|info|check`: which native code may run, and what it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use crate::cli::{Context, print};
use crate::error::{Error, Result, What, nearest};
use crate::head::plugin::check as try_out;
use crate::host::diagnostics::Outcome;
use crate::plugin::canary::{self, Effort, Line, PATIENCE};
use crate::plugin::load::{self, Loader};
use crate::plugin::store::{Allowed, Store};

/// Allow, list, remove, look at and try out plugins.
#[derive(Args)]
pub(super) struct Plugin {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Try a plugin out and let it run from now on: this build of it, wherever its file lies
    Allow {
        /// The library
        file: PathBuf,
    },
    /// List the plugins that may run
    List,
    /// Take the permission of a plugin back
    Remove {
        /// Its name, the beginning of its sha256, or its file
        #[arg(value_name = "PLUGIN")]
        which: String,
    },
    /// Say what a plugin is: version, heads, functions, hash
    Info {
        /// Its library, its name, or the beginning of its sha256
        #[arg(value_name = "PLUGIN")]
        which: String,
    },
    /// Try a plugin out in a process of its own: shapes, gradients, memory, wrong inputs
    Check {
        /// The library
        file: PathBuf,
        /// Make each head, and do one forward and one backward, no more
        #[arg(long)]
        quick: bool,
        /// Try it out in this process, and say each step as a line of JSON
        #[arg(long, hide = true)]
        here: bool,
    },
}

impl Plugin {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        Ok(self.act(context)?)
    }

    fn act(self, context: &Context) -> Result<()> {
        match self.action {
            Action::Allow { file } => {
                let (allowed, lines) = Loader::new(Vec::new())?.allow(&file)?;
                show_lines(context, &lines)?;
                say(context, "allow", &allowed, &format!("allowed {}\n", described(&allowed)))
            }
            Action::List => {
                let all = Store::of_user()?.list()?;
                if all.is_empty() && !context.globals.json {
                    return print("no plugin may run; `retune plugin allow FILE` allows one\n");
                }
                all.iter().try_for_each(|one| say(context, "plugin", one, &format!("{}\n", described(one))))
            }
            Action::Remove { which } => {
                let store = Store::of_user()?;
                let found = find(&store, &which)?;
                store.remove(&found.sha256)?;
                say(context, "remove", &found, &format!("{} may not run any more\n", described(&found)))
            }
            Action::Info { which } => info(context, &which),
            Action::Check { file, quick: false, here: false } => check(context, &file),
            Action::Check { file, quick: true, here: false } => {
                load::read(&file)?;
                show_lines(context, &canary::run(&file, Effort::Quick, PATIENCE)?)
            }
            Action::Check { file, quick, here: true } => here(&file, if quick { Effort::Quick } else { Effort::Full }),
        }
    }
}

/// Tries a plugin out in a process of its own, and shows what was found.
///
/// # Errors
/// A file that is no plugin, or what is wrong with it.
pub(super) fn check(context: &Context, file: &Path) -> Result<()> {
    load::read(file)?;
    show_lines(context, &canary::run(file, Effort::Full, PATIENCE)?)
}

/// The canary itself: this process may die.
fn here(file: &Path, effort: Effort) -> Result<()> {
    canary::without_core_dumps();
    let tell = |line: &Line| {
        let text = serde_json::to_string(line).map_err(|error| Error::new(What::Internal(error.to_string())))?;
        print(&format!("{text}\n"))
    };
    tell(&Line::Doing("opening the library".into()))?;
    let (_, sha256) = load::read(file)?;
    let plugin = Arc::new(load::open(file, file, &sha256)?);
    try_out::check(&plugin, effort, &mut |line| {
        // Where nobody listens any more, there is nobody to tell that either.
        let _ = tell(&line);
    })?;
    tell(&Line::Done)
}

fn show_lines(context: &Context, lines: &[Line]) -> Result<()> {
    for line in lines {
        let text = match line {
            Line::Plugin { name, version, abi, heads } => {
                format!("{name} {version}, ABI {abi}, heads: {}", heads.join(", "))
            }
            Line::Passed(what) => format!("ok       {what}"),
            Line::Skipped(what) => format!("skipped  {what}"),
            Line::Doing(_) | Line::Failed(_) | Line::Done => continue,
        };
        if context.globals.json {
            let line = serde_json::to_value(line).map_err(|error| Error::new(What::Internal(error.to_string())))?;
            context.reporter.event("check", Map::from_iter([("found".to_string(), line)]));
        } else {
            print(&format!("{text}\n"))?;
        }
    }
    Ok(())
}

fn described(plugin: &Allowed) -> String {
    let Allowed { sha256, name, version, abi, heads, path, .. } = plugin;
    let heads = heads.iter().map(|head| format!("plugin:{head}")).collect::<Vec<_>>().join(", ");
    format!("{name} {version} ({heads}; ABI {abi}) sha256 {} {}", &sha256[..16.min(sha256.len())], path.display())
}

fn say(context: &Context, event: &str, plugin: &Allowed, text: &str) -> Result<()> {
    if context.globals.json {
        let body = serde_json::to_value(plugin).map_err(|error| Error::new(What::Internal(error.to_string())))?;
        context.reporter.event(event, body.as_object().cloned().unwrap_or_default());
        return Ok(());
    }
    print(text)
}

/// The allowed plugin that a name, a head, the beginning of a hash or a file means.
fn find(store: &Store, plugin: &str) -> Result<Allowed> {
    let hash = load::read(Path::new(plugin)).ok().map(|(_, hash)| hash);
    let all = store.list()?;
    let means = |one: &&Allowed| {
        hash.as_ref() == Some(&one.sha256)
            || one.name == plugin
            || one.heads.iter().any(|head| head == plugin.trim_start_matches("plugin:"))
            || (plugin.len() >= 4 && one.sha256.starts_with(plugin))
    };
    if let Some(found) = all.iter().find(means) {
        return Ok(found.clone());
    }
    let error = Error::new(What::NotFound { kind: "plugin", name: plugin.to_string() });
    Err(match nearest(plugin, all.iter().flat_map(|one| one.heads.iter().chain([&one.name]).map(String::as_str))) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("`retune plugin list` shows what may run"),
    })
}

fn info(context: &Context, plugin: &str) -> Result<()> {
    let store = Store::of_user()?;
    let path = Path::new(plugin);
    let allowed = find(&store, plugin);
    if let (Err(error), false) = (&allowed, path.is_file()) {
        return Err(error.clone());
    }
    // A file that was not allowed is not opened here: the canary says what it is.
    let file = allowed.as_ref().map_or_else(|_| path.to_path_buf(), |allowed| store.copy(&allowed.sha256));
    let (_, sha256) = load::read(&file)?;
    let lines = canary::run(&file, Effort::Quick, PATIENCE)?;
    let may_run = store.allows(&sha256);
    let mut body: Map<String, Json> = Map::new();
    for line in &lines {
        if let Line::Plugin { name, version, abi, heads } = line {
            let parts = json!({
                "name": name, "version": version, "abi": abi, "heads": heads, "sha256": sha256, "allowed": may_run,
                "path": allowed.as_ref().map_or(path, |allowed| &allowed.path),
            });
            body.extend(parts.as_object().cloned().unwrap_or_default());
        }
    }
    if context.globals.json {
        context.reporter.event("plugin", body);
        return Ok(());
    }
    for (key, value) in &body {
        let value = match value {
            Json::String(text) => text.clone(),
            Json::Array(list) => list.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        print(&format!("{key:<8} {value}\n"))?;
    }
    Ok(())
}
