//! Flows between nodes of different kinds, both ways.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

use harness::{Capture, Direction, NetNs};

use crate::world::{Kind, LIMIT, NARROW_MTU, Side, World};

/// Every pair with one of ours in it, but two devices.
const PAIRS: [(Kind, Kind); 4] = [
    (Kind::Ebpf, Kind::Plain),
    (Kind::Device, Kind::Plain),
    (Kind::Device, Kind::Ebpf),
    (Kind::Ebpf, Kind::Ebpf),
];

/// Sends over TCP and compares what arrives.
fn transfer(from: &NetNs, to: &NetNs, at: Ipv4Addr, len: usize) -> std::io::Result<()> {
    let listener = to.run(|| TcpListener::bind((at, 0))).unwrap()?;
    let target = listener.local_addr()?;
    let mut stream = from.run(|| TcpStream::connect_timeout(&target, LIMIT)).unwrap()?;
    stream.set_write_timeout(Some(LIMIT))?;
    // Nothing in it repeats soon.
    let sent: Vec<u8> =
        (0..len as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> std::io::Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            Ok(received)
        });
        let written = stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write));
        drop(stream);
        let received = reader.join().unwrap();
        written.and(received)
    })?;
    assert!(received == sent, "{} of {len} bytes arrived, or others", received.len());
    Ok(())
}

fn is_pod(address: std::net::IpAddr) -> bool {
    matches!(address, std::net::IpAddr::V4(address) if address.octets()[..2] == [10, 244])
}

#[test]
fn pods_and_nodes_of_any_two_kinds_reach_each_other_inside_outer_headers_only() {
    for (kind_a, kind_b) in PAIRS {
        let what = format!("{kind_a:?} and {kind_b:?}");
        let World { a, b, .. } = &World::flat(kind_a, kind_b);
        let wire = Capture::start(&b.node, "up0", Direction::Both).unwrap();
        for (from, from_kind, to) in [(a, kind_a, b), (b, kind_b, a)] {
            let drops = || {
                let way = from.node.ip(&format!("route get {}", to.pod_address));
                format!("{what}, from {}: {:?}, {:?}; {way:?}", from.address, a.drops(), b.drops())
            };
            assert!(Side::ping(&from.pod, to.pod_address, 56, false), "{}", drops());
            assert!(Side::ping(&from.pod, to.pod_address, 1452, true), "as much as fits: {}", drops());
            assert!(Side::ping(&from.pod, to.pod_address, 4000, false), "in fragments: {}", drops());
            transfer(&from.pod, &to.pod, to.pod_address, 1 << 20)
                .unwrap_or_else(|error| panic!("{error}: {}", drops()));
            // A plain node sends from its address on the underlay. A pod's answer to that would leave as it is, so a node
            // of ours refuses it; nodes of ours send from an inner address.
            if from_kind == Kind::Plain {
                continue;
            }
            assert!(Side::ping(&from.node, to.pod_address, 56, false), "from the node: {}", drops());
            transfer(&from.node, &to.pod, to.pod_address, 256 << 10)
                .unwrap_or_else(|error| panic!("from the node: {error}: {}", drops()));
        }
        assert_eq!((a.drops(), b.drops()), (Vec::new(), Vec::new()), "{what}");
        let between_pods = |inside: bool| {
            wire.count(|packet| {
                let ip = packet.ip.filter(|ip| is_pod(ip.source) || is_pod(ip.destination));
                ip.is_some() && packet.outer.is_some() == inside
            })
        };
        assert_eq!(between_pods(false), 0, "{what}: packets of pods as they are");
        assert!(between_pods(true) > 100, "{what}: {} packets inside outer headers", between_pods(true));
        assert_eq!(wire.count(|p| p.outer.is_some_and(|outer| !outer.checksum_holds)), 0, "{what}");
    }
}

#[test]
fn a_narrow_way_is_told_to_the_pod_by_every_kind() {
    let mtu_of = |netns: &NetNs, to: Ipv4Addr| {
        let shown = netns.ip_json(&format!("route get {to}")).unwrap();
        shown[0]["metrics"][0]["mtu"].as_u64()
    };
    for kind in [Kind::Plain, Kind::Ebpf, Kind::Device] {
        let World { a, b, .. } = &World::routed(kind, Kind::Plain);
        assert!(Side::ping(&a.pod, b.pod_address, 56, false), "{kind:?}: {:?}", a.drops());
        // The first is lost on the way; a device tells the sender with the next.
        let told = (0..4).any(|_| {
            assert!(!Side::ping(&a.pod, b.pod_address, 1400, true), "{kind:?}: more than the way carries");
            mtu_of(&a.pod, b.pod_address) == Some(u64::from(NARROW_MTU) - 20)
        });
        assert!(told, "{kind:?}: {:?}, {:?}", mtu_of(&a.pod, b.pod_address), a.drops());
        transfer(&a.pod, &b.pod, b.pod_address, 512 << 10)
            .unwrap_or_else(|e| panic!("{kind:?}: {e}: {:?}", a.drops()));
        transfer(&b.pod, &a.pod, a.pod_address, 512 << 10)
            .unwrap_or_else(|e| panic!("{kind:?}: {e}: {:?}", a.drops()));
    }
}
