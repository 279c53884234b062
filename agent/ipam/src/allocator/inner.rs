//! The node's own address out of a pool: what the node itself sends to pods of encapsulated pools leaves with it, for
//! at the other end only sources of the sender's blocks and loans are let in.

use std::net::IpAddr;

use model::{BootTime, Family, Handle};

use super::assign::Outcome;
use super::{Assignment, BlockBorrow, BlockClaim, ClusterView, NodeIpam};
use crate::pool::Pool;

/// What to do about the node's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InnerDecision {
    /// No pool may be encapsulated, and nothing is held.
    NotNeeded,
    /// Held, and as it should be.
    Keep(IpAddr),
    /// Held, and not needed any more or not to be had from its pool any more: free it, then decide again.
    Return(IpAddr),
    /// Take this one.
    Assign(Assignment),
    /// Claim a block, then decide again.
    Claim(BlockClaim),
    /// Ask another node for an address, then decide again.
    Borrow(BlockBorrow),
    /// Pools that may give one are not ready to.
    NotYet,
    /// No pool may give one.
    NoPool,
    /// Pools may, and have none left.
    Full,
}

impl NodeIpam {
    /// Decides about the node's own address. Changes nothing.
    ///
    /// 1. It is needed while any IPv4 pool may be encapsulated; disabled and terminating ones count, for pods of them
    ///    live on.
    /// 2. It is of a pool whose `allowedUses` has `Tunnel`, which serves this node. Whoever takes `Tunnel` out of a pool
    ///    says by it that a firewall trusts the pool's addresses to be pods'.
    /// 3. Pools that are for nothing else come first, then those whose pods leave under the node's address anyway, so
    ///    that no firewall knows them, then the others; among equals in the order pools are tried.
    /// 4. An address that is held stays, whatever pools come before its own by now.
    #[must_use]
    pub fn decide_inner(&self, view: &ClusterView<'_>, holder: &Handle, now: BootTime) -> InnerDecision {
        let needed = view.pools.of_family(Family::V4).any(|pool| pool.ipip_mode.may_encapsulate());
        let held = self.held_by(holder).into_iter().next();
        if let Some(held) = held {
            let stays = needed && view.pools.by_name(&held.pool).is_some_and(|pool| may_give(view, pool));
            return if stays {
                InnerDecision::Keep(held.address)
            } else {
                InnerDecision::Return(held.address)
            };
        }
        if !needed {
            return InnerDecision::NotNeeded;
        }
        let mut pools: Vec<&Pool> =
            view.pools.of_family(Family::V4).filter(|pool| may_give(view, pool)).collect();
        if pools.is_empty() {
            return InnerDecision::NoPool;
        }
        pools.retain(|pool| pool.tag.is_some());
        if pools.is_empty() {
            return InnerDecision::NotYet;
        }
        pools.sort_by_key(|pool| place(pool));
        match pools.iter().find_map(|pool| self.try_pool(view, pool, now)) {
            Some(Outcome::Address(assignment)) => return InnerDecision::Assign(assignment),
            Some(Outcome::Claim(claim)) => return InnerDecision::Claim(claim),
            Some(Outcome::Borrow(_) | Outcome::Refused(_)) | None => {}
        }
        let borrow = pools.iter().find_map(|pool| self.next_borrow(view, pool, now));
        borrow.map_or(InnerDecision::Full, InnerDecision::Borrow)
    }
}

/// Whether a pool may give a node its own address; whether it is ready to is another matter.
fn may_give(view: &ClusterView<'_>, pool: &Pool) -> bool {
    pool.allowed_uses.tunnel
        && !pool.disabled
        && !pool.terminating
        && pool.not_admitted.is_none()
        && pool.node_selector.matches(view.node_labels)
}

fn place(pool: &Pool) -> u8 {
    match (pool.allowed_uses.workload, pool.nat_outgoing) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => 2,
    }
}
