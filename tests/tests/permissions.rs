//! Promise: who may do what is decided as on a local filesystem: by mode, owner, groups and access
//! lists, whoever asks. Each check is a few lines of shell, run by root in a directory of its own,
//! and what they must print, which is what ext4 prints.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, shell};

/// Words for the checks: `as UID:GID[,GROUP...] COMMAND` runs in the name of somebody else, `may`
/// says yes or no, `acl` prints a list on one line, `mode` the permissions.
const WORDS: &str = r#"
as() { local who=$1; shift; local ids=${who%%,*} groups=--clear-groups
       [ "$ids" = "$who" ] || groups=--groups=${who#*,}
       setpriv --reuid "${ids%:*}" --regid "${ids#*:}" $groups -- "$@"; }
may() { if "$@" >/dev/null 2>&1; then echo yes; else echo no; fi; }
acl() { getfacl --omit-header --absolute-names --numeric --no-effective "$@" | tr '\n' ' ' | sed 's/ *$//'; echo; }
mode() { stat -c %a "$@"; }
umask 022
"#;

/// What is checked, how, and what is printed.
type Check = (&'static str, &'static str, &'static str);

const ACCESS_LISTS: [Check; 11] = [
    (
        "a named user may what the list grants, nobody else may",
        "echo x > f; chmod 600 f; may as 10:10 cat f; setfacl -m u:10:r f; may as 10:10 cat f;
         may as 11:11 cat f; may as 10:10 sh -c 'echo y >> f'; setfacl -x u:10 f; may as 10:10 cat f",
        "no yes no no no",
    ),
    (
        "a named group counts, by a supplementary group too",
        "echo x > f; chmod 600 f; setfacl -m g:77:r f; may as 10:77 cat f; may as 10:10,5,77 cat f;
         may as 10:10 cat f; setfacl -m m::- f; may as 10:77 cat f",
        "yes yes no no",
    ),
    (
        "mode and list follow each other",
        "touch f; setfacl -m u:10:rwx f; mode f; acl f; chmod 640 f; acl f; chmod g=rwx f; acl f;
         setfacl -b f; mode f; acl f; getfattr -m - f",
        "674 user::rw- user:10:rwx group::r-- mask::rwx other::r-- \
         user::rw- user:10:rwx group::r-- mask::r-- other::--- \
         user::rw- user:10:rwx group::r-- mask::rwx other::--- \
         640 user::rw- group::r-- other::---",
    ),
    (
        "what is created takes the default list and not the umask",
        "mkdir d; setfacl -d -m u:10:rwx,g::rx,o::- d; umask 077; touch d/f; mkdir d/s; mkfifo d/p;
         ln -s f d/l; acl d/f; acl d/p; acl d/s; acl d; mode d/f d/s d/p; touch d/s/deep; acl d/s/deep",
        "user::rw- user:10:rwx group::r-x mask::rw- other::--- \
         user::rw- user:10:rwx group::r-x mask::rw- other::--- \
         user::rwx user:10:rwx group::r-x mask::rwx other::--- default:user::rwx \
         default:user:10:rwx default:group::r-x default:mask::rwx default:other::--- \
         user::rwx group::r-x other::r-x default:user::rwx default:user:10:rwx \
         default:group::r-x default:mask::rwx default:other::--- 660 770 660 \
         user::rw- user:10:rwx group::r-x mask::rw- other::---",
    ),
    (
        "without a default list the umask counts",
        "umask 027; touch f; mkdir d; mkfifo p; mode f d p; umask 0; touch g; mkdir e; mode g e;
         mkdir m; setfacl -d -m u::rwx,g::rwx,o::rwx m; umask 077; touch m/f; mkdir m/d; mode m/f m/d",
        "640 750 640 666 777 666 777",
    ),
    (
        "a list that is not there may be removed",
        "touch f; mkdir d; may setfattr -x system.posix_acl_access f; may setfattr -x user.none f;
         may setfattr -x system.posix_acl_default d; may setfattr -n system.posix_acl_access -v 0x02000000 f",
        "yes no yes yes",
    ),
    (
        "a default list goes with setfacl -k",
        "mkdir d; setfacl -d -m u:10:r d; setfacl -k d; umask 077; touch d/f; mode d/f; acl d",
        "600 user::rwx group::r-x other::r-x",
    ),
    (
        "lists are refused where they cannot be, and to whom they do not belong",
        "touch f; chmod 666 f; may setfacl -d -m u:10:r f; may as 10:10 setfacl -m u:10:rwx f;
         ln -s f l; may setfattr -h -n system.posix_acl_access -v 0x0200 l;
         may setfattr -n system.posix_acl_access -v 0x02000000010007 f; acl f",
        "no no no no user::rw- group::rw- other::rw-",
    ),
    (
        "cp -a, tar and rsync keep them",
        "mkdir d; touch d/f; setfacl -m u:10:rw,g:20:r d/f; setfacl -d -m u:10:rw d; cp -a d c;
         tar cf t --acls d; mkdir t.d; tar xf t --acls -C t.d; rsync -aA d/ r/;
         for x in c t.d/d r; do acl $x; acl $x/f; done | sort -u",
        "user::rw- user:10:rw- group::r-- group:20:r-- mask::rw- other::r-- \
         user::rwx group::r-x other::r-x default:user::rwx default:user:10:rw- \
         default:group::r-x default:mask::rwx default:other::r-x",
    ),
    (
        "a list of four hundred users is kept, one of six hundred refused",
        "touch f g; l() { seq 1000 $1 | sed 's/.*/u:&:r/' | paste -sd,; }; setfacl -m $(l 1399) f;
         acl f | tr ' ' '\\n' | grep -c user:1; may setfacl -m $(l 1599) g; acl g",
        "400 no user::rw- group::r-- other::r--",
    ),
    (
        "a list is a change of the inode",
        "touch f; before=$(stat -c %z f); until touch g; [ \"$before\" != \"$(stat -c %z g)\" ]; do :; done;
         setfacl -m u:10:r f; [ \"$before\" = \"$(stat -c %z f)\" ] \
         || echo changed; ls -l f | cut -c11; touch -h f; ls -l f | cut -c11",
        "changed + +",
    ),
];

const OWNERS: [Check; 9] = [
    (
        "in a sticky directory only owners take names away",
        "mkdir t; chmod 1777 t . ; as 10:10 touch t/f; as 10:10 mkdir t/d; as 11:11 touch o;
         may as 11:11 rm -f t/f; may as 11:11 rmdir t/d; may as 11:11 mv t/f t/g;
         may as 11:11 mv o t/f; may as 10:10 mv t/f t/g; may as 10:10 rm -f t/g; may rmdir t/d",
        "no no no no yes yes yes",
    ),
    (
        "capabilities count, whoever has them",
        "able() { setpriv --reuid 12 --regid 12 --clear-groups --inh-caps +$1 --ambient-caps +$1 -- \
         \"${@:2}\"; }; touch f; mkdir t; chmod 1777 t; touch t/f; may as 12:12 chmod 600 f;
         may able fowner chmod 600 f; may as 12:12 chown 5:5 f; may able chown chown 5:5 f;
         may as 12:12 rm -f t/f; may able fowner rm -f t/f; stat -c %u:%g:%a f;
         may able dac_override sh -c 'echo x > f'; may as 10:10 cat f;
         chmod 6755 f; able dac_override truncate -s 0 f; mode f;
         chmod 6777 f; able fsetid truncate -s 1 f; mode f",
        "no yes no yes no yes 5:5:600 yes no 755 6777",
    ),
    (
        "a setgid directory hands its group down",
        "mkdir s p; chgrp 77 s; chmod 2777 s; chmod 777 p; as 10:10 touch s/f p/f; as 10:10 mkdir s/d;
         as 10:10 ln -s f s/l; stat -c %g:%a s/f s/d s/l; stat -c %u:%g p/f",
        "77:644 77:2755 77:777 10:10",
    ),
    (
        "chmod keeps setgid for members of the group, by any of their groups",
        "touch f; mkdir d; chown 10:77 f d; for x in f d; do as 10:10,77 chmod 2755 $x; mode $x;
         as 10:10 chmod 2755 $x; mode $x; as 10:77 chmod 2755 $x; mode $x; done",
        "2755 755 2755 2755 755 2755",
    ),
    (
        "a write takes set-id bits away from all but root",
        "for m in 6777 6767 2767 4767; do for who in 10:10 10:10,77 10:77 0:0; do
         echo xx > f; chown 9:77 f; chmod $m f; as $who sh -c 'echo y >> f'; mode f; done; done",
        "777 777 777 6777 767 2767 2767 6767 767 2767 2767 2767 767 767 767 4767",
    ),
    (
        "so do truncate, O_TRUNC, fallocate and direct writes",
        "for how in 'truncate -s 1 f' ': > f' 'fallocate -l 9999 f' \
         'dd if=/dev/zero of=f bs=4096 count=1 oflag=direct conv=notrunc status=none'; do
         for m in 6777 6767; do for who in 10:10 10:10,77 0:0; do
         echo xx > f; chown 9:77 f; chmod $m f; as $who sh -c \"$how\"; mode f; done; done; done",
        "777 777 6777 767 2767 6767 777 777 6777 767 2767 6767 \
         777 777 6777 767 2767 6767 777 777 6777 767 2767 6767",
    ),
    (
        "and a new group or owner, from all",
        "for m in 6777 6767 2745; do for who in 10:10 10:10,77 0:0; do touch f; chown 10:77 f;
         chmod $m f; as $who chgrp 10 f; stat -c %g:%a f; done; done;
         mkdir e; chmod 6777 e; chown 10:77 e; mode e",
        "10:777 10:777 10:777 10:767 10:2767 10:2767 10:745 10:2745 10:2745 6777",
    ),
    (
        "and a new access list by an owner outside of the group",
        "for who in 10:10 10:10,77 10:77 0:0; do for x in f d; do rm -rf $x;
         [ $x = d ] && mkdir d || touch f; chown 10:77 $x; chmod 2755 $x;
         as $who setfacl -m u:20:r $x; mode $x; done; done",
        "755 755 2755 2755 2755 2755 2755 2755",
    ),
    (
        "other changes leave them",
        "chmod 777 .; touch f; chown 10:77 f; chmod 6755 f; as 10:10 touch f; mode f;
         as 10:10 setfattr -n user.a -v 1 f; mode f; as 10:10 ln f g; mode f; as 10:10 mv g h; mode h;
         as 10:10 cat f; mode f",
        "6755 6755 6755 6755 6755",
    ),
];

#[test]
fn owners_groups_and_set_id_bits_count_as_they_should() -> Result<()> {
    on_a_mount(&OWNERS)
}

#[test]
fn access_lists_are_obeyed_kept_and_inherited() -> Result<()> {
    on_a_mount(&ACCESS_LISTS)
}

/// Runs the checks on a new mount, then compares every list with what is there after the page cache
/// was dropped and the volume mounted again.
fn on_a_mount(checks: &[Check]) -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    let mut failed = Vec::new();
    for (number, (what, script, expected)) in checks.iter().enumerate() {
        let directory = demo.file(number.to_string());
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        let said = match shell(&directory, &format!("{WORDS}{script}"), PATIENCE) {
            Ok(said) => said.split_whitespace().collect::<Vec<_>>().join(" "),
            Err(error) => format!("{error:#}"),
        };
        let expected = expected.split_whitespace().collect::<Vec<_>>().join(" ");
        if said != expected {
            failed.push(format!("{what}:\n  must be {expected}\n  but is {said}"));
        }
    }
    let (total, count) = (checks.len(), failed.len());
    ensure!(failed.is_empty(), "{count} of {total} checks failed:\n{}", failed.join("\n"));
    let look = || shell(&demo.path(), "getfacl -Rnp . ; getfattr -Rhd -m - .", PATIENCE);
    let before = look()?;
    demo.drop_caches()?;
    ensure!(look()? == before, "a list changed with the caches");
    demo.remount()?;
    let look = || shell(&demo.path(), "getfacl -Rnp . ; getfattr -Rhd -m - .", PATIENCE);
    ensure!(look()? == before, "a list changed with the mount");
    demo.stop(Stop::Umount)
}
