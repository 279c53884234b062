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
    /// Costs a search for each owned block of the pool, and a step for each run of reservations and of other nodes'
    /// blocks in it.
    #[must_use]
    pub fn pool_usage(&self, view: &ClusterView<'_>, pool: &Pool, now: BootTime) -> PoolUsage {
        let family = pool.family();
        let (first, last) = bounds(&pool.cidr);
        let foreign = view.foreign.ranges();
        let (mut usage, mut own_blocks, mut own_reserved) = (Usage::default(), 0, 0u128);
        // What this node has and other nodes' blocks cover too is counted with this node's own: borrowed addresses,
        // and a block that has just been handed over.
        let (mut shared, mut shared_reserved) = (0u128, 0u128);
        let foreign_reserved = |cidr: &Cidr| {
            let ranges = view.reservations.ranges_in(cidr);
            ranges.map(|(first, last)| foreign.count(family, first, last)).fold(0, u128::saturating_add)
        };
        for block in self.blocks_of(&pool.name).filter(|block| pool.cidr.covers(&block.cidr())) {
            usage.add(&block.usage(view.reservations, now));
            own_blocks += u64::from(!is_borrowed(view, block));
            own_reserved = own_reserved.saturating_add(view.reservations.count_in(&block.cidr()));
            let (first, last) = bounds(&block.cidr());
            shared = shared.saturating_add(foreign.count(family, first, last));
            shared_reserved = shared_reserved.saturating_add(foreign_reserved(&block.cidr()));
        }
        let elsewhere = foreign.count(family, first, last).saturating_sub(shared);
        let reserved_elsewhere = foreign_reserved(&pool.cidr).saturating_sub(shared_reserved);
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
