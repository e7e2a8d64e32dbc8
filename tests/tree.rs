//! What stands in more than one place: the README's tree names every file, and the embedded library holds all of `stdlib/`.

use std::path::Path;

use retune::data::embedded;

/// The files below `folder`, relative to it, with `/` between names.
fn below(folder: &str) -> Vec<String> {
    fn collect(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, root, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/"));
            }
        }
    }
    let mut found = Vec::new();
    collect(Path::new(folder), Path::new(folder), &mut found);
    found.sort();
    found
}

#[test]
fn the_readme_names_every_source_file_and_no_other() {
    let readme = std::fs::read_to_string("README.md").unwrap();
    let tree = readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut named: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    named.sort_unstable();
    let mut expected: Vec<String> = below("src").into_iter().map(|file| format!("src/{file}")).collect();
    expected.extend(
        below("stdlib").into_iter().filter(|file| file.ends_with(".rhai")).map(|file| format!("stdlib/{file}")),
    );
    expected.sort();
    assert_eq!(named, expected);
}

#[test]
fn the_binary_holds_the_whole_library() {
    let mut embedded: Vec<(&str, &[u8])> = embedded::FILES.to_vec();
    embedded.sort_unstable();
    let files: Vec<String> = below("stdlib").into_iter().filter(|file| file != "README.md").collect();
    assert_eq!(embedded.iter().map(|(path, _)| *path).collect::<Vec<_>>(), files);
    for (path, bytes) in embedded {
        assert_eq!(std::fs::read(Path::new("stdlib").join(path)).unwrap(), bytes, "{path} is stale");
    }
}
