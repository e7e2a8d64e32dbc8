//! The `retune` command: parse, call, print the diagnostic, exit code.

fn main() -> std::process::ExitCode {
    // The first reading counts where the system's own is of no use, as behind `cargo run`, whose process this one is.
    retune::report::clock::process_start();
    retune::cli::main(std::env::args_os().collect()).into()
}
