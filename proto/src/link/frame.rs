//! One frame: a header of 20 bytes, a message, a payload. Little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | request number |
//! | 4 | 1 | kind, see [`Kind`] |
//! | 5 | 3 | zero |
//! | 8 | 4 | length of the message, at most 64 KiB; of a session's, 8 MiB |
//! | 12 | 4 | length of the payload, at most that of the largest part |
//! | 16 | 4 | CRC-32C of bytes 0 to 15 and the message |
//!
//! The payload has checksums of its own, in the message. So nothing that a frame says is believed
//! unchecked: a request number or a blob id that changed on the way does not put bytes where they
//! do not belong. A frame that has begun to arrive does so within [`ARRIVAL`], or it is the last.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::limits::{CHECK_BLOCK, MAX_PART};

/// Bytes of the header.
pub const HEADER_LEN: usize = 20;
/// Largest message, in bytes: a page of a listing takes 42 KiB, deletes of as many blobs as may be 34.
const MAX_MESSAGE: u32 = 64 << 10;
/// Bytes of a message that arrive before room is made for more.
const FIRST: u32 = 4 << 10;
/// Largest payload, in bytes: a part, widened to whole check blocks.
const MAX_PAYLOAD: u32 = MAX_PART.next_multiple_of(CHECK_BLOCK);

/// How long the head of a frame may take to arrive, and its payload once there is room for it. Requests
/// are given up much sooner.
pub const ARRIVAL: Duration = Duration::from_secs(10);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A `PutRequest`; the payload is the part.
    Put = 1,
    /// A `GetRequest`.
    Get = 2,
    /// The reply to the request of this number; to a get, with the bytes as payload.
    Done = 3,
    /// It failed: a `PartFailure`.
    Failed = 4,
    /// A `HeldRequest`.
    Held = 5,
    /// A `BlobsRequest`, to delete them.
    Delete = 6,
    /// A `BlobsRequest`, to forget that they were deleted.
    Forget = 7,
    /// A `ListRequest`.
    List = 8,
    /// A `Hello`: first on a connection, and not answered.
    Hello = 9,
    /// A `FenceRequest`.
    Fence = 10,
    /// A `PromisedRequest`.
    Promised = 11,
    /// A `BeatRequest`.
    Beat = 12,
    /// A `LastBeatRequest`.
    LastBeat = 13,
    /// A `DropRequest`.
    DropPart = 14,
    /// A `RebuiltRequest`.
    Rebuilt = 15,
    /// A `ServeRequest`.
    Serve = 16,
    /// A `ConditionRequest`.
    Condition = 17,
    /// What a session says to its metad: a `FromClient`.
    Say = 18,
    /// What a metad says to a session: a `FromMetad`.
    Said = 19,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Put,
        Self::Get,
        Self::Done,
        Self::Failed,
        Self::Held,
        Self::Delete,
        Self::Forget,
        Self::List,
        Self::Hello,
        Self::Fence,
        Self::Promised,
        Self::Beat,
        Self::LastBeat,
        Self::DropPart,
        Self::Rebuilt,
        Self::Serve,
        Self::Condition,
        Self::Say,
        Self::Said,
    ];

    /// The kind that a byte stands for.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| *k as u8 == byte)
    }
}

/// A frame that arrived, but for its payload, which is next on the connection.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Number of the request.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// The message, encoded.
    pub message: Bytes,
    /// Bytes of payload that follow.
    pub payload: usize,
}

/// Header and message of a frame with so much payload behind them.
pub fn encode(id: u32, kind: Kind, message: &impl Message, payload: usize) -> Bytes {
    let len = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEADER_LEN + len);
    frame.put_u32_le(id);
    frame.put_u32_le(kind as u32);
    frame.put_u32_le(len as u32);
    frame.put_u32_le(payload as u32);
    frame.put_u32_le(0);
    message.encode(&mut frame).expect("the buffer grows");
    let check = checksum(&frame[..HEADER_LEN], &frame[HEADER_LEN..]);
    frame[16..HEADER_LEN].copy_from_slice(&check.to_le_bytes());
    frame.freeze()
}

fn checksum(header: &[u8], message: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..16]), message)
}

fn nonsense(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the frame makes no sense: {why}"))
}

/// Reads header and message of the next frame; `None` when the peer has closed the connection
/// between two frames.
///
/// # Errors
/// `InvalidData` for what is no frame; whatever the connection says.
pub async fn read(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Arrived>> {
    read_within(input, MAX_MESSAGE).await
}

/// The same of a connection whose messages are no longer than this.
///
/// # Errors
/// Those of [`read`].
pub async fn read_within(
    input: &mut (impl AsyncRead + Unpin),
    longest: u32,
) -> io::Result<Option<Arrived>> {
    let mut header = [0; HEADER_LEN];
    let first = input.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    in_time(rest(input, header, first, longest)).await.map(Some)
}

/// The rest of header and message, when the first bytes of the header are there.
async fn rest(
    input: &mut (impl AsyncRead + Unpin),
    mut header: [u8; HEADER_LEN],
    first: usize,
    longest: u32,
) -> io::Result<Arrived> {
    input.read_exact(&mut header[first..]).await?;
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let (len, payload) = (number(8), number(12));
    let kind = Kind::from_byte(header[4]).ok_or_else(|| nonsense("unknown kind"))?;
    if header[5..8] != [0; 3] || len > longest || payload > MAX_PAYLOAD {
        return Err(nonsense("lengths out of bounds"));
    }
    let mut message = BytesMut::with_capacity(len.min(FIRST) as usize);
    let mut left = input.take(len.into());
    while message.len() < len as usize {
        message.reserve(1);
        if left.read_buf(&mut message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if checksum(&header, &message) != number(16) {
        return Err(nonsense("wrong checksum"));
    }
    Ok(Arrived { id: number(0), kind, message: message.freeze(), payload: payload as usize })
}

/// Fills `buffer` with the next bytes of a payload.
///
/// # Errors
/// When the connection ends first, or they take too long.
pub async fn fill(input: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<()> {
    in_time(input.read_exact(buffer)).await.map(drop)
}

/// Passes over the next bytes.
///
/// # Errors
/// When the connection ends first, or they take too long.
pub async fn skip(input: &mut (impl AsyncBufRead + Unpin), len: usize) -> io::Result<()> {
    let mut left = input.take(len as u64);
    in_time(tokio::io::copy_buf(&mut left, &mut tokio::io::sink())).await?;
    match left.limit() {
        0 => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Bounds the wait for bytes that were announced.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`].
pub async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(ARRIVAL, work).await.unwrap_or_else(|_| {
        let why = format!("what was announced has not arrived within {ARRIVAL:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::rpc::storaged::GetRequest;

    fn request() -> GetRequest {
        GetRequest { part: 3, offset: 65_536, len: 4096, ..Default::default() }
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let mut bytes = encode(7, Kind::Get, &request(), 3).to_vec();
        bytes.extend(b"abc");
        bytes.extend(encode(8, Kind::Failed, &request(), 0));
        let mut input = &bytes[..];
        let frame = read(&mut input).await.unwrap().unwrap();
        assert_eq!((frame.id, frame.kind, frame.payload), (7, Kind::Get, 3));
        assert_eq!(GetRequest::decode(frame.message).unwrap(), request());
        let mut payload = [0; 2];
        fill(&mut input, &mut payload).await.unwrap();
        skip(&mut input, 1).await.unwrap();
        assert_eq!(&payload, b"ab");
        assert_eq!(read(&mut input).await.unwrap().unwrap().id, 8);
        assert!(read(&mut input).await.unwrap().is_none(), "the end");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_announced_and_does_not_come_is_given_up() {
        let whole = encode(7, Kind::Get, &request(), 100).to_vec();
        for (what, begun) in [("a byte", 1), ("a header", HEADER_LEN), ("a head", whole.len())] {
            // A peer that stays connected, and sends a byte now and then.
            let (mut peer, mut input) = tokio::io::duplex(1 << 10);
            let bytes = whole[..begun].to_vec();
            let sending = async move {
                peer.write_all(&bytes).await.unwrap();
                loop {
                    tokio::time::sleep(ARRIVAL / 4).await;
                    if peer.write_all(&[0]).await.is_err() {
                        return;
                    }
                }
            };
            let began = tokio::time::Instant::now();
            let reading = async {
                let arrived = read(&mut input).await?.expect("it has begun");
                fill(&mut input, &mut vec![0; arrived.payload]).await
            };
            let error = tokio::select! {
                result = reading => result.unwrap_err(),
                () = sending => unreachable!("the other side is there"),
            };
            assert!(began.elapsed() <= 2 * ARRIVAL, "{what}: {error} after {:?}", began.elapsed());
        }
    }

    #[tokio::test]
    async fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = encode(7, Kind::Get, &request(), 0).to_vec();
        for bit in 0..whole.len() * 8 {
            let mut rotten = whole.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            // A length that has grown waits for bytes that never come: give it plenty.
            rotten.resize(MAX_MESSAGE as usize + HEADER_LEN, 0);
            assert!(read(&mut &rotten[..]).await.is_err(), "bit {bit}");
        }
        for len in 1..whole.len() {
            assert!(read(&mut &whole[..len]).await.is_err(), "cut at {len}");
        }
    }
}
