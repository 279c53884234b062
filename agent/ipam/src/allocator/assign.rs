//! Handing out: from a request to addresses, to a block that must be claimed first, or to a refusal.

use std::net::IpAddr;

use model::{BootTime, Cidr, Family, Handle, NodeName, PoolName};

use super::{ApplyError, AtBlockLimit, ClusterView, Held, NodeIpam};
use crate::accounting::PoolUsage;
use crate::block::{Block, OrdinalState};
use crate::choice::{PassedOver, PassedReason, PoolChoice, choose_pools, why_not};
use crate::claim::{MAX_ALTERNATIVES, unclaimed_in};
use crate::pool::Pool;
use crate::refusal::{Refusal, RefusalKind};
use crate::request::{AssignRequest, FamilyRequest, Want};

/// One address for one holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The pool it is from.
    pub pool: PoolName,
    /// The block it is in.
    pub block: Cidr,
    /// The address.
    pub address: IpAddr,
}

/// What to do about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Hand these out, all of them or none; at most one of each family, IPv4 first.
    Assign(Vec<Assignment>),
    /// Claim a block, then decide again.
    Claim(BlockClaim),
    /// Ask another node for an address of its block, then decide again.
    Borrow(BlockBorrow),
    /// The handle holds these already; nothing is to be done.
    Held(Vec<Assignment>),
}

/// A block that must be claimed before a request can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockClaim {
    /// The pool it is cut from.
    pub pool: PoolName,
    /// The block to try first.
    pub cidr: Cidr,
    /// Blocks to try when it is lost to another node, in order; at most [`MAX_ALTERNATIVES`]. Empty when only
    /// this block will do.
    pub alternatives: Vec<Cidr>,
}

/// An address that must be borrowed before a request can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockBorrow {
    /// The pool.
    pub pool: PoolName,
    /// The block to borrow from.
    pub block: Cidr,
    /// Its owner, as far as is known.
    pub owner: NodeName,
    /// Exactly this address; `None`: any.
    pub address: Option<IpAddr>,
}

/// What one family comes to.
pub(super) enum Outcome {
    Address(Assignment),
    Claim(BlockClaim),
    Borrow(BlockBorrow),
    Refused(Refusal),
}

impl NodeIpam {
    /// Decides a request. Changes nothing.
    ///
    /// 1. A handle that holds addresses gets the same answer again.
    /// 2. Each wanted family is decided by itself: an explicit address, or the first of the chosen pools with
    ///    room in an owned block or with a block to claim.
    /// 3. A refusal of a family that is required refuses the request, before anything is claimed for the
    ///    other one.
    /// 4. If any family needs a block or a loan, that is got first and everything is decided again.
    ///
    /// # Errors
    /// The refusal says which kind it is, why, and how each pool stood.
    pub fn decide_assign(
        &self,
        view: &ClusterView<'_>,
        request: &AssignRequest,
        now: BootTime,
    ) -> Result<Decision, Refusal> {
        if let Some(held) = self.holders.get(&request.handle) {
            return self.decide_held(request, held).map(Decision::Held);
        }
        let (mut assignments, mut first, mut forgiven) = (Vec::new(), None, Vec::new());
        for family in [Family::V4, Family::V6] {
            let wanted = request.of(family);
            if wanted.want == Want::No {
                continue;
            }
            match self.decide_family(view, request, family, now) {
                Outcome::Address(assignment) => assignments.push(assignment),
                Outcome::Claim(block) => first = first.or(Some(Decision::Claim(block))),
                Outcome::Borrow(loan) => first = first.or(Some(Decision::Borrow(loan))),
                Outcome::Refused(refusal) if is_forgiven(wanted.want, refusal.kind()) => {
                    forgiven.push(refusal);
                }
                Outcome::Refused(refusal) => return Err(refusal),
            }
        }
        if let Some(first) = first {
            Ok(first)
        } else if assignments.is_empty() {
            // A family without any pool is worth a word only if the other one has none either.
            if forgiven.iter().any(|refusal: &Refusal| !refusal.details().is_empty()) {
                forgiven.retain(|refusal| !refusal.details().is_empty());
            }
            let refusals = forgiven.into_iter().reduce(Refusal::and);
            Err(refusals.unwrap_or_else(|| nothing_asked(&request.handle)))
        } else {
            Ok(Decision::Assign(assignments))
        }
    }

    /// Carries out [`Decision::Assign`]: all addresses or, on an error, none.
    ///
    /// # Errors
    /// An address is not in a block of this node, is held or cooling at `now`, or the holder would have two of
    /// one family.
    pub fn apply_assign(
        &mut self,
        handle: &Handle,
        assignments: &[Assignment],
        now: BootTime,
    ) -> Result<(), ApplyError> {
        // Everything is checked before anything changes.
        let mut held = self.held_or_new(handle, now);
        for &Assignment { address, .. } in assignments {
            if let Some(other) = held.of(Family::of(address)) {
                return Err(ApplyError::HolderHas { handle: handle.clone(), address, held: other });
            }
            let block = self.block_around(address).ok_or(ApplyError::NoBlock { address })?;
            block
                .check_take(address, now)
                .map_err(|source| ApplyError::Ordinal { handle: handle.clone(), source })?;
            held.set(address);
        }
        for &Assignment { address, .. } in assignments {
            if let Some(block) = self.block_around_mut(address) {
                block.take(address, handle, now);
            }
        }
        self.record_held(handle, held);
        Ok(())
    }

    /// What a handle holds already answers its request, unless that asks for another address by name.
    fn decide_held(&self, request: &AssignRequest, held: &Held) -> Result<Vec<Assignment>, Refusal> {
        for family in [Family::V4, Family::V6] {
            let wanted = request.of(family);
            let Some(address) = wanted.address.filter(|_| wanted.want != Want::No) else { continue };
            if held.of(family) != Some(address) {
                let has: Vec<String> = held.addresses().map(|address| address.to_string()).collect();
                let message =
                    format!("{} asks for {address} but already holds {}", request.handle, has.join(" and "));
                return Err(Refusal::new(RefusalKind::Address { address }, message, Vec::new()));
            }
        }
        Ok(self.assignments(held))
    }

    fn decide_family(
        &self,
        view: &ClusterView<'_>,
        request: &AssignRequest,
        family: Family,
        now: BootTime,
    ) -> Outcome {
        let wanted = request.of(family);
        if let Some(address) = wanted.address {
            return self.decide_explicit(view, request, family, address, now);
        }
        let namespace_labels = &request.namespace_labels;
        // The usual case, before anything is collected that only a refusal needs.
        if wanted.pools.is_none() {
            let mut serving = view.pools.serving(family, view.node_labels, namespace_labels);
            if let Some(outcome) = serving.find_map(|pool| self.try_pool(view, pool, now)) {
                return outcome;
            }
        }
        let mut choice = match choose_pools(view, family, wanted, namespace_labels) {
            Ok(choice) => choice,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        if wanted.pools.is_some()
            && let Some(outcome) = choice.eligible.iter().find_map(|pool| self.try_pool(view, pool, now))
        {
            return outcome;
        }
        for pool in &choice.eligible {
            if let Some(borrow) = self.next_borrow(view, pool, now) {
                return Outcome::Borrow(borrow);
            }
        }
        let tried = std::mem::take(&mut choice.eligible);
        for pool in &tried {
            let usage = self.pool_usage(view, pool, now);
            let reason = self.why_full(view, pool, usage, now);
            choice.passed_over.push(PassedOver { pool, reason });
        }
        Outcome::Refused(refuse_all(&request.handle, family, wanted, &tried, &choice))
    }

    /// The next address of a pool that serves, or the block of it to claim; `None` when it has neither.
    pub(super) fn try_pool(&self, view: &ClusterView<'_>, pool: &Pool, now: BootTime) -> Option<Outcome> {
        let address = self.next_free(view, pool, now).map(Outcome::Address);
        address.or_else(|| {
            let may_claim = self.may_claim(view, pool.family());
            may_claim.then(|| self.next_claim(view, pool, now).map(Outcome::Claim)).flatten()
        })
    }

    /// The next address of this node's own blocks of a pool.
    fn next_free(&self, view: &ClusterView<'_>, pool: &Pool, now: BootTime) -> Option<Assignment> {
        self.blocks_of(&pool.name)
            .filter(|block| pool.has_block(&block.cidr()) || is_host(&block.cidr()))
            .find_map(|block| {
                let address = block.peek(view.reservations, now)?;
                Some(Assignment { pool: pool.name.clone(), block: block.cidr(), address })
            })
    }

    /// Whether the settings let this node claim one more block of a family.
    pub(crate) fn may_claim(&self, view: &ClusterView<'_>, family: Family) -> bool {
        view.settings.auto_allocate_blocks && !self.is_at_limit(view, family)
    }

    /// Whether this node owns as many blocks of a family as it may.
    pub(crate) fn is_at_limit(&self, view: &ClusterView<'_>, family: Family) -> bool {
        let owned =
            || self.blocks().filter(|block| block.cidr().family() == family && !is_borrowed(view, block));
        view.settings
            .max_blocks_per_node
            .is_some_and(|limit| owned().count() >= usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// The block of a pool to claim next, with alternatives; `None` when none is unclaimed. Whether the pool
    /// may serve is not asked here.
    #[must_use]
    pub fn next_claim(&self, view: &ClusterView<'_>, pool: &Pool, now: BootTime) -> Option<BlockClaim> {
        let mut blocks = unclaimed_in(pool, view.node, [&self.own, view.foreign.ranges()], view.reservations)
            .filter(|block| !self.is_avoided(block, now));
        let cidr = blocks.next()?;
        Some(BlockClaim {
            pool: pool.name.clone(),
            cidr,
            alternatives: blocks.take(MAX_ALTERNATIVES).collect(),
        })
    }

    /// Whether a pool has more than so many blocks that nobody owns.
    pub(crate) fn has_unclaimed_beyond(&self, view: &ClusterView<'_>, pool: &Pool, count: usize) -> bool {
        unclaimed_in(pool, view.node, [&self.own, view.foreign.ranges()], view.reservations)
            .nth(count)
            .is_some()
    }

    /// Which node to ask for an address of this pool when no block is left; `None` when the settings are against
    /// it or every owner has refused a short while ago.
    pub(super) fn next_borrow(
        &self,
        view: &ClusterView<'_>,
        pool: &Pool,
        now: BootTime,
    ) -> Option<BlockBorrow> {
        if !may_borrow(view)
            || (self.is_at_limit(view, pool.family()) && view.settings.at_block_limit == AtBlockLimit::Fail)
        {
            return None;
        }
        let (block, owner) = view
            .foreign
            .lenders(pool, view.node)
            // Its own it never asks: what our copies still show as another's, or as another life's of this node.
            .filter(|(block, owner)| *owner != view.node && self.block(block).is_none())
            .find(|(block, _)| !self.is_avoided(block, now) && !view.reservations.covers(block))?;
        Some(BlockBorrow { pool: pool.name.clone(), block, owner: owner.clone(), address: None })
    }

    fn why_full(&self, view: &ClusterView<'_>, pool: &Pool, usage: PoolUsage, now: BootTime) -> PassedReason {
        if !view.settings.auto_allocate_blocks {
            PassedReason::NoClaims(usage)
        } else if self.is_at_limit(view, pool.family()) && self.next_claim(view, pool, now).is_some() {
            let limit = view.settings.max_blocks_per_node.unwrap_or_default();
            PassedReason::AtLimit { limit, usage }
        } else if view.settings.strict_affinity && usage.elsewhere > 0 {
            PassedReason::Strict(usage)
        } else {
            PassedReason::Full(usage)
        }
    }

    /// Decides a request for one address by name.
    ///
    /// 1. The address must lie in a pool that may serve the workload, and in one of the pools asked for, if
    ///    any were. A reservation does not stand against it, nor does `assignmentMode: Manual`.
    /// 2. In a block of this node it must be neither held nor cooling.
    /// 3. In another node's block it is borrowed, unless the settings are against it.
    /// 4. Otherwise exactly its block is claimed.
    fn decide_explicit(
        &self,
        view: &ClusterView<'_>,
        request: &AssignRequest,
        family: Family,
        address: IpAddr,
        now: BootTime,
    ) -> Outcome {
        let handle = &request.handle;
        let refuse = |kind: RefusalKind, problem: String| {
            Outcome::Refused(Refusal::new(
                kind,
                format!("cannot give {address} to {handle}: {problem}"),
                Vec::new(),
            ))
        };
        let unfit = |problem: String| refuse(RefusalKind::Address { address }, problem);
        if Family::of(address) != family {
            return unfit(format!("it is no {family} address"));
        }
        let Some(pool) = view.pools.by_address(address) else { return unfit("it is in no pool".to_owned()) };
        if let Some(reason) = why_not(view, pool, family, &request.namespace_labels, true) {
            let pending = reason == PassedReason::Pending;
            let problem = PassedOver { pool, reason }.to_string();
            return if pending {
                refuse(RefusalKind::AddressNotYet { address }, problem)
            } else {
                unfit(problem)
            };
        }
        match choose_pools(view, family, request.of(family), &request.namespace_labels) {
            Err(refusal) => return Outcome::Refused(refusal),
            Ok(choice) if request.of(family).pools.is_some() && !is_among(pool, &choice) => {
                return unfit(format!("its pool {} is not one of the pools asked for", pool.name));
            }
            Ok(_) => {}
        }
        if let Some(block) = self.block_around(address) {
            return match usable(block, address, now) {
                Ok(assignment) => Outcome::Address(assignment),
                Err((kind, problem)) => refuse(kind, problem),
            };
        }
        let Some(cidr) = pool.block_of(address) else { return unfit("it is in no block".to_owned()) };
        if let Some((block, node)) = view.foreign.owner_of(address) {
            if may_borrow(view) && pool.has_block(&block) && !self.is_avoided(&Cidr::host(address), now) {
                let (pool, owner) = (pool.name.clone(), node.clone());
                return Outcome::Borrow(BlockBorrow { pool, block, owner, address: Some(address) });
            }
            let kind = RefusalKind::OtherNode { address, block, node: node.clone() };
            let why = if !may_borrow(view) {
                " and borrowing is off (strictAffinity or autoAllocateBlocks)"
            } else {
                ", which has refused it"
            };
            return refuse(kind, format!("its block {block} belongs to node {node}{why}"));
        }
        if view.foreign.overlaps(&cidr) || self.overlapping_block(&cidr).is_some() {
            return unfit(format!("its block {cidr} overlaps a block of another size"));
        }
        if !view.settings.auto_allocate_blocks {
            return unfit(format!("its block {cidr} belongs to nobody, and autoAllocateBlocks is false"));
        }
        if self.is_at_limit(view, family) {
            let limit = view.settings.max_blocks_per_node.unwrap_or_default();
            return unfit(format!(
                "its block {cidr} belongs to nobody, and this node owns maxBlocksPerNode ({limit}) already"
            ));
        }
        Outcome::Claim(BlockClaim { pool: pool.name.clone(), cidr, alternatives: Vec::new() })
    }
}

/// Whether the settings let this node borrow at all.
fn may_borrow(view: &ClusterView<'_>) -> bool {
    view.settings.auto_allocate_blocks && !view.settings.strict_affinity
}

/// Whether a block of this node is an address borrowed from another node's.
pub(crate) fn is_borrowed(view: &ClusterView<'_>, block: &Block) -> bool {
    is_host(&block.cidr()) && view.foreign.overlaps(&block.cidr())
}

fn is_host(cidr: &Cidr) -> bool {
    cidr.size() == 1
}

fn is_among(pool: &Pool, choice: &PoolChoice<'_>) -> bool {
    choice.eligible.iter().any(|other| other.name == pool.name)
}

/// Whether a named address of an own block can be handed out.
fn usable(block: &Block, address: IpAddr, now: BootTime) -> Result<Assignment, (RefusalKind, String)> {
    match block.state(address, now) {
        Some(OrdinalState::Used(holder)) => {
            let kind = RefusalKind::AddressHeld { address, holder: holder.clone() };
            Err((kind, format!("it is held by {holder}")))
        }
        Some(OrdinalState::Lent(borrower)) => {
            let problem = format!("it is lent to node {borrower}");
            Err((RefusalKind::OtherNode { address, block: block.cidr(), node: borrower.clone() }, problem))
        }
        Some(OrdinalState::Cooling { until }) => {
            let left_ms = until.as_millis().saturating_sub(now.as_millis());
            let problem = format!("it was freed a short while ago and cools for another {left_ms} ms");
            Err((RefusalKind::AddressNotYet { address }, problem))
        }
        Some(OrdinalState::Free) if block.is_serving() => {
            Ok(Assignment { pool: block.pool().clone(), block: block.cidr(), address })
        }
        Some(OrdinalState::Free) | None => {
            let problem = format!("the ownership of its block {} is being settled", block.cidr());
            Err((RefusalKind::AddressNotYet { address }, problem))
        }
    }
}

/// Whether a refusal of one family lets the request go on with the other.
fn is_forgiven(want: Want, kind: &RefusalKind) -> bool {
    match want {
        Want::Required | Want::No => false,
        Want::IfPossible => matches!(kind, RefusalKind::NoPool { .. } | RefusalKind::Exhausted { .. }),
        // A pool that only waits for its admission will be eligible: a workload that went on without it would
        // lack the family for as long as it lives.
        Want::AsPoolsExist => matches!(kind, RefusalKind::NoPool { pending: false }),
    }
}

fn nothing_asked(handle: &Handle) -> Refusal {
    let message = format!("{handle} asks for neither an IPv4 nor an IPv6 address");
    Refusal::new(RefusalKind::NothingAsked, message, Vec::new())
}

/// The refusal when no pool of a family could give an address.
fn refuse_all(
    handle: &Handle,
    family: Family,
    wanted: &FamilyRequest,
    tried: &[&Pool],
    choice: &PoolChoice<'_>,
) -> Refusal {
    let details: Vec<String> = choice.passed_over.iter().map(ToString::to_string).collect();
    if tried.is_empty() {
        let pending = choice.has_pending();
        let problem = match (pending, wanted.pools.is_some()) {
            (true, _) => "the only fitting pool is not admitted yet".to_owned(),
            (false, true) => "an empty list of pools was asked for".to_owned(),
            (false, false) if details.is_empty() => format!("there is no {family} pool"),
            (false, false) => "no pool is eligible".to_owned(),
        };
        let message = format!("no {family} address for {handle}: {problem}");
        return Refusal::new(RefusalKind::NoPool { pending }, message, details);
    }
    let names: Vec<String> = tried.iter().map(|pool| format!("{} ({})", pool.name, pool.cidr)).collect();
    let names = names.join(", ");
    let problem = choice
        .passed_over
        .iter()
        .find_map(|passed| match &passed.reason {
            PassedReason::NoClaims(_) => {
                Some(format!("no owned block has room and autoAllocateBlocks is false: {names}"))
            }
            PassedReason::AtLimit { limit, .. } => Some(format!(
                "no owned block has room and this node owns maxBlocksPerNode ({limit}): {names}"
            )),
            PassedReason::Strict(_) => {
                Some(format!("pool exhausted on this node and strictAffinity forbids borrowing: {names}"))
            }
            _ => None,
        })
        .unwrap_or_else(|| format!("pool exhausted: {names}"));
    let pools = tried.iter().map(|pool| pool.name.clone()).collect();
    Refusal::new(
        RefusalKind::Exhausted { pools },
        format!("no {family} address for {handle}: {problem}"),
        details,
    )
}
