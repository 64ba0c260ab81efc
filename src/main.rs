//! Read arguments, hand over, turn the end into an exit code.

fn main() -> std::process::ExitCode {
    protem::cli::enter::enter()
}
