//! The lab itself, with Debian's plugins: what fails here is not Poolward's doing.

use std::collections::BTreeMap;

use harness::cluster::DEFAULT_POOL;

use crate::site::{BURST_COUNT, NODES_COUNT, site};

#[test]
fn nodes_become_ready_with_the_plugins_of_debian_and_run_pods() {
    let bare = site().bare.clone();
    assert_eq!(bare.nodes, ["node/node-1", "node/node-2", "node/node-3"]);
    assert_eq!(bare.burst.pods.len(), BURST_COUNT);
    for (node, address) in &bare.burst.pods {
        let number = node.strip_prefix("node-").unwrap();
        assert!(address.to_string().starts_with(&format!("10.77.{number}.")), "{node}: {address}");
    }
}

#[test]
fn a_burst_of_pods_gets_addresses_of_poolward_on_all_nodes() {
    let site = site();
    let namespace = site.namespace("burst", &[]);
    let burst = site.cluster.burst(&namespace, BURST_COUNT).unwrap();
    let (ours, theirs) = (burst.speed(), site.bare.burst.speed());
    eprintln!("{BURST_COUNT} pods: {ours} with Poolward, {theirs} with ptp and host-local");
    let pods = burst.pods;
    let mut of_node = BTreeMap::new();
    for (node, address) in &pods {
        assert!(DEFAULT_POOL.contains(*address), "{address}");
        *of_node.entry(node).or_insert(0) += 1;
    }
    assert_eq!(of_node.len(), usize::from(NODES_COUNT), "{of_node:?}");
    let mut addresses: Vec<_> = pods.iter().map(|(_, address)| *address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), BURST_COUNT, "somebody has another's address: {pods:?}");
    site.delete_at_once(&namespace);
    site.assert_consistent();
}
