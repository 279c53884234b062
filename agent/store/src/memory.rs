//! The cluster store in memory: for tests and simulation.
//!
//! Behaves as [`crate::embedded`] does, the bounded history included, but keeps nothing and cannot prove
//! anything about durability.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::event::{self, BATCH_LEN, Batch, Event, Log, Watch};
use crate::interface::{List, Store, StoreError};
use crate::key::Key;
use crate::resource::Resource;
use crate::rules::{
    CREATE, DELETE, GET, LIST, REPLACE, WATCH, check_expected, check_position, ensure_uid, from_json,
    keep_uid, key_of, to_json,
};
use crate::versioned::{Revision, Versioned};

/// A store that lives as long as its handles.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    newest: watch::Sender<Revision>,
    history_len: usize,
}

/// Objects and history as JSON, as in a file: what does not survive writing down shows here too.
#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<(&'static str, Key), Stored>,
    history: VecDeque<Change>,
    newest: Revision,
    oldest: Revision,
}

#[derive(Clone, Debug)]
struct Stored {
    json: Vec<u8>,
    revision: Revision,
}

#[derive(Debug)]
struct Change {
    kind: &'static str,
    key: Key,
    revision: Revision,
    deleted: bool,
    object: Stored,
}

impl MemoryStore {
    /// An empty store that keeps the last `history_len` changes (at least one) for watchers.
    #[must_use]
    pub fn new(history_len: usize) -> Self {
        let (newest, _) = watch::channel(Revision::ZERO);
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { state, newest, history_len: history_len.max(1) }) }
    }

    /// A panic under the lock leaves the state whole: every change below is made in one go.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change that was decided on the locked state, then tells watchers.
    fn commit(&self, mut state: MutexGuard<'_, State>, change: Change) {
        let revision = change.revision;
        state.newest = revision;
        let slot = (change.kind, change.key.clone());
        if change.deleted {
            state.objects.remove(&slot);
        } else {
            state.objects.insert(slot, change.object.clone());
        }
        state.history.push_back(change);
        while state.history.len() > self.shared.history_len {
            if let Some(dropped) = state.history.pop_front() {
                state.oldest = dropped.revision;
            }
        }
        drop(state);
        self.shared.newest.send_if_modified(|newest| {
            let newer = revision > *newest;
            *newest = revision.max(*newest);
            newer
        });
    }

    fn create_now<R: Resource>(&self, mut value: R) -> Result<Versioned<R>, StoreError> {
        let key = key_of(CREATE, &value)?;
        let state = self.lock();
        if let Some(there) = state.objects.get(&(R::KIND, key.clone())) {
            return Err(StoreError::AlreadyExists { kind: R::KIND, key, actual: there.revision });
        }
        ensure_uid(&mut value);
        self.put(state, CREATE, key, value)
    }

    fn swap_now<R: Resource>(&self, expected: Revision, mut value: R) -> Result<Versioned<R>, StoreError> {
        let key = key_of(REPLACE, &value)?;
        let state = self.lock();
        let there = state.objects.get(&(R::KIND, key.clone()));
        check_expected::<R>(REPLACE, &key, expected, there.map(|there| there.revision))?;
        if let Some(there) = there {
            let there: Versioned<R> = decode(REPLACE, &key, there)?;
            keep_uid(&key, &mut value, &there.uid)?;
        }
        self.put(state, REPLACE, key, value)
    }

    fn put<R: Resource>(
        &self,
        state: MutexGuard<'_, State>,
        operation: &'static str,
        key: Key,
        value: R,
    ) -> Result<Versioned<R>, StoreError> {
        let revision = state.newest.next();
        let object = Stored { json: to_json(operation, &key, &value)?, revision };
        self.commit(state, Change { kind: R::KIND, key, revision, deleted: false, object });
        Ok(Versioned { uid: value.metadata().uid.clone(), revision, value })
    }

    fn delete_now<R: Resource>(&self, key: &Key, expected: Revision) -> Result<Revision, StoreError> {
        let state = self.lock();
        let there = state.objects.get(&(R::KIND, key.clone())).cloned();
        check_expected::<R>(DELETE, key, expected, there.as_ref().map(|there| there.revision))?;
        let revision = state.newest.next();
        if let Some(object) = there {
            self.commit(state, Change { kind: R::KIND, key: key.clone(), revision, deleted: true, object });
        }
        Ok(revision)
    }

    fn list_now<R: Resource>(&self) -> Result<List<R>, StoreError> {
        let state = self.lock();
        let of_kind = state.objects.iter().filter(|((kind, _), _)| *kind == R::KIND);
        let items = of_kind.map(|((_, key), stored)| decode(LIST, key, stored)).collect::<Result<_, _>>()?;
        Ok(List { items, revision: state.newest })
    }

    fn read_now<R: Resource>(&self, position: Revision) -> Result<Batch<R>, StoreError> {
        let state = self.lock();
        check_position::<R>(position, state.oldest, state.newest)?;
        let new = state.history.iter().filter(|change| change.revision > position).take(BATCH_LEN);
        let mut batch = Batch { events: Vec::new(), position };
        for change in new {
            batch.position = change.revision;
            if change.kind == R::KIND {
                let object = decode(WATCH, &change.key, &change.object)?;
                batch.events.push(if change.deleted {
                    Event::Delete { last: object, revision: change.revision }
                } else {
                    Event::Put(object)
                });
            }
        }
        Ok(batch)
    }
}

impl Store for MemoryStore {
    async fn create<R: Resource>(&self, value: R) -> Result<Versioned<R>, StoreError> {
        self.create_now(value)
    }

    async fn get<R: Resource>(&self, key: &Key) -> Result<Option<Versioned<R>>, StoreError> {
        let stored = self.lock().objects.get(&(R::KIND, key.clone())).cloned();
        stored.map(|stored| decode(GET, key, &stored)).transpose()
    }

    async fn compare_and_swap<R: Resource>(
        &self,
        expected: Revision,
        value: R,
    ) -> Result<Versioned<R>, StoreError> {
        self.swap_now(expected, value)
    }

    async fn compare_and_delete<R: Resource>(
        &self,
        key: &Key,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        self.delete_now::<R>(key, expected)
    }

    async fn list<R: Resource>(&self) -> Result<List<R>, StoreError> {
        self.list_now()
    }

    async fn watch<R: Resource>(&self, from: Revision) -> Result<Watch<R>, StoreError> {
        let newest = self.shared.newest.subscribe();
        let first = self.read_now(from)?;
        Ok(event::stream(self.clone(), newest, first))
    }
}

impl Log for MemoryStore {
    async fn read_after<R: Resource>(&self, position: Revision) -> Result<Batch<R>, StoreError> {
        self.read_now(position)
    }
}

fn decode<R: Resource>(
    operation: &'static str,
    key: &Key,
    stored: &Stored,
) -> Result<Versioned<R>, StoreError> {
    let value: R = from_json(operation, key.as_str(), &stored.json)?;
    Ok(Versioned { uid: value.metadata().uid.clone(), revision: stored.revision, value })
}
