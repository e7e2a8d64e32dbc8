//! What a script may call: one file per namespace, each with a `register` function.
//!
//! Each namespace is a Rhai plugin module whose doc comments are the reference: a description, then an example
//! in a `rhai` code block that runs as a test.

<<<<<<< HEAD
#![expect(unreachable_pub, reason = "the macro that exports a namespace takes public functions alone")]

=======
pub mod encoding;
>>>>>>> text
pub mod options;
pub mod session;
<<<<<<< HEAD
pub mod tokenizer;
=======
pub mod training_arguments;

/// Registers every namespace.
pub fn register(engine: &mut rhai::Engine) {
    training_arguments::register(engine);
}
>>>>>>> train
