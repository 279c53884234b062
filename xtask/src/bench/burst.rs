//! Many pods at once on real nodes: Poolward beside Debian's ptp with host-local, on the same cluster, one after the other.
//!
//! From `kubectl create` until the last pod is ready, and what containerd waited for each ADD, by its own measure. On one
//! machine the nodes share its CPUs, so most of it is kubelets and containers; hence only beside a peer.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::cluster::HOST_LOCAL_NETWORK;
use harness::{Cluster, ClusterOptions, Underlay};

use super::Numbers;
use super::samples::Samples;
use crate::cluster;
use crate::report::{Table, bold};
use crate::workspace::Workspace;

/// Names of everything begin with this.
const NAME: &str = "pwburst";

/// Nodes, and pods on all of them together.
const NODES_COUNT: u8 = 3;
const PODS_COUNT: usize = 30;

/// Bursts with each.
const ROUNDS: usize = 5;

/// What the runtime knows Poolward's network by: the name in the list that the agent gives it.
const POOLWARD_NETWORK: &str = "poolward";

/// What bursts with one network took.
#[derive(Default)]
struct Took {
    all: Samples,
    add: Samples,
}

/// Measures and shows.
pub(super) fn run(workspace: &Workspace, image: &Path, numbers: &mut Numbers) -> Result<()> {
    ensure!(
        !Cluster::is_there(NAME)?,
        "a benchmark is running, or was cut short: {} is there",
        Cluster::dir_of(NAME)?.display()
    );
    let progress = |what: &str| eprintln!("{} {what}", bold("burst:"));
    let options = ClusterOptions {
        name: NAME,
        underlay: Underlay::Routed,
        nodes_count: NODES_COUNT,
        definitions: Some(&workspace.root.join("deploy/crds")),
        control_plane_dir: None,
    };
    let mut cluster = Cluster::start(&options, &progress)?;
    crate::interrupt::check()?;
    cluster.install_host_local()?;
    cluster.wait_until_ready()?;
    progress(&format!("{ROUNDS} bursts of {PODS_COUNT} pods with ptp and host-local"));
    let theirs = bursts(&cluster, HOST_LOCAL_NETWORK)?;
    cluster.remove_host_local()?;
    cluster::install(workspace, &mut cluster, image)?;
    progress(&format!("{ROUNDS} bursts of {PODS_COUNT} pods with Poolward"));
    let ours = bursts(&cluster, POOLWARD_NETWORK)?;

    let mut table = Table::new(&["", "Poolward", "ptp + host-local", "ratio"]);
    for (what, key, ours, theirs) in [
        ("until all are ready, ms, p50", "burst", &ours.all, &theirs.all),
        ("mean ADD, as containerd sees it, ms, p50", "burst_add", &ours.add, &theirs.add),
    ] {
        let (ours, theirs) = (ours.percentile_ms(50), theirs.percentile_ms(50));
        ensure!(theirs > 0.0, "{what}: nothing was measured");
        numbers.set(&format!("{key}_ms"), ours);
        numbers.set(&format!("{key}_ptp_ms"), theirs);
        numbers.set(&format!("{key}_ratio"), ours / theirs);
        table.row([
            what.to_owned(),
            format!("{ours:.0}"),
            format!("{theirs:.0}"),
            format!("{:.2}", ours / theirs),
        ]);
    }
    println!("{}\n{}", bold(&format!("{PODS_COUNT} pods on {NODES_COUNT} nodes at once")), table.render());
    Ok(())
}

fn bursts(cluster: &Cluster, network: &str) -> Result<Took> {
    let mut took = Took::default();
    for round in 0..ROUNDS {
        let namespace = format!("{network}-{round}");
        cluster.management.control_plane.create_namespace(&namespace, &[])?;
        cluster.kubectl()?.wait_for_service_account(&namespace)?;
        let burst =
            cluster.burst(&namespace, PODS_COUNT).with_context(|| format!("burst {round} of {network}"))?;
        took.all.push(burst.all);
        took.add.push(burst.add);
        // What is still being taken down would be measured with the next.
        cluster.end_burst(&namespace, network)?;
        crate::interrupt::check()?;
    }
    Ok(took)
}
