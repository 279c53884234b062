//! Deleting a pool: it stays, terminating, until its last block is gone.
//!
//! 1. The registry's entry is marked terminating: from here on nobody claims.
//! 2. Each block of this node that is empty is released, as any block that drains.
//! 3. When no block of the pool is left, the pool's object goes, and then its entry; its tag id is retired.
//!
//! A pool that somebody has deleted by other means (`kubectl`) is marked by the API server and kept by its finalizer: it
//! takes the same way. One that was never admitted has no blocks, and goes at once.
//!
//! Every step may be cut short and is found again by the next run.

use std::time::Duration;

use ipam::RegistryEntry;
use ipam::protocol::BlockObject;
use model::PoolName;
use store::resource::{IpBlock, IpPool, Resource};
use store::{Key, Revision, Store, StoreError, Versioned};
use tracing::{info, warn};

use super::Node;
use super::admission::{RegistryWriteError, update_registry};

/// How long a node waits at most before it takes the last steps of a deletion.
const MAX_JITTER_MS: u64 = 1000;

/// How far a deletion got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// Blocks with addresses in use are left.
    Terminating,
    /// Nothing is left.
    Gone,
}

impl<S: Store> Node<S> {
    /// Marks a pool as being deleted and takes it as far as that goes now.
    ///
    /// # Errors
    /// The store fails; the next run goes on.
    pub async fn retire_pool(&self, name: &PoolName, uid: &str) -> Result<Retired, RegistryWriteError> {
        let _turn = self.retiring.lock().await;
        self.mark(name, uid).await?;
        self.go_on_retiring(name, uid).await
    }

    /// Takes every terminating pool as far as that goes now, and lets go of entries whose object is gone.
    /// Blocks of pools that are gone altogether are upkeep's business.
    pub async fn retire_all(&self) {
        let _turn = self.retiring.lock().await;
        let view = self.world.view();
        for entry in view.registry.entries() {
            if let Err(error) = self.retire_if_due(entry).await {
                warn!(pool = %entry.name, %error, "deleting a pool goes on later");
            }
        }
        self.let_go_of_strangers().await;
    }

    /// Lets go of pools that are marked and were never admitted: nothing was ever served from them.
    async fn let_go_of_strangers(&self) {
        let view = self.world.view();
        let marked: Vec<(Key, Revision)> = {
            let pools = self.world.pools.read();
            let is_stranger = |object: &Versioned<IpPool>| {
                let name = object.value.metadata.name.parse::<PoolName>();
                let entry = name.ok().and_then(|name| view.registry.entry(&name));
                object.value.metadata.is_being_deleted() && entry.is_none_or(|entry| entry.uid != object.uid)
            };
            let strangers = pools.iter().filter(|(_, object)| is_stranger(object));
            strangers.map(|(key, object)| (key.clone(), object.revision)).collect()
        };
        for (key, revision) in marked {
            match self.store.compare_and_delete::<IpPool>(&key, revision).await {
                Ok(_) => info!(pool = %key, "the pool, which was never admitted, is gone"),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => warn!(pool = %key, %error, "deleting a pool goes on later"),
            }
        }
    }

    async fn retire_if_due(&self, entry: &RegistryEntry) -> Result<(), RegistryWriteError> {
        if !entry.terminating {
            let lives = |object: &Versioned<IpPool>| {
                object.uid == entry.uid && !object.value.metadata.is_being_deleted()
            };
            let key = Key::named(entry.name.as_str())?;
            if self.world.pools.get(&key).as_ref().is_some_and(lives) {
                return Ok(());
            }
            // Asked of the store, live: a copy may lag, or not read what is there.
            if self.store.get::<IpPool>(&key).await?.as_ref().is_some_and(lives) {
                return Ok(());
            }
            self.mark(&entry.name, &entry.uid).await?;
        }
        // Every node comes here: most find the work done by the one that comes first.
        if self.config.store.is_shared() && self.world.blocks.kept().of_pool(&entry.name).is_empty() {
            tokio::time::sleep(Duration::from_millis(self.store.random() % MAX_JITTER_MS)).await;
            if self.world.view().registry.entry(&entry.name).is_none_or(|now| now.uid != entry.uid) {
                return Ok(());
            }
        }
        self.go_on_retiring(&entry.name, &entry.uid).await.map(drop)
    }

    async fn mark(&self, name: &PoolName, uid: &str) -> Result<(), RegistryWriteError> {
        let (owned, uid_owned) = (name.clone(), uid.to_owned());
        let marked = update_registry(&self.store, move |registry| {
            registry.terminate(&owned, &uid_owned).unwrap_or_else(|| registry.clone())
        });
        if let Some(revision) = marked.await? {
            self.world.registry.reached(revision).await;
            self.world.refresh();
        }
        Ok(())
    }

    /// Under the lock of [`Node::retire_pool`].
    async fn go_on_retiring(&self, name: &PoolName, uid: &str) -> Result<Retired, RegistryWriteError> {
        if self.has_blocks(name).await? {
            return Ok(Retired::Terminating);
        }
        let key = Key::named(name.as_str())?;
        if let Some(pool) = self.store.get::<IpPool>(&key).await?
            && pool.uid == uid
        {
            let gone = self.store.compare_and_delete::<IpPool>(&key, pool.revision).await?;
            self.world.pools.reached(gone).await;
        }
        let (owned, uid_owned) = (name.clone(), uid.to_owned());
        let removed = update_registry(&self.store, move |registry| {
            registry.remove(&owned, &uid_owned).unwrap_or_else(|| registry.clone())
        });
        if let Some(revision) = removed.await? {
            self.world.registry.reached(revision).await;
        }
        self.world.refresh();
        info!(pool = %name, "the pool is gone");
        // A pool that was in its way may be admitted now.
        self.admit_waiting().await?;
        Ok(Retired::Gone)
    }

    /// Whether any block of the pool is left; those of this node that are empty go on the way. The copy says which are
    /// there; that none is, is said by a consistent read after the entry was marked.
    async fn has_blocks(&self, name: &PoolName) -> Result<bool, StoreError> {
        for (block, owner) in self.world.blocks.kept().of_pool(name) {
            let is_mine = owner.name == self.config.node_name;
            if is_mine && let Err(error) = self.attend(block).await {
                warn!(%error, "a block of a pool that is being deleted is seen to later");
            }
        }
        if !self.world.blocks.kept().of_pool(name).is_empty() {
            return Ok(true);
        }
        let left = self.blocks_of(name).await?;
        for block in left.iter().filter(|block| block.owner.name == self.config.node_name) {
            if let Err(error) = self.attend(block.cidr).await {
                warn!(%error, "a block of a pool that is being deleted is seen to later");
            }
        }
        Ok(!left.is_empty() && !self.blocks_of(name).await?.is_empty())
    }

    async fn blocks_of(&self, name: &PoolName) -> Result<Vec<BlockObject>, StoreError> {
        let stored = self.store.list::<IpBlock>().await?.items;
        let of_pool = stored.iter().filter(|block| block.value.spec.pool == name.as_str());
        // One that does not read keeps the pool: its range may be in use.
        of_pool
            .map(|block| {
                store::block_of(&block.value).map_err(|reason| StoreError::Internal {
                    operation: "read",
                    kind: IpBlock::KIND,
                    key: block.value.metadata.name.clone(),
                    reason,
                })
            })
            .collect()
    }
}
