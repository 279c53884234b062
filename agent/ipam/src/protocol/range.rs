//! Claiming a whole range for one node, as an operator asks for it.

use model::{Cidr, NodeName, PoolName};

use super::{Keeper, Phase};
use crate::allocator::{BlockClaim, ClusterView};
use crate::pool::Pool;

/// The most blocks one request may be about.
pub const MAX_RANGE_BLOCKS: u128 = 1024;

/// What becomes of each block of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeClaim {
    /// To be claimed, each exactly; in order of address.
    pub claims: Vec<BlockClaim>,
    /// This node's already.
    pub owned: Vec<Cidr>,
    /// Other nodes', as far as is known, and whose.
    pub refused: Vec<(Cidr, NodeName)>,
}

/// Why no block of a range can be claimed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// No one pool has all of it.
    #[error("{range} is not in one pool")]
    NoPool {
        /// The range.
        range: Cidr,
    },
    /// The pool serves nothing new on this node.
    #[error(
        "pool {pool} cannot serve this node: it is disabled, being deleted, not admitted, or does not select it"
    )]
    PoolCannot {
        /// The pool.
        pool: PoolName,
    },
    /// It is less than a block.
    #[error("{range} is smaller than a block of pool {pool}: /{block_len}")]
    TooSmall {
        /// The range.
        range: Cidr,
        /// Its pool.
        pool: PoolName,
        /// Prefix length of the pool's blocks.
        block_len: u8,
    },
    /// It has more blocks than one request may be about.
    #[error("{range} has {blocks} blocks: at most {MAX_RANGE_BLOCKS} are claimed at once")]
    TooLarge {
        /// The range.
        range: Cidr,
        /// How many blocks it has.
        blocks: u128,
    },
}

impl Keeper {
    /// Decides which blocks of a range to claim, wholly reserved ones included: who names a range means it. Each
    /// claim is begun by [`Keeper::decide_claim`] and may still be lost to another node.
    ///
    /// # Errors
    /// The range is not one of whole blocks of a pool that this node may serve from.
    pub fn decide_claim_range(&self, view: &ClusterView<'_>, range: &Cidr) -> Result<RangeClaim, RangeError> {
        let pool = view
            .pools
            .by_address(range.network())
            .filter(|pool| pool.cidr.covers(range))
            .ok_or(RangeError::NoPool { range: *range })?;
        if !may_serve(view, pool) {
            return Err(RangeError::PoolCannot { pool: pool.name.clone() });
        }
        let block_len = pool.block_size.prefix_len();
        if range.prefix_len() > block_len {
            return Err(RangeError::TooSmall { range: *range, pool: pool.name.clone(), block_len });
        }
        let blocks = 1u128.checked_shl(u32::from(block_len - range.prefix_len())).unwrap_or(u128::MAX);
        if blocks > MAX_RANGE_BLOCKS {
            return Err(RangeError::TooLarge { range: *range, blocks });
        }
        let block_size = range.size() / blocks;
        let mut decided = RangeClaim::default();
        for block in (0..blocks).filter_map(|index| pool.block_of(range.nth(index * block_size)?)) {
            self.decide_one(view, pool, block, &mut decided);
        }
        Ok(decided)
    }

    fn decide_one(&self, view: &ClusterView<'_>, pool: &Pool, block: Cidr, decided: &mut RangeClaim) {
        let owned = self.tenure(&block).is_some_and(|tenure| tenure.phase == Phase::Owned);
        let owner = view.foreign.iter().find(|(other, _)| other.overlaps(&block)).map(|(_, owner)| owner);
        if owned {
            decided.owned.push(block);
        } else if let Some(owner) = owner {
            decided.refused.push((block, owner.clone()));
        } else {
            let (pool, alternatives) = (pool.name.clone(), Vec::new());
            decided.claims.push(BlockClaim { pool, cidr: block, alternatives });
        }
    }
}

fn may_serve(view: &ClusterView<'_>, pool: &Pool) -> bool {
    pool.tag.is_some() && !pool.disabled && !pool.terminating && pool.node_selector.matches(view.node_labels)
}
