//! Taking back, and blocks that go.

use std::net::IpAddr;

use super::*;
use crate::allocator::{FreeError, FreeItem};

fn world() -> World {
    World::new([pool("four", "10.0.0.0/30", 30), pool("six", "fd00::/126", 126)])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn f1_freeing_twice_succeeds_and_the_second_time_frees_nothing() {
    let mut world = world();
    world.add("c").unwrap();
    let address = ip("10.0.0.0");
    let mut free_one = || {
        world.ipam.apply_free_address(&handle("c"), address, &world.pools, world.now).map(|freed| freed.len())
    };
    assert_eq!((free_one(), free_one()), (Ok(1), Ok(0)));
    assert_eq!((world.free("c"), world.free("c")), (1, 0));
}

#[test]
fn f2_freeing_with_another_holders_identity_is_refused_and_the_address_stays() {
    let mut world = world();
    world.add("a").unwrap();
    world.add("b").unwrap();
    let before = world.ipam.clone();
    let refused = world.ipam.apply_free_address(&handle("b"), ip("10.0.0.0"), &world.pools, world.now);
    let error = FreeError::OtherHolder { address: ip("10.0.0.0"), handle: handle("b"), holder: handle("a") };
    assert_eq!(refused, Err(error.clone()));
    assert_eq!(error.to_string(), "cannot free 10.0.0.0 for b/eth0: it is held by a/eth0");
    assert_eq!(world.ipam, before);
}

#[test]
fn f3_freeing_by_handle_frees_all_families_and_an_unknown_handle_is_a_success() {
    let mut world = world();
    world.add("c").unwrap();
    assert_eq!(world.ipam.decide_free(&handle("c")).len(), 2);
    assert_eq!(world.free("c"), 2);
    assert_eq!((world.free("unknown"), world.ipam.holder_count()), (0, 0));
    let other_interface = Handle::new("c", "net1").unwrap();
    assert_eq!(world.ipam.decide_free(&other_interface), []);
}

#[test]
fn f4_each_item_of_a_batch_succeeds_or_fails_by_itself() {
    let mut world = world();
    for container in ["a", "b", "c"] {
        world.add(container).unwrap();
    }
    let item = |container: &str, address: Option<&str>| FreeItem {
        handle: handle(container),
        address: address.map(|text| text.parse().unwrap()),
    };
    let items = [
        item("a", Some("10.0.0.0")),
        item("stale", Some("10.0.0.1")),
        item("unknown", None),
        item("b", None),
        item("b", None),
        item("c", Some("10.9.9.9")),
        item("c", Some("fd00::2")),
    ];
    let decided = world.ipam.decide_free_batch(&items);
    let applied = world.ipam.apply_free_batch(&items, &world.pools, world.now);
    let counts = |results: &[Result<Vec<crate::Assignment>, FreeError>]| -> Vec<Option<usize>> {
        results.iter().map(|result| result.as_ref().ok().map(Vec::len)).collect()
    };
    assert_eq!(counts(&applied), [Some(1), None, Some(0), Some(2), Some(0), Some(0), Some(1)]);
    assert_eq!(counts(&decided), [Some(1), None, Some(0), Some(2), Some(2), Some(0), Some(1)]);
    let left: Vec<_> =
        world.ipam.allocations().flat_map(|held| held.addresses).map(|held| held.address).collect();
    assert_eq!(left, [ip("fd00::"), ip("10.0.0.2")]);
    world.assert_adds_up();
}

#[test]
fn f5_a_freed_address_is_not_handed_out_before_its_pools_cooldown_is_over() {
    let mut world = World::new([
        with(pool("slow", "10.0.0.0/31", 31), |spec| spec.cooldown = Duration::from_secs(30)),
        with(pool("quick", "fd00::/127", 127), |spec| spec.cooldown = Duration::from_millis(10)),
    ]);
    for container in ["a", "b"] {
        world.add(container).unwrap();
    }
    world.free("a");
    let slow = |world: &World| {
        let view = world.view();
        world.ipam.pool_usage(&view, world.pools.by_name(&name("slow")).unwrap(), world.now).usage
    };
    assert_eq!((slow(&world).used, slow(&world).free, slow(&world).cooling), (1, 0, 1));
    world.pass(29_999);
    let refusal = world.add("c").unwrap_err();
    assert!(refusal.to_string().contains("pool exhausted: slow"), "{refusal}");
    world.pass(1);
    assert_eq!((slow(&world).free, slow(&world).cooling), (1, 0));
    assert_eq!(world.add("c").unwrap(), ["10.0.0.0", "fd00::"]);
}

#[test]
fn f5_expiry_that_ran_or_did_not_run_makes_no_difference() {
    let mut world =
        World::new([with(pool("p", "10.0.0.0/29", 29), |spec| spec.cooldown = Duration::from_secs(1))]);
    for container in ["a", "b", "c", "d"] {
        world.add(container).unwrap();
    }
    for container in ["c", "a"] {
        world.free(container);
        world.pass(700);
    }
    world.pass(1000);
    let without = world.decide(&request("x"));
    world.ipam.apply_expire(world.now);
    assert_eq!(world.decide(&request("x")), without);
    let order: Vec<String> = (0..6).flat_map(|n| world.add(&format!("n{n}")).unwrap()).collect();
    assert_eq!(order, ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.2", "10.0.0.0"]);
}

#[test]
fn f6_the_del_of_an_old_container_never_frees_the_address_of_a_newer_one() {
    // One address, so that the newer container of the pod gets the very same.
    let mut world = World::new([pool("p", "10.0.0.0/32", 32)]);
    assert_eq!(world.add("old").unwrap(), ["10.0.0.0"]);
    assert_eq!(world.free("old"), 1);
    assert_eq!(world.add("new").unwrap(), ["10.0.0.0"]);
    assert_eq!(world.free("old"), 0, "a DEL that comes again, or late");
    let by_address = world.ipam.apply_free_address(&handle("old"), ip("10.0.0.0"), &world.pools, world.now);
    assert!(matches!(by_address, Err(FreeError::OtherHolder { .. })));
    assert_eq!(world.ipam.holder_of(ip("10.0.0.0")), Some(&handle("new")));
}

#[test]
fn an_address_of_a_pool_that_is_gone_can_be_freed() {
    let mut world = world();
    world.add("c").unwrap();
    world.pools = PoolTable::default();
    assert_eq!(world.free("c"), 2);
}

#[test]
fn a_block_is_released_only_when_nothing_of_it_is_held_or_cools() {
    let mut world =
        World::new([with(pool("p", "10.0.0.0/30", 30), |spec| spec.cooldown = Duration::from_secs(1))]);
    world.add("c").unwrap();
    let block = cidr("10.0.0.0/30");
    let check = |world: &mut World, expected: &str| {
        assert_eq!(world.ipam.apply_release(&block, world.now).unwrap_err().to_string(), expected);
    };
    let used = "1 used, 3 free, 0 cooling, 0 reserved of 4";
    check(&mut world, &format!("block 10.0.0.0/30 is not empty: {used}"));
    world.free("c");
    let cooling = "0 used, 3 free, 1 cooling, 0 reserved of 4";
    check(&mut world, &format!("block 10.0.0.0/30 is not empty: {cooling}"));
    world.pass(1000);
    world.ipam.apply_release(&block, world.now).unwrap();
    check(&mut world, "block 10.0.0.0/30 is not one of this node");
    assert_eq!(world.ipam, NodeIpam::new(), "nothing of it is left");
}

#[test]
fn a_block_that_is_lost_takes_its_addresses_along_and_names_their_holders() {
    let mut world = world();
    world.add("a").unwrap();
    world.add("b").unwrap();
    let lost = world.ipam.apply_loss(&cidr("10.0.0.0/30"));
    assert_eq!(lost, [(handle("a"), ip("10.0.0.0")), (handle("b"), ip("10.0.0.1"))]);
    let left: Vec<_> = world.ipam.held_by(&handle("a")).into_iter().map(|held| held.address).collect();
    assert_eq!(left, [ip("fd00::")]);
    assert_eq!(world.ipam.holder_of(ip("10.0.0.0")), None);
    world.ipam.apply_loss(&cidr("fd00::/126"));
    assert_eq!(world.ipam, NodeIpam::new());
}
