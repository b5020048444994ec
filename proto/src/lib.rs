//! The words that every Ashlar crate shares.
//!
//! Three kinds of process talk to each other: a mount (with its proxy), and `storaged` daemons; all
//! of them speak of the same few things. An immutable **blob** ([`id::BlobId`]) is cut by its
//! **scheme** ([`scheme::Scheme`]) into k data and m parity **parts**; a part lies in a **slot** of
//! a **disk**; slots on different disks form a **group** ([`cluster::Cluster`]). What fails together is said in
//! **levels** ([`cluster::Level`]): the disks of a host, the hosts of a rack.
//!
//! * [`id`], [`part`], [`scheme`], [`cluster`], [`limits`]: types and arithmetic both ends must agree on.
//! * [`checksum`]: bytes that travel with their CRC-32C.
//! * [`part_store`]: the seam between a proxy and a slot, in process or over the network.
//! * [`client`], [`link`], [`convert`]: how requests travel; between generated messages ([`rpc`]) and
//!   our own types.
//! * [`metad`]: the frames in which a session asks whoever leads its volume.
//! * [`tls`]: who is at the other end of a connection between machines.
//! * [`guests`], [`gather`]: what a server stands of those who connect to it.
//! * [`program`], [`health`], [`signals`], [`size`], [`listen`]: what people type and are told, and how a program ends.
//! * [`touch`], [`awake`]: waiting for what may hang, with a bound; the clock for it.
//! * [`observe`], [`log_file`], [`metrics_server`], [`systemd`], [`allocator`], [`buffer`]: logs, metrics, the
//!   word to systemd, and memory. All of these alike in every binary.
//!
//! Nothing here does I/O except [`client`], [`link`], [`metad`], [`tls`], the servers' side of connections,
//! [`cluster::Cluster::read`] and those of the last two lines.

pub mod allocator;
pub mod awake;
pub mod buffer;
pub mod checksum;
pub mod client;
pub mod cluster;
pub mod convert;
#[cfg(any(test, feature = "decoders"))]
pub mod decoders;
pub mod gather;
pub mod guard;
pub mod guests;
pub mod health;
pub mod id;
pub mod limits;
pub mod link;
pub mod listen;
pub mod log_file;
pub mod metad;
pub mod metric_names;
pub mod metrics_server;
pub mod observe;
pub mod on_wake;
pub mod part;
pub mod part_store;
pub mod program;
pub mod scheme;
pub mod signals;
pub mod size;
pub mod systemd;
pub mod tls;
pub mod touch;

/// What `--version`, logs and status say of a program: its version, and the commit it was built from.
pub const VERSION: &str = env!("ASHLAR_VERSION");

/// Code generated from the contracts in `proto/*.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, unreachable_pub)]
pub mod rpc {
    /// The storage daemon's contract.
    pub mod storaged {
        tonic::include_proto!("ashlar.storaged.v1");
    }
    /// The proxy's contract.
    pub mod proxyd {
        tonic::include_proto!("ashlar.proxyd.v1");
    }
    /// What machines ask of a root of their cluster.
    pub mod root {
        tonic::include_proto!("ashlar.root.v1");
    }
    /// What sessions ask of whoever leads a volume.
    pub mod metad {
        tonic::include_proto!("ashlar.metad.v1");
    }
}
