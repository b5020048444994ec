//! Promise: by S3 a bucket is a folder and an object a file of the same tree, whole or not there, in the order of bytes,
//! with a tag that is void once others change the file; uploads by parts outlive the process; who signs is let in as his
//! account says; and what a tree cannot hold gets a sentence.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::accounts::Accounts;
use tests::cluster::{Mode, Stop, can_mount};
use tests::door::PASSWORD;
use tests::process::{PATIENCE, run, wait_until};
use tests::s3::{Site, between, code, complete, text};
use tests::seed::{Seed, content};

/// Smallest part but for the last.
const PART: usize = 5 << 20;

fn md5(path: &Path) -> Result<String> {
    let said = run(Command::new("md5sum").arg(path), PATIENCE)?;
    Ok(said.split(' ').next().unwrap_or_default().to_owned())
}

#[test]
fn the_mount_sees_what_comes_by_s3_and_the_other_way_round() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Embedded)?;
    let mount = site.demo.path();
    let file = |name: &str| mount.join(name);
    let bytes = content(1, 300_000);
    let put = site.door.ask(
        "PUT",
        "/photos/a/b",
        &[("Content-Type", "text/plain"), ("x-amz-meta-of", "May"), ("x-amz-tagging", "k=v")],
        &bytes,
    )?;
    let tag = put.expect(200)?.headers["etag"].clone();
    ensure!(fs::read(file("photos/a/b"))? == bytes, "put, and read on the mount");
    ensure!(tag == format!("\"{}\"", md5(&file("photos/a/b"))?), "the tag is the MD5");
    let part = site.ask("GET", "/photos/a/b", &[("Range", "bytes=1000-1999")], "")?.expect(206)?;
    ensure!(part.body == bytes[1000..2000] && part.headers["x-amz-meta-of"] == "May");
    let head = site.ask("HEAD", "/photos/a/b", &[], "")?.expect(200)?;
    ensure!(
        head.headers["content-length"] == "300000" && head.headers["content-type"] == "text/plain"
    );
    ensure!(head.headers["etag"] == tag && head.headers["x-amz-tagging-count"] == "1");
    site.ask("GET", "/photos/a/b", &[("If-None-Match", &tag)], "")?.expect(304)?;

    // A copy has all that; that it moves no data is tried in clones.rs.
    let copied = [("x-amz-copy-source", "/photos/a/b")];
    site.ask("PUT", "/photos/copy", &copied, "")?.expect(200)?;
    let copy = site.ask("GET", "/photos/copy", &[], "")?.expect(200)?;
    ensure!(
        copy.body == bytes && copy.headers["etag"] == tag && copy.headers["x-amz-meta-of"] == "May"
    );

    // Whoever writes into the file by the mount has changed the tag, though the size is the same.
    let mut opened = fs::OpenOptions::new().write(true).open(file("photos/a/b"))?;
    opened.write_all(b"another")?;
    drop(opened);
    let changed = site.ask("GET", "/photos/a/b", &[], "")?.expect(200)?;
    ensure!(changed.body[..7] == *b"another" && changed.headers["etag"] != tag);
    ensure!(changed.headers["etag"].contains('-'), "and it is no MD5");
    ensure!(changed.headers["x-amz-meta-of"] == "May", "but what it is about");
    fs::write(file("photos/by hand"), "x")?;
    ensure!(site.door.get("/photos/by%20hand")?.expect(200)?.body == b"x");

    // A folder that was made for objects goes with the last of them; one of the mount's stays.
    fs::create_dir(file("photos/kept"))?;
    site.door.put("/photos/kept/c", b"c")?.expect(200)?;
    for key in ["a/b", "kept/c", "copy", "by%20hand", "a/b"] {
        site.door.delete(&format!("/photos/{key}"))?.expect(204)?;
    }
    ensure!(!file("photos/a").exists() && file("photos/kept").is_dir());
    let left = site.door.delete("/photos")?.expect(409)?;
    ensure!(code(&left) == "BucketNotEmpty");
    ensure!(site.listed("", 1000)? == ["kept/"], "an empty folder can be seen, and so deleted");
    site.door.delete("/photos/kept/")?.expect(204)?;
    site.door.delete("/photos")?.expect(204)?;
    ensure!(!file("photos").exists());
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

#[test]
fn keys_are_listed_in_the_order_of_their_bytes_a_page_at_a_time() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let mut seed = Seed::announced("s3 keys");
    let names = ["a", "a-", "a0", "b", "B", "z z", "\u{fc}", "_", "%41", "x&y"];
    let mut keys = BTreeSet::new();
    for _ in 0..600 {
        let depth = seed.below(4);
        let mut any = || names[usize::try_from(seed.below(names.len() as u64)).expect("an index")];
        let above: Vec<String> = (0..depth).map(|_| format!("{}d", any())).collect();
        let name = format!("{}{}", any(), keys.len() % 40);
        let folder = site.demo.file("photos").join(above.join("/"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(&name), "x")?;
        keys.insert(above.iter().cloned().chain([name]).collect::<Vec<_>>().join("/"));
    }
    let all: Vec<&String> = keys.iter().collect();
    for page in [7, 100, 1000] {
        let listed = site.listed("", page)?;
        ensure!(listed.iter().collect::<Vec<_>>() == all, "in pages of {page}");
    }
    for (prefix, delimiter) in
        [("", "/"), ("ad/", "/"), ("ad/a", "/"), ("a", "/"), ("", "0"), ("ad", "a"), ("none/", "/")]
    {
        let mut expected = BTreeSet::new();
        for key in keys.iter().filter(|key| key.starts_with(prefix)) {
            let end =
                key[prefix.len()..].find(delimiter).map(|at| prefix.len() + at + delimiter.len());
            expected.insert(end.map_or(key.as_str(), |end| &key[..end]));
        }
        let words = format!("&prefix={prefix}&delimiter={delimiter}");
        for page in [3, 1000] {
            let listed = site.listed(&words, page)?;
            ensure!(
                listed.iter().map(String::as_str).eq(expected.iter().copied()),
                "{words} by {page}: {listed:?}"
            );
        }
        // From any key on, by the first version.
        let from = all[usize::try_from(seed.below(all.len() as u64))?];
        let path = format!(
            "/photos?prefix={prefix}&marker={}",
            from.replace('%', "%25")
                .replace('&', "%26")
                .replace(' ', "%20")
                .replace('\u{fc}', "%C3%BC")
        );
        let said = text(&site.door.get(&path)?.expect(200)?);
        let behind: Vec<&&String> =
            all.iter().filter(|key| key.starts_with(prefix) && *key > &from).collect();
        ensure!(between(&said, "<Key>", "</Key>").iter().eq(behind.into_iter().copied()), "{path}");
    }
    Ok(())
}

#[test]
fn an_upload_by_parts_outlives_the_process_and_leaves_nothing_but_the_object() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    let (first, second, last) = (content(1, PART), content(2, PART + 1), content(3, 1000));
    let path = "/photos/a/large";
    let id = site.begin(path)?;
    let mut parts =
        vec![(7, site.part(path, &id, 7, &last)?), (2, site.part(path, &id, 2, &first)?)];
    ensure!(!site.demo.file("photos/a").exists(), "nothing is seen of it");
    site.door.get(path)?.expect(404)?;
    // Half a part is none.
    let mut half = site.door.begin(
        "PUT",
        &format!("{path}?partNumber=3&uploadId={id}"),
        &[("Content-Length", "9")],
    )?;
    half.write_all(b"123")?;
    drop(half);
    site.demo.kill_mount()?;
    site.demo.mount()?;
    site.demo.kill_daemon(2)?;
    site.demo.kill_daemon(5)?;
    let listed = text(&site.door.get(&format!("{path}?uploadId={id}"))?.expect(200)?);
    ensure!(between(&listed, "<PartNumber>", "<") == ["2", "7"], "{listed}");
    site.part(path, &id, 3, &first)?;
    parts.insert(1, (3, site.part(path, &id, 3, &second)?));
    parts.sort();
    let wrong = site.complete(path, &id, &[(2, "\"0\"".into())])?.expect(400)?;
    ensure!(code(&wrong) == "InvalidPart");
    let small = site.complete(
        path,
        &id,
        &[parts[0].clone(), (4, site.part(path, &id, 4, b"x")?), parts[2].clone()],
    )?;
    ensure!(code(&small.expect(400)?) == "EntityTooSmall");
    let done = text(&site.complete(path, &id, &parts)?.expect(200)?);
    ensure!(done.contains("-3&quot;</ETag>"), "{done}");
    let again = text(&site.complete(path, &id, &parts)?.expect(200)?);
    ensure!(again == done, "who has not heard is told the same");
    let whole = [first, second, last].concat();
    let found = fs::read(site.demo.file("photos/a/large"))?;
    ensure!(found == whole, "the parts in their order");
    let part = site.door.get(&format!("{path}?partNumber=2"))?.expect(206)?;
    ensure!(part.body.len() == PART + 1 && part.headers["x-amz-mp-parts-count"] == "3");

    let other = site.begin("/photos/other")?;
    site.part("/photos/other", &other, 1, b"x")?;
    site.door.delete(&format!("/photos/other?uploadId={other}"))?.expect(204)?;
    let gone = site.door.put(&format!("/photos/other?partNumber=1&uploadId={other}"), b"x")?;
    ensure!(code(&gone.expect(404)?) == "NoSuchUpload");
    let left = || fs::read_dir(site.demo.file(".ashlar-uploads")).map_or(0, Iterator::count);
    wait_until("parts to be taken away", PATIENCE, || left() == 0)?;
    Ok(())
}

/// Uploads by parts are refused with a sentence, which the log has, too; all else goes on.
fn refuses_parts(site: &Site, id: &str) -> Result<()> {
    let refused = site.ask("POST", "/photos/large?uploads", &[], "")?.expect(409)?;
    ensure!(code(&refused) == "KeyConflict", "{refused:?}");
    ensure!(text(&refused).contains(".ashlar-uploads at the top"), "{refused:?}");
    for path in [format!("?uploadId={id}"), format!("?uploadId={id}&partNumber=1")] {
        let method = if path.contains("partNumber") { "PUT" } else { "POST" };
        let body = "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag></ETag></Part></CompleteMultipartUpload>";
        let said = site.ask(method, &format!("/photos/large{path}"), &[], body)?;
        ensure!(code(&said) == "KeyConflict", "{path}: {said:?}");
    }
    // What is no upload goes on.
    site.door.put("/photos/small", b"x")?.expect(200)?;
    wait_until("the door to say it", PATIENCE, || site.demo.said().contains("is no folder"))?;
    Ok(())
}

#[test]
fn a_link_or_a_folder_of_another_where_parts_belong_is_left_alone() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Embedded)?;
    let file = |site: &Site, name: &str| site.demo.file(name);
    let (id, secret) = ("0123456789abcdef0123456789abcdef", "of others");
    // As old as what the door takes away, by names that it would take away.
    for name in ["other".to_owned(), format!("other/{id}"), format!("other/ended-{id}")] {
        fs::create_dir(file(&site, &name))?;
        fs::write(file(&site, &name).join("00001"), secret)?;
    }
    fs::create_dir(file(&site, "old"))?;
    fs::write(file(&site, "old/a"), secret)?;
    let own = file(&site, ".ashlar-uploads");
    let all = ["other/00001", &format!("other/{id}/00001"), &format!("other/ended-{id}/00001")]
        .map(str::to_owned);
    for target in [Some("."), Some("other"), None] {
        match target {
            Some(target) => std::os::unix::fs::symlink(target, &own)?,
            // Made by somebody else, with a part that leads to what he may not read.
            None => {
                fs::rename(file(&site, "other"), &own)?;
                std::os::unix::fs::chown(&own, Some(12_345), Some(12_345))?;
                fs::remove_file(own.join(id).join("00001"))?;
                std::os::unix::fs::symlink("../../old/a", own.join(id).join("00001"))?;
            }
        }
        for name in ["old", "other", &format!("other/{id}"), &format!("other/ended-{id}")] {
            if file(&site, name).exists() {
                run(
                    Command::new("touch").args(["-d", "-3 days"]).arg(file(&site, name)),
                    PATIENCE,
                )?;
            }
        }
        // The door looks after uploads when it opens.
        site.demo.stop(Stop::Umount)?;
        site.demo.mount()?;
        refuses_parts(&site, id)?;
        ensure!(fs::read_to_string(file(&site, "old/a"))? == secret);
        if target.is_some() {
            for name in &all {
                ensure!(fs::read_to_string(file(&site, name))? == secret, "{name}");
            }
            fs::remove_file(&own)?;
        }
    }
    let ended = own.join(format!("ended-{id}/00001"));
    ensure!(fs::read_to_string(ended)? == secret && own.join(id).exists());
    // Moved away, all is as it should be.
    fs::rename(&own, file(&site, "moved"))?;
    let id = site.begin("/photos/large")?;
    let parts = [(1, site.part("/photos/large", &id, 1, b"whole")?)];
    site.complete("/photos/large", &id, &parts)?.expect(200)?;
    ensure!(fs::read(file(&site, "photos/large"))? == b"whole");
    Ok(())
}

#[test]
fn what_breaks_off_or_is_not_what_it_says_leaves_nothing() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    site.door.put("/photos/a", b"before")?.expect(200)?;
    let mut half = site.door.begin("PUT", "/photos/a", &[("Content-Length", "1000000")])?;
    half.write_all(&[1; 500_000])?;
    drop(half);
    let mut half = site.door.begin("PUT", "/photos/new/b", &[("Content-Length", "10")])?;
    half.write_all(b"12345")?;
    half.shutdown(std::net::Shutdown::Write)?;
    let _refused = half.read_to_end(&mut Vec::new());
    let md5 = "XUFAKrxLKna5cZ2REBfFkg==";
    for (headers, expected) in [
        (vec![("Content-MD5", md5)], ""),
        (vec![("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==")], "BadDigest"),
        (vec![("Content-MD5", "x")], "InvalidDigest"),
        (vec![("x-amz-checksum-crc32", "AAAAAA==")], "BadDigest"),
        (vec![("x-amz-checksum-crc32", "AAAA")], "BadDigest"),
        (vec![("x-amz-checksum-sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=")], ""),
        (vec![("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00=")], ""),
        (vec![("x-amz-checksum-crc32c", "mnG7TA==")], ""),
        (vec![("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")], "BadDigest"),
        (vec![("If-None-Match", "*")], "PreconditionFailed"),
        (vec![("If-Match", "\"0\"")], "PreconditionFailed"),
        (vec![("x-amz-server-side-encryption", "AES256")], "NotImplemented"),
        (vec![("x-amz-storage-class", "GLACIER")], "InvalidStorageClass"),
        (vec![("x-amz-acl", "public-read")], "AccessControlListNotSupported"),
    ] {
        site.door.put("/photos/a", b"before")?.expect(200)?;
        let answer = site.ask("PUT", "/photos/a", &headers, "hello")?;
        ensure!(code(&answer) == expected, "{headers:?}: {answer:?}");
        let now = if expected.is_empty() { "hello" } else { "before" };
        ensure!(fs::read_to_string(site.demo.file("photos/a"))? == now, "{headers:?}");
    }
    ensure!(!site.demo.file("photos/new").exists() && site.listed("", 1000)? == ["a"]);
    // Over nothing, and over what is there.
    site.ask("PUT", "/photos/c", &[("If-None-Match", "*")], "c")?.expect(200)?;
    let tag = site.door.get("/photos/c")?.headers["etag"].clone();
    site.ask("PUT", "/photos/c", &[("If-Match", &tag)], "d")?.expect(200)?;
    site.ask("DELETE", "/photos/c", &[("If-Match", &tag)], "")?.expect(412)?;
    ensure!(
        code(&site.ask("PUT", "/photos/e", &[("If-Match", "*")], "e")?.expect(404)?) == "NoSuchKey"
    );
    Ok(())
}

#[test]
fn what_a_tree_cannot_hold_gets_a_sentence() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    site.door.put("/photos/a", b"a")?.expect(200)?;
    site.door.put("/photos/f/b", b"b")?.expect(200)?;
    let (long, longer) = ("n".repeat(256), "n/".repeat(513));
    let key = |key: &str| format!("/photos/{key}");
    for (method, path, expected) in [
        ("PUT", key("a/b"), (409, "KeyConflict")),
        ("PUT", key("a/b/c"), (409, "KeyConflict")),
        ("PUT", key("a/"), (409, "KeyConflict")),
        ("PUT", key("f"), (409, "KeyConflict")),
        ("PUT", key("/x"), (400, "InvalidKey")),
        ("PUT", key("x//y"), (400, "InvalidKey")),
        ("PUT", key("x/../y"), (400, "InvalidKey")),
        ("PUT", key("%2e"), (400, "InvalidKey")),
        ("PUT", key("x%00"), (400, "InvalidKey")),
        ("PUT", key(&long), (400, "KeyTooLongError")),
        ("PUT", key(&longer), (400, "KeyTooLongError")),
        ("PUT", "/none/x".into(), (404, "NoSuchBucket")),
        ("GET", key("none"), (404, "NoSuchKey")),
        ("GET", key("f"), (404, "NoSuchKey")),
        ("GET", key("f/"), (404, "NoSuchKey")),
        ("GET", key("a/b"), (404, "NoSuchKey")),
        ("GET", "/none/x".into(), (404, "NoSuchBucket")),
        ("GET", key("a?versionId=7"), (404, "NoSuchVersion")),
        ("GET", "/photos?max-keys=-1".into(), (400, "InvalidArgument")),
        ("GET", "/photos?encoding-type=x".into(), (400, "InvalidArgument")),
        ("GET", "/photos?cors".into(), (404, "NoSuchCORSConfiguration")),
        ("GET", "/.ashlar-uploads/x".into(), (400, "InvalidBucketName")),
        ("PUT", "/Photos".into(), (400, "InvalidBucketName")),
        ("PUT", "/photos?lifecycle".into(), (501, "NotImplemented")),
        ("PUT", key("a?uploadId=x&partNumber=1"), (404, "NoSuchUpload")),
        ("PUT", key("a?uploadId=x&partNumber=0"), (400, "InvalidArgument")),
        ("POST", "/photos?delete".into(), (400, "MalformedXML")),
        ("POST", key("a?uploadId=x"), (400, "MalformedXML")),
        ("PATCH", key("a"), (405, "MethodNotAllowed")),
    ] {
        let answer = site.ask(method, &path, &[], "")?;
        ensure!((answer.status, &*code(&answer)) == expected, "{method} {path:.60}: {answer:?}");
        ensure!(answer.headers["x-amz-request-id"].len() == 32);
    }
    let versions = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    site.ask("PUT", "/photos?versioning", &[], versions)?.expect(501)?;
    // A folder may be an object, with a little content.
    site.door.put("/photos/g/", b"about g")?.expect(200)?;
    site.door.put("/photos/g/h", b"h")?.expect(200)?;
    ensure!(site.door.get("/photos/g/")?.expect(200)?.body == b"about g");
    ensure!(site.listed("", 1000)? == ["a", "f/b", "g/", "g/h"]);
    site.door.delete("/photos/g/")?.expect(204)?;
    ensure!(site.listed("", 1000)? == ["a", "f/b", "g/h"]);
    // Many at once, of which some are not there.
    let object = |key: &str| format!("<Object><Key>{key}</Key></Object>");
    let list: String = ["a", "f/b", "g/h", "none", "x//y"].map(object).concat();
    let done = text(
        &site
            .ask("POST", "/photos?delete", &[], &format!("<Delete>{list}</Delete>"))?
            .expect(200)?,
    );
    ensure!(between(&done, "<Deleted><Key>", "<") == ["a", "f/b", "g/h", "none"], "{done}");
    ensure!(between(&done, "<Error><Key>x//y</Key><Code>", "<") == ["InvalidKey"], "{done}");
    ensure!(fs::read_dir(site.demo.file("photos"))?.count() == 0, "folders went, too");
    Ok(())
}

#[test]
fn what_is_not_meant_so_is_not_done() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    site.door.put("/photos/a", b"abc")?.expect(200)?;
    for (method, path) in [
        ("DELETE", "/photos/a?acl"),
        ("DELETE", "/photos/a?new-of-aws"),
        ("PUT", "/photos/a?new-of-aws"),
        ("PUT", "/other-bucket?abac"),
        ("DELETE", "/photos?uploads"),
    ] {
        let refused = site.ask(method, path, &[], "")?.expect(501).context(path)?;
        ensure!(code(&refused) == "NotImplemented", "{method} {path}: {refused:?}");
    }
    site.ask("GET", "/other-bucket", &[], "")?.expect(404)?;
    let owner = |name| [("x-amz-expected-bucket-owner", name)];
    ensure!(
        code(&site.ask("DELETE", "/photos/a", &owner("eve"), "")?.expect(403)?) == "AccessDenied"
    );
    ensure!(site.ask("GET", "/photos/a", &owner("ashlar"), "")?.expect(200)?.body == b"abc");
    ensure!(code(&site.door.get("/photos?prefix=a&prefix=b")?.expect(400)?) == "InvalidArgument");
    let beyond = site.ask("GET", "/photos/a", &[("Range", "bytes=3-")], "")?.expect(416)?;
    ensure!(beyond.headers["content-range"] == "bytes */3", "{:?}", beyond.headers);
    // What the guard before the door refuses is a document, too.
    let other = [("Origin", "http://evil.example")];
    ensure!(code(&site.ask("PUT", "/photos/a", &other, "x")?.expect(403)?) == "AccessDenied");

    // What a link leads to is what was seen, and the link is replaced.
    std::os::unix::fs::symlink("a", site.demo.file("photos/link"))?;
    let tag = site.door.get("/photos/link")?.expect(200)?.headers["etag"].clone();
    ensure!(tag == site.door.get("/photos/a")?.expect(200)?.headers["etag"]);
    let other = [("If-Match", "\"0\"")];
    site.ask("PUT", "/photos/link", &other, "x")?.expect(412)?;
    site.ask("PUT", "/photos/link", &[("If-Match", &tag)], "by S3")?.expect(200)?;
    ensure!(fs::read(site.demo.file("photos/link"))? == b"by S3");
    ensure!(fs::read(site.demo.file("photos/a"))? == b"abc");

    // A folder with tags is an object: it stays when what lies in it goes.
    fs::create_dir(site.demo.file("photos/f"))?;
    let tags = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>";
    site.ask("PUT", "/photos/f/?tagging", &[], tags)?.expect(200)?;
    site.door.put("/photos/f/x", b"x")?.expect(200)?;
    site.door.delete("/photos/f/x")?.expect(204)?;
    ensure!(site.demo.file("photos/f").is_dir());
    Ok(())
}

#[test]
fn keys_that_are_no_text_are_markers_as_well() -> Result<()> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let names: [&[u8]; 4] = [b"a\xfe", b"a\xff", b"b\x01", b"c"];
    for name in names {
        fs::write(site.demo.file("photos").join(OsStr::from_bytes(name)), "x")?;
    }
    let (mut found, mut marker) = (Vec::new(), String::new());
    loop {
        let path = format!("/photos?encoding-type=url&delimiter=/&max-keys=1&marker={marker}");
        let said = text(&site.door.get(&path)?.expect(200)?);
        found.extend(between(&said, "<Key>", "</Key>"));
        match between(&said, "<NextMarker>", "</").pop() {
            Some(next) => marker = next,
            None => break,
        }
    }
    ensure!(found == ["a%FE", "a%FF", "b%01", "c"], "{found:?}");
    let said = text(&site.door.get("/photos?encoding-type=url&prefix=a%FF")?.expect(200)?);
    ensure!(between(&said, "<Key>", "</Key>") == ["a%FF"], "{said}");
    Ok(())
}

#[test]
fn who_completes_an_upload_again_meanwhile_is_told_the_same() -> Result<()> {
    const PARTS: u32 = 8;
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let id = site.begin("/photos/large")?;
    let bytes = content(4, PART);
    let send = |number| anyhow::Ok((number, site.part("/photos/large", &id, number, &bytes)?));
    let parts = (1..=PARTS).map(send).collect::<Result<Vec<_>>>()?;
    let ask = |_| {
        let (door, id, parts) = (site.door.clone(), id.clone(), parts.clone());
        std::thread::spawn(move || complete(&door, "/photos/large", &id, &parts))
    };
    let asked: Vec<_> = (0..4).map(ask).collect();
    let answers = asked.into_iter().map(|one| one.join().expect("no panic"));
    let answers = answers.collect::<Result<Vec<_>>>()?;
    let mut tags = BTreeSet::new();
    for answer in answers {
        let said = text(&answer.expect(200)?);
        tags.extend(between(&said, "<ETag>", "<"));
    }
    ensure!(tags.len() == 1, "{tags:?}");
    ensure!(fs::metadata(site.demo.file("photos/large"))?.len() == u64::from(PARTS) * PART as u64);
    Ok(())
}

#[test]
fn who_signs_is_let_in_as_his_account_says() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let accounts = Accounts(&site.demo);
    fs::create_dir_all(site.demo.file("of-ann/mine"))?;
    std::os::unix::fs::chown(site.demo.file("of-ann/mine"), Some(12_345), Some(12_345))?;
    fs::write(site.demo.file("of-ann/mine/a"), "a")?;
    accounts.with_password("user add ann --uid 12345 --gid 12345 --folder /of-ann", PASSWORD)?;
    let key = accounts.access_key("ann")?;
    let unsigned = site.door.get("/photos")?.expect(403)?;
    ensure!(code(&unsigned) == "AccessDenied", "{unsigned:?}");
    let curl = |(id, secret): (&str, &str), words: &[&str], path: &str| -> Result<String> {
        let url = format!("http://{}{path}", site.door.address);
        let user = format!("{id}:{secret}");
        let mut command = Command::new("curl");
        command.args(["-s", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user]);
        let hash = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
        run(command.args(["-H", hash]).args(words).arg(url), PATIENCE)
    };
    let own = (&*key.0, &*key.1);
    ensure!(curl(own, &[], "/mine/a")? == "a", "what is his");
    ensure!(between(&curl(own, &[], "/")?, "<Name>", "<") == ["mine"], "his folder is all he sees");
    ensure!(curl(own, &["-X", "PUT", "-d", "b"], "/mine/b")?.is_empty());
    ensure!(fs::read_to_string(site.demo.file("of-ann/mine/b"))? == "b");
    let refused = |own: (&str, &str), path: &str| -> Result<String> {
        Ok(between(&curl(own, &[], path)?, "<Code>", "<").pop().unwrap_or_default())
    };
    ensure!(refused((own.0, "wrong"), "/mine/a")? == "SignatureDoesNotMatch");
    ensure!(refused(("AKIANOBODY", own.1), "/mine/a")? == "InvalidAccessKeyId");
    ensure!(refused(own, "/photos/a")? == "NoSuchBucket");
    let reads = accounts.access_key("ann --read-only")?;
    let denied = curl((&reads.0, &reads.1), &["-X", "PUT", "-d", "c"], "/mine/c")?;
    ensure!(denied.contains("<Code>AccessDenied</Code>"), "{denied}");
    accounts.say(&format!("key revoke {}", key.0))?;
    ensure!(refused(own, "/mine/a")? == "InvalidAccessKeyId", "revoked");
    Ok(())
}

#[test]
fn a_bucket_may_be_named_by_the_host() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let host = format!("photos.{}", site.door.address.replace("127.0.0.1", "localhost"));
    let host = [("Host", &*host)];
    site.ask("PUT", "/deep/a%20b", &host, "by host")?.expect(200)?;
    ensure!(fs::read(site.demo.file("photos/deep/a b"))? == b"by host");
    for (headers, path) in [(&host[..], "/deep/a%20b"), (&[][..], "/photos/deep/a%20b")] {
        ensure!(site.ask("GET", path, headers, "")?.expect(200)?.body == b"by host", "{path}");
    }
    let listed = text(&site.ask("GET", "/?list-type=2", &host, "")?.expect(200)?);
    ensure!(between(&listed, "<Key>", "</Key>") == ["deep/a b"], "{listed}");
    // A key there may be called as the bucket is.
    site.ask("PUT", "/photos", &host, "a key")?.expect(200)?;
    ensure!(fs::read(site.demo.file("photos/photos"))? == b"a key");
    site.ask("DELETE", "/deep/a%20b", &host, "")?.expect(204)?;
    ensure!(!site.demo.file("photos/deep").exists());
    let other = site.door.address.replace("127.0.0.1", "none.localhost");
    let none = site.ask("GET", "/a", &[("Host", &other)], "")?.expect(404)?;
    ensure!(code(&none) == "NoSuchBucket", "{none:?}");
    Ok(())
}
