//! Nodes come, go, and move; agents die. Traffic of the others goes on.

use std::time::Duration;

use harness::{EchoServer, Underlay, wait_until};
use std::net::SocketAddr;

use crate::site::{Node, Pod, SOON, Site, routes};
use crate::traffic::{Transfer, pings};

const POOL: (&str, &str, &str) =
    ("pods", "10.244.0.0/22", "blockSize: 26, ipipMode: Always, natOutgoing: true");

/// Until a node that is gone may be taken to be off; the shortest that is allowed.
const GONE_AFTER: Duration = Duration::from_secs(30);

fn all_ping(pods: &[&Pod<'_>], nodes: &[&Node<'_>]) {
    for from in pods {
        for to in pods {
            let shown = || {
                let all: String = nodes.iter().map(|node| routes(node)).collect();
                format!("{} to {}\n{all}", from.address(), to.address())
            };
            wait_until(SOON, &shown(), || pings(&from.netns, to.address()));
        }
    }
}

#[test]
fn a_node_that_joins_is_reached_and_one_that_leaves_is_forgotten() {
    let site = Site::new(Underlay::Lan, 3);
    site.apply_pools(&[POOL]);
    site.seal(&[POOL.1]);
    let graces = format!("ipam: {{goneAfterSeconds: {}}}\n", GONE_AFTER.as_secs());
    let (first, second) = (site.start_with(1, &graces), site.start_with(2, &graces));
    let (one, two) = (first.add(&["pods"]), second.add(&["pods"]));
    all_ping(&[&one, &two], &[&first, &second]);

    let mut third = site.start_with(3, &graces);
    let three = third.add(&["pods"]);
    all_ping(&[&one, &two, &three], &[&first, &second, &third]);
    let blocks = site.blocks();
    let theirs: Vec<_> = blocks.iter().filter(|(_, owner)| owner == "node-3").collect();
    assert!(!theirs.is_empty(), "{blocks:?}");

    // The machine is off, and somebody removes its object: its range is nobody's, and then free.
    third.agent.kill().unwrap();
    site.fabric.cut(third.at).unwrap();
    site.control_plane(|it| it.delete_node("node-3").unwrap());
    let (range, _) = theirs[0];
    wait_until(SOON, &format!("no route to {range}"), || {
        !first.netns().ip("route show proto 80").unwrap().contains(&format!("{range} nhid"))
    });
    wait_until(GONE_AFTER + SOON, "its blocks are gone", || {
        site.blocks().iter().all(|(_, owner)| owner != "node-3")
    });
    all_ping(&[&one, &two], &[&first, &second]);
    site.assert_sealed();
}

#[test]
fn a_node_with_another_address_is_reached_there() {
    for underlay in [Underlay::Lan, Underlay::Routed] {
        let site = Site::new(underlay, 3);
        site.apply_pools(&[POOL]);
        site.seal(&[POOL.1]);
        let nodes = site.start_all();
        let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
        let (pods, nodes): (Vec<_>, Vec<_>) = (pods.iter().collect(), nodes.iter().collect());
        all_ping(&pods, &nodes);
        let moved = site.fabric.readdress(site.at(2)).unwrap();
        site.control_plane(|it| it.set_node_addresses("node-2", &[moved.into()]).unwrap());
        all_ping(&pods, &nodes);
        site.assert_sealed();
    }
}

#[test]
fn traffic_goes_on_while_agents_are_dead_and_when_they_are_back() {
    let site = Site::new(Underlay::Routed, 2);
    site.apply_pools(&[POOL]);
    site.seal(&[POOL.1]);
    let mut nodes = site.start_all();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    all_ping(&pods.iter().collect::<Vec<_>>(), &nodes.iter().collect::<Vec<_>>());
    // All that they have to do is done once the nodes have addresses of their own, too.
    nodes.iter().for_each(Node::wait_for_own_address);
    let _server = EchoServer::start(&pods[1].netns, [7002]).unwrap();
    let to = SocketAddr::new(pods[1].address(), 7002);
    let lost = |when: &str| {
        for number in 0..200_u32 {
            let echo = harness::udp_echo(&pods[0].netns, to, &number.to_be_bytes(), Duration::from_secs(1));
            assert!(echo.unwrap().is_some(), "datagram {number} is lost {when}");
        }
    };
    let mut running = Transfer::start(&pods[0].netns, &pods[1].netns, pods[1].address());
    for node in &mut nodes {
        node.agent.kill().unwrap();
    }
    lost("while both agents are dead");
    running.send(usize::MAX);
    for node in &mut nodes {
        node.agent.start_again().unwrap();
        // What it finds is what it wants: it changes nothing.
        let planned = node.status().pointer("/reconcile/firstPlanned").and_then(serde_json::Value::as_u64);
        assert_eq!(planned, Some(0), "{}", node.agent.log_tail());
        lost("when an agent is back");
        running.send(usize::MAX);
    }
    assert!(running.end() > 0);
    site.assert_sealed();
}

#[test]
fn an_uplink_that_was_cut_carries_everything_again() {
    let site = Site::new(Underlay::Lan, 2);
    site.apply_pools(&[POOL]);
    site.seal(&[POOL.1]);
    let nodes = site.start_all();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    let (pods, nodes): (Vec<_>, Vec<_>) = (pods.iter().collect(), nodes.iter().collect());
    all_ping(&pods, &nodes);
    site.fabric.cut(site.at(1)).unwrap();
    assert!(!pings(&pods[0].netns, pods[1].address()));
    site.fabric.mend(site.at(1)).unwrap();
    all_ping(&pods, &nodes);
    site.assert_sealed();
}
