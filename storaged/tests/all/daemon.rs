//! The daemon as a process on loopback: what it refuses, and that it stops cleanly.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proto::client::Daemon;
use proto::convert::Address;
use proto::id::{ClientId, DiskId};
use proto::link::frame::{Kind, encode};
use proto::link::request::{Hello, Request};
use proto::rpc::storaged as wire;

use super::*;

pub(crate) fn storaged(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storaged"));
    command.args(args);
    command
}

/// Runs to the end; answers whether it succeeded, and all it printed.
fn finish(args: &[&str]) -> (bool, String) {
    let output = storaged(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A daemon that is killed when the test ends.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Running {
    pub(crate) fn start(disks: &[&Path]) -> Self {
        Self::start_at("127.0.0.1:0", disks)
    }

    pub(crate) fn start_at(address: &str, disks: &[&Path]) -> Self {
        Self::run(storaged(&["run", "--listen", address]), disks, |_| {})
    }

    /// The same by this command, with an eye on what it logs once it is ready.
    pub(crate) fn run(
        mut command: Command,
        disks: &[&Path],
        watch: impl Fn(String) + Send + 'static,
    ) -> Self {
        for disk in disks {
            command.arg("--disk").arg(disk);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.find(|line| line.as_ref().is_ok_and(|l| l.contains("storaged is ready")));
        let ready = ready.expect("the daemon starts").unwrap();
        let address = ready.split("listen=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        // Keep the pipe open, or its next log line would kill the daemon.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(watch));
        Self { child, address }
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ids(dir: &Path) -> (ClusterId, DiskId) {
    let superblock = storaged::superblock::Superblock::read(dir).unwrap();
    (superblock.cluster, superblock.disk)
}

pub(crate) fn address(dir: &Path) -> Address {
    let (cluster, disk) = ids(dir);
    Address { cluster, disk, slot: SlotId(0), group: GroupId(0), generation: Generation(5) }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_survive_a_stop_and_a_kill_of_the_daemon() {
    let dir = fresh();
    let path = dir.path().join("d");
    for round in 0..3u64 {
        let mut running = Running::start(&[&path]);
        let store: Arc<dyn PartStore> =
            Arc::new(Daemon::new(&running.address).unwrap().slot(address(&path)));
        put(&store, key(round, 200_000)).await.unwrap();
        for n in 0..=round {
            assert_eq!(get(&store, key(n, 200_000)).await.unwrap(), content(key(n, 200_000)));
            let range = 70_000..70_010;
            let want = content(key(n, 200_000)).slice(70_000..70_010);
            assert_eq!(store.get(key(n, 200_000), range).await.unwrap(), want);
        }
        let page = store.list(Scope::Session(VolumeId(1), SessionId(1)), None, 9).await.unwrap();
        assert_eq!((page.entries.len(), page.complete), (round as usize + 1, true));
        assert!(store.held(key(0, 200_000).blob).await.unwrap().parts.len() == 1);
        assert!(store.fill().await.unwrap().used > 0);
        if round == 1 {
            running.child.kill().unwrap();
        } else {
            assert!(running.stop(), "a clean stop");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused_by_kind() {
    let dir = fresh();
    let path = dir.path().join("d");
    let running = Running::start(&[&path]);
    let good = address(&path);
    let daemon = Daemon::new(&running.address).unwrap();
    daemon.slot(good).put(key(1, 10), Checked::compute(content(key(1, 10))), None).await.unwrap();
    let wrong = [
        ("cluster", Address { cluster: ClusterId::random(), ..good }),
        ("disk", Address { disk: DiskId::random(), ..good }),
        ("group", Address { group: GroupId(9), ..good }),
    ];
    for (what, to) in wrong {
        let error = daemon.slot(to).held(key(1, 10).blob).await.unwrap_err();
        assert!(matches!(error, PartError::WrongAddress(_)), "{what}: {error:?}");
    }
    let stale = daemon.slot(Address { generation: Generation(4), ..good });
    assert_eq!(stale.held(key(1, 10).blob).await, Err(PartError::StaleGeneration(Generation(5))));

    // What a client of ours would not send; see proto/src/link/request.rs for what it would not even read.
    let mut raw = Raw::connect(&running.address, ClientId::random(), 1).await;
    let key = key(2, 10);
    let checks = proto::checksum::block_checks(&[7; 10]);
    let put = |key, checks: &[u32]| Request::Put { key, checks: checks.to_vec(), issuer: None };
    let other = BlobId::new(VolumeId(1), SessionId(1), 2, GroupId(9), 10, key.blob.scheme());
    let of_another_group = PartKey::new(other.unwrap(), 1).unwrap();
    let puts = [
        ("truncated", put(key, &checks), vec![7; 9]),
        ("empty", put(key, &[]), Vec::new()),
        ("no checks", put(key, &[]), vec![7; 10]),
        ("rotten", put(key, &checks), vec![8; 10]),
        ("oversized", put(key, &checks), vec![7; 8 << 20]),
        ("a blob of another group", put(of_another_group, &checks), vec![7; 10]),
        ("a payload where none belongs", Request::Held(key.blob), vec![7; 10]),
    ];
    for (what, request, payload) in puts {
        let error = raw.ask(good, &request, &payload).await.unwrap_err();
        assert!(matches!(error, PartError::Invalid(_)), "{what}: {error:?}");
    }
    let noise = encode(
        7,
        Kind::Delete,
        &wire::StatusReply { version: "x".into(), ..Default::default() },
        0,
    );
    raw.send(&noise).await;
    let error = raw.answer().await.unwrap().unwrap_err();
    assert!(matches!(error, PartError::Invalid(_)), "{error:?}");
    // After all that it still works.
    assert!(raw.ask(good, &put(key, &checks), &[7; 10]).await.is_ok());
}

#[test]
fn every_wrong_start_is_one_clear_sentence() {
    let dir = fresh();
    let path = dir.path().join("d");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    init_disk(&one, ClusterId::random(), SMALL).unwrap();
    std::fs::create_dir(&two).unwrap();
    std::fs::write(two.join("precious"), "x").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let running = Running::start(&[&one]);
    let bad_config = dir.path().join("bad.toml");
    std::fs::write(&bad_config, "disks = 3").unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (path, one, two, link, bad) =
        (text(&path), text(&one), text(&two), text(&link), text(&bad_config));
    let any = ["--listen", "127.0.0.1:0"];
    let run = |more: &[&str]| finish(&[&["run"], more].concat());
    let cases = [
        (run(&["--disk", &path, "--listen", &port]), "in use"),
        (run(&["--disk", &path, "--disk", &link, any[0], any[1]]), "given twice"),
        (run(&["--disk", &one, any[0], any[1]]), "in use by another process"),
        (run(&["--disk", &path, "--disk", &one, any[0], any[1]]), "belongs to cluster"),
        (run(&["--disk", &two, any[0], any[1]]), "not an ashlar disk"),
        (run(&["--disk", "/nowhere", any[0], any[1]]), "No such file"),
        (run(&any), "no disks"),
        (run(&["--config", &bad]), "unknown field"),
        (run(&["--disk", &path, "--listen", "nonsense"]), "invalid value"),
        (finish(&["disk", "init", &two, "--new-cluster"]), "not empty"),
        (finish(&["disk", "init", &path, "--new-cluster"]), "already"),
        (finish(&["disk", "init", "x"]), "--new-cluster"),
        (finish(&["disk", "info", &two]), "not an ashlar disk"),
        (finish(&["disk", "verify", &one]), "in use"),
        (finish(&["status", "--address", &port]), "storaged: "),
    ];
    for (number, ((succeeded, printed), expected)) in cases.into_iter().enumerate() {
        assert!(!succeeded && printed.contains(expected), "case {number}, {expected}: {printed}");
        assert!(!printed.contains("panicked"), "case {number}: {printed}");
    }
    assert!(running.stop());
}

#[test]
fn the_commands_say_what_is_on_a_disk_and_find_rot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d").to_str().unwrap().to_owned();
    let init = [
        "disk",
        "init",
        &path,
        "--new-cluster",
        "--capacity",
        "64MiB",
        "--block-file",
        "16MiB",
        "--json",
    ];
    let output = storaged(&init).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["disk"], ids(Path::new(&path)).1.to_string());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { put(&slot(&open(dir.path())), key(1, 100_000)).await.unwrap() });
    let blob = key(1, 100_000).blob.to_string();
    for (args, expected) in [
        (vec!["disk", "list", &path], "idle"),
        (vec!["disk", "info", &path], "block files  1"),
        (vec!["disk", "verify", &path], "1 parts"),
        (vec!["parts", "ls", &path], "100000 bytes"),
        (vec!["parts", "stat", &path, &blob], "parts [1]"),
        (vec!["disk", "rebuild-index", &path], "with 1 parts"),
    ] {
        let (good, text) = finish(&args);
        assert!(good && text.contains(expected), "{args:?}: {text}");
        let json = storaged(&args).arg("--json").output().unwrap().stdout;
        let value: Result<serde_json::Value, _> = serde_json::from_slice(&json);
        assert!(value.is_ok(), "{args:?}: {}", String::from_utf8_lossy(&json));
    }
    let mut out = Vec::new();
    let mut get = storaged(&["parts", "get", &path, &blob, "--part", "1"]);
    let mut child = get.stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(child.wait().unwrap().success() && out == content(key(1, 100_000)));
    let file = std::fs::File::options().write(true).open(dir.path().join("d/blocks/00000001"));
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), b"rot", 8192 + 70_000).unwrap();
    let (good, text) = finish(&["disk", "verify", &path]);
    assert!(!good && text.contains("checksum mismatch"), "{text}");
}

/// Waiting for a daemon is bounded even when it is silent.
#[tokio::test]
async fn a_port_that_never_answers_is_given_up_on() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().to_string();
    let asked = tokio::task::spawn_blocking(move || finish(&["status", "--address", &port]));
    let (good, text) = tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap().unwrap();
    assert!(!good && text.contains("storaged: "), "{text}");
}

/// Sends `bytes` over a connection of its own; what the daemon answers until it closes it.
fn said(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The daemon may close before it has read everything: then the rest cannot be sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => panic!("{e}: no end"),
        _ => answer,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_ends_its_connection_and_nothing_else() {
    use proto::link::PREFACE;
    let dir = fresh();
    let path = dir.path().join("d");
    let running = Running::start(&[&path]);
    let daemon = Daemon::new(&running.address).unwrap();
    let store: Arc<dyn PartStore> = Arc::new(daemon.slot(address(&path)));
    put(&store, key(1, 200_000)).await.unwrap();

    let request = wire::GetRequest { to: Some(address(&path).to_wire()), ..Default::default() };
    let good = encode(1, Kind::Get, &request, 0).to_vec();
    let hello = |connection| Hello { client: ClientId::random(), connection }.frame();
    let after = |bytes: &[u8]| [&PREFACE[..], &hello(1), bytes].concat();
    let short = wire::Hello { client: Bytes::from_static(b"me"), connection: 1 };
    let mut flipped = good.clone();
    flipped[25] ^= 1;
    let mut longer = good.clone();
    longer[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let silent = [
        ("nothing", Vec::new()),
        ("another version", b"\xa5ASHLNK1".to_vec()),
        ("a stranger", [&PREFACE[..], &good].concat()),
        ("half a name", [&PREFACE[..], &encode(0, Kind::Hello, &short, 0)].concat()),
        ("somebody else in between", after(&hello(2))),
        ("half a preface", PREFACE[..4].to_vec()),
        ("an answer", after(&encode(1, Kind::Done, &request, 0))),
        ("a flipped bit", after(&flipped)),
        ("a payload without end", after(&longer)),
        ("half a frame", after(&good[..30])),
        (
            "a payload that is cut off",
            after(&[&encode(1, Kind::Put, &request, 99)[..], b"abc"].concat()),
        ),
        ("noise", after(&[0x5a; 4096])),
    ];
    for (what, bytes) in silent {
        assert!(said(&running.address, &bytes).is_empty(), "{what}");
    }
    // Frames that are whole are answered, here by a failure that says why.
    let answer = said(&running.address, &after(&good));
    assert!(String::from_utf8_lossy(&answer).contains("not a blob id"), "{answer:?}");
    let http = said(&running.address, b"GET / HTTP/1.1\r\n\r\n");
    assert!(!http.starts_with(&PREFACE), "that is for the other door");
    assert_eq!(get(&store, key(1, 200_000)).await.unwrap(), content(key(1, 200_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_given_up_leave_the_others_whole() {
    let dir = fresh();
    let path = dir.path().join("d");
    let running = Running::start(&[&path]);
    let daemon = Daemon::new(&running.address).unwrap();
    let store: Arc<dyn PartStore> = Arc::new(daemon.slot(address(&path)));
    let len = 300_001;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..30 {
        let store = store.clone();
        tasks.spawn(async move {
            let putting = put(&store, key(n, len));
            if n % 3 == 0 {
                // Polled once, so that it is on its way, and dropped.
                let _ = futures::FutureExt::now_or_never(putting);
                return;
            }
            putting.await.unwrap();
            let getting = get(&store, key(n, len));
            if n % 3 == 1 {
                let _ = futures::FutureExt::now_or_never(getting);
                return;
            }
            assert_eq!(getting.await.unwrap(), content(key(n, len)));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for n in (0..30).filter(|n| n % 3 != 0) {
        assert_eq!(get(&store, key(n, len)).await.unwrap(), content(key(n, len)), "part {n}");
    }
}

#[test]
fn a_filesystem_is_not_promised_twice() {
    let Some(mounted) = super::mounted::Mounted::new() else { return };
    let init = |name: &str, more: &[&str]| {
        let dir = mounted.path().join(name);
        let mut args = vec!["disk", "init", dir.to_str().unwrap(), "--new-cluster"];
        args.extend(["--block-file", "16MiB", "--json"]);
        args.extend(more);
        let (made, said) = finish(&args);
        let capacity = said.lines().find(|line| line.starts_with('{')).and_then(|line| {
            serde_json::from_str::<serde_json::Value>(line).ok()?["capacity"].as_u64()
        });
        (made, capacity, said)
    };
    let (_, first, said) = init("first", &[]);
    let first = first.expect(&said);
    assert!(first > 150 * MIB && !said.contains("warning"), "{said}");
    let (made, _, said) = init("second", &[]);
    assert!(
        !made
            && said.contains("disks on this filesystem (1) have still")
            && said.contains(&first.to_string()),
        "{said}"
    );
    let (made, second, said) = init("second", &["--capacity", "64MiB"]);
    assert!(made && second == Some(64 * MIB), "{said}");
    assert!(said.contains("warning: ") && said.contains("64.00 MiB of this one"), "{said}");
    let (made, _, said) = init("third", &["--capacity", "1GiB"]);
    assert!(!made && said.contains("are free"), "{said}");
}
