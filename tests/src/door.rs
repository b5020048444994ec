//! A client of doors by HTTP: small, blocking, and able to break off anywhere.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::cluster::{Demo, Mode, Setup};
use crate::process::PATIENCE;

/// What people log in by in tests.
pub const PASSWORD: &str = "correct horse battery";
/// Whom Ann is in the tree.
pub const ANN: u32 = 12_345;

/// A mounted volume, with its door by HTTP.
pub fn start() -> Result<(Demo, Door)> {
    start_as(Setup::new(Mode::Embedded))
}

/// The same, set up so.
pub fn start_as(setup: Setup) -> Result<(Demo, Door)> {
    let http = free_address()?;
    let demo_arguments = vec!["--http".to_owned(), http.clone()];
    let demo = Demo::start(Setup { demo_arguments, ..setup })?;
    Ok((demo, Door::at(&http)))
}

/// An address of this machine that nobody listens on.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The word by which programs tell what is wrong.
    pub fn error(&self) -> String {
        let said: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        said["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Its body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{self:?}"))
    }

    /// It has this status.
    pub fn expect(self, status: u16) -> Result<Self> {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
        ensure!(self.status == status, "{} instead of {status}: {body}", self.status);
        Ok(self)
    }
}

/// A door by HTTP.
#[derive(Clone, Debug)]
pub struct Door {
    /// `HOST:PORT`.
    pub address: String,
    /// What requests say of whose they are: `Basic ...`, or `Bearer ...`.
    pub authorization: Option<String>,
}

impl Door {
    /// At this address.
    pub fn at(address: &str) -> Self {
        Self { address: address.to_owned(), authorization: None }
    }

    /// The same, of somebody with a password.
    pub fn of(&self, user: &str, password: &str) -> Self {
        let shown = STANDARD.encode(format!("{user}:{password}"));
        Self { authorization: Some(format!("Basic {shown}")), ..self.clone() }
    }

    /// The same, of somebody with a token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { authorization: Some(format!("Bearer {token}")), ..self.clone() }
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(&self.address).with_context(|| self.address.clone())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Sends the head of a request; what it has for a body is the caller's to send, and to break off.
    pub fn begin(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<TcpStream> {
        let mut stream = self.connect()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.address);
        }
        if let Some(shown) = &self.authorization {
            head += &format!("Authorization: {shown}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        Ok(stream)
    }

    /// Asks, with a body whose length is said before, if there is one.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let len = body.len().to_string();
        let mut all = headers.to_vec();
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            all.push(("Content-Length", &len));
        }
        let mut stream = self.begin(method, path, &all)?;
        // A server may answer, and close, before it has read everything.
        let _refused = stream.write_all(body);
        answer(stream, method)
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", path, &[], &[])
    }

    /// POST.
    pub fn post(&self, path: &str, body: &[u8]) -> Result<Answer> {
        self.ask("POST", path, &[], body)
    }

    /// PUT.
    pub fn put(&self, path: &str, body: &[u8]) -> Result<Answer> {
        self.ask("PUT", path, &[], body)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Result<Answer> {
        self.ask("DELETE", path, &[], &[])
    }

    /// POST of a body in chunks, whose length nobody says.
    pub fn post_chunked(&self, path: &str, body: &[u8], chunk: usize) -> Result<Answer> {
        let mut stream = self.begin("POST", path, &[("Transfer-Encoding", "chunked")])?;
        for part in body.chunks(chunk) {
            write!(stream, "{:x}\r\n", part.len())?;
            stream.write_all(part)?;
            stream.write_all(b"\r\n")?;
        }
        stream.write_all(b"0\r\n\r\n")?;
        answer(stream, "POST")
    }

    /// What a metric adds up to over its labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics")?.expect(200)?.body;
        let text = String::from_utf8(text)?;
        let of =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let values = text.lines().filter(of).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().with_context(|| value.to_owned())).sum()
    }
}

/// Reads an answer to its end.
pub fn answer(stream: TcpStream, method: &str) -> Result<Answer> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "no answer");
        // What comes before is not it.
        if !line.contains(" 100 ") {
            break;
        }
        reader.read_line(&mut line)?;
    }
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status: u16 = status.with_context(|| format!("no status in {line:?}"))?;
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the head of the answer breaks off");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim_start().to_owned());
    }
    let mut body = Vec::new();
    let len: Option<usize> = headers.get("content-length").map(|len| len.parse()).transpose()?;
    if method != "HEAD" && !matches!(status, 204 | 304) {
        match len {
            Some(len) => {
                let read = reader.by_ref().take(len as u64).read_to_end(&mut body)?;
                if read < len {
                    bail!("the body breaks off after {read} of {len} bytes");
                }
            }
            None if headers.get("transfer-encoding").is_some_and(|how| how == "chunked") => {
                body = chunks(&mut reader)?;
            }
            None => drop(reader.read_to_end(&mut body)?),
        }
    }
    Ok(Answer { status, headers, body })
}

/// A body that comes in chunks, to its end.
fn chunks(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let (mut body, mut line) = (Vec::new(), String::new());
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let len = u64::from_str_radix(line.trim_end(), 16);
        let len = len.with_context(|| format!("the body breaks off: {line:?}"))?;
        let read = reader.by_ref().take(len).read_to_end(&mut body)?;
        ensure!(read as u64 == len, "the body breaks off in a chunk");
        reader.read_line(&mut line)?;
        if len == 0 {
            return Ok(body);
        }
    }
}

/// A connection to key-value as lines of JSON.
pub struct Lines(BufReader<TcpStream>);

impl Lines {
    /// To this address.
    pub fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a line, and answers the one that answers it.
    pub fn line(&mut self, line: &str) -> Result<Value> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        ensure!(self.0.read_line(&mut answer)? > 0, "the connection has ended");
        serde_json::from_str(&answer).with_context(|| answer.clone())
    }

    /// The same, of JSON.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        self.line(&request.to_string())
    }

    /// Has the other end closed it, within this time?
    pub fn is_closed(&mut self, within: Duration) -> Result<bool> {
        self.0.get_mut().set_read_timeout(Some(within))?;
        match self.0.fill_buf() {
            Ok(some) => Ok(some.is_empty()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(_) => Ok(true),
        }
    }
}
