//! `retune new plugin NAME`: what it makes builds, passes its own tests, is allowed, and trains, as it stands.

use std::process::Command;

use serde_json::Value as Json;

use super::{refused, repository, retune, succeeded};

#[test]
fn a_new_plugin_builds_tests_and_trains() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let said = succeeded(retune(home, &["new", "plugin", "my-mood"]));
    assert!(said.contains("cargo build --release") && said.contains("libmy_mood."), "{said}");
    let made = home.join("my-mood");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // A folder that stays, so that a second run of this test compiles little; it is named by the path it is for.
    for arguments in [&["test", "--release", "--offline"][..], &["build", "--release", "--offline"]] {
        let mut command = Command::new(&cargo);
        command.args(arguments).current_dir(&made).env("CARGO_TARGET_DIR", made.join("target"));
        let output = command.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !text.contains("warning"), "{text}");
    }
    let library = format!("target/release/{}my_mood.{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_EXTENSION);
    let run = |arguments: &[&str]| {
        let mut command = retune(home, arguments);
        command.current_dir(&made);
        succeeded(command)
    };
    assert!(run(&["plugin", "allow", &library]).contains("allowed my-mood 0.1.0 (plugin:my-mood"));
    let output = run(&["run", "train.rhai", "max_steps=60", "--json"]);
    let result: Json = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    let accuracy = result["metrics"]["eval_accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.55, "{result}");
    assert!(run(&["predict", "output", "What a film!", "--json"]).contains("\"label\""));
}

#[test]
fn the_copy_of_the_sdk_is_complete_and_another_can_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    succeeded(retune(home, &["new", "plugin", "one"]));
    for entry in std::fs::read_dir(repository("plugins/sdk/src")).unwrap() {
        let name = entry.unwrap().file_name();
        let copy = std::fs::read(home.join("one/sdk/src").join(&name)).unwrap_or_default();
        assert_eq!(copy, std::fs::read(repository("plugins/sdk/src").join(&name)).unwrap(), "{name:?}");
    }
    let sdk = repository("plugins/sdk").display().to_string();
    succeeded(retune(home, &["new", "plugin", "two", "--sdk", &sdk]));
    assert!(!home.join("two/sdk").exists());
    assert!(std::fs::read_to_string(home.join("two/Cargo.toml")).unwrap().contains(&sdk));
    for (arguments, expected, code) in [
        (&["new", "plugin", "one"][..], "`one` is there already", 64),
        (&["new", "plugin", "My Mood"], "cannot be the name of a crate", 64),
        (&["new", "plugin", "three", "--sdk", "nowhere"], "folder `nowhere` was not found", 66),
    ] {
        let (text, found) = refused(retune(home, arguments));
        assert!(text.contains(expected) && found == Some(code), "{text}");
    }
}
