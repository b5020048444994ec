//! Promise: dependencies point one way, `gateway -> fs -> meta -> proxy -> proto <- storaged`; the embedded mode adds
//! `fs -> storaged`, and the simulation runs all but `fs` and `gateway`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::binaries::workspace;
use tests::process::run;

#[test]
fn crates_depend_downwards_only() -> Result<()> {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = [
        ("proto", [].into()),
        ("storaged", ["proto"].into()),
        ("proxy", ["proto"].into()),
        ("meta", ["proto", "proxy"].into()),
        ("fs", ["meta", "proto", "proxy", "storaged"].into()),
        ("gateway", ["fs", "meta", "proto", "storaged"].into()),
        ("simulation", ["meta", "proto", "proxy", "storaged"].into()),
        ("tests", ["meta", "proto"].into()),
    ]
    .into();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(workspace()).args([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--offline",
    ]);
    let metadata: Value = serde_json::from_str(&run(&mut cargo, Duration::from_secs(60))?)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let mut seen = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has a name")?;
        let dependencies = package["dependencies"].as_array().context("dependencies")?;
        // What only tests use counts as well: a test that reaches upwards is in the wrong crate.
        let ours = dependencies.iter().filter_map(|one| one["name"].as_str());
        seen.insert(name, ours.filter(|name| allowed.contains_key(name)).collect::<BTreeSet<_>>());
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), allowed.keys().collect::<Vec<_>>(), "the crates");
    for (name, dependencies) in seen {
        let upwards: Vec<_> = dependencies.difference(&allowed[name]).collect();
        assert!(upwards.is_empty(), "{name} must not depend on {upwards:?}");
    }
    Ok(())
}
