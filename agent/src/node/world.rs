//! What this node knows of the cluster: copies of the store's objects, and what follows from them.
//!
//! The copies are kept up by the store's watch. What decisions need of them ([`View`]) is handed out as one value, so that
//! a decision never sees half a change. Its parts are computed anew when what they follow from has changed; of blocks,
//! of which there may be tens of thousands, only those that changed are looked at.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ipam::protocol::NodeId;
use ipam::{Candidate, Pool, PoolTable, Registry, Reservations, Settings};
use model::{Cidr, Labels, MarkLayout, NodeName, TagId};
use store::resource::{self, IpBlock, IpPool, IpPoolRegistry, IpReservation, IpamConfig, Namespace, Pod};
use store::{Key, Revision, Store, StoreError, Versioned, manifest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::admission;
use super::blocks::BlockTable;
use super::mirror::{Mirror, NodesCount, Whole, part_of};
use super::nodes::NodeTable;
pub use super::view::View;
use crate::config::settings_of_cluster;
use crate::journal::{ObjectRecord, Snapshot};

/// How long the store may take to be read at a start before what is remembered counts.
const LOAD_LIMIT: Duration = Duration::from_secs(10);

/// How long between tries to read the store at a start, in the mean.
const LOAD_AGAIN: Duration = Duration::from_secs(1);

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
    pub blocks: Mirror<IpBlock, BlockTable>,
    /// Namespaces.
    pub namespaces: Mirror<Namespace>,
    /// Pods; where the store can tell, only those of this node.
    pub pods: Mirror<Pod>,
    /// Settings of the whole cluster, if there are any.
    pub ipam_config: Mirror<IpamConfig>,
    /// Nodes, where there are Node objects.
    pub nodes: Mirror<resource::Node, NodeTable>,
    node: Node,
    /// Pools whose tag the kernel knows: only those serve.
    tagged: RwLock<Tagged>,
    /// What the view was computed from. Locked before the view.
    inputs: Mutex<Inputs>,
    view: RwLock<Arc<View>>,
    /// Counts views.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Tagged {
    pools: BTreeSet<(Cidr, TagId)>,
    generation: u64,
}

/// Generations of what the view was computed from.
#[derive(Debug, Default)]
struct Inputs {
    pools: u64,
    registry: u64,
    tagged: u64,
    reservations: u64,
    ipam_config: u64,
    nodes: u64,
}

/// This node, as it is configured.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its labels; `None`: those of its Node object.
    pub labels: Option<Labels>,
    /// How tag ids lie in marks; bounds the tag ids there are.
    pub marks: MarkLayout,
    /// How decisions are made.
    pub settings: Settings,
}

/// How far each kind was read.
#[derive(Clone, Copy, Debug)]
struct Positions {
    pools: Revision,
    registry: Revision,
    reservations: Revision,
    blocks: Revision,
    namespaces: Revision,
    pods: Revision,
    ipam_config: Revision,
    nodes: Revision,
}

impl World {
    /// Reads everything once, and follows it until `stop` fires. A store that does not answer is waited for, unless an
    /// earlier agent of this boot left what it knew: then that counts until the store is read.
    ///
    /// # Errors
    /// The store is broken.
    pub async fn start<S: Store>(
        store: &S,
        node: Node,
        memory: Option<Snapshot>,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let remembers = memory.is_some();
        let world = Arc::new(Self::empty(node));
        if let Some(memory) = memory {
            world.remember(memory);
        }
        let mut told = false;
        let positions = loop {
            let loaded = match tokio::time::timeout(LOAD_LIMIT, world.load(store)).await {
                Err(_) if remembers => break None,
                // Without a limit, once nothing else is left.
                Err(_) => world.load(store).await,
                Ok(loaded) => loaded,
            };
            match loaded {
                Ok(positions) => break Some(positions),
                Err(StoreError::Unavailable { .. }) if remembers => break None,
                Err(error @ StoreError::Unavailable { .. }) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, "waiting for the store: nothing of this boot is known to serve from");
                    }
                    tokio::time::sleep(LOAD_AGAIN / 2 + part_of(LOAD_AGAIN, store.random())).await;
                }
                Err(error) => return Err(error),
            }
        };
        let nodes = world.nodes.clone();
        let nodes_count: NodesCount = Arc::new(move || nodes.kept().read().rows.len());
        world.pools.spawn(store, positions.map(|at| at.pools), &nodes_count, stop);
        world.registry.spawn(store, positions.map(|at| at.registry), &nodes_count, stop);
        world.reservations.spawn(store, positions.map(|at| at.reservations), &nodes_count, stop);
        world.blocks.spawn(store, positions.map(|at| at.blocks), &nodes_count, stop);
        world.namespaces.spawn(store, positions.map(|at| at.namespaces), &nodes_count, stop);
        world.pods.spawn(store, positions.map(|at| at.pods), &nodes_count, stop);
        world.ipam_config.spawn(store, positions.map(|at| at.ipam_config), &nodes_count, stop);
        world.nodes.spawn(store, positions.map(|at| at.nodes), &nodes_count, stop);
        world.refresh();
        let (follower, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(follower.follow()).await });
        Ok(world)
    }

    fn empty(node: Node) -> Self {
        let view = View {
            pools: Arc::default(),
            registry: Arc::default(),
            reservations: Arc::default(),
            foreign: Arc::default(),
            objects: Arc::default(),
            nodes: None,
            me: NodeId { name: node.name.clone(), uid: String::new() },
            labels: Arc::new(node.labels.clone().unwrap_or_default()),
            settings: node.settings,
        };
        Self {
            pools: Mirror::new(Whole::default()),
            registry: Mirror::new(Whole::default()),
            reservations: Mirror::new(Whole::default()),
            blocks: Mirror::new(BlockTable::default()),
            namespaces: Mirror::new(Whole::default()),
            pods: Mirror::new(Whole::default()),
            ipam_config: Mirror::new(Whole::default()),
            nodes: Mirror::new(NodeTable::new(node.name.clone())),
            node,
            tagged: RwLock::default(),
            inputs: Mutex::default(),
            view: RwLock::new(Arc::new(view)),
            changed: watch::channel(0).0,
        }
    }

    /// Takes in what an earlier agent of this boot knew.
    fn remember(&self, memory: Snapshot) {
        fn objects<R>(records: Vec<ObjectRecord<R>>) -> impl Iterator<Item = Versioned<R>> {
            records.into_iter().map(Versioned::from)
        }
        self.pools.remember(objects(memory.pools));
        self.registry.remember(objects(memory.registry));
        self.reservations.remember(objects(memory.reservations));
        self.blocks.remember(objects(memory.blocks));
        self.namespaces.remember(objects(memory.namespaces));
        self.pods.remember(objects(memory.pods));
        self.ipam_config.remember(objects(memory.ipam_config));
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let view = Arc::make_mut(&mut *slot);
        view.me.uid = memory.node_uid;
        if self.node.labels.is_none() {
            view.labels = Arc::new(memory.node_labels);
        }
    }

    async fn load<S: Store>(&self, store: &S) -> Result<Positions, StoreError> {
        Ok(Positions {
            pools: self.pools.relist(store).await?,
            registry: self.registry.relist(store).await?,
            reservations: self.reservations.relist(store).await?,
            nodes: self.nodes.relist(store).await?,
            blocks: self.blocks.relist(store).await?,
            namespaces: self.namespaces.relist(store).await?,
            pods: self.pods.relist(store).await?,
            ipam_config: self.ipam_config.relist(store).await?,
        })
    }

    /// Whether everything was read at least once: from then on what is not known is not there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pools.is_loaded()
            && self.registry.is_loaded()
            && self.blocks.is_loaded()
            && self.nodes.is_loaded()
            && self.reservations.is_loaded()
    }

    /// Returns when this node has a Node object.
    pub async fn registered(&self) {
        let mut nodes = self.nodes.changes();
        loop {
            self.refresh();
            if !self.view().me.uid.is_empty() {
                return;
            }
            // The sender lives as long as `self`.
            let _ = nodes.changed().await;
        }
    }

    /// The view of this moment.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of every new view.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says which pools' tags the kernel knows by now; from here on they serve.
    pub fn set_tagged(&self, pools: BTreeSet<(Cidr, TagId)>) {
        let mut known = self.tagged.write().unwrap_or_else(PoisonError::into_inner);
        if known.pools != pools {
            known.pools = pools;
            known.generation += 1;
            drop(known);
            self.refresh();
        }
    }

    async fn follow(&self) {
        let mut pools = self.pools.changes();
        let mut registry = self.registry.changes();
        let mut reservations = self.reservations.changes();
        let mut blocks = self.blocks.changes();
        let mut nodes = self.nodes.changes();
        let mut ipam_config = self.ipam_config.changes();
        loop {
            // The senders live in the copies, which live as long as `self`.
            let _ = tokio::select! {
                biased;
                change = pools.changed() => change,
                change = registry.changed() => change,
                change = reservations.changed() => change,
                change = blocks.changed() => change,
                change = nodes.changed() => change,
                change = ipam_config.changed() => change,
            };
            self.refresh();
        }
    }

    /// Brings the view in step with the copies as they are now.
    ///
    /// 1. Pools and registry, if they or the tags that the kernel knows have changed.
    /// 2. Reservations, and settings.
    /// 3. Nodes; blocks of nodes that came or went are looked at again.
    /// 4. Blocks that changed.
    pub fn refresh(&self) {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let view = Arc::make_mut(&mut *slot);
        let mut news = self.refresh_pools(&mut inputs, view);
        news |= self.refresh_reservations(&mut inputs, view);
        news |= self.refresh_settings(&mut inputs, view);
        news |= self.refresh_nodes(&mut inputs, view);
        for (cidr, seen) in self.blocks.kept().take_changed() {
            news |= view.put_block(cidr, seen);
        }
        news |= self.blocks.kept().take_ipv6_changed();
        drop(slot);
        drop(inputs);
        // What was read anew is news to upkeep, whatever it says.
        if news || self.blocks.is_relisted() {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    fn refresh_pools(&self, inputs: &mut Inputs, view: &mut View) -> bool {
        let tagged = self.tagged.read().unwrap_or_else(PoisonError::into_inner);
        let now = (self.pools.generation(), self.registry.generation(), tagged.generation);
        if now == (inputs.pools, inputs.registry, inputs.tagged) {
            return false;
        }
        (inputs.pools, inputs.registry, inputs.tagged) = now;
        let registry = admission::registry_of(self.stored_registry().as_ref()).unwrap_or_else(|error| {
            warn!(%error, "no pool serves");
            Registry::default()
        });
        let stored = self.pools.read();
        let pools = stored.values().filter_map(|object| self.pool(object, &registry, &tagged.pools));
        view.pools = Arc::new(PoolTable::new(pools));
        view.registry = Arc::new(registry);
        true
    }

    fn refresh_reservations(&self, inputs: &mut Inputs, view: &mut View) -> bool {
        let now = self.reservations.generation();
        if std::mem::replace(&mut inputs.reservations, now) == now {
            return false;
        }
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
        view.reservations = Arc::new(Reservations::new(reserved));
        true
    }

    /// What the cluster says goes before what the file says. What does not read changes nothing.
    fn refresh_settings(&self, inputs: &mut Inputs, view: &mut View) -> bool {
        let now = self.ipam_config.generation();
        if std::mem::replace(&mut inputs.ipam_config, now) == now {
            return false;
        }
        let objects = self.ipam_config.read();
        let object = objects.iter().find(|(key, _)| key.as_str() == IpamConfig::NAME);
        let settings = match object.map(|(_, object)| settings_of_cluster(&object.value.spec)) {
            None => self.node.settings,
            Some(Ok(settings)) => settings,
            Some(Err(error)) => {
                warn!(%error, "IPAMConfig {} is passed over", IpamConfig::NAME);
                return false;
            }
        };
        std::mem::replace(&mut view.settings, settings) != settings
    }

    fn refresh_nodes(&self, inputs: &mut Inputs, view: &mut View) -> bool {
        let known = self.nodes.kept().read();
        if std::mem::replace(&mut inputs.nodes, known.generation) == known.generation {
            return false;
        }
        let id = |(name, row): (&NodeName, &super::nodes::NodeRow)| NodeId {
            name: name.clone(),
            uid: row.uid.clone(),
        };
        let nodes: BTreeSet<NodeId> = known.rows.iter().map(id).collect();
        let me = known.id(&self.node.name);
        if let (None, Some(own)) = (&self.node.labels, &known.own)
            && own.value.metadata.labels != *view.labels
        {
            view.labels = Arc::new(own.value.metadata.labels.clone());
        }
        drop(known);
        let before = view.nodes.take().map(Arc::unwrap_or_clone).unwrap_or_default();
        // Those who came or went; from none at all to some, every owner may have gone.
        let mut moved: BTreeSet<NodeId> = before.symmetric_difference(&nodes).cloned().collect();
        let everybody = before.is_empty() != nodes.is_empty();
        if let Some(me) = me.filter(|me| *me != view.me) {
            moved.extend([view.me.clone(), me.clone()]);
            view.me = me;
        }
        view.nodes = (!nodes.is_empty()).then(|| Arc::new(nodes));
        for (cidr, seen) in self.blocks.kept().of_owners(|owner| everybody || moved.contains(owner)) {
            view.put_block(cidr, Some(seen));
        }
        true
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
                spec.terminating = entry.terminating || object.value.metadata.is_being_deleted();
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

#[cfg(test)]
mod tests;
