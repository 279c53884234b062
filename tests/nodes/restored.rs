//! The cluster's database is restored from a backup under agents that run: what they have given out since is written down
//! again, and nobody gets it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Underlay, wait_until};

use crate::site::{Node, Pod, SOON, Site, routes};
use crate::traffic::pings;

/// How many pods fill a block, and what comes after them is in another one.
const BLOCK_SIZE: usize = 8;

#[test]
fn no_pod_loses_its_address_and_nobody_gets_it_twice_when_the_database_goes_back_in_time() {
    let site = Site::new(Underlay::Routed, 3);
    // Cooldowns would hide an address that is given twice.
    let pool = "blockSize: 29, ipipMode: Always, cooldownSeconds: 0";
    site.apply_pools(&[("pods", "10.244.0.0/23", pool)]);
    site.seal(&["10.244.0.0/23"]);
    let mut nodes = vec![site.start(1), site.start(2)];
    let mut pods: Vec<Pod<'_>> =
        nodes.iter().flat_map(|node| [node.add(&["pods"]), node.add(&["pods"])]).collect();
    let ended = pods.remove(0);
    let backup = site.control_plane(|it| it.snapshot("restored").unwrap());
    let at_the_backup = site.blocks();

    // Since then: a pod has ended, blocks were claimed and filled, and a node has joined.
    nodes[0].del(&ended);
    for node in &nodes {
        pods.extend((0..=BLOCK_SIZE).map(|_| node.add(&["pods"])));
    }
    nodes.push(site.start(3));
    pods.extend([nodes[2].add(&["pods"]), nodes[2].add(&["pods"])]);
    let before = site.blocks();
    assert!(before.len() >= at_the_backup.len() + 3, "{at_the_backup:?} {before:?}");

    // Pods come all the while; a runtime asks again.
    let is_restored = AtomicBool::new(false);
    let during: Vec<Pod<'_>> = std::thread::scope(|scope| {
        let adding: Vec<_> = nodes
            .iter()
            .map(|node| {
                let is_restored = &is_restored;
                scope.spawn(move || {
                    let mut added = Vec::new();
                    while !is_restored.load(Ordering::Relaxed) && added.len() < 2 * BLOCK_SIZE {
                        added.push(node.add(&["pods"]));
                    }
                    added
                })
            })
            .collect();
        site.control_plane(|it| {
            it.restore(&backup).unwrap();
            // Its kubelet does so.
            let joined = site.at(3);
            it.create_node(&joined.name, &joined.addresses()).unwrap();
        });
        is_restored.store(true, Ordering::Relaxed);
        adding.into_iter().flat_map(|adding| adding.join().unwrap()).collect()
    });
    pods.extend(during);
    // And after it.
    pods.extend(nodes.iter().map(|node| node.add(&["pods"])));

    let addresses: BTreeSet<IpAddr> = pods.iter().map(Pod::address).collect();
    assert_eq!(addresses.len(), pods.len(), "an address twice: {addresses:?}");
    wait_until(3 * SOON, "every block is its owner's again", || {
        let blocks: BTreeMap<String, String> = site.blocks().into_iter().collect();
        pods.iter().all(|pod| blocks.get(&block_of(pod)) == Some(&pod.at.name))
    });
    let first = &pods[0];
    for pod in &pods {
        let shown = || nodes.iter().map(routes).collect::<String>();
        wait_until(SOON, &format!("{} is reached\n{}", pod.address(), shown()), || {
            pings(&first.netns, pod.address())
        });
    }
    for node in &nodes {
        check(node);
    }
    site.assert_sealed();
}

/// The block of a pod's address.
fn block_of(pod: &Pod<'_>) -> String {
    let IpAddr::V4(address) = pod.address() else { panic!("{}", pod.address()) };
    let beyond = BLOCK_SIZE.ilog2();
    let network = std::net::Ipv4Addr::from_bits(address.to_bits() >> beyond << beyond);
    format!("{network}/{}", 32 - beyond)
}

/// `ipam check` finds nothing.
fn check(node: &Node<'_>) {
    if let Err(error) = node.ctl().run(&["ipam", "check"]) {
        panic!("{}: {error:#}\n{}", node.at.name, node.agent.log_tail());
    }
}
