//! Which block to claim next: an order of candidates that differs from node to node.
//!
//! Claiming itself, and losing a race for a block, is the caller's business.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{Cidr, Family, NodeName};

use crate::pool::Pool;
use crate::ranges::{RangeSet, bounds};
use crate::reservation::Reservations;

/// How many further candidates a claim carries, for when the first one is lost to another node.
pub const MAX_ALTERNATIVES: usize = 7;

/// Blocks that this node may not claim, and whose they are: those of other nodes, and any whose ownership is in
/// doubt.
///
/// Answers cost the logarithm of the number of blocks; neighbouring blocks count as one range when a free one
/// is looked for. The name of a node is kept once, and stays until all of this goes.
#[derive(Clone, Debug, Default)]
pub struct ForeignBlocks {
    /// By the owner's place in `nodes`.
    owners: BTreeMap<Cidr, u32>,
    nodes: Vec<NodeName>,
    places: BTreeMap<NodeName, u32>,
    ranges: RangeSet,
}

impl PartialEq for ForeignBlocks {
    /// Which names were ever among the owners, and in which order, makes no difference.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ForeignBlocks {}

impl ForeignBlocks {
    /// Adds a block or changes its owner.
    pub fn insert(&mut self, block: Cidr, owner: NodeName) {
        let owner = self.place_of(owner);
        self.owners.insert(block, owner);
        self.ranges.insert(&block);
    }

    fn place_of(&mut self, node: NodeName) -> u32 {
        if let Some(&place) = self.places.get(&node) {
            return place;
        }
        let place = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(node.clone());
        self.places.insert(node, place);
        place
    }

    fn node_at(&self, place: u32) -> Option<&NodeName> {
        self.nodes.get(usize::try_from(place).ok()?)
    }

    /// Takes a block out; gives its owner back.
    pub fn remove(&mut self, block: &Cidr) -> Option<NodeName> {
        let owner = self.owners.remove(block)?;
        self.ranges.remove(block);
        // Names are prefixes, so blocks of different sizes may lie inside each other.
        let nested = self.owners.range(*block..=Cidr::host(block.last())).map(|(inner, _)| inner);
        let around = lengths(block.family()).filter_map(|len| Cidr::containing(block.network(), len));
        let left: Vec<Cidr> =
            nested.copied().chain(around.filter(|outer| self.owners.contains_key(outer))).collect();
        for other in left {
            self.ranges.insert(&other);
        }
        self.node_at(owner).cloned()
    }

    /// The smallest block around an address and its owner.
    #[must_use]
    pub fn owner_of(&self, address: IpAddr) -> Option<(Cidr, &NodeName)> {
        self.ranges.around(address)?;
        lengths(Family::of(address)).rev().find_map(|len| {
            let block = Cidr::containing(address, len)?;
            Some((block, self.node_at(*self.owners.get(&block)?)?))
        })
    }

    /// The owner of exactly this block.
    #[must_use]
    pub fn owner_of_block(&self, block: &Cidr) -> Option<&NodeName> {
        self.node_at(*self.owners.get(block)?)
    }

    /// Whether any address of `block` is taken.
    #[must_use]
    pub fn overlaps(&self, block: &Cidr) -> bool {
        let (first, last) = bounds(block);
        self.ranges.first_overlap(block.family(), first, last).is_some()
    }

    /// How many blocks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Every block and its owner, in order of address.
    pub fn iter(&self) -> impl Iterator<Item = (Cidr, &NodeName)> + '_ {
        self.owners.iter().filter_map(|(block, owner)| Some((*block, self.node_at(*owner)?)))
    }

    /// The blocks of a pool in the order `node` asks their owners for a loan: each exactly once, starting at a
    /// place that follows from the node's name. Blocks of another size than the pool's are left out.
    pub(crate) fn lenders<'a>(
        &'a self,
        pool: &'a Pool,
        node: &NodeName,
    ) -> impl Iterator<Item = (Cidr, &'a NodeName)> + 'a {
        // A range sorts before everything inside it.
        let (start, last) = (self.lender_start(pool, node), Cidr::host(pool.cidr.last()));
        let from_start = self.owners.range(start..=last);
        let before = self.owners.range(pool.cidr..start.max(pool.cidr));
        from_start
            .chain(before)
            .filter(|(block, _)| pool.has_block(block))
            .filter_map(|(block, owner)| Some((*block, self.node_at(*owner)?)))
    }

    fn lender_start(&self, pool: &Pool, node: &NodeName) -> Cidr {
        let offset = seed(node, &pool.cidr) % pool.cidr.size().max(1);
        let address = crate::ranges::address(pool.family(), bounds(&pool.cidr).0.saturating_add(offset));
        let block = address.and_then(|address| Cidr::containing(address, pool.block_size.prefix_len()));
        block.unwrap_or(pool.cidr)
    }

    pub(crate) fn ranges(&self) -> &RangeSet {
        &self.ranges
    }
}

/// Prefix lengths that blocks of a family may have, shortest first.
fn lengths(family: Family) -> impl DoubleEndedIterator<Item = u8> {
    let bits = family.address_bits();
    bits - 12..=bits
}

/// Candidates of one pool in this node's order. See [`unclaimed_blocks`].
#[derive(Clone, Debug)]
pub struct UnclaimedBlocks<'a> {
    family: Family,
    block_len: u8,
    base: u128,
    host_bits: u32,
    count: u128,
    start: u128,
    next: u128,
    wrapped: bool,
    taken: [&'a RangeSet; 2],
    reservations: &'a Reservations,
}

/// The blocks of a pool that nobody owns, in the order this node tries them.
///
/// 1. The first candidate follows from the node's name and the pool's range alone.
/// 2. The order goes up from there, wraps around at the pool's end and stops where it began: each block once.
/// 3. Blocks that share an address with a taken one are stepped over, a whole run at a time.
/// 4. Blocks that are wholly reserved are stepped over, a whole run at a time.
pub(crate) fn unclaimed_in<'a>(
    pool: &Pool,
    node: &NodeName,
    taken: [&'a RangeSet; 2],
    reservations: &'a Reservations,
) -> UnclaimedBlocks<'a> {
    let (cidr, block_len) = (pool.cidr, pool.block_size.prefix_len());
    let count = 1u128.checked_shl(u32::from(block_len - cidr.prefix_len())).unwrap_or(u128::MAX);
    let start = seed(node, &cidr) % count;
    UnclaimedBlocks {
        family: cidr.family(),
        block_len,
        base: bounds(&cidr).0,
        host_bits: u32::from(cidr.family().address_bits() - block_len),
        count,
        start,
        next: start,
        wrapped: false,
        taken,
        reservations,
    }
}

/// The blocks of a pool that no other node owns, in the order `node` tries them: each exactly once, starting at
/// a place that follows from the node's name, wrapping around, wholly reserved ones left out.
///
/// A run of taken blocks costs one step, so a pool that is full in one piece costs hardly anything.
#[must_use]
pub fn unclaimed_blocks<'a>(
    pool: &Pool,
    node: &NodeName,
    foreign: &'a ForeignBlocks,
    reservations: &'a Reservations,
) -> UnclaimedBlocks<'a> {
    unclaimed_in(pool, node, [&foreign.ranges, &foreign.ranges], reservations)
}

impl UnclaimedBlocks<'_> {
    /// Where to go on from `index` if it cannot be claimed: the first block behind what stands in the way.
    fn step_over(&self, first: u128, last: u128) -> Option<u128> {
        let index_of = |at: u128| (at - self.base) >> self.host_bits;
        for set in self.taken {
            if let Some((_, end)) = set.first_overlap(self.family, first, last) {
                return Some(index_of(end).saturating_add(1));
            }
        }
        let (_, end) = self.reservations.covering(self.family, first, last)?;
        Some(end.checked_add(1).map_or(u128::MAX, index_of))
    }
}

impl Iterator for UnclaimedBlocks<'_> {
    type Item = Cidr;

    fn next(&mut self) -> Option<Cidr> {
        loop {
            if !self.wrapped && self.next >= self.count {
                self.wrapped = true;
                self.next = 0;
            }
            if self.wrapped && self.next >= self.start {
                return None;
            }
            let first = self.base + (self.next << self.host_bits);
            let last = first + ((1u128 << self.host_bits) - 1);
            match self.step_over(first, last) {
                Some(next) => self.next = next,
                None => {
                    self.next += 1;
                    let address = crate::ranges::address(self.family, first)?;
                    return Cidr::containing(address, self.block_len);
                }
            }
        }
    }
}

/// 128 bits that differ in every bit when a name differs in one: two FNV-1a hashes (64 bit parameters as
/// published by Fowler, Noll and Vo), each finished by a multiply-and-shift mixer, since FNV alone leaves the
/// upper bits of similar short names alike.
fn seed(node: &NodeName, pool: &Cidr) -> u128 {
    let hash = |salt: u8| {
        let (low, _) = bounds(pool);
        let bytes = node.as_str().bytes().chain([0, salt, pool.prefix_len()]).chain(low.to_be_bytes());
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        for shift in [32, 29, 32] {
            hash = (hash ^ (hash >> shift)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        hash ^ (hash >> 32)
    };
    (u128::from(hash(1)) << 64) | u128::from(hash(2))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::BlockSize;

    use super::*;
    use crate::pool::PoolSpec;

    fn pool(cidr: &str, block_len: u32) -> Pool {
        let mut spec = PoolSpec::new("p".parse().unwrap(), cidr.parse().unwrap());
        spec.block_size = BlockSize::new(spec.cidr.family(), block_len).unwrap();
        Pool::new(spec).unwrap()
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn b2_every_block_is_tried_exactly_once_wrapping_around() {
        let check = |cidr: &str, block_len: u32, count: usize| {
            let pool = pool(cidr, block_len);
            for name in ["a", "node-1", "node-2", "z.example.org"] {
                let (foreign, reserved) = (ForeignBlocks::default(), Reservations::default());
                let order: Vec<Cidr> = unclaimed_blocks(&pool, &node(name), &foreign, &reserved).collect();
                let distinct: BTreeSet<Cidr> = order.iter().copied().collect();
                assert_eq!((order.len(), distinct.len()), (count, count), "{cidr} {name}");
                assert!(order.iter().all(|block| pool.has_block(block)), "{cidr} {name}");
                let descents = order.windows(2).filter(|pair| pair[1] < pair[0]).count();
                assert!(descents <= 1, "{cidr} {name} wraps more than once");
            }
        };
        check("10.0.0.0/24", 26, 4);
        check("10.0.0.0/26", 26, 1);
        check("10.0.0.0/24", 32, 256);
        check("fd00::/118", 122, 16);
        check("255.255.255.0/24", 29, 32);
        check("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120", 128, 256);
    }

    #[test]
    fn b2_nodes_begin_at_different_blocks_even_of_one_address() {
        for (cidr, len) in [("10.0.0.0/22", 32), ("10.0.0.0/16", 26), ("fd00::/64", 122)] {
            let pool = pool(cidr, len);
            let (foreign, reserved) = (ForeignBlocks::default(), Reservations::default());
            let first: BTreeSet<Cidr> = (0..100)
                .filter_map(|n| {
                    unclaimed_blocks(&pool, &node(&format!("node-{n}")), &foreign, &reserved).next()
                })
                .collect();
            // 100 throws into 1,024 places: 95 distinct ones are expected.
            assert!(first.len() > 80, "{cidr}: {}", first.len());
        }
    }

    #[test]
    fn the_largest_pools_have_an_order_too() {
        for (cidr, len) in [("::/0", 128), ("::/0", 116), ("0.0.0.0/0", 32)] {
            let pool = pool(cidr, len);
            let (foreign, reserved) = (ForeignBlocks::default(), Reservations::default());
            let some: BTreeSet<Cidr> =
                unclaimed_blocks(&pool, &node("n"), &foreign, &reserved).take(10).collect();
            assert_eq!(some.len(), 10, "{cidr}");
        }
    }

    #[test]
    fn a11_a_block_wholly_reserved_is_never_a_candidate_and_one_partly_reserved_is() {
        let check = |reserved: &[&str], expected: &[&str]| {
            let pool = pool("10.0.0.0/24", 26);
            let reserved =
                Reservations::new(reserved.iter().map(|text| (String::new(), text.parse().unwrap())));
            let foreign = ForeignBlocks::default();
            for name in ["a", "b", "c", "d", "e"] {
                let found: BTreeSet<String> = unclaimed_blocks(&pool, &node(name), &foreign, &reserved)
                    .map(|block| block.to_string())
                    .collect();
                assert_eq!(found, expected.iter().map(|text| (*text).to_owned()).collect(), "{reserved:?}");
            }
        };
        check(&["10.0.0.0/26"], &["10.0.0.64/26", "10.0.0.128/26", "10.0.0.192/26"]);
        check(&["10.0.0.0/26", "10.0.0.64/27", "10.0.0.96/27"], &["10.0.0.128/26", "10.0.0.192/26"]);
        check(&["10.0.0.0/25", "10.0.0.128/27"], &["10.0.0.128/26", "10.0.0.192/26"]);
        check(&["10.0.0.0/8"], &[]);
    }

    #[test]
    fn taken_blocks_of_any_size_are_no_candidates() {
        let check = |taken: &[&str], expected: usize| {
            let pool = pool("10.0.0.0/24", 26);
            let mut foreign = ForeignBlocks::default();
            for text in taken {
                foreign.insert(text.parse().unwrap(), node("other"));
            }
            let reserved = Reservations::default();
            let found: Vec<Cidr> = unclaimed_blocks(&pool, &node("n"), &foreign, &reserved).collect();
            assert_eq!(found.len(), expected, "{taken:?}");
            assert!(found.iter().all(|block| !foreign.overlaps(block)), "{taken:?}");
        };
        check(&["10.0.0.0/26"], 3);
        check(&["10.0.0.8/29"], 3);
        check(&["10.0.0.8/29", "10.0.0.16/29", "10.0.0.192/26"], 2);
        check(&["10.0.0.0/23"], 0);
        check(&["10.0.1.0/26"], 4);
    }

    #[test]
    fn a_nested_foreign_block_stays_taken_when_the_one_around_it_goes() {
        let mut foreign = ForeignBlocks::default();
        let (outer, inner): (Cidr, Cidr) = ("10.0.0.0/26".parse().unwrap(), "10.0.0.8/29".parse().unwrap());
        foreign.insert(outer, node("a"));
        foreign.insert(inner, node("b"));
        let owner = |foreign: &ForeignBlocks, at: &str| {
            foreign.owner_of(at.parse().unwrap()).map(|(block, owner)| (block, owner.as_str().to_owned()))
        };
        assert_eq!(owner(&foreign, "10.0.0.9"), Some((inner, "b".to_owned())));
        assert_eq!(owner(&foreign, "10.0.0.16"), Some((outer, "a".to_owned())));
        let mut without_outer = foreign.clone();
        assert_eq!(without_outer.remove(&outer), Some(node("a")));
        assert_eq!(owner(&without_outer, "10.0.0.9"), Some((inner, "b".to_owned())));
        assert_eq!(owner(&without_outer, "10.0.0.16"), None);
        assert_eq!(foreign.remove(&inner), Some(node("b")));
        assert_eq!(owner(&foreign, "10.0.0.9"), Some((outer, "a".to_owned())));
        assert_eq!(foreign.remove(&inner), None);
    }
}
