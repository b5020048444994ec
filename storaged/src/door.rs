//! The daemon's one address: tells links from gRPC by the first byte of a connection.

use std::sync::Arc;

use proto::guests::{Guest, GuestStream, Guests, room_for};
use proto::link::PREFACE;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::link;
use crate::service::Service;

/// Most connections: a proxy has two for each disk here.
const CONNECTIONS: usize = 2048;
/// Connections that wait to be taken over by gRPC.
pub(crate) const WAITING: usize = 64;

/// Accepts connections until `stop`, and then waits until all links have finished what they were
/// doing. Those that speak gRPC are handed to `grpc`.
pub(crate) async fn accept(
    listener: TcpListener,
    service: Service,
    grpc: mpsc::Sender<std::io::Result<GuestStream>>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let guests = Guests::new(room_for(CONNECTIONS));
    loop {
        let (stream, guest) = tokio::select! {
            accepted = guests.accept(&listener) => accepted,
            () = stop.cancelled() => break,
        };
        let (service, grpc, stop) = (service.clone(), grpc.clone(), stop.clone());
        connections.spawn(serve(stream, Arc::new(guest), service, grpc, stop));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve(
    stream: TcpStream,
    guest: Arc<Guest>,
    service: Service,
    grpc: mpsc::Sender<std::io::Result<GuestStream>>,
    stop: CancellationToken,
) {
    let speaks_link = tokio::select! {
        speaks_link = is_link(&stream) => speaks_link,
        () = guest.leave() => return tracing::debug!("a connection said nothing"),
        () = stop.cancelled() => return,
    };
    match speaks_link {
        Ok(true) => {
            if let Err(e) = link::serve(stream, &guest, service, stop).await {
                tracing::debug!("a link ended: {e}");
            }
        }
        // A gRPC server that has stopped takes no more: the connection is closed.
        Ok(false) => {
            let stream = stream.set_nodelay(true).map(|()| GuestStream::new(stream, guest));
            drop(grpc.send(stream).await);
        }
        Err(e) => tracing::debug!("a connection ended before it said anything: {e}"),
    }
}

async fn is_link(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == PREFACE[0]),
    }
}
