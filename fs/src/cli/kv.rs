//! `ashlar kv`: keys and values of a volume that is served by HTTP, from a shell.
//!
//! It asks the door as any client does, and fails with the word that tells programs what is wrong: `no_such_key: ...`.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use proto::program;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::trust::Tls;
use super::setup::block_on;

mod login;
mod trust;

/// Longest value, in bytes.
const VALUE_MAX: u64 = 16 << 20;
/// Until a door answers that it is there, and until the answer begins.
const CONNECTS: Duration = Duration::from_secs(5);
const ANSWERS: Duration = Duration::from_secs(60);
/// Of an error's explanation.
const EXPLANATION: usize = 64 << 10;

/// Get and put values by key, in numbered databases of a volume that is served
///
/// The volume is served by `ashlar demo`, `ashlar mount --http` or `ashlar serve`; databases do not see each other, and a
/// put is durable when it returns. What goes wrong is one word and a sentence: no_such_key, no_such_database,
/// too_few_disks, not_connected, bad_request, ...
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  ashlar kv put greeting hello\n  ashlar kv get greeting\n  ashlar kv put picture --database 7 < picture.png\n  ashlar kv keys --database 7\n  ashlar kv delete greeting"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Where it is served by HTTP; https://HOST:PORT where it is by TLS
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "ASHLAR_HTTP",
        default_value = "127.0.0.1:7480"
    )]
    at: String,
    /// Number of the database
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    database: u32,
    #[command(flatten)]
    login: login::Args,
    #[command(flatten)]
    trust: trust::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Print a value, as it is
    #[command(after_help = "Example:\n  ashlar kv get greeting")]
    Get {
        /// The key
        key: String,
    },
    /// Put a value; it is durable when this returns
    #[command(
        after_help = "Examples:\n  ashlar kv put greeting hello\n  ashlar kv put picture < picture.png"
    )]
    Put {
        /// The key
        key: String,
        /// The value; else it is read from standard input
        value: Option<String>,
    },
    /// Delete a key
    #[command(after_help = "Example:\n  ashlar kv delete greeting")]
    Delete {
        /// The key
        key: String,
    },
    /// List keys in their order, one a line
    #[command(after_help = "Example:\n  ashlar kv keys --after a --limit 10")]
    Keys {
        /// Begin behind this one
        #[arg(long, value_name = "KEY", default_value = "")]
        after: String,
        /// List no more than so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
}

/// A part of a list of keys.
#[derive(Deserialize)]
struct Page {
    keys: Vec<String>,
    next: Option<String>,
}

/// What is said of what was refused.
#[derive(Deserialize)]
struct Refused {
    error: String,
    message: String,
}

/// A database behind a door.
struct Door {
    at: String,
    database: u32,
    /// Whose requests are.
    login: Option<HeaderValue>,
    /// How it is reached by TLS, where it is.
    tls: Option<Tls>,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let at = args.at.trim_end_matches('/');
    let (at, tls) = match at.strip_prefix("https://") {
        Some(at) => {
            let host = at.rsplit_once(':').map_or(at, |(host, _)| host);
            (at, Some(args.trust.tls(host)?))
        }
        None if args.trust.is_given() => {
            bail!("bad_request: a certificate is for https://: give --at https://{at}")
        }
        None => (at.strip_prefix("http://").unwrap_or(at), None),
    };
    let login = args.login.header()?;
    if login.is_some() && !args.at.contains("://") && !is_this_machine(at) {
        bail!(
            "bad_request: a password or token could be listened to on its way to {at}: give --at https://{at}, or --at http://{at} if that is fine"
        );
    }
    let at = at.to_owned();
    let door = Door { at, database: args.database, login, tls };
    block_on(async {
        match args.command {
            Command::Get { key } => door.get(&key).await,
            Command::Put { key, value } => {
                let value = value.map_or_else(from_stdin, |value| Ok(value.into_bytes()))?;
                if value.len() as u64 > VALUE_MAX {
                    // A door that refuses it does not read it to its end, and its answer may be lost.
                    bail!("too_large: a value has {VALUE_MAX} bytes at most");
                }
                door.ask(Method::PUT, &door.key(&key)?, value).await.map(drop)
            }
            Command::Delete { key } => {
                door.ask(Method::DELETE, &door.key(&key)?, Vec::new()).await.map(drop)
            }
            Command::Keys { after, limit } => door.keys(&after, limit).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Does a connection to there not leave this machine?
fn is_this_machine(at: &str) -> bool {
    let host = at.rsplit_once(':').map_or(at, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn from_stdin() -> Result<Vec<u8>> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(VALUE_MAX + 1).read_to_end(&mut value);
    read.context("reading the value from standard input")?;
    Ok(value)
}

fn encoded(key: &[u8]) -> String {
    percent_encode(key, NON_ALPHANUMERIC).to_string()
}

impl Door {
    fn key(&self, key: &str) -> Result<String> {
        if key.is_empty() {
            bail!("bad_request: an empty key");
        }
        Ok(format!("/kv/{}/{}", self.database, encoded(key.as_bytes())))
    }

    /// Asks, and answers what is not an error.
    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>> {
        let request = Request::builder().method(method).uri(path).header("host", &self.at);
        let request = match &self.login {
            Some(login) => request.header(header::AUTHORIZATION, login),
            None => request,
        };
        let request = request.body(Full::new(Bytes::from(body))).context("bad_request")?;
        let broken = |why: String| anyhow!("not_connected: {}: {why}", self.at);
        let connected = timeout(CONNECTS, TcpStream::connect(&self.at)).await;
        let stream = connected.map_err(|_| broken("it does not answer".to_owned()))?;
        let stream = stream.map_err(|e| broken(e.to_string()))?;
        let mut sender = match &self.tls {
            None => begun(stream).await.map_err(|e| broken(e.to_string()))?,
            Some(tls) => {
                let agreed = timeout(CONNECTS, tls.over(stream)).await;
                let agreed = agreed.map_err(|_| broken("it does not agree on TLS".to_owned()))?;
                let agreed = agreed.map_err(|e| broken(e.to_string()))?;
                begun(agreed).await.map_err(|e| broken(e.to_string()))?
            }
        };
        let answered = timeout(ANSWERS, sender.send_request(request)).await;
        let answer = answered.map_err(|_| broken("no answer comes".to_owned()))?;
        let answer = answer.map_err(|e| broken(e.to_string()))?;
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(refused(answer).await),
        }
    }

    async fn get(&self, key: &str) -> Result<()> {
        let mut body = self.ask(Method::GET, &self.key(key)?, Vec::new()).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("not_connected: the value breaks off")?;
            if let Ok(bytes) = frame.into_data()
                && !program::write(&bytes)?
            {
                break;
            }
        }
        Ok(())
    }

    async fn keys(&self, after: &str, limit: Option<usize>) -> Result<()> {
        let mut left = limit.unwrap_or(usize::MAX);
        let mut next = Some(STANDARD.encode(after));
        while let Some(after) = next.take().filter(|_| left > 0) {
            let path = format!(
                "/kv/{}?encoding=base64&limit={}&after={}",
                self.database,
                left.min(10_000),
                encoded(after.as_bytes())
            );
            let answer = self.ask(Method::GET, &path, Vec::new()).await?;
            let answer = answer.into_body().collect().await.context("not_connected")?.to_bytes();
            let page: Page =
                serde_json::from_slice(&answer).context("an answer of another kind")?;
            let mut lines = Vec::new();
            for key in &page.keys {
                lines.extend(STANDARD.decode(key).context("an answer of another kind")?);
                lines.push(b'\n');
            }
            if !program::write(&lines)? {
                break;
            }
            left = left.saturating_sub(page.keys.len());
            next = page.next;
        }
        Ok(())
    }
}

/// Begins to speak HTTP.
async fn begun(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer; what goes wrong in it is told there.
    tokio::spawn(connection);
    Ok(sender)
}

/// Why it was refused, as the door says.
async fn refused(answer: Response<Incoming>) -> anyhow::Error {
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), EXPLANATION);
    let said = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    match serde_json::from_slice::<Refused>(&said) {
        Ok(Refused { error, message }) => anyhow!("{error}: {message}"),
        Err(_) => anyhow!("not_connected: what answers there is no door of ours ({status})"),
    }
}
