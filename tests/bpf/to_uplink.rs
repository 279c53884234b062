//! What leaves through an uplink: outer headers, and what gets none.

use bpf::RemoteRange;

use crate::bench::{Bench, DROP, Given, PASS, Program, TAG, rule};
use crate::frames::{Arp, FAR_V6, POD_V4, SHORTEST, V4, V6, checksum, ethernet};
use crate::nodes::{
    Expect, LENT, LOCAL, NODE_B, NODE_C, OUTSIDE, POD_A, POD_B, POD_C, STRANGER, UNCOVERED, between, check,
    inside,
};

/// An outer header from this node.
fn outer(node: std::net::Ipv4Addr) -> V4 {
    V4 { tos: 0, fragment: 0x4000, ..between(LOCAL, node) }
}

#[test]
fn a_packet_to_an_encapsulated_range_gets_a_header_to_its_node() {
    let bench = Bench::between_nodes();
    let check = |what: &str, inner: V4, node| {
        let expected = inside(V4 { fragment: inner.fragment & 0x4000, ..outer(node) }, &inner).frame();
        check(&bench, Program::ToUplink, what, &inner.frame(), &Expect::Becomes(expected));
    };
    check("a block", between(POD_A, POD_B), NODE_B);
    check("an address lent out of it", between(POD_A, LENT), NODE_C);
    check("from the node itself", between(LOCAL, POD_B), NODE_B);
    check("from elsewhere", between(OUTSIDE, POD_B), NODE_B);
    check("without DF", V4 { fragment: 0, ..between(POD_A, POD_B) }, NODE_B);
    check("a first fragment", V4 { fragment: 0x2000, ..between(POD_A, POD_B) }, NODE_B);
    check("a later fragment", V4 { fragment: 185, ..between(POD_A, POD_B) }, NODE_B);
    for words in [1, 10] {
        let options = vec![1; words * 4];
        check("with options", V4 { options, ..between(POD_A, POD_B) }, NODE_B);
    }
    check("nothing behind the header", V4 { payload: vec![], ..between(POD_A, POD_B) }, NODE_B);
    check("a pod's own tunnel", inside(between(POD_A, POD_B), &between(POD_A, OUTSIDE)), NODE_B);
    check("as long as an Ethernet frame", V4 { payload: vec![7; 1460], ..between(POD_A, POD_B) }, NODE_B);
}

#[test]
fn everything_else_leaves_as_it_is() {
    let mut bench = Bench::between_nodes();
    let node_c = RemoteRange { node: NODE_C, encapsulate: true };
    // A pool that holds the nodes' own addresses.
    bench.bpf.set_remote_range("192.0.2.0/24".parse().unwrap(), node_c).unwrap();
    let between_nodes = inside(between(LOCAL, NODE_B), &between(POD_A, POD_B));
    for (what, frame) in [
        ("not encapsulated", between(POD_A, POD_C).frame()),
        ("no range", between(POD_A, OUTSIDE).frame()),
        ("no block", between(POD_A, UNCOVERED).frame()),
        ("our own range", between(OUTSIDE, POD_A).frame()),
        ("encapsulated already", between_nodes.frame()),
        ("IPv6", V6::from(FAR_V6).frame()),
        ("ARP", Arp::request(POD_V4).frame()),
        ("not even an ARP header", Arp::request(POD_V4).frame()[..SHORTEST].to_vec()),
        ("tagged in the frame", ethernet(0x8100, &[&[0, 7], &between(POD_A, POD_B).frame()[12..]].concat())),
    ] {
        check(&bench, Program::ToUplink, what, &frame, &Expect::Pass);
    }
}

#[test]
fn what_cannot_be_encapsulated_does_not_leave() {
    let bench = Bench::between_nodes();
    let whole = between(POD_A, POD_B).frame();
    let with = |at: usize, byte: u8| {
        let mut frame = whole.clone();
        frame[at] = byte;
        frame
    };
    let long = |total_len: u16| {
        let mut frame = whole.clone();
        frame[16..18].copy_from_slice(&total_len.to_be_bytes());
        frame
    };
    for (what, frame, reason) in [
        ("version 6 under the number of IPv4", with(14, 0x65), "malformed"),
        ("a header of 16 bytes", with(14, 0x44), "malformed"),
        ("shorter than its header", with(17, 19), "malformed"),
        ("longer than its frame", with(17, 33), "malformed"),
        ("no length", with(17, 0), "malformed"),
        ("cut short behind the header", whole[..whole.len() - 1].to_vec(), "malformed"),
        ("as long as can be said", long(0xffff), "too_long"),
        ("longer than leaves room for a header", long(0xffff - 19), "too_long"),
        ("longer than its frame by far", long(0xffff - 20), "malformed"),
    ] {
        check(&bench, Program::ToUplink, what, &frame, &Expect::Drop(reason));
    }
    let drops = bench.bpf.fetch_drops().unwrap();
    let elsewhere = Given { ifindex: Some(1), ..Given::default() };
    assert_eq!(bench.run(Program::ToUplink, &whole, elsewhere).verdict, DROP);
    assert_eq!(bench.drops_since(&drops), [("no_uplink", 1)]);
}

#[test]
fn ecn_goes_out_and_congestion_stays_inside() {
    let bench = Bench::between_nodes();
    for (ecn, expected) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
        for dscp in [0, 10, 46, 63] {
            let inner = V4 { tos: dscp << 2 | ecn, ..between(POD_A, POD_B) };
            let expected = inside(V4 { tos: expected, ..outer(NODE_B) }, &inner).frame();
            check(&bench, Program::ToUplink, "ECN", &inner.frame(), &Expect::Becomes(expected));
        }
    }
}

#[test]
fn the_code_point_goes_out_when_the_pool_of_the_mark_has_one() {
    let mut bench = Bench::between_nodes();
    let inner = V4 { tos: 46 << 2 | 3, ..between(POD_A, POD_B) };
    let tos = |bench: &Bench, mark| {
        let ran = bench.run(Program::ToUplink, &inner.frame(), Given { mark, ..Given::default() });
        assert_eq!((ran.verdict, ran.mark), (PASS, mark));
        assert_eq!(checksum(&ran.frame[14..34]), 0);
        ran.frame[15]
    };
    bench.set_pools(rule(TAG, true, Some(46)));
    assert_eq!(tos(&bench, 0x0005_0000), 46 << 2 | 2);
    assert_eq!(tos(&bench, 0xf805_ffff), 46 << 2 | 2, "NAT bit and foreign bits");
    assert_eq!(tos(&bench, 0x0007_0000), 2, "a pool without a code point");
    assert_eq!(tos(&bench, 0x0009_0000), 2, "no pool");
    assert_eq!(tos(&bench, 0xf000_ffff), 2, "no tag");
    bench.set_pools(rule(TAG, true, None));
    assert_eq!(tos(&bench, 0x0005_0000), 2, "not any more");
}

#[test]
fn ttl_and_df_are_the_inner_ones_and_every_identification_is_new() {
    let bench = Bench::between_nodes();
    let mut ids = std::collections::BTreeSet::new();
    for ttl in [1u8, 2, 63, 64, 255] {
        for fragment in [0, 0x4000] {
            let mut frame = V4 { fragment, ..between(POD_A, POD_B) }.frame();
            frame[22] = ttl;
            let ran = bench.run(Program::ToUplink, &frame, Given::default());
            let header = &ran.frame[14..34];
            assert_eq!((header[8], header[6], header[7]), (ttl, (fragment >> 8) as u8, 0));
            assert_eq!(checksum(header), 0);
            assert_eq!(ran.frame[34..], frame[14..]);
            ids.insert([header[4], header[5]]);
        }
    }
    assert!(ids.len() > 5, "{ids:?}");
}

/// Frames of a plain kernel's tunl0, as captured: identification and checksum are the kernel's, so they are taken from
/// what comes out.
#[test]
fn headers_are_those_of_the_kernels_own_tunnel() {
    let bench = Bench::between_nodes();
    let bytes = |words: &str| {
        let digits: String = words.split_whitespace().collect();
        (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap()).collect()
    };
    for (what, captured) in [
        (
            "DF",
            "0200 0000 000b 0200 0000 000a 0800 4500 0040 ffa9 4000 3f04 b80c c000 0201 c000
             0202 4500 002c 0000 4000 3f01 22e6 0af4 0102 0af4 0202 0800 d4ea 00d2 0001 0913
             016b 0000 0000 12c4 0500 0000 0000",
        ),
        (
            "no DF",
            "0200 0000 000b 0200 0000 000a 0800 4500 0040 006a 0000 3f04 f74c c000 0201 c000
             0202 4500 002c 581b 0000 3f01 0acb 0af4 0102 0af4 0202 0800 8e37 00d8 0001 0a13
             016b 0000 0000 5b71 0200 0000 0000",
        ),
        (
            "EF and ECT(0)",
            "0200 0000 000b 0200 0000 000a 0800 4502 0040 00e4 4000 3f04 b6d0 c000 0201 c000
             0202 45ba 002c 0000 4000 3f01 222c 0af4 0102 0af4 0202 0800 20e6 00de 0001 0a13
             016b 0000 0000 bcbc 0e00 0000 0000",
        ),
        (
            "congestion",
            "0200 0000 000b 0200 0000 000a 0800 4502 0040 0107 4000 3f04 b6ad c000 0201 c000
             0202 4503 002c 0000 4000 3f01 22e3 0af4 0102 0af4 0202 0800 9c63 00e4 0001 0b13
             016b 0000 0000 4339 0b00 0000 0000",
        ),
    ] {
        let captured: Vec<u8> = bytes(captured);
        assert_eq!(checksum(&captured[14..34]), 0, "{what}: the capture itself");
        let plain = [&captured[..14], &captured[34..]].concat();
        check(&bench, Program::ToUplink, what, &plain, &Expect::Becomes(captured));
    }
}

#[test]
fn another_range_or_rule_holds_from_the_next_packet_on() {
    let mut bench = Bench::between_nodes();
    let inner = between(POD_A, POD_B);
    let cidr = "10.244.2.0/24".parse().unwrap();
    let moved = RemoteRange { node: STRANGER, encapsulate: true };
    bench.bpf.set_remote_range(cidr, moved).unwrap();
    let expected = inside(outer(STRANGER), &inner).frame();
    check(&bench, Program::ToUplink, "moved", &inner.frame(), &Expect::Becomes(expected));
    bench.bpf.set_remote_range(cidr, RemoteRange { encapsulate: false, ..moved }).unwrap();
    check(&bench, Program::ToUplink, "direct", &inner.frame(), &Expect::Pass);
    assert!(bench.bpf.remove_remote_range(cidr).unwrap());
    check(&bench, Program::ToUplink, "gone", &inner.frame(), &Expect::Pass);
}
