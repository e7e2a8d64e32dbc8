//! Where the time of a run goes: the time of each part, summed over all threads, while `RETUNE_PROFILE=1` asks for it.
//!
//! A part that begins within another one on the same thread interrupts it, so that no time counts twice. Without the environment
//! variable a part costs one comparison.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Building batches from features.
    Batches,
    /// Looking up embeddings, and adding up their gradients.
    Embeddings,
    /// Bringing matrices into tiles.
    Packing,
    /// Products of the forward, and of the gradients of inputs.
    Products,
    /// Products of the gradients of weights.
    WeightGradients,
    /// Attention without its products and packing: softmax, dropout, copies.
    Attention,
    /// What stands between products: biases, activations, dropout, residuals, norms.
    Rows,
    /// The task's head and its loss.
    Head,
    /// candle's backward through head and loss.
    HeadBackward,
    /// The optimizer's update.
    Optimizer,
}

const PARTS: [(Part, &str); 10] = [
    (Part::Batches, "batches"),
    (Part::Embeddings, "embeddings"),
    (Part::Packing, "packing"),
    (Part::Products, "products"),
    (Part::WeightGradients, "weight gradients"),
    (Part::Attention, "attention"),
    (Part::Rows, "rows"),
    (Part::Head, "head"),
    (Part::HeadBackward, "head, backward"),
    (Part::Optimizer, "optimizer"),
];

static NANOSECONDS: [AtomicU64; PARTS.len()] = [const { AtomicU64::new(0) }; PARTS.len()];

thread_local! {
    static CURRENT: Cell<Option<(Part, Instant)>> = const { Cell::new(None) };
}

/// Whether times are taken.
pub fn is_on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var_os("RETUNE_PROFILE").is_some_and(|value| !value.is_empty() && value != "0"))
}

/// Until it is dropped, the time of this thread belongs to a part.
#[derive(Debug)]
#[must_use = "the part ends when this is dropped"]
pub struct Running(Option<Option<Part>>);

/// Begins a part on this thread.
pub fn begin(part: Part) -> Running {
    if !is_on() {
        return Running(None);
    }
    let now = Instant::now();
    let before = CURRENT.replace(Some((part, now)));
    charge(before, now);
    Running(Some(before.map(|(part, _)| part)))
}

/// Stops the part that runs on this thread, which now waits for others.
pub fn pause() -> Running {
    if !is_on() {
        return Running(None);
    }
    let before = CURRENT.replace(None);
    charge(before, Instant::now());
    Running(Some(before.map(|(part, _)| part)))
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(before) = self.0 else { return };
        let now = Instant::now();
        charge(CURRENT.replace(before.map(|part| (part, now))), now);
    }
}

fn charge(part: Option<(Part, Instant)>, now: Instant) {
    if let Some((part, since)) = part {
        NANOSECONDS[part as usize].fetch_add((now - since).as_nanos() as u64, Ordering::Relaxed);
    }
}

/// The seconds of each part so far, summed over threads.
pub fn seconds() -> Vec<(&'static str, f64)> {
    PARTS
        .iter()
        .map(|(part, name)| (*name, NANOSECONDS[*part as usize].load(Ordering::Relaxed) as f64 * 1e-9))
        .collect()
}
