//! The `retune` command: parse, call, print the diagnostic, exit code.

fn main() -> std::process::ExitCode {
    retune::cli::main(std::env::args_os().collect()).into()
}
