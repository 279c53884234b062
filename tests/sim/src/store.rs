//! The cluster store as one machine reaches it: slowly, and not always.
//!
//! Every call travels on a task of its own, so that what an agent sent before it died still arrives. What can happen to
//! a call is drawn from the machine's own sequence of random numbers. The objects themselves are a [`MemoryStore`]'s.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use futures::{FutureExt, StreamExt, stream};
use ipam::protocol::{BlockObject, NodeId, Nonce};
use store::memory::MemoryStore;
use store::resource::{IpBlock, Metadata, Node, Resource};
use store::{Key, List, Revision, Store, StoreError, Versioned, Watch};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::tally::{Actor, Tally};
use crate::trace::Trace;

/// Changes that watchers can go back to.
const HISTORY_LEN: usize = 64;

/// The longest that a call takes to be given up.
const TIMEOUT_MS: u64 = 1500;

/// How often somebody who is cut off looks whether that is over.
const CUT_OFF_POLL: Duration = Duration::from_millis(100);

/// What can happen between a machine and the store. Chances are in a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Each way takes up to this long.
    pub delay_ms: u64,
    /// Requests that never arrive.
    pub request_lost: u32,
    /// Replies that never arrive: the change is made.
    pub reply_lost: u32,
    /// Writes that are answered as unavailable now and arrive later.
    pub late: u32,
    /// How much later at most.
    pub late_ms: u64,
    /// Writes that arrive a second time.
    pub doubled: u32,
    /// How far watches lag, at most.
    pub lag_ms: u64,
    /// Events in whose place a watch ends, so that everything is read anew.
    pub expired: u32,
    /// Nothing passes.
    pub cut_off: bool,
}

/// The store itself, which all machines share.
#[derive(Debug)]
pub struct Cluster {
    /// The objects.
    pub objects: MemoryStore,
    /// Told of every change, and wakes watchers in the order in which they came.
    changed: Notify,
    down: Mutex<bool>,
    /// What became of blocks and loans.
    pub tally: Mutex<Tally>,
    trace: Trace,
}

impl Cluster {
    /// Without objects. `gone_after`: the grace of nodes that are gone.
    #[must_use]
    pub fn new(trace: Trace, gone_after: Duration) -> Arc<Self> {
        let objects = MemoryStore::new(HISTORY_LEN);
        let tally = Mutex::new(Tally::new(gone_after));
        Arc::new(Self { objects, changed: Notify::new(), down: Mutex::default(), tally, trace })
    }

    /// A machine, the `life`th of its name, gets a Node object of this UID.
    pub async fn put_node(&self, name: &str, uid: &str, life: u32) {
        if let Ok(name) = name.parse() {
            locked(&self.tally).node_there(NodeId { name, uid: uid.to_owned() }, life);
        }
        let metadata = Metadata { uid: uid.to_owned(), ..Metadata::named(name) };
        let made = self.objects.create(Node { metadata, ..Node::default() }).await;
        self.trace
            .tell(name, format_args!("Node object {uid}: {}", if made.is_ok() { "made" } else { "there" }));
        self.changed.notify_waiters();
    }

    /// Deletes the Node object of this name. Its UID, if there was one.
    pub async fn remove_node(&self, name: &str) -> Option<NodeId> {
        let key = Key::named(name).ok()?;
        let there = self.objects.get::<Node>(&key).await.ok()??;
        self.objects.compare_and_delete::<Node>(&key, there.revision).await.ok()?;
        let node = NodeId { name: name.parse().ok()?, uid: there.uid };
        locked(&self.tally).node_gone(node.clone());
        self.trace.tell(name, format_args!("Node object {}: deleted", node.uid));
        self.changed.notify_waiters();
        Some(node)
    }

    /// Every node that there is; `None` where there are no Node objects.
    pub async fn nodes(&self) -> Option<BTreeSet<NodeId>> {
        let nodes = self.objects.list::<Node>().await.ok()?.items;
        let id = |node: Versioned<Node>| {
            Some(NodeId { name: node.value.metadata.name.parse().ok()?, uid: node.uid })
        };
        (!nodes.is_empty()).then(|| nodes.into_iter().filter_map(id).collect())
    }

    /// The blocks as they are.
    pub async fn blocks(&self) -> Vec<BlockObject> {
        let blocks = self.objects.list::<IpBlock>().await.map(|list| list.items).unwrap_or_default();
        blocks.iter().filter_map(|block| store::block_of(&block.value).ok()).collect()
    }

    async fn block(&self, key: &str) -> Option<BlockObject> {
        let block = self.objects.get::<IpBlock>(&Key::named(key).ok()?).await.ok()??;
        store::block_of(&block.value).ok()
    }

    /// Takes the store away from everybody, or gives it back.
    pub fn set_down(&self, down: bool) {
        *locked(&self.down) = down;
    }
}

/// The way from one machine to the store. Clones are the same way.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    way: Arc<Way>,
}

#[derive(Debug)]
struct Way {
    cluster: Arc<Cluster>,
    machine: Actor,
    faults: Arc<Mutex<Faults>>,
    rng: Mutex<Rng>,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    RequestLost,
    ReplyLost,
    Late,
    Doubled,
}

type Call<T> =
    Arc<dyn Fn(MemoryStore) -> Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>> + Send + Sync>;

impl FaultyStore {
    /// A way for one agent of a machine.
    #[must_use]
    pub fn new(cluster: &Arc<Cluster>, machine: Actor, faults: &Arc<Mutex<Faults>>, seed: u64) -> Self {
        let way = Way {
            cluster: cluster.clone(),
            machine,
            faults: faults.clone(),
            rng: Mutex::new(Rng::with_seed(seed)),
        };
        Self { way: Arc::new(way) }
    }

    async fn write<R: Resource, T: Send + 'static>(
        &self,
        operation: &'static str,
        key: String,
        call: Call<T>,
    ) -> Result<T, StoreError> {
        let way = &self.way;
        let faults = way.faults();
        let (fate, there, back) = (way.fate(&faults), way.delay(&faults), way.delay(&faults));
        if way.is_cut_off() {
            sleep(way.upto(TIMEOUT_MS)).await;
            return Err(unavailable::<R>(operation, key, "cut off"));
        }
        if fate != Fate::Fine {
            way.tell(format_args!("{operation} {} {key}: {fate:?}", R::KIND));
        }
        match fate {
            Fate::RequestLost => {
                sleep(way.upto(TIMEOUT_MS)).await;
                return Err(unavailable::<R>(operation, key, "request lost"));
            }
            Fate::Late => {
                let later = there + way.upto(faults.late_ms);
                drop(way.deliver::<R, T>(later, operation, key.clone(), call));
                sleep(way.upto(TIMEOUT_MS)).await;
                return Err(unavailable::<R>(operation, key, "no answer"));
            }
            Fate::Doubled => {
                let again = there + way.upto(faults.late_ms);
                drop(way.deliver::<R, T>(again, operation, key.clone(), call.clone()));
            }
            Fate::Fine | Fate::ReplyLost => {}
        }
        let delivered = way.deliver::<R, T>(there, operation, key.clone(), call).await;
        if fate == Fate::ReplyLost {
            sleep(way.upto(TIMEOUT_MS)).await;
            return Err(unavailable::<R>(operation, key, "reply lost"));
        }
        sleep(back).await;
        delivered.unwrap_or_else(|_| Err(unavailable::<R>(operation, key, "it broke off")))
    }

    async fn read<R: Resource>(&self, operation: &'static str, key: &str) -> Result<(), StoreError> {
        let way = &self.way;
        let faults = way.faults();
        let lost = way.fate(&faults) == Fate::RequestLost;
        let delay = way.delay(&faults);
        if lost || way.is_cut_off() {
            sleep(way.upto(TIMEOUT_MS)).await;
            return Err(unavailable::<R>(operation, key.to_owned(), "cannot be reached"));
        }
        sleep(delay).await;
        Ok(())
    }

    async fn read_back(&self) {
        let faults = self.way.faults();
        sleep(self.way.delay(&faults)).await;
    }
}

impl Way {
    fn faults(&self) -> Faults {
        *locked(&self.faults)
    }

    fn is_cut_off(&self) -> bool {
        self.faults().cut_off || *locked(&self.cluster.down)
    }

    fn upto(&self, ms: u64) -> Duration {
        Duration::from_millis(locked(&self.rng).u64(0..=ms))
    }

    fn delay(&self, faults: &Faults) -> Duration {
        // In microseconds, so that calls seldom arrive at the same moment.
        Duration::from_micros(locked(&self.rng).u64(0..=faults.delay_ms * 1000))
    }

    fn fate(&self, faults: &Faults) -> Fate {
        let mut roll = locked(&self.rng).u32(0..1000);
        let chances = [
            (faults.request_lost, Fate::RequestLost),
            (faults.reply_lost, Fate::ReplyLost),
            (faults.late, Fate::Late),
            (faults.doubled, Fate::Doubled),
        ];
        for (chance, fate) in chances {
            if roll < chance {
                return fate;
            }
            roll -= chance;
        }
        Fate::Fine
    }

    /// Carries a write to the store, whatever becomes of the agent that sent it.
    fn deliver<R: Resource, T: Send + 'static>(
        &self,
        after: Duration,
        operation: &'static str,
        key: String,
        call: Call<T>,
    ) -> tokio::task::JoinHandle<Result<T, StoreError>> {
        let (cluster, machine) = (self.cluster.clone(), self.machine.clone());
        tokio::spawn(async move {
            sleep(after).await;
            let is_block = R::KIND == IpBlock::KIND;
            let before = if is_block { cluster.block(&key).await } else { None };
            let result = call(cluster.objects.clone()).await;
            let after = if is_block && result.is_ok() { cluster.block(&key).await } else { None };
            if is_block && result.is_ok() {
                locked(&cluster.tally).note(&machine, before.as_ref(), after.as_ref());
            }
            let mut outcome = result.as_ref().map_or_else(ToString::to_string, |_| "made".to_owned());
            if let Some(block) = after {
                outcome += &format!(": {}", in_short(&block));
            }
            cluster
                .trace
                .tell(&machine.name, format_args!("store: {operation} {} {key}: {outcome}", R::KIND));
            if result.is_ok() {
                cluster.changed.notify_waiters();
            }
            result
        })
    }

    fn tell(&self, what: std::fmt::Arguments<'_>) {
        self.cluster.trace.tell(&self.machine.name, what);
    }
}

impl Store for FaultyStore {
    async fn create<R: Resource>(&self, mut value: R) -> Result<Versioned<R>, StoreError> {
        let metadata = value.metadata_mut();
        if metadata.uid.is_empty() {
            // Not left to the store, whose random numbers no seed decides.
            metadata.uid = format!("uid-{:016x}", locked(&self.way.rng).u64(..));
        }
        let key = value.key().map(|key| key.to_string()).unwrap_or_default();
        let call: Call<Versioned<R>> = Arc::new(move |objects| {
            let value = value.clone();
            async move { objects.create(value).await }.boxed()
        });
        self.write::<R, _>("create", key, call).await
    }

    async fn get<R: Resource>(&self, key: &Key) -> Result<Option<Versioned<R>>, StoreError> {
        self.read::<R>("get", key.as_str()).await?;
        let read = self.way.cluster.objects.get(key).await;
        self.read_back().await;
        read
    }

    async fn compare_and_swap<R: Resource>(
        &self,
        expected: Revision,
        value: R,
    ) -> Result<Versioned<R>, StoreError> {
        let key = value.key().map(|key| key.to_string()).unwrap_or_default();
        let call: Call<Versioned<R>> = Arc::new(move |objects| {
            let value = value.clone();
            async move { objects.compare_and_swap(expected, value).await }.boxed()
        });
        self.write::<R, _>("replace", key, call).await
    }

    async fn compare_and_delete<R: Resource>(
        &self,
        key: &Key,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        let owned = key.clone();
        let call: Call<Revision> = Arc::new(move |objects| {
            let key = owned.clone();
            async move { objects.compare_and_delete::<R>(&key, expected).await }.boxed()
        });
        self.write::<R, _>("delete", key.to_string(), call).await
    }

    async fn list<R: Resource>(&self) -> Result<List<R>, StoreError> {
        self.read::<R>("list", "(all)").await?;
        let read = self.way.cluster.objects.list().await;
        self.read_back().await;
        read
    }

    async fn watch<R: Resource>(&self, from: Revision) -> Result<Watch<R>, StoreError> {
        self.read::<R>("watch", "(all)").await?;
        let events = self.way.cluster.objects.watch::<R>(from).await?;
        let watcher = Watcher { way: self.way.clone(), events, position: from, ended: false };
        Ok(stream::unfold(watcher, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        })
        .boxed())
    }

    fn random(&self) -> u64 {
        locked(&self.way.rng).u64(..)
    }
}

/// A watch that lags.
struct Watcher<R> {
    way: Arc<Way>,
    events: Watch<R>,
    position: Revision,
    ended: bool,
}

impl<R: Resource> Watcher<R> {
    async fn next(&mut self) -> Option<Result<store::Event<R>, StoreError>> {
        let cluster = self.way.cluster.clone();
        loop {
            if self.ended {
                return None;
            }
            let changed = cluster.changed.notified();
            // Looked at, never waited for: whom the store itself wakes first is not decided by the seed.
            let Some(event) = self.events.next().now_or_never() else {
                changed.await;
                continue;
            };
            let faults = self.way.faults();
            sleep(self.way.upto(faults.lag_ms)).await;
            while self.way.is_cut_off() {
                sleep(CUT_OFF_POLL).await;
            }
            if locked(&self.way.rng).u32(0..1000) < faults.expired {
                self.ended = true;
                let (from, none) = (self.position, Revision::ZERO);
                return Some(Err(StoreError::Expired { kind: R::KIND, from, oldest: none, newest: none }));
            }
            if let Some(Ok(event)) = &event {
                self.position = event.revision();
            }
            return event;
        }
    }
}

/// Whose a block is and what of it is lent; of nonces the last digits.
fn in_short(block: &BlockObject) -> String {
    let nonce = |nonce: &Nonce| format!("{:04x}", nonce.0 & 0xffff);
    let loans: Vec<String> = block
        .loans
        .iter()
        .map(|loan| format!("{} {} {:?}", nonce(&loan.nonce), loan.borrower.name, loan.state))
        .collect();
    format!("{} {} {loans:?}", block.owner, nonce(&block.nonce))
}

fn unavailable<R: Resource>(operation: &'static str, key: String, reason: &str) -> StoreError {
    StoreError::Unavailable { operation, kind: R::KIND, key, reason: reason.to_owned() }
}

/// Nothing under these locks panics half-way through a change.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
