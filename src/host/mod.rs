//! The Rhai host: one engine, where scripts come from, what bounds them, and how their errors are shown.
//!
//! A recipe's path and a session's settings flow in; side effects and at most one [`diagnostics::Diagnostic`]
//! flow out. What a script may call is left to `api`, the command line to `cli`.

pub mod arguments;
pub mod bake;
pub mod builds;
pub mod check;
pub mod control;
pub mod diagnostics;
mod elsewhere;
mod diff;
pub mod engine;
pub mod explain;
pub mod keys;
pub mod limits;
mod mistakes;
pub mod names;
mod pieces;
mod reach;
pub mod plugins;
pub mod reference;
pub mod reload;
pub mod replay;
pub mod resolver;
pub mod run;
pub mod signals;
pub mod sources;
pub mod tasks;
mod tokens;
pub mod watching;
mod words;
