//! A copy in memory of one kind of object, kept up by the store's watch.
//!
//! Readers take a short lock; nobody asks the store on the way of a pod. Whoever has just written waits until
//! the copy has seen it ([`Mirror::reached`]), so that what was applied holds for the next ADD.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures::StreamExt;
use store::resource::Resource;
use store::{Event, Key, Revision, Store, StoreError, Versioned};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long a failed list or watch waits before it is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// How long a change that was made may take to be seen.
const REACH_LIMIT: Duration = Duration::from_secs(10);

/// The copy of one kind. Cheap to clone; all clones see the same.
#[derive(Debug)]
pub struct Mirror<R> {
    objects: Arc<RwLock<BTreeMap<Key, Versioned<R>>>>,
    /// How far the copy is. Those who wait for a revision are told by `arrived`, in the order in which they came.
    seen: watch::Sender<Revision>,
    arrived: Arc<Notify>,
}

impl<R> Clone for Mirror<R> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), seen: self.seen.clone(), arrived: self.arrived.clone() }
    }
}

impl<R: Resource> Mirror<R> {
    /// Reads the kind once, and follows it on a task of its own until `stop` fires.
    ///
    /// # Errors
    /// The first list fails: there is nothing to serve from.
    pub async fn start<S: Store>(store: &S, stop: &CancellationToken) -> Result<Self, StoreError> {
        let mirror =
            Self { objects: Arc::default(), seen: watch::channel(Revision::ZERO).0, arrived: Arc::default() };
        let from = mirror.relist(store).await?;
        let (follower, store, stop) = (mirror.clone(), store.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(follower.follow(store, from)).await });
        Ok(mirror)
    }

    /// The objects as last seen, by key.
    pub fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Versioned<R>>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Versioned<R>> {
        self.read().get(key).cloned()
    }

    /// Tells of every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.seen.subscribe()
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

    fn tell(&self, revision: Revision) {
        self.seen.send_replace(revision);
        self.arrived.notify_waiters();
    }

    async fn relist<S: Store>(&self, store: &S) -> Result<Revision, StoreError> {
        let list = store.list::<R>().await?;
        let mut objects = BTreeMap::new();
        for object in list.items {
            match object.value.key() {
                Ok(key) => drop(objects.insert(key, object)),
                Err(error) => warn!(kind = R::KIND, %error, "an object without a usable name is passed over"),
            }
        }
        *self.objects.write().unwrap_or_else(PoisonError::into_inner) = objects;
        self.tell(list.revision);
        Ok(list.revision)
    }

    async fn follow<S: Store>(self, store: S, mut from: Revision) {
        loop {
            match self.follow_once(&store, &mut from).await {
                Ok(()) => debug!(kind = R::KIND, "the watch ended"),
                Err(error) => warn!(kind = R::KIND, %error, "the watch broke; the kind is read anew"),
            }
            tokio::time::sleep(RETRY_DELAY).await;
            match self.relist(&store).await {
                Ok(revision) => from = revision,
                Err(error) => warn!(kind = R::KIND, %error, "the kind cannot be read; trying again"),
            }
        }
    }

    async fn follow_once<S: Store>(&self, store: &S, from: &mut Revision) -> Result<(), StoreError> {
        let mut events = store.watch::<R>(*from).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            let revision = event.revision();
            match event.object().value.key() {
                Err(error) => warn!(kind = R::KIND, %error, "an event without a usable name is passed over"),
                Ok(key) => {
                    let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
                    match event {
                        Event::Put(object) => drop(objects.insert(key, object)),
                        Event::Delete { .. } => drop(objects.remove(&key)),
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
        let mirror = Mirror::<Namespace>::start(&store, &stop).await.unwrap();
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
}
