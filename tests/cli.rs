//! The command line as a subprocess: exit codes, streams, and what a program that reads them gets.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use retune::kernels::Path as KernelPath;
use retune::kernels::tiles::{Precision, kernels_of};
use serde_json::Value;

fn retune(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
    command.args(arguments).current_dir(folder);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    retune(folder, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with recipes by name.
fn recipes(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn exit_codes_follow_sysexits() {
    let folder = recipes(&[
        ("good.rhai", "print(`rate ${arg(\"rate\", 0.5)}`);"),
        ("syntax.rhai", "let = 3;"),
        ("thrown.rhai", "throw \"no\";"),
        ("missing.rhai", "read_json(\"nowhere.json\");"),
        ("broken.rhai", "parse_json(\"[1,\");"),
        ("unwritable.rhai", "write_json(\"good.rhai/x.json\", 1);"),
    ]);
    let cases: &[(&[&str], i32)] = &[
        (&["run", "good.rhai"], 0),
        (&["--version"], 0),
        (&["--help"], 0),
        (&[], 64),
        (&["rnu", "good.rhai"], 64),
        (&["run"], 64),
        (&["run", "good.rhai", "--sed", "3"], 64),
        (&["run", "good.rhai", "rat=1"], 64),
        (&["run", "good.rhai", "rate"], 64),
        (&["run", "good.rhai", "rate=1", "rate=2"], 64),
        (&["run", "good.rhai", "rate=fast"], 78),
        (&["run", "syntax.rhai"], 65),
        (&["run", "thrown.rhai"], 78),
        (&["run", "missing.rhai"], 66),
        (&["run", "broken.rhai"], 65),
        (&["run", "unwritable.rhai"], 73),
        (&["run", "nowhere.rhai"], 66),
        (&["run", "good.rhai", "--stdlib", "nowhere"], 66),
        (&["check", "good.rhai"], 0),
        (&["check", "syntax.rhai"], 65),
    ];
    for (arguments, expected) in cases {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(*expected), "{arguments:?}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("panicked"), "{arguments:?}");
    }
}

#[test]
fn unknown_kernels_are_refused_before_anything_runs() {
    let folder = recipes(&[("recipe.rhai", "print(\"started\");")]);
    for (value, code, stdout) in [("fast", 78, ""), ("reference", 0, "started\n"), ("", 0, "started\n")] {
        let output = retune(folder.path(), &["run", "recipe.rhai"]).env("RETUNE_KERNELS", value).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), stdout.to_string()), "{value}");
        let said =
            text(&output.stderr).contains("`RETUNE_KERNELS` is \"fast\", but must be \"reference\", \"emulated\",");
        assert_eq!(said, code != 0, "{}", text(&output.stderr));
    }
    assert!(text(&run(folder.path(), &["--help"]).stdout).contains("RETUNE_KERNELS"));
    for (name, path) in [("amx", KernelPath::Amx), ("avx512", KernelPath::Avx512)] {
        let output = retune(folder.path(), &["run", "recipe.rhai"]).env("RETUNE_KERNELS", name).output().unwrap();
        let is_here = kernels_of(path, Precision::Highest).is_some();
        assert_eq!(output.status.code(), Some(if is_here { 0 } else { 78 }), "{name}: {}", text(&output.stderr));
        let said = text(&output.stderr).contains(&format!("`RETUNE_KERNELS={name}` on this machine is not supported"));
        assert_eq!(said, !is_here, "{name}: {}", text(&output.stderr));
    }
}

#[test]
fn arguments_are_typed_after_their_defaults_and_mix_with_flags() {
    let recipe =
        "print(to_json([arg(\"i\", 1), arg(\"f\", 1.0), arg(\"b\", false), arg(\"s\", \"x\"), arg(\"n\", ())]));";
    let folder = recipes(&[("args.rhai", recipe)]);
    let cases: &[(&[&str], &str)] = &[
        (&[], "[1,1.0,false,\"x\",null]"),
        (&["i=-3", "--quiet", "f=-2", "b=true", "--seed", "7", "s=a=b", "n=here"], "[-3,-2.0,true,\"a=b\",\"here\"]"),
        (&["f=1e-4", "s="], "[1,0.0001,false,\"\",null]"),
    ];
    for (arguments, expected) in cases {
        let output = run(folder.path(), &[&["run", "args.rhai"], *arguments].concat());
        assert_eq!(text(&output.stdout).trim(), *expected, "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn an_unknown_argument_is_refused_before_anything_runs() {
    let recipe = "print(\"started\"); import \"more\" as more; let rate = arg(\"rate\", 1.0);";
    let folder = recipes(&[("recipe.rhai", recipe), ("more.rhai", "let epochs = arg(\"epochs\", 3);")]);
    let output = run(folder.path(), &["run", "recipe.rhai", "epoch=4"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(64), String::new()));
    assert!(text(&output.stderr).contains("hint: did you mean `epochs=...`?"), "{}", text(&output.stderr));

    let folder = recipes(&[("recipe.rhai", "let name = \"rate\"; print(arg(name, 1.0));")]);
    let computed = run(folder.path(), &["run", "recipe.rhai", "rat=2"]);
    assert_eq!((computed.status.code(), text(&computed.stdout)), (Some(64), "1.0\n".to_string()));
    assert_eq!(text(&run(folder.path(), &["run", "recipe.rhai", "rate=2"]).stdout), "2.0\n");
}

#[test]
fn an_error_is_an_event_on_stdout_and_text_on_stderr() {
    let folder = recipes(&[("recipe.rhai", "print(\"on\");\nlet x = raed_json(\"a\");")]);
    let output = run(folder.path(), &["--json", "run", "recipe.rhai"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let events: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let error = events.last().unwrap();
    assert_eq!(error["event"], "error");
    assert_eq!(error["message"], "there is no function `raed_json` for a string");
    assert_eq!(error["where"], serde_json::json!({ "file": "recipe.rhai", "line": 2, "column": 9 }));
    assert_eq!(error["hint"], "did you mean `read_json`?");
    assert_eq!(format!("on\n{}\n", error["rendered"].as_str().unwrap()), stderr);

    let usage = run(folder.path(), &["--json", "rnu"]);
    let event: Value = serde_json::from_str(&text(&usage.stdout)).unwrap();
    assert_eq!((&event["event"], &event["where"]), (&"error".into(), &Value::Null));
}

#[test]
fn a_run_ends_with_the_result_event() {
    let folder = recipes(&[("recipe.rhai", "print(\"hello\");")]);
    let output = run(folder.path(), &["run", "recipe.rhai", "--json"]);
    let last: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "result");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_is_not_in_the_build_is_refused_with_the_build_command() {
    let folder = recipes(&[("recipe.rhai", "print(1);")]);
    let output = run(folder.path(), &["run", "recipe.rhai", "--device", "cuda"]);
    assert_eq!(output.status.code(), Some(69));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("cargo build --release --features cuda"), "{stderr}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let folder = recipes(&[("recipe.rhai", "for i in 0..20000 { print(`line ${i} of many, to fill the pipe`); }")]);
    for arguments in [&["run", "recipe.rhai"][..], &["reference"], &["run", "recipe.rhai", "--json"]] {
        let mut child = retune(folder.path(), arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        // With `--json` the lines go to stderr, which has to be read for the child to go on.
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert!(!stderr.contains("panicked") && status.code().is_some(), "{arguments:?}: {status}");
    }
}

#[test]
fn a_pipe_gets_no_colours() {
    let folder = recipes(&[("recipe.rhai", "throw \"no\";")]);
    let plain = run(folder.path(), &["run", "recipe.rhai"]);
    let asked = retune(folder.path(), &["run", "recipe.rhai"]).env("NO_COLOR", "1").output().unwrap();
    assert!(!plain.stderr.contains(&0x1b), "{}", text(&plain.stderr));
    assert_eq!(plain.stderr, asked.stderr);
}

#[test]
fn check_names_every_problem_of_a_recipe_and_its_imports() {
    let recipe =
        "import \"one\" as one;\nimport \"two\" as two;\nprint(sqroot(4.0));\nlet rate = arg(\"rate\", 1.0);\n";
    let folder = recipes(&[
        ("recipe.rhai", recipe),
        ("one.rhai", "fn f() { let default = 1; }"),
        ("two.rhai", "import \"three\" as three;\nfn g() { f2(1) }\nfn f1(x) { x }"),
        (
            "good.rhai",
            "import \"library\" as library;\nlet epochs = arg(\"epochs\", 3);\nlibrary::f([1].map(|x| x + 1));",
        ),
        ("library.rhai", "fn f(rows) { rows.len() }"),
    ]);
    let output = run(folder.path(), &["check", "recipe.rhai"]);
    let stderr = text(&output.stderr);
    for expected in [
        "there is no function `sqroot`",
        "recipe.rhai:3:7",
        "`default` is a reserved word",
        "one.rhai:1:14",
        "imported from recipe.rhai:1:8",
        "script `three.rhai` was not found",
        "two.rhai:1:8",
        "there is no function `f2`",
        "did you mean `f1`?",
    ] {
        assert!(stderr.contains(expected), "{expected} is missing:\n{stderr}");
    }
    let output = run(folder.path(), &["check", "good.rhai"]);
    assert_eq!(text(&output.stdout), "good.rhai: OK (2 scripts)\narguments: epochs\n", "{}", text(&output.stderr));
}

#[test]
fn the_library_can_be_replaced_by_a_folder() {
    let folder = recipes(&[("recipe.rhai", "import \"std/greet\" as greet; print(greet::hello());")]);
    std::fs::create_dir(folder.path().join("lib")).unwrap();
    std::fs::write(folder.path().join("lib/greet.rhai"), "fn hello() { no_such() }").unwrap();
    let output = run(folder.path(), &["run", "recipe.rhai", "--stdlib", "lib"]);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("--> std/greet.rhai:1:14") && stderr.contains("from recipe.rhai:1:"), "{stderr}");
    std::fs::write(folder.path().join("lib/greet.rhai"), "fn hello() { \"hello\" }").unwrap();
    let output = run(folder.path(), &["run", "recipe.rhai", "--stdlib", "lib"]);
    assert_eq!(text(&output.stdout), "hello\n", "{}", text(&output.stderr));
    let output = run(folder.path(), &["run", "recipe.rhai"]);
    assert!(text(&output.stderr).contains("`std/greet` was not found"), "{}", text(&output.stderr));
}
