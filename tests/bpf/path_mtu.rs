//! "Fragmentation needed" about outer packets: told to the inner sender, or kept by node.

use std::net::Ipv4Addr;

use crate::bench::{Bench, Program};
use crate::frames::{V4, checksum};
use crate::nodes::{Expect, INNER_B, LOCAL, NODE_B, OUTSIDE, POD_A, POD_B, STRANGER, between, check, inside};

/// Somewhere between the nodes.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// An ICMP error with its checksum.
fn error(kind: u8, code: u8, mtu_bytes: u16, quote: &[u8]) -> Vec<u8> {
    let [high, low] = mtu_bytes.to_be_bytes();
    let mut message = [&[kind, code, 0, 0, 0, 0, high, low], quote].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// What a router sends about a packet, with as much of it as it quotes.
fn too_big(about: &V4, mtu_bytes: u16, quote_len: usize) -> V4 {
    let packet = about.frame()[14..].to_vec();
    let quote = &packet[..quote_len.min(packet.len())];
    V4 {
        tos: 0xc0,
        fragment: 0,
        protocol: 1,
        payload: error(3, 4, mtu_bytes, quote),
        ..between(ROUTER, LOCAL)
    }
}

/// A packet of ours on its way to node B.
fn sent(inner: &V4) -> V4 {
    inside(between(LOCAL, NODE_B), inner)
}

fn kept(bench: &Bench) -> Option<u32> {
    bench.bpf.path_mtus().unwrap().get(&NODE_B).map(|kept| kept.mtu_bytes)
}

#[test]
fn the_inner_sender_is_told_what_fits_inside() {
    let bench = Bench::between_nodes();
    for payload_len in [8usize, 9, 100, 700] {
        for words in [0, 1, 10] {
            for mtu_bytes in [88u16, 576, 1400] {
                // An odd byte and bytes that carry: the checksum is never computed over them.
                let payload = (0..payload_len).map(|at| (at * 37 + 200) as u8).collect::<Vec<u8>>();
                let inner = V4 { options: vec![1; words * 4], payload, ..between(POD_A, POD_B) };
                let frame = too_big(&sent(&inner), mtu_bytes, 548).frame();
                let expected =
                    V4 { source: ROUTER, destination: POD_A, ..too_big(&inner, mtu_bytes - 20, 528) };
                let mut expected = expected.frame();
                let what = format!("{payload_len} bytes, {words} words of options, MTU {mtu_bytes}");
                expected[22] = 64;
                let expect = Expect::BecomesAndCount(expected, "path_mtu_relayed");
                let ran = check(&bench, Program::FromUplink, &what, &frame, &expect);
                assert_eq!(checksum(&ran.frame[34..]), 0, "{what}: ICMP");
            }
        }
    }
    assert_eq!(kept(&bench), None);
}

#[test]
fn the_node_itself_is_told_too() {
    let bench = Bench::between_nodes();
    let inner = between(LOCAL, POD_B);
    let expected = V4 { destination: LOCAL, ..too_big(&inner, 1380, 528) }.frame();
    let frame = too_big(&sent(&inner), 1400, 548).frame();
    let expect = Expect::BecomesAndCount(expected, "path_mtu_relayed");
    check(&bench, Program::FromUplink, "from the node", &frame, &expect);
}

#[test]
fn a_damaged_message_stays_damaged() {
    let bench = Bench::between_nodes();
    let mut frame = too_big(&sent(&between(POD_A, POD_B)), 1400, 548).frame();
    frame[36] ^= 1;
    let ran = bench.run(Program::FromUplink, &frame, crate::bench::Given::default());
    assert_ne!(checksum(&ran.frame[34..]), 0);
}

#[test]
fn what_is_quoted_too_shortly_is_kept_by_node() {
    let mut bench = Bench::between_nodes();
    let inner = V4 { options: vec![1; 4], payload: vec![5; 64], ..between(POD_A, POD_B) };
    for (quote_len, mtu_bytes) in [(20, 1301), (28, 1302), (39, 1303), (40, 1304), (51, 1305)] {
        let frame = too_big(&sent(&inner), mtu_bytes, quote_len).frame();
        let what = format!("{quote_len} bytes quoted");
        check(&bench, Program::FromUplink, &what, &frame, &Expect::Count("path_mtu_kept"));
        assert_eq!(kept(&bench), Some(u32::from(mtu_bytes)), "{what}");
    }
    let at_boot = bench.bpf.path_mtus().unwrap()[&NODE_B].at_boot;
    assert!(!at_boot.is_zero());
    assert!(bench.bpf.remove_path_mtu(NODE_B).unwrap());
    assert!(!bench.bpf.remove_path_mtu(NODE_B).unwrap());
    // One byte more holds what is needed.
    let frame = too_big(&sent(&inner), 1306, 52).frame();
    let expected = V4 { destination: POD_A, ..too_big(&inner, 1286, 32) }.frame();
    let expect = Expect::BecomesAndCount(expected, "path_mtu_relayed");
    check(&bench, Program::FromUplink, "enough", &frame, &expect);
    assert_eq!(kept(&bench), None);
}

#[test]
fn a_node_that_is_forgotten_takes_its_path_mtu_along() {
    let mut bench = Bench::between_nodes();
    let frame = too_big(&sent(&between(POD_A, POD_B)), 1400, 28).frame();
    check(&bench, Program::FromUplink, "kept", &frame, &Expect::Count("path_mtu_kept"));
    assert_eq!(kept(&bench), Some(1400));
    assert!(bench.bpf.remove_peer(NODE_B).unwrap());
    assert_eq!(kept(&bench), None);
    check(&bench, Program::FromUplink, "nobody's", &frame, &Expect::Pass);
}

#[test]
fn other_messages_are_the_kernels() {
    let mut bench = Bench::between_nodes();
    let inner = between(POD_A, POD_B);
    let ours = sent(&inner);
    let with = |change: &dyn Fn(&mut V4)| {
        let mut message = too_big(&ours, 1400, 548);
        change(&mut message);
        message.frame()
    };
    let quote = |packet: &V4| packet.frame()[14..].to_vec();
    let cases = [
        ("unreachable", with(&|m| m.payload = error(3, 1, 0, &quote(&ours)))),
        ("time exceeded", with(&|m| m.payload = error(11, 0, 0, &quote(&ours)))),
        ("echo request", with(&|m| m.payload = error(8, 4, 0, &quote(&ours)))),
        ("no MTU, from before RFC 1191", with(&|m| m.payload = error(3, 4, 0, &quote(&ours)))),
        ("less than IPv4 must carry", with(&|m| m.payload = error(3, 4, 87, &quote(&ours)))),
        ("about another protocol", too_big(&between(LOCAL, NODE_B), 1400, 548).frame()),
        ("about another's packet", too_big(&inside(between(STRANGER, NODE_B), &inner), 1400, 548).frame()),
        (
            "about a packet to a stranger",
            too_big(&inside(between(LOCAL, STRANGER), &inner), 1400, 548).frame(),
        ),
        ("from outside all pools", too_big(&sent(&between(OUTSIDE, POD_B)), 1400, 548).frame()),
        ("to another node", with(&|m| m.destination = STRANGER)),
        ("in fragments", with(&|m| m.fragment = 0x2000)),
        ("with options", with(&|m| m.options = vec![1; 4])),
        ("nothing quoted", with(&|m| m.payload = error(3, 4, 1400, &[]))),
        ("half a header quoted", with(&|m| m.payload = error(3, 4, 1400, &quote(&ours)[..12]))),
    ];
    for (what, frame) in &cases {
        check(&bench, Program::FromUplink, what, frame, &Expect::Pass);
    }
    assert_eq!(kept(&bench), None);
    // A device of the kernel learns by itself.
    bench.set_rule(false);
    check(&bench, Program::FromUplink, "a device", &with(&|_| ()), &Expect::Pass);
}

#[test]
fn a_lying_length_is_not_believed() {
    let bench = Bench::between_nodes();
    let mut frame = too_big(&sent(&between(INNER_B, POD_B)), 1400, 548).frame();
    frame[17] += 1;
    check(&bench, Program::FromUplink, "longer than its frame", &frame, &Expect::Pass);
}
