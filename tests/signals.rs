//! Signals in each phase of a run: what was begun is finished or given up, the exit code says which signal it was.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use retune::train::checkpoint::folders;
use rustix::process::{Pid, Signal, kill_process};

/// A process whose lines on stdout are read one by one.
struct Run {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Run {
    /// Runs a recipe in its folder.
    fn of(recipe: &str, folder: &Path, command: &str, endpoint: Option<&str>) -> Run {
        std::fs::write(folder.join("recipe.rhai"), recipe).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_retune"));
        process.args([command, "recipe.rhai"]).current_dir(folder).stdin(Stdio::null());
        process.env("HF_HOME", folder.join("hub"));
        if let Some(endpoint) = endpoint {
            process.env("HF_ENDPOINT", endpoint);
        }
        let mut child = process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Run { child, lines }
    }

    /// Waits until the recipe has printed that line.
    fn until(&mut self, wanted: &str) {
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                let mut text = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                panic!("`{wanted}` never came: {text}");
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    /// The exit code, and what was written to stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

/// Whether whoever runs the tests wants that signal ignored, as `nohup` does: what they start ignores it too.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

/// SIGINT, or SIGTERM where that one is ignored, and the exit code that belongs to it.
fn interrupt() -> (Signal, i32, &'static str) {
    if is_ignored(Signal::INT) { (Signal::TERM, 143, "SIGTERM") } else { (Signal::INT, 130, "SIGINT") }
}

/// A recipe that trains a small model; `callback` is among its callbacks, `after` follows.
fn training(callback: &str, after: &str) -> String {
    format!(
        "let rows = [];
for index in 0..32 {{ rows.push(#{{ input_ids: [2, 4 + index, 3], labels: index % 2 }}); }}
let rows = Dataset::from_rows(rows);
let model = AutoModelForSequenceClassification::from_config(#{{
    model_type: \"bert\", vocab_size: 40, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4,
    intermediate_size: 64, max_position_embeddings: 16, num_labels: 2,
}});
let args = TrainingArguments(#{{
    output_dir: \"out\", num_train_epochs: 1000, per_device_train_batch_size: 4, per_device_eval_batch_size: 4,
    eval_strategy: \"steps\", eval_steps: 4, logging_steps: 1000,
}});
let trainer = Trainer(#{{ model: model, args: args, train_dataset: rows, eval_dataset: rows, callbacks: [#{{ {callback} }}] }});
trainer.train();
{after}
"
    )
}

#[test]
fn a_signal_while_training_ends_the_step_and_leaves_a_checkpoint() {
    for (signal, code, name) in
        [(Signal::TERM, 143, "SIGTERM"), (Signal::INT, 130, "SIGINT"), (Signal::HUP, 129, "SIGHUP")]
    {
        if is_ignored(signal) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let callback = "on_step_end: |args, state, control, extra| if state.global_step == 6 { print(\"six\"); }";
        // What comes after training is not reached, even where the recipe would catch everything.
        let recipe =
            training(callback, "").replace("trainer.train();", "try { trainer.train(); } catch { } print(\"after\");");
        let mut run = Run::of(&recipe, folder.path(), "run", None);
        run.until("six");
        let at = SystemTime::now();
        run.signal(signal);
        let mut rest = String::new();
        run.lines.read_to_string(&mut rest).unwrap();
        let (status, text) = run.end();
        assert_eq!(status, Some(code), "{text}");
        assert!(!rest.contains("after"), "{rest}");
        let (newest, _) = folders::newest(&folder.path().join("out")).unwrap();
        let step = folders::step_of(newest.folder()).unwrap();
        assert!(text.contains(&format!("stopped by {name}")), "{text}");
        assert!(
            text.contains(&format!("checkpoint-{step} is saved: go on with `resume_from_checkpoint: true`")),
            "{text}"
        );
        assert!(newest.folder().join("manifest.json").metadata().unwrap().modified().unwrap() >= at);
    }
}

#[test]
fn a_signal_while_evaluating_leaves_a_checkpoint_that_evaluates_again() {
    let folder = tempfile::tempdir().unwrap();
    let callback = "on_prediction_step: |args, state, control, extra| {
        if state.global_step == 8 { print(\"evaluating\"); for turn in 0..1000000 { } }
    }";
    let mut run = Run::of(&training(callback, ""), folder.path(), "run", None);
    run.until("evaluating");
    run.signal(Signal::TERM);
    let (status, text) = run.end();
    assert_eq!(status, Some(143), "{text}");
    let (newest, _) = folders::newest(&folder.path().join("out")).unwrap();
    assert!(newest.folder().ends_with("checkpoint-8"), "{newest:?}");
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(newest.folder().join(name)).unwrap()).unwrap()
    };
    assert_eq!(read("rng_state.json")["position"]["evaluation_is_due"], true);
    let logs = read("trainer_state.json")["log_history"].as_array().unwrap().clone();
    let steps: Vec<_> = logs.iter().map(|log| log["step"].as_i64().unwrap()).collect();
    assert_eq!(steps, [4], "the evaluation of step 8 has not happened yet");
}

#[test]
fn a_signal_while_a_task_encodes_what_is_to_be_evaluated_leaves_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let task = "fn extends() { \"std/tasks/sentiment\" }
fn encode(tokenizer, row, options) {
    print(\"encoding\");
    for turn in 0..1000000 { }
    #{ input_ids: [2, 5, 3], labels: row.label }
}
";
    std::fs::write(folder.path().join("task.rhai"), task).unwrap();
    let recipe = training("", "")
        .replace("AutoModelForSequenceClassification::from_config(#{", "BertForSequenceClassification::from_config(#{")
        .replace(
            "let args =",
            "model.save_pretrained(\"base\");
let model = AutoModelForTask::from_pretrained(\"base\", \"task.rhai\", #{ num_labels: 2 });
let texts = [];
for index in 0..400 { texts.push(#{ text: \"a film\", label: index % 2 }); }
let texts = Dataset::from_rows(texts);
let args =",
        )
        .replace(
            "eval_dataset: rows,",
            "eval_dataset: texts, processing_class: AutoTokenizer::from_pretrained(\"std/minilm-tiny\"),",
        );
    let mut run = Run::of(&recipe, folder.path(), "run", None);
    run.until("encoding");
    run.signal(Signal::TERM);
    let (status, text) = run.end();
    assert_eq!(status, Some(143), "{text}");
    let (newest, _) = folders::newest(&folder.path().join("out")).unwrap();
    assert!(newest.folder().ends_with("checkpoint-4"), "{newest:?} {text}");
}

#[test]
fn a_signal_while_rows_are_prepared_ends_the_run_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = "let rows = [];
for index in 0..1000 { rows.push(#{ text: \"a fine film\" }); }
let count = 0;
Dataset::from_rows(rows).map(|row| {
    count += 1;
    if count == 10 { print(\"mapping\"); }
    for turn in 0..100000 { }
    row
});
write_json(\"after.json\", #{});
";
    let mut run = Run::of(recipe, folder.path(), "run", None);
    run.until("mapping");
    let (signal, code, name) = interrupt();
    run.signal(signal);
    let (status, text) = run.end();
    assert_eq!(status, Some(code), "{text}");
    assert!(text.contains(&format!("stopped by {name}")) && text.contains("recipe.rhai:"), "{text}");
    assert!(!folder.path().join("after.json").exists());
}

#[test]
fn a_signal_while_a_download_stands_still_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let recipe = "AutoTokenizer::from_pretrained(\"somebody/something\");";
    let run = Run::of(recipe, folder.path(), "run", Some(&endpoint));
    // The hub takes the call and never answers.
    let call = hub.accept().unwrap();
    run.signal(Signal::TERM);
    let (status, text) = run.end();
    drop(call);
    assert_eq!(status, Some(143), "{text}");
}

#[test]
fn a_second_signal_ends_what_the_first_one_lets_finish() {
    let folder = tempfile::tempdir().unwrap();
    let callback = "on_step_end: |args, state, control, extra| { print(\"endless\"); loop { } }";
    let mut run = Run::of(&training(callback, ""), folder.path(), "run", None);
    run.until("endless");
    run.signal(Signal::TERM);
    // The second one may come before the first was taken notice of, which counts as one: until it ends.
    while run.child.try_wait().unwrap().is_none() {
        run.signal(Signal::TERM);
        std::thread::yield_now();
    }
    let (status, text) = run.end();
    assert_eq!(status, Some(143), "{text}");
}

#[test]
fn a_signal_ends_the_waiting_for_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::of("print(\"done\");", folder.path(), "watch", None);
    run.until("done");
    let (signal, code, _) = interrupt();
    run.signal(signal);
    let (status, text) = run.end();
    assert_eq!(status, Some(code), "{text}");
}
