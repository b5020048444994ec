//! What every engine must do. The journaled one's own tests are [`crate::journal`]'s.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;

use super::memory::MemoryKv;
use super::{Batch, Change, Counting, Direction, Kv, Value, View};
use crate::dice::Dice;
use crate::key::Key;
use crate::key::counters::Counters;
use crate::store::MetaError;

type Model = BTreeMap<Key, Vec<u8>>;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn key(n: u64) -> Key {
    Key::tag(b'K').with(n)
}

/// All that a view shows of a range.
fn listed(
    view: &dyn View,
    from: u64,
    to: u64,
    direction: Direction,
    most: usize,
) -> Vec<(Key, Vec<u8>)> {
    let mut found = Vec::new();
    let _ = view
        .scan(key(from)..key(to), direction, &mut |key, value| {
            found.push((*key, value.to_vec()));
            Ok(if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
        .unwrap();
    found
}

fn assert_is(view: &dyn View, model: &Model, dice: &mut Dice) {
    for n in 0..64 {
        let found = view.get(&key(n)).unwrap();
        assert_eq!(found.as_deref(), model.get(&key(n)).map(|v| &v[..]), "key {n}");
    }
    let (a, b) = (dice.below(64), dice.below(64));
    let (from, to) = (a.min(b), a.max(b));
    let most = 1 + dice.below(20) as usize;
    let expected = model.range(key(from)..key(to)).map(|(k, v)| (*k, v.clone()));
    let forward: Vec<_> = expected.clone().take(most).collect();
    let backward: Vec<_> = expected.rev().take(most).collect();
    assert_eq!(listed(view, from, to, Direction::Forward, most), forward);
    assert_eq!(listed(view, from, to, Direction::Backward, most), backward);
}

fn random_batch(dice: &mut Dice) -> Batch {
    (0..1 + dice.below(8))
        .map(|_| {
            let value = vec![dice.below(256) as u8; dice.below(40) as usize];
            (key(dice.below(64)), (dice.below(3) > 0).then(|| Value::from(&value[..])))
        })
        .collect()
}

fn apply(model: &mut Model, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => drop(model.insert(*key, value.to_vec())),
            None => drop(model.remove(key)),
        }
    }
}

fn with_view(kv: &dyn Kv, mut body: impl FnMut(&dyn View)) {
    kv.read(&mut |view| {
        body(view);
        Ok(())
    })
    .unwrap();
}

fn conforms(kv: &dyn Kv, seed: u64) {
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut model = Model::new();
    let mut counted = Counters { inodes: 7, ..Counters::NONE };
    let mut durable = counted;
    let begin = Change { counting: Counting::Set(counted), ..Change::default() };
    let mut begin = Some(begin);
    kv.transact(&mut |_| Ok(begin.take().unwrap())).unwrap();
    block_on(kv.sync()).unwrap();
    for _ in 0..300 {
        let batch = random_batch(&mut dice);
        let step = Counters { blobs: dice.below(9) as i64 - 3, ..Counters::NONE };
        kv.transact(&mut |view| {
            assert_is(view, &model, &mut Dice::new(seed));
            assert_eq!(view.counters(), Ok(counted));
            Ok(Change { writes: batch.clone(), counting: Counting::Add(step) })
        })
        .unwrap();
        apply(&mut model, &batch);
        counted += step;
        let refused = kv.transact(&mut |_| Err(MetaError::Exists));
        assert_eq!(refused, Err(MetaError::Exists));
        if dice.below(10) == 0 {
            block_on(kv.sync()).unwrap();
            durable = counted;
            kv.read_durable(&mut |view| {
                assert_is(view, &model, &mut dice);
                Ok(())
            })
            .unwrap();
        }
        with_view(kv, |view| {
            assert_is(view, &model, &mut dice);
            assert_eq!(view.counters(), Ok(counted));
        });
        kv.read_durable(&mut |view| {
            assert_eq!(view.counters(), Ok(durable));
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn memory_conforms() {
    for seed in 0..5 {
        conforms(&MemoryKv::default(), seed);
    }
}

#[test]
fn memory_forgets_what_was_not_synced() {
    let kv = MemoryKv::default();
    let put = |n: u64| {
        kv.transact(&mut |_| Ok(Batch::from([(key(n), Some(Value::from(&[1][..])))]).into()))
    };
    put(1).unwrap();
    block_on(kv.sync()).unwrap();
    put(2).unwrap();
    let after = kv.crash();
    with_view(&after, |view| {
        assert_eq!(listed(view, 0, 9, Direction::Forward, 9).len(), 1);
    });
}
