//! Two nodes whose pods reach each other encapsulated, as somebody on the wire between them sees it.
//!
//! The lab's firewall is the second node here: it has a dataplane of its own.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::{Dataplane, DesiredState, Peer, Pool, RemoteRange, Settings};
use harness::lab::{EchoServer, NODE_IPV4, udp_echo};
use harness::{Capture, Direction, NetNs, Packet, Run};
use model::{Cidr, IpipMode};

use crate::fixture::{Node, Pod, pool};

const OTHER_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER_INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
const PORT: u16 = 4242;

/// Two nodes with a pod each.
struct Pair {
    node: Node,
    other: Dataplane,
    other_pins: PathBuf,
    pod: Pod,
    other_pod: Pod,
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn pools() -> Vec<Pool> {
    vec![pool("10.77.0.0/16", 1, false, None)]
}

impl Pair {
    fn new() -> Self {
        let node = Node::new();
        // Names on a bpffs have no dots.
        let other_pins = PathBuf::from(format!("{}-other", node.pin_dir.display()));
        let settings = Settings { uplink: Some("node0".into()), ..Settings::new(other_pins.clone()) };
        let other = node.lab.firewall.run(|| Dataplane::open(settings)).unwrap().unwrap();
        let (pod, other_pod) = (Pod::new(1, Some("10.77.0.9"), None), Pod::new(2, Some("10.77.1.9"), None));
        let pair = Self { node, other, other_pins, pod, other_pod };
        pair.reconcile(IpipMode::Always);
        pair.node.wire(&pair.pod).unwrap();
        let file = File::open(pair.other_pod.netns.path()).unwrap();
        let wired = pair.node.lab.firewall.run(|| pair.other.wire(&pair.other_pod.wiring, file.as_fd()));
        wired.unwrap().unwrap();
        pair
    }

    fn desired(&self, mode: IpipMode) -> DesiredState {
        let peer = Peer {
            name: "other".parse().unwrap(),
            ipv4: Some(OTHER_IPV4),
            ipv6: None,
            inner_ipv4: Some(OTHER_INNER),
        };
        DesiredState {
            own_blocks: vec![cidr("10.77.0.0/26")],
            closed_ranges: vec![cidr("10.77.0.0/16")],
            peers: vec![peer],
            remote_ranges: vec![RemoteRange { cidr: cidr("10.77.1.0/26"), peer: 0, ipip_mode: mode }],
            underlay_ipv4: Some(NODE_IPV4),
            inner_ipv4: Some(INNER),
            ..self.node.desired(&pools(), &[])
        }
    }

    /// Both nodes, as after a change of the pool.
    fn reconcile(&self, mode: IpipMode) {
        let desired = DesiredState { sweep: false, ..self.desired(mode) };
        self.node.reconcile_ok(&desired);
        let mut desired = self.desired(mode);
        desired.sweep = false;
        desired.since = self.other.epoch();
        desired.own_blocks = vec![cidr("10.77.1.0/26")];
        desired.remote_ranges[0].cidr = cidr("10.77.0.0/26");
        desired.peers[0].ipv4 = Some(NODE_IPV4);
        desired.peers[0].inner_ipv4 = Some(INNER);
        desired.underlay_ipv4 = Some(OTHER_IPV4);
        desired.inner_ipv4 = Some(OTHER_INNER);
        let report = self.node.lab.firewall.run(|| self.other.reconcile(&desired)).unwrap();
        assert!(report.errors.is_empty(), "{report:#?}");
    }

    /// What the second node receives on its uplink while something is done: packets with a pod address at either end.
    fn seen(&self, act: impl FnOnce()) -> Vec<Packet> {
        let capture = Capture::start(&self.node.lab.firewall, "node0", Direction::In).unwrap();
        act();
        let range = cidr("10.77.0.0/16");
        let concerns = |packet: &Packet| {
            packet.ip.as_ref().is_some_and(|ip| range.contains(ip.source) || range.contains(ip.destination))
        };
        capture.stop().unwrap().into_iter().filter(concerns).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let removed = self.node.lab.firewall.run(|| self.other.remove_all());
        if !std::thread::panicking() {
            removed.unwrap().unwrap();
            assert!(!self.other_pins.exists());
        }
    }
}

/// Three pings with these arguments; whether all came back.
fn ping(netns: &NetNs, arguments: &str) -> bool {
    let args = format!("-n -q -c 3 -i 0.02 -W 1 {arguments}");
    let finished = Run::new("ping").args(args.split(' ')).finish_in(netns).unwrap();
    String::from_utf8_lossy(&finished.stdout).contains("3 received")
}

fn is_encapsulated(packet: &Packet) -> bool {
    packet.outer.as_ref().is_some_and(|outer| {
        (outer.source, outer.destination) == (IpAddr::V4(NODE_IPV4), IpAddr::V4(OTHER_IPV4))
    })
}

#[test]
fn pods_and_nodes_reach_each_other_and_nothing_crosses_unencapsulated() {
    let pair = Pair::new();
    let (node, other) = (pair.node.netns(), &pair.node.lab.firewall);
    for netns in [node, other] {
        netns.set_sysctl("ipv4/conf/all/rp_filter", "1").unwrap();
    }
    let packets = pair.seen(|| {
        assert!(ping(&pair.pod.netns, "10.77.1.9"), "pod to pod");
        assert!(ping(&pair.other_pod.netns, "10.77.0.9"), "and back");
        assert!(ping(node, "10.77.1.9"), "node to the other's pod");
        assert!(ping(other, "10.77.0.9"), "and the other way round");
        assert!(ping(&pair.pod.netns, "10.77.1.1"), "pod to the other node's own address");
        assert!(ping(node, "10.77.1.1"), "node to node by their own addresses");
        assert!(ping(&pair.pod.netns, "-M do -s 1452 10.77.1.9"), "as large as fits");
        assert!(!ping(&pair.pod.netns, "-M do -s 1453 10.77.1.9"), "one byte more does not");
        assert!(ping(node, "-s 4000 10.77.1.9"), "in fragments");
    });
    assert!(packets.len() >= 20, "{}", packets.len());
    let plain: Vec<&Packet> = packets.iter().filter(|packet| !is_encapsulated(packet)).collect();
    assert!(plain.is_empty(), "{plain:#?}");
    let route = pair.node.netns().ip("route show 10.77.1.0/26").unwrap();
    assert!(route.contains("src 10.77.0.1") && route.contains("mtu 1480"), "{route}");
}

#[test]
fn what_the_node_sends_with_its_underlay_address_arrives_with_its_own_pod_address() {
    let pair = Pair::new();
    let node = pair.node.netns();
    let packets = pair.seen(|| assert!(ping(node, "-I 192.0.2.2 10.77.1.9"), "replies come back"));
    assert!(packets.len() >= 3);
    for packet in &packets {
        assert!(is_encapsulated(packet), "{packet:?}");
        assert_eq!(packet.ip.as_ref().unwrap().source, IpAddr::V4(INNER));
    }
    // To this node's own pods it stays as it is.
    let capture = Capture::start(&pair.pod.netns, "eth0", Direction::In).unwrap();
    assert!(ping(node, "-I 192.0.2.2 10.77.0.9"));
    // The node's end of the pod's link may look for another with its IPv6 address meanwhile.
    let sources: Vec<IpAddr> =
        capture.stop().unwrap().iter().filter_map(|p| Some(p.ip.as_ref()?.source)).collect();
    let sources: Vec<IpAddr> = sources.into_iter().filter(IpAddr::is_ipv4).collect();
    assert!(!sources.is_empty() && sources.iter().all(|ip| *ip == IpAddr::V4(NODE_IPV4)), "{sources:?}");
}

#[test]
fn what_kube_proxy_would_masquerade_leaves_with_the_nodes_own_pod_address() {
    let pair = Pair::new();
    let node = pair.node.netns();
    // As kube-proxy does for a Service with a backend on the other node.
    node.nft(
        "table ip kube-proxy {
            chain pre { type nat hook prerouting priority -100;
                ip daddr 10.96.0.1 meta mark set meta mark | 0x4000 dnat to 10.77.1.9; }
            chain out { type nat hook output priority -100;
                ip daddr 10.96.0.1 meta mark set meta mark | 0x4000 dnat to 10.77.1.9; }
            chain post { type nat hook postrouting priority 100;
                meta mark & 0x4000 == 0x4000 masquerade; }
        }",
    )
    .unwrap();
    let _server = EchoServer::start(&pair.other_pod.netns, [PORT]).unwrap();
    let service = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1), PORT));
    for (who, netns) in [("a pod", &pair.pod.netns), ("the node", node)] {
        let packets = pair.seen(|| {
            let echoed = udp_echo(netns, service, b"service", Duration::from_secs(2)).unwrap();
            assert!(echoed.is_some(), "no answer to {who}");
        });
        let sources: Vec<IpAddr> = packets.iter().map(|packet| packet.ip.as_ref().unwrap().source).collect();
        assert!(packets.iter().all(is_encapsulated), "{who}: {packets:#?}");
        assert!(
            !sources.is_empty() && sources.iter().all(|ip| *ip == IpAddr::V4(INNER)),
            "{who}: {sources:?}"
        );
    }
}

#[test]
fn what_encapsulation_stands_on_is_repaired() {
    let pair = Pair::new();
    let desired =
        DesiredState { pods: vec![pair.pod.wiring.identity.clone()], ..pair.desired(IpipMode::Always) };
    assert_eq!(pair.node.reconcile_ok(&desired), [""; 0]);
    let node = pair.node.netns();
    let check = |tamper: &dyn Fn(), by_repair: bool, expected: &[&str]| {
        tamper();
        let planned = if by_repair {
            let report = pair.node.call(Dataplane::repair);
            assert!(report.errors.is_empty(), "{report:#?}");
            report.planned
        } else {
            pair.node.reconcile_ok(&desired)
        };
        assert_eq!(planned.len(), expected.len(), "{planned:#?}");
        for (text, expected) in planned.iter().zip(expected) {
            assert!(text.contains(expected), "{expected}: {planned:#?}");
        }
        assert_eq!(pair.node.reconcile_ok(&desired), [""; 0]);
        assert!(ping(&pair.pod.netns, "10.77.1.9") && ping(node, "10.77.1.9"), "after {expected:?}");
    };
    let own_address = ["add the node's own address 10.77.0.1", "add route 10.77.1.0/26"];
    check(&|| drop(node.ip("addr del 10.77.0.1/32 dev lo").unwrap()), true, &own_address);
    check(&|| drop(node.ip("addr del 10.77.0.1/32 dev lo").unwrap()), false, &own_address);
    let mtu = || drop(node.ip("link set up0 mtu 1400").unwrap());
    check(&mtu, true, &["replace route 10.77.1.0/26"]);
    assert!(node.ip("route show 10.77.1.0/26").unwrap().contains("mtu 1380"));
    let uplink = node.link("up0").unwrap().index;
    check(&|| pair.node.detach_uplink(uplink), false, &["attach the programs to uplink"]);
    // An address that is no longer its own goes, and the routes are from the new one before it does.
    let mut renumbered = desired.clone();
    renumbered.inner_ipv4 = Some(Ipv4Addr::new(10, 77, 0, 2));
    let planned = pair.node.reconcile_ok(&renumbered);
    let texts = [
        "add the node's own address 10.77.0.2",
        "replace route 10.77.1.0/26",
        "delete the node's own address",
    ];
    for text in texts {
        assert!(planned.iter().any(|planned| planned.contains(text)), "{text}: {planned:#?}");
    }
    assert!(node.ip("route show 10.77.1.0/26").unwrap().contains("src 10.77.0.2"));
    assert!(!node.ip("addr show dev lo").unwrap().contains("10.77.0.1/32"));
}

#[test]
fn a_mode_that_changes_loses_no_packet() {
    let pair = Pair::new();
    let lost = |modes: &[IpipMode]| {
        std::thread::scope(|scope| {
            let ping = || {
                let args = ["-n", "-q", "-c", "300", "-i", "0.005", "-W", "1", "10.77.1.9"];
                Run::new("ping").args(args).finish_in(&pair.pod.netns).unwrap()
            };
            let pinging = scope.spawn(ping);
            for mode in modes {
                std::thread::sleep(Duration::from_millis(300));
                pair.reconcile(*mode);
            }
            String::from_utf8(pinging.join().unwrap().stdout).unwrap()
        })
    };
    let said = lost(&[IpipMode::Never, IpipMode::Always, IpipMode::CrossSubnet]);
    assert!(said.contains("300 received"), "{said}");
    let packets = pair.seen(|| assert!(ping(&pair.pod.netns, "10.77.1.9")));
    assert!(packets.iter().all(|packet| packet.outer.is_none()), "on one link nothing needs encapsulation");
}
