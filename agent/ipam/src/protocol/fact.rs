//! Facts: every change of what a node remembers, as data, and what each one does.
//!
//! A durable fact is in the journal before anything that follows from it is sent or told; replayed in order, the
//! durable facts of a boot rebuild the state. The others are forgotten at a restart, and found out again.

use std::net::IpAddr;

use model::{BootTime, Cidr, Handle, PoolName};

use super::object::{NodeId, Nonce, ObjectRevision};
use super::{Borrow, BorrowPhase, Keeper, Lent, Phase, Tenure};
use crate::allocator::ApplyError;

/// Something a node knows from here on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// A claim of this block with this nonce may be under way.
    Claiming {
        /// The block.
        block: Cidr,
        /// Its pool.
        pool: PoolName,
        /// UID of that pool.
        pool_uid: String,
        /// The nonce.
        nonce: Nonce,
    },
    /// The store says that the block is ours.
    Owned {
        /// The block.
        block: Cidr,
    },
    /// The block may be deleted, or handed over, by a write that expects this state; it serves nothing.
    Releasing {
        /// The block.
        block: Cidr,
        /// The state the write expects.
        base: ObjectRevision,
    },
    /// The write that would have ended our ownership is void: somebody changed the object before it.
    Resumed {
        /// The block.
        block: Cidr,
    },
    /// The block is not ours, and nothing of it was held.
    Dropped {
        /// The block.
        block: Cidr,
    },
    /// The block turned out to be another node's, or was taken from us: whoever holds an address of it is cut off.
    Lost {
        /// The block.
        block: Cidr,
    },
    /// An address of an own block is another node's, or may become so by a write under way.
    Lent {
        /// The block.
        block: Cidr,
        /// The borrower's nonce.
        loan: Nonce,
        /// The address.
        address: IpAddr,
        /// To whom.
        borrower: NodeId,
    },
    /// A loan is over, and no write under way can bring it back.
    LoanEnded {
        /// The block.
        block: Cidr,
        /// The borrower's nonce.
        loan: Nonce,
        /// When.
        at: BootTime,
        /// Until when the address cools.
        cooling_until: BootTime,
    },
    /// A request for a loan may be under way.
    Asking {
        /// The block to borrow from.
        block: Cidr,
        /// Its pool.
        pool: PoolName,
        /// Our nonce.
        loan: Nonce,
        /// Exactly this address; `None`: any.
        address: Option<IpAddr>,
    },
    /// The owner has granted it.
    Borrowed {
        /// Our nonce.
        loan: Nonce,
        /// The address.
        address: IpAddr,
    },
    /// The loan is being given back or withdrawn; nothing of it is handed out any more.
    Returning {
        /// Our nonce.
        loan: Nonce,
    },
    /// The loan is over, and nobody held its address.
    BorrowEnded {
        /// Our nonce.
        loan: Nonce,
    },
    /// The loan was taken from us: whoever holds its address is cut off.
    BorrowLost {
        /// Our nonce.
        loan: Nonce,
    },
    /// Not durable: a consistent read has shown that the block, or the borrowed address, is ours.
    Confirmed {
        /// The block, or the address as a block of one.
        block: Cidr,
    },
    /// Not durable: the block, or the address as a block of one, is not to be tried again so soon.
    Avoid {
        /// The block.
        block: Cidr,
        /// Until when.
        until: BootTime,
    },
    /// Not durable: somebody waits for this loan.
    Wanted {
        /// Our nonce.
        loan: Nonce,
        /// Who.
        handle: Handle,
    },
    /// Not durable: nobody waits for the loans of this handle any more.
    GaveUp {
        /// Who waited.
        handle: Handle,
    },
}

/// Workloads that are to be cut off at once: who, and which address.
pub type CutOff = Vec<(Handle, IpAddr)>;

impl Fact {
    /// Whether it must be in the journal before it counts.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        !matches!(
            self,
            Self::Confirmed { .. } | Self::Avoid { .. } | Self::Wanted { .. } | Self::GaveUp { .. }
        )
    }
}

impl Keeper {
    /// Makes a fact part of the state. Applied twice it changes nothing more. Gives back who is to be cut off.
    ///
    /// # Errors
    /// It does not fit: the state stays as it was.
    pub fn apply(&mut self, fact: &Fact) -> Result<CutOff, ApplyError> {
        match fact {
            Fact::Claiming { block, pool, pool_uid, nonce } => {
                self.apply_claiming(*block, pool, pool_uid, *nonce);
            }
            Fact::Owned { block } => self.apply_owned(block)?,
            Fact::Releasing { block, base } => {
                self.set_phase(block, Phase::Releasing { base: *base });
            }
            Fact::Resumed { block } => self.set_phase(block, Phase::Owned),
            Fact::Dropped { block } | Fact::Lost { block } => return Ok(self.end_tenure(block)),
            Fact::Lent { block, loan, address, borrower } => {
                // Of a block that is not ours yet, it is lent as soon as it is.
                if self.tenures.get(block).is_none_or(|tenure| tenure.phase != Phase::Claiming) {
                    self.ipam.apply_lend(*address, &borrower.name)?;
                }
                if let Some(tenure) = self.tenures.get_mut(block) {
                    tenure.lent.insert(*loan, Lent { address: *address, borrower: borrower.clone() });
                }
            }
            Fact::LoanEnded { block, loan, at, cooling_until } => {
                if let Some(lent) = self.tenures.get_mut(block).and_then(|tenure| tenure.lent.remove(loan)) {
                    self.ipam.apply_loan_end_until(lent.address, *at, *cooling_until);
                }
            }
            Fact::Asking { block, pool, loan, address } => {
                let phase = BorrowPhase::Asking { address: *address };
                let borrow = Borrow { block: *block, pool: pool.clone(), phase };
                self.borrows.entry(*loan).or_insert(borrow);
            }
            Fact::Borrowed { loan, address } => self.apply_borrowed(*loan, *address)?,
            Fact::Returning { loan } => {
                if let Some(borrow) = self.borrows.get_mut(loan) {
                    borrow.phase = BorrowPhase::Returning { address: borrow.address() };
                }
                self.volatile.wanted.remove(loan);
            }
            Fact::BorrowEnded { loan } | Fact::BorrowLost { loan } => return Ok(self.end_borrow(*loan)),
            Fact::Confirmed { block } => {
                self.volatile.confirmed.insert(*block);
            }
            Fact::Avoid { block, until } => self.ipam.apply_avoid(*block, *until),
            Fact::Wanted { loan, handle } => {
                self.volatile.wanted.insert(*loan, handle.clone());
            }
            Fact::GaveUp { handle } => self.volatile.wanted.retain(|_, waiting| waiting != handle),
        }
        self.refresh_serving();
        Ok(CutOff::new())
    }

    /// The durable facts that rebuild what this node remembers of blocks and loans, in an order in which they can be
    /// applied. What is assigned, and what cools, is not among them.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (block, tenure) in &self.tenures {
            let Tenure { pool, pool_uid, nonce, phase, lent } = tenure;
            let (pool, pool_uid) = (pool.clone(), pool_uid.clone());
            facts.push(Fact::Claiming { block: *block, pool, pool_uid, nonce: *nonce });
            // Before the block is ours, so that it never is without them, wherever the journal ends.
            facts.extend(lent.iter().map(|(loan, lent)| Fact::Lent {
                block: *block,
                loan: *loan,
                address: lent.address,
                borrower: lent.borrower.clone(),
            }));
            if *phase != Phase::Claiming {
                facts.push(Fact::Owned { block: *block });
            }
            if let Phase::Releasing { base } = phase {
                facts.push(Fact::Releasing { block: *block, base: *base });
            }
        }
        for (&loan, borrow) in &self.borrows {
            let asked = match &borrow.phase {
                BorrowPhase::Asking { address } => *address,
                BorrowPhase::Holding { .. } | BorrowPhase::Returning { .. } => None,
            };
            let (block, pool) = (borrow.block, borrow.pool.clone());
            facts.push(Fact::Asking { block, pool, loan, address: asked });
            facts.extend(borrow.address().map(|address| Fact::Borrowed { loan, address }));
            if matches!(borrow.phase, BorrowPhase::Returning { .. }) {
                facts.push(Fact::Returning { loan });
            }
        }
        facts
    }

    fn apply_claiming(&mut self, block: Cidr, pool: &PoolName, pool_uid: &str, nonce: Nonce) {
        let fresh = || Tenure {
            pool: pool.clone(),
            pool_uid: pool_uid.to_owned(),
            nonce,
            phase: Phase::Claiming,
            lent: std::collections::BTreeMap::new(),
        };
        // Another nonce for a block we have: ours anew, with what is lent of it.
        let tenure = self.tenures.entry(block).or_insert_with(fresh);
        tenure.nonce = nonce;
        pool_uid.clone_into(&mut tenure.pool_uid);
    }

    fn apply_owned(&mut self, block: &Cidr) -> Result<(), ApplyError> {
        let Some(tenure) = self.tenures.get_mut(block) else { return Ok(()) };
        let mut ipam = self.ipam.clone();
        ipam.apply_takeover(*block, &tenure.pool)?;
        for lent in tenure.lent.values() {
            ipam.apply_lend(lent.address, &lent.borrower.name)?;
        }
        self.ipam = ipam;
        tenure.phase = Phase::Owned;
        // What was borrowed from it is ours now.
        let melted: Vec<Nonce> =
            self.borrows.iter().filter(|(_, borrow)| borrow.block == *block).map(|(loan, _)| *loan).collect();
        for loan in melted {
            self.borrows.remove(&loan);
            self.volatile.wanted.remove(&loan);
        }
        Ok(())
    }

    fn apply_borrowed(&mut self, loan: Nonce, address: IpAddr) -> Result<(), ApplyError> {
        let Some(borrow) = self.borrows.get_mut(&loan) else { return Ok(()) };
        self.ipam.apply_claim(Cidr::host(address), &borrow.pool)?;
        borrow.phase = BorrowPhase::Holding { address };
        Ok(())
    }

    fn set_phase(&mut self, block: &Cidr, phase: Phase) {
        if let Some(tenure) = self.tenures.get_mut(block) {
            tenure.phase = phase;
        }
    }

    fn end_tenure(&mut self, block: &Cidr) -> CutOff {
        self.tenures.remove(block);
        self.forget_volatile(block);
        self.ipam.apply_loss(block)
    }

    fn end_borrow(&mut self, loan: Nonce) -> CutOff {
        self.volatile.wanted.remove(&loan);
        let Some(address) = self.borrows.remove(&loan).and_then(|borrow| borrow.address()) else {
            return CutOff::new();
        };
        let block = Cidr::host(address);
        self.forget_volatile(&block);
        self.ipam.apply_loss(&block)
    }

    fn forget_volatile(&mut self, block: &Cidr) {
        self.volatile.confirmed.remove(block);
        self.volatile.idle_since.remove(block);
    }
}
