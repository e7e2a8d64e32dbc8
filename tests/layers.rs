//! The architecture, enforced: who may use whom, where `rhai`, `unsafe` and SIMD may be, and how files begin.
//!
//! The rules are those of the design's first section. Comments and strings are taken out before a file is read.

use std::path::{Path, PathBuf};

/// Each module may use itself and those before it.
const ORDER: &[&str] = &[
    "error",
    "memory",
    "cancel",
    "tensor",
    "kernels",
    "data",
    "tokenizer",
    "batch",
    "model",
    "plugin",
    "head",
    "metrics",
    "train",
    "pipeline",
    "report",
    "watch",
    "api",
    "host",
    "fuzz",
    "cli",
    "main",
];

const LONGEST: usize = 500;

/// All Rust files below `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The text without comments, strings and characters, so that only code is left.
fn code(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let at = |index: usize| letters.get(index).copied().unwrap_or('\0');
    let mut code = String::new();
    let mut here = 0;
    while here < letters.len() {
        let before = if here > 0 { at(here - 1) } else { ' ' };
        match at(here) {
            '/' if at(here + 1) == '/' => {
                while here < letters.len() && at(here) != '\n' {
                    here += 1;
                }
            }
            '/' if at(here + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(here), at(here + 1)) {
                        ('/', '*') => (depth, here) = (depth + 1, here + 2),
                        ('*', '/') => (depth, here) = (depth - 1, here + 2),
                        _ => here += 1,
                    }
                    if depth == 0 || here >= letters.len() {
                        break;
                    }
                }
            }
            'r' if !before.is_alphanumeric() && before != '_' && is_raw_string(&letters[here + 1..]) => {
                let hashes = letters[here + 1..].iter().take_while(|letter| **letter == '#').count();
                let end: String = format!("\"{}", "#".repeat(hashes));
                here += hashes + 2;
                while here < letters.len() && !end.chars().enumerate().all(|(i, letter)| at(here + i) == letter) {
                    here += 1;
                }
                here += end.len();
            }
            '"' => {
                here += 1;
                while here < letters.len() && at(here) != '"' {
                    here += if at(here) == '\\' { 2 } else { 1 };
                }
                here += 1;
            }
            // A character; a lifetime has no closing quote.
            '\'' if at(here + 1) == '\\' || at(here + 2) == '\'' => {
                here += if at(here + 1) == '\\' { 3 } else { 2 };
                while here < letters.len() && at(here) != '\'' {
                    here += 1;
                }
                here += 1;
            }
            letter => {
                code.push(letter);
                here += 1;
            }
        }
    }
    code
}

fn is_raw_string(rest: &[char]) -> bool {
    rest.iter().find(|letter| **letter != '#') == Some(&'"')
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Whether `word` stands alone in the code.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// The modules that follow `crate::`, also inside `use crate::{a, b::c}`.
fn used_modules(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let rest = &code[at + start.len()..];
        let word = |text: &str| text.chars().take_while(|letter| is_word(*letter)).collect::<String>();
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut item) = (0, String::new());
            for letter in group.chars() {
                match letter {
                    '}' | ',' if depth == 0 => {
                        used.push(word(item.trim()));
                        item.clear();
                        if letter == '}' {
                            break;
                        }
                    }
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    letter => item.push(letter),
                }
            }
        } else {
            used.push(word(rest));
        }
    }
    used.retain(|name| !name.is_empty());
    used
}

/// What is wrong with one file of `src`, given by its path below it.
fn problems(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let module = path.split('/').next().unwrap().trim_end_matches(".rs");
    let rank = |name: &str| ORDER.iter().position(|known| *known == name);
    let mut problems = Vec::new();
    if module != "lib" {
        match rank(module) {
            None => problems.push(format!("{path}: `{module}` is not a module of the design")),
            Some(own) => {
                for used in used_modules(&code) {
                    if rank(&used).is_some_and(|used| used > own) {
                        problems.push(format!("{path}: `{module}` may not use `{used}`, which comes after it"));
                    }
                }
            }
        }
    }
    let within = |folders: &[&str]| {
        folders
            .iter()
            .any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.'])))
    };
    if has_word(&code, "rhai") && !within(&["api", "host", "head/script"]) {
        problems.push(format!("{path}: only api, host and head/script may name `rhai`"));
    }
    if has_word(&code, "unsafe") && !within(&["kernels", "plugin", "head/plugin"]) {
        problems.push(format!("{path}: only kernels, plugin and head/plugin may contain `unsafe`"));
    }
    if ["std::arch", "core::arch"].iter().any(|name| code.contains(name)) && !within(&["kernels"]) {
        problems.push(format!("{path}: SIMD is for kernels"));
    }
    // Clippy sees to this everywhere else; a macro's own unwraps have silenced it there.
    if code.contains(".unwrap()") && within(&["api"]) {
        problems.push(format!("{path}: no unwrap outside tests"));
    }
    if !text.starts_with("//!") {
        problems.push(format!("{path}: does not open with `//!`"));
    }
    let lines = text.lines().count();
    if lines > LONGEST {
        problems.push(format!("{path}: {lines} lines, more than {LONGEST}"));
    }
    problems
}

#[test]
fn sources_keep_to_the_order_of_the_design() {
    let mut found = Vec::new();
    let mut count = 0;
    for file in files(Path::new("src")) {
        let path = file.strip_prefix("src").unwrap().to_string_lossy().replace('\\', "/");
        found.extend(problems(&path, &std::fs::read_to_string(&file).unwrap()));
        count += 1;
    }
    assert!(count > 20, "only {count} files were found");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn lib_lists_the_modules_in_flow_order() {
    let text = std::fs::read_to_string("src/lib.rs").unwrap();
    let code = code(&text);
    let listed: Vec<&str> = code.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut sorted = listed.clone();
    sorted.sort_by_key(|name| ORDER.iter().position(|known| known == name));
    assert!(!listed.is_empty());
    assert_eq!(listed, sorted);
}

/// The rules see what they forbid, and nothing in comments or strings.
#[test]
fn each_rule_can_fail() {
    let check = |path: &str, text: &str, expected: Option<&str>| {
        let found = problems(path, &format!("//! A file.\n{text}"));
        match expected {
            Some(part) => assert!(found.iter().any(|problem| problem.contains(part)), "{path} {text}: {found:?}"),
            None => assert!(found.is_empty(), "{path} {text}: {found:?}"),
        }
    };
    check("data/value.rs", "use crate::train::Trainer;", Some("may not use `train`"));
    check("data/value.rs", "use crate::{error::Result, cli::{self, main}};", Some("may not use `cli`"));
    check("data/value.rs", "fn f() { crate::host::run::run() }", Some("may not use `host`"));
    check("tokenizer.rs", "use crate::batch::Batch;", Some("may not use `batch`"));
    check("train/mod.rs", "use crate::{error::Result, data::Row}; use crate::head::Task;", None);
    check("train/mod.rs", "use rhai::Dynamic;", Some("may name `rhai`"));
    check("train/mod.rs", "// rhai unsafe crate::cli\nconst A: &str = \"rhai \\\" unsafe\"; /* std::arch */", None);
    check(
        "train/mod.rs",
        "const A: &str = r#\"rhai \" crate::cli\"#; const B: char = '\"'; fn f<'a>(x: &'a str) {}",
        None,
    );
    check("train/mod.rs", "const B: char = '\\''; use rhai::Engine;", Some("may name `rhai`"));
    check("head/script/convert.rs", "use rhai::Dynamic;", None);
    check("head/mod.rs", "use rhai::Dynamic;", Some("may name `rhai`"));
    check("model/mod.rs", "unsafe { f() }", Some("`unsafe`"));
    check("plugin/table.rs", "unsafe { f() }", None);
    check("model/mod.rs", "use std::arch::x86_64::*;", Some("SIMD"));
    check("api/basics.rs", "fn f() { x.unwrap() }", Some("no unwrap"));
    check("misc.rs", "", Some("not a module of the design"));
    check("data/value.rs", &"\n".repeat(LONGEST), Some("more than"));
    assert!(problems("data/value.rs", "use std::fmt;")[0].contains("does not open"));
}
