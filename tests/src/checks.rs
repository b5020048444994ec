//! Many small checks on one mount, each in a directory of its own; all are made before any failure
//! is told.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::cluster::Demo;

/// Makes every check by `one`, which is given the check, its name and its new, empty directory in the
/// mount. Fails with the names and reasons of all that failed.
pub fn run<C: Copy>(
    demo: &Demo,
    checks: &[(&str, C)],
    one: impl Fn(C, &str, &Path) -> Result<()>,
) -> Result<()> {
    let mut failed = Vec::new();
    for (name, check) in checks {
        let directory = demo.file(name);
        fs::create_dir(&directory)?;
        if let Err(error) = one(*check, name, &directory) {
            failed.push(format!("{name}: {error:#}"));
        }
    }
    let total = checks.len();
    ensure!(failed.is_empty(), "{} of {total} checks failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}
