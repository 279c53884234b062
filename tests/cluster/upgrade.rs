//! Agents that are replaced under traffic.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::pods::PodOptions;
use crate::site::{DEFAULT_POOL, NODES_COUNT, site};

/// Between two packets, in seconds: whoever pauses for longer is found out.
const INTERVAL: &str = "0.005";

/// The longest that the traffic goes on, in seconds, if nobody ends it.
const TRAFFIC_LIMIT: &str = "180";

const DAEMONSET: &str = "daemonset/poolward-node";
const SYSTEM: &str = "poolward-system";

#[test]
fn no_packet_is_lost_while_all_agents_are_replaced_and_pods_come_up_meanwhile() {
    let site = site();
    let namespace = site.namespace("upgrade", &[]);
    let on =
        |name, node| PodOptions { namespace: &namespace, name, node: Some(node), ..PodOptions::default() };
    let target = site.pods(&[on("target", 2)]).remove(0);
    let kubectl = site.kubectl();
    let agents = || -> BTreeSet<String> {
        let label = "app.kubernetes.io/component=node";
        let names = kubectl.run(&["get", "pods", "--namespace", SYSTEM, "-l", label, "-o", "name"]).unwrap();
        names.lines().map(str::to_owned).collect()
    };
    let before = agents();
    assert_eq!(before.len(), usize::from(NODES_COUNT), "{before:?}");

    let address = target.address.to_string();
    let ping = || {
        Command::new("ping")
            .args(["-n", "-q", "-i", INTERVAL, "-w", TRAFFIC_LIMIT, &address])
            .stdout(Stdio::piped())
            .spawn()
    };
    let ping = site.cluster.fabric.nodes[0].netns.run(ping).unwrap().unwrap();
    kubectl.run(&["rollout", "restart", "--namespace", SYSTEM, DAEMONSET]).unwrap();
    let meanwhile = site.pods(&[on("meanwhile-1", 1), on("meanwhile-2", 2), on("meanwhile-3", 3)]);
    kubectl.run(&["rollout", "status", "--namespace", SYSTEM, DAEMONSET, "--timeout=120s"]).unwrap();
    let interrupted = Command::new("kill").args(["-INT", &ping.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let said = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();

    let after = agents();
    assert!(before.is_disjoint(&after), "not all were replaced: {before:?}, {after:?}");
    for pod in &meanwhile {
        assert!(DEFAULT_POOL.contains(pod.address), "{pod:?}");
        site.assert_holder(pod);
    }
    let (sent, received) = counts(&said);
    assert!(sent > 200, "{said}");
    // The last one may have been under way.
    assert!(received + 1 >= sent, "{said}");
    site.delete_at_once(&namespace);
    site.assert_consistent();
}

/// Of the line "N packets transmitted, M received, ...".
fn counts(said: &str) -> (u64, u64) {
    let line =
        said.lines().find(|line| line.contains("packets transmitted")).unwrap_or_else(|| panic!("{said}"));
    let mut numbers = line.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
