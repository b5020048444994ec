//! A request: who sends it, and where it is about. Answers in JSON.

use axum::response::{IntoResponse, Response};
use fs::access::Visitor;
use fs::tree::{TreePath, View};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use meta::AccountKind;
use serde::Serialize;

use super::query::Query;
use crate::address;
use crate::refusal::{Code, Refusal};
use crate::who::{Entered, entered};

/// Whom what there is little of is counted for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Account {
    /// Whoever comes to an open door, and shows nothing.
    Nobody,
    /// A user, by whatever he comes.
    User(String),
    /// A share link: whoever has it is not the user who gave it away.
    Link(String),
}

/// A request, whose address makes sense.
pub(super) struct Asked {
    pub(super) entered: Entered,
    /// What its sender sees.
    pub(super) view: View,
    /// Where it is about; the root, if it is about no place.
    pub(super) path: TreePath,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
}

impl Asked {
    /// A request, about the path at the end of its address.
    ///
    /// # Errors
    /// When that is none.
    pub(super) fn of(parts: &Parts, path: &str) -> Result<Self, Refusal> {
        let entered = entered(&parts.extensions).clone();
        Ok(Self {
            view: entered.view.clone(),
            entered,
            path: address::read(path)?,
            query: Query::of(&parts.uri),
            headers: parts.headers.clone(),
        })
    }

    /// For whom this counts.
    pub(super) fn account(&self) -> Account {
        match &self.entered.visitor {
            None => Account::Nobody,
            Some(Visitor { by: AccountKind::Link, pass, .. }) => {
                Account::Link(pass.clone().unwrap_or_default())
            }
            Some(visitor) => Account::User(visitor.user.clone()),
        }
    }
}

/// What a body says that has to be done.
///
/// # Errors
/// When it is not that.
pub(super) fn said<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|e| Refusal::new(Code::BadRequest, format!("the JSON of the request: {e}")))
}

/// An answer in JSON.
///
/// # Errors
/// None that there should be: when it cannot be written as JSON.
pub(super) fn json(status: StatusCode, said: &impl Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_string(said);
    let text = text.map_err(|e| Refusal::new(Code::Broken, e.to_string()))?;
    let mut response = (status, text + "\n").into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
