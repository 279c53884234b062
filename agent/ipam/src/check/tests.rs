//! Every violation is found where it is, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{BlockSize, BootTime, Cidr, Family, Handle, Labels, NodeName, PoolName, TagId};

use super::*;
use crate::allocator::{Assignment, Settings};
use crate::claim::ForeignBlocks;
use crate::pool::{Pool, PoolSpec};
use crate::protocol::{Fact, Loan, LoanRefusal, LoanState, Nonce, ObjectRevision};
use crate::registry::RegistryEntry;
use crate::reservation::Reservations;

const NOW: BootTime = BootTime::from_millis(1000);
const A: &str = "10.0.0.0/30";
const B: &str = "10.0.0.4/30";
const LENT: &str = "10.0.0.1";

/// Two nodes with a block each. Node a has lent 10.0.0.1 to node b; pods c1, c2 and c3 hold 10.0.0.0 on a, 10.0.0.4
/// on b, and what is lent on b.
struct World {
    blocks: Vec<(Cidr, BlockObject)>,
    entries: Vec<RegistryEntry>,
    pools: PoolTable,
    nodes: BTreeSet<NodeId>,
    a: Keeper,
    b: Keeper,
    live: Vec<(IpAddr, Handle, NodeName)>,
    foreign: ForeignBlocks,
    unreadable: Vec<(String, String)>,
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> PoolName {
    text.parse().unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId { name: name.parse().unwrap(), uid: format!("uid-{name}") }
}

fn handle(container: &str) -> Handle {
    Handle::new(container, "eth0").unwrap()
}

fn granted(borrower: &str, nonce: u128, address: &str) -> Loan {
    Loan { borrower: node(borrower), nonce: Nonce(nonce), state: LoanState::Granted { address: at(address) } }
}

fn requested(borrower: &str, nonce: u128) -> Loan {
    let state = LoanState::Requested { address: None, whole_block_welcome: false };
    Loan { borrower: node(borrower), nonce: Nonce(nonce), state }
}

fn object(block: &str, owner: &str, nonce: u128, loans: Vec<Loan>) -> BlockObject {
    let (pool, pool_uid) = (name("p"), "uid-p".to_owned());
    BlockObject { cidr: cidr(block), pool, pool_uid, owner: node(owner), nonce: Nonce(nonce), loans }
}

fn claiming(block: &str, nonce: u128) -> Fact {
    Fact::Claiming { block: cidr(block), pool: name("p"), pool_uid: "uid-p".to_owned(), nonce: Nonce(nonce) }
}

fn owned(block: &str, nonce: u128) -> Vec<Fact> {
    let block_cidr = cidr(block);
    vec![claiming(block, nonce), Fact::Owned { block: block_cidr }, Fact::Confirmed { block: block_cidr }]
}

fn lent(block: &str, nonce: u128, address: &str, borrower: &str) -> Fact {
    Fact::Lent { block: cidr(block), loan: Nonce(nonce), address: at(address), borrower: node(borrower) }
}

fn asking(block: &str, nonce: u128) -> Fact {
    Fact::Asking { block: cidr(block), pool: name("p"), loan: Nonce(nonce), address: None }
}

fn borrowed(block: &str, nonce: u128, address: &str) -> Vec<Fact> {
    let confirmed = Fact::Confirmed { block: Cidr::host(at(address)) };
    vec![asking(block, nonce), Fact::Borrowed { loan: Nonce(nonce), address: at(address) }, confirmed]
}

fn apply(keeper: &mut Keeper, facts: impl IntoIterator<Item = Fact>) {
    for fact in facts {
        keeper.apply(&fact).unwrap();
    }
}

fn hold(keeper: &mut Keeper, container: &str, address: &str) {
    let block = keeper.ipam().block_around(at(address)).unwrap().cidr();
    let assignment = Assignment { pool: name("p"), block, address: at(address) };
    keeper.ipam_mut().apply_assign(&handle(container), &[assignment], NOW).unwrap();
}

fn entry(pool: &str, range: &str, tag: u16) -> RegistryEntry {
    let (uid, block_size) = (format!("uid-{pool}"), BlockSize::new(Family::V4, 30).unwrap());
    let tag = TagId::new(tag).unwrap();
    RegistryEntry { name: name(pool), uid, cidr: cidr(range), block_size, tag, terminating: false }
}

fn pool_spec(tag: u16) -> PoolSpec {
    let mut spec = PoolSpec::new(name("p"), cidr("10.0.0.0/28"));
    spec.uid = "uid-p".to_owned();
    spec.block_size = BlockSize::new(Family::V4, 30).unwrap();
    spec.tag = TagId::new(tag);
    spec
}

impl World {
    fn new() -> Self {
        let (mut a, mut b) = (Keeper::new(node("a")), Keeper::new(node("b")));
        apply(&mut a, owned(A, 1));
        apply(&mut a, [lent(A, 9, LENT, "b")]);
        apply(&mut b, owned(B, 2).into_iter().chain(borrowed(A, 9, LENT)));
        hold(&mut a, "c1", "10.0.0.0");
        hold(&mut b, "c2", "10.0.0.4");
        hold(&mut b, "c3", LENT);
        let live = |address, container, on: &str| (at(address), handle(container), on.parse().unwrap());
        let mut foreign = ForeignBlocks::default();
        foreign.insert(cidr(B), "b".parse().unwrap());
        Self {
            blocks: vec![
                (cidr(A), object(A, "a", 1, vec![granted("b", 9, LENT)])),
                (cidr(B), object(B, "b", 2, vec![])),
            ],
            entries: vec![entry("p", "10.0.0.0/28", 1)],
            pools: PoolTable::new([Pool::new(pool_spec(1)).unwrap()]),
            nodes: [node("a"), node("b")].into(),
            a,
            b,
            live: vec![live("10.0.0.0", "c1", "a"), live("10.0.0.4", "c2", "b"), live(LENT, "c3", "b")],
            foreign,
            unreadable: Vec::new(),
        }
    }

    /// The object of a block.
    fn of(&mut self, block: &str) -> &mut BlockObject {
        &mut self.blocks.iter_mut().find(|(name, _)| *name == cidr(block)).unwrap().1
    }

    fn violations(&self, strength: Strength) -> Vec<Violation> {
        let registry = Registry::from_parts(self.entries.clone(), []).unwrap();
        let (reservations, settings, labels) = (Reservations::default(), Settings::default(), Labels::new());
        let view = ClusterView {
            pools: &self.pools,
            reservations: &reservations,
            foreign: &self.foreign,
            node: &self.a.me().name,
            node_labels: &labels,
            settings: &settings,
        };
        let mut members = vec![Member::of(&self.a), Member::of(&self.b)];
        members[0].view = Some((view, NOW));
        let live =
            self.live.iter().map(|(address, handle, node)| LiveHolder { address: *address, handle, node });
        let snapshot = Snapshot {
            blocks: self.blocks.iter().map(|(name, object)| (*name, object)).collect(),
            registry: Some(&registry),
            pools: Some(&self.pools),
            nodes: Some(&self.nodes),
            members,
            live: Some(live.collect()),
            unreadable: self.unreadable.clone(),
        };
        check(&snapshot, strength)
    }
}

/// One thing that is wrong, and the words of what is to be found; the first is what it is about, the others follow
/// from it.
type Case = (&'static [&'static str], fn(&mut World));

const CASES: &[Case] = &[
    (&["unreadable"], |w| w.unreadable.push(("IPBlock x".to_owned(), "no range".to_owned()))),
    (&["block-name"], |w| {
        w.nodes.insert(node("c"));
        w.blocks.push((cidr("10.0.0.8/30"), object("10.0.0.12/30", "c", 3, vec![])));
    }),
    (&["block-overlap", "block-range"], |w| {
        w.nodes.insert(node("c"));
        w.blocks.push((cidr("10.0.0.2/31"), object("10.0.0.2/31", "c", 3, vec![])));
    }),
    (&["block-pool"], |w| {
        w.nodes.insert(node("c"));
        let stray = BlockObject { pool_uid: "earlier".to_owned(), ..object("10.0.0.8/30", "c", 3, vec![]) };
        w.blocks.push((cidr("10.0.0.8/30"), stray));
    }),
    (&["block-range"], |w| {
        w.nodes.insert(node("c"));
        w.blocks.push((cidr("10.9.0.0/30"), object("10.9.0.0/30", "c", 3, vec![])));
    }),
    (&["owner-gone"], |w| {
        w.blocks.push((cidr("10.0.0.8/30"), object("10.0.0.8/30", "gone", 3, vec![])));
    }),
    (&["borrower-gone"], |w| {
        w.of(B).loans.push(granted("gone", 7, "10.0.0.5"));
        apply(&mut w.b, [lent(B, 7, "10.0.0.5", "gone")]);
    }),
    (&["loan-outside", "lent-unknown"], |w| {
        w.nodes.insert(node("c"));
        w.of(B).loans.push(granted("c", 7, "10.0.0.9"));
    }),
    (&["loan-twice", "lent-unknown"], |w| {
        w.nodes.insert(node("c"));
        w.of(A).loans.push(granted("c", 7, LENT));
    }),
    (&["loan-nonce", "loan-half-way"], |w| w.of(A).loans.push(requested("b", 9))),
    (&["loan-to-owner", "borrow-forgotten"], |w| w.of(B).loans.push(granted("b", 7, "10.0.0.5"))),
    (&["loan-half-way"], |w| w.of(A).loans.push(requested("b", 7))),
    (&["loan-half-way"], |w| {
        let refused = LoanState::Refused { reason: LoanRefusal::Full };
        w.of(A).loans.push(Loan { state: refused, ..requested("b", 7) });
    }),
    (&["registry-overlap"], |w| w.entries.push(entry("q", "10.0.0.0/24", 2))),
    (&["pool-tag"], |w| w.pools = PoolTable::new([Pool::new(pool_spec(5)).unwrap()])),
    (&["duplicate-holder", "live-unknown"], |w| {
        w.live.push((at("10.0.0.0"), handle("c9"), "b".parse().unwrap()));
    }),
    (&["lent-held", "duplicate-holder", "lent-stale"], |w| {
        // The owner took it back although the object still lends it, and gave it away.
        let ended = Fact::LoanEnded { block: cidr(A), loan: Nonce(9), at: NOW, cooling_until: NOW };
        apply(&mut w.a, [ended, lent(A, 8, "10.0.0.2", "b")]);
        hold(&mut w.a, "c4", LENT);
        w.live.push((at(LENT), handle("c4"), "a".parse().unwrap()));
    }),
    (&["holder-unfounded", "serves-foreign"], |w| {
        w.of(B).nonce = Nonce(77);
        w.of(B).owner = node("c");
        w.nodes.insert(node("c"));
    }),
    (&["holder-unfounded", "borrow-stale", "lent-stale"], |w| w.of(A).loans.clear()),
    (&["holder-mismatch"], |w| {
        w.a.ipam_mut().corrupt_holder(&handle("c1"));
        w.live.retain(|(_, holder, _)| *holder != handle("c1"));
    }),
    (&["ordinal-twice"], |w| {
        w.a.ipam_mut().corrupt_block(&cidr(A), |block| block.corrupt(at("10.0.0.0"), true));
    }),
    (&["ordinal-lost"], |w| {
        w.a.ipam_mut().corrupt_block(&cidr(A), |block| block.corrupt(at("10.0.0.2"), false));
    }),
    (&["pool-usage"], |w| w.a.ipam_mut().corrupt_block(&cidr(A), |block| block.corrupt_size(13))),
    (&["serves-foreign"], |w| {
        apply(&mut w.a, owned("10.0.0.8/30", 3));
        w.blocks.push((cidr("10.0.0.8/30"), object("10.0.0.8/30", "b", 4, vec![])));
        apply(&mut w.b, owned("10.0.0.8/30", 4));
    }),
    (&["serves-absent"], |w| apply(&mut w.a, owned("10.0.0.8/30", 3))),
    (&["serves-unclaimed", "claim-half-way"], |w| {
        apply(&mut w.a, owned("10.0.0.8/30", 3));
        w.blocks.push((cidr("10.0.0.8/30"), object("10.0.0.8/30", "a", 3, vec![])));
        apply(&mut w.a, [Fact::Releasing { block: cidr("10.0.0.8/30"), base: ObjectRevision(1) }]);
        w.a.ipam_mut().apply_serving(&cidr("10.0.0.8/30"), true).unwrap();
    }),
    (&["serves-unadmitted", "block-pool"], |w| {
        let block = BlockObject { pool: name("q"), ..object("10.0.0.8/30", "a", 3, vec![]) };
        w.blocks.push((cidr("10.0.0.8/30"), block));
        let claim = Fact::Claiming {
            block: cidr("10.0.0.8/30"),
            pool: name("q"),
            pool_uid: "uid-p".to_owned(),
            nonce: Nonce(3),
        };
        apply(&mut w.a, std::iter::once(claim).chain(owned("10.0.0.8/30", 3).split_off(1)));
    }),
    (&["block-untracked"], |w| {
        w.a.ipam_mut().apply_claim(cidr("10.0.0.8/30"), &name("p")).unwrap();
    }),
    (&["block-untracked", "serves-absent"], |w| {
        apply(&mut w.a, owned("10.0.0.8/30", 3));
        w.a.ipam_mut().apply_claim(cidr("10.0.0.12/30"), &name("p")).unwrap();
    }),
    (&["pool-mismatch"], |w| {
        w.entries.push(entry("q", "10.0.1.0/24", 2));
        w.entries[1].cidr = cidr("10.0.0.8/29");
        w.entries[0].cidr = cidr("10.0.0.0/29");
        w.blocks.push((
            cidr("10.0.0.8/30"),
            BlockObject {
                pool: name("q"),
                pool_uid: "uid-q".to_owned(),
                ..object("10.0.0.8/30", "a", 3, vec![])
            },
        ));
        apply(&mut w.a, owned("10.0.0.8/30", 3));
    }),
    (&["lent-unknown"], |w| {
        w.nodes.insert(node("c"));
        w.of(B).loans.push(granted("c", 7, "10.0.0.5"));
    }),
    (&["lent-mismatch"], |w| {
        w.a.ipam_mut().apply_lend(at("10.0.0.2"), &"b".parse().unwrap()).unwrap();
    }),
    (&["lent-stale"], |w| apply(&mut w.a, [lent(A, 7, "10.0.0.2", "b")])),
    (&["claim-half-way"], |w| apply(&mut w.a, [claiming("10.0.0.8/30", 3)])),
    (&["block-forgotten"], |w| {
        w.blocks.push((cidr("10.0.0.8/30"), object("10.0.0.8/30", "a", 3, vec![])));
    }),
    (&["block-taken"], |w| {
        apply(&mut w.a, owned("10.0.0.8/30", 3));
        w.a.unconfirm();
        apply(&mut w.a, [Fact::Confirmed { block: cidr(A) }]);
    }),
    (&["borrow-half-way"], |w| apply(&mut w.b, [asking(A, 7)])),
    (&["borrow-half-way"], |w| {
        w.b.ipam_mut().apply_free(&handle("c3"), &PoolTable::default(), NOW);
        w.live.pop();
        apply(&mut w.b, [Fact::Returning { loan: Nonce(9) }]);
    }),
    (&["borrow-stale"], |w| apply(&mut w.b, borrowed(A, 7, "10.0.0.2"))),
    (&["borrow-forgotten"], |w| {
        w.of(A).loans.push(granted("b", 7, "10.0.0.2"));
        apply(&mut w.a, [lent(A, 7, "10.0.0.2", "b")]);
    }),
    (&["live-unknown"], |w| w.live.push((at("10.0.0.6"), handle("c9"), "b".parse().unwrap()))),
    (&["held-not-live"], |w| {
        w.live.pop();
    }),
];

fn words(violations: &[Violation]) -> BTreeSet<&'static str> {
    violations.iter().map(Violation::word).collect()
}

#[test]
fn a_clean_snapshot_has_no_violation() {
    assert_eq!(World::new().violations(Strength::AtRest), []);
    assert_eq!(check(&Snapshot::default(), Strength::AtRest), []);
}

#[test]
fn every_violation_is_found_and_nothing_but_what_follows_from_it() {
    for (expected, break_it) in CASES {
        let mut world = World::new();
        break_it(&mut world);
        let found = world.violations(Strength::AtRest);
        assert_eq!(words(&found), expected.iter().copied().collect(), "{found:#?}");
    }
}

#[test]
fn what_may_be_for_a_while_is_found_at_rest_only() {
    for (_, break_it) in CASES {
        let mut world = World::new();
        break_it(&mut world);
        let (always, at_rest) = (world.violations(Strength::Always), world.violations(Strength::AtRest));
        let expected: Vec<Violation> =
            at_rest.into_iter().filter(|violation| violation.strength() == Strength::Always).collect();
        assert_eq!(always, expected);
    }
}

#[test]
fn every_violation_says_what_where_which_rule_and_what_to_do() {
    let mut seen: BTreeMap<&str, (Strength, &str)> = BTreeMap::new();
    for (_, break_it) in CASES {
        let mut world = World::new();
        break_it(&mut world);
        for violation in world.violations(Strength::AtRest) {
            let (text, remedy) = (violation.to_string(), violation.remedy());
            assert!(text.len() > 10 && !text.contains('\n') && !text.contains("  "), "{text:?}");
            assert!(remedy.len() > 10 && !remedy.contains('\n') && !remedy.contains("  "), "{remedy:?}");
            let kind = (violation.strength(), violation.rule());
            assert_eq!(*seen.entry(violation.word()).or_insert(kind), kind);
        }
    }
    // Each variant's word stands once in its file, right before its strength.
    let source = include_str!("violation.rs");
    let words: BTreeSet<&str> = source
        .split(['(', ' '])
        .filter_map(|part| part.strip_prefix('"')?.strip_suffix("\","))
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .collect();
    assert_eq!(words, seen.into_keys().collect(), "a violation without a test, or the other way round");
}

#[test]
fn a_node_of_which_only_the_addresses_are_known_is_held_against_its_objects() {
    let world = World::new();
    let member = Member { keeper: None, ..Member::of(&world.a) };
    let found =
        |blocks| check(&Snapshot { blocks, members: vec![member], ..Snapshot::default() }, Strength::AtRest);
    let of_a = object(A, "a", 1, vec![granted("b", 9, LENT)]);
    assert_eq!(found(vec![(cidr(A), &of_a)]), []);
    assert_eq!(words(&found(vec![])), ["holder-unfounded", "serves-absent"].into());
    let of_b = object(A, "b", 1, vec![]);
    assert_eq!(words(&found(vec![(cidr(A), &of_b)])), ["holder-unfounded", "serves-foreign"].into());
}
