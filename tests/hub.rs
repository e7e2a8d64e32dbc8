//! The hub client against a tiny HTTP server on the loopback: good answers, refusals, broken transfers, no server.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::collections::BTreeMap;
use std::path::Path;

use retune::data::files::{Folder, Places};
use retune::data::hub::{Hub, HubSettings, Wanted, is_repository, open_model, open_tokenizer};
use retune::error::{Error, What};
use retune::tokenizer::{Tokenizer, TokenizerOptions};

use crate::hub_server::{Answer, Server, sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffff";

pub(crate) fn hub(endpoint: &str, cache: &Path) -> Hub {
    Hub::new(settings(endpoint, cache))
}

pub(crate) fn settings(endpoint: &str, cache: &Path) -> HubSettings {
    HubSettings { endpoint: endpoint.into(), cache: cache.into(), offline: false, token: None, progress: false }
}

fn embedded(name: &str) -> Vec<u8> {
    retune::data::embedded::file(&format!("minilm-tiny/{name}")).unwrap().to_vec()
}

fn model_files() -> Vec<(&'static str, Vec<u8>, bool)> {
    vec![
        ("README.md", b"not wanted".to_vec(), false),
        ("config.json", embedded("config.json"), false),
        ("tokenizer.json", embedded("tokenizer.json"), false),
        ("vocab.txt", embedded("vocab.txt"), false),
        ("model.safetensors", b"weights ".repeat(50_000), true),
    ]
}

/// Every file below a folder, links not followed.
pub(crate) fn all_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(all_files(&path).into_iter().map(|name| format!("{}/{name}", entry.file_name().display())));
        } else {
            found.push(entry.file_name().display().to_string());
        }
    }
    found.sort();
    found
}

fn disk(folder: Folder) -> std::path::PathBuf {
    match folder {
        Folder::Disk(path) => path,
        other => panic!("{other:?} is no folder of the cache"),
    }
}

#[test]
fn a_model_arrives_in_hugging_faces_cache_layout() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    server.repository("org/tiny", "main", COMMIT, &model_files());
    let hub = hub(&server.address, scratch.path());
    let folder = disk(hub.model_folder("org/tiny", None, Wanted::Model).unwrap());
    let root = scratch.path().join("models--org--tiny");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let weights = b"weights ".repeat(50_000);
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), weights);
    let link = std::fs::read_link(folder.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&weights)));
    let names = ["blobs/git-config.json", "blobs/git-tokenizer.json"];
    let links = ["config.json", "model.safetensors", "tokenizer.json"];
    let mut expected: Vec<String> = names.map(String::from).into();
    expected.push(format!("blobs/{}", sha256(&weights)));
    expected.push("refs/main".into());
    expected.extend(links.map(|name| format!("snapshots/{COMMIT}/{name}")));
    expected.sort();
    assert_eq!(all_files(&root), expected);
    assert_eq!(server.asked().len(), 5, "the listing, three files and one redirect");

    // Again: one question, whether `main` has moved, and no download.
    hub.model_folder("org/tiny", None, Wanted::Model).unwrap();
    assert_eq!(server.asked(), ["/api/models/org/tiny/revision/main"]);
    // A commit never moves.
    hub.model_folder("org/tiny", Some(COMMIT), Wanted::Model).unwrap();
    assert_eq!(server.asked(), [""; 0]);
    // Offline, the cache is enough.
    let offline = Hub::new(HubSettings { offline: true, ..settings(&server.address, scratch.path()) });
    assert_eq!(disk(offline.model_folder("org/tiny", None, Wanted::Model).unwrap()), folder);
    // So it is when the hub is gone.
    let gone = Hub::new(settings("http://127.0.0.1:9", scratch.path()));
    assert_eq!(disk(gone.model_folder("org/tiny", None, Wanted::Model).unwrap()), folder);
}

#[test]
fn a_moved_branch_gives_the_new_commit_and_keeps_the_old_one() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    let hub = hub(&server.address, scratch.path());
    server.repository("tiny", "main", COMMIT, &model_files());
    let first = disk(hub.model_folder("tiny", None, Wanted::Model).unwrap());
    let mut files = model_files();
    files[4].1 = b"new weights".to_vec();
    server.repository("tiny", "main", OTHER, &files);
    let second = disk(hub.model_folder("tiny", None, Wanted::Model).unwrap());
    assert_eq!(std::fs::read(second.join("model.safetensors")).unwrap(), b"new weights");
    assert_eq!(std::fs::read(first.join("model.safetensors")).unwrap(), b"weights ".repeat(50_000));
    assert_eq!(disk(hub.model_folder("tiny", Some(COMMIT), Wanted::Model).unwrap()), first);
}

#[test]
fn a_tokenizer_comes_without_the_weights() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    server.repository("org/tiny", "v1%2Ffinal", COMMIT, &model_files());
    let hub = hub(&server.address, scratch.path());
    let folder = open_tokenizer(&Places::default(), &hub, "org/tiny", Some("v1/final")).unwrap();
    assert_eq!(folder.files().unwrap(), ["config.json", "tokenizer.json"]);
    let tokenizer = Tokenizer::from_folder(&folder, TokenizerOptions::default()).unwrap();
    assert_eq!(tokenizer.tokenize("a film").unwrap(), ["a", "film"]);
}

#[test]
fn shards_are_fetched_through_the_index() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#;
    let files = vec![
        ("config.json", b"{}".to_vec(), false),
        ("model.safetensors.index.json", index.as_bytes().to_vec(), false),
        ("model-00001-of-00002.safetensors", b"one".to_vec(), true),
        ("model-00002-of-00002.safetensors", b"two".to_vec(), true),
    ];
    server.repository("big", "main", COMMIT, &files);
    let folder = disk(hub(&server.address, scratch.path()).model_folder("big", None, Wanted::Model).unwrap());
    assert_eq!(std::fs::read(folder.join("model-00002-of-00002.safetensors")).unwrap(), b"two");
    // One shard that is damaged on the way: nothing looks complete, and the next try mends it.
    let cache = tempfile::tempdir().unwrap();
    server.set("/storage/big/model-00002-of-00002.safetensors", Answer::new("200 OK", "twe"));
    let error = hub(&server.address, cache.path()).model_folder("big", None, Wanted::Model).unwrap_err();
    assert!(
        error.to_string().contains("`big/model-00002-of-00002.safetensors` arrived with the wrong bytes"),
        "{error}"
    );
    let offline = Hub::new(HubSettings { offline: true, ..settings(&server.address, cache.path()) });
    assert!(offline.model_folder("big", None, Wanted::Model).is_err());
    server.set("/storage/big/model-00002-of-00002.safetensors", Answer::new("200 OK", "two"));
    hub(&server.address, cache.path()).model_folder("big", None, Wanted::Model).unwrap();
    assert!(offline.model_folder("big", None, Wanted::Model).is_ok());
    let evil = index.replace("model-00001-of-00002.safetensors", "../../../../escape");
    let files = vec![("model.safetensors.index.json", evil.into_bytes(), false)];
    server.repository("evil", "main", COMMIT, &files);
    let error = hub(&server.address, scratch.path()).model_folder("evil", None, Wanted::Model).unwrap_err();
    assert!(error.to_string().contains("gives no file name for `a`"), "{error}");
}

/// The message and hint that one way of failing gives, and that nothing is left that looks complete.
fn check_failure(prepare: impl Fn(&Server), token: Option<&str>, message: &str, hint: &str) {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    prepare(&server);
    let hub = Hub::new(HubSettings { token: token.map(String::from), ..settings(&server.address, scratch.path()) });
    let error = open_model(&Places::default(), &hub, "org/tiny", None).unwrap_err();
    let text = error.to_string().replace(&server.address, "HUB");
    assert!(text.contains(message), "{text}");
    assert!(error.hint_text().unwrap_or_default().contains(hint), "{:?}", error.hint_text());
    let left = all_files(scratch.path());
    let weights = |name: &String| name.contains("safetensors") || name.contains("refs/") || name.contains(".part");
    assert!(!left.iter().any(weights), "{left:?}");
    let blob = format!("blobs/{}", sha256(&b"weights ".repeat(50_000)));
    assert!(!left.iter().any(|name| name.ends_with(&blob)), "{left:?}");
    let offline = Hub::new(HubSettings { offline: true, ..settings(&server.address, scratch.path()) });
    assert!(offline.model_folder("org/tiny", None, Wanted::Model).is_err());
}

#[test]
fn each_failure_says_what_happened_and_what_to_do() {
    let listing = "/api/models/org/tiny/revision/main";
    let good = |server: &Server| server.repository("org/tiny", "main", COMMIT, &model_files());
    let status = |status: &'static str| move |server: &Server| server.set(listing, Answer::new(status, "{}"));
    check_failure(|_| {}, None, "`org/tiny` or its revision `main` does not exist on `HUB`", "check the name");
    check_failure(
        |server| server.set(listing, Answer::new("404 Not Found", "").header("X-Error-Code", "RevisionNotFound")),
        None,
        "`org/tiny` has no revision `main`",
        "a branch, a tag or a commit",
    );
    check_failure(status("401 Unauthorized"), None, "does not exist, or is private or gated", "HF_TOKEN");
    check_failure(status("401 Unauthorized"), Some("secret"), "the token was refused", "HF_TOKEN");
    check_failure(status("403 Forbidden"), Some("secret"), "access to `org/tiny` is denied", "ask for access");
    check_failure(status("429 Too Many Requests"), None, "too many requests", "wait");
    check_failure(status("503 Service Unavailable"), None, "status 503", "give a local directory");
    check_failure(status("200 OK"), None, "no model", "looked for on the hub");
    let storage = "/storage/org/tiny/model.safetensors";
    let weights = b"weights ".repeat(50_000);
    check_failure(
        |server| {
            good(server);
            let mut answer = Answer::new("200 OK", &weights[..1000]);
            answer.length = weights.len();
            server.set(storage, answer);
        },
        None,
        "the download of `org/tiny/model.safetensors` ended after 1000 of 400000 bytes",
        "run it again",
    );
    check_failure(
        |server| {
            good(server);
            server.set(storage, Answer::new("200 OK", &weights[..1000]));
        },
        None,
        "ended after 1000 of 400000 bytes: the sizes differ",
        "run it again",
    );
    check_failure(
        |server| {
            good(server);
            let mut wrong = weights.clone();
            wrong[77] ^= 1;
            server.set(storage, Answer::new("200 OK", wrong));
        },
        None,
        "arrived with the wrong bytes: sha256",
        "alters files",
    );
    check_failure(
        |server| {
            let files = vec![("config.json", b"{}".to_vec(), false), ("pytorch_model.bin", b"x".to_vec(), true)];
            server.repository("org/tiny", "main", COMMIT, &files);
        },
        None,
        "`org/tiny` has only PyTorch weights (`pytorch_model.bin`), which is not supported",
        "it is a pickle",
    );
    for (file, kind, how) in [
        ("tf_model.h5", "TensorFlow", "from_tf=True"),
        ("flax_model.msgpack", "Flax", "from_flax=True"),
        ("model.pt", "PyTorch", "save_pretrained"),
        ("onnx/model.onnx", "ONNX", "safetensors"),
    ] {
        check_failure(
            |server| {
                let files = [("training_args.bin", b"x".to_vec(), true), (file, b"x".to_vec(), true)];
                server.repository("org/tiny", "main", COMMIT, &files);
            },
            None,
            &format!("has only {kind} weights (`{file}`), which is not supported"),
            how,
        );
    }
    check_failure(
        |server| server.repository("org/tiny", "main", COMMIT, &[("config.json", b"{}".to_vec(), false)]),
        None,
        "weights file `org/tiny/model.safetensors` was not found",
        "model.safetensors",
    );
    check_failure(
        |server| server.set(listing, Answer::new("302 Found", "").header("Location", listing)),
        None,
        "redirects in circles",
        "looked for on the hub",
    );
    check_failure(
        |server| server.set(listing, Answer::new("302 Found", "")),
        None,
        "redirects to nowhere",
        "looked for on the hub",
    );
    check_failure(
        |server| server.set(listing, Answer::new("200 OK", r#"{"sha": "../../escape", "siblings": []}"#)),
        None,
        "without a commit",
        "looked for on the hub",
    );
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, storage, scratch) = (Server::start(), Server::start(), tempfile::tempdir().unwrap());
    let weights = b"weights".to_vec();
    server.repository(
        "org/tiny",
        "main",
        COMMIT,
        &[("config.json", b"{}".to_vec(), false), ("model.safetensors", weights.clone(), true)],
    );
    storage.set("/elsewhere", Answer::new("200 OK", weights.clone()));
    server.set(
        &format!("/org/tiny/resolve/{COMMIT}/model.safetensors"),
        Answer::new("302 Found", "")
            .header("Location", format!("{}/elsewhere", storage.address))
            .header("X-Linked-Etag", format!("\"{}\"", sha256(&weights))),
    );
    let hub = Hub::new(HubSettings { token: Some("secret".into()), ..settings(&server.address, scratch.path()) });
    hub.model_folder("org/tiny", None, Wanted::Model).unwrap();
    assert!(server.asked().iter().all(|request| request.ends_with(" with secret")));
    assert_eq!(storage.asked(), ["/elsewhere"]);
}

#[test]
fn without_a_hub_the_error_says_what_to_do() {
    let scratch = tempfile::tempdir().unwrap();
    let gone = hub("http://127.0.0.1:9", scratch.path());
    let error = open_model(&Places::default(), &gone, "bert-base-uncased", None).unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    let hint = error.hint_text().unwrap();
    assert!(["local directory", "HF_ENDPOINT", "HF_HUB_OFFLINE"].iter().all(|word| hint.contains(word)), "{hint}");
    let offline = Hub::new(HubSettings { offline: true, ..settings("http://127.0.0.1:9", scratch.path()) });
    let error = open_model(&Places::default(), &offline, "bert-base-uncased", None).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE is set"), "{error}");
}

#[test]
fn names_are_local_first_and_checked_before_the_hub_is_asked() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("mine")).unwrap();
    std::fs::write(scratch.path().join("file"), "x").unwrap();
    let places = Places { roots: [scratch.path().to_path_buf()].into(), ..Places::default() };
    let gone = hub("http://127.0.0.1:9", scratch.path());
    assert_eq!(open_model(&places, &gone, "mine", None).unwrap(), Folder::Disk(scratch.path().join("mine")));
    assert_eq!(open_model(&places, &gone, "std/minilm-tiny", None).unwrap(), Folder::Embedded("minilm-tiny".into()));
    let check = |name: &str, expected: &str| {
        let error: Error = open_model(&places, &gone, name, None).unwrap_err();
        assert!(matches!(error.what(), What::NotFound { .. }), "{error}");
        assert!(error.hint_text().unwrap().contains(expected), "{:?}", error.hint_text());
    };
    check("./nowhere/at/all", "there is no such directory");
    check("/nowhere", "there is no such directory");
    check("std/minilm-tinny", "did you mean `std/minilm-tiny`?");
    let revision = gone.model_folder("tiny", Some("../../x"), Wanted::Model).unwrap_err();
    assert!(revision.to_string().contains("must be a branch, a tag or a commit"), "{revision}");
    for name in ["bert-base-uncased", "org/name", "a.b_c-d/e"] {
        assert!(is_repository(name), "{name}");
    }
    for name in ["", "a/b/c", "../x", "a--b", "-a", "a.", "a b", "a..b", "C:\\x", "/a", "a/", "x.git"] {
        assert!(!is_repository(name), "{name}");
    }
}

#[test]
fn settings_come_from_the_environment() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path().display().to_string();
    std::fs::write(scratch.path().join("token"), "from-file\n").unwrap();
    let from = |variables: &[(&str, &str)]| {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        HubSettings::from_variables(|name| variables.get(name).cloned())
    };
    let plain = from(&[("HOME", "/home/someone")]);
    assert_eq!(plain.cache, Path::new("/home/someone/.cache/huggingface/hub"));
    assert_eq!((plain.endpoint.as_str(), plain.offline, plain.token), ("https://huggingface.co", false, None));
    let set = from(&[("HF_HOME", &home), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "1")]);
    assert_eq!(set.cache, scratch.path().join("hub"));
    assert_eq!((set.endpoint.as_str(), set.offline), ("http://mirror", true));
    assert_eq!(set.token.as_deref(), Some("from-file"));
    let token =
        from(&[("HF_HOME", &home), ("HF_TOKEN", " given "), ("HF_HUB_CACHE", "/cache"), ("HF_HUB_OFFLINE", "0")]);
    assert_eq!((token.token.as_deref(), token.cache.as_path()), (Some("given"), Path::new("/cache")));
    assert!(!token.offline);
}
