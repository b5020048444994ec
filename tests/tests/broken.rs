//! Promise: each test of `tools/broken.toml` notices what it is there to notice. `tools/break-it` shows it, and takes
//! many minutes; here it is seen that every break can still be made.

use std::process::Command;

use anyhow::Result;
use tests::binaries::workspace;
use tests::process::{PATIENCE, run};

#[test]
fn what_is_broken_on_purpose_can_be_broken() -> Result<()> {
    run(Command::new(workspace().join("tools/break-it")).arg("--list"), PATIENCE).map(drop)
}
