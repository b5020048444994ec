//! Promise: clients of others work by S3: rclone, aws, restic, s3fs and boto3, by a key, and anybody by an address that was
//! signed, which is good for what it was signed for and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Stop, can_mount, is_mounted, umount, until_unused};
use tests::process::{PATIENCE, Process, output, run, shell, wait_until};
use tests::s3::{Site, code};
use tests::seed::content;

/// A client of others with these words: it must succeed.
fn client(site: &Site, key: &(String, String), program: &str, words: &[&str]) -> Result<String> {
    let endpoint = format!("http://{}", site.door.address);
    let mut command = Command::new(program);
    command.args(words).env_remove("AWS_CA_BUNDLE").env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_CONFIG_FILE", site.aws_settings());
    command.env("AWS_ACCESS_KEY_ID", &key.0).env("AWS_SECRET_ACCESS_KEY", &key.1);
    command.env("AWS_DEFAULT_REGION", "us-east-1");
    let rclone =
        [("TYPE", "s3"), ("PROVIDER", "Other"), ("ENV_AUTH", "true"), ("ENDPOINT", &endpoint)];
    for (name, value) in rclone {
        command.env(format!("RCLONE_CONFIG_HERE_{name}"), value);
    }
    run(&mut command, 4 * PATIENCE)
}

/// Does this succeed? Else it is said what is not tested.
fn answers(what: &str, program: &str, words: &[&str]) -> bool {
    let is_there =
        output(Command::new(program).args(words), PATIENCE).is_ok_and(|said| said.status.success());
    if !is_there {
        eprintln!("NOT TESTED: {what} is not installed");
    }
    is_there
}

#[test]
fn clients_of_others_work() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (mut site, key) = Site::with_key()?;
    let outside = site.demo.outside("files");
    fs::create_dir(&outside)?;
    let large = content(1, 20 << 20);
    fs::write(outside.join("large"), &large)?;
    fs::write(outside.join("small \u{fc} & +"), "small")?;
    let outside = outside.to_string_lossy().into_owned();
    if answers("rclone", "rclone", &["--version"]) {
        let run = |words: &[&str]| client(&site, &key, "rclone", words);
        run(&["mkdir", "here:rclone"])?;
        run(&[
            "copy",
            &outside,
            "here:rclone/in",
            "--s3-upload-cutoff",
            "6M",
            "--s3-chunk-size",
            "5M",
        ])?;
        run(&["check", &outside, "here:rclone/in"])?;
        ensure!(fs::read(site.demo.file("rclone/in/large"))? == large, "by parts");
        run(&["moveto", "here:rclone/in/large", "here:rclone/moved"])?;
        ensure!(run(&["lsf", "-R", "here:rclone"])?.lines().count() == 3);
        run(&["purge", "here:rclone"])?;
        ensure!(!site.demo.file("rclone").exists());
    }
    if answers("aws", "aws", &["--version"]) {
        let endpoint = format!("http://{}", site.door.address);
        let run = |words: &[&str]| {
            let all = [&["--endpoint-url", &endpoint][..], words].concat();
            client(&site, &key, "aws", &all)
        };
        run(&["s3", "mb", "s3://by-aws"])?;
        run(&["s3", "cp", "--recursive", &outside, "s3://by-aws/in/"])?;
        ensure!(fs::read(site.demo.file("by-aws/in/large"))? == large, "by parts, with checksums");
        let back = site.demo.outside("back");
        run(&["s3", "sync", "s3://by-aws/in", &back.to_string_lossy()])?;
        ensure!(fs::read(back.join("large"))? == large);
        let signed = run(&["s3", "presign", "s3://by-aws/in/large"])?;
        let path = signed.trim().strip_prefix(&format!("http://{}", site.door.address));
        let path = path.context("an address of this door")?;
        ensure!(site.door.get(path)?.expect(200)?.body == large, "by an address that is signed");
        site.door.get(&path.replace("large", "small"))?.expect(403)?;
        run(&["s3", "rb", "--force", "s3://by-aws"])?;
    }
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

/// An address that is signed for ten minutes, as S3's description of signatures has it.
const PRESIGN: &str = r#"
import datetime, hashlib, hmac, sys, urllib.parse
method, host, path, key, secret = sys.argv[1:]
now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
scope = f"{now[:8]}/us-east-1/s3/aws4_request"
words = {"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{key}/{scope}", "X-Amz-Date": now,
         "X-Amz-Expires": "600", "X-Amz-SignedHeaders": "host"}
query = urllib.parse.urlencode(sorted(words.items()), quote_via=urllib.parse.quote, safe="")
asked = "\n".join([method, path, query, f"host:{host}\n", "host", "UNSIGNED-PAYLOAD"])
text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(asked.encode()).hexdigest()])
sign = lambda key, text: hmac.new(key, text.encode(), hashlib.sha256)
signing = ("AWS4" + secret).encode()
for part in scope.split("/"):
    signing = sign(signing, part).digest()
print(f"{path}?{query}&X-Amz-Signature={sign(signing, text).hexdigest()}", end="")
"#;

#[test]
fn an_address_that_is_signed_for_a_put_puts_that_alone() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (site, (id, secret)) = Site::with_key()?;
    let signed = |method: &str, host: &str, path: &str| {
        let mut python = Command::new("python3");
        run(python.args(["-c", PRESIGN, method, host, path, &id, &secret]), PATIENCE)
    };
    let bytes = content(9, 300_000);
    let path = signed("PUT", &site.door.address, "/photos/signed")?;
    site.door.put("/photos/signed", &bytes)?.expect(403).context("without a signature")?;
    site.door.put(&path, &bytes)?.expect(200)?;
    ensure!(fs::read(site.demo.file("photos/signed"))? == bytes);
    site.door.get(&path)?.expect(403).context("a get by what was signed for a put")?;
    let other = path.replace("/photos/signed", "/photos/other");
    let refused = site.door.put(&other, &bytes)?.expect(403)?;
    ensure!(code(&refused) == "SignatureDoesNotMatch", "{refused:?}");
    ensure!(!site.demo.file("photos/other").exists());
    let path = signed("GET", &site.door.address, "/photos/signed")?;
    ensure!(site.door.get(&path)?.expect(200)?.body == bytes);

    // The same of a bucket that its host names.
    let host = format!("photos.{}", site.door.address.replace("127.0.0.1", "localhost"));
    let path = signed("PUT", &host, "/by-host")?;
    site.door.ask("PUT", &path, &[("Host", &host)], b"by host")?.expect(200)?;
    ensure!(fs::read(site.demo.file("photos/by-host"))? == b"by host");
    Ok(())
}

/// Puts, as one and by parts, with what is known of it, lists by pages, reads parts of it, and deletes.
const BOTO3: &str = r#"
import sys
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
endpoint, large, back = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
s3.create_bucket(Bucket="by-boto3")
s3.put_object(Bucket="by-boto3", Key="small", Body=b"small", Metadata={"of": "May"}, ContentType="text/plain")
head = s3.head_object(Bucket="by-boto3", Key="small")
assert head["Metadata"] == {"of": "May"} and head["ContentType"] == "text/plain", head
parts = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
s3.upload_file(large, "by-boto3", "large", Config=parts)
s3.download_file("by-boto3", "large", back, Config=parts)
body = s3.get_object(Bucket="by-boto3", Key="large", Range="bytes=1000-1009")["Body"].read()
assert body == open(large, "rb").read()[1000:1010], body
for n in range(25):
    s3.put_object(Bucket="by-boto3", Key=f"many/{n:02}", Body=b"")
pages = s3.get_paginator("list_objects_v2").paginate(Bucket="by-boto3", Prefix="many/", PaginationConfig={"PageSize": 10})
keys = [one["Key"] for page in pages for one in page["Contents"]]
assert keys == [f"many/{n:02}" for n in range(25)], keys
try:
    s3.get_object(Bucket="by-boto3", Key="none")
    raise AssertionError("none is there")
except ClientError as why:
    assert why.response["Error"]["Code"] == "NoSuchKey", why
gone = s3.delete_objects(Bucket="by-boto3", Delete={"Objects": [{"Key": key} for key in keys]})
assert len(gone["Deleted"]) == 25, gone
"#;

#[test]
fn backups_mounts_and_scripts_of_others_work() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (mut site, key) = Site::with_key()?;
    let files = site.demo.outside("files");
    fs::create_dir_all(files.join("deep"))?;
    fs::write(files.join("large"), content(1, 20 << 20))?;
    fs::write(files.join("deep/small \u{fc} & +"), "small")?;
    if answers("restic", "restic", &["version"]) {
        by_restic(&site, &key, &files).context("restic")?;
    }
    if answers("s3fs", "s3fs", &["--version"]) {
        by_s3fs(&site, &key, &files).context("s3fs")?;
    }
    if answers("boto3", "python3", &["-c", "import boto3"]) {
        let (endpoint, back) = (format!("http://{}", site.door.address), site.demo.outside("back"));
        let large = files.join("large").display().to_string();
        let words = ["-c", BOTO3, &endpoint, &large, &back.display().to_string()];
        client(&site, &key, "python3", &words)?;
        ensure!(fs::read(back)? == content(1, 20 << 20), "by boto3, and back");
        ensure!(fs::read(site.demo.file("by-boto3/large"))? == content(1, 20 << 20), "by boto3");
    }
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

/// Backs files up, has what is stored verified, and gets them back.
fn by_restic(site: &Site, key: &(String, String), files: &Path) -> Result<()> {
    let password = site.demo.outside("restic-password");
    fs::write(&password, "of a test")?;
    let repository = format!("s3:http://{}/by-restic", site.door.address);
    let (password, files) = (password.display().to_string(), files.display().to_string());
    let restic = |words: &[&str]| {
        let all = ["-r", &repository, "--password-file", &password, "--no-cache"];
        client(site, key, "restic", &[&all[..], words].concat())
    };
    restic(&["init"])?;
    restic(&["backup", &files])?;
    restic(&["check", "--read-data"])?;
    let back = site.demo.outside("restored").display().to_string();
    restic(&["restore", "latest", "--target", &back])?;
    run(Command::new("diff").args(["-r", &files, &format!("{back}{files}")]), PATIENCE)?;
    restic(&["forget", "--keep-last", "1", "--prune"])?;
    Ok(())
}

/// Mounts a bucket, and works in it as in any folder.
fn by_s3fs(site: &Site, key: &(String, String), files: &Path) -> Result<()> {
    let (point, secret) = (site.demo.outside("s3fs"), site.demo.outside("s3fs-password"));
    fs::create_dir(&point)?;
    fs::write(&secret, format!("{}:{}", key.0, key.1))?;
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    fs::create_dir(site.demo.file("by-s3fs"))?;
    let options = format!(
        "url=http://{},use_path_request_style,passwd_file={}",
        site.door.address,
        secret.display()
    );
    let mut command = Command::new("s3fs");
    command.arg("by-s3fs").arg(&point).args(["-f", "-o", &options]);
    let mut s3fs = Process::start(&mut command, &site.demo.outside("s3fs.log"))?;
    wait_until("s3fs to mount", PATIENCE, || !s3fs.runs() || is_mounted(&point))?;
    ensure!(s3fs.runs(), "s3fs has ended: {}", s3fs.said());
    let script = format!(
        "cp -r {files:?}/. . && diff -r {files:?} . && mv large moved && rm -r deep && ls",
        files = files.display().to_string()
    );
    let worked = shell(&point, &script, 2 * PATIENCE);
    until_unused(|| umount(&point))?;
    s3fs.wait(PATIENCE)?;
    ensure!(worked.with_context(|| s3fs.said())?.trim() == "moved");
    ensure!(fs::read(site.demo.file("by-s3fs/moved"))? == fs::read(files.join("large"))?);
    Ok(())
}
