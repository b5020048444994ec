//! `proxyd`: the proxy as a daemon, and as a tool to look at single blobs.

use clap::Parser;

// A quarter off the gRPC path: the system's allocator maps and unmaps every large buffer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    if let Err(error) = proxy::cli::Cli::parse().run().await {
        eprintln!("proxyd: {error:#}");
        std::process::exit(1);
    }
}
