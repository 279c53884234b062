//! Who gets an address, and from where.

use super::*;
use crate::refusal::RefusalKind;

#[test]
fn a1_a_pool_of_four_blocks_gives_256_addresses_and_refuses_the_257th_by_name() {
    let mut cluster = Cluster::new(&["a"], &[pool("p", "10.0.0.0/24", 26)]);
    let given: BTreeSet<String> = (0..256).map(|n| cluster.given("a", &format!("c{n}"))).collect();
    assert_eq!((given.len(), cluster.store.len()), (256, 4));
    let refusal = cluster.refused("a", &request("c256"));
    assert_eq!(refusal.to_string(), "no IPv4 address for c256/eth0: pool exhausted: p (10.0.0.0/24)");
    assert!(refusal.details()[0].contains("256 used, 0 free"), "{:?}", refusal.details());
    cluster.settle();
}

#[test]
fn a1_several_nodes_share_a_pool_to_its_last_address() {
    let mut cluster = Cluster::new(&["a", "b", "c"], &[pool("p", "10.0.0.0/28", 30)]);
    let mut given = BTreeSet::new();
    for n in 0..16 {
        let node = ["a", "b", "c"][n % 3];
        assert!(given.insert(cluster.given(node, &format!("c{n}"))), "given twice");
    }
    let refusal = cluster.refused("b", &request("c16"));
    assert!(matches!(refusal.kind(), RefusalKind::Exhausted { .. }), "{refusal}");
    cluster.pass(20);
    cluster.settle();
}

#[test]
fn a2_at_the_limit_of_blocks_a_node_fails_or_borrows_as_it_is_configured() {
    let check = |limit: u32, at_limit: AtBlockLimit, expected: usize| {
        let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/24", 26)]);
        cluster.given("b", "other");
        cluster.set(|settings| {
            settings.max_blocks_per_node = Some(limit);
            settings.at_block_limit = at_limit;
        });
        let mut count = 0;
        let refusal = loop {
            match cluster.add("a", &format!("c{count}")) {
                Ok(_) => count += 1,
                Err(Stop::Refused(refusal)) => break refusal.to_string(),
                Err(Stop::Crashed) => unreachable!("nobody crashes here"),
            }
        };
        assert_eq!(count, expected, "{refusal}");
        assert_eq!(cluster.blocks_of("a").len(), limit as usize);
        assert!(refusal.contains(&format!("maxBlocksPerNode ({limit})")), "{refusal}");
        cluster.pass(20);
        cluster.settle();
    };
    check(1, AtBlockLimit::Fail, 64);
    check(2, AtBlockLimit::Fail, 128);
    // And the 63 that the other node has left.
    check(1, AtBlockLimit::Borrow, 64 + 63);
}

#[test]
fn a5_strict_affinity_forbids_borrowing_and_says_so_until_it_is_turned_off() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/29", 29)]);
    cluster.given("a", "holder");
    cluster.set(|settings| settings.strict_affinity = true);
    let refusal = cluster.refused("b", &request("c"));
    assert_eq!(
        refusal.to_string(),
        "no IPv4 address for c/eth0: pool exhausted on this node and strictAffinity forbids borrowing: p (10.0.0.0/29)"
    );
    cluster.set(|settings| settings.strict_affinity = false);
    let borrowed = cluster.given("b", "c");
    assert_eq!(cluster.owners(), [("10.0.0.0/29".to_owned(), "a".to_owned())].into());
    assert_eq!(cluster.store.values().next().unwrap().object.loans.len(), 1, "{borrowed} is a loan");
    cluster.settle();
}

#[test]
fn a5_an_owner_with_strict_affinity_refuses_to_lend() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/29", 29)]);
    cluster.given("a", "holder");
    cluster.nodes.get_mut("a").unwrap().settings.strict_affinity = true;
    let refusal = cluster.refused("b", &request("c"));
    assert!(refusal.to_string().contains("pool exhausted"), "{refusal}");
    cluster.settle();
    assert!(cluster.store.values().all(|seen| seen.object.loans.is_empty()), "the refused request is gone");
}

#[test]
fn a12_a_named_address_of_another_nodes_block_is_borrowed_and_the_same_handle_gets_it_again() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/28", 29)]);
    let held = cluster.given("a", "holder");
    let block = cidr(&cluster.blocks_of("a")[0]);
    let wanted = block.nth(5).unwrap().to_string();
    let named = at_address("c", &wanted);
    assert_eq!(cluster.serve("b", &named).unwrap(), std::slice::from_ref(&wanted));
    assert_eq!(cluster.serve("b", &named).unwrap(), std::slice::from_ref(&wanted), "the same answer again");
    assert_eq!(cluster.blocks_of("b"), Vec::<String>::new(), "no block was claimed for it");
    cluster.settle();
    // Here it is held by name, and there it is lent.
    let by_other = cluster.refused("b", &at_address("d", &wanted));
    assert_eq!(by_other.to_string(), format!("cannot give {wanted} to d/eth0: it is held by c/eth0"));
    let on_owner = cluster.refused("a", &at_address("e", &wanted));
    assert_eq!(on_owner.to_string(), format!("cannot give {wanted} to e/eth0: it is lent to node b"));
    // What its owner holds is refused, and what remains of the request is nothing.
    let taken = cluster.refused("b", &at_address("f", &held));
    assert!(taken.to_string().contains("which has refused it"), "{taken}");
    assert!(matches!(taken.kind(), RefusalKind::OtherNode { .. }));
    cluster.pass(20);
    cluster.settle();
}

#[test]
fn a12_under_strict_affinity_a_named_address_of_another_nodes_block_is_refused() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/29", 29)]);
    cluster.given("a", "holder");
    cluster.set(|settings| settings.strict_affinity = true);
    let refusal = cluster.refused("b", &at_address("c", "10.0.0.5"));
    assert!(refusal.to_string().contains("belongs to node a and borrowing is off"), "{refusal}");
    assert!(cluster.store.values().all(|seen| seen.object.loans.is_empty()));
}

#[test]
fn a12_a_named_address_in_a_block_nobody_owns_claims_that_block_first() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/27", 29)]);
    assert_eq!(cluster.serve("b", &at_address("c", "10.0.0.21")).unwrap(), ["10.0.0.21"]);
    assert_eq!(cluster.blocks_of("b"), ["10.0.0.16/29"]);
    cluster.settle();
}

#[test]
fn a14_without_automatic_claims_a_node_neither_claims_nor_borrows() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/28", 29)]);
    cluster.given("a", "holder");
    cluster.set(|settings| settings.auto_allocate_blocks = false);
    let refusal = cluster.refused("b", &request("c"));
    assert!(refusal.to_string().contains("autoAllocateBlocks is false"), "{refusal}");
    assert_eq!(cluster.owners().len(), 1);
    assert!(cluster.store.values().all(|seen| seen.object.loans.is_empty()));
    cluster.given("a", "more");
}

#[test]
fn f3_freeing_by_handle_frees_what_is_owned_and_what_is_borrowed() {
    let six = PoolSpec { priority: 0, ..pool("six", "fd00::/125", 125) };
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/29", 29), six]);
    // The one IPv4 block is a's, the one IPv6 block b's.
    let only = |family: model::Family| {
        let mut request = request(if family == model::Family::V4 { "four" } else { "six" });
        let other = if family == model::Family::V4 { &mut request.v6 } else { &mut request.v4 };
        other.want = crate::request::Want::No;
        request
    };
    cluster.serve("a", &only(model::Family::V4)).unwrap();
    cluster.serve("b", &only(model::Family::V6)).unwrap();
    let both = cluster.serve("b", &request("both")).unwrap();
    assert_eq!(both.len(), 2, "{both:?}");
    assert_eq!(cluster.free("b", "both"), 2);
    assert_eq!(cluster.free("b", "both"), 0, "again");
    assert_eq!(cluster.free("b", "unknown"), 0);
    cluster.settle();
}

#[test]
fn f5_an_address_that_was_lent_cools_at_its_owner_before_it_is_handed_out() {
    let cooling = PoolSpec { cooldown: Duration::from_secs(30), ..pool("p", "10.0.0.0/31", 31) };
    let mut cluster = Cluster::new(&["a", "b"], &[cooling]);
    cluster.given("a", "holder");
    let lent = cluster.given("b", "c");
    cluster.free("b", "c");
    cluster.settle();
    // Cooled here, and idle for the grace, it goes back; and cools there.
    for _ in 0..4 {
        cluster.pass(40);
        cluster.settle();
    }
    assert!(cluster.store.values().all(|seen| seen.object.loans.is_empty()), "it was given back");
    let again = cluster.given("a", "other");
    assert_eq!(again, lent);
}

#[test]
fn f5_a_returned_address_is_refused_to_its_owners_workloads_while_it_cools() {
    let cooling = PoolSpec { cooldown: Duration::from_secs(300), ..pool("p", "10.0.0.0/31", 31) };
    let mut cluster = Cluster::new(&["a", "b"], &[cooling]);
    cluster.given("a", "holder");
    cluster.given("b", "c");
    cluster.free("b", "c");
    cluster.pass(301);
    cluster.settle();
    cluster.pass(70);
    cluster.settle();
    assert!(cluster.store.values().all(|seen| seen.object.loans.is_empty()), "it was given back");
    let refusal = cluster.refused("a", &request("other"));
    assert!(refusal.details()[0].contains("1 cooling"), "{:?}", refusal.details());
    cluster.pass(301);
    cluster.given("a", "other");
}

#[test]
fn f6_a_del_of_an_old_container_leaves_the_newer_containers_address() {
    let mut cluster = Cluster::new(&["a"], &[pool("p", "10.0.0.0/29", 29)]);
    let old = cluster.given("a", "old");
    assert_eq!(cluster.free("a", "old"), 1);
    let new = cluster.serve("a", &at_address("new", &old)).unwrap();
    assert_eq!(new, std::slice::from_ref(&old), "the newer container of the pod has the same address");
    assert_eq!(cluster.free("a", "old"), 0, "its DEL comes again");
    assert_eq!(cluster.keeper("a").ipam().holder_of(old.parse().unwrap()), Some(&handle("new")));
}

#[test]
fn u1_lent_and_borrowed_addresses_count_once_on_each_side() {
    let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/28", 29)]);
    cluster.given("a", "one");
    cluster.given("b", "two");
    for n in 0..9 {
        cluster.given("b", &format!("more{n}"));
    }
    let usage = |name: &str| {
        let view = cluster.view(name);
        let pool = cluster.pools.iter().next().unwrap();
        cluster.keeper(name).ipam().pool_usage(&view.cluster(), pool, cluster.now)
    };
    let (a, b) = (usage("a"), usage("b"));
    assert!(a.usage.adds_up() && b.usage.adds_up(), "{a} / {b}");
    assert_eq!((a.usage.size, b.usage.size), (16, 16));
    // One held and two lent of its own block, all eight of the other's.
    assert_eq!((a.usage.used, a.elsewhere, a.own_blocks), (3 + 8, 8, 1), "{a}");
    // Eight of its own, the two borrowed ones, and the other six of the other's block.
    assert_eq!((b.usage.used, b.elsewhere, b.own_blocks), (8 + 2 + 6, 6, 1), "{b}");
    cluster.settle();
}
