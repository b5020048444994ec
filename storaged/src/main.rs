//! The storage daemon and its admin commands.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    storaged::cli::main_with(std::env::args_os())
}
