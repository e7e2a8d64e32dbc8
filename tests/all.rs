//! All integration tests, in one binary so that candle links once.

#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover their helper functions")]

mod arguments;
mod bert;
mod callbacks;
mod cli;
mod custom_loop;
mod conll;
mod data;
mod data_formats;
mod data_packed;
mod debug_data;
mod dataset_script;
mod determinism;
mod dry_run;
mod evaluating;
#[cfg(target_os = "linux")]
mod faults;
mod fused;
mod fuzz;
mod generation;
mod gradients;
mod host;
mod hub;
mod hub_datasets;
mod hub_server;
mod kernels;
mod language_models;
mod layers;
mod loading;
mod loop_reload;
mod losses;
mod limits;
mod live_run;
mod lr_find;
mod memory;
mod metrics;
mod ner;
mod optimizer;
mod parity;
mod paths;
#[cfg(unix)]
mod permissions;
mod plugin;
mod questions;
mod recipes;
mod reference;
mod reload;
mod replaying;
mod report;
mod rerunning;
mod resuming;
mod samplers;
mod saving;
mod schedules;
mod search_study;
mod searching;
mod seqeval;
mod shared;
#[cfg(target_os = "linux")]
mod signals;
mod squad;
mod steering;
mod tasks;
mod tensor;
mod text_recipes;
mod tiny;
mod terminal;
mod token_budget;
mod tokenizer;
mod tokenizer_crafted;
mod trainer;
mod tree;
mod watching;
mod wrong;
mod wrong_inputs;
