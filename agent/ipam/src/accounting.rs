//! How full blocks and pools are, and the state of a single address.
//!
//! For every block and every pool, used + free + cooling + reserved is the size.

use std::fmt;
use std::net::IpAddr;

use model::{BootTime, Cidr, Handle, NodeName, PoolName};

use crate::allocator::{ClusterView, NodeIpam, is_borrowed};
use crate::block::OrdinalState;
use crate::pool::Pool;
use crate::ranges::bounds;

/// Addresses counted by state; the four states add up to the size.
///
/// A state is decided in this order: used, cooling, reserved, free. So a reserved address that somebody holds
/// is used. Sizes saturate at `u128::MAX`, which only ::/0 reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All addresses.
    pub size: u128,
    /// Held by somebody.
    pub used: u128,
    /// To be had.
    pub free: u128,
    /// Freed a short while ago and not yet to be had.
    pub cooling: u128,
    /// Kept back by a reservation and held by nobody.
    pub reserved: u128,
}

impl Usage {
    /// Whether the four states add up to the size, as they always must.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let sum = [self.used, self.free, self.cooling, self.reserved]
            .into_iter()
            .try_fold(0u128, u128::checked_add);
        sum == Some(self.size)
    }

    fn add(&mut self, other: &Self) {
        self.size = self.size.saturating_add(other.size);
        self.used = self.used.saturating_add(other.used);
        self.free = self.free.saturating_add(other.free);
        self.cooling = self.cooling.saturating_add(other.cooling);
        self.reserved = self.reserved.saturating_add(other.reserved);
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} used, {} free, {} cooling, {} reserved of {}",
            self.used, self.free, self.cooling, self.reserved, self.size
        )
    }
}

/// How full a pool is, as this node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Counts over the pool's whole range. Space that no block covers is free or reserved; addresses in blocks
    /// of other nodes count as used, since only their owners know more and this node cannot have them.
    pub usage: Usage,
    /// How many addresses lie in blocks of other nodes.
    pub elsewhere: u128,
    /// Blocks of this pool that this node owns.
    pub own_blocks: u64,
}

impl fmt::Display for PoolUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.usage.fmt(f)?;
        if self.elsewhere > 0 {
            write!(f, ", {} of the used in blocks of other nodes", self.elsewhere)?;
        }
        Ok(())
    }
}

/// The state of one address, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// Held.
    Used {
        /// By whom.
        holder: Handle,
        /// Its block.
        block: Cidr,
    },
    /// Freed a short while ago.
    Cooling {
        /// When it may be had again.
        until: BootTime,
        /// Its block.
        block: Cidr,
    },
    /// In a block of this node, lent to another one; only that node knows more.
    Lent {
        /// The borrower.
        to: NodeName,
        /// Its block.
        block: Cidr,
    },
    /// Kept back and held by nobody.
    Reserved {
        /// By the reservation of this name.
        by: String,
        /// Its block, if it is in one of this node's.
        block: Option<Cidr>,
    },
    /// To be had.
    Free {
        /// Its block.
        block: Cidr,
    },
    /// In another node's block; only that node knows more.
    OtherNode {
        /// The node.
        node: NodeName,
        /// The block.
        block: Cidr,
    },
    /// In a pool, in no block yet.
    Unclaimed,
    /// In no pool.
    Outside,
}

impl NodeIpam {
    /// How full a pool is at `now`.
    ///
    /// Costs a step for each owned block of the pool and for each run of reservations and of other nodes'
    /// blocks in it.
    #[must_use]
    pub fn pool_usage(&self, view: &ClusterView<'_>, pool: &Pool, now: BootTime) -> PoolUsage {
        let family = pool.family();
        let (first, last) = bounds(&pool.cidr);
        let mut usage = Usage::default();
        let mut own_blocks = 0;
        for block in self.blocks_of(&pool.name).filter(|block| pool.cidr.covers(&block.cidr())) {
            usage.add(&block.usage(view.reservations, now));
            own_blocks += u64::from(!is_borrowed(view, block));
        }
        // Other nodes' blocks in a range. One that our copies show as another's and that is this node's, because it was
        // handed over a moment ago or because the node was registered anew, is counted with its own.
        let own = || {
            self.blocks_of(&pool.name)
                .filter(|block| pool.cidr.covers(&block.cidr()) && !is_borrowed(view, block))
                .map(|block| bounds(&block.cidr()))
        };
        let foreign = |first: u128, last: u128| {
            let ranges = view.foreign.ranges();
            let ours: u128 = own()
                .map(|(own_first, own_last)| (own_first.max(first), own_last.min(last)))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| ranges.count(family, first, last))
                .fold(0, u128::saturating_add);
            ranges.count(family, first, last).saturating_sub(ours)
        };
        // Borrowed addresses lie inside other nodes' blocks and are counted with this node's own.
        let borrowed = self
            .blocks_of(&pool.name)
            .filter(|block| pool.cidr.covers(&block.cidr()) && is_borrowed(view, block))
            .count();
        let elsewhere = foreign(first, last).saturating_sub(borrowed as u128);
        let own_reserved: u128 = self
            .blocks_of(&pool.name)
            .filter(|block| pool.cidr.covers(&block.cidr()) && !is_borrowed(view, block))
            .map(|block| view.reservations.count_in(&block.cidr()))
            .fold(0, u128::saturating_add);
        let reserved_elsewhere = view
            .reservations
            .ranges_in(&pool.cidr)
            .map(|(first, last)| foreign(first, last))
            .fold(0, u128::saturating_add);
        let reserved_unclaimed = view
            .reservations
            .count_in(&pool.cidr)
            .saturating_sub(own_reserved)
            .saturating_sub(reserved_elsewhere);
        let unclaimed = pool.cidr.size().saturating_sub(usage.size).saturating_sub(elsewhere);
        let reserved_unclaimed = reserved_unclaimed.min(unclaimed);
        usage.add(&Usage {
            size: unclaimed.saturating_add(elsewhere),
            used: elsewhere,
            free: unclaimed - reserved_unclaimed,
            cooling: 0,
            reserved: reserved_unclaimed,
        });
        PoolUsage { usage, elsewhere, own_blocks }
    }

    /// The state of an address at `now`, and the pool it is in.
    #[must_use]
    pub fn address_state(
        &self,
        view: &ClusterView<'_>,
        address: IpAddr,
        now: BootTime,
    ) -> (AddressState, Option<PoolName>) {
        let pool = view.pools.by_address(address).map(|pool| pool.name.clone());
        let reserved_by = || view.reservations.kept_by(address).map(|(name, _)| name.to_owned());
        if let Some(block) = self.block_around(address) {
            let cidr = block.cidr();
            let state = match block.state(address, now) {
                Some(OrdinalState::Used(holder)) => {
                    AddressState::Used { holder: holder.clone(), block: cidr }
                }
                Some(OrdinalState::Lent(to)) => AddressState::Lent { to: to.clone(), block: cidr },
                Some(OrdinalState::Cooling { until }) => AddressState::Cooling { until, block: cidr },
                Some(OrdinalState::Free) | None => match reserved_by() {
                    Some(by) => AddressState::Reserved { by, block: Some(cidr) },
                    None => AddressState::Free { block: cidr },
                },
            };
            return (state, Some(block.pool().clone()));
        }
        let state = if let Some((block, node)) = view.foreign.owner_of(address) {
            AddressState::OtherNode { node: node.clone(), block }
        } else if pool.is_none() {
            AddressState::Outside
        } else {
            reserved_by().map_or(AddressState::Unclaimed, |by| AddressState::Reserved { by, block: None })
        };
        (state, pool)
    }
}
