//! Changes that operators ask for: what an apply comes to, decided before anything is written, and made all or none.
//!
//! Used by agents, which know the objects from their copies, and by `poolwardctl` where it speaks to the store itself,
//! which reads them. How pools are admitted, served and retired is for agents.

use std::collections::BTreeMap;

use ipam::{AdmissionRefusal, Candidate, Registry};
use model::PoolName;

use crate::interface::{Store, StoreError};
use crate::key::Key;
use crate::manifest::{Kind, Object, Validated};
use crate::resource::{IpPool, IpReservation, IpamConfig, Namespace, Pod, Resource};
use crate::versioned::{Revision, Versioned};

/// A change of one object that was checked and not made.
#[derive(Clone, Debug, PartialEq)]
pub struct Write<R> {
    /// What it is stored under.
    pub key: Key,
    /// What is there.
    pub before: Option<Versioned<R>>,
    /// What is to be there.
    pub after: R,
}

impl<R: Resource> Write<R> {
    /// From what is there to what a manifest says. A manifest without a uid is about the object that is there; if there
    /// is none, `invented` gives one.
    pub fn plan(
        key: &Key,
        before: Option<Versioned<R>>,
        mut after: R,
        invented: impl FnOnce() -> String,
    ) -> Self {
        let metadata = after.metadata_mut();
        if metadata.uid.is_empty() {
            metadata.uid = before.as_ref().map_or_else(invented, |before| before.uid.clone());
        }
        if let Some(before) = &before
            && before.uid == metadata.uid
        {
            metadata.carry_over(before.value.metadata());
        }
        Self { key: key.clone(), before, after }
    }

    /// `created`, `unchanged` or `configured`.
    pub fn outcome(&self) -> &'static str {
        match &self.before {
            None => "created",
            Some(before) if before.value == self.after => "unchanged",
            Some(_) => "configured",
        }
    }

    /// Makes it. The revision it is in force at; `None` if nothing was to be done.
    ///
    /// # Errors
    /// Somebody else was faster, or the store failed.
    pub async fn exec<S: Store>(&self, store: &S) -> Result<Option<Revision>, StoreError> {
        let Some(before) = &self.before else {
            return store.create(self.after.clone()).await.map(|created| Some(created.revision));
        };
        if before.value == self.after {
            return Ok(None);
        }
        if before.uid == self.after.metadata().uid {
            return store
                .compare_and_swap(before.revision, self.after.clone())
                .await
                .map(|now| Some(now.revision));
        }
        // Another object under the same name, such as a pod that was made anew.
        store.compare_and_delete::<R>(&self.key, before.revision).await?;
        match store.create(self.after.clone()).await {
            Ok(created) => Ok(Some(created.revision)),
            Err(error) => {
                store.create(before.value.clone()).await?;
                Err(error)
            }
        }
    }

    /// Puts back what was there, if what [`Write::exec`] wrote is still there.
    ///
    /// # Errors
    /// Somebody else changed it since, or the store failed.
    pub async fn undo<S: Store>(&self, store: &S, written: Revision) -> Result<(), StoreError> {
        match &self.before {
            Some(before) if before.uid == self.after.metadata().uid => {
                store.compare_and_swap(written, before.value.clone()).await.map(drop)
            }
            Some(before) => {
                store.compare_and_delete::<R>(&self.key, written).await?;
                store.create(before.value.clone()).await.map(drop)
            }
            None => store.compare_and_delete::<R>(&self.key, written).await.map(drop),
        }
    }
}

/// A change of any kind of object that can be applied.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyWrite {
    /// Of a pool.
    Pool(Box<Write<IpPool>>),
    /// Of a reservation.
    Reservation(Write<IpReservation>),
    /// Of the cluster's settings.
    IpamConfig(Write<IpamConfig>),
    /// Of a namespace.
    Namespace(Write<Namespace>),
    /// Of a pod.
    Pod(Write<Pod>),
}

/// The same for each kind.
macro_rules! each {
    ($any:expr, |$write:ident| $body:expr) => {
        match $any {
            AnyWrite::Pool($write) => $body,
            AnyWrite::Reservation($write) => $body,
            AnyWrite::IpamConfig($write) => $body,
            AnyWrite::Namespace($write) => $body,
            AnyWrite::Pod($write) => $body,
        }
    };
}

impl AnyWrite {
    /// Of a pool. It is the same one whatever uid its manifest was exported with, and its status is not the manifest's.
    pub fn of_pool(
        key: &Key,
        before: Option<Versioned<IpPool>>,
        mut after: IpPool,
        invented: impl FnOnce() -> String,
    ) -> Self {
        if let Some(before) = &before {
            after.metadata.uid.clone_from(&before.uid);
            after.status.clone_from(&before.value.status);
        }
        Self::Pool(Box::new(Write::plan(key, before, after, invented)))
    }

    /// The kind of its object.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pool(_) => Kind::IpPool,
            Self::Reservation(_) => Kind::IpReservation,
            Self::IpamConfig(_) => Kind::IpamConfig,
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
        }
    }

    /// What its object is stored under.
    #[must_use]
    pub fn key(&self) -> &Key {
        each!(self, |write| &write.key)
    }

    /// See [`Write::outcome`].
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        each!(self, |write| write.outcome())
    }

    async fn exec<S: Store>(&self, store: &S) -> Result<Option<Revision>, StoreError> {
        each!(self, |write| write.exec(store).await)
    }

    async fn undo<S: Store>(&self, store: &S, written: Revision) -> Result<(), StoreError> {
        each!(self, |write| write.undo(store, written).await)
    }
}

/// Why not all was written.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteError {
    /// What the first write that failed met.
    pub error: StoreError,
    /// What had been written before it and could not be put back; each names the object and the cause.
    pub left: Vec<String>,
}

/// Makes changes in order. When one fails, those before it are put back. The revision of each that was made.
///
/// # Errors
/// [`WriteError`].
pub async fn exec_all<S: Store>(store: &S, writes: &[AnyWrite]) -> Result<Vec<Option<Revision>>, WriteError> {
    let mut written = Vec::with_capacity(writes.len());
    for write in writes {
        match write.exec(store).await {
            Ok(revision) => written.push(revision),
            Err(error) => {
                let mut left = Vec::new();
                for (write, revision) in writes.iter().zip(&written).rev() {
                    if let Some(revision) = revision
                        && let Err(failure) = write.undo(store, *revision).await
                    {
                        left.push(format!(
                            "{} was written and could not be put back: {failure}",
                            write.key()
                        ));
                    }
                }
                return Err(WriteError { error, left });
            }
        }
    }
    Ok(written)
}

/// Decides which of these pools are admitted, one after the other: the registry with all that can be, and the
/// refusals of the others.
#[must_use]
pub fn decide_admissions(
    registry: &Registry,
    candidates: &[Candidate],
    max_tag_id: u16,
) -> (Registry, BTreeMap<PoolName, AdmissionRefusal>) {
    let (mut registry, mut refusals) = (registry.clone(), BTreeMap::new());
    for candidate in candidates {
        match registry.admit(candidate, max_tag_id) {
            Ok(admitted) => registry = admitted.registry,
            Err(refusal) => drop(refusals.insert(candidate.name.clone(), refusal)),
        }
    }
    (registry, refusals)
}

/// What is known of the pool that a manifest is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPool {
    /// Its uid.
    pub uid: String,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// Why pools among these objects could not be admitted, each with its place; empty if all could be.
pub fn decide_refusals(
    objects: &[Validated],
    registry: &Registry,
    max_tag_id: u16,
    known: impl Fn(&PoolName) -> Option<KnownPool>,
) -> Vec<String> {
    let (mut candidates, mut errors) = (Vec::new(), Vec::new());
    for object in objects {
        let Object::Pool(pool) = &object.object else { continue };
        let (name, pool) = (&pool.1.name, &pool.1);
        let known = known(name);
        if known.as_ref().is_some_and(|known| known.terminating) {
            errors.push(format!("{}: pool {name} is being deleted: wait until it is gone", object.source));
        }
        let uid = known.map_or_else(|| "new".to_owned(), |known| known.uid);
        candidates.push(Candidate { name: name.clone(), uid, cidr: pool.cidr, block_size: pool.block_size });
    }
    let (_, refusals) = decide_admissions(registry, &candidates, max_tag_id);
    for object in objects {
        let Object::Pool(pool) = &object.object else { continue };
        if let Some(refusal) = refusals.get(&pool.1.name) {
            errors.push(format!("{}: {refusal}", object.source));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::resource::Metadata;

    fn pool(name: &str, priority: i32) -> IpPool {
        let mut pool = IpPool { metadata: Metadata::named(name), ..IpPool::default() };
        pool.spec.priority = priority;
        pool
    }

    async fn write(store: &MemoryStore, name: &str, priority: i32) -> AnyWrite {
        let key = Key::named(name).unwrap();
        let before = store.get::<IpPool>(&key).await.unwrap();
        AnyWrite::of_pool(&key, before, pool(name, priority), || "invented".to_owned())
    }

    #[tokio::test]
    async fn when_one_change_fails_those_before_it_are_put_back() {
        let store = MemoryStore::new(100);
        let before = store.create(pool("a", 1)).await.unwrap();
        let writes = [write(&store, "a", 2).await, write(&store, "b", 2).await, write(&store, "c", 2).await];
        assert_eq!(writes.each_ref().map(AnyWrite::outcome), ["configured", "created", "created"]);
        store.create(pool("c", 9)).await.unwrap();
        let failed = exec_all(&store, &writes).await.unwrap_err();
        assert!(matches!(failed.error, StoreError::AlreadyExists { .. }) && failed.left.is_empty());
        let left: Vec<IpPool> =
            store.list::<IpPool>().await.unwrap().items.into_iter().map(|item| item.value).collect();
        assert_eq!((&left[0], left.len(), left[1].spec.priority), (&before.value, 2, 9));
    }

    #[tokio::test]
    async fn what_no_manifest_says_stays_and_counts_for_no_change() {
        let store = MemoryStore::new(100);
        let mut held = pool("a", 1);
        held.metadata.finalizers = vec!["example.com/theirs".to_owned()];
        held.status.conditions = vec![crate::resource::Condition::default()];
        store.create(held.clone()).await.unwrap();
        let same = write(&store, "a", 1).await;
        assert_eq!(same.outcome(), "unchanged");
        assert_eq!(exec_all(&store, &[same]).await.unwrap(), [None]);
        let changed = write(&store, "a", 2).await;
        exec_all(&store, &[changed]).await.unwrap();
        let there = store.get::<IpPool>(&Key::named("a").unwrap()).await.unwrap().unwrap().value;
        assert_eq!((there.metadata.finalizers, there.status), (held.metadata.finalizers, held.status));
    }
}
