//! A loss or a gradient that is not finite: it never reaches the weights, and the rows that it comes from are named.

use crate::batch::Draw;
use crate::error::{Error, Place, Result, What};
use crate::train::NanPolicy;
use crate::train::optimizer::grad_norm;
use crate::train::step::{accumulate, window_of};
use crate::train::trainer::{Hooks, Run, Trainer};

/// What is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFinite {
    /// The loss.
    Loss,
    /// The gradient, while the loss is finite.
    Gradient,
}

/// Rows that are named; more of them say no more.
const NAMED: usize = 16;
/// Rows of a window that are tried one by one.
const TRIED: usize = 1024;

impl Trainer {
    /// Ends the run with the rows, or leaves the update out, as `nan_policy` says.
    pub(super) fn not_finite(
        &self,
        what: NotFinite,
        window: &[&[usize]],
        run: &mut Run,
        hooks: &mut Hooks<'_>,
    ) -> Result<()> {
        let all: Vec<usize> = window.concat();
        let alone = self.not_finite_alone(&all, run, hooks);
        let rows = if alone.is_empty() { &all } else { &alone };
        let rows: Vec<usize> = rows.iter().map(|&feature| run.prepared.rows[feature]).collect();
        let listed = rows.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let dots = if rows.len() > NAMED { ", ..." } else { "" };
        let rows = format!("{} {listed}{dots} of the training set", if rows.len() == 1 { "row" } else { "rows" });
        let step = self.state.global_step + 1;
        let what = if what == NotFinite::Loss { "the loss" } else { "the gradient" };
        let problem = format!("{what} of step {step} is not finite; the weights are unchanged");
        if self.settings.args.nan_policy == NanPolicy::Skip {
            let totals = &mut run.progress.totals;
            totals.skipped += 1;
            totals.skipped_since_log += 1;
            hooks.note(&format!("{problem}; step skipped ({} so far), {rows}", totals.skipped));
            return Ok(());
        }
        Err(Error::new(What::NonFinite(problem)).at(Place::Within(rows)).hint(
            "lower `learning_rate`, set `max_grad_norm`, or look at these rows; `nan_policy: \"skip\"` leaves such steps out",
        ))
    }

    /// The features that give a loss or a gradient that is not finite by themselves; none where it takes several together.
    fn not_finite_alone(&self, features: &[usize], run: &Run, hooks: &mut Hooks<'_>) -> Vec<usize> {
        let is_finite = |feature: usize, hooks: &mut Hooks<'_>| -> Result<bool> {
            let args = &self.settings.args;
            let draw = Draw { seed: args.seed, step: self.state.global_step as u64 };
            let window: [&[usize]; 1] = [&[feature]];
            let batches = window_of(&self.settings.model, &run.prepared, &window, args.label_smoothing_factor, draw)?;
            let given = accumulate(&self.settings.model, batches, &mut hooks.compute_loss, || Ok(()))?;
            Ok(given.loss.is_finite() && grad_norm(&given.gradients)?.is_finite())
        };
        // A row that fails in another way, as for want of labels, says nothing here.
        features.iter().copied().take(TRIED).filter(|&feature| matches!(is_finite(feature, hooks), Ok(false))).collect()
    }
}
