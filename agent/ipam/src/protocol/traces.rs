//! Ends of traces that the model checker found, each one a bug once.

use std::collections::{BTreeMap, BTreeSet};

use model::{BootTime, Cidr, Handle, Labels, NodeName, PoolName};

use super::*;
use crate::allocator::{ClusterView, Settings};
use crate::claim::ForeignBlocks;
use crate::pool::{Pool, PoolSpec, PoolTable};
use crate::registry::Registry;
use crate::request::AssignRequest;
use crate::reservation::Reservations;

const NOW: BootTime = BootTime::from_millis(1);

/// What a node called n1 knows of one pool that is one block.
struct World {
    pools: PoolTable,
    reservations: Reservations,
    foreign: ForeignBlocks,
    node: NodeName,
    labels: Labels,
    settings: Settings,
}

impl World {
    fn new(foreign: bool) -> Self {
        let mut spec = PoolSpec::new(pool(), block());
        (spec.uid, spec.tag) = ("u1".to_owned(), model::TagId::new(1));
        let mut blocks = ForeignBlocks::default();
        if foreign {
            blocks.insert(block(), "n0".parse().unwrap());
        }
        Self {
            pools: PoolTable::new([Pool::new(spec).unwrap()]),
            reservations: Reservations::default(),
            foreign: blocks,
            node: "n1".parse().unwrap(),
            labels: Labels::new(),
            settings: Settings::default(),
        }
    }

    fn view(&self) -> ClusterView<'_> {
        ClusterView {
            pools: &self.pools,
            reservations: &self.reservations,
            foreign: &self.foreign,
            node: &self.node,
            node_labels: &self.labels,
            settings: &self.settings,
        }
    }
}

fn block() -> Cidr {
    "10.0.0.0/31".parse().unwrap()
}

fn pool() -> PoolName {
    "main".parse().unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId { name: name.parse().unwrap(), uid: "1".to_owned() }
}

fn handle() -> Handle {
    Handle::new("p1", "eth0").unwrap()
}

fn seen(owner: &str, nonce: u128, loans: Vec<Loan>) -> Seen {
    let object = BlockObject {
        cidr: block(),
        pool: pool(),
        pool_uid: "u1".to_owned(),
        owner: node(owner),
        nonce: Nonce(nonce),
        loans,
    };
    Seen { revision: ObjectRevision(7), object }
}

fn claiming(nonce: u128) -> Fact {
    Fact::Claiming { block: block(), pool: pool(), pool_uid: "u1".to_owned(), nonce: Nonce(nonce) }
}

fn keeper(facts: &[Fact]) -> Keeper {
    let mut keeper = Keeper::new(node("n1"));
    for fact in facts {
        keeper.apply(fact).unwrap();
    }
    keeper
}

fn asking(loan: u128) -> Fact {
    Fact::Asking { block: block(), pool: pool(), loan: Nonce(loan), address: None }
}

fn look(keeper: &Keeper, world: &World, block: &Seen, registry: bool, gone: &[NodeId]) -> BlockDecision {
    let gone: BTreeSet<NodeId> = gone.iter().cloned().collect();
    let nothing_admitted = Registry::default();
    let live = Live { block: Some(block), registry: registry.then_some(&nothing_admitted), gone: &gone };
    keeper.decide_block(&world.view(), &block.object.cidr, &live, NOW, Nonce(99))
}

#[test]
fn a_borrower_that_takes_over_the_block_of_a_gone_owner_keeps_its_address_and_lends_nothing_to_itself() {
    let world = World::new(true);
    let address = "10.0.0.1".parse().unwrap();
    let mut keeper = keeper(&[asking(2), Fact::Borrowed { loan: Nonce(2), address }]);
    let loan = Loan { borrower: node("n1"), nonce: Nonce(2), state: LoanState::Granted { address } };
    let held = crate::allocator::Assignment { pool: pool(), block: Cidr::host(address), address };
    keeper.ipam_mut().apply_assign(&handle(), &[held], NOW).unwrap();

    let decision = look(&keeper, &world, &seen("n0", 1, vec![loan]), false, &[node("n0")]);
    let Some(Write::Swap { object, .. }) = decision.write else { panic!("no takeover: {decision:?}") };
    // Its own loan stays there until it has melted into the block.
    assert_eq!((&object.owner, object.loans.len()), (&node("n1"), 1));
    for fact in &decision.before {
        keeper.apply(fact).unwrap();
    }
    let taken = Seen { revision: ObjectRevision(8), object };
    let mut admitted = Registry::default();
    let candidate = crate::registry::Candidate {
        name: pool(),
        uid: "u1".to_owned(),
        cidr: block(),
        block_size: model::BlockSize::new(model::Family::V4, 31).unwrap(),
    };
    admitted = admitted.admit(&candidate, 9).unwrap().registry;
    let live = Live { block: Some(&taken), registry: Some(&admitted), gone: &BTreeSet::new() };
    for fact in &keeper.decide_block(&world.view(), &block(), &live, NOW, Nonce(99)).before {
        keeper.apply(fact).unwrap();
    }
    assert_eq!(keeper.ipam().holder_of(address), Some(&handle()));
    assert_eq!(keeper.borrows().count(), 0);
    assert_eq!(keeper.tenure(&block()).map(|tenure| tenure.lent.len()), Some(0));
}

#[test]
fn a_block_that_was_handed_over_is_ours_by_that_nonce_although_a_claim_of_it_was_begun_meanwhile() {
    let world = World::new(false);
    let mut keeper = keeper(&[asking(2), claiming(3)]);
    for fact in &look(&keeper, &world, &seen("n1", 2, Vec::new()), true, &[]).before {
        keeper.apply(fact).unwrap();
    }
    let tenure = keeper.tenure(&block()).unwrap();
    assert_eq!((tenure.nonce, tenure.phase), (Nonce(2), Phase::Owned));
}

#[test]
fn a_claim_that_landed_after_its_pool_was_gone_serves_nothing_whatever_comes_between() {
    let world = World::new(false);
    let mut keeper = keeper(&[claiming(1)]);
    let state = LoanState::Requested { address: None, whole_block_welcome: true };
    let request = Loan { borrower: node("n0"), nonce: Nonce(5), state };
    for loans in [Vec::new(), vec![request]] {
        let decision = look(&keeper, &world, &seen("n1", 1, loans), true, &[]);
        assert!(matches!(decision.write, Some(Write::Delete { .. })), "{decision:?}");
        for fact in &decision.before {
            keeper.apply(fact).unwrap();
        }
        assert_eq!(keeper.tenure(&block()).map(|tenure| tenure.phase), Some(Phase::Claiming));
    }
}

#[test]
fn nothing_is_borrowed_from_a_block_that_is_being_released_whatever_an_old_copy_says() {
    let world = World::new(true);
    let releasing = Fact::Releasing { block: block(), base: ObjectRevision(7) };
    let keeper = keeper(&[claiming(1), Fact::Owned { block: block() }, releasing]);
    let request = AssignRequest::new(handle(), BTreeMap::new());
    let next = keeper.decide_next(&world.view(), &request, NOW, Nonce(9));
    assert!(next.is_err_and(|refusal| refusal.is_retryable()), "it waits, or comes again");
}
