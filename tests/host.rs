//! The host as a library: imports, limits, what a caught error is, callbacks, and tasks.

use std::path::Path;
use std::time::Duration;

use retune::head::script::convert::{lower, raise};
use retune::host::diagnostics::Style;
use retune::host::run::{Host, RunSettings};
use retune::host::sources::Sources;
use retune::host::tasks::load_task;
use retune::report::Reporter;

/// Writes scripts to a folder and runs the first; its output, or its rendered error with the folder's name taken out.
fn run(files: &[(&str, &str)]) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    run_in(folder.path(), files[0].0)
}

fn run_in(folder: &Path, recipe: &str) -> Result<String, String> {
    let (reporter, sources) = (Reporter::capture(), Sources::default());
    let settings = RunSettings::new(folder.join(recipe), reporter.clone());
    match Host::new(settings, &sources).run() {
        Ok(()) => Ok(reporter.captured().stdout),
        Err(error) => Err(error.render(&sources, Style::Plain).replace(&format!("{}/", folder.display()), "")),
    }
}

fn check(files: &[(&str, &str)], expected: Result<&str, &str>) {
    let outcome = run(files);
    match (&outcome, expected) {
        (Ok(output), Ok(expected)) => assert_eq!(output, expected),
        (Err(shown), Err(part)) => assert!(shown.contains(part), "{part:?} is not in\n{shown}"),
        _ => panic!("{outcome:?}, but expected {expected:?}"),
    }
}

#[test]
fn imports_are_found_beside_the_script_that_imports() {
    let inner = ("lib/inner.rhai", "import \"deep/one\" as one; fn f() { one::g() + 1 }");
    let one = ("lib/deep/one.rhai", "import \"../base.rhai\" as base; fn g() { base::ONE }");
    let base = ("lib/base.rhai", "export const ONE = 1;");
    check(&[("a.rhai", "import \"lib/inner\" as i; print(i::f());"), inner, one, base], Ok("2\n"));
}

#[test]
fn a_module_runs_once_while_its_text_and_those_it_imports_stay_the_same() {
    let recipe = "import \"m\" as a; import \"m\" as b; print(a::f() + b::f());";
    check(&[("a.rhai", recipe), ("m.rhai", "print(\"loaded\"); fn f() { 1 }")], Ok("loaded\n2\n"));

    // Each rewrite of `inner` must be seen through `outer`, whose own text never changes.
    let folder = tempfile::tempdir().unwrap();
    let (inner, outer) = (folder.path().join("inner.rhai"), folder.path().join("outer.rhai"));
    std::fs::write(&outer, "import \"inner\" as inner; fn f() { inner::f() }").unwrap();
    let host = Host::new(RunSettings::new(folder.path().join("a.rhai"), Reporter::capture()), &Sources::default());
    let mut ast = host.engine.compile("import \"outer\" as outer; outer::f()").unwrap();
    ast.set_source(folder.path().join("a.rhai").to_string_lossy().into_owned());
    for value in [1_i64, 2, 2, 3] {
        std::fs::write(&inner, format!("fn f() {{ {value} }}")).unwrap();
        assert_eq!(host.engine.eval_ast::<i64>(&ast).unwrap(), value);
    }
    let edges: Vec<(String, String)> = host
        .sources
        .imports()
        .into_iter()
        .map(|edge| [edge.importer, edge.imported].map(|name| name.rsplit('/').next().unwrap().to_string()).into())
        .collect();
    for edge in [("a.rhai", "outer.rhai"), ("outer.rhai", "inner.rhai")] {
        assert!(edges.contains(&(edge.0.to_string(), edge.1.to_string())), "{edge:?} is not in {edges:?}");
    }
}

#[test]
fn an_import_that_failed_can_be_tried_again() {
    let recipe = "try { import \"m\" as m; } catch (error) { print(error.message); }\n\
                  try { import \"m\" as m; } catch (error) { print(error.message); }";
    check(&[("a.rhai", recipe), ("m.rhai", "throw #{ message: \"no\" };")], Ok("no\nno\n"));
}

#[test]
fn functions_of_a_module_see_its_constants() {
    let module = "const K = 7; fn f() { global::K }";
    check(&[("a.rhai", "import \"m\" as m; print(m::f());"), ("m.rhai", module)], Ok("7\n"));
}

#[test]
fn errors_of_imports_show_their_own_file_and_the_way_there() {
    let module = "fn outer(x) { inner(x) }\nfn inner(x) {\n    expect(x > 1, \"too small\");\n}";
    let files = [("a.rhai", "import \"m\" as m;\nm::outer(1);"), ("m.rhai", module)];
    let shown = run(&files).unwrap_err();
    let expected = "error: too small\n --> m.rhai:3:5\n  |\n3 |     expect(x > 1, \"too small\");\n  |     ^^^^^^\n  |\n  \
                    = note: called from m.rhai:1:15 in `outer`\n  = note: called from a.rhai:2:4";
    assert_eq!(shown, expected);
    check(&[("a.rhai", "import \"m\" as m;"), ("m.rhai", "let x = 1;\nthrow \"top\";")], Err(" --> m.rhai:2:1"));
}

#[test]
fn colours_change_nothing_but_colours() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("a.rhai");
    for text in ["throw \"no\";", "import \"m\" as m;", "let x = \"größe\"; y"] {
        std::fs::write(&recipe, text).unwrap();
        let sources = Sources::default();
        let failure = Host::new(RunSettings::new(&recipe, Reporter::capture()), &sources).run().unwrap_err();
        let [plain, colored] = [Style::Plain, Style::Colored].map(|style| failure.render(&sources, style));
        assert_ne!(plain, colored);
        let stripped = console::strip_ansi_codes(&colored).lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(stripped, plain);
    }
}

#[test]
fn limits_bound_depth_and_time() {
    let deep = format!("let x = {}1{};", "(".repeat(100), ")".repeat(100));
    check(&[("a.rhai", &deep)], Err("nested too deeply"));
    check(&[("a.rhai", "fn f(n) { if n == 0 { 0 } else { 1 + f(n - 1) } } print(f(60));")], Ok("60\n"));
    check(&[("a.rhai", "fn f(n) { f(n + 1) } try { f(0); } catch { print(\"caught\"); }")], Err("more than 64 deep"));

    let host = Host::new(RunSettings::new("a.rhai", Reporter::capture()), &Sources::default());
    host.deadline.set(Duration::from_millis(20));
    let error = host.engine.run("try { loop { } } catch { loop { } }").unwrap_err();
    assert!(host.explain(&error).message.contains("time"), "{error}");
    host.deadline.clear();
    host.engine.run("let n = 0; while n < 10000 { n += 1; }").unwrap();
}

#[test]
fn a_caught_error_is_a_value() {
    let cases = [
        (
            "read_json(\"x.json\")",
            "print(e.message); print(e.hint != ()); print(type_of(e));",
            "file `x.json` was not found\ntrue\nError\n",
        ),
        ("throw \"plain\"", "print(e);", "plain\n"),
        ("expect(false, \"why\")", "print(e.to_string()); print(e.hint);", "why\n\n"),
        ("let a = [1]; a[3]", "print(e.message.contains(\"3\"));", "true\n"),
    ];
    for (attempt, handler, expected) in cases {
        check(&[("a.rhai", &format!("try {{ {attempt}; }} catch (e) {{ {handler} }}"))], Ok(expected));
    }
    // The value keeps its hint and its places when it is thrown again.
    let again = "try { read_json(\"x.json\"); } catch (e) { throw e; }";
    check(&[("a.rhai", again)], Err("hint: it was looked up in"));
}

/// What a trainer does: Rust calls a function of the script in the middle of a call from the script.
#[test]
fn an_error_inside_a_callback_shows_its_own_line_and_who_called() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("a.rhai");
    std::fs::write(&recipe, "fn metric(x) {\n    x.accurracy\n}\ntrain(Fn(\"metric\"));").unwrap();
    let sources = Sources::default();
    let mut host = Host::new(RunSettings::new(&recipe, Reporter::capture()), &sources);
    host.engine.register_fn(
        "train",
        |context: rhai::NativeCallContext, callback: rhai::FnPtr| -> Result<(), Box<rhai::EvalAltResult>> {
            let called = callback.call_within_context::<rhai::Dynamic>(&context, (rhai::Map::new(),));
            called.map(|_| ()).map_err(|error| raise(lower(error)))
        },
    );
    let shown =
        host.run().unwrap_err().render(&sources, Style::Plain).replace(&format!("{}/", folder.path().display()), "");
    assert!(shown.starts_with("error: the map has no `accurracy`\n --> a.rhai:2:7\n"), "{shown}");
    assert!(shown.contains("called from a.rhai:4:1"), "{shown}");
}

#[test]
fn tasks_are_found_by_name_and_compiled() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.rhai"), "fn create(p, config) { p }").unwrap();
    std::fs::write(folder.path().join("wrong.rhai"), "fn create(p, config) { q }").unwrap();
    let sources = Sources::default();
    let host = Host::new(RunSettings::new(folder.path().join("a.rhai"), Reporter::capture()), &sources);
    let load = |name: &str| load_task(&host.session, &sources, &host.deadline, name);
    let task = load("mine").unwrap();
    assert!(task.path.ends_with("mine.rhai") && task.ast.iter_functions().any(|function| function.name == "create"));
    assert_eq!(*sources.text(&task.path).unwrap(), *task.source);
    let messages = ["plugin:ner", "mnie", "std/tasks/nre"].map(|name| load(name).err().unwrap().to_string());
    assert_eq!(messages[0], "reading the task `plugin:ner` as a script is not supported");
    assert_eq!(messages[1], "script `mnie.rhai` was not found");
    assert!(messages[2].contains("`std/tasks/nre` was not found"), "{}", messages[2]);
    let shown = host.explain_error(&load("wrong").err().unwrap()).render(&sources, Style::Plain);
    assert!(shown.contains("no variable `q`") && shown.contains("wrong.rhai:1:24"), "{shown}");
}

#[test]
fn json_survives_a_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/x.json");
    let recipe = format!(
        "let value = #{{ third: 1.0 / 3.0, whole: 9007199254740993, list: [1, 2.0, true, \"ü\", ()], map: #{{}} }};\n\
         write_json(\"{0}\", value);\nlet back = read_json(\"{0}\");\n\
         expect(back.third == value.third && back.whole == value.whole, \"numbers\");\n\
         expect(type_of(back.list[0]) == \"i64\" && type_of(back.list[1]) == \"f64\", \"kinds\");\n\
         expect(to_json(back) == to_json(value), \"all\");",
        path.display()
    );
    check(&[("a.rhai", &recipe)], Ok(""));
    let left: Vec<_> =
        std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["x.json"], "no partial file is left");
}
