//! What the whole cluster is at one moment: the store, the writes under way, machines with their agents, and pods.
//!
//! Everything big is behind an [`Arc`] and copied when it is changed, so that a state costs little.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipam::Registry;
use ipam::protocol::{BlockDecision, Fact, Keeper, NodeId, Nonce, ObjectRevision, Seen, Write, WriteOutcome};
use model::Cidr;

use crate::config::Budget;

/// Blocks in the store, or a copy of them.
pub type Objects = BTreeMap<Cidr, Seen>;

/// Which Node object each machine has: its UID's number; `None`: there is no Node of that name.
pub type Nodes = Vec<Option<u8>>;

/// How many nonces a machine may have in use at once.
const NONCES_OF_MACHINE: u32 = 16;

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Blocks, as the store has them.
    pub objects: Arc<Objects>,
    /// Pools and their registry, as the store has them.
    pub pools: Arc<Pools>,
    /// Node objects, as the store has them.
    pub nodes: Nodes,
    /// The label of the namespace all pods are in, as the store has it.
    pub team: u8,
    /// Writes whose answer was lost: each may still land, or never.
    pub late: Vec<Write>,
    /// Machines.
    pub machines: Vec<Machine>,
    /// Pods.
    pub pods: Vec<Pod>,
    /// Coarse time.
    pub tick: u8,
    /// How often what may still happen.
    pub left: Budget,
    /// When the last holder of an address ended, and on which machine.
    pub ended: BTreeMap<IpAddr, (u8, u8)>,
    /// An `ipam release` that a person has looked up and not yet sent: a pod and the address it had.
    pub to_release: Option<(u8, IpAddr)>,
    /// What went wrong in the step that led here.
    pub broken: Option<Broken>,
}

/// Pools and registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pools {
    /// The pools' objects, in the order of the configuration.
    pub objects: Vec<PoolObject>,
    /// The registry.
    pub registry: Registry,
}

/// A pool's object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PoolObject {
    /// Whether it exists.
    pub exists: bool,
    /// Number of its UID: grows each time it is made.
    pub uid: u8,
    /// A person wants it gone.
    pub deleting: bool,
    /// It hands out nothing new.
    pub disabled: bool,
}

/// A machine. Its name is in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Whether it is on.
    pub on: bool,
    /// UIDs of Node objects that its agents of this boot went by, as bits.
    pub lives: u8,
    /// The greatest UID its Node objects had.
    pub last_uid: u8,
    /// The journal: what is left when the agent dies. Gone with the boot.
    pub disk: Option<Arc<Keeper>>,
    /// The snapshot beside the journal (rule 9).
    pub saved: Option<Copies>,
    /// Agents that run: none or one, but for one mutant.
    pub agents: Vec<Agent>,
    /// What the runtime's GC call under way lists, as bits of pods.
    pub gc: Option<u32>,
    /// How far its wall clock was set forward, in ticks.
    pub wall: u8,
}

/// What an agent last saw of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Copies {
    /// Blocks.
    pub objects: Arc<Objects>,
    /// Pools and registry.
    pub pools: Arc<Pools>,
    /// Node objects.
    pub nodes: Nodes,
    /// The namespace's label.
    pub team: u8,
}

/// An agent that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    /// Its part in the protocol.
    pub keeper: Arc<Keeper>,
    /// What it last saw.
    pub copies: Copies,
    /// It started without the store and has not reached it yet.
    pub away: bool,
    /// The look under way.
    pub look: Option<Look>,
    /// It found no block of this terminating pool.
    pub retiring: Option<u8>,
}

/// How far a look is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Look {
    /// The block was read; what else is needed was not, and nothing is decided.
    Read {
        /// The block.
        block: Cidr,
        /// Its object.
        seen: Option<Arc<Seen>>,
        /// Whether to read the registry.
        registry: bool,
        /// Which nodes may be gone.
        check_gone: Vec<NodeId>,
    },
    /// Decided, and the facts before the write are in the journal.
    Decided(Arc<BlockDecision>),
    /// The store has the write, and its answer is on its way.
    Answered(Arc<BlockDecision>, WriteOutcome),
}

/// A pod that is, was or will be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// How far it is.
    pub stage: Stage,
    /// The address it has, in truth.
    pub address: Option<IpAddr>,
    /// Its address was handed out, or it was wired, after the GC call under way had begun.
    pub young: bool,
    /// Labels its namespace has had since it appeared, as bits.
    pub teams: u8,
    /// The agent has read the namespace live since it appeared.
    pub read_live: bool,
    /// Its DEL has been asked for and not answered.
    pub del_asked: bool,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Not there, or its ADD failed: nothing of it is left.
    Unborn,
    /// Its ADD was asked for.
    Asked,
    /// It has an address in the journal, and may be wired; its ADD is not answered.
    Given,
    /// Its ADD was answered.
    Up,
    /// It ended, and nobody told the agent.
    Vanished,
    /// Its agent found that its address is another node's, and cut it off.
    CutOff,
    /// It was deleted, or its machine was switched off.
    Gone,
}

/// What must never happen, found in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// An address was handed out by a node that has neither the block nor a loan of it.
    NotTheirs,
    /// An address was handed out inside its cooldown.
    Cooling,
    /// An address was freed for somebody who did not hold it.
    FreedForOther,
    /// A pool served that the registry does not have.
    NotAdmitted,
    /// A pod got an address of a pool that its namespace did not select.
    WrongPool,
    /// A fact did not fit what the agent remembers.
    Unfit,
    /// The journal does not bring back what the agent had.
    Replay,
    /// A DEL was answered, and something of its pod was there afterwards.
    AfterDel,
}

impl State {
    /// The machine of this number.
    ///
    /// # Panics
    /// There is none: a mistake of the model.
    #[must_use]
    pub fn machine(&self, machine: u8) -> &Machine {
        &self.machines[usize::from(machine)]
    }

    /// A nonce for a machine that nothing in this state mentions. Nonces are compared for equality alone, so one that
    /// is forgotten everywhere is as good as one that never was; and each machine has its own, so that it does not
    /// matter who drew first.
    #[must_use]
    pub fn fresh_nonce(&self, machine: u8) -> Nonce {
        let mut used = 0u64;
        let mut mark = |nonce: &Nonce| used |= 1u64 << (nonce.0 % 64);
        let mut objects: Vec<&Arc<Objects>> = vec![&self.objects];
        for machine in &self.machines {
            let keepers = machine.agents.iter().map(|agent| &agent.keeper).chain(&machine.disk);
            for keeper in keepers {
                for (_, tenure) in keeper.tenures() {
                    mark(&tenure.nonce);
                    tenure.lent.keys().for_each(&mut mark);
                }
                keeper.borrows().for_each(|(nonce, _)| mark(&nonce));
            }
            let copies = machine.agents.iter().map(|agent| &agent.copies).chain(&machine.saved);
            objects.extend(
                copies.map(|copies| &copies.objects).filter(|copy| !Arc::ptr_eq(copy, &self.objects)),
            );
            for look in machine.agents.iter().filter_map(|agent| agent.look.as_ref()) {
                match look {
                    Look::Read { seen, .. } => {
                        seen.iter().for_each(|seen| mark_object(&seen.object, &mut mark));
                    }
                    Look::Decided(decision) | Look::Answered(decision, _) => {
                        mark_decision(decision, &mut mark);
                    }
                }
            }
        }
        for objects in objects {
            objects.values().for_each(|seen| mark_object(&seen.object, &mut mark));
        }
        for write in &self.late {
            mark_write(write, &mut mark);
        }
        let first = u32::from(machine) * NONCES_OF_MACHINE;
        Nonce(u128::from(first + (used >> first).trailing_ones()))
    }

    /// A revision of a block's object that nothing in this state mentions: compared for equality alone, like nonces.
    #[must_use]
    pub fn fresh_revision(&self, block: &Cidr) -> ObjectRevision {
        let mut used = 1u64;
        let mut mark = |revision: ObjectRevision| used |= 1u64 << (revision.0 % 64);
        let mut objects = vec![&self.objects];
        for machine in &self.machines {
            for keeper in machine.agents.iter().map(|agent| &agent.keeper).chain(&machine.disk) {
                if let Some(ipam::protocol::Phase::Releasing { base }) =
                    keeper.tenure(block).map(|tenure| tenure.phase)
                {
                    mark(base);
                }
            }
            let copies = machine.agents.iter().map(|agent| &agent.copies).chain(&machine.saved);
            objects.extend(copies.map(|copies| &copies.objects));
            for look in machine.agents.iter().filter_map(|agent| agent.look.as_ref()) {
                match look {
                    Look::Read { block: of, seen, .. } if of == block => {
                        seen.iter().for_each(|seen| mark(seen.revision));
                    }
                    Look::Read { .. } => {}
                    Look::Decided(decision) | Look::Answered(decision, _) => {
                        decision.write.iter().for_each(|write| mark_expected(write, block, &mut mark));
                    }
                }
            }
        }
        objects.iter().filter_map(|objects| objects.get(block)).for_each(|seen| mark(seen.revision));
        self.late.iter().for_each(|write| mark_expected(write, block, &mut mark));
        ObjectRevision(u64::from(used.trailing_ones()))
    }

    /// Makes a write as the store does: guarded by the state it expects.
    pub fn make(&mut self, write: &Write) -> WriteOutcome {
        let block = write.cidr();
        let current = self.objects.get(&block).map(|seen| seen.revision);
        let fits = match write {
            Write::Create(_) => current.is_none(),
            Write::Swap { expected, .. } | Write::Delete { expected, .. } => current == Some(*expected),
        };
        if !fits {
            return WriteOutcome::Conflict;
        }
        let revision = self.fresh_revision(&block);
        let objects = Arc::make_mut(&mut self.objects);
        match write {
            Write::Create(object) | Write::Swap { object, .. } => {
                objects.insert(block, Seen { revision, object: object.clone() });
            }
            Write::Delete { .. } => drop(objects.remove(&block)),
        }
        self.drop_void();
        WriteOutcome::Made
    }

    /// Drops writes that can never land any more: those that expect a state that is over.
    pub fn drop_void(&mut self) {
        let objects = &self.objects;
        self.late.retain(|write| match write {
            Write::Create(_) => true,
            Write::Swap { expected, .. } | Write::Delete { expected, .. } => {
                objects.get(&write.cidr()).is_some_and(|seen| seen.revision == *expected)
            }
        });
    }
}

fn mark_object(object: &ipam::protocol::BlockObject, mark: &mut impl FnMut(&Nonce)) {
    mark(&object.nonce);
    object.loans.iter().for_each(|loan| mark(&loan.nonce));
}

fn mark_write(write: &Write, mark: &mut impl FnMut(&Nonce)) {
    match write {
        Write::Create(object) | Write::Swap { object, .. } => mark_object(object, mark),
        Write::Delete { .. } => {}
    }
}

fn mark_expected(write: &Write, block: &Cidr, mark: &mut impl FnMut(ObjectRevision)) {
    match write {
        Write::Swap { expected, .. } | Write::Delete { expected, .. } if write.cidr() == *block => {
            mark(*expected);
        }
        _ => {}
    }
}

fn mark_decision(decision: &BlockDecision, mark: &mut impl FnMut(&Nonce)) {
    for fact in decision.before.iter().chain(&decision.after) {
        match fact {
            Fact::Claiming { nonce, .. } => mark(nonce),
            Fact::Lent { loan, .. }
            | Fact::LoanEnded { loan, .. }
            | Fact::Asking { loan, .. }
            | Fact::Borrowed { loan, .. }
            | Fact::Returning { loan }
            | Fact::BorrowEnded { loan }
            | Fact::BorrowLost { loan }
            | Fact::Wanted { loan, .. } => mark(loan),
            _ => {}
        }
    }
    decision.write.iter().for_each(|write| mark_write(write, mark));
}
