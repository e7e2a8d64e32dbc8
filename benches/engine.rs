//! Speed of the engine on this machine, in one run: matrix rates, whole training steps, where their time goes, inference, memory.
//!
//!     cargo bench --bench engine [-- quick | inference]
//!
//! Training is measured as users have it: the `retune` command runs a recipe, and the time between two logged steps is a step, data,
//! head, clipping, optimizer and logging included. A table goes to standard output, all figures to `target/engine-bench.json`.
//!
//! Where `RETUNE_PEER` names a Python that has `transformers`, and the folder `RETUNE_SHARED` (or `../shared`) holds
//! `tools/peer_bench.py`, Hugging Face Trainer does the same work in turn, and ratios are printed.
//!
//! Times of one machine mean little by themselves: compare ratios of one run, or runs taken in turn.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use candle_core::Device;
use retune::batch::{Batch, Features};
use retune::kernels::tiles::{Kernels, Operand, Pack, Precision, Source, Write, available};
use retune::model::backbone::LoadSettings;
use retune::model::parameters::without_gradients;
use retune::model::{Backbone, ModelConfig};
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
    for row in 0..arg("batch", 16) * 20 {
        let ids = [];
        for place in 0..length { ids.push(1000 + (row * 7919 + place * 104729) % 29000); }
        rows.push(#{ input_ids: ids, labels: row % 2 });
    }
}
let data = if length > 0 { Dataset::from_rows(rows) } else { load_dataset(arg("data", "std/reviews"), #{ split: "train" }) };
let args = TrainingArguments(#{
    output_dir: "out", max_steps: arg("steps", 12), per_device_train_batch_size: arg("batch", 16), save_strategy: "no",
    logging_steps: 1, train_sampling_strategy: arg("sampling", "random"), bf16: arg("bf16", false),
    float32_matmul_precision: arg("precision", "highest"), gradient_checkpointing: arg("checkpointing", false),
});
let trainer = Trainer(#{
    model: model, args: args, train_dataset: data, processing_class: AutoTokenizer::from_pretrained(arg("tokenizer", "std/minilm-tiny")),
});
trainer.train();
"#;

fn main() {
    let asked = |word: &str| std::env::args().any(|argument| argument == word);
    if asked("inference") {
        inference();
        return;
    }
    let quick = asked("quick");
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
    let work = |name, arguments: &str, peer| Work { name, arguments: words(arguments), peer };
    let full = "--padding max_length --steps 12 --warmup 3";
    let mut works = vec![work("MiniLM 16 x 128", "length=128 steps=16", full)];
    if let Some(data) = &real {
        let real_work = |name, more: &str, peer| {
            let mut work = work(name, more, peer);
            work.arguments.push(data.clone());
            work
        };
        let (random, grouped) =
            ("--batch 32 --steps 30 --warmup 6", "--batch 32 --steps 30 --warmup 6 --sampler group_by_length");
        works.push(real_work("MiniLM SST-2 batch 32, random", "batch=32 steps=40", random));
        works.push(real_work("MiniLM SST-2 batch 32, grouped", "batch=32 steps=40 sampling=group_by_length", grouped));
    }
    if !quick {
        let long = "--batch 8 --maxlen 512 --padding max_length --steps 8 --warmup 2";
        works.push(work("MiniLM 8 x 512", "length=512 batch=8 steps=12", long));
        let base = "--size base --padding max_length --steps 7 --warmup 2";
        works.push(work("BERT-base 16 x 128", "length=128 shape=base steps=8", base));
    }
    println!("\nwhole training steps, median ms (peak memory, MB)");
    let mut steps = Vec::new();
    for work in &works {
        let peers = [peer(&shared, work, "fp32"), peer(&shared, work, "bf16")];
        for (peer, dtype) in peers.iter().zip(["f32", "bf16"]) {
            if let Some(run) = peer {
                println!("  {:<32} Hugging Face {dtype} {:.0} ({:.0})", work.name, run.median * 1e3, run.peak);
                steps.push(json!({
                    "work": work.name, "path": format!("Hugging Face {dtype}"), "median_s": run.median, "peak_mb": run.peak,
                    "first_step_s": run.first_step,
                }));
            }
        }
        for (path, kernels, more) in PATHS {
            if quick && path == "reference" {
                continue;
            }
            let arguments = with(&work.arguments, more);
            let mut run = train(&arguments, kernels, "");
            // Taking the times of the parts takes time itself, so that is another run.
            if path == "highest" || path == "bf16" {
                run.profile = train(&with(&arguments, "steps=6"), kernels, "1").profile;
            }
            let against = if path.starts_with("bf16") { &peers[1] } else { &peers[0] };
            let ratio = against.as_ref().map_or(String::new(), |peer| {
                format!("  {:.2} x, memory {:.2}", peer.median / run.median, run.peak / peer.peak)
            });
            println!("  {:<32} {path:<12} {:>6.0} ({:.0}){ratio}", work.name, run.median * 1e3, run.peak);
            if !run.profile.is_empty() {
                println!("  {:<32} {:<12} {}", "", "", shares(&run.profile));
            }
            steps.push(json!({
                "work": work.name, "path": path, "median_s": run.median, "peak_mb": run.peak, "first_step_s": run.first_step,
                "cpu_seconds_by_part": run.profile,
            }));
        }
    }
    figures.insert("steps".into(), Value::from(steps));
    figures.insert("inference".into(), Value::from(inference()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/engine-bench.json");
    let text = serde_json::to_string_pretty(&Value::Object(figures)).expect("figures are plain numbers and names");
    std::fs::write(&path, text + "\n").expect("the target folder can be written to");
    println!("\nall figures: {}", path.display());
}

/// Arguments with others in the place of those of the same name: a recipe takes each once.
fn with(arguments: &[String], others: &str) -> Vec<String> {
    let others = words(others);
    let name = |argument: &str| argument.split('=').next().map(str::to_string);
    let stays = arguments.iter().filter(|argument| others.iter().all(|other| name(other) != name(argument)));
    stays.cloned().chain(others.iter().cloned()).collect()
}

/// Name, `RETUNE_KERNELS` and arguments of what is compared.
const PATHS: [(&str, &str, &str); 6] = [
    ("highest", "", "precision=highest"),
    ("high", "", "precision=high"),
    ("bf16", "", "bf16=true"),
    ("bf16, less", "", "bf16=true checkpointing=true"),
    ("gemm", "gemm", ""),
    ("reference", "reference", "steps=4"),
];

/// What is trained: our recipe's arguments, and those of the peer's program.
struct Work {
    name: &'static str,
    arguments: Vec<String>,
    peer: &'static str,
}

/// The share of each part in the processor's time.
fn shares(profile: &Map<String, Value>) -> String {
    let seconds = |value: &Value| value.as_f64().unwrap_or(0.0);
    let total: f64 = profile.values().map(seconds).sum();
    let shown = profile.iter().map(|(part, value)| format!("{part} {:.0} %", 100.0 * seconds(value) / total));
    shown.collect::<Vec<_>>().join(", ")
}

/// The same work by Hugging Face Trainer, where it is at hand.
fn peer(shared: &Path, work: &Work, dtype: &str) -> Option<Run> {
    let python = std::env::var_os("RETUNE_PEER")?;
    let model = shared.join("models/minilm-l6");
    let rows = tempfile::NamedTempFile::new().ok()?;
    // The program wants numbers as labels.
    let mut lines = String::new();
    for line in std::fs::read_to_string(shared.join("data/sst2/train.jsonl")).ok()?.lines() {
        let mut row: Value = serde_json::from_str(line).ok()?;
        row["label"] = json!(i32::from(row["label"] == "positive"));
        lines += &format!("{row}\n");
    }
    std::fs::write(rows.path(), lines).ok()?;
    let mut command = Command::new(python);
    command.arg(shared.join("tools/peer_bench.py")).arg("--model").arg(model).arg("--data").arg(rows.path());
    command.args(words(work.peer)).args(["--dtype", dtype]).env("HF_HUB_OFFLINE", "1");
    let output = command.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let found: Value = serde_json::from_str(text.lines().last()?).ok()?;
    Some(Run {
        median: found["step_s_median"].as_f64()?,
        peak: found["peak_rss_mb"].as_f64()?,
        first_step: found["start_to_first_step_s"].as_f64()?,
        profile: Map::new(),
    })
}

/// Forward passes of the encoder: many rows, and one sentence.
fn inference() -> Vec<Value> {
    println!("\ninference of the MiniLM shape, encoder alone");
    let config = json!({
        "model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536,
    });
    let settings = LoadSettings {
        caller: "the benchmark".into(),
        overrides: Vec::new(),
        ignore_mismatched_sizes: false,
        seed: 1,
        device: Device::Cpu,
    };
    let config = ModelConfig::from_map(config.as_object().expect("an object").clone());
    let backbone = Backbone::from_config(config, &settings).expect("the configuration is a valid one");
    let rows: Vec<(usize, usize)> = vec![(32, 128), (1, 22)];
    let mut all = Vec::new();
    for (n_rows, length) in rows {
        let row = |row: usize| -> Vec<u32> {
            (0..length).map(|at| 1000 + ((row * 7919 + at * 104_729) % 29_000) as u32).collect()
        };
        let features: Vec<Features> = (0..n_rows).map(|number| Features::of_tokens(&row(number), 0)).collect();
        let examples: Vec<(usize, &Features)> = features.iter().enumerate().collect();
        let batch = Batch::pack(&examples, &Device::Cpu).expect("the rows are alike");
        for (name, precision) in [("highest", Precision::Highest), ("high", Precision::High), ("bf16", Precision::Bf16)]
        {
            backbone.encoder.set_precision(precision);
            let mut times: Vec<f64> = (0..if n_rows == 1 { 200 } else { 12 })
                .map(|_| {
                    let start = Instant::now();
                    without_gradients(|| backbone.encoder.forward(&batch)).expect("the batch fits the model");
                    start.elapsed().as_secs_f64()
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            println!(
                "  {n_rows:>3} x {length:<4} {name:<8} {:>8.2} ms  {:>7.0} rows/s",
                median * 1e3,
                n_rows as f64 / median
            );
            all.push(json!({ "rows": n_rows, "length": length, "precision": name, "median_s": median }));
        }
    }
    all
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
    /// The processor's seconds by part.
    profile: Map<String, Value>,
}

/// Runs the recipe in a process of its own.
fn train(arguments: &[String], kernels: &str, profile: &str) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let recipe = folder.path().join("train.rhai");
    std::fs::File::create(&recipe)
        .and_then(|mut file| file.write_all(TRAIN.as_bytes()))
        .expect("the recipe can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.current_dir(folder.path()).arg("run").arg("train.rhai").arg("--json").args(arguments);
    // The recipe's data may lie elsewhere.
    command.args(["--allow-read", "/"]).env("RETUNE_KERNELS", kernels).env("RETUNE_PROFILE", profile);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("retune starts");
    let out = child.stdout.take().expect("its output is piped");
    let (mut times, mut peak, mut first_step, mut profile) = (Vec::new(), 0.0, 0.0, Map::new());
    for line in BufReader::new(out).lines() {
        let line = line.expect("its output is text");
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        match event["event"].as_str() {
            Some("log") if event.get("loss").is_some() => {
                times.push(Instant::now());
                // While it runs for certain: behind its result it may have ended.
                peak = peak_of(&child).unwrap_or(peak);
            }
            Some("result") => {
                first_step = event["time_to_first_step_s"].as_f64().unwrap_or(0.0);
                profile = event["profile"].as_object().cloned().unwrap_or_default();
            }
            _ => {}
        }
    }
    assert!(child.wait().expect("it ends").success(), "retune failed on {arguments:?}");
    // The first steps make room and find the clock's speed.
    let settled = times.get(2..).unwrap_or_default();
    let mut steps: Vec<f64> = settled.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    steps.sort_by(f64::total_cmp);
    Run { median: steps.get(steps.len() / 2).copied().unwrap_or(f64::NAN), peak, first_step, profile }
}

/// The most memory that a running process has had, MB.
fn peak_of(child: &Child) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
