//! The Rhai host: one engine, where scripts come from, what bounds them, and how their errors are shown.
//!
//! A recipe's path and a session's settings flow in; side effects and at most one [`diagnostics::Diagnostic`]
//! flow out. What a script may call is left to `api`, the command line to `cli`.

pub mod arguments;
pub mod check;
pub mod diagnostics;
mod elsewhere;
pub mod engine;
pub mod explain;
pub mod limits;
mod mistakes;
pub mod names;
pub mod reference;
pub mod resolver;
pub mod run;
pub mod sources;
pub mod tasks;
mod tokens;
mod words;
