//! The result of a run: what the event `result` carries and the summary shows.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{clock, lines};
use crate::kernels::profile;

/// What a run has come to so far.
#[derive(Debug, Default)]
pub(super) struct Record {
    entries: Map<String, Value>,
    time_to_first_step: Option<f64>,
    /// When its recipe began to run, where that is not when the process began.
    began: Option<Instant>,
    taken: bool,
}

impl Record {
    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.entries.insert(key.to_string(), value);
    }

    pub(super) fn first_step_done(&mut self) {
        self.time_to_first_step
            .get_or_insert_with(|| self.began.unwrap_or_else(clock::process_start).elapsed().as_secs_f64());
    }

    /// A record of a recipe that runs again.
    pub(super) fn again() -> Self {
        Record { began: Some(Instant::now()), ..Record::default() }
    }

    /// The record, once: the result is reported a single time.
    pub(super) fn take(&mut self) -> Option<Record> {
        if self.taken {
            return None;
        }
        let record = std::mem::take(self);
        self.taken = true;
        Some(record)
    }

    /// The body of the event `result`. Its four keys are always there.
    pub(super) fn body(&self) -> Map<String, Value> {
        let mut body = Map::from_iter([
            ("metrics".to_string(), json!({})),
            ("train".to_string(), json!({})),
            ("output_dir".to_string(), Value::Null),
            ("time_to_first_step_s".to_string(), json!(self.time_to_first_step)),
        ]);
        body.extend(self.entries.clone());
        if profile::is_on() {
            let parts = profile::seconds().into_iter().map(|(part, seconds)| (part.to_string(), json!(seconds)));
            body.insert("profile".into(), parts.collect::<Map<_, _>>().into());
        }
        body
    }

    /// The summary as an aligned table, where there is anything to tell.
    pub(super) fn summary(&self) -> Option<String> {
        let mut rows: Vec<(String, String)> = Vec::new();
        for (key, value) in &self.body() {
            match value {
                Value::Object(map) => rows.extend(
                    map.iter()
                        .filter(|(key, _)| !matches!(key.as_str(), "step" | "epoch"))
                        .map(|(key, value)| (key.clone(), shown(key, value))),
                ),
                Value::Null => {}
                value => rows.push((key.clone(), shown(key, value))),
            }
        }
        if rows.is_empty() {
            return None;
        }
        let width = rows.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
        let rows: Vec<String> = rows.iter().map(|(key, value)| format!("  {key:<width$}  {value}")).collect();
        Some(format!("\nsummary\n{}", rows.join("\n")))
    }
}

fn shown(key: &str, value: &Value) -> String {
    match value.as_f64() {
        Some(number) if key.ends_with("_runtime") || key.ends_with("_s") => lines::seconds(number),
        _ => lines::cell(value),
    }
}
