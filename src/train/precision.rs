//! How the encoder computes for as long as the trainer is at work: how exact its products are (`bf16` and
//! `float32_matmul_precision`), and what it keeps for the backward (`gradient_checkpointing`). What is done with the model
//! afterwards is as it was before.

use crate::head::Model;
use crate::kernels::tiles::{Precision, kernels};
use crate::model::encoder::Checkpointing;
use crate::train::MatmulPrecision;
use crate::train::trainer::{Hooks, Trainer};

impl Trainer {
    /// Products as exact as the arguments say, for as long as the guard lives.
    pub(super) fn precision(&self, hooks: &Hooks<'_>) -> PrecisionGuard {
        let args = &self.settings.args;
        if args.bf16 && kernels(Precision::Bf16).is_none() {
            hooks.note("`bf16`: this machine has no kernels for it, so products are computed in f32");
        }
        let precision = match args.float32_matmul_precision {
            _ if args.bf16 => Precision::Bf16,
            MatmulPrecision::Highest => Precision::Highest,
            MatmulPrecision::High => Precision::High,
            MatmulPrecision::Medium => Precision::Medium,
        };
        if args.gradient_checkpointing && kernels(precision).is_none() {
            hooks.note(
                "`gradient_checkpointing`: these kernels have no use for it, so all that the backward needs is kept",
            );
        }
        let checkpointing = if args.gradient_checkpointing { Checkpointing::On } else { Checkpointing::Off };
        let encoder = self.settings.model.encoder();
        let before = (encoder.set_precision(precision), encoder.set_checkpointing(checkpointing));
        PrecisionGuard { model: self.settings.model.clone(), before }
    }
}

/// Sets a model back to what it was before.
pub(super) struct PrecisionGuard {
    model: Model,
    before: (Precision, Checkpointing),
}

impl Drop for PrecisionGuard {
    fn drop(&mut self) {
        let (precision, checkpointing) = self.before;
        self.model.encoder().set_precision(precision);
        self.model.encoder().set_checkpointing(checkpointing);
    }
}
