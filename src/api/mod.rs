//! What a script may call: one file per namespace, each with a `register` function.
//!
//! Each namespace is a Rhai plugin module whose doc comments are the reference: a description, then an example
//! in a `rhai` code block that runs as a test.

#![expect(unreachable_pub, reason = "the macro that exports a namespace takes public functions alone")]
#![expect(clippy::unwrap_used, reason = "the macro writes them for receivers; the layer test refuses ours")]

mod auto_config;
mod autograd;
mod basics;
mod batch;
pub(crate) mod between;
pub mod book;
pub mod callbacks;
mod calls;
pub mod changes;
mod checkpoints;
mod class_weights;
mod compute_loss;
pub mod data_loader;
mod dataset;
mod dataset_columns;
mod debug_data;
pub mod encoding;
mod generate;
mod growing;
mod head;
mod labels;
mod language_models;
pub mod live;
mod load_dataset;
mod loops;
mod lr_find;
pub mod metrics;
pub mod model;
pub mod model_output;
pub mod optimizer;
mod model_init;
pub mod options;
mod pipeline;
mod questions;
pub mod requests;
mod rows;
pub mod run_state;
pub mod scheduler;
mod search;
mod search_space;
mod seqeval;
pub mod session;
mod squad;
mod task_rows;
mod tensor;
mod tensor_loss;
mod tensor_math;
mod tensor_shape;
mod token_rows;
pub mod tokenizer;
pub mod trainer;
mod trainer_data;
mod trainer_hooks;
mod trainer_log;
pub mod training_arguments;

/// Registers every namespace.
pub fn register(engine: &mut rhai::Engine) {
    auto_config::register(engine);
    autograd::register(engine);
    basics::register(engine);
    batch::register(engine);
    checkpoints::register(engine);
    class_weights::register(engine);
    data_loader::register(engine);
    dataset::register(engine);
    dataset_columns::register(engine);
    debug_data::register(engine);
    generate::register(engine);
    growing::register(engine);
    head::register(engine);
    language_models::register(engine);
    load_dataset::register(engine);
    lr_find::register(engine);
    metrics::register(engine);
    model::register(engine);
    model_output::register(engine);
    optimizer::register(engine);
    pipeline::register(engine);
    questions::register(engine);
    run_state::register(engine);
    scheduler::register(engine);
    search::register(engine);
    search_space::register(engine);
    seqeval::register(engine);
    squad::register(engine);
    task_rows::register(engine);
    tensor::register(engine);
    token_rows::register(engine);
    tokenizer::register(engine);
    trainer::register(engine);
    trainer_log::register(engine);
    training_arguments::register(engine);
}
