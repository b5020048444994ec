//! Random operations, crashes, reopenings and rebuilds against a map.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u64),
    Get(u64),
    Delete(u64),
    Forget(u64),
    Drop(u64),
    Reopen,
    Crash,
    Rebuild,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..40u64).prop_map(Op::Put),
        4 => (0..40u64).prop_map(Op::Get),
        3 => (0..40u64).prop_map(Op::Delete),
        2 => (0..40u64).prop_map(Op::Forget),
        3 => (0..40u64).prop_map(Op::Drop),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
        1 => Just(Op::Rebuild),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Here,
    Deleted,
    Forgotten,
}

fn sized(n: u64) -> PartKey {
    key(n, [1, 3000, 5000, 66_000, 400_000, 2_000_000][(n % 6) as usize])
}

/// One run: every answer must be one that the map allows.
async fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    let mut dir = fresh();
    let mut disk = open(dir.path());
    let mut model: HashMap<u64, Fate> = HashMap::new();
    for op in ops {
        let store = slot(&disk);
        match *op {
            Op::Put(n) => {
                let result = put(&store, sized(n)).await;
                match model.get(&n) {
                    None | Some(Fate::Here) => {
                        prop_assert_eq!(result, Ok(()));
                        model.insert(n, Fate::Here);
                    }
                    Some(Fate::Deleted) => prop_assert_eq!(result, Err(PartError::Deleted)),
                    // Forgotten: may be known for a while longer.
                    Some(Fate::Forgotten) => match result {
                        Ok(()) => drop(model.insert(n, Fate::Here)),
                        Err(e) => prop_assert_eq!(e, PartError::Deleted),
                    },
                }
            }
            Op::Get(n) => check(&store, n, model.get(&n)).await?,
            Op::Delete(n) => {
                store.delete(&[sized(n).blob], None).await.unwrap();
                model.insert(n, Fate::Deleted);
            }
            Op::Forget(n) => {
                if model.get(&n) == Some(&Fate::Deleted) {
                    store.forget(&[sized(n).blob], None).await.unwrap();
                    model.insert(n, Fate::Forgotten);
                }
            }
            Op::Drop(n) => {
                store.drop_part(sized(n), None).await.unwrap();
                if model.get(&n) == Some(&Fate::Here) {
                    model.remove(&n);
                }
            }
            Op::Reopen | Op::Rebuild => {
                drop((store, disk));
                if matches!(op, Op::Rebuild) {
                    std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
                }
                disk = open(dir.path());
            }
            Op::Crash => {
                let after = tempfile::tempdir().unwrap();
                copy(&dir.path().join("d"), &after.path().join("d"));
                drop((store, disk));
                disk = open(after.path());
                dir = after;
            }
        }
    }
    let store = slot(&disk);
    for n in 0..40 {
        check(&store, n, model.get(&n)).await?;
    }
    let here = model.values().filter(|fate| **fate == Fate::Here).count();
    prop_assert_eq!(disk.state().parts, here as u64);
    let listed = store.list(Scope::All, None, 100).await.unwrap();
    prop_assert_eq!((listed.entries.len(), listed.complete), (here, true));
    Ok(())
}

async fn check(
    store: &Arc<dyn PartStore>,
    n: u64,
    fate: Option<&Fate>,
) -> Result<(), TestCaseError> {
    let got = get(store, sized(n)).await;
    match fate {
        Some(Fate::Here) => prop_assert_eq!(got.unwrap(), content(sized(n))),
        Some(Fate::Deleted) => prop_assert_eq!(got, Err(PartError::Deleted)),
        Some(Fate::Forgotten) => {
            prop_assert!(matches!(got, Err(PartError::Deleted | PartError::NotFound)));
        }
        None => prop_assert_eq!(got, Err(PartError::NotFound)),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_disk_does_what_a_map_does(ops in proptest::collection::vec(op(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(run(&ops))?;
    }
}
