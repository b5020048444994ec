//! `ashlar cluster create`: a new cluster, with this machine as its root, and a group of its disks.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use proto::id::DiskId;
use proto::program::say;

use super::served::{ServedArgs, at};
use crate::cli::node::found::found;
use crate::cli::node::root::is_reachable;
use crate::cli::node::state::{Settings, StateArg};

/// A machine that is to be the first of a cluster.
#[derive(clap::Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    served: ServedArgs,
    /// Name or address by which other machines reach this one
    #[arg(long, value_name = "HOST")]
    address: String,
    /// Port at which machines are taken in
    #[arg(long, value_name = "PORT", default_value_t = 7410)]
    root_port: u16,
    #[command(flatten)]
    state: StateArg,
}

pub(super) fn create(args: &CreateArgs) -> Result<ExitCode> {
    let state = args.state.state()?;
    if state.is_member() {
        let (identity, _) = state.files().identity()?;
        bail!("this machine is {identity} of cluster {} already", identity.cluster);
    }
    if !args.served.has_disks() {
        bail!("a cluster begins with a disk: give at least one --disk DIR");
    }
    let root = at(&args.address, args.root_port);
    let address = args.served.address(&args.address)?;
    ensure!(is_reachable(&root), "{root:?} is no name or address of a host with a port");
    let cluster = state.begin()?;
    let disks = args.served.prepare(cluster)?;
    let settings = Settings {
        roots: vec![root.clone()],
        address,
        root_address: Some(root),
        metrics: None,
        host: args.address.clone(),
        disk: disks.iter().map(|(path, _)| path.clone()).collect(),
    };
    let disks: BTreeSet<DiskId> = disks.into_iter().map(|(_, disk)| disk).collect();
    found(&state, cluster, &settings, &disks)?;
    state.has_begun()?;
    let serve = match state.publish() {
        Some(_) => "systemctl enable --now ashlar-node".to_owned(),
        None => format!("ashlar node run --state {}", state.directory().display()),
    };
    say(format!(
        "cluster {cluster}\nserve it:  {serve}\nnext:      ashlar cluster token, and on another machine what that prints\n\
         one machine is all that has its {} disks: until there are more, what is lost with it is lost",
        disks.len()
    ))?;
    Ok(ExitCode::SUCCESS)
}
