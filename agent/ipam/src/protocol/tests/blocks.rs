//! What becomes of blocks: claimed, released, handed over, drained, reclaimed.

use super::*;
use crate::registry::AdmissionRefusal;

/// More than any grace.
const LONG: u64 = 1000;

#[test]
fn b1_of_several_nodes_that_race_for_the_last_block_exactly_one_owns_it() {
    let nodes = ["a", "b", "c"];
    // Who writes first, and what becomes of the first two writes.
    for first in 0..3 {
        for fates in [
            [Fate::Made, Fate::Made],
            [Fate::Unanswered, Fate::Made],
            [Fate::Delayed, Fate::Made],
            [Fate::Lost, Fate::Unanswered],
            [Fate::Delayed, Fate::Delayed],
        ] {
            let mut cluster = Cluster::new(&nodes, &[pool("p", "10.0.0.0/30", 30)]);
            let block = cidr("10.0.0.0/30");
            // All have decided before anybody writes.
            for name in nodes {
                let (view, fresh) = (cluster.view(name), cluster.fresh());
                let next =
                    cluster.keeper(name).decide_next(&view.cluster(), &request(name), cluster.now, fresh);
                let Ok(Next::Start { facts, .. }) = next else { panic!("{next:?}") };
                assert!(cluster.learn(name, &facts).is_ok());
            }
            cluster.fates = fates.to_vec();
            for turn in 0..3 {
                assert!(cluster.attend(nodes[(first + turn) % 3], block).is_ok());
            }
            cluster.deliver();
            cluster.settle();
            assert_eq!(cluster.owners().len(), 1, "{first} {fates:?}");
            let tenures = nodes.iter().filter(|name| cluster.keeper(name).tenures().count() > 0).count();
            assert_eq!(tenures, 1, "the others leave nothing behind: {first} {fates:?}");
        }
    }
}

/// A node with two blocks and nothing in them.
fn two_idle_blocks() -> Cluster {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/28", 30)]);
    for n in 0..5 {
        cluster.given("a", &format!("c{n}"));
    }
    for n in 0..5 {
        assert_eq!(cluster.free("a", &format!("c{n}")), 1);
    }
    cluster.settle();
    assert!(cluster.blocks_of("a").len() >= 2, "{:?}", cluster.owners());
    cluster
}

#[test]
fn b4_an_empty_block_is_released_after_the_grace_and_never_the_last() {
    let mut cluster = two_idle_blocks();
    cluster.pass(LONG);
    cluster.settle();
    assert_eq!(cluster.blocks_of("a").len(), 1, "the last one stays");
    cluster.pass(LONG);
    cluster.settle();
    assert_eq!(cluster.blocks_of("a").len(), 1);
}

#[test]
fn b4_before_the_grace_nothing_is_released() {
    let mut cluster = two_idle_blocks();
    let before = cluster.owners();
    cluster.pass(200);
    cluster.settle();
    assert_eq!(cluster.owners(), before);
}

#[test]
fn b4_a_loan_request_that_arrives_meanwhile_keeps_the_block() {
    let mut cluster = two_idle_blocks();
    cluster.pass(LONG);
    // Both of its blocks are due. Somebody asks for an address of each, by name, before the owner's delete arrives.
    let (view, block) = (cluster.view("b"), cidr(&cluster.blocks_of("a")[0]));
    let wanted = at_address("c", &block.nth(3).unwrap().to_string());
    let fresh = cluster.fresh();
    let next = cluster.keeper("b").decide_next(&view.cluster(), &wanted, cluster.now, fresh).unwrap();
    let Next::Start { facts, block } = next else { panic!("{next:?}") };
    // The owner begins to release it; its delete is on the way.
    cluster.fates = vec![Fate::Delayed];
    assert!(cluster.attend("a", block).is_ok());
    assert!(matches!(cluster.keeper("a").tenure(&block).unwrap().phase, Phase::Releasing { .. }));
    assert!(cluster.learn("b", &facts).is_ok());
    assert!(cluster.attend("b", block).is_ok());
    // The delete arrives, and is void.
    cluster.deliver();
    assert!(cluster.store.contains_key(&block));
    assert_eq!(cluster.serve("b", &wanted).unwrap(), [block.nth(3).unwrap().to_string()]);
    cluster.settle();
    assert_eq!(cluster.owners()[&block.to_string()], "a");
}

#[test]
fn b4_an_empty_block_is_handed_over_whole_to_a_node_without_any_even_if_it_is_the_last() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/30", 30)]);
    cluster.given("a", "c");
    cluster.free("a", "c");
    cluster.settle();
    assert_eq!(cluster.blocks_of("a"), ["10.0.0.0/30"]);
    cluster.given("b", "d");
    cluster.settle();
    assert_eq!((cluster.blocks_of("a").len(), cluster.blocks_of("b").len()), (0, 1));
    // And a borrows from it now.
    cluster.given("a", "e");
    cluster.settle();
    assert_eq!(cluster.blocks_of("b").len(), 1);
}

#[test]
fn b4_a_handover_that_crosses_a_claim_is_owned_by_the_nonce_of_the_handover() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/30", 30)]);
    cluster.given("a", "c");
    cluster.free("a", "c");
    cluster.settle();
    let (block, asking) = (cidr("10.0.0.0/30"), cluster.fresh());
    let (p, handle): (PoolName, Handle) = ("p".parse().unwrap(), handle("d"));
    let facts = [
        Fact::Asking { block, pool: p.clone(), loan: asking, address: None },
        Fact::Wanted { loan: asking, handle },
    ];
    assert!(cluster.learn("b", &facts).is_ok());
    assert!(cluster.attend("b", block).is_ok());
    assert!(cluster.attend("a", block).is_ok());
    // Its copies say that the block is nobody's, and it begins to claim it.
    let (pool_uid, nonce) = ("uid-p".to_owned(), cluster.fresh());
    assert!(cluster.learn("b", &[Fact::Claiming { block, pool: p, pool_uid, nonce }]).is_ok());
    assert!(cluster.attend("b", block).is_ok());
    assert_eq!(cluster.keeper("b").tenure(&block).unwrap().nonce, asking);
    // So it is still its own after a re-registration.
    cluster.given("b", "d");
    cluster.registered.remove(&node_id("b", 1));
    cluster.registered.insert(node_id("b", 2));
    cluster.keeper_mut("b").set_identity(node_id("b", 2));
    cluster.settle();
    assert_eq!(cluster.blocks_of("b"), ["10.0.0.0/30"]);
}

#[test]
fn b5_a_pool_that_no_longer_selects_the_node_drains_its_blocks() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/28", 30)]);
    for n in 0..5 {
        cluster.given("a", &format!("c{n}"));
    }
    cluster.settle();
    cluster.change_pool(|spec| spec.node_selector = "zone == 'west'".parse().unwrap());
    cluster.nodes.get_mut("b").unwrap().labels =
        [("zone".to_owned(), "west".to_owned())].into_iter().collect();
    cluster.settle();
    let refusal = cluster.refused("a", &request("new"));
    assert!(refusal.details()[0].contains("nodeSelector"), "{:?}", refusal.details());
    let in_use: BTreeSet<Cidr> = cluster.keeper("a").ipam().blocks().map(crate::Block::cidr).collect();
    assert!(cluster.keeper("a").ipam().blocks().all(|block| block.used_count() > 0), "empty ones are gone");
    assert!(!in_use.is_empty());
    for n in 0..5 {
        cluster.free("a", &format!("c{n}"));
    }
    cluster.settle();
    assert_eq!(cluster.blocks_of("a"), Vec::<String>::new(), "even the last");
}

#[test]
fn b6_a_whole_range_is_claimed_block_by_block() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/16", 26)]);
    let decide = |cluster: &Cluster, name: &str, range: &str| {
        let view = cluster.view(name);
        cluster.keeper(name).decide_claim_range(&view.cluster(), &cidr(range))
    };
    let claims = decide(&cluster, "a", "10.0.7.0/24").unwrap();
    assert_eq!((claims.claims.len(), claims.refused.len()), (4, 0));
    for claim in claims.claims {
        let (view, fresh) = (cluster.view("a"), cluster.fresh());
        let begun = cluster.keeper("a").decide_claim(&view.cluster(), &claim, fresh).unwrap();
        assert!(cluster.learn("a", &[begun]).is_ok());
        assert!(cluster.attend("a", claim.cidr).is_ok());
    }
    cluster.settle();
    assert_eq!(
        cluster.blocks_of("a"),
        ["10.0.7.0/26", "10.0.7.128/26", "10.0.7.192/26", "10.0.7.64/26"],
        "by name"
    );
    let again = decide(&cluster, "a", "10.0.7.0/24").unwrap();
    assert_eq!((again.claims.len(), again.owned.len()), (0, 4));
    let second = decide(&cluster, "b", "10.0.7.0/24").unwrap();
    assert_eq!((second.claims.len(), second.refused.len()), (0, 4));
    assert!(second.refused.iter().all(|(_, owner)| owner.as_str() == "a"));
    let said = |range: &str| decide(&cluster, "a", range).unwrap_err().to_string();
    assert_eq!(said("10.0.7.0/27"), "10.0.7.0/27 is smaller than a block of pool p: /26");
    assert_eq!(said("10.0.0.0/15"), "10.0.0.0/15 is not in one pool");
    assert_eq!(said("10.9.0.0/24"), "10.9.0.0/24 is not in one pool");
    let mut wide = Cluster::new(&["a"], &[pool("p", "10.0.0.0/8", 26)]);
    let view = wide.view("a");
    let error = wide.keeper("a").decide_claim_range(&view.cluster(), &cidr("10.0.0.0/8")).unwrap_err();
    assert_eq!(error.to_string(), "10.0.0.0/8 has 262144 blocks: at most 1024 are claimed at once");
    wide.change_pool(|spec| spec.disabled = true);
    let view = wide.view("a");
    let error = wide.keeper("a").decide_claim_range(&view.cluster(), &cidr("10.0.0.0/24")).unwrap_err();
    assert!(error.to_string().starts_with("pool p cannot serve this node"), "{error}");
}

#[test]
fn b7_all_blocks_of_a_node_that_is_gone_are_reclaimed_after_the_grace() {
    let pools = [pool("p", "10.0.0.0/28", 30), pool("six", "fd00::/124", 126)];
    let mut cluster = Cluster::new(&["a", "b", "c"], &pools);
    assert_eq!(cluster.add("a", "x").unwrap().len(), 2);
    cluster.given("b", "y");
    cluster.switch_off("a");
    for name in ["b", "c"] {
        assert!(cluster.upkeep(name).is_ok());
    }
    cluster.pass(500);
    for name in ["b", "c"] {
        assert!(cluster.upkeep(name).is_ok());
    }
    assert_eq!(cluster.blocks_of("a").len(), 2, "the grace is not over");
    cluster.pass(101);
    // Everybody does it; the second one finds nothing, which is no error.
    cluster.settle();
    assert_eq!(cluster.blocks_of("a"), Vec::<String>::new());
    assert_eq!(cluster.blocks_of("b").len(), 2);
}

#[test]
fn b7_a_node_that_came_back_is_not_reclaimed() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/28", 30)]);
    cluster.given("a", "x");
    let me = cluster.keeper("a").me().clone();
    cluster.registered.remove(&me);
    assert!(cluster.upkeep("b").is_ok());
    cluster.pass(590);
    cluster.registered.insert(me.clone());
    assert!(cluster.upkeep("b").is_ok());
    cluster.registered.remove(&me);
    assert!(cluster.upkeep("b").is_ok());
    cluster.pass(20);
    assert!(cluster.upkeep("b").is_ok());
    assert_eq!(cluster.blocks_of("a").len(), 1, "the grace begins anew");
}

#[test]
fn b7_a_block_with_a_loan_is_taken_over_with_it() {
    for borrower_takes_it in [true, false] {
        for in_use in [true, false] {
            let mut cluster = Cluster::new(&["a", "b", "c"], &[pool("p", "10.0.0.0/29", 29)]);
            cluster.given("a", "x");
            let lent = cluster.given("b", "y");
            if !in_use {
                cluster.free("b", "y");
            }
            cluster.switch_off("a");
            let first = if borrower_takes_it { "b" } else { "c" };
            for name in ["b", "c"] {
                assert!(cluster.upkeep(name).is_ok());
            }
            cluster.pass(if in_use { 601 } else { 0 });
            cluster.pass(if in_use { 0 } else { 601 });
            assert!(cluster.upkeep(first).is_ok());
            cluster.settle();
            assert_eq!(cluster.blocks_of("a"), Vec::<String>::new());
            if in_use {
                let holder = cluster.keeper("b").ipam().holder_of(lent.parse().unwrap());
                assert_eq!(holder, Some(&handle("y")), "its workload goes on");
                assert_eq!(cluster.owners().len(), 1);
            }
            // Whoever has it now hands out the rest.
            let mut given: BTreeSet<String> = BTreeSet::new();
            for n in 0..(if in_use { 7 } else { 8 }) {
                given.insert(cluster.given("c", &format!("n{n}")));
            }
            assert!(!in_use || !given.contains(&lent), "{lent} is in use");
            cluster.settle();
        }
    }
}

#[test]
fn b7_loans_of_a_borrower_that_is_gone_are_ended() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/30", 30)]);
    cluster.given("a", "x");
    cluster.given("b", "y");
    cluster.switch_off("b");
    assert!(cluster.upkeep("a").is_ok());
    cluster.pass(601);
    cluster.settle();
    assert!(cluster.store.values().all(|seen| seen.object.loans.is_empty()));
    for n in 0..3 {
        cluster.given("a", &format!("n{n}"));
    }
}

#[test]
fn b7_another_machine_of_the_same_name_inherits_nothing() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/28", 30)]);
    cluster.given("a", "x");
    let old = cluster.blocks_of("a").remove(0);
    // A new machine, an empty journal, another UID.
    cluster.switch_off("a");
    let me = node_id("a", 2);
    cluster.registered.insert(me.clone());
    let node = cluster.nodes.get_mut("a").unwrap();
    (node.keeper, node.off) = (Keeper::new(me), false);
    for name in ["a", "b"] {
        assert!(cluster.upkeep(name).is_ok());
    }
    let given = cluster.given("a", "y");
    assert!(!cidr(&old).contains(given.parse().unwrap()), "{given} is of the old node's {old}");
    assert!(cluster.keeper("a").tenure(&cidr(&old)).is_none());
    cluster.pass(601);
    cluster.settle();
    assert!(!cluster.owners().contains_key(&old), "it is reclaimed as any other's");
}

#[test]
fn b7_a_re_registration_in_the_same_boot_takes_blocks_and_loans_along() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/30", 30)]);
    cluster.given("a", "x");
    let lent = cluster.given("b", "y");
    for name in ["a", "b"] {
        let (old, new) = (node_id(name, 1), node_id(name, 2));
        cluster.registered.remove(&old);
        cluster.registered.insert(new.clone());
        cluster.restart(name);
        cluster.keeper_mut(name).set_identity(new);
    }
    cluster.settle();
    let seen = cluster.store.values().next().unwrap();
    assert_eq!((&seen.object.owner, &seen.object.loans[0].borrower), (&node_id("a", 2), &node_id("b", 2)));
    assert_eq!(cluster.keeper("b").ipam().holder_of(lent.parse().unwrap()), Some(&handle("y")));
    cluster.pass(LONG);
    cluster.settle();
    cluster.given("a", "z");
}

#[test]
fn a_reboot_forgets_every_address_and_adopts_the_blocks() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/30", 30)]);
    cluster.given("a", "x");
    let lent = cluster.given("b", "y");
    *cluster.keeper_mut("a") = Keeper::new(node_id("a", 1));
    cluster.settle();
    assert_eq!(cluster.blocks_of("a").len(), 1);
    let given: BTreeSet<String> = (0..3).map(|n| cluster.given("a", &format!("n{n}"))).collect();
    assert!(given.len() == 3 && !given.contains(&lent), "what is lent stays lent: {given:?}");
    // The borrower's reboot gives its loan back.
    *cluster.keeper_mut("b") = Keeper::new(node_id("b", 1));
    cluster.settle();
    assert!(cluster.store.values().all(|seen| seen.object.loans.is_empty()));
}

#[test]
fn b8_a_pool_that_is_deleted_serves_nothing_new_and_goes_with_its_last_block() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/28", 30)]);
    for n in 0..5 {
        cluster.given("a", &format!("c{n}"));
    }
    let name: PoolName = "p".parse().unwrap();
    cluster.registry = cluster.registry.terminate(&name, "uid-p").unwrap();
    cluster.change_pool(|_| {});
    cluster.settle();
    let refusal = cluster.refused("a", &request("new"));
    assert!(refusal.details()[0].contains("being deleted"), "{:?}", refusal.details());
    assert!(!cluster.owners().is_empty(), "its pods go on");
    for n in 0..5 {
        cluster.free("a", &format!("c{n}"));
    }
    cluster.settle();
    assert!(cluster.owners().is_empty());
    cluster.registry = cluster.registry.remove(&name, "uid-p").unwrap();
    cluster.assert(Strength::Always);
}

#[test]
fn b8_a_claim_that_lands_after_the_deletion_has_begun_is_given_back() {
    for fate in [Fate::Made, Fate::Unanswered, Fate::Delayed] {
        let mut cluster = Cluster::new(&["a"], &[pool("p", "10.0.0.0/30", 30)]);
        let (view, fresh) = (cluster.view("a"), cluster.fresh());
        let next = cluster.keeper("a").decide_next(&view.cluster(), &request("c"), cluster.now, fresh);
        let Ok(Next::Start { facts, block }) = next else { panic!("{next:?}") };
        assert!(cluster.learn("a", &facts).is_ok());
        cluster.fates = vec![fate];
        assert!(cluster.attend("a", block).is_ok());
        let name: PoolName = "p".parse().unwrap();
        cluster.registry = cluster.registry.terminate(&name, "uid-p").unwrap();
        cluster.change_pool(|_| {});
        cluster.deliver();
        cluster.settle();
        assert!(cluster.owners().is_empty(), "{fate:?}");
        assert_eq!(cluster.keeper("a").tenures().count(), 0, "{fate:?}");
    }
}

#[test]
fn b9_leftover_blocks_of_another_size_keep_a_new_pool_out_until_they_are_gone() {
    let mut cluster = Cluster::new(&["a"], &[pool("p", "10.0.0.0/28", 30)]);
    cluster.given("a", "c");
    let name: PoolName = "p".parse().unwrap();
    let candidate = |name: &str, len: u32| {
        let PoolSpec { name, uid, cidr, block_size, .. } = pool(name, "10.0.0.0/28", len);
        Candidate { name, uid: format!("new-{uid}"), cidr, block_size }
    };
    cluster.registry = cluster.registry.terminate(&name, "uid-p").unwrap();
    cluster.change_pool(|_| {});
    cluster.settle();
    let same_name = cluster.registry.admit(&candidate("p", 29), 100).unwrap_err();
    assert!(matches!(same_name, AdmissionRefusal::NameTaken { .. }), "{same_name}");
    let other_name = cluster.registry.admit(&candidate("q", 29), 100).unwrap_err();
    assert!(matches!(other_name, AdmissionRefusal::Overlap { .. }), "{other_name}");
    cluster.free("a", "c");
    cluster.settle();
    assert!(cluster.owners().is_empty());
    cluster.registry = cluster.registry.remove(&name, "uid-p").unwrap();
    assert!(cluster.registry.admit(&candidate("p", 29), 100).is_ok());
}
