//! A path that carries less than the uplinks say is no black hole.

use harness::Underlay;

use crate::site::{Pod, SOON, Site, wait_until};
use crate::traffic::{ping_with, pings, transfer};

/// What fits through the router towards one of the nodes: less than the uplinks' 1500.
const PATH_BYTES: u32 = 1300;

/// Headers: outer IPv4, inner IPv4, ICMP.
const HEADERS_BYTES: usize = 48;

#[test]
fn a_narrow_path_is_found_out_and_used() {
    let site = Site::new(Underlay::Routed, 2);
    site.apply_pools(&[("pods", "10.244.0.0/22", "blockSize: 26, ipipMode: Always")]);
    site.seal(&["10.244.0.0/22"]);
    let nodes = site.start_all();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    wait_until(SOON, "the first ping", || pings(&pods[0].netns, pods[1].address()));
    site.fabric.set_mtu_towards(site.at(2), PATH_BYTES).unwrap();

    // The router tells the node about the outer packet, and that reaches who sent the inner one.
    let to = pods[1].address();
    wait_until(SOON, "a transfer's first segments are told", || {
        let told = ping_with(&pods[0].netns, to, 1400, true);
        assert!(!told.answered, "{}", told.said);
        told.said.contains("too long") || told.said.contains("Frag needed")
    });
    let fits = PATH_BYTES as usize - HEADERS_BYTES;
    assert!(ping_with(&pods[0].netns, to, fits, true).answered, "{fits} bytes fit");
    transfer(&pods[0].netns, &pods[1].netns, to, 4 << 20);
    transfer(&pods[1].netns, &pods[0].netns, pods[0].address(), 4 << 20);
    // From the node itself too.
    transfer(nodes[0].netns(), &pods[1].netns, to, 1 << 20);
    site.assert_sealed();
}
