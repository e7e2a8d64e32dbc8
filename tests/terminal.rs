//! A run in a real terminal: edits and keys, and what the screen shows of them. It needs tmux, and says so where there is none.
#![cfg(unix)]

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

/// Long enough for any machine; what is waited for ends the waiting.
const LONG: Duration = Duration::from_secs(120);

/// A terminal of tmux with a shell in it; dropping it ends both.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// None where there is no tmux.
    fn open(folder: &Path) -> Option<Self> {
        let socket = format!("retune-{}", std::process::id());
        let mut command = Command::new("tmux");
        command.args(["-L", &socket, "-f", "/dev/null", "new-session", "-d", "-x", "150", "-y", "50", "sh"]);
        let command = command.current_dir(folder).env("LC_ALL", "C.UTF-8").env("TERM", "screen").env_remove("TMUX");
        if command.output().is_ok_and(|output| output.status.success()) {
            return Some(Terminal { socket });
        }
        // Written past the test harness, which shows what a test prints only where it fails.
        let _ = writeln!(std::io::stderr(), "skipped: the demonstration in a terminal needs tmux");
        None
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types letters as they are.
    fn press(&self, keys: &str) {
        self.tmux(&["send-keys", "-l", keys]);
    }

    fn enter(&self, line: &str) {
        self.press(line);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// What the terminal has shown, with what has scrolled away.
    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-2000"])
    }

    /// Waits until the screen has `text` as often as `times`.
    fn wait(&self, text: &str, times: usize) -> String {
        let end = Instant::now() + LONG;
        loop {
            let screen = self.screen();
            if screen.matches(text).count() >= times {
                return screen;
            }
            assert!(Instant::now() < end, "{text:?} did not come {times} times; the screen is\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

/// An editor's save: a new file in place of the old one.
fn save(path: &Path, text: &str) {
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[test]
fn a_watched_run_takes_edits_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("sentiment.rhai");
    let text = include_str!("../scripts/sentiment.rhai");
    std::fs::write(&recipe, text).unwrap();
    let Some(terminal) = Terminal::open(folder.path()) else { return };
    let retune = env!("CARGO_BIN_EXE_retune");
    terminal.enter("PS1='ready> '");
    terminal.wait("ready>", 2);
    terminal.enter(&format!("{retune} watch sentiment.rhai num_train_epochs=500 output_dir=out"));
    terminal.wait("keys: p pause", 1);
    terminal.wait("train", 1);

    // A function, an argument, and a mistake.
    let metric = text.replace("#{ accuracy: accuracy(", "#{ hits: 1, accuracy: accuracy(");
    assert_ne!(metric, text);
    save(&recipe, &metric);
    terminal.wait("sentiment.rhai: compute_metrics: adopted", 1);
    let rate = metric.replace("arg(\"learning_rate\", 1e-4)", "arg(\"learning_rate\", 5e-5)");
    save(&recipe, &rate);
    let changed = |old: f64, new: f64| format!("learning_rate {} -> {}: adopted", json!(old), json!(new));
    terminal.wait(&changed(1e-4, 5e-5), 1);
    save(&recipe, &rate.replace("argmax(eval_pred.predictions)", "argmaxx(eval_pred.predictions)"));
    let screen = terminal.wait("there is no function `argmaxx`", 1);
    assert!(screen.contains("did you mean `argmax`?"), "{screen}");
    terminal.wait("refused", 1);

    // Keys.
    terminal.press("p");
    terminal.wait("paused at step", 1);
    terminal.press("l");
    terminal.wait("learning rate (Enter sets it, Esc leaves it):", 1);
    terminal.press("1e-5");
    terminal.wait("leaves it): 1e-5", 1);
    terminal.tmux(&["send-keys", "Enter"]);
    terminal.wait(&changed(5e-5, 1e-5), 1);
    terminal.press("e");
    let screen = terminal.wait("evaluate: adopted", 1);
    assert!(screen.contains("eval_hits"), "the new metric is used\n{screen}");
    terminal.press("s");
    terminal.wait("save: adopted", 1);
    terminal.press("p");
    terminal.wait("going on at step", 1);

    // The recipe's top level: again from the first line, with what was loaded before.
    save(
        &recipe,
        &rate
            .replace("per_device_eval_batch_size: 32", "per_device_eval_batch_size: 32, bf16: false")
            .replace("// Train, with", "let again = 1;\n// Train, with"),
    );
    terminal.wait("again from the first line", 1);
    terminal.wait("rows to train on", 2);

    // The end: training stops, the recipe goes on behind it, and the terminal is as it was.
    terminal.wait("train ", 1);
    terminal.press("q");
    terminal.wait("stop: adopted", 1);
    terminal.wait("waiting for a change", 1);
    terminal.tmux(&["send-keys", "C-c"]);
    terminal.wait("ready>", 3);
    terminal.enter("echo back && stty -a");
    let screen = terminal.wait("icanon", 1);
    assert!(!screen.contains("-icanon") && !screen.contains("-echo "), "the terminal is as it was\n{screen}");
}
