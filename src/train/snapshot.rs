//! A copy of a model's weights, to come back to: what a search starts each trial from, and what the learning-rate finder
//! leaves as it was.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;
use crate::head::Model;
use crate::model::parameters::Parameter;

/// The weights of a model at one moment.
pub(super) struct Snapshot(Vec<(Arc<Parameter>, Tensor)>);

impl Snapshot {
    /// Copies the weights.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub(super) fn of(model: &Model) -> Result<Self> {
        let all = model.parameters().all().into_iter();
        all.map(|parameter| {
            let copy = parameter.value().copy()?;
            Ok((parameter, copy))
        })
        .collect::<Result<_>>()
        .map(Snapshot)
    }

    /// Puts the weights back, to the bit.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub(super) fn restore(&self) -> Result<()> {
        for (parameter, copy) in &self.0 {
            parameter.var().set(copy)?;
        }
        Ok(())
    }
}
