//! A copy in memory of one kind of object, kept up by the store's watch.
//!
//! Readers take a short lock; nobody asks the store on the way of a pod. Whoever has just written waits until
//! the copy has seen it ([`Mirror::reached`]), so that what was applied holds for the next ADD.
//!
//! What is kept of an object is the kind's own business ([`Keep`]): whole objects of the kinds of which there are few,
//! a row of numbers of those of which there are tens of thousands.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures::StreamExt;
use store::resource::Resource;
use store::{Event, Key, Revision, Store, StoreError, Versioned};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long a failed list or watch waits before it is tried again, at first.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// And at most: an API server that comes back is not to be run over by all nodes at once, nor waited for much longer.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// What each node of the cluster adds to the time within which all of them read a kind anew: what expires one watch, a
/// restart of the API server or of its cache, expires everybody's.
const SPREAD_A_NODE: Duration = Duration::from_millis(2);

/// And at most.
const MAX_SPREAD: Duration = Duration::from_secs(20);

/// How long a change that was made may take to be seen.
const REACH_LIMIT: Duration = Duration::from_secs(10);

/// What is kept of the objects of a kind.
pub trait Keep<R>: Send + Sync + 'static {
    /// What is kept of one object.
    type Row: Send;

    /// What is kept of this one; `None`: nothing, since it does not read.
    fn row(&self, object: Versioned<R>) -> Option<Self::Row>;

    /// These are all there are.
    fn replace(&self, rows: Vec<Self::Row>);

    /// This one is new, or has changed.
    fn put(&self, row: Self::Row);

    /// This one is gone.
    fn remove(&self, row: Self::Row);
}

/// Whole objects, by key.
#[derive(Debug)]
pub struct Whole<R> {
    objects: RwLock<BTreeMap<Key, Versioned<R>>>,
}

impl<R> Default for Whole<R> {
    fn default() -> Self {
        Self { objects: RwLock::default() }
    }
}

impl<R: Resource> Keep<R> for Whole<R> {
    type Row = (Key, Versioned<R>);

    fn row(&self, object: Versioned<R>) -> Option<Self::Row> {
        match object.value.key() {
            Ok(key) => Some((key, object)),
            Err(error) => {
                warn!(kind = R::KIND, %error, "an object without a usable name is passed over");
                None
            }
        }
    }

    fn replace(&self, rows: Vec<Self::Row>) {
        *self.objects.write().unwrap_or_else(PoisonError::into_inner) = rows.into_iter().collect();
    }

    fn put(&self, (key, object): Self::Row) {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).insert(key, object);
    }

    fn remove(&self, (key, _): Self::Row) {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

/// How many nodes there are, as far as is known.
pub type NodesCount = Arc<dyn Fn() -> usize + Send + Sync>;

/// How long a node waits before it reads a kind anew: by chance, and in the mean the longer the more nodes there are.
#[must_use]
pub fn pause_before_relist(nodes_count: usize, random: u64) -> Duration {
    let nodes_count = u32::try_from(nodes_count).unwrap_or(u32::MAX);
    let spread = SPREAD_A_NODE.saturating_mul(nodes_count).clamp(RETRY_DELAY, MAX_SPREAD);
    RETRY_DELAY / 2 + part_of(spread, random)
}

/// A part of a time, as a random number has it.
pub(super) fn part_of(whole: Duration, random: u64) -> Duration {
    let parts = 1 << 16;
    whole * u32::try_from(random % u64::from(parts)).unwrap_or_default() / parts
}

/// The copy of one kind. Cheap to clone; all clones see the same.
#[derive(Debug)]
pub struct Mirror<R, K = Whole<R>> {
    kept: Arc<K>,
    /// How far the copy is. Those who wait for a revision are told by `arrived`, in the order in which they came.
    seen: watch::Sender<Revision>,
    arrived: Arc<Notify>,
    state: Arc<State>,
    kind: PhantomData<fn() -> R>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether everything was read at least once.
    loaded: AtomicBool,
    /// Counts changes.
    generation: AtomicU64,
    relisted: Mutex<Option<Relisted>>,
}

/// That everything was read anew, and not for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relisted {
    /// The store was at a lower revision than it had been: it was restored from a backup.
    pub went_back: bool,
}

impl<R, K> Clone for Mirror<R, K> {
    fn clone(&self) -> Self {
        Self {
            kept: self.kept.clone(),
            seen: self.seen.clone(),
            arrived: self.arrived.clone(),
            state: self.state.clone(),
            kind: PhantomData,
        }
    }
}

impl<R: Resource> Mirror<R> {
    /// The objects as last seen, by key.
    pub fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Versioned<R>>> {
        self.kept.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Versioned<R>> {
        self.read().get(key).cloned()
    }
}

impl<R: Resource, K: Keep<R>> Mirror<R, K> {
    /// A copy that has seen nothing.
    #[must_use]
    pub fn new(kept: K) -> Self {
        Self {
            kept: Arc::new(kept),
            seen: watch::channel(Revision::ZERO).0,
            arrived: Arc::default(),
            state: Arc::default(),
            kind: PhantomData,
        }
    }

    /// What is kept.
    #[must_use]
    pub fn kept(&self) -> &K {
        &self.kept
    }

    /// Puts in what somebody remembers from before; it counts until everything was read.
    pub fn remember(&self, objects: impl IntoIterator<Item = Versioned<R>>) {
        self.kept.replace(objects.into_iter().filter_map(|object| self.kept.row(object)).collect());
        self.state.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Follows the kind on a task of its own until `stop` fires. `from`: where the last [`Mirror::relist`] ended; `None`
    /// if that is still to be done.
    pub fn spawn<S: Store>(
        &self,
        store: &S,
        from: Option<Revision>,
        nodes_count: &NodesCount,
        stop: &CancellationToken,
    ) {
        let (follower, store, stop) = (self.clone(), store.clone(), stop.clone());
        let nodes_count = nodes_count.clone();
        tokio::spawn(
            async move { stop.run_until_cancelled(follower.follow(store, from, nodes_count)).await },
        );
    }

    /// Tells of every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.seen.subscribe()
    }

    /// Whether everything was read at least once.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.state.loaded.load(Ordering::Acquire)
    }

    /// Counts changes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state.generation.load(Ordering::Acquire)
    }

    /// Whether there is something for [`Mirror::take_relisted`].
    #[must_use]
    pub fn is_relisted(&self) -> bool {
        self.state.relisted.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether everything was read anew since this was asked last.
    #[must_use]
    pub fn take_relisted(&self) -> Option<Relisted> {
        self.state.relisted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns when the copy has seen `revision`, or says after [`REACH_LIMIT`] that it has not: then the watch is
    /// broken, and what waits for it must not wait for ever.
    pub async fn reached(&self, revision: Revision) {
        let seen = tokio::time::timeout(REACH_LIMIT, async {
            loop {
                let arrived = self.arrived.notified();
                if *self.seen.borrow() >= revision {
                    return;
                }
                arrived.await;
            }
        });
        let seen = seen.await;
        if seen.is_err() {
            warn!(kind = R::KIND, %revision, limit_s = REACH_LIMIT.as_secs(), "the watch does not show a change that was made");
        }
    }

    /// Reads everything anew.
    ///
    /// # Errors
    /// The store fails; what is kept stays.
    pub async fn relist<S: Store>(&self, store: &S) -> Result<Revision, StoreError> {
        let mut rows = Vec::new();
        let revision = store
            .list_pages::<R>(|page| rows.extend(page.into_iter().filter_map(|object| self.kept.row(object))))
            .await?;
        self.kept.replace(rows);
        let went_back = revision < *self.seen.borrow();
        if self.state.loaded.swap(true, Ordering::AcqRel) {
            if went_back {
                warn!(kind = R::KIND, now = %revision, "the store is at an earlier revision than it was: restored from a backup?");
            }
            let mut relisted = self.state.relisted.lock().unwrap_or_else(PoisonError::into_inner);
            let earlier = relisted.is_some_and(|relisted| relisted.went_back);
            *relisted = Some(Relisted { went_back: went_back || earlier });
        }
        self.tell(revision);
        Ok(revision)
    }

    fn tell(&self, revision: Revision) {
        self.state.generation.fetch_add(1, Ordering::AcqRel);
        self.seen.send_replace(revision);
        self.arrived.notify_waiters();
    }

    async fn follow<S: Store>(self, store: S, mut from: Option<Revision>, nodes_count: NodesCount) {
        let mut delay = RETRY_DELAY;
        loop {
            if let Some(position) = &mut from {
                match self.follow_once(&store, position).await {
                    Ok(()) => debug!(kind = R::KIND, "the watch ended"),
                    Err(error) => debug!(kind = R::KIND, %error, "the watch broke; the kind is read anew"),
                }
                tokio::time::sleep(pause_before_relist(nodes_count(), store.random())).await;
            }
            match self.relist(&store).await {
                Ok(revision) => (from, delay) = (Some(revision), RETRY_DELAY),
                Err(error) => {
                    // That the store is away is said once, for all kinds.
                    debug!(kind = R::KIND, %error, "the kind cannot be read; trying again");
                    if !matches!(error, StoreError::Unavailable { .. }) && delay == RETRY_DELAY {
                        warn!(kind = R::KIND, %error, "the kind cannot be read");
                    }
                    from = None;
                    tokio::time::sleep(delay / 2 + part_of(delay, store.random())).await;
                    delay = (delay * 2).min(MAX_RETRY_DELAY);
                }
            }
        }
    }

    async fn follow_once<S: Store>(&self, store: &S, from: &mut Revision) -> Result<(), StoreError> {
        let mut events = store.watch::<R>(*from).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            let revision = event.revision();
            match event {
                Event::Put(object) => {
                    if let Some(row) = self.kept.row(object) {
                        self.kept.put(row);
                    }
                }
                Event::Delete { last, .. } => {
                    if let Some(row) = self.kept.row(last) {
                        self.kept.remove(row);
                    }
                }
            }
            *from = revision;
            self.tell(revision);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use store::memory::MemoryStore;
    use store::resource::{Metadata, Namespace};

    use super::*;

    fn namespace(name: &str) -> Namespace {
        Namespace { metadata: Metadata::named(name) }
    }

    #[tokio::test]
    async fn what_was_written_is_seen_by_whoever_waits_for_it() {
        let (store, stop) = (MemoryStore::new(100), CancellationToken::new());
        store.create(namespace("before")).await.unwrap();
        let mirror = Mirror::<Namespace>::new(Whole::default());
        let from = mirror.relist(&store).await.unwrap();
        let alone: NodesCount = Arc::new(|| 1);
        mirror.spawn(&store, Some(from), &alone, &stop);
        assert_eq!(mirror.read().len(), 1);
        let after = store.create(namespace("after")).await.unwrap();
        mirror.reached(after.revision).await;
        let key = Key::named("after").unwrap();
        assert_eq!(mirror.get(&key), Some(after.clone()));
        let gone = store.compare_and_delete::<Namespace>(&key, after.revision).await.unwrap();
        mirror.reached(gone).await;
        assert_eq!(mirror.get(&key), None);
        stop.cancel();
    }

    #[test]
    fn many_nodes_read_anew_at_different_times_and_few_do_not_wait() {
        let check = |nodes_count: usize, earliest_ms: u64, latest_ms: u64| {
            // Numbers as far apart as those of different nodes are.
            let random = |node: usize| (node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            let mut pauses: Vec<Duration> =
                (0..nodes_count).map(|node| pause_before_relist(nodes_count, random(node))).collect();
            pauses.sort();
            let (first, last) = (pauses[0], pauses[pauses.len() - 1]);
            assert!(first >= Duration::from_millis(earliest_ms), "{nodes_count} nodes: {first:?}");
            assert!(last <= Duration::from_millis(latest_ms), "{nodes_count} nodes: {last:?}");
            // No tenth of the time has more than its share, twice over.
            let tenth = (last - first) / 10;
            let most = (0..10_u32).map(|part| {
                let (from, to) = (first + tenth * part, first + tenth * (part + 1));
                pauses.iter().filter(|pause| (from..to).contains(*pause)).count()
            });
            assert!(nodes_count < 100 || most.max() <= Some(nodes_count / 5), "{nodes_count} nodes");
        };
        check(3, 100, 300);
        check(1000, 100, 2100);
        check(5000, 100, 10_100);
        check(50_000, 100, 20_100);
    }

    #[tokio::test]
    async fn a_store_that_went_back_is_noticed_and_remembered_until_asked() {
        let (later, earlier) = (MemoryStore::new(100), MemoryStore::new(100));
        for name in ["a", "b", "c"] {
            later.create(namespace(name)).await.unwrap();
        }
        earlier.create(namespace("a")).await.unwrap();
        let mirror = Mirror::<Namespace>::new(Whole::default());
        mirror.relist(&later).await.unwrap();
        assert_eq!(mirror.take_relisted(), None, "the first reading is none anew");
        mirror.relist(&earlier).await.unwrap();
        mirror.relist(&earlier).await.unwrap();
        assert_eq!(mirror.take_relisted(), Some(Relisted { went_back: true }));
        assert_eq!(mirror.take_relisted(), None);
        assert_eq!(mirror.read().len(), 1);
    }
}
