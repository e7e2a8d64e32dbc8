//! The estimate of the memory that training needs, beside what it takes: the program trains and says how much it held.
//!
//! The estimate is read from the error that comes when there is no room at all, the truth from the system's own figures: what was
//! resident when training began, and the peak. Within 30 %: pages are counted whole, what the allocator keeps is not known, and
//! blocks of a batch differ in size. An estimate that is too low is worse, so it may be only 15 % below. What a save copies is not
//! among them.

use std::path::Path;
use std::process::Command;

const RECIPE: &str = r#"
fn held(key) {
    for line in load_dataset("/proc/self/status", #{ format: "text" }).column("text") {
        if line.starts_with(key) { let text = line.split(":")[1].split("kB")[0]; text.trim(); return parse_int(text); }
    }
}
fn train(model, rows, settings) {
    let watch = #{ on_train_begin: |args, state, control, extra| { write_json("before.json", held("VmRSS")); } };
    settings.output_dir = "out";
    settings.max_steps = 3;
    let trainer = Trainer(#{
        model: model, train_dataset: rows, eval_dataset: rows, args: TrainingArguments(settings), callbacks: [watch],
    });
    trainer.train();
    write_json("taken.json", 1024 * (held("VmHWM") - read_json("before.json")));
}
fn rows(n, length, vocabulary) {
    let all = [];
    for i in 0..n {
        let ids = [];
        for k in 0..length { ids.push((i * 7919 + k * 104729) % vocabulary); }
        all.push(#{ input_ids: ids, labels: if SEQUENCES { ids } else { i % 2 } });
    }
    Dataset::from_rows(all)
}
"#;

struct Shape {
    what: &'static str,
    model: &'static str,
    rows: &'static str,
    settings: &'static str,
    sequences: bool,
    /// Room for the model and not for training.
    room: &'static str,
}

const CLASS: &str = "BertForSequenceClassification::from_config(#{ vocab_size: 4000, hidden_size: 256, num_hidden_layers: 4, \
                     num_attention_heads: 4, intermediate_size: 1024, max_position_embeddings: 512 })";

const SHAPES: &[Shape] = &[
    Shape {
        what: "short rows",
        model: CLASS,
        rows: "rows(48, 128, 4000)",
        settings: "#{ per_device_train_batch_size: 16, save_strategy: \"no\" }",
        sequences: false,
        room: "130M",
    },
    Shape {
        what: "bf16",
        model: CLASS,
        rows: "rows(48, 128, 4000)",
        settings: "#{ per_device_train_batch_size: 16, save_strategy: \"no\", bf16: true }",
        sequences: false,
        room: "130M",
    },
    Shape {
        what: "long rows",
        model: CLASS,
        rows: "rows(24, 480, 4000)",
        settings: "#{ per_device_train_batch_size: 8, save_strategy: \"no\" }",
        sequences: false,
        room: "130M",
    },
    Shape {
        what: "checkpointing",
        model: CLASS,
        rows: "rows(24, 480, 4000)",
        settings: "#{ per_device_train_batch_size: 8, save_strategy: \"no\", gradient_checkpointing: true }",
        sequences: false,
        room: "130M",
    },
    Shape {
        what: "a language model",
        model: "GPT2LMHeadModel::from_config(#{ vocab_size: 8000, n_embd: 128, n_layer: 2, n_head: 4, n_positions: 256 })",
        rows: "rows(24, 200, 8000)",
        settings: "#{ per_device_train_batch_size: 8, save_strategy: \"no\" }",
        sequences: true,
        room: "130M",
    },
    Shape {
        what: "a masked language model",
        model: "BertForMaskedLM::from_config(#{ vocab_size: 8000, hidden_size: 128, num_hidden_layers: 2, \
                num_attention_heads: 4, intermediate_size: 512, max_position_embeddings: 256 })",
        rows: "rows(24, 200, 8000)",
        settings: "#{ per_device_train_batch_size: 8, save_strategy: \"no\" }",
        sequences: true,
        room: "130M",
    },
    Shape {
        what: "a table of which little is looked up",
        model: "BertForSequenceClassification::from_config(#{ vocab_size: 30000, hidden_size: 512, num_hidden_layers: 4, \
                num_attention_heads: 8, intermediate_size: 2048, max_position_embeddings: 64 })",
        rows: "rows(12, 32, 30000)",
        settings: "#{ per_device_train_batch_size: 4, save_strategy: \"no\" }",
        sequences: false,
        room: "250M",
    },
    Shape {
        what: "evaluations",
        model: "BertForSequenceClassification::from_config(#{ vocab_size: 4000, hidden_size: 512, num_hidden_layers: 6, \
                num_attention_heads: 8, intermediate_size: 2048, max_position_embeddings: 64 })",
        rows: "rows(12, 32, 4000)",
        settings: "#{ per_device_train_batch_size: 4, save_strategy: \"no\", eval_strategy: \"steps\", eval_steps: 2 }",
        sequences: false,
        room: "250M",
    },
];

fn retune(folder: &Path, shape: &Shape, memory: Option<&str>) -> std::process::Output {
    let recipe = format!(
        "{}\ntrain({}, {}, {});",
        RECIPE.replace("SEQUENCES", &shape.sequences.to_string()),
        shape.model,
        shape.rows,
        shape.settings
    );
    std::fs::write(folder.join("recipe.rhai"), recipe).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(["--quiet", "run", "recipe.rhai", "--allow-read", "/proc"]).current_dir(folder);
    if let Some(memory) = memory {
        command.env("RETUNE_MEMORY", memory);
    }
    command.output().unwrap()
}

/// The bytes that follow `needs about ` in an error.
fn needed(shown: &str) -> f64 {
    let text = shown.split("needs about ").nth(1).unwrap_or_else(|| panic!("{shown}"));
    let mut words = text.split_whitespace();
    let number: f64 = words.next().unwrap().parse().unwrap();
    number
        * match words.next().unwrap() {
            "MB" => 1e6,
            "GB" => 1e9,
            unit => panic!("{unit}"),
        }
}

#[test]
fn the_estimate_is_what_training_takes() {
    let mut off = Vec::new();
    for shape in SHAPES {
        let folder = tempfile::tempdir().unwrap();
        let refused = retune(folder.path(), shape, Some(shape.room));
        let shown = String::from_utf8_lossy(&refused.stderr);
        let estimate = needed(&shown);
        assert_eq!(refused.status.code(), Some(71), "{}\n{shown}", shape.what);
        let trained = retune(folder.path(), shape, None);
        assert!(trained.status.success(), "{}\n{}", shape.what, String::from_utf8_lossy(&trained.stderr));
        let taken: f64 = std::fs::read_to_string(folder.path().join("taken.json")).unwrap().trim().parse().unwrap();
        let ratio = estimate / taken;
        if !(0.85..1.3).contains(&ratio) {
            off.push(format!(
                "{}: estimate {:.0} MB, taken {:.0} MB, {ratio:.2}",
                shape.what,
                estimate / 1e6,
                taken / 1e6
            ));
        }
    }
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn a_batch_that_does_not_fit_is_refused_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let refused = retune(folder.path(), &SHAPES[0], Some("220M"));
    let shown = String::from_utf8_lossy(&refused.stderr);
    for words in [
        "training on a batch of 16 rows with 2048 tokens (the longest row has 128) needs about ",
        "in rows ",
        " of the training set",
        "lower `per_device_train_batch_size` to ",
        "lower `max_length`",
        "set `gradient_checkpointing: true`",
    ] {
        assert!(shown.contains(words), "{words}\n{shown}");
    }
    assert!(!folder.path().join("taken.json").exists());
    // What the hint says is enough.
    let size = shown.split("per_device_train_batch_size` to ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    let settings = format!("#{{ per_device_train_batch_size: {size}, save_strategy: \"no\" }}");
    let smaller = Shape { settings: settings.leak(), ..SHAPES[0] };
    let trained = retune(folder.path(), &smaller, Some("220M"));
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
}
