//! A run again, with every change at its update: to the same bits.
//!
//! The record of a run flows in; the same texts run with the same arguments in another folder, the edits that it had adopted
//! are proposed before the updates they were adopted at, and what became of them is compared with the record.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::api::live::{Request, unanswered};
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::host::builds::{Builds, Libraries};
use crate::host::diagnostics::Outcome as Ran;
use crate::host::reload::{Reloader, Reruns};
use crate::host::run::{Host, RunSettings};
use crate::host::sources::Sources;
use crate::plugin::Trust;
use crate::train::ledger::{Entry, Outcome, Recorded};
use crate::train::live_arguments::{RatePolicy, policy};

/// A version is as slow as it was, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The settings of a run as it was recorded; device and reporter are those of `now`.
pub fn settings(recorded: &Recorded, now: RunSettings) -> RunSettings {
    let start = &recorded.start;
    RunSettings {
        recipe: PathBuf::from(&start.recipe),
        arguments: start.arguments.clone(),
        stdlib: start.stdlib.clone(),
        seed: start.seed,
        ..now
    }
}

/// A host for the recorded run, whose files go to `folder` instead. Its texts are those of the record.
///
/// # Errors
/// A record without its texts.
pub fn host(recorded: &Recorded, settings: RunSettings, sources: &Sources, folder: &Path) -> Result<Host> {
    let texts = recorded.first_texts()?.into_iter().map(|(name, text)| (name, Arc::from(text.as_str())));
    sources.hold_only(texts.collect());
    let host = Host::new(settings, sources);
    host.builds.fix(libraries(recorded, &host.builds)?);
    host.session.redirect(&recorded.start.output_dir, &folder.display().to_string());
    Ok(host)
}

/// The plugins that the run began with. All that it has had must have been allowed, or trusted while it was watched.
fn libraries(recorded: &Recorded, builds: &Builds) -> Result<Libraries> {
    if recorded.start.plugins.is_empty() {
        return Ok(Libraries::new());
    }
    let loader = builds.loader(&[])?;
    let adopted = recorded.entries.iter().filter(|entry| entry.outcome == Outcome::Adopted);
    let later = adopted.flat_map(|entry| entry.files.iter().map(|file| (&file.file, &file.new)));
    for (file, digest) in recorded.start.plugins.iter().chain(later) {
        if recorded.build(digest)?.is_some() && !loader.store.knows(digest) {
            let problem = format!("a build of the plugin `{file}` was not allowed to run (sha256 {})", &digest[..16]);
            let place = recorded.build_file(digest);
            return Err(Error::new(What::NotAllowed(problem)).hint(format!(
                "the run was made by somebody else or elsewhere: if you trust it, `retune plugin allow {}`",
                place.display()
            )));
        }
    }
    let open = |(file, digest): (&String, &String)| {
        let missing = || {
            Error::new(What::Read { path: recorded.build_file(digest), source: std::io::ErrorKind::NotFound.into() })
        };
        let content = recorded.build(digest)?.ok_or_else(missing)?;
        Ok((file.clone(), loader.load_bytes(Path::new(file), &content, Trust::Rebuild)?))
    };
    recorded.start.plugins.iter().map(open).collect()
}

/// Runs it, and says where it went another way.
///
/// # Errors
/// What the recipe raises, and a ledger that is not the recorded one.
pub fn run(host: &Host, recorded: &Recorded) -> Ran {
    let reloader = Reloader::new(host, Reruns::Never);
    let live = host.session.live().clone();
    live.set(|settings| settings.shadow_time = PATIENCE);
    let entries: Vec<Entry> = recorded
        .entries
        .iter()
        .filter(|entry| entry.outcome == Outcome::Adopted && !is_scheduled(entry))
        .cloned()
        .collect();
    let (texts, follower) = (recorded.clone(), live.clone());
    live.follow(Box::new(move |step| {
        let due = entries.iter().filter(|entry| entry.step == step);
        due.filter_map(|entry| {
            let chosen = entry.lr_policy.as_deref().and_then(|name| policy(name).ok()).unwrap_or(RatePolicy::KeepShape);
            follower.set(|settings| settings.policy = chosen);
            request(entry, chosen, &texts, &reloader)
        })
        .collect()
    }));
    host.run()?;
    let happened = |entries: &[Entry]| {
        let counts = entries.iter().filter(|entry| matches!(entry.outcome, Outcome::Adopted | Outcome::RolledBack));
        counts.map(|entry| (entry.step, entry.outcome)).collect::<Vec<_>>()
    };
    let (recorded, now) = (happened(&recorded.entries), happened(&live.book().ledger()));
    if recorded != now {
        let at =
            recorded.iter().zip(&now).position(|(one, other)| one != other).unwrap_or(recorded.len().min(now.len()));
        let step = [recorded.get(at), now.get(at)].into_iter().flatten().map(|(step, _)| *step).min().unwrap_or(0);
        let problem = format!("the run went another way at step {step} than its record says");
        return Err(Error::new(What::Conflict(problem))
            .hint("the scripts that it read from disk, or its data, are not what they were")
            .into());
    }
    Ok(())
}

/// Whether the recipe itself asked for it, as it will again.
fn is_scheduled(entry: &Entry) -> bool {
    entry.message.as_deref() == Some(crate::api::between::SCHEDULED)
}

fn request(entry: &Entry, policy: RatePolicy, recorded: &Recorded, reloader: &Reloader) -> Option<Request> {
    if !entry.files.is_empty() {
        let mut texts = Vec::new();
        for file in &entry.files {
            match recorded.build(&file.new) {
                Ok(Some(content)) => {
                    if let Some(refused) = reloader.note_build(&file.file, Some(content.into())) {
                        return Some(refused);
                    }
                }
                _ => {
                    let text = recorded.text(&file.new).ok().map(|text| Arc::from(text.as_str()));
                    texts.push((file.file.clone(), text));
                }
            }
        }
        return reloader.propose(texts);
    }
    match entry.action.as_deref() {
        Some("evaluate") => Some(Request::Evaluate(unanswered())),
        Some("save") => Some(Request::Save(unanswered())),
        Some("stop") => Some(Request::Stop(unanswered())),
        _ => {
            let pairs = entry.arguments.iter().map(|change| (change.key.clone(), Value::from(change.new.clone())));
            Some(Request::Set(pairs.collect(), policy, unanswered()))
        }
    }
}
