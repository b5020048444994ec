//! A folder, or some of what is in it, as a zip file that is made while it is sent.
//!
//! What is in memory is bounded: a few chunks of content, and the directory at the end of the file, all of which share
//! [`DIRECTORIES`]. An archive of which something cannot be read breaks off, and has no end: nobody takes it for whole. What lies so
//! deep that it has no path is left out, and named in a file at its end. Links are not followed into folders; one to a file that may be seen is that file, others are left out, as are pipes, sockets and
//! devices.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs::tree::path::PATH_MAX;
use fs::tree::{BadPath, Sending, TreeError, TreePath, View};
use futures::StreamExt;
use http::{HeaderValue, Method, header};
use meta::{Attr, DirEntry, Kind};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::Instant;

use super::asked::{Account, Asked};
use super::content::attachment;
use super::shares::{Share, Shares};
use super::zip::{Zip, escaped, safe};
use crate::address;
use crate::metrics;
use crate::place::refused;
use crate::refusal::{Code, Refusal};
use crate::through::{BrokenOff, told};
use crate::trees::walk::{Step, Walk};

/// Archives at once, and those of one account.
const AT_ONCE: usize = 16;
const EACH: usize = 4;
/// Memory of the directories of all archives that are being sent, and of those of one account, in KiB.
const DIRECTORIES: usize = 64 << 10;
const DIRECTORY: usize = 32 << 10;
/// By so many KiB a directory grows.
const GROWS: u32 = 64;

/// Whoever takes an archive takes so many bytes a second at least, of the time that he is waited for; but for so much of it.
const LEAST: u64 = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(120);
/// The file that names what was left out, and the folders that it names.
const LEFT_OUT: &str = "LEFT OUT";
const NAMED: usize = 100;

/// Turns for archives, and memory for their directories.
pub(super) struct Archives {
    turns: Shares,
    memory: Shares,
}

impl Default for Archives {
    fn default() -> Self {
        let memory = Shares::new(DIRECTORIES, DIRECTORY);
        Self { turns: Shares::new(AT_ONCE, EACH), memory }
    }
}

/// How he takes an archive who is sent it.
#[derive(Default)]
struct Pace {
    waited: Duration,
    taken: u64,
}

impl Pace {
    /// How long he is waited for still.
    fn left(&self) -> Duration {
        (PATIENCE + Duration::from_secs(self.taken / LEAST)).saturating_sub(self.waited)
    }
}

/// Why an archive breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}: {1}")]
    Tree(String, TreeError),
    #[error("{0}: what was stored is damaged")]
    Damaged(String),
    #[error(
        "more files than there is memory for at present: at most {DIRECTORY} KiB of names for an account, and {DIRECTORIES} of all archives"
    )]
    Memory,
    #[error("whoever takes it takes less than {LEAST} bytes a second")]
    Slow,
    #[error("nobody takes it any more")]
    Gone,
}

/// GET /archive/PATH.
pub(super) async fn send(
    archives: &Arc<Archives>,
    memory: Sending,
    asked: &Asked,
    method: &Method,
) -> Result<Response, Refusal> {
    let (view, folder) = (&asked.view, &asked.path);
    let attr = view.stat(folder).await.map_err(|e| refused(&e))?;
    if attr.kind != Kind::Directory {
        return Err(Refusal::new(Code::Conflict, "this is a file: /api/v1/content/ has its bytes"));
    }
    let mut all = Vec::new();
    for name in asked.query.all("name") {
        let below = address::read_bytes(name)?;
        let [name] = below.names() else {
            let why = "name is the address of something in the folder: one name";
            return Err(Refusal::new(Code::BadRequest, why));
        };
        let path = folder.join(name).map_err(|e| Refusal::new(Code::BadRequest, e.to_string()))?;
        let attr = view.stat_itself(&path).await.map_err(|e| refused(&e))?;
        if !all.iter().any(|(other, _)| *other == path) {
            all.push((path, attr));
        }
    }
    let last = |path: &TreePath| path.names().last().map(|name| name.to_vec());
    let name = match &all[..] {
        [(only, _)] => last(only),
        _ => last(folder),
    };
    let mut name = name.unwrap_or_else(|| view.volume().into_bytes());
    name.extend(b".zip");
    // A folder is unpacked as one, what is chosen of it as it is.
    let above = folder.names().len();
    let above = if all.is_empty() { above.saturating_sub(1) } else { above };
    if all.is_empty() {
        all.push((folder.clone(), attr));
    }
    let busy = || {
        Refusal::new(
            Code::Busy,
            "as many archives are being sent as may be at once: wait for one of them",
        )
    };
    let account = asked.account();
    let turn = archives.turns.turn(&account).await.ok_or_else(busy)?;
    let room = vec![archives.memory.take(&account, GROWS).ok_or_else(busy)?];
    let body = match *method {
        Method::HEAD => Body::empty(),
        _ => told("an archive by the API", |teller| {
            let archive = Archive {
                view: view.clone(),
                memory,
                archives: archives.clone(),
                account,
                room,
                zip: Zip::default(),
                above,
                pace: Pace::default(),
                left_out: Vec::new(),
                teller,
                _turn: turn,
            };
            archive.write(all)
        }),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    headers.insert(header::CONTENT_DISPOSITION, attachment(&name));
    Ok(response)
}

/// An archive that is being made.
struct Archive {
    view: View,
    /// For content.
    memory: Sending,
    /// Where its directory has its memory of.
    archives: Arc<Archives>,
    account: Account,
    /// That.
    room: Vec<Share>,
    zip: Zip,
    /// How many names of a path are not in the archive.
    above: usize,
    pace: Pace,
    /// Folders of which something was left out that is too deep, the first [`NAMED`].
    left_out: Vec<TreePath>,
    teller: Sender<Bytes>,
    _turn: Share,
}

impl Archive {
    async fn write(mut self, all: Vec<(TreePath, Attr)>) -> Result<(), BrokenOff> {
        let written = async {
            self.write_all(all).await?;
            let end = std::mem::take(&mut self.zip).finish();
            self.send(end.into()).await
        };
        match written.await {
            Ok(()) | Err(Broken::Gone) => Ok(()),
            Err(why) => {
                tracing::error!("a door breaks off an archive: {why}");
                Err(BrokenOff(why.to_string()))
            }
        }
    }

    async fn write_all(&mut self, all: Vec<(TreePath, Attr)>) -> Result<(), Broken> {
        let some = all.first().map(|(_, attr)| *attr);
        for (path, attr) in all {
            match attr.kind {
                Kind::Directory => self.folder(&path, &attr).await?,
                kind => self.file(&path, kind).await?,
            }
        }
        match some.filter(|_| !self.left_out.is_empty()) {
            Some(attr) => self.name_what_was_left_out(attr).await,
            None => Ok(()),
        }
    }

    /// At the top, where nothing else has such a name.
    async fn name_what_was_left_out(&mut self, some: Attr) -> Result<(), Broken> {
        let mut text = format!(
            "What has a path of more than {PATH_MAX} bytes is not in this archive. It is in:\n"
        );
        for folder in &self.left_out {
            text += &safe(folder.names().iter().map(|name| &name[..]));
            text.push('\n');
        }
        if self.left_out.len() == NAMED {
            text += "and perhaps in others\n";
        }
        let attr = Attr { kind: Kind::File, mode: 0o644, size: text.len() as u64, ..some };
        let name = format!("{LEFT_OUT}{}.txt", escaped(b' '));
        let (header, open) = self.zip.begin(name, &attr);
        self.send(header.into()).await?;
        let crc = crc32fast::hash(text.as_bytes());
        self.send(text.into()).await?;
        let descriptor = self.zip.end(&open, crc, attr.size);
        self.send(descriptor.into()).await
    }

    /// Something in this folder is too deep to have a path.
    fn leave_out(&mut self, folder: &TreePath) {
        if self.left_out.len() < NAMED && !self.left_out.contains(folder) {
            self.left_out.push(folder.clone());
        }
    }

    async fn folder(&mut self, path: &TreePath, attr: &Attr) -> Result<(), Broken> {
        let view = self.view.clone();
        let mut walk = Walk::from(&view, path, attr.ino);
        while let Some(step) = walk.next().await {
            match step {
                Step::Leave(..) => {}
                Step::Failed(at, TreeError::Path(BadPath::Long)) => self.leave_out(&at),
                Step::Failed(at, e) => return Err(Broken::Tree(address::write(&at), e)),
                Step::Enter(at) => {
                    let name = safe(at.names().iter().skip(self.above).map(|name| &name[..]));
                    // The root of the tree has no name.
                    if !name.is_empty() {
                        let is_folder = |attr: &Attr| attr.kind == Kind::Directory;
                        let own = view.stat_itself(&at).await.ok().filter(is_folder);
                        let header = self.zip.folder(name + "/", own.as_ref().unwrap_or(attr));
                        self.send(header.into()).await?;
                    }
                }
                Step::Others(folder, entries) => self.files(&folder, &entries).await?,
            }
        }
        Ok(())
    }

    async fn files(&mut self, folder: &TreePath, entries: &[DirEntry]) -> Result<(), Broken> {
        for entry in entries {
            let Ok(path) = folder.join(&entry.name) else {
                self.leave_out(folder);
                continue;
            };
            if entry.damaged {
                return Err(Broken::Damaged(address::write(&path)));
            }
            self.file(&path, entry.attr.kind).await?;
        }
        Ok(())
    }

    /// A file, or what a link leads to if that is one.
    async fn file(&mut self, path: &TreePath, kind: Kind) -> Result<(), Broken> {
        let is_file = match kind {
            Kind::File => true,
            Kind::Symlink => self.view.stat(path).await.is_ok_and(|there| there.kind == Kind::File),
            _ => false,
        };
        if !is_file {
            return Ok(());
        }
        let broken = |e| Broken::Tree(address::write(path), e);
        let file = match self.view.open(path).await {
            // It went away meanwhile.
            Err(e) if e.is_not_found() => return Ok(()),
            file => file.map_err(broken)?,
        };
        let attr = *file.attr();
        let name = safe(path.names().iter().skip(self.above).map(|name| &name[..]));
        let (header, open) = self.zip.begin(name, &attr);
        self.send(header.into()).await?;
        let mut content = Box::pin(file.stream(0..attr.size, self.memory.clone()));
        let mut crc = crc32fast::Hasher::new();
        while let Some(bytes) = content.next().await {
            let bytes = bytes.map_err(broken)?;
            crc.update(&bytes);
            self.send(bytes).await?;
        }
        let descriptor = self.zip.end(&open, crc.finalize(), attr.size);
        self.send(descriptor.into()).await
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Broken> {
        while self.zip.memory() > self.room.len() * ((GROWS as usize) << 10) {
            let more = self.archives.memory.take(&self.account, GROWS);
            self.room.push(more.ok_or(Broken::Memory)?);
        }
        let (since, len) = (Instant::now(), bytes.len());
        let sent = self.teller.send_timeout(bytes, self.pace.left()).await;
        sent.map_err(|why| match why {
            SendTimeoutError::Timeout(_) => Broken::Slow,
            SendTimeoutError::Closed(_) => Broken::Gone,
        })?;
        metrics::sent(len);
        self.pace.waited += since.elapsed();
        self.pace.taken += len as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_less_than_so_much_a_second_is_not_waited_for() {
        let left = |waited, taken| Pace { waited: Duration::from_secs(waited), taken }.left();
        assert_eq!(left(0, 0), PATIENCE);
        assert_eq!(left(120, 0), Duration::ZERO);
        assert_eq!(left(100_000, 100_000 * LEAST), PATIENCE, "as slow as may be, for a day");
        assert_eq!(left(100_000, 99_000 * LEAST), Duration::ZERO);
    }
}
