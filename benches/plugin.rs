//! What a plugin costs: the same head as a plugin, as a script, and as plain calls of the library, for each call and for each step.
//!
//! `cargo bench --bench plugin`. A step is a forward and a backward of MiniLM-L6 (`RETUNE_SHARED`, or `../shared`) over 32 rows of 32
//! tokens; where that model is absent, of the embedded one.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use retune::batch::{Batch, Draw, Features};
use retune::data::Value;
use retune::data::files::Folder;
use retune::error::Result;
use retune::head::plugin::{Alone, PluginTask};
use retune::head::script::ScriptTask;
use retune::head::{HeadBuilder, Model, ModelSettings, Task, packed};
use retune::kernels::linear::linear;
use retune::model::backbone::LoadSettings;
use retune::model::layers::Bias;
use retune::model::{Backbone, ModelConfig};
use retune::plugin::Plugin;
use retune::tensor::loss::{CrossEntropy, cross_entropy};
use retune_plugin_sdk::{Cx, Json, Linear, Outputs, TaskHead, export_heads};
use serde_json::json;

/// The head of BERT's sequence classification.
struct Head {
    dropout: f64,
    classifier: Linear,
}

impl TaskHead for Head {
    const NAME: &'static str = "head";

    fn create(cx: Cx<'_>, config: &Json) -> retune_plugin_sdk::Result<Self> {
        let (hidden, labels) = (config.count("hidden_size")?, config.count("num_labels")?);
        Ok(Head { dropout: config.number("head_dropout")?, classifier: Linear::new(cx, "classifier", hidden, labels) })
    }

    fn forward<'c>(&self, _: Cx<'c>, hidden: retune_plugin_sdk::Tensor<'c>) -> retune_plugin_sdk::Result<Outputs<'c>> {
        Ok(self.classifier.forward(hidden.first().dropout(self.dropout)).into())
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> retune_plugin_sdk::Result<retune_plugin_sdk::Tensor<'c>> {
        cx.input("logits").task_cross_entropy(cx.input("labels"))
    }
}

/// A head that does nothing but calls of the table.
struct Calls;

/// How many calls of the table one forward of [`Calls`] makes.
const N_CALLS: usize = 1000;

impl TaskHead for Calls {
    const NAME: &'static str = "calls";

    fn create(_: Cx<'_>, _: &Json) -> retune_plugin_sdk::Result<Self> {
        Ok(Calls)
    }

    fn forward<'c>(&self, cx: Cx<'c>, hidden: retune_plugin_sdk::Tensor<'c>) -> retune_plugin_sdk::Result<Outputs<'c>> {
        for _ in 0..N_CALLS {
            std::hint::black_box(cx.is_training());
        }
        Ok(hidden.into())
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> retune_plugin_sdk::Result<retune_plugin_sdk::Tensor<'c>> {
        Ok(cx.input("logits").mean_all())
    }
}

/// A head of operations on small tensors.
struct Operations;

impl TaskHead for Operations {
    const NAME: &'static str = "operations";

    fn create(_: Cx<'_>, _: &Json) -> retune_plugin_sdk::Result<Self> {
        Ok(Operations)
    }

    fn forward<'c>(&self, cx: Cx<'c>, hidden: retune_plugin_sdk::Tensor<'c>) -> retune_plugin_sdk::Result<Outputs<'c>> {
        let one = cx.floats(&[1.0], &[1]);
        let mut x = one;
        for _ in 0..N_CALLS {
            x = x + one;
        }
        Ok(Outputs::named([("logits", hidden), ("x", x)]))
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> retune_plugin_sdk::Result<retune_plugin_sdk::Tensor<'c>> {
        Ok(cx.input("logits").mean_all())
    }
}

export_heads!(Head, Calls, Operations);

/// The median time of a call in seconds, after some that do not count.
fn median(times: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..times.div_ceil(10) {
        call()?;
    }
    let mut seconds = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        call()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[times / 2])
}

fn batch() -> Result<Batch> {
    let row = |number: usize| {
        let ids: Vec<usize> = (0..32).map(|place| 1 + (7 * number + place) % 900).collect();
        match Value::from(json!({ "input_ids": ids, "labels": number % 2 })) {
            Value::Map(map) => Features::from_row(&map),
            _ => unreachable!("a map stays a map"),
        }
    };
    let rows = (0..32).map(row).collect::<Result<Vec<_>>>()?;
    let numbered: Vec<(usize, &Features)> = rows.iter().enumerate().collect();
    Ok(Batch::pack(&numbered, &Device::Cpu)?.training(Draw { seed: 1, step: 0 }, 0))
}

fn load() -> LoadSettings {
    LoadSettings {
        caller: "`bench`".into(),
        overrides: Vec::new(),
        ignore_mismatched_sizes: false,
        seed: 1,
        device: Device::Cpu,
    }
}

fn script() -> Result<Arc<dyn Task>> {
    let mut engine = rhai::Engine::new();
    engine.set_max_expr_depths(128, 128);
    retune::api::register(&mut engine);
    let ast = engine.compile(include_str!("../stdlib/tasks/sentiment.rhai")).expect("the embedded task compiles");
    Ok(Arc::new(ScriptTask::new("std/tasks/sentiment".into(), Arc::new(engine), ast, None)?))
}

fn plugin(plugin: &Arc<Plugin>, head: &str) -> Result<Arc<dyn Task>> {
    Ok(Arc::new(PluginTask::new(plugin, head, Arc::new(Alone))?))
}

/// The time of a forward, loss and backward of a head alone, over hidden states that want a gradient.
fn head_alone(task: &Arc<dyn Task>, backbone: &Backbone, hidden: &Var, batch: &Batch, times: usize) -> Result<f64> {
    let builder = HeadBuilder::new(backbone.builder.clone(), backbone.family, 0.02, 1e-12);
    let head = task.create(&builder, &backbone.config)?;
    median(times, || {
        batch.start_forward();
        let output = task.forward(&head, hidden.as_tensor(), batch)?;
        task.loss(&head, &output, batch)?.backward()?;
        Ok(())
    })
}

fn small() -> Result<Backbone> {
    let config = json!({
        "model_type": "bert", "vocab_size": 1000, "hidden_size": 384, "num_hidden_layers": 0, "num_attention_heads": 1,
        "intermediate_size": 8, "num_labels": 2,
    });
    Backbone::from_config(ModelConfig::from_map(config.as_object().cloned().unwrap_or_default()), &load())
}

fn run() -> Result<()> {
    let linked = Plugin::linked(&retune_plugin_entry)?;
    let batch = batch()?;
    let hidden = Var::from_tensor(&Tensor::rand(-1f32, 1f32, (batch.n_tokens(), 384), &Device::Cpu)?)?;

    for (head, what) in [("calls", "a call of the table"), ("operations", "an operation on two numbers")] {
        let task = plugin(&linked, head)?;
        let backbone = small()?;
        let builder = HeadBuilder::new(backbone.builder.clone(), backbone.family, 0.02, 1e-12);
        let state = task.create(&builder, &backbone.config)?;
        let seconds = median(200, || task.forward(&state, hidden.as_tensor(), &batch).map(drop))?;
        println!("{what:<34} {:>9.0} ns", seconds / N_CALLS as f64 * 1e9);
    }
    let one = Tensor::new(&[1f32], &Device::Cpu)?;
    let seconds = median(200, || {
        let mut x = one.clone();
        for _ in 0..N_CALLS {
            x = (&x + &one)?;
        }
        Ok(())
    })?;
    println!("{:<34} {:>9.0} ns", "the same operation in candle", seconds / N_CALLS as f64 * 1e9);

    let backbone = small()?;
    let builder = HeadBuilder::new(backbone.builder.clone(), backbone.family, 0.02, 1e-12);
    let layer = builder.linear("native", 384, 2, Bias::Yes)?;
    let labels = batch.column("labels")?.to_dtype(DType::I64)?;
    let native = median(2000, || {
        batch.start_forward();
        let x = packed::dropout(&packed::first(hidden.as_tensor(), &batch)?, 0.1, &batch)?;
        let bias = layer.bias.as_ref().map(|bias| bias.tensor());
        let logits = linear(&x, &layer.weight.tensor(), bias.as_ref())?;
        cross_entropy(&logits, &labels, &CrossEntropy::default())?.backward()?;
        Ok(())
    })?;
    let of_plugin = head_alone(&plugin(&linked, "head")?, &small()?, &hidden, &batch, 2000)?;
    let of_script = head_alone(&script()?, &small()?, &hidden, &batch, 2000)?;
    for (what, seconds) in [("native", native), ("plugin", of_plugin), ("script", of_script)] {
        println!("head forward, loss, backward: {what:<8} {:>6.1} us", seconds * 1e6);
    }

    let shared = std::env::var_os("RETUNE_SHARED").map_or_else(|| PathBuf::from("../shared"), PathBuf::from);
    let minilm = shared.join("models/minilm-l6");
    let (name, folder) = match minilm.join("config.json").is_file() {
        true => ("MiniLM-L6", Folder::Disk(minilm)),
        false => ("the embedded model", Folder::Embedded("minilm-tiny".into())),
    };
    let step = |task: Arc<dyn Task>| -> Result<f64> {
        let settings = ModelSettings { name: name.into(), suffix: "ForTask".into(), task, load: load() };
        let model = Model::from_pretrained(&folder, settings)?;
        median(15, || {
            let output = model.forward(&batch)?;
            let mut store = model.loss(&output, &batch)?.backward()?;
            model.collect_gradients(&mut store, &mut retune::head::Gradients::new())?;
            Ok(())
        })
    };
    let (of_step, with_script) = (step(plugin(&linked, "head")?)?, step(script()?)?);
    println!("a step of {name} with the plugin   {:>8.2} ms", of_step * 1e3);
    println!("a step of {name} with the script   {:>8.2} ms", with_script * 1e3);
    let share = |seconds: f64| 100.0 * (seconds - native).max(0.0) / of_step;
    println!("the plugin adds {:.3} % of a step, the script {:.3} %", share(of_plugin), share(of_script));
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        println!("error: {error}");
        std::process::exit(1);
    }
}
