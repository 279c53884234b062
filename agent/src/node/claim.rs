//! Claiming a block: the one step of an ADD that may ask the store, once for every block.
//!
//! 1. The claim's nonce is written to the journal.
//! 2. The block's object is created. Somebody else's is passed over; one that carries our nonce is ours: an earlier
//!    attempt whose answer was lost.
//! 3. The pool's registry entry is read again, live. If the pool was deleted meanwhile, the block is given back.
//! 4. From here on the block serves.

use ipam::BlockClaim;
use model::{Cidr, PoolName};
use store::resource::{IpBlock, IpBlockSpec, IpPoolRegistry, Metadata};
use store::{Key, Store, StoreError};
use tracing::info;

use super::Node;
use super::admission::registry_of;

/// Why no block was claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Every candidate belongs to another node by now: decide again.
    #[error("every block that was tried belongs to another node by now")]
    Lost,
    /// The pool was deleted meanwhile.
    #[error("pool {0} is being deleted")]
    PoolGone(PoolName),
    /// The store fails.
    #[error("claim a block of pool {pool}: {source}")]
    Store {
        /// The pool.
        pool: PoolName,
        /// Why.
        source: StoreError,
    },
    /// This node's own state does not take it.
    #[error("claim a block of pool {pool}: {reason}")]
    Internal {
        /// The pool.
        pool: PoolName,
        /// Why.
        reason: String,
    },
}

impl<S: Store> Node<S> {
    /// Claims the block, or one of its alternatives.
    ///
    /// # Errors
    /// See [`ClaimError`]. Nothing is claimed then, or it is found by the next attempt.
    pub async fn claim(&self, claim: &BlockClaim) -> Result<Cidr, ClaimError> {
        let _turn = self.claiming.lock().await;
        let pool = &claim.pool;
        let internal = |reason: &dyn std::fmt::Display| ClaimError::Internal {
            pool: pool.clone(),
            reason: reason.to_string(),
        };
        if self.ledger().ipam().block(&claim.cidr).is_some() {
            // Somebody who was before us in the line has claimed it.
            return Ok(claim.cidr);
        }
        let view = self.world.view();
        let uid = view.pools.by_name(pool).map(|pool| pool.uid.clone()).unwrap_or_default();
        for cidr in std::iter::once(&claim.cidr).chain(&claim.alternatives) {
            let fresh = self.surroundings.random.uuid();
            let nonce = self.ledger().intend_claim(*cidr, pool, fresh).map_err(|error| internal(&error))?;
            if self.create(*cidr, pool, &uid, nonce).await? {
                self.confirm(*cidr, pool, &uid).await?;
                self.ledger().add_block(*cidr, pool).map_err(|error| internal(&error))?;
                info!(block = %cidr, %pool, "claimed a block");
                self.reconciler.want();
                return Ok(*cidr);
            }
        }
        Err(ClaimError::Lost)
    }

    /// Whether the block is ours now.
    async fn create(
        &self,
        cidr: Cidr,
        pool: &PoolName,
        pool_uid: &str,
        nonce: String,
    ) -> Result<bool, ClaimError> {
        let failed = |source| ClaimError::Store { pool: pool.clone(), source };
        let key = Key::of_block(cidr);
        let object = IpBlock {
            metadata: Metadata::named(key.as_str()),
            spec: IpBlockSpec {
                cidr: cidr.to_string(),
                pool: pool.to_string(),
                pool_uid: pool_uid.to_owned(),
                node: self.config.node_name.to_string(),
                node_uid: String::new(),
                nonce,
                loans: Vec::new(),
            },
        };
        match self.store.create(object).await {
            Ok(created) => {
                self.world.blocks.reached(created.revision).await;
                Ok(true)
            }
            Err(StoreError::AlreadyExists { .. }) => {
                let there = self.store.get::<IpBlock>(&key).await.map_err(failed)?;
                Ok(there.is_some_and(|block| {
                    block.value.spec.node == self.config.node_name.as_str()
                        && self.ledger().has_nonce(&cidr, &block.value.spec.nonce)
                }))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads the pool's entry live, and gives the block back if the pool is gone.
    async fn confirm(&self, cidr: Cidr, pool: &PoolName, uid: &str) -> Result<(), ClaimError> {
        let failed = |source| ClaimError::Store { pool: pool.clone(), source };
        let key = Key::named(IpPoolRegistry::NAME)
            .map_err(|error| ClaimError::Internal { pool: pool.clone(), reason: error.to_string() })?;
        let stored = self.store.get::<IpPoolRegistry>(&key).await.map_err(failed)?;
        let registry = registry_of(stored.as_ref()).unwrap_or_default();
        if registry.entry(pool).is_some_and(|entry| entry.uid == uid && !entry.terminating) {
            return Ok(());
        }
        let block = Key::of_block(cidr);
        if let Some(object) = self.store.get::<IpBlock>(&block).await.map_err(failed)? {
            self.store.compare_and_delete::<IpBlock>(&block, object.revision).await.map_err(failed)?;
        }
        Err(ClaimError::PoolGone(pool.clone()))
    }
}
