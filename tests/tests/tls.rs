//! Promise: beyond this machine doors are entered by TLS and a login, or not at all unless somebody has said so; a
//! certificate that was made here keeps its fingerprint, and whoever trusts that comes to this door and to no other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::accounts::Accounts;
use tests::binaries::ashlar;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{Door, PASSWORD, free_address};
use tests::process::{PATIENCE, output, run, shell, wait_until};
use tests::seed::content;

/// A mounted volume whose doors are at these addresses of this machine, or of all of its networks.
struct Site {
    demo: Demo,
    /// Port of HTTP, and of lines of JSON.
    ports: [String; 2],
}

impl Site {
    fn start(host: &str, further: &[&str]) -> Result<Self> {
        let port = || -> Result<String> {
            Ok(free_address()?.rsplit_once(':').context("a port")?.1.to_owned())
        };
        let ports = [port()?, port()?];
        let [http, kv] = [&ports[0], &ports[1]].map(|port| format!("{host}:{port}"));
        let mut words = ["--http", &http, "--kv", &kv].map(str::to_owned).to_vec();
        words.extend(further.iter().map(|word| (*word).to_owned()));
        let (mount_arguments, demo_arguments) = (words.clone(), words);
        let setup = Setup { mount_arguments, demo_arguments, ..Setup::new(Mode::Embedded) };
        Ok(Self { demo: Demo::start(setup)?, ports })
    }

    /// What the banner says of the certificate.
    fn fingerprint(&self) -> Result<String> {
        let mut known = None;
        let is_said = || {
            let said = self.demo.said();
            let line = said.lines().find_map(|line| line.trim().strip_prefix("tls "));
            let print = line.and_then(|line| line.trim().strip_prefix("SHA-256 "));
            // Its last bytes may still be to come.
            known = print.filter(|print| print.len() == 95).map(str::to_owned);
            known.is_some()
        };
        wait_until("a fingerprint in the banner", PATIENCE, is_said)?;
        known.context("a fingerprint")
    }

    fn kv(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ashlar());
        command.arg("kv").arg("--at").arg(format!("https://127.0.0.1:{}", self.ports[0]));
        command.args(words);
        command
    }

    /// A file that was made with the certificate.
    fn made(&self, name: &str) -> Result<PathBuf> {
        let found = shell(&self.demo.directory(), &format!("find . -name {name}"), PATIENCE)?;
        let [only] = found.lines().collect::<Vec<_>>()[..] else { anyhow::bail!("{found}") };
        Ok(self.demo.directory().join(only))
    }
}

/// Why a command fails.
fn failure(command: &mut Command) -> Result<String> {
    let answer = output(command, PATIENCE)?;
    let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    ensure!(answer.status.code() == Some(1), "{command:?}: {} and {said}", answer.status);
    ensure!(said.lines().count() == 1, "not one sentence: {said}");
    Ok(said)
}

/// Asks with another's TLS: the fingerprint of the certificate at a port, the status of a request there, the answer to
/// a line.
const CLIENT: &str = r#"
import hashlib, http.client, socket, ssl, sys
what, port = sys.argv[1], int(sys.argv[2])
context = ssl._create_unverified_context()
if what == "fingerprint":
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as stream:
        print(hashlib.sha256(stream.getpeercert(True)).hexdigest())
elif what == "status":
    door = http.client.HTTPSConnection("127.0.0.1", port, context=context)
    door.request("GET", sys.argv[3], headers=dict(a.split("=", 1) for a in sys.argv[4:]))
    print(door.getresponse().status)
elif what == "trusted":
    host, context = sys.argv[4], ssl.create_default_context(cafile=sys.argv[3])
    with context.wrap_socket(socket.create_connection((host, port)), server_hostname=host):
        print("trusted")
else:
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as stream:
        stream.sendall(sys.argv[3].encode() + b"\n")
        print(stream.makefile().readline(), end="")
"#;

fn python(words: &[&str]) -> Result<String> {
    let said = run(Command::new("python3").args(["-c", CLIENT]).args(words), PATIENCE)?;
    Ok(said.trim().to_owned())
}

#[test]
fn a_certificate_that_is_made_here_is_the_one_that_is_printed_and_stays() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start("127.0.0.1", &["--tls"])?;
    let known = site.fingerprint()?;
    let plain = known.replace(':', "").to_lowercase();
    for port in &site.ports {
        ensure!(python(&["fingerprint", port])? == plain, "{known}");
    }
    run(site.kv(&["put", "a", "b", "--fingerprint"]).arg(&known), PATIENCE)?;
    ensure!(run(site.kv(&["get", "a", "--fingerprint"]).arg(&plain), PATIENCE)? == "b");
    let line = python(&["line", &site.ports[1], r#"{"operation":"get","key":"a"}"#])?;
    ensure!(line == r#"{"ok":true,"value":"b"}"#, "{line}");
    let authority = site.made("tls.crt")?;
    ensure!(run(site.kv(&["get", "a", "--ca"]).arg(&authority), PATIENCE)? == "b");
    // Whoever is another, or speaks in the clear, hears nothing.
    let other = format!("{}{}", if plain.starts_with('0') { '1' } else { '0' }, &plain[1..]);
    let why = failure(site.kv(&["get", "a", "--fingerprint"]).arg(&other))?;
    ensure!(why.contains("another fingerprint"), "{why}");
    let why = failure(&mut site.kv(&["get", "a"]))?;
    ensure!(why.contains("--fingerprint"), "{why}");
    let clear = Door::at(&format!("127.0.0.1:{}", site.ports[0])).get("/healthz");
    ensure!(!clear.is_ok_and(|got| got.status == 200), "in the clear");

    site.demo.stop(Stop::Umount)?;
    site.demo.mount()?;
    ensure!(python(&["fingerprint", &site.ports[0]])? == plain, "after another mount");
    // Without its key, which is private, it is of no use.
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(site.made("tls.key")?)?.permissions(),
    );
    ensure!(mode & 0o077 == 0, "{mode:o}");
    site.demo.stop(Stop::Umount)
}

#[test]
fn beyond_this_machine_everybody_logs_in_users_or_none() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start("0.0.0.0", &["--tls"])?;
    let known = site.fingerprint()?;
    let get = || site.kv(&["get", "a", "--fingerprint", &known]);
    let why = failure(&mut get())?;
    ensure!(why.contains("not_logged_in"), "there are no users: {why}");
    let http = &site.ports[0];
    // The certificate is valid for whatever address of this machine somebody comes to.
    let authority = site.made("tls.crt")?.display().to_string();
    let all = shell(&site.demo.directory(), "hostname -I", PATIENCE)?;
    for address in all.split_whitespace().filter(|address| !address.contains(':')) {
        ensure!(python(&["trusted", http, &authority, address])? == "trusted", "{address}");
    }
    for (path, status) in [("/healthz", "200"), ("/readyz", "200"), ("/metrics", "401")] {
        ensure!(python(&["status", http, path])? == status, "{path}");
    }
    let line = python(&["line", &site.ports[1], r#"{"operation":"get","key":"a"}"#])?;
    ensure!(line.contains("not_logged_in"), "{line}");
    let accounts = Accounts(&site.demo);
    accounts.with_password("user add ann --uid 0 --gid 0", PASSWORD)?;
    let token = accounts.say("token add ann")?.trim().to_owned();
    ensure!(
        python(&["status", http, "/metrics", &format!("Authorization=Bearer {token}")])? == "200"
    );
    let why = failure(get().env("ASHLAR_LOGIN", &token))?;
    ensure!(why.contains("no_such_database"), "{why}");
    run(
        site.kv(&["put", "a", "b", "--fingerprint", &known]).env("ASHLAR_LOGIN", &token),
        PATIENCE,
    )?;
    let login = format!("ann:{PASSWORD}");
    ensure!(run(get().env("ASHLAR_LOGIN", &login), PATIENCE)? == "b");
    Ok(())
}

/// A certificate for 127.0.0.1, signed by itself, and its key, as somebody makes them.
fn certificate(home: &Path) -> Result<[String; 2]> {
    let [cert, key] = ["own.crt", "own.key"].map(|name| home.join(name).display().to_string());
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-out", &cert, "-keyout", &key]);
    run(&mut openssl, PATIENCE)?;
    Ok([cert, key])
}

#[test]
fn clients_of_s3_trust_the_certificate_that_somebody_has_brought() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let home = tempfile::Builder::new().prefix("ashlar-tls-").tempdir()?;
    let [cert, key] = certificate(home.path())?;
    let s3 = free_address()?;
    let demo_arguments =
        ["--s3", &s3, "--tls-cert", &cert, "--tls-key", &key].map(str::to_owned).to_vec();
    let mut demo = Demo::start(Setup { demo_arguments, ..Setup::new(Mode::Embedded) })?;
    let accounts = Accounts(&demo);
    accounts.with_password("user add root --uid 0 --gid 0", PASSWORD)?;
    let (id, secret) = accounts.access_key("root")?;
    fs::create_dir(demo.file("bucket"))?;
    let clear = Door::at(&s3).get("/bucket");
    ensure!(!clear.is_ok_and(|got| got.status < 400), "in the clear");
    // The certificate that openssl has made is the one that is shown.
    let port = s3.rsplit_once(':').context("a port")?.1;
    ensure!(python(&["trusted", port, &cert, "127.0.0.1"])? == "trusted");
    let curl = |words: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--cacert", &cert, "--aws-sigv4", "aws:amz:us-east-1:s3"]);
        curl.args(["--user", &format!("{id}:{secret}")]);
        run(curl.args(words), PATIENCE)
    };
    let large = content(1, 20 << 20);
    let source = demo.outside("large");
    fs::write(&source, &large)?;
    let source = source.display().to_string();
    let unsigned = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
    let by_curl = format!("https://{s3}/bucket/by-curl");
    curl(&["-H", unsigned, "-T", &source, &by_curl])?;
    ensure!(fs::read(demo.file("bucket/by-curl"))? == large, "by curl");
    if output(Command::new("aws").arg("--version"), PATIENCE).is_err() {
        eprintln!("NOT TESTED: aws over TLS, as it is not installed");
        return Ok(());
    }
    fs::write(demo.outside("aws"), "[default]\n")?;
    let endpoint = format!("https://{s3}");
    let aws = |words: &[&str]| {
        let mut aws = Command::new("aws");
        aws.args(["--endpoint-url", &endpoint, "--ca-bundle", &cert]).args(words);
        aws.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_DEFAULT_REGION", "us-east-1");
        aws.env("AWS_CONFIG_FILE", demo.outside("aws")).env_remove("AWS_CA_BUNDLE");
        aws.env("AWS_ACCESS_KEY_ID", &id).env("AWS_SECRET_ACCESS_KEY", &secret);
        output(&mut aws, 4 * PATIENCE)
    };
    // By parts; and as one, with a checksum behind the body, as it is sent by TLS alone.
    let back = demo.outside("back").display().to_string();
    let one = ["s3api", "put-object", "--bucket", "bucket", "--key", "one", "--body", &source];
    for words in [
        &["s3", "cp", &source, "s3://bucket/parts"][..],
        &[&one[..], &["--checksum-algorithm", "CRC32"]].concat(),
        &["s3", "cp", "s3://bucket/one", &back],
    ] {
        let done = aws(words)?;
        let why = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{words:?}: {why}");
    }
    for name in ["parts", "one"] {
        ensure!(fs::read(demo.file(format!("bucket/{name}")))? == large, "{name}");
    }
    ensure!(fs::read(&back)? == large, "and back again");
    // Who does not know the certificate sends nothing.
    let distrust = run(Command::new("curl").args(["-sS", &by_curl]), PATIENCE);
    ensure!(distrust.is_err_and(|why| format!("{why:#}").contains("certificate")), "trusted");
    demo.stop(Stop::Umount)
}

#[test]
fn no_door_is_in_the_clear_or_open_to_all_beyond_this_machine_unless_it_is_said() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let refused = |words: &[&str]| {
        let mut command = Command::new(ashlar());
        failure(command.args(["mount", "photos", "/mnt"]).args(words))
    };
    for door in ["--http", "--kv", "--s3"] {
        let why = refused(&[door, "0.0.0.0:0"])?;
        ensure!(
            ["--tls", "--tls-cert", "--insecure-no-tls"].iter().all(|w| why.contains(w)),
            "{why}"
        );
        let why = refused(&[door, "0.0.0.0:0", "--tls", "--no-login"])?;
        ensure!(why.contains("--no-login"), "{why}");
    }
    let why = refused(&["-o", "http=0.0.0.0:0,tls-cert=/c"])?;
    ensure!(why.contains("tls-key"), "{why}");
    let site = Site::start("0.0.0.0", &["--insecure-no-tls"])?;
    let door = Door::at(&format!("127.0.0.1:{}", site.ports[0]));
    door.get("/refs/a")?.expect(401)?;
    door.get("/metrics")?.expect(401)?;
    door.get("/healthz")?.expect(200)?;
    Accounts(&site.demo).with_password("user add ann --uid 0 --gid 0", PASSWORD)?;
    let named = [("Host", "photos.example:7480")];
    door.of("ann", PASSWORD).ask("GET", "/refs/a", &named, &[])?.expect(404)?;
    Ok(())
}
