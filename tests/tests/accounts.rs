//! Promise: who may come to a volume by a door is said by commands, while it is mounted and while it is not; what is
//! said stays, and secrets are shown once and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::accounts::Accounts;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::PASSWORD;
use tests::process::{PATIENCE, output, shell};

#[test]
fn what_is_said_of_accounts_stays_mounted_or_not() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    fs::create_dir(demo.file("photos"))?;
    fs::create_dir(demo.file("photos/may"))?;
    let mounted = Accounts(&demo);
    let said = mounted.with_password(
        "user add ann --uid 1000 --gid 1000 --groups 44,45 --folder /photos/",
        PASSWORD,
    )?;
    ensure!(said.contains("ann") && said.contains("/photos of"), "{said}");
    mounted.with_password("user add bob --uid 1001 --gid 1001 --read-only", PASSWORD)?;
    let key = mounted.say("key add ann --folder /photos/may")?;
    let token = mounted.say("token add ann --expires 30d")?;
    let link = mounted.say("link add ann --folder /photos/may --expires 7d")?;
    ensure!(token.starts_with("ashlar_") && link.contains('.'), "{token} {link}");
    let user = &mounted.list("user")?[0];
    ensure!(user["name"] == "ann" && user["uid"] == 1000 && user["folder"] == "/photos", "{user}");
    ensure!(user["gids"] == serde_json::json!([1000, 44, 45]) && user["write"] == true, "{user}");
    demo.stop(Stop::Umount)?;
    demo.fsck()?;

    let alone = Accounts(&demo);
    let listed = |of: &Accounts<'_>, kind: &str, field: &str| -> Result<Vec<String>> {
        let all = of.list(kind)?;
        Ok(all.iter().map(|one| one[field].as_str().unwrap_or_default().to_owned()).collect())
    };
    ensure!(listed(&alone, "user", "name")? == ["ann", "bob"], "in order, unmounted");
    let [id] = &listed(&alone, "token", "id")?[..] else { anyhow::bail!("one token") };
    ensure!(token.contains(id.as_str()), "{id} is of {token}");
    let key_id = listed(&alone, "key", "id")?.concat();
    ensure!(key.contains(&format!("access key: {key_id}\nsecret key: ")), "{key}");
    alone.say(&format!("token revoke {id}"))?;
    // Several at once wait for each other.
    std::thread::scope(|scope| {
        let adding: Vec<_> = (0..4).map(|_| scope.spawn(|| alone.say("token add bob"))).collect();
        adding.into_iter().try_for_each(|one| one.join().expect("no panic").map(drop))
    })?;
    ensure!(alone.list("token")?.len() == 4);
    for token in alone.list("token")? {
        alone.say(&format!("token revoke {}", token["id"].as_str().context("an id")?))?;
    }
    alone.say("user revoke bob")?;
    alone.with_password("user password ann", "another password")?;
    alone.say("user revoke ann --delete")?;
    demo.mount()?;

    let mounted = Accounts(&demo);
    ensure!(mounted.list("user")?.len() == 1 && mounted.list("user")?[0]["disabled"] == true);
    for kind in ["key", "token", "link"] {
        ensure!(mounted.list(kind)?.is_empty(), "{kind}s go with their user");
        ensure!(mounted.say(&format!("{kind} list"))?.contains(&format!("ashlar {kind} add")));
    }
    mounted.say("user allow bob")?;
    ensure!(mounted.list("user")?[0]["disabled"] == false);
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

#[test]
fn secrets_are_told_once_and_kept_from_others() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    let accounts = Accounts(&demo);
    accounts.with_password("user add ann --uid 0 --gid 0", PASSWORD)?;
    let key = accounts.say("key add ann")?;
    let secret = key.trim().rsplit(' ').next().context("a secret")?.to_owned();
    let token = accounts.say("token add ann")?.trim().to_owned();
    let mut said = String::new();
    for kind in ["user", "key", "token"] {
        said += &accounts.say(&format!("{kind} list"))?;
        said += &accounts.say(&format!("{kind} list --json"))?;
    }
    demo.stop(Stop::Umount)?;
    // What lies about: the mount's log, what this machine keeps of the volume, the disks.
    let find = "find . -type f -print0 | xargs -0 grep -l -a -F";
    for hidden in [PASSWORD, &token[token.len() - 43..]] {
        let found = shell(&demo.directory(), &format!("{find} '{hidden}' || true"), PATIENCE)?;
        ensure!(found.is_empty(), "{hidden} is in {found}");
    }
    let found = shell(&demo.directory(), &format!("{find} -e '{secret}' || true"), PATIENCE)?;
    ensure!(found.contains("disks/"), "the secret of an access key is in the metadata: {found}");
    for file in found.lines() {
        let mode = fs::metadata(demo.directory().join(file))?.permissions().mode();
        ensure!(mode & 0o077 == 0, "{file} has mode {mode:o}");
        ensure!(!file.ends_with(".log"), "{file} has the secret");
    }
    for hidden in [PASSWORD, &secret, &token, "argon2"] {
        ensure!(!said.contains(hidden), "{hidden} is listed: {said}");
    }
    Ok(())
}

/// Types into a terminal of its own: waits for each prompt, and until the terminal does not show what is typed, then types
/// a line. Prints what the terminal showed.
const TYPIST: &str = r#"
import os, pty, sys, termios, time
lines = sys.argv[1].split(",")
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
shown = b""
while True:
    try:
        some = os.read(terminal, 1000)
    except OSError:
        break
    if not some:
        break
    shown += some
    if shown.endswith(b": ") and lines:
        while termios.tcgetattr(terminal)[3] & termios.ECHO:
            time.sleep(0.001)
        os.write(terminal, lines.pop(0).encode() + b"\n")
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn a_password_is_asked_for_twice_and_not_shown() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    let accounts = Accounts(&demo);
    let typed = |lines: &str, words: &str| {
        let asks = accounts.command(words);
        let mut command = Command::new("python3");
        command.args(["-c", TYPIST, lines]).arg(asks.get_program()).args(asks.get_args());
        command.env("ASHLAR_CLUSTER", demo.cluster_file());
        let answer = output(&mut command, PATIENCE)?;
        anyhow::Ok((answer.status.code(), String::from_utf8_lossy(&answer.stdout).into_owned()))
    };
    let (code, shown) = typed("first secret,first secret", "user add ann --uid 1 --gid 1")?;
    ensure!(code == Some(0) && shown.contains("the same again"), "{code:?} {shown}");
    ensure!(!shown.contains("secret"), "{shown}");
    let (code, shown) = typed("first secret,other secret", "user password ann")?;
    ensure!(code == Some(1) && shown.contains("not the same"), "{code:?} {shown}");
    demo.stop(Stop::Umount)
}

#[test]
fn orders_that_make_no_sense_are_refused_in_a_sentence() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    fs::create_dir(demo.file("photos"))?;
    fs::write(demo.file("file"), "")?;
    let accounts = Accounts(&demo);
    accounts.with_password("user add ann --uid 1 --gid 1 --folder /photos", PASSWORD)?;
    let with_password = |words: &str, password: &str| {
        let error = accounts.with_password(words, password).err().map(|e| format!("{e:#}"));
        error.with_context(|| format!("{words} was taken"))
    };
    for (words, password, word) in [
        ("user add ann --uid 1 --gid 1", PASSWORD, "there is a user ann already"),
        ("user add bob --uid 1 --gid 1", "short", "at least 8"),
        ("user add bob --uid 1 --gid 1 --folder /none", PASSWORD, "no folder /none"),
        ("user add bob --uid 1 --gid 1 --folder /file", PASSWORD, "no folder /file"),
        ("user add bob --uid 1 --gid 1 --folder photos", PASSWORD, "from the root"),
        ("user add bob --uid 1 --gid 1 --folder /a/../b", PASSWORD, "from the root"),
        ("user add b:b --uid 1 --gid 1", PASSWORD, "names have"),
        ("user password bob", PASSWORD, "no user bob"),
    ] {
        let said = with_password(words, password)?;
        ensure!(said.contains(word), "{words}: {said}");
    }
    for (words, word) in [
        ("user revoke bob", "no user bob"),
        ("user allow bob", "no user bob"),
        ("user revoke bob --delete", "no user bob"),
        ("key add bob", "no user bob"),
        ("token add ann --folder /", "not within /photos"),
        ("link add ann --expires 0s", "lets nobody in"),
        ("token revoke 0123456789abcdef", "no token 0123456789abcdef"),
        ("key revoke ann", "no key ann"),
        ("link revoke x/y", "no link x/y"),
    ] {
        let said = accounts.refused(words)?;
        ensure!(said.contains(word), "{words}: {said}");
    }
    let users = accounts.list("user")?;
    ensure!(users.len() == 1, "something was done all the same: {users:?}");
    demo.stop(Stop::Umount)
}

#[test]
fn what_disks_do_not_take_counts_or_is_taken_back_and_is_said() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Daemons))?;
    Accounts(&demo).with_password("user add ann --uid 0 --gid 0", PASSWORD)?;
    for disk in 0..6 {
        demo.kill_daemon(disk)?;
    }
    let accounts = Accounts(&demo);
    let why = accounts.refused("token add ann")?;
    ensure!(!why.contains("counts from now on"), "nobody knows it: {why}");
    let why = accounts.refused("user revoke ann")?;
    ensure!(why.contains("it counts from now on, and is not durable yet"), "{why}");
    for disk in 0..6 {
        demo.restart_daemon(disk)?;
    }
    demo.all_up(PATIENCE)?;
    let accounts = Accounts(&demo);
    ensure!(accounts.list("token")?.is_empty(), "a token that nobody knows");
    let users = accounts.list("user")?;
    ensure!(users[0]["disabled"] == true, "{users:?}");
    demo.stop(Stop::Umount)
}
