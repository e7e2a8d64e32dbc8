//! One ABI on two sides: the header against the Rust declarations, and what follows from the table of operations.
//!
//! `RETUNE_UPDATE=1` writes the generated section of the header and `docs/plugin_operations.md`.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use retune_plugin_sdk::abi::{CONSTANTS, LAYOUT, SIZES_OF_1_0};
use retune_plugin_sdk::opcodes::TABLE;

use super::{compiled_with, repository};
use crate::wrong::updates;

const HEADER: &str = "plugins/sdk/include/retune_plugin.h";
const BEGIN: &str =
    "/* BEGIN GENERATED: everything from here to the end of the section follows from the SDK's tables. */\n";
const END: &str = "/* END GENERATED */\n";

/// The operations, and sizes and offsets that every compiler of the header checks.
fn generated() -> String {
    let mut text = String::from(
        "\n/* The operations: tensors; whole numbers; floats. What is in brackets may be left out. */\nenum {\n",
    );
    for op in TABLE {
        let takes = [op.tensors, op.ints, op.floats];
        let last = takes.iter().rposition(|part| !part.is_empty()).unwrap_or(0);
        let takes = takes[..=last].join("; ");
        writeln!(text, "    RETUNE_{} = {}, /* {takes}:{} */", op.name, op.code, op.doc).unwrap();
    }
    text.push_str(
        "};\n\n/* How structs lie in memory where pointers have 64 bits. */\n#if UINTPTR_MAX == UINT64_MAX\n",
    );
    text.push_str("#define RETUNE_LAYOUT(name, holds) typedef char retune_layout_##name[(holds) ? 1 : -1]\n");
    for shape in LAYOUT {
        writeln!(text, "RETUNE_LAYOUT({0}, sizeof({0}) == {1});", shape.name, shape.size).unwrap();
        for (field, offset) in shape.fields {
            writeln!(text, "RETUNE_LAYOUT({0}_{field}, offsetof({0}, {field}) == {offset});", shape.name).unwrap();
        }
    }
    text.push_str("#undef RETUNE_LAYOUT\n#endif\n\n");
    text
}

fn documented() -> String {
    let mut text = String::from(
        "# Operations of plugins\n\nWhat a plugin can do with tensors: `host->op(RETUNE_NAME, ...)` in C, methods of `Tensor` in Rust. \
         Each has a gradient unless it says otherwise. Generated from the table of the SDK.\n\n\
         | name | number | tensors | whole numbers | floats | |\n|---|---|---|---|---|---|\n",
    );
    for op in TABLE {
        let [tensors, ints, floats] = [op.tensors, op.ints, op.floats]
            .map(|part| if part.is_empty() { String::new() } else { format!("`{part}`") });
        writeln!(text, "| `{}` | {} | {tensors} | {ints} | {floats} |{} |", op.name, op.code, op.doc).unwrap();
    }
    text
}

fn current(path: &str, expected: &str) {
    let path = repository(path);
    if updates() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} is stale: run the tests with RETUNE_UPDATE=1", path.display());
}

#[test]
fn the_header_and_the_reference_of_operations_are_current() {
    let header = std::fs::read_to_string(repository(HEADER)).unwrap();
    let (before, rest) = header.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    current(HEADER, &format!("{before}{BEGIN}{}{END}{after}", generated()));
    current("docs/plugin_operations.md", &documented());
}

#[test]
fn numbers_of_operations_are_given_once_and_in_order() {
    for pair in TABLE.windows(2) {
        assert!(pair[0].code < pair[1].code, "{} and {}", pair[0].name, pair[1].name);
    }
    let mut names: Vec<_> = TABLE.iter().map(|op| op.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TABLE.len());
}

/// What a C program that knows the header alone finds.
fn found_by_c(language: &str) -> Vec<String> {
    let mut program = String::from("#include \"retune_plugin.h\"\n#include <stdio.h>\nint main(void) {\n");
    for shape in LAYOUT {
        writeln!(program, "printf(\"{0} %zu\\n\", sizeof({0}));", shape.name).unwrap();
        for (field, _) in shape.fields {
            writeln!(program, "printf(\"{0}.{field} %zu\\n\", offsetof({0}, {field}));", shape.name).unwrap();
        }
    }
    for (name, _) in CONSTANTS {
        writeln!(program, "printf(\"{name} %lld\\n\", (long long){name});").unwrap();
    }
    for op in TABLE {
        writeln!(program, "printf(\"RETUNE_{0} %lld\\n\", (long long)RETUNE_{0});", op.name).unwrap();
    }
    program.push_str("return 0;\n}\n");
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("layout.c"), folder.path().join("layout"));
    std::fs::write(&source, program).unwrap();
    let mut command = Command::new("cc");
    command.args(["-x", language, "-Wall", "-Wextra", "-Werror", "-I"]).arg(repository("plugins/sdk/include"));
    let output = command.arg(&source).arg("-o").arg(&binary).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(&binary).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect()
}

#[test]
fn a_c_compiler_finds_the_same_layout_and_the_same_numbers() {
    let mut expected = Vec::new();
    for shape in LAYOUT {
        expected.push(format!("{} {}", shape.name, shape.size));
        expected.extend(shape.fields.iter().map(|(field, offset)| format!("{}.{field} {offset}", shape.name)));
    }
    expected.extend(CONSTANTS.iter().map(|(name, value)| format!("{name} {value}")));
    expected.extend(TABLE.iter().map(|op| format!("RETUNE_{} {}", op.name, op.code)));
    assert_eq!(found_by_c("c"), expected);
    // A C++ compiler is not a part of every system; where there is one, it reads the header too.
    if Command::new("c++").arg("--version").output().is_ok_and(|output| output.status.success()) {
        assert_eq!(found_by_c("c++"), expected);
    }
}

/// Every struct names all its fields: the last one ends where the struct does.
#[test]
fn the_layout_names_every_field() {
    for shape in LAYOUT {
        let mut offsets: Vec<usize> = shape.fields.iter().map(|(_, offset)| *offset).collect();
        offsets.push(shape.size);
        for pair in offsets.windows(2) {
            // No field is larger than an `Init` or smaller than two bytes.
            assert!(pair[0] < pair[1] && pair[1] - pair[0] <= 16, "{}: {offsets:?}", shape.name);
        }
    }
}

/// What was released stays as it was: a plugin with the first header loads and trains in this program.
#[test]
fn a_plugin_with_the_first_header_still_works() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("old.so");
    compiled_with("tests/plugin/header_1_0", "tests/plugin/header_1_0/head.c", &[], &library);
    let loader = super::loader(folder.path());
    let (allowed, _) = loader.allow(&library).unwrap();
    assert_eq!((allowed.name.as_str(), allowed.abi.as_str()), ("old", "1.0"));
    let plugin = loader.find("old", None).unwrap();
    let model = super::model(&plugin, "old").unwrap();
    let batch = super::two_rows();
    let output = model.forward(&batch).unwrap();
    let gradients = model.loss(&output, &batch).unwrap().backward().unwrap();
    for name in ["old.weight", "old.bias"] {
        assert!(gradients.get(model.parameters().get(name).unwrap().value()).is_some(), "{name}");
    }
    // What came later is absent, though memory behind the old struct may hold anything.
    assert_eq!(plugin.heads[0].has(), Vec::<&str>::new());
}

/// The old header is the old header: its sizes are those that the loader takes for the shortest.
#[test]
fn the_first_header_has_the_sizes_that_are_still_accepted() {
    let text = std::fs::read_to_string(Path::new("tests/plugin/header_1_0/retune_plugin.h")).unwrap();
    assert!(text.contains("#define RETUNE_ABI_MINOR 0\n"));
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("sizes.c"), folder.path().join("sizes"));
    let program = "#include \"retune_plugin.h\"\n#include <stdio.h>\nint main(void) {\
                   printf(\"%zu %zu %zu\", sizeof(retune_plugin), sizeof(retune_head), sizeof(retune_host)); return 0; }\n";
    std::fs::write(&source, program).unwrap();
    let mut command = Command::new("cc");
    command.arg("-I").arg(repository("tests/plugin/header_1_0")).arg(&source).arg("-o").arg(&binary);
    assert!(command.status().unwrap().success());
    let output = String::from_utf8(Command::new(&binary).output().unwrap().stdout).unwrap();
    assert_eq!(output, SIZES_OF_1_0.map(|size| size.to_string()).join(" "));
}
