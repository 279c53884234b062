//! Pools: ranges of addresses with rules about who gets them and how they travel.
//!
//! A [`Pool`] is valid by construction; a [`PoolTable`] is all pools of the cluster in the order they are tried.
//! Which pools serve a workload is decided in [`choose_pools`](crate::choose_pools), which pools may exist
//! beside each other in [`registry`](crate::registry).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Deref;
use std::time::Duration;

use model::{BlockSize, Cidr, Dscp, Family, IpipMode, Labels, PoolName, TagId};

use crate::ranges::bounds;
use crate::selector::Selector;
use crate::serving::OfFamily;

/// What a pool's addresses may be used for; Calico's `spec.allowedUses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedUses {
    /// Pods.
    pub workload: bool,
    /// Addresses of nodes' own tunnel devices.
    pub tunnel: bool,
}

impl Default for AllowedUses {
    /// Both, as in Calico.
    fn default() -> Self {
        Self { workload: true, tunnel: true }
    }
}

/// Whether a pool serves workloads that did not ask for it; Calico's `spec.assignmentMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssignmentMode {
    /// It does.
    #[default]
    Automatic,
    /// Only those that name the pool or one of its addresses.
    Manual,
}

/// What a pool is made of. Becomes a [`Pool`] by [`Pool::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name.
    pub name: PoolName,
    /// UID of the object; another UID under the same name is another pool.
    pub uid: String,
    /// Its range.
    pub cidr: Cidr,
    /// The size of the blocks it is cut into.
    pub block_size: BlockSize,
    /// When its packets are encapsulated.
    pub ipip_mode: IpipMode,
    /// Whether packets that leave all pools are masqueraded.
    pub nat_outgoing: bool,
    /// Hands out nothing new; what is handed out lives on.
    pub disabled: bool,
    /// Which nodes may claim blocks of it and serve from them.
    pub node_selector: Selector,
    /// The pods of which namespaces it serves.
    pub namespace_selector: Selector,
    /// What its addresses may be used for.
    pub allowed_uses: AllowedUses,
    /// Whether it serves those that did not ask for it.
    pub assignment_mode: AssignmentMode,
    /// Pools of a lower number are tried first; equal numbers by name. 0 when unset.
    pub priority: i32,
    /// What its packets' DSCP is rewritten to; `None`: left as it is.
    pub dscp: Option<Dscp>,
    /// How long a freed address is not handed out.
    pub cooldown: Duration,
    /// Being deleted: hands out nothing new and goes with its last block.
    pub terminating: bool,
    /// Its tag id, once the registry has admitted it.
    pub tag: Option<TagId>,
    /// Why the registry refused it, if it did.
    pub not_admitted: Option<String>,
}

impl PoolSpec {
    /// A spec with the default of every field: /26 or /122 blocks, no encapsulation, no NAT, all nodes, all
    /// namespaces, all uses, automatic, priority 0, no cooldown, not admitted yet.
    ///
    /// A range smaller than the default block is one block.
    #[must_use]
    pub fn new(name: PoolName, cidr: Cidr) -> Self {
        let family = cidr.family();
        let default_size = BlockSize::default_of(family);
        let block_size = BlockSize::new(family, u32::from(cidr.prefix_len().max(default_size.prefix_len())))
            .unwrap_or(default_size);
        Self {
            name,
            uid: String::new(),
            cidr,
            block_size,
            ipip_mode: IpipMode::default(),
            nat_outgoing: false,
            disabled: false,
            node_selector: Selector::all(),
            namespace_selector: Selector::all(),
            allowed_uses: AllowedUses::default(),
            assignment_mode: AssignmentMode::default(),
            priority: 0,
            dscp: None,
            cooldown: Duration::ZERO,
            terminating: false,
            tag: None,
            not_admitted: None,
        }
    }
}

/// A pool whose parts fit together. Reads like its [`PoolSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool(PoolSpec);

/// Why the parts of a pool do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The block size is of the other family.
    #[error("pool {name}: blockSize {prefix_len} is not of the family of {cidr}")]
    BlockFamily {
        /// The pool.
        name: PoolName,
        /// Its range.
        cidr: Cidr,
        /// The block size given.
        prefix_len: u8,
    },
    /// A block would be larger than the pool.
    #[error("pool {name}: blockSize {prefix_len} is larger than the pool {cidr}: expected {} or more", cidr.prefix_len())]
    BlockTooLarge {
        /// The pool.
        name: PoolName,
        /// Its range.
        cidr: Cidr,
        /// The block size given.
        prefix_len: u8,
    },
}

impl Pool {
    /// Checks that blocks are of the pool's family and fit into it.
    ///
    /// # Errors
    /// When they do not.
    pub fn new(spec: PoolSpec) -> Result<Self, PoolError> {
        let (name, cidr, prefix_len) = (spec.name.clone(), spec.cidr, spec.block_size.prefix_len());
        if spec.block_size.block_of(cidr.network()).is_none() {
            return Err(PoolError::BlockFamily { name, cidr, prefix_len });
        }
        if prefix_len < cidr.prefix_len() {
            return Err(PoolError::BlockTooLarge { name, cidr, prefix_len });
        }
        Ok(Self(spec))
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub fn family(&self) -> Family {
        self.cidr.family()
    }

    /// The block of this pool around an address; `None` outside the pool.
    #[must_use]
    pub fn block_of(&self, address: IpAddr) -> Option<Cidr> {
        if self.cidr.contains(address) { self.block_size.block_of(address) } else { None }
    }

    /// Whether `block` is one of the blocks this pool is cut into.
    #[must_use]
    pub fn has_block(&self, block: &Cidr) -> bool {
        self.cidr.covers(block) && self.block_size.prefix_len() == block.prefix_len()
    }

    /// Whether nothing but its selectors can keep it from a workload that asks for no pool by name.
    pub(crate) fn is_open(&self) -> bool {
        let is_closed =
            self.terminating || self.disabled || self.not_admitted.is_some() || self.tag.is_none();
        !is_closed && self.allowed_uses.workload && self.assignment_mode == AssignmentMode::Automatic
    }

    /// Gives the parts back, to change them.
    #[must_use]
    pub fn into_spec(self) -> PoolSpec {
        self.0
    }
}

impl Deref for Pool {
    type Target = PoolSpec;

    fn deref(&self) -> &PoolSpec {
        &self.0
    }
}

/// All pools of the cluster in the order they are tried: by priority, then by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolTable {
    pools: Vec<Pool>,
    by_name: BTreeMap<PoolName, usize>,
    by_cidr: BTreeMap<Cidr, Vec<usize>>,
    /// Lengths of prefixes in use: an address is looked up once for each, longest first.
    lengths: BTreeSet<(Family, u8)>,
    v4: OfFamily,
    v6: OfFamily,
}

impl PoolTable {
    /// Sorts pools. Of two with one name the later one counts.
    #[must_use]
    pub fn new(pools: impl IntoIterator<Item = Pool>) -> Self {
        let unique: BTreeMap<PoolName, Pool> =
            pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect();
        let mut pools: Vec<Pool> = unique.into_values().collect();
        // Stable, so names stay in order within a priority.
        pools.sort_by_key(|pool| pool.priority);
        let mut table = Self { pools, ..Self::default() };
        for (index, pool) in table.pools.iter().enumerate() {
            table.by_name.insert(pool.name.clone(), index);
            table.by_cidr.entry(pool.cidr).or_default().push(index);
            table.lengths.insert((pool.family(), pool.cidr.prefix_len()));
            match pool.family() {
                Family::V4 => table.v4.push(index, pool),
                Family::V6 => table.v6.push(index, pool),
            }
        }
        table
    }

    /// In the order they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> + '_ {
        self.pools.iter()
    }

    /// Those of a family, in the order they are tried.
    pub fn of_family(&self, family: Family) -> impl Iterator<Item = &Pool> + '_ {
        self.family(family).all().filter_map(|index| self.pools.get(index))
    }

    /// The pools of a family that serve a workload which asks for none by name, on a node and in a namespace with
    /// these labels, in the order they are tried: those of [`choose_pools`](crate::choose_pools), found without a
    /// word about the others.
    pub fn serving<'a>(
        &'a self,
        family: Family,
        node_labels: &'a Labels,
        namespace_labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Pool> + 'a {
        let serving = self.family(family).serving(node_labels, namespace_labels);
        serving.filter_map(|index| self.pools.get(index))
    }

    fn family(&self, family: Family) -> &OfFamily {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pools.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// The pool of a name.
    #[must_use]
    pub fn by_name(&self, name: &PoolName) -> Option<&Pool> {
        self.by_name.get(name).and_then(|&index| self.pools.get(index))
    }

    /// The pool of exactly this range; an admitted one before others.
    #[must_use]
    pub fn by_cidr(&self, cidr: &Cidr) -> Option<&Pool> {
        let candidates =
            || self.by_cidr.get(cidr).into_iter().flatten().filter_map(|&index| self.pools.get(index));
        candidates().find(|pool| pool.tag.is_some()).or_else(|| candidates().next())
    }

    /// The pool around an address: an admitted one before others, then the most specific.
    #[must_use]
    pub fn by_address(&self, address: IpAddr) -> Option<&Pool> {
        let family = Family::of(address);
        let mut around = None;
        for &(_, length) in self.lengths.range((family, 0)..=(family, u8::MAX)).rev() {
            let found = Cidr::containing(address, length).and_then(|cidr| self.by_cidr(&cidr));
            match found {
                Some(pool) if pool.tag.is_some() => return Some(pool),
                Some(pool) => around = around.or(Some(pool)),
                None => {}
            }
        }
        around
    }

    /// The pool a user means by a name or by a range.
    #[must_use]
    pub fn by_name_or_cidr(&self, text: &str) -> Option<&Pool> {
        let by_name = text.parse().ok().and_then(|name| self.by_name(&name));
        by_name.or_else(|| text.parse().ok().and_then(|cidr| self.by_cidr(&cidr)))
    }
}

/// Two pools that share addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The one that serves: created earlier, or of equal age and alphabetically first.
    pub older: PoolName,
    /// The one that does not.
    pub younger: PoolName,
}

/// Every pair of pools that share addresses, given name, range and age of each.
///
/// The age may be any number that grows with creation, such as a creation time or a revision. Pairs come in
/// the order of the ranges they are found at. Costs n log n and the number of pairs.
#[must_use]
pub fn check_overlap<'a>(pools: impl IntoIterator<Item = (&'a PoolName, Cidr, u64)>) -> Vec<Overlap> {
    let mut sorted: Vec<_> = pools.into_iter().collect();
    sorted.sort_by_key(|&(name, cidr, _)| (cidr, name));
    let mut overlaps = Vec::new();
    // Prefixes nest or are disjoint, so those that are open form a stack of ever smaller ones.
    let mut open: Vec<(&PoolName, Cidr, u64)> = Vec::new();
    for (name, cidr, created) in sorted {
        while open
            .last()
            .is_some_and(|(_, outer, _)| outer.family() != cidr.family() || bounds(outer).1 < bounds(&cidr).0)
        {
            open.pop();
        }
        for &(other, _, other_created) in &open {
            let (older, younger) =
                if (other_created, other) <= (created, name) { (other, name) } else { (name, other) };
            overlaps.push(Overlap { older: older.clone(), younger: younger.clone() });
        }
        open.push((name, cidr, created));
    }
    overlaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, cidr: &str, priority: i32, tag: Option<u16>) -> Pool {
        let mut spec = PoolSpec::new(name.parse().unwrap(), cidr.parse().unwrap());
        spec.priority = priority;
        spec.tag = tag.and_then(TagId::new);
        Pool::new(spec).unwrap()
    }

    #[test]
    fn blocks_fit_into_their_pool() {
        let check = |cidr: &str, family, len, expected: Option<&str>| {
            let mut spec = PoolSpec::new("p".parse().unwrap(), cidr.parse().unwrap());
            spec.block_size = BlockSize::new(family, len).unwrap();
            assert_eq!(
                Pool::new(spec).err().map(|error| error.to_string()).as_deref(),
                expected,
                "{cidr} {len}"
            );
        };
        check("10.0.0.0/26", Family::V4, 26, None);
        check("10.0.0.0/26", Family::V4, 32, None);
        check("fd00::/64", Family::V6, 122, None);
        let large = "pool p: blockSize 25 is larger than the pool 10.0.0.0/26: expected 26 or more";
        check("10.0.0.0/26", Family::V4, 25, Some(large));
        check(
            "10.0.0.0/26",
            Family::V6,
            122,
            Some("pool p: blockSize 122 is not of the family of 10.0.0.0/26"),
        );
    }

    #[test]
    fn a_pool_smaller_than_the_default_block_is_one_block() {
        for (cidr, len) in [("10.0.0.0/16", 26), ("10.0.0.0/28", 28), ("fd00::/64", 122), ("fd00::/127", 127)]
        {
            let spec = PoolSpec::new("p".parse().unwrap(), cidr.parse().unwrap());
            assert_eq!(Pool::new(spec).unwrap().block_size.prefix_len(), len, "{cidr}");
        }
    }

    #[test]
    fn a10_pools_are_sorted_by_priority_then_name() {
        let table = PoolTable::new([
            pool("c", "10.0.0.0/24", 0, None),
            pool("b", "10.0.1.0/24", 5, None),
            pool("a", "10.0.2.0/24", 5, None),
            pool("z", "10.0.3.0/24", -1, None),
        ]);
        let names: Vec<_> = table.iter().map(|pool| pool.name.as_str()).collect();
        assert_eq!(names, ["z", "c", "a", "b"]);
    }

    #[test]
    fn a_pool_is_found_by_name_range_and_address() {
        let table = PoolTable::new([
            pool("a", "10.0.0.0/16", 0, Some(1)),
            pool("inner", "10.0.1.0/24", 0, None),
            pool("twin", "10.0.0.0/16", -1, None),
            pool("six", "fd00::/64", 0, Some(2)),
        ]);
        let name = |pool: Option<&Pool>| pool.map(|pool| pool.name.as_str().to_owned()).unwrap_or_default();
        assert_eq!(name(table.by_name_or_cidr("inner")), "inner");
        assert_eq!(name(table.by_name_or_cidr("10.0.1.0/24")), "inner");
        assert_eq!(name(table.by_name_or_cidr("10.0.0.0/16")), "a");
        assert_eq!(name(table.by_name_or_cidr("10.0.0.0/17")), "");
        assert_eq!(name(table.by_name_or_cidr("No Name")), "");
        // The admitted pool is the one whose address it is, whatever lies inside it without being admitted.
        assert_eq!(name(table.by_address("10.0.1.1".parse().unwrap())), "a");
        assert_eq!(name(table.by_address("fd00::1".parse().unwrap())), "six");
        assert_eq!(name(table.by_address("10.1.0.0".parse().unwrap())), "");
    }

    #[test]
    fn the_older_of_two_overlapping_pools_is_named_then_the_alphabetically_first() {
        let check = |pools: &[(&str, &str, u64)], expected: &[(&str, &str)]| {
            let named: Vec<(PoolName, Cidr, u64)> = pools
                .iter()
                .map(|(name, cidr, age)| (name.parse().unwrap(), cidr.parse().unwrap(), *age))
                .collect();
            let found: Vec<_> = check_overlap(named.iter().map(|(name, cidr, age)| (name, *cidr, *age)))
                .into_iter()
                .map(|overlap| (overlap.older.to_string(), overlap.younger.to_string()))
                .collect();
            let expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            assert_eq!(found, expected, "{pools:?}");
        };
        check(&[("a", "10.0.0.0/24", 2), ("b", "10.0.1.0/24", 1)], &[]);
        check(&[("a", "10.0.0.0/24", 2), ("b", "10.0.0.0/26", 1)], &[("b", "a")]);
        check(&[("b", "10.0.0.0/24", 1), ("a", "10.0.0.0/24", 1)], &[("a", "b")]);
        check(
            &[
                ("a", "10.0.0.0/8", 1),
                ("b", "10.0.0.0/16", 2),
                ("c", "10.0.0.0/24", 3),
                ("d", "10.1.0.0/16", 0),
            ],
            &[("a", "b"), ("a", "c"), ("b", "c"), ("d", "a")],
        );
        check(&[("a", "0.0.0.0/0", 1), ("b", "::/0", 2)], &[]);
    }
}
