//! Deleting a pool: it stays, terminating, until its last block is gone.
//!
//! 1. The registry's entry is marked terminating: from here on nobody claims.
//! 2. Each block of this node that is empty is stopped, deleted from the store, and forgotten.
//! 3. When no block of the pool is left, the pool's object goes, and then its entry; its tag id is retired.
//!
//! Every step may be cut short and is found again by the next run.

use ipam::RegistryEntry;
use model::{Cidr, PoolName};
use store::resource::{IpBlock, IpPool, Resource};
use store::{Key, Revision, Store, StoreError};
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

    /// Takes every terminating pool as far as that goes now, lets go of entries whose object is gone, and gives back
    /// what this node holds of pools that are gone altogether.
    pub async fn retire_all(&self) {
        let _turn = self.retiring.lock().await;
        let view = self.world.view();
        for entry in view.registry.entries() {
            if let Err(error) = self.retire_if_due(entry).await {
                warn!(pool = %entry.name, %error, "deleting a pool goes on later");
            }
        }
        let orphans: Vec<Cidr> = {
            let ledger = self.ledger();
            let of_no_pool = |block: &&ipam::Block| view.registry.entry(block.pool()).is_none();
            ledger.ipam().blocks().filter(of_no_pool).map(ipam::Block::cidr).collect()
        };
        for cidr in orphans {
            if let Err(error) = self.release(cidr).await {
                warn!(block = %cidr, %error, "a block of a pool that is gone is released later");
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
        let own: Vec<Cidr> = self.ledger().ipam().blocks_of(name).map(ipam::Block::cidr).collect();
        for cidr in own {
            self.release(cidr).await?;
        }
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

    /// Whether any block of the pool is left. One of this node that it does not know, from a claim that was cut short
    /// half-way, is deleted.
    async fn has_blocks(&self, name: &PoolName) -> Result<bool, StoreError> {
        // No claim is half-way in between.
        let _turn = self.claiming.lock().await;
        let mut left = false;
        for block in self.store.list::<IpBlock>().await?.items {
            let spec = &block.value.spec;
            if spec.pool != name.as_str() {
                continue;
            }
            let known = |cidr: &Cidr| self.ledger().ipam().block(cidr).is_some();
            let cut_short = spec.node == self.config.node_name.as_str()
                && spec.cidr.parse().is_ok_and(|cidr: Cidr| !known(&cidr));
            match block.value.key() {
                Ok(key) if cut_short => {
                    self.store.compare_and_delete::<IpBlock>(&key, block.revision).await?;
                }
                _ => left = true,
            }
        }
        Ok(left)
    }

    /// Gives a block back if nothing of it is held or cooling.
    async fn release(&self, cidr: Cidr) -> Result<(), StoreError> {
        {
            let mut ledger = self.ledger();
            if !ledger.ipam().block(&cidr).is_some_and(|block| block.is_idle(self.now())) {
                return Ok(());
            }
            // Nothing new from here on, while the store is asked.
            if ledger.set_serving(&cidr, false).is_err() {
                return Ok(());
            }
        }
        // On an error its outcome is not known: the block serves nothing until the next run has settled it.
        let deleted = self.delete_block(cidr).await?;
        if let Err(error) = self.ledger().drop_block(&cidr, self.now()) {
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
