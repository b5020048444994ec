//! Promise: whoever connects to a daemon costs it a bounded amount of memory and time, and keeps nobody
//! from their parts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::client::Daemon;
use proto::guests::{UNKNOWN, room_for};
use proto::id::ClientId;
use proto::link::PREFACE;
use proto::link::request::{Hello, Request};

use super::daemon::{Running, address};
use super::*;

/// Connections of strangers.
const STRANGERS: usize = 400;
/// What they may make a daemon grow by.
const GROWTH: u64 = 100 << 20;
/// What a request of a client may take meanwhile.
const LONGEST: Duration = Duration::from_secs(5);
/// Strangers are gone after this.
const GONE: Duration = Duration::from_secs(40);

fn memory(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

fn connect(running: &Running) -> TcpStream {
    TcpStream::connect(&running.address).unwrap()
}

/// A put of the largest part, of which one byte of payload is sent.
fn announced(dir: &Path) -> Vec<u8> {
    let put = Request::Put { key: key(1, 8 << 20), checks: Vec::new(), issuer: None };
    let hello = Hello { client: ClientId::random(), connection: 1 }.frame();
    [&PREFACE[..], &hello, &put.frame(1, address(dir), 8 << 20), b"x"].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Requests of gRPC, each of which announces 8 MiB and sends a byte; the last is cut off in the middle of its
/// headers.
fn announced_by_grpc() -> Vec<u8> {
    let mut headers = vec![0x83, 0x86, 0x04];
    for (before, text) in [
        (&[][..], "/ashlar.storaged.v1.Storaged/Status"),
        (&[0x01], "here"),
        (&[0x0f, 0x10], "application/grpc"),
    ] {
        headers.extend(before);
        headers.push(text.len() as u8);
        headers.extend(text.as_bytes());
    }
    let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    for stream in (1..40).step_by(2) {
        bytes.extend(frame(1, 4, stream, &headers));
        bytes.extend(frame(0, 0, stream, &[0, 0, 0x80, 0, 0, 7]));
    }
    bytes.extend(&frame(1, 4, 41, &headers)[..20]);
    bytes
}

/// A client's put and get go on, for as long as it takes until `done`.
async fn serves_until(running: &Running, path: &Path, first: u64, done: impl Fn() -> bool) {
    let mut number = first;
    loop {
        // A client that has just come, and one that has been there.
        let daemon = Daemon::new(&running.address).unwrap();
        let store: Arc<dyn PartStore> = Arc::new(daemon.slot(address(path)));
        for len in [1 << 20, 20_000, 300] {
            let began = Instant::now();
            let key = key(number, len);
            put(&store, key).await.unwrap();
            assert_eq!(get(&store, key).await.unwrap(), content(key));
            assert!(store.held(key.blob).await.unwrap().parts.len() == 1);
            store.delete(&[key.blob], None).await.unwrap();
            store.forget(&[key.blob], None).await.unwrap();
            assert!(began.elapsed() < LONGEST, "{:?}", began.elapsed());
            number += 1;
        }
        if done() {
            return;
        }
    }
}

/// Is the connection closed, or broken?
fn is_over(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut answer = [0; 4096];
    loop {
        match (&mut &*stream).read(&mut answer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_announces_much_and_sends_little_costs_little_and_has_to_leave() {
    assert!(room_for(2 * STRANGERS) >= STRANGERS, "the test needs file descriptors");
    let dir = fresh();
    let path = dir.path().join("d");
    let running = Running::start(&[&path]);
    serves_until(&running, &path, 1, || true).await;
    let before = memory(&running);
    let began = Instant::now();
    let says = |n: usize| match n {
        0 => announced(&path),
        1 => announced_by_grpc(),
        2 => PREFACE[..1].to_vec(),
        3 => Vec::new(),
        4 => [&PREFACE[..], &[1, 0]].concat(),
        _ => b"PRI * HT".to_vec(),
    };
    let strangers: Vec<TcpStream> = (0..STRANGERS)
        .map(|n| {
            let mut stream = connect(&running);
            // Half of them announce a part, in one way or the other.
            let says = says(if n % 2 == 0 { n / 2 % 2 } else { 2 + n / 2 % 4 });
            let _ = stream.write_all(&says);
            stream
        })
        .collect();
    let highest = Mutex::new(0);
    let all_gone = || {
        let grown = memory(&running).saturating_sub(before);
        let mut highest = highest.lock().unwrap();
        *highest = grown.max(*highest);
        assert!(grown < GROWTH, "grown by {} MiB", grown >> 20);
        let left = strangers.iter().filter(|stream| !is_over(stream)).count();
        assert!(began.elapsed() < GONE, "{left} are still there after {:?}", began.elapsed());
        left == 0
    };
    serves_until(&running, &path, 100, all_gone).await;
    assert!(began.elapsed() >= UNKNOWN / 2, "they were not even heard");
    let highest = *highest.lock().unwrap() >> 20;
    println!("gone after {:?}, at most {highest} MiB more", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_file_descriptors_keep_nobody_out_and_the_log_short() {
    assert!(room_for(2 * STRANGERS) >= STRANGERS, "the test needs file descriptors");
    let dir = fresh();
    let path = dir.path().join("d");
    let mut command = Command::new("sh");
    let few = format!("ulimit -n 128; exec {} \"$@\"", env!("CARGO_BIN_EXE_storaged"));
    command.args(["-c", &few, "storaged", "run", "--listen", "127.0.0.1:0"]);
    let lines = Arc::new(Mutex::new(0));
    let counted = lines.clone();
    let running = Running::run(command, &[&path], move |_| *counted.lock().unwrap() += 1);
    let strangers: Vec<TcpStream> = (0..STRANGERS).map(|_| connect(&running)).collect();
    let began = Instant::now();
    // Numbers are never used twice.
    serves_until(&running, &path, 1, || began.elapsed() > UNKNOWN / 2).await;
    drop(strangers);
    serves_until(&running, &path, 1 << 32, || true).await;
    let lines = *lines.lock().unwrap();
    assert!(lines <= 10, "{lines} lines of log");
}
