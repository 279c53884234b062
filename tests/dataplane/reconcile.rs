//! Reconciliation: nothing to do a second time, one operation for each kind of tampering, nothing foreign touched.

use dataplane::{Dataplane, DesiredState, Pool};

use crate::fixture::{Node, Pod, pool};

/// A NAT pool, a plain one, one for IPv6, two blocks, two pods.
struct Scene {
    node: Node,
    pods: [Pod; 2],
    desired: DesiredState,
}

fn scene_pools() -> Vec<Pool> {
    vec![
        pool("10.77.0.0/24", 1, true, Some(10)),
        pool("10.78.0.0/24", 2, false, None),
        pool("fd77::/112", 3, false, None),
    ]
}

fn scene() -> Scene {
    let node = Node::new();
    let pods = [Pod::dual(1), Pod::v4(2)];
    let mut desired = node.desired(&scene_pools(), &[]);
    desired.own_blocks = vec!["10.77.0.0/29".parse().unwrap(), "fd77::/125".parse().unwrap()];
    desired.closed_ranges = vec!["10.77.0.0/24".parse().unwrap(), "fd77::/112".parse().unwrap()];
    node.reconcile_ok(&desired);
    for pod in &pods {
        node.wire(pod).unwrap();
    }
    desired.pods = pods.iter().map(|pod| pod.wiring.identity.clone()).collect();
    Scene { node, pods, desired }
}

impl Scene {
    fn host(&self) -> String {
        self.pods[0].host_ifname()
    }

    fn ifindex(&self) -> u32 {
        self.node.netns().link(&self.host()).unwrap().index
    }

    fn ip(&self, arguments: &str) {
        self.node.netns().ip(&arguments.replace("HOST", &self.host())).unwrap();
    }
}

#[test]
fn a_second_run_plans_nothing() {
    let scene = scene();
    assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0], "wiring does all that reconciling would");
    let planned = scene.node.reconcile_ok(&DesiredState { sweep: false, ..scene.desired.clone() });
    assert_eq!(planned, [""; 0]);
}

#[test]
fn the_first_run_brings_all_of_it_about() {
    let node = Node::new();
    assert_eq!(node.netns().sysctl("ipv4/ip_forward").unwrap(), "0");
    let mut desired = node.desired(&scene_pools(), &[]);
    desired.own_blocks = vec!["10.77.0.0/29".parse().unwrap(), "fd77::/125".parse().unwrap()];
    node.reconcile_ok(&desired);
    assert_eq!(node.netns().sysctl("ipv4/ip_forward").unwrap(), "1");
    assert_eq!(node.netns().sysctl("ipv6/conf/all/forwarding").unwrap(), "1");
    assert_eq!(
        node.our_routes(),
        ["blackhole 10.77.0.0/29 metric 4096", "blackhole fd77::/125 dev lo metric 4096 pref medium"]
    );
    let pools = node.map_dump("pw_pools_v4");
    assert_eq!(pools.as_array().unwrap().len(), 2, "{pools}");
    let table = node.netns().nft_list("table inet poolward").unwrap().to_string();
    assert!(
        table.contains("masquerade") && table.contains("10.77.0.0") && table.contains("10.78.0.0"),
        "{table}"
    );
    assert_eq!(node.reconcile_ok(&desired), [""; 0]);
}

#[test]
fn each_kind_of_tampering_is_repaired_by_one_operation() {
    let scene = scene();
    let check = |tamper: &dyn Fn(&Scene), expected: &str| {
        tamper(&scene);
        let planned = scene.node.reconcile_ok(&scene.desired);
        assert_eq!(planned.len(), 1, "{expected}: {planned:#?}");
        assert!(planned[0].contains(expected), "{expected}: {planned:?}");
        assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0], "after {expected}");
        for pod in &scene.pods {
            assert_eq!(scene.node.check(pod), None, "after {expected}");
        }
    };
    check(&|s| s.ip("route del 10.77.0.1"), "add route 10.77.0.1/32");
    check(&|s| s.ip("-6 route del fd77::1"), "add route fd77::1/128");
    check(&|s| s.ip("route del blackhole 10.77.0.0/29 metric 4096"), "add route 10.77.0.0/29 to nowhere");
    check(&|s| s.ip("route del unreachable 10.77.0.0/24 metric 8192"), "add route 10.77.0.0/24 unreachable");
    check(&|s| s.ip("-6 route del unreachable fd77::/112 metric 8192"), "add route fd77::/112 unreachable");
    check(&|s| s.ip("route add 10.99.0.0/24 dev up0 proto 80"), "delete route 10.99.0.0/24");
    check(&|s| s.ip("neigh del 10.77.0.1 dev HOST"), "set neighbour 10.77.0.1");
    check(&|s| s.ip("neigh replace fd77::1 lladdr 02:00:00:00:00:01 dev HOST"), "set neighbour fd77::1");
    check(&|s| s.node.detach(s.ifindex()), "attach the program");
    check(&|s| s.node.map_delete("pw_endpoints", s.ifindex()), "set endpoint of interface");
    check(&|s| s.node.netns().set_sysctl("ipv4/ip_forward", "0").unwrap(), "ip_forward");
    check(&|s| s.node.netns().set_sysctl("ipv6/conf/all/forwarding", "0").unwrap(), "forwarding");
    check(&|s| s.node.netns().nft("delete table inet poolward").unwrap(), "write the nftables table");
    check(
        &|s| s.node.netns().nft("add element inet poolward no_nat_v4 { 192.0.2.0/24 }").unwrap(),
        "write the nftables table",
    );
    check(
        &|s| s.node.netns().nft("insert rule inet poolward postrouting counter").unwrap(),
        "write the nftables table",
    );
    check(
        &|s| s.node.netns().nft("flush chain inet poolward postrouting").unwrap(),
        "write the nftables table",
    );
}

#[test]
fn a_route_that_somebody_put_in_the_place_of_ours_stays_and_no_longer_counts() {
    let scene = scene();
    // Replaces ours, for it has the same destination and metric.
    scene.ip("route replace 10.77.0.1/32 dev up0");
    let get = || scene.node.netns().ip("route get 10.77.0.1").unwrap();
    assert!(get().contains("dev up0"), "{}", get());
    let planned = scene.node.reconcile_ok(&scene.desired);
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert!(get().contains(&scene.host()), "{}", get());
    let theirs = scene.node.netns().ip("route show 10.77.0.1 dev up0").unwrap();
    assert!(theirs.contains("10.77.0.1"), "theirs is still there: {theirs:?}");
}

#[test]
fn an_interface_set_down_comes_up_with_its_routes_and_neighbours() {
    let scene = scene();
    scene.ip("link set HOST down");
    let planned = scene.node.reconcile_ok(&scene.desired);
    assert!(planned[0].contains("up"), "{planned:?}");
    assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0]);
    assert_eq!(scene.node.check(&scene.pods[0]), None);
    assert!(scene.pods[0].ping(scene.pods[1].ipv4()));
}

#[test]
fn nothing_foreign_is_touched() {
    let scene = scene();
    let netns = scene.node.netns();
    netns.ip("link add brother type bridge").unwrap();
    netns.ip("link set brother alias poolwardish").unwrap();
    netns.ip("link set brother up").unwrap();
    netns.ip("route add 10.50.0.0/16 dev brother").unwrap();
    netns.ip("route add blackhole 10.51.0.0/16 proto 81").unwrap();
    netns.ip("route add 10.52.0.0/16 dev brother table 80 proto 80").unwrap();
    netns.ip("-6 route add fd50::/64 dev brother").unwrap();
    netns.ip("neigh add 10.50.0.1 lladdr 02:00:00:00:00:01 dev brother nud permanent").unwrap();
    netns.nft("add table inet other; add chain inet other c; add rule inet other c counter").unwrap();
    netns.nft("add table ip poolward; add chain ip poolward c").unwrap();
    netns.set_sysctl("ipv4/conf/up0/rp_filter", "2").unwrap();
    let foreign = || {
        [
            netns.ip("link show dev brother").unwrap(),
            netns.ip("-4 route show table all dev brother").unwrap(),
            netns.ip("-4 route show proto 81").unwrap(),
            netns.ip("-6 route show dev brother").unwrap(),
            netns.ip("neigh show dev brother").unwrap(),
            netns.nft_list("table inet other").unwrap().to_string(),
            netns.nft_list("table ip poolward").unwrap().to_string(),
            netns.sysctl("ipv4/conf/up0/rp_filter").unwrap(),
        ]
    };
    let before = foreign();
    assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0]);
    let empty = scene.node.desired(&[], &[]);
    assert!(!scene.node.reconcile_ok(&empty).is_empty(), "everything of ours is swept");
    assert_eq!(foreign(), before);
    let mut links = scene.node.our_links();
    links.retain(|name| name != "brother");
    assert_eq!(links, [""; 0]);
    assert_eq!(scene.node.our_routes(), [""; 0]);
    scene.node.call(Dataplane::remove_all).unwrap();
    assert_eq!(foreign(), before);
}

#[test]
fn nothing_is_swept_before_the_first_complete_snapshot() {
    let scene = scene();
    let empty = DesiredState { sweep: false, ..scene.node.desired(&[], &[]) };
    assert_eq!(scene.node.reconcile_ok(&empty), [""; 0]);
    for pod in &scene.pods {
        assert_eq!(scene.node.check(pod), None);
    }
    let sweeping = scene.node.desired(&scene_pools(), &[&scene.pods[0]]);
    let planned = scene.node.reconcile_ok(&sweeping);
    assert!(planned.iter().any(|text| text.contains("delete interface")), "{planned:?}");
    assert_eq!(scene.node.our_links(), [scene.host()], "the pod that is not desired is gone");
    assert_eq!(scene.node.check(&scene.pods[0]), None);
}

#[test]
fn what_an_interface_deleted_by_others_left_is_removed_and_the_pod_is_reported() {
    let scene = scene();
    scene.ip("link del HOST");
    let report = scene.node.reconcile(&scene.desired);
    assert_eq!(report.missing, [scene.pods[0].handle().clone()]);
    assert!(report.errors.is_empty(), "{report:?}");
    let pinned = scene.node.pinned_links();
    let living = scene.node.netns().link(&scene.pods[1].host_ifname()).unwrap().index;
    assert!(pinned.iter().all(|name| name.starts_with(&living.to_string())), "{pinned:?}");
    assert_eq!(scene.node.map_dump("pw_endpoints").as_array().unwrap().len(), 1);
    assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0]);
}

#[test]
fn a_pod_wired_after_the_desired_state_was_computed_is_left_alone() {
    let scene = scene();
    let old = scene.node.desired(&scene_pools(), &[&scene.pods[0], &scene.pods[1]]);
    let young = Pod::v4(3);
    scene.node.wire(&young).unwrap();
    let report = scene.node.call(|dataplane| dataplane.reconcile(&old));
    assert!(
        report.errors.is_empty() && report.planned.iter().all(|text| !text.contains("interface")),
        "{report:?}"
    );
    assert_eq!(scene.node.check(&young), None);
    // The same the other way round: unwired since.
    let old = scene.node.desired(&scene_pools(), &[&scene.pods[0], &scene.pods[1], &young]);
    scene.node.unwire(&young);
    let report = scene.node.call(|dataplane| dataplane.reconcile(&old));
    assert!(report.errors.is_empty() && report.missing.is_empty(), "{report:?}");
}

#[test]
fn pods_are_found_again_by_their_aliases() {
    let scene = scene();
    scene.node.netns().ip("link add odd type bridge").unwrap();
    scene.node.netns().ip("link set odd alias poolward1;c").unwrap();
    let found = scene.node.call(Dataplane::fetch_pods).unwrap();
    let mut identities: Vec<_> = found.iter().filter_map(|pod| pod.identity.clone().ok()).collect();
    identities.sort_by_key(|identity| identity.handle.clone());
    assert_eq!(identities, scene.desired.pods);
    let odd: Vec<_> = found.iter().filter(|pod| pod.identity.is_err()).collect();
    assert_eq!((odd.len(), odd[0].host_ifname.as_str()), (1, "odd"));
}

#[test]
fn pools_come_change_and_go_by_one_operation_each() {
    let scene = scene();
    let check = |pools: Vec<Pool>, expected: &[&str]| {
        let mut desired = scene.desired.clone();
        desired.pools = pools;
        let planned = scene.node.reconcile_ok(&desired);
        assert_eq!(planned.len(), expected.len(), "{planned:#?}");
        for (text, expected) in planned.iter().zip(expected) {
            assert!(text.contains(expected), "{expected}: {planned:#?}");
        }
        assert_eq!(scene.node.reconcile_ok(&desired), [""; 0]);
    };
    let mut pools = scene_pools();
    pools[0].dscp = None;
    check(pools.clone(), &["set pool 10.77.0.0/24"]);
    pools.push(pool("10.79.0.0/24", 4, false, None));
    check(pools.clone(), &["nftables", "set pool 10.79.0.0/24"]);
    // Next to the one before: one range in the set, two in the map.
    pools.push(pool("10.79.1.0/24", 5, false, None));
    check(pools.clone(), &["nftables", "set pool 10.79.1.0/24"]);
    pools.truncate(3);
    check(pools.clone(), &["nftables", "remove pool", "remove pool", "forget", "forget"]);
    pools[0].nat_outgoing = false;
    check(pools, &["set pool 10.77.0.0/24", "delete the nftables table"]);
    let gone = scene.node.netns().nft_list("table inet poolward");
    assert!(gone.is_err(), "without NAT no table, and no connection tracking because of it");
}

#[test]
fn the_uplinks_router_survives_when_forwarding_is_switched_on() {
    let node = Node::new();
    let desired = node.desired(&scene_pools(), &[]);
    node.netns().set_sysctl("ipv6/conf/up0/accept_ra", "1").unwrap();
    node.reconcile_ok(&desired);
    assert_eq!(node.netns().sysctl("ipv6/conf/up0/accept_ra").unwrap(), "2");
    // Where it was switched off on purpose, or others forward already, it stays.
    for (accept_ra, forwarding) in [("0", "0"), ("1", "1")] {
        node.netns().set_sysctl("ipv6/conf/all/forwarding", forwarding).unwrap();
        node.netns().set_sysctl("ipv6/conf/up0/accept_ra", accept_ra).unwrap();
        node.reconcile_ok(&desired);
        assert_eq!(node.netns().sysctl("ipv6/conf/up0/accept_ra").unwrap(), accept_ra);
    }
}

#[test]
fn forwarding_is_left_alone_where_no_pod_needs_it() {
    let node = Node::new();
    let desired = DesiredState { forward_ipv4: false, forward_ipv6: false, ..node.desired(&[], &[]) };
    assert_eq!(node.reconcile_ok(&desired), [""; 0]);
    assert_eq!(node.netns().sysctl("ipv4/ip_forward").unwrap(), "0");
    node.netns().set_sysctl("ipv4/ip_forward", "1").unwrap();
    node.reconcile_ok(&desired);
    assert_eq!(node.netns().sysctl("ipv4/ip_forward").unwrap(), "1", "others may rely on it");
}

#[test]
fn a_block_of_one_address_and_its_pod_stand_side_by_side() {
    let scene = scene();
    let mut desired = scene.desired.clone();
    desired.own_blocks.push("10.77.0.2/32".parse().unwrap());
    desired.own_blocks.push("fd77::1/128".parse().unwrap());
    assert_eq!(scene.node.reconcile_ok(&desired).len(), 2);
    assert_eq!(scene.node.reconcile_ok(&desired), [""; 0]);
    assert!(scene.pods[0].ping(scene.pods[1].ipv4()), "the pod's route wins");
}

#[test]
fn a_pod_that_has_been_idle_is_guarded_by_a_pinned_link_and_never_unguarded() {
    let scene = scene();
    assert_eq!(scene.node.pinned_links(), [""; 0], "filters guard it first");
    let ping = || scene.pods[0].ping(scene.pods[1].ipv4());
    assert!(ping());
    std::thread::sleep(std::time::Duration::from_secs(6));
    let answered = std::thread::scope(|scope| {
        let pinging = scope.spawn(ping);
        let planned = scene.node.reconcile_ok(&scene.desired);
        assert_eq!(planned.len(), 2, "{planned:?}");
        assert!(planned.iter().all(|text| text.contains("lasting")), "{planned:?}");
        pinging.join().unwrap()
    });
    assert!(answered, "packets go on");
    assert_eq!(scene.node.pinned_links().len(), 4, "two programs on two interfaces");
    let filters = harness::Run::new("tc").args(["filter", "show", "dev", &scene.host(), "ingress"]);
    assert_eq!(filters.ok_in(scene.node.netns()).unwrap().trim(), "");
    assert_eq!(scene.node.reconcile_ok(&scene.desired), [""; 0]);
    for pod in &scene.pods {
        assert_eq!(scene.node.check(pod), None);
        assert!(scene.node.unwire(pod));
    }
    scene.node.reconcile_ok(&scene.node.desired(&[], &[]));
    scene.node.assert_clean();
}
