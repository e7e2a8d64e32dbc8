//! The report on loaded weights: what matched, what is new, what was left over, what has another shape.

use serde_json::{Map, Value, json};

use super::lines;

/// What became of the tensors of a weights file.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// The model's name as the user wrote it.
    pub name: String,
    /// How many of the model's tensors were found in the file.
    pub matched: usize,
    /// The model's tensors that the file does not have.
    pub new: Vec<String>,
    /// The file's tensors that the model does not have.
    pub unused: Vec<String>,
    /// Tensors of another shape: name, shape in the file, shape in the model.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// The file's number format: `F32`, `BF16`, ...
    pub dtype_from: String,
    /// How many numbers the model has.
    pub parameters: usize,
    /// How long loading took.
    pub seconds: f64,
}

impl LoadReport {
    /// The lines for people; long lists are shortened.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![format!(
            "loaded {}: {} tensors ({}), {} parameters, {}",
            self.name,
            self.matched,
            self.dtype_from,
            grouped(self.parameters),
            lines::seconds(self.seconds)
        )];
        let shapes = self
            .mismatched
            .iter()
            .map(|(name, file, model)| format!("{name} {file:?} in the file, {model:?} in the model"));
        let newly: Vec<String> =
            self.new.iter().cloned().chain(self.mismatched.iter().map(|entry| entry.0.clone())).collect();
        if !self.mismatched.is_empty() {
            lines.push(format!("  another shape: {}", shortened(&shapes.collect::<Vec<_>>())));
        }
        if !newly.is_empty() {
            lines.push(format!("  newly initialised: {}; train the model before you use it", shortened(&newly)));
        }
        if !self.unused.is_empty() {
            lines.push(format!("  not used: {}", shortened(&self.unused)));
        }
        lines.join("\n")
    }

    /// The body of the event `load`, with every name.
    pub(super) fn body(&self) -> Map<String, Value> {
        let mismatched: Vec<Value> = self
            .mismatched
            .iter()
            .map(|(name, file, model)| json!({ "name": name, "file": file, "model": model }))
            .collect();
        Map::from_iter(
            [
                ("name", json!(self.name)),
                ("matched", json!(self.matched)),
                ("new", json!(self.new)),
                ("unused", json!(self.unused)),
                ("mismatched", json!(mismatched)),
                ("dtype", json!(self.dtype_from)),
                ("parameters", json!(self.parameters)),
                ("seconds", json!(self.seconds)),
            ]
            .map(|(key, value)| (key.to_string(), value)),
        )
    }
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
