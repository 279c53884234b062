//! Both families at once, and each alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use harness::lab::{FIREWALL_TO_NODE, NODE_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{Capture, Direction, EchoServer, Packet};
use serde_json::{Value, json};

use crate::kernel::{agreed, traces};
use crate::manifest::{namespace, pod, pool};
use crate::site::{Node, Pod, Site, addresses_of};
use crate::traffic::mark_of_pool;

const PORT: u16 = 7500;

/// An IPv4 pool, an IPv6 pool that shows outside, and one that leaves as the node.
fn node_with_pools(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[
        pool("four", "10.77.0.0/26", "blockSize: 29, dscp: 8"),
        pool("six", "fd77::/120", "blockSize: 125, dscp: 34"),
        pool("six-nat", "fd78::/120", "blockSize: 125, natOutgoing: true"),
        namespace("plain", &[]),
        namespace("nat", &[("cni.projectcalico.org/ipv6pools", "[\"six-nat\"]")]),
        pod("plain", "a", &[]),
        pod("plain", "b", &[]),
        pod("nat", "a", &[]),
    ]);
    for range in ["10.77.0.0/26", "fd77::/120"] {
        site.lab.route_to_node(range).unwrap();
    }
    node
}

/// The packet of a pod to a server outside, as the firewall sees it.
fn at_firewall(node: &Node<'_>, pod: &Pod, outside: IpAddr) -> Packet {
    let lab = &node.site.lab;
    let capture = Capture::start(&lab.firewall, FIREWALL_TO_NODE, Direction::In).unwrap();
    assert!(pod.reaches((outside, PORT)), "{} does not reach {outside}", pod.handle());
    let to_server = |packet: &Packet| packet.ports.is_some_and(|(_, port)| port == PORT);
    capture.wait_for(Duration::from_secs(1), to_server).expect("captured at the firewall")
}

#[test]
fn a_pod_with_both_families_reaches_the_outside_and_other_pods_by_both() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let _server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
    let (a, b) = (node.add_pod("plain", "a"), node.add_pod("plain", "b"));
    assert_eq!(a.addresses().len(), 2);
    for (outside, own, dscp) in
        [(IpAddr::from(OUTSIDE_IPV4), a.addresses()[0], 8), (OUTSIDE_IPV6.into(), a.addresses()[1], 34)]
    {
        let ip = at_firewall(&node, &a, outside).ip.unwrap();
        assert_eq!((ip.source, ip.dscp(), ip.checksum_holds), (own, dscp, true));
    }
    let _peer = EchoServer::start(&b.netns, [PORT]).unwrap();
    for address in b.addresses() {
        assert!(a.reaches((address, PORT)), "{address}");
        // And from the node, as a probe would.
        let probe = harness::udp_echo(
            node.netns(),
            SocketAddr::from((address, PORT)),
            b"probe",
            Duration::from_secs(1),
        );
        assert!(probe.unwrap().is_some(), "{address} from the node");
    }
    assert_eq!((node.check(&a), node.check(&b)), (None, None));
    assert_eq!(agreed(&node).len(), 2);
    assert_ne!(mark_of_pool(&node, "four"), mark_of_pool(&node, "six"));
}

#[test]
fn ipv6_leaves_as_the_node_where_its_pool_wants_nat_and_keeps_its_address_between_pods() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let _server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
    let (nat, plain) = (node.add_pod("nat", "a"), node.add_pod("plain", "a"));
    assert!(nat.addresses()[1].to_string().starts_with("fd78::"), "{}", nat.result);
    assert_eq!(at_firewall(&node, &nat, OUTSIDE_IPV6.into()).ip.unwrap().source, IpAddr::from(NODE_IPV6));
    // Its IPv4 pool has no NAT: each family is its own pool's matter.
    assert_eq!(at_firewall(&node, &nat, OUTSIDE_IPV4.into()).ip.unwrap().source, nat.addresses()[0]);

    let _peer = EchoServer::start(&plain.netns, [PORT]).unwrap();
    let capture = Capture::start(&plain.netns, "eth0", Direction::In).unwrap();
    assert!(nat.reaches((plain.addresses()[1], PORT)));
    let to_peer = |packet: &Packet| packet.ports.is_some_and(|(_, port)| port == PORT);
    let seen = capture.wait_for(Duration::from_secs(1), to_peer).unwrap();
    assert_eq!(seen.ip.unwrap().source, nat.addresses()[1], "pod to pod without NAT");
}

#[test]
fn one_family_alone_is_given_where_the_network_says_so() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let check = |ipam: Value, expected_four: bool, expected_six: bool| {
        let cni = node.cni().with_config(|config| config["ipam"] = ipam.clone());
        let mut pod = Pod::container("alone");
        pod.result = cni.add(&pod.attachment).unwrap().ok().unwrap();
        let families: BTreeSet<bool> = pod.addresses().iter().map(IpAddr::is_ipv4).collect();
        let expected: BTreeSet<bool> = [(expected_four, true), (expected_six, false)]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, four)| *four)
            .collect();
        assert_eq!(families, expected, "{ipam}");
        assert_eq!(node.check(&pod), None, "{ipam}");
        // The other family is not there at all.
        let has_default =
            |family: &str| !pod.netns.ip(&format!("{family} route show default")).unwrap().is_empty();
        assert_eq!((has_default("-4"), has_default("-6")), (expected_four, expected_six), "{ipam}");
        agreed(&node);
        node.del(&pod);
    };
    check(json!({}), true, true);
    check(json!({"assign_ipv6": false}), true, false);
    check(json!({"assign_ipv4": false}), false, true);
    check(json!({"assign_ipv4": true, "assign_ipv6": true}), true, true);
}

#[test]
fn of_two_families_asked_for_and_one_impossible_nothing_is_kept() {
    let site = Site::new();
    let node = site.start();
    node.apply(&[pool("four", "10.77.0.0/26", "blockSize: 29"), pool("six", "fd77::/128", "blockSize: 128")]);
    let only = node.add_container("takes-the-one");
    assert_eq!(only.addresses().len(), 2);
    let before = traces(&node);
    let cni =
        node.cni().with_config(|config| config["ipam"] = json!({"assign_ipv4": true, "assign_ipv6": true}));
    let answer = cni.add(&Pod::container("too-late").attachment).unwrap();
    assert_eq!(answer.error_code(), Some(11), "{}", answer.json);
    assert!(format!("{}", answer.json).contains("six"), "{}", answer.json);
    assert_eq!(traces(&node), before);
    node.del(&only);
    assert_eq!(addresses_of(&cni.add(&only.attachment).unwrap().ok().unwrap()).len(), 2);
}
