//! The link: how a proxy asks a slot behind a storage daemon, in one order.
//!
//! A TCP connection to the daemon's one address carries either gRPC, which tells how the daemon is, or
//! this: frames of a header, a protobuf message and a payload. A payload is sent from where it lies
//! and received into the buffer that it will be used from, which gRPC cannot do: it gathers every
//! message twice, and what it delivers is not aligned for direct I/O.
//!
//! * A client opens with [`PREFACE`]; its first byte tells it from HTTP/2.
//! * Then it says who it is ([`request::Hello`]): a random identity, and a number that rises with each of its
//!   connections. The daemon serves a connection only once nothing more can come of the client's older ones: what
//!   was read from them is in the queue of its disk, or never will be.
//! * Every [`frame`] has a request number of the client's choice; answers come in any order.
//! * Requests enter the queue of their disk in the order in which they arrived: each before the next is read. A
//!   get enters none.
//! * A frame is a [`request`] or its answer; an error is a `PartFailure`.
//! * What does not parse, or whose checksum is wrong, ends the connection: requests under way then
//!   fail as "unreachable", as when the daemon dies.

pub mod client;
pub mod frame;
pub mod outgoing;
mod receivers;
pub mod request;

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// What a client sends first: a byte that no HTTP/2 connection starts with, a name, a version.
pub const PREFACE: [u8; 8] = *b"\xa5ASHLNK5";

/// Makes the kernel notice a peer that is gone: after `silence` without a sign of life, or with
/// bytes unacknowledged for as long twice over. Sends small frames at once.
///
/// # Errors
/// When the socket is broken already.
pub fn prepare(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(silence).with_interval(silence / 2).with_retries(2);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(silence * 2))
}
