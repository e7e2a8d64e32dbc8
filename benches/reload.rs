//! What hot reload costs and how quick it is: `cargo bench --bench reload`.
//!
//! Printed: from the save of a file to the update that uses it, at steps of a few milliseconds; the time of a run that is
//! watched beside one that is not; and from a save to the first step of the recipe that runs again, with MiniLM-L6 and SST-2
//! where `RETUNE_SHARED` or `../shared` has them. `-- rerun` measures the last of these alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use retune::data::stages;
use retune::host::reload::Reruns;
use retune::host::run::{Host, RunSettings};
use retune::host::sources::Sources;
use retune::host::watching;
use retune::kernels::memory;
use retune::report::Reporter;
use retune::watch::Notice;

/// Steps of about two milliseconds on two cores.
const RECIPE: &str = r#"
fn compute_loss(output, batch) { cross_entropy(output, batch.labels) * 1.0 }
let rows = [];
for i in 0..64 { rows.push(#{ input_ids: [2, 4 + i % 30, 5, 6 + i % 7, 7, 8, 9, 10, 3], labels: i % 2 }); }
let data = Dataset::from_rows(rows);
let model = BertForSequenceClassification::from_config(#{
    vocab_size: 40, hidden_size: 64, num_hidden_layers: 4, num_attention_heads: 4, intermediate_size: 256,
    max_position_embeddings: 16, num_labels: 2,
});
let trainer = Trainer(#{
    model: model, train_dataset: data, compute_loss: Fn("compute_loss"),
    args: TrainingArguments(#{
        output_dir: arg("out", "out"), max_steps: arg("steps", 100), per_device_train_batch_size: 8, logging_steps: 100000,
        save_strategy: "no",
    }),
});
trainer.train();
"#;

const LARGE: &str = r#"
let model = AutoModelForSequenceClassification::from_pretrained(arg("model", ""), #{ num_labels: 2 });
let trainer = Trainer(#{
    model: model, train_dataset: load_dataset(arg("data", "")),
    processing_class: AutoTokenizer::from_pretrained(arg("model", "")),
    args: TrainingArguments(#{
        output_dir: arg("out", "out"), max_steps: 1, per_device_train_batch_size: 1, save_strategy: "no", logging_steps: 1,
    }),
});
trainer.train();
"#;

fn host(recipe: &Path, arguments: &[(&str, String)], sources: &Sources) -> Host {
    let mut settings = RunSettings::new(recipe, Reporter::capture());
    settings.arguments.extend(arguments.iter().map(|(name, value)| (name.to_string(), value.clone())));
    Host::new(settings, sources)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Milliseconds from a save to the update that uses it.
fn latency(folder: &Path) -> (f64, f64, f64) {
    const EDITS: usize = 60;
    let recipe = folder.join("recipe.rhai");
    std::fs::write(&recipe, RECIPE).expect("the folder can be written to");
    let sources = Sources::default();
    let arguments = [("out", folder.join("out").display().to_string()), ("steps", "1000000".into())];
    let host = host(&recipe, &arguments, &sources);
    let live = host.session.live().clone();
    let watching = watching::watch(&host, Notice::Events, Reruns::Never).expect("files can be watched");
    let mut times = Vec::new();
    let mut steps = 0.0;
    std::thread::scope(|scope| {
        scope.spawn(|| host.run());
        while live.update() < 20 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (begun, first) = (Instant::now(), live.update());
        std::thread::sleep(Duration::from_millis(300));
        steps = begun.elapsed().as_secs_f64() * 1e3 / (live.update() - first) as f64;
        for number in 0..EDITS {
            std::fs::write(&recipe, RECIPE.replace("* 1.0", &format!("* 1.{number:02}1"))).expect("it can be written");
            let saved = Instant::now();
            while live.book().ledger().len() <= number {
                std::thread::sleep(Duration::from_micros(100));
            }
            times.push(saved.elapsed().as_secs_f64() * 1e3);
            // Somewhere else within the next step.
            std::thread::sleep(Duration::from_micros(3_000 + 371 * number as u64));
        }
        live.ask(retune::api::live::Request::Stop(retune::api::live::unanswered()));
    });
    drop(watching);
    times.sort_by(f64::total_cmp);
    let refused =
        live.book().ledger().iter().filter(|entry| !entry.files.is_empty() && entry.message.is_none()).count();
    assert_eq!(refused, 0, "every edit was adopted");
    (steps, times[EDITS / 2], times[EDITS * 95 / 100])
}

/// Seconds of a run of `steps` updates.
fn seconds(folder: &Path, watched: bool, steps: usize) -> f64 {
    let recipe = folder.join("recipe.rhai");
    std::fs::write(&recipe, RECIPE).expect("the folder can be written to");
    let sources = Sources::default();
    let arguments = [("out", folder.join("out").display().to_string()), ("steps", steps.to_string())];
    let host = host(&recipe, &arguments, &sources);
    let _watching =
        watched.then(|| watching::watch(&host, Notice::Events, Reruns::Never).expect("files can be watched"));
    let begun = Instant::now();
    assert!(host.run().is_ok(), "the recipe runs");
    begun.elapsed().as_secs_f64()
}

fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RETUNE_SHARED").map_or_else(|| PathBuf::from("../shared"), PathBuf::from);
    Some(root.join(path)).filter(|path| path.exists())
}

/// Milliseconds from the reading of a recipe to the beginning of its first update and to its end: with nothing kept, then with
/// what the run before it has left.
fn rerun(folder: &Path, model: &Path, data: &Path) -> [(f64, f64); 2] {
    let recipe = folder.join("large.rhai");
    let places = [model, data, folder].map(|path| path.display().to_string());
    let arguments: Vec<(&str, String)> = ["model", "data", "out"].into_iter().zip(places).collect();
    stages::keep(None);
    let mut times = Vec::new();
    for number in 0..12 {
        std::fs::write(&recipe, format!("{LARGE}// {number}\n")).expect("the folder can be written to");
        let sources = Sources::default();
        let begun = Instant::now();
        let host = host(&recipe, &arguments, &sources);
        let live = host.session.live();
        let began = std::thread::scope(|scope| {
            let running = scope.spawn(|| host.run().map_err(|error| error.message));
            while live.update() == 0 && !running.is_finished() {
                std::thread::sleep(Duration::from_micros(200));
            }
            let began = begun.elapsed();
            assert_eq!(running.join().expect("it does not panic"), Ok(()));
            began
        });
        times.push((began.as_secs_f64() * 1e3, begun.elapsed().as_secs_f64() * 1e3));
    }
    stages::forget();
    let middle = |pick: fn(&(f64, f64)) -> f64| median(times[1..].iter().map(pick).collect());
    [times[0], (middle(|time| time.0), middle(|time| time.1))]
}

fn while_it_runs(folder: &Path, lines: &mut Vec<String>) {
    let (step, middle, late) = latency(folder);
    lines.push(format!("edit to effect       median {middle:.1} ms, 95 % {late:.1} ms, at steps of {step:.2} ms"));
    seconds(folder, false, 200);
    let pairs: Vec<(f64, f64)> = (0..7).map(|_| (seconds(folder, false, 1000), seconds(folder, true, 1000))).collect();
    let (plain, watched) =
        (median(pairs.iter().map(|pair| pair.0).collect()), median(pairs.iter().map(|pair| pair.1).collect()));
    lines.push(format!(
        "1000 steps           {plain:.3} s, watched {watched:.3} s ({:+.1} %)",
        (watched / plain - 1.0) * 100.0
    ));
}

fn main() {
    // As `retune watch` does, before there are other threads.
    memory::keep();
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let folder: Arc<Path> = folder.path().into();
    let mut lines = Vec::new();
    if !std::env::args().any(|argument| argument == "rerun") {
        while_it_runs(&folder, &mut lines);
    }
    match (shared("models/minilm-l6"), shared("data/sst2/train.jsonl").or_else(|| shared("data/sst2/train.parquet"))) {
        (Some(model), Some(data)) => {
            let [cold, warm] = rerun(&folder, &model, &data);
            lines.push(format!(
                "save to first step   begins after {:.0} ms, ends after {:.0} ms, with MiniLM-L6 and SST-2 (the first time {:.0} and {:.0} ms)",
                warm.0, warm.1, cold.0, cold.1
            ));
        }
        _ => {
            lines.push("save to first step   skipped: no `models/minilm-l6` and `data/sst2` in `RETUNE_SHARED`".into())
        }
    }
    // A benchmark prints; nothing else of this program may.
    use std::io::Write;
    let _ = std::io::stdout().write_all((lines.join("\n") + "\n").as_bytes());
}
