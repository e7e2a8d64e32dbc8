//! A line below the bars in which somebody types.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::ProgressBar;

use super::Reporter;

/// A line that is being typed. Dropping it takes it away.
pub struct Prompt {
    typed: Arc<Mutex<String>>,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// Shows a line that begins with `label`, below the bars.
    pub fn prompt(&self, label: &str) -> Prompt {
        let typed = Arc::<Mutex<String>>::default();
        let (label, shown) = (label.to_string(), typed.clone());
        let line = move |_| format!("{label}{}", shown.lock().unwrap_or_else(PoisonError::into_inner));
        Prompt { typed, bar: self.0.screen.bar(line) }
    }
}

impl Prompt {
    /// Shows what was typed so far.
    pub fn show(&self, typed: &str) {
        typed.clone_into(&mut self.typed.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(bar) = &self.bar {
            bar.tick();
        }
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
