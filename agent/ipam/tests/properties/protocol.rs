//! Arbitrary sequences of protocol steps on two nodes: what a node remembers can be rebuilt, from the journal as it
//! was written and from the shortest one that says the same; and no fact does more the second time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use model::{BlockSize, BootTime, Cidr, Family, Handle, Labels, NodeName, TagId};
use poolward_ipam::check::{Member, Snapshot, Strength, check};
use poolward_ipam::protocol::{
    BlockObject, Fact, Keeper, Live, Next, NodeId, Nonce, ObjectRevision, Seen, Surroundings, Write,
    WriteOutcome,
};
use poolward_ipam::{
    AssignRequest, Candidate, ClusterView, ForeignBlocks, Pool, PoolSpec, PoolTable, Registry, Reservations,
    Settings,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

const NODES: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// One try of an ADD.
    Assign { node: usize, container: u8 },
    /// DEL.
    Free { node: usize, container: u8 },
    /// What a node does by itself.
    Upkeep { node: usize },
    /// The agent dies and is started again.
    Restart { node: usize },
    /// Time goes by.
    Pass { seconds: u64 },
    /// The next write goes unanswered; it was made, or it was not.
    Unanswered { made: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0..NODES;
    let step = prop_oneof![
        6 => (node.clone(), 0u8..12).prop_map(|(node, container)| Step::Assign { node, container }),
        4 => (node.clone(), 0u8..12).prop_map(|(node, container)| Step::Free { node, container }),
        6 => node.clone().prop_map(|node| Step::Upkeep { node }),
        1 => node.prop_map(|node| Step::Restart { node }),
        2 => prop_oneof![Just(1u64), Just(70), Just(400)].prop_map(|seconds| Step::Pass { seconds }),
        1 => any::<bool>().prop_map(|made| Step::Unanswered { made }),
    ];
    prop::collection::vec(step, 1..80)
}

/// What the journal of a node has.
#[derive(Clone, Debug)]
enum Entry {
    Fact(Fact),
    Assign(Handle, Vec<IpAddr>, BootTime),
    Free(Handle, BootTime),
}

struct Run {
    pools: PoolTable,
    registry: Registry,
    reservations: Reservations,
    labels: Labels,
    settings: Settings,
    keepers: Vec<Keeper>,
    journals: Vec<Vec<Entry>>,
    store: BTreeMap<Cidr, Seen>,
    nodes: BTreeSet<NodeId>,
    revision: u64,
    unanswered: Option<bool>,
    now: BootTime,
    nonce: u128,
}

/// Everything of a node that anybody can see. What only speeds it up may differ.
#[derive(Debug, PartialEq)]
struct Seeable {
    facts: Vec<Fact>,
    allocations: Vec<(Handle, IpAddr, BootTime)>,
    blocks: Vec<SeeableBlock>,
}

#[derive(Debug, PartialEq)]
struct SeeableBlock {
    cidr: Cidr,
    serves: bool,
    freed: Vec<IpAddr>,
    cooling: Vec<(IpAddr, BootTime)>,
    lent: Vec<(IpAddr, NodeName)>,
}

fn seeable(keeper: &Keeper) -> Seeable {
    let ipam = keeper.ipam();
    let allocations = ipam.allocations().flat_map(|one| {
        one.addresses.into_iter().map(move |held| (one.handle.clone(), held.address, one.since))
    });
    let blocks = ipam.blocks().map(|block| SeeableBlock {
        cidr: block.cidr(),
        serves: block.is_serving(),
        freed: block.freed().collect(),
        cooling: block.cooling().collect(),
        lent: block.lent().map(|(address, to)| (address, to.clone())).collect(),
    });
    Seeable { facts: keeper.facts(), allocations: allocations.collect(), blocks: blocks.collect() }
}

fn handle(node: usize, container: u8) -> Handle {
    Handle::new(&format!("n{node}c{container}"), "eth0").unwrap()
}

impl Run {
    fn new(cooldown_s: u64) -> Self {
        let mut spec = PoolSpec::new("p".parse().unwrap(), "10.0.0.0/29".parse().unwrap());
        spec.uid = "u".to_owned();
        spec.block_size = BlockSize::new(Family::V4, 30).unwrap();
        spec.tag = TagId::new(1);
        spec.cooldown = Duration::from_secs(cooldown_s);
        let PoolSpec { name, uid, cidr, block_size, .. } = spec.clone();
        let candidate = Candidate { name, uid, cidr, block_size };
        let nodes: Vec<NodeId> =
            ["a", "b"].map(|name| NodeId { name: name.parse().unwrap(), uid: format!("uid-{name}") }).into();
        Self {
            pools: PoolTable::new([Pool::new(spec).unwrap()]),
            registry: Registry::default().admit(&candidate, 9).unwrap().registry,
            reservations: Reservations::default(),
            labels: Labels::new(),
            settings: Settings::default(),
            keepers: nodes.iter().cloned().map(Keeper::new).collect(),
            journals: vec![Vec::new(); NODES],
            store: BTreeMap::new(),
            nodes: nodes.into_iter().collect(),
            revision: 0,
            unanswered: None,
            now: BootTime::from_millis(1_000_000),
            nonce: 0,
        }
    }

    fn foreign(&self, node: usize) -> ForeignBlocks {
        let me = self.keepers[node].me();
        let mut foreign = ForeignBlocks::default();
        for seen in self.store.values().filter(|seen| seen.object.owner != *me) {
            foreign.insert(seen.object.cidr, seen.object.owner.name.clone());
        }
        foreign
    }

    fn view<'a>(&'a self, node: usize, foreign: &'a ForeignBlocks) -> ClusterView<'a> {
        ClusterView {
            pools: &self.pools,
            reservations: &self.reservations,
            foreign,
            node: &self.keepers[node].me().name,
            node_labels: &self.labels,
            settings: &self.settings,
        }
    }

    fn fresh(&mut self) -> Nonce {
        self.nonce += 1;
        Nonce(self.nonce)
    }

    /// A fact is journalled and applied; the second time it does nothing.
    fn learn(&mut self, node: usize, facts: Vec<Fact>) -> TestCaseResult {
        for fact in facts {
            if fact.is_durable() {
                self.journals[node].push(Entry::Fact(fact.clone()));
            }
            let cut_off = self.keepers[node].apply(&fact);
            prop_assert_eq!(cut_off, Ok(Vec::new()), "{:?}", fact);
            let mut twice = self.keepers[node].clone();
            prop_assert_eq!(twice.apply(&fact), Ok(Vec::new()), "{:?} twice", fact);
            prop_assert_eq!(&twice, &self.keepers[node], "{:?} twice", fact);
        }
        Ok(())
    }

    fn write(&mut self, write: &Write) -> WriteOutcome {
        let unanswered = self.unanswered.take();
        if unanswered == Some(false) {
            return WriteOutcome::Unanswered;
        }
        let there = self.store.get(&write.cidr()).map(|seen| seen.revision);
        let fits = match write {
            Write::Create(_) => there.is_none(),
            Write::Swap { expected, .. } | Write::Delete { expected, .. } => there == Some(*expected),
        };
        if fits {
            self.revision += 1;
            match write {
                Write::Create(object) | Write::Swap { object, .. } => {
                    let seen = Seen { revision: ObjectRevision(self.revision), object: object.clone() };
                    self.store.insert(object.cidr, seen);
                }
                Write::Delete { cidr, .. } => drop(self.store.remove(cidr)),
            }
        }
        match (unanswered, fits) {
            (Some(_), _) => WriteOutcome::Unanswered,
            (None, true) => WriteOutcome::Made,
            (None, false) => WriteOutcome::Conflict,
        }
    }

    fn attend(&mut self, node: usize, block: Cidr) -> TestCaseResult {
        let (foreign, fresh, gone) = (self.foreign(node), self.fresh(), BTreeSet::new());
        let live = Live { block: self.store.get(&block), registry: Some(&self.registry), gone: &gone };
        let view = self.view(node, &foreign);
        let decision = self.keepers[node].decide_block(&view, &block, &live, self.now, fresh);
        self.learn(node, decision.before.clone())?;
        if let Some(write) = &decision.write {
            let outcome = self.write(write);
            self.learn(node, decision.settle(outcome))?;
        }
        Ok(())
    }

    fn assign(&mut self, node: usize, container: u8) -> TestCaseResult {
        let request = AssignRequest::new(handle(node, container), Labels::new());
        let (foreign, fresh) = (self.foreign(node), self.fresh());
        let view = self.view(node, &foreign);
        match self.keepers[node].decide_next(&view, &request, self.now, fresh) {
            Err(_) => self.learn(node, vec![Fact::GaveUp { handle: request.handle }])?,
            Ok(Next::Held(_)) => {}
            Ok(Next::Wait { block }) => self.attend(node, block)?,
            Ok(Next::Start { facts, block }) => {
                self.learn(node, facts)?;
                self.attend(node, block)?;
            }
            Ok(Next::Assign(given)) => {
                let now = self.now;
                let done = self.keepers[node].ipam_mut().apply_assign(&request.handle, &given, now);
                prop_assert_eq!(done, Ok(()));
                let addresses = given.iter().map(|one| one.address).collect();
                self.journals[node].push(Entry::Assign(request.handle, addresses, now));
            }
        }
        Ok(())
    }

    fn upkeep(&mut self, node: usize) -> TestCaseResult {
        let (store, nodes, foreign) = (self.store.clone(), self.nodes.clone(), self.foreign(node));
        let around = Surroundings { objects: &store, nodes: Some(&nodes) };
        self.keepers[node].observe(&around, self.now);
        let view = self.view(node, &foreign);
        let upkeep = self.keepers[node].decide_upkeep(&view, &around, self.now);
        let begun: Vec<(Fact, Cidr)> = (self.nonce + 1..)
            .zip(&upkeep.claims)
            .filter_map(|(nonce, claim)| {
                let fact = self.keepers[node].decide_claim(&view, claim, Nonce(nonce))?;
                Some((fact, claim.cidr))
            })
            .collect();
        self.nonce += begun.len() as u128;
        for attention in upkeep.attend {
            self.attend(node, attention.block)?;
        }
        for (fact, block) in begun {
            self.learn(node, vec![fact])?;
            self.attend(node, block)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match *step {
            Step::Assign { node, container } => self.assign(node, container)?,
            Step::Free { node, container } => {
                let (handle, now) = (handle(node, container), self.now);
                if !self.keepers[node].ipam_mut().apply_free(&handle, &self.pools, now).is_empty() {
                    self.journals[node].push(Entry::Free(handle, now));
                }
            }
            Step::Upkeep { node } => self.upkeep(node)?,
            Step::Restart { node } => self.keepers[node] = self.keepers[node].after_restart(),
            Step::Pass { seconds } => self.now = self.now.after(Duration::from_secs(seconds)),
            Step::Unanswered { made } => self.unanswered = Some(made),
        }
        let snapshot = Snapshot {
            blocks: self.store.iter().map(|(name, seen)| (*name, &seen.object)).collect(),
            registry: Some(&self.registry),
            pools: Some(&self.pools),
            nodes: Some(&self.nodes),
            members: self.keepers.iter().map(Member::of).collect(),
            ..Snapshot::default()
        };
        prop_assert_eq!(check(&snapshot, Strength::Always), Vec::new());
        for node in 0..NODES {
            // Cooldowns that are over are collected at different times, which nobody can see.
            let mut left = self.keepers[node].after_restart();
            left.ipam_mut().apply_expire(self.now);
            prop_assert_eq!(seeable(&self.replay(node)), seeable(&left), "the journal as it was written");
            prop_assert_eq!(seeable(&self.rebuild(&left)), seeable(&left), "the shortest journal");
        }
        Ok(())
    }

    /// What the journal brings back.
    fn replay(&self, node: usize) -> Keeper {
        let mut keeper = Keeper::new(self.keepers[node].me().clone());
        for entry in &self.journals[node] {
            match entry {
                Entry::Fact(fact) => drop(keeper.apply(fact).unwrap()),
                Entry::Assign(handle, addresses, since) => {
                    keeper.ipam_mut().restore(handle, addresses, *since).unwrap();
                }
                Entry::Free(handle, at) => drop(keeper.ipam_mut().apply_free(handle, &self.pools, *at)),
            }
        }
        keeper.ipam_mut().apply_expire(self.now);
        keeper
    }

    /// What is left of a node, from its facts, its queues and who holds what.
    fn rebuild(&self, left: &Keeper) -> Keeper {
        let mut keeper = Keeper::new(left.me().clone());
        for fact in left.facts() {
            keeper.apply(&fact).unwrap();
        }
        for block in left.ipam().blocks() {
            for address in block.freed() {
                keeper.ipam_mut().restore_cooling(address, BootTime::default()).unwrap();
            }
        }
        keeper.ipam_mut().apply_expire(BootTime::default());
        for (address, until) in left.ipam().blocks().flat_map(|block| block.cooling().collect::<Vec<_>>()) {
            keeper.ipam_mut().restore_cooling(address, until).unwrap();
        }
        for one in left.ipam().allocations() {
            let addresses: Vec<IpAddr> = one.addresses.iter().map(|held| held.address).collect();
            keeper.ipam_mut().restore(&one.handle, &addresses, one.since).unwrap();
        }
        keeper
    }
}

/// That the steps reach what they are meant to reach.
#[test]
fn the_steps_reach_loans_and_second_blocks() {
    let mut run = Run::new(0);
    for node in 0..NODES {
        for container in 0..6 {
            for _ in 0..6 {
                run.step(&Step::Assign { node: 0, container: if node == 0 { container } else { 11 } })
                    .unwrap();
                run.step(&Step::Assign { node, container }).unwrap();
                run.step(&Step::Upkeep { node: 1 - node }).unwrap();
                run.step(&Step::Upkeep { node }).unwrap();
            }
        }
    }
    let objects: Vec<&BlockObject> = run.store.values().map(|seen| &seen.object).collect();
    assert_eq!(objects.len(), 2, "{objects:?}");
    assert!(run.keepers.iter().map(|keeper| keeper.ipam().holder_count()).sum::<usize>() == 8, "{objects:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn what_a_node_remembers_is_rebuilt_and_no_fact_does_more_the_second_time(
        steps in steps(),
        cooldown_s in prop_oneof![Just(0u64), Just(90)],
    ) {
        let mut run = Run::new(cooldown_s);
        for step in &steps {
            run.step(step)?;
        }
    }
}
