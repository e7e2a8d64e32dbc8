//! Which files a recipe may touch: every function that takes a path, against every way out of what is allowed.
//!
//! A store of small files lies twice, inside and outside the working directory, with links between them. One run tries all ways
//! out and must be refused each time, with nothing outside changed; runs with the flags, and with paths inside, must succeed. The
//! functions are those of the generated reference: one that speaks of paths and is not tried here fails a test.

mod store;

use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use store::{START, TASK, contents, copy, retune, store};

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

#[test]
fn a_run_writes_into_a_project_that_has_folders_and_links_of_its_own() {
    let (_root, work, outside) = store();
    std::fs::create_dir_all(work.join(".venv/bin")).unwrap();
    symlink("/usr/bin/env", work.join(".venv/bin/python")).unwrap();
    symlink("somebody@somewhere:1", work.join(".#recipe.rhai")).unwrap();
    symlink(&outside, work.join("corpus")).unwrap();
    symlink("checkpoint-500", work.join("latest")).unwrap();
    let recipe = format!(
        "{START}
let args = TrainingArguments(#{{ output_dir: \".\", max_steps: 1 }});
let trainer = Trainer(#{{ model: model, args: args, train_dataset: rows, processing_class: tokenizer }});
trainer.train();
trainer.save_model(\".\");"
    );
    std::fs::write(work.join("here.rhai"), recipe).unwrap();
    let before = contents(&outside);
    let made = retune(&work, &["--quiet", "run", "here.rhai"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(work.join("checkpoint-1/manifest.json").is_file() && work.join("model.safetensors").is_file());
    assert!(before == contents(&outside), "something outside was written");
    // What a run opens to write it may be no link.
    for (name, target) in [(".lock", "value.json"), ("scripts", "data"), ("run.jsonl", "new.jsonl")] {
        let _ = std::fs::remove_file(work.join(name));
        let _ = std::fs::remove_dir_all(work.join(name));
        symlink(outside.join(target), work.join(name)).unwrap();
        let refused = retune(&work, &["--quiet", "run", "here.rhai"]);
        let text = String::from_utf8_lossy(&refused.stderr);
        let message = text.strip_prefix("error: ").unwrap_or(&text);
        assert!(refused.status.code() == Some(77) && is_refused(message), "{name}: {text}");
        std::fs::remove_file(work.join(name)).unwrap();
    }
    assert!(before == contents(&outside), "something outside was written");
}

#[test]
fn two_flags_are_enough_for_a_snapshot_of_hugging_faces_cache() {
    let (_root, work, outside) = store();
    let cache = outside.join("hub/models--x");
    let (blobs, snapshot) = (cache.join("blobs"), cache.join("snapshots/abc"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for entry in std::fs::read_dir(outside.join("model")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), blobs.join(entry.file_name())).unwrap();
        symlink(Path::new("../../blobs").join(entry.file_name()), snapshot.join(entry.file_name())).unwrap();
    }
    let recipe = format!("AutoModelForSequenceClassification::from_pretrained(\"{}\");", snapshot.display());
    std::fs::write(work.join("cached.rhai"), recipe).unwrap();
    let mut arguments = vec!["--quiet".to_string(), "run".into(), "cached.rhai".into()];
    for _ in 0..2 {
        let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let refused = retune(&work, &given);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(77), "{text}");
        let flag = text.split("`--allow-read ").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
        arguments.extend(["--allow-read".into(), flag.to_string()]);
    }
    let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let loaded = retune(&work, &given);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}
