//! ARP, VLAN tags and unknown protocols.

use std::net::Ipv4Addr;

use bpf::Endpoint;

use crate::bench::{Bench, Expect, Given, PASS, Program, check, check_all};
use crate::frames::{Arp, OTHER_V4, POD_V4, POD_V6, SHORTEST, V4, V6, ethernet};

#[test]
fn a_pod_speaks_arp_for_its_own_address_only() {
    let zero = Ipv4Addr::UNSPECIFIED;
    check_all(
        &Bench::new(),
        &[
            ("request", Arp::request(POD_V4).frame(), Expect::Untagged),
            ("reply", Arp::reply(POD_V4).frame(), Expect::Untagged),
            ("gratuitous", Arp { target: POD_V4, ..Arp::request(POD_V4) }.frame(), Expect::Untagged),
            ("probe", Arp { target: POD_V4, ..Arp::request(zero) }.frame(), Expect::Untagged),
            ("request of another", Arp::request(OTHER_V4).frame(), Expect::Drop("arp_sender")),
            ("reply of another", Arp::reply(OTHER_V4).frame(), Expect::Drop("arp_sender")),
            ("reply of the gateway", Arp::reply([169, 254, 1, 1].into()).frame(), Expect::Drop("arp_sender")),
            ("reply of nobody", Arp::reply(zero).frame(), Expect::Drop("arp_sender")),
        ],
    );
}

#[test]
fn arp_is_for_ipv4_over_ethernet() {
    let arp = Arp::request(POD_V4);
    check_all(
        &Bench::new(),
        &[
            ("hardware", Arp { hardware: 6, ..arp.clone() }.frame(), Expect::Drop("arp_type")),
            ("protocol", Arp { protocol: 0x86dd, ..arp.clone() }.frame(), Expect::Drop("arp_type")),
            ("hardware length", Arp { lengths: [8, 4], ..arp.clone() }.frame(), Expect::Drop("arp_type")),
            ("protocol length", Arp { lengths: [6, 16], ..arp.clone() }.frame(), Expect::Drop("arp_type")),
            ("operation 0", Arp { operation: 0, ..arp.clone() }.frame(), Expect::Drop("arp_type")),
            ("reverse ARP", Arp { operation: 3, ..arp }.frame(), Expect::Drop("arp_type")),
        ],
    );
}

#[test]
fn arp_cut_short_anywhere_is_dropped() {
    let bench = Bench::new();
    let frame = Arp::request(POD_V4).frame();
    for len in SHORTEST..frame.len() {
        check(&bench, &format!("{len} bytes"), &frame[..len], &Expect::Drop("truncated"));
    }
    check(&bench, "whole", &frame, &Expect::Untagged);
}

#[test]
fn arp_of_a_pod_without_ipv4_is_a_probe_or_nothing() {
    let mut bench = Bench::new();
    bench
        .bpf
        .set_endpoint(bench.ifindex, Endpoint { ipv4: None, ipv6: Some(POD_V6), ..Endpoint::default() })
        .unwrap();
    let zero = Ipv4Addr::UNSPECIFIED;
    check_all(
        &bench,
        &[
            ("request", Arp::request(POD_V4).frame(), Expect::Drop("arp_sender")),
            ("reply of nobody", Arp::reply(zero).frame(), Expect::Drop("arp_sender")),
            ("probe", Arp::request(zero).frame(), Expect::Untagged),
        ],
    );
}

#[test]
fn only_ipv4_ipv6_and_arp_without_vlan_tags_pass() {
    let own = V4::from(POD_V4).frame();
    let tagged = |outer: u16, inner: &[u8]| {
        let mut rest = vec![0, 7];
        rest.extend(inner);
        ethernet(outer, &rest)
    };
    let twice = {
        let mut inner = vec![0x81, 0x00, 0, 9];
        inner.extend(&own[12..]);
        tagged(0x88a8, &inner)
    };
    check_all(
        &Bench::new(),
        &[
            ("802.1Q", tagged(0x8100, &own[12..]), Expect::Drop("vlan")),
            ("802.1ad", tagged(0x88a8, &own[12..]), Expect::Drop("vlan")),
            ("old QinQ", tagged(0x9100, &own[12..]), Expect::Drop("vlan")),
            ("two tags", twice, Expect::Drop("vlan")),
            ("802.3 length", ethernet(64, &own[14..]), Expect::Drop("protocol")),
            ("MPLS", ethernet(0x8847, &own[14..]), Expect::Drop("protocol")),
            ("PPPoE", ethernet(0x8864, &own[14..]), Expect::Drop("protocol")),
            ("LLDP", ethernet(0x88cc, &own[14..]), Expect::Drop("protocol")),
            ("reverse ARP", ethernet(0x8035, &Arp::request(POD_V4).frame()[14..]), Expect::Drop("protocol")),
        ],
    );
}

#[test]
fn an_interface_without_endpoint_sends_nothing() {
    let mut bench = Bench::new();
    assert!(bench.bpf.remove_endpoint(bench.ifindex).unwrap());
    check_all(
        &bench,
        &[
            ("IPv4", V4::from(POD_V4).frame(), Expect::Drop("no_endpoint")),
            ("IPv6", V6::from(POD_V6).frame(), Expect::Drop("no_endpoint")),
            ("ARP", Arp::request(POD_V4).frame(), Expect::Drop("no_endpoint")),
            ("VLAN", ethernet(0x8100, &[0; 40]), Expect::Drop("no_endpoint")),
        ],
    );
}

#[test]
fn one_pods_address_is_no_other_pods() {
    let mut bench = Bench::new();
    bench.netns.ip("link add host1 type veth peer name pod1").unwrap();
    let neighbour = bench.netns.link("host1").unwrap().index;
    bench.bpf.set_endpoint(neighbour, Endpoint { ipv4: Some(OTHER_V4), ..Endpoint::default() }).unwrap();
    let through = |ifindex, frame: Vec<u8>| {
        bench.run(Program::FromPod, &frame, Given { ifindex: Some(ifindex), ..Given::default() }).verdict
            == PASS
    };
    assert!(through(bench.ifindex, V4::from(POD_V4).frame()));
    assert!(through(neighbour, V4::from(OTHER_V4).frame()));
    assert!(!through(bench.ifindex, V4::from(OTHER_V4).frame()));
    assert!(!through(neighbour, V4::from(POD_V4).frame()));
    assert!(!through(neighbour, V6::from(POD_V6).frame()));
}
