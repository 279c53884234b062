//! What leaves a node of ours is, byte for byte, what `tunl0` sends for the same packet: all but the outer header's
//! identification and its checksum.

use std::time::{Duration, Instant};

use harness::{Capture, Direction, RawSender};

use crate::packet::{DF, ETHERNET, HEADER, Ipv4, be16, checksum, hex};
use crate::world::{Kind, LIMIT, Side, World};

/// Where the inner identification is in a frame with an outer header.
const INNER_ID: usize = ETHERNET + HEADER + 4;

/// Where an ICMP message is in a frame, and the identification of the packet that it is about.
const ICMP: usize = ETHERNET + HEADER;
const QUOTED_ID: usize = ICMP + 8 + 4;

/// What one packet of a pod became.
#[derive(Debug, PartialEq, Eq)]
struct Became {
    /// On the wire, in order, without what is masked.
    outer: Vec<String>,
    /// What the pod was told: type, code and MTU, and the header it is about.
    told: Vec<String>,
}

/// Sends packets out of node A's pod, one after the other, and watches the wire at node B and the pod itself.
fn send_all(kind: Kind, packets: &[Ipv4]) -> Vec<Became> {
    let world = World::flat(kind, Kind::Plain);
    // Neighbours are found, and everything is up.
    assert!(Side::ping(&world.a.pod, world.b.pod_address, 8, false), "{kind:?}: {:?}", world.a.drops());
    let sender = RawSender::new(&world.a.pod, "eth0").unwrap();
    let gateway = world.a.node.link("host0").unwrap().mac;
    let wire = Capture::start(&world.b.node, "up0", Direction::In).unwrap();
    let pod = Capture::start(&world.a.pod, "eth0", Direction::In).unwrap();
    let is_outer = |frame: &[u8], id: u16| frame.len() > INNER_ID + 2 && be16(frame, INNER_ID) == id;
    let is_told = |frame: &[u8], id: u16| {
        frame.len() > QUOTED_ID + 2 && frame[ICMP..ICMP + 2] == [3, 4] && be16(frame, QUOTED_ID) == id
    };
    for packet in packets {
        sender.send(&packet.frame(sender.mac(), gateway)).unwrap();
        let started = Instant::now();
        let wanted = if packet.fragment & DF == 0 && packet.payload.len() > 1460 { 2 } else { 1 };
        while wire.count(|p| is_outer(&p.frame, packet.id)) + pod.count(|p| is_told(&p.frame, packet.id))
            < wanted
        {
            assert!(started.elapsed() < LIMIT, "{kind:?}: nothing came of {packet:?}: {:?}", world.a.drops());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let (wire, pod) = (wire.stop().unwrap(), pod.stop().unwrap());
    packets
        .iter()
        .map(|packet| Became {
            outer: wire.iter().filter(|p| is_outer(&p.frame, packet.id)).map(|p| masked(&p.frame)).collect(),
            // Code, MTU, and the header it is about with the first eight bytes behind.
            told: pod
                .iter()
                .filter(|p| is_told(&p.frame, packet.id))
                .map(|p| hex(&[&p.frame[ICMP..ICMP + 2], &p.frame[ICMP + 4..ICMP + 36]].concat()))
                .collect(),
        })
        .collect()
}

/// A frame without its Ethernet header, its outer identification and checksum zeroed once they are found good.
fn masked(frame: &[u8]) -> String {
    let mut packet = frame[ETHERNET..].to_vec();
    assert_eq!(checksum(&packet[..HEADER]), 0, "outer checksum: {}", hex(&packet));
    assert_eq!(checksum(&packet[HEADER..2 * HEADER]), 0, "inner checksum: {}", hex(&packet));
    assert_ne!(be16(&packet, 4), 0, "no identification: {}", hex(&packet));
    packet[4..6].fill(0);
    packet[10..12].fill(0);
    hex(&packet)
}

fn check(packets: &[Ipv4]) {
    let expected = send_all(Kind::Plain, packets);
    for kind in [Kind::Ebpf, Kind::Device] {
        let found = send_all(kind, packets);
        for ((packet, found), expected) in packets.iter().zip(&found).zip(&expected) {
            assert_eq!(found, expected, "{kind:?}: {packet:?}");
        }
    }
}

fn datagram(id: usize, len: usize) -> Ipv4 {
    let (source, destination) = ([10, 244, 1, 2].into(), [10, 244, 2, 2].into());
    Ipv4::udp(source, destination, 0x4000 + u16::try_from(id).unwrap(), len)
}

#[test]
fn every_outer_header_is_that_of_the_kernel() {
    let mut packets = Vec::new();
    for ecn in 0..4 {
        for dscp in [0, 46 << 2] {
            for fragment in [0, DF] {
                packets.push(Ipv4 { tos: dscp | ecn, fragment, ..datagram(packets.len(), 60) });
            }
        }
    }
    for ttl in [2, 3, 128, 255] {
        packets.push(Ipv4 { ttl, ..datagram(packets.len(), 100) });
    }
    for (len, fragment) in [(28, 0), (28, DF), (1479, DF), (1480, 0), (1480, DF)] {
        packets.push(Ipv4 { fragment, ..datagram(packets.len(), len) });
    }
    // A protocol that nobody knows. No fragments alone: connection tracking on a node of ours waits for the rest.
    packets.push(Ipv4 { protocol: 253, ..datagram(packets.len(), 77) });
    check(&packets);
}

#[test]
fn what_does_not_fit_is_cut_or_refused_as_the_kernel_does_it() {
    let packets: Vec<Ipv4> = [(1481, 0), (1500, 0), (1481, DF), (1500, DF)]
        .into_iter()
        .enumerate()
        .map(|(id, (len, fragment))| Ipv4 { fragment, ..datagram(id, len) })
        .collect();
    check(&packets);
}
