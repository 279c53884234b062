//! Requests for one address by name.

use super::*;
use crate::refusal::RefusalKind;

fn world() -> World {
    let mut world = World::new([pool("p", "10.0.0.0/24", 26), pool("other", "10.0.1.0/24", 26)]);
    world.foreign.insert(cidr("10.0.0.128/26"), "node-2".parse().unwrap());
    world.foreign.insert(cidr("10.0.0.192/29"), "node-3".parse().unwrap());
    world
}

#[test]
fn a11_an_explicit_address_inside_a_reservation_is_granted() {
    for reserved in ["10.0.0.7/32", "10.0.0.0/26", "10.0.0.0/8"] {
        let mut world = world().reserve(&[reserved]);
        assert_eq!(world.serve(&at_address("c", "10.0.0.7")).unwrap(), ["10.0.0.7"], "{reserved}");
        world.assert_adds_up();
    }
}

#[test]
fn a12_an_explicit_address_in_a_block_nobody_owns_claims_exactly_that_block() {
    let mut world = world();
    let request = at_address("c", "10.0.0.70");
    let Ok(Decision::Claim(claim)) = world.decide(&request) else { panic!("expected a claim") };
    assert_eq!((claim.cidr, claim.alternatives.len()), (cidr("10.0.0.64/26"), 0));
    assert_eq!(world.serve(&request).unwrap(), ["10.0.0.70"]);
    assert_eq!(world.serve(&request).unwrap(), ["10.0.0.70"], "the same handle gets the same answer");
    assert_eq!(world.claims, 1);
}

#[test]
fn a12_an_explicit_address_that_cannot_be_given_says_what_stands_in_its_way() {
    let mut world = world();
    world.settings.strict_affinity = true;
    world.serve(&at_address("holder", "10.0.0.5")).unwrap();
    let check = |request: &AssignRequest, expected: &str| {
        assert_eq!(world.decide(request).unwrap_err().to_string(), expected);
    };
    check(&at_address("c", "10.0.0.5"), "cannot give 10.0.0.5 to c/eth0: it is held by holder/eth0");
    check(
        &at_address("c", "10.0.0.130"),
        "cannot give 10.0.0.130 to c/eth0: its block 10.0.0.128/26 belongs to node node-2 and borrowing \
         is off (strictAffinity or autoAllocateBlocks)",
    );
    check(
        &at_address("c", "10.0.0.250"),
        "cannot give 10.0.0.250 to c/eth0: its block 10.0.0.192/26 overlaps a block of another size",
    );
    check(&at_address("c", "10.9.0.1"), "cannot give 10.9.0.1 to c/eth0: it is in no pool");
    check(&at_address("c", "fd00::1"), "cannot give fd00::1 to c/eth0: it is no IPv4 address");
    check(&at_address("holder", "10.0.0.6"), "holder/eth0 asks for 10.0.0.6 but already holds 10.0.0.5");
    let mut elsewhere = asking_for("c", &["other"]);
    elsewhere.v4.address = Some("10.0.0.6".parse().unwrap());
    check(&elsewhere, "cannot give 10.0.0.6 to c/eth0: its pool p is not one of the pools asked for");
    let kind = world.decide(&at_address("c", "10.0.0.5")).unwrap_err().kind().clone();
    assert_eq!(
        kind,
        RefusalKind::AddressHeld { address: "10.0.0.5".parse().unwrap(), holder: handle("holder") }
    );
}

#[test]
fn a6_an_explicit_address_of_a_disabled_pool_is_refused() {
    let mut world = world();
    world.set_pools(|spec| spec.disabled = true);
    let refusal = world.serve(&at_address("c", "10.0.0.5")).unwrap_err();
    assert_eq!(refusal.to_string(), "cannot give 10.0.0.5 to c/eth0: pool p (10.0.0.0/24): disabled");
}

#[test]
fn f5_an_explicit_address_that_cools_is_refused_until_it_is_over() {
    let mut world = world();
    world.set_pools(|spec| spec.cooldown = Duration::from_secs(10));
    world.serve(&at_address("a", "10.0.0.5")).unwrap();
    world.free("a");
    world.pass(4000);
    let refusal = world.serve(&at_address("b", "10.0.0.5")).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "cannot give 10.0.0.5 to b/eth0: it was freed a short while ago and cools for another 6000 ms"
    );
    assert!(refusal.is_retryable());
    world.pass(6000);
    assert_eq!(world.serve(&at_address("b", "10.0.0.5")).unwrap(), ["10.0.0.5"]);
}

#[test]
fn a14_an_explicit_address_claims_no_block_when_claims_are_off() {
    let mut world = world();
    world.settings.auto_allocate_blocks = false;
    assert_eq!(
        world.serve(&at_address("c", "10.0.0.5")).unwrap_err().to_string(),
        "cannot give 10.0.0.5 to c/eth0: its block 10.0.0.0/26 belongs to nobody, and autoAllocateBlocks is false"
    );
}
