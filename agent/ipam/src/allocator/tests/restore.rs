//! Rebuilding after a start, claims, and the state of single addresses.

use std::net::IpAddr;

use super::*;
use crate::accounting::AddressState;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn world() -> World {
    let mut world = World::new([pool("p", "10.0.0.0/28", 29), pool("six", "fd00::/126", 126)]);
    world.claim("10.0.0.0/29", "p");
    world.claim("fd00::/126", "six");
    world
}

#[test]
fn a_known_allocation_is_put_back_once_and_a_second_holder_is_refused() {
    let mut world = world();
    let mut check = |container: &str, addresses: &[&str], expected: Result<(), &str>| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        let before = world.ipam.clone();
        let outcome =
            world.ipam.restore(&handle(container), &addresses, world.now).map_err(|error| error.to_string());
        assert_eq!(outcome.as_ref().copied().map_err(String::as_str), expected);
        if outcome.is_err() {
            assert_eq!(world.ipam, before, "nothing is changed");
        }
    };
    check("a", &["10.0.0.3", "fd00::1"], Ok(()));
    check("a", &["10.0.0.3"], Ok(()));
    check("a", &["10.0.0.4"], Err("a/eth0 cannot hold 10.0.0.4: it already holds 10.0.0.3"));
    check("b", &["fd00::2", "10.0.0.3"], Err("cannot give an address to b/eth0: 10.0.0.3 is held by a/eth0"));
    check("b", &["fd00::2", "10.0.0.9"], Err("10.0.0.9 is in no block of this node"));
    check("b", &["10.0.0.5", "10.0.0.6"], Err("b/eth0 cannot hold 10.0.0.6: it already holds 10.0.0.5"));
    check("b", &[], Ok(()));
    assert_eq!(world.ipam.holder_count(), 1);
    assert_eq!(world.ipam.holder_of(ip("fd00::1")), Some(&handle("a")));
    assert_eq!(world.add("c").unwrap(), ["10.0.0.0", "fd00::"]);
}

#[test]
fn after_a_lost_journal_nothing_unproven_is_handed_out_until_the_time_is_over() {
    let mut world = world();
    let until = world.now.after(Duration::from_secs(60));
    world.ipam.cool_all_unproven(until);
    world.ipam.restore(&handle("found"), &[ip("10.0.0.2")], world.now).unwrap();
    world.pass(59_999);
    world.set_pools(|spec| spec.namespace_selector = "!has(none)".parse().unwrap());
    let view = world.view();
    let usage = world.ipam.pool_usage(&view, world.pools.by_name(&name("p")).unwrap(), world.now).usage;
    assert_eq!((usage.used, usage.free, usage.cooling), (1, 8, 7), "the unclaimed block is not affected");
    world.pass(1);
    assert_eq!(world.add("c").unwrap(), ["10.0.0.0", "fd00::"]);
    assert_eq!(world.add("d").unwrap(), ["10.0.0.1", "fd00::1"]);
    assert_eq!(world.add("e").unwrap(), ["10.0.0.3", "fd00::2"], "the found one is stepped over");
}

#[test]
fn a_cooldown_is_put_back_for_what_is_free_only() {
    let mut world = world();
    world.ipam.restore(&handle("a"), &[ip("10.0.0.0")], world.now).unwrap();
    let until = world.now.after(Duration::from_secs(1));
    for address in ["10.0.0.0", "10.0.0.1", "10.0.0.1"] {
        world.ipam.restore_cooling(ip(address), until).unwrap();
    }
    assert!(world.ipam.restore_cooling(ip("10.0.0.9"), until).is_err());
    assert_eq!(world.ipam.holder_of(ip("10.0.0.0")), Some(&handle("a")));
    let cooling: Vec<_> = world.ipam.block(&cidr("10.0.0.0/29")).unwrap().cooling().collect();
    assert_eq!(cooling, [(ip("10.0.0.1"), until)]);
    assert_eq!(world.add("c").unwrap()[0], "10.0.0.2");
}

#[test]
fn a_claim_is_accepted_once_and_never_over_another_block() {
    let mut world = world();
    let mut check = |block: &str, pool: &str, expected: Result<(), &str>| {
        let outcome = world.ipam.apply_claim(cidr(block), &name(pool)).map_err(|error| error.to_string());
        assert_eq!(outcome.as_ref().copied().map_err(String::as_str), expected, "{block}");
    };
    check("10.0.0.0/29", "p", Ok(()));
    check("10.0.0.0/29", "q", Err("block 10.0.0.0/29 overlaps block 10.0.0.0/29 of this node"));
    check("10.0.0.0/30", "p", Err("block 10.0.0.0/30 overlaps block 10.0.0.0/29 of this node"));
    check("10.0.0.4/30", "p", Err("block 10.0.0.4/30 overlaps block 10.0.0.0/29 of this node"));
    check("10.0.0.0/28", "p", Err("block 10.0.0.0/28 overlaps block 10.0.0.0/29 of this node"));
    check("10.0.0.0/19", "p", Err("block 10.0.0.0/19 overlaps block 10.0.0.0/29 of this node"));
    check("10.8.0.0/19", "p", Err("block 10.8.0.0/19 is too large: at most 4096 addresses are accepted"));
    check("10.0.0.8/29", "p", Ok(()));
    assert_eq!(world.ipam.blocks().count(), 3);
}

#[test]
fn every_address_has_exactly_one_state() {
    let mut world = world().reserve(&["10.0.0.3/32", "10.0.0.12/32"]);
    world.foreign.insert(cidr("10.0.0.8/31"), "node-2".parse().unwrap());
    world.ipam.restore(&handle("a"), &[ip("10.0.0.1")], world.now).unwrap();
    let until = world.now.after(Duration::from_secs(1));
    world.ipam.restore_cooling(ip("10.0.0.2"), until).unwrap();
    let block = cidr("10.0.0.0/29");
    let check = |address: &str, state: AddressState, pool: Option<&str>| {
        let expected = (state, pool.map(name));
        assert_eq!(world.ipam.address_state(&world.view(), ip(address), world.now), expected, "{address}");
    };
    check("10.0.0.0", AddressState::Free { block }, Some("p"));
    check("10.0.0.1", AddressState::Used { holder: handle("a"), block }, Some("p"));
    check("10.0.0.2", AddressState::Cooling { until, block }, Some("p"));
    check("10.0.0.3", AddressState::Reserved { by: "kept".to_owned(), block: Some(block) }, Some("p"));
    let node = "node-2".parse().unwrap();
    check("10.0.0.9", AddressState::OtherNode { node, block: cidr("10.0.0.8/31") }, Some("p"));
    check("10.0.0.10", AddressState::Unclaimed, Some("p"));
    check("10.0.0.12", AddressState::Reserved { by: "kept".to_owned(), block: None }, Some("p"));
    check("10.0.1.0", AddressState::Outside, None);
}

#[test]
fn u1_a_pools_counts_add_up_over_own_foreign_and_unclaimed_space() {
    let check = |reserved: &[&str], expected: [u128; 5]| {
        let mut world = World::new([pool("p", "10.0.0.0/27", 29)]).reserve(reserved);
        world.claim("10.0.0.0/29", "p");
        world.foreign.insert(cidr("10.0.0.8/29"), "node-2".parse().unwrap());
        world.ipam.restore(&handle("a"), &[ip("10.0.0.0")], world.now).unwrap();
        let view = world.view();
        let seen = world.ipam.pool_usage(&view, world.pools.by_name(&name("p")).unwrap(), world.now);
        let usage = seen.usage;
        assert!(usage.adds_up(), "{usage}");
        assert_eq!((usage.size, seen.own_blocks), (32, 1));
        assert_eq!(
            [usage.used, usage.free, usage.cooling, usage.reserved, seen.elsewhere],
            expected,
            "{reserved:?}"
        );
    };
    check(&[], [9, 23, 0, 0, 8]);
    check(&["10.0.0.0/32"], [9, 23, 0, 0, 8]);
    check(&["10.0.0.0/31", "10.0.0.1/32"], [9, 22, 0, 1, 8]);
    check(&["10.0.0.8/29"], [9, 23, 0, 0, 8]);
    check(&["10.0.0.4/30", "10.0.0.8/29", "10.0.0.16/30"], [9, 15, 0, 8, 8]);
    check(&["10.0.0.0/27", "10.0.0.0/28", "10.0.0.30/31"], [9, 0, 0, 23, 8]);
    check(&["0.0.0.0/0"], [9, 0, 0, 23, 8]);
}

#[test]
fn u1_an_address_that_is_ours_and_in_anothers_block_counts_once() {
    let check = |own: &str, reserved: &[&str], expected: [u128; 5]| {
        let mut world = World::new([pool("p", "10.0.0.0/28", 30)]).reserve(reserved);
        world.foreign.insert(cidr("10.0.0.4/30"), "node-2".parse().unwrap());
        world.claim(own, "p");
        let view = world.view();
        let seen = world.ipam.pool_usage(&view, world.pools.by_name(&name("p")).unwrap(), world.now);
        let usage = seen.usage;
        assert!(usage.adds_up() && usage.size == 16, "{own} {reserved:?}: {usage}");
        let counted = [usage.used, usage.free, usage.cooling, usage.reserved, seen.elsewhere];
        assert_eq!(counted, expected, "{own} {reserved:?}");
    };
    // Borrowed.
    check("10.0.0.5/32", &[], [3, 13, 0, 0, 3]);
    check("10.0.0.5/32", &["10.0.0.5/32", "10.0.0.8/32"], [3, 11, 0, 2, 3]);
    check("10.0.0.5/32", &["10.0.0.6/32", "10.0.0.8/32"], [3, 12, 0, 1, 3]);
    // Handed over a moment ago.
    check("10.0.0.4/30", &[], [0, 16, 0, 0, 0]);
    check("10.0.0.4/30", &["10.0.0.6/31", "10.0.0.8/32"], [0, 13, 0, 3, 0]);
}

#[test]
fn u1_the_largest_pools_add_up_too() {
    for (range, len) in [("0.0.0.0/0", 20), ("::/1", 116), ("fd00::/8", 122)] {
        let mut world = World::new([pool("p", range, len)]).reserve(&["10.0.0.0/8", "fd00::/64", "::/3"]);
        world.add("c").unwrap();
        world.assert_adds_up();
    }
}
