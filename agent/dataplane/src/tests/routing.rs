//! Routes to other nodes against the fake kernel: which, in which order, and what failures leave out.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use model::{Cidr, IpipMode};

use crate::kernel::fake::Fake;
use crate::object::{Hop, Link, LinkAddress, PathMtu, Route, RouteTarget};
use crate::op::Op;
use crate::{Dataplane, DataplaneError, DesiredState, EncapBackend, Peer, RemoteRange, Report, Settings};

const UPLINK: u32 = 2;
const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node whose kernel reaches 192.0.2.0/24 and fd01::/64 on its uplink, and 198.51.100.0/24 through a router.
fn scene(backend: EncapBackend) -> (Dataplane, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    {
        let mut state = fake.state();
        let uplink = Link {
            ifindex: UPLINK,
            ifname: "up0".into(),
            mtu_bytes: 1500,
            up: true,
            carrier: true,
            ..Link::default()
        };
        state.links.insert(UPLINK, uplink);
        let local = LinkAddress {
            ifindex: UPLINK,
            address: LOCAL.into(),
            prefix_len: 24,
            ours: false,
            lasting: true,
        };
        state.addresses.insert(local);
        let router = RouteTarget::Link { ifindex: UPLINK, gateway: Some(ip("192.0.2.254")) };
        state.routes.insert(Route::new(cidr("0.0.0.0/0"), router, 0, 3));
        for (node, gateway) in [
            ("192.0.2.11", None),
            ("192.0.2.12", None),
            ("198.51.100.2", Some("192.0.2.254")),
            ("fd01::11", None),
        ] {
            state.hops.insert(ip(node), Hop { ifindex: UPLINK, gateway: gateway.map(ip) });
        }
    }
    let settings =
        Settings { encap_backend: backend, uplink: Some("up0".into()), ..Settings::new("/nowhere".into()) };
    (Dataplane::with_kernel(fake.clone(), settings), fake)
}

fn desired(dataplane: &Dataplane, mode: IpipMode) -> DesiredState {
    let peer = |name: &str, ipv4: &str, ipv6: Option<&str>, inner: Option<&str>| Peer {
        name: name.parse().unwrap(),
        ipv4: Some(ipv4.parse().unwrap()),
        ipv6: ipv6.map(|text| text.parse().unwrap()),
        inner_ipv4: inner.map(|text| text.parse().unwrap()),
    };
    let range = |text: &str, peer: u32| RemoteRange { cidr: cidr(text), peer, ipip_mode: mode };
    DesiredState {
        peers: vec![
            peer("near", "192.0.2.11", Some("fd01::11"), Some("10.77.1.1")),
            peer("far", "198.51.100.2", None, None),
        ],
        remote_ranges: vec![
            range("10.77.1.0/26", 0),
            range("10.77.1.64/26", 0),
            range("10.77.2.0/26", 1),
            range("fd77:1::/112", 0),
        ],
        closed_ranges: vec![cidr("10.77.0.0/16")],
        own_blocks: vec![cidr("10.77.0.0/26")],
        underlay_ipv4: Some(LOCAL),
        inner_ipv4: Some(INNER),
        pods: Vec::new(),
        pools: Vec::new(),
        ..super::desired(dataplane, &[])
    }
}

fn run_ok(dataplane: &Dataplane, desired: &DesiredState) -> Vec<String> {
    let desired = DesiredState { since: dataplane.epoch(), ..desired.clone() };
    let report = dataplane.reconcile(&desired);
    assert!(report.errors.is_empty(), "{report:#?}");
    report.planned
}

/// The route to a range: gateway, interface, MTU and source.
fn way(fake: &Fake, to: &str) -> Option<(IpAddr, u32, u32, Option<Ipv4Addr>)> {
    let state = fake.state();
    let ours = |route: &&Route| route.destination == cidr(to) && route.protocol == 80;
    let found = state.routes.iter().filter(ours).find_map(|route| match route.target {
        RouteTarget::Nexthop { id } => Some((route, state.nexthops[&id].says.unwrap())),
        _ => None,
    });
    found.map(|(route, nexthop)| (nexthop.gateway, nexthop.ifindex, route.mtu_bytes, route.source))
}

fn at(log: &[Op], found: impl Fn(&Op) -> bool) -> usize {
    log.iter().position(found).unwrap_or_else(|| panic!("not in {log:#?}"))
}

fn last(log: &[Op], found: impl Fn(&Op) -> bool) -> usize {
    log.iter().rposition(found).unwrap_or_else(|| panic!("not in {log:#?}"))
}

#[test]
fn a_range_is_reached_as_its_pools_mode_and_the_nodes_place_say() {
    let check = |backend, mode, near: (&str, bool, u32), far: (&str, bool, u32), encapsulated: [bool; 2]| {
        let (dataplane, fake) = scene(backend);
        run_ok(&dataplane, &desired(&dataplane, mode));
        let source = mode.may_encapsulate().then_some(INNER);
        let tunnel = fake.state().links.values().find(|link| link.tunnel.is_some()).map(|link| link.ifindex);
        let expected = |(gateway, tunnelled, mtu): (&str, bool, u32)| {
            Some((ip(gateway), if tunnelled { tunnel.unwrap() } else { UPLINK }, mtu, source))
        };
        assert_eq!(way(&fake, "10.77.1.0/26"), expected(near), "{backend:?} {mode}");
        assert_eq!(way(&fake, "10.77.2.0/26"), expected(far), "{backend:?} {mode}");
        let ipv6 = Some((ip("fd01::11"), UPLINK, 0, None));
        assert_eq!(way(&fake, "fd77:1::/112"), ipv6, "IPv6 is never encapsulated");
        let ranges = &fake.state().programs.remote_ranges.clone();
        let rules = ["10.77.1.0/26", "10.77.2.0/26"].map(|text| ranges[&cidr(text)].encapsulate);
        assert_eq!(rules, encapsulated, "{backend:?} {mode}");
        assert_eq!(run_ok(&dataplane, &desired(&dataplane, mode)), [""; 0]);
        assert_eq!(dataplane.repair().planned, [""; 0]);
    };
    let (near, far) = (("192.0.2.11", false, 0), ("192.0.2.254", false, 0));
    for backend in [EncapBackend::Ebpf, EncapBackend::Device] {
        check(backend, IpipMode::Never, near, far, [false, false]);
    }
    let (near_ipip, far_ipip) = (("192.0.2.11", false, 1480), ("192.0.2.254", false, 1480));
    check(EncapBackend::Ebpf, IpipMode::CrossSubnet, near, far_ipip, [false, true]);
    check(EncapBackend::Ebpf, IpipMode::Always, near_ipip, far_ipip, [true, true]);
    let (near_ipip, far_ipip) = (("192.0.2.11", true, 1480), ("198.51.100.2", true, 1480));
    check(EncapBackend::Device, IpipMode::CrossSubnet, near, far_ipip, [false, false]);
    check(EncapBackend::Device, IpipMode::Always, near_ipip, far_ipip, [false, false]);
}

#[test]
fn everything_is_there_before_a_route_leads_to_it_and_until_none_does() {
    let (dataplane, fake) = scene(EncapBackend::Ebpf);
    let wanted = desired(&dataplane, IpipMode::Always);
    run_ok(&dataplane, &wanted);
    let log = fake.take_log();
    let by_object = |route: &Route| matches!(route.target, RouteTarget::Nexthop { .. });
    let first = at(&log, |op| matches!(op, Op::AddRoute { route, .. } if by_object(route)));
    for (what, last) in [
        ("own address", last(&log, |op| matches!(op, Op::AddOwnAddress(_)))),
        ("nexthops", last(&log, |op| matches!(op, Op::AddNexthop { .. }))),
        ("ranges", last(&log, |op| matches!(op, Op::SetRemoteRange { .. }))),
        ("nodes", last(&log, |op| matches!(op, Op::SetPeer { .. }))),
        ("uplink", last(&log, |op| matches!(op, Op::AttachUplink { .. }))),
        ("node's own traffic", last(&log, |op| matches!(op, Op::ReplaceNat(_)))),
    ] {
        assert!(last < first, "{what}: {log:#?}");
    }
    let nothing = DesiredState {
        peers: Vec::new(),
        remote_ranges: Vec::new(),
        closed_ranges: Vec::new(),
        inner_ipv4: None,
        ..wanted
    };
    run_ok(&dataplane, &nothing);
    let log = fake.take_log();
    let gone = last(&log, |op| matches!(op, Op::DeleteRoute(route) if by_object(route)));
    for (what, first) in [
        ("own address", at(&log, |op| matches!(op, Op::DeleteOwnAddress(_)))),
        ("nexthops", at(&log, |op| matches!(op, Op::DeleteNexthop { .. }))),
        ("ranges", at(&log, |op| matches!(op, Op::RemoveRemoteRange { .. }))),
        ("nodes", at(&log, |op| matches!(op, Op::RemovePeer { .. }))),
        ("uplink", at(&log, |op| matches!(op, Op::DetachUplink { .. }))),
    ] {
        assert!(gone < first, "{what}: {log:#?}");
    }
    let state = fake.state().clone();
    assert!(state.nexthops.is_empty() && state.programs.uplinks.is_empty(), "{state:#?}");
    assert!(!state.addresses.iter().any(|found| found.ours));
}

#[test]
fn a_mode_that_changes_replaces_routes_in_place() {
    for backend in [EncapBackend::Ebpf, EncapBackend::Device] {
        let (dataplane, fake) = scene(backend);
        run_ok(&dataplane, &desired(&dataplane, IpipMode::Never));
        fake.take_log();
        run_ok(&dataplane, &desired(&dataplane, IpipMode::Always));
        let log = fake.take_log();
        assert_eq!(log.iter().filter(|op| matches!(op, Op::ReplaceRoute { .. })).count(), 3, "{log:#?}");
        assert!(!log.iter().any(|op| matches!(op, Op::DeleteRoute(_))), "never without a route: {log:#?}");
        run_ok(&dataplane, &desired(&dataplane, IpipMode::Never));
        let log = fake.take_log();
        assert!(!log.iter().any(|op| matches!(op, Op::DeleteRoute(_))), "{log:#?}");
    }
}

#[test]
fn what_failed_leaves_out_what_needs_it_and_nothing_else() {
    let (dataplane, fake) = scene(EncapBackend::Ebpf);
    let wanted = desired(&dataplane, IpipMode::Always);
    run_ok(&dataplane, &wanted);
    let log = fake.take_log();
    let check = |failing: &dyn Fn(&Op) -> bool, lost: &[&str]| {
        let (dataplane, fake) = scene(EncapBackend::Ebpf);
        fake.fail_at(&[at(&log, failing)]);
        let report = dataplane.reconcile(&desired(&dataplane, IpipMode::Always));
        assert_eq!(report.errors.len(), 1, "{report:#?}");
        let check_lost = |when: &str, lost: &[&str]| {
            for range in ["10.77.1.0/26", "10.77.1.64/26", "10.77.2.0/26", "fd77:1::/112"] {
                assert_eq!(way(&fake, range).is_none(), lost.contains(&range), "{range} {when}");
            }
        };
        check_lost("at first", lost);
        run_ok(&dataplane, &desired(&dataplane, IpipMode::Always));
        check_lost("in the end", &[]);
    };
    let ipv4 = ["10.77.1.0/26", "10.77.1.64/26", "10.77.2.0/26"];
    check(&|op| matches!(op, Op::AttachUplink { .. }), &ipv4);
    check(&|op| matches!(op, Op::AddOwnAddress(_)), &ipv4);
    check(
        &|op| matches!(op, Op::SetRemoteRange { cidr: c, .. } if *c == cidr("10.77.1.64/26")),
        &["10.77.1.64/26"],
    );
    check(
        &|op| matches!(op, Op::AddNexthop { nexthop, .. } if nexthop.gateway == ip("192.0.2.11")),
        &["10.77.1.0/26", "10.77.1.64/26"],
    );
    check(&|op| matches!(op, Op::SetPeer { .. }), &[]);
}

#[test]
fn a_repair_does_not_send_where_the_last_reconciliation_could_not_make_way() {
    let (dataplane, fake) = scene(EncapBackend::Ebpf);
    let wanted = desired(&dataplane, IpipMode::Always);
    run_ok(&dataplane, &wanted);
    let log = fake.take_log();
    let (dataplane, fake) = scene(EncapBackend::Ebpf);
    fake.fail_at(&[at(&log, |op| matches!(op, Op::AttachUplink { .. }))]);
    assert_eq!(dataplane.reconcile(&desired(&dataplane, IpipMode::Always)).errors.len(), 1);
    assert!(dataplane.repair().planned_count > 0);
    assert_eq!(way(&fake, "10.77.1.0/26"), None, "unencapsulated it must not go");
    assert!(way(&fake, "fd77:1::/112").is_some());
}

#[test]
fn what_the_kernel_took_silently_is_brought_back() {
    let (dataplane, fake) = scene(EncapBackend::Ebpf);
    let wanted = desired(&dataplane, IpipMode::Always);
    run_ok(&dataplane, &wanted);
    let before = fake.state().clone();
    let check = |tamper: &dyn Fn(), planned_count: usize| {
        tamper();
        let report: Report = dataplane.repair();
        assert!(report.errors.is_empty(), "{report:#?}");
        assert_eq!(report.planned_count, planned_count, "{report:#?}");
        assert_eq!(*fake.state(), before);
        assert_eq!(dataplane.repair().planned, [""; 0]);
    };
    check(&|| fake.state().remove_nexthops(|_| true), 3 + 4);
    let own = before.addresses.iter().find(|found| found.ours).copied().unwrap();
    check(&|| fake.state().remove_address(&own), 1 + 3);
    check(&|| assert!(fake.state().routes.pop_last().is_some()), 1);
}

#[test]
fn what_cannot_be_routed_is_told_and_nothing_is_asked_of_the_kernel() {
    let (dataplane, fake) = scene(EncapBackend::Ebpf);
    let check = |change: &dyn Fn(&mut DesiredState), expected: &[(&str, usize, &str)]| {
        let mut wanted = desired(&dataplane, IpipMode::Always);
        change(&mut wanted);
        let report = dataplane.reconcile(&DesiredState { since: dataplane.epoch(), ..wanted });
        assert!(report.errors.is_empty(), "{report:#?}");
        assert_eq!(report.unrouted.len(), expected.len(), "{:#?}", report.unrouted);
        for (found, (node, count, reason)) in report.unrouted.iter().zip(expected) {
            assert_eq!((found.node.as_str(), found.ranges_count), (*node, *count));
            assert!(found.reason.contains(reason), "{reason}: {}", found.reason);
        }
    };
    check(&|_| {}, &[]);
    check(&|wanted| wanted.peers[0].ipv4 = None, &[("near", 2, "no IPv4 address")]);
    check(&|wanted| wanted.peers[0].ipv6 = None, &[("near", 1, "no IPv6 address")]);
    check(
        &|wanted| wanted.peers[1].ipv4 = Some([203, 0, 113, 1].into()),
        &[("far", 1, "no way to 203.0.113.1")],
    );
    check(
        &|wanted| wanted.underlay_ipv4 = None,
        &[("near", 2, "this node's own IPv4 address"), ("far", 1, "this node's own IPv4 address")],
    );
    fake.state().links.get_mut(&UPLINK).unwrap().carrier = false;
    fake.state().remove_nexthops(|_| true);
    check(
        &|_| {},
        &[("near", 3, "up0 is down or has no carrier"), ("far", 1, "up0 is down or has no carrier")],
    );
    fake.state().links.get_mut(&UPLINK).unwrap().carrier = true;
    assert!(dataplane.repair().unrouted.is_empty());
    assert!(way(&fake, "10.77.2.0/26").is_some());
}

#[test]
fn a_way_that_carries_less_makes_its_routes_smaller_for_ten_minutes() {
    let (dataplane, fake) = scene(EncapBackend::Ebpf);
    let wanted = desired(&dataplane, IpipMode::Always);
    run_ok(&dataplane, &wanted);
    let mtu = |range: &str| way(&fake, range).unwrap().2;
    let say = |mtu_bytes: u32| {
        let said = PathMtu { mtu_bytes, at: Duration::from_secs(100) };
        fake.state().path_mtus.insert("198.51.100.2".parse().unwrap(), said);
    };
    let check = |uptime_s: u64, far_mtu_bytes: u32, expected: &[&str]| {
        fake.state().uptime = Duration::from_secs(uptime_s);
        let planned = run_ok(&dataplane, &wanted);
        assert_eq!(planned.len(), expected.len(), "{planned:#?}");
        assert!(planned.iter().zip(expected).all(|(text, part)| text.contains(part)), "{planned:#?}");
        assert_eq!((mtu("10.77.2.0/26"), mtu("10.77.1.0/26")), (far_mtu_bytes, 1480));
        assert_eq!(dataplane.repair().planned, [""; 0]);
    };
    say(1400);
    check(101, 1380, &["replace route 10.77.2.0/26"]);
    say(68);
    check(102, 556, &["replace route 10.77.2.0/26"]);
    say(9000);
    check(103, 1480, &["replace route 10.77.2.0/26"]);
    say(1300);
    check(699, 1280, &["replace route 10.77.2.0/26"]);
    check(700, 1480, &["replace route 10.77.2.0/26", "forget what the way to node 198.51.100.2 carries"]);
    check(701, 1480, &[]);
}

#[test]
fn something_foreign_with_the_tunnels_name_is_not_touched() {
    let (dataplane, fake) = scene(EncapBackend::Device);
    let foreign = Link { ifindex: 77, ifname: "poolward-ipip".into(), ..Link::default() };
    fake.state().links.insert(77, foreign.clone());
    let report = dataplane.reconcile(&desired(&dataplane, IpipMode::Always));
    assert!(report.errors.iter().any(DataplaneError::is_conflict), "{report:#?}");
    assert_eq!(fake.state().links[&77], foreign);
    assert_eq!(way(&fake, "10.77.1.0/26"), None);
}

#[test]
fn twenty_thousand_unchanged_routes_plan_nothing_and_one_drift_one_operation() {
    let (dataplane, fake) = scene(EncapBackend::Ebpf);
    let mut wanted = desired(&dataplane, IpipMode::Always);
    wanted.peers.clear();
    wanted.remote_ranges.clear();
    for number in 0..5000_u32 {
        let address = Ipv4Addr::from(0xac10_0000 + number);
        fake.state().hops.insert(address.into(), Hop { ifindex: UPLINK, gateway: None });
        let name = format!("node-{number}").parse().unwrap();
        wanted.peers.push(Peer { name, ipv4: Some(address), ipv6: None, inner_ipv4: None });
        for block in 0..4 {
            let network = Ipv4Addr::from(0x0a50_0000 + (number * 4 + block) * 64);
            let cidr = Cidr::containing(network.into(), 26).unwrap();
            wanted.remote_ranges.push(RemoteRange { cidr, peer: number, ipip_mode: IpipMode::Always });
        }
    }
    assert_eq!(run_ok(&dataplane, &wanted).len(), 257, "the first 256, and how many more");
    assert_eq!(fake.state().nexthops.len(), 5000);
    assert_eq!(run_ok(&dataplane, &wanted), [""; 0]);
    let drifted = fake.state().routes.iter().nth(12_345).copied().unwrap();
    fake.state().routes.remove(&drifted);
    fake.state().routes.insert(Route { mtu_bytes: 1400, ..drifted });
    assert_eq!(run_ok(&dataplane, &wanted).len(), 1);
}
