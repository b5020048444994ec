//! A folder, or some of what is in it, as a zip file that is made while it is sent.
//!
//! What is in memory is bounded: a few chunks of content, and the directory at the end of the file, all of which share
//! [`DIRECTORIES`]. An archive of which something cannot be read breaks off, and has no end: nobody takes it for whole.
//! Links are not followed into folders; one to a file that may be seen is that file, others are left out, as are pipes, sockets and
//! devices.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs::tree::{Sending, TreeError, TreePath, View};
use futures::StreamExt;
use http::{HeaderValue, Method, header};
use meta::{Attr, DirEntry, Kind};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::asked::Asked;
use super::content::attachment;
use super::zip::{Zip, safe};
use crate::address;
use crate::metrics;
use crate::place::refused;
use crate::refusal::{Code, Refusal};
use crate::trees::walk::{Step, Walk};

/// Memory of the directories of all archives that are being sent, and of one, in KiB.
const DIRECTORIES: usize = 64 << 10;
const DIRECTORY: usize = 32 << 10;
/// By so many KiB a directory grows.
const GROWS: usize = 64;

/// Memory for directories of archives. Cheap to clone.
#[derive(Clone)]
pub(super) struct Archives(Arc<Semaphore>);

impl Default for Archives {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DIRECTORIES)))
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
        "more files than there is memory for at present: at most {DIRECTORY} KiB of names, and {DIRECTORIES} of all archives"
    )]
    Memory,
    #[error("nobody takes it any more")]
    Gone,
}

/// GET /archive/PATH.
pub(super) async fn send(
    archives: &Archives,
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
        all.push((path, attr));
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
    let first = archives.0.clone().try_acquire_many_owned(GROWS as u32).map_err(|_| {
        let why = "so many archives are being sent that there is no memory for another one";
        Refusal::new(Code::Busy, why)
    })?;
    let body = match *method {
        Method::HEAD => Body::empty(),
        _ => {
            let (sender, receiver) = channel(1);
            let zip = Zip::default();
            let (memory_of_all, room) = (archives.0.clone(), vec![first]);
            let view = view.clone();
            let archive = Archive { view, memory, memory_of_all, room, zip, above, sender };
            tokio::spawn(archive.write(all));
            Body::from_stream(sent(receiver))
        }
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    headers.insert(header::CONTENT_DISPOSITION, attachment(&name));
    Ok(response)
}

fn sent(
    receiver: Receiver<Result<Bytes, Broken>>,
) -> impl futures::Stream<Item = Result<Bytes, Broken>> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        let next = receiver.recv().await?;
        if let Ok(bytes) = &next {
            metrics::sent(bytes.len());
        }
        Some((next, receiver))
    })
}

/// An archive that is being made.
struct Archive {
    view: View,
    /// For content.
    memory: Sending,
    /// For directories.
    memory_of_all: Arc<Semaphore>,
    /// Its share of that.
    room: Vec<OwnedSemaphorePermit>,
    zip: Zip,
    /// How many names of a path are not in the archive.
    above: usize,
    sender: Sender<Result<Bytes, Broken>>,
}

impl Archive {
    async fn write(mut self, all: Vec<(TreePath, Attr)>) {
        let done = self.write_all(all).await;
        let sender = self.sender.clone();
        let last = match done {
            Ok(()) => Ok(Bytes::from(self.zip.finish())),
            Err(Broken::Gone) => return,
            Err(why) => {
                tracing::error!("a door breaks off an archive: {why}");
                Err(why)
            }
        };
        // Whoever has gone needs no end.
        let _gone = sender.send(last).await;
    }

    async fn write_all(&mut self, all: Vec<(TreePath, Attr)>) -> Result<(), Broken> {
        for (path, attr) in all {
            match attr.kind {
                Kind::Directory => self.folder(&path, &attr).await?,
                kind => self.file(&path, kind).await?,
            }
        }
        Ok(())
    }

    async fn folder(&mut self, path: &TreePath, attr: &Attr) -> Result<(), Broken> {
        let view = self.view.clone();
        let mut walk = Walk::from(&view, path, attr.ino);
        while let Some(step) = walk.next().await {
            match step {
                Step::Leave(..) => {}
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
            let path = folder.join(&entry.name);
            let path = path.map_err(|e| Broken::Tree(address::write(folder), e.into()))?;
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
        while self.zip.memory() > self.room.len() * (GROWS << 10) {
            if (self.room.len() + 1) * GROWS > DIRECTORY {
                return Err(Broken::Memory);
            }
            let more = self.memory_of_all.clone().try_acquire_many_owned(GROWS as u32);
            self.room.push(more.map_err(|_| Broken::Memory)?);
        }
        self.sender.send(Ok(bytes)).await.map_err(|_| Broken::Gone)
    }
}
