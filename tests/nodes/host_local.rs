//! Pods whose addresses `host-local` gives from each node's own range (`spec.podCIDRs`), on our dataplane.

use std::os::unix::fs::symlink;
use std::path::Path;

use harness::{Binaries, Cni, Underlay, wait_until};
use serde_json::json;

use crate::site::{Node, Pod, SOON, Site, routes};
use crate::traffic::{pings, transfer};

const DEBIANS: &str = "/usr/lib/cni/host-local";

/// Registers a node with a range of its own, as kube-controller-manager gives them.
fn start<'s>(site: &'s Site, number: u8, range: &str) -> Node<'s> {
    let at = site.at(number);
    site.control_plane(|it| it.create_node(&at.name, &at.addresses()).unwrap());
    let patch = json!({"spec": {"podCIDR": range, "podCIDRs": [range]}}).to_string();
    site.kubectl().run(&["patch", "node", &at.name, "--type=merge", "-p", &patch]).unwrap();
    site.start_registered(number, "")
}

fn plugin<'s>(node: &Node<'s>) -> Cni<'s> {
    let dir = node.at.files.dir().join("cni-bin");
    if !dir.exists() {
        std::fs::create_dir(&dir).unwrap();
        symlink(Binaries::find().unwrap().plugin.canonicalize().unwrap(), dir.join("poolward")).unwrap();
        assert!(Path::new(DEBIANS).is_file(), "{DEBIANS}: apt-get install containernetworking-plugins");
        symlink(DEBIANS, dir.join("host-local")).unwrap();
    }
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "poolward",
        "type": "poolward",
        "agentSocket": node.at.files.socket(),
        "ipam": {"type": "host-local", "subnet": "usePodCidr", "dataDir": dir.join("data")},
    });
    Cni::new(&dir.join("poolward"), &node.at.netns, config)
}

fn add<'s>(node: &Node<'s>) -> Pod<'s> {
    let mut pod = Pod::container(node.at);
    wait_until(SOON, "the pool serves", || {
        let answer = plugin(node).add(&pod.attachment).unwrap();
        let served = answer.code == 0;
        if served {
            pod.result = answer.json;
        } else {
            assert_eq!(answer.error_code(), Some(11), "{}", answer.json);
        }
        served
    });
    pod
}

#[test]
fn pods_with_addresses_of_their_nodes_ranges_reach_each_other_encapsulated() {
    let site = Site::new(Underlay::Routed, 2);
    // Before any agent looks: it looks once when it starts.
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: default}\n\
                  spec: {podSelector: {}}\n";
    site.kubectl().apply(policy).unwrap();
    site.apply_pools(&[("cluster", "10.244.0.0/16", "blockSize: 26, ipipMode: Always, disabled: true")]);
    let nodes = [start(&site, 1, "10.244.1.0/24"), start(&site, 2, "10.244.2.0/24")];
    let pods = [add(&nodes[0]), add(&nodes[1])];
    for (pod, range) in pods.iter().zip(["10.244.1.", "10.244.2."]) {
        assert!(pod.address().to_string().starts_with(range), "{}", pod.result);
    }
    site.seal(&["10.244.0.0/16"]);
    let shown = || nodes.iter().map(routes).collect::<String>();
    wait_until(SOON, "one pod reaches the other", || pings(&pods[0].netns, pods[1].address()));
    assert!(pings(&pods[1].netns, pods[0].address()), "{}", shown());
    transfer(&pods[0].netns, &pods[1].netns, pods[1].address(), 1 << 20);
    site.assert_sealed();
    assert!(site.blocks().is_empty(), "nothing was claimed: {:?}", site.blocks());

    let warnings = nodes[0].status()["warnings"].clone();
    let expected = json!(["1 NetworkPolicy exists; Poolward enforces none"]);
    assert_eq!(warnings, expected, "{}", nodes[0].agent.log_tail());
    site.kubectl().run(&["delete", "networkpolicy", "deny"]).unwrap();
    for (node, pod) in nodes.iter().zip(&pods) {
        plugin(node).del(&pod.attachment).unwrap().ok().unwrap();
    }
}
