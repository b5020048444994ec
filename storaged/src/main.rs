//! The storage daemon and its admin commands.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: proto::allocator::MiMalloc = proto::allocator::MiMalloc;

fn main() -> ExitCode {
    proto::allocator::keep_memory();
    storaged::cli::main_with(std::env::args_os())
}
