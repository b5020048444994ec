//! Promise: doors stay within bounds under load. A thousand who trickle keep nobody out and cost little memory, and come to
//! their end; who comes beyond the bound is served as soon as somebody of less use can go; gigabytes go in by each door
//! through little memory; and a hundred who put, get and break off at once find whole objects alone, of the right MD5.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use md5::{Digest, Md5};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statvfs::statvfs;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{Answer, Door, answer, free_address};
use tests::process::{PATIENCE, bounded, wait_until};
use tests::seed::{Seed, content, first_difference};

/// What the process may take, mount and doors together, in bytes: as in `memory.rs`.
const MOST: u64 = 512 << 20;
/// Connections of a door at once: docs/bounds.md.
const LIMIT: usize = 1024;
/// Those of them that trickle.
const SLOW: usize = 1000;
/// How often each of those goes on, and by how many bytes that it reads, or writes: it would take a minute and more.
const PACE: Duration = Duration::from_millis(50);
const READ: usize = 2000;
const GIVEN: usize = 20;
/// Bytes of what slow ones read, and of what each of them writes.
const LARGE: usize = 64 << 20;
const WRITTEN: usize = 40_000;

/// A mounted volume, with its doors.
struct Site {
    demo: Demo,
    http: Door,
    s3: Door,
}

impl Site {
    fn start() -> Result<Self> {
        let (http, s3) = (free_address()?, free_address()?);
        let demo_arguments = ["--http", &http, "--s3", &s3].map(str::to_owned).to_vec();
        let demo = Demo::start(Setup { demo_arguments, ..Setup::new(Mode::Embedded) })?;
        let site = Self { demo, http: Door::at(&http), s3: Door::at(&s3) };
        site.s3.put("/bucket", b"")?.expect(200)?;
        Ok(site)
    }

    fn small_enough(&self, doing: &str) -> Result<()> {
        let peak = self.demo.peak_memory()?[&None];
        println!("{doing}: {} MiB of memory at most", peak >> 20);
        ensure!(peak < MOST, "{doing}: {} MiB of memory", peak >> 20);
        Ok(())
    }

    fn connections(&self, least: usize) -> Result<()> {
        let least = u32::try_from(least)?;
        wait_until(&format!("{least} connections"), PATIENCE, || {
            let open = self.http.metric("ashlar_door_connections");
            open.is_ok_and(|open| open >= f64::from(least))
        })
    }
}

/// As many open files as may be. `false`: not enough for a thousand connections, in the server as here.
fn many_files() -> Result<bool> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let enough = hard >= 4 * LIMIT as u64;
    if !enough {
        eprintln!(
            "NOT TESTED: {hard} files may be open here, which are too few for {LIMIT} connections"
        );
    }
    Ok(enough)
}

/// Somebody whose request is under way, and goes on a little at a time.
enum Slow {
    Reads(TcpStream),
    Writes { stream: TcpStream, path: String, body: Vec<u8>, sent: usize },
}

impl Slow {
    /// Every other one reads.
    fn begin(door: &Door, number: usize) -> Result<Self> {
        if number.is_multiple_of(2) {
            let mut stream = door.begin("GET", "/refs/large", &[])?;
            stream.read_exact(&mut [0])?;
            stream.set_nonblocking(true)?;
            return Ok(Self::Reads(stream));
        }
        let (path, body) = (format!("refs/slow-{number}"), content(number as u64, WRITTEN));
        let len = WRITTEN.to_string();
        let mut stream = door.begin("POST", &format!("/{path}"), &[("Content-Length", &len)])?;
        stream.write_all(&body[..GIVEN])?;
        stream.set_nonblocking(true)?;
        Ok(Self::Writes { stream, path, body, sent: GIVEN })
    }

    fn go_on(&mut self) -> Result<()> {
        let went = match self {
            Self::Reads(stream) => stream.read(&mut [0; READ]),
            // The end is for [`Slow::finish`].
            Self::Writes { sent, .. } if *sent + GIVEN >= WRITTEN => return Ok(()),
            Self::Writes { stream, body, sent, .. } => {
                let went = stream.write(&body[*sent..*sent + GIVEN]);
                *sent += went.as_ref().unwrap_or(&0);
                went
            }
        };
        match went {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            went => ensure!(went? > 0, "one who is slow was cut off"),
        }
        Ok(())
    }

    /// Does the rest at once. Who reads breaks off.
    fn finish(self, site: &Site) -> Result<()> {
        let Self::Writes { mut stream, path, body, sent } = self else { return Ok(()) };
        stream.set_nonblocking(false)?;
        stream.write_all(&body[sent..])?;
        answer(stream, "POST")?.expect(201)?;
        ensure!(fs::read(site.demo.file(&path))? == body, "{path} has other bytes");
        Ok(())
    }
}

/// Many of them, who go on until the end.
struct Trickle {
    begun: Sender<Slow>,
    thread: JoinHandle<Result<Vec<Slow>>>,
}

impl Trickle {
    fn start() -> Self {
        let (begun, came) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (mut all, mut last) = (Vec::new(), Instant::now());
            loop {
                match came.recv_timeout(PACE) {
                    Ok(one) => all.push(one),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(all),
                }
                if last.elapsed() >= PACE {
                    all.iter_mut().try_for_each(Slow::go_on)?;
                    last = Instant::now();
                }
            }
        });
        Self { begun, thread }
    }

    fn add(&self, door: &Door, numbers: impl Iterator<Item = usize>) -> Result<()> {
        for number in numbers {
            let sent = self.begun.send(Slow::begin(door, number)?);
            sent.ok().context("one who is slow was cut off")?;
        }
        Ok(())
    }

    /// All of them, none of whom was cut off.
    fn end(self) -> Result<Vec<Slow>> {
        drop(self.begun);
        self.thread.join().expect("no panic")
    }
}

#[test]
fn a_thousand_who_trickle_keep_nobody_out() -> Result<()> {
    if !can_mount() || !many_files()? {
        return Ok(());
    }
    let mut site = Site::start()?;
    let large = content(1, LARGE);
    site.http.post("/refs/large", &large)?.expect(201)?;
    site.http.post("/refs/quick", b"quick")?.expect(201)?;
    let slow = Trickle::start();
    slow.add(&site.http, 0..SLOW)?;
    site.connections(SLOW)?;

    // Others are served meanwhile, by each door.
    let since = Instant::now();
    ensure!(site.http.get("/refs/quick")?.expect(200)?.body == b"quick");
    site.http.put("/kv/0/a", b"b")?.expect(204)?;
    site.http.put("/api/v1/content/file", b"c")?.expect(201)?;
    site.s3.put("/bucket/a", b"d")?.expect(200)?;
    fs::write(site.demo.file("by the mount"), b"e")?;
    println!("five of the others took {:?}", since.elapsed());
    ensure!(site.http.get("/refs/large")?.expect(200)?.body == large, "a whole of it, beside");

    beyond_the_bound(&site, &slow)?;
    for one in slow.end()? {
        one.finish(&site)?;
    }
    site.small_enough("a thousand who trickle")?;
    wait_until("all who were slow to be gone", PATIENCE, || {
        site.http.metric("ashlar_door_connections").is_ok_and(|open| open <= 2.0)
    })?;
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

/// A connection that was of use, and has nothing under way.
fn idle(door: &Door) -> Result<TcpStream> {
    let stream = TcpStream::connect(&door.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let host = &door.address;
    (&stream).write_all(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let (mut reader, mut line) = (BufReader::new(&stream), String::new());
    while line != "alive\n" {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "an answer that breaks off");
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// With [`SLOW`] who are at work: those with nothing under way go for who comes, and where there are none left, who comes
/// waits until somebody has ended. All who fill the door read: they have an answer's first byte, so each has his place.
fn beyond_the_bound(site: &Site, slow: &Trickle) -> Result<()> {
    const IDLE: usize = 4;
    slow.add(&site.http, (0..LIMIT - SLOW - IDLE).map(|number| 2 * number))?;
    let kept = (0..IDLE).map(|_| idle(&site.http)).collect::<Result<Vec<_>>>()?;
    let here = |stream: &&TcpStream| {
        let mut stream = *stream;
        stream.read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    };
    ensure!(site.http.get("/refs/quick")?.expect(200)?.body == b"quick");
    let last = (0..IDLE).map(|number| Slow::begin(&site.http, 2 * number));
    let mut last = last.collect::<Result<Vec<_>>>()?;
    ensure!(kept.iter().filter(here).count() == 0, "somebody idle has a place, and others came");

    let door = site.http.clone();
    let waiting = std::thread::spawn(move || door.get("/refs/quick"));
    last.iter_mut().try_for_each(Slow::go_on)?;
    ensure!(!waiting.is_finished(), "one more than may be was served");
    drop(last);
    let got = bounded("who waits for a place", 2 * PATIENCE, move || waiting.join())?;
    ensure!(got.expect("no panic")?.expect(200)?.body == b"quick");
    Ok(())
}

/// Bytes of a body that are sent at once: each begins with its number, and goes on as all the others do.
const BLOCK: usize = 1 << 20;

fn blocks(len: u64) -> impl Iterator<Item = Vec<u8>> {
    let pattern = content(7, BLOCK);
    (0..len / BLOCK as u64).map(move |number| {
        let mut block = pattern.clone();
        block[..8].copy_from_slice(&number.to_le_bytes());
        block
    })
}

/// Sends a body that nobody has in memory.
fn send(door: &Door, method: &str, path: &str, len: u64) -> Result<Answer> {
    let said = len.to_string();
    let mut stream = door.begin(method, path, &[("Content-Length", &said)])?;
    for block in blocks(len) {
        stream.write_all(&block)?;
    }
    answer(stream, method)
}

/// Reads it again, without having it in memory.
fn read_again(door: &Door, path: &str, len: u64) -> Result<()> {
    let mut reader = BufReader::new(door.begin("GET", path, &[])?);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "{path}: the answer breaks off");
    }
    let mut read = vec![0; BLOCK];
    for (number, block) in blocks(len).enumerate() {
        reader.read_exact(&mut read).with_context(|| format!("{path}: block {number}"))?;
        ensure!(read == block, "{path}: other bytes in block {number}");
    }
    ensure!(reader.read(&mut read)? == 0, "{path}: there is more of it");
    Ok(())
}

#[test]
fn gigabytes_go_in_by_each_door_through_little_memory() -> Result<()> {
    const MUCH: u64 = 4 << 30;
    const LESS: u64 = 512 << 20;
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start()?;
    let disk = statvfs(&site.demo.directory())?;
    // Half as much again for parity, and room for what is not cleaned yet.
    if disk.blocks_available() * disk.fragment_size() < 3 * MUCH {
        eprintln!("NOT TESTED: uploads of 4 GiB, for want of 12 GiB on the disk");
        return Ok(());
    }
    for (door, method, path, len, status) in [
        (&site.http, "PUT", "/api/v1/content/much", MUCH, 201),
        (&site.http, "POST", "/refs/less", LESS, 201),
        (&site.s3, "PUT", "/bucket/less", LESS, 200),
    ] {
        let since = Instant::now();
        send(door, method, path, len)?.expect(status)?;
        println!("{} MiB by {path} in {:?}", len >> 20, since.elapsed());
        site.small_enough(path)?;
        site.demo.goes_on();
    }
    read_again(&site.http, "/refs/less", LESS)?;
    read_again(&site.s3, "/bucket/less", LESS)?;
    // Of the largest, pieces of what the mount has of it.
    let file = File::open(site.demo.file("much"))?;
    ensure!(file.metadata()?.len() == MUCH, "{:?}", file.metadata()?);
    let mut read = vec![0; BLOCK];
    for (number, block) in blocks(MUCH).enumerate().step_by(97) {
        file.read_exact_at(&mut read, (number * BLOCK) as u64)?;
        ensure!(read == block, "other bytes in block {number}");
    }
    site.small_enough("all of it, and reading")?;
    drop(file);
    site.demo.stop(Stop::Umount).context("it ends as ever")
}

fn md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a client of the hundred puts: so many bytes, which tell which they are.
fn stamped(stamp: u64, len: usize) -> Vec<u8> {
    let mut bytes = content(stamp, len + 8);
    bytes[..8].copy_from_slice(&stamp.to_le_bytes());
    bytes
}

fn is_whole(bytes: &[u8]) -> Result<()> {
    let stamp = bytes.first_chunk().context("shorter than any that was put")?;
    let wrong = first_difference(u64::from_le_bytes(*stamp), 8, &bytes[8..]);
    ensure!(wrong.is_none(), "a mixture, at {wrong:?}");
    Ok(())
}

/// Puts, gets and breaks off, at the name of all or at its own.
fn one_of_a_hundred(door: &Door, place: (&str, &str), worker: u64, mut seed: Seed) -> Result<()> {
    let (method, folder) = place;
    for round in 0..4 {
        let len = 1 + usize::try_from(seed.below(200_000))?;
        let same = seed.chance(50);
        let path = if same { format!("{folder}same") } else { format!("{folder}own-{worker}") };
        let bytes = stamped(worker * 100 + round, len);
        if seed.chance(30) {
            let said = (bytes.len() + 1 + usize::try_from(seed.below(1000))?).to_string();
            let mut stream = door.begin(method, &path, &[("Content-Length", &said)])?;
            stream.write_all(&vec![255; len])?;
            continue;
        }
        let put = door.ask(method, &path, &[], &bytes)?;
        ensure!(matches!(put.status, 200 | 201), "{path}: {put:?}");
        let got = door.get(&path)?.expect(200)?;
        is_whole(&got.body).with_context(|| path.clone())?;
        ensure!(same || md5(&got.body) == md5(&bytes), "{path} is another's");
        if method == "PUT" {
            ensure!(put.headers["etag"] == format!("\"{}\"", md5(&bytes)), "{path}: the tag");
            ensure!(got.headers["etag"] == format!("\"{}\"", md5(&got.body)), "{path}: the tag");
        }
    }
    Ok(())
}

#[test]
fn a_hundred_by_refs_and_s3_at_once_find_what_is_whole() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start()?;
    let mut seed = Seed::announced("door load");
    let workers = (0..100u64).map(|worker| {
        let by_refs = worker.is_multiple_of(2);
        let (door, place) = match by_refs {
            true => (site.http.clone(), ("POST", "/refs/")),
            false => (site.s3.clone(), ("PUT", "/bucket/")),
        };
        let seed = seed.fork();
        std::thread::spawn(move || one_of_a_hundred(&door, place, worker, seed))
    });
    let workers: Vec<_> = workers.collect();
    bounded("a hundred clients", 4 * PATIENCE, move || {
        workers.into_iter().try_for_each(|one| one.join().expect("no panic"))
    })??;
    for folder in ["refs", "bucket"] {
        let mut left = BTreeSet::new();
        for entry in fs::read_dir(site.demo.file(folder))? {
            let entry = entry?;
            is_whole(&fs::read(entry.path())?).with_context(|| format!("{:?}", entry.path()))?;
            left.insert(entry.file_name().to_string_lossy().into_owned());
        }
        left.retain(|name| name != "same" && !name.starts_with("own-"));
        ensure!(left.is_empty(), "left over in {folder}: {left:?}");
    }
    site.small_enough("a hundred at once")?;
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}
