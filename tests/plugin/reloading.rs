//! A plugin that is built anew while its head trains: what is right counts from its update on, what is broken leaves no trace.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use retune::host::bake::bake;
use retune::host::builds::Builds;
use retune::host::diagnostics::Style;
use retune::host::reload::{Reloader, Reruns};
use retune::host::replay;
use retune::host::run::{Host, RunSettings};
use retune::host::sources::Sources;
use retune::plugin::{Loader, Store};
use retune::report::Reporter;
use retune::train::ledger::{Entry, Outcome, Recorded};

use super::{built, compiled, loader};
use crate::live_run::history;

/// Updates whose loss is the plugin's, with a checkpoint at the end.
const RECIPE: &str = r#"
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
    vocab_size: 40, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
    intermediate_size: 32, max_position_embeddings: 16, initializer_range: 0.2, num_labels: 2,
});
base.save_pretrained(out + "/base");
let model = AutoModelForTask::from_pretrained(out + "/base", arg("task", ""), #{ num_labels: 2, plugin_path: arg("plugin", "") });
let steps = arg("steps", 12);
let args = TrainingArguments(#{
    output_dir: out, max_steps: steps, per_device_train_batch_size: 4, learning_rate: 1e-3, weight_decay: 0.1,
    logging_steps: 1, eval_strategy: "steps", eval_steps: 3, save_steps: steps,
});
let trainer = Trainer(#{ model: model, args: args, train_dataset: data, eval_dataset: data });
trainer.train();
trainer.save_model(args.output_dir);
write_json(args.output_dir + "/history.json", trainer.state.log_history);
"#;

/// What becomes of the plugin's file before an update.
enum Edit {
    Build(Vec<u8>),
    Gone,
}

struct Finished {
    files: Vec<Vec<u8>>,
    history: Vec<serde_json::Map<String, serde_json::Value>>,
    ledger: Vec<Entry>,
    shown: String,
    failed: Option<String>,
    out: PathBuf,
    store: Store,
    library: PathBuf,
    _folder: tempfile::TempDir,
}

impl Finished {
    fn outcomes(&self) -> Vec<Outcome> {
        self.ledger.iter().map(|entry| entry.outcome).collect()
    }

    fn message(&self, number: usize) -> &str {
        self.ledger[number].message.as_deref().unwrap_or_default()
    }
}

/// A build of `rebuilt.c`.
fn build(flags: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rebuilt.so");
    compiled("tests/plugin/rebuilt.c", flags, &path);
    std::fs::read(path).unwrap()
}

/// The same code in a file with another content.
fn again(content: &[u8], number: usize) -> Vec<u8> {
    [content, format!("build {number}").as_bytes()].concat()
}

/// What a run leaves behind: weights, what the head remembers, moments.
fn files(out: &Path, steps: usize) -> Vec<Vec<u8>> {
    let checkpoint = out.join(format!("checkpoint-{steps}"));
    let all = [
        out.join("model.safetensors"),
        out.join("head_state.bin"),
        checkpoint.join("model.safetensors"),
        checkpoint.join("optimizer.safetensors"),
    ];
    all.iter().map(|path| std::fs::read(path).unwrap_or_default()).collect()
}

/// Runs the recipe with the head of `first`; before the update after `step`, `edits(step)` changes its file.
fn run(first: &[u8], steps: usize, edits: impl FnMut(usize) -> Option<Edit> + Send + 'static) -> Finished {
    run_head("rebuilt", first, steps, edits)
}

fn run_head(
    head: &str,
    first: &[u8],
    steps: usize,
    mut edits: impl FnMut(usize) -> Option<Edit> + Send + 'static,
) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, library, out) =
        (folder.path().join("recipe.rhai"), folder.path().join("librebuilt.so"), folder.path().join("out"));
    std::fs::write(&recipe, RECIPE).unwrap();
    std::fs::write(&library, first).unwrap();
    let Loader { store, .. } = loader(folder.path());
    Loader { store: store.clone(), files: Vec::new() }.allow(&library).unwrap();
    let (reporter, sources) = (Reporter::capture(), Sources::default());
    let mut settings = RunSettings::new(recipe, reporter.clone());
    settings.builds = Builds::in_store(store.clone());
    let arguments = [
        ("out", out.display().to_string()),
        ("plugin", library.display().to_string()),
        ("task", format!("plugin:{head}")),
        ("steps", steps.to_string()),
    ];
    settings.arguments.extend(arguments.map(|(name, value)| (name.to_string(), value)));
    let host = Host::new(settings, &sources);
    host.record().unwrap();
    let reloader = Arc::new(Reloader::new(&host, Reruns::Never));
    let live = host.session.live().clone();
    let name = library.display().to_string();
    live.follow(Box::new(move |step| {
        let content = match edits(step) {
            None => return Vec::new(),
            Some(Edit::Build(content)) => Some(content.into()),
            Some(Edit::Gone) => None,
        };
        reloader.propose_build(&name, content).into_iter().collect()
    }));
    let outcome = host.run();
    Finished {
        files: files(&out, steps),
        history: history(&out),
        ledger: live.book().ledger(),
        shown: reporter.captured().stderr,
        failed: outcome.err().map(|error| error.render(&sources, Style::Plain)),
        out,
        store,
        library,
        _folder: folder,
    }
}

/// One build before the update after `step`.
fn once(step: usize, content: Vec<u8>) -> impl FnMut(usize) -> Option<Edit> + Send + 'static {
    move |now| (now == step).then(|| Edit::Build(content.clone()))
}

fn same(one: &Finished, other: &Finished) {
    assert_eq!(one.failed, None, "{}", one.shown);
    assert_eq!(other.failed, None, "{}", other.shown);
    assert_eq!(one.history, other.history, "{}", one.shown);
    assert!(one.history.len() > 12 && one.files.iter().all(|file| !file.is_empty()));
    for (number, (one, other)) in one.files.iter().zip(&other.files).enumerate() {
        assert!(one == other, "file {number} differs");
    }
}

#[test]
fn another_build_counts_from_its_update_on() {
    let first = build(&["-DSCALE=1.0"]);
    let edited = run(&first, 12, once(5, build(&["-DSCALE=3.0", "-DVERSION=\"0.2.0\""])));
    assert_eq!(edited.outcomes(), [Outcome::Adopted], "{}", edited.shown);
    assert_eq!(edited.ledger[0].step, 5);
    assert_eq!(edited.ledger[0].functions, ["plugin:rebuilt"]);
    assert!(edited.message(0).contains("loss of the held batch"), "{:?}", edited.ledger);
    // The same head with a switch of its own, which counts the updates.
    let switching = build(&["-DSCALE=1.0", "-DSWITCHES_AFTER=5", "-DSWITCHED_SCALE=3.0"]);
    same(&edited, &run(&switching, 12, |_| None));
    let undisturbed = run(&first, 12, |_| None);
    assert_eq!(edited.history[..6], undisturbed.history[..6]);
    assert!(edited.history != undisturbed.history, "the new build changed nothing");
}

/// The libraries below a folder that are mapped into this process, and the bytes of them in memory.
fn mapped(folder: &Path) -> (usize, usize) {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut files, mut bytes, mut inside) = (std::collections::BTreeSet::new(), 0, false);
    for line in text.lines() {
        // A mapping begins with its addresses, what is said of it with a word and a colon.
        if !line.split(' ').next().is_some_and(|word| word.ends_with(':')) {
            let place = line.find('/').map(|place| &line[place..]).filter(|place| Path::new(place).starts_with(folder));
            inside = place.is_some();
            files.extend(place.map(str::to_string));
        } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| inside) {
            bytes += size.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10;
        }
    }
    (files.len(), bytes)
}

/// Weights, moments and what the head remembers are those of the run that nobody disturbed, to the bit; what a kept copy costs is
/// within `limit` bytes, with what a forward and a backward touch of it, and the store keeps none of them.
fn a_hundred_reloads(head: &str, first: &[u8], limit: usize) {
    // A content of its own, which no other test has opened.
    let first = &again(first, 1000);
    let content = first.clone();
    let edited =
        run_head(head, first, 110, move |step| (1..=100).contains(&step).then(|| Edit::Build(again(&content, step))));
    assert_eq!(edited.failed, None, "{}", edited.shown);
    assert_eq!(edited.outcomes(), [Outcome::Adopted; 100], "{}", edited.shown);
    let undisturbed = run_head(head, first, 110, |_| None);
    assert_eq!(edited.history, undisturbed.history);
    assert!(edited.files == undisturbed.files, "other weights, moments or state");
    assert!(!edited.files[3].is_empty());
    let digests: std::collections::BTreeSet<&str> =
        edited.ledger.iter().map(|entry| entry.files[0].new.as_str()).collect();
    assert_eq!(digests.len(), 100);
    if cfg!(target_os = "linux") {
        let place = edited.library.parent().unwrap();
        let (libraries, bytes) = mapped(place);
        assert_eq!(libraries, 101);
        assert!(bytes <= 101 * limit, "{} KiB for each build", bytes / libraries / 1024);
    }
    let kept = std::fs::read_dir(edited.library.with_file_name("plugins")).unwrap();
    let kept = kept.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "so"));
    assert_eq!(kept.count(), 1, "the store keeps what was allowed alone");
    for digest in digests {
        assert!(edited.store.knows(digest) && !edited.store.allows(digest));
    }
}

#[test]
fn a_hundred_builds_in_c_keep_weights_moments_and_state() {
    a_hundred_reloads("rebuilt", &build(&[]), 64 << 10);
}

#[test]
fn a_hundred_builds_in_rust_keep_weights_and_moments() {
    a_hundred_reloads("sentiment", &std::fs::read(built("sentiment")).unwrap(), 448 << 10);
}

/// The broken builds of one kind, a part of the message, and whether it is found while the build is tried out by itself.
fn broken(kind: usize, number: usize, sound: &[u8]) -> (Edit, &'static str) {
    let flags = |flags: &[&str]| Edit::Build(again(&build(flags), number));
    match kind {
        0 => (flags(&["-DHEAD_NAME=\"other\""]), "head `rebuilt` was not found"),
        1 => (flags(&["-DNO_ENTRY"]), "does not export `retune_plugin_entry`"),
        2 => (flags(&["-DMAJOR=2"]), "built for version 2.1 of the plugin ABI"),
        3 => (Edit::Build(sound[..sound.len() / 101 * number].to_vec()), "the file ends before its"),
        4 => (flags(&["-DABORTS"]), "ended its process with an abort: `forward` of the head `rebuilt`"),
        5 => (flags(&["-DLABELS(n)=((n)+1)"]), "has the shape (2, 16), but (3, 16) is asked for"),
        6 => (flags(&["-DNOT_A_NUMBER"]), "the loss of the held batch is NaN"),
        7 => (flags(&["-DCUT"]), "no gradient reaches the hidden states"),
        8 => (flags(&["-DIDLE"]), "no gradient reaches the parameter `idle.weight`"),
        _ => (Edit::Gone, "was not found"),
    }
}

#[test]
fn a_hundred_broken_builds_leave_no_trace() {
    let sound = build(&[]);
    let (content, first) = (sound.clone(), sound.clone());
    let edited = run(&first, 110, move |step| (1..=100).contains(&step).then(|| broken(step % 10, step, &content).0));
    assert_eq!(edited.ledger.len(), 100, "each is reported once\n{}", edited.shown);
    for (number, entry) in (1..=100).zip(&edited.ledger) {
        let (_, message) = broken(number % 10, number, &sound);
        assert_eq!((entry.step, entry.outcome), (number, Outcome::Refused), "{entry:?}");
        let said = entry.message.as_deref().unwrap();
        assert!(said.contains(message), "{number}: {said}");
        assert!(entry.files[0].file.ends_with("librebuilt.so"), "{entry:?}");
        let lines = edited.shown.lines().filter(|line| line.starts_with(&format!("reload  step {number}  ")));
        assert_eq!(lines.filter(|line| line.contains("librebuilt.so") && line.contains("refused")).count(), 1);
    }
    same(&edited, &run(&sound, 110, |_| None));
}

#[test]
fn a_build_that_fails_later_is_rolled_back_and_not_tried_again() {
    let first = build(&[]);
    let failing = build(&["-DFAILS_AFTER=7"]);
    let edited = run(&first, 12, move |step| matches!(step, 5 | 9 | 10).then(|| Edit::Build(failing.clone())));
    assert_eq!(edited.outcomes(), [Outcome::Adopted, Outcome::RolledBack], "{}", edited.shown);
    assert_eq!(edited.ledger[1].step, 7);
    assert!(edited.message(1).contains("this build fails on purpose"), "{:?}", edited.ledger);
    assert_eq!(edited.ledger[1].files[0].new, edited.ledger[0].files[0].old);
    // The failed update counted a forward that the old build makes once more.
    let counted = u64::from_le_bytes(edited.files[1].clone().try_into().unwrap());
    assert_eq!((edited.failed, counted), (None, 13));
}

#[test]
fn parameters_come_and_go_with_the_builds() {
    let (first, extra) = (build(&[]), build(&["-DEXTRA", "-DNO_BIAS"]));
    let edited = run(&first, 12, once(5, extra.clone()));
    assert_eq!(edited.outcomes(), [Outcome::Adopted], "{}", edited.shown);
    let said = "new parameters: `extra.weight`; parameters left out: `scorer.bias`";
    assert!(edited.message(0).contains(said), "{:?}", edited.ledger);
    let tensors = |file: &[u8]| candle_core::safetensors::load_buffer(file, &candle_core::Device::Cpu).unwrap();
    let (weights, moments) = (tensors(&edited.files[0]), tensors(&edited.files[3]));
    assert!(weights.contains_key("extra.weight") && !weights.contains_key("scorer.bias"));
    let steps = |name: &str| moments[name].to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap();
    assert_eq!(steps("extra.weight.step").to_vec1::<f32>().unwrap(), [7.0], "new moments");
    assert_eq!(steps("scorer.weight.step").to_vec1::<f32>().unwrap(), [12.0], "the moments that there were");
    assert!(!moments.keys().any(|name| name.starts_with("scorer.bias")));

    // A build that is taken back gives the parameters back as they were, with their moments.
    let failing = build(&["-DEXTRA", "-DNO_BIAS", "-DFAILS_AFTER=6"]);
    let back = run(&first, 12, once(5, failing));
    assert_eq!(back.outcomes(), [Outcome::Adopted, Outcome::RolledBack], "{}", back.shown);
    let moments = tensors(&back.files[3]);
    let steps = moments["scorer.bias.step"].to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap();
    assert_eq!(steps.to_vec1::<f32>().unwrap(), [11.0], "all updates but the one without it");
    assert!(!tensors(&back.files[0]).contains_key("extra.weight"));
}

#[test]
fn a_replay_has_the_same_builds_and_a_recipe_cannot_have_them() {
    let (first, second) = (build(&["-DSCALE=1.0"]), build(&["-DSCALE=2.0", "-DEXTRA"]));
    let edited = run(&first, 12, move |step| match step {
        3 => Some(Edit::Build(second.clone())),
        8 => Some(Edit::Build(build(&["-DSCALE=0.5"]))),
        _ => None,
    });
    assert_eq!(edited.outcomes(), [Outcome::Adopted; 2], "{}", edited.shown);
    let recorded = Recorded::read(&edited.out).unwrap();
    // What lies at the plugin's place now is not what is replayed.
    std::fs::write(&edited.library, "no plugin at all").unwrap();
    let folder = edited.library.with_file_name("again");
    let replayed = |store: Store| {
        let (reporter, sources) = (Reporter::capture(), Sources::default());
        let mut settings = RunSettings::new("", reporter.clone());
        settings.builds = Builds::in_store(store);
        let host = replay::host(&recorded, replay::settings(&recorded, settings), &sources, &folder)?;
        if let Err(error) = replay::run(&host, &recorded) {
            panic!("{}\n{}", error.render(&sources, Style::Plain), reporter.captured().stderr);
        }
        Ok::<_, retune::error::Error>(())
    };
    replayed(edited.store.clone()).unwrap();
    assert_eq!(history(&folder), edited.history);
    assert!(files(&folder, 12)[0] == edited.files[0], "other weights");
    // Nobody else's machine runs it unasked.
    let error = replayed(Store::at(edited.library.with_file_name("elsewhere"))).unwrap_err();
    assert_eq!(error.exit_code(), 77);
    assert!(error.hint_text().unwrap().contains("retune plugin allow"), "{error}");

    let error = bake(&recorded).unwrap_err();
    assert!(error.to_string().contains("was built anew at step 3"), "{error}");
    assert!(error.hint_text().unwrap().contains("retune replay"), "{error}");
}

#[test]
fn a_graph_of_the_older_build_runs_backward_after_it_was_replaced() {
    use retune::head::rebuild::{Back, rebuild};
    let folder = tempfile::tempdir().unwrap();
    let loader = loader(folder.path());
    let open = |name: &str, flags: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, build(flags)).unwrap();
        loader.load(&path, retune::plugin::Trust::Rebuild).unwrap()
    };
    let (first, second) = (open("a.so", &["-DVERSION=\"0.1.1\""]), open("b.so", &["-DNO_BIAS", "-DSCALE=2.0"]));
    let model = super::model(&first, "rebuilt").unwrap();
    let batch = super::two_rows();
    let gradients = |between: &dyn Fn()| {
        let output = model.forward(&batch).unwrap();
        let loss = model.loss(&output, &batch).unwrap();
        between();
        let store = loss.backward().unwrap();
        let of = |name: &str| {
            let parameter = model.parameters().get(name)?;
            Some(store.get(parameter.value())?.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        (of("scorer.weight"), of("scorer.bias"))
    };
    let before = gradients(&|| {});
    assert!(before.0.is_some() && before.1.is_some());
    let change = std::cell::RefCell::new(None);
    let during = gradients(&|| drop(change.replace(Some(rebuild(&model, &second).unwrap()))));
    assert_eq!(during.0, before.0);
    assert_eq!(during.1, None, "the bias is no parameter of the new head");
    let scaled = gradients(&|| {});
    let doubled: Vec<f32> = before.0.clone().unwrap().iter().map(|number| number * 2.0).collect();
    assert_eq!(scaled.0, Some(doubled), "the new build scales its loss by a power of two");
    change.take().unwrap().undo(Back::Tried);
    assert_eq!(gradients(&|| {}), before);
}

/// Ends the process when it is dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program itself, with builds as cargo, slow linkers and `cargo clean` leave them: each is taken up once.
#[test]
fn a_watched_program_takes_up_what_is_built() {
    use std::io::Write;
    use std::time::{Duration, Instant};
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let target = place.join("target");
    let library = target.join("librebuilt.so");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(&library, again(&build(&[]), 2000)).unwrap();
    std::fs::write(place.join("recipe.rhai"), RECIPE).unwrap();
    super::succeeded(super::retune(place, &["plugin", "allow", "target/librebuilt.so"]));
    let arguments = ["watch", "recipe.rhai", "task=plugin:rebuilt", "plugin=target/librebuilt.so", "steps=100000000"];
    let mut command = super::retune(place, &arguments);
    let log = std::fs::File::create(place.join("log.txt")).unwrap();
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(log);
    let _running = Running(command.spawn().unwrap());
    let recorded = || -> Vec<Entry> { Recorded::read(&place.join("out")).map(|all| all.entries).unwrap_or_default() };
    let wait = |count: usize| {
        let end = Instant::now() + Duration::from_secs(120);
        while recorded().len() < count || !place.join("out/run.jsonl").exists() {
            assert!(Instant::now() < end, "{}", std::fs::read_to_string(place.join("log.txt")).unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait(0);
    let builds: Vec<Vec<u8>> = (1..=4).map(|number| build(&[&format!("-DSCALE=1.{number}")])).collect();
    // Cargo removes the file and links the new one there.
    std::fs::write(target.join("deps.so"), &builds[0]).unwrap();
    std::fs::remove_file(&library).unwrap();
    std::fs::hard_link(target.join("deps.so"), &library).unwrap();
    wait(1);
    // A linker that takes its time.
    std::fs::remove_file(&library).unwrap();
    let mut file = std::fs::File::create(&library).unwrap();
    for piece in builds[1].chunks(builds[1].len() / 6 + 1) {
        file.write_all(piece).unwrap();
        file.flush().unwrap();
        std::thread::sleep(Duration::from_millis(120));
    }
    drop(file);
    wait(2);
    std::fs::write(place.join("new.so"), &builds[2]).unwrap();
    std::fs::rename(place.join("new.so"), &library).unwrap();
    wait(3);
    // The whole folder goes, and another one of that name comes.
    std::fs::remove_dir_all(&target).unwrap();
    wait(4);
    std::fs::create_dir(&target).unwrap();
    std::fs::write(&library, &builds[3]).unwrap();
    wait(5);
    // What comes last shows that nothing was told twice.
    std::fs::write(&library, "no library").unwrap();
    wait(6);
    let entries = recorded();
    let outcomes: Vec<Outcome> = entries.iter().map(|entry| entry.outcome).collect();
    use Outcome::{Adopted, Refused};
    assert_eq!(outcomes, [Adopted, Adopted, Adopted, Refused, Adopted, Refused]);
    let digests: Vec<&str> = entries.iter().map(|entry| entry.files[0].new.as_str()).collect();
    let expected: Vec<String> = builds.iter().map(|content| retune::data::digest::digest(content)).collect();
    assert_eq!(
        [digests[0], digests[1], digests[2], digests[4]],
        [&expected[0], &expected[1], &expected[2], &expected[3]]
    );
    let log = std::fs::read_to_string(place.join("log.txt")).unwrap();
    assert!(log.contains("target/librebuilt.so: plugin:rebuilt: adopted"), "{log}");
    assert!(!log.contains(&format!("{}/target", place.display())), "paths begin at the working directory\n{log}");
}
