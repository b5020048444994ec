//! Promise: a cluster begins with one machine, others are taken in by a token, and all of them speak to machines of the cluster alone:
//! whoever is none, or no longer, reads and writes nothing. Machines are addresses of loopback here, with directories of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tests::binaries::{ashlar, proxyd};
use tests::door::{Door, free_address};
use tests::process::{PATIENCE, Process, output, run, wait_until};
use tests::seed::content;

/// Until all machines know what has changed: files are looked at, and roots asked, every ten seconds.
const KNOWN: Duration = Duration::from_secs(60);
/// What is stored: six parts, one for each disk.
const BLOB: &str = "9-3-17-0-400000-ec(4,2)";
const LEN: usize = 400_000;

/// Machines, in a directory each.
struct Site {
    home: TempDir,
    root: String,
    token: Option<String>,
}

/// One of them.
struct Machine {
    state: PathBuf,
    node: Option<Process>,
}

/// How a command ended, and all that it said.
fn ended(command: &mut Command) -> Result<(i32, String)> {
    let output = output(command, 2 * PATIENCE)?;
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().with_context(|| format!("{command:?} was killed"))?;
    Ok((code, String::from_utf8_lossy(&said).into_owned()))
}

fn port(address: &str) -> Result<&str> {
    address.rsplit(':').next().context("a port")
}

impl Site {
    /// A cluster of one machine with three disks, which runs.
    fn start() -> Result<(Self, Machine)> {
        let (home, root) = (tempfile::tempdir()?, free_address()?);
        let mut site = Self { home, root, token: None };
        let mut create = site.command("create", "m1", 3)?;
        create.args(["--address", "127.0.0.2", "--root-port", port(&site.root)?]);
        run(&mut create, PATIENCE)?;
        let mut first = site.machine("m1");
        first.run()?;
        wait_until("its disks to answer", PATIENCE, || first.is_well())?;
        site.token = Some(first.token(&[])?);
        Ok((site, first))
    }

    fn machine(&self, name: &str) -> Machine {
        Machine { state: self.home.path().join(name), node: None }
    }

    /// A command of `ashlar cluster` for a machine that brings disks.
    fn command(&self, what: &str, name: &str, disks: usize) -> Result<Command> {
        let mut command = Command::new(ashlar());
        command.args(["cluster", what, "--capacity", "1GiB", "--port"]);
        command.arg(port(&free_address()?)?).arg("--state").arg(self.home.path().join(name));
        for number in 0..disks {
            command.arg("--disk").arg(self.home.path().join(format!("{name}-disk{number}")));
        }
        Ok(command)
    }

    fn join(&self, name: &str, host: &str, token: &str, disks: usize) -> Result<(i32, String)> {
        let mut join = self.command("join", name, disks)?;
        ended(join.args([token, "--address", host]))
    }

    fn joined(&self, name: &str, host: &str, token: &str, disks: usize) -> Result<Machine> {
        let (code, said) = self.join(name, host, token, disks)?;
        ensure!(code == 0, "{name}: {said}");
        Ok(self.machine(name))
    }
}

impl Machine {
    fn cluster(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ashlar());
        command.arg("cluster").args(words).arg("--state").arg(&self.state);
        command
    }

    fn token(&self, words: &[&str]) -> Result<String> {
        let printed = run(&mut self.cluster(&[&["token"][..], words].concat()), PATIENCE)?;
        Ok(printed.trim().to_owned())
    }

    fn run(&mut self) -> Result<()> {
        let log = self.state.join("log");
        let mut command = Command::new(ashlar());
        command.args(["node", "run", "--state"]).arg(&self.state);
        self.node = Some(Process::start_ready(&mut command, "cluster", &log)?);
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.state.join("cluster.toml")
    }

    /// Its cluster file, with a cache of its own, and these metads.
    fn cached(&self, metad: &[&str]) -> Result<PathBuf> {
        let (cache, file) = (self.state.join("cache"), self.state.join("cached.toml"));
        let text = fs::read_to_string(self.file())?;
        fs::write(&file, format!("cache = {cache:?}\nmetad = {metad:?}\n{text}"))?;
        Ok(file)
    }

    fn slots(&self) -> usize {
        fs::read_to_string(self.file()).map_or(0, |text| text.matches("[[slot]]").count())
    }

    /// Do all disks answer it?
    fn is_well(&self) -> bool {
        ended(&mut self.cluster(&["status"])).is_ok_and(|(code, _)| code == 0)
    }

    /// Its id.
    fn id(&self) -> Result<String> {
        let (_, said) = ended(&mut self.cluster(&["status"]))?;
        let line = said.lines().find_map(|line| line.strip_prefix("machine"));
        let id = line.and_then(|line| line.split_whitespace().next());
        Ok(id.with_context(|| said.clone())?.to_owned())
    }

    fn end(mut self) -> Result<()> {
        if let Some(mut node) = self.node.take() {
            node.signal(Signal::SIGTERM)?;
            let status = node.wait(PATIENCE)?;
            ensure!(status.success(), "it ended with {status}:\n{}", node.said());
        }
        Ok(())
    }
}

/// Asks for a blob, by a cluster file.
fn get(file: &Path) -> Result<(i32, Vec<u8>)> {
    let mut command = Command::new(proxyd());
    command.args(["blob", "get", BLOB, "--cluster"]).arg(file);
    let output = output(&mut command, 2 * PATIENCE)?;
    Ok((output.status.code().context("it was killed")?, output.stdout))
}

fn put(file: &Path, bytes: &Path) -> Result<()> {
    let mut command = Command::new(proxyd());
    run(command.args(["blob", "put", BLOB]).arg(bytes).arg("--cluster").arg(file), 2 * PATIENCE)?;
    Ok(())
}

#[test]
fn machines_join_by_a_token_and_nobody_else_gets_anything() -> Result<()> {
    let (site, first) = Site::start()?;
    let token = site.token.clone().context("a token")?;
    let mut second = site.joined("m2", "127.0.0.3", &token, 3)?;
    second.run()?;
    wait_until("all to know six disks", KNOWN, || first.slots() == 6 && second.slots() == 6)?;
    wait_until("all disks to answer both", KNOWN, || first.is_well() && second.is_well())?;

    let ashlar = |words: [&str; 2], file: PathBuf| {
        run(Command::new(ashlar()).args(words).arg("--cluster").arg(file), 2 * PATIENCE)
    };
    ashlar(["format", "photos"], first.cached(&[])?)?;
    ashlar(["fsck", "photos"], second.cached(&[])?)?;
    let (bytes, stored) = (content(7, LEN), site.home.path().join("bytes"));
    fs::write(&stored, &bytes)?;
    put(&first.file(), &stored)?;
    ensure!(get(&second.file())? == (0, bytes.clone()), "what one stores the other has");
    // The same by a client that has no disks.
    let client = site.joined("m3", "127.0.0.4", &first.token(&["--role", "client"])?, 0)?;
    ensure!(get(&client.file())? == (0, bytes), "a client reads");

    // Without a certificate, and with another cluster's.
    let text = fs::read_to_string(first.file())?;
    let nobody = site.home.path().join("nobody.toml");
    let without: String =
        text.lines().filter(|l| !l.starts_with("identity")).map(|l| format!("{l}\n")).collect();
    fs::write(&nobody, without)?;
    ensure!(get(&nobody)?.0 != 0, "who has no certificate reads nothing");
    let (elsewhere, foreign) = Site::start()?;
    let stranger = site.home.path().join("stranger.toml");
    let own = first.state.display().to_string();
    fs::write(&stranger, text.replace(&own, &foreign.state.display().to_string()))?;
    ensure!(get(&stranger)?.0 != 0, "who is of another cluster reads nothing");
    foreign.end()?;
    drop(elsewhere);
    drop(client);
    second.end()?;
    first.end()
}

#[test]
fn a_root_leads_a_volume_for_machines_of_the_cluster_alone() -> Result<()> {
    let (site, first) = Site::start()?;
    let client = site.joined("m2", "127.0.0.3", &first.token(&["--role", "client"])?, 0)?;
    let node = site.joined("m3", "127.0.0.4", &first.token(&[])?, 0)?;
    let leader = format!("127.0.0.2:{}", port(&free_address()?)?);
    let ashlar = |words: &[&str], machine: &Machine| -> Result<Command> {
        let mut command = Command::new(ashlar());
        command.args(words).arg("--cluster").arg(machine.cached(&[&leader])?);
        Ok(command)
    };
    run(&mut ashlar(&["format", "photos", "--scheme", "copies(2)"], &first)?, PATIENCE)?;
    let lead = ["metad", "run", "--volume", "photos", "--listen", &leader];
    let (code, said) = ended(&mut ashlar(&lead, &node)?)?;
    ensure!(code != 0 && said.contains("led by roots"), "{said}");
    let log = site.home.path().join("metad.log");
    let mut metad = Process::start_ready(&mut ashlar(&lead, &first)?, "leading", &log)?;

    let door = Door::at(&free_address()?);
    let serve = ["serve", "photos", "--http", &door.address];
    let log = site.home.path().join("serve.log");
    let mut server = Process::start_ready(&mut ashlar(&serve, &client)?, "serving", &log)?;
    door.post("/refs/a", b"over two machines")?.expect(201)?;
    ensure!(door.get("/refs/a")?.expect(200)?.body == b"over two machines");
    // Who has no certificate has no session, be there one or none.
    let nobody = Machine { state: site.home.path().join("nobody"), node: None };
    fs::create_dir(&nobody.state)?;
    let text = fs::read_to_string(client.file())?;
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("identity")).collect();
    fs::write(nobody.file(), without.join("\n"))?;
    let elsewhere = free_address()?;
    let (code, said) = ended(&mut ashlar(&["serve", "photos", "--http", &elsewhere], &nobody)?)?;
    ensure!(code != 0, "{said}");
    ensure!(door.get("/refs/a")?.expect(200)?.body == b"over two machines", "it goes on");
    for process in [&mut server, &mut metad] {
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(PATIENCE)?;
        ensure!(status.success(), "it ended with {status}:\n{}", process.said());
    }
    first.end()
}

#[test]
fn a_token_takes_one_machine_in_and_what_is_none_does_not() -> Result<()> {
    let (site, first) = Site::start()?;
    let token = site.token.clone().context("a token")?;
    site.joined("m2", "127.0.0.3", &token, 0)?;
    site.joined("m2", "127.0.0.3", &token, 1).context("again, with what it lacked")?;
    let given = site.home.path().join("token");
    fs::write(&given, first.token(&["--role", "client"])?)?;
    let mut join = site.command("join", "m4", 0)?;
    join.args(["-", "--address", "127.0.0.5"]);
    let mut fed = Command::new("sh");
    fed.args(["-c", "exec \"$0\" \"$@\" < \"$GIVEN\""]).env("GIVEN", &given);
    let (code, said) = ended(fed.arg(join.get_program()).args(join.get_args()))?;
    ensure!(code == 0 && said.contains("client"), "by standard input: {said}");
    let cut = &token[..token.len() - 1];
    let over = first.token(&["--ttl", "0s"])?;
    for (token, why) in [
        (&*token, "used by another machine"),
        (cut, "not a whole token"),
        ("nonsense", "no token"),
        (&over, "expired"),
    ] {
        let (code, said) = site.join("m3", "127.0.0.4", token, 0)?;
        ensure!(code != 0 && said.contains(why), "{token}: {said}");
        ensure!(!site.home.path().join("m3/node.pem").exists(), "it is of no cluster");
    }
    for (words, why) in [
        (&["token", "--role", "root"][..], "one root"),
        (&["token", "--role", "king"], "no role"),
        (&["leave"], "root of cluster"),
        (&["revoke", "7d1c0000-0000-4000-8000-000000000000"], "does not know the machine"),
    ] {
        let (code, said) = ended(&mut first.cluster(words))?;
        ensure!(code != 0 && said.contains(why), "{words:?}: {said}");
    }
    let (code, said) = ended(&mut site.machine("m2").cluster(&["token"]))?;
    ensure!(code != 0 && said.contains("only a root"), "{said}");
    let mut again = site.command("create", "m1", 1)?;
    let (code, said) = ended(again.args(["--address", "127.0.0.2"]))?;
    ensure!(code != 0 && said.contains("already"), "{said}");
    first.end()
}

#[test]
fn a_cluster_whose_beginning_broke_off_is_begun_by_doing_it_again() -> Result<()> {
    let site = Site { home: tempfile::tempdir()?, root: free_address()?, token: None };
    let begin = |disks: usize| {
        let mut create = site.command("create", "m1", disks)?;
        ended(create.args(["--address", "127.0.0.2", "--root-port", port(&site.root)?]))
    };
    // The third disk cannot be made, after two were.
    let (home, third) = (site.home.path(), site.home.path().join("m1-disk2"));
    fs::write(&third, "in the way")?;
    let (code, said) = begin(3)?;
    ensure!(code != 0 && said.contains("m1-disk2"), "{said}");
    fs::remove_file(&third)?;
    let (code, said) = begin(3)?;
    ensure!(code == 0, "{said}");
    // All but the certificate was written.
    fs::remove_file(home.join("m1/node.pem"))?;
    let kept = fs::read_to_string(home.join("m1/cluster.toml"))?;
    let id = kept.lines().find_map(|line| line.strip_prefix("cluster = ")).context("an id")?;
    fs::write(home.join("m1/begun"), id.trim_matches('"'))?;
    let (code, said) = begin(3)?;
    ensure!(code == 0 && said.contains(id.trim_matches('"')), "{said}");
    let mut first = site.machine("m1");
    let (settings, metrics) = (home.join("m1/node.toml"), Door::at(&free_address()?));
    let made = fs::read_to_string(&settings)?;
    fs::write(&settings, format!("metrics = {:?}\n{made}", metrics.address))?;
    first.run()?;
    wait_until("its disks to answer", PATIENCE, || first.is_well())?;
    let told = metrics.get("/metrics")?.expect(200)?.body;
    ensure!(String::from_utf8_lossy(&told).contains("ashlar_"), "it is watched as others are");
    let (_, said) = ended(&mut first.cluster(&["status"]))?;
    let machines = said.matches("root,node").count();
    ensure!(machines == 1, "one root, and none that never was: {said}");
    ensure!(!home.join("m1/begun").exists(), "it is begun");
    first.end()
}

#[test]
fn who_is_revoked_or_has_left_is_nobody() -> Result<()> {
    let (site, first) = Site::start()?;
    let many = first.token(&["--reusable"])?;
    let (revoked, left) =
        (site.joined("m2", "127.0.0.3", &many, 0)?, site.joined("m3", "127.0.0.4", &many, 0)?);
    ensure!(revoked.is_well() && left.is_well(), "both reach the disks");
    // Whoever has a copy of what it had is nobody either.
    let copy = Machine { state: site.home.path().join("copy"), node: None };
    run(Command::new("cp").arg("-a").arg(&left.state).arg(&copy.state), PATIENCE)?;
    run(&mut left.cluster(&["leave"]), PATIENCE)?;
    ensure!(!left.state.join("node.pem").exists() && !left.state.join("node.key").exists());
    run(&mut first.cluster(&["revoke", &revoked.id()?]), PATIENCE)?;
    wait_until("neither to reach a disk", KNOWN, || !revoked.is_well() && !copy.is_well())?;
    let (code, said) = site.join("m2-again", "127.0.0.3", &many, 0)?;
    ensure!(code == 0, "with a new key it is another machine: {said}");
    let certificate = revoked.state.join("node.pem");
    let aside = fs::read(&certificate)?;
    fs::remove_file(&certificate)?;
    let (code, said) = site.join("m2", "127.0.0.3", &many, 0)?;
    ensure!(code != 0 && said.contains("revoked"), "with the old one it is not: {said}");
    // As it is told to.
    fs::write(&certificate, aside)?;
    fs::remove_file(revoked.state.join("node.key"))?;
    let (code, said) = site.join("m2", "127.0.0.3", &many, 0)?;
    ensure!(code == 0 && revoked.is_well(), "with a new key it is another: {said}");
    // What was revoked cannot ask anybody to leave.
    let (code, said) = ended(&mut copy.cluster(&["leave"]))?;
    ensure!(code != 0, "{said}");
    run(&mut copy.cluster(&["leave", "--forget"]), PATIENCE)?;
    ensure!(!copy.state.join("node.pem").exists() && !copy.state.join("node.key").exists());
    run(&mut first.cluster(&["token", "--withdraw"]), PATIENCE)?;
    let (code, said) = site.join("m5", "127.0.0.5", &many, 0)?;
    ensure!(code != 0 && said.contains("no such token"), "it was withdrawn: {said}");
    ensure!(first.is_well(), "the root is");
    first.end()
}
