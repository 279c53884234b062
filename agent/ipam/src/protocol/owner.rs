//! What an owner does with a block that is its own: confirm it, answer requests for loans, hand it over, release it.

use model::{BootTime, Cidr};

use super::attend::is_admitted;
use super::object::{BlockObject, Loan, LoanRefusal, LoanState, Seen, Write};
use super::{BlockDecision, Fact, Keeper, Lent, Live, Phase, Tenure};
use crate::allocator::{ClusterView, is_borrowed};
use crate::block::{Block, OrdinalState};
use crate::mutant::{self, Mutant};

impl Keeper {
    /// A block whose object carries our UID and a nonce of ours.
    ///
    /// 1. Handed over to us by an owner who had no use for it: ours.
    /// 2. Still being claimed: ours if its pool is still admitted, given back if not (rule 3).
    /// 3. Being released: the write is made again, unless the object has changed since, which voids it (rule 1).
    /// 4. Loans: ended ones are taken back, requests answered, an empty block handed over whole.
    /// 5. Not needed any more: released.
    pub(super) fn decide_own(
        &self,
        view: &ClusterView<'_>,
        seen: &Seen,
        live: &Live<'_>,
        now: BootTime,
    ) -> BlockDecision {
        let block = seen.object.cidr;
        // Known by the nonce of a request: handed over, even if a claim of our own is still on record that another was
        // quicker than.
        let tenure = self.tenures.get(&block).filter(|tenure| tenure.nonce == seen.object.nonce);
        let Some(tenure) = tenure else { return handed_over(seen) };
        match tenure.phase {
            Phase::Claiming => self.decide_claimed(seen, tenure, live),
            Phase::Releasing { base } if base == seen.revision => {
                if mutant::on(Mutant::ReleaseSettledByRead) {
                    let before = vec![Fact::Resumed { block }, Fact::Confirmed { block }];
                    return BlockDecision { before, ..BlockDecision::default() };
                }
                BlockDecision { after: vec![Fact::Dropped { block }], ..BlockDecision::default() }
                    .and_write(self.ending_write(view, seen, now))
            }
            Phase::Releasing { .. } => {
                self.decide_owned(view, seen, live, now, vec![Fact::Resumed { block }])
            }
            Phase::Owned => self.decide_owned(view, seen, live, now, Vec::new()),
        }
    }

    fn decide_claimed(&self, seen: &Seen, tenure: &Tenure, live: &Live<'_>) -> BlockDecision {
        let block = seen.object.cidr;
        let loans: Vec<Fact> = seen.object.loans.iter().filter_map(|loan| lent_fact(block, loan)).collect();
        let mut decision = BlockDecision::default();
        if is_admitted(tenure, live) || !loans.is_empty() || mutant::on(Mutant::ClaimWithoutReread) {
            decision.before.extend([Fact::Owned { block }, Fact::Confirmed { block }]);
            decision.before.extend(loans);
            return decision;
        }
        if live.registry.is_none() {
            return decision;
        }
        decision.before.extend([Fact::Owned { block }, Fact::Releasing { block, base: seen.revision }]);
        decision.after.push(Fact::Dropped { block });
        decision.and_write(Write::Delete { cidr: block, expected: seen.revision })
    }

    fn decide_owned(
        &self,
        view: &ClusterView<'_>,
        seen: &Seen,
        live: &Live<'_>,
        now: BootTime,
        before: Vec<Fact>,
    ) -> BlockDecision {
        let cidr = seen.object.cidr;
        let (Some(tenure), Some(block)) = (self.tenures.get(&cidr), self.ipam.block(&cidr)) else {
            return BlockDecision::default();
        };
        let mut decision = BlockDecision { before, ..BlockDecision::default() };
        if !self.volatile.confirmed.contains(&cidr) {
            decision.before.push(Fact::Confirmed { block: cidr });
        }
        let mut work = Loans { view, now, cidr, block: block.clone(), object: seen.object.clone(), decision };
        work.take_back(tenure);
        work.drop_over(tenure, live, self);
        work.note_granted(tenure);
        if self.welcomed(view, seen, now).is_some() {
            work.decision.before.push(Fact::Releasing { block: cidr, base: seen.revision });
            work.decision.after.push(Fact::Dropped { block: cidr });
            return work.decision.and_write(self.ending_write(view, seen, now));
        }
        work.answer_requests(tenure, self.is_draining(view, block));
        let Loans { object, mut decision, block, .. } = work;
        if object != seen.object {
            return decision.and_write(Write::Swap { expected: seen.revision, object });
        }
        if self.is_surplus(view, &block, now) {
            decision.before.push(Fact::Releasing { block: cidr, base: seen.revision });
            decision.after.push(Fact::Dropped { block: cidr });
            return decision.and_write(Write::Delete { cidr, expected: seen.revision });
        }
        decision
    }

    /// The write that ends our ownership of an empty block: to whoever welcomes it whole, or its deletion.
    fn ending_write(&self, view: &ClusterView<'_>, seen: &Seen, now: BootTime) -> Write {
        let Some(welcomed) = self.welcomed(view, seen, now) else {
            return Write::Delete { cidr: seen.object.cidr, expected: seen.revision };
        };
        let mut object =
            BlockObject { owner: welcomed.borrower.clone(), nonce: welcomed.nonce, ..seen.object.clone() };
        object.loans.retain(|loan| loan.nonce != welcomed.nonce);
        Write::Swap { expected: seen.revision, object }
    }

    /// The first request of a node that has no block of the pool, if this one is empty: even an owner's last block is
    /// handed over then.
    fn welcomed<'a>(&self, view: &ClusterView<'_>, seen: &'a Seen, now: BootTime) -> Option<&'a Loan> {
        let block = self.ipam.block(&seen.object.cidr)?;
        let granted = |loan: &Loan| matches!(loan.state, LoanState::Granted { .. });
        let lends = !view.settings.strict_affinity && !self.is_draining(view, block);
        if !lends || !block.is_idle(now) || seen.object.loans.iter().any(granted) {
            return None;
        }
        seen.object.loans.iter().find(|loan| {
            let whole = LoanState::Requested { address: None, whole_block_welcome: true };
            loan.state == whole && loan.borrower.name != self.me.name
        })
    }

    /// Whether this block serves nothing new for good: its pool is gone, being deleted, disabled, or does not select
    /// this node any more.
    pub(super) fn is_draining(&self, view: &ClusterView<'_>, block: &Block) -> bool {
        view.pools.by_name(block.pool()).is_none_or(|pool| {
            pool.terminating
                || pool.disabled
                || !pool.node_selector.matches(view.node_labels)
                || !pool.cidr.covers(&block.cidr())
        })
    }

    /// Whether an own block can go: nothing of it is in use, and either it drains, or it has been idle for the grace,
    /// is not this node's last of the pool, and the others keep room enough.
    pub(super) fn is_surplus(&self, view: &ClusterView<'_>, block: &Block, now: BootTime) -> bool {
        let idle = if mutant::on(Mutant::ReleaseWithLoan) {
            block.used_count() == 0 && block.cooling().all(|(_, until)| until <= now)
        } else {
            block.is_idle(now) && self.tenures.get(&block.cidr()).is_none_or(|tenure| tenure.lent.is_empty())
        };
        if !idle {
            return false;
        }
        if self.is_draining(view, block) {
            return true;
        }
        let long_enough = self
            .volatile
            .idle_since
            .get(&block.cidr())
            .is_some_and(|&since| since.after(view.settings.graces.release_after) <= now);
        let left_free: u128 = self
            .ipam
            .blocks_of(block.pool())
            .filter(|other| other.cidr() != block.cidr() && !is_borrowed(view, other) && other.is_serving())
            .map(|other| other.usage(view.reservations, now).free)
            .sum();
        // Twice what makes a node claim ahead, so that the two do not alternate.
        long_enough && left_free >= 2 * low_watermark(block)
    }
}

/// How many free addresses of a pool make a node claim its next block ahead of need: a quarter of a block.
pub(super) fn low_watermark(block: &Block) -> u128 {
    (block.cidr().size() / 4).max(1)
}

/// A block that its owner handed over when we asked for an address.
fn handed_over(seen: &Seen) -> BlockDecision {
    let BlockObject { cidr: block, pool, pool_uid, nonce, .. } = seen.object.clone();
    let mut before = vec![
        Fact::Claiming { block, pool, pool_uid, nonce },
        Fact::Owned { block },
        Fact::Confirmed { block },
    ];
    before.extend(seen.object.loans.iter().filter_map(|loan| lent_fact(block, loan)));
    BlockDecision { before, ..BlockDecision::default() }
}

/// The fact behind a loan that was granted before the block was ours.
fn lent_fact(block: Cidr, loan: &Loan) -> Option<Fact> {
    let LoanState::Granted { address } = loan.state else { return None };
    Some(Fact::Lent { block, loan: loan.nonce, address, borrower: loan.borrower.clone() })
}

/// The loans of one block, being seen to.
struct Loans<'a> {
    view: &'a ClusterView<'a>,
    now: BootTime,
    cidr: Cidr,
    /// As it will be.
    block: Block,
    /// As it will be.
    object: BlockObject,
    decision: BlockDecision,
}

impl Loans<'_> {
    /// What is no longer in the object was given back or withdrawn. A grant of ours that is still under way expects
    /// a state in which the request was there, so it is void.
    fn take_back(&mut self, tenure: &Tenure) {
        for (&loan, lent) in &tenure.lent {
            if self.object.loan(loan).is_none() {
                let ended = self.ended(loan);
                self.decision.before.push(ended);
                self.end(lent);
            }
        }
    }

    /// Loans of borrowers that are gone, and of our own from before the block was ours.
    fn drop_over(&mut self, tenure: &Tenure, live: &Live<'_>, keeper: &Keeper) {
        let over = |loan: &Loan| live.gone.contains(&loan.borrower) || loan.borrower == keeper.me;
        let ended: Vec<_> =
            self.object.loans.iter().filter(|loan| over(loan)).map(|loan| loan.nonce).collect();
        self.object.loans.retain(|loan| !over(loan));
        for loan in ended.into_iter().filter(|loan| tenure.lent.contains_key(loan)) {
            let fact = self.ended(loan);
            self.decision.after.push(fact);
        }
    }

    /// Loans that our journal does not know: granted before the block was ours.
    fn note_granted(&mut self, tenure: &Tenure) {
        for loan in &self.object.loans {
            if tenure.lent.contains_key(&loan.nonce) {
                continue;
            }
            if let Some(fact) = lent_fact(self.cidr, loan) {
                self.decision.before.push(fact);
            }
            if let LoanState::Granted { address } = loan.state {
                self.block.lend(address, &loan.borrower.name);
            }
        }
    }

    fn answer_requests(&mut self, tenure: &Tenure, draining: bool) {
        let mut loans = std::mem::take(&mut self.object.loans);
        for loan in &mut loans {
            if let LoanState::Requested { address, .. } = loan.state {
                loan.state = match tenure.lent.get(&loan.nonce) {
                    // Granted before, by a write whose answer we never saw: the same again.
                    Some(lent) => LoanState::Granted { address: lent.address },
                    None => self.answer(loan, address, draining),
                };
            }
        }
        self.object.loans = loans;
    }

    fn answer(&mut self, loan: &Loan, asked: Option<std::net::IpAddr>, draining: bool) -> LoanState {
        match self.choose(asked, draining) {
            Err(reason) => LoanState::Refused { reason },
            Ok(address) => {
                if !mutant::on(Mutant::GrantTwice) {
                    self.block.lend(address, &loan.borrower.name);
                }
                let (block, borrower) = (self.cidr, loan.borrower.clone());
                let lent = Fact::Lent { block, loan: loan.nonce, address, borrower };
                if mutant::on(Mutant::GrantBeforeJournal) {
                    self.decision.after.push(lent);
                } else {
                    self.decision.before.push(lent);
                }
                LoanState::Granted { address }
            }
        }
    }

    /// An address to lend.
    fn choose(
        &self,
        asked: Option<std::net::IpAddr>,
        draining: bool,
    ) -> Result<std::net::IpAddr, LoanRefusal> {
        if self.view.settings.strict_affinity {
            return Err(LoanRefusal::Strict);
        }
        if draining {
            return Err(LoanRefusal::Draining);
        }
        let Some(address) = asked else {
            return self.block.peek_any(self.view.reservations, self.now).ok_or(LoanRefusal::Full);
        };
        match self.block.state(address, self.now) {
            Some(OrdinalState::Free) => Ok(address),
            _ => Err(LoanRefusal::Taken),
        }
    }

    fn ended(&self, loan: super::Nonce) -> Fact {
        let cooldown =
            self.view.pools.by_name(self.block.pool()).map(|pool| pool.cooldown).unwrap_or_default();
        Fact::LoanEnded { block: self.cidr, loan, at: self.now, cooling_until: self.now.after(cooldown) }
    }

    fn end(&mut self, lent: &Lent) {
        let cooldown =
            self.view.pools.by_name(self.block.pool()).map(|pool| pool.cooldown).unwrap_or_default();
        self.block.end_loan(lent.address, self.now, self.now.after(cooldown));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::{Labels, NodeName};

    use super::*;
    use crate::allocator::Settings;
    use crate::claim::ForeignBlocks;
    use crate::pool::PoolTable;
    use crate::protocol::{NodeId, Nonce, ObjectRevision};
    use crate::reservation::Reservations;

    #[test]
    fn a_block_handed_over_while_an_own_claim_is_on_record_is_ours_by_the_nonce_of_its_object() {
        let node: NodeName = "node-1".parse().unwrap();
        let me = NodeId { name: node.clone(), uid: "u1".to_owned() };
        let (block, pool): (Cidr, model::PoolName) = ("10.0.0.0/30".parse().unwrap(), "a".parse().unwrap());
        let (claim, loan, pool_uid) = (Nonce(1), Nonce(2), "p".to_owned());
        let mut keeper = Keeper::new(me.clone());
        let facts = [
            Fact::Claiming { block, pool: pool.clone(), pool_uid: pool_uid.clone(), nonce: claim },
            Fact::Asking { block, pool: pool.clone(), loan, address: None },
        ];
        for fact in &facts {
            keeper.apply(fact).unwrap();
        }
        let object = BlockObject { cidr: block, pool, pool_uid, owner: me, nonce: loan, loans: Vec::new() };
        let seen = Seen { revision: ObjectRevision(7), object };
        let (pools, reservations, foreign) =
            (PoolTable::default(), Reservations::default(), ForeignBlocks::default());
        let (node_labels, settings, gone) = (Labels::new(), Settings::default(), BTreeSet::new());
        let view = ClusterView {
            pools: &pools,
            reservations: &reservations,
            foreign: &foreign,
            node: &node,
            node_labels: &node_labels,
            settings: &settings,
        };
        let registry = crate::registry::Registry::default();
        let live = Live { block: Some(&seen), registry: Some(&registry), gone: &gone };
        let decision = keeper.decide_block(&view, &block, &live, BootTime::default(), Nonce(3));
        assert_eq!(decision.write, None);
        for fact in &decision.before {
            keeper.apply(fact).unwrap();
        }
        let tenure = keeper.tenure(&block).unwrap();
        assert_eq!((tenure.nonce, tenure.phase), (loan, Phase::Owned));
    }
}
