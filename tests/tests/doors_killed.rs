//! Promise: the process that serves a volume may be killed in the middle of what comes in, by whatever door: what was answered is there
//! and whole, what was replaced in part is as it was, and nothing else is. Embedded, and with two of eight daemons killed all the while.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Error, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{Door, Lines, free_address};
use tests::process::{PATIENCE, bounded, wait_until};
use tests::seed::Seed;
use tests::stored::Stored;

/// Who send by one door at once.
const WORKERS: u64 = 4;
/// Longest of what they send, in bytes, or nearly so.
const LONGEST: u64 = 600 << 10;
/// Answers after which it is killed: so many, and up to so many more.
const ANSWERS: u64 = 12;
/// What is replaced: its name, and what it was before.
const OVER: &str = "over";
const BEFORE: Stored = Stored { stamp: 1, len: 100_000 };
/// What is under way when it is killed, of which three quarters were sent.
const HALF: Stored = Stored { stamp: 2, len: 4 << 20 };
/// The daemons that are killed.
const AWAY: [usize; 2] = [1, 6];

/// A way in.
#[derive(Clone, Copy, Debug)]
enum Way {
    Refs,
    Keys,
    Lines,
    Content,
    Pieces,
    S3,
    Dav,
}

impl Way {
    const ALL: [Self; 7] =
        [Self::Refs, Self::Keys, Self::Lines, Self::Content, Self::Pieces, Self::S3, Self::Dav];

    /// Where on the mount is what comes in by it.
    fn folder(self) -> &'static str {
        match self {
            Self::Refs => "refs",
            Self::Keys => "kv/1",
            Self::Lines => "kv/2",
            Self::Content => "content",
            Self::Pieces => "pieces",
            Self::S3 => "bucket",
            Self::Dav => "dav",
        }
    }

    /// The method and the address by which a file of this name is sent as a whole.
    fn request(self, name: &str) -> (&'static str, String) {
        let folder = self.folder();
        match self {
            Self::Refs => ("POST", format!("/refs/{name}")),
            Self::Keys | Self::Lines => ("PUT", format!("/{folder}/{name}")),
            Self::Content | Self::Pieces => ("PUT", format!("/api/v1/content/{folder}/{name}")),
            Self::S3 => ("PUT", format!("/{folder}/{name}")),
            Self::Dav => ("PUT", format!("/dav/{folder}/{name}")),
        }
    }
}

/// All doors.
#[derive(Clone)]
struct Doors {
    http: Door,
    s3: Door,
    kv: String,
}

impl Doors {
    fn of(&self, way: Way) -> &Door {
        if matches!(way, Way::S3) { &self.s3 } else { &self.http }
    }

    /// Sends a file, and waits for the answer.
    fn put(&self, way: Way, name: &str, bytes: &[u8]) -> Result<()> {
        match way {
            Way::Lines => {
                let said = Lines::connect(&self.kv)?.ask(&line(name, bytes))?;
                ensure!(said == json!({"ok": true}), "{name}: {said}");
            }
            Way::Pieces => {
                let upload = self.begin(name, bytes.len())?;
                let half = bytes.len() / 2;
                for (offset, piece) in [(0, &bytes[..half]), (half, &bytes[half..])] {
                    let path = format!("{upload}?offset={offset}");
                    self.http.ask("PATCH", &path, &[], piece)?.expect(200)?;
                }
                self.http.post(&format!("{upload}/finish"), b"")?.expect(201)?;
            }
            _ => {
                let (method, path) = way.request(name);
                let put = self.of(way).ask(method, &path, &[], bytes)?;
                ensure!(matches!(put.status, 200 | 201 | 204), "{path}: {put:?}");
            }
        }
        Ok(())
    }

    /// Begins an upload by pieces, which may replace. Answers its address.
    fn begin(&self, name: &str, len: usize) -> Result<String> {
        let folder = Way::Pieces.folder();
        let path = format!("/api/v1/uploads/{folder}/{name}?replace=true&size={len}");
        let begun = self.http.post(&path, b"")?.expect(201)?.json()?;
        Ok(format!("/api/v1/uploads/{}", begun["id"].as_str().context("an id")?))
    }

    /// Sends three quarters of [`HALF`], and leaves it at that.
    fn send_half(&self, way: Way, name: &str) -> Result<TcpStream> {
        let bytes = HALF.bytes();
        let len = bytes.len().to_string();
        let said = [("Content-Length", &*len)];
        let (mut stream, all) = match way {
            Way::Lines => {
                (TcpStream::connect(&self.kv)?, line(name, &bytes).to_string().into_bytes())
            }
            Way::Pieces => {
                let upload = self.begin(name, bytes.len())?;
                (self.http.begin("PATCH", &format!("{upload}?offset=0"), &said)?, bytes)
            }
            _ => {
                let (method, path) = way.request(name);
                (self.of(way).begin(method, &path, &said)?, bytes)
            }
        };
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&all[..all.len() / 4 * 3])?;
        Ok(stream)
    }

    /// Reads it again, by the door that it came in by, or one beside it.
    fn get(&self, way: Way, name: &str) -> Result<Vec<u8>> {
        let (_, path) = way.request(name);
        Ok(self.of(way).get(&path)?.expect(200).with_context(|| path)?.body)
    }
}

/// A put as a line of JSON.
fn line(name: &str, bytes: &[u8]) -> Value {
    json!({
        "operation": "put",
        "database": 2,
        "key": STANDARD.encode(name),
        "value": STANDARD.encode(bytes),
        "encoding": "base64",
    })
}

/// Sends one file after the other, until one is not answered. Answers why.
fn worker(doors: &Doors, way: Way, answered: &Mutex<Vec<Stored>>, seed: &mut Seed) -> Error {
    loop {
        let put = Stored::any(seed, LONGEST).and_then(|one| {
            doors.put(way, &one.name(), &one.bytes())?;
            Ok(one)
        });
        match put {
            Ok(one) => answered.lock().expect("no panic").push(one),
            Err(why) => return why,
        }
    }
}

/// Many send by a door, and the process is killed. What it had answered.
fn killed(demo: &mut Demo, doors: &Doors, way: Way, seed: &mut Seed) -> Result<Vec<Stored>> {
    doors.put(way, OVER, &BEFORE.bytes())?;
    let halves = [doors.send_half(way, OVER)?, doors.send_half(way, &HALF.name())?];
    let answered = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<JoinHandle<Error>> = (0..WORKERS)
        .map(|_| {
            let (doors, answered, mut seed) = (doors.clone(), answered.clone(), seed.fork());
            std::thread::spawn(move || worker(&doors, way, &answered, &mut seed))
        })
        .collect();
    let goal = usize::try_from(ANSWERS + seed.below(ANSWERS))?;
    let count = || answered.lock().expect("no panic").len();
    wait_until("uploads", 2 * PATIENCE, || {
        workers.iter().any(JoinHandle::is_finished) || count() >= goal
    })?;
    let too_soon = count() < goal;
    demo.kill_mount()?;
    let reasons: Vec<Error> = bounded("clients of a door that is gone", PATIENCE, move || {
        workers.into_iter().map(|one| one.join().expect("no panic")).collect()
    })?;
    if too_soon {
        bail!("it was refused before it was killed: {reasons:?}");
    }
    drop(halves);
    let all = answered.lock().expect("no panic").clone();
    Ok(all)
}

/// What was answered is there, and nothing but that and what nobody has heard the answer of, all of it whole.
fn is_there(demo: &Demo, doors: &Doors, way: Way, answered: &[Stored]) -> Result<()> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(demo.file(way.folder()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_what = if name == OVER { BEFORE } else { Stored::of_name(&name)? };
        is_what.is_whole(&fs::read(demo.file(way.folder()).join(&name))?)?;
        found.insert(name);
    }
    ensure!(!found.contains(&HALF.name()), "what was sent in part is there");
    for name in answered.iter().map(|one| one.name()).chain([OVER.to_owned()]) {
        ensure!(found.contains(&name), "{name} was answered, and is gone");
    }
    let unheard = found.len() - answered.len() - 1;
    ensure!(unheard as u64 <= WORKERS, "{unheard} are there that nobody was answered for");
    for one in answered.iter().step_by(5) {
        one.is_whole(&doors.get(way, &one.name())?)?;
    }
    BEFORE.is_whole(&doors.get(way, OVER)?)?;
    println!("{way:?}: {} answered, {} there", answered.len(), found.len());
    Ok(())
}

/// kill -9 of those that are to be away.
fn keep_away(demo: &mut Demo, away: &[usize]) -> Result<()> {
    away.iter().try_for_each(|disk| demo.kill_daemon(*disk))
}

fn killed_in_the_middle_of_uploads(mode: Mode, away: &[usize]) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("doors killed");
    let (http, s3, kv) = (free_address()?, free_address()?, free_address()?);
    let words = ["--http", &http, "--s3", &s3, "--kv", &kv].map(str::to_owned).to_vec();
    let (mount_arguments, demo_arguments) = (words.clone(), words);
    let mut demo = Demo::start(Setup { mount_arguments, demo_arguments, ..Setup::new(mode) })?;
    let doors = Doors { http: Door::at(&http), s3: Door::at(&s3), kv };
    for way in [Way::Content, Way::Pieces, Way::S3, Way::Dav] {
        fs::create_dir(demo.file(way.folder()))?;
    }
    File::open(demo.path())?.sync_all()?;
    keep_away(&mut demo, away)?;
    let mut all = Vec::new();
    for way in Way::ALL {
        let answered =
            killed(&mut demo, &doors, way, &mut seed).with_context(|| format!("{way:?}"))?;
        // Daemons that are away are started again by a mount.
        demo.mount()?;
        keep_away(&mut demo, away)?;
        is_there(&demo, &doors, way, &answered).with_context(|| format!("{way:?}"))?;
        all.push((way, answered));
        demo.goes_on();
    }
    let mut top: Vec<_> = fs::read_dir(demo.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    top.sort();
    ensure!(top == ["bucket", "content", "dav", "kv", "pieces", "refs"], "left over: {top:?}");

    // The same after an end in good order.
    demo.remount()?;
    for (way, answered) in &all {
        is_there(&demo, &doors, *way, answered).with_context(|| format!("{way:?} at the end"))?;
    }
    demo.stop(Stop::Umount)?;
    demo.switch(Mode::Embedded)?;
    demo.fsck()
}

#[test]
fn killed_in_the_middle_of_uploads_embedded() -> Result<()> {
    killed_in_the_middle_of_uploads(Mode::Embedded, &[])
}

#[test]
fn killed_in_the_middle_of_uploads_with_two_of_eight_daemons_killed() -> Result<()> {
    killed_in_the_middle_of_uploads(Mode::Served, &AWAY)
}
