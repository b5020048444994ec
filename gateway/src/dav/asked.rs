//! A request: where it is about, what there is, and whether what it wants may be done.

use std::sync::Arc;
use std::time::Instant;

use fs::tree::{TreePath, View};
use http::HeaderMap;
use http::request::Parts;

use super::address::{Address, named, read};
use super::door::Door;
use super::headers::{List, What, lists};
use super::locks::{Locks, Reach};
use crate::conditions;
use crate::place::refused;
use crate::refusal::{Code, Refusal};
use crate::who::seen_in;

/// A request whose `If` holds.
pub(super) struct Asked {
    pub(super) door: Arc<Door>,
    /// Those of what is seen.
    pub(super) locks: Arc<Locks>,
    pub(super) view: View,
    pub(super) at: Address,
    pub(super) headers: HeaderMap,
    /// All tokens that it says it has.
    pub(super) tokens: Vec<String>,
}

impl Asked {
    /// What a request asks for.
    ///
    /// # Errors
    /// When its address makes no sense, or its `If` does not hold.
    pub(super) async fn of(door: &Arc<Door>, parts: &Parts) -> Result<Self, Refusal> {
        let (view, headers) = (seen_in(&parts.extensions), parts.headers.clone());
        let asked = Self {
            door: door.clone(),
            locks: door.locks(view.viewer().root),
            view,
            at: read(parts.uri.path())?,
            headers,
            tokens: Vec::new(),
        };
        let lists = lists(&asked.headers)?;
        if !lists.is_empty() && !asked.any_holds(&lists).await? {
            let why = "what is there is another, or locked by another, than If says";
            return Err(Refusal::new(Code::Precondition, why));
        }
        let all = lists.into_iter().flat_map(|list| list.conditions);
        let tokens = all.filter_map(|condition| match condition.what {
            What::Token(token) => Some(token),
            What::Tag(_) => None,
        });
        Ok(Self { tokens: tokens.collect(), ..asked })
    }

    async fn any_holds(&self, lists: &[List]) -> Result<bool, Refusal> {
        for list in lists {
            let about = match &list.about {
                None => Some(self.at.path.clone()),
                // Of what is elsewhere nothing holds.
                Some(address) => named(&self.headers, address).ok().map(|at| at.path),
            };
            if self.all_hold(list, about.as_ref()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn all_hold(&self, list: &List, about: Option<&TreePath>) -> Result<bool, Refusal> {
        for condition in &list.conditions {
            let holds = match (about, &condition.what) {
                (None, _) => false,
                (Some(path), What::Token(token)) => self.locks.holds(path, token, Instant::now()),
                (Some(path), What::Tag(tag)) => {
                    let tag = tag.trim_start_matches("W/");
                    match self.view.stat(path).await {
                        Ok(attr) => conditions::tag(&attr) == tag,
                        Err(e) if e.is_not_found() => false,
                        Err(e) => return Err(refused(&e)),
                    }
                }
            };
            if holds == condition.not {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// May this be changed, by the locks?
    ///
    /// # Errors
    /// When it is locked, and no token of that came along.
    pub(super) fn unlocked(&self, path: &TreePath, reach: Reach) -> Result<(), Refusal> {
        let allowed = self.locks.allow(path, reach, &self.tokens, Instant::now());
        allowed.map_err(|locked| {
            let at = super::address::write(&locked, false);
            Refusal::new(
                Code::Locked,
                format!("{at} is locked, and no token of that lock came along"),
            )
        })
    }
}
