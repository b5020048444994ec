//! Promise: inside every crate, modules name one another one way only, and so do its rooms (its top-level modules,
//! each with all that is in it). `tests::modules` says what counts.

use std::fmt::Write;

use anyhow::{Context, Result};
use tests::binaries::workspace;
use tests::modules::{circles, read, rooms, told};

#[test]
fn no_module_names_one_that_names_it() -> Result<()> {
    let mut found = String::new();
    for name in ["proto", "storaged", "proxy", "meta", "fs", "gateway", "simulation", "tests"] {
        let modules = read(&workspace().join(name).join("src")).context(name)?;
        for names in [rooms(&modules), modules] {
            for circle in circles(&names) {
                writeln!(found, "{name}, {} modules:\n{}", circle.len(), told(&names, &circle))?;
            }
        }
    }
    assert!(found.is_empty(), "modules that name one another in circles:\n{found}");
    Ok(())
}
