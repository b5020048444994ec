//! Promise: programs that lean hard on a filesystem work as on a local one: git at work, rsync and tar
//! with attributes and access lists, cp of holes and clones, a parallel build, Python packages,
//! mapped files. (Copies of real trees and databases are in `real_trees.rs`.)

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::checks;
use tests::cluster::{Demo, Mode, Setup, Stop, allocated, can_mount};
use tests::mapped::Mapped;
use tests::process::{output, shell};
use tests::seed::content;
use tests::tree::{assert_same, manifest};

/// For one program, on a busy machine.
const LONG: Duration = Duration::from_secs(180);

/// What a program does in a directory of its own; the other one is on a local filesystem.
type Check = fn(&Path, &Path) -> Result<()>;

const CHECKS: [(&str, Check); 7] = [
    ("git", git_at_work),
    ("rsync", rsync_keeps_everything),
    ("tar", tar_keeps_everything),
    ("cp", cp_of_holes_and_clones),
    ("make", a_parallel_build),
    ("pip", python_packages),
    ("mmap", mapped_files),
];

#[test]
fn programs_work_as_on_a_local_filesystem() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    checks::run(&demo, &CHECKS, |check, name, there| {
        let here = demo.outside(name);
        fs::create_dir(&here)?;
        check(there, &here)
    })?;
    let before = manifest(&demo.path())?;
    demo.remount()?;
    assert_same("mounted again", &before, &demo.path())?;
    shell(&demo.path(), "git -C git/clone fsck --full --strict", LONG)?;
    shell(&demo.path(), "./make/all", LONG)?;
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

fn git_at_work(root: &Path, _: &Path) -> Result<()> {
    // Loose objects, packs, index locks and renames over files, thousands of times.
    let work = "export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@localhost \
         GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@localhost
         git -c init.defaultBranch=main init -q repo && cd repo
         for n in $(seq 12); do
             for f in $(seq 20); do echo \"$n $f $RANDOM\" >> file$f; done
             git add -A && git commit -q -m $n
             [ $((n % 4)) != 0 ] || git branch b$n
         done
         git checkout -q b4 && echo other > other && git add other && git commit -q -m other
         git checkout -q main && git merge -q --no-edit b4 && git rebase -q b12
         git gc -q --aggressive --prune=now && git fsck --full --strict
         cd .. && git clone -q --no-local repo clone && git -C clone fsck --full --strict
         git clone -q repo linked && test -z \"$(git -C linked status --short)\"
         test \"$(git -C clone rev-parse HEAD^{tree})\" = \"$(git -C repo rev-parse HEAD^{tree})\"";
    shell(root, work, LONG).map(drop)
}

/// Files with attributes, access lists, links and holes.
fn with_everything(at: &Path) -> Result<()> {
    let script = "mkdir -p d/e && echo one > d/one && ln d/one d/linked && ln -s one d/soft
         truncate -s 5M d/sparse && echo end >> d/sparse
         setfattr -n user.colour -v blue d/one && setfattr -n user.empty d/e
         setfattr -n trusted.hidden -v 1 d/one
         setfacl -m u:1001:rw,g:1002:r d/one
         setfacl -d -m u:1001:rwx,o::- d/e && touch d/e/inherits
         mkfifo d/fifo && chmod 1777 d/e && chmod 4711 d/linked && touch -d @5000000000.5 d/sparse";
    shell(at, script, LONG).map(drop)
}

/// All attributes and access lists of the tree `d`.
fn described(at: &Path) -> Result<String> {
    let script = "all=$(find d | sort); getfattr -h -d -m - $all
         getfacl -p -n $(find d ! -type l | sort)";
    shell(at, script, LONG)
}

fn rsync_keeps_everything(root: &Path, here: &Path) -> Result<()> {
    with_everything(root)?;
    let copy = format!("rsync -aHAX --checksum --modify-window=-1 d {}/", here.display());
    shell(root, &copy, LONG)?;
    assert_same("rsync to a local filesystem", &manifest(&root.join("d"))?, &here.join("d"))?;
    ensure!(described(here)? == described(root)?, "out: attributes or access lists differ");
    shell(
        root,
        &format!(
            "mkdir back && rsync -aHAX --checksum --modify-window=-1 {}/d back/",
            here.display()
        ),
        LONG,
    )?;
    ensure!(described(&root.join("back"))? == described(root)?, "back: they differ");
    let again = format!(
        "rsync -aHAX --checksum --modify-window=-1 --itemize-changes {}/d back/",
        here.display()
    );
    let again = shell(root, &again, LONG)?;
    ensure!(again.is_empty(), "a second rsync transferred:\n{again}");
    Ok(())
}

fn tar_keeps_everything(root: &Path, here: &Path) -> Result<()> {
    with_everything(here)?;
    let options = "--xattrs --xattrs-include='*' --acls --sparse --format=posix";
    let copy = format!("tar cf - {options} -C {} d | tar xpf - {options}", here.display());
    shell(root, &copy, LONG)?;
    assert_same("tar", &manifest(&here.join("d"))?, &root.join("d"))?;
    let (before, after) = (described(here)?, described(root)?);
    ensure!(before == after, "attributes or access lists differ:\n{before}\n\n{after}");
    Ok(())
}

fn cp_of_holes_and_clones(root: &Path, _: &Path) -> Result<()> {
    let file = File::create_new(root.join("holes"))?;
    file.write_all_at(&content(1, 100_000), 10 << 20)?;
    file.set_len(30 << 20)?;
    file.sync_all()?;
    let script = "cp --sparse=always holes always && cp --sparse=auto holes auto
         cp --sparse=never holes never && cp --reflink=auto holes clone
         for f in always auto never clone; do cmp holes $f && sync $f; done";
    shell(root, script, LONG)?;
    for name in ["holes", "always", "auto", "clone"] {
        let taken = allocated(&root.join(name))?;
        ensure!(taken < 1 << 20, "{name} takes {taken} bytes for 100,000");
    }
    // Every byte of a file without holes is stored.
    let taken = allocated(&root.join("never"))?;
    ensure!(taken >= 30 << 20, "a file of 30 MiB without holes takes {taken} bytes");
    let always = output(
        Command::new("cp").args(["--reflink=always", "holes", "never"]).current_dir(root),
        LONG,
    )?;
    let said = String::from_utf8_lossy(&always.stderr);
    ensure!(!always.status.success() && said.contains("not supported"), "FICLONE: {said}");
    Ok(())
}

fn a_parallel_build(root: &Path, _: &Path) -> Result<()> {
    let sources: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
    let mut main = String::from("#include \"all.h\"\nint main(void) { int sum = 0;\n");
    let mut header = String::new();
    for (n, name) in sources.iter().enumerate() {
        let body = format!("#include \"all.h\"\nint {name}(void) {{ return {n}; }}\n");
        fs::write(root.join(format!("{name}.c")), body)?;
        header += &format!("int {name}(void);\n");
        main += &format!("sum += {name}();\n");
    }
    fs::write(root.join("all.h"), header)?;
    fs::write(root.join("main.c"), main + "return sum == 780 ? 0 : 1; }\n")?;
    let objects = sources.iter().map(|name| format!("{name}.o")).collect::<Vec<_>>().join(" ");
    let makefile = format!(
        "OBJ = {objects} main.o\nall: lib.a main.o\n\t$(CC) -o $@ main.o lib.a\n\
         lib.a: $(OBJ)\n\tar rcs $@ $(filter-out main.o,$(OBJ))\n$(OBJ): all.h Makefile\n"
    );
    fs::write(root.join("Makefile"), makefile)?;
    shell(root, "make -s -j8 all && ./all", LONG)?;
    // Times are as make needs them: nothing is made twice, and what depends on a change is.
    let again = shell(root, "make -j8 all", LONG)?;
    ensure!(again.contains("up to date") || again.contains("Nothing"), "made again: {again}");
    let touched = shell(root, "touch f7.c && make -n all && make -s all && ./all", LONG)?;
    ensure!(
        touched.contains("-o f7.o") && !touched.contains("-o f8.o"),
        "after a touch: {touched}"
    );
    Ok(())
}

fn python_packages(root: &Path, _: &Path) -> Result<()> {
    let probe = output(Command::new("python3").args(["-c", "import venv, ensurepip"]), LONG);
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("NOT TESTED: pip, as python3-venv is not installed");
        return Ok(());
    }
    // A package as it would come from elsewhere: nothing is fetched, and nothing needed to build it.
    let pack = "import zipfile
at, meta = 'small-1.0.dist-info/', 'Metadata-Version: 2.1\\nName: small\\nVersion: 1.0\\n'
with zipfile.ZipFile('small-1.0-py3-none-any.whl', 'w') as wheel:
    for n in range(200):
        wheel.writestr(f'small/m{n}.py', f'N = {n}\\n')
    wheel.writestr('small/__init__.py', 'def answer():\\n    return 42\\n')
    wheel.writestr(at + 'METADATA', meta)
    wheel.writestr(at + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(at + 'entry_points.txt', '[console_scripts]\\nsmall=small:answer\\n')
    wheel.writestr(at + 'RECORD', '')
";
    fs::write(root.join("pack.py"), pack)?;
    let install = "python3 pack.py && python3 -m venv env
         ./env/bin/pip install -q --no-index --disable-pip-version-check ./small-1.0-py3-none-any.whl
         ./env/bin/python -c 'import small, small.m7, sys; sys.exit(small.answer() != 42)'
         ./env/bin/small || test $? = 42
         ./env/bin/pip uninstall -q -y small && ! ./env/bin/python -c 'import small' 2>/dev/null";
    shell(root, install, LONG).map(drop)
}

fn mapped_files(root: &Path, _: &Path) -> Result<()> {
    const LEN: usize = 3 << 20;
    let path = root.join("mapped");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.write_all_at(&content(5, LEN), 0)?;
    let mut shared = Mapped::shared(&file, LEN)?;
    let mut private = Mapped::private(&file, LEN)?;
    ensure!(private.read(0, LEN) == content(5, LEN), "a private mapping shows other bytes");
    shared.write(1 << 20, b"shared");
    private.write(2 << 20, b"private");
    ensure!(private.read(1 << 20, 6) == b"shared", "a private mapping hides what it never changed");
    let mut want = content(5, LEN);
    want[1 << 20..(1 << 20) + 6].copy_from_slice(b"shared");
    ensure!(fs::read(&path)? == want, "read() sees the private change, or not the shared one");
    // Another process reads through its own mapping, and cuts the file.
    let seen =
        "python3 -c 'import mmap; f = open(\"mapped\", \"r+b\"); m = mmap.mmap(f.fileno(), 0);
m[0:6] = b\"python\"; m.flush(); print(m[1 << 20:(1 << 20) + 6].decode()); f.truncate(2 << 20)'";
    ensure!(shell(root, seen, LONG)?.trim() == "shared", "another process maps other bytes");
    ensure!(shared.read(0, 6) == b"python", "this mapping does not see the other's change");
    drop((shared, private));
    want.truncate(2 << 20);
    want[..6].copy_from_slice(b"python");
    ensure!(file.metadata()?.size() == 2 << 20 && fs::read(&path)? == want, "after the cut");
    Ok(())
}
