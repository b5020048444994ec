//! Key-value as lines of JSON over TCP: each request is a line, and each is answered by one, in their order.
//!
//! | request | answer |
//! |---|---|
//! | `{"operation":"put","database":0,"key":"a","value":"b"}` | `{"ok":true}` |
//! | `{"operation":"get","database":0,"key":"a"}` | `{"ok":true,"value":"b"}` |
//! | `{"operation":"delete","database":0,"key":"a"}` | `{"ok":true}` |
//! | `{"operation":"keys","database":0,"after":"a","limit":10}` | `{"keys":["b"],"next":"b","ok":true}` |
//! | `{"operation":"auth","user":"ann","password":"..."}`, or `"token":"..."` | `{"ok":true}` |
//! | anything that is refused | `{"error":"no_such_key","message":"..."}` |
//!
//! The database is 0 where none is named. With `"encoding":"base64"` the key, the value and `after` are in base64, and
//! so are those of the answer; an answer that is no text is in base64 in any case, and says so. An `id`, a text or a number,
//! comes back with the answer.
//!
//! What one has logged in by counts as long as it is valid: it is asked for each request.
//!
//! A line may be so long that a value fits into it; of long ones, few are in memory at once, and each has to come soon.
//! So have answers that are long to be taken. A line that does not even begin as a request ends the connection: whoever
//! sends it speaks something else, as a browser does that some page has sent here, with lines of that page's choice behind.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use bytes::Bytes;
use fs::access::Credentials;
use fs::tree::View;
use http::HeaderMap;
use meta::Secret;
use proto::guests::{Guest, UnderWay};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};
use serde_json::{Map, Value};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::text::{Encoding, Keys};
use super::{Database, KEYS, KEYS_MAX, VALUE_MAX};
use crate::metrics;
use crate::refusal::{Code, Refusal};
use crate::server::Peer;
use crate::who::Who;

/// What is said to whoever has not logged in.
const LOG_IN: &str =
    "log in first: \"operation\":\"auth\" with \"user\" and \"password\", or with \"token\"";
/// A line up to this is short, in bytes.
const SHORT: u64 = 64 << 10;
/// The longest, in bytes: of a value in base64, or in text that is written plainly.
const LONGEST: u64 = 24 << 20;
/// Long ones that are in memory at once.
const LONG_ONES: usize = 4;
/// Long answers that are: each a value of up to [`VALUE_MAX`], and six times as much as text at worst.
const LONG_ANSWERS: usize = 2;
/// From the first byte of a line to its end: of a short one; of a long one.
const SOON: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_secs(60);

/// The door.
pub(crate) struct Lines {
    who: Arc<Who>,
    long: Semaphore,
    long_answers: Semaphore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Get,
    Put,
    Delete,
    Keys,
    Auth,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Keys => "keys",
            Self::Auth => "auth",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked<'a> {
    operation: Operation,
    #[serde(default)]
    database: u32,
    #[serde(borrow)]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) value: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) after: Option<Cow<'a, str>>,
    limit: Option<usize>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    #[serde(default)]
    pub(super) encoding: Encoding,
    id: Option<Id>,
}

/// What a client knows a request by.
struct Id(Value);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Plain;
        impl Visitor<'_> for Plain {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number as the id")
            }
            fn visit_str<E>(self, id: &str) -> Result<Id, E> {
                Ok(Id(id.into()))
            }
            fn visit_u64<E>(self, id: u64) -> Result<Id, E> {
                Ok(Id(id.into()))
            }
            fn visit_i64<E>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id.into()))
            }
            fn visit_f64<E>(self, id: f64) -> Result<Id, E> {
                Ok(Id(id.into()))
            }
        }
        // Anything else is refused before it is built.
        from.deserialize_any(Plain)
    }
}

/// Who is at the other end of a connection.
struct Caller {
    peer: Peer,
    /// What he has logged in by.
    shown: Option<Credentials>,
}

/// How a line ended.
enum Line<'a> {
    /// It is there. Its share of the memory, if it is a long one.
    Whole(Option<SemaphorePermit<'a>>),
    /// The connection ended in it.
    End,
    /// It is of no use, and what comes behind it cannot be told.
    Bad(Refusal),
}

impl Lines {
    /// For those.
    pub(crate) fn new(who: Arc<Who>) -> Self {
        let (long, long_answers) = (Semaphore::new(LONG_ONES), Semaphore::new(LONG_ANSWERS));
        Self { who, long, long_answers }
    }

    /// Serves a connection until it ends, or is to end.
    pub(crate) async fn attend(
        &self,
        stream: impl AsyncRead + AsyncWrite,
        (guest, peer): (&Arc<Guest>, Peer),
        stop: &CancellationToken,
    ) {
        let mut caller = Caller { peer, shown: None };
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::with_capacity(SHORT as usize, reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            // As long as nothing comes, the connection is idle.
            match stop.run_until_cancelled(reader.fill_buf()).await {
                Some(Ok(some)) if !some.is_empty() => {}
                _ => return,
            }
            // A stranger is at work when his line is there: until then he makes room for others.
            let mut under_way = caller.shown.as_ref().map(|_| guest.begin());
            let mut shares = Vec::new();
            let read = self.line(&mut reader, &mut line, (&caller, guest), &mut under_way).await;
            let _under_way = under_way.unwrap_or_else(|| guest.begin());
            let (answer, goes_on) = match read {
                Ok(Line::End) | Err(_) => return,
                Ok(Line::Bad(refusal)) => (refusal.json(), false),
                Ok(Line::Whole(_)) if line.trim_ascii_start().first() != Some(&b'{') => {
                    (Refusal::new(Code::BadRequest, "a request is an object of JSON").json(), false)
                }
                Ok(Line::Whole(long)) => {
                    shares.extend(long);
                    (self.answer(&line, &mut caller, &mut shares).await, true)
                }
            };
            line.clear();
            line.shrink_to(SHORT as usize);
            let mut text = answer.to_string().into_bytes();
            drop(answer);
            text.push(b'\n');
            let writing = async {
                writer.write_all(&text).await?;
                // What TLS has taken may not be on its way yet.
                writer.flush().await
            };
            let written = tokio::time::timeout(LATER, writing).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
            if !goes_on {
                // So that the client hears it to its end.
                let _late = tokio::time::timeout(SOON, writer.shutdown()).await;
                return;
            }
        }
    }

    /// Reads the next line, without what ends it.
    async fn line(
        &self,
        reader: &mut (impl AsyncBufRead + Unpin),
        line: &mut Vec<u8>,
        (caller, guest): (&Caller, &Arc<Guest>),
        under_way: &mut Option<UnderWay>,
    ) -> io::Result<Line<'_>> {
        match read_on((&mut *reader).take(SHORT), line, SOON).await? {
            Err(slow) => return Ok(Line::Bad(slow)),
            Ok(true) => return Ok(Line::Whole(None)),
            // It ends without the end of a line.
            Ok(false) if (line.len() as u64) < SHORT => return Ok(Line::End),
            Ok(false) => {}
        }
        // Memory is for those who may come in.
        if let Err(refusal) = self.who.let_in(caller.shown.as_ref(), caller.peer, LOG_IN).await {
            return Ok(Line::Bad(refusal));
        }
        under_way.get_or_insert_with(|| guest.begin());
        let Ok(long) = tokio::time::timeout(LATER, self.long.acquire()).await else {
            return Ok(Line::Bad(Refusal::new(
                Code::TooSlow,
                "there are too many long lines at once",
            )));
        };
        let long = long.expect("it is never closed");
        match read_on(reader.take(LONGEST - SHORT), line, LATER).await? {
            Err(slow) => return Ok(Line::Bad(slow)),
            Ok(true) => return Ok(Line::Whole(Some(long))),
            Ok(false) => {}
        }
        let why = format!("a line of more than {LONGEST} bytes, or without an end");
        Ok(Line::Bad(Refusal::new(Code::TooLarge, why)))
    }

    /// Does what a line asks for. Memory that the answer takes a share of is added to `shares`.
    async fn answer<'a>(
        &'a self,
        line: &[u8],
        caller: &mut Caller,
        shares: &mut Vec<SemaphorePermit<'a>>,
    ) -> Value {
        let since = Instant::now();
        let mut asked: Asked<'_> = match serde_json::from_slice(line) {
            Ok(asked) => asked,
            Err(e) => {
                metrics::answered("lines", "other", since, Some(Code::BadRequest));
                return Refusal::new(Code::BadRequest, e.to_string()).json();
            }
        };
        let (op, id) = (asked.operation.name(), asked.id.take());
        let done = match asked.operation {
            Operation::Auth => self.log_in(asked, caller).await.map(|()| Map::new()),
            _ => match self.who.let_in(caller.shown.as_ref(), caller.peer, LOG_IN).await {
                Ok(entered) => self.done(asked, entered.view, shares).await,
                Err(refusal) => Err(refusal),
            },
        };
        metrics::answered("lines", op, since, done.as_ref().err().map(|refusal| refusal.code));
        let mut answer = match done {
            Ok(mut fields) => {
                fields.insert("ok".to_owned(), true.into());
                Value::Object(fields)
            }
            Err(refusal) => refusal.json(),
        };
        if let (Some(Id(id)), Some(fields)) = (id, answer.as_object_mut()) {
            fields.insert("id".to_owned(), id);
        }
        answer
    }

    /// Whoever it is, he is the one whom this is valid for, or nobody, from now on.
    async fn log_in(&self, asked: Asked<'_>, caller: &mut Caller) -> Result<(), Refusal> {
        caller.shown = None;
        let Asked { user, password, token, .. } = asked;
        let shown = match (user, password, token) {
            (Some(user), Some(password), None) => {
                Credentials::Password { user, password: Secret(password.into_bytes()) }
            }
            (None, None, Some(token)) => Credentials::Token(token),
            _ => return Err(Refusal::new(Code::BadRequest, LOG_IN)),
        };
        self.who.let_in(Some(&shown), caller.peer, LOG_IN).await?;
        caller.shown = Some(shown);
        Ok(())
    }

    async fn done<'a>(
        &'a self,
        asked: Asked<'_>,
        view: View,
        shares: &mut Vec<SemaphorePermit<'a>>,
    ) -> Result<Map<String, Value>, Refusal> {
        let bad = |why: String| Refusal::new(Code::BadRequest, why);
        let Asked { operation, key, value, after, limit, encoding, .. } = asked;
        let read = |name: &str, text: Option<Cow<'_, str>>| {
            let text = text.ok_or_else(|| bad(format!("{} needs {name}", operation.name())))?;
            encoding.read(&text).map_err(|why| bad(format!("{name}: {why}")))
        };
        let database = Database::of(view, asked.database);
        let mut answer = Map::new();
        match operation {
            Operation::Get => {
                let value = self.value(&database, &read("a key", key)?, shares).await?;
                let encoding = encoding.for_all(std::iter::once(&value[..]));
                answer.insert("value".to_owned(), encoding.write(&value).into());
                encoding.told(&mut answer);
            }
            Operation::Put => {
                let (key, value) = (read("a key", key)?, read("a value", value)?);
                metrics::received(value.len());
                database.put(&key, value.into()).await?;
            }
            Operation::Delete => database.delete(&read("a key", key)?, &HeaderMap::new()).await?,
            Operation::Keys => {
                let after = read("what is before", after.or(Some(Cow::Borrowed(""))))?;
                let limit = limit.unwrap_or(KEYS).clamp(1, KEYS_MAX);
                Keys::of(&database.keys(&after, limit).await?, encoding).told(&mut answer);
            }
            Operation::Auth => {}
        }
        Ok(answer)
    }

    /// A value as a whole.
    async fn value<'a>(
        &'a self,
        database: &Database,
        key: &[u8],
        shares: &mut Vec<SemaphorePermit<'a>>,
    ) -> Result<Bytes, Refusal> {
        let file = database.open(key).await?;
        let len = file.attr().size;
        if len > VALUE_MAX {
            let why = format!("{len} bytes, which are more than a line can hold: get it by HTTP");
            return Err(Refusal::new(Code::TooLarge, why));
        }
        if len > SHORT {
            let Ok(share) = tokio::time::timeout(LATER, self.long_answers.acquire()).await else {
                return Err(Refusal::new(
                    Code::TooSlow,
                    "too many long values are asked for at once",
                ));
            };
            shares.push(share.expect("it is never closed"));
        }
        let value = file.read(0..len).await.map_err(|e| Refusal::of(&e, Code::NoSuchKey))?;
        metrics::sent(value.len());
        Ok(value)
    }
}

/// Reads on in a line, as much as `reader` has. Answers whether its end was reached, which is taken off; or the refusal, if that does
/// not come in time, however much of it does.
///
/// # Errors
/// When the connection breaks.
async fn read_on(
    mut reader: impl AsyncBufRead + Unpin,
    line: &mut Vec<u8>,
    within: Duration,
) -> io::Result<Result<bool, Refusal>> {
    let read = tokio::time::timeout(within, reader.read_until(b'\n', line)).await;
    let Ok(read) = read else {
        return Ok(Err(Refusal::new(Code::TooSlow, "the line did not come to its end")));
    };
    read?;
    Ok(Ok(line.pop_if(|last| *last == b'\n').is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_that_does_not_come_to_its_end_in_time_is_refused() {
        let (mut writer, reader) = tokio::io::duplex(100);
        let mut reader = BufReader::new(reader);
        writer.write_all(b"{}\n").await.unwrap();
        let mut line = Vec::new();
        let whole = read_on((&mut reader).take(SHORT), &mut line, SOON).await.unwrap();
        assert!(whole == Ok(true) && line == b"{}", "{line:?}");

        // However often a little more of it comes.
        line.clear();
        let began = tokio::time::Instant::now();
        let trickles = async {
            for _ in 0..90 {
                writer.write_all(b"x").await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let read = read_on((&mut reader).take(SHORT), &mut line, SOON);
        let slow = tokio::select! {
            read = read => read.unwrap().unwrap_err(),
            () = trickles => panic!("it was waited for, all the while"),
        };
        assert_eq!((slow.code, slow.json()["error"].as_str()), (Code::TooSlow, Some("too_slow")));
        let took = began.elapsed();
        assert!((SOON..SOON + Duration::from_secs(1)).contains(&took), "{took:?}");
    }

    #[tokio::test]
    async fn a_line_is_cut_where_there_may_be_no_more_of_it_and_where_the_connection_ends() {
        let mut line = Vec::new();
        for (sent, most, expected) in [("abc\n", 3, "abc"), ("abc", 10, "abc"), ("", 10, "")] {
            line.clear();
            let read = read_on(sent.as_bytes().take(most), &mut line, SOON).await.unwrap();
            assert!(read == Ok(false) && line == expected.as_bytes(), "{sent:?}: {line:?}");
        }
    }
}
