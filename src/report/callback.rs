//! The trainer's events as bars, lines and JSON: the callback that every run of the trainer is accompanied by.

use crate::error::Result;
use crate::report::{Bars, Evaluation, Progress, Reporter};
use crate::train::TrainingArguments;
use crate::train::callbacks::{Callback, Event, Extra, TrainerControl};
use crate::train::state::TrainerState;

/// Shows what the trainer does.
pub struct RunCallback {
    reporter: Reporter,
    bars: Bars,
    training: Option<Progress>,
    evaluation: Option<Evaluation>,
}

impl RunCallback {
    /// A callback that shows on `reporter`.
    pub fn new(reporter: Reporter, bars: Bars) -> Self {
        RunCallback { reporter, bars, training: None, evaluation: None }
    }

    fn evaluated(&self, metrics: &serde_json::Map<String, serde_json::Value>) {
        match &self.training {
            Some(progress) => progress.evaluated(metrics),
            None => self.reporter.evaluated(metrics),
        }
    }
}

impl Callback for RunCallback {
    fn on_event(
        &mut self,
        event: Event,
        _args: &TrainingArguments,
        state: &mut TrainerState,
        _control: &mut TrainerControl,
        extra: &Extra,
    ) -> Result<()> {
        match event {
            Event::TrainBegin => {
                self.training =
                    Some(Progress::start(self.reporter.clone(), self.bars, state.max_steps, state.global_step));
            }
            Event::OptimizerStep => self.reporter.first_step_done(),
            Event::StepEnd => {
                if let Some(progress) = &self.training {
                    progress.advance(state.global_step, state.epoch);
                }
            }
            Event::PredictionStep => {
                let Some(progress) = extra.progress.filter(|_| self.bars == Bars::Shown) else { return Ok(()) };
                let evaluation = self.evaluation.get_or_insert_with(|| match &self.training {
                    Some(training) => training.evaluation(progress.total, "evaluate"),
                    None => self.reporter.evaluation(progress.total, "evaluate"),
                });
                evaluation.advance();
                if progress.done == progress.total {
                    self.evaluation = None;
                }
            }
            Event::Evaluate => {
                if let Some(metrics) = extra.metrics {
                    let mut metrics = metrics.clone();
                    if state.global_step == 0 && self.training.is_none() {
                        // Nothing has been trained: an epoch would say nothing.
                        metrics.shift_remove("epoch");
                    }
                    self.evaluated(&metrics);
                }
            }
            Event::Log => {
                // Evaluations are logged too; they are shown when they are announced.
                let logs = extra.logs.filter(|logs| logs.keys().any(|key| key == "loss" || key == "train_runtime"));
                if let (Some(progress), Some(logs)) = (&self.training, logs) {
                    progress.log(logs);
                }
            }
            Event::Save => {
                if let (Some(progress), Some(folder)) = (&self.training, extra.checkpoint) {
                    progress.save(folder);
                }
            }
            Event::TrainEnd => {
                if let Some(progress) = self.training.take() {
                    progress.finish();
                }
            }
            _ => {}
        }
        Ok(())
    }
}
