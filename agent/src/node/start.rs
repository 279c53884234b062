//! Starting the node: from the files of an earlier agent and the kernel's own state to one that may serve.
//!
//! 1. The journal is opened under its lock; the store is read.
//! 2. The ledger is replayed and held against the kernel's interfaces. Where the journal is damaged, or an interface
//!    of ours is there that it does not know, it is rebuilt: whose interface is there holds its addresses, every other
//!    address cools first.
//! 3. What a crash cut short is finished: a pod that was assigned addresses but never promised to the runtime is
//!    taken down.
//! 4. Pools that wait are admitted, and the kernel is compared once before anything is served.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::{Dataplane, DataplaneError, KernelPod, Mac};
use ipam::protocol::{Fact, Nonce};
use model::{BootTime, Handle, NodeName};
use store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Node;
use super::admission::RegistryWriteError;
use super::environment::Environment;
use super::freshness::Fresh;
use super::gate::Gates;
use super::ledger::{Ledger, LedgerError};
use super::memory::{Memory, may_serve};
use super::pod::{Pod, Wired};
use super::reconcile::{Reach, Reconciler};
use super::world::{self, View, World};
use crate::config::Config;
use crate::journal::{ForeignMark, Journal, Loaded, SnapshotFile};

/// How long addresses of unknown use are kept back after the journal was lost: longer than a runtime takes to ask for
/// the deletion of what it lost.
const UNPROVEN_COOLDOWN: Duration = Duration::from_secs(120);

/// How soon it is said that the node waits for its Node object.
const TELL_WAITING_AFTER: Duration = Duration::from_secs(1);

/// How often blocks are seen to at a start before the rest is left to upkeep.
const CONFIRM_ROUNDS: usize = 3;

/// Why the node cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("read the store: {0}")]
    Store(#[from] StoreError),
    /// The registry of pools.
    #[error("admit pools: {0}")]
    Registry(#[from] RegistryWriteError),
    /// The kernel.
    #[error("read interfaces: {0}")]
    Dataplane(#[from] DataplaneError),
    /// The journal.
    #[error("rebuild the journal: {0}")]
    Ledger(#[from] LedgerError),
    /// A thread for kernel work died.
    #[error("kernel work: {0}")]
    Work(#[from] tokio::task::JoinError),
}

impl<S: Store> Node<S> {
    /// See the module. `followers` ends the watches: fire it when nobody waits for them any more.
    ///
    /// # Errors
    /// The store or the kernel cannot be read. A damaged journal is no error.
    pub async fn start(
        environment: Environment,
        config: Config,
        store: S,
        dataplane: Arc<Dataplane>,
        journal: Journal,
        loaded: Loaded,
        followers: &CancellationToken,
    ) -> Result<Arc<Self>, StartError> {
        let many_nodes = config.store.is_shared();
        let node = world::Node {
            name: config.node_name.clone(),
            labels: (!many_nodes).then(|| config.node_labels.clone()),
            marks: config.mark_layout,
            settings: config.ipam,
        };
        // Only in this boot, and only beside a journal that reads.
        let memory = match &loaded {
            Loaded::Records { .. } if many_nodes => {
                let file = SnapshotFile::new(&config.state_dir, journal.owner().clone());
                Memory::read(&file, environment.clock.now())
            }
            _ => None,
        };
        let (snapshot, absent_for, fresh) = match memory {
            Some(Memory { mut snapshot, absent_for }) => {
                let fresh = std::mem::take(&mut snapshot.fresh);
                (Some(snapshot), absent_for, fresh)
            }
            None => (None, Duration::ZERO, Vec::new()),
        };
        let world = World::start(&store, node, snapshot, followers).await?;
        let may_serve = may_serve(absent_for, world.view().settings.graces.gone_after);
        if many_nodes {
            await_registration(&world, &config.node_name).await;
        }
        let now = environment.clock.now();
        let view = world.view();
        let foreign = ForeignMark::new(&config.state_dir);
        let records = match &loaded {
            Loaded::Records { records, dropped_bytes } => {
                info!(records = records.len(), dropped_bytes, "the journal is read");
                records.as_slice()
            }
            Loaded::Fresh => &[],
            Loaded::EarlierBoot => {
                info!("the journal is of an earlier boot: its pods are gone");
                if let Err(error) = foreign.clear() {
                    warn!(%error, "pods of other main plugins are taken to be there still");
                }
                &[]
            }
            Loaded::Damaged { reason, kept_as } => {
                error!(reason, kept_as = %kept_as.display(), "the journal cannot be used; rebuilding from the kernel");
                &[]
            }
        };
        let (mut ledger, mut problems) = Ledger::replay(journal, view.me.clone(), records, now);
        let reading = dataplane.clone();
        let found = environment.kernel_work.run(move || reading.fetch_pods()).await??;
        let (unknown, malformed) = unknown_pods(found, &ledger, &view, now);
        problems.extend(malformed);
        // An interface of ours is made after its record and gone before the record of its end: one that no record
        // speaks of means that records are lost, whatever the file looks like.
        let is_lost = match loaded {
            Loaded::Damaged { .. } => true,
            // Pods of other main plugins have no interface that would show it.
            Loaded::Fresh | Loaded::Records { .. } => records.is_empty() && foreign.is_set(),
            Loaded::EarlierBoot => false,
        };
        if is_lost || !unknown.is_empty() {
            let count = unknown.len();
            let longest = view.pools.iter().map(|pool| pool.cooldown).max().unwrap_or_default();
            let mut until = now.after(UNPROVEN_COOLDOWN.max(longest));
            if foreign.is_set() {
                error!(
                    "addresses were given to pods of other main plugins, whose interfaces do not show them: what \
                     nobody is known to hold is not handed out before a reboot, or before this node is drained and its \
                     state directory emptied"
                );
                until = BootTime::from_millis(u64::MAX);
            }
            let blocks = blocks_to_adopt(&ledger, &view, &environment);
            problems.extend(ledger.rebuild(&blocks, unknown, until)?);
            warn!(
                pods = count,
                cooling_until_ms = until.as_millis(),
                "rebuilt from the kernel; other addresses cool"
            );
        }
        for problem in &problems {
            error!(
                problem,
                "the journal does not fit the store; nothing of ours is swept until that is mended"
            );
        }
        let ledger = Arc::new(Mutex::new(ledger));
        let reconciler = Reconciler::new(
            dataplane.clone(),
            world.clone(),
            ledger.clone(),
            environment.kernel_work.clone(),
            Reach { many_nodes, node_ip: config.node_ip, pod_cidrs: config.pod_cidrs.clone() },
            problems.is_empty(),
        );
        let node = Arc::new(Self {
            environment,
            config,
            store,
            world,
            dataplane,
            reconciler,
            ledger,
            gates: Gates::default(),
            fresh: Fresh::default(),
            attending: tokio::sync::Mutex::default(),
            upkeep_wanted: tokio::sync::Notify::new(),
            progress: tokio::sync::Notify::new(),
            inner_trouble: Mutex::default(),
            policies: Mutex::default(),
            leaks: Mutex::default(),
            retiring: tokio::sync::Mutex::default(),
        });
        node.remember_fresh(fresh);
        node.finish_interrupted().await?;
        if node.world.is_complete() {
            match node.admit_waiting().await {
                Err(RegistryWriteError::Store(error @ StoreError::Unavailable { .. })) => {
                    warn!(%error, "pools that wait are admitted later");
                }
                admitted => admitted?,
            }
            node.confirm_blocks(may_serve).await;
            node.retire_all().await;
        } else {
            info!("going on from the snapshot: the store has not answered yet");
            node.serve_meanwhile(may_serve);
        }
        if node.reconciler.run().await.is_empty() {
            node.remove_other_versions().await?;
        }
        Ok(node)
    }

    /// Programs and maps of an agent with another layout of maps, now that every pod has the current ones.
    async fn remove_other_versions(&self) -> Result<(), StartError> {
        let dataplane = self.dataplane.clone();
        match self.blocking(move || dataplane.remove_other_versions()).await? {
            Ok(versions) if versions.is_empty() => {}
            Ok(versions) => info!(?versions, "programs and maps of other versions are removed"),
            Err(error) => warn!(%error, "programs or maps of another version stay"),
        }
        Ok(())
    }

    /// Sees to every block before anything is served: a consistent read decides which of them are this node's. While
    /// the store does not answer, the journal's word counts (rule 9 of `docs/design/ipam.md`).
    async fn confirm_blocks(&self, may_serve: bool) {
        for _ in 0..CONFIRM_ROUNDS {
            match self.upkeep().await {
                Ok(()) => return,
                Err(error) if error.is_unavailable() => {
                    warn!(%error, "the store does not answer");
                    return self.serve_meanwhile(may_serve);
                }
                Err(error) => warn!(%error, "a block is not confirmed yet, and does not serve"),
            }
        }
    }

    /// Lets blocks serve on the journal's word while the store does not answer, if they may.
    fn serve_meanwhile(&self, may_serve: bool) {
        if may_serve {
            warn!("until the store answers, blocks serve on the journal's word");
            self.ledger().keeper_mut().set_store_away(true);
        } else {
            warn!(
                "no agent was there for longer than goneAfterSeconds: blocks may be others' by now, and serve once the \
                 store answers"
            );
        }
    }

    /// Takes down pods that were assigned addresses and never promised.
    async fn finish_interrupted(&self) -> Result<(), StartError> {
        let unfinished: Vec<Handle> = {
            let ledger = self.ledger();
            ledger.pods().filter(|pod| pod.wired.is_none()).map(|pod| pod.handle().clone()).collect()
        };
        for handle in unfinished {
            warn!(%handle, "an ADD that a crash cut short is taken back");
            let (dataplane, taken_off) = (self.dataplane.clone(), handle.clone());
            if let Err(errors) = self.blocking(move || dataplane.unwire(&taken_off)).await?
                && !errors.iter().all(DataplaneError::is_conflict)
            {
                error!(%handle, ?errors, "its interface stays, and so do its addresses");
                continue;
            }
            if let Err(error) = self.ledger().free(&handle, &self.world.view().pools, self.now()) {
                error!(%handle, %error, "its addresses stay assigned");
            }
        }
        Ok(())
    }
}

/// Without its Node object this node is nobody: what it claimed would be anybody's.
async fn await_registration(world: &World, name: &NodeName) {
    let told = async {
        tokio::time::sleep(TELL_WAITING_AFTER).await;
        warn!(node = %name, "waiting for the Node object of this name: is the kubelet running, and is nodeName right?");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = world.registered() => {}
        () = told => {}
    }
}

/// Facts that make the blocks which the store says are ours, and the journal does not know, known: with a nonce of their
/// own, so that they serve only once they are adopted by compare-and-swap, which voids what the lost journal knew of.
fn blocks_to_adopt(ledger: &Ledger, view: &View, environment: &Environment) -> Vec<Fact> {
    let unknown = view
        .objects
        .values()
        .map(|seen| &seen.object)
        .filter(|object| object.owner == view.me && ledger.keeper().tenure(&object.cidr).is_none());
    let facts = unknown.flat_map(|object| {
        let block = object.cidr;
        let (pool, pool_uid) = (object.pool.clone(), object.pool_uid.clone());
        let nonce = Nonce(environment.random.bits());
        [Fact::Claiming { block, pool, pool_uid, nonce }, Fact::Owned { block }]
    });
    facts.collect()
}

/// Pods whose interfaces are there and which the ledger does not know, and what cannot be read of others.
fn unknown_pods(
    found: Vec<KernelPod>,
    ledger: &Ledger,
    view: &View,
    now: BootTime,
) -> (Vec<Pod>, Vec<String>) {
    let (mut unknown, mut malformed) = (Vec::new(), Vec::new());
    for interface in found {
        let identity = match interface.identity {
            Ok(identity) => identity,
            Err(error) => {
                malformed.push(format!("interface {}: {error}", interface.host_ifname));
                continue;
            }
        };
        if ledger.pod(&identity.handle).is_some() {
            continue;
        }
        let delegated = identity.extras.delegated;
        let pool_of = |address| {
            if delegated {
                return view.pools.by_address(address).map(|pool| pool.name.clone());
            }
            let own = view.objects.values().filter(|seen| seen.object.owner == view.me);
            own.map(|seen| &seen.object)
                .find(|block| block.cidr.contains(address))
                .map(|block| block.pool.clone())
        };
        let text_of = |mac: Option<Mac>| mac.map(|mac| mac.to_string()).unwrap_or_default();
        unknown.push(Pod {
            pools: identity.addresses().filter_map(pool_of).collect(),
            identity,
            netns: None,
            since: now,
            foreign_interface: false,
            // Who was wired may have been promised: better an address too many held than one given twice.
            wired: Some(Wired {
                host_mac: text_of(interface.host_mac),
                pod_mac: text_of(interface.pod_mac),
                mtu_bytes: interface.mtu_bytes,
                nsid: interface.nsid,
                at: now,
            }),
        });
    }
    (unknown, malformed)
}
