//! Deleting a pool: it stays, terminating, until its last block is gone.
//!
//! 1. The registry's entry is marked terminating: from here on nobody claims.
//! 2. Each block of this node that is empty is released, as any block that drains.
//! 3. When no block of the pool is left, the pool's object goes, and then its entry; its tag id is retired.
//!
//! Every step may be cut short and is found again by the next run.

use ipam::RegistryEntry;
use ipam::protocol::BlockObject;
use model::PoolName;
use store::resource::{IpBlock, IpPool, Resource};
use store::{Key, Store, StoreError};
use tracing::{info, warn};

use super::Node;
use super::admission::{RegistryWriteError, update_registry};

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
    }

    async fn retire_if_due(&self, entry: &RegistryEntry) -> Result<(), RegistryWriteError> {
        if !entry.terminating {
            // Asked of the store, live: a copy may lag, or not read what is there.
            let object = self.store.get::<IpPool>(&Key::named(entry.name.as_str())?).await?;
            if object.is_some_and(|object| object.uid == entry.uid) {
                return Ok(());
            }
            self.mark(&entry.name, &entry.uid).await?;
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

    /// Whether any block of the pool is left, by a consistent read after the entry was marked; those of this node that
    /// are empty go on the way.
    async fn has_blocks(&self, name: &PoolName) -> Result<bool, StoreError> {
        for block in self.blocks_of(name).await? {
            let is_mine = block.owner.name == self.config.node_name;
            if is_mine && let Err(error) = self.attend(block.cidr).await {
                warn!(%error, "a block of a pool that is being deleted is seen to later");
            }
        }
        Ok(!self.blocks_of(name).await?.is_empty())
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
