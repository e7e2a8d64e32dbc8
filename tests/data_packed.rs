//! Parquet and gzip: files that Python wrote, damaged ones, and names that say something else than the bytes.

use std::path::Path;

use proptest::prelude::*;
use retune::data::format::Format;
use retune::data::{Dataset, Parsed, Value};
use serde_json::Value as Json;

use crate::data::failure;

const FOLDER: &str = "tests/golden/data";

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(FOLDER).join(name)).unwrap()
}

fn parse(name: &str) -> Parsed {
    Format::of(Path::new(name)).unwrap().parse(&bytes(name), Path::new(name)).unwrap()
}

/// The expected rows are those that pyarrow and Python's gzip read; see `generate.py`.
#[test]
fn files_that_python_wrote_give_the_rows_that_python_reads() {
    let expected: Json = serde_json::from_slice(&bytes("expected.json")).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 10);
    for (name, rows) in expected {
        let parsed = parse(name);
        let found: Vec<Json> =
            parsed.rows.iter().map(|row| Value::Map(std::sync::Arc::new(row.clone())).to_json()).collect();
        assert_eq!(&found.len(), &rows.as_array().unwrap().len(), "{name}");
        for (index, (found, row)) in found.iter().zip(rows.as_array().unwrap()).enumerate() {
            for (column, cell) in row.as_object().unwrap() {
                assert_eq!(&found[column], cell, "row {index}, column `{column}` of {name}");
            }
            assert_eq!(found.as_object().unwrap().len(), row.as_object().unwrap().len(), "{name}");
        }
        assert_eq!(parsed.lines.len(), parsed.rows.len(), "{name}");
    }
    assert_eq!(parse("two.jsonl.gz").lines, [1, 2]);
}

#[test]
fn moments_become_text() {
    let rows = parse("moments.parquet").rows;
    assert_eq!(rows[0]["at"].as_str(), Some("2024-02-29 12:30:01.000 +00:00"));
    assert_eq!(rows[0]["time"].as_str(), Some("12:30:01.000"));
    assert_eq!(rows[1]["at"], Value::Null);
}

#[test]
fn names_of_classes_come_with_the_file_and_stay_with_the_column() {
    let data = |name: &str| Dataset::from_file(name, Path::new(name), parse(name));
    let names = |data: &Dataset, column: &str| data.class_names(column).map(|names| names.join(" "));
    let reviews = data("classes.parquet");
    assert_eq!(names(&reviews, "label").as_deref(), Some("neg pos"));
    assert_eq!(names(&reviews, "text"), None);
    assert_eq!(names(&data("ner.parquet"), "ner_tags").as_deref(), Some("O B-PER"));
    let renamed = reviews.rename_column("label", "labels").unwrap().shuffle(1).take(2);
    assert_eq!(names(&renamed, "labels").as_deref(), Some("neg pos"));
    assert_eq!(names(&renamed, "label"), None);
    assert_eq!(names(&reviews.remove_columns(&["label"]).unwrap(), "label"), None);
    assert_eq!(names(&reviews.concat(&reviews), "label").as_deref(), Some("neg pos"));
    assert_eq!(names(&data("ner.parquet").concat(&reviews), "label").as_deref(), Some("neg pos"));
}

#[test]
fn wrong_endings_and_damaged_files_are_named() {
    let parquet = bytes("zstd.parquet");
    let gz = bytes("two.jsonl.gz");
    let mut corrupt = gz.clone();
    let crc = corrupt.len() - 6;
    corrupt[crc] ^= 0xFF;
    let mut footer = parquet.clone();
    let n = footer.len();
    footer[n - 8..n - 4].copy_from_slice(&i32::MAX.to_le_bytes());
    let cases: Vec<(&str, &[u8], &str)> = vec![
        (
            "x.jsonl",
            &parquet,
            "JSON Lines: the file does not hold JSON Lines: it is a Parquet file (x.jsonl) | call it `.parquet`, or give \
             `format: \"parquet\"`",
        ),
        (
            "x.csv",
            &gz,
            "the file is packed with gzip, but its name does not end in `.gz` (x.csv) | rename it to `x.csv.gz`",
        ),
        ("x.csv.gz", b"a,b\n1,2\n", "gzip: the file is not packed (x.csv.gz) | take the `.gz` off its name"),
        ("x.csv.gz", b"", "gzip: the file is empty (x.csv.gz) | is it the right file?"),
        (
            "x.jsonl.gz",
            &gz[..gz.len() - 9],
            "gzip: the file is cut short; 18 bytes could be unpacked (x.jsonl.gz) | copy or download it again",
        ),
        (
            "x.jsonl.gz",
            &gz[..5],
            "gzip: the file is cut short; 0 bytes could be unpacked (x.jsonl.gz) | copy or download it again",
        ),
        ("x.jsonl.gz", &corrupt, "gzip: the file is damaged"),
        (
            "x.csv",
            b"PK\x03\x04\x14\x00",
            "CSV: the file does not hold CSV: it is a zip archive, or a file of Excel or another office program (x.csv) | \
             unpack an archive first; save a table of an office program as CSV",
        ),
        (
            "x.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "Parquet: the file does not hold Parquet: it is a pointer of Git LFS, not the file itself (x.parquet) | fetch the file \
             with `git lfs pull`",
        ),
        (
            "x.parquet",
            b"{\"a\": 1}\n",
            "Parquet: the file is not Parquet: it does not begin with `PAR1` (x.parquet) | is the ending right?",
        ),
        ("x.parquet", &parquet[..n - 1], "Parquet: the file is cut short (x.parquet) | copy or download it again"),
        ("x.parquet", &parquet[..n / 2], "Parquet: the file is cut short (x.parquet) | copy or download it again"),
        ("x.parquet", b"PAR1", "Parquet: the file is cut short (x.parquet) | copy or download it again"),
        ("x.parquet", b"", "`x.parquet` has no rows | is it the right file?"),
        ("x.parquet", &footer, "Parquet: "),
    ];
    for (name, bytes, expected) in cases {
        let error = Format::of(Path::new(name)).unwrap().parse(bytes, Path::new(name)).unwrap_err();
        let shown = failure(error);
        assert!(shown.starts_with(expected), "{name}: {shown}");
        assert!(shown.contains(name), "{shown}");
    }
    let error = Format::Parquet.parse(&bytes("brotli.parquet"), Path::new("b.parquet")).unwrap_err();
    assert!(failure(error).contains("(b.parquet) | write it with snappy, gzip or zstd"));
    let error = Format::Parquet.parse(&bytes("empty.parquet"), Path::new("e.parquet")).unwrap_err();
    assert_eq!(failure(error), "`e.parquet` has no rows | is it the right file?");
}

#[test]
fn every_format_may_be_packed() {
    let names = ["x.jsonl.gz", "x.ndjson.gz", "x.json.gz", "x.csv.gz", "x.TSV.GZ", "x.txt.gz", "x.parquet.gz"];
    let found = names.map(|name| Format::of(Path::new(name)).unwrap());
    use Format::{Csv, Json, JsonLines, Parquet, Text, Tsv};
    assert_eq!(found, [JsonLines, JsonLines, Json, Csv, Tsv, Text, Parquet]);
    for name in ["x.tar.gz", "x.gz", "x.docx.gz"] {
        assert!(Format::of(Path::new(name)).is_err(), "{name}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A few bytes of a good file are changed, or its end is cut off: rows or an error that names the file, never a panic.
    #[test]
    fn damaged_parquet_is_refused_or_read(
        name in prop_oneof![Just("types-snappy.parquet"), Just("zstd.parquet"), Just("gzip.parquet"), Just("plain.parquet"),
            Just("pages-v2.parquet"), Just("delta.parquet"), Just("classes.parquet"), Just("moments.parquet")],
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        footer in any::<bool>(),
    ) {
        let mut damaged = bytes(name);
        let n = damaged.len();
        // Half of the cases spoil the footer, which says where everything is.
        let from = if footer { n - n / 3 } else { 4 };
        for (index, byte) in changes {
            let at = from + index.index(n - 4 - from);
            damaged[at] = byte;
        }
        if let Err(error) = Format::Parquet.parse(&damaged, Path::new("damaged.parquet")) {
            prop_assert!(error.to_string().contains("damaged.parquet"), "{}", error);
        }
    }

    #[test]
    fn any_bytes_between_the_marks_are_refused_or_read(middle in proptest::collection::vec(any::<u8>(), 0..80), length in any::<u32>()) {
        let n = u32::try_from(middle.len()).unwrap();
        for stated in [length, n] {
            let whole = [b"PAR1", &middle[..], &stated.to_le_bytes(), b"PAR1"].concat();
            if let Err(error) = Format::Parquet.parse(&whole, Path::new("any.parquet")) {
                prop_assert!(error.to_string().contains("any.parquet"), "{}", error);
            }
        }
    }

    #[test]
    fn packed_text_comes_back_and_damaged_packing_is_refused(
        lines in proptest::collection::vec("[ -~é日]{0,30}", 1..20), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let text = lines.join("\n") + "\n";
        let packed = gzip(text.as_bytes());
        let rows = Format::Text.parse(&packed, Path::new("x.txt.gz")).unwrap().rows;
        let found: Vec<&str> = rows.iter().map(|row| row["text"].as_str().unwrap()).collect();
        prop_assert_eq!(found, lines.iter().map(String::as_str).collect::<Vec<_>>());
        for damaged in [packed[..at.index(packed.len())].to_vec(), {
            let mut changed = packed.clone();
            changed[at.index(packed.len())] = byte;
            changed
        }] {
            if let Err(error) = Format::Text.parse(&damaged, Path::new("x.txt.gz")) {
                prop_assert!(error.to_string().contains("x.txt.gz"), "{}", error);
            }
        }
    }
}
