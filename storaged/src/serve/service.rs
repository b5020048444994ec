//! What one daemon serves: its disks, the room there is for requests to each, and how they all are.
//!
//! What is asked of a slot comes by [`crate::serve::link`]; gRPC tells how the daemon is.

use std::sync::Arc;

use bytes::Bytes;
use proto::convert::{Address, scrub_to_wire};
use proto::id::DiskId;
use proto::limits::DISK_BLOCK;
use proto::part_store::{PartError, Standing};
use proto::rpc::storaged as wire;
use proto::rpc::storaged::storaged_server::Storaged;
use proto::tls::Acceptor;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::disk::bay::{Bay, BayState, Bays};
use crate::disk::{Disk, SlotStanding};
use crate::serve::clients::Clients;

/// Bytes of payload that may be under way between this daemon and everybody, in equal shares for its
/// disks, so that one that hangs does not use up what the others need.
const DAEMON_BYTES: usize = 256 << 20;
/// Least and most of a disk's share, each way.
const DISK_BYTES: (usize, usize) = (12 << 20, 32 << 20);
/// What may be under way to and from a disk, in blocks.
#[derive(Clone)]
pub(crate) struct Budget {
    /// Of requests that change something.
    pub(crate) writes: Arc<Semaphore>,
    /// Of all others: a disk that takes no writes may still be read.
    pub(crate) reads: Arc<Semaphore>,
}

/// A disk, and what may be under way to and from it.
pub(crate) struct Found {
    pub(crate) disk: Arc<Disk>,
    pub(crate) budget: Budget,
}

/// What one daemon serves.
#[derive(Clone)]
pub struct Service {
    bays: Arc<Bays>,
    /// Of each bay.
    budgets: Arc<[Budget]>,
    clients: Arc<Clients>,
    acceptor: Acceptor,
}

impl Service {
    /// Of the disks in these bays, and of those that come into them later.
    pub fn new(bays: Arc<Bays>) -> Self {
        let each_way = DAEMON_BYTES / 2 / bays.all().len().max(1);
        let blocks = each_way.clamp(DISK_BYTES.0, DISK_BYTES.1) / DISK_BLOCK;
        let room = || Arc::new(Semaphore::new(blocks));
        let budgets = bays.all().iter().map(|_| Budget { writes: room(), reads: room() }).collect();
        Self { bays, budgets, clients: Arc::default(), acceptor: Acceptor::plain() }
    }

    /// The same for those who may come in by this.
    #[must_use]
    pub fn admitting(self, acceptor: Acceptor) -> Self {
        Self { acceptor, ..self }
    }

    /// How connections are taken.
    pub(crate) fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    /// Who is connected by a link.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// The disk that is addressed.
    pub(crate) fn find(&self, to: &Address) -> Result<Found, PartError> {
        let cluster = self.bays.cluster();
        if to.cluster != cluster {
            return Err(PartError::WrongAddress(format!(
                "this daemon serves cluster {cluster}, not {}",
                to.cluster
            )));
        }
        let (bay, disk) = self.bays.find(to.disk)?;
        Ok(Found { disk, budget: self.budgets[bay].clone() })
    }

    fn state(&self) -> wire::StatusReply {
        wire::StatusReply {
            version: proto::VERSION.to_owned(),
            cluster: Bytes::copy_from_slice(self.bays.cluster().as_bytes()),
            disks: self.bays.all().iter().map(|bay| disk_status(bay)).collect(),
        }
    }
}

fn disk_status(bay: &Bay) -> wire::DiskStatus {
    let id = bay.disk_id().map(|id| Bytes::copy_from_slice(id.as_bytes()));
    let status = wire::DiskStatus {
        disk: id.unwrap_or_default(),
        path: bay.path().display().to_string(),
        ..Default::default()
    };
    match bay.state() {
        BayState::In(disk) => {
            let state = disk.state();
            wire::DiskStatus {
                state: state.state,
                fill: state.fill.level.as_str().to_owned(),
                capacity: state.fill.capacity,
                used: state.fill.used,
                parts: state.parts,
                available: state.fill.available,
                spare: state.fill.spare,
                damaged: state.damaged,
                scrub: state.scrub.map(scrub_to_wire),
                filling: state.filling,
                slots: disk.standings().into_iter().map(slot_status).collect(),
                ..status
            }
        }
        BayState::Opening => wire::DiskStatus { state: "opening".to_owned(), ..status },
        BayState::Out { why, .. } => wire::DiskStatus { state: format!("out: {why}"), ..status },
    }
}

fn slot_status(SlotStanding { slot, group, standing }: SlotStanding) -> wire::SlotStatus {
    let Standing { generation, rebuilding, pristine } = standing;
    let (slot, group, generation) = (slot.0, group.0, generation.0);
    wire::SlotStatus { slot, group, generation, rebuilding, pristine }
}

#[tonic::async_trait]
impl Storaged for Service {
    async fn status(
        &self,
        _: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusReply>, Status> {
        Ok(Response::new(self.state()))
    }

    async fn scrub(
        &self,
        request: Request<wire::ScrubRequest>,
    ) -> Result<Response<wire::ScrubReply>, Status> {
        let named = request.into_inner().disk;
        let disks = match named.is_empty() {
            true => self.bays.all().iter().filter_map(|bay| bay.disk().ok()).collect(),
            false => {
                let named = DiskId::from_slice(&named)
                    .ok_or_else(|| Status::invalid_argument("the disk's id is not 16 bytes"))?;
                let (_, disk) = self.bays.find(named).map_err(|e| Status::not_found(e.reason()))?;
                vec![disk]
            }
        };
        for disk in &disks {
            let refused = |e: PartError| Status::failed_precondition(e.reason());
            disk.scrub().map_err(refused)?;
        }
        Ok(Response::new(wire::ScrubReply { disks: disks.len() as u32 }))
    }
}
