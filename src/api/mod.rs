//! What a script may call: one file per namespace, each with a `register` function.
//!
//! Each namespace is a Rhai plugin module whose doc comments are the reference: a description, then an example
//! in a `rhai` code block that runs as a test.

mod labels;
pub mod metrics;
pub mod options;
pub mod session;
