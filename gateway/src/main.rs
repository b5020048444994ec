//! `ashlar`: the mount, its commands, and the doors beside it. Everything is in the libraries; see [`fs::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: proto::allocator::MiMalloc = proto::allocator::MiMalloc;

fn main() -> ExitCode {
    proto::allocator::keep_memory();
    fs::cli::main(gateway::open)
}
