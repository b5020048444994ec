//! Where the programs under test are: built once, from the same sources as the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// The mount and user's command line, `ashlar`.
pub fn ashlar() -> PathBuf {
    directory().join("ashlar")
}

/// The storage daemon and its admin command line, `storaged`.
pub fn storaged() -> PathBuf {
    directory().join("storaged")
}

/// The proxy as a daemon, and as a tool.
pub fn proxyd() -> PathBuf {
    directory().join("proxyd")
}

/// The folder with the programs. `ASHLAR_BIN_DIR` names one that is up to date already (set by
/// `tools/test`, which builds everything at once); otherwise cargo brings it up to date, once per
/// test process.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| match std::env::var_os("ASHLAR_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => build(),
    })
}

fn build() -> PathBuf {
    // A test lies in TARGET/PROFILE/deps; its programs belong into TARGET/PROFILE.
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(Path::parent).expect("a test lies in PROFILE/deps");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(workspace())
        .args(["build", "--quiet", "--bins", "-p", "gateway", "-p", "storaged", "-p", "proxy"]);
    cargo.arg("--target-dir").arg(profile.parent().expect("a profile lies in a target directory"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "the programs under test do not build");
    profile.to_owned()
}
