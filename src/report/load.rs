//! The report on loaded weights: what matched, what is new, what was left over, what has another shape.

use serde_json::{Map, Value, json};

use super::lines;
use crate::head::LoadReport;

/// The lines for people; long lists are shortened.
pub(super) fn text(report: &LoadReport) -> String {
    let mut lines = vec![format!(
        "loaded {}: {} tensors ({}), {} parameters, {}",
        report.name,
        report.matched,
        report.dtype_from,
        grouped(report.parameters),
        lines::seconds(report.seconds)
    )];
    let shapes = report
        .mismatched
        .iter()
        .map(|(name, file, model)| format!("{name} {file:?} in the file, {model:?} in the model"));
    let newly: Vec<String> =
        report.new.iter().cloned().chain(report.mismatched.iter().map(|entry| entry.0.clone())).collect();
    if !report.mismatched.is_empty() {
        lines.push(format!("  another shape: {}", shortened(&shapes.collect::<Vec<_>>())));
    }
    if !newly.is_empty() {
        lines.push(format!("  newly initialised: {}; train the model before you use it", shortened(&newly)));
    }
    if !report.unused.is_empty() {
        lines.push(format!("  not used: {}", shortened(&report.unused)));
    }
    lines.join("\n")
}

/// The body of the event `load`, with every name.
pub(super) fn body(report: &LoadReport) -> Map<String, Value> {
    let mismatched: Vec<Value> = report
        .mismatched
        .iter()
        .map(|(name, file, model)| json!({ "name": name, "file": file, "model": model }))
        .collect();
    Map::from_iter(
        [
            ("name", json!(report.name)),
            ("matched", json!(report.matched)),
            ("new", json!(report.new)),
            ("unused", json!(report.unused)),
            ("mismatched", json!(mismatched)),
            ("dtype", json!(report.dtype_from)),
            ("parameters", json!(report.parameters)),
            ("seconds", json!(report.seconds)),
        ]
        .map(|(key, value)| (key.to_string(), value)),
    )
}

/// The first few and how many more there are; one more is shown rather than counted.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 4;
    if names.len() <= SHOWN + 1 {
        return names.join(", ");
    }
    format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN)
}

/// `22713216` as `22,713,216`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
