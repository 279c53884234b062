//! What wants attention: where to look, and which blocks to claim ahead of need.
//!
//! Decided from copies that may be old. That is harmless: they only say where to look; what is done is decided from
//! what is then read live.

use std::collections::{BTreeMap, BTreeSet};

use model::{BootTime, Cidr, NodeName, PoolName};

use super::borrower::wants_look;
use super::object::{BlockObject, LoanState, NodeId, Seen};
use super::owner::low_watermark;
use super::{BorrowPhase, Fact, Keeper, Nonce, Phase};
use crate::allocator::{BlockClaim, ClusterView, is_borrowed};
use crate::block::Block;
use crate::mutant::{self, Mutant};
use crate::pool::Pool;

/// What is known of the cluster besides pools, from copies.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Objects of blocks.
    pub objects: &'a BTreeMap<Cidr, Seen>,
    /// Every node there is; `None` where there are no Node objects, and nobody is ever gone.
    pub nodes: Option<&'a BTreeSet<NodeId>>,
}

/// A block to look at, and what to read live for it besides its object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attention {
    /// The block.
    pub block: Cidr,
    /// The registry, after the block.
    pub registry: bool,
    /// Whether these nodes are gone: no Node object of that UID, and no pod bound to it.
    pub check_gone: BTreeSet<NodeId>,
}

/// What is to be done without anybody asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Blocks to look at, in order of address.
    pub attend: Vec<Attention>,
    /// Blocks to claim ahead of need, at most one for each pool.
    pub claims: Vec<BlockClaim>,
}

impl Keeper {
    /// Notices since when blocks are idle and nodes gone. To be called before [`Keeper::decide_upkeep`].
    pub fn observe(&mut self, around: &Surroundings<'_>, now: BootTime) {
        self.ipam.apply_expire(now);
        self.ipam.apply_avoid_expire(now);
        let idle: BTreeSet<Cidr> = self
            .ipam
            .blocks()
            .filter(|block| {
                block.is_idle(now) || mutant::on(Mutant::ReleaseWithLoan) && block.used_count() == 0
            })
            .map(Block::cidr)
            .collect();
        note_since(&mut self.volatile.idle_since, idle, now);
        if let Some(nodes) = around.nodes {
            let borrowers =
                |seen: &Seen| seen.object.loans.iter().map(|loan| loan.borrower.clone()).collect::<Vec<_>>();
            let gone: BTreeSet<NodeId> = around
                .objects
                .values()
                .flat_map(|seen| borrowers(seen).into_iter().chain([seen.object.owner.clone()]))
                .filter(|node| !nodes.contains(node) && *node != self.me)
                .collect();
            note_since(&mut self.volatile.gone_since, gone, now);
        }
    }

    /// Where to look, and what to claim.
    #[must_use]
    pub fn decide_upkeep(&self, view: &ClusterView<'_>, around: &Surroundings<'_>, now: BootTime) -> Upkeep {
        let mut blocks: BTreeSet<Cidr> = self.tenures.keys().copied().collect();
        blocks.extend(self.borrows.values().map(|borrow| borrow.block));
        blocks.extend(around.objects.keys());
        let attend = blocks
            .iter()
            .filter(|block| self.wants_attention(view, around, block, now))
            .map(|block| self.attention(around, block, view, now))
            .collect();
        let claims = view.pools.iter().filter_map(|pool| self.claim_ahead(view, around, pool, now)).collect();
        Upkeep { attend, claims }
    }

    /// What to read live for a look at this block.
    #[must_use]
    pub fn attention(
        &self,
        around: &Surroundings<'_>,
        block: &Cidr,
        view: &ClusterView<'_>,
        now: BootTime,
    ) -> Attention {
        let registry = self.tenures.get(block).is_some_and(|tenure| tenure.phase == Phase::Claiming);
        let seen = around.objects.get(block);
        let parties = seen
            .into_iter()
            .flat_map(|seen| seen.object.loans.iter().map(|loan| &loan.borrower).chain([&seen.object.owner]));
        let check_gone = parties.filter(|node| self.is_gone(view, node, now)).cloned().collect();
        Attention { block: *block, registry, check_gone }
    }

    /// Whether a node has been gone for the grace, as far as our copies say.
    fn is_gone(&self, view: &ClusterView<'_>, node: &NodeId, now: BootTime) -> bool {
        let grace = view.settings.graces.gone_after;
        self.volatile.gone_since.get(node).is_some_and(|since| since.after(grace) <= now)
    }

    fn wants_attention(
        &self,
        view: &ClusterView<'_>,
        around: &Surroundings<'_>,
        block: &Cidr,
        now: BootTime,
    ) -> bool {
        let seen = around.objects.get(block);
        let borrowed = self.borrows().any(|(nonce, borrow)| {
            borrow.block == *block && self.borrow_wants_attention(view, nonce, seen, now)
        });
        if borrowed {
            return true;
        }
        let object = seen.map(|seen| &seen.object);
        if let Some(tenure) = self.tenures.get(block) {
            return tenure.phase != Phase::Owned || self.owned_wants_attention(view, block, object, now);
        }
        object.is_some_and(|object| {
            object.owner == self.me || self.is_gone(view, &object.owner, now) || wants_look(self, object)
        })
    }

    fn borrow_wants_attention(
        &self,
        view: &ClusterView<'_>,
        nonce: Nonce,
        seen: Option<&Seen>,
        now: BootTime,
    ) -> bool {
        let state = seen.and_then(|seen| seen.object.loan(nonce)).map(|loan| &loan.state);
        let Some(borrow) = self.borrows.get(&nonce) else { return false };
        match (&borrow.phase, state) {
            (BorrowPhase::Asking { .. }, Some(LoanState::Requested { .. })) => !self.is_wanted(nonce),
            (BorrowPhase::Holding { address }, Some(LoanState::Granted { .. })) => {
                let block = Cidr::host(*address);
                !self.volatile.confirmed.contains(&block) || self.is_returnable(view, &block, now)
            }
            _ => true,
        }
    }

    fn owned_wants_attention(
        &self,
        view: &ClusterView<'_>,
        cidr: &Cidr,
        object: Option<&BlockObject>,
        now: BootTime,
    ) -> bool {
        let (Some(tenure), Some(block)) = (self.tenures.get(cidr), self.ipam.block(cidr)) else {
            return true;
        };
        let Some(object) = object else { return true };
        let loan_moved = object.loans.iter().any(|loan| match loan.state {
            LoanState::Requested { .. } => true,
            LoanState::Granted { .. } => !tenure.lent.contains_key(&loan.nonce) || loan.borrower == self.me,
            LoanState::Refused { .. } => loan.borrower == self.me,
        });
        let loan_gone = tenure.lent.keys().any(|nonce| object.loan(*nonce).is_none())
            || object.loans.iter().any(|loan| self.is_gone(view, &loan.borrower, now));
        !self.volatile.confirmed.contains(cidr)
            || object.owner != self.me
            || object.nonce != tenure.nonce
            || loan_moved
            || loan_gone
            || self.is_surplus(view, block, now)
    }

    /// The block of a pool to claim ahead of need.
    ///
    /// 1. Only in a pool this node uses, and may go on using.
    /// 2. Only when fewer addresses are free than the low watermark, and no claim is under way.
    /// 3. Only while unclaimed blocks outnumber the nodes without one, so that idle nodes never lock a newcomer out.
    fn claim_ahead(
        &self,
        view: &ClusterView<'_>,
        around: &Surroundings<'_>,
        pool: &Pool,
        now: BootTime,
    ) -> Option<BlockClaim> {
        let own = || self.ipam.blocks_of(&pool.name).filter(|block| !is_borrowed(view, block));
        let first = own().next()?;
        let in_use = own().any(|block| block.used_count() > 0);
        if !in_use || pool.tag.is_none() || self.is_draining(view, first) || self.is_moving(&pool.name) {
            return None;
        }
        let free: u128 = own().map(|block| block.usage(view.reservations, now).free).sum();
        if free >= low_watermark(first) || !self.ipam.may_claim(view, pool.family()) {
            return None;
        }
        let claim = self.ipam.next_claim(view, pool, now)?;
        let without = nodes_without_block(view, around, pool);
        self.ipam.has_unclaimed_beyond(view, pool, without).then_some(claim)
    }

    /// Whether a block of the pool is being claimed or waits to be confirmed.
    pub(super) fn is_moving(&self, pool: &PoolName) -> bool {
        self.tenures.iter().any(|(block, tenure)| {
            let waits = tenure.phase == Phase::Owned && !self.may_serve(block);
            tenure.pool == *pool && (tenure.phase == Phase::Claiming || waits)
        })
    }

    /// What starts a claim: to be journalled, and then looked at.
    #[must_use]
    pub fn decide_claim(&self, view: &ClusterView<'_>, claim: &BlockClaim, fresh: Nonce) -> Option<Fact> {
        let pool = view.pools.by_name(&claim.pool)?;
        let (block, pool, pool_uid) = (claim.cidr, pool.name.clone(), pool.uid.clone());
        Some(Fact::Claiming { block, pool, pool_uid, nonce: fresh })
    }
}

/// How many nodes have no block of a pool.
fn nodes_without_block(view: &ClusterView<'_>, around: &Surroundings<'_>, pool: &Pool) -> usize {
    let Some(nodes) = around.nodes else { return 0 };
    let owners: BTreeSet<&NodeName> =
        view.foreign.lenders(pool, view.node).map(|(_, owner)| owner).chain([view.node]).collect();
    nodes.iter().filter(|node| !owners.contains(&node.name)).count()
}

/// Keeps the time since when each of these is so, and forgets the others.
fn note_since<K: Ord>(since: &mut BTreeMap<K, BootTime>, now_so: BTreeSet<K>, now: BootTime) {
    since.retain(|key, _| now_so.contains(key));
    for key in now_so {
        since.entry(key).or_insert(now);
    }
}
