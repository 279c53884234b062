//! What a waiting workload needs next: its addresses, a wait, or a step of the protocol that must come first.

use std::net::IpAddr;

use model::{BootTime, Cidr, Handle};

use super::object::Nonce;
use super::{BorrowPhase, Fact, Keeper};
use crate::allocator::{Assignment, BlockBorrow, BlockClaim, ClusterView, Decision, InnerDecision};
use crate::refusal::Refusal;
use crate::request::AssignRequest;

/// What to do about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Hand these out; see [`Decision::Assign`].
    Assign(Vec<Assignment>),
    /// The handle holds these already.
    Held(Vec<Assignment>),
    /// Apply and journal these facts, look at the block, and ask again.
    Start {
        /// The facts.
        facts: Vec<Fact>,
        /// The block.
        block: Cidr,
    },
    /// A claim or loan is under way already: look at the block, and ask again when something has changed.
    Wait {
        /// The block.
        block: Cidr,
    },
}

/// What to do about the node's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InnerNext {
    /// Nothing: none is needed.
    NotNeeded,
    /// Nothing: it is held.
    Keep(IpAddr),
    /// Free it and ask again.
    Return(IpAddr),
    /// As for a request.
    Step(Next),
    /// Nothing can be done yet: pools that may give one are not ready to.
    NotYet,
    /// Nothing can be done: no pool may give one.
    NoPool,
    /// Nothing can be done now: there is none left.
    Full,
}

impl Keeper {
    /// Decides about the node's own address. Changes nothing. `fresh` as in [`Keeper::decide_next`].
    #[must_use]
    pub fn decide_next_inner(
        &self,
        view: &ClusterView<'_>,
        holder: &Handle,
        now: BootTime,
        fresh: Nonce,
    ) -> InnerNext {
        match self.ipam.decide_inner(view, holder, now) {
            InnerDecision::NotNeeded => InnerNext::NotNeeded,
            InnerDecision::Keep(address) => InnerNext::Keep(address),
            InnerDecision::Return(address) => InnerNext::Return(address),
            InnerDecision::Assign(assignment) => InnerNext::Step(Next::Assign(vec![assignment])),
            InnerDecision::Claim(claim) => InnerNext::Step(self.next_of_claim(view, &claim, fresh)),
            InnerDecision::Borrow(borrow) => InnerNext::Step(self.next_of_borrow(holder, &borrow, fresh)),
            InnerDecision::NotYet => InnerNext::NotYet,
            InnerDecision::NoPool => InnerNext::NoPool,
            InnerDecision::Full => InnerNext::Full,
        }
    }

    /// Decides a request. Changes nothing.
    ///
    /// `fresh` is a nonce that nobody has seen; it is used or thrown away.
    ///
    /// # Errors
    /// As [`NodeIpam::decide_assign`](crate::NodeIpam::decide_assign).
    pub fn decide_next(
        &self,
        view: &ClusterView<'_>,
        request: &AssignRequest,
        now: BootTime,
        fresh: Nonce,
    ) -> Result<Next, Refusal> {
        Ok(match self.ipam.decide_assign(view, request, now)? {
            Decision::Assign(assignments) => Next::Assign(assignments),
            Decision::Held(assignments) => Next::Held(assignments),
            Decision::Claim(claim) => self.next_of_claim(view, &claim, fresh),
            Decision::Borrow(borrow) => self.next_of_borrow(&request.handle, &borrow, fresh),
        })
    }

    fn next_of_claim(&self, view: &ClusterView<'_>, claim: &BlockClaim, fresh: Nonce) -> Next {
        // A named address wants exactly its block; anybody else waits for whatever block of the pool comes.
        let exactly = claim.alternatives.is_empty();
        let moving = self.tenures.iter().find(|(block, tenure)| {
            **block == claim.cidr || !exactly && tenure.pool == claim.pool && self.is_moving_block(block)
        });
        match (moving, self.decide_claim(view, claim, fresh)) {
            (None, Some(fact)) => Next::Start { facts: vec![fact], block: claim.cidr },
            (Some((block, _)), _) => Next::Wait { block: *block },
            (None, None) => Next::Wait { block: claim.cidr },
        }
    }

    fn next_of_borrow(&self, holder: &Handle, borrow: &BlockBorrow, fresh: Nonce) -> Next {
        let waiting = self.borrows().find(|(nonce, other)| {
            other.block == borrow.block
                && matches!(other.phase, BorrowPhase::Asking { address } if address == borrow.address)
                && self.volatile.wanted.get(nonce) == Some(holder)
        });
        // A block that we have ourselves, whatever an old copy says of it, is settled first.
        let ours =
            self.tenures.get(&borrow.block).is_some_and(|tenure| tenure.phase != super::Phase::Claiming);
        if waiting.is_some() || ours {
            return Next::Wait { block: borrow.block };
        }
        let asking = Fact::Asking {
            block: borrow.block,
            pool: borrow.pool.clone(),
            loan: fresh,
            address: borrow.address,
        };
        let wanted = Fact::Wanted { loan: fresh, handle: holder.clone() };
        Next::Start { facts: vec![asking, wanted], block: borrow.block }
    }

    fn is_moving_block(&self, block: &Cidr) -> bool {
        self.tenures.get(block).is_some_and(|tenure| {
            tenure.phase == super::Phase::Claiming
                || tenure.phase == super::Phase::Owned && !self.may_serve(block)
        })
    }
}
