//! Deleting a pool: it stays, terminating, until its last block is gone.
//!
//! 1. The registry's entry is marked terminating: from here on nobody claims.
//! 2. Each block of this node that is empty is stopped, deleted from the store, and forgotten.
//! 3. When no block of the pool is left, the pool's object goes, and then its entry; its tag id is retired.
//!
//! Every step may be cut short and is found again by the next run.

use model::{Cidr, PoolName};
use store::resource::{IpBlock, IpPool};
use store::{Key, Revision, Store, StoreError};
use tracing::{info, warn};

use super::Node;
use super::admission::{RegistryWriteError, update_registry};
use crate::clock;

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
        let (owned, uid_owned) = (name.clone(), uid.to_owned());
        let marked = update_registry(&self.store, move |registry| {
            registry.terminate(&owned, &uid_owned).unwrap_or_else(|| registry.clone())
        });
        if let Some(revision) = marked.await? {
            self.world.registry.reached(revision).await;
            self.world.refresh();
        }
        self.go_on_retiring(name, uid).await
    }

    /// Takes every terminating pool as far as that goes now, and lets go of entries whose object never came or is
    /// gone.
    pub async fn retire_all(&self) {
        let view = self.world.view();
        for entry in view.registry.entries() {
            let object = view.pools.by_name(&entry.name).filter(|pool| pool.uid == entry.uid);
            let retired = if entry.terminating {
                self.go_on_retiring(&entry.name, &entry.uid).await
            } else if object.is_none() {
                self.retire_pool(&entry.name, &entry.uid).await
            } else {
                continue;
            };
            if let Err(error) = retired {
                warn!(pool = %entry.name, %error, "deleting a pool goes on later");
            }
        }
    }

    async fn go_on_retiring(&self, name: &PoolName, uid: &str) -> Result<Retired, RegistryWriteError> {
        let own: Vec<Cidr> = self.ledger().ipam().blocks_of(name).map(ipam::Block::cidr).collect();
        for cidr in own {
            self.release(cidr).await?;
        }
        let blocks = self.store.list::<IpBlock>().await?;
        if blocks.items.iter().any(|block| block.value.spec.pool == name.as_str()) {
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
        Ok(Retired::Gone)
    }

    /// Gives a block back if nothing of it is held or cooling.
    async fn release(&self, cidr: Cidr) -> Result<(), StoreError> {
        {
            let mut ledger = self.ledger();
            if !ledger.ipam().block(&cidr).is_some_and(|block| block.is_idle(clock::now())) {
                return Ok(());
            }
            // Nothing new from here on, while the store is asked.
            if ledger.set_serving(&cidr, false).is_err() {
                return Ok(());
            }
        }
        // On an error its outcome is not known: the block serves nothing until the next run has settled it.
        let deleted = self.delete_block(cidr).await?;
        if let Err(error) = self.ledger().drop_block(&cidr, clock::now()) {
            warn!(block = %cidr, %error, "a released block is kept");
        }
        info!(block = %cidr, "released a block");
        if let Some(revision) = deleted {
            self.world.blocks.reached(revision).await;
        }
        Ok(())
    }

    async fn delete_block(&self, cidr: Cidr) -> Result<Option<Revision>, StoreError> {
        let key = Key::of_block(cidr);
        match self.store.get::<IpBlock>(&key).await? {
            None => Ok(None),
            Some(object) => self.store.compare_and_delete::<IpBlock>(&key, object.revision).await.map(Some),
        }
    }
}
