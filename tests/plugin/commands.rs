//! The command line: `retune plugin ...`, `--plugin`, `plugin_path`, models that were saved with a plugin, and the report of a crash.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::{compiled, refused, repository, retune, succeeded};

/// Trains three steps with the head `fault` and a save after each.
const RECIPE: &str = r#"
let options = #{ vocab_size: 20, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8 };
AutoModelForSequenceClassification::from_config(options + #{ model_type: "bert" }).save_pretrained("base");
let more = #{ };
if arg("library", "") != "" {
    more.plugin_path = arg("library", "");
}
let model = AutoModelForTask::from_pretrained("base", "plugin:fault", more);
let rows = [];
for i in 0..8 {
    rows.push(#{ input_ids: [1, 2 + i, 3], labels: 0 });
}
let trainer = Trainer(#{
    model: model, train_dataset: Dataset::from_rows(rows),
    args: TrainingArguments(#{ output_dir: "out", max_steps: 3, save_steps: 1, logging_steps: 1 }),
});
trainer.train();
trainer.save_model("saved");
"#;

fn folder(flags: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    compiled("tests/plugin/faults.c", flags, &folder.path().join("fault.so"));
    std::fs::write(folder.path().join("recipe.rhai"), RECIPE).unwrap();
    folder
}

#[test]
fn plugins_are_allowed_listed_looked_at_and_removed() {
    let folder = folder(&[]);
    let home = folder.path();
    assert!(succeeded(retune(home, &["plugin", "list"])).contains("no plugin may run"));
    let (text, code) = refused(retune(home, &["run", "recipe.rhai", "--plugin", "fault.so"]));
    assert!(text.contains("the plugin `fault.so` was not allowed to run") && code == Some(77), "{text}");
    let (text, code) = refused(retune(home, &["run", "recipe.rhai"]));
    assert!(text.contains("plugin `fault` was not found") && code == Some(66), "{text}");

    let info = succeeded(retune(home, &["plugin", "info", "fault.so"]));
    assert!(info.contains("allowed  false") && info.contains("abi      1.1"), "{info}");
    let allowed = succeeded(retune(home, &["plugin", "allow", "fault.so"]));
    for part in [
        "fault 0.1.0, ABI 1.1, heads: fault",
        "gradients agree",
        "memory is given back",
        "allowed fault 0.1.0 (plugin:fault",
    ] {
        assert!(allowed.contains(part), "{allowed}");
    }
    let listed = succeeded(retune(home, &["plugin", "list", "--json"]));
    let listed: Json = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&listed["event"], &listed["name"], &listed["heads"]),
        (&json!("plugin"), &json!("fault"), &json!(["fault"]))
    );
    let info = succeeded(retune(home, &["plugin", "info", "fault"]));
    assert!(info.contains("allowed  true"), "{info}");

    succeeded(retune(home, &["run", "recipe.rhai", "--quiet"]));
    succeeded(retune(home, &["run", "recipe.rhai", "--quiet", "library=fault.so"]));
    succeeded(retune(home, &["run", "recipe.rhai", "--quiet", "--plugin", "fault.so"]));

    let (text, code) = refused(retune(home, &["plugin", "remove", "falt"]));
    assert!(text.contains("did you mean `fault`?") && code == Some(66), "{text}");
    let hash = listed["sha256"].as_str().unwrap();
    assert!(succeeded(retune(home, &["plugin", "remove", &hash[..12]])).contains("may not run any more"));
    assert!(refused(retune(home, &["run", "recipe.rhai"])).0.contains("plugin `fault` was not found"));
}

#[test]
fn a_saved_model_says_which_plugin_it_needs() {
    let folder = folder(&[]);
    let home = folder.path();
    succeeded(retune(home, &["plugin", "allow", "fault.so"]));
    succeeded(retune(home, &["run", "recipe.rhai", "--quiet"]));
    let config: Json = serde_json::from_str(&std::fs::read_to_string(home.join("saved/config.json")).unwrap()).unwrap();
    assert_eq!(config["retune_task"], "plugin:fault");
    let recorded = &config["retune_plugin"];
    let hash = recorded["sha256"].as_str().unwrap().to_string();
    assert_eq!(*recorded, json!({ "name": "fault", "version": "0.1.0", "head": "fault", "sha256": hash }));

    let load = "AutoModelForTask::from_pretrained(\"saved\", \"plugin:fault\");";
    std::fs::write(home.join("load.rhai"), load).unwrap();
    succeeded(retune(home, &["run", "load.rhai", "--quiet"]));
    // Another build of the same head is used, and the difference is said.
    succeeded(retune(home, &["plugin", "remove", "fault"]));
    compiled("tests/plugin/faults.c", &["-DNAME=\"another\""], &home.join("other.so"));
    succeeded(retune(home, &["plugin", "allow", "other.so"]));
    let output = retune(home, &["run", "load.rhai"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let wanted =
        format!("the model was saved with another build of the plugin `fault`: version 0.1.0, sha256 {}", &hash[..16]);
    assert!(output.status.success() && stderr.contains(&wanted), "{stderr}");
    // Without any it says what is missing, in recipes and on the command line.
    succeeded(retune(home, &["plugin", "remove", "another"]));
    for command in [&["run", "load.rhai"][..], &["predict", "saved", "text"]] {
        let (text, code) = refused(retune(home, command));
        let wanted = format!("the model was saved with the plugin `fault` 0.1.0 (sha256 {})", &hash[..16]);
        assert!(text.contains("plugin `fault` was not found") && text.contains(&wanted) && code == Some(66), "{text}");
    }
}

#[test]
fn a_crash_in_a_plugin_is_reported_with_step_and_checkpoint() {
    let cases = [("-DFAULT_SEGFAULT", "segmentation fault", 11), ("-DFAULT_ABORT", "abort", 6)];
    for (flag, what, signal) in cases {
        let folder = folder(&[flag, "-DIN_TRAINING"]);
        let home = folder.path();
        succeeded(retune(home, &["plugin", "allow", "fault.so"]));
        // From here on the third step of a process fails.
        std::fs::write(home.join("fail-now"), "").unwrap();
        let output = retune(home, &["run", "recipe.rhai", "--quiet"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let expected = format!(
            "error: {what} in native code: `forward` of the head `fault` of the plugin `fault` 0.1.0\n  step: 3\n  last checkpoint: "
        );
        assert!(stderr.contains(&expected) && stderr.contains("out/checkpoint-2\n"), "{stderr}");
        assert!(stderr.contains("`resume_from_checkpoint: true` goes on from the last checkpoint"), "{stderr}");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(signal), "{}", output.status);
        assert!(home.join("out/checkpoint-2/manifest.json").is_file());
    }
}

#[test]
fn check_tries_a_plugin_out() {
    let folder = folder(&["-DFAULT_SEGFAULT", "-DIN_FORWARD"]);
    let home = folder.path();
    for command in
        [&["plugin", "check", "fault.so"][..], &["plugin", "check", "--quick", "fault.so"], &["check", "fault.so"]]
    {
        let (text, code) = refused(retune(home, command));
        assert!(text.contains("with a segmentation fault: `forward`") && code == Some(65), "{text}");
    }
    let hello = home.join("hello.so");
    compiled("plugins/hello_c/hello.c", &[], &hello);
    let found = succeeded(retune(home, &["plugin", "check", "hello.so"]));
    for part in [
        "hello_c 0.1.0, ABI 1.1, heads: hello_c",
        "shapes at several sizes",
        "gradients agree",
        "wrong inputs are errors",
    ] {
        assert!(found.contains(part), "{found}");
    }
    let (text, code) = refused(retune(home, &["plugin", "check", "recipe.rhai"]));
    assert!(text.contains("the file is no shared library") && code == Some(65), "{text}");
}

/// The head in C trains, is saved with its count of forwards, and goes on counting.
#[test]
fn a_head_in_c_trains_and_keeps_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    compiled("plugins/hello_c/hello.c", &[], &home.join("hello.so"));
    succeeded(retune(home, &["plugin", "allow", "hello.so"]));
    let pack = repository("tests/golden/parity/bert-tokcls");
    let recipe = r#"
let model = AutoModelForTask::from_pretrained(arg("model", ""), "plugin:hello_c");
let rows = Dataset::from_rows(read_json(arg("pack", "") + "/reference.json").features);
let args = #{ output_dir: "out", max_steps: 4, logging_steps: 1, save_strategy: "no", learning_rate: 1e-3 };
let trainer = Trainer(#{ model: model, train_dataset: rows, args: TrainingArguments(args) });
trainer.train();
trainer.save_model("saved");
write_json("losses.json", trainer.state.log_history.filter(|entry| "loss" in entry).map(|entry| entry.loss));
"#;
    std::fs::write(home.join("hello.rhai"), recipe).unwrap();
    let run = |model: &Path| {
        let (model, pack) = (format!("model={}", model.display()), format!("pack={}", pack.display()));
        let arguments = ["run", "hello.rhai", "--quiet", &model, &pack, "--allow-read", "/"];
        succeeded(retune(home, &arguments));
        let losses: Vec<f64> =
            serde_json::from_str(&std::fs::read_to_string(home.join("losses.json")).unwrap()).unwrap();
        let state = std::fs::read(home.join("saved/head_state.bin")).unwrap();
        (losses, u64::from_le_bytes(state.try_into().unwrap()))
    };
    let (losses, first) = run(&pack);
    assert!(losses[3] < losses[0], "{losses:?}");
    assert!(first >= 4, "{first}");
    let (_, second) = run(&home.join("saved"));
    assert_eq!(second, 2 * first, "the count was read again");
}
