//! Folders made, and whatever deleted, moved and copied, with all that is in it. What has begun is carried through.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use meta::Kind;
use serde::{Deserialize, Serialize};

use super::asked::{Asked, json, said};
use super::entry::Entry;
use crate::place::{named, no_folder, refused};
use crate::refusal::{Code, Refusal};
use crate::trees::{self, Ends, Failures, apart};
use crate::{address, conditions};

/// What could not be done, of all that was to be.
#[derive(Serialize)]
struct Failed {
    failures: Vec<Failure>,
    /// How many there were besides.
    more: usize,
}

#[derive(Serialize)]
struct Failure {
    path: String,
    error: &'static str,
    message: String,
}

impl Failed {
    fn of(failures: &Failures) -> Self {
        let failure = |(path, error): &(_, _)| {
            let Refusal { code, message, .. } = refused(error);
            Failure { path: address::write(path), error: code.word(), message }
        };
        Self { failures: failures.all.iter().map(failure).collect(), more: failures.more }
    }
}

/// What was put into the trash.
#[derive(Serialize)]
struct Kept {
    trash: Option<String>,
    #[serde(flatten)]
    failed: Option<Failed>,
}

/// Nothing to say, unless something failed.
fn answered(failures: &Failures) -> Result<Response, Refusal> {
    match failures.all.is_empty() {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => json(StatusCode::OK, &Failed::of(failures)),
    }
}

/// POST /folders/PATH.
pub(super) async fn make_folder(asked: &Asked) -> Result<Response, Refusal> {
    let (view, path) = (&asked.view, &asked.path);
    let taken = |there| Refusal::taken(there, "something has this name already");
    if path.names().is_empty() {
        return Err(taken(Kind::Directory));
    }
    let made = match view.make_directory(path).await {
        Err(e) if e.is_there_already() => {
            let there = view.stat_itself(path).await.map_err(|e| refused(&e))?;
            return Err(taken(there.kind));
        }
        made => made.map_err(|e| no_folder(&e))?,
    };
    let entry = Entry::of(view, path, &made).await.map_err(|e| refused(&e))?;
    json(StatusCode::CREATED, &entry)
}

/// DELETE /entries/PATH.
pub(super) async fn delete(asked: &Asked) -> Result<Response, Refusal> {
    let there = asked.view.stat_itself(&asked.path).await.map_err(|e| refused(&e))?;
    let which = conditions::replaces(&asked.headers, Some(&there))?;
    let (keeps, forever) = (asked.query.flag("trash")?, asked.query.flag("forever")?);
    match (keeps, forever) {
        (true, true) => {
            let why = "it is kept in the trash, or deleted for good: give trash or forever";
            Err(Refusal::new(Code::BadRequest, why))
        }
        (true, false) => {
            let (kept, failures) =
                trees::discard(&asked.view, &asked.path, (&there, which)).await?;
            let failed = (!failures.all.is_empty()).then(|| Failed::of(&failures));
            json(StatusCode::OK, &Kept { trash: kept.map(|ino| ino.0.to_string()), failed })
        }
        // Else whatever is deleted goes for good anyway.
        (false, true) if asked.view.trash_days() > 0 => {
            let gone = trees::delete_for_good(&asked.view, &asked.path, (&there, which));
            answered(&gone.await?)
        }
        (false, _) => answered(&trees::delete(&asked.view, &asked.path, (&there, which)).await?),
    }
}

/// From where to where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Way {
    pub(super) from: String,
    pub(super) to: String,
    #[serde(default)]
    replace: bool,
}

/// `follows`: of a link it is what it leads to that comes.
async fn ends(asked: &Asked, body: &[u8], follows: bool) -> Result<Ends, Refusal> {
    let Way { from, to, replace } = said(body)?;
    let (from, to) = (address::read(&from)?, address::read(&to)?);
    let source = asked.view.stat_itself(&from).await.map_err(|e| refused(&e))?;
    let target = named(&asked.view, &to).await?;
    let ends = Ends { from, source, to, target };
    apart(&asked.view, &ends, follows).await?;
    let Some(there) = &ends.target else { return Ok(ends) };
    if !replace {
        let why = "something is there already, and is not to be replaced (replace: false)";
        return Err(Refusal::taken(there.kind, why));
    }
    let comes = match ends.source.kind {
        Kind::Symlink if follows => asked.view.stat(&ends.from).await.map_err(|e| refused(&e))?,
        _ => ends.source,
    };
    if (comes.kind == Kind::Directory) != (there.kind == Kind::Directory) {
        // Whoever means a file by its name does not mean all that is in a folder.
        let why = "a folder takes the place of a folder alone: delete what is there first";
        return Err(Refusal::taken(there.kind, why));
    }
    Ok(ends)
}

/// POST /move.
pub(super) async fn move_to(asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    answered(&trees::move_to(&asked.view, &ends(asked, body, false).await?).await?)
}

/// POST /copy.
pub(super) async fn copy(asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    answered(&trees::copy(&asked.view, &ends(asked, body, true).await?, true).await?)
}
