//! Orders: what `ashlar trash` has done to the trash of a volume, by the process that serves it
//! ([`crate::mount::control`]) or by the command itself. Who may give orders may do anything to it.

use std::collections::HashSet;

use meta::{Attr, Ino, Kind, MetaError, MetaStore, ROOT, Time};
use serde::{Deserialize, Serialize};

use super::back::{Done, Plan, at_or_below};
use super::look::{Entry, Look, Wish};

/// What is given up in one transaction.
const AT_ONCE: usize = 1000;
/// Seconds of a day.
const DAY: i64 = 86_400;

/// What shall be done. Paths are the bytes of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// Tell what is in it.
    List {
        /// At this path or below.
        under: Vec<Vec<u8>>,
        /// Also what was deleted from folders that are in it themselves.
        all: bool,
        /// Behind what an answer ended with.
        after: Option<Cursor>,
        /// At most so many.
        limit: usize,
    },
    /// Put one thing back, or what is at a path: if nothing is, all that is below.
    Restore {
        /// Which.
        which: Which,
        /// Where to, if not to where it was.
        to: Option<Vec<Vec<u8>>>,
        /// What is there goes to the trash.
        replace: bool,
    },
    /// Delete for good: these, or what was deleted so many days ago, or all of it.
    Empty {
        /// These.
        ids: Vec<u64>,
        /// What was deleted so many days ago.
        older_than: Option<u16>,
    },
}

/// Where a list goes on: the time in seconds and nanoseconds, and the number.
pub(crate) type Cursor = (i64, u32, u64);

/// What is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Which {
    /// By its number.
    Id(u64),
    /// By its path.
    Path(Vec<Vec<u8>>),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// These are in it, and there is more behind that.
    List(Vec<Listed>, Option<Cursor>),
    /// So many came back; those at these paths did not, as something is there.
    Restored(usize, Vec<Vec<Vec<u8>>>),
    /// So many are deleted for good.
    Emptied(u64),
}

/// Something in the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Its number.
    pub(crate) id: u64,
    /// Where it was: names from the root of the volume.
    pub(crate) path: Vec<Vec<u8>>,
    /// `file`, `folder`, `link` or `other`.
    pub(crate) kind: String,
    /// Bytes.
    pub(crate) size: u64,
    /// When it was deleted, in seconds since the epoch.
    pub(crate) deleted: i64,
    /// The user who did.
    pub(crate) by: u32,
    /// The user whose it is.
    pub(crate) owner: u32,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    /// There is no such thing.
    #[error("{0} is not in the trash (ashlar trash list shows what is)")]
    NotThere(String),
    /// Something is there.
    #[error(
        "something is at {0}: give --replace, which puts that into the trash, or another place with --to"
    )]
    Taken(String),
    /// There is no folder to put it into.
    #[error("there is no folder {0} to put it into")]
    NoFolder(String),
    /// It is no place.
    #[error("it cannot be put there: {0}")]
    NoPlace(&'static str),
    /// Metadata refused.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// A path as people read it.
pub(crate) fn shown(names: &[impl AsRef<[u8]>]) -> String {
    let names = names.iter().map(|name| String::from_utf8_lossy(name.as_ref()).into_owned());
    format!("/{}", names.collect::<Vec<_>>().join("/"))
}

fn boxed(names: &[Vec<u8>]) -> Vec<Box<[u8]>> {
    names.iter().map(|name| name.clone().into()).collect()
}

impl Order {
    /// Does it change nothing?
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self, Self::List { .. })
    }

    /// Has it done, durably. `by`: the user who gives it; `seen`: what of attributes is not in metadata yet. It is noted in `done`
    /// what has come back, whatever the answer.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub(crate) async fn obey(
        self,
        meta: &dyn MetaStore,
        by: u32,
        seen: &(dyn Fn(Attr) -> Attr + Sync),
        done: &mut Done,
    ) -> Result<Answer, OrderError> {
        let answer = match self {
            Self::List { under, all, after, limit } => {
                let wish = Wish { all, under: boxed(&under) };
                let after = after.map(|(secs, nanos, ino)| (Time { secs, nanos }, Ino(ino)));
                let (page, next) = Look::new(meta, ROOT, None).list(&wish, after, limit).await?;
                let listed = page.iter().map(|entry| listed(entry, seen)).collect();
                let next = next.map(|(at, ino)| (at.secs, at.nanos, ino.0));
                return Ok(Answer::List(listed, next));
            }
            Self::Restore { which, to, replace } => {
                restore(meta, which, to, (replace, by), done).await?
            }
            Self::Empty { ids, older_than } => Answer::Emptied(empty(meta, ids, older_than).await?),
        };
        meta.sync().await?;
        Ok(answer)
    }
}

fn listed(entry: &Entry, seen: &(dyn Fn(Attr) -> Attr + Sync)) -> Listed {
    let attr = seen(entry.trashed.attr);
    let kind = match attr.kind {
        Kind::File => "file",
        Kind::Directory => "folder",
        Kind::Symlink => "link",
        _ => "other",
    };
    Listed {
        id: attr.ino.0,
        path: entry.path().into_iter().map(Vec::from).collect(),
        kind: kind.to_owned(),
        size: if attr.kind == Kind::File { attr.size } else { 0 },
        deleted: entry.trashed.when.secs,
        by: entry.trashed.by,
        owner: attr.uid,
    }
}

async fn restore(
    meta: &dyn MetaStore,
    which: Which,
    to: Option<Vec<Vec<u8>>>,
    (replace, by): (bool, u32),
    done: &mut Done,
) -> Result<Answer, OrderError> {
    let (found, named) = match which {
        Which::Id(id) => (Look::new(meta, ROOT, None).one(Ino(id)).await?, id.to_string()),
        Which::Path(path) => {
            let wish = Wish { all: true, under: boxed(&path) };
            let mut all = at_or_below(meta, ROOT, &wish).await?;
            let exact = all.len() == 1 && all[0].path() == wish.under;
            if !all.is_empty() && !exact {
                return restore_below(meta, all, (to.is_some(), by), done).await;
            }
            (all.pop(), shown(&path))
        }
    };
    let entry = found.ok_or(OrderError::NotThere(named))?;
    let place = to.clone().unwrap_or_else(|| entry.path().into_iter().map(Vec::from).collect());
    let plan = match to {
        None => Plan::home(meta, ROOT, &entry).await,
        Some(to) => place_of(meta, &to).await.map(Ok)?,
    };
    let restored = match plan {
        Ok(plan) => plan.carry_out(meta, &entry.trashed, replace, (by, None), done).await,
        Err(why) => Err(why),
    };
    restored.map_err(|why| match why {
        MetaError::Exists => OrderError::Taken(shown(&place)),
        why => why.into(),
    })?;
    Ok(Answer::Restored(done.inos.len(), Vec::new()))
}

/// Of each path what was deleted last, unless something is there.
async fn restore_below(
    meta: &dyn MetaStore,
    all: Vec<Entry>,
    (elsewhere, by): (bool, u32),
    done: &mut Done,
) -> Result<Answer, OrderError> {
    if elsewhere {
        let why = "what was deleted below a folder goes back to where it was: leave out --to, or give one by its number";
        return Err(OrderError::NoPlace(why));
    }
    let (mut back, mut taken) = (HashSet::new(), Vec::new());
    for entry in all {
        // It came with a folder.
        if back.contains(&entry.trashed.attr.ino) {
            continue;
        }
        let before = done.inos.len();
        let restored = match Plan::home(meta, ROOT, &entry).await {
            Ok(plan) => plan.carry_out(meta, &entry.trashed, false, (by, None), done).await,
            Err(why) => Err(why),
        };
        back.extend(done.inos[before..].iter().copied());
        match restored {
            Ok(()) => {}
            Err(MetaError::Exists) => {
                taken.push(entry.path().into_iter().map(Vec::from).collect());
            }
            // Somebody was faster.
            Err(MetaError::NotFound) => {}
            Err(why) => return Err(why.into()),
        }
    }
    Ok(Answer::Restored(done.inos.len(), taken))
}

/// A place by its path.
async fn place_of(meta: &dyn MetaStore, to: &[Vec<u8>]) -> Result<Plan, OrderError> {
    let why = "the root of the volume is no name";
    let (name, above) = to.split_last().ok_or(OrderError::NoPlace(why))?;
    let mut at = ROOT;
    for name in above {
        at = match meta.lookup(at, name).await {
            Ok(attr) if attr.kind == Kind::Directory => attr.ino,
            Ok(_) | Err(MetaError::NotFound) => return Err(OrderError::NoFolder(shown(above))),
            Err(why) => return Err(why.into()),
        };
    }
    Ok(Plan::to(at, name))
}

async fn empty(
    meta: &dyn MetaStore,
    ids: Vec<u64>,
    older_than: Option<u16>,
) -> Result<u64, OrderError> {
    if !ids.is_empty() {
        for id in &ids {
            match meta.trashed(Ino(*id)).await {
                Err(MetaError::NotFound) => return Err(OrderError::NotThere(id.to_string())),
                found => drop(found?),
            }
        }
        let inos: Vec<Ino> = ids.iter().map(|id| Ino(*id)).collect();
        meta.give_up_trash(&inos).await?;
        return Ok(inos.len() as u64);
    }
    let now = meta::wall_clock();
    let until = Time { secs: now.secs - i64::from(older_than.unwrap_or(0)) * DAY, ..now };
    // Without a word of days also what is deleted at this moment.
    let until = if older_than.is_none() { Time { secs: i64::MAX, nanos: 0 } } else { until };
    let mut emptied = 0;
    let given_up = Time::default();
    // What is given up is the oldest of all, and its time is no place to go on from.
    let mut after = Some((given_up, Ino(u64::MAX)));
    loop {
        let page = meta.oldest_trash(until, after, AT_ONCE).await?;
        let Some(last) = page.last() else { return Ok(emptied) };
        after = Some((last.when, last.attr.ino));
        let inos: Vec<Ino> = page.iter().map(|one| one.attr.ino).collect();
        meta.give_up_trash(&inos).await?;
        emptied += inos.len() as u64;
    }
}
