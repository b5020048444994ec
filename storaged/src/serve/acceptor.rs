//! The daemon's one address, served until it is told to stop: tells links from gRPC by what was agreed on with TLS, without
//! it by the first byte of a connection.

use std::sync::Arc;
use std::time::Duration;

use proto::awake::Awake;
use proto::guests::{Guest, GuestStream, Guests, room_for};
use proto::link::PREFACE;
use proto::rpc::storaged::storaged_server::StoragedServer;
use proto::tls::wire::{Protocol, Wire};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::serve::link;
use crate::serve::service::Service;

/// Most connections: a proxy has two for each disk here.
const CONNECTIONS: usize = 2048;
/// Connections that wait to be taken over by gRPC.
const WAITING: usize = 64;

/// Requests that one connection for gRPC may have under way.
const MAX_STREAMS: u32 = 64;
/// Bytes that may lie unread in a connection for gRPC, and of the one message that is asked there: it is empty.
const WINDOW: u32 = 64 << 10;
const MAX_MESSAGE: usize = 1 << 10;
/// Longest frame of gRPC.
const MAX_FRAME: u32 = 16 << 10;
/// Bytes of headers of one request.
const MAX_HEADERS: u32 = 8 << 10;
/// A silent connection is asked for a sign of life this often, and dropped after as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long requests under way may take to finish once the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(5);

impl Service {
    /// Serves until told to stop; then lets what is under way finish.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let service = StoragedServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE);
        let (grpc, incoming) = mpsc::channel(WAITING);
        let accepting = accept(listener, self, grpc, stop.clone());
        let serving = Server::builder()
            .max_frame_size(MAX_FRAME)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_max_header_list_size(MAX_HEADERS)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .serve_with_incoming_shutdown(
                service,
                ReceiverStream::new(incoming),
                stop.clone().cancelled_owned(),
            );
        // Requests have a bound each, which they nearly never meet.
        let clock = Awake::default();
        tokio::select! {
            (result, ()) = async { tokio::join!(serving, accepting) } => result,
            () = clock.tick() => Ok(()),
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
        }
    }
}

/// Accepts connections until `stop`, and then waits until all links have finished what they were
/// doing. Those that speak gRPC are handed to `grpc`.
async fn accept(
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
    let heard = async {
        let wire = service.acceptor().accept(stream, &[Protocol::Link, Protocol::Grpc]).await?;
        let speaks_link = is_link(&wire).await?;
        Ok::<_, std::io::Error>((wire, speaks_link))
    };
    let heard = tokio::select! {
        heard = heard => heard,
        () = guest.leave() => return tracing::debug!("a connection said nothing"),
        () = stop.cancelled() => return,
    };
    let (wire, speaks_link) = match heard {
        Ok(heard) => heard,
        Err(e) => return tracing::debug!("a connection ended before it said anything: {e}"),
    };
    guest.know(wire.peer());
    if speaks_link {
        if let Err(e) = link::serve(wire, &guest, service, stop).await {
            tracing::debug!("a link ended: {e}");
        }
        return;
    }
    // A gRPC server that has stopped takes no more: the connection is closed.
    let stream = wire.tcp().set_nodelay(true).map(|()| GuestStream::new(wire, guest));
    drop(grpc.send(stream).await);
}

async fn is_link(wire: &Wire) -> std::io::Result<bool> {
    if let Some(agreed) = wire.agreed() {
        return Ok(agreed == Protocol::Link.name());
    }
    let mut first = [0];
    match wire.tcp().peek(&mut first).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == PREFACE[0]),
    }
}
