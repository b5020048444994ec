//! Bodies in chunks of AWS's own (`aws-chunked`), signed or not, with trailers behind them or none. Pure.
//!
//! ```text
//! 10000;chunk-signature=ad80...\r\n  65,536 bytes  \r\n  ...  0;chunk-signature=b6c6...\r\n
//! x-amz-checksum-crc32c:sOO8/Q==\r\n  x-amz-trailer-signature:d811...\r\n  \r\n
//! ```
//!
//! Bytes go on as they come: no chunk is held in memory until its signature is known. Whoever takes them must believe
//! none before [`Chunks::end`].

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};

use super::error::{S3Error, S3Result, Wrong};
use super::signature::Chain;

/// Longest line before a chunk, and of a trailer.
const LINE: usize = 1024;
/// Signed chunks of fewer bytes, of which each costs as much as a larger one, and how many may come: AWS takes the last
/// alone.
const SMALL: u64 = 8 << 10;
const SMALL_MAX: usize = 1024;
/// Trailers at most.
const TRAILERS: usize = 16;

enum State {
    /// The line before a chunk.
    Head,
    /// In a chunk.
    Data {
        left: u64,
    },
    /// The end of line behind it.
    Behind,
    /// Behind the last chunk.
    Trailers,
    Whole,
}

/// A body that is being read.
pub(super) struct Chunks {
    /// Who signs, if anybody does.
    chain: Option<Chain>,
    state: State,
    line: Vec<u8>,
    hash: Sha256,
    signature: Vec<u8>,
    /// Small ones so far.
    small: usize,
    trailers: Vec<(String, String)>,
    /// What of them is signed.
    signed: Vec<u8>,
    end: Option<Vec<u8>>,
}

fn bad(why: &str) -> S3Error {
    S3Error::new(Wrong::InvalidRequest, format!("the body in chunks: {why}"))
}

fn not_signed(what: &str) -> S3Error {
    let why = format!("the signature of {what} of the body is not that of its bytes");
    S3Error::new(Wrong::SignatureDoesNotMatch, why)
}

impl Chunks {
    /// With signatures of this chain, or without any.
    pub(super) fn new(chain: Option<Chain>) -> Self {
        Self {
            chain,
            state: State::Head,
            line: Vec::new(),
            hash: Sha256::new(),
            signature: Vec::new(),
            small: 0,
            trailers: Vec::new(),
            signed: Vec::new(),
            end: None,
        }
    }

    /// Takes of what came what belongs together. `None`: all is taken, and there is no content in the rest of it.
    ///
    /// # Errors
    /// When it is not such a body, or not signed so.
    pub(super) fn take(&mut self, came: &mut Bytes) -> S3Result<Option<Bytes>> {
        while !came.is_empty() {
            match self.state {
                State::Data { left } => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(came.len());
                    let bytes = came.split_to(len);
                    if self.chain.is_some() {
                        self.hash.update(&bytes);
                    }
                    match left - bytes.len() as u64 {
                        0 => self.state = State::Behind,
                        left => self.state = State::Data { left },
                    }
                    return Ok(Some(bytes));
                }
                State::Whole => return Err(bad("something follows its end")),
                State::Head | State::Behind | State::Trailers => {
                    if let Some(line) = self.line(came)? {
                        self.said(&line)?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// A line, once it is there.
    fn line(&mut self, came: &mut Bytes) -> S3Result<Option<Vec<u8>>> {
        let end = came.iter().position(|byte| *byte == b'\n');
        let len = end.map_or(came.len(), |at| at + 1);
        if self.line.len() + len > LINE {
            return Err(bad("a line that is too long"));
        }
        self.line.extend_from_slice(&came[..len]);
        came.advance(len);
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.line);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }

    fn said(&mut self, line: &[u8]) -> S3Result<()> {
        match self.state {
            State::Behind if line.is_empty() => {
                self.is_signed()?;
                self.state = State::Head;
            }
            State::Behind => return Err(bad("a chunk is longer than it says")),
            State::Trailers if line.is_empty() => self.state = State::Whole,
            State::Trailers => self.trailer(line)?,
            _ => {
                let left = self.head(line)?;
                self.state = State::Data { left };
                if left == 0 {
                    self.is_signed()?;
                    self.state = State::Trailers;
                }
            }
        }
        Ok(())
    }

    /// The line before a chunk: its length, and its signature.
    fn head(&mut self, line: &[u8]) -> S3Result<u64> {
        let text = std::str::from_utf8(line).map_err(|_| bad("a length that is none"))?;
        let (len, rest) = text.split_once(';').unwrap_or((text, ""));
        let is_hex = !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_hexdigit());
        let len = u64::from_str_radix(len, 16).ok().filter(|_| is_hex);
        if self.chain.is_some() {
            let signature = rest.strip_prefix("chunk-signature=");
            let signature = signature.ok_or_else(|| bad("a chunk without a signature"))?;
            self.signature = signature.as_bytes().to_vec();
            self.small += usize::from(len.is_some_and(|len| len < SMALL));
            if self.small > SMALL_MAX {
                return Err(bad("too many chunks of less than 8 KiB"));
            }
        }
        len.ok_or_else(|| bad("a length that is none"))
    }

    fn is_signed(&mut self) -> S3Result<()> {
        let hash = self.hash.finalize_reset();
        match self.chain.as_mut().is_none_or(|chain| chain.is_next(&hash, &self.signature)) {
            true => Ok(()),
            false => Err(not_signed("a chunk")),
        }
    }

    fn trailer(&mut self, line: &[u8]) -> S3Result<()> {
        let text = std::str::from_utf8(line).map_err(|_| bad("a trailer that is no text"))?;
        let (name, value) = text.split_once(':').ok_or_else(|| bad("a trailer without a name"))?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        if self.trailers.len() >= TRAILERS || self.end.is_some() {
            return Err(bad("more trailers than may be"));
        }
        if name == "x-amz-trailer-signature" {
            self.end = Some(value.into_bytes());
        } else {
            self.signed.extend_from_slice(format!("{name}:{value}\n").as_bytes());
            self.trailers.push((name, value));
        }
        Ok(())
    }

    /// It has ended: answers its trailers.
    ///
    /// # Errors
    /// When that is not all of it, or trailers are not signed that have to be.
    pub(super) fn end(&mut self) -> S3Result<Vec<(String, String)>> {
        // Some clients end without the last empty line.
        if !matches!(self.state, State::Whole | State::Trailers) || !self.line.is_empty() {
            return Err(S3Error::new(Wrong::IncompleteBody, "the body ends within a chunk"));
        }
        if let (Some(chain), false) = (&mut self.chain, self.trailers.is_empty()) {
            let signature = self.end.take().unwrap_or_default();
            if !chain.is_end(&self.signed, &signature) {
                return Err(not_signed("the trailers"));
            }
        }
        Ok(std::mem::take(&mut self.trailers))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::signature::tests::chain;
    use super::*;

    /// Bytes, and trailers.
    type Came = (Vec<u8>, Vec<(String, String)>);

    /// Reads a body that comes in pieces of this size.
    fn read(chain: Option<Chain>, body: &[u8], piece: usize) -> S3Result<Came> {
        let (mut chunks, mut content) = (Chunks::new(chain), Vec::new());
        for piece in body.chunks(piece) {
            let mut came = Bytes::copy_from_slice(piece);
            while let Some(bytes) = chunks.take(&mut came)? {
                content.extend_from_slice(&bytes);
            }
        }
        Ok((content, chunks.end()?))
    }

    fn example() -> Vec<u8> {
        let mut body = b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n".to_vec();
        body.extend_from_slice(&[b'a'; 65_536]);
        body.extend_from_slice(b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n");
        body.extend_from_slice(&[b'a'; 1024]);
        body.extend_from_slice(b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n");
        body
    }

    #[test]
    fn signed_chunks_however_they_come() {
        for piece in [1, 7, 1000, 100_000] {
            assert_eq!(read(Some(chain()), &example(), piece).unwrap().0, vec![b'a'; 66_560]);
        }
        let mut other = example();
        other[1000] = b'b';
        assert_eq!(
            read(Some(chain()), &other, 999).unwrap_err().wrong,
            Wrong::SignatureDoesNotMatch
        );
        let cut = &example()[..66_000];
        assert_eq!(read(Some(chain()), cut, 999).unwrap_err().wrong, Wrong::IncompleteBody);
    }

    #[test]
    fn signed_chunks_are_not_all_small() {
        let mut chunks = Chunks::new(Some(chain()));
        let small = b"1fff;chunk-signature=0";
        assert!((0..SMALL_MAX).all(|_| chunks.head(small).is_ok()));
        assert!(chunks.head(b"2000;chunk-signature=0").is_ok() && chunks.head(small).is_err());
    }

    #[test]
    fn trailers_behind_chunks_without_signatures() {
        let body = b"3\r\nabc\r\n2\r\nde\r\n0\r\nx-amz-checksum-crc32:QUJD\r\n\r\n";
        let trailers = vec![("x-amz-checksum-crc32".to_owned(), "QUJD".to_owned())];
        for piece in 1..20 {
            assert_eq!(read(None, body, piece).unwrap(), (b"abcde".to_vec(), trailers.clone()));
        }
        for bad in [
            "",
            "x\r\n",
            "-1\r\na",
            "3\r\nabcd\r\n0\r\n\r\n",
            "0\r\nabc\r\n\r\n",
            "0\r\n\r\nx",
            "ffffffffffffffff0\r\n",
            &"0".repeat(2000),
        ] {
            assert!(read(None, bad.as_bytes(), 4).is_err(), "{bad:.20}");
        }
        assert!(read(Some(chain()), body, 100).is_err(), "signatures are missing");
    }

    proptest! {
        #[test]
        fn nothing_panics(body in proptest::collection::vec(prop_oneof![Just(b'0'), Just(b'3'), Just(b'\r'), Just(b'\n'), Just(b':'), any::<u8>()], 0..60), piece in 1usize..9) {
            let _read = read(None, &body, piece);
        }
    }
}
