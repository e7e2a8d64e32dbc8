//! The watcher: each save of an editor is one change, whatever the editor does, and a save without a change is none.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use retune::data::digest::digest;
use retune::watch::{Changed, Kind, Notice, Watcher};

/// Long enough for any machine; a change that is told ends the waiting.
const LONG: Duration = Duration::from_secs(20);

struct Watched {
    folder: tempfile::TempDir,
    changes: Receiver<Vec<Changed>>,
    _watcher: Watcher,
}

fn watch(notice: Notice, files: &[&str]) -> Watched {
    let folder = tempfile::tempdir().unwrap();
    let (sender, changes) = channel();
    let watcher = Watcher::start(notice, move |changed| drop(sender.send(changed))).unwrap();
    for file in files {
        let path = folder.path().join(file);
        std::fs::write(&path, "old").unwrap();
        watcher.watch(&path, Kind::Text, Some(&digest(b"old"))).unwrap();
    }
    Watched { folder, changes, _watcher: watcher }
}

impl Watched {
    fn next(&self) -> Vec<(String, Option<String>)> {
        let changed = self.changes.recv_timeout(LONG).expect("a change is told");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        changed.iter().map(|one| (name(&one.path), one.content.as_deref().map(text))).collect()
    }

    /// A later change of another file comes next: nothing was told before it.
    fn nothing_before(&self, fence: &str) {
        std::fs::write(self.folder.path().join("fence"), fence).unwrap();
        assert_eq!(self.next(), [("fence".to_string(), Some(fence.to_string()))]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_folder_that_another_one_takes_the_place_of_is_followed_there() {
    let folder = tempfile::tempdir().unwrap();
    let (place, other) = (folder.path().join("target"), folder.path().join("other"));
    let (sender, changes) = channel();
    let watcher = Watcher::start(Notice::Events, move |changed| drop(sender.send(changed))).unwrap();
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("file"), "old").unwrap();
    watcher.watch(&place.join("file"), Kind::Text, Some(&digest(b"old"))).unwrap();
    let next = || {
        let changed: Vec<Changed> = changes.recv_timeout(LONG).expect("a change is told");
        String::from_utf8(changed[0].content.as_deref().unwrap().to_vec()).unwrap()
    };
    let fill = |folder: &Path, text: &str| {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("file"), text).unwrap();
    };
    for round in 0..3 {
        let renamed = format!("renamed {round}");
        fill(&other, &renamed);
        std::fs::rename(&place, folder.path().join(format!("old {round}"))).unwrap();
        std::fs::rename(&other, &place).unwrap();
        assert_eq!(next(), renamed);
        let removed = format!("removed {round}");
        std::fs::remove_dir_all(&place).unwrap();
        fill(&place, &removed);
        assert_eq!(next(), removed);
        // What is written now is noticed too: the new folder is the one that is watched.
        let written = format!("written {round}");
        std::fs::write(place.join("file"), &written).unwrap();
        assert_eq!(next(), written);
    }
}

/// The ways in which editors save.
fn save(pattern: &str, path: &Path, text: &str) {
    let beside = path.with_extension("tmp");
    match pattern {
        "write" => std::fs::write(path, text).unwrap(),
        "rename over" => {
            std::fs::write(&beside, text).unwrap();
            std::fs::rename(&beside, path).unwrap();
        }
        "backup" => {
            std::fs::rename(path, &beside).unwrap();
            std::fs::write(path, text).unwrap();
            std::fs::remove_file(&beside).unwrap();
        }
        "remove and link" => {
            std::fs::write(&beside, text).unwrap();
            std::fs::remove_file(path).unwrap();
            std::fs::hard_link(&beside, path).unwrap();
            std::fs::remove_file(&beside).unwrap();
        }
        "truncate, then write" => {
            std::fs::write(path, "").unwrap();
            std::fs::write(path, text).unwrap();
        }
        "in pieces" => {
            use std::io::Write;
            let mut file = std::fs::File::create(path).unwrap();
            for piece in text.as_bytes().chunks(3) {
                file.write_all(piece).unwrap();
                file.flush().unwrap();
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn each_way_of_saving_is_one_change() {
    let patterns = [
        "write",
        "rename over",
        "backup",
        "remove and link",
        "truncate, then write",
        "in pieces",
        "rename over",
        "write",
    ];
    for notice in [Notice::Events, Notice::Poll(Duration::from_millis(20))] {
        let watched = watch(notice, &["a.rhai", "fence"]);
        for (number, pattern) in patterns.into_iter().enumerate() {
            let text = format!("text {number} {pattern}");
            save(pattern, &watched.folder.path().join("a.rhai"), &text);
            assert_eq!(watched.next(), [("a.rhai".to_string(), Some(text))], "{notice:?} {pattern}");
            watched.nothing_before(&format!("fence {number}"));
        }
    }
}

#[test]
fn a_save_without_a_change_is_none() {
    let watched = watch(Notice::Events, &["a.rhai", "fence"]);
    for pattern in ["write", "rename over", "backup"] {
        save(pattern, &watched.folder.path().join("a.rhai"), "old");
        watched.nothing_before(pattern);
    }
    std::fs::read(watched.folder.path().join("a.rhai")).unwrap();
    watched.nothing_before("read");
}

#[test]
fn a_file_that_is_gone_is_told_and_one_that_comes_back_too() {
    let watched = watch(Notice::Events, &["a.rhai"]);
    let path = watched.folder.path().join("a.rhai");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(watched.next(), [("a.rhai".to_string(), None)]);
    std::fs::write(&path, "new").unwrap();
    assert_eq!(watched.next(), [("a.rhai".to_string(), Some("new".to_string()))]);
}

#[test]
fn what_changed_before_the_watch_began_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rhai");
    std::fs::write(&path, "newer").unwrap();
    let (sender, changes) = channel();
    let watcher = Watcher::start(Notice::Events, move |changed| drop(sender.send(changed))).unwrap();
    watcher.watch(&path, Kind::Text, Some(&digest(b"old"))).unwrap();
    assert_eq!(changes.recv_timeout(LONG).unwrap()[0].content.as_deref(), Some(&b"newer"[..]));
    assert!(watcher.watch(&folder.path().join("no/such.rhai"), Kind::Text, None).is_err());
}
