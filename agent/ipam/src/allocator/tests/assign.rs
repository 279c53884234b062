//! Automatic assignment.

use std::collections::BTreeSet;

use super::*;
use crate::refusal::RefusalKind;
use crate::request::Want;

#[test]
fn a1_a_full_pool_is_refused_by_name() {
    let check = |pool_cidr: &str, block_len: u32, blocks: usize, addresses: usize, reason: &str| {
        let mut world = World::new([pool("web", pool_cidr, block_len)]);
        let given: BTreeSet<String> =
            (0..addresses).flat_map(|n| world.add(&format!("c{n}")).unwrap()).collect();
        assert_eq!((given.len(), world.claims), (addresses, blocks), "{pool_cidr}");
        let refusal = world.add("one-more").unwrap_err();
        assert_eq!(refusal.kind(), &RefusalKind::Exhausted { pools: vec![name("web")] });
        assert_eq!(refusal.to_string(), reason);
        let detail = format!(
            "pool web ({pool_cidr}): exhausted, {addresses} used, 0 free, 0 cooling, 0 reserved of {addresses}"
        );
        assert_eq!(refusal.details(), [detail]);
    };
    check("10.0.0.0/24", 26, 4, 256, "no IPv4 address for one-more/eth0: pool exhausted: web (10.0.0.0/24)");
    check("10.0.0.0/30", 32, 4, 4, "no IPv4 address for one-more/eth0: pool exhausted: web (10.0.0.0/30)");
    check("fd00::/122", 123, 2, 64, "no IPv6 address for one-more/eth0: pool exhausted: web (fd00::/122)");
}

#[test]
fn a1_every_candidate_pool_says_what_it_had_left_or_why_it_was_passed_over() {
    let mut world = World::new([
        with(pool("cools", "10.0.0.0/31", 31), |spec| spec.cooldown = Duration::from_secs(30)),
        pool("kept", "10.0.0.8/31", 31),
        with(pool("off", "10.0.1.0/24", 26), |spec| spec.disabled = true),
        with(pool("there", "10.0.2.0/24", 26), |spec| spec.node_selector = "zone == 'x'".parse().unwrap()),
        pool("foreign", "10.0.3.0/30", 31),
    ])
    .reserve(&["10.0.0.8/31", "10.0.3.0/32"]);
    world.foreign.insert(cidr("10.0.3.0/31"), "node-2".parse().unwrap());
    world.foreign.insert(cidr("10.0.3.2/31"), "node-3".parse().unwrap());
    for container in ["a", "b"] {
        world.add(container).unwrap();
    }
    world.free("b");
    let refusal = world.add("c").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "no IPv4 address for c/eth0: pool exhausted: cools (10.0.0.0/31), foreign (10.0.3.0/30), kept (10.0.0.8/31)"
    );
    assert_eq!(
        refusal.details(),
        [
            "pool off (10.0.1.0/24): disabled",
            "pool there (10.0.2.0/24): nodeSelector does not match this node",
            "pool cools (10.0.0.0/31): exhausted, 1 used, 0 free, 1 cooling, 0 reserved of 2",
            "pool foreign (10.0.3.0/30): exhausted, 4 used, 0 free, 0 cooling, 0 reserved of 4, 4 of the used in \
             blocks of other nodes",
            "pool kept (10.0.0.8/31): exhausted, 0 used, 0 free, 0 cooling, 2 reserved of 2",
        ]
    );
    assert!(refusal.is_retryable());
}

#[test]
fn a_refusal_has_a_bounded_number_of_lines() {
    let world = World::new(
        (0..250).map(|n| with(pool(&format!("p{n}"), &format!("10.{n}.0.0/24"), 26), |s| s.disabled = true)),
    );
    let refusal = world.decide(&request("c")).unwrap_err();
    assert_eq!(refusal.details().len(), 64);
    assert_eq!(refusal.details().last().unwrap(), "and 187 more");
}

#[test]
fn c2_a_handle_that_holds_addresses_gets_them_again() {
    let mut world = World::new([pool("p", "10.0.0.0/30", 30), pool("six", "fd00::/126", 126)]);
    let first = world.add("c").unwrap();
    world.pass(5000);
    assert_eq!(world.add("c").unwrap(), first);
    assert!(matches!(world.decide(&request("c")), Ok(Decision::Held(held)) if held.len() == 2));
    assert_eq!(world.ipam.holder_count(), 1);
    // Even when nothing new could be had.
    world.set_pools(|spec| spec.disabled = true);
    assert_eq!(world.add("c").unwrap(), first);
}

#[test]
fn a6_a_disabled_or_terminating_pool_hands_out_nothing_new_and_its_addresses_can_be_freed() {
    type Change = fn(&mut PoolSpec);
    let check = |change: Change, reason: &str| {
        let mut world = World::new([pool("p", "10.0.0.0/24", 26)]);
        world.add("old").unwrap();
        world.set_pools(change);
        let refusal = world.add("new").unwrap_err();
        assert_eq!(refusal.to_string(), "no IPv4 address for new/eth0: no pool is eligible");
        assert_eq!(refusal.details(), [format!("pool p (10.0.0.0/24): {reason}")]);
        assert_eq!(world.ipam.held_by(&handle("old")).len(), 1);
        assert_eq!(world.free("old"), 1);
    };
    check(|spec| spec.disabled = true, "disabled");
    check(|spec| spec.terminating = true, "being deleted");
}

#[test]
fn a10_pools_are_tried_by_priority_then_by_name_each_to_its_end() {
    let spec =
        |name: &str, cidr: &str, priority: i32| with(pool(name, cidr, 32), |spec| spec.priority = priority);
    let mut world = World::new([
        spec("b", "10.0.0.2/31", 5),
        spec("a", "10.0.0.4/31", 5),
        spec("first", "10.0.0.6/31", -3),
        spec("last", "10.0.0.0/31", 9),
    ]);
    let order: Vec<String> = (0..8)
        .map(|n| {
            let given = world.add(&format!("c{n}")).unwrap();
            world.pools.by_address(given[0].parse().unwrap()).unwrap().name.to_string()
        })
        .collect();
    assert_eq!(order, ["first", "first", "a", "a", "b", "b", "last", "last"]);
}

#[test]
fn a11_automatic_assignment_never_takes_a_reserved_address_or_claims_a_block_of_them() {
    let check = |reserved: &[&str], expected: usize, claims: usize| {
        let mut world = World::new([pool("p", "10.0.0.0/28", 30)]).reserve(reserved);
        let given: Vec<String> = (0..).map_while(|n| world.add(&format!("c{n}")).ok()).flatten().collect();
        assert_eq!((given.len(), world.claims), (expected, claims), "{reserved:?}");
        assert!(given.iter().all(|at| !world.reservations.contains(at.parse().unwrap())), "{reserved:?}");
    };
    check(&[], 16, 4);
    check(&["10.0.0.0/30"], 12, 3);
    check(&["10.0.0.0/29", "10.0.0.4/30", "10.0.0.15/32"], 7, 2);
    check(&["10.0.0.0/24"], 0, 0);
}

#[test]
fn a13_of_two_families_both_are_given_or_none() {
    let check = |v4: Want, v6: Want, six_is_full: bool, expected: Result<usize, &str>| {
        let mut world = World::new([pool("four", "10.0.0.0/24", 26), pool("six", "fd00::/128", 128)]);
        if six_is_full {
            let mut only_six = request("filler");
            only_six.v4.want = Want::No;
            world.serve(&only_six).unwrap();
        }
        let (claims, held) = (world.claims, world.ipam.allocations().count());
        let mut both = request("c");
        (both.v4.want, both.v6.want) = (v4, v6);
        let outcome = world.serve(&both);
        let shown = outcome.as_ref().map(Vec::len).map_err(ToString::to_string);
        assert_eq!(shown.as_ref().map(|count| *count).map_err(String::as_str), expected, "{v4:?} {v6:?}");
        if outcome.is_err() {
            assert_eq!((world.claims, world.ipam.allocations().count()), (claims, held), "nothing is kept");
        }
    };
    let full = Err("no IPv6 address for c/eth0: pool exhausted: six (fd00::/128)");
    check(Want::AsPoolsExist, Want::AsPoolsExist, false, Ok(2));
    check(Want::AsPoolsExist, Want::AsPoolsExist, true, full);
    check(Want::Required, Want::Required, true, full);
    check(Want::AsPoolsExist, Want::IfPossible, true, Ok(1));
    check(Want::No, Want::IfPossible, true, full);
    check(Want::AsPoolsExist, Want::No, true, Ok(1));
    check(Want::No, Want::No, false, Err("c/eth0 asks for neither an IPv4 nor an IPv6 address"));
}

#[test]
fn a13_as_pools_exist_means_one_family_at_least() {
    let check = |pools: Vec<PoolSpec>, expected: Result<usize, &str>| {
        let mut world = World::new(pools);
        let outcome = world.add("c").map(|given| given.len()).map_err(|refusal| refusal.to_string());
        assert_eq!(outcome.as_ref().map(|count| *count).map_err(String::as_str), expected);
    };
    let (four, six) = (pool("four", "10.0.0.0/24", 26), pool("six", "fd00::/120", 122));
    check(vec![four.clone()], Ok(1));
    check(vec![six.clone()], Ok(1));
    check(vec![four.clone(), six.clone()], Ok(2));
    let manual =
        |spec: PoolSpec| with(spec, |spec| spec.assignment_mode = crate::pool::AssignmentMode::Manual);
    check(vec![four.clone(), manual(six.clone())], Ok(1));
    let none =
        "no IPv4 address for c/eth0: no pool is eligible; no IPv6 address for c/eth0: no pool is eligible";
    check(vec![manual(four.clone()), manual(six.clone())], Err(none));
    check(vec![manual(four.clone())], Err("no IPv4 address for c/eth0: no pool is eligible"));
    check(
        vec![],
        Err(
            "no IPv4 address for c/eth0: there is no IPv4 pool; no IPv6 address for c/eth0: there is no IPv6 pool",
        ),
    );
    // A family whose pool only waits for its tag id is not left out: the workload would lack it for life.
    let pending = |spec: PoolSpec| with(spec, |spec| spec.tag = None);
    let waits = "no IPv6 address for c/eth0: the only fitting pool is not admitted yet";
    check(vec![four.clone(), pending(six.clone())], Err(waits));
    check(vec![four, with(pending(six), |spec| spec.not_admitted = Some("overlap".to_owned()))], Ok(1));
}

#[test]
fn a14_without_automatic_claims_only_owned_blocks_serve() {
    let mut world = World::new([pool("p", "10.0.0.0/30", 31)]);
    world.settings.auto_allocate_blocks = false;
    let expected = "no IPv4 address for c/eth0: no owned block has room and autoAllocateBlocks is false: p (10.0.0.0/30)";
    assert_eq!(world.add("c").unwrap_err().to_string(), expected);
    world.claim("10.0.0.2/31", "p");
    assert_eq!(world.add("a").unwrap(), ["10.0.0.2"]);
    assert_eq!(world.add("b").unwrap(), ["10.0.0.3"]);
    assert_eq!(world.add("c").unwrap_err().to_string(), expected);
}

#[test]
fn a_claim_carries_the_blocks_to_try_when_it_is_lost() {
    let check = |block_len: u32, alternatives: usize| {
        let world = World::new([pool("p", "10.0.0.0/24", block_len)]);
        let Ok(Decision::Claim(claim)) = world.decide(&request("c")) else { panic!("expected a claim") };
        let all: BTreeSet<Cidr> = claim.alternatives.iter().copied().chain([claim.cidr]).collect();
        assert_eq!((claim.alternatives.len(), all.len()), (alternatives, alternatives + 1), "/{block_len}");
    };
    check(24, 0);
    check(26, 3);
    check(28, 7);
}

#[test]
fn an_own_block_of_a_pool_that_was_made_anew_elsewhere_serves_nothing() {
    let mut world = World::new([pool("p", "10.0.0.0/30", 30)]);
    world.claim("10.9.0.0/30", "p");
    world.claim("10.0.0.0/31", "p");
    assert!(world.add("c").is_err(), "neither a block outside the pool nor one of another size serves");
    world.assert_adds_up();
}

#[test]
fn a_block_whose_ownership_is_in_doubt_serves_nothing_until_it_is_settled() {
    let mut world = World::new([pool("p", "10.0.0.0/30", 30)]);
    world.claim("10.0.0.0/30", "p");
    world.ipam.apply_serving(&cidr("10.0.0.0/30"), false).unwrap();
    assert!(world.add("c").is_err());
    world.ipam.apply_serving(&cidr("10.0.0.0/30"), true).unwrap();
    assert_eq!(world.add("c").unwrap(), ["10.0.0.0"]);
}

#[test]
fn data_that_does_not_fit_the_state_changes_nothing() {
    let mut world = World::new([pool("p", "10.0.0.0/29", 30), pool("six", "fd00::/126", 126)]);
    world.claim("10.0.0.0/30", "p");
    world.claim("fd00::/126", "six");
    world.ipam.restore(&handle("a"), &["10.0.0.1".parse().unwrap()], world.now).unwrap();
    let before = world.ipam.clone();
    let mut check = |container: &str, addresses: &[&str], expected: &str| {
        let assignments: Vec<super::super::Assignment> = addresses
            .iter()
            .map(|text| super::super::Assignment {
                pool: name("p"),
                block: cidr("10.0.0.0/30"),
                address: text.parse().unwrap(),
            })
            .collect();
        let error = world.ipam.apply_assign(&handle(container), &assignments, world.now).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(world.ipam, before);
    };
    check("b", &["fd00::1", "10.0.0.1"], "cannot give an address to b/eth0: 10.0.0.1 is held by a/eth0");
    check("b", &["fd00::1", "10.0.0.4"], "10.0.0.4 is in no block of this node");
    check("b", &["10.0.0.2", "10.0.0.3"], "b/eth0 cannot hold 10.0.0.3: it already holds 10.0.0.2");
    check("a", &["10.0.0.2"], "a/eth0 cannot hold 10.0.0.2: it already holds 10.0.0.1");
}

#[test]
fn a15_blocks_of_other_nodes_make_no_difference_to_an_address_from_an_own_block() {
    let teams = (0..250u16).map(|n| {
        with(pool(&format!("p{n:03}"), &format!("10.{n}.0.0/16"), 26), |spec| {
            spec.namespace_selector = format!("team == 't{n}'").parse().unwrap();
        })
    });
    let mut world = World::new(teams);
    let of_team = |container: &str| AssignRequest::new(handle(container), labels(&[("team", "t249")]));
    let first = world.serve(&of_team("first")).unwrap();
    let alone = world.decide(&of_team("second"));
    for n in 0..20_000u32 {
        let (team, block) = (n % 250, n / 250 + 1);
        let block = format!("10.{team}.{}.{}/26", block / 4, block % 4 * 64);
        if !cidr(&block).contains(first[0].parse().unwrap()) {
            world.foreign.insert(cidr(&block), format!("node-{}", 2 + n % 1000).parse().unwrap());
        }
    }
    assert!(world.foreign.len() > 19_990);
    assert!(matches!(&alone, Ok(Decision::Assign(given)) if given[0].pool == name("p249")));
    assert_eq!(world.decide(&of_team("second")), alone);
}

#[test]
fn u1_an_own_block_that_the_copies_show_as_anothers_counts_once() {
    let mut world = World::new([pool("a", "10.0.0.0/28", 30)]).reserve(&["10.0.0.0/31", "10.0.0.8/32"]);
    world.claim("10.0.0.0/30", "a");
    // Handed over by node-2 a moment ago, or of this node under the UID it had before.
    for owner in ["node-2", "node-1"] {
        world.foreign.insert(cidr("10.0.0.0/30"), owner.parse().unwrap());
        world.foreign.insert(cidr("10.0.0.4/30"), "node-3".parse().unwrap());
        world.assert_adds_up();
        let usage = world.ipam.pool_usage(&world.view(), world.pools.iter().next().unwrap(), world.now);
        assert_eq!((usage.elsewhere, usage.usage.used, usage.usage.reserved, usage.own_blocks), (4, 4, 3, 1));
    }
}

#[test]
fn a_node_never_asks_itself_for_a_loan() {
    let mut world = World::new([pool("a", "10.0.0.0/29", 30)]);
    world.claim("10.0.0.0/30", "a");
    for container in ["c1", "c2", "c3", "c4"] {
        world.add(container).unwrap();
    }
    // Its own under the UID it had before, and one of an earlier machine of its name.
    world.foreign.insert(cidr("10.0.0.0/30"), "node-2".parse().unwrap());
    world.foreign.insert(cidr("10.0.0.4/30"), "node-1".parse().unwrap());
    assert!(world.decide(&request("c5")).is_err());
    world.foreign.insert(cidr("10.0.0.4/30"), "node-3".parse().unwrap());
    assert!(
        matches!(world.decide(&request("c5")), Ok(Decision::Borrow(loan)) if loan.block == cidr("10.0.0.4/30"))
    );
}
