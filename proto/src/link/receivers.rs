//! The threads that receive what daemons answer, for all links of the process.
//!
//! A runtime with several threads wakes one for what has arrived, and another in case there is more to do, which finds
//! nothing. Here each connection belongs to one thread, which waits for nothing but its connections and goes on with
//! whoever waited for an answer ([`crate::on_wake::lend`]): an answer wakes one thread.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};

/// Most of them. One receives and checks some 2 GB/s.
const MOST: usize = 4;

static RECEIVERS: Mutex<Vec<Handle>> = Mutex::new(Vec::new());

/// The thread of the next connection. One that could not be started is tried again with the one after.
fn receiver() -> io::Result<Handle> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut receivers = RECEIVERS.lock();
    if receivers.len() < (cores / 2).clamp(1, MOST) {
        match start() {
            Ok(receiver) => receivers.push(receiver),
            Err(why) if receivers.is_empty() => return Err(why),
            Err(_) => {}
        }
    }
    let next = NEXT.fetch_add(1, Ordering::Relaxed) % receivers.len();
    Ok(receivers[next].clone())
}

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
    let task = tokio_util::task::AbortOnDropHandle::new(receiver()?.spawn(opening));
    task.await.map_err(io::Error::other)?
}
