//! The reference of the script API, generated from the live engine: Markdown for people, definitions for editors.
//!
//! The doc comments of registered functions flow in. Every function of ours has a summary and an example; a
//! test runs the examples and compares the committed files with what this writes.

use std::collections::BTreeMap;
use std::fmt::Write;

use rhai::Engine;

use crate::host::names::{Api, Function};

/// A function with all its signatures.
#[derive(Debug, Default)]
pub struct Entry {
    /// What it belongs to: a namespace, a type, or empty for plain functions.
    pub section: String,
    /// Its name as scripts write it.
    pub name: String,
    /// The calls that it takes.
    pub signatures: Vec<String>,
    /// The documentation of its overloads, one after the other.
    pub documentation: String,
}

impl Entry {
    /// The examples: the contents of its `rhai` code blocks.
    pub fn examples(&self) -> Vec<String> {
        let blocks = self.documentation.split("```rhai\n").skip(1);
        blocks.map(|block| block.split("```").next().unwrap_or_default().to_string()).collect()
    }
}

/// Everything that is registered beside Rhai's own library, sorted by section and name.
pub fn entries(engine: &Engine) -> Vec<Entry> {
    let mut api = Api::of(engine, false);
    // The engine keeps overloads in no order; the reference must not change from run to run.
    api.functions.sort_by_cached_key(Function::signature);
    let mut entries: BTreeMap<(String, String), Entry> = BTreeMap::new();
    for function in &api.functions {
        let section = section(&api, function);
        let name = match function.property() {
            Some(property) => format!(".{property}"),
            None if function.name.starts_with("index$") => "[]".into(),
            None => function.name.clone(),
        };
        let entry = entries.entry((section.clone(), name.clone())).or_default();
        (entry.section, entry.name) = (section, name);
        let signature = function.signature();
        if !entry.signatures.contains(&signature) {
            entry.signatures.push(signature);
        }
        if !entry.documentation.contains(&function.documentation) {
            let gap = if entry.documentation.is_empty() { "" } else { "\n\n" };
            write!(entry.documentation, "{gap}{}", function.documentation).expect("strings take all text");
        }
    }
    let mut entries: Vec<Entry> = entries.into_values().collect();
    for entry in &mut entries {
        entry.signatures.sort();
    }
    entries
}

/// The reference as Markdown.
pub fn markdown(engine: &Engine) -> String {
    let mut text = String::from(
        "# What a script may call\n\nGenerated from the engine by `retune reference`; every example runs as a test.\n\
         Rhai's own library (arrays, strings, maps, numbers) is described in the Rhai book.\n",
    );
    let mut section = None;
    for entry in entries(engine) {
        if section.as_ref() != Some(&entry.section) {
            let title = if entry.section.is_empty() { "Functions" } else { &entry.section };
            write!(text, "\n## {title}\n").expect("strings take all text");
            section = Some(entry.section.clone());
        }
        let signatures = entry.signatures.join("\n");
        write!(text, "\n### `{}`\n\n```text\n{signatures}\n```\n\n{}\n", entry.name, entry.documentation)
            .expect("strings take all text");
    }
    text
}

/// The definitions that editors read, without Rhai's own library.
pub fn definitions(engine: &Engine) -> String {
    let text = engine.definitions().with_headers(true).include_standard_packages(false).single_file();
    text.lines().map(|line| plain_result(line) + "\n").collect::<String>().replace("\n\n\n\n", "\n\n")
}

/// The engine copies the name of our result type, which means nothing to scripts: `-> ScriptResult<int >` becomes `-> int`.
fn plain_result(line: &str) -> String {
    let Some((before, after)) = line.split_once(" -> ScriptResult<") else { return line.to_string() };
    let inner = after.trim_end_matches(';').trim_end().trim_end_matches('>').trim();
    if inner == "()" { format!("{before};") } else { format!("{before} -> {inner};") }
}

fn section(api: &Api, function: &Function) -> String {
    if let Some(namespace) = function.namespace.as_ref().filter(|_| !function.is_global) {
        return namespace.clone();
    }
    let own = function.parameters.iter().map(|(_, typ)| typ).find(|typ| api.is_own_type(typ));
    own.or(function.namespace.as_ref()).cloned().unwrap_or_default()
}
