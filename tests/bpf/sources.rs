//! Sources that a pod may send from besides its own addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use bpf::{Bpf, Endpoint, OpenOptions};
use model::Cidr;

use crate::bench::{Bench, Expect, PinDir, check_all, rule};
use crate::frames::{OTHER_V4, OTHER_V6, POD_V4, POD_V6, V4, V6};

const VIP_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 1);

fn sources(texts: &[&str]) -> BTreeSet<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn bench(allowed: &[&str]) -> Bench {
    let mut bench = Bench::new();
    let endpoint = Endpoint { ipv4: Some(POD_V4), ipv6: Some(POD_V6), sources: sources(allowed) };
    bench.bpf.set_endpoint(bench.ifindex, endpoint).unwrap();
    bench
}

#[test]
fn an_allowed_source_passes_without_a_tag_and_any_other_is_dropped() {
    let bench = bench(&["198.51.100.0/29", "2001:db8:7::1/128"]);
    check_all(
        &bench,
        &[
            ("its own", V4::from(POD_V4).frame(), Expect::Tagged),
            ("its own, IPv6", V6::from(POD_V6).frame(), Expect::Tagged),
            ("allowed", V4::from(VIP_V4).frame(), Expect::Untagged),
            ("allowed, first", V4::from(Ipv4Addr::new(198, 51, 100, 0)).frame(), Expect::Untagged),
            ("beyond", V4::from(Ipv4Addr::new(198, 51, 100, 8)).frame(), Expect::Drop("ipv4_source")),
            ("a neighbour's", V4::from(OTHER_V4).frame(), Expect::Drop("ipv4_source")),
            ("allowed, IPv6", V6::from(VIP_V6).frame(), Expect::Untagged),
            (
                "beyond, IPv6",
                V6::from(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 2)).frame(),
                Expect::Drop("ipv6_source"),
            ),
            ("a neighbour's, IPv6", V6::from(OTHER_V6).frame(), Expect::Drop("ipv6_source")),
            // The header is looked at as ever.
            (
                "with a VLAN tag",
                [&V4::from(VIP_V4).frame()[..12], &[0x81, 0, 0, 1, 8, 0]].concat(),
                Expect::Drop("vlan"),
            ),
        ],
    );
}

#[test]
fn of_a_whole_family_allowed_addresses_of_pools_are_still_nobodys_but_their_holders() {
    let all_v4 = bench(&["0.0.0.0/0"]);
    check_all(
        &all_v4,
        &[
            ("anything", V4::from(VIP_V4).frame(), Expect::Untagged),
            ("a neighbour's", V4::from(OTHER_V4).frame(), Expect::Drop("ipv4_source")),
            ("the other family", V6::from(VIP_V6).frame(), Expect::Drop("ipv6_source")),
        ],
    );
    let mut all_v6 = bench(&["::/0"]);
    check_all(
        &all_v6,
        &[
            ("anything", V6::from(VIP_V6).frame(), Expect::Untagged),
            ("a neighbour's", V6::from(OTHER_V6).frame(), Expect::Drop("ipv6_source")),
            ("the other family", V4::from(VIP_V4).frame(), Expect::Drop("ipv4_source")),
        ],
    );
    // A pool that comes later takes its addresses back.
    all_v6.bpf.set_pool("2001:db8:7::/64".parse().unwrap(), rule(6, false, None)).unwrap();
    check_all(&all_v6, &[("of a new pool", V6::from(VIP_V6).frame(), Expect::Drop("ipv6_source"))]);
}

#[test]
fn sources_are_one_interfaces_alone_and_go_with_it() {
    let mut bench = bench(&["198.51.100.7/32"]);
    let vip = || V4::from(VIP_V4).frame();
    check_all(&bench, &[("allowed", vip(), Expect::Untagged)]);
    let own = Endpoint { ipv4: Some(POD_V4), ipv6: Some(POD_V6), ..Endpoint::default() };
    // Another interface's, however close its number.
    let other = Endpoint { sources: sources(&["198.51.100.0/24"]), ..own.clone() };
    bench.bpf.set_endpoint(bench.ifindex + 1, other.clone()).unwrap();
    bench.bpf.set_endpoint(bench.ifindex, own.clone()).unwrap();
    check_all(&bench, &[("not any more", vip(), Expect::Drop("ipv4_source"))]);
    let found = bench.bpf.fetch_endpoints().unwrap();
    assert_eq!(found, BTreeMap::from([(bench.ifindex, own.clone()), (bench.ifindex + 1, other.clone())]));

    // The interface goes, and the next one of its number has none of its sources.
    bench.bpf.set_endpoint(bench.ifindex, other).unwrap();
    assert!(bench.bpf.remove_endpoint(bench.ifindex).unwrap());
    bench.bpf.set_endpoint(bench.ifindex, own).unwrap();
    check_all(&bench, &[("of the one before", vip(), Expect::Drop("ipv4_source"))]);
}

#[test]
fn sources_are_read_back_in_their_family() {
    let pins = PinDir::unique();
    let mut bpf = Bpf::open(&OpenOptions::new(pins.path())).unwrap();
    let endpoint = Endpoint {
        ipv4: Some(POD_V4),
        ipv6: None,
        sources: sources(&["0.0.0.0/0", "192.0.2.1/32", "::/0", "::ffff:0:0/96", "fd00::/8"]),
    };
    bpf.set_endpoint(7, endpoint.clone()).unwrap();
    bpf.set_endpoint(7, endpoint.clone()).unwrap();
    assert_eq!(bpf.fetch_endpoints().unwrap(), BTreeMap::from([(7, endpoint)]));
    assert!(bpf.remove_endpoint(7).unwrap());
    assert_eq!(bpf.fetch_endpoints().unwrap(), BTreeMap::new());
}
