//! Objects deleted, one or many, and the folders that were there for them alone.

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use fs::tree::{TreePath, Trouble};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use meta::{Attr, Kind, Replaces};

use super::asked::Asked;
use super::attributes::FOLDER;
use super::conditions;
use super::document::document;
use super::elements::{self, Seen as Read};
use super::error::{S3Error, S3Result, Wrong};
use super::keys::Key;
use super::object::{self, FolderMark};
use super::xml::Xml;

/// Objects of one request, as AWS has it.
const MANY: usize = 1000;
/// Of them at once.
const AT_ONCE: usize = 32;

/// DELETE of one. One that is not there is deleted.
///
/// # Errors
/// When it cannot be, or a condition does not hold.
pub(super) async fn one(asked: &Asked) -> S3Result<Response> {
    asked.of_this_version()?;
    let key = asked.key()?;
    asked.there().await?;
    remove(asked, &key, &asked.headers).await?;
    tidy_above(asked, &key.path).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove(asked: &Asked, key: &Key, conditions: &HeaderMap) -> S3Result<()> {
    let failed = |e: fs::tree::TreeError| S3Error::of(&e, Wrong::NoSuchKey);
    let found = match asked.view.stat_itself(&key.path).await {
        Ok(attr) => attr,
        // One that is not there is deleted, whatever it had to be.
        Err(e) if matches!(e.trouble(), Trouble::NotFound | Trouble::WrongKind) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    match (found.kind, key.folder) {
        (Kind::Directory, true) => return remove_folder(asked, (key, &found), conditions).await,
        // There is a folder, and no such object.
        (Kind::Directory, false) | (_, true) => return Ok(()),
        _ => {}
    }
    let which = match conditions::of_deletes(conditions) {
        true => Replaces::Only(found.ino),
        false => Replaces::Anything,
    };
    if which != Replaces::Anything {
        // What a link leads to is what the client has seen.
        let (seen, attr) =
            object::open(asked, key).await.map(|object| (object.seen, object.attr))?;
        conditions::deletes(conditions, &seen, &attr)?;
    }
    match asked.view.remove(&key.path, which).await {
        // Somebody else was faster.
        Err(e) if e.is_not_found() && which == Replaces::Anything => Ok(()),
        Err(e) if which != Replaces::Anything => Err(conditions::refused(&e, which)),
        done => done.map_err(failed),
    }
}

/// The folder goes if it is empty. Else it is there for what lies in it, and no object any more.
async fn remove_folder(
    asked: &Asked,
    (key, folder): (&Key, &Attr),
    conditions: &HeaderMap,
) -> S3Result<()> {
    let failed = |e: fs::tree::TreeError| S3Error::of(&e, Wrong::NoSuchKey);
    let _alone = asked.door.folders.write().await;
    if conditions::of_deletes(conditions) {
        let object = object::open(asked, key).await?;
        conditions::deletes(conditions, &object.seen, &object.attr)?;
    }
    let kept = asked.view.attribute(&key.path, FOLDER).await.map_err(failed)?;
    match asked.view.remove(&key.path, Replaces::Anything).await {
        Err(e) if e.trouble() == Trouble::WrongKind && kept.is_some() => {
            let mark = FolderMark::made(folder).kept();
            asked.view.set_attribute(&key.path, FOLDER, &mark).await.map_err(failed)
        }
        // A folder that the mount has made stays, and is none.
        Err(e) if matches!(e.trouble(), Trouble::WrongKind | Trouble::NotFound) => Ok(()),
        done => done.map_err(failed),
    }
}

/// Takes the folders away in which this was, if they were made for objects and are empty.
pub(super) async fn tidy_above(asked: &Asked, path: &TreePath) {
    let mut at = path.clone();
    loop {
        at = match at.split() {
            // A bucket stays.
            Some((above, _)) if above.names().len() > 1 => above,
            _ => return,
        };
        // Most are not: so the lock is for those that look as if.
        let gone = async {
            if !is_for_objects(asked, &at).await? {
                return Ok::<_, fs::tree::TreeError>(false);
            }
            let _alone = asked.door.folders.write().await;
            if !is_for_objects(asked, &at).await? {
                return Ok(false);
            }
            asked.view.remove(&at, Replaces::Anything).await.map(|()| true)
        };
        match gone.await {
            Ok(true) => {}
            // Another way to the same end, or one that is not there so far.
            Err(e) if e.is_not_found() => {}
            Ok(false) | Err(_) => return,
        }
    }
}

/// Is it a folder, itself and no link to one, that was made for objects alone, and has none?
async fn is_for_objects(asked: &Asked, path: &TreePath) -> fs::tree::TreeResult<bool> {
    let itself = asked.view.stat_itself(path).await?;
    if itself.kind != Kind::Directory {
        return Ok(false);
    }
    let mark = FolderMark::read(asked.view.attribute(path, FOLDER).await?.as_deref());
    let for_objects = mark.is_some_and(|mark| mark.is_for_objects(&itself));
    Ok(for_objects && asked.view.list(path).await?.next().await?.is_empty())
}

/// One of many.
#[derive(Default)]
pub(super) struct Named {
    key: String,
    version: Option<String>,
    conditions: HeaderMap,
}

pub(super) fn read(body: &[u8]) -> S3Result<(Vec<Named>, bool)> {
    let (mut all, mut quiet) = (Vec::<Named>::new(), false);
    let mut is_delete = false;
    elements::read(body, |path, seen| {
        match (path, seen) {
            (["Delete"], Read::Begin) => is_delete = true,
            (["Delete", "Quiet"], Read::Leaf(text)) => quiet = text.trim() == "true",
            (["Delete", "Object"], Read::Begin) if all.len() >= MANY => {
                let why = format!("more than {MANY} objects");
                return Err(S3Error::new(Wrong::MalformedXML, why));
            }
            (["Delete", "Object"], Read::Begin) => all.push(Named::default()),
            (["Delete", "Object", name], Read::Leaf(text)) => {
                let Some(last) = all.last_mut() else { return Ok(()) };
                let mut says = |name: &'static str| {
                    let value = HeaderValue::from_str(text.trim()).map_err(|_| {
                        S3Error::new(Wrong::MalformedXML, format!("{name} is no such value"))
                    });
                    last.conditions.insert(HeaderName::from_static(name), value?);
                    Ok::<_, S3Error>(())
                };
                match *name {
                    "Key" => last.key = text.to_owned(),
                    "VersionId" => last.version = Some(text.to_owned()),
                    "ETag" => says("if-match")?,
                    "LastModifiedTime" => says("x-amz-if-match-last-modified-time")?,
                    "Size" => says("x-amz-if-match-size")?,
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    match is_delete && !all.is_empty() {
        true => Ok((all, quiet)),
        false => {
            Err(S3Error::new(Wrong::MalformedXML, "a list of objects to delete belongs there"))
        }
    }
}

/// One of many: where it was.
async fn of_many(asked: &Asked, bucket: &TreePath, named: &Named) -> S3Result<TreePath> {
    if named.version.as_deref().is_some_and(|version| version != "null") {
        let why = "versions are off here: the only one of an object is null";
        return Err(S3Error::new(Wrong::NoSuchVersion, why));
    }
    let key = Key::of(bucket, named.key.clone().into_bytes())?;
    remove(asked, &key, &named.conditions).await?;
    Ok(key.path)
}

/// DeleteObjects.
///
/// # Errors
/// When what is sent makes no sense, or there is no such bucket. What cannot be deleted is in the answer.
pub(super) async fn many(asked: &Asked, body: &[u8]) -> S3Result<Response> {
    let (all, quiet) = read(body)?;
    let (bucket, _) = asked.there().await?;
    let deletes: Vec<_> = all.iter().map(|named| of_many(asked, &bucket, named)).collect();
    let done: Vec<_> = futures::stream::iter(deletes).buffered(AT_ONCE).collect().await;
    let mut xml = Xml::new("DeleteResult");
    let mut above = BTreeSet::new();
    for (named, done) in all.iter().zip(done) {
        match done {
            Ok(path) => {
                if let Some((folder, _)) = path.split() {
                    let names: Vec<Vec<u8>> = folder.names().iter().map(|n| n.to_vec()).collect();
                    above.insert(names);
                }
                if !quiet {
                    xml.open("Deleted").text("Key", &named.key);
                    xml.maybe("VersionId", named.version.as_ref()).close("Deleted");
                }
            }
            Err(S3Error { wrong, message, .. }) => {
                xml.open("Error")
                    .text("Key", &named.key)
                    .maybe("VersionId", named.version.as_ref());
                xml.text("Code", wrong.word()).text("Message", message).close("Error");
            }
        }
    }
    // The deepest first.
    for names in above.into_iter().rev() {
        let inside = TreePath::of_names(names.iter()).and_then(|folder| folder.join(b"-"));
        if let Ok(inside) = inside {
            tidy_above(asked, &inside).await;
        }
    }
    Ok(document(xml.end("DeleteResult")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_objects_to_delete() {
        let object =
            |n: usize| format!("<Object><Key>k{n}</Key><VersionId>null</VersionId></Object>");
        let list = |inner: &str| format!("<Delete xmlns='u'>{inner}<Quiet>true</Quiet></Delete>");
        let (all, quiet) = read(list(&(object(1) + &object(2))).as_bytes()).unwrap();
        assert!(
            quiet
                && all.len() == 2
                && all[1].key == "k2"
                && all[1].version.as_deref() == Some("null")
        );
        let many: String = (0..1001).map(object).collect();
        for bad in [list(""), list(&many), "<Other/>".into()] {
            assert_eq!(read(bad.as_bytes()).map(drop).unwrap_err().wrong, Wrong::MalformedXML);
        }
    }
}
