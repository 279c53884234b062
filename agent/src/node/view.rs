//! What decisions need to know of the cluster, as one value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipam::protocol::{NodeId, Seen};
use ipam::{ClusterView, ForeignBlocks, Pool, PoolTable, Registry, Reservations, Settings};
use model::{Cidr, Labels, TagId};

/// What decisions need to know, at one moment. Copies share their parts.
#[derive(Clone, Debug)]
pub struct View {
    /// All pools in the order they are tried. A pool without a tag does not serve yet.
    pub pools: Arc<PoolTable>,
    /// The registry.
    pub registry: Arc<Registry>,
    /// All reservations.
    pub reservations: Arc<Reservations>,
    /// Blocks of other nodes.
    pub foreign: Arc<ForeignBlocks>,
    /// Objects of blocks that may concern this node: its own, those with loans, and those of nodes that are not there.
    pub objects: Arc<BTreeMap<Cidr, Seen>>,
    /// Every node; `None` where there are no Node objects.
    pub nodes: Option<Arc<BTreeSet<NodeId>>>,
    /// This node, by the UID of its Node object; the last one if there is none now.
    pub me: NodeId,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// How decisions are made.
    pub settings: Settings,
}

impl View {
    /// As the allocator wants it.
    #[must_use]
    pub fn cluster(&self) -> ClusterView<'_> {
        ClusterView {
            pools: &self.pools,
            reservations: &self.reservations,
            foreign: &self.foreign,
            node: &self.me.name,
            node_labels: &self.labels,
            settings: &self.settings,
        }
    }

    /// What else of the cluster the protocol wants to know.
    #[must_use]
    pub fn around(&self) -> ipam::protocol::Surroundings<'_> {
        ipam::protocol::Surroundings { objects: &self.objects, nodes: self.nodes.as_deref() }
    }

    /// What the kernel shall know of pools: all admitted ones, disabled and terminating ones as well, since pods of
    /// them may live on.
    #[must_use]
    pub fn desired_pools(&self) -> Vec<dataplane::Pool> {
        let of_entry = |entry: &ipam::RegistryEntry| {
            let spec = self.pools.by_name(&entry.name).filter(|pool| pool.uid == entry.uid);
            dataplane::Pool {
                cidr: entry.cidr,
                tag: entry.tag,
                nat_outgoing: spec.is_some_and(|pool| pool.nat_outgoing),
                dscp: spec.and_then(|pool| pool.dscp),
            }
        };
        self.registry.entries().map(of_entry).collect()
    }

    /// The pool of a tag id.
    #[must_use]
    pub fn pool_of_tag(&self, tag: TagId) -> Option<&Pool> {
        let entry = self.registry.entries().find(|entry| entry.tag == tag)?;
        self.pools.by_name(&entry.name)
    }

    /// The same, with the pool around a block disabled.
    #[must_use]
    pub fn without_pool_of(&self, block: &Cidr) -> Self {
        let pools = self.pools.iter().filter_map(|pool| {
            if !pool.cidr.covers(block) {
                return Some(pool.clone());
            }
            let mut spec = pool.clone().into_spec();
            spec.disabled = true;
            Pool::new(spec).ok()
        });
        Self { pools: Arc::new(PoolTable::new(pools)), ..self.clone() }
    }

    /// Whether a block may concern this node: see [`View::objects`].
    fn is_concerned(&self, seen: &Seen) -> bool {
        let object = &seen.object;
        let is_gone = self.nodes.as_ref().is_some_and(|nodes| !nodes.contains(&object.owner));
        object.owner.name == self.me.name || is_gone || !object.loans.is_empty()
    }

    /// Takes in one block; `None`: it is gone. Whether that is news.
    pub(super) fn put_block(&mut self, cidr: Cidr, seen: Option<Seen>) -> bool {
        let owner = seen.as_ref().map(|seen| &seen.object.owner).filter(|owner| **owner != self.me);
        let owner = owner.map(|owner| owner.name.clone());
        let mut news = false;
        if self.foreign.owner_of_block(&cidr) != owner.as_ref() {
            news = true;
            let foreign = Arc::make_mut(&mut self.foreign);
            match owner {
                Some(owner) => foreign.insert(cidr, owner),
                None => drop(foreign.remove(&cidr)),
            }
        }
        let seen = seen.filter(|seen| self.is_concerned(seen));
        if self.objects.get(&cidr) != seen.as_ref() {
            news = true;
            let objects = Arc::make_mut(&mut self.objects);
            match seen {
                Some(seen) => drop(objects.insert(cidr, seen)),
                None => drop(objects.remove(&cidr)),
            }
        }
        news
    }
}
