//! Scripts that do not end, or grow without end: each ends in an error with its place, and what can go on goes on.
//!
//! The program runs with little time and memory; the system would end it without a word if a limit failed, so the address space is
//! limited too.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const START: &str = r#"
let model = BertForSequenceClassification::from_config(#{
    vocab_size: 50, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, num_labels: 2,
});
let rows = Dataset::from_rows([#{ input_ids: [2, 4, 3], labels: 0 }, #{ input_ids: [2, 5, 3], labels: 1 }]);
fn train(model, rows, more) {
    let settings = #{ model: model, train_dataset: rows, eval_dataset: rows,
        args: TrainingArguments(#{ output_dir: "out", max_steps: 2, eval_strategy: "steps", eval_steps: 1, save_strategy: "no" }) };
    for name in more.keys() { settings[name] = more[name]; }
    Trainer(settings).train();
}
fn f(x) { f(x) }
fn g(x) { g(x + 1) + 1 }
"#;

/// Runs a recipe with half a second for each call and 700 MB of memory.
fn run(folder: &Path, recipe: &str) -> (Output, Duration) {
    std::fs::write(folder.join("recipe.rhai"), recipe).unwrap();
    let begun = Instant::now();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 6000000; exec \"$0\" --quiet run recipe.rhai", env!("CARGO_BIN_EXE_retune")]);
    command.current_dir(folder).env("RETUNE_CALL_SECONDS", "0.5").env("RETUNE_MEMORY", "700M");
    let output = command.env("RUST_BACKTRACE", "0").output().unwrap();
    (output, begun.elapsed())
}

/// Expects that the recipe ends with this code and words, at a place of its own, within a time that no loop needs.
fn ends(recipe: &str, code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (output, time) = run(folder.path(), &format!("{START}{recipe}"));
    let shown = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{recipe}\n{shown}");
    for words in words.iter().chain(&[" --> recipe.rhai:"]) {
        assert!(shown.contains(words), "{recipe}\n{words}\n{shown}");
    }
    assert!(time < Duration::from_secs(60), "{recipe}: {time:?}");
}

const TIME: &str = "the script has computed for 0.5 s without an end";
const MEMORY: &str = "the script has taken ";

#[test]
fn an_endless_loop_in_a_call_ends() {
    for (at, loops) in [
        (
            "callback",
            "train(model, rows, #{ callbacks: [#{ on_step_end: |args, state, control, extra| { while true {} } }] });",
        ),
        ("metrics", "train(model, rows, #{ compute_metrics: |predictions| { loop { let x = 1; } } });"),
        ("loss", "train(model, rows, #{ compute_loss: |output, batch| { loop { try { throw 1; } catch { } } } });"),
        ("map", "rows.map(|row| { loop {} });"),
        ("filter", "rows.filter(|row| { while true {} });"),
    ] {
        ends(&format!("/* {at} */ {loops}"), 78, &[TIME, "RETUNE_CALL_SECONDS"]);
    }
}

#[test]
fn endless_recursion_ends() {
    let deep = "calls are nested more than 64 deep";
    for recursion in [
        "f(1);",
        "g(1);",
        "fn h(rows) { let other = rows; rows.map(|row| h(other)) } h(rows.take(1));",
        "let x = Fn(\"f\"); x.call(x);",
        "train(model, rows, #{ callbacks: [#{ on_step_end: |args, state, control, extra| { f(1) } }] });",
        "train(model, rows, #{ compute_metrics: |predictions| { g(1) } });",
    ] {
        ends(recursion, 78, &[deep]);
    }
}

#[test]
fn what_grows_without_end_ends() {
    for grows in [
        "let s = \"x\"; loop { s += s; }",
        "let s = \"x\"; loop { s += \"0123456789\"; }",
        "let s = \"x\"; loop { s = s + s + s; }",
        "let a = [1]; loop { a += a; }",
        "let a = []; loop { a.push([1, 2, 3]); }",
        "let a = [1]; loop { a.append(a); }",
        "let m = #{}; let i = 0; loop { m[i.to_string()] = [i, i, i, i]; i += 1; }",
        "let b = blob(1024); loop { b += b; }",
        "let a = []; loop { a.push(Tensor::ones([64, 1024])); }",
        "let data = rows; loop { data = data.concat(data); }",
        "train(model, rows, #{ callbacks: [#{ on_step_end: |args, state, control, extra| { let s = \"x\"; loop { s += s; } } }] });",
        "train(model, rows, #{ compute_metrics: |predictions| { let a = [1]; loop { a += a; } } });",
        "rows.map(|row| { let s = \"x\"; loop { s += s; } });",
    ] {
        ends(grows, 71, &[MEMORY]);
    }
}

/// The functions of a task run on the library's own threads.
#[test]
fn a_task_that_does_not_end_ends() {
    let cases = [
        ("fn encode(tokenizer, row, options) { loop { let x = 1; } }", 78, TIME),
        (
            "fn deep(x) { deep(x) } fn encode(tokenizer, row, options) { deep(1) }",
            78,
            "calls are nested more than 64 deep",
        ),
        ("fn deep(x) { [x].map(|y| deep(y)) } fn encode(tokenizer, row, options) { deep(1) }", 78, "calls are nested"),
        ("fn encode(tokenizer, row, options) { let s = \"x\"; loop { s += s; } }", 71, MEMORY),
        ("fn loss(head, output, batch) { while true { let x = 1; } }", 78, TIME),
        ("fn metrics(predictions, references) { let a = [1]; loop { a += a; } }", 71, MEMORY),
    ];
    for (text, code, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let task = format!("fn extends() {{ \"std/tasks/sentiment\" }}\n{text}");
        std::fs::write(folder.path().join("task.rhai"), task).unwrap();
        let recipe = r#"
let model = AutoModelForTask::from_pretrained("std/minilm-tiny", "task.rhai");
let rows = Dataset::from_rows([#{ text: "a good film", label: 1 }, #{ text: "a bad film", label: 0 }]);
let trainer = Trainer(#{ model: model, train_dataset: rows, eval_dataset: rows,
    processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    args: TrainingArguments(#{ output_dir: "out", max_steps: 1, eval_strategy: "steps", eval_steps: 1, save_strategy: "no" }) });
trainer.train();
"#;
        let (output, time) = run(folder.path(), recipe);
        let shown = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}\n{shown}");
        // Where the engine knows the line of a loop that was ended, it is there too.
        assert!(shown.contains(words) && shown.contains("task.rhai"), "{text}\n{shown}");
        assert!(time < Duration::from_secs(60), "{text}: {time:?}");
    }
}

#[test]
fn what_is_absurd_at_once_is_refused() {
    for (absurd, words) in [
        ("Tensor::zeros([1000000, 100000]);", "a tensor of shape [1000000, 100000] needs 800 GB of memory, and "),
        ("Tensor::randn([1000000000]);", "needs 8.0 GB"),
        ("Tensor::arange(10000000000);", "needs 80 GB"),
        ("let x = Tensor::ones([1000000, 1]); x + Tensor::ones([1, 1000000]);", "needs 4.0 TB"),
        ("let x = Tensor::ones([1000000, 1]); x.matmul(Tensor::ones([1, 1000000]));", "needs 4.0 TB"),
        ("Tensor::ones([1]).expand([1000000, 1000000]).exp();", "needs 4.0 TB"),
        (
            "let x = Tensor::ones([1000, 1000]); let a = []; for i in 0..500 { a.push(x); } Tensor::cat(a, 0);",
            "needs 2.0 GB",
        ),
        ("let s = \"\"; s.pad(10000000000, 'x');", "a string of 10000000000 entries needs 10 GB"),
        ("let s = \"\"; s.pad(10000000000, \"xy\");", "a string of 10000000000 entries needs 10 GB"),
        ("let a = []; a.pad(10000000000, 1);", "an array of 10000000000 entries needs 160 GB"),
        ("let b = blob(0); b.pad(10000000000, 1);", "a blob of 10000000000 entries needs 10 GB"),
        ("blob(10000000000);", "a blob of 10000000000 entries needs 10 GB"),
        ("blob(10000000000, 7);", "a blob of 10000000000 entries needs 10 GB"),
        ("let s = \"\"; s.pad(1000000, 'x'); let t = s; s.replace(\"x\", t);", "needs 1.0 TB"),
        ("let s = \"\"; s.pad(1000000, 'x'); let t = s; s.replace('x', t);", "needs 1.0 TB"),
        (
            "AutoModelForSequenceClassification::from_config(#{ model_type: \"bert\", vocab_size: 1000000000 });",
            "of memory",
        ),
    ] {
        ends(absurd, 71, &[words]);
    }
}

#[test]
fn a_refusal_can_be_caught_and_an_end_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = "try { Tensor::zeros([1000000, 100000]); } catch (error) { print(error.message.sub_string(0, 8)); }";
    let (output, _) = run(folder.path(), recipe);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a tensor\n");
    ends("try { rows.map(|row| { loop {} }); } catch { print(\"caught\"); }", 78, &[TIME]);
}

#[test]
fn what_takes_its_time_and_memory_rightly_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    // Each call is short; together they take longer than one may.
    let recipe = r#"
let rows = [];
for i in 0..20000 { rows.push(#{ text: `row ${i}`, label: i % 2 }); }
let data = Dataset::from_rows(rows);
for round in 0..6 { data = data.map(|row| { let n = 0; for k in 0..40 { n += k; } #{ n: n } }); }
let sum = 0;
for i in 0..3000000 { sum += i; }
print(data.len() + sum % 7);
"#;
    let (output, time) = run(folder.path(), recipe);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(time > Duration::from_millis(600), "{time:?}: too little to tell");
}

#[test]
fn sleep_takes_the_time_that_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let (output, time) = run(folder.path(), "sleep(0.2);\nprint(\"slept\");");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "slept\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(time >= Duration::from_millis(200));
}
