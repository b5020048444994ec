//! One run of metadata: machines that want one volume, over disks and ways that fail, and what each of them finds.
//!
//! Whoever mounts takes the volume from whoever had it, who may not know of it yet, may be killed, or may close it. What
//! either was told is durable is found by all who come later; of what the last one had written besides, a prefix is. A
//! leader that was taken over is told of nothing more that it is durable.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meta::{
    Caller, Directories, MetaError, MetaSettings, MetaStore, MountedBy, NewNode, ProxyStores, ROOT,
    Session, Volume, VolumeInfo, VolumeLock,
};
use proto::id::ClusterId;
use proto::scheme::Scheme;
use proxy::VolumeRules;
use proxy::repair::HealSettings;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::ground::Shape;
use crate::leader::{Books, Leader, VOLUME};
use crate::note;
use crate::site::Site;
use crate::trace::Trace;
use crate::wire::Weather;
use crate::world::Ended;

/// Machines, and the scheme of the volume: there are 2m + 1 at least.
const SHAPES: &[Shape] = &[
    Shape { racks: &[&[1; 5]], scheme: "ec(3,2)" },
    Shape { racks: &[&[1; 3]], scheme: "copies(2)" },
    Shape { racks: &[&[1; 4]], scheme: "ec(2,1)" },
    Shape { racks: &[&[1; 6]], scheme: "ec(4,2)" },
    Shape { racks: &[&[2, 2, 2]], scheme: "ec(4,2)" },
];
/// Who may have the volume: places with a cache of their own.
const PLACES: usize = 2;
/// An attempt to mount is given up after so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Once nothing goes wrong any more, mounting, and making durable, takes no longer.
const BOUND: Duration = Duration::from_secs(120);
/// What repair says is believed when it has had so much time since something changed.
const SETTLES: Duration = Duration::from_secs(10);
/// So long is a machine off whose disk rots: others have its parts by then.
const ROTS: Duration = Duration::from_secs(45);
/// Nor does it take longer until everything is whole again.
const WHOLE: Duration = Duration::from_secs(1800);
const NAME: &str = "volume";
const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

/// Runs a seed to its end, within a runtime whose time is paused. A broken promise ends the process.
pub async fn run(seed: u64, shown: bool) -> Ended {
    let trace = Trace::new(shown);
    let mut run = Run::new(seed, trace.clone());
    run.found().await;
    for _ in 0..run.steps {
        run.step().await;
    }
    run.calm().await;
    run.site.tell();
    drop(std::fs::remove_dir_all(&run.home));
    let (trace, events) = trace.hash();
    Ended { trace, events }
}

/// Something that is being written.
struct Writing {
    number: u64,
    sync: bool,
    since: Instant,
    task: JoinHandle<Written>,
}

/// What came of it: whether it can be seen, and what it was told.
type Written = (bool, Result<(), MetaError>);

/// One that has the volume, as far as it knows.
struct Holder {
    way: Arc<Leader>,
    volume: Arc<Volume>,
    session: Arc<Session>,
    /// What it has written and was not told to be durable, in order.
    pending: Vec<u64>,
    /// What it is writing.
    late: Option<Writing>,
    /// Another has mounted since, or has tried to.
    challenged: bool,
    /// Another has mounted since.
    lost: bool,
}

impl Holder {
    /// What it may have made durable without being told.
    fn unsure(&self) -> Vec<u64> {
        let late = self.late.iter().map(|writing| writing.number);
        self.pending.iter().copied().chain(late).collect()
    }

    /// It is killed.
    fn kill(self) {
        self.late.iter().for_each(|writing| writing.task.abort());
    }
}

struct Run {
    site: Site,
    scheme: Scheme,
    rules: VolumeRules,
    steps: u64,
    home: PathBuf,
    places: [Option<Holder>; PLACES],
    /// Who came to the volume, so far.
    comers: u64,
    /// What was written, so far.
    numbers: u64,
    /// Was acknowledged, or found by whoever mounted it: stays.
    kept: BTreeSet<u64>,
    /// When something was lost last, or somebody else began to repair.
    unsettled: Instant,
    /// Of whoever mounted it last: what it had written besides when it was killed.
    left: Vec<u64>,
}

async fn write(session: Arc<Session>, number: u64, sync: bool) -> Written {
    let name = number.to_string();
    let made = session.create(CALLER, ROOT, name.as_bytes(), 0o644, NewNode::File).await;
    match made {
        Err(why) => (false, Err(why)),
        Ok(_) if sync => (true, session.sync().await),
        Ok(_) => (true, Ok(())),
    }
}

impl Run {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let shape = dice.of(SHAPES);
        let scheme: Scheme = shape.scheme.parse().expect("a scheme");
        let min_spare = dice.below(2).min(scheme.parity_parts() as u64);
        note!(trace, "seed {seed}: metadata on {shape:?}, {min_spare} to spare");
        let steps = 30 + dice.below(50);
        let site = Site::new(seed, dice, trace, &shape, min_spare as usize);
        let rules = site.ground.rules(scheme, min_spare as u8);
        let home = std::env::temp_dir().join(format!("ashlar-{}", std::process::id()));
        Self {
            site,
            scheme,
            rules,
            steps,
            home,
            places: [None, None],
            comers: 0,
            numbers: 0,
            kept: BTreeSet::new(),
            unsettled: Instant::now(),
            left: Vec::new(),
        }
    }

    /// The next one who wants the volume.
    fn comer(&mut self) -> Arc<Leader> {
        self.comers += 1;
        Leader::new(self.comers, &self.site.ground, self.rules, self.site.dice.split())
    }

    fn lock(&self, place: usize) -> Option<VolumeLock> {
        let by = MountedBy { pid: 1, mountpoint: PathBuf::from("/mnt") };
        let dir = self.home.join(place.to_string());
        std::fs::create_dir_all(&dir).expect("there is room for a cache");
        VolumeLock::take(&Directories::only(&dir), NAME, &by).ok()
    }

    async fn found(&mut self) {
        let way = self.comer();
        way.live.current().roll_call(Duration::from_secs(5)).await;
        let founded = way.live.current().found().await;
        note!(self.site.trace, "founded: {founded:?}");
        let cluster = ClusterId::random();
        let info = VolumeInfo {
            name: NAME.to_owned(),
            id: VOLUME,
            cluster,
            scheme: self.scheme,
            rules: self.rules,
        };
        let lock = self.lock(0).expect("nobody has it");
        let stores = ProxyStores::new(way.live.clone());
        let made = meta::format(&stores, &lock, &info, (0, 0, 0o755)).await;
        assert!(made.is_ok(), "nothing is in the way of a new volume: {made:?}");
    }

    async fn step(&mut self) {
        let place = self.site.dice.below(PLACES as u64) as usize;
        match self.site.dice.below(26) {
            0..=9 => self.use_volume(place).await,
            10 => self.leave(place).await,
            11 => self.site.harm_power(),
            12 => self.site.harm_speed(),
            13 => self.site.harm_device(),
            14 => self.harm_ways(place),
            15 => self.lose_disk().await,
            16 => self.site.harm_host(),
            17 => self.site.set_clock(),
            18 => self.swap_disks().await,
            19 => self.rot_away().await,
            20 => self.wipe_disk(),
            _ => self.mend_something(),
        }
        let pause = match self.site.dice.below(10) {
            0 => self.site.dice.below(20_000),
            1..=3 => self.site.dice.below(2000),
            _ => self.site.dice.below(100),
        };
        sleep(Duration::from_millis(pause)).await;
        for place in 0..PLACES {
            self.take_written(place).await;
        }
        if self.rests().is_ok() {
            self.site.restored();
        }
    }

    /// The group has changed: whoever has the volume, or takes itself for it, is told.
    async fn tell_holders(&mut self) {
        for holder in self.places.iter().flatten() {
            holder.way.follow(&self.site.ground).await;
        }
        self.unsettled = Instant::now();
    }

    /// A disk is gone for good, and an empty one takes its place.
    async fn lose_disk(&mut self) {
        let machine = self.site.machine();
        if self.site.may_lose(machine.number) {
            self.site.lose_disk(&machine);
            self.tell_holders().await;
        }
    }

    /// A disk comes back empty, as itself, while all is in order: then every slot has promised the volume to whoever has it,
    /// and no more than m have forgotten that before they are told again.
    fn wipe_disk(&mut self) {
        let machine = self.site.machine();
        if self.rests().is_ok() && self.site.may_lose(machine.number) {
            self.site.wipe_disk(&machine);
            self.unsettled = Instant::now();
        }
    }

    /// What a disk holds rots while it is off, and others have its parts when it is back.
    async fn rot_away(&mut self) {
        let machine = self.site.machine();
        if self.site.rot_away(&machine) {
            sleep(ROTS).await;
            self.site.mend(&machine, true);
            self.unsettled = Instant::now();
        }
    }

    /// Two disks change places; then they are back, or the map is changed.
    async fn swap_disks(&mut self) {
        let (a, b) = (self.site.machine(), self.site.machine());
        if a.number == b.number {
            return;
        }
        self.site.swap_disks(&a, &b);
        sleep(Duration::from_millis(self.site.dice.below(20_000))).await;
        if self.site.dice.one_in(2) {
            return self.site.swap_disks(&a, &b);
        }
        self.site.move_in_map(a.number, b.number);
        self.tell_holders().await;
    }

    /// Has the repair of whoever has the volume nothing to do?
    ///
    /// # Errors
    /// What there is to do.
    fn rests(&self) -> Result<(), String> {
        let holder = self.places.iter().flatten().find(|holder| !holder.lost && !holder.challenged);
        match holder {
            None => Err("nobody has the volume".to_owned()),
            Some(_) if self.unsettled.elapsed() <= SETTLES => {
                Err("something has changed".to_owned())
            }
            Some(_) if self.site.is_filling() => {
                Err("a disk that was wiped is not filled".to_owned())
            }
            Some(holder) => holder.way.rests(),
        }
    }

    fn harm_ways(&mut self, place: usize) {
        if let Some(holder) = &self.places[place] {
            let way = holder.way.clone();
            self.site.harm_ways(way.number, &way.weather);
        }
    }

    fn mend_something(&mut self) {
        if self.site.dice.one_in(2) {
            let ways = self.places.iter().flatten().flat_map(|holder| holder.way.weather.iter());
            ways.for_each(|weather| *weather.lock() = Weather::default());
        }
        for _ in 0..1 + self.site.dice.below(3) {
            let machine = self.site.machine();
            self.site.mend(&machine, true);
        }
    }

    async fn use_volume(&mut self, place: usize) {
        let Some(holder) = &mut self.places[place] else {
            self.mount(place, PATIENCE).await;
            return;
        };
        if holder.late.is_some() {
            return;
        }
        self.numbers += 1;
        let (number, sync) = (self.numbers, !self.site.dice.one_in(3));
        let task = tokio::spawn(write(holder.session.clone(), number, sync));
        holder.late = Some(Writing { number, sync, since: Instant::now(), task });
    }

    /// What became of what a holder was writing, if that has ended.
    async fn take_written(&mut self, place: usize) {
        let ended = |holder: &&mut Holder| {
            holder.late.as_ref().is_some_and(|writing| writing.task.is_finished())
        };
        let Some(holder) = self.places[place].as_mut().filter(ended) else { return };
        let Some(Writing { number, sync, since, task }) = holder.late.take() else { return };
        let (seen, wrote) = task.await.unwrap_or_else(|e| panic!("writing: {e}"));
        if seen {
            holder.pending.push(number);
        }
        note!(self.site.trace, "{} has written {number}, {sync}: {wrote:?}", holder.way.number);
        match wrote {
            Ok(()) if sync => self.acknowledge(place),
            Ok(()) => {}
            // It was taken over, and says so; it mounts again later.
            Err(_) if holder.challenged => self.forsake(place),
            Err(why) => {
                let away = self.site.model.unreliable(since, &[]).len();
                if away <= self.scheme.parity_parts() {
                    let who = holder.way.number;
                    self.site.model.broken(format_args!(
                        "{who} has the volume, {away} are away, and it cannot write: {why}"
                    ));
                }
            }
        }
    }

    /// A holder was told that all it has written is durable.
    fn acknowledge(&mut self, place: usize) {
        let Some(holder) = &mut self.places[place] else { return };
        for number in std::mem::take(&mut holder.pending) {
            if holder.lost && !self.kept.contains(&number) {
                self.site.model.broken(format_args!(
                    "{number} was acknowledged to {}, and those after it do not have it",
                    holder.way.number
                ));
            }
            self.kept.insert(number);
        }
    }

    /// A holder is no more.
    fn forsake(&mut self, place: usize) {
        let Some(holder) = self.places[place].take() else { return };
        if !holder.lost {
            self.left = holder.unsure();
        }
        holder.kill();
    }

    /// It ends, or is killed.
    async fn leave(&mut self, place: usize) {
        let closes = self.site.dice.one_in(2);
        let Some(holder) = &self.places[place] else { return };
        note!(self.site.trace, "{} leaves, {closes}", holder.way.number);
        if closes && holder.late.is_none() {
            let (volume, session) = (holder.volume.clone(), holder.session.clone());
            let closed = timeout(PATIENCE, async {
                let closed = session.close_session().await;
                volume.close().await;
                closed
            });
            // That the session has ended is durable only if it says so.
            note!(self.site.trace, "closed: {:?}", closed.await);
        }
        self.forsake(place);
    }

    /// Somebody mounts the volume, whoever has it.
    async fn mount(&mut self, place: usize, patience: Duration) -> bool {
        let way = self.comer();
        let Some(lock) = self.lock(place) else { return false };
        self.places.iter_mut().flatten().for_each(|holder| holder.challenged = true);
        let stores = ProxyStores::new(way.live.clone());
        let settings = MetaSettings { take_over: true, ..MetaSettings::default() };
        let opening = async {
            way.live.current().roll_call(Duration::from_secs(2)).await;
            let volume = meta::open(&stores, lock, settings).await.map_err(|e| e.to_string())?;
            let session = volume.open_session().await.map_err(|e| e.to_string())?;
            let listed = session.readdir(ROOT, 0, 100_000).await.map_err(|e| e.to_string())?;
            Ok::<_, String>((volume, Arc::new(session), listed))
        };
        let opened = timeout(patience, opening).await.unwrap_or_else(|_| Err("late".to_owned()));
        let said = opened.as_ref().map(|(_, _, listed)| listed.len());
        note!(self.site.trace, "{} mounts: {said:?}", way.number);
        let Ok((volume, session, listed)) = opened else { return false };
        let names = listed.iter().filter_map(|entry| std::str::from_utf8(&entry.name).ok());
        self.found_these(names.filter_map(|name| name.parse().ok()).collect());
        self.places.iter_mut().flatten().for_each(|holder| holder.lost = true);
        self.left.clear();
        way.heal(Arc::new(Books(self.site.model.clone())), HealSettings::default().rate);
        self.unsettled = Instant::now();
        let (pending, late) = (Vec::new(), None);
        let holder = Holder { way, volume, session, pending, late, challenged: false, lost: false };
        self.places[place] = Some(holder);
        true
    }

    /// Whoever has mounted the volume has found these.
    fn found_these(&mut self, found: BTreeSet<u64>) {
        let lost: Vec<_> = self.kept.difference(&found).collect();
        if !lost.is_empty() {
            self.site.model.broken(format_args!("{lost:?} were acknowledged, and are lost"));
        }
        let new: Vec<u64> = found.difference(&self.kept).copied().collect();
        let last = self.places.iter().flatten().find(|holder| !holder.lost);
        let pending = last.map_or_else(|| self.left.clone(), Holder::unsure);
        if !pending.starts_with(&new) {
            self.site.model.broken(format_args!("{new:?} of {pending:?} were found: no prefix"));
        }
        self.kept = found;
    }

    /// Nothing goes wrong any more: whoever has the volume can use it, and all is there for the next.
    async fn calm(&mut self) {
        note!(self.site.trace, "calm");
        for holder in self.places.iter().flatten() {
            holder.way.weather.iter().for_each(|weather| *weather.lock() = Weather::default());
        }
        for machine in self.site.ground.machines.clone() {
            if self.site.liars.contains(&machine.number) {
                machine.set_hung(false);
                self.site.lose_disk(&machine);
                self.tell_holders().await;
            }
            self.site.mend(&machine, true);
            assert!(machine.is_well(), "machine {} is well", machine.number);
        }
        let began = Instant::now();
        while self.places.iter().flatten().any(|holder| holder.late.is_some()) {
            if began.elapsed() > BOUND {
                self.site.model.broken(format_args!("what was written does not become durable"));
            }
            sleep(Duration::from_millis(100)).await;
            for place in 0..PLACES {
                self.take_written(place).await;
            }
        }
        for place in 0..PLACES {
            self.end_of(place).await;
        }
        self.whole_again().await;
        self.without_any().await;
    }

    /// Whoever was there is no more, and another mounts and can write.
    async fn end_of(&mut self, place: usize) {
        self.forsake(place);
        sleep(Duration::from_secs(1)).await;
        self.must_mount(place).await;
        self.use_volume(place).await;
        let began = Instant::now();
        while self.places[place].as_ref().is_some_and(|holder| holder.late.is_some()) {
            if began.elapsed() > BOUND {
                self.site.model.broken(format_args!("who has the volume cannot write"));
            }
            sleep(Duration::from_millis(100)).await;
            self.take_written(place).await;
        }
    }

    async fn must_mount(&mut self, place: usize) {
        if !self.mount(place, BOUND).await {
            let why = format_args!("the volume cannot be mounted, though it must be possible");
            self.site.model.broken(why);
        }
    }

    /// Whoever has the volume finds nothing to repair any more, within a bound; and once more when a disk was wiped, and
    /// nothing else happened.
    async fn whole_again(&mut self) {
        self.until_whole().await;
        if self.site.dice.one_in(2) {
            self.wipe_disk();
            self.until_whole().await;
        }
    }

    async fn until_whole(&mut self) {
        let began = Instant::now();
        while let Err(why) = self.rests() {
            if began.elapsed() > WHOLE {
                self.site.model.broken(format_args!("not whole again: {why}"));
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.site.restored();
        note!(self.site.trace, "whole again");
    }

    /// Everything is found without any m machines.
    async fn without_any(&mut self) {
        let mut away = self.site.ground.machines.clone();
        while away.len() > self.site.m {
            away.remove(self.site.dice.below(away.len() as u64) as usize);
        }
        let numbers: Vec<usize> = away.iter().map(|machine| machine.number).collect();
        note!(self.site.trace, "without {numbers:?}");
        away.iter().for_each(|machine| machine.stop(true));
        (0..PLACES).for_each(|place| self.forsake(place));
        self.must_mount(0).await;
    }
}
