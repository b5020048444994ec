//! The proxy over real sockets: as a daemon, and towards daemons that accept and never answer.

#![allow(clippy::unwrap_used)] // clippy takes helpers of tests for something else
#![allow(dead_code)] // each test binary uses its own share of what supports them

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use proto::client::{Daemon, channel};
use proto::convert::{Address, blob_to_wire};
use proto::id::{ClusterId, DiskId, Generation, GroupId, NodeId, SlotId};
use proto::rpc::proxyd as wire;
use proto::rpc::proxyd::blob_failure::Kind;
use proto::rpc::proxyd::proxyd_client::ProxydClient;
use proto::tls::authority::{Authority, MACHINE_LASTS, from_now};
use proto::tls::credentials::{Credentials, NodeFiles};
use proto::tls::identity::{Identity, Role};
use proto::tls::{Acceptor, Connector};
use proxy::{BlobStore, LiveProxy, Proxy, ProxySettings, Stored};
use support::{MemorySlot, Mood, blob, config, noise, proxy_over};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

fn kind_of(status: &tonic::Status) -> Kind {
    wire::BlobFailure::decode(status.details()).unwrap().kind()
}

#[tokio::test]
async fn blobs_go_in_and_out_over_grpc() {
    let (proxy, slots) = proxy_over(8);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(proxy::service::serve(
        LiveProxy::new(proxy),
        (listener, Acceptor::plain()),
        async {
            let _ = stopped.await;
        },
    ));
    let client = ProxydClient::connect(address).await.unwrap();
    let limit = proto::limits::MAX_MESSAGE;
    let mut client = client.max_decoding_message_size(limit).max_encoding_message_size(limit);

    let (id, data) = (blob(1, 8 << 20, "ec(4,2)"), noise(8 << 20, 1));
    let put = |blob, data| wire::PutRequest { blob, data };
    let reply = client.put(put(blob_to_wire(id), data.clone())).await.unwrap();
    assert!(!reply.into_inner().degraded);
    let get = |offset, len| wire::GetRequest { blob: blob_to_wire(id), offset, len };
    for (offset, len) in [(0, 8 << 20), (5_000_000, 1), (2_000_000, 300_000)] {
        let got = client.get(get(offset, len)).await.unwrap().into_inner().data;
        assert!(got == data.slice(offset as usize..(offset + len) as usize));
    }
    for (offset, len) in [(0, 0), (u32::MAX, 2), (8 << 20, 1)] {
        let status = client.get(get(offset, len)).await.unwrap_err();
        assert_eq!(kind_of(&status), Kind::Invalid, "{status}");
    }
    let status = client.put(put(vec![1, 2].into(), data.clone())).await.unwrap_err();
    assert_eq!(kind_of(&status), Kind::Invalid, "{status}");

    let stat = wire::StatRequest { blob: blob_to_wire(id) };
    slots[3].set(Mood::Dead);
    let stat = client.stat(stat).await.unwrap().into_inner().slots;
    assert_eq!(stat.len(), 8);
    assert!(stat[3].error.contains("refused"), "{stat:?}");
    slots[3].set(Mood::Good);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let delete = wire::DeleteRequest { blobs: vec![blob_to_wire(id)] };
    assert!(client.delete(delete).await.unwrap().into_inner().unconfirmed.is_empty());
    assert_eq!(kind_of(&client.get(get(0, 1)).await.unwrap_err()), Kind::NotFound);

    stop.send(()).unwrap();
    drop(client);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn daemons_that_accept_and_never_answer_delay_a_put_by_less_than_five_seconds() {
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = hung.local_addr().unwrap().to_string();
    let accept = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = hung.accept().await {
            connections.push(connection);
        }
    });
    let remote = |n| {
        let to = Address {
            cluster: ClusterId::random(),
            disk: DiskId::random(),
            slot: SlotId(0),
            group: GroupId(0),
            generation: Generation(1),
        };
        config(n, Arc::new(Daemon::new(&address).unwrap().slot(to)))
    };
    let slots = (0..8).map(|n| if n < 2 { remote(n) } else { config(n, MemorySlot::new()) });
    let proxy = Proxy::new(GroupId(0), slots.collect(), ProxySettings::default());
    let mut longest = Duration::ZERO;
    for sequence in 0..10 {
        let id = blob(sequence, 300_000, "ec(4,2)");
        let start = Instant::now();
        let result = proxy.put(id, noise(300_000, sequence)).await;
        longest = longest.max(start.elapsed());
        assert_eq!(result, Ok(Stored { degraded: false }));
        let start = Instant::now();
        assert!(proxy.get(id, 0..300_000).await.unwrap() == noise(300_000, sequence));
        longest = longest.max(start.elapsed());
    }
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    accept.abort();
}

#[tokio::test]
async fn a_proxy_of_a_machine_that_is_of_a_cluster_serves_that_alone() {
    let cluster = ClusterId::random();
    let [ours, theirs] = [(); 2].map(|()| Authority::make(cluster).unwrap().0);
    let home = tempfile::tempdir().unwrap();
    let machine = |name: &str, authority: &Authority, role: Role| {
        let files = NodeFiles::new(&home.path().join(name));
        let identity = Identity { cluster, node: NodeId::random(), roles: [role].into() };
        authority.equip(&files, &identity, &from_now(MACHINE_LASTS)).unwrap();
        Some(Credentials::open(files.directory()).unwrap())
    };
    let (proxy, _slots) = proxy_over(8);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = Acceptor::new(machine("server", &ours, Role::Node));
    let (stop, stopped) = oneshot::channel::<()>();
    let server =
        tokio::spawn(proxy::service::serve(LiveProxy::new(proxy), (listener, acceptor), async {
            let _ = stopped.await;
        }));
    let id = blob(1, 1000, "ec(4,2)");
    let stat = async |connector: Connector| {
        let mut client = ProxydClient::new(channel(&address, connector).unwrap());
        client.stat(wire::StatRequest { blob: blob_to_wire(id) }).await
    };
    let client = Connector::new(machine("client", &ours, Role::Client));
    assert!(stat(client).await.is_ok());
    let foreign = Connector::new(machine("foreign", &theirs, Role::Root));
    for stranger in [Connector::plain(), foreign] {
        assert!(stat(stranger).await.is_err());
    }
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
