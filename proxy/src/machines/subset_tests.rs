//! What is told of blobs, for every set of slots that fail, are silent, hang, are empty or being rebuilt, on the maps that people
//! have: the predicates of [`crate::placement::quorum`] and [`crate::placement`], and the machines that rest on them.
//!
//! Sets are all of them, up to the symmetry of slots that hold the same for the same reason. Where there are more than
//! [`SETS`] they are every so manieth, or drawn by lot from `ASHLAR_SEED`, which is printed; with `ASHLAR_ALL_SETS=1` they
//! are all, which takes hours. The order of answers is every one, up to the same symmetry, where there are up to
//! [`ORDERS`]; where there are more, so many are drawn by lot from a seed that each failure names. Which it was is printed.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster::Level;
use proto::id::BlobId;

use crate::machines::get::GetOutcome;
use crate::machines::machine_tests::{Chooser, Mood, World, blob};
use crate::machines::put::PutOutcome;
use crate::placement::quorum::{SlotSet, Spread};

/// A scheme, and hosts of so many disks.
const MAPS: [(&str, &[usize]); 10] = [
    ("ec(2,1)", &[1; 4]),
    ("copies(3)", &[1; 4]),
    ("ec(4,2)", &[1; 8]),
    ("ec(8,3)", &[1; 12]),
    // Parts double up as soon as one is away.
    ("ec(4,2)", &[1; 6]),
    ("ec(2,1)", &[1; 3]),
    ("ec(4,2)", &[2, 2, 2]),
    ("ec(4,2)", &[3, 3, 3]),
    ("ec(4,2)", &[2, 3, 4]),
    ("copies(3)", &[2, 2, 2]),
];

/// Orders of answers that are tried with each set.
const ORDERS: usize = 8;
/// Layouts of acknowledged blobs that are read from.
const LAYOUTS: usize = 4;
/// Sets that are tried under puts, and with each layout under gets; where there are more, every so manieth, or, of
/// more than six slots under gets, so many by lot.
const SETS: (usize, usize) = (4200, 400);

/// Is every set to be tried, however many there are?
fn every_set() -> bool {
    std::env::var("ASHLAR_ALL_SETS").is_ok_and(|value| value == "1")
}

/// What sets are drawn from by lot.
fn lot_seed() -> u64 {
    let seed = std::env::var("ASHLAR_SEED").ok();
    seed.map_or(0, |seed| seed.parse().expect("ASHLAR_SEED is a number"))
}

/// Every map with every number of disks to spare that puts go by.
fn maps() -> impl Iterator<Item = (&'static str, &'static [usize], usize)> {
    MAPS.into_iter().flat_map(|(scheme, map)| [1, 0].map(|spare| (scheme, map, spare)))
}

fn world(map: &[usize], spare: usize) -> World {
    let mut world = World::new(map);
    world.spare = spare;
    world
}

/// Tries every order of answers, or some by lot; answers whether it was every.
fn in_every_order(seed: u64, mut run: impl FnMut(&mut Chooser, u64)) -> bool {
    let mut every = Chooser::Exhaustive { script: Vec::new(), at: 0 };
    for _ in 0..ORDERS / 2 {
        run(&mut every, seed);
        if !every.next() {
            return true;
        }
    }
    for order in 0..ORDERS as u64 / 2 {
        let seed = seed * 1000 + order;
        run(&mut Chooser::Seeded(seed), seed);
    }
    false
}

/// Every assignment of moods to slots, where those of one class are interchangeable.
fn assignments(classes: &[usize], moods: &[Mood], each: &mut impl FnMut(&[Mood])) {
    fn assign(
        slot: usize,
        classes: &[usize],
        moods: &[Mood],
        so_far: &mut Vec<usize>,
        each: &mut impl FnMut(&[Mood]),
    ) {
        if slot == classes.len() {
            let assigned: Vec<Mood> = so_far.iter().map(|mood| moods[*mood]).collect();
            return each(&assigned);
        }
        // The moods of a class rise with the slots' numbers.
        let before = (0..slot).rev().find(|other| classes[*other] == classes[slot]);
        for mood in before.map_or(0, |other| so_far[other])..moods.len() {
            so_far.push(mood);
            assign(slot + 1, classes, moods, so_far, each);
            so_far.pop();
        }
    }
    assign(0, classes, moods, &mut Vec::new(), each);
}

/// Every so manieth assignment is tried, so that up to `most` are, unless all shall be.
fn stride(classes: &[usize], moods: &[Mood], most: usize) -> usize {
    if every_set() {
        return 1;
    }
    let mut all = 0usize;
    assignments(classes, moods, &mut |_| all += 1);
    all.div_ceil(most)
}

/// Which slots are interchangeable to a put: those that are main, where each is a host of its own. The parts differ
/// in nothing but their numbers then.
fn put_classes(world: &World, id: BlobId) -> Vec<usize> {
    let slots = world.moods.len();
    let place = world.group.place(id);
    let flat = world.group.size(Level::Host) == slots;
    let mains: BTreeSet<usize> =
        (0..id.scheme().parts()).filter_map(|part| place.main(part)).filter(|_| flat).collect();
    (0..slots).map(|slot| if mains.contains(&slot) { slots } else { slot }).collect()
}

/// Which are to a get: those that hold as many parts of each kind, and are main for them or not.
fn get_classes(world: &World, id: BlobId) -> Vec<usize> {
    let place = world.group.place(id);
    let mut known = BTreeMap::new();
    let class = |slot: usize| {
        let held = world.parts.iter().filter(|(at, _)| *at == slot).map(|(_, part)| *part);
        let held: Vec<(bool, bool)> = held
            .map(|part| (part < id.scheme().data_parts(), place.main(part) == Some(slot)))
            .collect();
        // A slot that holds nothing is asked in an order of its own.
        let apart = if held.is_empty() { slot } else { usize::MAX };
        let next = known.len();
        *known.entry((held, apart)).or_insert(next)
    };
    (0..world.moods.len()).map(class).collect()
}

/// Whatever fails, a put is acknowledged only where it may be; and then what is acknowledged is read, and never
/// said to be absent, whatever fails then.
#[test]
fn every_set_of_slots_fails_under_puts_and_gets() {
    match every_set() {
        true => println!("every set (ASHLAR_ALL_SETS)"),
        false => println!("by lot: ASHLAR_SEED={}; every set: ASHLAR_ALL_SETS=1", lot_seed()),
    }
    for (number, (scheme, map, spare)) in maps().enumerate() {
        let id = blob(number as u64 + 1, scheme);
        let moods = [Mood::Good, Mood::Down, Mood::Refusing, Mood::Hung];
        let classes = put_classes(&world(map, spare), id);
        let (mut number, mut sets, mut whole, mut layouts) = (0, 0u64, 0u64, BTreeMap::new());
        let every_nth = stride(&classes, &moods, SETS.0);
        assignments(&classes, &moods, &mut |moods| {
            number += 1;
            if number % every_nth > 0 {
                return;
            }
            sets += 1;
            let every = in_every_order(number as u64, |chooser, seed| {
                let mut world = world(map, spare);
                world.moods = moods.to_vec();
                let context =
                    format!("{scheme} on {map:?}, {spare} to spare, {moods:?}, seed {seed}");
                match world.put(id, chooser) {
                    PutOutcome::Stored { degraded } => {
                        world.check_acknowledged(id, degraded, &context);
                        let kind = (degraded, get_classes(&world, id));
                        layouts.entry(kind).or_insert(world.parts);
                    }
                    PutOutcome::Unavailable => {
                        let good = world.in_mood(Mood::Good);
                        let most = crate::placement::quorum::room(id.scheme(), spare);
                        // One that hangs may have taken a part's place until the time was over.
                        let hung = !world.in_mood(Mood::Hung).is_empty();
                        let too_few = good.len() * most < id.scheme().parts();
                        assert!(too_few || hung, "{context}");
                    }
                    other => panic!("{context}: {other:?}"),
                }
            });
            whole += u64::from(every);
        });
        // Whole ones first, then those that doubled up most.
        let layouts: Vec<_> = layouts.into_values().collect();
        let step = layouts.len().div_ceil(LAYOUTS);
        let mut read = (0, 0, 0);
        for parts in layouts.iter().step_by(step) {
            let (sets, whole, nth) = read_with_every_set(id, map, spare, parts);
            read = (read.0 + sets, read.1 + whole, nth.max(read.2));
        }
        println!(
            "{scheme} on {map:?}, {spare} to spare: {sets} sets under puts (1 of {every_nth}; {whole} in every \
             order), {} of {} layouts, {} sets under gets (1 of {}, 0: by lot; {} in every order)",
            layouts.len().div_ceil(step),
            layouts.len(),
            read.0,
            read.2,
            read.1
        );
    }
}

/// So many sets, with how many of them every order was tried, and that these are every so manieth.
fn read_with_every_set(
    id: BlobId,
    map: &[usize],
    spare: usize,
    parts: &BTreeSet<(usize, usize)>,
) -> (u64, u64, usize) {
    let mut stored = world(map, spare);
    stored.parts.clone_from(parts);
    let classes = get_classes(&stored, id);
    // One that is rebuilding was replaced: it has nothing of what it had, and says so.
    let moods = [Mood::Good, Mood::Down, Mood::Refusing, Mood::Hung, Mood::Empty, Mood::Rebuilding];
    let by_lot = stored.moods.len() > 6 && !every_set();
    let every_nth = if by_lot { 0 } else { stride(&classes, &moods, SETS.1) };
    let (mut sets, mut whole) = (0u64, 0u64);
    let mut number = 0;
    let mut read = |moods: &[Mood]| {
        number += 1;
        if !by_lot && number % every_nth > 0 {
            return;
        }
        sets += 1;
        let every = in_every_order(number as u64, |chooser, seed| {
            let mut world = world(map, spare);
            world.parts.clone_from(parts);
            world.moods = moods.to_vec();
            world.in_mood(Mood::Rebuilding).iter().for_each(|slot| world.wipe(slot));
            let emptied = world.in_mood(Mood::Empty);
            let left = world.within_reach().len() >= id.scheme().data_parts();
            let prompt = matches!(chooser, Chooser::Exhaustive { .. });
            let got = world.get_range(id, 0..id.len(), chooser);
            let context =
                format!("{id} on {map:?}, {spare} to spare, {parts:?}, {moods:?}, seed {seed}");
            match got {
                GetOutcome::Data => {}
                // One that was emptied lies: with another that is slow it makes up a blob that is gone.
                _ if left && (emptied.is_empty() || prompt) => {
                    panic!("{context}: k parts were there: {got:?}")
                }
                GetOutcome::NotFound => assert!(!emptied.is_empty(), "{context}: it is not absent"),
                GetOutcome::Unavailable => {}
            }
        });
        whole += u64::from(every);
    };
    if by_lot {
        let mut lot = Chooser::Seeded(lot_seed().wrapping_add(parts.len() as u64));
        for _ in 0..SETS.1 {
            let mood = |_| moods[if lot.pick(5) > 1 { 0 } else { lot.pick(moods.len()) }];
            read(&(0..classes.len()).map(mood).collect::<Vec<_>>());
        }
    } else {
        assignments(&classes, &moods, &mut read);
    }
    (sets, whole, every_nth)
}

/// No silent slots hide more of an acknowledged blob than is reckoned with; so no listing misses one, and none is
/// taken for absent.
#[test]
fn silent_slots_hide_no_more_than_is_reckoned_with() {
    for (number, (scheme, map, spare)) in
        maps().enumerate().filter(|(_, (_, map, _))| map.len() < 12 || every_set())
    {
        let slots: usize = map.iter().sum();
        for (sequence, apart) in (0..6).flat_map(|n| [(n, false), (n, true)]) {
            let scheme = match apart {
                true => blob(0, scheme).scheme().as_copies().to_string(),
                false => scheme.to_owned(),
            };
            let id = blob(number as u64 * 10 + sequence, &scheme);
            let mut seen = BTreeSet::new();
            for down in (0..1u64 << slots).map(SlotSet) {
                let mut world = world(map, spare);
                down.iter().for_each(|slot| world.moods[slot] = Mood::Down);
                let spread = if apart { world.apart(id) } else { world.as_possible() };
                let put = world.put_spread(id, spread, &mut Chooser::Seeded(down.0));
                let stored = matches!(put, PutOutcome::Stored { .. });
                if stored && seen.insert(world.parts.clone()) {
                    check_hidden(&world, id, spread);
                }
            }
            assert!(!seen.is_empty(), "{scheme} on {map:?}: something is stored");
        }
    }
}

fn check_hidden(world: &World, id: BlobId, spread: Spread) {
    let m = id.scheme().parity_parts();
    for silent in (0..1u64 << world.moods.len()).map(SlotSet) {
        let shown = world.parts.iter().filter(|(slot, _)| !silent.contains(*slot));
        let shown: BTreeSet<usize> = shown.map(|(_, part)| *part).collect();
        let hides = id.scheme().parts() - shown.len();
        let reckoned = world.group.hidden(id.scheme(), spread, silent);
        let context = format!("{id}, {:?} silent of {:?}", silent, world.parts);
        assert!(hides <= reckoned, "{context}: {hides} hidden, {reckoned} reckoned with");
        assert!(hides <= world.group.hidden(id.scheme(), Spread::ANY, silent) || hides == 0);
        if let Spread::Apart(layout) = spread {
            let may = world.group.may_be_silent(layout, m, silent);
            assert!(!may || !shown.is_empty(), "{context}: a fence or listing would miss it");
        }
    }
}

/// Of two who take a volume over, each by the answers that it had, one has heard of the other.
#[test]
fn any_two_answers_that_are_relied_on_have_a_slot_in_common() {
    let more: [(&str, &[usize]); 6] = [
        ("ec(4,2)", &[4, 4, 4]),
        ("ec(4,2)", &[6, 1, 1]),
        ("ec(4,2)", &[5, 2, 1]),
        ("ec(2,1)", &[2, 2, 2]),
        ("ec(4,2)", &[2, 2, 2, 2, 2]),
        ("ec(3,3)", &[2, 2, 2, 2]),
    ];
    for (scheme, map) in MAPS.into_iter().chain(more) {
        let world = World::new(map);
        let m = blob(1, scheme).scheme().parity_parts();
        let layout = world.group.layout(m);
        let slots = world.moods.len();
        if world.group.size(Level::Disk) <= 2 * m {
            continue;
        }
        let silent: Vec<u64> = (0..1u64 << slots)
            .filter(|silent| world.group.may_be_silent(layout, m, SlotSet(*silent)))
            .collect();
        let all = SlotSet::first(slots).0;
        for (a, b) in silent.iter().flat_map(|a| silent.iter().map(move |b| (a, b))) {
            assert!(a | b != all, "{scheme} on {map:?}: {:?} and {:?}", SlotSet(*a), SlotSet(*b));
        }
        // And any m disks may be silent; on three hosts, any host.
        for lost in (0..1u64 << slots).map(SlotSet).filter(|lost| lost.len() <= m) {
            assert!(silent.contains(&lost.0), "{scheme} on {map:?}: {lost:?}");
        }
        let even = map.iter().all(|disks| *disks == map[0]);
        if even && map.len() >= 3 {
            let hosts: Vec<SlotSet> = world.group.members(Level::Host).collect();
            assert!(hosts.iter().all(|host| silent.contains(&host.0)), "{scheme} on {map:?}");
        }
    }
}
