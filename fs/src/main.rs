//! `ashlar`: the mount and its commands. Everything is in the library; see [`fs::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: proto::allocator::MiMalloc = proto::allocator::MiMalloc;

fn main() -> ExitCode {
    proto::allocator::keep_memory();
    fs::cli::main()
}
