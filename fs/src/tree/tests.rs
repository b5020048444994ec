//! The tree over metadata and blobs in memory: where paths lead, who may what, what is left of what breaks off.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use meta::{
    Caller, Ino, MetaStore, NewNode, Outdated, ROOT, RenameMode, Replaces, Time, VolumeInfo,
};
use parking_lot::Mutex;
use proto::id::{ClusterId, VolumeId};
use proto::scheme::Scheme;

use super::{Sending, TreeError, TreePath, Trouble, View, Viewer};
use crate::data::{Data, DataSettings};
use crate::filesystem::outdated::Told;
use crate::filesystem::{Change, Filesystem};
use crate::testing::MemoryBlobs;

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

fn mounted() -> (Arc<Filesystem>, Arc<meta::Session>) {
    let info = VolumeInfo {
        name: "v".to_owned(),
        id: VolumeId(1),
        cluster: ClusterId::random(),
        scheme: Scheme::erasure(4, 2).unwrap(),
        rules: proxy::VolumeRules::default(),
    };
    let meta = meta::in_memory(&info, (0, 0, 0o755));
    let blobs = Arc::new(MemoryBlobs::new());
    let data = Data::start(meta.clone(), blobs.clone(), DataSettings::default());
    (Filesystem::start(meta.clone(), data, blobs), meta)
}

fn view(fs: &Arc<Filesystem>, uid: u32, root: Ino) -> View {
    View::new(fs.clone(), Viewer { uid, gids: vec![uid], root, write: true })
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

async fn put(view: &View, at: &str, bytes: &'static [u8]) -> Result<Ino, TreeError> {
    let mut upload = view.upload(&path(at)).await?;
    upload.write(Bytes::from_static(bytes)).await?;
    Ok(upload.finish(Replaces::Anything).await?.ino)
}

async fn get(view: &View, at: &str) -> Result<Vec<u8>, TreeError> {
    let file = view.open(&path(at)).await?;
    let size = file.attr().size;
    let chunks: Vec<Bytes> = file.stream(0..size, Sending::default()).try_collect().await?;
    Ok(chunks.concat())
}

async fn node(fs: &Filesystem, parent: Ino, name: &str, mode: u32, node: NewNode) -> Ino {
    fs.create(ROOT_USER, parent, name.as_bytes(), mode, node).await.unwrap().ino
}

async fn link(fs: &Filesystem, parent: Ino, name: &str, target: &str) {
    node(fs, parent, name, 0o777, NewNode::Symlink(target.into())).await;
}

#[tokio::test]
async fn no_path_and_no_link_leads_out_of_the_subtree() {
    let (fs, _) = mounted();
    let all = view(&fs, 0, ROOT);
    put(&all, "secret", b"outside").await.unwrap();
    let home = node(&fs, ROOT, "home", 0o755, NewNode::Directory).await;
    let below = node(&fs, home, "below", 0o755, NewNode::Directory).await;
    let own = view(&fs, 0, home);
    put(&own, "file", b"inside").await.unwrap();
    for (name, target) in [
        ("up", "../../secret"),
        ("abs", "/secret"),
        ("ok", "../file"),
        ("around", "../below/../below/ok"),
        ("dot", "./ok"),
        ("self", "self"),
        ("dangling", "nothing"),
        ("dir", ".."),
        ("above", "../.."),
        ("back", "../../home/file"),
    ] {
        link(&fs, below, name, target).await;
    }
    let found = async |at: &str| get(&own, at).await.map_err(|e| e.trouble());
    for at in ["below/ok", "below/around", "below/dot", "below/dir/file", "below/dir/below/ok"] {
        assert_eq!(found(at).await.as_deref(), Ok(&b"inside"[..]), "{at}");
    }
    // `back` leads out and in again: out is out.
    for at in ["below/up", "below/abs", "below/above", "below/above/secret", "below/back"] {
        assert_eq!(found(at).await, Err(Trouble::Denied), "{at}");
    }
    assert_eq!(found("below/self").await, Err(Trouble::BadRequest));
    assert_eq!(found("below/dangling").await, Err(Trouble::NotFound));
    assert_eq!(found("below/ok/more").await, Err(Trouble::WrongKind));
    assert_eq!(found("secret").await, Err(Trouble::NotFound));
    // What is put over a link, or taken away, is the link.
    put(&own, "below/ok", b"instead").await.unwrap();
    assert_eq!(found("file").await.as_deref(), Ok(&b"inside"[..]));
    own.remove(&path("below/up"), Replaces::Anything).await.unwrap();
    assert_eq!(get(&all, "secret").await.unwrap(), b"outside");
    assert!(matches!(own.remove(&path(""), Replaces::Anything).await, Err(TreeError::Path(_))));
}

#[tokio::test]
async fn permissions_are_those_of_the_mount() {
    let (fs, _) = mounted();
    let (admin, ann, bob) = (view(&fs, 0, ROOT), view(&fs, 10, ROOT), view(&fs, 11, ROOT));
    node(&fs, ROOT, "open", 0o1777, NewNode::Directory).await;
    node(&fs, ROOT, "shut", 0o700, NewNode::Directory).await;
    let trouble = |e: TreeError| e.trouble();
    put(&ann, "open/anns", b"a").await.unwrap();
    let attr = ann.stat(&path("open/anns")).await.unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode), (10, 10, 0o644));
    assert_eq!(get(&bob, "open/anns").await.unwrap(), b"a");
    let denied = Err(Trouble::Denied);
    assert_eq!(put(&bob, "open/anns", b"b").await.map(drop).map_err(trouble), denied, "sticky");
    assert_eq!(bob.remove(&path("open/anns"), Replaces::Anything).await.map_err(trouble), denied);
    let to = path("open/bobs");
    let renamed = bob.rename(&path("open/anns"), &to, RenameMode::Replace).await;
    assert_eq!(renamed.map_err(trouble), denied);
    assert_eq!(put(&ann, "top", b"a").await.map(drop).map_err(trouble), denied);
    put(&admin, "shut/file", b"s").await.unwrap();
    assert_eq!(get(&ann, "shut/file").await.map(drop).map_err(trouble), denied);
    assert_eq!(ann.list(&path("shut")).await.map(drop).map_err(trouble), denied);
    bob.copy(&path("open/anns"), &to, Replaces::Nothing).await.unwrap();
    assert_eq!(get(&ann, "open/bobs").await.unwrap(), b"a");
    let reader = Viewer { uid: 0, gids: vec![0], root: ROOT, write: false };
    let reader = View::new(fs.clone(), reader);
    assert_eq!(put(&reader, "new", b"n").await.map(drop).map_err(trouble), denied);
    assert_eq!(
        reader.remove(&path("open/anns"), Replaces::Anything).await.map_err(trouble),
        denied
    );
    assert_eq!(get(&reader, "shut/file").await.unwrap(), b"s");
}

#[tokio::test]
async fn a_file_of_pieces_of_others_has_their_bytes_and_the_time_that_it_is_given() {
    let (fs, _) = mounted();
    let (own, bob) = (view(&fs, 0, ROOT), view(&fs, 11, ROOT));
    put(&own, "a", b"abcdef").await.unwrap();
    put(&own, "b", b"ghi").await.unwrap();
    let (a, b) = (own.open(&path("a")).await.unwrap(), own.open(&path("b")).await.unwrap());
    let private = own.make_private_directory(&path("d")).await.unwrap();
    assert_eq!(private.mode & 0o777, 0o700);
    assert!(own.folder(&path("d")).await.unwrap().is_empty().await.unwrap());
    let mut upload = own.upload(&path("begun")).await.unwrap();
    upload.write_copy(&a, 1..4).await.unwrap();
    upload.write_copy(&b, 0..99).await.unwrap();
    upload.set_attribute(b"user.of", b"pieces").await.unwrap();
    let time = Time { secs: 5, nanos: 7 };
    upload.modified_at(time).await.unwrap();
    assert_eq!(upload.attr().await.unwrap().mtime, time);
    let placed = upload.finish_at(&path("d/whole"), Replaces::Nothing).await.unwrap();
    assert_eq!((placed.mtime, placed.size), (time, 6));
    assert_eq!(get(&own, "d/whole").await.unwrap(), b"bcdghi");
    let folder = own.folder(&path("d")).await.unwrap();
    let attr = folder.look(b"whole").await.unwrap().unwrap();
    assert_eq!(attr.ino, placed.ino);
    let found = folder.attribute_of(&attr, b"user.of").await.unwrap();
    assert_eq!(found.as_deref(), Some(&b"pieces"[..]));
    assert_eq!(folder.attribute_of(&attr, b"user.none").await.unwrap(), None);
    assert!(folder.look(b"begun").await.unwrap().is_none() && !folder.is_empty().await.unwrap());
    let denied = bob.folder(&path("d")).await.map(drop).map_err(|e| e.trouble());
    assert_eq!(denied, Err(Trouble::Denied));
}

#[tokio::test]
async fn copies_and_replacements_keep_what_belongs_to_a_file_beside_its_bytes() {
    let (fs, _) = mounted();
    let (admin, ann, bob) = (view(&fs, 0, ROOT), view(&fs, 10, ROOT), view(&fs, 11, ROOT));
    node(&fs, ROOT, "open", 0o777, NewNode::Directory).await;
    let ino = put(&ann, "open/a", b"a").await.unwrap();
    let change = Change { mode: Some(0o4755), ..Change::default() };
    fs.setattr(ann.requester(), ino, change).await.unwrap();
    ann.set_attribute(&path("open/a"), b"user.x", b"1").await.unwrap();
    bob.copy(&path("open/a"), &path("open/b"), Replaces::Nothing).await.unwrap();
    let copy = bob.stat(&path("open/b")).await.unwrap();
    assert_eq!((copy.uid, copy.mode), (11, 0o755), "as cp(1): no set-id bits");
    let x = async |view: &View, at: &str| view.attribute(&path(at), b"user.x").await.unwrap();
    assert_eq!(x(&bob, "open/b").await.as_deref(), Some(&b"1"[..]));

    // Bob is not in the group of Ann's file, and what that may do is not for his.
    for (viewer, owner, mode) in [(&admin, 10, 0o755), (&bob, 11, 0o705)] {
        let upload = viewer.upload(&path("open/a")).await.unwrap();
        upload.in_place_of(&ann.stat(&path("open/a")).await.unwrap()).await.unwrap();
        let new = upload.finish(Replaces::Anything).await.unwrap();
        assert_eq!((new.uid, new.mode), (owner, mode));
        assert_eq!(x(&bob, "open/a").await.as_deref(), Some(&b"1"[..]));
    }
}

#[tokio::test]
async fn what_changes_places_has_to_be_allowed_both_ways() {
    let (fs, _) = mounted();
    let (ann, bob) = (view(&fs, 10, ROOT), view(&fs, 11, ROOT));
    for name in ["p", "q"] {
        node(&fs, ROOT, name, 0o777, NewNode::Directory).await;
    }
    ann.make_directory(&path("p/anns")).await.unwrap();
    bob.make_directory(&path("q/bobs")).await.unwrap();
    let (from, to) = (path("q/bobs"), path("p/anns"));
    let denied = bob.rename(&from, &to, RenameMode::Exchange).await.map_err(|e| e.trouble());
    assert_eq!(denied, Err(Trouble::Denied), "its .. would be another, which is ann's to say");
    put(&ann, "p/anns/file", b"f").await.unwrap();
    ann.rename(&path("p/anns"), &path("p/moved"), RenameMode::NoReplace).await.unwrap();
    bob.make_directory(&path("p/bobs")).await.unwrap();
    bob.rename(&from, &path("p/bobs"), RenameMode::Exchange).await.unwrap();

    link(&fs, ROOT, "link", "p/moved/file").await;
    let admin = view(&fs, 0, ROOT);
    admin.copy_link(&path("link"), &path("again")).await.unwrap();
    assert_eq!(get(&admin, "again").await.unwrap(), b"f");
    assert!(admin.copy_link(&path("link"), &path("again")).await.unwrap_err().is_there_already());
}

#[tokio::test]
async fn an_upload_shows_when_it_is_whole_and_only_where_it_may_replace() {
    let (fs, meta) = mounted();
    let all = view(&fs, 0, ROOT);
    let mut upload = all.upload(&path("f")).await.unwrap();
    upload.write(Bytes::from_static(b"half")).await.unwrap();
    assert!(all.stat(&path("f")).await.unwrap_err().is_not_found());
    let before = meta.usage().await.unwrap().inodes;
    drop(upload);
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(meta.usage().await.unwrap().inodes, before - 1, "what broke off stays");
    let first = put(&all, "f", b"first").await.unwrap();
    let finish = async |replaces| all.upload(&path("f")).await.unwrap().finish(replaces).await;
    assert!(finish(Replaces::Nothing).await.unwrap_err().is_there_already());
    assert!(finish(Replaces::Only(Ino(77))).await.unwrap_err().is_there_already());
    // Who reads the old one reads it to its end.
    let old = all.open(&path("f")).await.unwrap();
    finish(Replaces::Only(first)).await.unwrap();
    assert_eq!(&old.read(0..9).await.unwrap()[..], b"first");
    assert_eq!(get(&all, "f").await.unwrap(), b"");
    let missing = all.upload(&path("no/such/f")).await.map(drop);
    assert!(missing.unwrap_err().is_not_found());
    node(&fs, ROOT, "d", 0o755, NewNode::Directory).await;
    assert_eq!(put(&all, "d", b"").await.unwrap_err().trouble(), Trouble::WrongKind);
}

#[tokio::test]
async fn a_change_is_told_and_carried_through_though_nobody_waits() {
    let (fs, _) = mounted();
    let all = view(&fs, 0, ROOT);
    put(&all, "f", b"first").await.unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    fs.watch(Box::new(move |what| match what {
        Told::AtOnce(_) => panic!("nothing is a side effect"),
        Told::Forget(outdated, forgotten) => {
            seen.lock().extend(outdated);
            let _ = forgotten.send(());
        }
    }));
    let name = |name: &[u8]| Outdated::Name(ROOT, name.into());
    let upload = all.upload(&path("f")).await.unwrap();
    let mut finishing = Box::pin(upload.finish(Replaces::Anything));
    assert!(futures::poll!(&mut finishing).is_pending(), "it is done on a task");
    drop(finishing);
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(get(&all, "f").await.unwrap(), b"");
    assert_eq!(*told.lock(), [name(b"f"), Outdated::Content(ROOT)], "names first");
    told.lock().clear();
    all.rename(&path("f"), &path("g"), RenameMode::Replace).await.unwrap();
    all.make_directories(&path("a/b")).await.unwrap();
    all.remove(&path("g"), Replaces::Anything).await.unwrap();
    let told = told.lock().clone();
    for name in [name(b"f"), name(b"g"), name(b"a")] {
        assert!(told.contains(&name), "{name:?} is not told: {told:?}");
    }
    assert_eq!(all.stat(&path("a/b")).await.unwrap().kind, meta::Kind::Directory);
}

#[tokio::test]
async fn listings_are_whole_and_files_come_in_chunks() {
    let (fs, _) = mounted();
    let all = view(&fs, 0, ROOT);
    all.make_directory(&path("d")).await.unwrap();
    for n in 0..600 {
        put(&all, &format!("d/{n}"), b"x").await.unwrap();
    }
    let mut listing = all.list(&path("d")).await.unwrap();
    let mut names = Vec::new();
    loop {
        let entries = listing.next().await.unwrap();
        if entries.is_empty() {
            break;
        }
        names.extend(entries.into_iter().map(|entry| entry.name));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 600);
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
    let mut upload = all.upload(&path("large")).await.unwrap();
    upload.write(Bytes::from(bytes.clone())).await.unwrap();
    upload.finish(Replaces::Nothing).await.unwrap();
    let memory = Sending::default();
    let file = all.open(&path("large")).await.unwrap();
    let part: Vec<Bytes> = file.stream(5..2_900_000, memory.clone()).try_collect().await.unwrap();
    assert!(part.iter().all(|chunk| chunk.len() <= 1 << 20));
    assert_eq!(part.concat(), bytes[5..2_900_000]);
}

#[tokio::test]
async fn attributes_come_and_go() {
    let (fs, _) = mounted();
    let all = view(&fs, 0, ROOT);
    put(&all, "f", b"x").await.unwrap();
    let at = path("f");
    assert_eq!(all.attribute(&at, b"user.a").await.unwrap(), None);
    all.set_attribute(&at, b"user.a", b"1").await.unwrap();
    assert_eq!(all.attribute(&at, b"user.a").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(all.attributes(&at).await.unwrap(), [b"user.a".to_vec()]);
    all.remove_attribute(&at, b"user.a").await.unwrap();
    assert_eq!(all.attribute(&at, b"user.a").await.unwrap(), None);
    let none = all.remove_attribute(&at, b"user.a").await.unwrap_err();
    assert_eq!(none.trouble(), Trouble::NotFound);
}

#[tokio::test]
async fn what_is_deleted_where_uploads_are_kept_is_nobodys_to_have_back() {
    let (fs, meta) = mounted();
    fs.set_trash_days(5).await.unwrap();
    let all = view(&fs, 0, ROOT);
    for folder in [".ashlar-uploads", ".ashlar-uploads/one"] {
        all.make_directory(&path(folder)).await.unwrap();
    }
    put(&all, ".ashlar-uploads/one/00001", b"part").await.unwrap();
    let kept = put(&all, "kept", b"mine").await.unwrap();
    for gone in [".ashlar-uploads/one/00001", ".ashlar-uploads/one", ".ashlar-uploads", "kept"] {
        all.remove(&path(gone), Replaces::Anything).await.unwrap();
    }
    let trash: Vec<Ino> =
        meta.newest_trash(None, 10).await.unwrap().iter().map(|one| one.attr.ino).collect();
    assert_eq!(trash, [kept]);
}

async fn in_trash(view: &View) -> Vec<TreePath> {
    let (found, next) = view.trash(None, 100).await.unwrap();
    assert_eq!(next, None);
    found.into_iter().map(|one| one.path).collect()
}

#[tokio::test]
async fn what_one_has_deleted_is_shown_though_another_has_deleted_the_folder() {
    let (fs, meta) = mounted();
    let (admin, ann, bob) = (view(&fs, 0, ROOT), view(&fs, 10, ROOT), view(&fs, 11, ROOT));
    let shared = node(&fs, ROOT, "shared", 0o777, NewNode::Directory).await;
    let folder = node(&fs, shared, "folder", 0o777, NewNode::Directory).await;
    let file = put(&bob, "shared/folder/bobs", b"b").await.unwrap();
    bob.discard(&path("shared/folder/bobs"), Replaces::Anything).await.unwrap();
    ann.discard(&path("shared/folder"), Replaces::Anything).await.unwrap();
    assert_eq!(in_trash(&bob).await, [path("shared/folder/bobs")]);
    // Whoever is shown the folder has it back with all that was in it, and sees one thing.
    for sees in [&ann, &admin] {
        assert_eq!(in_trash(sees).await, [path("shared/folder")]);
    }
    // His file does not undo what she has deleted; it comes to another place.
    let refused = bob.restore(file, None, false).await.unwrap_err();
    assert!(matches!(refused, TreeError::FolderOfOthers), "{refused}");
    assert_eq!(refused.trouble(), Trouble::Denied);
    bob.restore(file, Some(&path("shared/back")), false).await.unwrap();
    assert_eq!(get(&bob, "shared/back").await.unwrap(), b"b");
    assert_eq!(in_trash(&ann).await, [path("shared/folder")]);
    // Where a folder has that name again, it is as good.
    bob.discard(&path("shared/back"), Replaces::Anything).await.unwrap();
    ann.restore(folder, None, false).await.unwrap();
    let other = put(&bob, "shared/folder/other", b"o").await.unwrap();
    bob.discard(&path("shared/folder/other"), Replaces::Anything).await.unwrap();
    ann.discard(&path("shared/folder"), Replaces::Anything).await.unwrap();
    bob.make_directory(&path("shared/folder")).await.unwrap();
    bob.restore(other, None, false).await.unwrap();
    assert_eq!(get(&bob, "shared/folder/other").await.unwrap(), b"o");
    assert!(meta.opened_on().check().await.unwrap().is_clean());
}

#[tokio::test]
async fn what_lay_too_deep_to_have_a_path_does_not_end_the_list() {
    let (fs, meta) = mounted();
    let all = view(&fs, 0, ROOT);
    fs.set_trash_days(5).await.unwrap();
    put(&all, "before", b"b").await.unwrap();
    all.remove(&path("before"), Replaces::Anything).await.unwrap();
    let mut at = ROOT;
    for _ in 0..20 {
        at = node(&fs, at, &"d".repeat(250), 0o755, NewNode::Directory).await;
    }
    let deep = node(&fs, at, "deep", 0o644, NewNode::File).await;
    fs.unlink(0, at, b"deep").await.unwrap();
    put(&all, "after", b"a").await.unwrap();
    all.remove(&path("after"), Replaces::Anything).await.unwrap();
    assert_eq!(in_trash(&all).await, [path("after"), path("before")]);
    assert!(matches!(all.was_at(deep).await, Err(TreeError::Path(_))));
    all.restore(deep, Some(&path("shallow")), false).await.unwrap();
    assert_eq!(meta.lookup(ROOT, b"shallow").await.unwrap().ino, deep);
    // It goes with all others, and nobody has to see it for that.
    fs.unlink(0, ROOT, b"shallow").await.unwrap();
    assert_eq!(all.empty_trash(Time { secs: i64::MAX, nanos: 0 }).await.unwrap(), (3, 0));
}

#[tokio::test]
async fn nobody_deletes_for_good_what_others_have_deleted_from_a_folder() {
    let (fs, meta) = mounted();
    fs.set_trash_days(5).await.unwrap();
    let (ann, bob) = (view(&fs, 10, ROOT), view(&fs, 11, ROOT));
    let shared = node(&fs, ROOT, "shared", 0o777, NewNode::Directory).await;
    let drop_box = node(&fs, shared, "box", 0o777, NewNode::Directory).await;
    let inner = node(&fs, drop_box, "inner", 0o777, NewNode::Directory).await;
    let file = put(&bob, "shared/box/inner/bobs", b"b").await.unwrap();
    let remove = async |view: &View, at: &str| view.remove(&path(at), Replaces::Anything).await;
    remove(&bob, "shared/box/inner/bobs").await.unwrap();
    remove(&ann, "shared/box/inner").await.unwrap();
    remove(&ann, "shared/box").await.unwrap();
    // Nothing is in them but what is in his trash.
    for folder in [drop_box, inner] {
        let denied = ann.delete_in_trash(folder).await.unwrap_err();
        assert_eq!(denied.trouble(), Trouble::Denied);
    }
    let ever = Time { secs: i64::MAX, nanos: 0 };
    assert_eq!(ann.empty_trash(ever).await.unwrap(), (0, 2));
    bob.restore(file, Some(&path("shared/back")), false).await.unwrap();
    assert_eq!(get(&bob, "shared/back").await.unwrap(), b"b");
    // What is hers alone goes.
    assert_eq!(ann.empty_trash(ever).await.unwrap(), (2, 0));
    assert!(meta.newest_trash(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_replaced_whole_is_in_the_trash_in_one_step_or_nothing_has_happened() {
    let (fs, meta) = mounted();
    fs.set_trash_days(5).await.unwrap();
    let (ann, bob) = (view(&fs, 10, ROOT), view(&fs, 11, ROOT));
    let shared = node(&fs, ROOT, "shared", 0o777, NewNode::Directory).await;
    node(&fs, shared, "in", 0o777, NewNode::Directory).await;
    ann.make_directory(&path("shared/old")).await.unwrap();
    let old = ann.stat(&path("shared/old")).await.unwrap().ino;
    put(&ann, "shared/old/deleted", b"d").await.unwrap();
    ann.remove(&path("shared/old/deleted"), Replaces::Anything).await.unwrap();
    bob.make_directory(&path("shared/in/bobs")).await.unwrap();
    let bobs = bob.stat(&path("shared/in/bobs")).await.unwrap().ino;
    let before = meta.newest_trash(None, 10).await.unwrap();
    // His folder is not hers to move; nothing has gone, and nothing that was deleted has come back.
    let whole = |ino: Ino| RenameMode::ReplaceWhole(ino);
    let replace = async |view: &View, from: &str, to: &str, ino: Ino| {
        view.rename(&path(from), &path(to), whole(ino)).await
    };
    let refused = replace(&ann, "shared/in/bobs", "shared/old", old).await;
    assert_eq!(refused.map_err(|e| e.trouble()), Err(Trouble::Denied));
    // Nor is her folder his to put into the trash, nor another than was looked at.
    let refused = replace(&bob, "shared/in/bobs", "shared/old", old).await;
    assert_eq!(refused.map_err(|e| e.trouble()), Err(Trouble::Denied));
    ann.make_directory(&path("shared/in/anns")).await.unwrap();
    let late = replace(&ann, "shared/old", "shared/in/anns", old).await;
    assert!(late.unwrap_err().is_there_already());
    assert_eq!(meta.newest_trash(None, 10).await.unwrap(), before);
    assert_eq!(ann.stat(&path("shared/old")).await.unwrap().ino, old);

    put(&ann, "shared/old/kept", b"k").await.unwrap();
    put(&ann, "shared/new", b"n").await.unwrap();
    replace(&ann, "shared/new", "shared/old", old).await.unwrap();
    assert_eq!(get(&ann, "shared/old").await.unwrap(), b"n");
    assert_eq!(in_trash(&ann).await, [path("shared/old")]);
    ann.restore(old, Some(&path("shared/back")), false).await.unwrap();
    assert_eq!(get(&ann, "shared/back/kept").await.unwrap(), b"k");
    assert_eq!(bob.stat(&path("shared/in/bobs")).await.unwrap().ino, bobs);
    assert!(meta.opened_on().check().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_folder_takes_nothing_into_the_trash_that_may_not_be_deleted() {
    let (fs, meta) = mounted();
    let (admin, ann, bob) = (view(&fs, 0, ROOT), view(&fs, 10, ROOT), view(&fs, 11, ROOT));
    node(&fs, ROOT, "shared", 0o777, NewNode::Directory).await;
    let folder = put_folders(&ann, &bob).await;
    let anything = Replaces::Anything;
    let whole = RenameMode::ReplaceWhole(folder);
    ann.make_directory(&path("shared/new")).await.unwrap();
    for refused in [
        ann.discard(&path("shared/folder"), anything).await.map(drop),
        ann.delete_for_good(&path("shared/folder"), anything).await,
        ann.rename(&path("shared/new"), &path("shared/folder"), whole).await,
    ] {
        assert!(matches!(refused, Err(TreeError::NotWhole)), "{refused:?}");
    }
    let file = put(&ann, "shared/back", b"f").await.unwrap();
    ann.discard(&path("shared/back"), anything).await.unwrap();
    let refused = ann.restore(file, Some(&path("shared/folder")), true).await;
    assert!(matches!(refused, Err(TreeError::NotWhole)), "{refused:?}");
    assert_eq!(get(&bob, "shared/folder/bobs/x").await.unwrap(), b"x");
    bob.remove(&path("shared/folder/bobs/x"), anything).await.unwrap();
    assert_eq!(ann.discard(&path("shared/folder"), anything).await.unwrap(), Some(folder));
    let there = in_trash(&ann).await;
    assert!(there.len() == 2 && there.contains(&path("shared/folder")), "{there:?}");
    // Who may do anything may do this.
    let folder = put_folders(&ann, &bob).await;
    assert_eq!(admin.discard(&path("shared/folder"), anything).await.unwrap(), Some(folder));
    assert!(meta.opened_on().check().await.unwrap().is_clean());
}

/// A folder of hers with one of his in it, in which she may delete nothing.
async fn put_folders(ann: &View, bob: &View) -> Ino {
    let folder = ann.make_directory(&path("shared/folder")).await.unwrap().ino;
    let change = Change { mode: Some(0o777), ..Change::default() };
    ann.filesystem.setattr(ann.requester(), folder, change).await.unwrap();
    bob.make_directory(&path("shared/folder/bobs")).await.unwrap();
    put(bob, "shared/folder/bobs/x", b"x").await.unwrap();
    folder
}
