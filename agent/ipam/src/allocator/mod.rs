//! The state of this node: its blocks, and who holds which address of them.
//!
//! ```text
//!   handles                                    blocks (in order of address)
//!   container/interface -> 10.0.0.3, fd00::7   10.0.0.0/26   ordinal 3 -> container/interface
//!                                              fd00::/122    ordinal 7 -> container/interface
//! ```
//! Both sides name each other, and every change keeps them in step. The modules below hold the decisions:
//! `assign` for handing out, `free` for taking back, `restore` for rebuilding the state.
//!
//! Not here: durability (the journal's), claiming in the store (the agent's), and routes.

mod assign;
mod free;
mod inner;
mod loan;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use model::{BootTime, Cidr, Family, Handle, Labels, NodeName, PoolName};

use crate::accounting::Usage;
use crate::block::{Block, OrdinalError};
use crate::claim::ForeignBlocks;
use crate::pool::PoolTable;
use crate::ranges::RangeSet;
use crate::reservation::Reservations;

pub(crate) use assign::is_borrowed;
pub use assign::{Assignment, BlockBorrow, BlockClaim, Decision};
pub use free::{FreeError, FreeItem, Freed};
pub use inner::InnerDecision;

/// What a decision needs to know of the world outside this node's blocks.
#[derive(Clone, Copy, Debug)]
pub struct ClusterView<'a> {
    /// All pools.
    pub pools: &'a PoolTable,
    /// All reservations.
    pub reservations: &'a Reservations,
    /// Blocks that this node may not claim.
    pub foreign: &'a ForeignBlocks,
    /// This node's name, the seed of its claim order.
    pub node: &'a NodeName,
    /// This node's labels, for `nodeSelector`.
    pub node_labels: &'a Labels,
    /// How decisions are made.
    pub settings: &'a Settings,
}

/// How decisions are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether a pool that a request names must match by its selectors all the same (default). Calico does not
    /// look at them then.
    pub enforce_selectors_on_request: bool,
    /// Whether a block may be claimed when owned ones have no room (default); Calico's `autoAllocateBlocks`.
    pub auto_allocate_blocks: bool,
    /// Whether addresses are never borrowed from other nodes' blocks, nor lent (not the default); Calico's
    /// `strictAffinity`.
    pub strict_affinity: bool,
    /// The most blocks of one family this node may own; `None`: no limit. Calico's `maxBlocksPerHost`.
    pub max_blocks_per_node: Option<u32>,
    /// What happens at that limit.
    pub at_block_limit: AtBlockLimit,
    /// How long things are left as they are before they are given up.
    pub graces: Graces,
}

/// How long things are left as they are before they are given up. All by `CLOCK_BOOTTIME` of the node that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graces {
    /// An empty block that is not needed, before it is released.
    pub release_after: Duration,
    /// A borrowed address that nobody holds, before it is returned.
    pub return_after: Duration,
    /// A node that is gone, before its blocks and loans may be taken. It must be off or fenced by then: an agent
    /// that runs on without the API server keeps handing out addresses of its blocks.
    pub gone_after: Duration,
    /// A block that was lost to another node, or a loan that was refused, before it is tried again.
    pub avoid_for: Duration,
}

impl Default for Graces {
    /// Five minutes for blocks, one for loans, ten for nodes, ten seconds between tries.
    fn default() -> Self {
        Self {
            release_after: Duration::from_secs(300),
            return_after: Duration::from_secs(60),
            gone_after: Duration::from_secs(600),
            avoid_for: Duration::from_secs(10),
        }
    }
}

/// What a node does that may not claim another block because of `max_blocks_per_node`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtBlockLimit {
    /// It borrows single addresses from other nodes.
    Borrow,
    /// It refuses.
    #[default]
    Fail,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enforce_selectors_on_request: true,
            auto_allocate_blocks: true,
            strict_affinity: false,
            max_blocks_per_node: None,
            at_block_limit: AtBlockLimit::default(),
            graces: Graces::default(),
        }
    }
}

/// The addresses of this node. There is one for each agent, rebuilt from the journal at each start; it dies
/// with the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeIpam {
    blocks: BTreeMap<Cidr, Block>,
    by_pool: BTreeMap<PoolName, BTreeSet<Cidr>>,
    /// The same blocks, for finding unclaimed ones.
    own: RangeSet,
    holders: BTreeMap<Handle, Held>,
    /// Blocks not to be chosen for a while.
    avoid: BTreeMap<Cidr, BootTime>,
}

/// What one handle holds: at most one address of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Held {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    since: BootTime,
}

impl Held {
    fn of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// IPv4 first.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.of(Family::V4).into_iter().chain(self.of(Family::V6))
    }

    fn set(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.v4 = Some(v4),
            IpAddr::V6(v6) => self.v6 = Some(v6),
        }
    }

    fn clear(&mut self, family: Family) {
        match family {
            Family::V4 => self.v4 = None,
            Family::V6 => self.v6 = None,
        }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

/// What one handle holds, for listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The holder.
    pub handle: Handle,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<Assignment>,
    /// When they were handed out.
    pub since: BootTime,
}

/// Data that does not fit the state; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The address is outside its block, held or cooling.
    #[error("cannot give an address to {handle}: {source}")]
    Ordinal {
        /// For whom.
        handle: Handle,
        /// What stands in the way.
        source: OrdinalError,
    },
    /// The address is outside its block, held, or lent to another node already.
    #[error("cannot lend an address to node {borrower}: {source}")]
    Lend {
        /// To whom.
        borrower: NodeName,
        /// What stands in the way.
        source: OrdinalError,
    },
    /// No block of this node holds the address.
    #[error("{address} is in no block of this node")]
    NoBlock {
        /// The address.
        address: IpAddr,
    },
    /// The holder has another address of the family, or is given two.
    #[error("{handle} cannot hold {address}: it already holds {held}")]
    HolderHas {
        /// The holder.
        handle: Handle,
        /// The address it was to get.
        address: IpAddr,
        /// The one it has.
        held: IpAddr,
    },
    /// The block shares addresses with one this node has.
    #[error("block {block} overlaps block {other} of this node")]
    Overlap {
        /// The new block.
        block: Cidr,
        /// The one it has.
        other: Cidr,
    },
    /// The block has more than 4,096 addresses.
    #[error("block {block} is too large: at most 4096 addresses are accepted")]
    TooLarge {
        /// The block.
        block: Cidr,
    },
    /// This node has no such block.
    #[error("block {block} is not one of this node")]
    UnknownBlock {
        /// The block.
        block: Cidr,
    },
    /// Addresses of the block are held or cooling.
    #[error("block {block} is not empty: {usage}")]
    NotEmpty {
        /// The block.
        block: Cidr,
        /// How full it is, reservations aside.
        usage: Usage,
    },
}

impl NodeIpam {
    /// A node without blocks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a block this node has claimed. The same block of the same pool again is no error and changes
    /// nothing.
    ///
    /// # Errors
    /// It overlaps another block of this node, or is too large.
    pub fn apply_claim(&mut self, cidr: Cidr, pool: &PoolName) -> Result<(), ApplyError> {
        if self.blocks.get(&cidr).is_some_and(|block| block.pool() == pool) {
            return Ok(());
        }
        if let Some(other) = self.overlapping_block(&cidr) {
            return Err(ApplyError::Overlap { block: cidr, other });
        }
        let block = Block::new(cidr, pool.clone()).ok_or(ApplyError::TooLarge { block: cidr })?;
        self.blocks.insert(cidr, block);
        self.by_pool.entry(pool.clone()).or_default().insert(cidr);
        self.own.insert(&cidr);
        Ok(())
    }

    /// Gives a block up.
    ///
    /// # Errors
    /// Not a block of this node, or an address of it is held or cooling at `now`.
    pub fn apply_release(&mut self, cidr: &Cidr, now: BootTime) -> Result<(), ApplyError> {
        let block = self.blocks.get(cidr).ok_or(ApplyError::UnknownBlock { block: *cidr })?;
        if !block.is_idle(now) {
            let usage = block.usage(&Reservations::default(), now);
            return Err(ApplyError::NotEmpty { block: *cidr, usage });
        }
        self.drop_block(cidr);
        Ok(())
    }

    /// Drops a block that turned out to be another node's, with everything held in it; gives back who held
    /// what, so that the caller can cut those workloads off.
    pub fn apply_loss(&mut self, cidr: &Cidr) -> Vec<(Handle, IpAddr)> {
        let lost: Vec<(Handle, IpAddr)> = self
            .blocks
            .get(cidr)
            .map(|block| block.holders().map(|(address, holder)| (holder.clone(), address)).collect())
            .unwrap_or_default();
        for (handle, address) in &lost {
            self.forget_held(handle, *address);
        }
        self.drop_block(cidr);
        lost
    }

    /// Lets a block hand out addresses, or stops it while its ownership is in doubt; what it has handed out
    /// stays.
    ///
    /// # Errors
    /// Not a block of this node.
    pub fn apply_serving(&mut self, cidr: &Cidr, serving: bool) -> Result<(), ApplyError> {
        let block = self.blocks.get_mut(cidr).ok_or(ApplyError::UnknownBlock { block: *cidr })?;
        block.set_serving(serving);
        Ok(())
    }

    /// Moves addresses whose cooldown is over to the tail of their blocks. Decisions do not need it; it keeps
    /// them quick.
    pub fn apply_expire(&mut self, now: BootTime) {
        for block in self.blocks.values_mut() {
            block.expire(now);
        }
    }

    /// All blocks of this node, in order of address.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> + '_ {
        self.blocks.values()
    }

    /// This node's blocks of a pool, in order of address: the order they are tried.
    pub fn blocks_of(&self, pool: &PoolName) -> impl Iterator<Item = &Block> + '_ {
        self.by_pool.get(pool).into_iter().flatten().filter_map(|cidr| self.blocks.get(cidr))
    }

    /// The block of this range.
    #[must_use]
    pub fn block(&self, cidr: &Cidr) -> Option<&Block> {
        self.blocks.get(cidr)
    }

    /// This node's block around an address.
    #[must_use]
    pub fn block_around(&self, address: IpAddr) -> Option<&Block> {
        // Blocks of one node are disjoint, so the last one that begins at or before the address decides.
        let (_, block) = self.blocks.range(..=Cidr::host(address)).next_back()?;
        block.cidr().contains(address).then_some(block)
    }

    /// Who holds an address.
    #[must_use]
    pub fn holder_of(&self, address: IpAddr) -> Option<&Handle> {
        match self.block_around(address)?.state(address, BootTime::default())? {
            crate::block::OrdinalState::Used(holder) => Some(holder),
            _ => None,
        }
    }

    /// What a handle holds, IPv4 first; empty for one that is unknown.
    #[must_use]
    pub fn held_by(&self, handle: &Handle) -> Vec<Assignment> {
        self.holders.get(handle).map(|held| self.assignments(held)).unwrap_or_default()
    }

    /// Every holder and what it holds, in order of handle.
    pub fn allocations(&self) -> impl Iterator<Item = Allocation> + '_ {
        self.holders.iter().map(|(handle, held)| Allocation {
            handle: handle.clone(),
            addresses: self.assignments(held),
            since: held.since,
        })
    }

    /// Every holder and each of its addresses, in order of handle, as the list of holders says.
    pub fn held(&self) -> impl Iterator<Item = (&Handle, IpAddr)> + '_ {
        self.holders.iter().flat_map(|(handle, held)| held.addresses().map(move |address| (handle, address)))
    }

    /// The addresses of one holder, as the list of holders says.
    pub(crate) fn held_addresses(&self, handle: &Handle) -> impl Iterator<Item = IpAddr> + use<> {
        self.holders.get(handle).copied().into_iter().flat_map(|held| held.addresses())
    }

    /// How many handles hold addresses.
    #[must_use]
    pub fn holder_count(&self) -> usize {
        self.holders.len()
    }

    fn assignments(&self, held: &Held) -> Vec<Assignment> {
        let describe = |address| {
            let block = self.block_around(address)?;
            Some(Assignment { pool: block.pool().clone(), block: block.cidr(), address })
        };
        held.addresses().filter_map(describe).collect()
    }

    /// Breaks what no method can break, for the tests of `check`.
    #[cfg(test)]
    pub(crate) fn corrupt_block(&mut self, cidr: &Cidr, corrupt: impl FnOnce(&mut Block)) {
        self.blocks.get_mut(cidr).map(corrupt).unwrap();
    }

    /// Forgets a holder and leaves its addresses in their blocks, for the tests of `check`.
    #[cfg(test)]
    pub(crate) fn corrupt_holder(&mut self, handle: &Handle) {
        self.holders.remove(handle).unwrap();
    }

    fn block_around_mut(&mut self, address: IpAddr) -> Option<&mut Block> {
        let (_, block) = self.blocks.range_mut(..=Cidr::host(address)).next_back()?;
        block.cidr().contains(address).then_some(block)
    }

    fn overlapping_block(&self, cidr: &Cidr) -> Option<Cidr> {
        let inside = self.blocks.range(*cidr..=Cidr::host(cidr.last())).next().map(|(other, _)| *other);
        inside.or_else(|| self.block_around(cidr.network()).map(Block::cidr))
    }

    fn drop_block(&mut self, cidr: &Cidr) {
        let Some(block) = self.blocks.remove(cidr) else { return };
        self.own.remove(cidr);
        if let Some(of_pool) = self.by_pool.get_mut(block.pool()) {
            of_pool.remove(cidr);
            if of_pool.is_empty() {
                self.by_pool.remove(block.pool());
            }
        }
    }

    /// What a handle holds, to be added to.
    fn held_or_new(&self, handle: &Handle, since: BootTime) -> Held {
        self.holders.get(handle).copied().unwrap_or(Held { since, ..Held::default() })
    }

    fn record_held(&mut self, handle: &Handle, held: Held) {
        if !held.is_empty() {
            self.holders.insert(handle.clone(), held);
        }
    }

    /// Removes one address from a holder, and the holder with its last one.
    fn forget_held(&mut self, handle: &Handle, address: IpAddr) {
        if let Some(held) = self.holders.get_mut(handle) {
            held.clear(Family::of(address));
            if held.is_empty() {
                self.holders.remove(handle);
            }
        }
    }
}
