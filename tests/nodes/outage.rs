//! The API server dies and comes back: what is there goes on, and what waited is done.

use harness::{Underlay, wait_until};

use crate::site::{Pod, SOON, Site};
use crate::traffic::pings;

#[test]
fn pods_come_and_go_while_the_api_server_is_dead() {
    let site = Site::new(Underlay::Lan, 2);
    site.apply_pools(&[("pods", "10.244.0.0/22", "blockSize: 27, ipipMode: Always")]);
    site.seal(&["10.244.0.0/22"]);
    let mut nodes = site.start_all();
    let before: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    wait_until(SOON, "the first ping", || pings(&before[0].netns, before[1].address()));
    let blocks = site.blocks();

    site.control_plane(|it| it.kill_api().unwrap());
    let mut during: Vec<Pod<'_>> = Vec::new();
    for _ in 0..5 {
        during.extend(nodes.iter().map(|node| node.add_at_once(&["pods"])));
    }
    nodes[0].del(&during.remove(0));
    // An agent that dies meanwhile has a snapshot beside its journal, and needs no server to serve what it owns.
    nodes[0].agent.kill().unwrap();
    nodes[0].agent.start_again().unwrap();
    during.push(nodes[0].add_at_once(&["pods"]));
    for pod in &during {
        assert!(pings(&pod.netns, before[0].address()), "{} to {}", pod.address(), before[0].address());
        assert!(pings(&pod.netns, before[1].address()), "{} to {}", pod.address(), before[1].address());
    }

    site.control_plane(|it| it.start_api().unwrap());
    // Nobody has lost a block, or taken one that was not needed.
    assert_eq!(site.blocks(), blocks);
    // Both watch again: a pool that is made now is served, with a block that is claimed now.
    site.apply_pools(&[("more", "10.245.0.0/22", "blockSize: 27, ipipMode: Always")]);
    let after: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["more"])).collect();
    wait_until(SOON, "a ping between pods of the new pool", || pings(&after[0].netns, after[1].address()));
    // What happened meanwhile is told.
    let held: Vec<String> = during.iter().map(|pod| pod.address().to_string()).collect();
    wait_until(SOON, "all addresses are published", || {
        let published = site.kubectl().run(&["get", "nodeaddresses", "-o", "json"]).unwrap();
        held.iter().all(|address| published.contains(&format!("\"{address}\"")))
    });
    site.assert_sealed();
}

#[test]
fn a_node_cut_off_from_the_api_server_serves_its_pods_and_the_others_serve_theirs() {
    let site = Site::new(Underlay::Routed, 2);
    site.apply_pools(&[("pods", "10.244.0.0/22", "blockSize: 27, ipipMode: Always")]);
    site.seal(&["10.244.0.0/22"]);
    let nodes = site.start_all();
    let before: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    wait_until(SOON, "the first ping", || pings(&before[0].netns, before[1].address()));
    site.cut_off(1);
    let during: Vec<Pod<'_>> = nodes.iter().map(|node| node.add_at_once(&["pods"])).collect();
    assert!(pings(&during[0].netns, during[1].address()) && pings(&during[1].netns, during[0].address()));
    site.join_again(1);
    site.apply_pools(&[("more", "10.245.0.0/22", "blockSize: 27, ipipMode: Always")]);
    let after: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["more"])).collect();
    wait_until(SOON, "a ping between pods of the new pool", || pings(&after[0].netns, after[1].address()));
    site.assert_sealed();
}
