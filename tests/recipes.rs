//! Recipes that check themselves: every `recipes/*.rhai` runs in a folder of its own and must end without an error.

use std::path::Path;
use std::process::Command;

#[test]
fn every_recipe_holds_what_it_expects() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut recipes: Vec<_> =
        std::fs::read_dir(tests.join("recipes")).unwrap().map(|entry| entry.unwrap().path()).collect();
    recipes.retain(|path| path.extension().is_some_and(|extension| extension == "rhai"));
    recipes.sort();
    assert!(recipes.len() >= 5, "{recipes:?}");
    let running = recipes.iter().map(|recipe| {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
        let command =
            command.args(["run", "--quiet", "--allow-read"]).arg(&tests).arg(recipe).current_dir(place.path());
        let command = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        (recipe, command.spawn().unwrap(), place)
    });
    let mut failed = Vec::new();
    for (recipe, child, _place) in running.collect::<Vec<_>>() {
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            failed.push(format!("{}\n{}", recipe.display(), String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
