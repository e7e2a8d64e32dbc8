//! Hyperparameter search: trials of a trainer with values that a sampler chooses, as Hugging Face's Trainer makes them with Optuna.
//!
//! A [`Study`] holds the trials and decides: its sampler suggests values, its pruner stops trials that fall behind. It knows
//! nothing of training; [`Trainer::search`](crate::train::Trainer::search) runs one and keeps `trials.json` up to date.
//! Every draw is a function of the seed, the trial's number and the parameter's name, so that a search which goes on from
//! its file makes the trials that the uninterrupted one would have made.
//!
//! - `space`: what a parameter may be
//! - `truncated_normal`, `parzen`: the densities that TPE compares
//! - `sampler`: random search, and TPE
//! - `pruner`: which trials are stopped
//! - `study`: trials and their states
//! - `journal`: `trials.json`
//! - `run`: the trials of a trainer

pub mod journal;
pub mod parzen;
pub mod pruner;
mod run;
pub mod sampler;
pub mod space;
pub mod study;
pub mod truncated_normal;

pub use journal::{FILE, read, to_json, write};
pub use run::{BestRun, HooksOf, ModelOf, NameOf, Objective, Search, SpaceOf, Watch, default_objective, default_space};
pub use study::{Direction, State, Study, Trial, TrialHandle};
