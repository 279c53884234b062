//! Behaviours of several nodes together, each test named by the behaviour it pins down.
//!
//! A [`Cluster`] is a store in memory and the shell's loop around some keepers: look, decide, journal, write, settle.
//! Every single step of it can be the last one before a crash, and a write can be lost, go unanswered, or be made
//! later. After each step every invariant is checked. It cannot show that the real store and the real shell do the
//! same; the store's conformance suite and the simulation do.

mod allocation;
mod blocks;
mod crashes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::{BlockSize, BootTime, Cidr, Handle, Labels, NodeName};

use super::*;
use crate::allocator::{AtBlockLimit, ClusterView, Settings};
use crate::check::{Member, Snapshot, Strength, check};
use crate::claim::ForeignBlocks;
use crate::pool::{Pool, PoolSpec, PoolTable};
use crate::refusal::Refusal;
use crate::registry::{Candidate, Registry};
use crate::request::AssignRequest;
use crate::reservation::Reservations;

/// How often a waiting workload asks again before the test gives up.
const PATIENCE: usize = 64;

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is made and answered.
    Made,
    /// It is made, and the answer is lost.
    Unanswered,
    /// It is not made, and nobody is told.
    Lost,
    /// It is made later, and nobody is told.
    Delayed,
}

/// Why a request came to nothing.
#[derive(Debug)]
enum Stop {
    Refused(Refusal),
    /// The node's agent crashed on the way.
    Crashed,
}

struct Crashed;

impl From<Crashed> for Stop {
    fn from(_: Crashed) -> Self {
        Self::Crashed
    }
}

struct Node {
    keeper: Keeper,
    settings: Settings,
    labels: Labels,
    /// Switched off: it does nothing, and whatever it held is gone.
    off: bool,
}

struct Cluster {
    pools: PoolTable,
    registry: Registry,
    reservations: Reservations,
    nodes: BTreeMap<&'static str, Node>,
    /// Node objects.
    registered: BTreeSet<NodeId>,
    store: BTreeMap<Cidr, Seen>,
    revision: u64,
    delayed: Vec<Write>,
    /// Of the next writes; those after them are made.
    fates: Vec<Fate>,
    now: BootTime,
    last_nonce: u128,
    /// So many steps until somebody crashes.
    steps_left: Option<usize>,
}

/// A node as its decisions see the cluster.
struct View {
    pools: PoolTable,
    reservations: Reservations,
    foreign: ForeignBlocks,
    node: NodeName,
    labels: Labels,
    settings: Settings,
}

impl View {
    fn cluster(&self) -> ClusterView<'_> {
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

fn node_id(name: &str, life: u32) -> NodeId {
    NodeId { name: name.parse().unwrap(), uid: format!("{name}-{life}") }
}

fn handle(container: &str) -> Handle {
    Handle::new(container, "eth0").unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn request(container: &str) -> AssignRequest {
    AssignRequest::new(handle(container), Labels::new())
}

fn at_address(container: &str, address: &str) -> AssignRequest {
    let mut request = request(container);
    request.v4.address = Some(address.parse().unwrap());
    request
}

fn pool(name: &str, range: &str, block_len: u32) -> PoolSpec {
    let mut spec = PoolSpec::new(name.parse().unwrap(), cidr(range));
    spec.uid = format!("uid-{name}");
    spec.block_size = BlockSize::new(spec.cidr.family(), block_len).unwrap();
    spec
}

impl Cluster {
    /// Nodes that share pools, all of them admitted.
    fn new(names: &[&'static str], pools: &[PoolSpec]) -> Self {
        let mut cluster = Self {
            pools: PoolTable::default(),
            registry: Registry::default(),
            reservations: Reservations::default(),
            nodes: BTreeMap::new(),
            registered: BTreeSet::new(),
            store: BTreeMap::new(),
            revision: 0,
            delayed: Vec::new(),
            fates: Vec::new(),
            now: BootTime::from_millis(1_000_000),
            last_nonce: 0,
            steps_left: None,
        };
        for spec in pools {
            let PoolSpec { name, uid, cidr, block_size, .. } = spec.clone();
            let candidate = Candidate { name, uid, cidr, block_size };
            cluster.registry = cluster.registry.admit(&candidate, 100).unwrap().registry;
        }
        cluster.set_pools(pools);
        for name in names {
            let me = node_id(name, 1);
            cluster.registered.insert(me.clone());
            let (keeper, settings) = (Keeper::new(me), Settings::default());
            cluster.nodes.insert(name, Node { keeper, settings, labels: Labels::new(), off: false });
        }
        cluster
    }

    /// Pools as they are now, with the tags of the registry.
    fn set_pools(&mut self, pools: &[PoolSpec]) {
        let tagged = pools.iter().cloned().map(|mut spec| {
            let entry = self.registry.entry(&spec.name).filter(|entry| entry.uid == spec.uid);
            spec.tag = entry.map(|entry| entry.tag);
            spec.terminating = entry.is_some_and(|entry| entry.terminating);
            Pool::new(spec).unwrap()
        });
        self.pools = PoolTable::new(tagged);
    }

    fn change_pool(&mut self, change: impl Fn(&mut PoolSpec)) {
        let mut specs: Vec<PoolSpec> = self.pools.iter().map(|pool| pool.clone().into_spec()).collect();
        specs.iter_mut().for_each(change);
        self.set_pools(&specs);
    }

    fn set(&mut self, change: impl Fn(&mut Settings)) {
        self.nodes.values_mut().for_each(|node| change(&mut node.settings));
    }

    fn keeper(&self, name: &str) -> &Keeper {
        &self.nodes[name].keeper
    }

    fn keeper_mut(&mut self, name: &str) -> &mut Keeper {
        &mut self.nodes.get_mut(name).unwrap().keeper
    }

    fn view(&self, name: &str) -> View {
        let node = &self.nodes[name];
        let mut foreign = ForeignBlocks::default();
        for seen in self.store.values() {
            let known =
                node.keeper.tenure(&seen.object.cidr).is_some_and(|tenure| tenure.phase == Phase::Owned);
            if seen.object.owner != *node.keeper.me() && !known {
                foreign.insert(seen.object.cidr, seen.object.owner.name.clone());
            }
        }
        View {
            pools: self.pools.clone(),
            reservations: self.reservations.clone(),
            foreign,
            node: name.parse().unwrap(),
            labels: node.labels.clone(),
            settings: node.settings,
        }
    }

    fn fresh(&mut self) -> Nonce {
        self.last_nonce += 1;
        Nonce(self.last_nonce)
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    /// Whose blocks there are: range to owner.
    fn owners(&self) -> BTreeMap<String, String> {
        let of = |seen: &Seen| (seen.object.cidr.to_string(), seen.object.owner.name.to_string());
        self.store.values().map(of).collect()
    }

    fn blocks_of(&self, name: &str) -> Vec<String> {
        self.owners().into_iter().filter(|(_, owner)| owner == name).map(|(block, _)| block).collect()
    }

    /// The agent dies and is started again.
    fn restart(&mut self, name: &str) {
        let keeper = self.keeper_mut(name);
        *keeper = keeper.after_restart();
    }

    /// The machine goes, its Node object with it.
    fn switch_off(&mut self, name: &str) {
        self.nodes.get_mut(name).unwrap().off = true;
        self.registered.retain(|id| id.name.as_str() != name);
    }

    fn violations(&self, strength: Strength) -> Vec<crate::check::Violation> {
        let views: Vec<(&Node, View)> = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.off)
            .map(|(name, node)| (node, self.view(name)))
            .collect();
        let members = views.iter().map(|(node, view)| Member {
            view: Some((view.cluster(), self.now)),
            ..Member::of(&node.keeper)
        });
        let snapshot = Snapshot {
            blocks: self.store.iter().map(|(name, seen)| (*name, &seen.object)).collect(),
            registry: Some(&self.registry),
            pools: Some(&self.pools),
            nodes: Some(&self.registered),
            members: members.collect(),
            live: None,
            unreadable: Vec::new(),
        };
        check(&snapshot, strength)
    }

    fn assert(&self, strength: Strength) {
        let violations = self.violations(strength);
        assert!(violations.is_empty(), "{violations:#?}\nstore: {:#?}", self.store);
    }

    /// One step of a node is about to be made; it may crash instead.
    fn step(&mut self, name: &str) -> Result<(), Crashed> {
        match &mut self.steps_left {
            Some(0) => {
                self.steps_left = None;
                self.restart(name);
                self.assert(Strength::Always);
                Err(Crashed)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn learn(&mut self, name: &str, facts: &[Fact]) -> Result<(), Crashed> {
        for fact in facts {
            self.step(name)?;
            let cut_off = self.keeper_mut(name).apply(fact).unwrap_or_else(|error| {
                panic!("{name}: {fact:?} does not fit: {error}\nstore: {:#?}", self.store)
            });
            assert!(cut_off.is_empty(), "{name}: {fact:?} cuts off {cut_off:?}");
        }
        Ok(())
    }

    fn write(&mut self, name: &str, write: &Write) -> Result<WriteOutcome, Crashed> {
        self.step(name)?;
        let fate = if self.fates.is_empty() { Fate::Made } else { self.fates.remove(0) };
        let outcome = match fate {
            Fate::Made => self.make(write),
            Fate::Unanswered => {
                self.make(write);
                WriteOutcome::Unanswered
            }
            Fate::Lost => WriteOutcome::Unanswered,
            Fate::Delayed => {
                self.delayed.push(write.clone());
                WriteOutcome::Unanswered
            }
        };
        self.assert(Strength::Always);
        // The answer reaches nobody if it crashes here.
        self.step(name)?;
        Ok(outcome)
    }

    /// What the store does with a write.
    fn make(&mut self, write: &Write) -> WriteOutcome {
        let there = self.store.get(&write.cidr()).map(|seen| seen.revision);
        let fits = match write {
            Write::Create(_) => there.is_none(),
            Write::Swap { expected, .. } | Write::Delete { expected, .. } => there == Some(*expected),
        };
        if !fits {
            return WriteOutcome::Conflict;
        }
        self.revision += 1;
        match write {
            Write::Create(object) | Write::Swap { object, .. } => {
                let seen = Seen { revision: ObjectRevision(self.revision), object: object.clone() };
                self.store.insert(object.cidr, seen);
            }
            Write::Delete { cidr, .. } => drop(self.store.remove(cidr)),
        }
        WriteOutcome::Made
    }

    /// Writes that went unanswered arrive now.
    fn deliver(&mut self) {
        for write in std::mem::take(&mut self.delayed) {
            self.make(&write);
            self.assert(Strength::Always);
        }
    }

    /// One look at one block.
    fn attend(&mut self, name: &str, block: Cidr) -> Result<(), Crashed> {
        let (view, fresh) = (self.view(name), self.fresh());
        let around = Surroundings { objects: &self.store, nodes: Some(&self.registered) };
        let attention = self.keeper(name).attention(&around, &block, &view.cluster(), self.now);
        let gone: BTreeSet<NodeId> =
            attention.check_gone.into_iter().filter(|id| !self.registered.contains(id)).collect();
        let registry = attention.registry.then(|| self.registry.clone());
        let seen = self.store.get(&block).cloned();
        let live = Live { block: seen.as_ref(), registry: registry.as_ref(), gone: &gone };
        let decision = self.keeper(name).decide_block(&view.cluster(), &block, &live, self.now, fresh);
        self.learn(name, &decision.before)?;
        self.assert(Strength::Always);
        if let Some(write) = &decision.write {
            let outcome = self.write(name, write)?;
            self.learn(name, &decision.settle(outcome))?;
        }
        self.assert(Strength::Always);
        Ok(())
    }

    /// What a node does without being asked, once.
    fn upkeep(&mut self, name: &'static str) -> Result<(), Crashed> {
        if self.nodes[name].off {
            return Ok(());
        }
        let (view, now, store, registered) =
            (self.view(name), self.now, self.store.clone(), self.registered.clone());
        let around = Surroundings { objects: &store, nodes: Some(&registered) };
        self.keeper_mut(name).observe(&around, now);
        let upkeep = self.keeper(name).decide_upkeep(&view.cluster(), &around, now);
        for attention in upkeep.attend {
            self.attend(name, attention.block)?;
        }
        for claim in upkeep.claims {
            let fresh = self.fresh();
            let begun = self.keeper(name).decide_claim(&view.cluster(), &claim, fresh);
            self.learn(name, &Vec::from_iter(begun))?;
            self.attend(name, claim.cidr)?;
        }
        Ok(())
    }

    fn names(&self) -> Vec<&'static str> {
        self.nodes.keys().copied().collect()
    }

    /// Everything that a round of upkeep may change.
    fn state(&self) -> (BTreeMap<Cidr, Seen>, Vec<Keeper>, usize) {
        let keepers = self.nodes.values().map(|node| node.keeper.clone()).collect();
        // A write that went wrong changes nothing else.
        (self.store.clone(), keepers, self.fates.len())
    }

    /// Everybody does what is to be done until nothing is left to do. Nothing may be wrong then.
    fn settle(&mut self) {
        for _ in 0..PATIENCE {
            let before = self.state();
            for name in self.names() {
                let _ = self.upkeep(name);
            }
            if before == self.state() {
                self.assert(Strength::AtRest);
                return;
            }
        }
        panic!("it does not come to rest: {:#?}", self.store);
    }

    /// Serves a request to its end, the other nodes doing their part meanwhile.
    fn serve(&mut self, name: &'static str, request: &AssignRequest) -> Result<Vec<String>, Stop> {
        let text = |given: &[crate::Assignment]| given.iter().map(|one| one.address.to_string()).collect();
        for _ in 0..PATIENCE {
            let (view, fresh) = (self.view(name), self.fresh());
            let next = self.keeper(name).decide_next(&view.cluster(), request, self.now, fresh);
            let block = match next {
                Err(refusal) => {
                    self.learn(name, &[Fact::GaveUp { handle: request.handle.clone() }])?;
                    return Err(Stop::Refused(refusal));
                }
                Ok(Next::Held(given)) => return Ok(text(&given)),
                Ok(Next::Assign(given)) => {
                    let now = self.now;
                    self.keeper_mut(name).ipam_mut().apply_assign(&request.handle, &given, now).unwrap();
                    self.assert(Strength::Always);
                    return Ok(text(&given));
                }
                Ok(Next::Start { facts, block }) => {
                    self.learn(name, &facts)?;
                    block
                }
                Ok(Next::Wait { block }) => block,
            };
            self.attend(name, block)?;
            for other in self.names() {
                if other != name {
                    self.upkeep(other)?;
                }
            }
            self.upkeep(name)?;
        }
        panic!("{name}: {request:?} is not answered; store: {:#?}", self.store);
    }

    fn add(&mut self, name: &'static str, container: &str) -> Result<Vec<String>, Stop> {
        self.serve(name, &request(container))
    }

    /// An ADD that is served: its one address.
    fn given(&mut self, name: &'static str, container: &str) -> String {
        self.add(name, container).unwrap_or_else(|stop| panic!("{container}: {stop:?}")).remove(0)
    }

    /// An ADD that is refused: what is said.
    fn refused(&mut self, name: &'static str, request: &AssignRequest) -> Refusal {
        match self.serve(name, request) {
            Err(Stop::Refused(refusal)) => refusal,
            other => panic!("expected a refusal: {other:?}"),
        }
    }

    fn free(&mut self, name: &str, container: &str) -> usize {
        let (pools, now) = (self.pools.clone(), self.now);
        self.keeper_mut(name).ipam_mut().apply_free(&handle(container), &pools, now).len()
    }
}
