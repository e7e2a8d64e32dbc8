//! How exact the products of training and evaluation are: `bf16` and `float32_matmul_precision` of the arguments, for as long as
//! the trainer is at work; what is done with the model afterwards is exact again.

use crate::head::Model;
use crate::kernels::tiles::{Precision, kernels};
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
        let before = self.settings.model.encoder().set_precision(precision);
        PrecisionGuard { model: self.settings.model.clone(), before }
    }
}

/// Sets a model's precision back to what it was before.
pub(super) struct PrecisionGuard {
    model: Model,
    before: Precision,
}

impl Drop for PrecisionGuard {
    fn drop(&mut self) {
        self.model.encoder().set_precision(self.before);
    }
}
