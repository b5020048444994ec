//! Promise: two of eight disks go away while files come in and go out by the API, as the page sends them, and by S3, and nobody
//! notices. With a third one gone what cannot be done is refused in a sentence, in bounded time; nothing that was acknowledged
//! is lost, nothing is there in part, and all is well when they are back.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{Answer, Door, free_address};
use tests::process::{PATIENCE, bounded, wait_until};
use tests::seed::Seed;
use tests::stored::Stored;

/// Who use the doors at once.
const WORKERS: u64 = 6;
/// Longest of what is sent, in bytes.
const LONGEST: u64 = 400 << 10;
/// What is stored before three go away: some of it has parts on all of these.
const BEFORE: u64 = 60;
/// Longer than anything may take of which nobody is to notice that disks are away: some of it is three requests, all of them durable.
const UNNOTICED: Duration = Duration::from_secs(20);
/// After this what cannot be done must have been refused.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// The volume cannot do it at present, and says so.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {}", self.0)
    }
}

impl std::error::Error for Refused {}

/// The answer, if it has this status; a refusal has a sentence, and says when to try again.
fn accepted(answer: Answer, status: u16) -> Result<Answer> {
    if answer.status == status {
        return Ok(answer);
    }
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let has_sentence = ["\"message\":\"", "<Message>"].iter().any(|word| text.contains(word));
    let is_clear = has_sentence && answer.headers.contains_key("retry-after");
    ensure!(answer.status == 503 && is_clear, "{} instead of {status}: {text}", answer.status);
    Err(Refused(text).into())
}

/// What stands between these, first.
fn between(text: &[u8], begin: &str, end: &str) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0.to_owned())
}

/// Both doors, and what was acknowledged by them.
#[derive(Clone)]
struct Doors {
    http: Door,
    s3: Door,
    stored: Arc<Mutex<Vec<Stored>>>,
}

impl Doors {
    /// Sends a file, in one of four ways.
    fn put(&self, way: u64, one: Stored) -> Result<()> {
        let (bytes, name) = (one.bytes(), one.name());
        let path = format!("/api/v1/content/away/{name}");
        match way {
            0 => drop(accepted(self.http.put(&path, &bytes)?, 201)?),
            1 => self.by_pieces(&name, &bytes)?,
            2 => drop(accepted(self.s3.put(&format!("/away/{name}"), &bytes)?, 200)?),
            _ => self.by_parts(&name, &bytes)?,
        }
        self.stored.lock().expect("no panic").push(one);
        Ok(())
    }

    /// As the page sends what is large.
    fn by_pieces(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = format!("/api/v1/uploads/away/{name}?size={}", bytes.len());
        let begun = accepted(self.http.post(&path, b"")?, 201)?.json()?;
        let upload = format!("/api/v1/uploads/{}", begun["id"].as_str().context("an id")?);
        let send = || {
            let half = bytes.len() / 2;
            for (offset, piece) in [(0, &bytes[..half]), (half, &bytes[half..])] {
                let path = format!("{upload}?offset={offset}");
                accepted(self.http.ask("PATCH", &path, &[], piece)?, 200)?;
            }
            accepted(self.http.post(&format!("{upload}/finish"), b"")?, 201)
        };
        let sent = send();
        if sent.is_err() {
            // There is room for so many.
            let _given_up = self.http.delete(&upload);
        }
        sent.map(drop)
    }

    fn by_parts(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let object = format!("/away/{name}");
        let begun = accepted(self.s3.post(&format!("{object}?uploads"), b"")?, 200)?;
        let id = between(&begun.body, "<UploadId>", "<").context("an id")?;
        let part = format!("{object}?partNumber=1&uploadId={id}");
        let part = accepted(self.s3.put(&part, bytes)?, 200)?;
        let tag = part.headers.get("etag").context("a tag")?;
        let list = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part></CompleteMultipartUpload>"
        );
        let complete = format!("{object}?uploadId={id}");
        accepted(self.s3.post(&complete, list.as_bytes())?, 200).map(drop)
    }

    /// Reads it again, by one of the doors. What breaks off is no answer, and no other bytes.
    fn get(&self, by_s3: bool, one: Stored) -> Result<()> {
        let name = one.name();
        let got = match by_s3 {
            true => self.s3.get(&format!("/away/{name}")),
            false => self.http.get(&format!("/api/v1/content/away/{name}")),
        };
        let got = got.map_err(|e| Refused(format!("{e:#}")))?;
        one.is_whole(&accepted(got, 200)?.body)
    }

    /// It is in the list of a door.
    fn list(&self, by_s3: bool, one: Stored) -> Result<()> {
        let name = one.name();
        let (got, word) = match by_s3 {
            true => {
                let path = format!("/away?list-type=2&prefix={name}");
                (self.s3.get(&path)?, format!("<Key>{name}</Key>"))
            }
            false => {
                let path = "/api/v1/entries/away?limit=10000";
                (self.http.get(path)?, format!("\"name\":\"{name}\""))
            }
        };
        let listed = accepted(got, 200)?.body;
        let is_there = String::from_utf8_lossy(&listed).contains(&word);
        ensure!(is_there, "{name} was acknowledged, and is in no list");
        Ok(())
    }

    fn any_stored(&self, seed: &mut Seed) -> Option<Stored> {
        let stored = self.stored.lock().expect("no panic");
        let at = seed.below((stored.len() as u64).max(1));
        stored.get(usize::try_from(at).ok()?).copied()
    }

    /// Whatever somebody might do.
    fn step(&self, seed: &mut Seed) -> Result<()> {
        let (does, by_s3) = (seed.below(8), seed.chance(50));
        match (does, self.any_stored(seed)) {
            (4 | 5, Some(one)) => self.get(by_s3, one),
            (6 | 7, Some(one)) => self.list(by_s3, one),
            (way, _) => self.put(way % 4, Stored::any(seed, LONGEST)?),
        }
    }

    fn is_ready(&self) -> bool {
        self.http.get("/readyz").is_ok_and(|ready| ready.status == 200)
    }
}

/// Many who use the doors, until they are told to stop, or something goes wrong.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// `lenient`: some of it may be refused.
    fn start(doors: &Doors, seed: &mut Seed, lenient: bool) -> Self {
        let (stop, done, refused) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicU64>::default(),
            Arc::<AtomicU64>::default(),
        );
        let work = |_: u64| {
            let (doors, mut seed, stop) = (doors.clone(), seed.fork(), stop.clone());
            let (done, refused) = (done.clone(), refused.clone());
            let bound = if lenient { GIVEN_UP } else { UNNOTICED };
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    match doors.step(&mut seed) {
                        Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                        Err(why) if lenient && why.is::<Refused>() => {
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        Err(why) => return Err(why),
                    };
                    let took = begun.elapsed();
                    ensure!(took <= bound, "{took:?} until an answer");
                }
                Ok(())
            })
        };
        let threads = (0..WORKERS).map(work).collect();
        Self { stop, done, refused, threads }
    }

    /// Waits until so many more are done, or, of those that may be, refused.
    fn until(&mut self, what: &str, more: u64, of: fn(&Self) -> u64) -> Result<()> {
        let goal = of(self) + more;
        wait_until(what, 2 * PATIENCE, || {
            let is_over = self.threads.iter().any(JoinHandle::is_finished);
            is_over || of(self) >= goal
        })?;
        if let Some(at) = self.threads.iter().position(JoinHandle::is_finished) {
            self.threads.swap_remove(at).join().expect("no panic")?;
            bail!("somebody has gone home early");
        }
        Ok(())
    }

    fn progress(&mut self, more: u64) -> Result<()> {
        self.until("what is done by doors", more, |load| load.done.load(Ordering::Relaxed))
    }

    /// Ends it. None of it went wrong.
    fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        bounded("whoever uses the doors", 4 * PATIENCE, move || {
            threads.into_iter().try_for_each(|one| one.join().expect("no panic"))
        })??;
        let (done, refused) = (&self.done, &self.refused);
        println!("{done:?} done, {refused:?} refused");
        Ok(())
    }
}

/// Different disks of eight, so many of them.
fn some_disks(count: usize, seed: &mut Seed) -> Vec<usize> {
    let mut all: Vec<usize> = (0..8).collect();
    seed.shuffle(&mut all);
    all.truncate(count);
    all
}

/// Nobody notices.
fn two_go_away(demo: &mut Demo, doors: &Doors, seed: &mut Seed) -> Result<()> {
    let away = some_disks(2, seed);
    println!("{away:?} go away");
    let mut load = Load::start(doors, seed, false);
    load.progress(60)?;
    for disk in &away {
        demo.kill_daemon(*disk)?;
        load.progress(60)?;
    }
    for part in ["/", "/page/page.js", "/api/v1/me", "/api/v1/status"] {
        doors.http.get(part)?.expect(200).context(part)?;
    }
    load.progress(60)?;
    for disk in &away {
        demo.restart_daemon(*disk)?;
        load.progress(30)?;
    }
    load.stop()?;
    demo.all_up(PATIENCE)
}

/// Something of what is stored cannot be read, and whoever asks for it is told.
fn three_go_away(demo: &mut Demo, doors: &Doors, seed: &mut Seed) -> Result<()> {
    for number in 0..BEFORE {
        doors.put(number % 4, Stored::any(seed, LONGEST)?)?;
    }
    // What is in no memory has to be read.
    demo.remount()?;
    wait_until("the doors to be ready", PATIENCE, || doors.is_ready())?;
    let away = some_disks(3, seed);
    println!("{away:?} go away");
    let mut load = Load::start(doors, seed, true);
    load.progress(20)?;
    for disk in &away {
        demo.kill_daemon(*disk)?;
    }
    load.until("something to be refused", 20, |load| load.refused.load(Ordering::Relaxed))?;
    // What comes in is stored all the same: five disks are enough for that.
    doors.http.get("/readyz")?.expect(200)?;
    doors.http.get("/healthz")?.expect(200)?;
    doors.http.get("/")?.expect(200)?;
    for disk in &away {
        demo.restart_daemon(*disk)?;
    }
    demo.all_up(PATIENCE)?;
    wait_until("the doors to be ready again", 2 * PATIENCE, || doors.is_ready())?;
    load.progress(30)?;
    load.stop()
}

/// All that was acknowledged, by each door and the mount; and nothing is there in part.
fn all_is_there(demo: &Demo, doors: &Doors) -> Result<()> {
    let stored = doors.stored.lock().expect("no panic").clone();
    for one in &stored {
        one.is_whole(&fs::read(demo.file("away").join(one.name()))?)?;
        doors.get(true, *one)?;
        doors.get(false, *one)?;
    }
    let mut found = 0;
    for entry in fs::read_dir(demo.file("away"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        Stored::of_name(&name)?.is_whole(&fs::read(demo.file("away").join(&name))?)?;
        found += 1;
    }
    println!("{} acknowledged, {found} there", stored.len());
    Ok(())
}

#[test]
fn disks_go_away_and_come_back_while_the_doors_are_used() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("doors away");
    let (http, s3) = (free_address()?, free_address()?);
    let mount_arguments = ["--http", &http, "--s3", &s3].map(str::to_owned).to_vec();
    let mut demo = Demo::start(Setup { mount_arguments, ..Setup::new(Mode::Served) })?;
    let doors = Doors { http: Door::at(&http), s3: Door::at(&s3), stored: Arc::default() };
    doors.s3.put("/away", b"")?.expect(200)?;
    two_go_away(&mut demo, &doors, &mut seed).with_context(|| demo.said())?;
    demo.goes_on();
    three_go_away(&mut demo, &doors, &mut seed).with_context(|| demo.said())?;
    demo.goes_on();
    let mut load = Load::start(&doors, &mut seed, false);
    load.progress(60)?;
    load.stop()?;
    demo.remount()?;
    wait_until("the doors to be ready", PATIENCE, || doors.is_ready())?;
    all_is_there(&demo, &doors)?;
    demo.stop(Stop::Umount)?;
    demo.switch(Mode::Embedded)?;
    demo.fsck()
}
