//! What a script may call: one file per namespace, each with a `register` function.
//!
//! Each namespace is a Rhai plugin module whose doc comments are the reference: a description, then an example
//! in a `rhai` code block that runs as a test.

#![expect(unreachable_pub, reason = "the macro that exports a namespace takes public functions alone")]

mod batch;
mod head;
pub mod options;
pub mod session;
mod task_rows;
mod tensor;
mod tensor_loss;
mod tensor_math;
mod tensor_shape;

/// Registers every namespace.
pub fn register(engine: &mut rhai::Engine) {
    tensor::register(engine);
    batch::register(engine);
    head::register(engine);
    task_rows::register(engine);
}
