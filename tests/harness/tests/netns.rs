//! The harness against the kernel: a test that proves absence by a capture is worth what the capture is worth.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use poolward_harness::lab::{
    FIREWALL_TO_NODE, NODE_IPV4, NODE_IPV6, NODE_UPLINK, OUTSIDE_IPV4, OUTSIDE_IPV6,
};
use poolward_harness::{
    Capture, Direction, EchoServer, Lab, NetNs, RawSender, Run, UdpFrame, counted_elements, udp_echo,
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
