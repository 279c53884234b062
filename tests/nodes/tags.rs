//! What a firewall sees of a pod does not depend on its node.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use harness::lab::{NODE_UPLINK, OUTSIDE_IPV4};
use harness::packet::PROTOCOL_UDP;
use harness::{Capture, Direction, EchoServer, Underlay, counted_elements, udp_echo};

use crate::site::{Node, Pod, Site};

/// Where the server outside listens.
const PORT: u16 = 7003;

/// Counts what pods send by source and mark, in a table of the test's own.
fn count_marks(node: &Node<'_>) {
    node.netns()
        .nft(&format!(
            "table inet pwnodes_watch {{
                set seen {{ typeof ip saddr . meta mark; flags dynamic; size 4096; }}
                chain prerouting {{
                    type filter hook prerouting priority mangle; policy accept;
                    iifname != \"{NODE_UPLINK}\" update @seen {{ ip saddr . meta mark counter }}
                }}
            }}"
        ))
        .unwrap();
}

fn mark_of(node: &Node<'_>, pod: &Pod<'_>) -> u32 {
    let listed = node.netns().nft_list("set inet pwnodes_watch seen").unwrap();
    let address = pod.address().to_string();
    let elements = counted_elements(&listed).unwrap();
    let of_pod: BTreeSet<u32> = elements
        .iter()
        .filter(|element| element.key[0] == address)
        .map(|element| element.key[1].parse().unwrap())
        .collect();
    assert_eq!(of_pod.len(), 1, "marks of {address}: {elements:?}");
    of_pod.into_iter().next().unwrap()
}

#[test]
fn the_same_pool_is_seen_the_same_from_every_node() {
    let site = Site::new(Underlay::Routed, 3);
    site.apply_pools(&[
        ("trusted", "10.244.0.0/22", "blockSize: 26, ipipMode: Always, dscp: 46"),
        ("plain", "10.244.4.0/22", "blockSize: 26, ipipMode: Always"),
        ("hidden", "10.244.8.0/22", "blockSize: 26, ipipMode: Always, dscp: 10, natOutgoing: true"),
    ]);
    let nodes = site.start_all();
    let _server = EchoServer::start(&site.fabric.outside, [PORT]).unwrap();
    let mut marks: Vec<(&str, BTreeSet<u32>)> = Vec::new();
    for (pool, dscp, own_address) in [("trusted", 46, true), ("plain", 0, true), ("hidden", 10, false)] {
        let mut of_pool = BTreeSet::new();
        for node in &nodes {
            let pod = node.add(&[pool]);
            if marks.is_empty() && of_pool.is_empty()
                || node.netns().nft_list("table inet pwnodes_watch").is_err()
            {
                count_marks(node);
            }
            let block = format!("{}/32", pod.address());
            site.fabric.route_from_outside(&block, node.at).unwrap();
            let outside = Capture::start(&site.fabric.outside, "eth0", Direction::In).unwrap();
            let to = SocketAddr::from((OUTSIDE_IPV4, PORT));
            let echo = udp_echo(&pod.netns, to, b"who am I?", Duration::from_secs(2)).unwrap();
            assert!(echo.is_some(), "{pool} on {}", node.at.name);
            let packets = outside.stop().unwrap();
            let of_pod: Vec<_> = packets
                .iter()
                .filter_map(|packet| packet.ip)
                .filter(|ip| ip.protocol == PROTOCOL_UDP)
                .collect();
            assert_eq!(of_pod.len(), 1, "{packets:?}");
            let source = if own_address { pod.address() } else { node.at.ipv4.into() };
            assert_eq!((of_pod[0].source, of_pod[0].dscp()), (source, dscp), "{pool} on {}", node.at.name);
            of_pool.insert(mark_of(node, &pod));
        }
        assert_eq!(of_pool.len(), 1, "marks of {pool} on the three nodes: {of_pool:?}");
        marks.push((pool, of_pool));
    }
    let all: BTreeSet<&u32> = marks.iter().flat_map(|(_, of_pool)| of_pool).collect();
    assert_eq!(all.len(), 3, "two pools with one mark: {marks:?}");
}

#[test]
fn a_pools_dscp_arrives_with_a_pod_on_another_node() {
    let site = Site::new(Underlay::Lan, 2);
    site.apply_pools(&[("trusted", "10.244.0.0/22", "blockSize: 26, ipipMode: Always, dscp: 46")]);
    site.seal(&["10.244.0.0/22"]);
    let nodes = site.start_all();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["trusted"])).collect();
    harness::wait_until(crate::site::SOON, "the first ping", || {
        crate::traffic::pings(&pods[0].netns, pods[1].address())
    });
    let underlay = Capture::start(nodes[1].netns(), NODE_UPLINK, Direction::In).unwrap();
    let inside = Capture::start(&pods[1].netns, "eth0", Direction::In).unwrap();
    let _server = EchoServer::start(&pods[1].netns, [PORT]).unwrap();
    let to = SocketAddr::new(pods[1].address(), PORT);
    assert!(udp_echo(&pods[0].netns, to, b"who am I?", Duration::from_secs(2)).unwrap().is_some());
    let is_ours = |packet: &harness::Packet| packet.ports.is_some_and(|(_, to)| to == PORT);
    let inside = inside.stop().unwrap().into_iter().find(is_ours).unwrap();
    assert_eq!(inside.ip.unwrap().dscp(), 46);
    // The pool's tag asks for it, so that routers between the nodes see it as well.
    let underlay = underlay.stop().unwrap().into_iter().find(is_ours).unwrap();
    assert_eq!((underlay.outer.unwrap().dscp(), underlay.ip.unwrap().dscp()), (46, 46));
    site.assert_sealed();
}
