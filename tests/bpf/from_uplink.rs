//! What arrives from other nodes: whom it is believed, and what is left of it.

use std::net::Ipv4Addr;

use crate::bench::{Bench, Given, PASS, Program};
use crate::frames::{Arp, FAR_V6, SHORTEST, V4, V6};
use crate::nodes::{
    Expect, INNER_B, LENT, LOCAL, NODE_B, NODE_C, OUTSIDE, POD_A, POD_B, POD_C, STRANGER, UNCOVERED, between,
    check, hex, inside,
};

/// An outer header to this node.
fn outer(node: Ipv4Addr) -> V4 {
    between(node, LOCAL)
}

/// A pod's packet, encapsulated by a node.
fn sent_by(node: Ipv4Addr, inner: &V4) -> Vec<u8> {
    inside(outer(node), inner).frame()
}

#[test]
fn a_nodes_own_sources_are_decapsulated_and_no_others() {
    let bench = Bench::between_nodes();
    let check =
        |what: &str, node, source, destination, expect: Option<Result<&'static str, &'static str>>| {
            let inner = between(source, destination);
            let expect = match expect {
                None => Expect::Becomes(inner.frame()),
                Some(Ok(counted)) => Expect::BecomesAndCount(inner.frame(), counted),
                Some(Err(reason)) => Expect::Drop(reason),
            };
            check(&bench, Program::FromUplink, what, &sent_by(node, &inner), &expect);
        };
    check("its block", NODE_B, POD_B, POD_A, None);
    check("an address lent to it", NODE_C, LENT, POD_A, None);
    check("its block that is not encapsulated", NODE_C, POD_C, POD_A, None);
    check("its own address out of a pool", NODE_B, INNER_B, POD_A, None);
    check("its address on the underlay", NODE_B, NODE_B, POD_A, Some(Err("inner_source")));
    check("to the node itself", NODE_B, POD_B, LOCAL, None);

    check("another node's block", NODE_C, POD_B, POD_A, Some(Err("inner_source")));
    check("another's, the other way", NODE_B, POD_C, POD_A, Some(Err("inner_source")));
    check("our own block", NODE_B, POD_A, POD_A, Some(Err("inner_source")));
    check("our own address", NODE_B, LOCAL, POD_A, Some(Err("inner_source")));
    check("another node's address", NODE_B, NODE_C, POD_A, Some(Err("inner_source")));
    check("no pool", NODE_B, OUTSIDE, POD_A, Some(Err("inner_source")));
    check("the own address of another node", NODE_C, INNER_B, OUTSIDE, Some(Ok("uncovered_source")));

    check("a node nobody knows", STRANGER, POD_B, POD_A, Some(Err("unknown_node")));
    check("ourselves", LOCAL, POD_A, POD_A, Some(Err("unknown_node")));

    check("an address that its owner had lent", NODE_B, LENT, POD_A, Some(Ok("owner_relay")));
    check("passed on to an address lent to us", NODE_B, POD_C, LENT, Some(Ok("owner_relay")));
    check("our own source, passed back", NODE_B, POD_A, LENT, Some(Err("inner_source")));
    check("passed on by one who does not own it", NODE_C, POD_B, LENT, Some(Err("inner_source")));
    check("a block claimed a moment ago", NODE_C, UNCOVERED, POD_A, Some(Ok("uncovered_source")));
    check("the same from a stranger", STRANGER, UNCOVERED, POD_A, Some(Err("unknown_node")));
}

#[test]
fn outer_headers_must_be_whole_and_right() {
    let bench = Bench::between_nodes();
    let inner = between(POD_B, POD_A);
    let whole = sent_by(NODE_B, &inner);
    let check = |what: &str, frame: Vec<u8>, reason| {
        check(&bench, Program::FromUplink, what, &frame, &Expect::Drop(reason));
    };
    let with = |outer: V4| inside(outer, &inner).frame();
    check("a first fragment", with(V4 { fragment: 0x2000, ..outer(NODE_B) }), "outer_fragment");
    check("a later fragment", with(V4 { fragment: 1, ..outer(NODE_B) }), "outer_fragment");
    check("the last fragment", with(V4 { fragment: 0x1000, ..outer(NODE_B) }), "outer_fragment");
    check("a stranger's fragment", with(V4 { fragment: 0x2000, ..outer(STRANGER) }), "outer_fragment");
    for words in [1, 10] {
        check("options", with(V4 { options: vec![1; words * 4], ..outer(NODE_B) }), "outer_header");
    }
    for at in (14..34).filter(|at| !(30..34).contains(at) && ![20, 21, 23].contains(at)) {
        let mut frame = whole.clone();
        frame[at] ^= 0x10;
        // A version of 5 or a header of 21 words is no IPv4 header; all else is a wrong checksum.
        check(&format!("byte {at} damaged"), frame, "outer_header");
    }
    let mut longer = whole.clone();
    longer.truncate(whole.len() - 1);
    check("longer than its frame", longer, "outer_header");
    for len in 34..54 {
        check(&format!("{len} bytes"), whole[..len].to_vec(), "truncated");
    }
}

#[test]
fn what_is_inside_must_be_ipv4_and_fit() {
    let bench = Bench::between_nodes();
    let check = |what: &str, payload: Vec<u8>| {
        let frame = V4 { protocol: 4, payload, ..outer(NODE_B) }.frame();
        check(&bench, Program::FromUplink, what, &frame, &Expect::Drop("inner_header"));
    };
    let inner = between(POD_B, POD_A).frame()[14..].to_vec();
    let with = |at: usize, byte: u8| {
        let mut inner = inner.clone();
        inner[at] = byte;
        inner
    };
    check("IPv6 under the wrong number", with(0, 0x60));
    check("a header of 16 bytes", with(0, 0x44));
    check("a header longer than its packet", with(0, 0x4f));
    check("shorter than its header", with(3, 19));
    check("no length", with(3, 0));
    check("one byte longer than the outer packet", with(3, 33));
    check("much longer", with(2, 0xff));
}

#[test]
fn inner_options_fragments_and_padding_arrive_as_they_were() {
    let bench = Bench::between_nodes();
    let check = |what: &str, inner: V4, padding: usize| {
        let pad = vec![0; padding];
        let frame = [sent_by(NODE_B, &inner), pad.clone()].concat();
        let expected = [inner.frame(), pad].concat();
        check(&bench, Program::FromUplink, what, &frame, &Expect::Becomes(expected));
    };
    for words in [1, 10] {
        check("options", V4 { options: vec![1; words * 4], ..between(POD_B, POD_A) }, 0);
    }
    for fragment in [0, 0x2000, 185, 0x2000 | 185] {
        check("fragments", V4 { fragment, ..between(POD_B, POD_A) }, 0);
    }
    check("padding of a short frame", V4 { payload: vec![1], ..between(POD_B, POD_A) }, 5);
    check("nothing behind the header", V4 { payload: vec![], ..between(POD_B, POD_A) }, 0);
    check("a pod's own tunnel", inside(between(POD_B, POD_A), &between(OUTSIDE, POD_A)), 0);
    check("as long as an Ethernet frame", V4 { payload: vec![7; 1460], ..between(POD_B, POD_A) }, 0);
}

/// RFC 6040, figure 4: rows are outer, columns inner, in the order Not-ECT, ECT(1), ECT(0), CE.
#[test]
fn congestion_on_the_way_reaches_the_inner_header() {
    let bench = Bench::between_nodes();
    let table: [[Option<u8>; 4]; 4] = [
        [Some(0), Some(1), Some(2), Some(3)],
        [Some(0), Some(1), Some(1), Some(3)],
        [Some(0), Some(1), Some(2), Some(3)],
        [None, Some(3), Some(3), Some(3)],
    ];
    for (outer_ecn, row) in (0u8..).zip(table) {
        for (inner_ecn, delivered) in (0u8..).zip(row) {
            for dscp in [0u8, 10, 63] {
                let what = format!("{outer_ecn} outside, {inner_ecn} inside");
                let inner = |ecn| V4 { tos: dscp << 2 | ecn, options: vec![1; 4], ..between(POD_B, POD_A) };
                let frame = inside(V4 { tos: 0xb8 | outer_ecn, ..outer(NODE_B) }, &inner(inner_ecn)).frame();
                let expect =
                    delivered.map_or(Expect::Drop("ecn_not_ect"), |ecn| Expect::Becomes(inner(ecn).frame()));
                check(&bench, Program::FromUplink, &what, &frame, &expect);
            }
        }
    }
}

#[test]
fn everything_else_arrives_as_it_is() {
    let bench = Bench::between_nodes();
    let tunnel = inside(between(NODE_B, LOCAL), &between(POD_B, POD_A));
    for (what, frame) in [
        ("to the node", between(NODE_B, LOCAL).frame()),
        ("an encapsulated source to the node", between(POD_B, LOCAL).frame()),
        ("from outside to a pod", between(OUTSIDE, POD_A).frame()),
        ("from a range that is not encapsulated", between(POD_C, POD_A).frame()),
        ("a tunnel that is not ours", V4 { destination: STRANGER, ..tunnel.clone() }.frame()),
        ("IPv6", V6::from(FAR_V6).frame()),
        ("ARP", Arp::request(NODE_B).frame()),
        ("not even an ARP header", Arp::request(NODE_B).frame()[..SHORTEST].to_vec()),
    ] {
        check(&bench, Program::FromUplink, what, &frame, &Expect::Pass);
    }
    let plain = between(POD_B, POD_A).frame();
    check(&bench, Program::FromUplink, "plain", &plain, &Expect::Count("not_encapsulated"));
    let elsewhere = Given { ifindex: Some(1), ..Given::default() };
    let ran = bench.run(Program::FromUplink, &tunnel.frame(), elsewhere);
    assert_eq!((ran.verdict, hex(&ran.frame)), (PASS, hex(&tunnel.frame())), "an interface without a rule");
}

#[test]
fn for_a_device_of_the_kernel_it_only_checks() {
    let mut bench = Bench::between_nodes();
    bench.set_rule(false);
    let check = |what: &str, frame: Vec<u8>, expect: Expect| {
        check(&bench, Program::FromUplink, what, &frame, &expect);
    };
    check("its block", sent_by(NODE_B, &between(POD_B, POD_A)), Expect::Pass);
    check("another's", sent_by(NODE_C, &between(POD_B, POD_A)), Expect::Drop("inner_source"));
    check("a stranger", sent_by(STRANGER, &between(POD_B, POD_A)), Expect::Drop("unknown_node"));
    check("uncovered", sent_by(NODE_C, &between(UNCOVERED, POD_A)), Expect::Count("uncovered_source"));
    let congested = inside(V4 { tos: 3, ..outer(NODE_B) }, &between(POD_B, POD_A));
    check("congestion is the device's", congested.frame(), Expect::Pass);
}

#[test]
fn what_one_node_encapsulates_another_decapsulates() {
    let bench = Bench::between_nodes();
    for inner in [between(POD_A, POD_B), V4 { tos: 0xba, options: vec![1; 8], ..between(POD_A, POD_B) }] {
        let out = bench.run(Program::ToUplink, &inner.frame(), Given::default());
        // Seen from node B, which has no such rule here: as if both had swapped places.
        let mut frame = out.frame;
        for at in [26, 46] {
            let (source, destination): (Vec<u8>, Vec<u8>) =
                (frame[at..at + 4].to_vec(), frame[at + 4..at + 8].to_vec());
            frame[at..at + 4].copy_from_slice(&destination);
            frame[at + 4..at + 8].copy_from_slice(&source);
        }
        let back = V4 { source: POD_B, destination: POD_A, ..inner };
        check(&bench, Program::FromUplink, "there and back", &frame, &Expect::Becomes(back.frame()));
    }
}
