//! `ashlar`: the mount and its commands. Everything is in the library; see [`fs::cli`].

use std::process::ExitCode;

/// glibc maps and unmaps every large buffer anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fs::cli::main()
}
