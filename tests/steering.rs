//! `retune ctl`: a run that is at work, looked at and changed from another process through the socket in its folder.
#![cfg(unix)]

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use retune::host::control::SOCKET;
use serde_json::Value as Json;

use crate::live_run::{FILES, RECIPE, write};

/// Long enough for any machine.
const LONG: Duration = Duration::from_secs(60);

/// Looks again and again until it is so.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ctl(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(["--json", "ctl", "out"]).args(words).current_dir(folder).output().unwrap()
}

fn asked(folder: &Path, words: &[&str]) -> Json {
    let output = ctl(folder, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A run that does not end by itself.
fn start(folder: &Path) -> Child {
    let endless =
        RECIPE.replace("max_steps: 12", "max_steps: 100000000").replace("eval_steps: 3", "eval_steps: 100000000");
    write(folder, &[("recipe.rhai", endless.as_str()), FILES[1], FILES[2]]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    let command = command.args(["run", "--watch", "--json", "recipe.rhai"]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_run_is_steered_from_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let nobody = ctl(place, &["status"]);
    assert!(!nobody.status.success() && String::from_utf8_lossy(&nobody.stderr).contains("run `out` was not found"));
    let child = start(place);
    let socket = place.join("out").join(SOCKET);
    let metadata = until("the socket", || std::fs::metadata(&socket).ok());
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "only its owner may open it");
    assert_eq!(asked(place, &["pause"])["paused"], true);
    let status = asked(place, &["status"]);
    assert_eq!((status["paused"].as_bool(), status["max_steps"].as_u64()), (Some(true), Some(100_000_000)));
    let step = status["step"].as_u64().unwrap();
    assert_eq!(asked(place, &["status"])["step"].as_u64(), Some(step), "a paused run stands still");

    let changed = asked(place, &["set", "learning_rate=1e-5", "weight_decay=0.01"]);
    assert_eq!(changed["arguments"].as_array().unwrap().len(), 2, "{changed}");
    assert_eq!(changed["step"].as_u64(), Some(step));
    for (words, message) in [
        (["set", "learning_rate=-1"], "learning_rate"),
        (["set", "seed=7"], "`seed` cannot change while a run goes on"),
        (["set", "learning_rat=1"], "learning_rat"),
    ] {
        let refused = ctl(place, &words);
        let shown = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && shown.contains(message), "{words:?}: {shown}");
    }
    asked(place, &["evaluate"]);
    assert!(asked(place, &["status"])["log"].get("eval_loss").is_some());
    asked(place, &["save"]);
    let state = std::fs::read_to_string(place.join(format!("out/checkpoint-{step}/trainer_state.json"))).unwrap();
    let state: Json = serde_json::from_str(&state).unwrap();
    let ledger = &state["stateful_callbacks"]["HotReload"]["attributes"]["ledger"];
    assert_eq!(ledger.as_array().unwrap().len(), 5, "a change, three refusals and an evaluation came before: {ledger}");

    assert_eq!(asked(place, &["pause"])["paused"], false);
    until("another step", || asked(place, &["status"])["step"].as_u64().filter(|now| *now > step));
    asked(place, &["stop"]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.join("out/history.json").exists(), "the recipe went on behind the training");
    assert!(!socket.exists(), "the socket goes with the run");
}
