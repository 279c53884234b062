//! What a node does about its blocks by itself: claiming ahead of need, giving up what is not needed, limits.

use std::time::Duration;

use harness::{AgentOptions, wait_until};

use crate::manifest::pool;
use crate::site::{Node, Pod, Site};

/// Longer than a round of upkeep and its graces in these tests.
const SOON: Duration = Duration::from_secs(20);

fn start<'s>(site: &'s Site, ipam: &str) -> Node<'s> {
    let more_yaml = format!("ipam:\n  releaseAfterSeconds: 1\n{ipam}");
    site.start_with(&AgentOptions { more_yaml, ..AgentOptions::default() })
}

fn blocks(node: &Node<'_>) -> u64 {
    node.status()["blocks"].as_u64().unwrap()
}

fn add_all(node: &Node<'_>, count: usize) -> Vec<Pod> {
    (0..count).map(|index| node.add_container(&format!("c{index}"))).collect()
}

#[test]
fn a_block_is_claimed_before_the_last_one_is_full_and_given_up_when_it_is_not_needed() {
    let site = Site::new();
    let node = start(&site, "");
    node.apply(&[pool("a", "10.78.0.0/26", "blockSize: 29")]);
    // Eight addresses: with one left, fewer than a quarter are free.
    let pods = add_all(&node, 7);
    wait_until(SOON, "the next block is claimed", || blocks(&node) == 2);
    let last = node.add_container("eighth");
    assert_eq!(blocks(&node), 2, "one block has all eight");
    for pod in pods.iter().chain([&last]) {
        node.del(pod);
    }
    wait_until(SOON, "an empty block is given up", || blocks(&node) == 1);
    assert_eq!(node.usage("a"), [0, 64, 0, 0]);
    // Never the last one.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(blocks(&node), 1);
}

#[test]
fn a_pool_that_no_longer_selects_the_node_keeps_its_pods_and_gives_its_blocks_back() {
    let site = Site::new();
    let node = start(&site, "");
    node.apply(&[pool("a", "10.78.1.0/26", "blockSize: 29")]);
    let pod = node.add_container("a");
    node.apply(&[pool("a", "10.78.1.0/26", "blockSize: 29, nodeSelector: \"has(other)\"")]);
    let refused = node.add_refused(&Pod::container("b"));
    assert!(refused.json["details"].to_string().contains("nodeSelector"), "{}", refused.json);
    assert_eq!((blocks(&node), node.check(&pod)), (1, None), "its pod lives on");
    node.del(&pod);
    wait_until(SOON, "its empty block goes, last or not", || blocks(&node) == 0);
}

#[test]
fn a_node_at_its_limit_of_blocks_says_so() {
    let site = Site::new();
    let node = start(&site, "  maxBlocksPerNode: 1\n");
    node.apply(&[pool("a", "10.78.2.0/26", "blockSize: 29")]);
    add_all(&node, 8);
    let refused = node.add_refused(&Pod::container("ninth"));
    let said = refused.json["msg"].as_str().unwrap();
    assert!(said.contains("maxBlocksPerNode (1)"), "{said}");
    assert_eq!(blocks(&node), 1);
}
