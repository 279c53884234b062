//! Who is masqueraded, as a server outside sees it, and which marks packets carry on the node.

use std::net::IpAddr;
use std::time::Duration;

use harness::lab::{EchoServer, NODE_IPV4, NODE_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, udp_echo};
use harness::{Capture, Direction, NetNs};

use crate::fixture::{Node, Pod, pool};

const PORT: u16 = 4242;

/// The source address under which a datagram from `pod` arrives at the firewall.
fn seen_source(node: &Node, pod: &Pod, to: IpAddr) -> IpAddr {
    let capture = Capture::start(&node.lab.firewall, "node0", Direction::In).unwrap();
    assert!(answered(&pod.netns, to), "no answer from {to}");
    let packets = capture.stop().unwrap();
    let request =
        packets.iter().find(|packet| packet.ip.as_ref().is_some_and(|ip| ip.destination == to)).unwrap();
    request.ip.as_ref().unwrap().source
}

fn answered(netns: &NetNs, to: IpAddr) -> bool {
    udp_echo(netns, (to, PORT).into(), b"who am I", Duration::from_secs(2)).unwrap().is_some()
}

#[test]
fn pods_of_nat_pools_leave_as_the_node_and_others_as_themselves() {
    let node = Node::new();
    let _echo = EchoServer::start(&node.lab.outside, [PORT]).unwrap();
    node.lab.route_to_node("10.77.0.0/24").unwrap();
    node.lab.route_to_node("fd77::/112").unwrap();
    let pools = [
        pool("10.77.0.0/24", 1, false, None),
        pool("10.78.0.0/24", 2, true, None),
        pool("fd77::/112", 3, false, None),
        pool("fd78::/112", 4, true, None),
    ];
    node.reconcile_ok(&node.desired(&pools, &[]));
    let plain = Pod::new(1, Some("10.77.0.1"), Some("fd77::1"));
    let masked = Pod::new(2, Some("10.78.0.1"), Some("fd78::1"));
    node.wire(&plain).unwrap();
    node.wire(&masked).unwrap();

    let (v4, v6) = (IpAddr::from(OUTSIDE_IPV4), IpAddr::from(OUTSIDE_IPV6));
    assert_eq!(seen_source(&node, &plain, v4), IpAddr::from(plain.ipv4()));
    assert_eq!(seen_source(&node, &plain, v6), IpAddr::from(plain.ipv6()));
    assert_eq!(seen_source(&node, &masked, v4), IpAddr::from(NODE_IPV4));
    assert_eq!(seen_source(&node, &masked, v6), IpAddr::from(NODE_IPV6));

    // Between pools nobody is masked.
    let _inside = EchoServer::start(&plain.netns, [PORT]).unwrap();
    let capture = Capture::start(&plain.netns, "eth0", Direction::In).unwrap();
    assert!(answered(&masked.netns, plain.ipv4().into()));
    let packets = capture.stop().unwrap();
    let to_plain: Vec<_> = packets
        .iter()
        .filter_map(|packet| packet.ip.as_ref())
        .filter(|ip| ip.destination == IpAddr::from(plain.ipv4()))
        .map(|ip| ip.source)
        .collect();
    assert!(
        !to_plain.is_empty() && to_plain.iter().all(|ip| *ip == IpAddr::from(masked.ipv4())),
        "{to_plain:?}"
    );
}
