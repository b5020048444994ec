//! `proxyd`: the proxy as a daemon, and as a tool to look at single blobs.

use clap::Parser;

#[global_allocator]
static ALLOCATOR: proto::allocator::MiMalloc = proto::allocator::MiMalloc;

#[tokio::main]
async fn main() {
    proto::allocator::keep_memory();
    if let Err(error) = proxy::cli::Cli::parse().run().await {
        eprintln!("proxyd: {}", proto::observe::sentence(error.as_ref()));
        std::process::exit(1);
    }
}
