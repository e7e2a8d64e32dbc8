//! The generated reference: complete, fresh, and every example runs.

use retune::host::diagnostics::Style;
use retune::host::reference::{definitions, entries, markdown};
use retune::host::run::{Host, RunSettings};
use retune::host::sources::Sources;
use retune::report::Reporter;

use crate::wrong::updates;

fn host() -> Host {
    Host::new(RunSettings::new("", Reporter::capture()), &Sources::default())
}

#[test]
fn the_committed_reference_is_what_the_engine_says() {
    let engine = host().engine;
    for (path, expected) in [("docs/reference.md", markdown(&engine)), ("docs/retune.d.rhai", definitions(&engine))] {
        if updates() {
            std::fs::create_dir_all("docs").unwrap();
            std::fs::write(path, &expected).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == expected, "{path} is stale; RETUNE_UPDATE=1 rewrites it");
    }
}

#[test]
fn every_function_has_a_description_and_an_example() {
    let entries = entries(&host().engine);
    assert!(entries.len() >= 9, "only {} functions are registered", entries.len());
    let bare: Vec<String> = entries
        .iter()
        .filter(|entry| {
            let summary = entry.documentation.lines().next().unwrap_or_default();
            summary.starts_with("```") || !summary.ends_with(['.', ':']) || entry.examples().is_empty()
        })
        .map(|entry| format!("{} `{}`", entry.section, entry.name))
        .collect();
    assert!(bare.is_empty(), "without a summary sentence and an example: {bare:#?}");
}

/// Examples write files below the working directory, so each runs in a process of its own that has a temporary one.
#[test]
fn every_example_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in entries(&host().engine) {
        for example in entry.examples() {
            count += 1;
            let name = format!("example_{count}.rhai");
            std::fs::write(folder.path().join(&name), &example).unwrap();
            let run = std::process::Command::new(env!("CARGO_BIN_EXE_retune"))
                .args(["run", &name, "--device", "cpu"])
                .current_dir(folder.path())
                .output()
                .unwrap();
            if !run.status.success() {
                failures.push(format!("{} `{}`: {}", entry.section, entry.name, String::from_utf8_lossy(&run.stderr)));
            }
        }
    }
    assert!(count >= 9, "only {count} examples were found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The harness above would see an example that fails.
#[test]
fn an_example_that_is_wrong_fails() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("wrong.rhai");
    std::fs::write(&recipe, "expect(1 == 2, `numbers differ`);").unwrap();
    let sources = Sources::default();
    let failure = Host::new(RunSettings::new(recipe, Reporter::capture()), &sources).run().unwrap_err();
    assert!(failure.render(&sources, Style::Plain).starts_with("error: numbers differ\n"));
}
