//! No request to the API server on the way of an ADD, by the server's own count.

use std::time::{Duration, Instant};

use harness::{RequestKind, Underlay, wait_until};

use crate::site::{Pod, SOON, Site};

/// ADDs, each with its DEL.
const ROUNDS_COUNT: usize = 1000;

/// Pods that come and go, over and over.
const PODS_COUNT: usize = 10;

/// The shortest time between two writes of one node's NodeAddresses.
const INTERVAL: Duration = Duration::from_secs(5);

/// Resources that an agent reads or writes. The server asks itself for others all the time.
fn is_of_agents(kind: &RequestKind) -> bool {
    kind.group == "poolward.io"
        || (kind.group.is_empty() && ["nodes", "pods"].contains(&kind.resource.as_str()))
}

#[test]
fn a_thousand_pods_come_and_go_without_a_request() {
    let site = Site::new(Underlay::Lan, 1);
    site.apply_pools(&[("pods", "10.244.0.0/22", "blockSize: 26, ipipMode: Always, cooldownSeconds: 0")]);
    let node = site.start_with(1, &format!("publishSeconds: {}\n", INTERVAL.as_secs()));
    let named: Vec<(String, String)> = (0..PODS_COUNT)
        .map(|number| {
            let name = format!("web-{number}");
            let pod =
                harness::BoundPod { node: "node-1", namespace: "default", name: &name, annotations: &[] };
            let uid = site.control_plane(|it| it.create_pod(&pod).unwrap());
            (name, uid)
        })
        .collect();
    // The pool's first block is claimed by the first ADD; every pod is known when its first ADD is answered.
    let mut pods: Vec<Pod<'_>> =
        named.iter().map(|(name, uid)| Pod::of(node.at, "default", name, uid)).collect();
    for pod in &pods {
        let answered = || node.cni(&["pods"]).add(&pod.attachment).unwrap().code == 0;
        wait_until(SOON, "the first ADD of a pod", answered);
        node.del(pod);
    }
    // What the first ones were the occasion of is over: claims ahead, NodeAddresses.
    let of_agents = || site.control_plane(|it| it.requests().unwrap()).only(is_of_agents);
    let mut before = of_agents();
    wait_until(Duration::from_secs(60), "twice the interval without a request", || {
        std::thread::sleep(2 * INTERVAL);
        let now = of_agents();
        let quiet = now.since(&before).count() == 0;
        before = now;
        quiet
    });

    let started = Instant::now();
    for round in 0..ROUNDS_COUNT {
        let pod = &mut pods[round % PODS_COUNT];
        // As a runtime that restarts the pod's sandbox.
        pod.attachment.container_id = format!("round-{round}");
        node.cni(&["pods"]).add(&pod.attachment).unwrap().ok().unwrap();
        node.del(pod);
    }
    let took = started.elapsed();
    let new = of_agents().since(&before);
    let allowed = |kind: &RequestKind| {
        // Watches are counted when they end; the server ends each after some minutes, and the agent asks again.
        kind.verb == "WATCH" || kind.resource == "nodeaddresses"
    };
    let others = new.only(|kind| !allowed(kind));
    assert_eq!(others.count(), 0, "requests during {ROUNDS_COUNT} ADDs: {others:?}");
    // What is given out is published by the clock, whether one pod or a thousand came: a read and a write.
    let intervals = took.as_secs() / INTERVAL.as_secs() + 2;
    for (kind, count) in new.iter().filter(|(kind, _)| kind.verb != "WATCH") {
        assert!(["GET", "PUT"].contains(&kind.verb.as_str()), "{kind:?}");
        assert!(count <= intervals, "{count} of {kind:?} in {intervals} intervals");
    }
}
