//! What a node of ours makes of outer headers is what `tunl0` makes of them; only whom it believes is its own.

use std::net::Ipv4Addr;
use std::time::Duration;

use harness::{Capture, Direction, RawSender};

use crate::packet::{DF, ETHERNET, Ipv4, be16, hex};
use crate::world::{Kind, LIMIT, Side, World};

/// Sends frames from node B's uplink to node A, and says what arrived at node A's pod of each, in order.
fn receive_all(kind: Kind, packets: &[Ipv4]) -> Vec<Option<String>> {
    let world = World::flat(kind, Kind::Plain);
    assert!(Side::ping(&world.b.pod, world.a.pod_address, 8, false), "{kind:?}: {:?}", world.a.drops());
    let sender = RawSender::new(&world.b.node, "up0").unwrap();
    let to = world.a.node.link("up0").unwrap().mac;
    let pod = Capture::start(&world.a.pod, "eth0", Direction::In).unwrap();
    for packet in packets {
        sender.send(&packet.frame(sender.mac(), to)).unwrap();
    }
    // What comes last comes through always; all before it has then arrived or never will.
    let last = inner(&world, 0xffff).inside(world.b.address, world.a.address, 0);
    sender.send(&last.frame(sender.mac(), to)).unwrap();
    let id_of = |frame: &[u8]| (frame.len() > ETHERNET + 20).then(|| be16(frame, ETHERNET + 4));
    let came = pod.wait_for(LIMIT, |p| id_of(&p.frame) == Some(0xffff));
    assert!(came.is_some(), "{kind:?}: {:?}", world.a.drops());
    // The two CPUs of a guest may pass each other.
    std::thread::sleep(Duration::from_millis(50));
    let frames = pod.stop().unwrap();
    packets
        .iter()
        .map(|packet| {
            let inner_id = be16(&packet.payload, 4);
            let mut found = frames.iter().filter(|p| id_of(&p.frame) == Some(inner_id));
            let first = found.next().map(|p| hex(&p.frame[ETHERNET..]));
            assert!(found.next().is_none(), "{kind:?}: {packet:?} came twice");
            first
        })
        .collect()
}

fn inner(world: &World, id: u16) -> Ipv4 {
    Ipv4::udp(world.b.pod_address, world.a.pod_address, id, 60)
}

const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const POD_A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const POD_B: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);

#[test]
fn every_combination_of_ecn_ends_as_in_the_kernel() {
    let mut packets = Vec::new();
    for dscp in [0, 46 << 2] {
        for outer in 0..4 {
            for inner in 0..4 {
                let id = 0x100 + u16::try_from(packets.len()).unwrap();
                let packet = Ipv4 { tos: dscp | inner, ..Ipv4::udp(POD_B, POD_A, id, 60) };
                packets.push(packet.inside(NODE_B, NODE_A, outer));
            }
        }
    }
    let expected = receive_all(Kind::Plain, &packets);
    // RFC 6040: congestion that the inner packet cannot carry drops it, and nothing else does.
    let dropped = expected.iter().filter(|arrived| arrived.is_none()).count();
    assert_eq!(dropped, 2, "{expected:#?}");
    for kind in [Kind::Ebpf, Kind::Device] {
        let found = receive_all(kind, &packets);
        for ((packet, found), expected) in packets.iter().zip(&found).zip(&expected) {
            let inner_tos = packet.payload[1];
            assert_eq!(found, expected, "{kind:?}: outer {:#04x}, inner {inner_tos:#04x}", packet.tos);
        }
    }
}

#[test]
fn inner_packets_come_out_as_they_went_in() {
    let inner = |id: u16, len: usize| Ipv4::udp(POD_B, POD_A, 0x200 + id, len);
    let packets: Vec<Ipv4> = [
        Ipv4 { fragment: DF, ..inner(0, 60) },
        Ipv4 { ttl: 2, ..inner(1, 60) },
        Ipv4 { ttl: 255, ..inner(2, 60) },
        inner(3, 28),
        inner(4, 1480),
        // No fragments alone: connection tracking on a node of ours waits for the rest.
        Ipv4 { protocol: 253, ..inner(5, 61) },
    ]
    .iter()
    .flat_map(|inner| {
        let outer = inner.inside(NODE_B, NODE_A, 0);
        [outer.clone(), Ipv4 { ttl: 1, payload: with_id(&outer.payload, 0x80), ..outer }]
    })
    .collect();
    let expected = receive_all(Kind::Plain, &packets);
    assert!(expected.iter().all(Option::is_some), "{expected:#?}");
    for kind in [Kind::Ebpf, Kind::Device] {
        let found = receive_all(kind, &packets);
        for ((packet, found), expected) in packets.iter().zip(&found).zip(&expected) {
            assert_eq!(found, expected, "{kind:?}: {packet:?}");
        }
    }
}

/// Another identification, and the checksum that goes with it.
fn with_id(packet: &[u8], plus: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let id = be16(&packet, 4) + plus;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[10..12].fill(0);
    let sum = crate::packet::checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

#[test]
fn strangers_are_believed_by_the_kernel_and_not_by_us() {
    let stranger = Ipv4Addr::new(192, 0, 2, 99);
    let own = Ipv4::udp(POD_B, POD_A, 0x300, 60);
    let packets = [
        own.inside(stranger, NODE_A, 0),
        Ipv4 { source: Ipv4Addr::new(10, 244, 1, 9), id: 0x301, ..own.clone() }.inside(NODE_B, NODE_A, 0),
        Ipv4 { id: 0x302, ..own }.inside(NODE_B, NODE_A, 0),
    ];
    let arrived = |kind| receive_all(kind, &packets).iter().map(Option::is_some).collect::<Vec<_>>();
    assert_eq!(arrived(Kind::Plain), [true, true, true]);
    assert_eq!(arrived(Kind::Ebpf), [false, false, true]);
    assert_eq!(arrived(Kind::Device), [false, false, true]);
}
