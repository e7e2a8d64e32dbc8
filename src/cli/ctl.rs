//! `retune ctl RUN WHAT`: looks at a run and changes it from another terminal.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use crate::cli::{Context, parse_arguments, print};
use crate::error::{Error, Result, What};
use crate::host::control;
use crate::host::diagnostics::Outcome;
use crate::train::live_arguments::RatePolicy;

/// Look at a run, or change it.
#[derive(Args)]
pub(super) struct Ctl {
    /// The folder of the run: its `output_dir`
    run: PathBuf,
    #[command(subcommand)]
    what: Asked,
}

#[derive(Subcommand)]
enum Asked {
    /// Change arguments from the next update on, for example `learning_rate=1e-5`
    Set {
        /// The arguments and their new values
        #[arg(value_name = "NAME=VALUE", required = true)]
        arguments: Vec<String>,
        /// What becomes of the schedule when the learning rate changes
        #[arg(long, value_name = "POLICY", value_parser = clap::builder::PossibleValuesParser::new(RatePolicy::NAMES))]
        lr_policy: Option<String>,
    },
    /// Evaluate now
    Evaluate,
    /// Save a checkpoint now
    Save,
    /// End training before the next update; the recipe goes on behind it
    Stop,
    /// Pause, or go on
    Pause,
    /// Say where the run stands
    Status,
}

impl Ctl {
    pub(super) fn execute(self, context: &Context) -> Outcome {
        let answer = control::ask(&self.run, &self.what.request()?)?;
        if context.globals.json {
            let Json::Object(body) = answer else { return Ok(()) };
            context.reporter.event("control", body);
            return Ok(());
        }
        Ok(print(&shown(&answer))?)
    }
}

impl Asked {
    fn request(&self) -> Result<Json> {
        let word = match self {
            Asked::Set { arguments, lr_policy } => {
                let pairs = parse_arguments(arguments)?;
                let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Json::from(text.as_str()));
                let pairs: Map<String, Json> = pairs.iter().map(|(key, text)| (key.clone(), value(text))).collect();
                if pairs.contains_key("lr_policy") {
                    return Err(Error::new(What::Usage("`lr_policy` is no argument of a run".into()))
                        .hint("write `--lr-policy rewarp`"));
                }
                return Ok(json!({ "ask": "set", "arguments": pairs, "lr_policy": lr_policy }));
            }
            Asked::Evaluate => "evaluate",
            Asked::Save => "save",
            Asked::Stop => "stop",
            Asked::Pause => "pause",
            Asked::Status => "status",
        };
        Ok(json!({ "ask": word }))
    }
}

/// One line an entry; the arguments that changed one line each.
fn shown(answer: &Json) -> String {
    let Some(map) = answer.as_object() else { return format!("{answer}\n") };
    let mut lines = Vec::new();
    for (key, value) in map {
        match value {
            Json::Array(changes) if key == "arguments" => lines.extend(changes.iter().map(|change| {
                let text = |key: &str| change[key].as_str().unwrap_or_default().to_string();
                let when = if change["takes"] == "next_epoch" { " from the next epoch on" } else { "" };
                format!("{} {} -> {}{when}", text("key"), change["old"], change["new"])
            })),
            Json::Object(map) => {
                let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
                lines.push(format!("{key} {}", pairs.join(" ")));
            }
            Json::Null => {}
            value => lines.push(format!("{key} {value}")),
        }
    }
    lines.join("\n") + "\n"
}
