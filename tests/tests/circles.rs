//! Promise: inside every crate, modules name one another one way only, and so do its rooms (its top-level modules,
//! each with all that is in it). `tests::modules` says what counts.

use std::fmt::Write;

use anyhow::{Context, Result};
use tests::binaries::workspace;
use tests::modules::{circles, read, rooms, told};

/// In whose rooms there are circles, though not among modules: `store`, the words of metadata, lies in one with the
/// rooms that it is spoken in (`MetaError` names what a table lacks, keys are made of inodes and blobs), and `journal`,
/// `table` and `engine` hand one another what they are made of.
const ENTANGLED: &[&str] = &["meta"];

#[test]
fn no_module_names_one_that_names_it() -> Result<()> {
    let mut found = String::new();
    for name in ["proto", "storaged", "proxy", "meta", "fs", "simulation", "tests"] {
        let mut graphs = vec![read(&workspace().join(name).join("src")).context(name)?];
        if !ENTANGLED.contains(&name) {
            graphs.push(rooms(&graphs[0]));
        }
        for names in &graphs {
            for circle in circles(names) {
                writeln!(found, "{name}, {} modules:\n{}", circle.len(), told(names, &circle))?;
            }
        }
    }
    assert!(found.is_empty(), "modules that name one another in circles:\n{found}");
    Ok(())
}
