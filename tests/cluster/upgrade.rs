//! Agents that are replaced under traffic, by the page that says how.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::cluster::{DEFAULT_POOL, PodOptions};
use harness::{NetNs, Run};
use serde_json::Value;

use crate::site::{NODES_COUNT, site, wait_until};

/// Between two packets, in seconds: whoever pauses for longer is found out.
const INTERVAL: &str = "0.005";

/// Packets of a round, two seconds; then all answers are awaited, and the next round begins at once.
const ROUND: &str = "400";

const SYSTEM: &str = "poolward-system";

/// Of the agents' pods.
const LABEL: &str = "app.kubernetes.io/component=node";

#[test]
fn no_packet_is_lost_while_all_agents_are_replaced_and_pods_come_up_meanwhile() {
    let site = site();
    let namespace = site.namespace("upgrade", &[]);
    let on =
        |name, node| PodOptions { namespace: &namespace, name, node: Some(node), ..PodOptions::default() };
    let target = site.pods(&[on("target", 2)]).remove(0);
    let kubectl = site.kubectl();
    let agents = || -> BTreeSet<String> {
        let names = kubectl.run(&["get", "pods", "--namespace", SYSTEM, "-l", LABEL, "-o", "name"]).unwrap();
        names.lines().map(str::to_owned).collect()
    };
    let one_is_ending = || {
        let pods = kubectl.json(&["get", "pods", "--namespace", SYSTEM, "-l", LABEL]).unwrap();
        let is_ending = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
        pods["items"].as_array().unwrap().iter().any(is_ending)
    };
    let before = agents();
    assert_eq!(before.len(), usize::from(NODES_COUNT), "{before:?}");

    let address = target.address.to_string();
    let from = &site.cluster.fabric.nodes[0].netns;
    let is_done = AtomicBool::new(false);
    let (meanwhile, (sent, received)) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| keep_asking(from, &address, &is_done));
        let _stop = Stop(&is_done);
        let page = scope.spawn(|| site.cluster.run_page("upgrade.md", &[]).unwrap());
        wait_until("the first agent ends", || page.is_finished() || one_is_ending());
        let meanwhile = site.pods(&[on("meanwhile-1", 1), on("meanwhile-2", 2), on("meanwhile-3", 3)]);
        page.join().unwrap();
        is_done.store(true, Ordering::Relaxed);
        (meanwhile, traffic.join().unwrap())
    });

    let after = agents();
    assert!(before.is_disjoint(&after), "not all were replaced: {before:?}, {after:?}");
    for pod in &meanwhile {
        assert!(DEFAULT_POOL.contains(pod.address), "{pod:?}");
        site.assert_holder(pod);
    }
    assert!(sent >= 400, "{sent}");
    assert_eq!(received, sent);
    site.delete_at_once(&namespace);
    site.assert_consistent();
}

/// Ends the traffic however the rest ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Round after round until it is done; how many packets were sent, and how many were answered.
fn keep_asking(from: &NetNs, address: &str, is_done: &AtomicBool) -> (u64, u64) {
    let mut total = (0, 0);
    while !is_done.load(Ordering::Relaxed) {
        let ping = Run::new("ping").args(["-n", "-q", "-i", INTERVAL, "-c", ROUND, address]);
        let said = String::from_utf8(ping.finish_in(from).unwrap().stdout).unwrap();
        let (sent, received) = counts(&said);
        total = (total.0 + sent, total.1 + received);
    }
    total
}

/// Of the line "N packets transmitted, M received, ...".
fn counts(said: &str) -> (u64, u64) {
    let line =
        said.lines().find(|line| line.contains("packets transmitted")).unwrap_or_else(|| panic!("{said}"));
    let mut numbers = line.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
