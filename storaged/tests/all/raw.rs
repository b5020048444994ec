//! A link as bytes on a socket: for what a client of ours never does.

use prost::Message;
use proto::convert::{Address, error_from_failure};
use proto::id::ClientId;
use proto::link::PREFACE;
use proto::link::frame::{self, Kind};
use proto::link::request::{Hello, Reply, Request};
use proto::rpc::storaged::PartFailure;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;

/// One connection.
pub(crate) struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// The connection of that number of a client.
    pub(crate) async fn connect(address: &str, client: ClientId, connection: u64) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut raw = Self { stream };
        raw.send(&PREFACE).await;
        raw.send(&Hello { client, connection }.frame()).await;
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next answer's message; `None`: the connection has ended.
    pub(crate) async fn answer(&mut self) -> Option<Result<Bytes, PartError>> {
        Some(self.numbered_answer().await?.1)
    }

    /// The same with the number of the request.
    pub(crate) async fn numbered_answer(&mut self) -> Option<(u32, Result<Bytes, PartError>)> {
        let arrived = frame::read(&mut self.stream).await.ok()??;
        let mut payload = vec![0; arrived.payload];
        frame::fill(&mut self.stream, &mut payload).await.unwrap();
        let answer = match arrived.kind {
            Kind::Done => Ok(arrived.message),
            _ => Err(error_from_failure(PartFailure::decode(arrived.message).unwrap())),
        };
        Some((arrived.id, answer))
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(
        &mut self,
        to: Address,
        request: &Request,
        payload: &[u8],
    ) -> Result<Reply, PartError> {
        self.send(&request.frame(1, to, payload.len())).await;
        self.send(payload).await;
        let message = self.answer().await.expect("the connection is open")?;
        request.reply(message)
    }
}
