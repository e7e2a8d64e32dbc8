//! The progress of a training run and of evaluations: bars, and the lines and events that go with them.
//!
//! The trainer says where it is; what is drawn follows from that and from the clock. Time spent in evaluations
//! does not count into the training rate.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use indicatif::ProgressBar;
use serde_json::{Map, Value};

use super::lines::{self, Standing};
use super::streams::Look;
use super::{Bars, Reporter};

/// A training run that is being shown. Dropping it takes the bar away.
pub struct Progress {
    reporter: Reporter,
    bar: Bar,
}

/// An evaluation that is being shown. Dropping it takes the bar away.
pub struct Evaluation {
    bar: Bar,
    training: Option<Arc<Mutex<Pace>>>,
}

impl Progress {
    pub(super) fn start(reporter: Reporter, bars: Bars, total_steps: usize, resumed_at: usize) -> Self {
        let mut bar = Bar::start(&reporter, "train", total_steps, resumed_at);
        if bars == Bars::Hidden {
            bar.clear();
            bar.bar = None;
        }
        Progress { reporter, bar }
    }

    /// The run has done `step` optimizer steps; `epoch` is how far it is, for the log lines that follow.
    pub fn advance(&self, step: usize, epoch: f64) {
        self.bar.pace().epoch = Some(epoch);
        self.bar.advance_to(step);
    }

    /// The run has another length now.
    pub fn set_total(&self, total_steps: usize) {
        self.bar.pace().total = total_steps;
        self.bar.draw();
    }

    /// Reports a log entry with Hugging Face's keys (`loss`, `grad_norm`, `learning_rate`, ...): a rounded line and the
    /// event `log` at full precision. `step` and `epoch` are added where they are missing. An entry with
    /// `train_runtime` is the run's last and becomes `train` of the result.
    pub fn log(&self, logs: &Map<String, Value>) {
        let (logs, digits) = self.placed(logs);
        self.reporter.note(&lines::log(&logs, digits));
        if logs.contains_key("train_runtime") {
            self.reporter.set_result("train", without_step(&logs));
        }
        self.reporter.event("log", logs);
    }

    /// Starts the bar of an evaluation within the run. `what` is its title: `evaluate`, `predict`.
    pub fn evaluation(&self, total_batches: usize, what: &str) -> Evaluation {
        self.bar.pace().pause();
        let bar = Bar::start(&self.reporter, what, total_batches, 0);
        Evaluation { bar, training: Some(self.bar.pace.clone()) }
    }

    /// Reports the metrics of an evaluation (`eval_loss`, ...): a line, the event `evaluate`, and `metrics` of the result.
    pub fn evaluated(&self, metrics: &Map<String, Value>) {
        let (metrics, digits) = self.placed(metrics);
        self.reporter.note(&lines::evaluation(&metrics, digits));
        self.reporter.set_result("metrics", without_step(&metrics));
        self.reporter.event("evaluate", metrics);
    }

    /// Reports that a checkpoint was written: a line, and the event `save` with `step` and `path`.
    pub fn save(&self, path: &Path) {
        let path = path.display().to_string();
        let (place, digits) = self.placed(&Map::new());
        self.reporter.note(&format!("{}  saved {path}", lines::log(&place, digits)));
        let body = [("step".to_string(), place["step"].clone()), ("path".to_string(), path.into())];
        self.reporter.event("save", Map::from_iter(body));
    }

    /// Takes the bar away. What is reported afterwards still appears.
    pub fn finish(&self) {
        self.bar.clear();
    }

    /// The entry with `step` first and `epoch` last, as in Hugging Face's log history, and the width of steps in this run.
    fn placed(&self, logs: &Map<String, Value>) -> (Map<String, Value>, usize) {
        let pace = self.bar.pace();
        let mut placed = Map::new();
        placed.insert("step".into(), logs.get("step").cloned().unwrap_or_else(|| pace.position.into()));
        placed.extend(logs.iter().filter(|(key, _)| *key != "step").map(|(key, value)| (key.clone(), value.clone())));
        if let (false, Some(epoch)) = (placed.contains_key("epoch"), pace.epoch) {
            placed.insert("epoch".into(), epoch.into());
        }
        (placed, pace.total.to_string().len())
    }
}

/// As Hugging Face's `evaluate()` and `train()` return it: the step belongs to the log history alone.
fn without_step(entry: &Map<String, Value>) -> Value {
    let kept = entry.iter().filter(|(key, _)| *key != "step");
    Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
}

impl Evaluation {
    pub(super) fn start(reporter: &Reporter, total_batches: usize, what: &str) -> Self {
        Evaluation { bar: Bar::start(reporter, what, total_batches, 0), training: None }
    }

    /// One more batch is done.
    pub fn advance(&self) {
        let next = self.bar.pace().position + 1;
        self.bar.advance_to(next);
    }

    /// Takes the bar away; the same as dropping it.
    pub fn finish(self) {}
}

impl Drop for Evaluation {
    fn drop(&mut self) {
        self.bar.clear();
        if let Some(training) = &self.training {
            lock(training).resume();
        }
    }
}

struct Bar {
    pace: Arc<Mutex<Pace>>,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn start(reporter: &Reporter, title: &str, total: usize, position: usize) -> Self {
        let pace = Arc::new(Mutex::new(Pace::start(total, position)));
        let (title, drawn) = (title.to_string(), pace.clone());
        // The lock is held only to copy the numbers: drawing must never wait for a step, nor a step for drawing.
        let bar = reporter.0.screen.bar(move |look: Look| {
            let standing = lock(&drawn).standing(&title);
            lines::bar(&standing, look)
        });
        Bar { pace, bar }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        lock(&self.pace)
    }

    fn advance_to(&self, position: usize) {
        self.pace().advance_to(position);
        self.draw();
    }

    fn draw(&self) {
        if let Some(bar) = &self.bar {
            bar.tick(); // does nothing where a timer draws
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn lock(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Position and speed. The rate is the mean over the last [`WINDOW`] steps, so that it follows the machine and does not jump.
struct Pace {
    begun: Instant,
    position: usize,
    total: usize,
    epoch: Option<f64>,
    /// Seconds spent in pauses that have ended, and when a pause began that has not.
    paused: f64,
    pause: Option<Instant>,
    /// Active seconds and position after each of the last steps.
    marks: VecDeque<(f64, usize)>,
}

const WINDOW: usize = 64;

impl Pace {
    fn start(total: usize, position: usize) -> Self {
        let marks = VecDeque::from([(0.0, position)]);
        Pace { begun: Instant::now(), position, total, epoch: None, paused: 0.0, pause: None, marks }
    }

    fn active(&self) -> f64 {
        let now = self.pause.unwrap_or_else(Instant::now);
        (now.duration_since(self.begun).as_secs_f64() - self.paused).max(0.0)
    }

    fn pause(&mut self) {
        self.pause.get_or_insert_with(Instant::now);
    }

    fn resume(&mut self) {
        if let Some(began) = self.pause.take() {
            self.paused += began.elapsed().as_secs_f64();
        }
    }

    fn advance_to(&mut self, position: usize) {
        self.mark(self.active(), position);
    }

    fn mark(&mut self, active: f64, position: usize) {
        self.position = position;
        self.marks.push_back((active, position));
        if self.marks.len() > WINDOW {
            self.marks.pop_front();
        }
    }

    fn rate(&self) -> Option<f64> {
        let (&(first_time, first), &(last_time, last)) = (self.marks.front()?, self.marks.back()?);
        let rate = last.checked_sub(first)? as f64 / (last_time - first_time);
        (rate.is_finite() && rate > 0.0).then_some(rate)
    }

    fn standing<'a>(&self, title: &'a str) -> Standing<'a> {
        self.standing_at(self.active(), self.begun.elapsed().as_secs_f64(), title)
    }

    fn standing_at<'a>(&self, active: f64, elapsed: f64, title: &'a str) -> Standing<'a> {
        let rate = self.rate();
        let since_last = active - self.marks.back().map_or(0.0, |mark| mark.0);
        let left = rate.map(|rate| (self.total.saturating_sub(self.position) as f64 / rate - since_last).max(0.0));
        Standing { title, position: self.position, total: self.total, rate, elapsed, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_only_the_steps_of_this_process() {
        let mut pace = Pace::start(300, 100);
        assert_eq!(pace.standing_at(1.0, 1.0, "train").left, None);
        pace.mark(2.0, 101);
        pace.mark(4.0, 102);
        let standing = pace.standing_at(5.0, 5.0, "train");
        assert_eq!(standing.rate, Some(0.5));
        assert_eq!(standing.left, Some(395.0), "198 steps of 2 s, of which one second has passed");
    }

    #[test]
    fn the_rate_follows_the_last_steps() {
        let mut pace = Pace::start(1000, 0);
        for step in 1..=100 {
            pace.mark(step as f64, step);
        }
        for step in 101..=200 {
            pace.mark(100.0 + (step - 100) as f64 / 4.0, step);
        }
        assert_eq!(pace.rate(), Some(4.0));
    }

    #[test]
    fn a_pause_stands_still() {
        let mut pace = Pace::start(10, 0);
        pace.pause();
        let active = pace.active();
        assert_eq!(pace.active(), active);
        pace.resume();
        assert!(pace.active() >= active);
    }
}
