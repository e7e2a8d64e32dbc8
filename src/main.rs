//! The `retune` command: parse, call, print the diagnostic, exit code.

fn main() {}
