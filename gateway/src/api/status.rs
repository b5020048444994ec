//! How the volume is, for administrators, and where a file lies, for whoever may read it.

use axum::response::Response;
use fs::tree::{OnDisk, Places};
use http::StatusCode;
use serde_json::{Value, json};

use super::asked::{Asked, json};
use super::door::Door;
use super::entries::is_by_link;
use super::figures::throughput;
use crate::faults;
use crate::place::refused;
use crate::refusal::{Code, Refusal};

/// GET /status: all that `ashlar status` knows, and what this process does.
pub(super) async fn status(door: &Door) -> Result<Response, Refusal> {
    let status = door.who.status().await?;
    let mut said =
        serde_json::to_value(&status).map_err(|e| Refusal::new(Code::Broken, e.to_string()))?;
    said["health"] = serde_json::to_value(status.health()).unwrap_or_default();
    said["throughput"] =
        serde_json::to_value(throughput(&door.counted.render())).unwrap_or_default();
    let mut errors: Vec<Value> = Vec::new();
    if let Some(mount) = &status.mount {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        said["sessions"] = json!([{
            "session": mount.session,
            "host": host.trim(),
            "pid": mount.pid,
            "since": door.since,
            "doors": door.doors,
        }]);
        errors.extend(mount.last_error.iter().map(|why| json!({ "message": why })));
    }
    let volumes = door.volumes.known(&door.server);
    said["volumes"] = serde_json::to_value(&volumes.listed).unwrap_or_default();
    said["volumes_missed"] = volumes.missed.clone().into();
    let told = faults::told();
    errors.extend(told.into_iter().map(|(at, message)| json!({ "at": at, "message": message })));
    said["errors"] = errors.into();
    json(StatusCode::OK, &said)
}

/// GET /places/PATH.
pub(super) async fn places(door: &Door, asked: &Asked) -> Result<Response, Refusal> {
    let busy = "as much is looked for as may be at once: wait for some of it";
    let turn = door.looks.turn(&asked.account()).await;
    let _turn = turn.ok_or_else(|| Refusal::new(Code::Busy, busy))?;
    let places = asked.view.places(&asked.path).await.map_err(|e| refused(&e))?;
    let Places { scheme, spare, losses_reads, losses_writes, inline, complete, disks } = places;
    // What machines there are is nothing for those who have no account.
    let disks = if is_by_link(asked) { Vec::new() } else { disks };
    let disk = |OnDisk { disk, bytes }: &OnDisk| {
        json!({
            "id": disk.disk,
            "place": disk.place,
            "host": disk.domain,
            "state": disk.state,
            "bytes": bytes,
        })
    };
    json(
        StatusCode::OK,
        &json!({
            "scheme": scheme,
            "spare": spare,
            "losses_reads": losses_reads,
            "losses_writes": losses_writes,
            "inline": inline,
            "complete": complete,
            "disks": disks.iter().map(disk).collect::<Vec<_>>(),
        }),
    )
}
