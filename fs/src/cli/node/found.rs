//! A new cluster: its CA, and the machine that is its root.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use proto::cluster::{Cluster, Slot};
use proto::id::{ClusterId, DiskId, Generation, SlotId};
use proto::tls::authority::{Authority, MACHINE_LASTS, from_now, new_key, request};
use proto::tls::files::replace;
use proto::tls::identity::{Identity, Role};

use super::ledger::Ledger;
use super::state::{Settings, State};

/// Makes the CA, and this machine its root. The certificate comes last: before it, this machine is of no cluster, and what
/// there is of one that broke off counts for nothing, but for the disks.
pub(crate) fn found(
    state: &State,
    cluster: ClusterId,
    settings: &Settings,
    disks: &BTreeSet<DiskId>,
) -> Result<()> {
    let (authority, made) = Authority::make(cluster)?;
    let key = new_key()?;
    let asked = request(&key)?;
    let (node, when) = (Authority::node_of(&asked)?, from_now(MACHINE_LASTS));
    let roles: BTreeSet<Role> = [Role::Root, Role::Node].into();
    let identity = Identity { cluster, node, roles: roles.clone() };
    let issued = authority.issue(&asked, &identity, &when)?;
    let since_epoch = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    state.change(|ledger| {
        *ledger = Ledger::default();
        let certificate = (&issued.serial, since_epoch(when.end));
        ledger.note(node, (&*settings.host, roles), certificate)?;
        Ok(ledger.own(node, disks.iter().copied())?)
    })?;
    replace(&state.ca_key(), &made.key, 0o600)?;
    state.keep_settings(settings)?;
    let slot = |disk: &DiskId| Slot {
        disk: *disk,
        address: Some(settings.address.clone()),
        path: None,
        replaces: None,
        slot: SlotId(0),
        drain: false,
        domain: settings.host.clone(),
        rack: String::new(),
    };
    state.keep_cluster(&Cluster {
        cluster,
        generation: Generation(1),
        cache: None,
        metad: Vec::new(),
        identity: None,
        insecure: false,
        slots: disks.iter().map(slot).collect(),
    })?;
    Ok(state.files().keep(&key, &issued.certificate, &made.certificate)?)
}
