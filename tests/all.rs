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
mod dataset_script;
mod determinism;
mod evaluating;
mod generation;
mod gradients;
mod host;
mod hub;
mod hub_datasets;
mod hub_server;
mod kernels;
mod language_models;
mod layers;
mod losses;
mod metrics;
mod ner;
mod optimizer;
mod parity;
mod recipes;
mod reference;
mod report;
mod resuming;
mod samplers;
mod saving;
mod schedules;
mod seqeval;
mod shared;
mod tasks;
mod tensor;
mod tiny;
mod tokenizer;
mod tokenizer_crafted;
mod trainer;
mod tree;
mod wrong;
mod wrong_inputs;
