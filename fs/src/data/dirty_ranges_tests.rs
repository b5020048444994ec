use super::*;
use proptest::prelude::*;
use proto::id::{GroupId, SessionId, VolumeId};
use proto::limits::TARGET_BLOB;
use proto::scheme::Scheme;

const FILE: usize = 3000;

fn blob(flight: u64) -> BlobId {
    let scheme = Scheme::copies(3).unwrap();
    BlobId::new(VolumeId(1), SessionId(1), flight, GroupId(0), 1 << 20, scheme).unwrap()
}

/// A file as it should be: what a reader sees, and what the store has.
struct Model {
    seen: Vec<u8>,
    stored: Vec<u8>,
    ranges: DirtyRanges,
    flights: BTreeMap<u64, Bytes>,
    next: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize, u8),
    Cut(usize, usize),
    Truncate(usize),
    Launch,
    Land(usize),
    Fail(usize),
}

impl Model {
    fn new() -> Self {
        Self {
            seen: vec![0; FILE],
            stored: vec![0; FILE],
            ranges: DirtyRanges::default(),
            flights: BTreeMap::new(),
            next: 1,
        }
    }

    fn nth_flight(&self, nth: usize) -> Option<u64> {
        self.flights.keys().nth(nth % self.flights.len().max(1)).copied()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(at, len, byte) => {
                let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
                self.seen[at..at + len].copy_from_slice(&data);
                self.ranges.write(at as u64, &data);
            }
            Step::Cut(at, len) => self.cut(at..at + len),
            Step::Truncate(at) => {
                self.cut(at..FILE);
                self.ranges.cut(at as u64..u64::MAX);
                assert!(self.ranges.end() <= at as u64);
            }
            Step::Launch => {
                let mut packer = Packer::of(TARGET_BLOB);
                self.ranges.take(self.next, 0, &mut packer);
                if !packer.is_empty() {
                    let pool = proto::buffer::Pool::new(1 << 20, 1);
                    self.flights.insert(self.next, packer.assemble(&pool));
                    self.next += 1;
                }
            }
            Step::Land(nth) => {
                let Some(flight) = self.nth_flight(nth) else { return };
                let data = self.flights.remove(&flight).unwrap();
                for extent in self.ranges.landed(flight, blob(flight)) {
                    let (at, len) = (extent.offset as usize, extent.len as usize);
                    let from = extent.place.unwrap().offset as usize;
                    self.stored[at..at + len].copy_from_slice(&data[from..from + len]);
                }
                self.ranges.settle(flight);
            }
            Step::Fail(nth) => {
                let Some(flight) = self.nth_flight(nth) else { return };
                self.flights.remove(&flight);
                self.ranges.give_back(flight);
            }
        }
        self.check();
    }

    fn cut(&mut self, range: Range<usize>) {
        self.seen[range.clone()].fill(0);
        self.stored[range.clone()].fill(0);
        self.ranges.cut(range.start as u64..range.end as u64);
    }

    fn check(&self) {
        let mut read = self.stored.clone();
        let mut at = 0;
        while let Some((start, found)) = self.ranges.find(at..FILE as u64) {
            let data = match &found {
                Found::Dirty(data) => data,
                Found::Flying(data) => &data[..],
            };
            assert!(start >= at && !data.is_empty());
            read[start as usize..start as usize + data.len()].copy_from_slice(data);
            at = start + data.len() as u64;
        }
        assert_eq!(read, self.seen);
        let ranges = &self.ranges;
        let memory: usize = ranges.dirty.values().map(BytesMut::capacity).sum();
        let len: usize = ranges.dirty.values().map(BytesMut::len).sum();
        let flying: usize = ranges.flying.values().map(|f| f.data.len()).sum();
        let count = (ranges.dirty.len() + ranges.flying.len()) as u64;
        assert_eq!(ranges.memory(), (memory + flying) as u64 + KEEPING * count);
        assert_eq!((ranges.dirty_len(), ranges.flying_len), (len as u64, flying as u64));
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let range = (0..FILE).prop_flat_map(|at| (Just(at), 1..=(FILE - at).min(700)));
    prop_oneof![
        6 => (range.clone(), any::<u8>()).prop_map(|((at, len), byte)| Step::Write(at, len, byte)),
        1 => range.prop_map(|(at, len)| Step::Cut(at, len)),
        1 => (0..FILE).prop_map(Step::Truncate),
        3 => Just(Step::Launch),
        3 => any::<usize>().prop_map(Step::Land),
        1 => any::<usize>().prop_map(Step::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn readers_see_the_last_write_and_the_store_gets_it(
        steps in proptest::collection::vec(any_step(), 1..60),
    ) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        // Two rounds store everything: bytes that were in flight, then those written since.
        for _ in 0..2 {
            model.step(Step::Launch);
            while !model.flights.is_empty() {
                model.step(Step::Land(0));
            }
        }
        prop_assert!(model.ranges.is_empty());
        prop_assert_eq!(model.ranges.memory(), 0);
        prop_assert_eq!(model.stored, model.seen);
    }
}

#[test]
fn small_writes_in_a_row_share_chunks_and_little_memory() {
    let mut ranges = DirtyRanges::default();
    ranges.write(0, &[1; 4096]);
    assert_eq!(ranges.memory(), 4096 + KEEPING);
    for page in 1..1024u64 {
        ranges.write(page * 4096, &[1; 4096]);
        assert!(ranges.memory() <= 2 * ranges.dirty_len() + CHUNK as u64);
    }
    assert_eq!((ranges.dirty.len(), ranges.memory()), (4, (4 << 20) + 4 * KEEPING));
}

#[test]
fn tiny_writes_are_counted_with_what_it_takes_to_keep_them_and_a_large_one_over_them_is_one() {
    let mut ranges = DirtyRanges::default();
    for n in 0..10_000 {
        ranges.write(2 * n, &[1]);
    }
    assert!(ranges.memory() >= 10_000 * KEEPING, "{}", ranges.memory());
    ranges.write(100, &[2; 15_000]);
    assert_eq!(ranges.dirty.len(), 50 + 1 + (20_000 - 15_100) / 2);
    assert_eq!(ranges.next_run(100..20_000), Some(100..15_100));
    let Some((_, Found::Dirty(data))) = ranges.find(98..99) else { panic!("it is there") };
    assert_eq!(data, [1]);
}
