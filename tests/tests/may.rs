//! Promise: who comes by a door may what the kernel would let him do on the mount.
//!
//! Scenes of two directories with random owners, modes and access lists; in each somebody tries
//! something, as root, owner, member or stranger, and the answer is that of the decider
//! ([`meta::may`]), which sees the same inodes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use meta::may::{EXECUTE, Guarded, READ, Times, WRITE, Who};
use meta::{Acl, Attr, Ino, Kind, MetaError, Time};
use nix::errno::Errno;
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    XattrFlags, access, lgetxattr, lremovexattr, lsetxattr, makedev, mknodat, renameat_with,
    utimensat,
};
use tests::cluster::{Demo, Mode as Served, Setup, Stop, can_mount};
use tests::seed::Seed;
use tests::somebody::acting;

/// Scenes, with eleven attempts each.
const SCENES: usize = 1000;
const USERS: [u32; 4] = [0, 1001, 1002, 1003];
const GROUPS: [u32; 3] = [2001, 2002, 2003];
const ACCESS_LIST: &str = "system.posix_acl_access";
/// Attributes that everything in a scene has, and one that may be set anew.
const ATTRIBUTES: [&str; 3] = ["user.a", "trusted.a", "security.a"];

type Decided = Result<(), MetaError>;

/// Something that was tried.
struct Attempt {
    what: String,
    decided: Decided,
    /// What the mount answered.
    did: io::Result<()>,
}

type Try = fn(&Scene, &mut Seed, &Caller) -> Result<Attempt>;

/// One by one on a scene that stays as it is; then these, on what is changed by them; at last one
/// that takes the scene apart.
const LOOKS: [Try; 5] = [accesses, opens, lists, stats, gets_attribute];
const CHANGES: [Try; 6] =
    [changes_mode, changes_owner, sets_times, truncates, sets_attribute, removes_attribute];
const NAMES: [Try; 5] = [creates, removes, renames, exchanges, links];

struct Caller {
    uid: u32,
    /// The effective one first.
    gids: Vec<u32>,
}

impl Caller {
    fn any(dice: &mut Seed) -> Self {
        let uid = if dice.chance(10) { 0 } else { one(dice, &USERS[1..]) };
        let count = 1 + dice.below(3);
        Self { uid, gids: (0..count).map(|_| one(dice, &GROUPS)).collect() }
    }

    fn who(&self) -> Who<'_> {
        Who { uid: self.uid, gids: &self.gids }
    }

    fn does<T>(&self, what: impl FnOnce() -> T) -> T {
        acting((self.uid, self.gids[0], &self.gids[1..]), what)
    }
}

fn one<T: Copy>(dice: &mut Seed, of: &[T]) -> T {
    of[dice.below(of.len() as u64) as usize]
}

/// Permissions of a class: often all.
fn class(dice: &mut Seed) -> u32 {
    if dice.chance(30) { 7 } else { dice.below(8) as u32 }
}

fn any_mode(dice: &mut Seed) -> u32 {
    let special = [(0o4000, 10), (0o2000, 30), (0o1000, 40)];
    let special: u32 =
        special.iter().filter(|(_, often)| dice.chance(*often)).map(|(b, _)| b).sum();
    special | class(dice) << 6 | class(dice) << 3 | class(dice)
}

/// The value of an access list that names somebody.
fn any_list(dice: &mut Seed) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    let mut add = |tag: u16, permissions: u32, id: u32| {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&(permissions as u16).to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    };
    let nobody = u32::MAX;
    add(1, class(dice), nobody);
    for user in USERS {
        if dice.chance(40) {
            add(2, class(dice), user);
        }
    }
    add(4, class(dice), nobody);
    for group in GROUPS {
        if dice.chance(40) {
            add(8, class(dice), group);
        }
    }
    add(16, if dice.chance(15) { 0 } else { class(dice) }, nobody);
    add(32, class(dice), nobody);
    value
}

/// An inode as it is now.
struct Inode {
    attr: Attr,
    acl: Option<Acl>,
}

impl Inode {
    fn at(path: &Path) -> Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let kind = match found.file_type() {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_file() => Kind::File,
            kind if kind.is_symlink() => Kind::Symlink,
            kind if kind.is_fifo() => Kind::Fifo,
            _ => Kind::CharDevice,
        };
        let t = Time::default();
        let attr = Attr {
            ino: Ino(found.ino()),
            kind,
            mode: found.mode() & 0o7777,
            nlink: 1,
            uid: found.uid(),
            gid: found.gid(),
            rdev: 0,
            xattrs: 0,
            size: 0,
            stored: 0,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
        };
        let mut value = vec![0; 4096];
        let acl = match lgetxattr(path, ACCESS_LIST, value.as_mut_slice()) {
            Ok(len) => Acl::parse(&value[..len])?,
            Err(_) => None,
        };
        Ok(Self { attr, acl })
    }

    fn guarded(&self) -> Guarded<'_> {
        Guarded { attr: &self.attr, acl: self.acl.as_ref() }
    }
}

/// Two directories `a` and `b`, with a file and an empty directory in each.
struct Scene {
    at: PathBuf,
}

impl Scene {
    fn set(at: PathBuf, dice: &mut Seed) -> Result<Self> {
        fs::create_dir(&at)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755))?;
        let scene = Self { at };
        for directory in ["a", "b", "a/d", "b/d"] {
            fs::create_dir(scene.path(directory))?;
        }
        for file in ["a/f", "b/f"] {
            fs::write(scene.path(file), "x")?;
        }
        for path in ["a/d", "b/d", "a/f", "b/f", "a", "b"] {
            scene.dress(&scene.path(path), dice)?;
        }
        Ok(scene)
    }

    fn dress(&self, path: &Path, dice: &mut Seed) -> Result<()> {
        for name in ATTRIBUTES {
            lsetxattr(path, name, b"1", XattrFlags::empty())?;
        }
        chown(path, Some(one(dice, &USERS)), Some(one(dice, &GROUPS)))?;
        if dice.chance(50) {
            lsetxattr(path, ACCESS_LIST, &any_list(dice), XattrFlags::empty())?;
        }
        if dice.chance(70) {
            fs::set_permissions(path, fs::Permissions::from_mode(any_mode(dice)))?;
        }
        Ok(())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.at.join(path)
    }

    /// Something in `a`, with that directory: its path, and both inodes.
    fn target(&self, name: &str) -> Result<(PathBuf, Inode, Inode)> {
        let path = self.path("a").join(name);
        let inode = Inode::at(&path)?;
        Ok((path, Inode::at(&self.path("a"))?, inode))
    }
}

/// Something on the inode that a path leads to: the directory must let one search it.
fn beyond(caller: &Caller, dir: &Inode, decide: impl FnOnce(Who<'_>) -> Decided) -> Decided {
    caller.who().search(dir.guarded()).and_then(|()| decide(caller.who()))
}

fn any_wish(dice: &mut Seed) -> u32 {
    1 + dice.below(7) as u32
}

fn accesses(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target(one(dice, &["f", "d"]))?;
    let wanted = any_wish(dice);
    let bits = [(READ, Access::READ_OK), (WRITE, Access::WRITE_OK), (EXECUTE, Access::EXEC_OK)];
    let bits = bits.iter().filter(|(bit, _)| wanted & bit != 0).map(|(_, bit)| *bit).collect();
    Ok(Attempt {
        what: format!("access {wanted}"),
        decided: beyond(caller, &dir, |who| who.access(inode.guarded(), wanted)),
        did: caller.does(|| access(&path, bits)).map_err(Into::into),
    })
}

fn opens(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target("f")?;
    let (wanted, quiet) = (one(dice, &[READ, WRITE, READ | WRITE]), dice.chance(30));
    let mut options = File::options();
    options.read(wanted & READ != 0).write(wanted & WRITE != 0);
    options.custom_flags(if quiet { nix::libc::O_NOATIME } else { 0 });
    Ok(Attempt {
        what: format!("open {wanted}, quiet {quiet}"),
        decided: beyond(caller, &dir, |who| who.open(inode.guarded(), wanted, quiet)),
        did: caller.does(|| options.open(&path)).map(drop),
    })
}

fn lists(scene: &Scene, _: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target("d")?;
    Ok(Attempt {
        what: "list".to_owned(),
        decided: beyond(caller, &dir, |who| who.open(inode.guarded(), READ, false)),
        did: caller.does(|| fs::read_dir(&path)).map(drop),
    })
}

fn stats(scene: &Scene, _: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, _) = scene.target("f")?;
    Ok(Attempt {
        what: "stat".to_owned(),
        decided: caller.who().search(dir.guarded()),
        did: caller.does(|| fs::symlink_metadata(&path)).map(drop),
    })
}

fn gets_attribute(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target(one(dice, &["f", "d"]))?;
    let name = one(dice, &ATTRIBUTES);
    let mut value = [0; 16];
    Ok(Attempt {
        what: format!("getxattr {name}"),
        decided: beyond(caller, &dir, |who| who.getxattr(inode.guarded(), name.as_bytes())),
        did: caller.does(|| lgetxattr(&path, name, &mut value)).map(drop).map_err(Into::into),
    })
}

fn changes_mode(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target(one(dice, &["f", "d"]))?;
    let mode = any_mode(dice);
    let decided = beyond(caller, &dir, |who| who.chmod(&inode.attr));
    let did = caller.does(|| fs::set_permissions(&path, fs::Permissions::from_mode(mode)));
    if did.is_ok() {
        let expected = caller.who().mode_to_set(inode.attr.gid, mode);
        let now = Inode::at(&path)?.attr.mode;
        ensure!(now == expected, "chmod {mode:o} made {now:o}, decided was {expected:o}");
    }
    Ok(Attempt { what: format!("chmod {mode:o}"), decided, did })
}

fn changes_owner(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target(one(dice, &["f", "d"]))?;
    let (other, group) = (one(dice, &USERS), one(dice, &GROUPS));
    let uid = one(dice, &[None, Some(inode.attr.uid), Some(other)]);
    let gid = one(dice, &[Some(inode.attr.gid), Some(group)]);
    Ok(Attempt {
        what: format!("chown {uid:?} {gid:?}"),
        decided: beyond(caller, &dir, |who| who.chown(&inode.attr, uid, gid)),
        did: caller.does(|| chown(&path, uid, gid)),
    })
}

fn sets_times(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target(one(dice, &["f", "d"]))?;
    let nsec = |tv_nsec| Timespec { tv_sec: 1_000_000_000, tv_nsec };
    let (times, set) = one(
        dice,
        &[
            (Times::Now, (UTIME_NOW, UTIME_NOW)),
            (Times::Chosen, (5, 5)),
            (Times::Chosen, (UTIME_OMIT, UTIME_NOW)),
        ],
    );
    let set = Timestamps { last_access: nsec(set.0), last_modification: nsec(set.1) };
    Ok(Attempt {
        what: format!("utimensat {times:?}"),
        decided: beyond(caller, &dir, |who| who.set_times(inode.guarded(), times)),
        did: caller.does(|| utimensat(CWD, &path, &set, AtFlags::empty())).map_err(Into::into),
    })
}

fn truncates(scene: &Scene, _: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target("f")?;
    Ok(Attempt {
        what: "truncate".to_owned(),
        decided: beyond(caller, &dir, |who| who.truncate(inode.guarded())),
        did: caller.does(|| nix::unistd::truncate(&path, 0)).map_err(Into::into),
    })
}

fn sets_attribute(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target(one(dice, &["f", "d"]))?;
    let name = one(dice, &[ATTRIBUTES[0], ATTRIBUTES[1], ATTRIBUTES[2], ACCESS_LIST]);
    let value = if name == ACCESS_LIST { any_list(dice) } else { b"2".to_vec() };
    let set = || lsetxattr(&path, name, &value, XattrFlags::empty());
    Ok(Attempt {
        what: format!("setxattr {name}"),
        decided: beyond(caller, &dir, |who| who.setxattr(inode.guarded(), name.as_bytes())),
        did: caller.does(set).map_err(Into::into),
    })
}

fn removes_attribute(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, dir, inode) = scene.target(one(dice, &["f", "d"]))?;
    let name = one(dice, &[ATTRIBUTES[0], ATTRIBUTES[1], ATTRIBUTES[2], ACCESS_LIST]);
    Ok(Attempt {
        what: format!("removexattr {name}"),
        decided: beyond(caller, &dir, |who| who.setxattr(inode.guarded(), name.as_bytes())),
        did: caller.does(|| lremovexattr(&path, name)).map_err(Into::into),
    })
}

fn creates(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let dir = Inode::at(&scene.path("a"))?;
    let (path, mode) = (scene.path("a/new"), any_mode(dice));
    let kinds =
        [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::CharDevice, Kind::File];
    let kind = one(dice, &kinds);
    let node = |kind| mknodat(CWD, &path, kind, Mode::from_raw_mode(mode), makedev(1, 3));
    let did = caller.does(|| match kind {
        Kind::File => File::options().write(true).create_new(true).mode(mode).open(&path).map(drop),
        Kind::Directory => fs::DirBuilder::new().mode(mode).create(&path),
        Kind::Symlink => symlink("f", &path),
        Kind::Fifo => node(FileType::Fifo).map_err(Into::into),
        _ => node(FileType::CharacterDevice).map_err(Into::into),
    });
    if did.is_ok() && kind == Kind::File {
        let expected = caller.who().mode_to_create(&dir.attr, kind, mode);
        let now = Inode::at(&path)?.attr.mode;
        ensure!(now == expected, "creating {mode:o} made {now:o}, decided was {expected:o}");
    }
    let decided = caller.who().create(dir.guarded(), kind);
    Ok(Attempt { what: format!("create {kind:?} with {mode:o}"), decided, did })
}

fn removes(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let name = one(dice, &["f", "d"]);
    let (path, dir, inode) = scene.target(name)?;
    Ok(Attempt {
        what: format!("remove {name}"),
        decided: caller.who().remove(dir.guarded(), &inode.attr),
        did: caller.does(|| match name {
            "f" => fs::remove_file(&path),
            _ => fs::remove_dir(&path),
        }),
    })
}

fn renames(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let name = one(dice, &["f", "d"]);
    let (path, from, source) = scene.target(name)?;
    let (over, to) = (format!("b/{name}"), one(dice, &["a", "b"]));
    let to = if dice.chance(30) { over } else { format!("{to}/new") };
    let target = Inode::at(&scene.path(&to)).ok();
    let dir = Inode::at(scene.path(&to).parent().context("it is in a directory")?)?;
    let ends = |who: Who<'_>| {
        let target = (dir.guarded(), target.as_ref().map(Inode::guarded));
        who.rename((from.guarded(), source.guarded()), target, false)
    };
    Ok(Attempt {
        what: format!("rename a/{name} to {to}"),
        decided: beyond(caller, &from, |_| beyond(caller, &dir, ends)),
        did: caller.does(|| fs::rename(&path, scene.path(&to))),
    })
}

fn exchanges(scene: &Scene, dice: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, from, source) = scene.target("f")?;
    let to = one(dice, &["a/d", "b/d", "b/f"]);
    let other = scene.path(to);
    let target = Inode::at(&other)?;
    let dir = Inode::at(other.parent().context("it is in a directory")?)?;
    let swap = || renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE);
    let ends = |who: Who<'_>| {
        let target = (dir.guarded(), Some(target.guarded()));
        who.rename((from.guarded(), source.guarded()), target, true)
    };
    Ok(Attempt {
        what: format!("exchange a/f with {to}"),
        decided: beyond(caller, &from, |_| beyond(caller, &dir, ends)),
        did: caller.does(swap).map_err(Into::into),
    })
}

fn links(scene: &Scene, _: &mut Seed, caller: &Caller) -> Result<Attempt> {
    let (path, from, source) = scene.target("f")?;
    let to = Inode::at(&scene.path("b"))?;
    let protected = fs::read_to_string("/proc/sys/fs/protected_hardlinks")?.trim() != "0";
    let link = |who: Who<'_>| who.link(source.guarded(), to.guarded(), protected);
    Ok(Attempt {
        what: format!("link, protected {protected}"),
        decided: beyond(caller, &from, |_| beyond(caller, &to, link)),
        did: caller.does(|| fs::hard_link(&path, scene.path("b/new"))),
    })
}

/// Is it one answer?
fn agree(Attempt { decided, did, .. }: &Attempt) -> bool {
    let errno = did.as_ref().err().and_then(io::Error::raw_os_error).map(Errno::from_raw);
    match decided {
        Ok(()) => did.is_ok(),
        Err(MetaError::AccessDenied) => errno == Some(Errno::EACCES),
        Err(MetaError::NotPermitted) => errno == Some(Errno::EPERM),
        Err(MetaError::NoAttribute) => errno == Some(Errno::ENODATA),
        Err(_) => false,
    }
}

#[test]
fn who_may_is_decided_as_the_kernel_decides() -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let mut dice = Seed::announced("who_may_is_decided_as_the_kernel_decides");
    rustix::process::umask(Mode::empty());
    let mut demo = Demo::start(Setup::new(Served::Embedded))?;
    let (mut wrong, mut counted) = (Vec::new(), BTreeMap::<String, [u32; 2]>::new());
    for number in 0..SCENES {
        let scene = Scene::set(demo.file(number.to_string()), &mut dice)?;
        let one_of_these = [one(&mut dice, &NAMES)];
        for attempt in LOOKS.iter().chain(&CHANGES).chain(&one_of_these) {
            let caller = Caller::any(&mut dice);
            let before = describe(&scene)?;
            let attempt = attempt(&scene, &mut dice, &caller).with_context(|| before.clone())?;
            let kind = attempt.what.split(' ').next().unwrap_or_default().to_owned();
            counted.entry(kind).or_default()[usize::from(attempt.decided.is_ok())] += 1;
            if !agree(&attempt) {
                let Attempt { what, decided, did } = attempt;
                let Caller { uid, gids } = caller;
                wrong.push(format!(
                    "{uid} in {gids:?}: {what}: decided {decided:?}, the kernel {did:?}\n{before}"
                ));
            }
        }
    }
    println!("refused and granted: {counted:?}");
    ensure!(
        wrong.is_empty(),
        "{} answers differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(10)].join("\n")
    );
    let both = counted.values().all(|[refused, granted]| *refused > 10 && *granted > 10);
    ensure!(both, "something was always refused, or always granted: {counted:?}");
    demo.stop(Stop::Umount)
}

/// The scene in words, for who has to find out.
fn describe(scene: &Scene) -> Result<String> {
    let mut words = Vec::new();
    for path in ["a", "a/f", "a/d", "b", "b/f", "b/d"] {
        let Ok(Inode { attr, acl }) = Inode::at(&scene.path(path)) else { continue };
        let list = acl.map(|_| {
            let mut value = vec![0; 4096];
            let len = lgetxattr(scene.path(path), ACCESS_LIST, value.as_mut_slice()).unwrap_or(0);
            let entries = value[4.min(len)..len].chunks_exact(8).map(|entry| {
                let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                format!("{}:{}:{}", entry[0], id as i32, entry[2])
            });
            entries.collect::<Vec<_>>().join(" ")
        });
        words.push(format!(
            "  {path} {:o} {}:{} {}",
            attr.mode,
            attr.uid,
            attr.gid,
            list.unwrap_or_default()
        ));
    }
    Ok(words.join("\n"))
}
