//! Promise: whatever machines, disks, networks and leaders do, what was acknowledged is there, nothing else is, and it
//! all becomes whole again. Real code, simulated time, network and storage; the same seed does the same.
//!
//! Each seed runs in a process of its own, so that nothing is left over from another. `ASHLAR_SEEDS` says how many are
//! tried, `ASHLAR_SEED` from which on.

#![allow(clippy::unwrap_used)] // it is a test throughout

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simulation::ambient::simulate;
use simulation::journal;
use simulation::world::{self, Ended};

/// Seeds of every change.
const SEEDS: u64 = 2000;
/// A run takes a tenth of a second. One that takes so long waits for something that never comes.
const STANDS_STILL: Duration = Duration::from_secs(300);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What stands for one seed, in this process.
fn ended(seed: u64, shown: bool) -> Ended {
    let simulated = move || {
        simulate(seed);
        // Whoever panics, and whoever takes no notice of that: the run ends here. But redb panics at pages that a disk
        // has made up, and disks are prepared for that.
        std::panic::set_hook(Box::new(move |why| {
            if why.location().is_some_and(|at| at.file().contains("/redb-")) {
                return;
            }
            let traced = std::backtrace::Backtrace::capture();
            println!("seed {seed}: {}\n{traced}", why.to_string().replace('\n', " "));
            std::process::exit(1);
        }));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        // One in four is of metadata.
        runtime.block_on(async {
            match seed % 4 {
                0 => journal::run(seed, shown).await,
                _ => world::run(seed, shown).await,
            }
        })
    };
    std::thread::Builder::new().stack_size(8 << 20).spawn(simulated).unwrap().join().unwrap()
}

/// Runs one seed, as `tools/simulate --seed N` does. Without a seed there is nothing to do.
#[test]
fn one_seed() {
    let Some(seed) = number("ASHLAR_ONE_SEED") else { return };
    // Not simulated: a run that stands still in simulated time is ended.
    std::thread::spawn(move || {
        std::thread::sleep(STANDS_STILL);
        println!("seed {seed}: has not ended after {STANDS_STILL:?}");
        std::process::exit(1);
    });
    let Ended { trace, events } = ended(seed, std::env::var_os("ASHLAR_SHOWN").is_some());
    println!("seed {seed}: {events} events, trace {trace:016x}");
}

/// The last line of a seed's own process, and whether all was well.
fn apart(seed: u64) -> (String, bool) {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own)
        .args(["one_seed", "--exact", "--nocapture", "--test-threads=1"])
        .env("ASHLAR_ONE_SEED", seed.to_string())
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.contains(&format!("seed {seed}: ")));
    let line = line.map(|line| line[line.find("seed ").unwrap()..].to_owned());
    let panic = String::from_utf8_lossy(&output.stderr).into_owned();
    (line.unwrap_or(panic), output.status.success())
}

#[test]
fn the_same_seed_does_the_same() {
    for seed in [1, 2, 3, 4, 8] {
        let (first, well) = apart(seed);
        assert!(well, "{first}");
        assert_eq!(first, apart(seed).0);
    }
    assert_ne!(apart(4).0.split("trace").last(), apart(5).0.split("trace").last());
}

#[test]
fn many_seeds() {
    let (first, count) =
        (number("ASHLAR_SEED").unwrap_or(1), number("ASHLAR_SEEDS").unwrap_or(SEEDS));
    println!("{count} seeds from {first} on (ASHLAR_SEEDS, ASHLAR_SEED)");
    let (next, began) = (AtomicU64::new(first), Instant::now());
    let failed = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.lock().unwrap().len() >= 10 {
                        return;
                    }
                    let (said, well) = apart(seed);
                    if !well {
                        failed.lock().unwrap().push((seed, said));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    for (seed, said) in &failed {
        println!("{said}\n    again: tools/simulate --seed {seed}");
    }
    let took: Duration = began.elapsed();
    println!("{count} seeds in {took:.1?}");
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
}
