//! One recipe that does from its start what a run did with its edits.
//!
//! The record of a run flows in; texts flow out in which each function that changed asks `current_update()` which of its
//! versions is to be called, and in which the arguments that changed stand in `changes` of the `TrainingArguments`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::error::{Error, Result, What};
use crate::host::pieces::{Function, Pieces, lex};
use crate::host::sources::imported_name;
use crate::train::ledger::{Entry, FileChange, Outcome, Recorded};
use crate::train::live_arguments::Takes;

/// A script that was written: its new name, beside the old one, and its text.
pub type Baked = (String, String);

/// The texts of the baked recipe, which comes first, and of the scripts that it needs in place of others.
///
/// # Errors
/// A record without its texts, or a change that a recipe cannot say.
pub fn bake(recorded: &Recorded) -> Result<Vec<Baked>> {
    let mut versions: BTreeMap<String, Vec<(usize, String)>> =
        recorded.first_texts()?.into_iter().map(|(name, text)| (name, vec![(0, text)])).collect();
    let mut changes = Vec::new();
    for entry in &effective(recorded)? {
        for FileChange { file, old, new, .. } in &entry.files {
            if recorded.build(new)?.is_some() || recorded.build(old)?.is_some() {
                return Err(unsayable(&format!("the plugin `{file}` was built anew at step {}", entry.step)));
            }
            versions.entry(file.clone()).or_default().push((entry.step, recorded.text(new)?));
        }
        changes.extend(change(entry));
    }
    let recipe = &recorded.start.recipe;
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (name, versions) in &versions {
        if versions.len() > 1 {
            texts.insert(name.clone(), merged(name, versions)?);
        }
    }
    let first = |name: &String| versions.get(name).and_then(|all| all.first()).map(|(_, text)| text.clone());
    let mut baked = texts.remove(recipe).or_else(|| first(recipe)).unwrap_or_default();
    if !changes.is_empty() {
        baked = with_changes(&baked, &changes)?;
    }
    // Scripts that were edited get names of their own, and whoever names them the new names.
    let renamed: Vec<(String, String)> =
        texts.keys().filter(|name| !name.starts_with("std/")).map(|name| (name.clone(), baked_name(name))).collect();
    if let Some(library) = texts.keys().find(|name| name.starts_with("std/")) {
        return Err(unsayable(&format!("`{library}` of the library was edited")));
    }
    let mut all = vec![(baked_name(recipe), redirected(recipe, &baked, &renamed))];
    for (name, text) in &texts {
        all.push((baked_name(name), redirected(name, text, &renamed)));
    }
    Ok(all)
}

fn unsayable(what: &str) -> Error {
    Error::new(What::Unsupported(format!("a recipe for this run ({what})"))).hint("`retune replay` repeats it")
}

/// The entries that made a difference. One that takes a version back is one that brings the texts before it again.
fn effective(recorded: &Recorded) -> Result<Vec<Entry>> {
    let mut kept: Vec<Entry> = Vec::new();
    for entry in &recorded.entries {
        match entry.outcome {
            Outcome::Adopted if entry.message.as_deref() != Some(crate::api::between::SCHEDULED) => {
                kept.push(entry.clone());
            }
            Outcome::RolledBack => {
                if let Some(function) = used(recorded, entry)? {
                    let what = format!(
                        "`{function}` was called at step {} by a version that was taken back then",
                        entry.step + 1
                    );
                    return Err(unsayable(&what));
                }
                match kept.iter_mut().rev().find(|known| !known.files.is_empty()) {
                    // What failed in its first update has done nothing.
                    Some(known) if known.step == entry.step => known.files.clear(),
                    _ => kept.push(entry.clone()),
                }
            }
            _ => {}
        }
    }
    Ok(kept)
}

/// A function of a version that was called in the update in which it was taken back: `current_update()` cannot tell its calls apart.
fn used(recorded: &Recorded, entry: &Entry) -> Result<Option<String>> {
    let mut pieces = Vec::new();
    for file in &entry.files {
        if recorded.build(&file.old)?.is_none() {
            pieces.push(Pieces::of(&recorded.text(&file.old)?));
        }
    }
    let mut seen = BTreeSet::new();
    let mut next: Vec<String> = entry.called.clone();
    while let Some(name) = next.pop() {
        if seen.insert(name.clone()) {
            let own = pieces.iter().flat_map(|pieces| &pieces.functions).filter(|function| function.name == name);
            let mentions = own.flat_map(|function| &function.mentions);
            next.extend(mentions.map(|name| name.rsplit("::").next().unwrap_or_default().to_string()));
        }
    }
    Ok(entry.functions.iter().find(|function| seen.contains(*function)).cloned())
}

/// What `changes` of the arguments says of an entry.
fn change(entry: &Entry) -> Option<String> {
    let mut map = serde_json::Map::from_iter([("step".to_string(), json!(entry.step))]);
    for change in entry.arguments.iter().filter(|change| change.takes != Takes::Restart) {
        map.insert(change.key.clone(), change.new.clone());
    }
    if let Some(policy) = entry.lr_policy.as_ref().filter(|policy| *policy != "keep_shape") {
        map.insert("lr_policy".into(), json!(policy));
    }
    if let Some(action) = &entry.action {
        map.insert(action.clone(), json!(true));
    }
    (map.len() > 1).then(|| literal(&Json::Object(map)))
}

/// A value as a script writes it.
fn literal(value: &Json) -> String {
    match value {
        Json::Null => "()".into(),
        Json::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}: {}", literal(value))).collect();
            format!("#{{ {} }}", pairs.join(", "))
        }
        Json::Array(values) => format!("[{}]", values.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Json::Number(number) if number.is_f64() => {
            let text = format!("{:?}", number.as_f64().unwrap_or(0.0));
            if text.contains(['.', 'e']) { text } else { format!("{text}.0") }
        }
        other => other.to_string(),
    }
}

/// The first version with the functions of all, each asking which of its versions is to be called.
fn merged(script: &str, versions: &[(usize, String)]) -> Result<String> {
    let pieces: Vec<Pieces> = versions.iter().map(|(_, text)| Pieces::of(text)).collect();
    let first = &versions[0].1;
    let mut text = String::new();
    let mut at = 0;
    for function in &pieces[0].functions {
        text += &first[at..function.span.start];
        text += &all_versions(script, function, versions, &pieces)?;
        at = function.span.end;
    }
    text += &first[at..];
    let known = |function: &Function, until: usize| {
        pieces[..until].iter().any(|pieces| pieces.function(&function.name, function.n_params).is_some())
    };
    for (number, later) in pieces.iter().enumerate().skip(1) {
        for function in later.functions.iter().filter(|function| !known(function, number)) {
            text += &format!("\n{}\n", all_versions(script, function, versions, &pieces)?);
        }
    }
    Ok(text)
}

/// A function as it is where no version differs, else its versions and one that chooses.
fn all_versions(script: &str, function: &Function, versions: &[(usize, String)], pieces: &[Pieces]) -> Result<String> {
    let mut found: Vec<(usize, &Function, &str)> = Vec::new();
    for ((step, text), pieces) in versions.iter().zip(pieces) {
        let Some(version) = pieces.function(&function.name, function.n_params) else { continue };
        if found.last().is_none_or(|(_, last, _)| last.tokens != version.tokens) {
            found.push((*step, version, &text[version.span.clone()]));
        }
    }
    if found.len() == 1 {
        return Ok(found[0].2.to_string());
    }
    let (head, parameters) = head_of(function, found[0].2)
        .ok_or_else(|| unsayable(&format!("`{}` of {script} is a method", function.name)))?;
    let mut text = String::new();
    for (number, (_, version, source)) in found.iter().enumerate() {
        let name_at = version.name_at - version.span.start;
        let (before, after) = (&source[..name_at], &source[name_at + version.name.len()..]);
        text += &format!("{before}{}__{}{after}\n\n", version.name, number + 1);
    }
    text += &format!("{head} {{\n");
    for number in 1..=found.len() {
        let call = format!("{}__{number}({parameters})", function.name);
        match found.get(number) {
            Some((until, ..)) => text += &format!("    if current_update() <= {until} {{ return {call}; }}\n"),
            None => text += &format!("    {call}\n"),
        }
    }
    Ok(text + "}")
}

/// `fn name(a, b)` and `a, b`.
fn head_of(function: &Function, source: &str) -> Option<(String, String)> {
    let name_at = function.name_at - function.span.start;
    // A method has its type between `fn` and its name.
    if !source[..name_at].trim_end().ends_with("fn") || source.contains("this") {
        return None;
    }
    let open = name_at + source[name_at..].find('(')?;
    let close = open + source[open..].find(')')?;
    let names: Vec<&str> =
        lex(&source[open + 1..close]).iter().map(|token| token.text).filter(|text| *text != ",").collect();
    Some((source[..=close].to_string(), names.join(", ")))
}

/// The text with `changes` in its one `TrainingArguments(#{ ... })`.
fn with_changes(text: &str, changes: &[String]) -> Result<String> {
    let pieces = Pieces::of(text);
    let [arguments] = pieces.arguments.as_slice() else {
        return Err(unsayable("its arguments changed, and the recipe has not one `TrainingArguments(#{ ... })`"));
    };
    let (before, after) = text.split_at(arguments.end);
    let comma = if arguments.values.is_empty() || before.trim_end().ends_with(',') { "" } else { "," };
    let list: String = changes.iter().map(|change| format!("        {change},\n")).collect();
    Ok(format!("{}{comma}\n    changes: [\n{list}    ],\n{after}", before.trim_end()))
}

/// `folder/name.baked.rhai`.
fn baked_name(name: &str) -> String {
    format!("{}.baked.rhai", name.strip_suffix(".rhai").unwrap_or(name))
}

/// The text with the new names of scripts in its strings.
fn redirected(script: &str, text: &str, renamed: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut at = 0;
    for token in lex(text) {
        let Some(path) = token.text.strip_prefix('"').and_then(|path| path.strip_suffix('"')) else { continue };
        if path.is_empty() || path.starts_with("std/") {
            continue;
        }
        // An import is looked up beside its script, a task in the working directory and beside the recipe.
        let beside = imported_name(script, path);
        let names = [beside.as_str(), path, &imported_name("", path)].map(str::to_string);
        let ends = |known: &str| names.iter().any(|name| name == known) || Path::new(known).ends_with(&names[2]);
        if renamed.iter().any(|(old, _)| ends(old)) {
            let stem = path.strip_suffix(".rhai").unwrap_or(path);
            out += &text[at..token.start];
            out += &format!("\"{stem}.baked.rhai\"");
            at = token.start + token.text.len();
        }
    }
    out + &text[at..]
}
