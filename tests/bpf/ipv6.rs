//! IPv6 sources, extension headers, neighbour discovery and listener reports.

use std::net::Ipv6Addr;

use bpf::Endpoint;

use crate::bench::{Bench, Expect, check, check_all};
use crate::frames::extension::{
    AUTHENTICATION, AUTHENTICATION_16, DESTINATION, FRAGMENT, HOP_BY_HOP, LONG_PADDING, PADDING,
    ROUTER_ALERT, ROUTING, ROUTING_0, ROUTING_4, fragment,
};
use crate::frames::{
    ADVERTISEMENT, ALL_NODES, LINK_LOCAL, MLD_ROUTERS, OTHER_V6, POD_V4, POD_V6, SOLICITATION, UNSPECIFIED,
    V6, icmp, nd, solicited_node,
};

#[test]
fn the_source_must_be_the_pods_own_or_link_local() {
    let v6 = |text: &str| V6::from(text.parse().unwrap()).frame();
    check_all(
        &Bench::new(),
        &[
            ("own", V6::from(POD_V6).frame(), Expect::Tagged),
            ("link-local", V6::from(LINK_LOCAL).frame(), Expect::Untagged),
            ("last of fe80::/10", v6("febf::1"), Expect::Untagged),
            ("just above fe80::/10", v6("fec0::1"), Expect::Drop("ipv6_source")),
            ("just below fe80::/10", v6("fe7f::1"), Expect::Drop("ipv6_source")),
            ("a neighbour's", V6::from(OTHER_V6).frame(), Expect::Drop("ipv6_source")),
            ("another /64", v6("fd00:2::5"), Expect::Drop("ipv6_source")),
            ("loopback", v6("::1"), Expect::Drop("ipv6_source")),
            ("mapped IPv4", v6("::ffff:10.1.0.5"), Expect::Drop("ipv6_source")),
            ("multicast", v6("ff02::1"), Expect::Drop("ipv6_source")),
            ("UDP from ::", V6::from(UNSPECIFIED).frame(), Expect::Drop("ipv6_source")),
        ],
    );
}

#[test]
fn a_pod_without_ipv6_speaks_link_local_only() {
    let mut bench = Bench::new();
    bench
        .bpf
        .set_endpoint(bench.ifindex, Endpoint { ipv4: Some(POD_V4), ipv6: None, ..Endpoint::default() })
        .unwrap();
    let dad = V6::icmp(UNSPECIFIED, solicited_node(LINK_LOCAL), nd(SOLICITATION, LINK_LOCAL));
    check_all(
        &bench,
        &[
            ("its former address", V6::from(POD_V6).frame(), Expect::Drop("ipv6_source")),
            // What the unused field of the map holds.
            ("::", V6::from(UNSPECIFIED).frame(), Expect::Drop("ipv6_source")),
            ("link-local", V6::from(LINK_LOCAL).frame(), Expect::Untagged),
            ("detection for link-local", dad.frame(), Expect::Untagged),
        ],
    );
}

#[test]
fn a_fixed_header_is_enough_and_must_be_version_6() {
    let bench = Bench::new();
    let frame = V6::from(POD_V6).frame();
    check(&bench, "header alone", &frame[..54], &Expect::Tagged);
    let mut version_4 = frame;
    version_4[14] = 0x45;
    check(&bench, "version 4", &version_4, &Expect::Drop("malformed"));
}

#[test]
fn extension_headers_are_looked_through_and_bounded() {
    let own = || V6::from(POD_V6);
    let chain = |count: usize| (0..count).fold(own(), |packet, _| packet.with(DESTINATION, &PADDING));
    check_all(
        &Bench::new(),
        &[
            ("hop-by-hop", own().with(HOP_BY_HOP, &PADDING).frame(), Expect::Tagged),
            ("destination options", own().with(DESTINATION, &LONG_PADDING).frame(), Expect::Tagged),
            ("authentication", own().with(AUTHENTICATION, &AUTHENTICATION_16).frame(), Expect::Tagged),
            ("segment routing", own().with(ROUTING, &ROUTING_4).frame(), Expect::Tagged),
            ("routing type 0", own().with(ROUTING, &ROUTING_0).frame(), Expect::Drop("extension_headers")),
            (
                "routing type 0 behind options",
                own().with(HOP_BY_HOP, &LONG_PADDING).with(ROUTING, &ROUTING_0).frame(),
                Expect::Drop("extension_headers"),
            ),
            ("eight headers", chain(8).frame(), Expect::Tagged),
            ("nine headers", chain(9).frame(), Expect::Drop("extension_headers")),
            ("first fragment", own().with(FRAGMENT, &fragment(0, true)).frame(), Expect::Tagged),
            ("later fragment", own().with(FRAGMENT, &fragment(5, true)).frame(), Expect::Tagged),
            ("no next header", V6 { protocol: 59, ..own() }.frame(), Expect::Tagged),
            ("ESP", V6 { protocol: 50, ..own() }.frame(), Expect::Tagged),
        ],
    );
}

#[test]
fn a_chain_cut_short_anywhere_is_dropped() {
    let bench = Bench::new();
    let packet = V6::icmp(POD_V6, ALL_NODES, nd(ADVERTISEMENT, POD_V6))
        .with(HOP_BY_HOP, &PADDING)
        .with(DESTINATION, &LONG_PADDING)
        .with(AUTHENTICATION, &AUTHENTICATION_16);
    let frame = packet.frame();
    assert_eq!(frame.len(), 54 + 8 + 16 + 16 + 24);
    for len in 54..frame.len() {
        check(&bench, &format!("{len} bytes"), &frame[..len], &Expect::Drop("truncated"));
    }
    check(&bench, "whole", &frame, &Expect::Tagged);
}

#[test]
fn neighbour_discovery_speaks_for_the_pod_alone() {
    let ask = |source, target| V6::icmp(source, solicited_node(target), nd(SOLICITATION, target)).frame();
    let tell = |source, target| V6::icmp(source, ALL_NODES, nd(ADVERTISEMENT, target)).frame();
    let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
    check_all(
        &Bench::new(),
        &[
            ("ask for a neighbour", ask(POD_V6, OTHER_V6), Expect::Tagged),
            ("ask from link-local", ask(LINK_LOCAL, gateway), Expect::Untagged),
            ("ask as another", ask(OTHER_V6, POD_V6), Expect::Drop("ipv6_source")),
            ("tell of itself", tell(POD_V6, POD_V6), Expect::Tagged),
            ("tell of its link-local", tell(POD_V6, LINK_LOCAL), Expect::Tagged),
            ("tell of itself, from link-local", tell(LINK_LOCAL, POD_V6), Expect::Untagged),
            ("tell of another", tell(POD_V6, OTHER_V6), Expect::Drop("nd_target")),
            ("tell of another, from link-local", tell(LINK_LOCAL, OTHER_V6), Expect::Drop("nd_target")),
            ("tell as another", tell(OTHER_V6, OTHER_V6), Expect::Drop("ipv6_source")),
            ("tell from ::", tell(UNSPECIFIED, POD_V6), Expect::Drop("ipv6_source")),
        ],
    );
}

#[test]
fn neighbour_discovery_hides_behind_no_extension_header() {
    let lie = || V6::icmp(POD_V6, ALL_NODES, nd(ADVERTISEMENT, OTHER_V6));
    let truth = || V6::icmp(POD_V6, ALL_NODES, nd(ADVERTISEMENT, POD_V6));
    let advertise = || V6::icmp(LINK_LOCAL, ALL_NODES, icmp(134));
    let chain = (0..8).fold(lie(), |packet, _| packet.with(DESTINATION, &PADDING));
    check_all(
        &Bench::new(),
        &[
            ("options", lie().with(DESTINATION, &PADDING).frame(), Expect::Drop("nd_target")),
            ("long options", lie().with(HOP_BY_HOP, &LONG_PADDING).frame(), Expect::Drop("nd_target")),
            (
                "authentication",
                lie().with(AUTHENTICATION, &AUTHENTICATION_16).frame(),
                Expect::Drop("nd_target"),
            ),
            ("routing", lie().with(ROUTING, &ROUTING_4).frame(), Expect::Drop("nd_target")),
            ("eight headers", chain.frame(), Expect::Drop("nd_target")),
            ("true, behind options", truth().with(DESTINATION, &PADDING).frame(), Expect::Tagged),
            ("first fragment", lie().with(FRAGMENT, &fragment(0, true)).frame(), Expect::Drop("nd_fragment")),
            (
                "atomic fragment",
                truth().with(FRAGMENT, &fragment(0, false)).frame(),
                Expect::Drop("nd_fragment"),
            ),
            (
                "fragment, then options",
                lie().with(FRAGMENT, &fragment(0, true)).with(DESTINATION, &PADDING).frame(),
                Expect::Drop("nd_fragment"),
            ),
            (
                "router advertisement in fragments",
                advertise().with(FRAGMENT, &fragment(0, true)).frame(),
                Expect::Drop("nd_router"),
            ),
            (
                "router advertisement behind options",
                advertise().with(DESTINATION, &LONG_PADDING).frame(),
                Expect::Drop("nd_router"),
            ),
            (
                "fragmented echo",
                V6::icmp(POD_V6, ALL_NODES, icmp(128)).with(FRAGMENT, &fragment(0, true)).frame(),
                Expect::Tagged,
            ),
        ],
    );
}

#[test]
fn a_pod_is_no_router() {
    check_all(
        &Bench::new(),
        &[
            ("advertisement", V6::icmp(LINK_LOCAL, ALL_NODES, icmp(134)).frame(), Expect::Drop("nd_router")),
            (
                "advertisement, own source",
                V6::icmp(POD_V6, ALL_NODES, icmp(134)).frame(),
                Expect::Drop("nd_router"),
            ),
            ("redirect", V6::icmp(LINK_LOCAL, ALL_NODES, icmp(137)).frame(), Expect::Drop("nd_router")),
            ("router solicitation", V6::icmp(LINK_LOCAL, ALL_NODES, icmp(133)).frame(), Expect::Untagged),
            (
                "solicitation from ::",
                V6::icmp(UNSPECIFIED, ALL_NODES, icmp(133)).frame(),
                Expect::Drop("ipv6_source"),
            ),
            ("echo", V6::icmp(POD_V6, ALL_NODES, icmp(128)).frame(), Expect::Tagged),
            ("echo from link-local", V6::icmp(LINK_LOCAL, ALL_NODES, icmp(128)).frame(), Expect::Untagged),
        ],
    );
}

#[test]
fn from_unspecified_only_what_a_host_sends() {
    let dad = |target| V6::icmp(UNSPECIFIED, solicited_node(target), nd(SOLICITATION, target));
    let report = |kind| {
        let packet = V6::icmp(UNSPECIFIED, MLD_ROUTERS, icmp(kind));
        V6 { hop_limit: 1, ..packet }.with(HOP_BY_HOP, &ROUTER_ALERT)
    };
    check_all(
        &Bench::new(),
        &[
            ("detection", dad(POD_V6).frame(), Expect::Untagged),
            ("detection, link-local", dad(LINK_LOCAL).frame(), Expect::Untagged),
            ("detection for another", dad(OTHER_V6).frame(), Expect::Drop("nd_target")),
            (
                "detection with another hop limit",
                V6 { hop_limit: 254, ..dad(POD_V6) }.frame(),
                Expect::Drop("ipv6_source"),
            ),
            (
                "detection by unicast",
                V6 { destination: OTHER_V6, ..dad(POD_V6) }.frame(),
                Expect::Drop("ipv6_source"),
            ),
            (
                "detection to all nodes",
                V6 { destination: ALL_NODES, ..dad(POD_V6) }.frame(),
                Expect::Drop("ipv6_source"),
            ),
            ("listener report, version 2", report(143).frame(), Expect::Untagged),
            ("listener report, version 1", report(131).frame(), Expect::Untagged),
            ("listener done", report(132).frame(), Expect::Untagged),
            ("listener query", report(130).frame(), Expect::Drop("ipv6_source")),
            (
                "listener report with a hop limit that travels",
                V6 { hop_limit: 64, ..report(143) }.frame(),
                Expect::Drop("ipv6_source"),
            ),
            (
                "listener report by unicast",
                V6 { destination: OTHER_V6, ..report(143) }.frame(),
                Expect::Drop("ipv6_source"),
            ),
            ("echo", V6::icmp(UNSPECIFIED, ALL_NODES, icmp(128)).frame(), Expect::Drop("ipv6_source")),
            (
                "later fragment",
                V6::from(UNSPECIFIED).with(FRAGMENT, &fragment(5, false)).frame(),
                Expect::Drop("ipv6_source"),
            ),
        ],
    );
}
