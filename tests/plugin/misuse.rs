//! Heads in C that misuse the table, each in a way of its own: the program answers with an error that names it, and goes on.

use serde_json::json;

use super::{batch, model, opened, two_rows};

/// A head of `misuse.c`, and what its error says.
const CASES: [(&str, &str); 53] = [
    ("null_tensors", "`tensors` is null, but has 2 entries"),
    ("null_ints", "`ints` is null, but has 1 entries (`SOFTMAX` of (5, 8))"),
    ("null_floats", "`floats` is null, but has 1 entries"),
    ("misaligned", "`ints` is not aligned"),
    ("too_many", "entries, more than fit into memory"),
    ("unknown_opcode", "there is no operation 9999; `has_op` asks (operation 9999 of (5, 8))"),
    ("known_opcode", "there is no operation 9999"),
    ("too_few", "it was given 1 tensors, but takes `a, b` (`ADD` of (5, 8))"),
    ("zero", "it used the tensor 0, which is what a function of the host gives when it fails"),
    ("made_up", "it used a tensor that was never given"),
    ("random_handle", "it used a tensor of an earlier call"),
    (
        "foreign_thread",
        "it used the tensor 0, which is what a function of the host gives when it fails, or on another thread",
    ),
    ("null_name", "`name` is null, but has 5 entries"),
    ("not_utf8", "`name` is not UTF-8 text (byte 0)"),
    ("no_such_input", "column `labells` was not found"),
    ("nine_dimensions", "a tensor has at most 8 dimensions, but 9 are asked for"),
    ("overflow", "more elements than fit into memory"),
    ("large", "more elements than fit into memory"),
    ("null_data", "`data` is null, but has 3 entries"),
    ("null_dims", "`dims` is null, but has 1 entries"),
    ("no_such_type", "there is no type 77"),
    ("read_nowhere", "`out` is null, but has 40 entries (reading a tensor of (5, 8))"),
    ("read_type", "there is no type 0"),
    ("shapes", "(`MATMUL` of (5, 8) and (5, 8))"),
    ("silent", "it failed with the status -1 and did not say why"),
    ("odd_status", "it failed with the status 12345"),
    ("own_text", "the reason is here"),
    ("own_text_null", "it failed, and the text that says why is null"),
    ("own_text_not_utf8", "caf\u{fffd}"),
    ("first_text", "the first"),
    ("no_output", "it gave no output"),
    ("output_null_name", "`name` is null"),
    ("param_late", "parameter `late` was not found"),
    ("param_shape", "the parameter `own` has the shape (2), but (3, 8) is asked for"),
    ("param_init", "there is no initialisation 99 (the parameter `own`)"),
    ("no_such_text", "this call has no text `config`"),
    ("null_result", "`text` is null, but has 4 entries"),
    ("call_no_json", "the arguments of a function are no JSON"),
    ("call_no_list", "the arguments of a function are a JSON list"),
    ("call_stale", "it used a tensor of an earlier call"),
    ("call_object", "there is no object 3 in this call"),
    ("call_word", "`$nonsense` stands for nothing"),
    ("call_tokenizer", "this call has no tokenizer"),
    ("extension", "no extension, as it should be"),
    ("own_null", "the declaration of its own operation is null"),
    ("own_short", "the declaration of its own operation has 8 bytes"),
    ("own_no_forward", "its own operation has no forward"),
    ("own_no_inputs", "it takes one to three tensors, but got 0"),
    ("own_four_inputs", "it takes one to three tensors, but got 4"),
    ("own_reason", "its own reason"),
    ("own_operations", "an operation of the plugin's own can use `set_error` and `log` alone"),
    ("own_dropped", "each was dropped once"),
    ("stale", "it used a tensor of an earlier call; tensors live until their call ends"),
];

#[test]
fn every_misuse_is_an_error_that_names_it() {
    let plugin = opened("tests/plugin/misuse.c", &[]);
    for (head, expected) in CASES {
        let model = model(&plugin, head).unwrap();
        // `stale` keeps a tensor of its first call: a model asks a head once when it is made.
        let error = model.forward(&two_rows()).err().unwrap_or_else(|| panic!("{head} went well")).to_string();
        assert!(error.contains(expected), "{head}: {error}");
        assert!(
            error.contains(&format!("`forward` of the head `{head}` of the plugin `misuse` 0.1.0")),
            "{head}: {error}"
        );
        assert!(!error.contains("never heard"), "{error}");
    }
    // All heads of the file were tried, here or below.
    let elsewhere = ["own_no_backward", "create_twice", "create_fails", "create_given_back"];
    let named = |name: &str| CASES.iter().any(|(head, _)| *head == name) || elsewhere.contains(&name);
    assert_eq!(plugin.heads.iter().find(|head| !named(&head.name)).map(|head| &head.name), None);

    for (head, expected) in [
        ("create_twice", "the parameter `own` is made twice"),
        ("create_fails", "not today"),
        ("create_given_back", "it was given back"),
    ] {
        let error = model(&plugin, head).err().unwrap().to_string();
        assert!(error.contains(expected) && error.contains("`create` of the head"), "{head}: {error}");
    }
    let model = model(&plugin, "own_no_backward").unwrap();
    let batch = batch(&json!([{"input_ids": [1, 2]}, {"input_ids": [3]}]));
    let output = model.forward(&batch).unwrap();
    let error = model.loss(&output, &batch).unwrap().backward().unwrap_err().to_string();
    assert!(error.contains("has no backward (`forward` of the head `own_no_backward`"), "{error}");
}
