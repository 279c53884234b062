//! What is kept of the blocks of all nodes: a row of numbers for each, since there may be tens of thousands.
//!
//! Names and UIDs of owners, borrowers and pools are kept once and meant by their place. What a row says is decided
//! elsewhere; here it is kept, and which blocks have changed since somebody asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::Ipv6Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipam::protocol::{BlockObject, Loan, LoanState, NodeId, Nonce, ObjectRevision, Seen};
use model::{Cidr, Family, PoolName};
use store::resource::IpBlock;
use store::{Revision, Versioned};
use tracing::warn;

use super::mirror::Keep;

/// The blocks. One for each agent, in the copy of the kind.
#[derive(Debug, Default)]
pub struct BlockTable {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<Cidr, Row>,
    nodes: Places<NodeId>,
    pools: Places<(PoolName, String)>,
    ipv6s: Places<Option<Ipv6Addr>>,
    changed: BTreeSet<Cidr>,
    /// Whether a block that was there says another address of its owner, or one for the first time.
    ipv6_changed: bool,
}

/// One block. Without loans, as nearly all are, nothing of it lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    owner: u32,
    pool: u32,
    nonce: Nonce,
    revision: Revision,
    deleted: bool,
    /// Place of what the owner says of its own address.
    ipv6: u32,
    loans: Option<Box<[Loan]>>,
}

/// What the copy was told of one block.
#[derive(Debug)]
pub struct Told {
    object: BlockObject,
    revision: Revision,
    deleted: bool,
    ipv6: Option<Ipv6Addr>,
}

/// A range that a node serves: its block, or an address lent to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The range.
    pub cidr: Cidr,
    /// Place of the node among [`Ranges::nodes`].
    pub node: u32,
    /// Place of the pool among [`Ranges::pools`].
    pub pool: u32,
}

/// Every range that is served by anybody.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// Blocks and granted loans, in order of address.
    pub served: Vec<Served>,
    /// Nodes, by place.
    pub nodes: Vec<NodeId>,
    /// Pools and their UIDs, by place.
    pub pools: Vec<(PoolName, String)>,
    /// IPv6 addresses of owners, as they say themselves, by place of the node.
    pub ipv6: BTreeMap<u32, Ipv6Addr>,
}

/// Values that are kept once.
#[derive(Debug)]
struct Places<T> {
    values: Vec<T>,
    by_value: HashMap<T, u32>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { values: Vec::new(), by_value: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Places<T> {
    fn of(&mut self, value: &T) -> u32 {
        if let Some(place) = self.by_value.get(value) {
            return *place;
        }
        let place = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        self.values.push(value.clone());
        self.by_value.insert(value.clone(), place);
        place
    }

    fn at(&self, place: u32) -> Option<&T> {
        self.values.get(usize::try_from(place).ok()?)
    }
}

impl Inner {
    fn insert(&mut self, told: Told) {
        let Told { object, revision, deleted, ipv6 } = told;
        let row = Row {
            owner: self.nodes.of(&object.owner),
            pool: self.pools.of(&(object.pool, object.pool_uid)),
            nonce: object.nonce,
            revision,
            deleted,
            ipv6: self.ipv6s.of(&ipv6),
            loans: Some(object.loans.into_boxed_slice()).filter(|loans| !loans.is_empty()),
        };
        let before = self.rows.get(&object.cidr);
        self.ipv6_changed |= before.is_some_and(|before| before.ipv6 != row.ipv6);
        if before != Some(&row) {
            self.changed.insert(object.cidr);
            self.rows.insert(object.cidr, row);
        }
    }

    fn seen(&self, cidr: &Cidr, row: &Row) -> Option<Seen> {
        let (pool, pool_uid) = self.pools.at(row.pool)?.clone();
        let object = BlockObject {
            cidr: *cidr,
            pool,
            pool_uid,
            owner: self.nodes.at(row.owner)?.clone(),
            nonce: row.nonce,
            loans: row.loans.as_deref().unwrap_or_default().to_vec(),
        };
        Some(Seen { revision: ObjectRevision(row.revision.get()), object })
    }
}

impl BlockTable {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block as last seen.
    #[must_use]
    pub fn get(&self, cidr: &Cidr) -> Option<Seen> {
        let inner = self.lock();
        inner.rows.get(cidr).and_then(|row| inner.seen(cidr, row))
    }

    /// The blocks of owners that are asked for.
    #[must_use]
    pub fn of_owners(&self, wanted: impl Fn(&NodeId) -> bool) -> Vec<(Cidr, Seen)> {
        let inner = self.lock();
        let wanted: Vec<bool> = inner.nodes.values.iter().map(wanted).collect();
        let is_wanted =
            |row: &Row| usize::try_from(row.owner).is_ok_and(|place| wanted.get(place) == Some(&true));
        let rows = inner.rows.iter().filter(|(_, row)| is_wanted(row));
        rows.filter_map(|(cidr, row)| Some((*cidr, inner.seen(cidr, row)?))).collect()
    }

    /// The blocks of the pool of this name, and whose they are.
    #[must_use]
    pub fn of_pool(&self, name: &PoolName) -> Vec<(Cidr, NodeId)> {
        let inner = self.lock();
        let is_of_pool = |row: &Row| inner.pools.at(row.pool).is_some_and(|(pool, _)| pool == name);
        let rows = inner.rows.iter().filter(|(_, row)| is_of_pool(row));
        rows.filter_map(|(cidr, row)| Some((*cidr, inner.nodes.at(row.owner)?.clone()))).collect()
    }

    /// The blocks that changed since this was asked last, each as it is now; `None`: it is gone.
    #[must_use]
    pub fn take_changed(&self) -> Vec<(Cidr, Option<Seen>)> {
        let mut inner = self.lock();
        let changed = std::mem::take(&mut inner.changed);
        let now = |cidr: Cidr| {
            let seen = inner.rows.get(&cidr).and_then(|row| inner.seen(&cidr, row));
            (cidr, seen)
        };
        changed.into_iter().map(now).collect()
    }

    /// Whether any owner has said another address since this was asked last: nothing else of a view changes by that.
    #[must_use]
    pub fn take_ipv6_changed(&self) -> bool {
        std::mem::take(&mut self.lock().ipv6_changed)
    }

    /// Blocks that somebody wishes deleted.
    #[must_use]
    pub fn deleted(&self) -> BTreeSet<Cidr> {
        self.lock().rows.iter().filter(|(_, row)| row.deleted).map(|(cidr, _)| *cidr).collect()
    }

    /// Whether a node has any block of IPv6.
    #[must_use]
    pub fn serves_ipv6(&self, owner: &NodeId) -> bool {
        let inner = self.lock();
        let Some(place) = inner.nodes.by_value.get(owner) else { return false };
        inner.rows.iter().any(|(cidr, row)| row.owner == *place && cidr.family() == Family::V6)
    }

    /// Own blocks of IPv6 that say another address of their owner than this one, or none.
    #[must_use]
    pub fn telling_otherwise(&self, owner: &NodeId, ipv6: Ipv6Addr) -> Vec<Cidr> {
        let inner = self.lock();
        let tells_otherwise = |row: &Row| {
            inner.nodes.at(row.owner) == Some(owner) && inner.ipv6s.at(row.ipv6) != Some(&Some(ipv6))
        };
        let of_ipv6 = inner.rows.iter().filter(|(cidr, _)| cidr.family() == Family::V6);
        of_ipv6.filter(|(_, row)| tells_otherwise(row)).map(|(cidr, _)| *cidr).collect()
    }

    /// How many blocks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who serves what.
    #[must_use]
    pub fn ranges(&self) -> Ranges {
        let mut inner = self.lock();
        let Inner { rows, nodes, pools, ipv6s, .. } = &mut *inner;
        let mut served = Vec::with_capacity(rows.len());
        let mut ipv6: BTreeMap<u32, (Revision, Ipv6Addr)> = BTreeMap::new();
        for (cidr, row) in rows.iter() {
            if let Some(Some(told)) = ipv6s.at(row.ipv6)
                && ipv6.get(&row.owner).is_none_or(|(revision, _)| *revision < row.revision)
            {
                // Of two words of one node the later counts.
                ipv6.insert(row.owner, (row.revision, *told));
            }
            served.push(Served { cidr: *cidr, node: row.owner, pool: row.pool });
            for loan in row.loans.as_deref().unwrap_or_default() {
                if let LoanState::Granted { address } = loan.state {
                    let (cidr, node) = (Cidr::host(address), nodes.of(&loan.borrower));
                    served.push(Served { cidr, node, pool: row.pool });
                }
            }
        }
        let ipv6 = ipv6.into_iter().map(|(node, (_, told))| (node, told)).collect();
        Ranges { served, nodes: nodes.values.clone(), pools: pools.values.clone(), ipv6 }
    }
}

impl Keep<IpBlock> for BlockTable {
    type Row = Told;

    fn row(&self, object: Versioned<IpBlock>) -> Option<Told> {
        match store::block_of(&object.value) {
            Ok(read) => Some(Told {
                object: read,
                revision: object.revision,
                ipv6: store::told_ipv6(&object.value),
                deleted: object.value.metadata.is_being_deleted(),
            }),
            Err(error) => {
                let name = object.value.metadata.name;
                warn!(name, error, "a block that does not read is passed over");
                None
            }
        }
    }

    fn replace(&self, rows: Vec<Told>) {
        let mut inner = self.lock();
        let there: BTreeSet<Cidr> = rows.iter().map(|told| told.object.cidr).collect();
        let gone: Vec<Cidr> = inner.rows.keys().filter(|cidr| !there.contains(*cidr)).copied().collect();
        for cidr in gone {
            inner.rows.remove(&cidr);
            inner.changed.insert(cidr);
        }
        for told in rows {
            inner.insert(told);
        }
    }

    fn put(&self, told: Told) {
        self.lock().insert(told);
    }

    fn remove(&self, told: Told) {
        let mut inner = self.lock();
        inner.rows.remove(&told.object.cidr);
        inner.changed.insert(told.object.cidr);
    }
}
