//! Wrong inputs: recipes that misuse options, data, models and tasks, run by the program itself in a folder of small files.
//!
//! Each `tests/wrong_inputs/NAME.rhai` must end with exactly the text and exit code of `NAME.txt`; `RETUNE_UPDATE=1`
//! writes what is shown now, to be read before it is committed. Beside the recipes lies what `tests/wrong_inputs/files`
//! holds, and `models/`, which is made here from a model of two layers. A recipe may begin with `// args: name=value` and
//! `// env: NAME=value`. No recipe can reach a network: the hub's address is a port of this machine where nobody listens.

use std::path::{Path, PathBuf};
use std::process::Command;

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::wrong::updates;

const FOLDER: &str = "tests/wrong_inputs";

/// Makes `models/tiny`, and a checkpoint of it.
const SETUP: &str = r#"
let model = AutoModelForSequenceClassification::from_config(#{
    model_type: "bert", vocab_size: 16, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,
    intermediate_size: 24, max_position_embeddings: 32,
});
model.save_pretrained("models/tiny");
let trainer = Trainer(#{
    model: model,
    args: TrainingArguments(#{ output_dir: "checkpoints", max_steps: 1 }),
    train_dataset: load_dataset("good.jsonl"),
    processing_class: AutoTokenizer::from_pretrained("models/tiny"),
});
trainer.train();
"#;

const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ngood\nbad\nfair\nfilm\nit\nwas\n";

/// The program in `folder`, without what the environment says of hubs and proxies.
fn retune(folder: &Path, flags: &[&str], recipe: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(flags).args(["run", recipe]).current_dir(folder);
    let hub = ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"];
    let proxies = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    for name in hub.iter().chain(&proxies) {
        command.env_remove(name);
    }
    command
        .env("RETUNE_HOME", "home")
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("HF_HOME", "hub")
        .env("RUST_BACKTRACE", "1");
    command
}

/// The folder that the recipes run in.
fn workspace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new(FOLDER).join("files").as_path(), folder.path());
    for entry in std::fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let models = folder.path().join("models");
    std::fs::create_dir_all(models.join("tiny")).unwrap();
    std::fs::write(models.join("tiny/vocab.txt"), WORDS).unwrap();
    let tokenizer = json!({ "tokenizer_class": "BertTokenizer", "do_lower_case": true });
    std::fs::write(models.join("tiny/tokenizer_config.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("setup.rhai"), SETUP).unwrap();
    let made = retune(folder.path(), &["--quiet"], "setup.rhai").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    wrong_models(&models);
    let checkpoint = folder.path().join("checkpoints/checkpoint-1");
    copy(&checkpoint, &models.join("trained"));
    let altered = models.join("altered_checkpoint");
    copy(&checkpoint, &altered);
    edit_json(&altered.join("trainer_state.json"), |state| state["global_step"] = json!(7));
    folder
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// Copies of `models/tiny`, each with one thing wrong.
fn wrong_models(models: &Path) {
    let variant = |name: &str| {
        let folder = models.join(name);
        copy(&models.join("tiny"), &folder);
        folder
    };
    let remove = |name: &str, files: &[&str]| {
        let folder = variant(name);
        for file in files {
            std::fs::remove_file(folder.join(file)).unwrap();
        }
        folder
    };
    let write = |name: &str, file: &str, bytes: &[u8]| std::fs::write(variant(name).join(file), bytes).unwrap();
    let config = |name: &str, key: &str, value: Value| {
        edit_json(&variant(name).join("config.json"), |config| {
            let map = config.as_object_mut().unwrap();
            if value.is_null() {
                map.remove(key)
            } else {
                map.insert(key.into(), value)
            };
        });
    };
    remove("no_weights", &["model.safetensors"]);
    remove("no_config", &["config.json"]);
    let pickle = remove("pickle_only", &["model.safetensors"]);
    std::fs::write(pickle.join("pytorch_model.bin"), b"\x80\x02}q\x00.").unwrap();
    let lost = remove("lost_shard", &["model.safetensors"]);
    let index =
        json!({ "weight_map": { "bert.embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors" } });
    std::fs::write(lost.join("model.safetensors.index.json"), index.to_string()).unwrap();

    let weights = std::fs::read(models.join("tiny/model.safetensors")).unwrap();
    write("truncated", "model.safetensors", &weights[..weights.len() / 2]);
    write("garbage", "model.safetensors", b"<!DOCTYPE html><html><body>not found</body></html>");
    write("empty_weights", "model.safetensors", b"");
    let header = br#"{"bert.pooler.dense.bias":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}}"#;
    let crafted = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
    write("crafted_header", "model.safetensors", &crafted);
    // A name of the same length keeps the header's length.
    let name = b"bert.encoder.layer.1.output.dense.bias";
    let start = weights.windows(name.len()).position(|window| window == name).unwrap();
    let mut one_missing = weights.clone();
    one_missing[start + name.len() - 4..start + name.len()].copy_from_slice(b"bais");
    write("one_missing", "model.safetensors", &one_missing);

    write(
        "broken_config",
        "config.json",
        b"{\n  \"model_type\": \"bert\",\n  \"hidden_size\": 16\n  \"vocab_size\": 16\n}\n",
    );
    write("list_config", "config.json", b"[]\n");
    config("no_model_type", "model_type", Value::Null);
    config("no_hidden_size", "hidden_size", Value::Null);
    config("text_hidden_size", "hidden_size", json!("16"));
    config("heads", "num_attention_heads", json!(3));
    config("activation", "hidden_act", json!("geluu"));
    config("t5", "model_type", json!("t5"));
    config("unlike", "model_type", json!("bret"));
    config("other_layers", "num_hidden_layers", json!(3));
    config("other_width", "intermediate_size", json!(32));

    remove("no_tokenizer", &["vocab.txt", "tokenizer_config.json"]);
    write("broken_tokenizer", "tokenizer.json", b"{\"version\": \"1.0\",\n \"model\": {\"type\": \"WordPiece\",\n");
    let crafted = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": null, "truncation": null, "padding": null,
        "model": { "type": "Unigram", "unk_id": 7, "vocab": [["a", -1.0]] },
    });
    write("crafted_tokenizer", "tokenizer.json", crafted.to_string().as_bytes());
}

/// Runs a recipe and gives its rendered error and exit code; what else it must keep to is checked on the way.
fn outcome(folder: &Path, recipe: &Path) -> String {
    let text = std::fs::read_to_string(recipe).unwrap();
    let header =
        |key: &str| text.lines().find_map(|line| line.strip_prefix(&format!("// {key}: "))).unwrap_or_default();
    let name = recipe.file_name().unwrap().to_str().unwrap();
    let mut command = retune(folder, &["--json"], name);
    command.args(header("args").split_whitespace());
    command.envs(header("env").split_whitespace().filter_map(|pair| pair.split_once('=')));
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!stderr.contains("panicked") && !stderr.contains("stack backtrace"), "{name} panicked:\n{stderr}");
    let events: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let errors = events.iter().filter(|event| event["event"] == "error").count();
    let Some(error) = events.last().filter(|event| event["event"] == "error" && errors == 1) else {
        panic!("{name} must end with one error event:\n{stdout}\n{stderr}");
    };
    let rendered = error["rendered"].as_str().unwrap();
    assert!(stderr.ends_with(&format!("{rendered}\n")), "{name} shows people something else:\n{stderr}");
    let code = output.status.code().map_or("a signal".to_string(), |code| format!("exit code {code}"));
    format!("{rendered}\n\n{code}\n")
}

/// The recipes, sorted by name.
fn recipes() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
    let mut recipes: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "rhai")).collect();
    recipes.sort();
    recipes
}

#[test]
fn wrong_inputs_end_with_the_text_and_exit_code_that_were_agreed_on() {
    let folder = workspace();
    let recipes = recipes();
    assert!(recipes.len() > 100, "only {} recipes were found", recipes.len());
    let shown: Vec<String> = recipes.par_iter().map(|recipe| outcome(folder.path(), recipe)).collect();
    let mut differences = String::new();
    for (recipe, shown) in recipes.iter().zip(shown) {
        let golden = recipe.with_extension("txt");
        if updates() {
            std::fs::write(&golden, &shown).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if shown != expected {
            differences += &format!("{}\n--- expected\n{expected}--- shown\n{shown}\n", golden.display());
        }
    }
    assert!(differences.is_empty(), "RETUNE_UPDATE=1 rewrites the golden files\n{differences}");
}

#[test]
fn no_message_speaks_of_what_the_program_is_made_of() {
    for recipe in recipes() {
        let shown = std::fs::read_to_string(recipe.with_extension("txt")).unwrap();
        for word in [
            "candle",
            "::core",
            "alloc::",
            "Dynamic",
            "EvalAltResult",
            "FnPtr",
            "rhai::",
            "Err(",
            "Some(",
            "i64",
            "f64",
        ] {
            assert!(!shown.contains(word), "{} names `{word}`:\n{shown}", recipe.display());
        }
        let code = shown.trim_end().rsplit("exit code ").next().and_then(|code| code.parse::<u8>().ok());
        // 64 usage, 65 data, 66 missing input, 69 unavailable, 73 and 77 cannot write, 78 configuration.
        let allowed = [64, 65, 66, 69, 73, 77, 78];
        assert!(code.is_some_and(|code| allowed.contains(&code)), "{}: {code:?}", recipe.display());
    }
}
