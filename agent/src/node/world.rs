//! What this node knows of the cluster: copies of the store's objects, and what follows from them.
//!
//! The copies are kept up by the store's watch. What decisions need of them ([`View`]) is computed anew when
//! pools, reservations, blocks or the registry change, and handed out as one value, so that a decision never sees
//! half a change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use ipam::protocol::{NodeId, ObjectRevision, Seen};
use ipam::{Candidate, ClusterView, ForeignBlocks, Pool, PoolTable, Registry, Reservations, Settings};
use model::{Cidr, Labels, MarkLayout, NodeName, TagId};
use store::resource::{self, IpBlock, IpPool, IpPoolRegistry, IpReservation, Namespace, Pod};
use store::{Key, Store, StoreError, Versioned, manifest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::admission;
use super::mirror::Mirror;

/// The copies, and the view computed from them. One for each agent.
#[derive(Debug)]
pub struct World {
    /// Pools as written.
    pub pools: Mirror<IpPool>,
    /// Which of them are admitted.
    pub registry: Mirror<IpPoolRegistry>,
    /// Reservations as written.
    pub reservations: Mirror<IpReservation>,
    /// Blocks of all nodes.
    pub blocks: Mirror<IpBlock>,
    /// Namespaces.
    pub namespaces: Mirror<Namespace>,
    /// Pods.
    pub pods: Mirror<Pod>,
    /// Nodes, where there are Node objects.
    pub nodes: Mirror<resource::Node>,
    node: Node,
    /// Pools whose tag the kernel knows: only those serve.
    tagged: RwLock<BTreeSet<(Cidr, TagId)>>,
    view: watch::Sender<Arc<View>>,
}

/// This node, as pools see it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its labels.
    pub labels: Labels,
    /// How tag ids lie in marks; bounds the tag ids there are.
    pub marks: MarkLayout,
    /// How decisions are made.
    pub settings: Settings,
}

/// What decisions need to know, at one moment.
#[derive(Debug)]
pub struct View {
    /// All pools in the order they are tried. A pool without a tag does not serve yet.
    pub pools: PoolTable,
    /// The registry.
    pub registry: Registry,
    /// All reservations.
    pub reservations: Reservations,
    /// Blocks of other nodes.
    pub foreign: ForeignBlocks,
    /// Objects of blocks that may concern this node: its own, those with loans, and those of nodes that are not there.
    pub objects: BTreeMap<Cidr, Seen>,
    /// Every node; `None` where there are no Node objects.
    pub nodes: Option<BTreeSet<NodeId>>,
    /// This node, by the UID of its Node object.
    pub me: NodeId,
    node: Node,
}

impl View {
    /// As the allocator wants it.
    #[must_use]
    pub fn cluster(&self) -> ClusterView<'_> {
        ClusterView {
            pools: &self.pools,
            reservations: &self.reservations,
            foreign: &self.foreign,
            node: &self.node.name,
            node_labels: &self.node.labels,
            settings: &self.node.settings,
        }
    }

    /// What else of the cluster the protocol wants to know.
    #[must_use]
    pub fn around(&self) -> ipam::protocol::Surroundings<'_> {
        ipam::protocol::Surroundings { objects: &self.objects, nodes: self.nodes.as_ref() }
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
}

impl World {
    /// Reads everything once, and follows it until `stop` fires.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start<S: Store>(
        store: &S,
        node: Node,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let empty = View {
            pools: PoolTable::default(),
            registry: Registry::default(),
            reservations: Reservations::default(),
            foreign: ForeignBlocks::default(),
            objects: BTreeMap::new(),
            nodes: None,
            me: NodeId { name: node.name.clone(), uid: String::new() },
            node: node.clone(),
        };
        let world = Arc::new(Self {
            pools: Mirror::start(store, stop).await?,
            registry: Mirror::start(store, stop).await?,
            reservations: Mirror::start(store, stop).await?,
            blocks: Mirror::start(store, stop).await?,
            namespaces: Mirror::start(store, stop).await?,
            pods: Mirror::start(store, stop).await?,
            nodes: Mirror::start(store, stop).await?,
            node,
            tagged: RwLock::default(),
            view: watch::channel(Arc::new(empty)).0,
        });
        world.refresh();
        let (follower, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(follower.follow()).await });
        Ok(world)
    }

    /// The view of this moment.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Tells of every new view.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Says which pools' tags the kernel knows by now; from here on they serve.
    pub fn set_tagged(&self, tagged: BTreeSet<(Cidr, TagId)>) {
        let mut known = self.tagged.write().unwrap_or_else(PoisonError::into_inner);
        if *known != tagged {
            *known = tagged;
            drop(known);
            self.refresh();
        }
    }

    /// Computes the view from the copies as they are now.
    pub fn refresh(&self) {
        self.view.send_replace(Arc::new(self.compute()));
    }

    async fn follow(&self) {
        let mut pools = self.pools.changes();
        let mut registry = self.registry.changes();
        let mut reservations = self.reservations.changes();
        let mut blocks = self.blocks.changes();
        let mut nodes = self.nodes.changes();
        loop {
            // The senders live in the copies, which live as long as `self`.
            let _ = tokio::select! {
                biased;
                change = pools.changed() => change,
                change = registry.changed() => change,
                change = reservations.changed() => change,
                change = blocks.changed() => change,
                change = nodes.changed() => change,
            };
            self.refresh();
        }
    }

    fn compute(&self) -> View {
        let registry = admission::registry_of(self.stored_registry().as_ref()).unwrap_or_else(|error| {
            warn!(%error, "no pool serves");
            Registry::default()
        });
        let tagged = self.tagged.read().unwrap_or_else(PoisonError::into_inner);
        let pools = self
            .pools
            .read()
            .values()
            .filter_map(|object| self.pool(object, &registry, &tagged))
            .collect::<Vec<_>>();
        let mut reserved = Vec::new();
        for object in self.reservations.read().values() {
            match manifest::ranges_of(&object.value) {
                Ok(ranges) => {
                    let name = &object.value.metadata.name;
                    reserved.extend(ranges.into_iter().map(|range| (name.clone(), range)));
                }
                Err(errors) => {
                    warn!(name = object.value.metadata.name, ?errors, "a reservation is passed over");
                }
            }
        }
        let nodes = self.node_ids();
        let me = nodes.iter().flatten().find(|node| node.name == self.node.name).cloned();
        let me = me.unwrap_or_else(|| NodeId { name: self.node.name.clone(), uid: String::new() });
        let (mut foreign, mut objects) = (ForeignBlocks::default(), BTreeMap::new());
        for stored in self.blocks.read().values() {
            let object = match store::block_of(&stored.value) {
                Ok(object) => object,
                Err(error) => {
                    warn!(
                        name = stored.value.metadata.name,
                        error, "a block that does not read is passed over"
                    );
                    continue;
                }
            };
            let of_this_name = object.owner.name == self.node.name;
            if object.owner != me {
                foreign.insert(object.cidr, object.owner.name.clone());
            }
            let is_gone = nodes.as_ref().is_some_and(|nodes| !nodes.contains(&object.owner));
            if of_this_name || is_gone || !object.loans.is_empty() {
                let revision = ObjectRevision(stored.revision.get());
                objects.insert(object.cidr, Seen { revision, object });
            }
        }
        View {
            pools: PoolTable::new(pools),
            registry,
            reservations: Reservations::new(reserved),
            foreign,
            objects,
            nodes,
            me,
            node: self.node.clone(),
        }
    }

    /// Every node by name and UID; `None` where there are no Node objects.
    fn node_ids(&self) -> Option<BTreeSet<NodeId>> {
        let nodes = self.nodes.read();
        let id = |node: &Versioned<resource::Node>| {
            let name = node.value.metadata.name.parse().ok()?;
            Some(NodeId { name, uid: node.uid.clone() })
        };
        (!nodes.is_empty()).then(|| nodes.values().filter_map(id).collect())
    }

    /// The registry object, if there is one.
    #[must_use]
    pub fn stored_registry(&self) -> Option<Versioned<IpPoolRegistry>> {
        self.registry.get(&Key::named(IpPoolRegistry::NAME).ok()?)
    }

    fn pool(
        &self,
        object: &Versioned<IpPool>,
        registry: &Registry,
        tagged: &BTreeSet<(Cidr, TagId)>,
    ) -> Option<Pool> {
        let mut spec = match manifest::pool_of(&object.value) {
            Ok(pool) => pool.into_spec(),
            Err(errors) => {
                warn!(name = object.value.metadata.name, ?errors, "a pool is passed over");
                return None;
            }
        };
        spec.uid.clone_from(&object.uid);
        match registry.entry(&spec.name).filter(|entry| entry.uid == spec.uid && entry.cidr == spec.cidr) {
            Some(entry) => {
                spec.terminating = entry.terminating;
                spec.tag = Some(entry.tag).filter(|tag| tagged.contains(&(entry.cidr, *tag)));
            }
            None => {
                let candidate = Candidate {
                    name: spec.name.clone(),
                    uid: spec.uid.clone(),
                    cidr: spec.cidr,
                    block_size: spec.block_size,
                };
                let refusal = registry.admit(&candidate, self.node.marks.max_tag_id()).err();
                spec.not_admitted = refusal.map(|refusal| refusal.to_string());
            }
        }
        Pool::new(spec).ok()
    }
}
