//! More nodes than blocks: loans, races, and what an idle node has to give.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use harness::{Underlay, wait_until};

use crate::site::{Node, Pod, SOON, Site, routes};
use crate::traffic::{pings, transfer};

fn all_reach_all(nodes: &[Node<'_>], pods: &[Pod<'_>]) {
    let addresses: BTreeSet<IpAddr> = pods.iter().map(Pod::address).collect();
    assert_eq!(addresses.len(), pods.len(), "an address twice: {addresses:?}");
    for from in pods {
        for to in pods {
            let shown = || {
                let all: String = nodes.iter().map(routes).collect();
                format!("{} on {} to {} on {}\n{all}", from.address(), from.at.name, to.address(), to.at.name)
            };
            wait_until(SOON, &shown(), || pings(&from.netns, to.address()));
        }
    }
}

#[test]
fn a_node_without_a_block_borrows_addresses_that_everybody_reaches() {
    let site = Site::new(Underlay::Routed, 3);
    // Two blocks of eight for three nodes.
    site.apply_pools(&[("pods", "10.244.0.0/28", "blockSize: 29, ipipMode: Always")]);
    site.seal(&["10.244.0.0/28"]);
    let nodes = site.start_all();
    let mut pods: Vec<Pod<'_>> = nodes[..2].iter().map(|node| node.add(&["pods"])).collect();
    let owners: BTreeSet<String> = site.blocks().into_iter().map(|(_, owner)| owner).collect();
    assert_eq!(owners.len(), 2, "{:?}", site.blocks());
    for _ in 0..2 {
        pods.push(nodes[2].add(&["pods"]));
    }
    assert!(site.blocks().iter().all(|(_, owner)| owner != "node-3"), "{:?}", site.blocks());
    all_reach_all(&nodes, &pods);
    transfer(&pods[0].netns, &pods[2].netns, pods[2].address(), 1 << 20);
    transfer(&pods[3].netns, &pods[1].netns, pods[1].address(), 1 << 20);
    // A loaned address has a route of its own, longer than the block's.
    let route = nodes[0].netns().ip("route show proto 80").unwrap();
    assert!(route.contains(&format!("{} nhid", pods[2].address())), "{route}");
    site.assert_sealed();
}

#[test]
fn three_nodes_race_for_the_last_block_and_all_are_served() {
    let site = Site::new(Underlay::Lan, 3);
    site.apply_pools(&[("pods", "10.244.0.0/28", "blockSize: 28, ipipMode: Always")]);
    site.seal(&["10.244.0.0/28"]);
    let nodes = site.start_all();
    let pods: Vec<Pod<'_>> = std::thread::scope(|scope| {
        let adds: Vec<_> = nodes.iter().map(|node| scope.spawn(|| node.add(&["pods"]))).collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    assert_eq!(site.blocks().len(), 1, "{:?}", site.blocks());
    all_reach_all(&nodes, &pods);
    site.assert_sealed();
}

#[test]
fn an_idle_node_hands_its_empty_block_to_one_without_any() {
    let site = Site::new(Underlay::Lan, 2);
    site.apply_pools(&[("pods", "10.244.0.0/28", "blockSize: 28, ipipMode: Never, cooldownSeconds: 0")]);
    let nodes = site.start_all();
    let pod = nodes[0].add(&["pods"]);
    nodes[0].del(&pod);
    let owner = || site.blocks().first().map(|(_, owner)| owner.clone());
    assert_eq!(owner().as_deref(), Some("node-1"));
    let pod = nodes[1].add(&["pods"]);
    wait_until(Duration::from_secs(30), "the block is the other node's", || {
        owner().as_deref() == Some("node-2")
    });
    assert!(pings(nodes[1].netns(), pod.address()));
}

#[test]
fn an_address_that_a_pod_names_is_borrowed_from_the_node_that_has_its_block() {
    let site = Site::new(Underlay::Routed, 2);
    site.apply_pools(&[("pods", "10.244.0.0/28", "blockSize: 28, ipipMode: Always, cooldownSeconds: 0")]);
    site.seal(&["10.244.0.0/28"]);
    let nodes = site.start_all();
    let first = nodes[0].add(&["pods"]);
    let named = |node: &str, name: &str, address: &str| {
        let annotations = [("cni.projectcalico.org/ipAddrs", &*format!("[\"{address}\"]"))];
        let pod = harness::BoundPod { node, namespace: "default", name, annotations: &annotations };
        site.control_plane(|it| it.create_pod(&pod).unwrap())
    };
    let uid = named("node-2", "fixed", "10.244.0.9");
    let mut fixed = Pod::of(site.at(2), "default", "fixed", &uid);
    wait_until(2 * SOON, "the named address is lent", || {
        let answer = nodes[1].cni(&[]).add(&fixed.attachment).unwrap();
        fixed.result = answer.json;
        answer.code == 0
    });
    assert_eq!(fixed.address().to_string(), "10.244.0.9");
    all_reach_all(&nodes, &[first, fixed]);

    // Whoever else names it hears who has it.
    let uid = named("node-1", "second", "10.244.0.9");
    let second = Pod::of(site.at(1), "default", "second", &uid);
    let mut said = String::new();
    wait_until(SOON, "the second one is refused by name", || {
        let answer = nodes[0].cni(&[]).add(&second.attachment).unwrap();
        assert_ne!(answer.code, 0, "10.244.0.9 was given twice: {}", answer.json);
        said = answer.json.to_string();
        said.contains("ipAddrs") && said.contains("node-2")
    });
    site.assert_sealed();
}
