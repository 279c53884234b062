//! The harness against the kernel: a test that proves absence by a capture is worth what the capture is worth.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use poolward_harness::lab::{
    FIREWALL_TO_NODE, NODE_IPV4, NODE_IPV6, NODE_UPLINK, OUTSIDE_IPV4, OUTSIDE_IPV6,
};
use poolward_harness::{
    Capture, Direction, EchoServer, Fabric, Lab, Leak, NetNs, RawSender, Run, UdpFrame, Underlay,
    counted_elements, udp_echo,
};

const LIMIT: Duration = Duration::from_secs(2);

#[test]
fn the_lab_carries_both_families_through_the_firewall() {
    let lab = Lab::unique("pwharness").unwrap();
    let _server = EchoServer::start(&lab.outside, [7001]).unwrap();
    for address in [IpAddr::from(OUTSIDE_IPV4), IpAddr::from(OUTSIDE_IPV6)] {
        let echoed = udp_echo(&lab.node, SocketAddr::new(address, 7001), b"hello", LIMIT).unwrap();
        assert!(echoed.is_some(), "no echo from {address}");
        let unanswered = udp_echo(&lab.node, SocketAddr::new(address, 7002), b"hello", LIMIT).unwrap();
        assert!(unanswered.is_none(), "an echo from {address} port 7002, where nobody listens");
    }
}

#[test]
fn frames_sent_as_they_are_arrive_as_they_were_and_only_in_their_direction() {
    let lab = Lab::unique("pwharness").unwrap();
    let arriving = Capture::start(&lab.firewall, FIREWALL_TO_NODE, Direction::In).unwrap();
    let leaving = Capture::start(&lab.firewall, FIREWALL_TO_NODE, Direction::Out).unwrap();
    let sender = RawSender::new(&lab.node, NODE_UPLINK).unwrap();
    let firewall_mac = lab.firewall.link(FIREWALL_TO_NODE).unwrap().mac;
    for (source, destination) in [("203.0.113.9", "198.51.100.2"), ("2001:db8:9::9", "2001:db8:2::2")] {
        let frame = UdpFrame {
            source_mac: sender.mac(),
            destination_mac: firewall_mac,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 9,
            destination_port: 9,
            tos: 46 << 2,
            payload: b"claimed".to_vec(),
        }
        .build()
        .unwrap();
        sender.send(&frame).unwrap();
        let source: IpAddr = source.parse().unwrap();
        let seen =
            arriving.wait_for(LIMIT, |packet| packet.ip.is_some_and(|ip| ip.source == source)).unwrap();
        assert_eq!(seen.frame, frame);
        assert_eq!(leaving.count(|packet| packet.frame == frame), 0);
    }
    let caught = arriving.stop().unwrap();
    assert!(caught.iter().all(|packet| packet.source_mac != firewall_mac));
}

#[test]
fn what_was_sent_before_the_end_of_a_capture_is_in_it() {
    let lab = Lab::unique("pwharness").unwrap();
    let capture = Capture::start(&lab.firewall, FIREWALL_TO_NODE, Direction::In).unwrap();
    let sender = RawSender::new(&lab.node, NODE_UPLINK).unwrap();
    let frame = UdpFrame {
        source_mac: sender.mac(),
        destination_mac: lab.firewall.link(FIREWALL_TO_NODE).unwrap().mac,
        source: NODE_IPV4.into(),
        destination: OUTSIDE_IPV4.into(),
        source_port: 9,
        destination_port: 9,
        tos: 0,
        payload: Vec::new(),
    }
    .build()
    .unwrap();
    for _ in 0..100 {
        sender.send(&frame).unwrap();
    }
    let caught = capture.stop().unwrap();
    assert_eq!(caught.iter().filter(|packet| packet.frame == frame).count(), 100);
}

#[test]
fn elements_that_nft_counts_are_read() {
    let lab = Lab::unique("pwharness").unwrap();
    lab.firewall
        .nft(
            "table inet pwharness {\n set seen { typeof ip saddr . udp dport; flags dynamic; size 64; }\n chain c { type \
             filter hook prerouting priority 0; update @seen { ip saddr . udp dport counter }\n }\n}\n",
        )
        .unwrap();
    let _server = EchoServer::start(&lab.outside, [7001]).unwrap();
    let outside = SocketAddr::from((OUTSIDE_IPV4, 7001));
    assert!(udp_echo(&lab.node, outside, b"12345678", LIMIT).unwrap().is_some());
    let elements = counted_elements(&lab.firewall.nft_list("set inet pwharness seen").unwrap()).unwrap();
    let one = elements.iter().find(|element| element.key == [NODE_IPV4.to_string(), "7001".into()]).unwrap();
    assert_eq!((one.packets, one.bytes), (1, 36));
}

#[test]
fn settings_and_children_stay_in_their_namespace() {
    let netns = NetNs::unique("pwharness").unwrap();
    netns.set_sysctl("ipv4/ip_default_ttl", "33").unwrap();
    assert_eq!(netns.sysctl("ipv4/ip_default_ttl").unwrap(), "33");
    let machines_own = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    assert_ne!(machines_own.trim(), "33");
    let links = Run::new("ip").args(["-o", "link"]).ok_in(&netns).unwrap();
    assert_eq!(links.lines().count(), netns.ip_json("link").unwrap().as_array().unwrap().len(), "{links}");
    let path = netns.path();
    drop(netns);
    assert!(!path.exists());
}

#[test]
fn the_node_has_the_addresses_the_lab_promises() {
    let lab = Lab::unique("pwharness").unwrap();
    let shown = lab.node.ip_json(&format!("addr show dev {NODE_UPLINK}")).unwrap().to_string();
    for address in [NODE_IPV4.to_string(), NODE_IPV6.to_string()] {
        assert!(shown.contains(&format!("\"{address}\"")), "{address} in {shown}");
    }
}

#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
fn pings(fabric: &Fabric, from: usize, to: IpAddr) -> bool {
    let args = ["-n", "-c", "1", "-W", "1", &to.to_string()].map(str::to_owned);
    Run::new("ping").args(args).finish_in(&fabric.nodes[from].netns).unwrap().status.success()
}

#[test]
fn every_node_of_a_fabric_reaches_every_other_and_the_outside() {
    for underlay in [Underlay::Lan, Underlay::Routed] {
        let fabric = Fabric::unique("pwfabric", underlay, 3).unwrap();
        for from in 0..3 {
            let others = fabric.nodes.iter().flat_map(poolward_harness::FabricNode::addresses);
            for to in others.chain([OUTSIDE_IPV4.into(), OUTSIDE_IPV6.into()]) {
                assert!(pings(&fabric, from, to), "{underlay:?}: node {from} does not reach {to}");
            }
        }
        // A cut uplink cuts this node only, and comes back with its addresses.
        let [first, second, third] = [0, 1, 2].map(|i| IpAddr::from(fabric.nodes[i].ipv4));
        fabric.cut(&fabric.nodes[1]).unwrap();
        assert!(!pings(&fabric, 0, second) && pings(&fabric, 0, third), "{underlay:?}");
        fabric.mend(&fabric.nodes[1]).unwrap();
        assert!(pings(&fabric, 0, second) && pings(&fabric, 1, fabric.nodes[0].ipv6.into()), "{underlay:?}");
        let moved = fabric.readdress(&fabric.nodes[1]).unwrap();
        assert!(pings(&fabric, 0, moved.into()) && !pings(&fabric, 0, second), "{underlay:?}");
        assert!(pings(&fabric, 1, first) && pings(&fabric, 1, OUTSIDE_IPV4.into()), "{underlay:?}");
    }
}

#[test]
fn the_witness_counts_and_drops_what_has_a_pods_address_outside_of_protocol_4() {
    for underlay in [Underlay::Lan, Underlay::Routed] {
        let fabric = Fabric::unique("pwfabric", underlay, 2).unwrap();
        let [sending, receiving] = [0, 1].map(|i| &fabric.nodes[i]);
        sending.netns.ip("addr add 10.9.0.1/32 dev lo").unwrap();
        receiving.netns.ip("addr add 10.9.0.2/32 dev lo").unwrap();
        let via = if underlay == Underlay::Lan { receiving.ipv4.to_string() } else { "198.18.1.1".into() };
        sending.netns.ip(&format!("route add 10.9.0.2 via {via} src 10.9.0.1")).unwrap();
        receiving
            .netns
            .ip("route add 10.9.0.1 via 192.0.2.1")
            .or_else(|_| receiving.netns.ip("route show"))
            .unwrap();
        fabric.route_from_outside("10.9.0.2/32", receiving).unwrap();
        fabric.route_from_outside("10.9.0.1/32", sending).unwrap();
        let pod = "10.9.0.2".parse::<IpAddr>().unwrap();

        fabric.witness(&["10.9.0.0/24"], Leak::Pass).unwrap();
        assert!(pings(&fabric, 0, pod), "{underlay:?}");
        let seen = fabric.witnessed().unwrap();
        assert_eq!((seen.plain, seen.encapsulated, seen.to_outside), (2, 0, 0), "{underlay:?} {seen:?}");
        assert_eq!(seen.senders.len(), 2, "{seen:?}");

        fabric.witness(&["10.9.0.0/24"], Leak::Drop).unwrap();
        assert!(!pings(&fabric, 0, pod), "{underlay:?}");
        let seen = fabric.witnessed().unwrap();
        assert_eq!((seen.plain, seen.encapsulated), (1, 0), "{underlay:?} {seen:?}");
        assert_eq!(seen.senders[0].key, ["10.9.0.1", "10.9.0.2", "icmp"], "{underlay:?}");

        // To the outside a pod's own address is what is promised.
        let _server = EchoServer::start(&fabric.outside, [7001]).unwrap();
        sending
            .netns
            .ip("route replace default via 192.0.2.254 src 10.9.0.1")
            .or_else(|_| sending.netns.ip("route replace default via 198.18.1.1 src 10.9.0.1"))
            .unwrap();
        let outside = SocketAddr::new(OUTSIDE_IPV4.into(), 7001);
        assert!(udp_echo(&sending.netns, outside, b"hello", LIMIT).unwrap().is_some(), "{underlay:?}");
        assert_eq!(fabric.witnessed().unwrap().to_outside, 1, "{underlay:?}");
    }
}

#[test]
fn the_witness_lets_through_what_is_encapsulated() {
    let fabric = Fabric::unique("pwfabric", Underlay::Lan, 2).unwrap();
    fabric.witness(&["10.9.0.0/24"], Leak::Drop).unwrap();
    let [sending, receiving] = [0, 1].map(|i| &fabric.nodes[i]);
    let sender = RawSender::new(&sending.netns, NODE_UPLINK).unwrap();
    let inner = UdpFrame {
        source_mac: sender.mac(),
        destination_mac: receiving.netns.link(NODE_UPLINK).unwrap().mac,
        source: "10.9.0.1".parse().unwrap(),
        destination: "10.9.0.2".parse().unwrap(),
        source_port: 9,
        destination_port: 9,
        tos: 0,
        payload: b"inside".to_vec(),
    }
    .build()
    .unwrap();
    let arriving = Capture::start(&receiving.netns, NODE_UPLINK, Direction::In).unwrap();
    // An outer header before the inner packet: version and length, protocol 4; nobody here checks the checksum.
    let mut frame = inner[..14].to_vec();
    let length = u16::try_from(20 + inner.len() - 14).unwrap().to_be_bytes();
    frame.extend([0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 4, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend(&inner[14..]);
    sender.send(&frame).unwrap();
    let pod = "10.9.0.1".parse::<IpAddr>().unwrap();
    let fits = |packet: &poolward_harness::Packet| {
        packet.outer.is_some() && packet.ip.is_some_and(|ip| ip.source == pod)
    };
    assert!(arriving.wait_for(LIMIT, fits).is_some());
    let seen = fabric.witnessed().unwrap();
    assert_eq!((seen.encapsulated, seen.plain), (1, 0), "{seen:?}");
}
