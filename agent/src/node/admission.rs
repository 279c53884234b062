//! Admitting pools to the registry: reading and writing it.
//!
//! What may be admitted is decided in `ipam::registry`, for several at once in [`decide_admissions`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipam::{Candidate, Registry};
pub use store::change::decide_admissions;
use store::resource::{IpPool, IpPoolRegistry};
use store::retry::{self, Decision, Outcome, Patience, RetryError};
use store::{Contact, Key, KeyError, Revision, Store, StoreError, Versioned};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Node;

/// How long a node waits at most before it admits a pool that it sees.
const MAX_JITTER_MS: u64 = 500;

/// How often it is looked whether the store answers. That asks nobody.
const CONTACT_INTERVAL: Duration = Duration::from_secs(2);

/// How often the admission of pools is begun anew because the registry changed meanwhile.
const ADMISSION_TRIES: usize = 8;

/// How soon a try that failed is repeated.
const AGAIN: Duration = Duration::from_secs(2);

/// Why the registry could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryWriteError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored.
    #[error(transparent)]
    Read(#[from] RegistryReadError),
    /// The registry's own name; never seen.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A stored registry that does not read. It is never overwritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored pool registry does not read: {0}; no pool is admitted until it is mended")]
pub struct RegistryReadError(String);

/// Reads the registry's object; none is an empty registry.
///
/// # Errors
/// An entry does not read, or two contradict each other.
pub fn registry_of(object: Option<&Versioned<IpPoolRegistry>>) -> Result<Registry, RegistryReadError> {
    let read = object.map(|object| store::registry_of(&object.value)).transpose();
    read.map(Option::unwrap_or_default).map_err(RegistryReadError)
}

/// Changes the registry by compare-and-swap; `change` may be called several times. The revision at which the change
/// is in force; `None` if there was nothing to change.
///
/// # Errors
/// The store fails.
pub async fn update_registry<S: Store>(
    store: &S,
    change: impl Fn(&Registry) -> Registry + Send + Sync,
) -> Result<Option<Revision>, RegistryWriteError> {
    let key = Key::named(IpPoolRegistry::NAME)?;
    let decide = |current: Option<&Versioned<IpPoolRegistry>>| {
        let before = registry_of(current)?;
        let after = change(&before);
        if after == before {
            return Ok::<_, RegistryReadError>(Decision::Keep(()));
        }
        let mut object = current.map_or_else(IpPoolRegistry::empty, |current| current.value.clone());
        object.spec = store::registry_spec(&after);
        Ok(Decision::Put(object, ()))
    };
    match retry::decide(store, &key, Patience::default(), decide).await {
        Ok(Outcome::Put(object, ())) => {
            info!(pools = object.value.spec.entries.len(), revision = %object.revision, "the pool registry changed");
            Ok(Some(object.revision))
        }
        Ok(Outcome::Deleted(revision, ())) => Ok(Some(revision)),
        Ok(Outcome::Kept(())) => Ok(None),
        Err(
            RetryError::Store(error)
            | RetryError::Unavailable(error)
            | RetryError::Exhausted { last: error, .. },
        ) => Err(error.into()),
        Err(RetryError::Refused(error)) => Err(error.into()),
    }
}

impl<S: Store> Node<S> {
    /// Pools without an entry in the registry that could be admitted, the older one first: it serves.
    pub(super) fn waiting(&self) -> Vec<Candidate> {
        let mut waiting: Vec<_> = {
            let pools = self.world.pools.read();
            pools.values().map(|object| (object.revision, object.value.metadata.name.clone())).collect()
        };
        waiting.sort();
        let view = self.world.view();
        waiting
            .iter()
            .filter_map(|(_, name)| view.pools.by_name(&name.parse().ok()?))
            .filter(|pool| view.registry.entry(&pool.name).is_none() && pool.not_admitted.is_none())
            .map(|pool| Candidate {
                name: pool.name.clone(),
                uid: pool.uid.clone(),
                cidr: pool.cidr,
                block_size: pool.block_size,
            })
            .collect()
    }

    /// Admits every pool that waits and can be.
    ///
    /// # Errors
    /// The store fails.
    pub async fn admit_waiting(&self) -> Result<(), RegistryWriteError> {
        for _ in 0..ADMISSION_TRIES {
            let candidates = self.waiting();
            if candidates.is_empty() {
                return Ok(());
            }
            if self.config.store.is_shared() {
                self.protect(&candidates).await?;
            }
            // The registry first, then the pools, both live: a deletion takes the pool's object before its entry, so a
            // pool that is there after an entry was seen to be missing has not been deleted. By a copy that lags it
            // would be admitted again, and its blocks would be nobody's.
            let seen = registry_of(self.store.get(&Key::named(IpPoolRegistry::NAME)?).await?.as_ref())?;
            let candidates = self.living(candidates).await?;
            let max_tag_id = self.config.mark_layout.max_tag_id();
            let has_moved = Arc::new(AtomicBool::new(false));
            let tell = has_moved.clone();
            let admitted = update_registry(&self.store, move |registry| {
                let moved = *registry != seen;
                tell.store(moved, Ordering::Relaxed);
                if moved { registry.clone() } else { decide_admissions(registry, &candidates, max_tag_id).0 }
            });
            if let Some(revision) = admitted.await? {
                self.world.registry.reached(revision).await;
                self.world.refresh();
                return Ok(());
            }
            if !has_moved.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        // Others keep changing it: whoever sees the pools still waiting tries again.
        Ok(())
    }

    /// Those whose objects are there, by a read of the store.
    async fn living(&self, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, StoreError> {
        let mut living = Vec::new();
        for candidate in candidates {
            let Ok(key) = Key::named(candidate.name.as_str()) else { continue };
            let object = self.store.get::<IpPool>(&key).await?;
            let lives = object.is_some_and(|object| {
                object.uid == candidate.uid && !object.value.metadata.is_being_deleted()
            });
            living.extend(lives.then_some(candidate));
        }
        Ok(living)
    }

    /// Admits pools that somebody else than an agent has put into the store, until `stop` fires. Every node sees them at
    /// once: each waits for a moment of its own, and most find the work done.
    pub async fn follow_admission(&self, stop: &CancellationToken) {
        let mut views = self.world.changes();
        while !stop.is_cancelled() {
            views.mark_unchanged();
            if self.world.is_complete() && !self.waiting().is_empty() {
                let jitter = Duration::from_millis(self.store.random() % MAX_JITTER_MS);
                if stop.run_until_cancelled(tokio::time::sleep(jitter)).await.is_none() {
                    return;
                }
                if let Err(error) = self.admit_waiting().await {
                    warn!(%error, "pools wait to be admitted");
                    if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                        return;
                    }
                    views.mark_changed();
                }
            }
            if !matches!(stop.run_until_cancelled(views.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    }

    /// Puts the finalizer on pools that are about to be admitted, where the store knows finalizers: from then on one that
    /// is deleted stays until its last block is gone. One that somebody changes meanwhile is looked at again.
    ///
    /// # Errors
    /// The store fails.
    pub(super) async fn protect(&self, candidates: &[Candidate]) -> Result<(), RegistryWriteError> {
        for candidate in candidates {
            let Some(object) = self.world.pools.get(&Key::named(candidate.name.as_str())?) else { continue };
            if object.value.metadata.is_protected() || object.value.metadata.is_being_deleted() {
                continue;
            }
            // The store puts it on with every write.
            match self.store.compare_and_swap(object.revision, object.value).await {
                Ok(protected) => self.world.pools.reached(protected.revision).await,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says when the store stops and begins to answer, until `stop` fires.
    pub async fn follow_contact(&self, stop: &CancellationToken) {
        let mut lost = false;
        while stop.run_until_cancelled(tokio::time::sleep(CONTACT_INTERVAL)).await.is_some() {
            match self.store.contact() {
                Contact::Lost { elapsed, reason } if !lost => {
                    lost = true;
                    let since_s = elapsed.as_secs();
                    warn!(
                        since_s,
                        reason, "the store does not answer; ADDs go on while own blocks have room"
                    );
                }
                Contact::Answers if lost => {
                    lost = false;
                    info!("the store answers again");
                }
                Contact::Lost { .. } | Contact::Answers => {}
            }
        }
    }
}
