//! Data sets of a hub on the loopback, and folders laid out like them: which files make which split, what reaches the
//! cache, and what broken answers end in.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::path::Path;

use indexmap::IndexMap;
use proptest::prelude::*;
use retune::data::configs;
use retune::data::files::Places;
use retune::data::hub::{Hub, HubSettings};
use retune::data::load::{DataFiles, LoadOptions, Loaded, load};
use retune::error::Result;

use crate::data::failure;
use crate::hub::{COMMIT, all_files, hub, settings};
use crate::hub_server::{Answer, Manner, Server, sha256};

const NAME: &str = "user/reviews";
const LISTING: &str = "/api/datasets/user/reviews/revision/main";
const CONVERTED: &str = "refs%2Fconvert%2Fparquet";

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/golden/data").join(name)).unwrap()
}

fn line(i: usize) -> Vec<u8> {
    format!("{{\"i\": {i}}}\n").into_bytes()
}

fn loaded(hub: &Hub, name: &str, options: LoadOptions) -> Result<Loaded> {
    load(&Places::default(), name, &LoadOptions { hub: Some(hub.clone()), ..options })
}

fn config(config: &str) -> LoadOptions {
    LoadOptions { config: Some(config.into()), ..LoadOptions::default() }
}

fn split(split: &str) -> LoadOptions {
    LoadOptions { split: Some(split.into()), ..LoadOptions::default() }
}

/// Each split with the numbers `i` of its rows.
fn shown(loaded: Loaded) -> String {
    let numbers = |data: &retune::data::Dataset| {
        let numbers: Vec<String> = data.rows().iter().map(|row| row["i"].as_int().unwrap().to_string()).collect();
        numbers.join(" ")
    };
    match loaded {
        Loaded::One(data) => numbers(&data),
        Loaded::Splits(splits) => {
            let parts: Vec<String> = splits.iter().map(|(name, data)| format!("{name}: {}", numbers(data))).collect();
            parts.join("; ")
        }
    }
}

/// The files of `reviews`: Parquet from LFS, in `data/`.
fn parquet_files() -> Vec<(&'static str, Vec<u8>, bool)> {
    vec![
        ("README.md", b"---\nlicense: mit\n---\n# Reviews".to_vec(), false),
        ("data/train-00000-of-00001.parquet", golden("classes.parquet"), true),
        ("data/test-00000-of-00001.parquet", golden("ner.parquet"), true),
    ]
}

#[test]
fn a_data_set_arrives_in_hugging_faces_cache_layout() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    server.dataset(NAME, "main", COMMIT, &parquet_files());
    let online = hub(&server.address, scratch.path());
    let Loaded::One(train) = loaded(&online, NAME, split("train")).unwrap() else { panic!("one split was asked for") };
    assert_eq!((train.len(), train.name()), (3, "user/reviews[train]"));
    assert_eq!(train.class_names("label").unwrap(), ["neg", "pos"]);
    let storage = format!("/storage/{NAME}/data/train-00000-of-00001.parquet");
    let file = |name: &str| format!("/datasets/{NAME}/resolve/{COMMIT}/{name}");
    let asked = server.asked();
    assert_eq!(asked, [LISTING, &file("README.md"), &file("data/train-00000-of-00001.parquet"), &storage]);

    let root = scratch.path().join("datasets--user--reviews");
    let blob = format!("blobs/{}", sha256(&golden("classes.parquet")));
    let mut expected = vec![
        "blobs/git-README.md".to_string(),
        blob.clone(),
        format!("listings/{COMMIT}.json"),
        "refs/main".into(),
        format!("snapshots/{COMMIT}/README.md"),
        format!("snapshots/{COMMIT}/data/train-00000-of-00001.parquet"),
    ];
    expected.sort();
    assert_eq!(all_files(&root), expected);
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let link = root.join("snapshots").join(COMMIT).join("data/train-00000-of-00001.parquet");
    assert_eq!(std::fs::read_link(link).unwrap(), Path::new("../../..").join(blob));

    // Again: one question; a commit needs none; offline, what was loaded loads, and what was not is named.
    loaded(&online, NAME, split("train")).unwrap();
    assert_eq!(server.asked(), [LISTING]);
    let revision = Some(COMMIT.to_string());
    loaded(&online, NAME, LoadOptions { revision, ..split("train") }).unwrap();
    assert_eq!(server.asked(), [""; 0]);
    let offline = Hub::new(HubSettings { offline: true, ..settings(&server.address, scratch.path()) });
    let gone = hub("http://127.0.0.1:9", scratch.path());
    for (hub, why) in [(&offline, "HF_HUB_OFFLINE is set"), (&gone, "the hub cannot be reached")] {
        loaded(hub, NAME, split("train")).unwrap();
        let error = failure(loaded(hub, NAME, split("test")).unwrap_err());
        let expected =
            format!("hub: `{NAME}/data/test-00000-of-00001.parquet` is not in the cache, and {why} | load it once");
        assert!(error.starts_with(&expected), "{error}");
    }
    assert_eq!(server.asked(), [""; 0]);
    let empty = tempfile::tempdir().unwrap();
    let offline = Hub::new(HubSettings { offline: true, ..settings(&server.address, empty.path()) });
    let error = failure(loaded(&offline, NAME, split("train")).unwrap_err());
    assert!(
        error.starts_with("hub: `user/reviews` (revision `main`) is not in the cache, and HF_HUB_OFFLINE is set | "),
        "{error}"
    );
    let error = failure(loaded(&hub("http://127.0.0.1:9", empty.path()), NAME, split("train")).unwrap_err());
    assert!(error.contains("cannot be reached") && error.contains("set HF_ENDPOINT"), "{error}");
}

/// A cache that Python filled has no list of files: what is there is used, unless its names say that something is missing.
#[test]
fn a_cache_that_python_filled_is_read_where_it_is_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let snapshot = scratch.path().join("datasets--user--reviews/snapshots").join(COMMIT).join("data");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(scratch.path().join("datasets--user--reviews/refs")).unwrap();
    std::fs::write(scratch.path().join("datasets--user--reviews/refs/main"), COMMIT).unwrap();
    std::fs::write(snapshot.join("train-00000-of-00002.jsonl"), line(1)).unwrap();
    let offline = Hub::new(HubSettings { offline: true, ..settings("http://127.0.0.1:9", scratch.path()) });
    let error = failure(loaded(&offline, NAME, LoadOptions::default()).unwrap_err());
    let expected =
        "hub: the cache has not all 2 files of the split `train` of `user/reviews` | load it once with a network";
    assert_eq!(error, expected);
    std::fs::write(snapshot.join("train-00001-of-00002.jsonl"), line(2)).unwrap();
    assert_eq!(shown(loaded(&offline, NAME, LoadOptions::default()).unwrap()), "train: 1 2");
}

/// Which files `datasets` takes for which split; see `generate_splits.py`.
#[test]
fn folders_and_repositories_have_the_splits_that_hugging_face_finds() {
    let cases: serde_json::Value = serde_json::from_slice(&golden("splits.json")).unwrap();
    for (index, case) in cases.as_array().unwrap().iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<&str> = case["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
        // Every file holds the one row `i`, its number, in its own format; Parquet files are JSON Lines by `format`.
        let content = |i: usize, name: &str| match name {
            _ if name.contains(".csv") => format!("i\n{i}\n").into_bytes(),
            _ => line(i),
        };
        let is_readable =
            files.iter().all(|name| [".csv", ".jsonl", ".json", ".parquet"].iter().any(|end| name.ends_with(end)));
        let names = |i: &str| files[i.parse::<usize>().unwrap()].to_string();
        let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
        let mut repository = Vec::new();
        for (i, name) in files.iter().enumerate() {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content(i, name)).unwrap();
            repository.push((*name, content(i, name), false));
        }
        if let Some(readme) = case["readme"].as_str() {
            std::fs::write(folder.path().join("README.md"), readme).unwrap();
            repository.push(("README.md", readme.as_bytes().to_vec(), false));
        }
        if !is_readable {
            let found = retune::data::splits::assign(&files.iter().map(ToString::to_string).collect::<Vec<_>>());
            let mut found: IndexMap<String, Vec<String>> = found;
            found.values_mut().for_each(|files| files.sort());
            assert_eq!(serde_json::to_value(&found).unwrap(), case["splits"], "{files:?}");
            continue;
        }
        let format = files.iter().any(|name| name.ends_with(".parquet")).then(|| "jsonl".to_string());
        let options =
            LoadOptions { config: case["config"].as_str().map(String::from), format, ..LoadOptions::default() };
        server.dataset(NAME, "main", COMMIT, &repository);
        let places = Places::default();
        let local = load(&places, folder.path().to_str().unwrap(), &options).map_err(failure).unwrap();
        let remote = loaded(&hub(&server.address, cache.path()), NAME, options).map_err(failure).unwrap();
        for (kind, found) in [("local", local), ("hub", remote)] {
            let Loaded::Splits(found) = found else { panic!("{files:?}") };
            let found: IndexMap<String, Vec<String>> = found
                .iter()
                .map(|(split, data)| {
                    let mut files: Vec<String> =
                        data.rows().iter().map(|row| names(&row["i"].as_int().unwrap().to_string())).collect();
                    files.sort();
                    (split.clone(), files)
                })
                .collect();
            assert_eq!(serde_json::to_value(&found).unwrap(), case["splits"], "{kind} case {index} {files:?}");
            let order: Vec<&String> = found.keys().collect();
            let wanted: Vec<&String> = case["splits"].as_object().unwrap().keys().collect();
            assert_eq!(order, wanted, "{kind} {files:?}");
        }
    }
}

#[test]
fn configurations_are_chosen_as_in_python() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    let online = hub(&server.address, scratch.path());
    let readme = "---\nconfigs:\n- config_name: en\n  data_files: en/*.jsonl\n- config_name: de\n  data_files: de/*.jsonl\n---\n";
    let files = vec![
        ("README.md", readme.as_bytes().to_vec(), false),
        ("en/a.jsonl", line(1), false),
        ("de/a.jsonl", line(2), false),
        ("de/with space#1.jsonl", line(3), false),
    ];
    server.dataset(NAME, "main", COMMIT, &files);
    assert_eq!(shown(loaded(&online, NAME, config("de")).unwrap()), "train: 2 3");
    assert_eq!(
        shown(loaded(&online, NAME, LoadOptions { split: Some("train[:1]".into()), ..config("de") }).unwrap()),
        "2"
    );
    let error = failure(loaded(&online, NAME, config("fr")).unwrap_err());
    assert_eq!(error, "configuration `fr` was not found (data set `user/reviews`) | did you mean `en`?");
    let error = failure(loaded(&online, NAME, LoadOptions::default()).unwrap_err());
    assert_eq!(
        error,
        "the data set `user/reviews` has several configurations and none is the default one | choose with `config`: `en`, `de`"
    );
    let given = LoadOptions { data_files: Some(DataFiles::Train(vec!["*/a.jsonl".into()])), ..LoadOptions::default() };
    assert_eq!(shown(loaded(&online, NAME, given).unwrap()), "train: 1 2");
    let given = LoadOptions { data_files: Some(DataFiles::Train(vec!["fr/*".into()])), ..LoadOptions::default() };
    let error = failure(loaded(&online, NAME, given).unwrap_err());
    assert!(error.starts_with("file `user/reviews/fr/*` was not found"), "{error}");
    let error = failure(loaded(&online, NAME, split("tset")).unwrap_err());
    assert!(error.contains("several configurations"), "{error}");
}

#[test]
fn what_only_a_script_can_read_comes_as_the_hubs_own_parquet() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    let online = hub(&server.address, scratch.path());
    server.dataset(
        NAME,
        "main",
        COMMIT,
        &[("reviews.py", b"import os".to_vec(), false), ("raw.zip", b"PK".to_vec(), false)],
    );
    let converted = [
        ("plain/train/0000.parquet", golden("classes.parquet"), true),
        ("plain/unsupervised/0000.parquet", golden("classes.parquet"), true),
        ("plain/unsupervised/0001.parquet", golden("classes.parquet"), true),
        ("other/partial-train/0000.parquet", golden("ner.parquet"), true),
    ];
    let error = failure(loaded(&online, NAME, LoadOptions::default()).unwrap_err());
    assert_eq!(
        error,
        "the data set `user/reviews` has no files that are read, and no `refs/convert/parquet` | name its files with `data_files` \
         and `format`, or save it as Parquet"
    );
    server.dataset(NAME, CONVERTED, COMMIT, &converted);
    let Loaded::Splits(splits) = loaded(&online, NAME, config("plain")).unwrap() else { panic!("splits") };
    let lengths: Vec<(&str, usize)> = splits.iter().map(|(name, data)| (name.as_str(), data.len())).collect();
    assert_eq!(lengths, [("train", 3), ("unsupervised", 6)]);
    let Loaded::Splits(splits) = loaded(&online, NAME, config("other")).unwrap() else { panic!("splits") };
    assert_eq!(splits["train"].len(), 2);
    let error = failure(loaded(&online, NAME, LoadOptions::default()).unwrap_err());
    assert!(error.ends_with("choose with `config`: `plain`, `other`"), "{error}");
    let root = scratch.path().join("datasets--user--reviews");
    assert_eq!(std::fs::read_to_string(root.join("refs/refs/convert/parquet")).unwrap(), COMMIT);
}

#[test]
fn a_list_of_files_may_come_page_by_page() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    let files = vec![("train.jsonl", line(1), false), ("test.jsonl", line(2), false)];
    server.dataset(NAME, "main", COMMIT, &files);
    server.set(LISTING, Answer::new("200 OK", format!("{{\"sha\": \"{COMMIT}\"}}")));
    let tree = format!("/api/datasets/{NAME}/tree/{COMMIT}?recursive=true");
    let page = |name: &str| {
        Answer::new(
            "200 OK",
            format!(r#"[{{"type": "directory", "path": "x.jsonl"}}, {{"type": "file", "path": "{name}"}}]"#),
        )
    };
    let next = format!("{}{tree}&cursor=2", server.address);
    server.set(&tree, page("train.jsonl").header("Link", format!("<{next}>; rel=\"next\"")));
    server.set(&format!("{tree}&cursor=2"), page("test.jsonl"));
    let found = loaded(&hub(&server.address, scratch.path()), NAME, LoadOptions::default()).unwrap();
    assert_eq!(shown(found), "train: 1; test: 2");
}

#[test]
fn a_busy_hub_is_asked_again_and_a_slow_one_waited_for() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    let lines: Vec<u8> = (0..3000).flat_map(line).collect();
    server.dataset(NAME, "main", COMMIT, &[("train.jsonl", lines.clone(), true)]);
    server.set(&format!("/storage/{NAME}/train.jsonl"), Answer::new("200 OK", lines).given(Manner::InPieces));
    server.set_once(LISTING, Answer::new("503 Service Unavailable", "later").header("Retry-After", 0));
    server.set_once(LISTING, Answer::new("429 Too Many Requests", "later").header("Retry-After", 0));
    let online = hub(&server.address, scratch.path());
    let Loaded::One(train) = loaded(&online, NAME, split("train")).unwrap() else { panic!("one split was asked for") };
    assert_eq!(train.len(), 3000);
    assert_eq!(server.asked()[..3], [LISTING; 3]);
    // Nobody waits for an hour, and nobody asks for ever.
    server.set(LISTING, Answer::new("429 Too Many Requests", "later").header("Retry-After", 3600));
    let error = failure(loaded(&online, NAME, split("train")).unwrap_err());
    assert!(error.contains("too many requests for `user/reviews`"), "{error}");
    assert_eq!(server.asked().len(), 1);
    server.set(LISTING, Answer::new("429 Too Many Requests", "later").header("Retry-After", 0));
    assert!(loaded(&online, NAME, split("train")).is_err());
    assert_eq!(server.asked().len(), 6);
}

#[test]
fn the_token_stays_with_the_hub() {
    let (server, elsewhere, scratch) = (Server::start(), Server::start(), tempfile::tempdir().unwrap());
    let files = [("train.jsonl", line(1), true)];
    server.dataset(NAME, "main", COMMIT, &files);
    elsewhere.set("/train", Answer::new("200 OK", line(1)));
    server.set(
        &format!("/datasets/{NAME}/resolve/{COMMIT}/train.jsonl"),
        Answer::new("302 Found", "")
            .header("Location", format!("{}/train", elsewhere.address))
            .header("X-Linked-Etag", format!("\"{}\"", sha256(&line(1)))),
    );
    let hub = Hub::new(HubSettings { token: Some("secret".into()), ..settings(&server.address, scratch.path()) });
    assert_eq!(shown(loaded(&hub, NAME, LoadOptions::default()).unwrap()), "train: 1");
    assert!(server.asked().iter().all(|request| request.ends_with(" with secret")));
    assert_eq!(elsewhere.asked(), ["/train"]);
}

/// What one broken answer ends in; nothing of it may stay that looks complete.
fn check(prepare: impl Fn(&Server), token: Option<&str>, expected: &str, hint: &str) {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    server.dataset(NAME, "main", COMMIT, &parquet_files());
    prepare(&server);
    let online = Hub::new(HubSettings { token: token.map(String::from), ..settings(&server.address, scratch.path()) });
    let error = loaded(&online, NAME, split("train")).map(|_| ()).unwrap_err();
    let text = error.to_string().replace(&server.address, "HUB");
    assert!(text.contains(expected), "{text}");
    assert!(error.hint_text().unwrap_or_default().contains(hint), "{text} | {:?}", error.hint_text());
    let left = all_files(scratch.path());
    let whole = format!("blobs/{}", sha256(&golden("classes.parquet")));
    let bad = |name: &String| name.ends_with(".parquet") || name.contains(".part") || name.ends_with(&whole);
    assert!(!left.iter().any(bad), "{left:?}");
}

#[test]
fn each_broken_answer_is_explained() {
    let train = golden("classes.parquet");
    let storage = format!("/storage/{NAME}/data/train-00000-of-00001.parquet");
    let status = |status: &'static str| move |server: &Server| server.set(LISTING, Answer::new(status, "{}"));
    let body = |answer: Answer| {
        let storage = storage.clone();
        move |server: &Server| server.set(&storage, answer.clone())
    };
    check(
        status("404 Not Found"),
        None,
        "`user/reviews` or its revision `main` does not exist on `HUB`",
        "check the name",
    );
    check(status("401 Unauthorized"), None, "does not exist, or is private or gated", "HF_TOKEN");
    check(status("401 Unauthorized"), Some("secret"), "the token was refused", "HF_TOKEN");
    check(status("403 Forbidden"), Some("secret"), "access to `user/reviews` is denied", "HF_TOKEN");
    check(status("429 Too Many Requests"), None, "too many requests", "wait");
    check(status("503 Service Unavailable"), None, "status 503", "HF_ENDPOINT");
    check(status("200 OK"), None, "an answer that is no data set", "looked for on the hub");
    for manner in [Manner::Nothing, Manner::Reset] {
        let answer = move |server: &Server| server.set(LISTING, Answer::new("200 OK", "{}").given(manner));
        check(answer, None, "cannot be reached", "HF_ENDPOINT");
        check(body(Answer::new("200 OK", "").given(manner)), None, "cannot be reached", "run it again");
    }
    let mut cut = Answer::new("200 OK", &train[..500]);
    cut.length = train.len();
    let ended = format!("ended after 500 of {} bytes", train.len());
    check(body(cut), None, &ended, "run it again");
    check(body(Answer::new("200 OK", &train[..500])), None, &ended, "run it again");
    check(body(Answer::new("200 OK", "")), None, "ended after 0 of", "run it again");
    let mut wrong = train.clone();
    wrong[100] ^= 1;
    check(body(Answer::new("200 OK", wrong)), None, "arrived with the wrong bytes: sha256", "alters files");
    check(
        body(Answer::new("404 Not Found", "")),
        None,
        "`data/train-00000-of-00001.parquet` does not exist",
        "check the name",
    );
    check(body(Answer::new("500 Internal Server Error", "")), None, "status 500", "run it again");
}

/// A page about the file in place of the file, from a hub that states no sha256, is named for what it is.
#[test]
fn a_web_page_in_place_of_a_file_is_named() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    server.dataset(NAME, "main", COMMIT, &[("train.parquet", b"<!DOCTYPE html><html>Sign in</html>".to_vec(), false)]);
    let error = failure(loaded(&hub(&server.address, scratch.path()), NAME, split("train")).unwrap_err());
    assert!(
        error.starts_with("Parquet: the file does not hold Parquet: it is a web page (user/reviews/train.parquet)"),
        "{error}"
    );
}

#[test]
fn names_that_are_nearly_here_are_not_looked_for_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/train.jsonl"), line(1)).unwrap();
    let places = Places { roots: [folder.path().to_path_buf()].into(), ..Places::default() };
    let gone = Some(hub("http://127.0.0.1:9", folder.path()));
    let error = |name: &str, options: LoadOptions| {
        let options = LoadOptions { hub: gone.clone(), ..options };
        failure(load(&places, name, &options).map(|_| ()).unwrap_err())
    };
    let plain = LoadOptions::default;
    assert_eq!(error("data/train", plain()), "data set `data/train` was not found | did you mean `data/train.jsonl`?");
    assert_eq!(
        error("data/tarin.jsonl", plain()),
        "file `data/tarin.jsonl` was not found | did you mean `data/train.jsonl`?"
    );
    assert!(error("user/other", plain()).contains("cannot be reached"));
    let revision = LoadOptions { revision: Some("main".into()), ..plain() };
    assert_eq!(error("data", revision), "`data` is local, so `revision` says nothing about it | leave `revision` out");
    assert_eq!(
        error("data/train.jsonl", config("en")),
        "`data/train.jsonl` is local, so `config` says nothing about it | leave `config` out"
    );
    assert_eq!(
        error("data", config("en")),
        "configuration `en` was not found (data set `data`) | the data set has no configurations; leave `config` out"
    );
    let revision = LoadOptions { revision: Some("../x".into()), ..plain() };
    assert!(error("user/other", revision).starts_with("`revision` is `../x`, but must be a branch, a tag or a commit"));
}

#[test]
fn broken_readmes_are_explained() {
    let check = |front: &str, expected: &str| {
        let error = configs::read(&format!("---\n{front}\n---\n")).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    };
    check("configs:\n- config_name: [1", "README.md: ");
    check("configs: some", "README.md: configs: invalid type: string \"some\", expected a sequence at line 1");
    check(
        "configs:\n- config_name: [1, 2]",
        "README.md: configs[0].config_name: invalid type: sequence, expected a string",
    );
    check(
        "configs:\n- data_files: {a: b}",
        "README.md: configs[0]: `data_files` must be patterns, or a list of `split` and `path`",
    );
    for readme in [
        "",
        "# Title",
        "---\nconfigs: x",
        "---\nlicense: mit\n---\nconfigs:",
        "---\nlicense:\n- mit\n---\n",
        "---\n---\n",
    ] {
        assert_eq!(configs::read(readme).unwrap(), [], "{readme:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_readme_makes_the_parser_panic(text in "[-:a-c\\[\\]{}&*!|>'\"%@`, \n\t#]{0,60}", front in "(configs:\n)?[-:a-c\\[\\]{}&*!|>'\" \n]{0,60}") {
        let _ = configs::read(&text);
        if let Err(error) = configs::read(&format!("---\nconfigs:{front}\n---\n{text}")) {
            prop_assert!(error.to_string().contains("README.md"), "{}", error);
        }
    }
}
