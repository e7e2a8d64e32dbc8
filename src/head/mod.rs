//! The task contract: what turns hidden states into logits, logits into a loss, rows into features.
//!
//! [`Task`] has two implementers: `script` (a Rhai module) and `plugin` (native code).

pub mod script;

/// A task: the functions of design section 3.
pub trait Task: Send + Sync {}
