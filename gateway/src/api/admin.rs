//! What administrators do and nobody else, by `/api/v1/admin/`: what the commands do to accounts and to a volume while it is served.

use axum::response::Response;
use fs::filesystem::status::SpareError;
use fs::mount::tasks::{self, Wish};
use http::StatusCode;
use meta::AccountKind;
use serde::Deserialize;
use serde_json::json;

use super::accounts;
use super::asked::{Asked, json, said};
use super::door::Door;
use super::entries::may_change;
use super::routes::{AdminChange, AdminTell};
use crate::refusal::{Code, Refusal};

/// What only tells.
pub(super) async fn told(door: &Door, what: AdminTell) -> Result<Response, Refusal> {
    match what {
        AdminTell::Accounts(kind) => accounts::list(&door.who, kind).await,
        AdminTell::Options => options(door),
        AdminTell::Volumes => {
            let found = door.volumes.now().await;
            json(StatusCode::OK, &json!({ "volumes": found.listed, "missed": found.missed }))
        }
        AdminTell::LastCheck => door.check.told(),
    }
}

/// What does something.
pub(super) async fn done(
    door: &Door,
    asked: &Asked,
    (what, id): (AdminChange, &str),
    body: &[u8],
) -> Result<Response, Refusal> {
    match what {
        AdminChange::AddAccount(AccountKind::User) => {
            accounts::add_user(&door.who, asked, body).await
        }
        AdminChange::AddAccount(kind) => accounts::add_pass(&door.who, asked, (kind, body)).await,
        AdminChange::ChangeUser => accounts::change_user(&door.who, asked, (id, body)).await,
        AdminChange::RemoveAccount(kind) => accounts::remove(&door.who, asked, (kind, id)).await,
        AdminChange::SetOptions => set_options(door, asked, body).await,
        AdminChange::Scrub => scrub(door, asked).await,
        AdminChange::BeginCheck => check(door, asked, body),
    }
}

/// GET /admin/options.
fn options(door: &Door) -> Result<Response, Refusal> {
    let filesystem = door.who.filesystem();
    let (min_spare, trash_days) = (filesystem.min_spare(), filesystem.trash_days());
    json(StatusCode::OK, &json!({ "min_spare": min_spare, "trash_days": trash_days }))
}

/// PATCH /admin/options.
async fn set_options(door: &Door, asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        min_spare: Option<u8>,
        trash_days: Option<u16>,
    }
    may_change(asked, true)?;
    let Wanted { min_spare, trash_days } = said(body)?;
    if min_spare.is_none() && trash_days.is_none() {
        let why = "no option is to be changed: give min_spare or trash_days";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let filesystem = door.who.filesystem();
    if let Some(disks) = min_spare {
        filesystem.set_min_spare(disks).await.map_err(|why| {
            let code = match &why {
                SpareError::TooMany(_) => Code::BadRequest,
                SpareError::Meta(_) => Code::TooFewDisks,
            };
            Refusal::new(code, why.to_string())
        })?;
    }
    if let Some(days) = trash_days {
        let set = filesystem.set_trash_days(days).await;
        set.map_err(|why| Refusal::of(&why.into(), Code::Broken))?;
    }
    options(door)
}

/// POST /admin/scrub.
async fn scrub(door: &Door, asked: &Asked) -> Result<Response, Refusal> {
    may_change(asked, false)?;
    let begun = tasks::scrub(door.who.filesystem()).await;
    let disks = begun.map_err(|why| Refusal::new(Code::TooFewDisks, why))?;
    json(StatusCode::ACCEPTED, &json!({ "disks": disks }))
}

/// POST /admin/check.
fn check(door: &Door, asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    let wish = if body.is_empty() { Wish::default() } else { said(body)? };
    may_change(asked, wish.repair)?;
    door.check.begin(door.who.filesystem().clone(), wish, &door.server)
}
