//! One order per slot: what is asked of it is done in the order in which it was asked, whatever connections do.

use proto::client::Daemon;
use proto::id::{ClientId, PartSet};
use proto::link::request::{Reply, Request};
use proto::part_store::Held;

use super::daemon::{Running, address};
use super::*;

fn put_request(key: PartKey) -> Request {
    let checks = proto::checksum::block_checks(&content(key));
    Request::Put { key, checks, issuer: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_bytes_arrive_late_on_an_old_connection_does_not_land_after_newer_requests() {
    let dir = fresh();
    let path = dir.path().join("d");
    let (running, to) = (Running::start(&[&path]), address(&path));
    let client = ClientId::random();
    for (round, len) in [300_000, 20_000, 1 << 20].into_iter().enumerate() {
        let (key, number) = (key(round as u64, len), 2 * round as u64 + 1);
        let bytes = content(key);
        let mut old = Raw::connect(&running.address, client, number).await;
        // It is being served: the put begins to arrive.
        old.ask(to, &Request::Held(key.blob), &[]).await.unwrap();
        old.send(&put_request(key).frame(2, to, bytes.len())).await;
        let (begin, rest) = bytes.split_at(bytes.len() / 2);
        old.send(begin).await;
        let mut new = Raw::connect(&running.address, client, number + 1).await;
        for request in
            [Request::Delete(vec![key.blob], None), Request::Forget(vec![key.blob], None)]
        {
            assert_eq!(new.ask(to, &request, &[]).await, Ok(Reply::Done));
        }
        // The rest comes after all, as far as anybody takes it.
        let _closed_already = old.try_send(rest).await;
        let answered = old.answer().await;
        let held = new.ask(to, &Request::Held(key.blob), &[]).await;
        let nothing = Reply::Held(Held::default());
        assert_eq!(held, Ok(nothing), "round {round}; the put was answered with {answered:?}");
        assert!(answered.is_none(), "the old connection is served: {answered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_that_comes_late_is_not_served() {
    let dir = fresh();
    let path = dir.path().join("d");
    let (running, to) = (Running::start(&[&path]), address(&path));
    let (client, key) = (ClientId::random(), key(1, 10));
    let mut new = Raw::connect(&running.address, client, 2).await;
    assert_eq!(new.ask(to, &Request::Delete(vec![key.blob], None), &[]).await, Ok(Reply::Done));
    assert_eq!(new.ask(to, &Request::Forget(vec![key.blob], None), &[]).await, Ok(Reply::Done));
    for gone in [false, true] {
        let mut old = Raw::connect(&running.address, client, 1).await;
        let frame = [&put_request(key).frame(1, to, 10)[..], &content(key)].concat();
        old.send(&frame).await;
        assert!(old.answer().await.is_none(), "gone: {gone}");
        if !gone {
            drop(std::mem::replace(&mut new, Raw::connect(&running.address, client, 3).await));
        }
    }
    let held = new.ask(to, &Request::Held(key.blob), &[]).await;
    assert_eq!(held, Ok(Reply::Held(Held::default())));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_nobody_waits_for_are_done_in_the_order_in_which_they_were_sent() {
    let dir = fresh();
    let path = dir.path().join("d");
    let (running, to) = (Running::start(&[&path]), address(&path));
    let mut raw = Raw::connect(&running.address, ClientId::random(), 1).await;
    let mut expected = Vec::new();
    let held = |parts| Ok(Reply::Held(Held { parts, ..Held::default() }));
    for round in 0..50 {
        // Large and small, so that they are received and written in different ways.
        let len = [100, 20_000, 200_000][round as usize % 3];
        let (key, kept) = (key(2 * round, len), key(2 * round + 1, len));
        let blobs = vec![key.blob];
        for (request, answer) in [
            (put_request(key), Ok(Reply::Done)),
            (put_request(kept), Ok(Reply::Done)),
            // An answer to this may know of later ones, too.
            (Request::Held(kept.blob), held([kept.part].into_iter().collect())),
            (Request::Delete(blobs.clone(), None), Ok(Reply::Done)),
            (put_request(key), Err(PartError::Deleted)),
            (Request::Forget(blobs, None), Ok(Reply::Done)),
            (Request::Held(key.blob), held(PartSet::EMPTY)),
        ] {
            let payload =
                if let Request::Put { key, .. } = &request { content(*key) } else { Bytes::new() };
            raw.send(&request.frame(expected.len() as u32, to, payload.len())).await;
            raw.send(&payload).await;
            expected.push((request, answer));
        }
    }
    let mut left = expected.len();
    while left > 0 {
        let (id, answer) = raw.numbered_answer().await.expect("the connection is open");
        let (request, expected) = &expected[id as usize];
        let mut answer = answer.and_then(|message| request.reply(message));
        if let Ok(Reply::Held(held)) = &mut answer {
            // A delete is remembered for as long as its dead record is there.
            held.deleted = false;
        }
        assert_eq!(&answer, expected, "request {id}: {request:?}");
        left -= 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_connection_broke_goes_on_with_the_next() {
    let dir = fresh();
    let path = dir.path().join("d");
    let mut running = Running::start(&[&path]);
    let store: Arc<dyn PartStore> =
        Arc::new(Daemon::new(&running.address).unwrap().slot(address(&path)));
    put(&store, key(1, 5000)).await.unwrap();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    assert!(matches!(put(&store, key(2, 5000)).await, Err(PartError::Unreachable(_))));
    let _again = Running::start_at(&running.address, &[&path]);
    put(&store, key(2, 5000)).await.unwrap();
    assert_eq!(get(&store, key(1, 5000)).await.unwrap(), content(key(1, 5000)));
}
