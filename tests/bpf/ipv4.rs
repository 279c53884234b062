//! IPv4 sources.

use std::net::Ipv4Addr;

use bpf::Endpoint;

use crate::bench::{Bench, Expect, check, check_all};
use crate::frames::{OTHER_V4, POD_V4, POD_V6, V4};

#[test]
fn the_source_must_be_the_pods_own() {
    let own = V4::from(POD_V4);
    check_all(
        &Bench::new(),
        &[
            ("own", own.frame(), Expect::Tagged),
            ("to itself", V4 { destination: POD_V4, ..own.clone() }.frame(), Expect::Tagged),
            ("broadcast", V4 { destination: Ipv4Addr::BROADCAST, ..own.clone() }.frame(), Expect::Tagged),
            ("IGMP", V4 { protocol: 2, options: vec![148, 4, 0, 0], ..own }.frame(), Expect::Tagged),
            ("a neighbour's", V4::from(OTHER_V4).frame(), Expect::Drop("ipv4_source")),
            ("nobody's", V4::from(Ipv4Addr::UNSPECIFIED).frame(), Expect::Drop("ipv4_source")),
            ("loopback", V4::from(Ipv4Addr::LOCALHOST).frame(), Expect::Drop("ipv4_source")),
            ("link-local", V4::from(Ipv4Addr::new(169, 254, 1, 1)).frame(), Expect::Drop("ipv4_source")),
            ("broadcast", V4::from(Ipv4Addr::BROADCAST).frame(), Expect::Drop("ipv4_source")),
            ("one bit off", V4::from(Ipv4Addr::new(10, 1, 0, 4)).frame(), Expect::Drop("ipv4_source")),
        ],
    );
}

#[test]
fn options_and_fragments_change_nothing() {
    let options = |words: usize| vec![1u8; words * 4];
    let shapes = [
        ("no options", V4::from(POD_V4)),
        ("one word of options", V4 { options: options(1), ..V4::from(POD_V4) }),
        ("ten words of options", V4 { options: options(10), ..V4::from(POD_V4) }),
        ("first fragment", V4 { fragment: 0x2000, ..V4::from(POD_V4) }),
        ("middle fragment", V4 { fragment: 0x2000 | 100, ..V4::from(POD_V4) }),
        ("last fragment", V4 { fragment: 8191, ..V4::from(POD_V4) }),
        ("empty", V4 { payload: Vec::new(), ..V4::from(POD_V4) }),
        ("large", V4 { payload: vec![7; 1480], ..V4::from(POD_V4) }),
    ];
    let bench = Bench::new();
    for (what, own) in shapes {
        check(&bench, what, &own.frame(), &Expect::Tagged);
        let spoofed = V4 { source: OTHER_V4, ..own };
        check(&bench, &format!("{what}, spoofed"), &spoofed.frame(), &Expect::Drop("ipv4_source"));
    }
}

/// A test run takes no IPv4 frame shorter than the fixed header: those are in [`crate::traffic`].
#[test]
fn a_header_cut_short_in_its_options_is_dropped() {
    let bench = Bench::new();
    for words in [0, 1, 10] {
        let packet = V4 { options: vec![1; words * 4], ..V4::from(POD_V4) };
        let frame = packet.frame();
        let header_end = 14 + 20 + words * 4;
        for len in 14 + 20..header_end {
            let what = format!("{words} words of options, {len} bytes");
            check(&bench, &what, &frame[..len], &Expect::Drop("truncated"));
        }
        // Lengths stated by the header are the kernel's to judge.
        check(&bench, "header alone", &frame[..header_end], &Expect::Tagged);
    }
}

#[test]
fn a_header_that_contradicts_itself_is_dropped() {
    let with_first_byte = |byte: u8| {
        let mut frame = V4::from(POD_V4).frame();
        frame[14] = byte;
        frame
    };
    check_all(
        &Bench::new(),
        &[
            ("no header length", with_first_byte(0x40), Expect::Drop("malformed")),
            ("header length 16", with_first_byte(0x44), Expect::Drop("malformed")),
            ("version 6", with_first_byte(0x65), Expect::Drop("malformed")),
            ("version 0", with_first_byte(0x05), Expect::Drop("malformed")),
            ("header longer than the frame", with_first_byte(0x4f), Expect::Drop("truncated")),
        ],
    );
}

#[test]
fn a_pod_without_ipv4_sends_none() {
    let mut bench = Bench::new();
    bench
        .bpf
        .set_endpoint(bench.ifindex, Endpoint { ipv4: None, ipv6: Some(POD_V6), ..Endpoint::default() })
        .unwrap();
    check_all(
        &bench,
        &[
            ("its former address", V4::from(POD_V4).frame(), Expect::Drop("ipv4_source")),
            // What the unused field of the map holds.
            ("0.0.0.0", V4::from(Ipv4Addr::UNSPECIFIED).frame(), Expect::Drop("ipv4_source")),
        ],
    );
}
