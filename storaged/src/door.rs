//! The daemon's one address: tells links from gRPC by the first byte of a connection.

use std::time::Duration;

use proto::link::PREFACE;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::link;
use crate::service::Service;

/// How long a new connection may say nothing.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be accepted, for want of file descriptors say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Connections that wait to be taken over by gRPC.
pub(crate) const WAITING: usize = 64;

/// Accepts connections until `stop`, and then waits until all links have finished what they were
/// doing. Those that speak gRPC are handed to `grpc`.
pub(crate) async fn accept(
    listener: TcpListener,
    service: Service,
    grpc: mpsc::Sender<std::io::Result<TcpStream>>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (service, grpc, stop) = (service.clone(), grpc.clone(), stop.clone());
                connections.spawn(serve(stream, service, grpc, stop));
            }
            Err(e) => {
                tracing::warn!("no connection can be accepted: {e}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve(
    stream: TcpStream,
    service: Service,
    grpc: mpsc::Sender<std::io::Result<TcpStream>>,
    stop: CancellationToken,
) {
    let speaks_link = tokio::select! {
        speaks_link = tokio::time::timeout(FIRST_BYTE, is_link(&stream)) => speaks_link,
        () = stop.cancelled() => return,
    };
    match speaks_link {
        Ok(Ok(true)) => {
            if let Err(e) = link::serve(stream, service, stop).await {
                tracing::debug!("a link ended: {e}");
            }
        }
        // A gRPC server that has stopped takes no more: the connection is closed.
        Ok(Ok(false)) => drop(grpc.send(stream.set_nodelay(true).map(|()| stream)).await),
        Ok(Err(e)) => tracing::debug!("a connection ended before it said anything: {e}"),
        Err(_) => tracing::debug!("a connection said nothing"),
    }
}

async fn is_link(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == PREFACE[0]),
    }
}
