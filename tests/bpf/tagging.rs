//! Marks, DSCP and counters, both ways.

use bpf::PoolCounters;
use model::MarkLayout;

use crate::bench::{Bench, DROP, Expect, Given, MARK, PASS, Program, TAG, check, rule};
use crate::frames::{Arp, FAR_V4, FAR_V6, LINK_LOCAL, OTHER_V4, POD_V4, POD_V6, SHORTEST, V4, V6, checksum};

const NAT_BIT: u32 = 0x0800_0000;

#[test]
fn the_mark_is_written_under_the_mask_and_no_other_bit_changes() {
    let mut bench = Bench::new();
    for (nat, ours) in [(false, MARK), (true, MARK | NAT_BIT)] {
        bench.set_pools(rule(TAG, nat, None));
        for frame in [V4::from(POD_V4).frame(), V6::from(POD_V6).frame()] {
            for old in [0, u32::MAX, 0xf000_ffff, 0x0fff_0000, 0x0000_e000, 0x0800_4000] {
                let ran = bench.run(Program::FromPod, &frame, Given { mark: old, ..Given::default() });
                assert_eq!((ran.verdict, ran.mark), (PASS, old & 0xf000_ffff | ours), "{old:#x}, NAT {nat}");
                assert_eq!(ran.frame, frame);
            }
        }
    }
}

#[test]
fn another_mark_layout_holds_from_the_next_packet_on() {
    let mut bench = Bench::new();
    bench.set_pools(rule(TAG, true, None));
    let frame = V4::from(POD_V4).frame();
    let mark = |bench: &Bench| {
        bench.run(Program::FromPod, &frame, Given { mark: 0xdead_beef, ..Given::default() }).mark
    };
    assert_eq!(mark(&bench), 0xd805_beef);
    let layout = MarkLayout::new(0x0000_1fe0).unwrap();
    bench.bpf.set_mark_layout(layout).unwrap();
    assert!(bench.bpf.uses_mark_layout(layout).unwrap());
    assert!(!bench.bpf.uses_mark_layout(MarkLayout::DEFAULT).unwrap());
    assert_eq!(mark(&bench), 0xdead_beef & !0x1fe0 | 5 << 5 | 0x1000);
}

#[test]
fn an_address_in_no_pool_passes_unmarked_and_is_counted() {
    let mut bench = Bench::new();
    for cidr in ["10.1.0.0/26", "fd00:1::/112"] {
        assert!(bench.bpf.remove_pool(cidr.parse().unwrap()).unwrap());
    }
    check(&bench, "IPv4", &V4::from(POD_V4).frame(), &Expect::NoPool);
    check(&bench, "IPv6", &V6::from(POD_V6).frame(), &Expect::NoPool);
    check(&bench, "link-local is in no pool by nature", &V6::from(LINK_LOCAL).frame(), &Expect::Untagged);
}

#[test]
fn the_longest_prefix_wins() {
    let mut bench = Bench::new();
    let frame = V4::from(POD_V4).frame();
    let tag = |bench: &Bench| bench.run(Program::FromPod, &frame, Given::default()).mark >> 16;
    let set = |bench: &mut Bench, cidr: &str, tag| {
        bench.bpf.set_pool(cidr.parse().unwrap(), rule(tag, false, None))
    };
    set(&mut bench, "0.0.0.0/0", 1).unwrap();
    assert_eq!(tag(&bench), 5);
    set(&mut bench, "10.1.0.4/31", 7).unwrap();
    assert_eq!(tag(&bench), 7);
    set(&mut bench, "10.1.0.6/31", 8).unwrap();
    assert_eq!(tag(&bench), 7);
    set(&mut bench, "10.1.0.5/32", 2047).unwrap();
    assert_eq!(tag(&bench), 2047);
}

#[test]
fn the_dscp_is_kept_unless_the_pool_has_one_and_ecn_always() {
    let mut bench = Bench::new();
    for dscp in [None, Some(0), Some(1), Some(46), Some(63)] {
        bench.set_pools(rule(TAG, false, dscp));
        for old in [0, 10, 46, 63] {
            for ecn in 0..4u8 {
                let tos = old << 2 | ecn;
                let new = dscp.unwrap_or(old) << 2 | ecn;
                let what = format!("DSCP {old} to {dscp:?}, ECN {ecn}");
                let v4 =
                    |tos, words: usize| V4 { tos, options: vec![1; words * 4], ..V4::from(POD_V4) }.frame();
                for words in [0, 3, 10] {
                    check(&bench, &what, &v4(tos, words), &Expect::Rewritten(v4(new, words)));
                }
                let v6 = |class| V6 { class, ..V6::from(POD_V6) }.frame();
                check(&bench, &what, &v6(tos), &Expect::Rewritten(v6(new)));
            }
        }
    }
}

#[test]
fn later_fragments_get_the_dscp_too() {
    let mut bench = Bench::new();
    bench.set_pools(rule(TAG, false, Some(46)));
    for fragment in [0x2000, 0x2000 | 100, 8191] {
        let packet = |tos| V4 { fragment, tos, ..V4::from(POD_V4) }.frame();
        check(&bench, "fragment", &packet(1), &Expect::Rewritten(packet(46 << 2 | 1)));
    }
}

#[test]
fn a_rewritten_header_sums_to_zero_whatever_it_was() {
    let mut bench = Bench::new();
    for dscp in 0..64 {
        bench.set_pools(rule(TAG, false, Some(dscp)));
        for tos in [0u8, 3, 0x55, 0xaa, 0xff] {
            let frame = V4 { tos, ..V4::from(POD_V4) }.frame();
            let ran = bench.run(Program::FromPod, &frame, Given::default());
            assert_eq!(checksum(&ran.frame[14..34]), 0, "DSCP {dscp} over {tos:#x}");
            assert_eq!(ran.frame[15], dscp << 2 | tos & 3);
        }
    }
}

#[test]
fn what_has_no_pool_keeps_its_dscp() {
    let mut bench = Bench::new();
    bench.set_pools(rule(TAG, false, Some(46)));
    check(&bench, "link-local", &V6 { class: 0x28, ..V6::from(LINK_LOCAL) }.frame(), &Expect::Untagged);
    check(&bench, "ARP", &Arp::request(POD_V4).frame(), &Expect::Untagged);
}

#[test]
fn an_aggregate_counts_as_its_segments() {
    let bench = Bench::new();
    let out = V4::from(POD_V4).frame();
    let back = V4 { destination: POD_V4, ..V4::from(FAR_V4) }.frame();
    let before = bench.counters(TAG);
    for (segments, packets) in [(0, 1), (1, 1), (2, 2), (44, 44)] {
        let given = Given { gso_segments: segments, ..Given::default() };
        let before = bench.counters(TAG);
        bench.run(Program::FromPod, &out, given);
        bench.run(Program::ToPod, &back, given);
        let now = bench.counters(TAG);
        assert_eq!(now.tx_packets - before.tx_packets, packets, "{segments} segments sent");
        assert_eq!(now.rx_packets - before.rx_packets, packets, "{segments} segments received");
    }
    let now = bench.counters(TAG);
    assert_eq!(now.tx_bytes - before.tx_bytes, 4 * out.len() as u64);
    assert_eq!(now.rx_bytes - before.rx_bytes, 4 * back.len() as u64);
}

#[test]
fn to_pod_counts_by_destination_and_touches_nothing() {
    let bench = Bench::new();
    let check = |what: &str, frame: Vec<u8>, counted: bool| {
        let drops = bench.bpf.fetch_drops().unwrap();
        let before = bench.counters(TAG);
        let ran = bench.run(Program::ToPod, &frame, Given { mark: 0xabcd_ef01, ..Given::default() });
        assert_eq!((ran.verdict, ran.mark), (PASS, 0xabcd_ef01), "{what}");
        assert_eq!(ran.frame, frame, "{what}");
        assert_eq!(bench.drops_since(&drops), [], "{what}");
        let received = u64::from(counted);
        let expected = PoolCounters {
            rx_packets: before.rx_packets + received,
            rx_bytes: before.rx_bytes + received * frame.len() as u64,
            ..before
        };
        assert_eq!(bench.counters(TAG), expected, "{what}");
    };
    let v4 = |destination| V4 { destination, ..V4::from(FAR_V4) };
    let v6 = |destination| V6 { destination, ..V6::from(FAR_V6) };
    check("IPv4", v4(POD_V4).frame(), true);
    check("IPv4, a neighbour of the pool", v4(OTHER_V4).frame(), true);
    check("IPv4, no pool", v4(FAR_V4).frame(), false);
    check("IPv4 with options", V4 { options: vec![1; 40], ..v4(POD_V4) }.frame(), true);
    check("IPv6", v6(POD_V6).frame(), true);
    check("IPv6, no pool", v6(FAR_V6).frame(), false);
    check("ARP", Arp::request(FAR_V4).frame(), false);
    check("ARP cut short", Arp::request(FAR_V4).frame()[..SHORTEST].to_vec(), false);
}

#[test]
fn what_is_dropped_is_not_counted_to_a_pool() {
    let bench = Bench::new();
    let before = bench.bpf.fetch_pool_counters().unwrap();
    let spoofed = V4::from(OTHER_V4).frame();
    let ran = bench.run(Program::FromPod, &spoofed, Given::default());
    assert_eq!(ran.verdict, DROP);
    assert_eq!(bench.bpf.fetch_pool_counters().unwrap(), before);
}
