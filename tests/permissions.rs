//! Which files a recipe may touch: every function that takes a path, against every way out of what is allowed.
//!
//! A store of small files lies twice, inside and outside the working directory, with links between them. One run tries all ways
//! out and must be refused each time, with nothing outside changed; runs with the flags, and with paths inside, must succeed. The
//! functions are those of the generated reference: one that speaks of paths and is not tried here fails a test.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What a case does with its path.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Reads a file of the store.
    ReadsFile(&'static str),
    /// Reads a folder of the store, in which one file may be a link.
    ReadsFolder(&'static str, &'static str),
    /// Writes a file.
    WritesFile,
    /// Writes into a folder.
    WritesFolder,
}

/// A call of a function with the variable `path`.
struct Case {
    /// The function, as the reference calls it.
    function: String,
    does: Does,
    script: String,
    /// Whether the call succeeds where it is allowed; others fail for another reason.
    succeeds: bool,
}

fn case(function: &str, does: Does, script: &str) -> Case {
    Case { function: function.into(), does, script: script.into(), succeeds: true }
}

const ROWS: &str = "rows.jsonl";
const MODEL: Does = Does::ReadsFolder("model", "config.json");
const CHECKPOINT: Does = Does::ReadsFolder("run/checkpoint-1", "optimizer.safetensors");

fn cases(classes: &[String]) -> Vec<Case> {
    use Does::{ReadsFile, ReadsFolder, WritesFile, WritesFolder};
    let data = ReadsFolder("data", "train.jsonl");
    let train = "let trainer = Trainer(#{ model: model, args: TrainingArguments(#{ output_dir: `trained`, max_steps: 1, \
                 save_strategy: `no` RESUMED }), train_dataset: rows, processing_class: tokenizer }); trainer.train(GIVEN)";
    let search = |name: &str| {
        let args = "TrainingArguments(#{ output_dir: `searched`, max_steps: 1, save_strategy: `no` })";
        format!(
            "let trainer = Trainer(#{{ model: model, args: {args}, train_dataset: rows, eval_dataset: rows, \
             processing_class: tokenizer }}); trainer.hyperparameter_search(#{{ n_trials: 1, hp_name: |trial| {name} }})"
        )
    };
    let mut cases = vec![
        case("read_json", ReadsFile("value.json"), "read_json(path)"),
        case("write_json", WritesFile, "write_json(path, 1)"),
        case("load_dataset", ReadsFile(ROWS), "load_dataset(path)"),
        case("load_dataset", ReadsFile(ROWS), "load_dataset(`json`, #{ data_files: path })"),
        case(
            "load_dataset",
            ReadsFile(ROWS),
            "load_dataset(`json`, #{ data_files: #{ train: [path] }, split: `train` })",
        ),
        case(
            "load_dataset",
            ReadsFile(ROWS),
            "load_dataset(`json`, #{ data_files: path.sub_string(0, path.len() - 2) + `*` })",
        ),
        case("load_dataset", data, "load_dataset(path)"),
        case("load_dataset", data, "load_dataset(path, #{ split: `train` })"),
        case("load_dataset", data, "load_dataset(path, #{ data_files: `*.jsonl` })"),
        case("load_dataset", data, "load_dataset(path, #{ data_files: `train.jsonl` })"),
        case("pipeline", MODEL, "pipeline(`text-classification`, path)"),
        case("pipeline", MODEL, "pipeline(`text-classification`, #{ model: path })"),
        case(
            "pipeline",
            ReadsFolder("model", "tokenizer.json"),
            "pipeline(`text-classification`, #{ model: model, tokenizer: path })",
        ),
        case(
            "AutoModelForTask::from_pretrained",
            MODEL,
            "AutoModelForTask::from_pretrained(path, `std/tasks/sentiment`)",
        ),
        case(
            "AutoModelForTask::from_pretrained",
            ReadsFile("task.rhai"),
            "AutoModelForTask::from_pretrained(`inside/model`, path)",
        ),
        // The task that a task extends.
        case(
            "AutoModelForTask::from_pretrained",
            ReadsFile("whole.rhai"),
            "AutoModelForTask::from_pretrained(`inside/model`, `extending-` + number + `.rhai`)",
        ),
        Case {
            succeeds: false,
            ..case(
                "AutoModelForTask::from_pretrained",
                ReadsFile(ROWS),
                "AutoModelForTask::from_pretrained(`inside/model`, `plugin:none`, #{ plugin_path: path })",
            )
        },
        case("import", ReadsFile("module.rhai"), "import path as loaded; loaded::answer()"),
        case("save_pretrained(model)", WritesFolder, "model.save_pretrained(path)"),
        case("save_pretrained(tokenizer)", WritesFolder, "tokenizer.save_pretrained(path)"),
        case("save_model", WritesFolder, "Trainer(#{ model: model, processing_class: tokenizer }).save_model(path)"),
        case("TrainingArguments", WritesFolder, "TrainingArguments(path)"),
        case("TrainingArguments", WritesFolder, "TrainingArguments(#{ output_dir: path })"),
        case("train", CHECKPOINT, &train.replace("RESUMED", "").replace("GIVEN", "#{ resume_from_checkpoint: path }")),
        case("train", CHECKPOINT, &train.replace("RESUMED", ", resume_from_checkpoint: path").replace("GIVEN", "")),
        case(
            "get_last_checkpoint",
            ReadsFolder("run", "checkpoint-1/optimizer.safetensors"),
            "get_last_checkpoint(path)",
        ),
        case(
            "hyperparameter_search",
            WritesFolder,
            &search("path.starts_with(`/`) { path } else { `../` + path }").replace("path.starts", "if path.starts"),
        ),
    ];
    for class in classes {
        // A model of another family is refused too, for what it is.
        let is_bert = class.starts_with("Auto") || class.starts_with("Bert");
        let fits = is_bert && !["CausalLM", "MaskedLM"].iter().any(|task| class.ends_with(task));
        let does = if class.contains("Tokenizer") { ReadsFolder("model", "tokenizer.json") } else { MODEL };
        let one = case(&format!("{class}::from_pretrained"), does, &format!("{class}::from_pretrained(path)"));
        cases.push(Case { succeeds: fits, ..one });
    }
    cases
}

/// Functions that write into a trainer's folder, in which one file is a link to somewhere else.
const INTO_FOLDER: &[(&str, &str, &str)] = &[
    ("save_metrics", "all_results.json", "trainer.save_metrics(`eval`, #{ a: 1 })"),
    ("save_metrics", "eval_results.json", "trainer.save_metrics(`eval`, #{ a: 1 })"),
    ("save_state", "trainer_state.json", "trainer.save_state()"),
    ("train", "trainer_state.json", "trainer.train()"),
    ("hyperparameter_search", "trials.json", "trainer.hyperparameter_search(#{ n_trials: 1 })"),
    ("save_model", "model.safetensors", "trainer.save_model(folder)"),
    ("save_pretrained(model)", "config.json", "model.save_pretrained(folder)"),
    ("save_pretrained(tokenizer)", "tokenizer.json", "tokenizer.save_pretrained(folder)"),
];

/// What speaks of files in the reference and takes no path.
const NO_PATH: &[&str] = &[".column_names", ".features", "label_list", "generate", "debug_data"];

const START: &str = r#"
let model = BertForSequenceClassification::from_config(#{
    vocab_size: 16, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 24, num_labels: 2,
});
let tokenizer = AutoTokenizer::from_pretrained("inside/vocabulary");
let rows = load_dataset("inside/rows.jsonl");
let results = #{};
"#;

const TASK: &str = "fn extends() { \"BASE\" }\nfn padding() { \"none\" }\n";

/// The program in `folder`, with a hub that cannot be reached.
fn retune(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(arguments).current_dir(folder);
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", "hub").env("RETUNE_HOME", "home").output().unwrap()
}

/// The folder `work` beside `outside`, with the store in both.
fn store() -> (tempfile::TempDir, PathBuf, PathBuf) {
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

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { std::fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}

/// Every file below a folder with what it holds, by name.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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

/// The ways out for a case, by name: its paths.
fn ways_out(number: usize, does: Does, work: &Path, outside: &Path) -> Vec<(&'static str, String)> {
    let link = |target: &Path, name: &str| {
        let path = work.join("links").join(format!("{name}-{number}{}", extension(target)));
        symlink(target, &path).unwrap();
        format!("links/{}", path.file_name().unwrap().to_str().unwrap())
    };
    let name = match does {
        Does::ReadsFile(name) | Does::ReadsFolder(name, _) => name.to_string(),
        Does::WritesFile => format!("new-{number}.json"),
        Does::WritesFolder => format!("new-{number}"),
    };
    // A link to a file leads to one that is there; what is written through it would change it.
    let linked = match does {
        Does::WritesFile => outside.join("value.json"),
        Does::WritesFolder => outside.join("data"),
        _ => outside.join(&name),
    };
    let mut ways = vec![
        ("absolute", outside.join(&name).display().to_string()),
        ("dots", format!("../outside/{name}")),
        ("dots behind a folder", format!("inside/../../outside/{name}")),
        ("dots behind a link", format!("links/outside/../outside/{name}")),
        ("a link to it", link(&linked, "to")),
        ("a link to a link to it", link(&work.join(link(&linked, "first")), "second")),
        ("a link to its folder", format!("links/outside/{name}")),
        (
            "a link to nothing",
            format!("links/{}", link(&outside.join("nothing"), "nothing").trim_start_matches("links/")),
        ),
    ];
    match does {
        Does::ReadsFolder(name, file) => {
            let folder = work.join(format!("linked-{number}"));
            copy(&outside.join(name), &folder);
            std::fs::remove_file(folder.join(file)).unwrap();
            symlink(outside.join(name).join(file), folder.join(file)).unwrap();
            ways.push(("a link in the folder", format!("linked-{number}")));
        }
        Does::WritesFolder => ways.push(("below a link to nothing", "links/nothing/deep".into())),
        _ => {}
    }
    ways
}

fn extension(path: &Path) -> String {
    path.extension().map(|extension| format!(".{}", extension.to_str().unwrap())).unwrap_or_default()
}

/// The part of a recipe that tries a call.
fn attempt(key: &str, path: &str, number: usize, script: &str) -> String {
    format!(
        "try {{ let path = `{path}`; let number = `{number}`; {script}; results[`{key}`] = `done`; }}\n\
         catch (error) {{ results[`{key}`] = error.message; }}\n"
    )
}

/// Runs a recipe of attempts; what became of each, by its key.
fn outcomes(work: &Path, attempts: &str, flags: &[&str]) -> BTreeMap<String, String> {
    let recipe = format!("{START}{attempts}write_json(\"results.json\", results);");
    std::fs::write(work.join("recipe.rhai"), recipe).unwrap();
    let output = retune(work, &[&["--quiet", "run", "recipe.rhai"], flags].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&std::fs::read(work.join("results.json")).unwrap()).unwrap();
    results.as_object().unwrap().iter().map(|(key, value)| (key.clone(), value.as_str().unwrap().into())).collect()
}

fn is_refused(message: &str) -> bool {
    (message.starts_with("reading `") || message.starts_with("writing `")) && message.contains("is not allowed: ")
}

/// The classes that have `from_pretrained`, from the reference.
fn classes(reference: &str) -> Vec<String> {
    let mut classes: Vec<String> = reference
        .lines()
        .filter_map(|line| Some(line.split_once("::from_pretrained(name: string) ->")?.0.to_string()))
        .collect();
    classes.sort();
    classes.dedup();
    classes
}

fn reference() -> String {
    std::fs::read_to_string("docs/reference.md").unwrap()
}

#[test]
fn no_function_leaves_what_is_allowed() {
    let (_root, work, outside) = store();
    let cases = cases(&classes(&reference()));
    let (mut denied, mut granted, mut inner) = (String::new(), String::new(), String::new());
    let mut expected = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for (way, path) in ways_out(number, case.does, &work, &outside) {
            let key = format!("{} {number}: {way}", case.function);
            // The task that extends another one names it in its text.
            let text = TASK.replace("BASE", &path);
            if case.script.contains("extending-") {
                std::fs::write(work.join(format!("extending-{number}-{}.rhai", expected.len())), text).unwrap();
            }
            let script =
                case.script.replace("extending-` + number", &format!("extending-{number}-{}`", expected.len()));
            denied += &attempt(&key, &path, number, &script);
            if !way.contains("nothing") {
                granted += &attempt(&key, &path, number, &script);
            }
            expected.push((key, case.succeeds, !way.contains("nothing")));
        }
        let path = match case.does {
            Does::ReadsFile(name) | Does::ReadsFolder(name, _) => format!("inside/{name}"),
            Does::WritesFile => format!("written/deep/{number}.json"),
            Does::WritesFolder => format!("written/deep/{number}"),
        };
        std::fs::write(work.join(format!("extending-{number}.rhai")), TASK.replace("BASE", &path)).unwrap();
        inner += &attempt(&format!("{} {number}", case.function), &path, number, &case.script);
    }
    for (place, (function, file, script)) in INTO_FOLDER.iter().enumerate() {
        let folder = format!("folder-{place}");
        std::fs::create_dir(work.join(&folder)).unwrap();
        symlink(outside.join("value.json"), work.join(&folder).join(file)).unwrap();
        let key = format!("{function}: {file} is a link");
        let script = format!(
            "let folder = `{folder}`; let trainer = Trainer(#{{ model: model, args: TrainingArguments(#{{ output_dir: folder, \
             max_steps: 1, save_strategy: `no` }}), train_dataset: rows, eval_dataset: rows, processing_class: tokenizer }}); {script}"
        );
        denied += &attempt(&key, "", place, &script);
        expected.push((key, true, false));
    }

    let before = contents(&outside);
    let outcome = outcomes(&work, &denied, &[]);
    // A link to nothing has nothing to read, and what is looked for by a pattern or an ending may not be found at all.
    let is_nothing = |key: &str, message: &str| key.ends_with("a link to nothing") && message.contains("was not found");
    let let_out: Vec<_> =
        outcome.iter().filter(|(key, message)| !is_refused(message) && !is_nothing(key, message)).collect();
    assert!(let_out.is_empty(), "{let_out:#?}");
    assert_eq!(outcome.len(), expected.len());
    assert!(before == contents(&outside), "something outside was written");

    let allowed = outcomes(&work, &inner, &[]);
    for (case, message) in
        cases.iter().enumerate().map(|(number, case)| (case, &allowed[&format!("{} {number}", case.function)]))
    {
        assert!(!is_refused(message) && (!case.succeeds || message == "done"), "{}: {message}", case.function);
    }
    // The flag for writing is one for reading too.
    let flags = ["--allow-write", outside.to_str().unwrap()];
    let outcome = outcomes(&work, &granted, &flags);
    for (key, succeeds, is_tried) in &expected {
        let Some(message) = outcome.get(key) else {
            assert!(!is_tried, "{key}");
            continue;
        };
        assert!(!is_refused(message) && (!succeeds || message == "done"), "{key}: {message}");
    }
}

#[test]
fn every_function_that_speaks_of_paths_is_tried() {
    let reference = reference();
    let cases = cases(&classes(&reference));
    let tried = |name: &str| {
        cases.iter().any(|case| case.function == name || case.function.starts_with(&format!("{name}(")))
            || INTO_FOLDER.iter().any(|(function, ..)| *function == name)
    };
    let speaks = |text: &str| {
        let text = text.to_lowercase();
        let words = text.split(|letter: char| !letter.is_alphanumeric());
        words.into_iter().any(|word| {
            matches!(
                word,
                "path"
                    | "paths"
                    | "folder"
                    | "folders"
                    | "file"
                    | "files"
                    | "dir"
                    | "directory"
                    | "disk"
                    | "pretrained"
                    | "import"
            )
        })
    };
    let functions = reference.split_once("## Functions").unwrap().1;
    let mut untried = Vec::new();
    for part in functions.split("\n### `").skip(1) {
        let name = part.split('`').next().unwrap();
        // Examples may write files that the function has nothing to do with.
        let prose: String = part
            .split("```")
            .enumerate()
            .filter(|(at, text)| at % 2 == 0 || text.starts_with("text"))
            .map(|(_, text)| text)
            .collect();
        let qualified: Vec<String> = part
            .lines()
            .filter_map(|line| line.split_once("::from_pretrained(name: string"))
            .map(|(class, _)| format!("{class}::{name}"))
            .collect();
        let is_tried = if qualified.is_empty() { tried(name) } else { qualified.iter().all(|name| tried(name)) };
        if speaks(&prose) && !is_tried && !NO_PATH.contains(&name) {
            untried.push(name.to_string());
        }
    }
    assert!(untried.is_empty(), "these speak of files, and no case tries them: {untried:?}");
    assert!(classes(&reference).len() > 20);
}

#[test]
fn the_error_names_the_path_and_the_flag() {
    let (_root, work, outside) = store();
    let script = |text: &str| std::fs::write(work.join("recipe.rhai"), text).unwrap();
    let data = outside.join(ROWS).display().to_string();
    script("let rows = load_dataset(arg(\"data\", \"inside/rows.jsonl\"));\nprint(rows.len());");
    let output = retune(&work, &["run", "recipe.rhai", "data=links/outside/rows.jsonl"]);
    let shown = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(77), "{shown}");
    for part in [
        format!(
            "reading `links/outside/rows.jsonl` is not allowed: it is `{data}`, outside the working directory and the recipe's folder"
        ),
        "recipe.rhai:1:12".into(),
        format!("`--allow-read {data}` on the command line allows it"),
    ] {
        assert!(shown.contains(&part), "{part}\n{shown}");
    }
    // What the hint says is enough.
    let output = retune(&work, &["run", "recipe.rhai", "data=links/outside/rows.jsonl", "--allow-read", &data]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2\n", "{}", String::from_utf8_lossy(&output.stderr));

    script("write_json(`../outside/it's.json`, 1);");
    let output = retune(&work, &["run", "recipe.rhai"]);
    let shown = String::from_utf8(output.stderr).unwrap();
    let flag = format!("`--allow-write '{}'\\''s.json'`", outside.join("it").display());
    assert!(output.status.code() == Some(77) && shown.contains(&flag), "{shown}");
    assert!(!outside.join("it's.json").exists());
    // Reading is no leave to write.
    let flags = ["run", "recipe.rhai", "--allow-read", outside.to_str().unwrap()];
    assert_eq!(retune(&work, &flags).status.code(), Some(77));
}

#[test]
fn a_recipe_reads_beside_itself_and_writes_where_it_is_run() {
    let (_root, work, outside) = store();
    let script = "read_json(`value.json`); write_json(`here.json`, 1); try { write_json(arg(`beside`, ``), 1); } \
                  catch (error) { print(error.message); }";
    std::fs::write(outside.join("recipe.rhai"), script).unwrap();
    let beside = outside.join("beside.json").display().to_string();
    let output = retune(&work, &["run", "../outside/recipe.rhai", &format!("beside={beside}")]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("writing `{beside}` is not allowed: it is outside the working directory\n");
    assert_eq!((shown, output.status.code()), (expected, Some(0)));
    assert!(work.join("here.json").is_file() && !outside.join("beside.json").exists());
    // A recipe may be a link to somewhere else.
    std::fs::write(outside.join("linked.rhai"), "print(read_json(`inside/value.json`).len());").unwrap();
    symlink(outside.join("linked.rhai"), work.join("linked.rhai")).unwrap();
    assert_eq!(String::from_utf8_lossy(&retune(&work, &["run", "linked.rhai"]).stdout), "1\n");
}

#[test]
fn what_the_user_names_without_a_recipe_is_not_restricted() {
    let (_root, work, outside) = store();
    let output = retune(&work, &["predict", outside.join("model").to_str().unwrap(), "a good film"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(work.join("bad.rhai"), "import \"../outside/module\" as loaded;\nprint(loaded::answer());").unwrap();
    let checked = retune(&work, &["check", "bad.rhai"]);
    let shown = String::from_utf8_lossy(&checked.stderr).into_owned() + &*String::from_utf8_lossy(&checked.stdout);
    assert!(!checked.status.success() && shown.contains("is not allowed"), "{shown}");
    let granted = retune(&work, &["run", "bad.rhai", "--allow-read", "../outside"]);
    assert_eq!(String::from_utf8_lossy(&granted.stdout), "42\n", "{}", String::from_utf8_lossy(&granted.stderr));
}
