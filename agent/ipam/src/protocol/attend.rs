//! One look at one block: what its object says, what we remember of it, and what is to be done.

use std::collections::BTreeSet;

use model::{BootTime, Cidr};

use super::object::{BlockObject, Loan, LoanState, NodeId, Nonce, Seen, Write, WriteOutcome};
use super::{Fact, Keeper, Phase, Tenure};
use crate::allocator::ClusterView;
use crate::mutant::{self, Mutant};
use crate::registry::Registry;

/// What was read live, in this order, for one look.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// The block's object; `None`: there is none.
    pub block: Option<&'a Seen>,
    /// The registry, read after the block (rule 3); `None` when the [`Attention`](super::Attention) did not ask
    /// for it.
    pub registry: Option<&'a Registry>,
    /// Those of the nodes in question that have no Node object of that UID and no pod bound to them.
    pub gone: &'a BTreeSet<NodeId>,
}

/// What is to be done about a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockDecision {
    /// Facts to journal and apply before the write.
    pub before: Vec<Fact>,
    /// The write.
    pub write: Option<Write>,
    /// Facts that hold once the write was made.
    pub after: Vec<Fact>,
}

impl BlockDecision {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.write.is_none()
    }

    /// What is known after the write was answered, or was not: only a write that was made changes anything. One
    /// without an answer is settled by the next look's compare-and-swap (rule 1), never by itself.
    #[must_use]
    pub fn settle(&self, outcome: WriteOutcome) -> Vec<Fact> {
        match outcome {
            WriteOutcome::Made => self.after.clone(),
            WriteOutcome::Conflict => Vec::new(),
            WriteOutcome::Unanswered => self.settle_unanswered(),
        }
    }

    fn settle_unanswered(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        if mutant::on(Mutant::UnansweredClaimWins)
            && let Some(Write::Create(object)) = &self.write
        {
            facts.extend([Fact::Owned { block: object.cidr }, Fact::Confirmed { block: object.cidr }]);
        }
        if mutant::on(Mutant::UnansweredGrantVoid) {
            facts.extend(self.before.iter().filter_map(|fact| match fact {
                Fact::Lent { block, loan, .. } => {
                    let (at, cooling_until) = (BootTime::default(), BootTime::default());
                    Some(Fact::LoanEnded { block: *block, loan: *loan, at, cooling_until })
                }
                _ => None,
            }));
        }
        facts
    }

    pub(super) fn and_write(mut self, write: Write) -> Self {
        self.write = Some(write);
        self
    }
}

impl Keeper {
    /// Decides what is to be done about one block, from what was just read live.
    ///
    /// 1. No object: what we had of it is over, or is created (again) if anything of it is in use.
    /// 2. Ours by UID and nonce: see the module `owner`.
    /// 3. Ours by the nonce, under an earlier UID of this node: re-homed (rule 2).
    /// 4. Ours by UID, with a nonce we do not know: what an earlier boot of this machine owned. Adopted with a nonce
    ///    of its own, which voids whatever that boot may have left under way.
    /// 5. Another's: what we had of it is over; our loans of it are seen to; if its owner is gone, it is reclaimed.
    ///
    /// `fresh` is a nonce that nobody has seen; it is used or thrown away.
    #[must_use]
    pub fn decide_block(
        &self,
        view: &ClusterView<'_>,
        cidr: &Cidr,
        live: &Live<'_>,
        now: BootTime,
        fresh: Nonce,
    ) -> BlockDecision {
        let Some(seen) = live.block else { return self.decide_absent(view, cidr, live, now) };
        let object = &seen.object;
        let same_uid = object.owner == self.me;
        let known = self.knows_claim(cidr, object.nonce);
        if same_uid && known {
            self.decide_own(view, seen, live, now)
        } else if known && object.owner.name == self.me.name {
            let object = BlockObject { owner: self.me.clone(), ..object.clone() };
            BlockDecision::default().and_write(Write::Swap { expected: seen.revision, object })
        } else if same_uid || self.inherits(object) {
            self.decide_adoption(seen, fresh)
        } else {
            self.decide_foreign(view, seen, live, now, fresh)
        }
    }

    /// Whether our journal holds the nonce of a claim: our own, or of a request that was answered with the whole
    /// block.
    fn knows_claim(&self, cidr: &Cidr, nonce: Nonce) -> bool {
        self.tenures.get(cidr).is_some_and(|tenure| tenure.nonce == nonce)
            || self.borrows.get(&nonce).is_some_and(|borrow| borrow.block == *cidr)
    }

    /// Whether a loan is this node's, under whatever UID it was asked for in this boot.
    pub(super) fn is_own_loan(&self, loan: &Loan) -> bool {
        loan.borrower == self.me || self.borrows.contains_key(&loan.nonce)
    }

    /// Never, but for two mutants: a block of another life of this node is not ours.
    fn inherits(&self, object: &BlockObject) -> bool {
        object.owner.name == self.me.name
            && (mutant::on(Mutant::InheritByName)
                || mutant::on(Mutant::RehomeWithoutNonce) && self.tenures.contains_key(&object.cidr))
    }

    fn decide_absent(
        &self,
        view: &ClusterView<'_>,
        cidr: &Cidr,
        live: &Live<'_>,
        now: BootTime,
    ) -> BlockDecision {
        let mut decision = BlockDecision::default();
        for (loan, borrow) in self.borrows().filter(|(_, borrow)| borrow.block == *cidr) {
            decision.before.push(match borrow.address() {
                Some(_) => Fact::BorrowLost { loan },
                None => Fact::BorrowEnded { loan },
            });
        }
        let Some(tenure) = self.tenures.get(cidr) else { return decision };
        if tenure.phase == Phase::Claiming && live.registry.is_none() {
            return decision;
        }
        let in_use = self.ipam.block(cidr).is_some_and(|block| !block.is_idle(now));
        let wanted = match tenure.phase {
            Phase::Claiming => is_admitted(tenure, live) || mutant::on(Mutant::ClaimWithoutReread),
            // Somebody has deleted it under our workloads: it is created again.
            Phase::Owned => in_use,
            Phase::Releasing { .. } => false,
        };
        if !wanted {
            decision.before.push(Fact::Dropped { block: *cidr });
            return decision;
        }
        if view.foreign.overlaps(cidr) && tenure.phase == Phase::Claiming {
            // A block of another size lies there, and its pool was gone before ours came.
            let until = now.after(view.settings.graces.avoid_for);
            decision.before.extend([Fact::Dropped { block: *cidr }, Fact::Avoid { block: *cidr, until }]);
            return decision;
        }
        decision.and_write(Write::Create(self.object_of(cidr, tenure)))
    }

    /// The object of a block as our journal knows it.
    fn object_of(&self, cidr: &Cidr, tenure: &Tenure) -> BlockObject {
        let granted = |(nonce, lent): (&Nonce, &super::Lent)| Loan {
            borrower: lent.borrower.clone(),
            nonce: *nonce,
            state: LoanState::Granted { address: lent.address },
        };
        BlockObject {
            cidr: *cidr,
            pool: tenure.pool.clone(),
            pool_uid: tenure.pool_uid.clone(),
            owner: self.me.clone(),
            nonce: tenure.nonce,
            loans: tenure.lent.iter().map(granted).collect(),
        }
    }

    fn decide_adoption(&self, seen: &Seen, fresh: Nonce) -> BlockDecision {
        let block = seen.object.cidr;
        let nonce = self.tenures.get(&block).map_or(fresh, |tenure| tenure.nonce);
        let mut decision = BlockDecision::default();
        if !self.tenures.contains_key(&block) {
            let BlockObject { pool, pool_uid, .. } = seen.object.clone();
            decision.before.push(Fact::Claiming { block, pool, pool_uid, nonce });
        }
        if mutant::on(Mutant::ServeFromList) {
            decision.before.extend([Fact::Owned { block }, Fact::Confirmed { block }]);
            return decision;
        }
        let object = BlockObject { owner: self.me.clone(), nonce, ..seen.object.clone() };
        decision.and_write(Write::Swap { expected: seen.revision, object })
    }

    fn decide_foreign(
        &self,
        view: &ClusterView<'_>,
        seen: &Seen,
        live: &Live<'_>,
        now: BootTime,
        fresh: Nonce,
    ) -> BlockDecision {
        let block = seen.object.cidr;
        if live.gone.contains(&seen.object.owner) {
            return self.decide_reclaim(seen, live, fresh);
        }
        let mut decision = self.decide_borrowed(view, seen, now);
        match self.tenures.get(&block).map(|tenure| tenure.phase) {
            None => {}
            Some(Phase::Owned) => decision.before.push(Fact::Lost { block }),
            Some(Phase::Releasing { .. }) => decision.before.push(Fact::Dropped { block }),
            Some(Phase::Claiming) => {
                let until = now.after(view.settings.graces.avoid_for);
                decision.before.extend([Fact::Dropped { block }, Fact::Avoid { block, until }]);
            }
        }
        decision
    }

    /// The owner is gone: the block is deleted, or taken over with the loans that are still somebody's. Our own ones
    /// stay in its object until they have melted into the block.
    fn decide_reclaim(&self, seen: &Seen, live: &Live<'_>, fresh: Nonce) -> BlockDecision {
        let BlockObject { cidr: block, pool, pool_uid, loans, .. } = seen.object.clone();
        let lives_on = |loan: &Loan| {
            matches!(loan.state, LoanState::Granted { .. }) && !live.gone.contains(&loan.borrower)
        };
        let kept: Vec<Loan> = loans.into_iter().filter(lives_on).collect();
        if kept.is_empty() {
            return BlockDecision::default()
                .and_write(Write::Delete { cidr: block, expected: seen.revision });
        }
        let mut decision = BlockDecision::default();
        let nonce = self.tenures.get(&block).map_or(fresh, |tenure| tenure.nonce);
        if !self.tenures.contains_key(&block) {
            let (pool, pool_uid) = (pool.clone(), pool_uid.clone());
            decision.before.push(Fact::Claiming { block, pool, pool_uid, nonce });
        }
        let object = BlockObject { cidr: block, pool, pool_uid, owner: self.me.clone(), nonce, loans: kept };
        decision.and_write(Write::Swap { expected: seen.revision, object })
    }
}

/// Whether the pool of a claim is still admitted, by the registry that was read live.
pub(super) fn is_admitted(tenure: &Tenure, live: &Live<'_>) -> bool {
    live.registry
        .and_then(|registry| registry.entry(&tenure.pool))
        .is_some_and(|entry| entry.uid == tenure.pool_uid && !entry.terminating)
}
