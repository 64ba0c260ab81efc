//! Read arguments, hand over, turn the end into an exit code.

/// The system's own allocator costs a busy broker a tenth of its time: many threads free what others allocated.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    protem::cli::enter::enter()
}
