//! What a volume is told to do while it is served here: by a command, over the desk of its mount, or by an administrator who
//! comes by a door.

use anyhow::Context;
use meta::ProxyStores;
use proxy::BlobStore;
use proxy::repair::{Examiner, HealSettings, Users};
use serde_json::{Value, json};

use super::outage::Outage;
use crate::filesystem::Filesystem;
pub use crate::fsck::Wish;
use crate::fsck::{self, Findings, Patient, Told};

/// Has all disks read and verify everything that they hold: how many have begun.
///
/// # Errors
/// Why none has.
pub async fn scrub(filesystem: &Filesystem) -> Result<usize, String> {
    let Some(healer) = filesystem.healer.get() else {
        return Err("nothing is repaired here".to_owned());
    };
    healer.scrub().await.map_err(|why| why.reason().to_string())
}

/// Checks the volume, and mends blobs if that is wanted; `told` hears how many blobs of how many are examined. Answers what was
/// found, as `ashlar fsck --json` tells it, and whether all is in order.
///
/// # Errors
/// Why it could not look.
pub async fn check(
    filesystem: &Filesystem,
    wish: Wish,
    told: &(dyn Fn(u64, u64) + Sync),
) -> Result<Value, String> {
    let found = checked(filesystem, wish, told).await.map_err(|why| format!("{why:#}"))?;
    let in_order = found.is_in_order();
    let found = serde_json::to_value(found).map_err(|why| why.to_string())?;
    Ok(json!({ "in_order": in_order, "found": found }))
}

/// The same, with what was found.
pub(super) async fn checked(
    filesystem: &Filesystem,
    wish: Wish,
    told: Told<'_>,
) -> anyhow::Result<Findings> {
    let (volume, blobs) = filesystem.inside.get().context("there is nothing to look at")?;
    let (stores, proxy) = (ProxyStores::new(blobs.clone()), blobs.current());
    let name = volume.info().name;
    let led = Some(&**volume);
    let rate = filesystem.healer.get().map_or(HealSettings::default().rate, |healer| healer.rate());
    let examiner = Examiner::new(&proxy, Users::Here(rate));
    let (stores, name) = (&stores, &*name);
    let patient =
        Patient { stores, proxy: &proxy, examiner, name, led, in_use: true, salvaged: None };
    let found = fsck::check(&patient, wish, told).await;
    let mut found = match found {
        Ok(found) => found,
        Err(why) => return Err(fsck::explained(&*proxy, why).await),
    };
    let info = volume.info();
    let space = proxy.space(info.id, info.scheme).await;
    let outage = Outage::of(&proxy.slots().await, info.scheme, space.is_cut_off());
    found.disks_away = outage.as_ref().map_or(0, Outage::away);
    found.outage = outage.map(|outage| outage.to_string());
    found.warnings = filesystem.warnings().to_vec();
    Ok(found)
}
