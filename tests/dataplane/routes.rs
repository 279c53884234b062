//! Routes to what other nodes serve, and that they come back whatever was done to them or to what they stand on.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dataplane::{Dataplane, DesiredState, Event, Events, Peer, RemoteRange};
use model::{Cidr, IpipMode};
use serde_json::Value;
use tokio::time::timeout;

use crate::fixture::Node;

/// The first number that is ours.
const FIRST_ID: u64 = 0x5000_0000;

fn peer(number: u32, ipv4: Option<&str>, ipv6: Option<&str>) -> Peer {
    Peer {
        name: format!("node-{number}").parse().unwrap(),
        ipv4: ipv4.map(|text| text.parse().unwrap()),
        ipv6: ipv6.map(|text| text.parse().unwrap()),
        inner_ipv4: None,
    }
}

fn range(cidr: &str, peer: u32, ipip_mode: IpipMode) -> RemoteRange {
    RemoteRange { cidr: cidr.parse::<Cidr>().unwrap(), peer, ipip_mode }
}

/// A node with three others: two on its link, one behind its router.
struct Scene {
    node: Node,
    desired: DesiredState,
}

fn scene() -> Scene {
    let node = Node::new();
    let mut desired = node.desired(&[], &[]);
    desired.peers = vec![
        peer(1, Some("192.0.2.11"), Some("2001:db8:1::11")),
        peer(2, Some("192.0.2.12"), None),
        peer(3, Some("198.51.100.2"), Some("2001:db8:2::2")),
    ];
    let never = IpipMode::Never;
    desired.remote_ranges = vec![
        range("10.77.1.0/26", 0, never),
        range("10.77.1.64/26", 0, never),
        range("10.77.2.0/26", 1, never),
        range("10.77.0.9/32", 1, never),
        range("10.77.3.0/26", 2, never),
        range("fd77:1::/112", 0, never),
        range("fd77:3::/112", 2, never),
        range("fd77:3::9/128", 2, never),
    ];
    desired.own_blocks = vec!["10.77.0.0/26".parse().unwrap()];
    desired.closed_ranges = vec!["10.77.0.0/16".parse().unwrap()];
    node.reconcile_ok(&desired);
    Scene { node, desired }
}

impl Scene {
    fn ip(&self, arguments: &str) {
        self.node.netns().ip(arguments).unwrap();
    }

    /// Where a packet to an address goes: gateway and interface.
    fn way(&self, to: &str) -> String {
        let text = self.node.netns().ip(&format!("route get {to}")).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let after = |word: &str| {
            words.iter().position(|found| *found == word).and_then(|at| words.get(at + 1)).copied()
        };
        format!("{} {}", after("via").unwrap_or("-"), after("dev").unwrap_or("-"))
    }

    /// Whether an address is unreachable, rather than sent by the default route.
    fn is_refused(&self, to: &str) -> bool {
        let answer = self.node.netns().ip(&format!("route get {to}"));
        answer.is_err_and(|error| format!("{error:#}").contains("No route to host"))
    }

    /// Nexthop objects: number, gateway and interface.
    fn nexthops(&self) -> Vec<(u64, String)> {
        let found = self.node.netns().ip_json("nexthop show").unwrap();
        let said = |object: &Value, key: &str| object[key].as_str().unwrap_or("-").to_owned();
        let object = |object: &Value| {
            (object["id"].as_u64().unwrap(), format!("{} {}", said(object, "gateway"), said(object, "dev")))
        };
        found.as_array().unwrap().iter().map(object).collect()
    }

    /// The number of the object that leads to `gateway`.
    fn nexthop_to(&self, gateway: &str) -> u64 {
        let found = self.nexthops();
        found.iter().find(|(_, text)| text.starts_with(&format!("{gateway} "))).unwrap().0
    }

    fn check_ways(&self) {
        for (to, expected) in [
            ("10.77.1.1", "192.0.2.11 up0"),
            ("10.77.1.65", "192.0.2.11 up0"),
            ("10.77.2.1", "192.0.2.12 up0"),
            ("10.77.0.9", "192.0.2.12 up0"),
            ("10.77.3.1", "192.0.2.1 up0"),
            ("fd77:1::1", "2001:db8:1::11 up0"),
            ("fd77:3::1", "2001:db8:1::1 up0"),
            ("fd77:3::9", "2001:db8:1::1 up0"),
        ] {
            assert_eq!(self.way(to), expected, "{to}");
        }
    }

    fn repair_ok(&self) -> Vec<String> {
        let report = self.node.call(Dataplane::repair);
        assert!(report.errors.is_empty(), "{:?} after {:#?}", report.errors, report.planned);
        report.planned
    }
}

#[test]
fn each_range_has_a_route_by_its_nodes_nexthop_and_a_second_run_plans_nothing() {
    let scene = scene();
    scene.check_ways();
    let ids: Vec<u64> = scene.nexthops().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 5, "one for each node and family: {ids:?}");
    assert!(ids.iter().all(|id| (FIRST_ID..FIRST_ID + 0x1000_0000).contains(id)), "{ids:x?}");
    assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0]);
    assert_eq!(scene.repair_ok(), [""; 0]);
    assert!(scene.is_refused("10.77.9.9"), "nothing leaks by the default route");
}

#[test]
fn each_kind_of_tampering_is_repaired_by_one_operation_of_either_run() {
    let scene = scene();
    let check = |tamper: &str, expected: &str| {
        for repair in [true, false] {
            scene.ip(tamper);
            let planned = if repair { scene.repair_ok() } else { scene.node.reconcile_ok(&scene.desired) };
            assert_eq!(planned.len(), 1, "{tamper}: {planned:#?}");
            assert!(planned[0].contains(expected), "{tamper}: {planned:?}");
            scene.check_ways();
            assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0], "after {tamper}");
        }
    };
    check("route del 10.77.1.0/26", "add route 10.77.1.0/26");
    check("route del 10.77.0.9/32", "add route 10.77.0.9/32");
    check("-6 route del fd77:1::/112", "add route fd77:1::/112");
    check("route change 10.77.1.0/26 via 192.0.2.99 dev up0 proto 80", "replace route 10.77.1.0/26");
    let nexthop = scene.nexthop_to("192.0.2.12");
    check(&format!("route replace 10.77.1.0/26 nhid {nexthop} proto 80"), "replace route 10.77.1.0/26");
    check(
        &format!("route replace 10.77.2.0/26 nhid {nexthop} proto 80 mtu 1400"),
        "replace route 10.77.2.0/26",
    );
    check(&format!("nexthop replace id {nexthop} via 192.0.2.99 dev up0 onlink proto 80"), "change nexthop");
    check("route del blackhole 10.77.0.0/26 metric 4096", "add route 10.77.0.0/26 to nowhere");
    check("route del unreachable 10.77.0.0/16 metric 8192", "add route 10.77.0.0/16 unreachable");
    check("nexthop add id 1342177290 via 192.0.2.55 dev up0 onlink proto 80", "delete nexthop 1342177290");
    // Theirs stays in these, and no longer counts.
    let nexthop = scene.nexthop_to("192.0.2.11");
    check("-6 route del fd77:3::9/128", "add route fd77:3::9/128");
    scene.ip("route replace 10.77.1.0/26 via 192.0.2.99 dev up0");
    assert_eq!(scene.repair_ok().len(), 1);
    scene.check_ways();
    let theirs = scene.node.netns().ip("route show 10.77.1.0/26 proto boot").unwrap();
    assert!(theirs.contains("192.0.2.99"), "{theirs:?}");
    scene.ip("route prepend 10.77.1.64/26 via 192.0.2.98 dev up0");
    assert_eq!(scene.repair_ok().len(), 2, "ours is taken away and put in front");
    scene.check_ways();
    assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0]);
    scene.ip(&format!("nexthop del id {nexthop}"));
    assert_eq!(scene.repair_ok().len(), 3, "a nexthop and the two routes that went silently with it");
    scene.check_ways();
}

#[test]
fn a_node_that_changes_its_address_is_one_message() {
    let scene = scene();
    let mut desired = scene.desired.clone();
    desired.peers[0].ipv4 = Some(Ipv4Addr::new(192, 0, 2, 21));
    let planned = scene.node.reconcile_ok(&desired);
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert!(planned[0].starts_with("change nexthop"), "{planned:?}");
    assert_eq!(scene.way("10.77.1.1"), "192.0.2.21 up0");
    assert_eq!(scene.way("10.77.1.65"), "192.0.2.21 up0");
    assert_eq!(scene.node.reconcile_ok(&desired), [""; 0]);
}

#[test]
fn the_router_towards_a_node_is_followed_as_it_changes() {
    let scene = scene();
    scene.ip("route add 198.51.100.0/24 via 192.0.2.254");
    let planned = scene.repair_ok();
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert_eq!(scene.way("10.77.3.1"), "192.0.2.254 up0");
    scene.ip("route del 198.51.100.0/24");
    assert_eq!(scene.repair_ok().len(), 1);
    assert_eq!(scene.way("10.77.3.1"), "192.0.2.1 up0");
    // No way at all: no route, and it is told which.
    scene.ip("route del default");
    let report = scene.node.call(Dataplane::repair);
    assert!(report.errors.is_empty(), "{report:?}");
    let unrouted: Vec<String> = report
        .unrouted
        .iter()
        .map(|found| format!("{} {} {}", found.node, found.ranges_count, found.reason))
        .collect();
    assert_eq!(unrouted, ["node-3 1 this node knows no way to 198.51.100.2"]);
    assert!(scene.is_refused("10.77.3.1"));
    scene.ip("route add default via 192.0.2.1");
    scene.repair_ok();
    scene.check_ways();
}

#[test]
fn what_other_nodes_serve_comes_moves_and_goes() {
    let scene = scene();
    let check = |change: &dyn Fn(&mut DesiredState), expected: &[&str]| {
        let mut desired = scene.desired.clone();
        change(&mut desired);
        let planned = scene.node.reconcile_ok(&desired);
        assert_eq!(planned.len(), expected.len(), "{planned:#?}");
        for (text, expected) in planned.iter().zip(expected) {
            assert!(text.contains(expected), "{expected}: {planned:#?}");
        }
        assert_eq!(scene.node.reconcile_ok(&desired), [""; 0]);
        scene.node.reconcile_ok(&scene.desired);
        scene.check_ways();
    };
    // A block moves to another node that has some already, or to one that has none.
    check(&|desired| desired.remote_ranges[0].peer = 1, &["replace route 10.77.1.0/26"]);
    check(&|desired| desired.remote_ranges[2].peer = 2, &["replace route 10.77.2.0/26"]);
    check(
        &|desired| desired.remote_ranges.retain(|r| r.cidr.to_string() != "10.77.1.0/26"),
        &["delete route 10.77.1.0/26"],
    );
    check(
        &|desired| desired.remote_ranges.retain(|range| range.peer != 1),
        &["delete route 10.77.0.9/32", "delete route 10.77.2.0/26", "delete nexthop"],
    );
    // Nothing is taken away before all is known.
    check(
        &|desired| {
            desired.remote_ranges.clear();
            desired.peers.clear();
            desired.sweep = false;
        },
        &[],
    );
}

#[test]
fn foreign_routes_and_nexthops_stay_as_they_are() {
    let node = Node::new();
    let mut desired = node.desired(&[], &[]);
    desired.peers = vec![peer(1, Some("192.0.2.11"), None)];
    desired.remote_ranges = vec![range("10.77.1.0/26", 0, IpipMode::Never)];
    node.reconcile_ok(&desired);
    let found = node.netns().ip_json("nexthop show").unwrap();
    let id = found[0]["id"].as_u64().unwrap();
    node.reconcile_ok(&node.desired(&[], &[]));
    // Somebody has the very number that ours would have, and the very destination.
    for line in [
        &format!("nexthop add id {id} via 192.0.2.77 dev up0 proto 99"),
        "nexthop add id 7 via 192.0.2.78 dev up0 proto 80",
        "route add 10.77.1.0/26 via 192.0.2.79 proto 99",
        "route add 10.77.1.0/26 via 192.0.2.80 proto 99 metric 50",
        "route add 10.78.0.0/16 nhid 7 proto 99",
    ] {
        node.netns().ip(line).unwrap();
    }
    let foreign = || {
        let routes = node.netns().ip("route show table main proto 99").unwrap();
        let nexthops = node.netns().ip("nexthop show").unwrap();
        let theirs = nexthops.lines().filter(|line| !line.contains("192.0.2.11")).map(str::to_owned);
        (routes, theirs.collect::<Vec<_>>())
    };
    let before = foreign();
    node.reconcile_ok(&desired);
    assert_eq!(node.reconcile_ok(&desired), [""; 0]);
    let way = node.netns().ip("route get 10.77.1.1").unwrap();
    assert!(way.contains("via 192.0.2.11"), "{way}");
    assert_eq!(foreign(), before);
    node.reconcile_ok(&node.desired(&[], &[]));
    assert_eq!(foreign(), before);
    assert!(!node.netns().ip("nexthop show").unwrap().contains("192.0.2.11"));
    node.call(Dataplane::remove_all).unwrap();
    assert_eq!(foreign(), before);
}

/// Five thousand nodes on the link, with four blocks each.
fn many(node: &Node) -> DesiredState {
    node.netns().ip("addr add 172.16.0.1/12 dev up0").unwrap();
    let mut desired = node.desired(&[], &[]);
    for number in 0..5000_u32 {
        let address = Ipv4Addr::from(0xac10_1000 + number).to_string();
        desired.peers.push(peer(number, Some(&address), None));
        for block in 0..4 {
            let network = Ipv4Addr::from(0x0a00_0000 + (number * 4 + block) * 64);
            desired.remote_ranges.push(range(&format!("{network}/26"), number, IpipMode::Never));
        }
    }
    desired
}

#[test]
fn an_interface_that_goes_while_all_is_removed_is_no_failure() {
    let node = Node::new();
    let report = node.reconcile(&many(&node));
    assert!(report.errors.is_empty() && report.unrouted.is_empty(), "{report:?}");
    let removed = std::thread::scope(|scope| {
        let removal = scope.spawn(|| node.call(Dataplane::remove_all));
        while node.netns().ip("route show proto 80").unwrap().lines().count() >= 20_000 {}
        // Takes the nexthop objects along, and with them the routes that are still to be deleted.
        node.netns().ip("link delete up0").unwrap();
        removal.join().unwrap()
    });
    removed.unwrap();
    assert_eq!(node.netns().ip("route show proto 80").unwrap(), "");
    assert_eq!(node.netns().ip("nexthop show").unwrap(), "");
}

#[test]
fn twenty_thousand_routes_over_five_thousand_nodes_come_drift_and_go() {
    let node = Node::new();
    let mut desired = many(&node);
    node.reconcile_ok(&node.desired(&[], &[]));
    let count = |what: &str| node.netns().ip(&format!("{what} show proto 80")).unwrap().lines().count();
    let report = node.reconcile(&desired);
    assert!(report.errors.is_empty() && report.unrouted.is_empty(), "{report:?}");
    assert_eq!((report.planned_count, count("route"), count("nexthop")), (25_000, 20_000, 5000));
    assert_eq!(node.reconcile_ok(&desired), [""; 0]);
    node.netns().ip("route change 10.18.52.64/26 via 172.16.16.9 dev up0 proto 80").unwrap();
    assert_eq!(node.reconcile_ok(&desired).len(), 1);
    // The first fifth of the nodes goes.
    desired.remote_ranges.retain(|range| range.peer >= 1000);
    assert_eq!(node.reconcile(&desired).planned_count, 5000);
    assert_eq!((count("route"), count("nexthop")), (16_000, 4000));
}

#[test]
fn a_route_that_was_taken_away_is_back_by_its_event_before_anything_is_read() {
    let scene = scene();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let restored = scene.node.call(|dataplane| {
        runtime.block_on(async {
            let mut events = dataplane.events().unwrap();
            // Somebody else's comes and goes as well: that is none of ours to bring back.
            scene.ip("route add 10.99.0.0/24 via 192.0.2.11 dev up0");
            scene.ip("route del 10.99.0.0/24");
            scene.ip("route del 10.77.1.0/26 proto 80");
            let mut gone = Vec::new();
            let victim = "10.77.1.0/26".parse().unwrap();
            while !gone.contains(&victim) {
                timeout(Duration::from_secs(5), events.next()).await.unwrap().unwrap();
                gone.extend(events.take_gone());
            }
            dataplane.restore(&gone)
        })
    });
    assert!(restored.len() == 1 && restored[0].contains("10.77.1.0/26"), "{restored:?}");
    scene.check_ways();
    assert_eq!(scene.repair_ok(), [""; 0]);
    assert_eq!(scene.node.netns().ip("route show 10.99.0.0/24").unwrap(), "");
}

/// Calls `repair` for every urgent event, as an agent does, until routes lead where they shall; how long that took.
async fn repaired(scene: &Scene, events: &mut Events, started: Instant, done: impl Fn() -> bool) -> Duration {
    loop {
        let event = timeout(Duration::from_secs(5), events.next()).await.unwrap().unwrap();
        if event >= Event::Underlay {
            scene.node.call(|dataplane| drop(dataplane.repair()));
        }
        if done() {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(5), "not repaired");
    }
}

#[test]
fn a_carrier_lost_and_back_brings_all_routes_back() {
    let scene = scene();
    let peer_down = |down: bool| {
        let verb = if down { "down" } else { "up" };
        scene.node.lab.firewall.ip(&format!("link set node0 {verb}")).unwrap();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    scene.node.call(|dataplane| {
        runtime.block_on(async {
            let mut events = dataplane.events().unwrap();
            for _ in 0..3 {
                let started = Instant::now();
                peer_down(true);
                let gone = || scene.nexthops().is_empty();
                repaired(&scene, &mut events, started, gone).await;
                // Without a carrier nothing is tried, and pods' packets do not follow the default route.
                let report = dataplane.repair();
                assert!(report.errors.is_empty() && report.planned.is_empty(), "{report:?}");
                let reasons: Vec<&str> = report.unrouted.iter().map(|found| found.reason.as_str()).collect();
                assert_eq!(reasons.len(), 3, "{reasons:?}");
                assert!(reasons.iter().all(|r| *r == "up0 is down or has no carrier"), "{reasons:?}");
                assert!(scene.is_refused("10.77.1.1"));
                let started = Instant::now();
                peer_down(false);
                let back = || scene.nexthops().len() == 5;
                let took = repaired(&scene, &mut events, started, back).await;
                println!("back after {took:?}");
                scene.check_ways();
            }
        });
    });
}

#[test]
fn what_is_deleted_is_back_by_its_event() {
    let scene = scene();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    scene.node.call(|dataplane| {
        runtime.block_on(async {
            let mut events = dataplane.events().unwrap();
            let nexthop = scene.nexthop_to("192.0.2.11");
            for (tamper, to, way) in [
                ("route del 10.77.2.0/26".to_owned(), "10.77.2.1", "192.0.2.12 up0"),
                (format!("nexthop del id {nexthop}"), "10.77.1.65", "192.0.2.11 up0"),
                (
                    "route replace 10.77.2.0/26 via 192.0.2.99 dev up0".to_owned(),
                    "10.77.2.1",
                    "192.0.2.12 up0",
                ),
                ("link set up0 down".to_owned(), "", ""),
                ("link set up0 up".to_owned(), "10.77.2.1", "192.0.2.12 up0"),
            ] {
                while timeout(Duration::from_millis(100), events.next()).await.is_ok() {}
                let started = Instant::now();
                scene.ip(&tamper);
                let done = || {
                    to.is_empty()
                        || scene
                            .node
                            .netns()
                            .ip(&format!("route get {to}"))
                            .is_ok_and(|text| text.contains(way.split(' ').next().unwrap()))
                };
                let took = repaired(&scene, &mut events, started, done).await;
                println!("{tamper}: {took:?}");
            }
            // What went with the interface being down, its default routes, is not ours to bring back.
            scene.ip("route add default via 192.0.2.1");
            scene.ip("addr replace 2001:db8:1::2/64 dev up0 nodad");
            scene.ip("route add default via 2001:db8:1::1");
            scene.repair_ok();
            scene.check_ways();
        });
    });
}
