//! Which pools serve: selectors, modes, uses, and pools asked for by name.

use super::*;
use crate::pool::{AllowedUses, AssignmentMode};

const WEST: &str = "zone == 'west'";

fn two_pools(change: impl FnOnce(&mut PoolSpec)) -> World {
    World::new([
        with(pool("picky", "10.0.0.0/24", 26), change),
        with(pool("rest", "10.0.1.0/24", 26), |s| s.priority = 9),
    ])
}

/// The pool that serves, or the refusal's text.
fn served_by(world: &mut World, request: &AssignRequest) -> String {
    match world.serve(request) {
        Ok(given) => world.pools.by_address(given[0].parse().unwrap()).unwrap().name.to_string(),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn a8_both_selectors_must_match_and_missing_labels_are_an_empty_set() {
    let check = |node: &[(&str, &str)], namespace: &[(&str, &str)], expected: &str| {
        let mut world = two_pools(|spec| {
            spec.node_selector = WEST.parse().unwrap();
            spec.namespace_selector = "team != 'b'".parse().unwrap();
        });
        world.node_labels = labels(node);
        let request = AssignRequest::new(handle("c"), labels(namespace));
        assert_eq!(served_by(&mut world, &request), expected, "{node:?} {namespace:?}");
    };
    check(&[("zone", "west")], &[("team", "a")], "picky");
    check(&[("zone", "west")], &[("team", "b")], "rest");
    check(&[("zone", "east")], &[("team", "a")], "rest");
    check(&[], &[], "rest");
    check(&[("zone", "west")], &[], "picky");
}

#[test]
fn a9_a_manual_pool_serves_only_those_that_ask_for_it() {
    let mut world = two_pools(|spec| spec.assignment_mode = AssignmentMode::Manual);
    assert_eq!(served_by(&mut world, &request("a")), "rest");
    assert_eq!(served_by(&mut world, &asking_for("b", &["picky"])), "picky");
    assert_eq!(served_by(&mut world, &at_address("c", "10.0.0.200")), "picky");
}

#[test]
fn a9_a_pool_whose_uses_lack_workload_serves_no_pod_at_all() {
    let mut world = two_pools(|spec| spec.allowed_uses = AllowedUses { workload: false, tunnel: true });
    assert_eq!(served_by(&mut world, &request("a")), "rest");
    assert_eq!(
        served_by(&mut world, &asking_for("b", &["picky"])),
        "requested IPv4 pool picky (10.0.0.0/24): allowedUses lacks Workload (asked for by pod annotation \
         poolward.io/ipv4pools)"
    );
    assert_eq!(
        served_by(&mut world, &at_address("c", "10.0.0.200")),
        "cannot give 10.0.0.200 to c/eth0: pool picky (10.0.0.0/24): allowedUses lacks Workload"
    );
}

#[test]
fn a7_a_pool_asked_for_that_cannot_serve_is_an_error_naming_it() {
    type Change = fn(&mut PoolSpec);
    let check = |change: Change, asked: &[&str], expected: &str| {
        let mut world = two_pools(change);
        let outcome = served_by(&mut world, &asking_for("c", asked));
        let by = " (asked for by pod annotation poolward.io/ipv4pools)";
        assert_eq!(outcome.strip_suffix(by).unwrap_or(&outcome), expected, "{asked:?}");
        assert_eq!(world.claims, usize::from(expected == "picky" || expected == "rest"), "{asked:?}");
    };
    let picky = "requested IPv4 pool picky (10.0.0.0/24)";
    check(|_| {}, &["picky"], "picky");
    check(|_| {}, &["10.0.0.0/24"], "picky");
    check(|_| {}, &["rest", "picky", "rest"], "rest");
    check(|_| {}, &["none"], "requested IPv4 pool \"none\" does not exist");
    check(|_| {}, &["picky", "none"], "requested IPv4 pool \"none\" does not exist");
    check(|_| {}, &["10.0.0.0/25"], "requested IPv4 pool \"10.0.0.0/25\" does not exist");
    check(|spec| spec.disabled = true, &["picky"], &format!("{picky}: disabled"));
    check(|spec| spec.disabled = true, &["rest", "picky"], &format!("{picky}: disabled"));
    check(|spec| spec.terminating = true, &["picky"], &format!("{picky}: being deleted"));
    check(|spec| spec.tag = None, &["picky"], &format!("{picky}: not admitted yet"));
    check(
        |spec| spec.not_admitted = Some("CIDR overlaps pool x".to_owned()),
        &["picky"],
        &format!("{picky}: not admitted: CIDR overlaps pool x"),
    );
    check(
        |spec| spec.node_selector = WEST.parse().unwrap(),
        &["picky"],
        &format!("{picky}: nodeSelector does not match this node"),
    );
    check(
        |spec| spec.namespace_selector = WEST.parse().unwrap(),
        &["picky"],
        &format!("{picky}: namespaceSelector does not match the namespace"),
    );
    check(
        |spec| {
            if spec.name.as_str() == "picky" {
                *spec = pool("picky", "fd00::/120", 122);
            }
        },
        &["picky"],
        "requested IPv4 pool picky (fd00::/120): of the other address family",
    );
}

#[test]
fn a7_selectors_of_a_pool_asked_for_may_be_left_out_of_account() {
    let mut world = two_pools(|spec| {
        spec.node_selector = WEST.parse().unwrap();
        spec.namespace_selector = WEST.parse().unwrap();
    });
    world.settings.enforce_selectors_on_request = false;
    assert_eq!(served_by(&mut world, &asking_for("a", &["picky"])), "picky");
    assert_eq!(served_by(&mut world, &at_address("b", "10.0.0.200")), "picky");
    assert_eq!(served_by(&mut world, &request("c")), "rest", "without being asked for, they count");
}

#[test]
fn pools_asked_for_are_tried_in_the_order_they_were_named_and_no_other_one_is() {
    let mut world = World::new([
        pool("a", "10.0.0.0/32", 32),
        pool("b", "10.0.0.1/32", 32),
        pool("c", "10.0.0.2/32", 32),
    ]);
    let order: Vec<String> =
        (0..3).map(|n| served_by(&mut world, &asking_for(&format!("c{n}"), &["c", "a"]))).collect();
    let refusal = "no IPv4 address for c2/eth0: pool exhausted: c (10.0.0.2/32), a (10.0.0.0/32)";
    assert_eq!(order, ["c", "a", refusal]);
}

#[test]
fn a_refusal_says_whether_waiting_may_help() {
    let check = |change: fn(&mut PoolSpec), request: &AssignRequest, retryable: bool| {
        let world = World::new([with(pool("p", "10.0.0.0/24", 26), change)]);
        assert_eq!(world.decide(request).unwrap_err().is_retryable(), retryable, "{request:?}");
    };
    check(|spec| spec.tag = None, &request("c"), true);
    check(|spec| spec.tag = None, &asking_for("c", &["p"]), true);
    check(|spec| spec.tag = None, &at_address("c", "10.0.0.1"), true);
    check(|spec| spec.disabled = true, &request("c"), false);
    check(|_| {}, &asking_for("c", &["none"]), false);
    check(|_| {}, &at_address("c", "10.9.0.1"), false);
}
