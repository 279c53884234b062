//! The protocol by which nodes share pools: who owns which block, who borrows which address, and how both end.
//!
//! A [`Keeper`] is one node's part in it: its blocks, its loans, and the addresses it has handed out. Nothing here
//! talks to anybody. The node's shell
//!
//! 1. asks [`Keeper::decide_upkeep`] which blocks want attention (from copies that may be old: they only say where
//!    to look), or is sent there by [`Keeper::decide_next`] because a workload waits;
//! 2. reads that block's object live, and the registry or the gone nodes where the [`Attention`] says so;
//! 3. asks [`Keeper::decide_block`], journals and applies the facts of [`BlockDecision::before`], makes the write, and
//!    journals and applies what [`BlockDecision::settle`] makes of the answer.
//!
//! So there is one function for each state of a block, level-triggered: whatever was cut short is found again by the
//! next look. Every write is guarded by the revision that was looked at.
//!
//! ```text
//!                       create / takeover / adoption            object shows our nonce, pool still admitted
//!   (none) ──Claiming──> CLAIMING ────────────────────────────────────────────────> OWNED  (serves once confirmed)
//!     ^                     │ another's                                             │  ^
//!     │<──────Dropped───────┘                          delete or handover wanted    │  │ object changed meanwhile:
//!     │                                                                             v  │ the write is void
//!     │<──────Dropped── gone, or the new owner's ────────────────────────────── RELEASING (serves nothing)
//!     │<──────Lost───── another's object under a block we own: its workloads are cut off
//!
//!                request           grant seen            idle for a while
//!   (none) ──Asking──> ASKING ──Borrowed──> HOLDING ──Returning──> RETURNING ──BorrowEnded──> (none)
//!                        │ gave up: withdrawn by compare-and-swap ─────^
//! ```
//!
//! The rules in the comments (`rule 1` to `rule 10`) are those of the protocol's design, in `docs/design/ipam.md`.

mod attend;
mod borrower;
mod fact;
mod next;
mod object;
mod owner;
mod range;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod traces;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{BootTime, Cidr, Handle, PoolName};

use crate::allocator::NodeIpam;

pub use attend::{BlockDecision, Live};
pub use fact::{CutOff, Fact};
pub use next::{InnerNext, Next};
pub use object::{
    BlockObject, Loan, LoanRefusal, LoanState, NodeId, Nonce, ObjectRevision, Seen, Write, WriteOutcome,
};
pub use range::{MAX_RANGE_BLOCKS, RangeClaim, RangeError};
pub use upkeep::{Attention, Surroundings, Upkeep};

/// One node's part in the protocol. There is one for each agent, behind its ledger; it is rebuilt from the journal at
/// each start and dies with the agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keeper {
    me: NodeId,
    ipam: NodeIpam,
    tenures: BTreeMap<Cidr, Tenure>,
    borrows: BTreeMap<Nonce, Borrow>,
    volatile: Volatile,
}

/// What this boot's journal says of a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenure {
    /// Its pool.
    pub pool: PoolName,
    /// UID of that pool.
    pub pool_uid: String,
    /// The nonce of our claim.
    pub nonce: Nonce,
    /// How far it is.
    pub phase: Phase,
    /// Addresses that are, or may be, other nodes', by the borrower's nonce.
    pub lent: BTreeMap<Nonce, Lent>,
}

/// How far our ownership of a block is. See the module's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A write that makes it ours may be under way.
    Claiming,
    /// Ours.
    Owned,
    /// A write that ends our ownership may be under way, and expects this state of the object.
    Releasing {
        /// The state.
        base: ObjectRevision,
    },
}

/// An address that is another node's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lent {
    /// Which.
    pub address: IpAddr,
    /// Whose.
    pub borrower: NodeId,
}

/// A loan this node asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Borrow {
    /// The block it is from.
    pub block: Cidr,
    /// Its pool.
    pub pool: PoolName,
    /// How far it is.
    pub phase: BorrowPhase,
}

/// How far a loan we asked for is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BorrowPhase {
    /// A request may be under way.
    Asking {
        /// Exactly this address; `None`: any.
        address: Option<IpAddr>,
    },
    /// Granted: we hand it out as a block of one address.
    Holding {
        /// The address.
        address: IpAddr,
    },
    /// Being given back or withdrawn.
    Returning {
        /// The address, if it was granted.
        address: Option<IpAddr>,
    },
}

impl Borrow {
    /// The address we hold by it.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.phase {
            BorrowPhase::Asking { .. } => None,
            BorrowPhase::Holding { address } => Some(address),
            BorrowPhase::Returning { address } => address,
        }
    }
}

/// What is forgotten at a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Volatile {
    /// Blocks and borrowed addresses that a consistent read has shown to be ours since the start.
    confirmed: BTreeSet<Cidr>,
    /// The store has not answered since the start (rule 9): what the journal says counts.
    store_away: bool,
    /// Since when a block has been idle, as it was noticed.
    idle_since: BTreeMap<Cidr, BootTime>,
    /// Since when a node has been gone, as it was noticed.
    gone_since: BTreeMap<NodeId, BootTime>,
    /// Who waits for a loan.
    wanted: BTreeMap<Nonce, Handle>,
}

impl Keeper {
    /// A node that remembers nothing.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            ipam: NodeIpam::new(),
            tenures: BTreeMap::new(),
            borrows: BTreeMap::new(),
            volatile: Volatile::default(),
        }
    }

    /// Who this node is.
    #[must_use]
    pub fn me(&self) -> &NodeId {
        &self.me
    }

    /// The node was registered anew: same machine, same boot, another UID. Its blocks and loans are re-homed by their
    /// nonces (rule 2).
    pub fn set_identity(&mut self, me: NodeId) {
        self.me = me;
    }

    /// The addresses, for decisions.
    #[must_use]
    pub fn ipam(&self) -> &NodeIpam {
        &self.ipam
    }

    /// The addresses, to assign and free.
    pub fn ipam_mut(&mut self) -> &mut NodeIpam {
        &mut self.ipam
    }

    /// Blocks that are, become or cease to be ours.
    pub fn tenures(&self) -> impl Iterator<Item = (&Cidr, &Tenure)> {
        self.tenures.iter()
    }

    /// What the journal says of a block.
    #[must_use]
    pub fn tenure(&self, block: &Cidr) -> Option<&Tenure> {
        self.tenures.get(block)
    }

    /// Loans we asked for.
    pub fn borrows(&self) -> impl Iterator<Item = (Nonce, &Borrow)> {
        self.borrows.iter().map(|(nonce, borrow)| (*nonce, borrow))
    }

    /// The store does not answer (rule 9): until it does, blocks and loans serve on the journal's word. To be said at a
    /// start only; whoever has seen the store once goes on with what it saw.
    pub fn set_store_away(&mut self, away: bool) {
        self.volatile.store_away = away;
        self.refresh_serving();
    }

    /// A list was read anew (rule 5): every block and loan must be confirmed again before it serves.
    pub fn unconfirm(&mut self) {
        self.volatile.confirmed.clear();
        self.refresh_serving();
    }

    /// A list was read anew and shows these objects: what it shows as ours is confirmed by it as by any other consistent
    /// read, and everything else must be confirmed again before it serves.
    pub fn unconfirm_unless_shown(&mut self, shown: impl Fn(&Cidr) -> Option<Seen>) {
        let mut doubted = Vec::new();
        for (block, tenure) in &self.tenures {
            let ours = |seen: &Seen| seen.object.owner == self.me && seen.object.nonce == tenure.nonce;
            if !shown(block).as_ref().is_some_and(ours) {
                doubted.push(*block);
            }
        }
        for (nonce, borrow) in self.borrows() {
            let Some(address) = borrow.address() else { continue };
            let granted = LoanState::Granted { address };
            let ours = |seen: &Seen| seen.object.loan(nonce).is_some_and(|loan| loan.state == granted);
            if !shown(&borrow.block).as_ref().is_some_and(ours) {
                doubted.push(Cidr::host(address));
            }
        }
        for block in doubted {
            self.volatile.confirmed.remove(&block);
        }
        self.refresh_serving();
    }

    /// What is left of it after the agent was started again in the same boot: what the journal knows.
    #[must_use]
    pub fn after_restart(&self) -> Self {
        let mut started = self.clone();
        started.volatile = Volatile::default();
        started.ipam.forget_avoided();
        started.refresh_serving();
        started
    }

    /// Whether a block, or a borrowed address as a block of one, may hand out addresses.
    fn may_serve(&self, block: &Cidr) -> bool {
        let known = self.volatile.confirmed.contains(block) || self.volatile.store_away;
        let owned = match self.tenures.get(block) {
            Some(tenure) => tenure.phase == Phase::Owned,
            None => self
                .borrow_of(block)
                .is_some_and(|(_, borrow)| matches!(borrow.phase, BorrowPhase::Holding { .. })),
        };
        known && owned
    }

    /// The loan behind a block of one borrowed address.
    fn borrow_of(&self, block: &Cidr) -> Option<(Nonce, &Borrow)> {
        let address = block.network();
        if block.size() != 1 {
            return None;
        }
        self.borrows().find(|(_, borrow)| borrow.address() == Some(address))
    }

    fn refresh_serving(&mut self) {
        let serving: Vec<(Cidr, bool)> =
            self.ipam.blocks().map(|block| (block.cidr(), self.may_serve(&block.cidr()))).collect();
        for (block, serves) in serving {
            // The blocks were just listed.
            let _ = self.ipam.apply_serving(&block, serves);
        }
    }
}
