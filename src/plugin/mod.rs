//! Plugins: task heads in native code. Loading and versions, and the table of functions that the program gives them.
//!
//! A file flows in: it is read, its ELF structure is checked, its hash is looked up among the allowed ones, a private copy named by
//! its content is made, a child process tries it out, and the copy is opened, never to be closed. A [`Plugin`] flows out: its
//! declarations, copied and checked. Calls of its functions go through [`call::run`]; what they ask of the program comes in
//! through [`table`], and what belongs to the task contract (parameters, batches, scripts) is left to `head::plugin`, which
//! implements [`Services`].
//!
//! # Invariants
//!
//! - Nothing that a plugin passes is believed: pointers, lengths, text, shapes and handles are checked before use.
//! - No panic leaves a function of the table, and none enters through a function of a plugin made with the SDK.
//! - A call is found through the thread that runs it, so a handle or a table kept for later reaches nothing.

pub mod arguments;
pub mod call;
pub mod canary;
pub mod crash;
pub mod custom;
pub mod elf;
pub mod entry;
pub mod load;
pub mod ops;
pub mod store;
pub mod table;

pub use call::Services;
pub use entry::{Declaration, Plugin};
pub use load::{Loader, Trust};
pub use store::Store;
