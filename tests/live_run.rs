//! A small run whose scripts change at given updates: what the tests of hot reload share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use retune::api::live::Request;
use retune::host::diagnostics::Style;
use retune::host::reload::{Reloader, Reruns};
use retune::host::run::{Host, RunSettings};
use retune::host::sources::Sources;
use retune::report::Reporter;
use retune::train::ledger::{Entry, Outcome};
use serde_json::Value as Json;

/// Twelve updates of two epochs; the loss, the metrics and the callback are named functions, the task and a helper scripts of
/// their own.
pub(crate) const RECIPE: &str = r#"import "helper" as helper;

fn compute_loss(output, batch) {
    helper::scaled(cross_entropy(output, batch.labels))
}

fn compute_metrics(eval_pred) {
    #{ hits: accuracy(argmax(eval_pred.predictions), eval_pred.label_ids) }
}

fn on_step_end(args, state, control, extra) {
    if state.global_step == 1000 { control.should_training_stop = true; }
}

let rows = [];
for i in 0..24 {
    let ids = [2];
    for j in 0..(1 + i * 7 % 10) { ids.push(4 + (i * 31 + j * 17 + j * j * i) % 36); }
    ids.push(3);
    rows.push(#{ input_ids: ids, labels: i * i % 2 });
}
let data = Dataset::from_rows(rows);
let out = arg("out", "out");
let base = BertForSequenceClassification::from_config(#{
    vocab_size: 40, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4,
    intermediate_size: 64, max_position_embeddings: 16, initializer_range: 0.2, num_labels: 2,
});
base.save_pretrained(out + "/base");
let model = AutoModelForTask::from_pretrained(out + "/base", "task.rhai", #{ num_labels: 2 });
let args = TrainingArguments(#{
    output_dir: out,
    max_steps: 12,
    per_device_train_batch_size: 4,
    learning_rate: 1e-3,
    logging_steps: 1,
    eval_strategy: "steps",
    eval_steps: 3,
    save_strategy: "no",
});
let trainer = Trainer(#{
    model: model, args: args, train_dataset: data, eval_dataset: data,
    compute_loss: Fn("compute_loss"), compute_metrics: Fn("compute_metrics"),
    callbacks: [#{ on_step_end: Fn("on_step_end"), on_log: |args, state, control, extra| { let here = 1; } }],
});
trainer.train();
trainer.save_model(args.output_dir);
write_json(args.output_dir + "/history.json", trainer.state.log_history);
"#;

pub(crate) const HELPER: &str = "fn scaled(loss) { loss * 1.0 }\n";

pub(crate) const TASK: &str = r#"fn create(p, config) {
    #{ scorer: p.linear("scorer", config.hidden_size, config.num_labels) }
}

fn forward(head, hidden, batch) {
    head.scorer.forward(hidden.mean(batch).dropout(0.1, batch))
}

fn loss(head, logits, batch) {
    cross_entropy(logits, batch.labels)
}
"#;

pub(crate) const FILES: [(&str, &str); 3] = [("recipe.rhai", RECIPE), ("helper.rhai", HELPER), ("task.rhai", TASK)];

/// What a run ended with.
pub(crate) struct Finished {
    pub(crate) weights: Vec<u8>,
    pub(crate) history: Vec<serde_json::Map<String, Json>>,
    pub(crate) ledger: Vec<Entry>,
    pub(crate) shown: String,
    pub(crate) failed: Option<String>,
    pub(crate) out: PathBuf,
    /// Keeps the folder.
    pub(crate) folder: tempfile::TempDir,
}

impl Finished {
    /// The outcomes of the ledger, in order.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.ledger.iter().map(|entry| entry.outcome).collect()
    }
}

/// Files with new texts; none for a file that is deleted.
pub(crate) type Edits = Vec<(&'static str, Option<String>)>;

pub(crate) fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// What the clock says is left out.
pub(crate) fn history(out: &Path) -> Vec<serde_json::Map<String, Json>> {
    let text = std::fs::read_to_string(out.join("history.json")).unwrap_or_else(|_| "[]".into());
    let mut all: Vec<serde_json::Map<String, Json>> = serde_json::from_str(&text).unwrap();
    all.iter_mut().for_each(|log| log.retain(|key, _| !key.ends_with("_runtime") && !key.ends_with("_per_second")));
    all
}

/// Runs the recipe of `files`; before the update after `step`, `edits(step)` changes scripts.
pub(crate) fn run(files: &[(&str, &str)], edits: impl FnMut(usize) -> Edits + Send + 'static) -> Finished {
    run_with(files, Reruns::Never, edits, |_, _| Vec::new())
}

/// As [`run`], with requests beside edits.
pub(crate) fn run_with(
    files: &[(&str, &str)],
    reruns: Reruns,
    mut edits: impl FnMut(usize) -> Edits + Send + 'static,
    mut requests: impl FnMut(usize, &retune::api::live::Live) -> Vec<Request> + Send + 'static,
) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), files);
    let out = folder.path().join("out");
    let (reporter, sources) = (Reporter::capture(), Sources::default());
    let mut settings = RunSettings::new(folder.path().join("recipe.rhai"), reporter.clone());
    settings.arguments.insert("out".into(), out.display().to_string());
    let host = Host::new(settings, &sources);
    host.record().unwrap();
    let reloader = Arc::new(Reloader::new(&host, reruns));
    let live = host.session.live().clone();
    live.set(|settings| settings.shadow_time = Duration::from_millis(100));
    live.set(|settings| settings.first_call = Duration::from_millis(100));
    let (place, inner) = (folder.path().to_path_buf(), live.clone());
    live.follow(Box::new(move |step| {
        let changed: Vec<_> = edits(step)
            .into_iter()
            .map(|(name, text)| (place.join(name).display().to_string(), text.map(|text| text.as_str().into())))
            .collect();
        let mut all = requests(step, &inner);
        if !changed.is_empty() {
            all.extend(reloader.propose(changed));
        }
        all
    }));
    let outcome = host.run();
    Finished {
        weights: std::fs::read(out.join("model.safetensors")).unwrap_or_default(),
        history: history(&out),
        ledger: live.book().ledger(),
        shown: reporter.captured().stderr.replace(&format!("{}/", folder.path().display()), ""),
        failed: outcome.err().map(|error| error.render(&sources, Style::Plain)),
        out,
        folder,
    }
}

/// One edit at one update.
pub(crate) fn once(step: usize, name: &'static str, text: String) -> impl FnMut(usize) -> Edits + Send + 'static {
    move |now| if now == step { vec![(name, Some(text.clone()))] } else { Vec::new() }
}
