//! Reference material that is too large for this repository: where it is, and what is said where it is not.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// The file or folder `path` of the folder that `RETUNE_SHARED` names, or of `../shared`. Where there is none, the caller
/// skips its check, and stderr says so once.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    static SAID: Once = Once::new();
    let root = std::env::var_os("RETUNE_SHARED").map_or_else(|| PathBuf::from("../shared"), PathBuf::from);
    let found = root.join(path);
    if found.exists() {
        return Some(found);
    }
    // Written past the test harness, which shows what a test prints only where it fails.
    SAID.call_once(|| {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: checks that need `{path}` and other reference files; `RETUNE_SHARED=DIR` says where they are (looked in {})",
            absolute(&root).display()
        );
    });
    None
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
