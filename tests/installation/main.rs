//! Poolward comes to nodes that have nothing of it, with addresses that it does not give; changes to its own; and goes: by
//! the pages that say how. Then each node is as it was found.
//!
//! On a cluster of its own. Needs root and `cargo xtask setup --kubernetes`; without them the test fails.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

extern crate poolward_harness as harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::cluster::{DEFAULT_POOL, Pod, PodOptions};
use harness::{Cluster, ClusterOptions, Kubectl, Leak, Underlay, Worker, wait_until};
use serde_json::Value;

/// How long what takes a few round trips and a pod may take on a machine that is busy with much else.
const SOON: Duration = Duration::from_secs(60);

/// As few as reach each other.
const NODES_COUNT: u8 = 2;

/// What a node is looked at by: everything that the page on uninstalling says is taken off, and what is beside it.
const LOOKS: [(&str, &str); 13] = [
    ("interfaces", "ip -br link"),
    ("addresses", "ip -br address"),
    ("rules", "ip rule; ip -6 rule"),
    ("routes", "ip route show table all | sort"),
    ("routes of IPv6", "ip -6 route show table all | sort"),
    ("nexthops", "ip nexthop"),
    // The tables of iptables are kube-proxy's.
    ("nftables", "nft list tables | grep -vE ' ip6? (nat|filter|mangle|raw|security)$' || true"),
    ("queues", "for hook in ingress egress; do tc filter show dev up0 $hook; done; tc qdisc show dev up0"),
    ("pins", "find /sys/fs/bpf | sort"),
    ("plugins", "find /opt/cni/bin -type f | sort | xargs sha256sum"),
    ("lists of plugins", "find /etc/cni/net.d | sort"),
    // An empty directory of this name may stay until the next boot.
    ("own files", "find /run/poolward /var/lib/poolward /etc/poolward -mindepth 1 2>/dev/null || true"),
    ("processes", "cat /proc/[0-9]*/comm | grep poolward || true"),
];

/// What each look shows.
fn look(worker: &Worker) -> BTreeMap<&'static str, String> {
    let see = |command| worker.run("sh", &["-c", command]).unwrap().ok().unwrap();
    LOOKS.into_iter().map(|(what, command)| (what, see(command))).collect()
}

/// Runs a pod until it is ready.
fn run_pod(kubectl: &Kubectl) -> Pod {
    let options = PodOptions { name: "drained", node: Some(NODES_COUNT), ..PodOptions::default() };
    kubectl.run_with(&["create", "--validate=false", "-f", "-"], &options.object().to_string()).unwrap();
    let mut ready = None;
    wait_until(SOON, "a pod is ready", || {
        ready = Pod::of(&kubectl.json(&["get", "pod", options.name]).unwrap());
        ready.is_some()
    });
    ready.unwrap()
}

#[test]
fn poolward_comes_changes_and_goes_and_leaves_nodes_as_it_found_them() {
    let options = ClusterOptions {
        name: &format!("pwi-{}", std::process::id()),
        underlay: Underlay::Routed,
        nodes_count: NODES_COUNT,
        definitions: None,
        control_plane_dir: None,
    };
    let cluster = Cluster::start(&options, &|_| ()).unwrap();
    for worker in &cluster.workers {
        // Nodes that lack them: they come with Poolward, and go with it.
        for plugin in ["loopback", "portmap"] {
            std::fs::remove_file(worker.plugins().join(plugin)).unwrap();
        }
    }
    let kubectl = cluster.kubectl().unwrap();
    wait_until(SOON, "the cluster knows its nodes and has given them ranges", || {
        let nodes = kubectl.json(&["get", "nodes"]).unwrap();
        let has_range = |node: &&Value| node["spec"]["podCIDR"].is_string();
        nodes["items"].as_array().unwrap().iter().filter(has_range).count() == cluster.workers.len()
    });
    let before: Vec<_> = cluster.workers.iter().map(look).collect();
    let ranges = [harness::cluster::POD_RANGE, harness::NODE_RANGE, "10.89.0.0/24"];
    cluster.fabric.witness(&ranges, Leak::Drop).unwrap();

    println!("{}", cluster.run_page("host-local.md", &[]).unwrap());
    let seen = cluster.fabric.witnessed().unwrap();
    assert_eq!(seen.plain, 0, "outside of protocol 4: {:?}", seen.senders);
    assert!(seen.encapsulated > 0, "nothing was encapsulated");
    for worker in &cluster.workers {
        worker.poolwardctl(&["ipam", "check"]).unwrap();
        assert!(worker.plugins().join("loopback").exists(), "{} lacks a plugin", worker.name);
    }

    let pod = run_pod(&kubectl);
    assert!(DEFAULT_POOL.contains(pod.address), "{pod:?}");
    println!("{}", cluster.run_page("uninstall.md", &[]).unwrap());
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings";
    let left = kubectl.run(&["get", kinds, "-o", "name"]).unwrap();
    assert!(!left.contains("poolward"), "{left}");
    for (worker, before) in cluster.workers.iter().zip(&before) {
        let after = look(worker);
        for (what, _) in LOOKS {
            assert_eq!(after[what], before[what], "{}: {what}", worker.name);
        }
    }
}
