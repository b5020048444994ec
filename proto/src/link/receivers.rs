//! The threads that receive what daemons answer, for all links of the process.
//!
//! A runtime with several threads wakes one for what has arrived, and another in case there is more to do, which finds
//! nothing. Here each connection belongs to one thread, which waits for nothing but its connections and goes on with
//! whoever waited for an answer ([`crate::on_wake::lend`]): an answer wakes one thread.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};

/// Most of them. One receives and checks some 2 GB/s.
const MOST: usize = 4;

static RECEIVERS: LazyLock<io::Result<Vec<Handle>>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (0..(cores / 2).clamp(1, MOST)).map(|_| start()).collect()
});

/// One more thread, for as long as the process lives.
fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("link".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Has a connection made on one of the threads, where it stays with all that it begins.
///
/// # Errors
/// What making it answers; that no thread can be had. Dropped, it is made for nobody.
pub(super) async fn run<T: Send + 'static>(
    opening: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let receivers = RECEIVERS.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
    let receiver = &receivers[NEXT.fetch_add(1, Ordering::Relaxed) % receivers.len()];
    let task = tokio_util::task::AbortOnDropHandle::new(receiver.spawn(opening));
    task.await.map_err(io::Error::other)?
}
