//! `poolwardctl ipam check` on a node that is well, and on one that somebody has made wrong from outside.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::manifest::pool;
use crate::site::{Node, Site};

fn node_with_a_pool(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[pool("a", "10.77.0.0/28", "blockSize: 28"), pool("six", "fd77::/124", "blockSize: 124")]);
    node
}

/// Exit code, text for people, and the answer for programs.
fn checked(node: &Node<'_>) -> (i32, String, Value) {
    let for_people = node.ctl().finish(&["ipam", "check"]).unwrap();
    let for_programs = node.ctl().finish(&["ipam", "check", "-o", "json"]).unwrap();
    assert_eq!(for_people.status, for_programs.status, "the same node, the same exit code");
    let text = String::from_utf8(for_people.stdout).unwrap();
    let reply = serde_json::from_slice(&for_programs.stdout).unwrap();
    (for_people.status.code().unwrap(), text, reply)
}

fn kinds(reply: &Value) -> BTreeSet<&str> {
    let violations = reply["violations"].as_array().unwrap();
    violations.iter().map(|violation| violation["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_node_that_is_well_has_no_violation_through_adds_dels_and_a_restart() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let clean = |node: &Node<'_>, expected: &str| {
        let (exit, text, reply) = checked(node);
        assert_eq!((exit, text.as_str()), (0, expected), "{reply}");
    };
    clean(&node, "no violation: 0 blocks, 0 addresses checked\n");
    let (first, _second) = (node.add_container("a"), node.add_container("b"));
    clean(&node, "no violation: 2 blocks, 4 addresses checked\n");
    node.del(&first);
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    clean(&node, "no violation: 2 blocks, 2 addresses checked\n");
}

#[test]
fn an_interface_that_somebody_has_removed_is_named_with_what_to_do() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let (pod, _other) = (node.add_container("a"), node.add_container("b"));
    node.netns().ip(&format!("link delete {}", pod.host_ifname())).unwrap();
    let (exit, text, reply) = checked(&node);
    assert_eq!((exit, kinds(&reply)), (1, ["held-not-live"].into()), "{text}");
    let release = format!("`poolwardctl ipam release --ip {}`", pod.address());
    assert!(text.contains(&pod.handle()) && text.contains(&release), "{text}");
    assert!(text.ends_with("2 violations: 2 blocks, 4 addresses checked\n"), "{text}");
    // What it says helps.
    node.ctl().run(&["ipam", "release", "--ip", &pod.address().to_string(), "--yes"]).unwrap();
    for address in pod.addresses().iter().skip(1) {
        node.ctl().run(&["ipam", "release", "--ip", &address.to_string(), "--yes"]).unwrap();
    }
    assert_eq!(checked(&node).0, 0);
}

#[test]
fn an_interface_that_claims_the_address_of_a_pod_is_a_second_holder() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pod = node.add_container("a");
    // A running agent takes such an interface off at once; one that finds it at its start does not dare to.
    node.agent.kill().unwrap();
    let alias = format!("poolward1;c=ghost;i=eth0;4={}", pod.address());
    node.netns().ip("link add ghost type veth peer name ghost-peer").unwrap();
    node.netns().ip(&format!("link set ghost alias {alias}")).unwrap();
    node.agent.start_again().unwrap();
    let (exit, text, reply) = checked(&node);
    assert_eq!((exit, kinds(&reply)), (1, ["duplicate-holder", "live-unknown"].into()), "{text}");
    assert!(text.contains("ghost/eth0") && text.contains(&pod.handle()), "{text}");
    node.netns().ip("link delete ghost").unwrap();
    assert_eq!(checked(&node).0, 0, "without it all is well");
}
