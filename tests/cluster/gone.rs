//! Nodes that go for good, and machines that take their names.
//!
//! A drain ends every pod of a node that no controller makes anew: these tests come before those with standing pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use harness::cluster::{DEFAULT_POOL, PORT, Pod, PodOptions};
use harness::{Kubectl, image_archive};
use serde_json::Value;

use crate::leaks::{self, ShortGrace};
use crate::reach::who;
use crate::site::{NODES_COUNT, SOON, Site, site, wait_until};

/// After which blocks of a node without Node object are taken; the shortest that is allowed.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// How long the controller-manager may leave pods bound to a node that is gone: 40 s, looked at every 20 s.
const PODS_OF_GONE_NODES: Duration = Duration::from_secs(60);

#[test]
fn a_deleted_node_is_forgotten_and_replaced_from_nothing_and_meanwhile_containers_vanish_on_the_others() {
    let mut site = site();
    let started = Instant::now();
    let at = |what: &str| eprintln!("{what} after {:.1?}", started.elapsed());
    let _graces = ShortGraces::set(site.kubectl());
    let agents = ShortGrace::set(site.kubectl());
    at("agents have short graces");
    let namespace = site.namespace("gone", &[]);
    let number = NODES_COUNT;
    let node = format!("node-{number}");
    let on =
        |name, node| PodOptions { namespace: &namespace, name, node: Some(node), ..PodOptions::default() };
    let pods = site.pods(&[
        on("elsewhere-1", 1),
        on("elsewhere-2", 2),
        on("drained-0", number),
        on("drained-1", number),
    ]);
    let (elsewhere, drained) = pods.split_at(2);
    let before = Owned::by(&site, &node);
    assert!(before.of_default_pool().next().is_some(), "{before:?}");
    wait_until("the node tells its addresses", || told(&site, &node).is_some());
    for worker in &site.cluster.workers[..2] {
        wait_until("its blocks have routes", || {
            let routes = routes(worker);
            before.of_default_pool().all(|block| routes.contains(block))
        });
    }

    // As a person does it. This kubectl would wait for objects that this kubelet keeps for a minute.
    let wait = "--skip-wait-for-delete-timeout=2";
    let drain = ["drain", &node, "--ignore-daemonsets", "--force", "--delete-emptydir-data", wait];
    site.kubectl().long(&drain, 2 * SOON).unwrap();
    for pod in drained {
        site.wait_until_free(pod);
    }
    site.cluster.switch_off(number).unwrap();
    site.kubectl().run(&["delete", "node", &node]).unwrap();
    let deleted = Instant::now();
    for worker in &site.cluster.workers[..2] {
        wait_until("nobody has a route to it", || {
            let routes = routes(worker);
            !before.blocks.keys().any(|block| routes.contains(block))
                && !routes.contains(&address(&site, number))
        });
    }
    wait_until("what it told goes with it", || told(&site, &node).is_none());
    let owned = Owned::by(&site, &node);
    let is_kept = before.of_default_pool().all(|block| owned.blocks.contains_key(block));
    assert!(is_kept || deleted.elapsed() >= GONE_AFTER, "taken before the grace: {before:?} {owned:?}");
    at("it is deleted");
    // The grace and the controllers take a minute.
    leaks::only_addresses_of_containers_that_are_really_gone_are_freed_without_a_del(&mut site);
    at("leaks are seen");
    assert_each_reaches_each(&site, elsewhere);
    while Owned::by(&site, &node) != Owned::default() {
        let limit = GONE_AFTER + PODS_OF_GONE_NODES + SOON;
        assert!(deleted.elapsed() < limit, "its blocks are its own: {:?}", Owned::by(&site, &node));
        assert_each_reaches_each(&site, elsewhere);
    }
    assert!(deleted.elapsed() >= GONE_AFTER, "{:?}", deleted.elapsed());
    at("its blocks are free");
    check_all_but(&site, number);

    site.cluster.replace(number, &[&image_archive().unwrap()]).unwrap();
    site.cluster.wait_until_ready().unwrap();
    let back = site.pods(&[on("back-0", number), on("back-1", number)]);
    let after = Owned::by(&site, &node);
    assert_ne!(after.node_uid, before.node_uid);
    assert!(after.nonces().is_disjoint(&before.nonces()), "{before:?} {after:?}");
    let all: Vec<Pod> = elsewhere.iter().chain(&back).cloned().collect();
    assert_each_reaches_each(&site, &all);
    assert_each_has_its_own(&site);
    site.assert_consistent();
    at("it is replaced");

    // Installed anew under its Node object, while its pods are bound to it and blocks are its own.
    site.cluster.switch_off(number).unwrap();
    let containers: Vec<String> = back.iter().map(|pod| container(&site, pod)).collect();
    site.cluster.replace(number, &[&image_archive().unwrap()]).unwrap();
    let again = started_anew(&site, &back, &containers);
    site.cluster.wait_until_ready().unwrap();
    let adopted = Owned::by(&site, &node);
    assert_eq!(adopted.node_uid, after.node_uid);
    assert!(
        adopted.nonces().is_disjoint(&after.nonces()),
        "a claim of its predecessor is believed: {after:?}"
    );
    let all: Vec<Pod> = elsewhere.iter().chain(&again).cloned().collect();
    assert_each_reaches_each(&site, &all);
    assert_each_has_its_own(&site);
    at("it is installed anew");
    site.delete_at_once(&namespace);
    drop(agents);
    at("agents are as they were");
    site.cluster.wait_until_ready().unwrap();
    site.assert_consistent();
}

/// An `IPAMConfig` with the shortest grace, until this goes.
struct ShortGraces(Kubectl);

impl ShortGraces {
    fn set(kubectl: Kubectl) -> Self {
        let config = format!(
            "apiVersion: poolward.io/v1\nkind: IPAMConfig\nmetadata: {{name: default}}\n\
             spec: {{goneAfterSeconds: {}}}\n",
            GONE_AFTER.as_secs()
        );
        kubectl.apply_unchecked(&config).unwrap();
        Self(kubectl)
    }
}

impl Drop for ShortGraces {
    fn drop(&mut self) {
        // A test that fails says more than this could.
        let _ = self.0.run(&["delete", "ipamconfig", "default"]);
    }
}

/// What belongs to a node, by the objects of blocks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Owned {
    /// UID of the Node object that owns them; all of them.
    node_uid: BTreeSet<String>,
    /// Ranges, and what the owner's journal knows each by.
    blocks: BTreeMap<String, String>,
}

impl Owned {
    fn by(site: &Site, node: &str) -> Self {
        let objects = site.kubectl().json(&["get", "ipblocks"]).unwrap();
        let mut owned = Self::default();
        for block in objects["items"].as_array().unwrap() {
            let text = |key: &str| block["spec"][key].as_str().unwrap_or_default().to_owned();
            if text("node") == node {
                owned.node_uid.insert(text("nodeUid"));
                owned.blocks.insert(text("cidr"), text("nonce"));
            }
        }
        owned
    }

    /// Ranges of the pool that serves pods of these tests; others may have left blocks behind that go by themselves.
    fn of_default_pool(&self) -> impl Iterator<Item = &String> {
        let is_its = |block: &&String| {
            let network = block.split('/').next().and_then(|network| network.parse().ok());
            network.is_some_and(|network: IpAddr| DEFAULT_POOL.contains(network))
        };
        self.blocks.keys().filter(is_its)
    }

    fn nonces(&self) -> BTreeSet<String> {
        self.blocks.values().cloned().collect()
    }
}

/// What a node has told of its addresses; none: it has told nothing, or is forgotten.
fn told(site: &Site, node: &str) -> Option<Value> {
    site.kubectl().json(&["get", "nodeaddresses", node]).ok()
}

/// Poolward's routes and nexthop objects on a node.
fn routes(worker: &harness::Worker) -> String {
    let ip = |args: &[&str]| worker.run("ip", args).unwrap().ok().unwrap();
    ip(&["route", "show", "proto", "80"]) + &ip(&["nexthop", "show"])
}

fn address(site: &Site, number: u8) -> String {
    format!("{} ", site.node_address(number))
}

/// `ipam check` on every node that is on.
fn check_all_but(site: &Site, off: u8) {
    for worker in site.cluster.workers.iter().filter(|worker| worker.number != off) {
        worker.poolwardctl(&["ipam", "check"]).unwrap();
    }
}

fn assert_each_reaches_each(site: &Site, pods: &[Pod]) {
    for from in pods {
        for to in pods {
            let seen = who(site, from, &format!("{}:{PORT}", to.address));
            assert_eq!(seen, Ok((to.name.clone(), from.address.to_string())), "{from:?} to {to:?}");
        }
    }
}

/// No two pods of the cluster have one address, and the nodes tell the same.
fn assert_each_has_its_own(site: &Site) {
    let objects = site.kubectl().json(&["get", "pods", "--all-namespaces"]).unwrap();
    let mut holders: BTreeMap<IpAddr, Pod> = BTreeMap::new();
    let pods = objects["items"].as_array().unwrap().iter().filter_map(Pod::of);
    for pod in pods.filter(|pod| DEFAULT_POOL.contains(pod.address)) {
        site.assert_holder(&pod);
        let address = pod.address;
        let other = holders.insert(address, pod);
        assert!(other.is_none(), "two pods have {address}: {other:?}, {:?}", holders[&address]);
    }
}

/// The container that a pod's object speaks of.
fn container(site: &Site, pod: &Pod) -> String {
    let object = site.kubectl().json(&["get", "pod", "--namespace", &pod.namespace, &pod.name]).unwrap();
    object["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned()
}

/// The pods once they are ready in other containers than these.
fn started_anew(site: &Site, pods: &[Pod], before: &[String]) -> Vec<Pod> {
    for (pod, old) in pods.iter().zip(before) {
        wait_until(&format!("{pod:?} was started again"), || {
            let now = container(site, pod);
            !now.is_empty() && now != *old
        });
    }
    pods.iter().map(|pod| site.ready(&pod.namespace, &pod.name)).collect()
}
