//! What a borrower does with its loans in another node's block: ask, take what was granted, give back, withdraw.
//!
//! A request is never just forgotten: it is withdrawn by compare-and-swap, and if the owner was quicker, the grant is
//! given back (rule 6). One that arrives after we had forgotten it after all is found by our name in the object, and
//! taken out again.

use model::{BootTime, Cidr};

use super::object::{BlockObject, Loan, LoanState, Nonce, Seen, Write};
use super::{BlockDecision, Borrow, BorrowPhase, Fact, Keeper};
use crate::allocator::ClusterView;
use crate::mutant::{self, Mutant};

impl Keeper {
    /// Our loans in a block of another node.
    pub(super) fn decide_borrowed(
        &self,
        view: &ClusterView<'_>,
        seen: &Seen,
        now: BootTime,
    ) -> BlockDecision {
        let cidr = seen.object.cidr;
        let mut decision = BlockDecision::default();
        let mut object = seen.object.clone();
        object.loans.clear();
        for loan in &seen.object.loans {
            object.loans.extend(self.decide_loan(view, cidr, loan, now, &mut decision));
        }
        for (nonce, borrow) in self.borrows().filter(|(_, borrow)| borrow.block == cidr) {
            if seen.object.loan(nonce).is_none() {
                object.loans.extend(self.decide_missing(nonce, borrow, &mut decision));
            }
        }
        if object == seen.object {
            return decision;
        }
        decision.and_write(Write::Swap { expected: seen.revision, object })
    }

    /// One loan of the object: as it stays there, or nothing.
    fn decide_loan(
        &self,
        view: &ClusterView<'_>,
        cidr: Cidr,
        loan: &Loan,
        now: BootTime,
        decision: &mut BlockDecision,
    ) -> Option<Loan> {
        let stays = Some(loan.clone());
        let nonce = loan.nonce;
        let Some(borrow) = self.borrows.get(&nonce).filter(|borrow| borrow.block == cidr) else {
            // Not ours at all, or ours from before a boot that ended whoever held it.
            let forgotten = loan.borrower == self.me && !mutant::on(Mutant::GiveUpSilently);
            return stays.filter(|_| !forgotten);
        };
        let rehomed = Some(Loan { borrower: self.me.clone(), ..loan.clone() });
        match (&borrow.phase, &loan.state) {
            (BorrowPhase::Asking { .. }, LoanState::Requested { .. }) if self.is_wanted(nonce) => rehomed,
            (BorrowPhase::Asking { .. }, LoanState::Granted { address }) if self.is_wanted(nonce) => {
                let block = Cidr::host(*address);
                decision
                    .before
                    .extend([Fact::Borrowed { loan: nonce, address: *address }, Fact::Confirmed { block }]);
                rehomed
            }
            (BorrowPhase::Asking { address }, LoanState::Refused { .. }) => {
                let block = address.map_or(cidr, Cidr::host);
                let until = now.after(view.settings.graces.avoid_for);
                decision.before.push(Fact::Avoid { block, until });
                decision.after.push(Fact::BorrowEnded { loan: nonce });
                None
            }
            (BorrowPhase::Asking { .. }, _) => self.end(nonce, decision, stays),
            (BorrowPhase::Holding { address }, LoanState::Granted { .. }) => {
                let block = Cidr::host(*address);
                if self.is_returnable(view, &block, now) {
                    return self.end(nonce, decision, stays);
                }
                if !self.volatile.confirmed.contains(&block) {
                    decision.before.push(Fact::Confirmed { block });
                }
                rehomed
            }
            (BorrowPhase::Holding { .. }, _) => {
                decision.before.push(Fact::BorrowLost { loan: nonce });
                None
            }
            (BorrowPhase::Returning { .. }, _) => {
                decision.after.push(Fact::BorrowEnded { loan: nonce });
                None
            }
        }
    }

    /// Takes a loan out of the object; from the journal's entry on, nothing of it is handed out.
    fn end(&self, loan: Nonce, decision: &mut BlockDecision, stays: Option<Loan>) -> Option<Loan> {
        if mutant::on(Mutant::GiveUpSilently) && !self.is_wanted(loan) {
            decision.before.push(Fact::BorrowEnded { loan });
            return stays;
        }
        decision.before.push(Fact::Returning { loan });
        decision.after.push(Fact::BorrowEnded { loan });
        None
    }

    /// A loan of ours that the object does not have: what is to be written there, or nothing.
    fn decide_missing(&self, nonce: Nonce, borrow: &Borrow, decision: &mut BlockDecision) -> Option<Loan> {
        let ended = match &borrow.phase {
            BorrowPhase::Asking { address } if self.is_wanted(nonce) => {
                return Some(self.request(nonce, *address, borrow));
            }
            // The owner ended it, or the block was made anew without it.
            BorrowPhase::Holding { .. } => Fact::BorrowLost { loan: nonce },
            BorrowPhase::Asking { .. } | BorrowPhase::Returning { .. } => Fact::BorrowEnded { loan: nonce },
        };
        decision.before.push(ended);
        None
    }

    fn request(&self, nonce: Nonce, address: Option<std::net::IpAddr>, borrow: &Borrow) -> Loan {
        let has_block = self.tenures.values().any(|tenure| tenure.pool == borrow.pool);
        let state = LoanState::Requested { address, whole_block_welcome: address.is_none() && !has_block };
        Loan { borrower: self.me.clone(), nonce, state }
    }

    /// Whether a borrowed address is to be given back: nobody has held it for the grace, or its pool is no longer for
    /// us.
    pub(super) fn is_returnable(&self, view: &ClusterView<'_>, block: &Cidr, now: BootTime) -> bool {
        let Some(held) = self.ipam.block(block).filter(|held| held.is_idle(now)) else { return false };
        let long_enough = self
            .volatile
            .idle_since
            .get(block)
            .is_some_and(|&since| since.after(view.settings.graces.return_after) <= now);
        long_enough || self.is_draining(view, held)
    }

    pub(super) fn is_wanted(&self, loan: Nonce) -> bool {
        self.volatile.wanted.contains_key(&loan)
    }
}

/// Whether an object has anything of this node's that wants a look: a loan of a life or nonce it does not expect, or
/// one that moved.
pub(super) fn wants_look(keeper: &Keeper, object: &BlockObject) -> bool {
    let ours = |loan: &&Loan| loan.borrower == keeper.me || keeper.borrows.contains_key(&loan.nonce);
    object.loans.iter().filter(ours).any(|loan| {
        let Some(borrow) = keeper.borrows.get(&loan.nonce) else { return true };
        let rests = match (&borrow.phase, &loan.state) {
            (BorrowPhase::Asking { .. }, LoanState::Requested { .. }) => keeper.is_wanted(loan.nonce),
            (BorrowPhase::Holding { .. }, LoanState::Granted { .. }) => true,
            _ => false,
        };
        !rests || loan.borrower != keeper.me
    })
}
