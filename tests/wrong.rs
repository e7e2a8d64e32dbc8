//! Wrong recipes: each `tests/wrong/NAME.rhai` must fail with exactly the text of `tests/wrong/NAME.txt`.
//!
//! A recipe may begin with `// args: name=value ...`; its input files are in `tests/wrong/files`.
//! `RETUNE_UPDATE=1` writes what is shown now, to be read before it is committed.

use std::path::{Path, PathBuf};

use retune::host::diagnostics::Style;
use retune::host::run::{Host, RunSettings};
use retune::host::sources::Sources;
use retune::report::Reporter;

const FOLDER: &str = "tests/wrong";

/// The name of the variable that rewrites golden files.
pub(crate) fn updates() -> bool {
    std::env::var_os("RETUNE_UPDATE").is_some()
}

/// Runs a recipe in this process and renders its error; a recipe that ends well gives its output instead.
fn outcome(recipe: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(recipe).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("// args: ")).unwrap_or_default();
    let arguments = line.split_whitespace().map(|pair| {
        let (name, value) = pair.split_once('=').expect("arguments are written name=value");
        (name.to_string(), value.to_string())
    });
    let reporter = Reporter::capture();
    let settings = RunSettings { arguments: arguments.collect(), ..RunSettings::new(recipe, reporter.clone()) };
    let sources = Sources::default();
    match Host::new(settings, &sources).run() {
        Ok(()) => Ok(format!("{recipe:?} did not fail; it printed {:?}", reporter.captured())),
        Err(diagnostic) => Err(diagnostic.render(&sources, Style::Plain) + "\n"),
    }
}

#[test]
fn wrong_recipes_fail_with_the_text_that_was_agreed_on() {
    let mut recipes: Vec<PathBuf> = std::fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rhai"))
        .collect();
    recipes.sort();
    assert!(recipes.len() > 30, "only {} wrong recipes were found", recipes.len());
    let mut differences = String::new();
    for recipe in recipes {
        let golden = recipe.with_extension("txt");
        let shown = match outcome(&recipe) {
            Err(shown) => shown,
            Ok(problem) => {
                differences += &format!("{problem}\n");
                continue;
            }
        };
        if updates() {
            std::fs::write(&golden, &shown).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if shown != expected {
            differences += &format!("{}\n--- expected\n{expected}--- shown\n{shown}\n", golden.display());
        }
    }
    assert!(differences.is_empty(), "RETUNE_UPDATE=1 rewrites the golden files\n{differences}");
}

#[test]
fn every_golden_file_has_its_recipe() {
    for entry in std::fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            assert!(path.with_extension("rhai").is_file(), "{} has no recipe", path.display());
        }
    }
}
