//! Speed of the engine on this machine, in one run: matrix rates, whole training steps, inference, memory.
//!
//!     cargo bench --bench engine [-- quick]
//!
//! Training is measured as users have it: the `retune` command runs a recipe, and the time between two logged steps is a step, data,
//! head, clipping, optimizer and logging included. A table goes to standard output, all figures to `target/engine-bench.json`.
//!
//! Times of one machine mean little by themselves: compare ratios of one run, or runs taken in turn.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use retune::kernels::tiles::{Kernels, Operand, Pack, Source, Write, available};
use serde_json::{Map, Value, json};

const TRAIN: &str = r#"
let config = if arg("shape", "minilm") == "base" {
    #{ hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12, intermediate_size: 3072 }
} else {
    #{ hidden_size: 384, num_hidden_layers: 6, num_attention_heads: 12, intermediate_size: 1536 }
};
config.model_type = "bert";
config.vocab_size = 30522;
config.num_labels = 2;
let model = AutoModelForSequenceClassification::from_config(config);
let length = arg("length", 0);
let rows = [];
if length > 0 {
    for row in 0..arg("batch", 16) * 40 {
        let ids = [];
        for place in 0..length { ids.push(1000 + (row * 7919 + place * 104729) % 29000); }
        rows.push(#{ input_ids: ids, labels: row % 2 });
    }
}
let data = if length > 0 { Dataset::from_rows(rows) } else { load_dataset(arg("data", "std/reviews"), #{ split: "train" }) };
let args = TrainingArguments(#{
    output_dir: "out", max_steps: arg("steps", 12), per_device_train_batch_size: arg("batch", 16), save_strategy: "no",
    logging_steps: 1, train_sampling_strategy: arg("sampling", "random"), bf16: arg("bf16", false),
    float32_matmul_precision: arg("precision", "highest"),
});
let trainer = Trainer(#{
    model: model, args: args, train_dataset: data, processing_class: AutoTokenizer::from_pretrained(arg("tokenizer", "std/minilm-tiny")),
});
trainer.train();
"#;

fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let mut figures = Map::new();
    let mut rates = Vec::new();
    println!("matrix products on one thread, GFLOP/s");
    for (kernels, _) in available() {
        for (rows, columns, depth) in [(256, 1536, 384), (256, 384, 1536), (32, 1536, 256)] {
            let rate = rate(kernels, rows, columns, depth);
            println!("  {:<28} {rows:>4} x {columns:>4} x {depth:>4}  {rate:>8.1}", kernels.name);
            rates.push(
                json!({ "kernels": kernels.name, "rows": rows, "columns": columns, "depth": depth, "gflops": rate }),
            );
        }
    }
    figures.insert("matrix".into(), Value::from(rates));

    let shared = PathBuf::from(std::env::var_os("RETUNE_SHARED").unwrap_or_else(|| "../shared".into()));
    let sst2 = shared.join("data/sst2/train.jsonl");
    let sst2 = std::fs::canonicalize(sst2).ok();
    if sst2.is_none() {
        println!("skipped: SST-2's lengths; `RETUNE_SHARED` names a folder with data/sst2/train.jsonl");
    }
    let real = sst2.map(|path| format!("data={}", path.display()));
    let mut works: Vec<(&str, Vec<String>)> = vec![("MiniLM 16 x 128", words("length=128"))];
    if let Some(data) = &real {
        let with = |more: &str| words(more).into_iter().chain([data.clone()]).collect::<Vec<_>>();
        works.push(("MiniLM SST-2 batch 32, random", with("batch=32 steps=40")));
        works.push(("MiniLM SST-2 batch 32, grouped", with("batch=32 steps=40 sampling=group_by_length")));
    }
    if !quick {
        works.push(("MiniLM 8 x 512", words("length=512 batch=8")));
        works.push(("BERT-base 16 x 128", words("length=128 shape=base steps=6")));
    }
    let paths: [(&str, &str, &[&str]); 5] = [
        ("highest", "", &["precision=highest"]),
        ("high", "", &["precision=high"]),
        ("bf16", "", &["bf16=true"]),
        ("gemm", "gemm", &[]),
        ("reference", "reference", &["steps=3"]),
    ];
    println!("\nwhole training steps, median ms (peak memory, MB)");
    let mut steps = Vec::new();
    for (name, arguments) in &works {
        let mut line = format!("  {name:<32}");
        for (path, kernels, more) in &paths {
            if quick && *path == "reference" {
                continue;
            }
            let arguments = arguments.iter().cloned().chain(more.iter().map(ToString::to_string)).collect::<Vec<_>>();
            let run = train(&arguments, kernels);
            line += &format!("  {path} {:.0} ({:.0})", run.median * 1e3, run.peak);
            steps.push(json!({
                "work": name, "path": path, "median_s": run.median, "peak_mb": run.peak, "first_step_s": run.first_step,
            }));
        }
        println!("{line}");
    }
    figures.insert("steps".into(), Value::from(steps));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/engine-bench.json");
    let text = serde_json::to_string_pretty(&Value::Object(figures)).expect("figures are plain numbers and names");
    std::fs::write(&path, text + "\n").expect("the target folder can be written to");
    println!("\nall figures: {}", path.display());
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToString::to_string).collect()
}

fn rate(kernels: &Kernels, rows: usize, columns: usize, depth: usize) -> f64 {
    let values = |n: usize| -> Vec<f32> { (0..n).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect() };
    let (left, right) = (values(rows * depth), values(columns * depth));
    let (mut a, mut b) = (Operand::default(), Operand::default());
    kernels.pack(Pack::A, Source::rows(&left, rows, depth), &mut a);
    kernels.pack(Pack::TransposedB, Source::rows(&right, columns, depth), &mut b);
    let mut out = vec![0.0f32; rows * columns];
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        kernels.product(a.tiles(), b.tiles(), rows, &mut out, columns, Write::Replace);
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (rows * columns * depth) as f64 / best / 1e9
}

struct Run {
    median: f64,
    peak: f64,
    first_step: f64,
}

/// Runs the recipe in a process of its own.
fn train(arguments: &[String], kernels: &str) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let recipe = folder.path().join("train.rhai");
    std::fs::File::create(&recipe)
        .and_then(|mut file| file.write_all(TRAIN.as_bytes()))
        .expect("the recipe can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.current_dir(folder.path()).arg("run").arg("train.rhai").arg("--json").args(arguments);
    // The recipe's data may lie elsewhere.
    command.args(["--allow-read", "/"]).env("RETUNE_KERNELS", kernels);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("retune starts");
    let out = child.stdout.take().expect("its output is piped");
    let (mut times, mut peak, mut first_step) = (Vec::new(), 0.0, 0.0);
    for line in BufReader::new(out).lines() {
        let line = line.expect("its output is text");
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        match event["event"].as_str() {
            Some("log") if event.get("loss").is_some() => times.push(Instant::now()),
            Some("result") => {
                first_step = event["time_to_first_step_s"].as_f64().unwrap_or(0.0);
                let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
                let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("");
                peak = line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0;
            }
            _ => {}
        }
    }
    assert!(child.wait().expect("it ends").success(), "retune failed on {arguments:?}");
    let mut steps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    steps.sort_by(f64::total_cmp);
    Run { median: steps.get(steps.len() / 2).copied().unwrap_or(f64::NAN), peak, first_step }
}
