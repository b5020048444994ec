//! Compiles the contracts with protox, so that no protoc has to be installed, and finds out what a
//! program shall say that it is.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["proto/storaged.proto", "proto/proxyd.proto", "proto/metad.proto", "proto/root.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // `bytes` fields become `bytes::Bytes`: a payload is passed on, never copied into a Vec.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo::rerun-if-env-changed=ASHLAR_COMMIT");
    println!("cargo::rustc-env=ASHLAR_VERSION={}", version()?);
    Ok(())
}

/// The version, and the commit it was built from: `$ASHLAR_COMMIT` where a package is built without
/// a repository. What is built for development is not made anew with every commit, so it names none.
fn version() -> Result<String, std::env::VarError> {
    let version = std::env::var("CARGO_PKG_VERSION")?;
    if let Ok(commit) = std::env::var("ASHLAR_COMMIT") {
        return Ok(format!("{version} ({commit})"));
    }
    if std::env::var("PROFILE")? != "release" {
        return Ok(format!("{version} (built for development)"));
    }
    Ok(match commit() {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    })
}

/// The commit of the tree that this is, and a new run of this program when it is another one.
fn commit() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    // Sources that lie in somebody else's repository are not that repository's.
    Path::new(&root).join("proto/build.rs").exists().then_some(())?;
    // HEAD's log grows with whatever moves HEAD; where none is kept, HEAD and what it names do.
    let moved = [vec!["logs/HEAD"], vec!["HEAD", "packed-refs"]].concat();
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in moved.iter().copied().chain(branch.as_deref()) {
        let path =
            PathBuf::from(git(&["rev-parse", "--path-format=absolute", "--git-path", name])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
