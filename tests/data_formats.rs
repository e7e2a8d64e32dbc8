//! File formats: what is read, and what is refused with file, line and column.

use std::path::Path;

use proptest::prelude::*;
use retune::data::Dataset;
use retune::data::format::Format;

use crate::data::{failure, json};

/// Rows as JSON, one after the other, and the line of each.
fn rows(format: Format, text: &str) -> (String, Vec<u32>) {
    let parsed = format.parse(text.as_bytes(), Path::new("f")).unwrap();
    (json(&Dataset::from_rows("f", parsed.rows)), parsed.lines)
}

#[test]
fn formats_read_what_people_have() {
    use Format::{Csv, Json, JsonLines, Text, Tsv};
    let cases: &[(Format, &str, &str, &[u32])] = &[
        (JsonLines, "{\"a\": 1}\n{\"a\": 2.0}", r#"{"a":1} {"a":2.0}"#, &[1, 2]),
        (JsonLines, "\u{feff}{\"a\": \"é\"}\r\n\r\n  {\"a\": null}\r\n", r#"{"a":"é"} {"a":null}"#, &[1, 3]),
        (JsonLines, r#"{"a": 1, "b": true, "a": [2, {"c": "x"}]}"#, r#"{"a":[2,{"c":"x"}],"b":true}"#, &[1]),
        (JsonLines, r#"{"a": 18446744073709551615}"#, r#"{"a":1.8446744073709552e+19}"#, &[1]),
        (JsonLines, "{\"a\": 1}\n{\"b\": 2}", r#"{"a":1,"b":null} {"a":null,"b":2}"#, &[1, 2]),
        (Json, "[{\"a\": 1},\n\n {\"a\": 2}]\n", r#"{"a":1} {"a":2}"#, &[1, 3]),
        (Json, r#"{"version": "1", "data": [{"a": 1}, {"a": 2}]}"#, r#"{"a":1} {"a":2}"#, &[0, 0]),
        (Json, r#"{"rows": [{"a": 1}]}"#, r#"{"a":1}"#, &[0]),
        (Json, r#"{"a": [1, 2], "b": ["x", "y"]}"#, r#"{"a":1,"b":"x"} {"a":2,"b":"y"}"#, &[0, 0]),
        (Json, "{\"a\": 1}\n{\"a\": 2}\n", r#"{"a":1} {"a":2}"#, &[1, 2]),
        (Json, "{\"a\": [1]}\n{\"a\": [2]}\n", r#"{"a":[1]} {"a":[2]}"#, &[1, 2]),
        (Json, "{\"a\": \"only\"}", r#"{"a":"only"}"#, &[1]),
        (Csv, "text,label\ngood,1\nbad,0\n", r#"{"text":"good","label":1} {"text":"bad","label":0}"#, &[2, 3]),
        (
            Csv,
            "\u{feff}a,b\r\n\r\n\"x\ny\",\"say \"\"no\"\"\"\r\n1,2\r\n",
            r#"{"a":"x\ny","b":"say \"no\""} {"a":"1","b":"2"}"#,
            &[3, 5],
        ),
        (
            Csv,
            "n,x,zip,s\n1,1,01234,\n-2,2.5,99,b\n",
            r#"{"n":1,"x":1.0,"zip":"01234","s":null} {"n":-2,"x":2.5,"zip":"99","s":"b"}"#,
            &[2, 3],
        ),
        (
            Csv,
            "n,x,big\n,1e3,12345678901234567890\n7,-.5,1\n",
            r#"{"n":null,"x":1000.0,"big":"12345678901234567890"} {"n":7,"x":-0.5,"big":"1"}"#,
            &[2, 3],
        ),
        (
            Csv,
            "a,b,c\ninf,+1,2024-05-06\nnan,2,1-2\n",
            r#"{"a":"inf","b":"+1","c":"2024-05-06"} {"a":"nan","b":"2","c":"1-2"}"#,
            &[2, 3],
        ),
        (Csv, ",text\n0,good\n", r#"{"Unnamed: 0":0,"text":"good"}"#, &[2]),
        (Csv, "size,n\n5\" disk,1\n", r#"{"size":"5\" disk","n":1}"#, &[2]),
        (Tsv, "text\tlabel\na, b\t1", r#"{"text":"a, b","label":1}"#, &[2]),
        (Text, "\u{feff}one\r\n\ntwo\n", r#"{"text":"one"} {"text":""} {"text":"two"}"#, &[1, 2, 3]),
    ];
    for (format, text, expected, lines) in cases {
        assert_eq!(rows(*format, text), (expected.to_string(), lines.to_vec()), "{format:?} {text:?}");
    }
}

#[test]
fn broken_files_say_where() {
    use Format::{Csv, Json, JsonLines, Text, Tsv};
    let cases: &[(Format, &[u8], &str)] = &[
        (JsonLines, b"{\"a\": 1}\n\n{\"a\": }\n", "JSON Lines: expected value (f:3:7)"),
        (JsonLines, "{\"é\": x}".as_bytes(), "JSON Lines: expected value (f:1:7)"),
        (JsonLines, b"{\"a\": 1", "JSON Lines: EOF while parsing an object (f:1:7)"),
        (JsonLines, b"{\"a\": 1} {", "JSON Lines: trailing characters (f:1:10)"),
        (
            JsonLines,
            b"{\"a\": NaN}",
            "JSON Lines: expected value (f:1:7) | JSON has no NaN, Infinity or None; write null",
        ),
        (JsonLines, b"{\"a\": True}", "JSON Lines: expected value (f:1:7) | JSON writes true and false in lower case"),
        (JsonLines, b"{'a': 1}", "JSON Lines: key must be a string (f:1:2) | JSON takes double quotes only"),
        (JsonLines, b"{\"a\": 1}\n  7", "JSON Lines: a line must hold an object, but this one holds a number (f:2:3)"),
        (
            JsonLines,
            b"{\n  \"a\": 1\n}",
            "JSON Lines: EOF while parsing an object (f:1:1) | for one JSON document over several lines, give `format: \"json\"`",
        ),
        (JsonLines, b"\n\n", "`f` has no rows | is it the right file?"),
        (Json, b"[{\"a\": 1},\n {\"a\" 2}]", "JSON: expected `:` (f:2:7)"),
        (Json, b"[{\"a\": 1}\n {\"a\": 2}]", "JSON: expected `,` or `]` after an object (f:2:2)"),
        (Json, b"[{\"a\": 1}, 7]", "JSON: the array must hold objects, but here is a number (f:1:12)"),
        (Json, b"[{\"a\": 1}", "JSON: the array is not closed (f:1:10)"),
        (Json, b"[{\"a\": 1}] x", "JSON: something follows the end of the document (f:1:12)"),
        (Json, b"[]", "`f` has no rows | is it the right file?"),
        (Json, b"\"text\"", "JSON: the document must be an array of objects, but is a string (f:1:1)"),
        (Json, b"{\"a\": [1, 2], \"b\": [1]}", "JSON: column `b` has 1 values where `a` has 2 (f:1:1)"),
        (
            Json,
            b"{\"train\": [{\"a\": 1}], \"test\": [{\"a\": 1}]}",
            "JSON: several fields hold rows: `train`, `test` (f:1:1) | put each into a file of its own; files may be named \
             `train.json`, `test.json`",
        ),
        (
            Json,
            b"{\"version\": \"v2.0\", \"data\": [{\"title\": \"x\", \"paragraphs\": []}]}",
            "`f` has no rows | is it the right file?",
        ),
        (
            Csv,
            b"a,b\n\n1,2\n1,2,3\n",
            "CSV: 3 cells where the header has 2 (f:4) | put a text that contains the separator or a quote into double quotes",
        ),
        (
            Csv,
            b"a,b\n\"x\ny\",1\n1\n",
            "CSV: 1 cell where the header has 2 (f:4) | put a text that contains the separator or a quote into double quotes",
        ),
        (
            Csv,
            b"a,b\n1,2\n\"x,1\n2,3\n",
            "CSV: a quote is opened and never closed (f:3) | a cell that begins with `\"` ends with `\"`; a quote inside it is written twice",
        ),
        (
            Csv,
            b"a,b\n1,\"x\n2,3\n",
            "CSV: a quote is opened and never closed (f:2) | a cell that begins with `\"` ends with `\"`; a quote inside it is written twice",
        ),
        (Csv, b"a,b,a\n1,2,3\n", "CSV: the header names the column `a` twice (f:1)"),
        (Csv, b"a,b\n", "`f` has no rows | is it the right file?"),
        (Tsv, b"", "`f` has no rows | is it the right file?"),
        (Text, b"", "`f` has no rows | is it the right file?"),
        (
            Text,
            b"one\ntw\xC3\xA9\xE9o",
            "UTF-8: byte 0xE9 at offset 8 does not belong there (f:2:4) | save the file as UTF-8; text from older Windows \
             programs is often in Latin-1",
        ),
        (
            Csv,
            b"\xFF\xFEa\x00",
            "UTF-8: byte 0xFF at offset 0 does not belong there (f:1:1) | the file looks like UTF-16; save it as UTF-8",
        ),
    ];
    for (format, bytes, expected) in cases {
        let error = format.parse(bytes, Path::new("f")).unwrap_err();
        assert_eq!(failure(error), *expected, "{format:?} {:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_deeply_nested_document_is_refused() {
    let text = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let error = Format::JsonLines.parse(text.as_bytes(), Path::new("f")).unwrap_err();
    assert!(error.to_string().contains("recursion limit exceeded"), "{error}");
}

#[test]
fn formats_that_are_not_read_are_named() {
    let cases = [
        ("x.jsonl.zip", "a packed file (`.zip`) is not supported (x.jsonl.zip)"),
        ("x.docx", "the extension `.docx` is not supported (x.docx)"),
        ("x", "a file without an extension is not supported (x)"),
    ];
    for (path, expected) in cases {
        assert_eq!(Format::of(Path::new(path)).unwrap_err().to_string(), expected);
    }
    assert_eq!(failure(Format::named("jsnol").unwrap_err()).rsplit(" | ").next(), Some("did you mean \"jsonl\"?"));
}

/// Any value that JSON has.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value as Json;
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_filter("JSON has finite numbers", |number| number.is_finite()).prop_map(Json::from),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_lines_come_back_as_they_were_written(table in proptest::collection::vec((any_value(), any_value()), 1..8)) {
        let lines: Vec<String> = table.iter().map(|(a, b)| serde_json::json!({ "a": a, "b": b }).to_string()).collect();
        let (found, numbers) = rows(Format::JsonLines, &lines.join("\n"));
        prop_assert_eq!(found, lines.join(" "));
        prop_assert_eq!(numbers, (1..=lines.len() as u32).collect::<Vec<_>>());
        let document = format!("[{}]", lines.join(",\n"));
        prop_assert_eq!(rows(Format::Json, &document).0, lines.join(" "));
    }

    /// The texts begin with a letter, so that each column is text, and the writer is the csv crate's own.
    #[test]
    fn csv_cells_come_back_as_they_were_written(
        table in proptest::collection::vec(("[a-z][ -~\n\r\té日]{0,12}", any::<i32>(), "[a-z\"',;\t]{1,5}"), 1..8),
        format in prop_oneof![Just((Format::Csv, b',')), Just((Format::Tsv, b'\t'))],
    ) {
        let mut writer = csv::WriterBuilder::new().delimiter(format.1).from_writer(Vec::new());
        writer.write_record(["text", "number", "note"]).unwrap();
        for (text, number, note) in &table {
            writer.write_record([text, &number.to_string(), note]).unwrap();
        }
        let written = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        let expected: Vec<String> = table
            .iter()
            .map(|(text, number, note)| serde_json::json!({ "text": text, "number": number, "note": note }).to_string())
            .collect();
        prop_assert_eq!(rows(format.0, &written).0, expected.join(" "), "{}", written);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}\",:0-9a\n \t']{0,40}") {
        for format in [Format::JsonLines, Format::Json, Format::Csv, Format::Tsv, Format::Text, Format::Parquet] {
            let _ = format.parse(&bytes, Path::new("f"));
            let _ = format.parse(text.as_bytes(), Path::new("f"));
        }
    }
}
