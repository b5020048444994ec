//! `proxyd`: the proxy as a daemon, and as a tool to look at single blobs.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: proto::allocator::MiMalloc = proto::allocator::MiMalloc;

fn main() -> ExitCode {
    proto::allocator::keep_memory();
    proxy::cli::main_with(std::env::args_os())
}
