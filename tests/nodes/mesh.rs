//! Every pod reaches every other, every node, and is reached by every node: in every mode, on both underlays.

use harness::lab::NODE_UPLINK;
use harness::{Leak, Underlay, wait_until};

use crate::site::{Node, Pod, SOON, Site, routes};
use crate::traffic::{Transfer, echoes, ping_with, pings, transfer};

/// Bytes of each checked transfer: more than any window.
const TRANSFER_BYTES: usize = 4 << 20;

/// Pods of each node.
const PODS_COUNT: usize = 2;

/// Bytes that an IPv4 and an ICMP header take.
const ICMP_HEADERS_BYTES: usize = 28;

#[test]
fn pods_on_one_switch_reach_each_other_in_every_mode() {
    let site = Site::new(Underlay::Lan, 3);
    mesh(&site, &[("always", true), ("cross", false), ("never", false)]);
}

#[test]
fn pods_behind_routers_reach_each_other_in_every_mode() {
    let site = Site::new(Underlay::Routed, 3);
    mesh(&site, &[("always", true), ("cross", true), ("never", false)]);
}

/// One mesh for each pool, and whether its packets are to be encapsulated.
fn mesh(site: &Site, pools: &[(&str, bool)]) {
    site.apply_pools(&[
        ("always", "10.244.0.0/22", "blockSize: 26, ipipMode: Always, natOutgoing: true"),
        ("cross", "10.244.4.0/22", "blockSize: 26, ipipMode: CrossSubnet, natOutgoing: true"),
        ("never", "10.244.8.0/22", "blockSize: 26, ipipMode: Never, natOutgoing: true"),
    ]);
    let nodes = site.start_all();
    for (pool, encapsulated) in pools {
        let range = match *pool {
            "always" => "10.244.0.0/22",
            "cross" => "10.244.4.0/22",
            _ => "10.244.8.0/22",
        };
        let pods = add_pods(&nodes, pool);
        if *pool == "never" {
            tell_the_router(site);
        }
        site.fabric.witness(&[range], if *encapsulated { Leak::Drop } else { Leak::Pass }).unwrap();
        between_pods(&nodes, &pods);
        let seen = site.fabric.witnessed().unwrap();
        let shown = format!("{pool} on {:?}: {seen:?}", site.fabric.underlay());
        assert_eq!((seen.encapsulated > 0, seen.plain > 0), (*encapsulated, !*encapsulated), "{shown}");
        with_nodes(&nodes, &pods);
        // A node speaks by an address of some pool's, so that answers may be encapsulated where pods' are not.
        if *encapsulated {
            site.assert_sealed();
            assert!(pods.iter().all(|pod| pod.mtu_bytes() == 1480));
        }
    }
}

fn add_pods<'s>(nodes: &[Node<'s>], pool: &str) -> Vec<Pod<'s>> {
    nodes.iter().flat_map(|node| (0..PODS_COUNT).map(|_| node.add(&[pool]))).collect()
}

/// Pods' ranges that are not encapsulated must be known to whoever routes between the nodes.
fn tell_the_router(site: &Site) {
    for (range, owner) in site.blocks() {
        let node = site.fabric.nodes.iter().find(|node| node.name == owner).unwrap();
        site.fabric.route_from_outside(&range, node).unwrap();
    }
}

fn between_pods(nodes: &[Node<'_>], pods: &[Pod<'_>]) {
    for from in pods {
        for to in pods {
            let shown = || {
                let all: String = nodes.iter().map(routes).collect();
                format!("{} on {} to {} on {}\n{all}", from.address(), from.at.name, to.address(), to.at.name)
            };
            // The first claim of a block is told to the others while the first pod of it starts.
            wait_until(SOON, &shown(), || pings(&from.netns, to.address()));
        }
    }
    for (index, from) in pods.iter().enumerate() {
        // Each pod to one on the next node.
        let to = &pods[(index + PODS_COUNT) % pods.len()];
        assert_ne!(from.at.name, to.at.name);
        transfer(&from.netns, &to.netns, to.address(), TRANSFER_BYTES);
        assert!(echoes(&from.netns, &to.netns, to.address(), 8000), "{} to {}", from.address(), to.address());
        let largest = from.mtu_bytes() - ICMP_HEADERS_BYTES;
        let fits = ping_with(&from.netns, to.address(), largest, true);
        assert!(fits.answered, "{largest} bytes that fit: {}", fits.said);
        // A pod's interface takes what can be sent on, and no more.
        let too_long = ping_with(&from.netns, to.address(), largest + 1, true);
        assert!(!too_long.answered && too_long.said.contains("too long"), "{}", too_long.said);
        // Without the flag it arrives in pieces.
        assert!(ping_with(&from.netns, to.address(), 4000, false).answered);
    }
}

/// Between pods and the nodes themselves, their own and others.
fn with_nodes(nodes: &[Node<'_>], pods: &[Pod<'_>]) {
    nodes.iter().for_each(Node::wait_for_own_address);
    for pod in pods {
        for node in nodes {
            assert!(pings(&pod.netns, node.at.ipv4.into()), "{} to {}", pod.address(), node.at.name);
            assert!(
                pings(node.netns(), pod.address()),
                "{} to {}\n{}",
                node.at.name,
                pod.address(),
                routes(node)
            );
        }
    }
    for (index, pod) in pods.iter().enumerate() {
        let node = &nodes[(index / PODS_COUNT + 1) % nodes.len()];
        assert_ne!(node.at.name, pod.at.name);
        transfer(node.netns(), &pod.netns, pod.address(), TRANSFER_BYTES / 4);
        transfer(&pod.netns, node.netns(), node.at.ipv4.into(), TRANSFER_BYTES / 4);
        assert!(echoes(node.netns(), &pod.netns, pod.address(), 4000));
    }
}

#[test]
fn ipv6_pods_reach_each_other_without_encapsulation() {
    let site = Site::new(Underlay::Lan, 3);
    site.apply_pools(&[
        ("four", "10.244.0.0/22", "blockSize: 26, ipipMode: Always"),
        ("pods-six", "2001:db8:244::/112", "blockSize: 122"),
    ]);
    let nodes = site.start_all();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["four", "pods-six"])).collect();
    for from in &pods {
        for to in &pods {
            for address in to.addresses() {
                let shown = format!("{:?} to {address}", from.addresses());
                wait_until(SOON, &shown, || pings(&from.netns, address));
                transfer(&from.netns, &to.netns, address, TRANSFER_BYTES / 4);
            }
        }
    }
}

#[test]
fn a_node_whose_object_tells_no_ipv6_address_is_reached_as_soon_as_it_has_one() {
    let site = Site::new(Underlay::Lan, 2);
    site.apply_pools(&[("pods-six", "2001:db8:244::/112", "blockSize: 122")]);
    let nodes: Vec<Node<'_>> = (1..=2)
        .map(|number| {
            let at = site.at(number);
            // As a kubelet that was told one address.
            site.control_plane(|it| it.create_node(&at.name, &[at.ipv4.into()]).unwrap());
            if number == 2 {
                at.netns.ip(&format!("addr del {}/64 dev {NODE_UPLINK}", at.ipv6)).unwrap();
            }
            site.start_registered(number, "")
        })
        .collect();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods-six"])).collect();
    let told = || nodes[0].status()["warnings"].to_string();
    wait_until(SOON, "the first node says that it has no route", || {
        told().contains("node-2: the node has no IPv6 address")
    });
    assert!(!pings(&pods[0].netns, pods[1].address()), "by which way?");
    // Not the one that the fabric once gave it.
    nodes[1].netns().ip(&format!("addr add 2001:db8:1::77/64 dev {NODE_UPLINK} nodad")).unwrap();
    for (from, to) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        wait_until(SOON, &routes(&nodes[0]), || pings(&from.netns, to.address()));
    }
    wait_until(SOON, "nothing is missing", || !told().contains("IPv6"));
}

#[test]
fn a_pools_mode_changes_under_a_running_transfer() {
    let site = Site::new(Underlay::Lan, 2);
    let pool = |mode: &str| format!("blockSize: 26, ipipMode: {mode}");
    site.apply_pools(&[("pods", "10.244.0.0/22", &pool("Always"))]);
    let nodes = site.start_all();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    wait_until(SOON, "the first ping", || pings(&pods[0].netns, pods[1].address()));
    let mut running = Transfer::start(&pods[0].netns, &pods[1].netns, pods[1].address());
    for (mode, encapsulated) in [("Never", false), ("Always", true), ("CrossSubnet", false), ("Always", true)]
    {
        site.apply_pools(&[("pods", "10.244.0.0/22", &pool(mode))]);
        let counts = || {
            let seen = site.fabric.witnessed().unwrap();
            (seen.encapsulated, seen.plain)
        };
        // Until a second's traffic is all of the new kind, in both directions.
        wait_until(SOON, &format!("all traffic as {mode} says"), || {
            site.fabric.witness(&["10.244.0.0/22"], Leak::Pass).unwrap();
            for _ in 0..64 {
                running.send(usize::MAX);
            }
            let (wrapped, plain) = counts();
            if encapsulated { wrapped > 0 && plain == 0 } else { plain > 0 && wrapped == 0 }
        });
    }
    assert!(running.end() > 0);
}
