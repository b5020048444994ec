//! How a session asks whoever leads its volume: frames of a link that carry [`FromClient`] one way and [`FromMetad`]
//! the other, in one order each way.
//!
//! * A client opens with [`PREFACE`], which a storage daemon takes for another version of its link, and then says whose
//!   connection it is (`Hello`). It is answered with `Welcome`, or that the session is over (`Fenced`), or leads to
//!   another metad (`Elsewhere`).
//! * The number of a frame pairs an `Ask` with its `Reply`; all else has the number 0. An ask that changes something has a number of
//!   its own besides, under which it is sent again on the next connection: it is done once.
//! * What does not parse, or has a payload, ends the connection: the session goes on with its next one.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::io::AsyncRead;

use crate::limits::MAX_SESSION_MESSAGE;
use crate::link::frame::{self, Kind};
use crate::rpc::metad::{Answer, FromClient, FromMetad, Reply, from_client, from_metad};

/// What a client sends first: the byte that tells a link from HTTP/2, a name, a version.
pub const PREFACE: [u8; 8] = *b"\xa5ASHLMD1";
/// Of the messages: both sides must have the same.
pub const VERSION: u32 = 1;
/// Longest first message of a client, in bytes: nobody knows yet who it is.
const LONGEST_HELLO: u32 = 4 << 10;
/// A session is over when its metad has not heard from it for so long.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often a session says that it is there.
pub const BEAT: Duration = Duration::from_secs(5);
/// How long an answer to that may take.
pub const BEAT_ANSWER: Duration = Duration::from_secs(3);

/// The frame of what a client says.
pub fn say(number: u32, say: from_client::Say) -> Bytes {
    frame::encode(number, Kind::Say, &FromClient { say: Some(say) }, 0)
}

/// The frame of what a metad says.
pub fn said(number: u32, said: from_metad::Said) -> Bytes {
    frame::encode(number, Kind::Said, &FromMetad { said: Some(said) }, 0)
}

/// What a client has said.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Number of the frame.
    pub number: u32,
    /// What.
    pub say: from_client::Say,
    /// Bytes of its message.
    pub len: usize,
}

/// Bytes of an answer on its way.
pub fn answer_len(answer: &Answer) -> usize {
    answer.encoded_len()
}

/// Bytes of all answers to an ask.
pub fn reply_len(reply: &Reply) -> usize {
    reply.encoded_len()
}

/// The next that a client says; `None`: it has closed the connection. `known`: it has said who it is.
///
/// # Errors
/// `InvalidData` for what makes no sense; whatever the connection says.
pub async fn hear(input: &mut (impl AsyncRead + Unpin), known: bool) -> io::Result<Option<Heard>> {
    let longest = if known { MAX_SESSION_MESSAGE } else { LONGEST_HELLO };
    let next = next(input, Kind::Say, longest).await?;
    let Some((number, FromClient { say }, len)) = next else { return Ok(None) };
    let say = say.ok_or_else(|| nonsense("the client says what this version does not know"))?;
    Ok(Some(Heard { number, say, len }))
}

/// The next that a metad says, with the number of its frame; `None`: it has closed the connection.
///
/// # Errors
/// `InvalidData` for what makes no sense; whatever the connection says.
pub async fn listen(
    input: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(u32, from_metad::Said)>> {
    let next = next(input, Kind::Said, MAX_SESSION_MESSAGE).await?;
    let Some((number, FromMetad { said }, _)) = next else { return Ok(None) };
    let said = said.ok_or_else(|| nonsense("metad says what this version does not know"))?;
    Ok(Some((number, said)))
}

async fn next<M: Message + Default>(
    input: &mut (impl AsyncRead + Unpin),
    kind: Kind,
    longest: u32,
) -> io::Result<Option<(u32, M, usize)>> {
    let Some(arrived) = frame::read_within(input, longest).await? else { return Ok(None) };
    if arrived.kind != kind || arrived.payload > 0 {
        return Err(nonsense("a frame that is of no session"));
    }
    let len = arrived.message.len();
    let message = M::decode(arrived.message);
    let message = message.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((arrived.id, message, len)))
}

fn nonsense(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::metad::{Hello, Renew, Renewed};

    #[tokio::test]
    async fn what_is_said_arrives_in_its_order() {
        let hello = from_client::Say::Hello(Hello { version: VERSION, ..Hello::default() });
        let renew = from_client::Say::Renew(Renew { token: u64::MAX });
        let bytes = [say(0, hello.clone()), say(7, renew.clone())].concat();
        let mut input = &bytes[..];
        let first = hear(&mut input, false).await.unwrap().unwrap();
        assert_eq!((first.number, first.say), (0, hello));
        let second = hear(&mut input, true).await.unwrap().unwrap();
        assert_eq!((second.number, second.say), (7, renew));
        assert_eq!(hear(&mut input, true).await.unwrap(), None);
        let renewed = from_metad::Said::Renewed(Renewed { token: 3, ..Renewed::default() });
        let bytes = said(0, renewed.clone());
        assert_eq!(listen(&mut &bytes[..]).await.unwrap(), Some((0, renewed)));
    }

    #[tokio::test]
    async fn what_is_none_of_a_session_ends_it() {
        let other = frame::encode(1, Kind::Done, &Renewed::default(), 0);
        let loaded = frame::encode(1, Kind::Say, &FromClient::default(), 1);
        let empty = frame::encode(1, Kind::Say, &FromClient::default(), 0);
        let name = "x".repeat(LONGEST_HELLO as usize);
        let long = say(0, from_client::Say::Hello(Hello { name, ..Hello::default() }));
        for bytes in [other, loaded, empty, long.clone()] {
            assert!(hear(&mut &bytes[..], false).await.is_err());
        }
        assert!(hear(&mut &long[..], true).await.is_ok(), "once it is known who it is");
        assert!(listen(&mut &long[..]).await.is_err());
    }
}
