//! Addresses that cross between nodes: lent from a block of this node, or borrowed as a block of one address.
//!
//! A borrowed address is a block of its own here, one address long, that lies inside another node's block. When
//! this node takes that block over, the small one melts into it with whatever it holds.
//!
//! Who may lend to whom, and when a loan ends, is the protocol's business.

use std::net::IpAddr;

use model::{BootTime, Cidr, NodeName, PoolName};

use super::{ApplyError, NodeIpam};
use crate::block::{OrdinalError, OrdinalState};
use crate::pool::PoolTable;

impl NodeIpam {
    /// Marks an address of an own block as lent; one that is lent to the same node already stays so.
    ///
    /// # Errors
    /// It is in no block of this node, held here, or lent to another node.
    pub fn apply_lend(&mut self, address: IpAddr, borrower: &NodeName) -> Result<(), ApplyError> {
        let block = self.block_around_mut(address).ok_or(ApplyError::NoBlock { address })?;
        // At the end of time nothing cools any more: only a holder stands in the way.
        match block.state(address, BootTime::from_millis(u64::MAX)) {
            Some(OrdinalState::Lent(to)) if to == borrower => Ok(()),
            Some(OrdinalState::Used(holder)) => {
                let source = OrdinalError::Held { address, holder: holder.clone() };
                Err(ApplyError::Lend { borrower: borrower.clone(), source })
            }
            Some(OrdinalState::Lent(to)) => {
                let source = OrdinalError::Lent { address, borrower: to.clone() };
                Err(ApplyError::Lend { borrower: borrower.clone(), source })
            }
            _ => {
                block.lend(address, borrower);
                Ok(())
            }
        }
    }

    /// Takes a lent address back: it cools for its pool's cooldown and joins the tail of its block. One that is
    /// not lent is left as it is.
    pub fn apply_loan_end(&mut self, address: IpAddr, pools: &PoolTable, now: BootTime) {
        let Some(block) = self.block_around_mut(address) else { return };
        let cooldown = pools.by_name(block.pool()).map(|pool| pool.cooldown).unwrap_or_default();
        block.end_loan(address, now, now.after(cooldown));
    }

    /// As [`NodeIpam::apply_loan_end`], with the end of the cooldown as it was written down.
    pub fn apply_loan_end_until(&mut self, address: IpAddr, now: BootTime, until: BootTime) {
        if let Some(block) = self.block_around_mut(address) {
            block.end_loan(address, now, until);
        }
    }

    /// Adds a block this node has taken over, borrowed addresses of it included: they melt into it.
    ///
    /// # Errors
    /// As [`NodeIpam::apply_claim`]; nothing is changed then.
    pub fn apply_takeover(&mut self, cidr: Cidr, pool: &PoolName) -> Result<(), ApplyError> {
        let inside: Vec<Cidr> = self
            .blocks
            .range(cidr..=Cidr::host(cidr.last()))
            .map(|(inner, _)| *inner)
            .filter(|inner| *inner != cidr)
            .collect();
        if inside.is_empty() {
            return self.apply_claim(cidr, pool);
        }
        let before = self.clone();
        let mut melted = Vec::new();
        for inner in inside {
            melted.extend(self.blocks.get(&inner).cloned());
            self.drop_block(&inner);
        }
        if let Err(error) = self.apply_claim(cidr, pool) {
            *self = before;
            return Err(error);
        }
        for small in melted {
            if let Some(block) = self.blocks.get_mut(&cidr) {
                block.absorb(&small);
            }
        }
        Ok(())
    }

    /// Keeps a block out of this node's own choice until `until`: it was lost to another node, or its owner has
    /// just refused a loan. Forgotten at a restart.
    pub fn apply_avoid(&mut self, cidr: Cidr, until: BootTime) {
        self.avoid.insert(cidr, until);
    }

    /// Forgets what is avoided no longer.
    pub fn apply_avoid_expire(&mut self, now: BootTime) {
        self.avoid.retain(|_, until| *until > now);
    }

    pub(crate) fn forget_avoided(&mut self) {
        self.avoid.clear();
    }

    pub(crate) fn is_avoided(&self, cidr: &Cidr, now: BootTime) -> bool {
        self.avoid.get(cidr).is_some_and(|until| *until > now)
    }
}
