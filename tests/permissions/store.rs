//! The store of small files that a recipe may and may not touch, and the program that runs beside it.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::ROWS;

pub(super) const START: &str = r#"
let model = BertForSequenceClassification::from_config(#{
    vocab_size: 16, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 24, num_labels: 2,
});
let tokenizer = AutoTokenizer::from_pretrained("inside/vocabulary");
let rows = load_dataset("inside/rows.jsonl");
let results = #{};
"#;

pub(super) const TASK: &str = "fn extends() { \"BASE\" }\nfn padding() { \"none\" }\n";

/// The program in `folder`, with a hub that cannot be reached.
pub(super) fn retune(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(arguments).current_dir(folder);
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", "hub").env("RETUNE_HOME", "home").output().unwrap()
}

/// The folder `work` beside `outside`, with the store in both.
pub(super) fn store() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().canonicalize().unwrap();
    let (work, outside) = (base.join("work"), base.join("outside"));
    let inside = work.join("inside");
    for folder in ["inside/vocabulary", "inside/data", "links"] {
        std::fs::create_dir_all(work.join(folder)).unwrap();
    }
    let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ngood\nbad\nfair\nfilm\nit\nwas\n";
    let lines = "{\"text\": \"a good film\", \"label\": 1}\n{\"text\": \"it was bad\", \"label\": 0}\n";
    for (name, text) in [
        ("vocabulary/vocab.txt", words),
        ("vocabulary/config.json", "{\"model_type\": \"bert\"}"),
        (ROWS, lines),
        ("data/train.jsonl", lines),
        ("data/test.jsonl", lines),
        ("value.json", "[1]"),
        ("module.rhai", "fn answer() { 42 }"),
        ("task.rhai", &TASK.replace("BASE", "std/tasks/sentiment")),
        ("whole.rhai", &std::fs::read_to_string("stdlib/tasks/sentiment.rhai").unwrap()),
    ] {
        std::fs::write(inside.join(name), text).unwrap();
    }
    let setup = format!(
        "{START}
model.save_pretrained(\"inside/model\");
tokenizer.save_pretrained(\"inside/model\");
let args = TrainingArguments(#{{ output_dir: \"inside/run\", max_steps: 1 }});
Trainer(#{{ model: model, args: args, train_dataset: rows, processing_class: tokenizer }}).train();"
    );
    std::fs::write(work.join("setup.rhai"), setup).unwrap();
    let made = retune(&work, &["--quiet", "run", "setup.rhai"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    copy(&inside, &outside);
    symlink(&outside, work.join("links/outside")).unwrap();
    symlink(outside.join("nothing"), work.join("links/nothing")).unwrap();
    (root, work, outside)
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { std::fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}

/// Every file below a folder with what it holds, by name.
pub(super) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, Vec::new());
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}
