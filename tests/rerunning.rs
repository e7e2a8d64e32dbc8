//! `retune watch --restart`: whatever the edits on the way, the end is that of a cold run of the last text.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use retune::tensor::rng::Rng;
use serde_json::Value as Json;

use crate::live_run::{FILES, HELPER, RECIPE, TASK, history, write};

/// Long enough for any machine.
const LONG: Duration = Duration::from_secs(120);

/// Ends the process when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(folder: &Path, flags: &[&str]) -> Running {
    let log = std::fs::File::create(folder.join("log.txt")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    let command = command
        .args(["watch", "recipe.rhai"])
        .args(flags)
        .current_dir(folder)
        .env("RETUNE_CACHE", folder.join("cache"));
    Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

/// The recipe that says at its end which edit it is.
fn marked(text: &str, number: usize) -> String {
    format!("{text}write_json(out + \"/done.json\", #{{ mark: {number} }});\n")
}

fn wait_for(folder: &Path, number: usize) {
    let end = Instant::now() + LONG;
    loop {
        let done: Option<Json> = std::fs::read_to_string(folder.join("out/done.json"))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok());
        if done.is_some_and(|done| done["mark"].as_u64() == Some(number as u64)) {
            return;
        }
        let log = std::fs::read_to_string(folder.join("log.txt")).unwrap_or_default();
        assert!(Instant::now() < end, "run {number} did not end:\n{log}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn cold(files: &[(&str, &str)]) -> (Vec<u8>, Vec<serde_json::Map<String, Json>>) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), files);
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    let output = command.args(["run", "recipe.rhai"]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = folder.path().join("out");
    (std::fs::read(out.join("model.safetensors")).unwrap(), history(&out))
}

#[test]
fn thirty_edits_end_as_a_cold_run_of_the_last_text() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let first = marked(RECIPE, 0);
    write(place, &[("recipe.rhai", first.as_str()), FILES[1], FILES[2]]);
    let _running = watch(place, &["--restart", "--explain-cache"]);
    wait_for(place, 0);
    let rng = Rng::new(7, "edits", 0);
    let mut numbers = [1u32, 4, 4, 1, 9, 1];
    let texts = |[rate, rows, batch, scale, helper, dropout]: [u32; 6]| {
        let loss = "cross_entropy(output, batch.labels)";
        let recipe = RECIPE
            .replace("learning_rate: 1e-3", &format!("learning_rate: {rate}e-3"))
            .replace("0..24", &format!("0..{}", 20 + rows))
            .replace("train_batch_size: 4", &format!("train_batch_size: {batch}"))
            .replace(&format!("helper::scaled({loss})"), &format!("helper::scaled({loss} * {scale}.0)"));
        let helper = HELPER.replace("1.0", &format!("0.{helper}"));
        (recipe, helper, TASK.replace("dropout(0.1", &format!("dropout(0.{dropout}")))
    };
    for number in 1..=30 {
        let draw = |index: u64, n: u32| rng.u32(number as u64 * 8 + index) % n;
        numbers[draw(0, 6) as usize] = 1 + draw(1, 9);
        let (recipe, helper, task) = texts(numbers);
        write(place, &[("helper.rhai", helper.as_str()), ("task.rhai", task.as_str())]);
        write(place, &[("recipe.rhai", marked(&recipe, number).as_str())]);
        // Some edits come while the run of the one before goes on, some behind it.
        if draw(2, 3) == 0 || number == 30 {
            wait_for(place, number);
        }
    }
    let (recipe, helper, task) = texts(numbers);
    let last = marked(&recipe, 30);
    let (weights, cold_history) =
        cold(&[("recipe.rhai", last.as_str()), ("helper.rhai", helper.as_str()), ("task.rhai", task.as_str())]);
    assert_eq!(history(&place.join("out")), cold_history);
    assert!(std::fs::read(place.join("out/model.safetensors")).unwrap() == weights, "other weights");
    let log = std::fs::read_to_string(place.join("log.txt")).unwrap();
    assert!(log.contains("cache  encode") && log.contains(": hit"), "{log}");
}

/// A recipe that waits for a script which is not there runs when that is written, and so does one that could not be read.
#[test]
fn a_script_that_was_missing_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    write(place, &[("recipe.rhai", &marked(RECIPE, 0)), FILES[2]]);
    let _running = watch(place, &[]);
    let wait_for_log = |text: &str, times: usize| {
        let end = Instant::now() + LONG;
        while std::fs::read_to_string(place.join("log.txt")).unwrap_or_default().matches(text).count() < times {
            assert!(Instant::now() < end, "{}", std::fs::read_to_string(place.join("log.txt")).unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for_log("waiting for a change", 1);
    write(place, &[FILES[1]]);
    wait_for(place, 0);
    wait_for_log("waiting for a change", 2);
    std::fs::write(place.join("helper.rhai"), b"\xff\xfe").unwrap();
    wait_for_log("--> helper.rhai:1:1", 1);
    write(place, &[FILES[1], ("recipe.rhai", &marked(RECIPE, 1))]);
    wait_for(place, 1);
}

#[test]
fn stages_are_explained_and_made_again_only_where_a_part_changed() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let recipe = |mapped: &str, rate: &str, number: usize| {
        format!(
            "fn longer(row) {{ #{{ text: row.text + \"{mapped}\" }} }}\n\
             let data = load_dataset(\"rows.jsonl\").map(Fn(\"longer\"));\n\
             let tokenizer = AutoTokenizer::from_pretrained(\"std/minilm-tiny\");\n\
             let model = AutoModelForSequenceClassification::from_pretrained(\"std/minilm-tiny\", #{{ num_labels: 2 }});\n\
             let out = \"out\";\n\
             let trainer = Trainer(#{{ model: model, train_dataset: data, processing_class: tokenizer, args: TrainingArguments(#{{\n\
             output_dir: out, max_steps: 1, learning_rate: {rate}, save_strategy: \"no\" }}) }});\n\
             trainer.train();\n\
             write_json(out + \"/done.json\", #{{ mark: {number} }});\n"
        )
    };
    let rows =
        |word: &str| format!("{{\"text\": \"a fine film\", \"label\": 1}}\n{{\"text\": \"{word}\", \"label\": 0}}\n");
    write(place, &[("rows.jsonl", &rows("a dull film")), ("recipe.rhai", &recipe("!", "1e-4", 0))]);
    {
        let _running = watch(place, &["--restart", "--explain-cache"]);
        wait_for(place, 0);
        write(place, &[("recipe.rhai", &recipe("!", "2e-4", 1))]);
        wait_for(place, 1);
        write(place, &[("recipe.rhai", &recipe("?", "2e-4", 2))]);
        wait_for(place, 2);
        write(place, &[("rows.jsonl", &rows("a bad film")), ("recipe.rhai", &recipe("?", "3e-4", 3))]);
        wait_for(place, 3);
    }
    let log = std::fs::read_to_string(place.join("log.txt")).unwrap();
    let stage = |name: &str| -> Vec<&str> {
        let begins = format!("cache  {name} ");
        let lines = log.lines().filter(|line| line.starts_with(&begins));
        lines.map(|line| line.split_once(": ").unwrap().1).collect()
    };
    assert_eq!(stage("load_dataset"), ["miss: the first time", "hit", "hit", "miss: files changed"], "{log}");
    assert_eq!(stage("map"), ["miss: the first time", "hit", "miss: function changed", "miss: rows changed"], "{log}");
    assert_eq!(stage("tokenizer"), ["miss: the first time", "hit", "hit", "hit"], "{log}");
    assert_eq!(stage("encode"), ["miss: the first time", "hit", "miss: rows changed", "miss: rows changed"], "{log}");

    // Another process finds the encoded rows on disk; without the cache nothing is looked for.
    std::fs::remove_file(place.join("out/done.json")).unwrap();
    {
        let _running = watch(place, &["--restart", "--explain-cache"]);
        wait_for(place, 3);
    }
    let log = std::fs::read_to_string(place.join("log.txt")).unwrap();
    assert!(log.lines().any(|line| line.starts_with("cache  encode") && line.ends_with("hit on disk")), "{log}");
    std::fs::remove_file(place.join("out/done.json")).unwrap();
    {
        let _running = watch(place, &["--restart", "--no-cache", "--explain-cache"]);
        wait_for(place, 3);
    }
    assert!(!std::fs::read_to_string(place.join("log.txt")).unwrap().contains("cache  "));
}
